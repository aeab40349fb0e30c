//! Owned replies: the one place where an answer becomes a FUSE message, or a test's value.
//!
//! Each reply is sent once, by the method that consumes it. One that is dropped unsent says
//! [`Errno::EIO`], so that no process ever hangs on a lost request. Through
//! [`Reply::channel`] the same core runs without a kernel: the value arrives at a receiver.

mod listing;

use std::cell::RefCell;
use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender, bounded};
use fuser::{FileHandle, FopenFlags, Generation, INodeNo};

use crate::abi;
use crate::attr::{Attr, StatFs};
use crate::errno::Errno;
use crate::owed::Owed;

pub use listing::{Added, DirOut, DirPlusOut, DirPlusReply, DirReply};

/// A FUSE reply that can carry an error. Implemented by the reply types of `fuser`.
pub trait Refuse {
    /// Sends the error.
    fn refuse(self, errno: fuser::Errno);
}

macro_rules! refuse {
    ($($reply:ident)*) => {$(
        impl Refuse for fuser::$reply {
            fn refuse(self, errno: fuser::Errno) {
                self.error(errno);
            }
        }
    )*};
}

refuse!(ReplyEntry ReplyAttr ReplyData ReplyOpen ReplyDirectory ReplyDirectoryPlus ReplyStatfs ReplyEmpty);

/// Where an answer goes.
enum Inner<F, T> {
    Fuse(F),
    Owed(Owed),
    Channel(Sender<Result<T, Errno>>),
}

/// An answer that is owed: to the kernel (`F`), or to a receiver of `T`.
pub struct Reply<F: Refuse, T> {
    /// `None` once sent.
    inner: Option<Inner<F, T>>,
}

/// Owed to a lookup.
pub type EntryReply = Reply<fuser::ReplyEntry, EntryOut>;
/// Owed to a getattr.
pub type AttrReply = Reply<fuser::ReplyAttr, AttrOut>;
/// Owed to a read.
pub type DataReply = Reply<fuser::ReplyData, Vec<u8>>;
/// Owed to a readlink; FUSE sends a link's target as data.
pub struct LinkReply(DataReply);
/// Owed to an open or opendir.
pub type OpenReply = Reply<fuser::ReplyOpen, OpenOut>;
/// Owed to a statfs.
pub type StatfsReply = Reply<fuser::ReplyStatfs, StatFs>;
/// Owed to a release or releasedir.
pub type EmptyReply = Reply<fuser::ReplyEmpty, ()>;

/// What a lookup found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryOut {
    /// The file, or `None` for a name the kernel may remember as absent.
    pub attr: Option<Attr>,
    /// How long the attributes hold.
    pub attr_ttl: Duration,
    /// How long the name, or its absence, holds.
    pub entry_ttl: Duration,
}

/// What a getattr found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttrOut {
    /// The attributes.
    pub attr: Attr,
    /// How long they hold.
    pub attr_ttl: Duration,
}

/// What an open granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenOut {
    /// The handle.
    pub fh: u64,
    /// Whether the kernel keeps the pages it has (`FOPEN_KEEP_CACHE`).
    pub keep_cache: bool,
}

impl<F: Refuse, T> Reply<F, T> {
    /// A reply whose value, or error, arrives at the receiver.
    pub fn channel() -> (Self, Receiver<Result<T, Errno>>) {
        let (sender, receiver) = bounded(1);
        (Self { inner: Some(Inner::Channel(sender)) }, receiver)
    }

    /// Answers with an error.
    pub fn error(mut self, errno: Errno) {
        self.refuse(errno);
    }

    fn refuse(&mut self, errno: Errno) {
        match self.inner.take() {
            Some(Inner::Fuse(reply)) => reply.refuse(errno.into()),
            Some(Inner::Owed(owed)) => owed.refuse(errno),
            Some(Inner::Channel(sender)) => deliver(&sender, Err(errno)),
            None => {}
        }
    }

    /// Answers through `fuse`, through a session of our own by `own`, or with what `value` makes.
    fn send(mut self, fuse: impl FnOnce(F), own: impl FnOnce(Owed), value: impl FnOnce() -> T) {
        match self.inner.take() {
            Some(Inner::Fuse(reply)) => fuse(reply),
            Some(Inner::Owed(owed)) => own(owed),
            Some(Inner::Channel(sender)) => deliver(&sender, Ok(value())),
            None => unreachable!("only methods that consume the reply empty it"),
        }
    }
}

/// A receiver that is gone, or an answer it did not expect twice, is the receiver's affair.
fn deliver<T>(sender: &Sender<Result<T, Errno>>, value: Result<T, Errno>) {
    let _ = sender.try_send(value);
}

impl<F: Refuse, T> From<F> for Reply<F, T> {
    fn from(reply: F) -> Self {
        Self { inner: Some(Inner::Fuse(reply)) }
    }
}

impl<F: Refuse, T> From<Owed> for Reply<F, T> {
    fn from(owed: Owed) -> Self {
        Self { inner: Some(Inner::Owed(owed)) }
    }
}

impl<F: Refuse, T> Drop for Reply<F, T> {
    fn drop(&mut self) {
        self.refuse(Errno::EIO);
    }
}

impl<F: Refuse, T> fmt::Debug for Reply<F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.inner {
            Some(Inner::Fuse(_)) => "Reply(fuse)",
            Some(Inner::Owed(_)) => "Reply(owed)",
            Some(Inner::Channel(_)) => "Reply(channel)",
            None => "Reply(sent)",
        })
    }
}

impl EntryReply {
    /// Answers that the name stands for this file.
    pub fn entry(self, attr: &Attr, attr_ttl: Duration, entry_ttl: Duration) {
        let generation = Generation(attr.id.generation());
        self.send(
            |fuse| fuse.entry_with_ttls(&attr_ttl, &entry_ttl, &attr.into(), generation),
            |owed| owed.answer_with(&abi::entry_out(attr, attr_ttl, entry_ttl)),
            || EntryOut { attr: Some(*attr), attr_ttl, entry_ttl },
        );
    }

    /// Answers that the name stands for nothing, for the kernel to remember.
    ///
    /// An entry with inode number 0 is a negative one (`fuse_lookup_name`, fs/fuse/dir.c).
    pub fn absent(self, entry_ttl: Duration) {
        self.send(
            |fuse| fuse.entry_with_ttls(&Duration::ZERO, &entry_ttl, &nothing(), Generation(0)),
            |owed| owed.answer_with(&abi::absent_out(entry_ttl)),
            || EntryOut { attr: None, attr_ttl: Duration::ZERO, entry_ttl },
        );
    }
}

/// The attributes a negative entry carries; the kernel looks at the inode number alone.
fn nothing() -> fuser::FileAttr {
    fuser::FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: fuser::FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

impl AttrReply {
    /// Answers with the attributes.
    pub fn attr(self, attr: &Attr, attr_ttl: Duration) {
        self.send(
            |fuse| fuse.attr(&attr_ttl, &attr.into()),
            |owed| owed.answer_with(&abi::attr_out(attr, attr_ttl)),
            || AttrOut { attr: *attr, attr_ttl },
        );
    }
}

impl DataReply {
    /// Answers with bytes; fewer than asked for mean the end of the file.
    pub fn data(self, data: &[u8]) {
        self.send(|fuse| fuse.data(data), |owed| owed.answer_with(data), || data.to_vec());
    }

    /// Answers with the bytes of `parts`, one after the other.
    ///
    /// They are gathered in the kernel, or into what it reads; only fuser takes one slice alone, so that there more
    /// than one part costs a copy.
    pub fn parts<'a>(self, parts: impl Iterator<Item = &'a [u8]> + Clone) {
        self.send(
            |fuse| match (parts.clone().next(), parts.clone().nth(1)) {
                (Some(only), None) => fuse.data(only),
                _ => GATHER.with_borrow_mut(|gather| {
                    gather.clear();
                    parts.clone().for_each(|part| gather.extend_from_slice(part));
                    fuse.data(gather);
                }),
            },
            |owed| owed.answer(parts.clone()),
            || parts.clone().flatten().copied().collect(),
        );
    }
}

thread_local! {
    /// One read's bytes where they lie in several places.
    static GATHER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl LinkReply {
    /// A reply whose value, or error, arrives at the receiver.
    pub fn channel() -> (Self, Receiver<Result<Vec<u8>, Errno>>) {
        let (reply, receiver) = DataReply::channel();
        (Self(reply), receiver)
    }

    /// Answers with the link's target.
    pub fn target(self, target: &[u8]) {
        self.0.data(target);
    }

    /// Answers with an error.
    pub fn error(self, errno: Errno) {
        self.0.error(errno);
    }
}

impl From<fuser::ReplyData> for LinkReply {
    fn from(reply: fuser::ReplyData) -> Self {
        Self(reply.into())
    }
}

impl From<Owed> for LinkReply {
    fn from(owed: Owed) -> Self {
        Self(owed.into())
    }
}

impl fmt::Debug for LinkReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl OpenReply {
    /// Grants a handle for a file; `keep_cache` says whether the kernel's pages of earlier opens still hold.
    pub fn opened(self, fh: u64, keep_cache: bool) {
        // Nothing is written through the handle, so a flush at each close(2) would say nothing.
        self.grant(fh, FopenFlags::FOPEN_NOFLUSH, keep_cache);
    }

    /// Grants a handle for a directory, whose listing the kernel keeps; `keep_cache` says whether to list what it has.
    pub fn opened_directory(self, dh: u64, keep_cache: bool) {
        self.grant(dh, FopenFlags::FOPEN_CACHE_DIR, keep_cache);
    }

    fn grant(self, fh: u64, mut flags: FopenFlags, keep_cache: bool) {
        flags.set(FopenFlags::FOPEN_KEEP_CACHE, keep_cache);
        self.send(
            |fuse| fuse.opened(FileHandle(fh), flags),
            |owed| owed.answer_with(&abi::open_out(fh, flags.bits())),
            || OpenOut { fh, keep_cache },
        );
    }
}

impl StatfsReply {
    /// Answers with the figures.
    pub fn statfs(self, stat: &StatFs) {
        self.send(
            |fuse| {
                fuse.statfs(
                    stat.blocks,
                    stat.blocks_free,
                    stat.blocks_available,
                    stat.files,
                    stat.files_free,
                    stat.block_size,
                    stat.name_bytes_max,
                    stat.fragment_size,
                );
            },
            |owed| owed.answer_with(&abi::statfs_out(stat)),
            || *stat,
        );
    }
}

impl EmptyReply {
    /// Answers that it is done.
    pub fn ok(self) {
        self.send(fuser::ReplyEmpty::ok, |owed| owed.answer_with(&[]), || ());
    }
}
