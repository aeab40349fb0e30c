//! Tells file systems by their kind: those the kernel makes up, whose files are not content, and those whose inode
//! numbers can be trusted.

use std::os::fd::AsFd;

use rustix::fs::fstatfs;

use super::error::FsError;

/// procfs, by statfs(2).
const PROC: u32 = 0x9fa0;
/// tmpfs, by statfs(2).
const TMPFS: u32 = 0x0102_1994;

/// Magic numbers from `linux/magic.h`, and from the file system's own source where that header
/// lacks it.
const KERNEL_MADE: [u32; 21] = [
    PROC,
    0x6265_6572, // sysfs
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x6265_6570, // configfs
    0xcafe_4a11, // bpf
    0xde5e_81e4, // efivarfs
    0x6165_676c, // pstore
    0xf97c_ff8c, // selinuxfs
    0x4341_5d53, // smackfs
    0x5a3c_69f0, // apparmorfs
    0x4249_4e4d, // binfmt_misc
    0x0000_1cd1, // devpts
    0x6e73_6673, // nsfs
    0x0765_5821, // resctrl
    0x6573_5543, // fusectl
    0x6759_6969, // rpc_pipefs
    0x6e66_7364, // nfsd
];

/// File systems of one machine that give no two files of a device one inode number at a time.
///
/// Not among them: FUSE and network file systems, whose servers number as they please, and overlayfs, where the number
/// may stand for a file of the layer above or below. Nor bcachefs: a snapshot's files have the device and the inode
/// numbers of the originals, and may have other bytes. (Each subvolume of btrfs is a device of its own.)
const TRUE_INODES: [u32; 5] = [
    TMPFS,
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0xf2f5_2010, // f2fs
];

/// What can be relied on in a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Storage {
    /// Nothing that is not asked for: a server may stand behind it.
    Other,
    /// Of this machine: device and inode number name one file, as long as it is held open.
    Local,
    /// The same, in memory: its reads copy and no more, unless the bytes are on swap. It knows no `RWF_NOWAIT`.
    Memory,
}

impl Storage {
    /// Asks with fstatfs(2); what does not answer is [`Storage::Other`].
    pub(super) fn of(fd: impl AsFd) -> Self {
        match magic(fd) {
            Ok(TMPFS) => Self::Memory,
            Ok(magic) if TRUE_INODES.contains(&magic) => Self::Local,
            _ => Self::Other,
        }
    }

    pub(super) fn has_true_inodes(self) -> bool {
        self != Self::Other
    }
}

/// Whether files there are windows into the kernel rather than stored bytes.
pub(super) fn is_kernel_made(fd: impl AsFd) -> Result<bool, FsError> {
    Ok(KERNEL_MADE.contains(&magic(fd)?))
}

/// Whether this is procfs.
pub(super) fn is_proc(fd: impl AsFd) -> Result<bool, FsError> {
    Ok(magic(fd)? == PROC)
}

/// Magic numbers are 32 bits; the field's width and sign differ between machines.
fn magic(fd: impl AsFd) -> Result<u32, FsError> {
    Ok(fstatfs(fd)?.f_type as u32)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[track_caller]
    fn check(path: &str, expected: bool) {
        let folder = File::open(path).expect("every Linux has it");
        assert_eq!(is_kernel_made(&folder), Ok(expected), "{path}");
    }

    /// Windows shared by number would show a snapshot's reader the original's bytes there.
    #[test]
    fn numbers_that_a_snapshot_repeats_are_not_trusted() {
        const BCACHEFS: u32 = 0xca45_1a4e;
        const OVERLAYFS: u32 = 0x794c_7630;
        const FUSE: u32 = 0x6573_5546;
        for magic in [BCACHEFS, OVERLAYFS, FUSE] {
            assert!(!TRUE_INODES.contains(&magic), "{magic:#x}");
        }
        assert_eq!(Storage::of(tempfile::tempfile_in("/dev/shm").expect("a file on tmpfs")), Storage::Memory);
        assert_eq!(Storage::of(File::open("/proc/self/stat").expect("mounted")), Storage::Other);
    }

    #[test]
    fn proc_and_sys_are_told_from_storage() {
        check("/proc", true);
        check("/sys", true);
        check("/", false);
        check("/dev", false);
        assert_eq!(is_proc(File::open("/proc/self").expect("mounted")), Ok(true));
    }
}
