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

fn id_to_wire(id: share::FileId) -> wire::FileId {
    wire::FileId { ino: id.ino, birth_ns: id.birth_ns }
}
