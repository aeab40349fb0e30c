//! The FUSE edge: each request of the kernel becomes an [`Op`] for the shard that owns the tree.
//!
//! The sessions of our own, for requests through io_uring, do the same in `serve`: what is changed here is changed there.
//! Runs in fuser's reader threads, which must never wait: one that did would stop every process
//! on the mount whose requests happen to reach it. So a request is answered here only where the
//! answer needs nobody (a refusal, or bytes that a cache has), and handed over otherwise.
//!
//! | request | answer |
//! | --- | --- |
//! | lookup, getattr, readlink, open, readdir(plus), statfs, release(dir), forget | by the shard |
//! | read | from the backend's cache if it has the bytes, else by the shard |
//! | flush, fsync, fsyncdir | done at once: nothing is ever dirty |
//! | whatever changes something | `EROFS` |
//! | access, xattr, lseek, bmap, poll, locks | `ENOSYS`, after which the kernel asks no more |

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyBmap,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock,
    ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::handle::{HandleTable, OpenView};
use crate::op::Op;
use crate::reply::DataReply;

/// The most bytes of one request: what 6.18 allows by default (`/proc/sys/fs/fuse/max_pages_limit`,
/// 256 pages). fuser derives INIT's `max_pages` from it, which bounds reads as well.
pub(crate) const REQUEST_BYTES_MAX: u32 = 1 << 20;

/// Whoever answers the requests: the engine's shards, or a test.
///
/// Every request must be answered, and within a bounded time: a process that waits for one sleeps
/// uninterruptibly once the request has been read, and not even `SIGKILL` ends it
/// (`request_wait_answer`, fs/fuse/dev.c). A reply that is dropped answers `EIO` by itself.
pub trait Backend: Send + Sync + 'static {
    /// Hands `op` to the shard that owns it.
    ///
    /// Called in a reader thread: must not wait, neither for the host nor for room in a mailbox.
    /// When the shard's bounded mailbox is full, or the shard has ended, the op must be answered
    /// here with an errno (`EBUSY`, `ENOTCONN`, or `EIO` by dropping it). A
    /// [`Forget`](Op::Forget) has no reply and must not be lost silently: count what could not be
    /// mailed and take it in later, or the inode stays known for the life of the mount.
    fn submit(&self, op: Op);

    /// Answers a read from memory, if the bytes are there; else gives the reply back.
    ///
    /// Called in a reader thread, for a file that is open now. Must not wait. Bytes beyond
    /// `view.size` do not exist: a read that starts there is answered with none.
    fn read_cached(&self, view: OpenView, offset: u64, length: u32, reply: DataReply) -> Option<DataReply>;
}

/// What the session chooses of the INIT answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InitSettings {
    /// Background requests under way, above 0; the congestion threshold is the same number, since
    /// above it the kernel drops readahead.
    pub(crate) max_background: u16,
}

/// The filesystem that fuser drives.
#[derive(Debug)]
pub(crate) struct FuseFs<B> {
    backend: Arc<B>,
    handles: Arc<HandleTable>,
    settings: InitSettings,
}

impl<B: Backend> FuseFs<B> {
    pub(crate) fn new(backend: Arc<B>, handles: Arc<HandleTable>, settings: InitSettings) -> Self {
        Self { backend, handles, settings }
    }
}

/// Chooses among the capabilities that the kernel offers.
///
/// Left out on purpose:
/// - `AUTO_INVAL_DATA` drops a file's pages whenever a refreshed mtime differs. We know versions
///   and invalidate by them: on open (without `FOPEN_KEEP_CACHE`) and by notice.
/// - `EXPLICIT_INVAL_DATA` would also stop the kernel from dropping pages when a refreshed *size*
///   differs. For close-to-open that is wrong: when a file grows on the host under an open
///   descriptor, the last cached page is zero beyond the old end, and those zeros would be read
///   as data until our notice came (`fuse_change_attributes`, fs/fuse/inode.c). The default costs
///   a second read of a file whose size changed, no more; notices work all the same.
/// - `WRITEBACK_CACHE` has no sense on a read-only mount; `SPLICE_*` fuser does not do; with
///   `NO_OPEN_SUPPORT` the host would not learn of opens; `CACHE_SYMLINKS` keeps a target
///   until the inode goes, whatever its mtime says.
fn choose(offered: InitFlags) -> InitFlags {
    let wished = InitFlags::FUSE_ASYNC_READ
        | InitFlags::FUSE_ASYNC_DIO
        | InitFlags::FUSE_PARALLEL_DIROPS
        | InitFlags::FUSE_DO_READDIRPLUS
        | InitFlags::FUSE_READDIRPLUS_AUTO;
    wished & offered
}

/// Says whether an open asks for more than reading. The kernel refuses it on a read-only mount
/// before it gets here; this is the second wall.
pub(crate) fn is_for_writing(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0
}

impl<B: Backend> Filesystem for FuseFs<B> {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let chosen = choose(config.capabilities());
        let bound = |nearest| io::Error::other(format!("fuser refuses an INIT setting; the nearest is {nearest}"));
        config.add_capabilities(chosen).map_err(|missing| io::Error::other(format!("{missing:?} were not offered")))?;
        config.set_max_write(REQUEST_BYTES_MAX).map_err(|nearest| bound(nearest.to_string()))?;
        config.set_max_background(self.settings.max_background).map_err(|nearest| bound(nearest.to_string()))?;
        config.set_congestion_threshold(self.settings.max_background).map_err(|nearest| bound(nearest.to_string()))?;
        Ok(()) // max_readahead stays as offered: the protocol can only lower it
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.backend.submit(Op::Lookup { parent: parent.0, name: name.as_bytes().to_vec(), reply: reply.into() });
    }

    // A batch arrives here one by one: fuser does not export the type of its elements.
    fn forget(&self, _request: &Request, ino: INodeNo, nlookup: u64) {
        self.backend.submit(Op::Forget { ino: ino.0, nlookup });
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.backend.submit(Op::Getattr { ino: ino.0, reply: reply.into() });
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        self.backend.submit(Op::Readlink { ino: ino.0, reply: reply.into() });
    }

    fn open(&self, _request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if is_for_writing(flags.0) {
            return reply.error(Errno::EROFS);
        }
        self.backend.submit(Op::Open { ino: ino.0, flags: flags.0, reply: reply.into() });
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let missed = match self.handles.snapshot(fh.0) {
            Some(view) => self.backend.read_cached(view, offset, size, reply.into()),
            None => Some(reply.into()),
        };
        if let Some(reply) = missed {
            self.backend.submit(Op::Read { ino: ino.0, fh: fh.0, offset, length: size, reply });
        }
    }

    fn release(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.backend.submit(Op::Release { fh: fh.0, reply: reply.into() });
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.backend.submit(Op::Opendir { ino: ino.0, reply: reply.into() });
    }

    fn readdir(&self, _request: &Request, ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.backend.submit(Op::Readdir { ino: ino.0, dh: fh.0, offset, reply: reply.into() });
    }

    fn readdirplus(&self, _request: &Request, ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        self.backend.submit(Op::ReaddirPlus { ino: ino.0, dh: fh.0, offset, reply: reply.into() });
    }

    fn releasedir(&self, _request: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.backend.submit(Op::Releasedir { dh: fh.0, reply: reply.into() });
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.backend.submit(Op::Statfs { reply: reply.into() });
    }

    // Nothing is ever dirty.

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    // The kernel refuses changes on a read-only mount; these are the second wall.

    fn setattr(
        &self,
        _: &Request,
        _: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mknod(
        &self,
        _: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn rename(
        &self,
        _: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _new_parent: INodeNo,
        _new_name: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn create(
        &self,
        _: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(Errno::EROFS);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        _fh_in: FileHandle,
        _offset_in: u64,
        _ino_out: INodeNo,
        _fh_out: FileHandle,
        _offset_out: u64,
        _length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    // Not part of this filesystem. fuser's own defaults say the same, but log each time.

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn setxattr(
        &self,
        _: &Request,
        _: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn lseek(&self, _: &Request, _: INodeNo, _fh: FileHandle, _offset: i64, _whence: i32, reply: ReplyLseek) {
        reply.error(Errno::ENOSYS);
    }

    fn bmap(&self, _: &Request, _: INodeNo, _blocksize: u32, _index: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _fh: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn getlk(
        &self,
        _: &Request,
        _: INodeNo,
        _fh: FileHandle,
        _owner: LockOwner,
        _start: u64,
        _end: u64,
        _kind: i32,
        _pid: u32,
        reply: ReplyLock,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn setlk(
        &self,
        _: &Request,
        _: INodeNo,
        _fh: FileHandle,
        _owner: LockOwner,
        _start: u64,
        _end: u64,
        _kind: i32,
        _pid: u32,
        _sleep: bool,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }
}
