//! The share itself: resolution beneath the root, attributes, links, opening.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, Statx, fcntl_setfl, fstatfs, openat, openat2, readlinkat};
use rustix::io::Errno;
use rustix::path::DecInt;

use super::attr::{Attr, FileId, FileKind, Origin, device, statx_fd};
use super::error::{FsError, ShareError};
use super::file::OpenFile;
use super::kernel_fs::{self, Storage};
use super::listing::DirStream;
use super::path::RelPath;
use super::windows::Keeper;

/// Bytes of path given to one system call: `PATH_MAX` less the NUL that ends it.
const SEGMENT_BYTES_MAX: usize = 4095;

/// Attempts at a resolution that the kernel asks to repeat (EAGAIN, EINTR). Each clash needs
/// another rename or signal at the same microsecond; 32 in a row mean that someone works at it.
const RESOLVE_ATTEMPTS_MAX: usize = 32;

/// Longest link target that ext4 keeps inside the inode; longer ones may need a read from disk.
const SYMLINK_INLINE_BYTES_MAX: u64 = 59;

/// Beneath the directory we start at, through no link of any kind.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// Takes hold of a file without opening it, the link itself if it is one.
const HANDLE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Whether a call may wait for a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocking {
    /// For worker threads.
    Allowed,
    /// For shards: names are looked up in the kernel's cache only (`RESOLVE_CACHED`, openat2(2)),
    /// and [`FsError::WOULD_BLOCK`] says that a worker thread must repeat the call.
    ///
    /// On file systems of the local machine the rest of the call then works on inodes in memory.
    /// Network file systems may still ask their server for attributes.
    CachedOnly,
}

/// One folder, served.
///
/// Cost: two descriptors, up to `PARKED_MAX` more for listings under way, and one for each file whose windows are kept.
/// All calls take `&self` from any thread.
pub struct Share {
    root: OwnedFd,
    /// `/proc/self/fd` as it was, whatever is mounted over it later: see [`Share::reopen`].
    descriptors: OwnedFd,
    pub(super) origin: Origin,
    pub(super) parked: Mutex<VecDeque<DirStream>>,
    /// Of the file system of the root.
    storage: Storage,
    keeper: Arc<Keeper>,
}

/// Space and inodes of the root's file system, as statfs(2) gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatFs {
    /// Bytes in one unit of the next three.
    pub block_bytes: u64,
    /// Blocks in all.
    pub blocks: u64,
    /// Blocks not in use.
    pub blocks_free: u64,
    /// Blocks not in use that an ordinary user may take.
    pub blocks_available: u64,
    /// Inodes in all; 0 where they are made on demand.
    pub files: u64,
    /// Inodes not in use.
    pub files_free: u64,
    /// Longest name in bytes.
    pub name_bytes_max: u32,
}

impl Share {
    /// Takes hold of a folder.
    ///
    /// `path` itself may be reached through links; what it names at this moment is what is served,
    /// even if it is renamed later.
    ///
    /// # Errors
    /// [`ShareError`], each with its remedy.
    pub fn open(path: &Path) -> Result<Self, ShareError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, path, flags, Mode::empty()).map_err(|errno| explain(path, errno.into()))?;
        let stat = statx_fd(&root).map_err(|error| explain(path, error))?;
        let storage = Storage::of(&root);
        let descriptors = openat(CWD, c"/proc/self/fd", flags, Mode::empty())
            .ok()
            .filter(|fd| kernel_fs::is_proc(fd) == Ok(true))
            .ok_or(ShareError::NoProc)?;
        let share = Self {
            root,
            descriptors,
            origin: Origin::new(&stat),
            parked: Mutex::default(),
            storage,
            keeper: Arc::default(),
        };
        share.check_environment(path)?;
        Ok(share)
    }

    fn check_environment(&self, path: &Path) -> Result<(), ShareError> {
        let io = |error| explain(path, error);
        if kernel_fs::is_kernel_made(&self.root).map_err(io)? {
            return Err(ShareError::KernelFilesystem(path.into()));
        }
        match openat2(&self.root, c".", HANDLE, Mode::empty(), BENEATH | ResolveFlags::CACHED) {
            Ok(_) | Err(Errno::AGAIN) => {}
            Err(Errno::ACCESS) => return Err(ShareError::Denied(path.into())),
            Err(errno) => return Err(ShareError::NoOpenat2(errno.into())),
        }
        // Another process's descriptors may have been mounted there.
        let (reopened, _) = self.reopen(&self.root, OFlags::DIRECTORY).map_err(io)?;
        let (reopened, root) = (statx_fd(&reopened).map_err(io)?, statx_fd(&self.root).map_err(io)?);
        if (device(&reopened), reopened.stx_ino) != (device(&root), root.stx_ino) {
            return Err(ShareError::NoProc);
        }
        Ok(())
    }

    /// The attributes of a name; of the link itself if it is one.
    ///
    /// # Errors
    /// The errno of openat2(2) or statx(2); `ELOOP` or `ENOTDIR` for a link on the way.
    pub fn attr(&self, path: &RelPath, blocking: Blocking) -> Result<Attr, FsError> {
        let handle = self.resolve(path, blocking, OFlags::empty())?;
        let stat = statx_fd(&handle)?;
        Ok(Attr::new(self.id(path, &stat), &stat))
    }

    /// The target of a symbolic link, uninterpreted: the client's kernel resolves it on its own
    /// side of the mount.
    ///
    /// # Errors
    /// `EINVAL` if the name is not a link; under [`Blocking::CachedOnly`] also
    /// [`FsError::WOULD_BLOCK`] for targets too long to lie inside the inode.
    pub fn readlink(&self, path: &RelPath, blocking: Blocking) -> Result<Vec<u8>, FsError> {
        let handle = self.resolve(path, blocking, OFlags::empty())?;
        if blocking == Blocking::CachedOnly && statx_fd(&handle)?.stx_size > SYMLINK_INLINE_BYTES_MAX {
            return Err(FsError::WOULD_BLOCK);
        }
        match readlinkat(&handle, c"", Vec::new()) {
            Ok(target) => Ok(target.into_bytes()),
            // readlinkat(2) on a descriptor that is no link.
            Err(Errno::NOENT) => Err(FsError::INVALID),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Opens a regular file for reading, and nothing else.
    ///
    /// The name is resolved to a handle that opens nothing (`O_PATH`); what the handle holds is
    /// looked at; that very inode is opened through `/proc/self/fd`, so no rename can slip a FIFO
    /// or a device in between. `O_NOATIME` is used where the kernel permits it (owner or
    /// `CAP_FOWNER`).
    ///
    /// # Errors
    /// `EISDIR`, `ELOOP` for a link, `ENXIO` for a FIFO, socket or device, `EACCES` for files of
    /// kernel-made file systems and where permission lacks, [`FsError::WOULD_BLOCK`] under
    /// [`Blocking::CachedOnly`] also while another process holds a lease on the file (fcntl(2)).
    pub fn open_file(&self, path: &RelPath, blocking: Blocking) -> Result<OpenFile, FsError> {
        let handle = self.resolve(path, blocking, OFlags::empty())?;
        let stat = statx_fd(&handle)?;
        let attr = Attr::new(self.id(path, &stat), &stat);
        match attr.kind {
            FileKind::File => {}
            FileKind::Directory => return Err(FsError::IS_DIRECTORY),
            FileKind::Symlink => return Err(FsError::IS_SYMLINK),
            _ => return Err(FsError::NOT_REGULAR),
        }
        if !self.origin.holds(&stat) && kernel_fs::is_kernel_made(&handle)? {
            return Err(FsError::DENIED);
        }
        let wait = match blocking {
            Blocking::Allowed => OFlags::empty(),
            Blocking::CachedOnly => OFlags::NONBLOCK,
        };
        let (file, status) = self.reopen(&handle, wait)?;
        if blocking == Blocking::CachedOnly {
            // It was for the opening. Left on, a ring's reads fail with EAGAIN before Linux 6.5 where they would wait
            // for the disk, and later wait for it inside the shard's system call.
            fcntl_setfl(&file, status)?;
        }
        let inode = (device(&stat), stat.stx_ino);
        let storage = self.origin.holds(&stat).then_some(self.storage);
        // Where a server stands behind it, only an opening makes it tell what the file is now (close-to-open, nfs(5)).
        // Elsewhere the attributes are those of the moment before: who reads compares versions afterwards.
        let attr =
            if storage.is_some_and(Storage::has_true_inodes) { attr } else { Attr::new(attr.id, &statx_fd(&file)?) };
        Ok(OpenFile::new(file, attr, inode, storage, Arc::clone(&self.keeper)))
    }

    /// Space and inodes of the file system the root lies on.
    ///
    /// # Errors
    /// The errno of statfs(2).
    pub fn statfs(&self) -> Result<StatFs, FsError> {
        let stat = fstatfs(&self.root)?;
        Ok(StatFs {
            block_bytes: u64::try_from(stat.f_frsize).unwrap_or(0),
            blocks: stat.f_blocks,
            blocks_free: stat.f_bfree,
            blocks_available: stat.f_bavail,
            files: stat.f_files,
            files_free: stat.f_ffree,
            name_bytes_max: u32::try_from(stat.f_namelen).unwrap_or(0),
        })
    }

    /// Unmaps files that nobody has open and nobody read since the last sweep.
    ///
    /// To be called every now and then, from a thread that may wait: unmapping takes 35 ms per GiB.
    pub fn sweep(&self) {
        self.keeper.sweep();
    }

    pub(super) fn id(&self, path: &RelPath, stat: &Statx) -> FileId {
        if path.is_root() { Origin::root_id(stat) } else { self.origin.id(stat) }
    }

    /// Takes hold of what a path names now, without opening it.
    ///
    /// Paths beyond `PATH_MAX` go in segments, each from the descriptor of the last. A directory
    /// moved out of the share between two segments is then still followed: as with any open
    /// descriptor, it was inside when it was reached.
    pub(super) fn resolve(&self, path: &RelPath, blocking: Blocking, last: OFlags) -> Result<OwnedFd, FsError> {
        let mut reached: Option<OwnedFd> = None;
        let mut rest = path.as_bytes();
        loop {
            let (segment, tail) = split_segment(rest);
            let from = reached.as_ref().map_or(self.root.as_fd(), AsFd::as_fd);
            let extra = if tail.is_empty() { last } else { OFlags::DIRECTORY };
            let fd = step(from, segment, blocking, extra)?;
            if tail.is_empty() {
                return Ok(fd);
            }
            reached = Some(fd);
            rest = tail;
        }
    }

    /// Opens for reading exactly the inode that `handle` holds, by its link in procfs (proc_pid_fd(5)); also returns
    /// the status flags that fcntl(2) can set, as they are without those asked for in addition.
    pub(super) fn reopen(&self, handle: &OwnedFd, extra: OFlags) -> Result<(OwnedFd, OFlags), FsError> {
        let name = || DecInt::from_fd(handle);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | extra;
        match openat(&self.descriptors, name(), flags | OFlags::NOATIME, Mode::empty()) {
            Err(Errno::PERM) => Ok((openat(&self.descriptors, name(), flags, Mode::empty())?, OFlags::empty())),
            opened => Ok((opened?, OFlags::NOATIME)),
        }
    }
}

/// One system call's worth of resolution.
fn step(from: BorrowedFd<'_>, segment: &[u8], blocking: Blocking, extra: OFlags) -> Result<OwnedFd, FsError> {
    let segment = if segment.is_empty() { b"." } else { segment };
    let flags = HANDLE | extra;
    if blocking == Blocking::CachedOnly {
        // EAGAIN means "not in the cache" here, and is WOULD_BLOCK by itself.
        return Ok(openat2(from, segment, flags, Mode::empty(), BENEATH | ResolveFlags::CACHED)?);
    }
    for _ in 0..RESOLVE_ATTEMPTS_MAX {
        match openat2(from, segment, flags, Mode::empty(), BENEATH) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            resolved => return Ok(resolved?),
        }
    }
    Err(FsError::BUSY)
}

/// Cuts off as many whole components as one system call takes; the rest is empty at the end.
///
/// Components are at most 255 bytes, so there is always a `/` to cut at.
fn split_segment(path: &[u8]) -> (&[u8], &[u8]) {
    if path.len() <= SEGMENT_BYTES_MAX {
        return (path, &[]);
    }
    let cut = path[..=SEGMENT_BYTES_MAX]
        .iter()
        .rposition(|&byte| byte == b'/')
        .expect("RelPath bounds each component below a segment");
    (&path[..cut], &path[cut + 1..])
}

fn explain(path: &Path, error: FsError) -> ShareError {
    let path = path.to_path_buf();
    match error.errno() {
        libc::ENOENT => ShareError::NotFound(path),
        libc::ENOTDIR => ShareError::NotDirectory(path),
        libc::EACCES | libc::EPERM => ShareError::Denied(path),
        _ => ShareError::Io { path, error },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_join_up_to_the_path_on_both_sides_of_the_limit() {
        for length in [1, SEGMENT_BYTES_MAX - 1, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MAX + 1, 3 * SEGMENT_BYTES_MAX] {
            let mut path = [&[b'x'; 200][..], b"/"].concat().repeat(length / 201 + 1);
            path.truncate(length);
            if path.ends_with(b"/") {
                path.pop();
            }
            let (mut parts, mut rest) = (Vec::new(), &path[..]);
            while !rest.is_empty() {
                let (segment, tail) = split_segment(rest);
                assert!(!segment.is_empty() && segment.len() <= SEGMENT_BYTES_MAX);
                parts.push(segment);
                rest = tail;
            }
            assert_eq!(parts.join(&b'/'), path);
            assert_eq!(parts.len() > 1, path.len() > SEGMENT_BYTES_MAX);
        }
    }
    /// The first wall, [`RelPath`], is left out here.
    #[test]
    fn the_kernel_refuses_by_itself_what_points_elsewhere() {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::create_dir(folder.path().join("a")).expect("mkdir");
        let share = Share::open(folder.path()).expect("share");
        for path in [&b".."[..], b"../x", b"a/../..", b"a/../../etc", b"/", b"/etc/passwd"] {
            let refused = step(share.root.as_fd(), path, Blocking::Allowed, OFlags::empty()).unwrap_err();
            assert_eq!(refused.errno(), libc::EXDEV, "{}", path.escape_ascii());
        }
        assert!(step(share.root.as_fd(), b"a/..", Blocking::Allowed, OFlags::empty()).is_ok());
    }
}
