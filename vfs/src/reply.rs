//! Owned replies: the one place where an answer becomes a FUSE message, or a test's value.
//!
//! Each reply is sent once, by the method that consumes it. One that is dropped unsent says
//! [`Errno::EIO`], so that no process ever hangs on a lost request. Through
//! [`Reply::channel`] the same core runs without a kernel: the value arrives at a receiver.

mod listing;

use std::fmt;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::abi::{self, open_flag};
use crate::attr::{Attr, StatFs};
use crate::errno::Errno;
use crate::owed::Owed;

pub use listing::{Added, DirOut, DirPlusOut, DirPlusReply, DirReply};

/// Where an answer goes.
enum Inner<T> {
    Owed(Owed),
    Channel(Sender<Result<T, Errno>>),
}

/// An answer that is owed: to the kernel, or to a receiver of `T`.
pub struct Reply<T> {
    /// `None` once sent.
    inner: Option<Inner<T>>,
}

/// Owed to a lookup.
pub type EntryReply = Reply<EntryOut>;
/// Owed to a getattr.
pub type AttrReply = Reply<AttrOut>;
/// Owed to a read.
pub type DataReply = Reply<Vec<u8>>;
/// Owed to a readlink; FUSE sends a link's target as data.
pub struct LinkReply(DataReply);
/// Owed to an open or opendir.
pub type OpenReply = Reply<OpenOut>;
/// Owed to a statfs.
pub type StatfsReply = Reply<StatFs>;
/// Owed to a release or releasedir.
pub type EmptyReply = Reply<()>;

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

impl<T> Reply<T> {
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
            Some(Inner::Owed(owed)) => owed.refuse(errno),
            Some(Inner::Channel(sender)) => deliver(&sender, Err(errno)),
            None => {}
        }
    }

    /// Answers the kernel by `own`, or a receiver with what `value` makes.
    fn send(mut self, own: impl FnOnce(Owed), value: impl FnOnce() -> T) {
        match self.inner.take() {
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

impl<T> From<Owed> for Reply<T> {
    fn from(owed: Owed) -> Self {
        Self { inner: Some(Inner::Owed(owed)) }
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        self.refuse(Errno::EIO);
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.inner {
            Some(Inner::Owed(_)) => "Reply(owed)",
            Some(Inner::Channel(_)) => "Reply(channel)",
            None => "Reply(sent)",
        })
    }
}

impl EntryReply {
    /// Answers that the name stands for this file.
    pub fn entry(self, attr: &Attr, attr_ttl: Duration, entry_ttl: Duration) {
        self.send(
            |owed| owed.answer_with(&abi::entry_out(attr, attr_ttl, entry_ttl)),
            || EntryOut { attr: Some(*attr), attr_ttl, entry_ttl },
        );
    }

    /// Answers that the name stands for nothing, for the kernel to remember.
    ///
    /// An entry with inode number 0 is a negative one (`fuse_lookup_name`, fs/fuse/dir.c).
    pub fn absent(self, entry_ttl: Duration) {
        self.send(
            |owed| owed.answer_with(&abi::absent_out(entry_ttl)),
            || EntryOut { attr: None, attr_ttl: Duration::ZERO, entry_ttl },
        );
    }
}

impl AttrReply {
    /// Answers with the attributes.
    pub fn attr(self, attr: &Attr, attr_ttl: Duration) {
        self.send(|owed| owed.answer_with(&abi::attr_out(attr, attr_ttl)), || AttrOut { attr: *attr, attr_ttl });
    }
}

impl DataReply {
    /// Answers with bytes; fewer than asked for mean the end of the file.
    pub fn data(self, data: &[u8]) {
        self.send(|owed| owed.answer_with(data), || data.to_vec());
    }

    /// Answers with the bytes of `parts`, one after the other.
    ///
    /// They are gathered in the kernel, or into what it reads.
    pub fn parts<'a>(self, parts: impl Iterator<Item = &'a [u8]> + Clone) {
        self.send(|owed| owed.answer(parts.clone()), || parts.clone().flatten().copied().collect());
    }
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
        self.grant(fh, open_flag::NOFLUSH, keep_cache);
    }

    /// Grants a handle for a directory, whose listing the kernel keeps; `keep_cache` says whether to list what it has.
    pub fn opened_directory(self, dh: u64, keep_cache: bool) {
        self.grant(dh, open_flag::CACHE_DIR, keep_cache);
    }

    fn grant(self, fh: u64, flags: u32, keep_cache: bool) {
        let flags = flags | if keep_cache { open_flag::KEEP_CACHE } else { 0 };
        self.send(|owed| owed.answer_with(&abi::open_out(fh, flags)), || OpenOut { fh, keep_cache });
    }
}

impl StatfsReply {
    /// Answers with the figures.
    pub fn statfs(self, stat: &StatFs) {
        self.send(|owed| owed.answer_with(&abi::statfs_out(stat)), || *stat);
    }
}

impl EmptyReply {
    /// Answers that it is done.
    pub fn ok(self) {
        self.send(|owed| owed.answer_with(&[]), || ());
    }
}
