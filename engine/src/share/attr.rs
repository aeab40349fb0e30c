//! What is known about one file without reading it.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, makedev, statx};

use super::error::FsError;

/// Names a file for as long as it exists, and tells it from a later file that got the same inode
/// number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// Unique in the share: 1 for the root, `st_ino` on the root's device, else a hash of device
    /// and `st_ino` with the top bit set. Never 0.
    pub ino: u64,
    /// Time of birth in nanoseconds since 1970; 0 where the file system keeps none.
    pub birth_ns: u64,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A Unix domain socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// A point in time as the file system keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds since 1970, negative before.
    pub s: i64,
    /// Nanoseconds within the second, below 1,000,000,000.
    pub ns: u32,
}

/// The attributes of one file, as stat(2) gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Which file.
    pub id: FileId,
    /// What it is.
    pub kind: FileKind,
    /// Permission, set-id and sticky bits: 12 bits.
    pub mode: u16,
    /// Hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, as makedev(3) packs it, of a device; 0 otherwise.
    pub rdev: u64,
    /// Bytes of content.
    pub size: u64,
    /// Units of 512 bytes on disk.
    pub blocks: u64,
    /// Last read.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of content or attributes; no program can set it.
    pub ctime: Timestamp,
}

impl Attr {
    /// A number that changes when the content may have changed.
    ///
    /// Mixes id, size, mtime and ctime. A chmod changes it too, which costs a client one needless
    /// fetch. Two writes within one tick of the file system's clock that keep the size may share a
    /// version; Linux 6.13 made that tick fine enough where it matters (multigrain timestamps: the
    /// first write after a look at the times gets a new one).
    pub fn version(&self) -> u64 {
        let words = [
            self.id.ino,
            self.id.birth_ns,
            self.size,
            self.mtime.s.cast_unsigned(),
            u64::from(self.mtime.ns),
            self.ctime.s.cast_unsigned(),
            u64::from(self.ctime.ns),
        ];
        words.into_iter().fold(0, |version, word| mix(version ^ word))
    }
}

/// The device and inode of the share's root, against which all other files are numbered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    device: (u32, u32),
    st_ino: u64,
}

/// Marks inode numbers that are hashes.
const HASHED: u64 = 1 << 63;
/// FUSE's number for a root.
const ROOT_INO: u64 = 1;

impl Origin {
    pub(super) fn new(root: &Statx) -> Self {
        Self { device: device(root), st_ino: root.stx_ino }
    }

    pub(super) fn root_id(root: &Statx) -> FileId {
        FileId { ino: ROOT_INO, birth_ns: birth_ns(root) }
    }

    /// The id of any file but the root.
    pub(super) fn id(&self, stat: &Statx) -> FileId {
        FileId { ino: self.ino(device(stat), stat.stx_ino), birth_ns: birth_ns(stat) }
    }

    /// Whether a file lies on the file system of the root.
    pub(super) fn holds(&self, stat: &Statx) -> bool {
        device(stat) == self.device
    }

    /// Small numbers of the root's device pass; the rest, the root seen again through a bind mount
    /// included, are hashed into the upper half, so that the two never meet. Two hashes meet once
    /// in 2^63 pairs.
    pub(super) fn ino(&self, device: (u32, u32), st_ino: u64) -> u64 {
        let native = device == self.device && st_ino > ROOT_INO && st_ino < HASHED && st_ino != self.st_ino;
        if native {
            return st_ino;
        }
        let device = u64::from(device.0) << 32 | u64::from(device.1);
        HASHED | mix(mix(device) ^ st_ino)
    }
}

pub(super) fn device(stat: &Statx) -> (u32, u32) {
    (stat.stx_dev_major, stat.stx_dev_minor)
}

fn birth_ns(stat: &Statx) -> u64 {
    if stat.stx_mask & StatxFlags::BTIME.bits() == 0 {
        return 0;
    }
    let seconds = u64::try_from(stat.stx_btime.tv_sec).unwrap_or(0);
    seconds.wrapping_mul(1_000_000_000).wrapping_add(u64::from(stat.stx_btime.tv_nsec))
}

impl Attr {
    pub(super) fn new(id: FileId, stat: &Statx) -> Self {
        let time = |at: rustix::fs::StatxTimestamp| Timestamp { s: at.tv_sec, ns: at.tv_nsec };
        Self {
            id,
            kind: FileKind::from_type(FileType::from_raw_mode(u32::from(stat.stx_mode))),
            mode: stat.stx_mode & 0o7777,
            nlink: stat.stx_nlink,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            rdev: makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
            size: stat.stx_size,
            blocks: stat.stx_blocks,
            atime: time(stat.stx_atime),
            mtime: time(stat.stx_mtime),
            ctime: time(stat.stx_ctime),
        }
    }

    /// All that a directory says of an entry whose attributes this process may not see: a kind and
    /// no permission.
    pub(super) fn veiled(id: FileId, kind: FileKind) -> Self {
        let never = Timestamp::default();
        Self {
            id,
            kind,
            mode: 0,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 0,
            blocks: 0,
            atime: never,
            mtime: never,
            ctime: never,
        }
    }
}

impl FileKind {
    /// The kind in a mode or a directory entry; a file where the file system does not tell.
    pub(super) fn from_type(kind: FileType) -> Self {
        match kind {
            FileType::RegularFile | FileType::Unknown => Self::File,
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::CharacterDevice => Self::CharDevice,
            FileType::BlockDevice => Self::BlockDevice,
        }
    }
}

/// The attributes of an open descriptor, `O_PATH` ones included.
pub(super) fn statx_fd(fd: impl AsFd) -> Result<Statx, FsError> {
    Ok(statx(fd, c"", AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT, StatxFlags::BASIC_STATS | StatxFlags::BTIME)?)
}

/// The size the kernel itself goes by in page faults and cached reads, without asking a server.
pub(super) fn size_now(fd: impl AsFd) -> Result<u64, FsError> {
    Ok(statx(fd, c"", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, StatxFlags::SIZE)?.stx_size)
}

/// A bijection of 64 bits in which each input bit moves about half of the output bits (the
/// finaliser of SplitMix64, Steele, Lea and Flood, OOPSLA 2014).
fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: Origin = Origin { device: (8, 1), st_ino: 2 };

    #[test]
    fn numbers_of_the_roots_device_pass_through() {
        assert_eq!(ORIGIN.ino((8, 1), 3), 3);
        assert_eq!(ORIGIN.ino((8, 1), HASHED - 1), HASHED - 1);
    }

    #[test]
    fn all_others_are_hashed_into_the_upper_half() {
        for (device, st_ino) in [((8, 1), 0), ((8, 1), 1), ((8, 1), 2), ((8, 1), HASHED), ((8, 2), 3), ((0, 40), 1)] {
            assert!(ORIGIN.ino(device, st_ino) >= HASHED, "{device:?} {st_ino}");
        }
        assert_ne!(ORIGIN.ino((8, 2), 3), ORIGIN.ino((8, 3), 3));
        assert_ne!(ORIGIN.ino((8, 2), 3), ORIGIN.ino((2, 8), 3));
    }

    #[test]
    fn each_part_of_a_version_moves_it() {
        let with_id = |ino, birth_ns| Attr::veiled(FileId { ino, birth_ns }, FileKind::File);
        let base = with_id(7, 9);
        let later = Timestamp { s: 0, ns: 1 };
        let moved = [
            base,
            Attr { size: 1, ..base },
            Attr { mtime: later, ..base },
            Attr { ctime: later, ..base },
            with_id(8, 9),
            with_id(7, 8),
        ];
        let mut versions = moved.map(|attr| attr.version());
        versions.sort_unstable();
        assert!(versions.windows(2).all(|pair| pair[0] != pair[1]), "{versions:x?}");
        assert_eq!(Attr { atime: later, ..base }.version(), base.version());
    }
}
