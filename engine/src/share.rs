//! The host's view of the folder it serves: names in, attributes, pages, open files and bytes out.
//!
//! Never leaves the folder, never follows a symbolic link, never opens a FIFO, a socket or a
//! device, never writes, and never hands on a byte that the file did not hold. Spawns nothing and
//! reads no clock.
//!
//! ```text
//!   RelPath ──▶ Share ── attr ───────▶ Attr (id, size, times, version)
//!                 │   ── list ───────▶ Page of Entry      (may block: worker threads)
//!                 │   ── readlink ───▶ the target as text (the client's kernel resolves it)
//!                 └── open_file ─▶ OpenFile ── residency ─▶ Resident | Cold | Unknown
//!                                      │    ── read_now ──▶ bytes copied, or WOULD_BLOCK
//!                                      │    ── fd ────────▶ for reads through the shard's ring
//!                                      └─ map ─▶ MappedBytes ─▶ Bytes::from_owner ─▶ QUIC
//!                                                    └─ check ─▶ is_intact, after the copy
//! ```
//!
//! Who may call what: a shard passes [`Blocking::CachedOnly`] and hands the call to a worker thread
//! when it is answered with [`FsError::WOULD_BLOCK`]; [`Share::open`], [`Share::list`],
//! [`Share::statfs`] and [`blake3_of`] belong on worker threads only.
//!
//! # What stays in and what stays out
//!
//! * Each name is resolved by the kernel from the root's descriptor with `openat2(2)` under
//!   `RESOLVE_BENEATH`, `RESOLVE_NO_SYMLINKS` and `RESOLVE_NO_MAGICLINKS`. [`RelPath`] has refused
//!   `..` and its kin before; that is the second wall.
//! * Folders mounted below the root are part of the share: people mount disks inside folders, and a
//!   missing subtree would look like lost data. Their inode numbers are remapped so that one share
//!   is one file system ([`FileId`]).
//! * File systems made by the kernel (proc, sysfs, cgroup and their like, `kernel_fs`) may be seen,
//!   and their files are refused with `EACCES`: their sizes are lies, their reads have side effects
//!   or wait for ever, and `/proc/self/mem` is this very process. Sharing such a file system itself
//!   is refused by [`Share::open`].
//!
//! Read `path`, `attr`, `tree`, `listing`, then `file`, `windows`, `mapping` and `fault`, which holds
//! the argument for mapped reads of files that shrink.

pub mod attr;
pub mod error;
pub mod file;
pub mod hash;
pub mod path;

mod fault;
mod kernel_fs;
mod listing;
mod mapping;
mod residency;
mod tree;
mod windows;

pub use attr::{Attr, FileId, FileKind, Timestamp};
pub use error::{FsError, ShareError};
pub use file::OpenFile;
pub use hash::blake3_of;
pub use listing::{ENTRY_BYTES_FIXED, Entry, ListLimit, Page};
pub use mapping::{MAP_BYTES_MAX, MappedBytes, MappedCheck, Mapping};
pub use path::{PathError, RelPath};
pub use residency::Residency;
pub use tree::{Blocking, Share, StatFs};

#[cfg(test)]
mod tests;
