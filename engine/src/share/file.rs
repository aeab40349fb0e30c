//! An open file: attributes, residency and bytes, by copy or by map.

use std::fmt;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::attr::{Attr, FileId, size_now, statx_fd};
use super::error::FsError;
use super::kernel_fs::Storage;
use super::mapping::{MAP_BYTES_MAX, MappedBytes, Mapping};
use super::residency::{Residency, residency};
use super::windows::{InodeKey, Keeper, Windows};

/// A regular file of the share, open for reading.
///
/// Keeps reading the inode that was opened, whatever is renamed over its name. All calls take
/// `&self` from any thread; the lock of its own is held for a few instructions, that of the windows shared with others
/// only when a read leaves the window of the last one.
pub struct OpenFile {
    fd: Arc<OwnedFd>,
    inode: InodeKey,
    keeper: Arc<Keeper>,
    /// What its file system is; where the share does not know, asked for once.
    storage: OnceLock<Storage>,
    /// The attributes when it was opened.
    attr_at_open: Attr,
    /// Found at the first mapped read.
    windows: OnceLock<Arc<Windows>>,
    /// The window of the last read.
    window: Mutex<Option<Arc<Mapping>>>,
}

impl OpenFile {
    pub(super) fn new(fd: OwnedFd, attr: Attr, inode: InodeKey, storage: Option<Storage>, keeper: Arc<Keeper>) -> Self {
        Self {
            fd: Arc::new(fd),
            inode,
            keeper,
            storage: storage.map_or_else(OnceLock::new, OnceLock::from),
            attr_at_open: attr,
            windows: OnceLock::new(),
            window: Mutex::default(),
        }
    }

    /// Which file.
    pub fn id(&self) -> FileId {
        self.attr_at_open.id
    }

    /// The descriptor, for reads through a ring. Owned jointly, so that an operation in the kernel
    /// keeps it open.
    pub fn fd(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.fd)
    }

    /// The attributes when it was opened (of the moment before, where they are known then), before anything was read
    /// through it.
    pub fn attr_at_open(&self) -> Attr {
        self.attr_at_open
    }

    /// The attributes now. Does not wait for a local disk: the inode of an open file is in memory.
    ///
    /// # Errors
    /// The errno of statx(2).
    pub fn attr(&self) -> Result<Attr, FsError> {
        Ok(Attr::new(self.id(), &statx_fd(&self.fd)?))
    }

    /// Whether the pages of a range are in the page cache, so that reading them through a map does
    /// not wait for a disk.
    ///
    /// Bytes past the end of the file are ignored. Pages that are on their way from the disk at
    /// this moment count as resident; a fault on one waits for the rest of that one read.
    pub fn residency(&self, offset: u64, len: u64) -> Residency {
        residency(self.fd.as_fd(), offset, len)
    }

    /// Copies bytes that are in memory, without waiting: the way for small files, where a map costs
    /// more than a copy.
    ///
    /// Returns the bytes read: 0 at the end of the file, fewer than asked where the file or its
    /// resident part ends.
    ///
    /// Cost: one system call, on tmpfs two: it knows no `RWF_NOWAIT`, and is asked what is in memory first.
    ///
    /// # Errors
    /// [`FsError::WOULD_BLOCK`] if the first byte is not in memory or the file system cannot tell;
    /// else preadv2(2)'s.
    pub fn read_now(&self, offset: u64, target: &mut [u8]) -> Result<usize, FsError> {
        if self.storage() == Storage::Memory {
            return match self.residency(offset, target.len() as u64) {
                Residency::Resident => self.read_waiting(offset, target),
                Residency::Cold | Residency::Unknown => Err(FsError::WOULD_BLOCK),
            };
        }
        match preadv2(&self.fd, &mut [IoSliceMut::new(target)], offset, ReadWriteFlags::NOWAIT) {
            Ok(count) => Ok(count),
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INTR) => Err(FsError::WOULD_BLOCK),
            Err(errno) => Err(errno.into()),
        }
    }

    fn storage(&self) -> Storage {
        *self.storage.get_or_init(|| Storage::of(&*self.fd))
    }

    /// Reads what there is at `offset`, waiting for the disk where it must: for worker threads.
    ///
    /// # Errors
    /// pread(2)'s.
    pub fn read_waiting(&self, offset: u64, target: &mut [u8]) -> Result<usize, FsError> {
        loop {
            match rustix::io::pread(&self.fd, &mut *target, offset) {
                Ok(count) => return Ok(count),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Whether the file reaches to `end` now: asked after bytes up to there were copied out of it.
    ///
    /// A truncation lowers the size before it clears the rest of the last page, and a read that found the old size may
    /// copy those zeros. A size that is intact after the copy says that there were none.
    pub fn reaches(&self, end: u64) -> bool {
        size_now(&self.fd).is_ok_and(|size| size >= end)
    }

    /// Lends a range of the file as memory, without a copy.
    ///
    /// The range is clipped to the size the file has now and to [`MAP_BYTES_MAX`]; past the end it
    /// is empty. The bytes are valid for sending only if [`MappedBytes::check`], taken before and
    /// asked after they were copied out, says so (see the module `fault`). Reading pages that are
    /// not resident waits for the disk: ask [`OpenFile::residency`] first. On tmpfs, reading a hole
    /// through a map allocates its pages, and `residency` calls holes cold.
    ///
    /// Cost: one statx(2), and one mmap(2) when the range lies outside the windows kept.
    ///
    /// # Errors
    /// [`FsError::UNMAPPABLE`]: read through a buffer instead. Else the errno of statx(2).
    pub fn map(&self, offset: u64, len: usize) -> Result<MappedBytes, FsError> {
        let size = size_now(&self.fd)?;
        let len = len.min(MAP_BYTES_MAX) as u64;
        let end = size.min(offset.saturating_add(len));
        if end <= offset {
            return Ok(MappedBytes::empty());
        }
        let window = self.window(offset, end, size)?;
        Ok(MappedBytes::new(window, offset, end))
    }

    /// A mapping that covers `offset..end`: the last one, or one of the file's.
    fn window(&self, offset: u64, end: u64, size: u64) -> Result<Arc<Mapping>, FsError> {
        // Whole at every point: it is only ever replaced.
        let mut current = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(window) = current.as_ref().filter(|window| window.covers(offset, end) && !window.is_torn()) {
            return Ok(Arc::clone(window));
        }
        // Let go of first, so that a torn or outgrown window can be unmapped.
        *current = None;
        let windows = self.windows.get_or_init(|| {
            if self.storage().has_true_inodes() {
                self.keeper.windows(self.inode, self.fd())
            } else {
                Arc::new(Windows::new(self.fd()))
            }
        });
        let window = windows.lend(offset, end, size)?;
        *current = Some(Arc::clone(&window));
        Ok(window)
    }
}

impl fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenFile").field("id", &self.id()).field("fd", &self.fd).finish_non_exhaustive()
    }
}
