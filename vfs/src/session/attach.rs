//! Puts a FUSE device on a mountpoint: directly where we are privileged, else by `fusermount3`.

use std::ffi::{CString, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::MountFlags;
use rustix::net::{AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType};

use crate::mounts::{self, FS_TYPE, Liveness, SUBTYPE};
use crate::unmount::fusermount::{self, FusermountError};
use crate::unmount::{Lazy, UnmountError, unmount};

const DEVICE: &str = "/dev/fuse";

/// Bounds one run of `fusermount3`: it opens, checks and mounts, all inside the kernel.
const FUSERMOUNT_MOUNT_MAX: Duration = Duration::from_secs(10);

/// How long an old mount at the mountpoint may take to show that it is alive.
const PROBE_MAX: Duration = Duration::from_secs(2);

/// Bounds the dead mounts taken off one mountpoint, one on top of the other.
///
/// Each killed daemon without a guard leaves one; more than a few mean that something remounts in
/// a loop, which cleaning would only hide.
const DEAD_LAYERS_MAX: usize = 8;

/// Why a folder could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// This kernel has no FUSE, or its module is not loaded (environment's).
    #[error(
        "this machine has no {DEVICE}: load the kernel module (modprobe fuse) or, in a container, pass the device in"
    )]
    NoDevice,
    /// An ordinary user needs the setuid program (environment's).
    #[error("mounting as an ordinary user needs fusermount3, which was not found: install the package fuse3")]
    NoFusermount,
    /// There is no such folder (caller's).
    #[error("the mountpoint {} does not exist", .0.display())]
    MountpointMissing(PathBuf),
    /// The mountpoint is a file or something else (caller's).
    #[error("the mountpoint {} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// A wormhole that is not known to be dead is mounted there (caller's).
    #[error("a wormhole is already mounted at {}", .0.display())]
    AlreadyMounted(PathBuf),
    /// A dead wormhole mount lies there and could not be taken away.
    #[error("a dead wormhole mount could not be removed first")]
    Stale(#[source] UnmountError),
    /// An ordinary user asked for `allow_other`, which `/etc/fuse.conf` does not permit.
    #[error(
        "allow-other is not permitted to ordinary users: add the line user_allow_other to /etc/fuse.conf, or leave it out"
    )]
    AllowOtherRefused,
    /// The device or the mountpoint may not be used by this user (caller's).
    #[error("permission denied: {0}")]
    PermissionDenied(String),
    /// The source holds a NUL byte, which no mount option can carry (caller's).
    #[error("the mount's source holds a NUL byte")]
    Source,
    /// `fusermount3` failed in another way (environment's).
    #[error("fusermount3 could not mount: {0}")]
    Fusermount(String),
    /// The kernel refused in another way (environment's).
    #[error("{doing}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl MountError {
    pub(super) fn system(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { doing, source }
    }
}

/// Makes sure that `mountpoint` can be mounted on; returns its plain path.
///
/// Takes dead wormhole mounts off it first. Nothing here waits for a stuck server: until the mount
/// table shows no wormhole on top, only [`mounts::probe`] looks at the mountpoint itself.
pub(crate) fn prepare(mountpoint: &Path) -> Result<PathBuf, MountError> {
    let unusable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => MountError::MountpointMissing(mountpoint.to_owned()),
        io::ErrorKind::NotADirectory => MountError::NotADirectory(mountpoint.to_owned()),
        io::ErrorKind::PermissionDenied => MountError::PermissionDenied(mountpoint.display().to_string()),
        _ => MountError::System { doing: "the mountpoint cannot be examined", source },
    };
    let resolved = mounts::resolve(mountpoint).map_err(unusable)?;
    for _ in 0..DEAD_LAYERS_MAX {
        let top = mounts::topmost_at(&resolved).map_err(MountError::system("the mount table cannot be read"))?;
        if !top.is_some_and(|entry| entry.is_wormhole()) {
            let metadata = resolved.metadata().map_err(unusable)?;
            return if metadata.is_dir() {
                Ok(resolved)
            } else {
                Err(MountError::NotADirectory(mountpoint.to_owned()))
            };
        }
        match mounts::probe(&resolved, PROBE_MAX).map_err(unusable)? {
            Liveness::Dead => match unmount(&resolved, Lazy::Yes) {
                // Whoever else took it away, it is gone.
                Ok(()) | Err(UnmountError::NotMounted(_)) => {
                    tracing::info!(mountpoint = %resolved.display(), "removed a dead wormhole mount");
                }
                Err(error) => return Err(MountError::Stale(error)),
            },
            Liveness::Alive | Liveness::Silent => break,
        }
    }
    Err(MountError::AlreadyMounted(mountpoint.to_owned()))
}

/// Mounts on `resolved`, read-only, and returns the device with its INIT request waiting in it.
pub(crate) fn attach(resolved: &Path, source: &str, allow_other: bool) -> Result<OwnedFd, MountError> {
    match OpenOptions::new().read(true).write(true).open(DEVICE) {
        Ok(device) => match attach_directly(&device, resolved, source, allow_other) {
            Ok(()) => Ok(device.into()),
            Err(Errno::PERM) => attach_by_fusermount(resolved, source, allow_other),
            Err(Errno::NODEV) => Err(MountError::NoDevice),
            Err(errno) => Err(MountError::System { doing: "mount(2) failed", source: errno.into() }),
        },
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => Err(MountError::NoDevice),
            // The setuid program may be allowed what we are not.
            Some(libc::EACCES | libc::EPERM) => attach_by_fusermount(resolved, source, allow_other),
            _ => Err(MountError::System { doing: "/dev/fuse cannot be opened", source: error }),
        },
    }
}

/// Options that both ways share, beside `ro,nosuid,nodev`.
///
/// With `allow_other` the kernel checks modes and owners itself; without it only the mounting user
/// gets in at all, and checking the host's numeric owners against ours would shut that user out.
fn access_options(allow_other: bool) -> &'static str {
    if allow_other { ",allow_other,default_permissions" } else { "" }
}

fn attach_directly(device: &File, resolved: &Path, source: &str, allow_other: bool) -> rustix::io::Result<()> {
    // `rootmode` carries only the file type: a directory. mount.fuse(8), kernel fs/fuse/inode.c.
    let data = format!(
        "fd={},rootmode=40000,user_id={},group_id={}{}",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
        access_options(allow_other),
    );
    let data = CString::new(data).expect("digits and letters hold no NUL");
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount(source, resolved, FS_TYPE, flags, &*data)
}

fn attach_by_fusermount(resolved: &Path, source: &str, allow_other: bool) -> Result<OwnedFd, MountError> {
    let socket_failed = |errno: Errno| MountError::System { doing: "no socket for fusermount3", source: errno.into() };
    let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(socket_failed)?;
    let source = source.replace('\\', "\\\\").replace(',', "\\,");
    let options = format!("ro,nosuid,nodev,fsname={source},subtype={SUBTYPE}{}", access_options(allow_other));
    let arguments = [
        OsString::from("-o"),
        OsString::from(options),
        OsString::from("--"),
        OsString::from_vec(resolved.as_os_str().to_owned().into_vec()),
    ];
    match fusermount::run(arguments, Some(theirs), FUSERMOUNT_MOUNT_MAX) {
        Ok(()) => receive_device(&ours)
            .map_err(socket_failed)?
            .ok_or_else(|| MountError::Fusermount("it ended well but handed no device back".to_owned())),
        Err(FusermountError::Missing) => Err(MountError::NoFusermount),
        Err(FusermountError::Refused(message)) => Err(if message.contains("user_allow_other") {
            MountError::AllowOtherRefused
        } else if message.contains("device not found") {
            MountError::NoDevice
        } else if ["no write access", "ermission denied", "not permitted"].iter().any(|phrase| message.contains(phrase))
        {
            MountError::PermissionDenied(message)
        } else {
            MountError::Fusermount(message)
        }),
        Err(error) => Err(MountError::Fusermount(error.to_string())),
    }
}

/// Takes the device out of the message that the program left in the socket before it ended.
fn receive_device(socket: &OwnedFd) -> rustix::io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
    );
    match received {
        Ok(_) => {}
        Err(Errno::AGAIN) => return Ok(None),
        Err(errno) => return Err(errno),
    }
    let device = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok(device)
}
