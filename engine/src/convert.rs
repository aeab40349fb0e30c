//! One file's attributes in the words of the share, of the wire and of the mount.

use crate::share;
use transport::wire;

/// As the share sees it, for the wire.
pub(crate) fn attr_to_wire(attr: &share::Attr) -> wire::Attr {
    let time = |t: share::Timestamp| wire::Timestamp { seconds: t.s, nanoseconds: t.ns };
    wire::Attr {
        id: id_to_wire(attr.id),
        kind: match attr.kind {
            share::FileKind::File => wire::Kind::File,
            share::FileKind::Directory => wire::Kind::Directory,
            share::FileKind::Symlink => wire::Kind::Symlink,
            share::FileKind::Fifo => wire::Kind::Fifo,
            share::FileKind::Socket => wire::Kind::Socket,
            share::FileKind::CharDevice => wire::Kind::CharDevice,
            share::FileKind::BlockDevice => wire::Kind::BlockDevice,
        },
        mode: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        size: attr.size,
        blocks: attr.blocks,
        atime: time(attr.atime),
        mtime: time(attr.mtime),
        ctime: time(attr.ctime),
        version: attr.version(),
    }
}

/// An empty file on the wire, known by its inode number.
#[cfg(test)]
pub(crate) fn empty_file_on_wire(ino: u64) -> wire::Attr {
    let epoch = wire::Timestamp { seconds: 0, nanoseconds: 0 };
    wire::Attr {
        id: wire::FileId { ino, birth_ns: 0 },
        kind: wire::Kind::File,
        mode: 0o644,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        blocks: 0,
        atime: epoch,
        mtime: epoch,
        ctime: epoch,
        version: 0,
    }
}

fn id_to_wire(id: share::FileId) -> wire::FileId {
    wire::FileId { ino: id.ino, birth_ns: id.birth_ns }
}

/// As the wire carries it, for the mount.
pub(crate) fn attr_to_vfs(attr: &wire::Attr) -> vfs::Attr {
    let time = |t: wire::Timestamp| vfs::Timestamp { seconds: t.seconds, nanoseconds: t.nanoseconds };
    vfs::Attr {
        id: vfs::FileId { ino: attr.id.ino, birth_ns: attr.id.birth_ns },
        kind: match attr.kind {
            wire::Kind::File => vfs::FileKind::Regular,
            wire::Kind::Directory => vfs::FileKind::Directory,
            wire::Kind::Symlink => vfs::FileKind::Symlink,
            wire::Kind::Fifo => vfs::FileKind::NamedPipe,
            wire::Kind::Socket => vfs::FileKind::Socket,
            wire::Kind::CharDevice => vfs::FileKind::CharDevice,
            wire::Kind::BlockDevice => vfs::FileKind::BlockDevice,
        },
        mode: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        // FUSE carries 32 bits of a device's number.
        rdev: u32::try_from(attr.rdev).unwrap_or(u32::MAX),
        size: attr.size,
        blocks: attr.blocks,
        atime: time(attr.atime),
        mtime: time(attr.mtime),
        ctime: time(attr.ctime),
        version: attr.version,
    }
}
