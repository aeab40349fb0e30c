//! Takes a wormhole mount away: `umount2(2)`, or `fusermount3 -u` where that needs privilege.

pub(crate) mod fusermount;

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use self::fusermount::FusermountError;
use crate::mounts::{self, DeviceNumber};

/// Bounds one run of `fusermount3 -u`: it talks to the kernel only, so seconds mean trouble.
pub(crate) const FUSERMOUNT_UNMOUNT_MAX: Duration = Duration::from_secs(5);

/// Whether a mount still in use may be taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lazy {
    /// Fails with [`UnmountError::Busy`] while a file is open or a process stands in the mount.
    No,
    /// Takes the mount out of the tree at once; it ends when its last user leaves.
    Yes,
}

/// Why a mount could not be taken away.
#[derive(Debug, thiserror::Error)]
pub enum UnmountError {
    /// Nothing is mounted there, or what is mounted there is not a wormhole mount (caller's).
    #[error("{} is not a wormhole mount", .0.display())]
    NotMounted(PathBuf),
    /// A file is open or a process stands in the mount (environment's).
    #[error("{} is in use", .0.display())]
    Busy(PathBuf),
    /// Another mount lies on top of it and has to go first (environment's).
    #[error("another mount lies over {}", .0.display())]
    Covered(PathBuf),
    /// The mount belongs to another user (caller's).
    #[error("not permitted to unmount {}", .0.display())]
    PermissionDenied(PathBuf),
    /// An ordinary user needs the setuid program `fusermount3`, and it was not found.
    #[error("unmounting as an ordinary user needs fusermount3 (package fuse3), which was not found")]
    NoFusermount,
    /// `fusermount3 -u` failed or did not end in time (environment's).
    #[error("fusermount3 could not unmount {}: {reason}", mountpoint.display())]
    Fusermount {
        /// Where.
        mountpoint: PathBuf,
        /// What it printed, or why it was given up.
        reason: String,
    },
    /// The mount table or the mountpoint could not be read, or the kernel refused otherwise.
    #[error("cannot unmount {}", mountpoint.display())]
    System {
        /// Where.
        mountpoint: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Unmounts the topmost wormhole mount at `mountpoint`, whoever serves it and even if it is dead.
///
/// Blocks for the system call, or up to 5 s for `fusermount3`. Another file system's mount is
/// never touched.
///
/// # Errors
/// See [`UnmountError`]; after an error the mount stands as before.
pub fn unmount(mountpoint: &Path, lazy: Lazy) -> Result<(), UnmountError> {
    let system = |source| UnmountError::System { mountpoint: mountpoint.to_owned(), source };
    let resolved = mounts::resolve(mountpoint).map_err(system)?;
    match mounts::topmost_at(&resolved).map_err(system)? {
        Some(entry) if entry.is_wormhole() => detach(&resolved, lazy),
        _ => Err(UnmountError::NotMounted(mountpoint.to_owned())),
    }
}

/// Unmounts whatever lies on top at `resolved`, which comes from [`mounts::resolve`].
fn detach(resolved: &Path, lazy: Lazy) -> Result<(), UnmountError> {
    let flags = match lazy {
        Lazy::No => UnmountFlags::NOFOLLOW,
        Lazy::Yes => UnmountFlags::NOFOLLOW | UnmountFlags::DETACH,
    };
    match rustix::mount::unmount(resolved, flags) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => detach_by_fusermount(resolved, lazy),
        Err(Errno::BUSY) => Err(UnmountError::Busy(resolved.to_owned())),
        // umount2(2): EINVAL is "not a mount point"; ENOENT, the mountpoint went meanwhile.
        Err(Errno::INVAL | Errno::NOENT) => Err(UnmountError::NotMounted(resolved.to_owned())),
        Err(errno) => Err(UnmountError::System { mountpoint: resolved.to_owned(), source: errno.into() }),
    }
}

fn detach_by_fusermount(resolved: &Path, lazy: Lazy) -> Result<(), UnmountError> {
    let options: &[&str] = match lazy {
        Lazy::No => &["-u", "--"],
        Lazy::Yes => &["-u", "-z", "--"],
    };
    let arguments = options.iter().map(OsStr::new).chain([resolved.as_os_str()]);
    let failed = |reason: String| UnmountError::Fusermount { mountpoint: resolved.to_owned(), reason };
    match fusermount::run(arguments, None, FUSERMOUNT_UNMOUNT_MAX) {
        Ok(()) => Ok(()),
        Err(FusermountError::Missing) => Err(UnmountError::NoFusermount),
        Err(FusermountError::Refused(message)) => Err(if message.contains("busy") {
            UnmountError::Busy(resolved.to_owned())
        } else if message.contains("not permitted") || message.contains("Permission denied") {
            UnmountError::PermissionDenied(resolved.to_owned())
        } else if message.contains("Invalid argument") {
            UnmountError::NotMounted(resolved.to_owned())
        } else {
            failed(message)
        }),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Unmounts exactly the mount with this device number, or none.
///
/// `resolved` comes from [`mounts::resolve`]. Between the look at the table and the system call
/// somebody could still swap the mount; the kernel offers no unmount by identity.
pub(crate) fn unmount_device(resolved: &Path, device: DeviceNumber, lazy: Lazy) -> Result<(), UnmountError> {
    check_on_top(resolved, device)?;
    detach(resolved, lazy)
}

/// Aborts the connection of the mount with this device number and takes it out of the tree.
///
/// Whoever still uses it gets `ECONNABORTED` or `ENOTCONN` instead of waiting for a server that is
/// going away. Needs privilege: returns whether the kernel did it.
pub(crate) fn abort_device(resolved: &Path, device: DeviceNumber) -> bool {
    // MNT_FORCE reaches `fuse_umount_begin` before MNT_DETACH is looked at: umount2(2), fs/namespace.c.
    let flags = UnmountFlags::NOFOLLOW | UnmountFlags::DETACH | UnmountFlags::FORCE;
    check_on_top(resolved, device).is_ok() && rustix::mount::unmount(resolved, flags).is_ok()
}

fn check_on_top(resolved: &Path, device: DeviceNumber) -> Result<(), UnmountError> {
    let stack = mounts::stack_at(resolved)
        .map_err(|source| UnmountError::System { mountpoint: resolved.to_owned(), source })?;
    match stack.iter().rposition(|entry| entry.device == device) {
        None => Err(UnmountError::NotMounted(resolved.to_owned())),
        Some(place) if place + 1 < stack.len() => Err(UnmountError::Covered(resolved.to_owned())),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_not_a_wormhole_mount() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for path in [folder.path(), Path::new("/proc"), Path::new("/")] {
            let refused = unmount(path, Lazy::Yes).expect_err("not ours");
            assert!(matches!(refused, UnmountError::NotMounted(_)), "{refused}");
        }
    }

    #[test]
    fn names_a_missing_mountpoint() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let refused = unmount(&folder.path().join("none"), Lazy::No).expect_err("missing");
        assert!(
            matches!(&refused, UnmountError::System { source, .. } if source.kind() == io::ErrorKind::NotFound),
            "{refused}"
        );
    }
}
