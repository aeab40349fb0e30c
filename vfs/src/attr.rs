//! What is known about a file: identity, kind, attributes; and what about a whole filesystem.

/// The inode number of the share's root, fixed by the FUSE protocol (`FUSE_ROOT_ID`).
pub const ROOT_INO: u64 = 1;

/// Block size told to stat(2), in bytes: the unit in which the client moves and caches data.
pub(crate) const BLOCK_SIZE_BYTES: u32 = 1 << 20;

/// Names one file of the share for as long as it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// Unique in the share at one time; the root is [`ROOT_INO`]. Used as the FUSE inode number.
    pub ino: u64,
    /// Time of birth in nanoseconds: tells a file from an earlier one with the same number.
    pub birth_ns: u64,
}

impl FileId {
    /// The FUSE generation: 32 bits folded from the birth time.
    ///
    /// The kernel compares it whenever a number is looked up again and abandons the old inode
    /// when it differs (`fuse_stale_inode`, fs/fuse/fuse_i.h); it keeps 32 bits only.
    pub fn generation(self) -> u64 {
        (self.birth_ns ^ (self.birth_ns >> 32)) & u64::from(u32::MAX)
    }
}

/// The kinds of file stat(2) tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// `S_IFREG`.
    Regular,
    /// `S_IFDIR`.
    Directory,
    /// `S_IFLNK`.
    Symlink,
    /// `S_IFIFO`.
    NamedPipe,
    /// `S_IFSOCK`.
    Socket,
    /// `S_IFCHR`.
    CharDevice,
    /// `S_IFBLK`.
    BlockDevice,
}

/// A point in time as stat(2) gives it: before 1970 the seconds are negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds since the epoch.
    pub seconds: i64,
    /// Nanoseconds after `seconds`, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// The attributes of one file at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Which file.
    pub id: FileId,
    /// Its kind.
    pub kind: FileKind,
    /// Permission bits, with set-id and sticky bits: the low 12 bits of `st_mode`.
    pub mode: u16,
    /// Number of hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node, in the kernel's 32-bit encoding.
    pub rdev: u32,
    /// Length in bytes.
    pub size: u64,
    /// Allocated space in units of 512 bytes.
    pub blocks: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of content or attributes.
    pub ctime: Timestamp,
    /// Changes whenever the content may have changed; compared for equality only.
    pub version: u64,
}

/// The state of the filesystem that holds the share, as statfs(2) gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatFs {
    /// Size, in units of `fragment_size`.
    pub blocks: u64,
    /// Free blocks.
    pub blocks_free: u64,
    /// Free blocks for users without privilege.
    pub blocks_available: u64,
    /// Number of inodes.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// Preferred transfer size in bytes.
    pub block_size: u32,
    /// Longest name in bytes.
    pub name_bytes_max: u32,
    /// Unit of `blocks` in bytes.
    pub fragment_size: u32,
}
