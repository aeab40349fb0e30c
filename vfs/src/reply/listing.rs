//! Replies that fill up: directory entries are added until the kernel's buffer takes no more.

use std::fmt;
use std::time::Duration;

use crossbeam_channel::Receiver;

use super::{Inner, Reply};
use crate::abi;
use crate::attr::{Attr, FileKind};
use crate::errno::Errno;
use crate::owed::Owed;

/// Bytes of `struct fuse_dirent` before the name (include/uapi/linux/fuse.h).
const DIRENT_BYTES: usize = 24;
/// Bytes of `struct fuse_direntplus` before the name.
const DIRENT_PLUS_BYTES: usize = 152;

/// One listed entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirOut {
    /// Inode number.
    pub ino: u64,
    /// Offset at which the listing goes on after it.
    pub offset: u64,
    /// Kind.
    pub kind: FileKind,
    /// Name.
    pub name: Vec<u8>,
}

/// One listed entry with its attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirPlusOut {
    /// Offset at which the listing goes on after it.
    pub offset: u64,
    /// Name.
    pub name: Vec<u8>,
    /// Attributes.
    pub attr: Attr,
    /// How long name and attributes hold.
    pub ttl: Duration,
}

/// Whether an entry still went into the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It is in.
    Yes,
    /// It would not fit: send what there is.
    Full,
}

/// What a reply has taken so far: as values for a channel, or as the kernel's bytes.
#[derive(Debug)]
struct Taken<T> {
    entries: Vec<T>,
    bytes: Vec<u8>,
    bytes_left: usize,
}

impl<T> Taken<T> {
    fn new(bytes_max: usize) -> Self {
        Self { entries: Vec::new(), bytes: Vec::new(), bytes_left: bytes_max }
    }

    /// Takes an entry by `add` if it fits.
    fn push(&mut self, header_bytes: usize, name: &[u8], add: impl FnOnce(&mut Self)) -> Added {
        let bytes = (header_bytes + name.len()).next_multiple_of(8);
        match self.bytes_left.checked_sub(bytes) {
            Some(left) => {
                self.bytes_left = left;
                add(self);
                Added::Yes
            }
            None => Added::Full,
        }
    }
}

macro_rules! listing_reply {
    ($(#[$doc:meta])* $reply:ident, $out:ident) => {
        $(#[$doc])*
        pub struct $reply {
            reply: Reply<Vec<$out>>,
            taken: Taken<$out>,
        }

        impl $reply {
            /// A reply whose entries, or error, arrive at the receiver; it takes `bytes_max`
            /// bytes as the kernel counts them.
            pub fn channel(bytes_max: usize) -> (Self, Receiver<Result<Vec<$out>, Errno>>) {
                let (reply, receiver) = Reply::channel();
                (Self { reply, taken: Taken::new(bytes_max) }, receiver)
            }

            /// A reply of at most `bytes_max` bytes that is owed to the kernel.
            pub(crate) fn owed(owed: Owed, bytes_max: u32) -> Self {
                Self { reply: owed.into(), taken: Taken::new(bytes_max as usize) }
            }

            /// Sends the entries added so far; none mean the end of the directory.
            pub fn ok(self) {
                let Taken { entries, bytes, .. } = self.taken;
                self.reply.send(|owed| owed.answer_with(&bytes), || entries);
            }

            /// Answers with an error, whatever was added.
            pub fn error(self, errno: Errno) {
                self.reply.error(errno);
            }
        }

        impl fmt::Debug for $reply {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.reply.fmt(f)
            }
        }
    };
}

listing_reply!(
    /// Owed to a readdir.
    DirReply, DirOut
);
listing_reply!(
    /// Owed to a readdirplus.
    DirPlusReply, DirPlusOut
);

impl DirReply {
    /// Adds an entry if it fits.
    pub fn add(&mut self, ino: u64, offset: u64, kind: FileKind, name: &[u8]) -> Added {
        match &mut self.reply.inner {
            Some(Inner::Owed(_)) => self.taken.push(DIRENT_BYTES, name, |taken| {
                abi::push_dirent(&mut taken.bytes, ino, offset, kind, name);
            }),
            _ => self.taken.push(DIRENT_BYTES, name, |taken| {
                taken.entries.push(DirOut { ino, offset, kind, name: name.to_vec() });
            }),
        }
    }
}

impl DirPlusReply {
    /// Adds an entry if it fits; the kernel then counts a lookup, but for `.` and `..`.
    pub fn add(&mut self, offset: u64, name: &[u8], attr: &Attr, ttl: Duration) -> Added {
        match &mut self.reply.inner {
            Some(Inner::Owed(_)) => self.taken.push(DIRENT_PLUS_BYTES, name, |taken| {
                abi::push_direntplus(&mut taken.bytes, offset, name, attr, ttl);
            }),
            _ => self.taken.push(DIRENT_PLUS_BYTES, name, |taken| {
                taken.entries.push(DirPlusOut { offset, name: name.to_vec(), attr: *attr, ttl });
            }),
        }
    }
}
