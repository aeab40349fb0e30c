//! What the tree asks of the host, what comes back, and what it tells kernel and engine.

use crate::attr::{Attr, FileId, StatFs};
use crate::errno::Errno;
use crate::readahead::Pattern;
use crate::reply::{DataReply, OpenReply};

/// Names one call until its answer; an index with a generation, so a late answer hits nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallId(pub(crate) u64);

/// One question to the host.
///
/// Paths are relative to the share's root, joined by `/`; the root itself is the empty path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Asks for the attributes of what the path names; links are not followed.
    Attr {
        /// The file.
        path: Vec<u8>,
    },
    /// Asks for the target of a symbolic link.
    Readlink {
        /// The link.
        path: Vec<u8>,
    },
    /// Asks for entries of a directory.
    List {
        /// The directory.
        path: Vec<u8>,
        /// 0 for the first entries, or the cookie of the entry to go on after.
        cursor: u64,
    },
    /// Opens a file; the host says `ESTALE` if the path names another file than `id`.
    Open {
        /// The handle the reads will carry.
        fh: u64,
        /// The file.
        path: Vec<u8>,
        /// Which file the path must name.
        id: FileId,
    },
    /// Closes a file; needs no answer.
    Close {
        /// The handle `Open` carried.
        fh: u64,
    },
    /// Asks for the state of the filesystem.
    Statfs,
}

/// What the host says to a [`Call`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Call::Attr`].
    Attr(Attr),
    /// To [`Call::Readlink`].
    Link(Vec<u8>),
    /// To [`Call::List`].
    Page {
        /// Entries in the directory's order, `.` and `..` left out.
        entries: Vec<DirEntry>,
        /// Whether nothing follows; a page without entries must say so.
        end: bool,
    },
    /// To [`Call::Open`]: the attributes at the time of the open.
    Opened(Attr),
    /// To [`Call::Statfs`].
    Statfs(StatFs),
}

impl Answer {
    /// The attributes, if this answers a [`Call::Attr`].
    pub(crate) fn into_attr(self) -> Result<Attr, Errno> {
        match self {
            Self::Attr(attr) => Ok(attr),
            _ => Err(Errno::EIO),
        }
    }
}

/// One entry of a directory on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name: 1 to 255 bytes, no slash, no NUL, not `.` or `..`.
    pub name: Vec<u8>,
    /// Where the listing goes on after this entry: the host's `d_off`, 1 to 2^63 - 1, opaque.
    pub cookie: u64,
    /// Its attributes when it was listed.
    pub attr: Attr,
}

/// A read for the engine to serve from cache or host.
#[derive(Debug)]
pub struct ReadOp {
    /// Handle the file was opened under, on both sides.
    pub fh: u64,
    /// Inode number.
    pub ino: u64,
    /// Which file.
    pub id: FileId,
    /// Version of the content when last heard of.
    pub version: u64,
    /// Size in bytes at that version.
    pub size: u64,
    /// First byte asked for; may lie beyond `size`.
    pub offset: u64,
    /// Bytes asked for.
    pub length: u32,
    /// Where the bytes go.
    pub reply: DataReply,
    /// Chunks of 1 MiB worth fetching now, ascending; each is named once per stream.
    pub prefetch: Vec<u64>,
    /// How it relates to the reads before it.
    pub pattern: Pattern,
}

/// A notification for the kernel.
///
/// Send it from a thread that serves no request (the kernel may wait for requests in flight),
/// then call [`complete`](Notice::complete), whether or not the kernel still knew the inode.
#[derive(Debug)]
#[must_use = "an open may wait for this notice"]
pub struct Notice {
    /// Inode number.
    pub ino: u64,
    /// What the kernel must forget.
    pub scope: NoticeScope,
    pub(crate) then: Option<HeldOpen>,
}

/// What a [`Notice`] makes the kernel forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeScope {
    /// Attributes only (`FUSE_NOTIFY_INVAL_INODE` with a negative offset).
    Attr,
    /// Attributes and all cached pages (`FUSE_NOTIFY_INVAL_INODE` of the whole file).
    Data,
}

impl Notice {
    /// Sends the open reply that had to wait for this notice, if one did.
    pub fn complete(self) {
        if let Some(HeldOpen { reply, fh, keep_cache }) = self.then {
            reply.opened(fh, keep_cache);
        }
    }
}

/// An open that is granted once the kernel has heard the notice before it.
#[derive(Debug)]
pub(crate) struct HeldOpen {
    pub(crate) reply: OpenReply,
    pub(crate) fh: u64,
    pub(crate) keep_cache: bool,
}
