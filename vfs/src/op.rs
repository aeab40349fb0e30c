//! What the kernel asks of the filesystem: one variant per FUSE request.

use std::fmt;

use crate::reply::{
    AttrReply, DataReply, DirPlusReply, DirReply, EmptyReply, EntryReply, LinkReply, OpenReply, StatfsReply,
};

/// One request of the kernel, with the reply it is owed.
///
/// Made where the kernel's requests are taken, for the shard that owns the [`Tree`](crate::Tree).
pub enum Op {
    /// Resolves one name of a directory and counts one reference to what it names.
    Lookup {
        /// Inode number of the directory.
        parent: u64,
        /// The name, without slash.
        name: Vec<u8>,
        /// Where the entry goes.
        reply: EntryReply,
    },
    /// Gives back references counted by lookups; the kernel waits for no answer.
    Forget {
        /// Inode number.
        ino: u64,
        /// How many references.
        nlookup: u64,
    },
    /// Asks for the attributes of a file.
    Getattr {
        /// Inode number.
        ino: u64,
        /// Where the attributes go.
        reply: AttrReply,
    },
    /// Asks for the target of a symbolic link.
    Readlink {
        /// Inode number.
        ino: u64,
        /// Where the target goes.
        reply: LinkReply,
    },
    /// Opens a file.
    Open {
        /// Inode number.
        ino: u64,
        /// Flags of open(2).
        flags: i32,
        /// Where the handle goes.
        reply: OpenReply,
    },
    /// Reads from an open file.
    Read {
        /// Inode number.
        ino: u64,
        /// Handle from `Open`.
        fh: u64,
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u32,
        /// Where the bytes go.
        reply: DataReply,
    },
    /// Closes a file: the last reference to the handle is gone.
    Release {
        /// Handle from `Open`.
        fh: u64,
        /// Where the confirmation goes.
        reply: EmptyReply,
    },
    /// Opens a directory.
    Opendir {
        /// Inode number.
        ino: u64,
        /// Where the handle goes.
        reply: OpenReply,
    },
    /// Lists entries after `offset`.
    Readdir {
        /// Inode number.
        ino: u64,
        /// Handle from `Opendir`.
        dh: u64,
        /// 0, or the offset that came with an entry.
        offset: u64,
        /// Takes the entries; it knows the kernel's buffer.
        reply: DirReply,
    },
    /// Lists entries after `offset` with their attributes; each counts as a lookup.
    ReaddirPlus {
        /// Inode number.
        ino: u64,
        /// Handle from `Opendir`.
        dh: u64,
        /// 0, or the offset that came with an entry.
        offset: u64,
        /// Takes the entries; it knows the kernel's buffer.
        reply: DirPlusReply,
    },
    /// Closes a directory.
    Releasedir {
        /// Handle from `Opendir`.
        dh: u64,
        /// Where the confirmation goes.
        reply: EmptyReply,
    },
    /// Asks for the state of the filesystem.
    Statfs {
        /// Where the figures go.
        reply: StatfsReply,
    },
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lookup { parent, name, .. } => {
                write!(f, "lookup {parent}/{}", name.escape_ascii())
            }
            Self::Forget { ino, nlookup } => write!(f, "forget {ino} x{nlookup}"),
            Self::Getattr { ino, .. } => write!(f, "getattr {ino}"),
            Self::Readlink { ino, .. } => write!(f, "readlink {ino}"),
            Self::Open { ino, flags, .. } => write!(f, "open {ino} flags {flags:#o}"),
            Self::Read { ino, fh, offset, length, .. } => {
                write!(f, "read {ino} fh {fh:#x} {offset}+{length}")
            }
            Self::Release { fh, .. } => write!(f, "release fh {fh:#x}"),
            Self::Opendir { ino, .. } => write!(f, "opendir {ino}"),
            Self::Readdir { ino, dh, offset, .. } => {
                write!(f, "readdir {ino} dh {dh:#x} from {offset}")
            }
            Self::ReaddirPlus { ino, dh, offset, .. } => {
                write!(f, "readdirplus {ino} dh {dh:#x} from {offset}")
            }
            Self::Releasedir { dh, .. } => write!(f, "releasedir dh {dh:#x}"),
            Self::Statfs { .. } => f.write_str("statfs"),
        }
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
