//! Answers and notifications as bytes.

use std::time::Duration;

use crate::attr::{Attr, BLOCK_SIZE_BYTES, FileKind, StatFs};

/// Bytes of `struct fuse_out_header`.
pub(crate) const OUT_HEADER_BYTES: usize = 16;
/// Bytes of `struct fuse_attr`.
const ATTR_BYTES: usize = 88;
/// Bytes of `struct fuse_entry_out`.
const ENTRY_OUT_BYTES: usize = 40 + ATTR_BYTES;
/// Bytes of `struct fuse_attr_out`.
const ATTR_OUT_BYTES: usize = 16 + ATTR_BYTES;
/// Bytes of `struct fuse_open_out`.
const OPEN_OUT_BYTES: usize = 16;
/// Bytes of `struct fuse_statfs_out`.
const STATFS_OUT_BYTES: usize = 80;
/// Bytes of `struct fuse_init_out`.
const INIT_OUT_BYTES: usize = 64;
/// Bytes of `struct fuse_dirent` before the name.
const DIRENT_BYTES: usize = 24;

/// `FUSE_NOTIFY_INVAL_INODE`, which goes positive into the header's error field.
const NOTIFY_INVAL_INODE: i32 = 2;

/// Builds one structure field by field; its length is checked at the end.
struct Structure<const N: usize> {
    bytes: [u8; N],
    filled: usize,
}

impl<const N: usize> Structure<N> {
    fn new() -> Self {
        Self { bytes: [0; N], filled: 0 }
    }

    fn put(mut self, field: &[u8]) -> Self {
        self.bytes[self.filled..self.filled + field.len()].copy_from_slice(field);
        self.filled += field.len();
        self
    }

    fn u16(self, value: u16) -> Self {
        self.put(&value.to_ne_bytes())
    }

    fn u32(self, value: u32) -> Self {
        self.put(&value.to_ne_bytes())
    }

    fn u64(self, value: u64) -> Self {
        self.put(&value.to_ne_bytes())
    }

    fn done(self) -> [u8; N] {
        debug_assert_eq!(self.filled, N, "a structure is filled to its end");
        self.bytes
    }
}

/// The header of an answer with `payload_bytes` after it; `error` is 0 or a positive errno.
pub(crate) fn out_header(unique: u64, error: i32, payload_bytes: usize) -> [u8; OUT_HEADER_BYTES] {
    let length = u32::try_from(OUT_HEADER_BYTES + payload_bytes).expect("an answer is bounded by its request");
    Structure::new().u32(length).u32((-error).cast_unsigned()).u64(unique).done()
}

/// What this side chooses in INIT.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InitOut {
    pub(crate) minor: u32,
    pub(crate) max_readahead: u32,
    pub(crate) flags: u64,
    pub(crate) max_background: u16,
    pub(crate) max_write: u32,
    pub(crate) max_pages: u16,
}

/// `struct fuse_init_out`; the congestion threshold is `max_background`, since above it the kernel drops readahead.
pub(crate) fn init_out(init: &InitOut) -> [u8; INIT_OUT_BYTES] {
    Structure::new()
        .u32(super::MAJOR)
        .u32(init.minor)
        .u32(init.max_readahead)
        .u32((init.flags & u64::from(u32::MAX)) as u32)
        .u16(init.max_background)
        .u16(init.max_background)
        .u32(init.max_write)
        .u32(1) // time_gran: nanoseconds
        .u16(init.max_pages)
        .u16(0) // map_alignment
        .u32((init.flags >> 32) as u32)
        .put(&[0; 28]) // max_stack_depth, request_timeout, unused
        .done()
}

fn attr(attr: &Attr) -> [u8; ATTR_BYTES] {
    Structure::new()
        .u64(attr.id.ino)
        .u64(attr.size)
        .u64(attr.blocks)
        .u64(attr.atime.seconds.cast_unsigned())
        .u64(attr.mtime.seconds.cast_unsigned())
        .u64(attr.ctime.seconds.cast_unsigned())
        .u32(attr.atime.nanoseconds)
        .u32(attr.mtime.nanoseconds)
        .u32(attr.ctime.nanoseconds)
        .u32(file_type(attr.kind) | u32::from(attr.mode & 0o7777))
        .u32(attr.nlink)
        .u32(attr.uid)
        .u32(attr.gid)
        .u32(attr.rdev)
        .u32(BLOCK_SIZE_BYTES)
        .u32(0) // flags
        .done()
}

/// The file type bits of `st_mode`, inode(7).
fn file_type(kind: FileKind) -> u32 {
    match kind {
        FileKind::Regular => libc::S_IFREG,
        FileKind::Directory => libc::S_IFDIR,
        FileKind::Symlink => libc::S_IFLNK,
        FileKind::NamedPipe => libc::S_IFIFO,
        FileKind::Socket => libc::S_IFSOCK,
        FileKind::CharDevice => libc::S_IFCHR,
        FileKind::BlockDevice => libc::S_IFBLK,
    }
}

/// `struct fuse_entry_out`: the name stands for this file.
pub(crate) fn entry_out(found: &Attr, attr_ttl: Duration, entry_ttl: Duration) -> [u8; ENTRY_OUT_BYTES] {
    Structure::new()
        .u64(found.id.ino)
        .u64(found.id.generation())
        .u64(entry_ttl.as_secs())
        .u64(attr_ttl.as_secs())
        .u32(entry_ttl.subsec_nanos())
        .u32(attr_ttl.subsec_nanos())
        .put(&attr(found))
        .done()
}

/// `struct fuse_entry_out` of a name that stands for nothing: inode number 0 (`fuse_lookup_name`, fs/fuse/dir.c).
pub(crate) fn absent_out(entry_ttl: Duration) -> [u8; ENTRY_OUT_BYTES] {
    Structure::new()
        .u64(0)
        .u64(0)
        .u64(entry_ttl.as_secs())
        .u64(0)
        .u32(entry_ttl.subsec_nanos())
        .u32(0)
        .put(&[0; ATTR_BYTES])
        .done()
}

/// `struct fuse_attr_out`.
pub(crate) fn attr_out(found: &Attr, attr_ttl: Duration) -> [u8; ATTR_OUT_BYTES] {
    Structure::new().u64(attr_ttl.as_secs()).u32(attr_ttl.subsec_nanos()).u32(0).put(&attr(found)).done()
}

/// `struct fuse_open_out`; `open_flags` are `FOPEN_*` bits.
pub(crate) fn open_out(fh: u64, open_flags: u32) -> [u8; OPEN_OUT_BYTES] {
    Structure::new().u64(fh).u32(open_flags).u32(0).done()
}

/// `struct fuse_statfs_out`.
pub(crate) fn statfs_out(stat: &StatFs) -> [u8; STATFS_OUT_BYTES] {
    Structure::new()
        .u64(stat.blocks)
        .u64(stat.blocks_free)
        .u64(stat.blocks_available)
        .u64(stat.files)
        .u64(stat.files_free)
        .u32(stat.block_size)
        .u32(stat.name_bytes_max)
        .u32(stat.fragment_size)
        .put(&[0; 28]) // padding, spare
        .done()
}

/// Appends `struct fuse_dirent`, its name and the padding; the caller has looked whether they fit.
pub(crate) fn push_dirent(target: &mut Vec<u8>, ino: u64, offset: u64, kind: FileKind, name: &[u8]) {
    let length = u32::try_from(name.len()).expect("a name is bounded");
    // `d_type` of readdir(3) is the file type shifted down.
    let head: [u8; DIRENT_BYTES] = Structure::new().u64(ino).u64(offset).u32(length).u32(file_type(kind) >> 12).done();
    target.extend_from_slice(&head);
    target.extend_from_slice(name);
    target.resize(target.len().next_multiple_of(8), 0);
}

/// Appends `struct fuse_direntplus`, its name and the padding; the caller has looked whether they fit.
pub(crate) fn push_direntplus(target: &mut Vec<u8>, offset: u64, name: &[u8], found: &Attr, ttl: Duration) {
    target.extend_from_slice(&entry_out(found, ttl, ttl));
    push_dirent(target, found.id.ino, offset, found.kind, name);
}

/// A whole `FUSE_NOTIFY_INVAL_INODE`: a negative offset leaves the pages alone, length 0 means to the end.
pub(crate) fn inval_inode_out(ino: u64, offset: i64, length: i64) -> [u8; OUT_HEADER_BYTES + 24] {
    Structure::new()
        .put(&out_header(0, -NOTIFY_INVAL_INODE, 24))
        .u64(ino)
        .u64(offset.cast_unsigned())
        .u64(length.cast_unsigned())
        .done()
}
