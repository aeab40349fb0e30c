//! The windows of one file, shared by all who have it open, and kept for a while after the last has closed it.
//!
//! A window's page table is what makes it cheap: filling it costs up to a third of the host's time per byte
//! (`docs/design/0011-kept-windows.md`), and many clients read the same files one after the other. So the table is
//! filled once, for all of them.
//!
//! Never shares by name: by device and inode, among file systems whose inode numbers are known to be true, and while
//! a descriptor of ours keeps the inode from being given to another file.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::fstat;

use super::error::FsError;
use super::mapping::{Mapping, window_at};

/// Windows of one file, the latest used last: 32 GiB of it, or as many streams in files larger still. A window pushed
/// out lives on until its last slice drops.
const WINDOWS_PER_FILE_MAX: usize = 8;

/// Files whose windows are shared and kept; beyond, each opening has windows of its own. Each costs a descriptor and
/// the page tables of what was read, 2 MiB per GiB.
const FILES_KEPT_MAX: usize = 256;

/// A file as the kernel names it: device and inode number.
pub(super) type InodeKey = ((u32, u32), u64);

/// A lock whose holder panicked still guards a whole list: every section here pushes, removes or takes.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The windows of one file.
pub(super) struct Windows {
    file: Arc<OwnedFd>,
    list: Mutex<Vec<Arc<Mapping>>>,
    /// Set by each use, cleared by each sweep.
    used: AtomicBool,
}

impl Windows {
    pub(super) fn new(file: Arc<OwnedFd>) -> Self {
        Self { file, list: Mutex::default(), used: AtomicBool::new(true) }
    }

    /// A mapping that covers `offset..end` of the file of `size` bytes, kept or new.
    ///
    /// # Errors
    /// [`FsError::UNMAPPABLE`].
    pub(super) fn lend(&self, offset: u64, end: u64, size: u64) -> Result<Arc<Mapping>, FsError> {
        self.used.store(true, Ordering::Relaxed);
        let mut list = lock(&self.list);
        list.retain(|window| !window.is_torn());
        if let Some(at) = list.iter().position(|window| window.covers(offset, end)) {
            list[at..].rotate_left(1);
        } else {
            let start = window_at(offset);
            list.retain(|window| window.offset() != start); // outgrown
            if list.len() == WINDOWS_PER_FILE_MAX {
                list.remove(0);
            }
            list.push(Arc::new(Mapping::new(Arc::clone(&self.file), start, end, size)?));
        }
        Ok(Arc::clone(list.last().expect("one was rotated or pushed to the end")))
    }

    /// Whether the file has no name any more: keeping it would keep its space.
    fn is_deleted(&self) -> bool {
        fstat(&self.file).is_ok_and(|stat| stat.st_nlink == 0)
    }
}

/// The files whose windows are kept.
#[derive(Default)]
pub(super) struct Keeper {
    kept: Mutex<HashMap<InodeKey, Arc<Windows>>>,
}

impl Keeper {
    /// The windows of the file that `file` holds open: those of others who opened it, or new ones.
    pub(super) fn windows(&self, key: InodeKey, file: Arc<OwnedFd>) -> Arc<Windows> {
        let mut kept = lock(&self.kept);
        if let Some(windows) = kept.get(&key) {
            return Arc::clone(windows);
        }
        let windows = Arc::new(Windows::new(file));
        if kept.len() < FILES_KEPT_MAX {
            kept.insert(key, Arc::clone(&windows));
        }
        windows
    }

    /// Lets go of files that nobody has open and that were not read since the last sweep, or are deleted.
    ///
    /// Unmaps them, which takes 35 ms per GiB: for a thread that may wait.
    pub(super) fn sweep(&self) {
        let mut over = Vec::new();
        lock(&self.kept).retain(|_, windows| {
            let was_used = windows.used.swap(false, Ordering::Relaxed);
            // Others are made under this lock only, so a count of one stays one.
            let keep = Arc::strong_count(windows) > 1 || (was_used && !windows.is_deleted());
            if !keep {
                over.push(Arc::clone(windows));
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;

    fn file() -> Arc<OwnedFd> {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&[7; 8192]).expect("written");
        Arc::new(file.into())
    }

    #[test]
    fn who_opens_the_same_file_gets_the_same_window() {
        let keeper = Keeper::default();
        let (one, two) = (keeper.windows(((0, 1), 1), file()), keeper.windows(((0, 1), 1), file()));
        assert!(Arc::ptr_eq(&one.lend(0, 4096, 8192).expect("mapped"), &two.lend(4096, 8192, 8192).expect("mapped")));
        let other = keeper.windows(((0, 1), 2), file());
        assert!(!Arc::ptr_eq(&one, &other));
    }

    #[test]
    fn a_closed_file_is_kept_for_one_sweep_and_an_open_one_for_all() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("kept");
        std::fs::write(&path, [7; 8192]).expect("written");
        let named = || Arc::new(OwnedFd::from(File::open(&path).expect("there")));
        let keeper = Keeper::default();
        let open = keeper.windows(((0, 1), 1), named());
        drop(keeper.windows(((0, 1), 2), named()));
        keeper.sweep();
        assert_eq!(lock(&keeper.kept).len(), 2);
        keeper.sweep();
        assert_eq!(lock(&keeper.kept).keys().copied().collect::<Vec<_>>(), [((0, 1), 1)]);
        drop(open);
        keeper.sweep();
        assert!(lock(&keeper.kept).is_empty());
    }

    #[test]
    fn a_deleted_file_is_let_go_at_once() {
        let keeper = Keeper::default();
        drop(keeper.windows(((0, 1), 1), file()));
        keeper.sweep();
        assert!(lock(&keeper.kept).is_empty());
    }

    #[test]
    fn beyond_the_bound_windows_are_not_shared() {
        let keeper = Keeper::default();
        let fd = file();
        for ino in 0..FILES_KEPT_MAX as u64 {
            keeper.windows(((0, 1), ino), Arc::clone(&fd));
        }
        let key = ((0, 2), 1);
        assert!(!Arc::ptr_eq(&keeper.windows(key, Arc::clone(&fd)), &keeper.windows(key, fd)));
    }
}
