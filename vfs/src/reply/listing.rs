//! Replies that fill up: directory entries are added until the kernel's buffer takes no more.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use crossbeam_channel::Receiver;
use fuser::{Generation, INodeNo};

use super::{Inner, Reply};
use crate::attr::{Attr, FileKind};
use crate::errno::Errno;

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

/// What a channel reply has taken so far, counted as the kernel would.
#[derive(Debug)]
struct Taken<T> {
    entries: Vec<T>,
    bytes_left: usize,
}

impl<T> Taken<T> {
    fn push(&mut self, header_bytes: usize, name: &[u8], entry: impl FnOnce() -> T) -> Added {
        let bytes = (header_bytes + name.len()).next_multiple_of(8);
        match self.bytes_left.checked_sub(bytes) {
            Some(left) => {
                self.bytes_left = left;
                self.entries.push(entry());
                Added::Yes
            }
            None => Added::Full,
        }
    }
}

macro_rules! listing_reply {
    ($(#[$doc:meta])* $reply:ident, $fuse:ident, $out:ident) => {
        $(#[$doc])*
        pub struct $reply {
            reply: Reply<fuser::$fuse, Vec<$out>>,
            taken: Taken<$out>,
        }

        impl $reply {
            /// A reply whose entries, or error, arrive at the receiver; it takes `bytes_max`
            /// bytes as the kernel counts them.
            pub fn channel(bytes_max: usize) -> (Self, Receiver<Result<Vec<$out>, Errno>>) {
                let (reply, receiver) = Reply::channel();
                let taken = Taken { entries: Vec::new(), bytes_left: bytes_max };
                (Self { reply, taken }, receiver)
            }

            /// Sends the entries added so far; none mean the end of the directory.
            pub fn ok(self) {
                let entries = self.taken.entries;
                self.reply.send(fuser::$fuse::ok, || entries);
            }

            /// Answers with an error, whatever was added.
            pub fn error(self, errno: Errno) {
                self.reply.error(errno);
            }
        }

        impl From<fuser::$fuse> for $reply {
            fn from(reply: fuser::$fuse) -> Self {
                let taken = Taken { entries: Vec::new(), bytes_left: 0 };
                Self { reply: reply.into(), taken }
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
    DirReply, ReplyDirectory, DirOut
);
listing_reply!(
    /// Owed to a readdirplus.
    DirPlusReply, ReplyDirectoryPlus, DirPlusOut
);

impl DirReply {
    /// Adds an entry if it fits.
    pub fn add(&mut self, ino: u64, offset: u64, kind: FileKind, name: &[u8]) -> Added {
        match &mut self.reply.inner {
            Some(Inner::Fuse(fuse)) => added(fuse.add(INodeNo(ino), offset, kind.into(), OsStr::from_bytes(name))),
            _ => self.taken.push(DIRENT_BYTES, name, || DirOut { ino, offset, kind, name: name.to_vec() }),
        }
    }
}

impl DirPlusReply {
    /// Adds an entry if it fits; the kernel then counts a lookup, but for `.` and `..`.
    pub fn add(&mut self, offset: u64, name: &[u8], attr: &Attr, ttl: Duration) -> Added {
        match &mut self.reply.inner {
            Some(Inner::Fuse(fuse)) => added(fuse.add(
                INodeNo(attr.id.ino),
                offset,
                OsStr::from_bytes(name),
                &ttl,
                &attr.into(),
                Generation(attr.id.generation()),
            )),
            _ => self.taken.push(DIRENT_PLUS_BYTES, name, || DirPlusOut {
                offset,
                name: name.to_vec(),
                attr: *attr,
                ttl,
            }),
        }
    }
}

/// `fuser` says whether the buffer was full.
fn added(full: bool) -> Added {
    if full { Added::Full } else { Added::Yes }
}
