//! A file's attributes for programs.

use transport::wire;

/// What kind of file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoteKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A FIFO, socket or device: listed, never opened.
    Other,
}

/// A file's attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteAttr {
    /// What it is.
    pub kind: RemoteKind,
    /// Permission bits, 12 of them.
    pub mode: u16,
    /// Owner on the host.
    pub uid: u32,
    /// Group on the host.
    pub gid: u32,
    /// Number of names.
    pub nlink: u32,
    /// Bytes.
    pub size: u64,
    /// Last modification, seconds since 1970.
    pub mtime_s: i64,
    /// Its nanoseconds.
    pub mtime_ns: u32,
    /// Changes whenever the content may have changed.
    pub version: u64,
}

impl From<wire::Attr> for RemoteAttr {
    fn from(attr: wire::Attr) -> Self {
        let kind = match attr.kind {
            wire::Kind::File => RemoteKind::File,
            wire::Kind::Directory => RemoteKind::Directory,
            wire::Kind::Symlink => RemoteKind::Symlink,
            wire::Kind::Fifo | wire::Kind::Socket | wire::Kind::CharDevice | wire::Kind::BlockDevice => {
                RemoteKind::Other
            }
        };
        Self {
            kind,
            mode: attr.mode,
            uid: attr.uid,
            gid: attr.gid,
            nlink: attr.nlink,
            size: attr.size,
            mtime_s: attr.mtime.seconds,
            mtime_ns: attr.mtime.nanoseconds,
            version: attr.version,
        }
    }
}
