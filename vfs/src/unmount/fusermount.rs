//! Runs `fusermount3`, the setuid program through which an ordinary user mounts and unmounts.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

const NAME: &str = "fusermount3";

/// Where to look after `PATH`, which daemons often have short.
const FOLDERS: [&str; 6] = [
    "/usr/bin",
    "/bin",
    "/usr/sbin",
    "/sbin",
    "/usr/local/bin",
    "/run/wrappers/bin", // NixOS keeps its setuid programs here
];

/// Bounds what is kept of the program's complaint; it prints a line or two.
const COMPLAINT_BYTES_MAX: u64 = 4096;

/// Why `fusermount3` did not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FusermountError {
    #[error("fusermount3 was not found")]
    Missing,
    #[error("{0}")]
    Refused(String),
    #[error("it did not end within {} s", .0.as_secs())]
    TimedOut(Duration),
    #[error("it could not be run: {0}")]
    System(#[from] io::Error),
}

/// Runs the program with `arguments` and waits for its end, at most `limit`.
///
/// `comm` is the socket over which it hands back the FUSE device when mounting.
pub(crate) fn run<A: AsRef<OsStr>>(
    arguments: impl IntoIterator<Item = A>,
    comm: Option<OwnedFd>,
    limit: Duration,
) -> Result<(), FusermountError> {
    let binary = find().ok_or(FusermountError::Missing)?;
    let mut command = Command::new(binary);
    command
        .args(arguments)
        .env("LC_ALL", "C") // its messages are matched
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let inherited = comm.as_ref().map(inheritable).transpose()?;
    if let Some(socket) = &inherited {
        command.env("_FUSE_COMMFD", socket.as_raw_fd().to_string());
    }
    let mut child = command.spawn()?;
    drop(inherited);

    if !has_ended(&child, limit)? {
        // A setuid program may not be killed by its caller; then it must not be waited for either.
        if child.kill().is_ok() {
            child.wait()?;
        }
        return Err(FusermountError::TimedOut(limit));
    }
    let status = child.wait()?;
    if status.success() {
        return Ok(());
    }
    let mut complaint = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        stderr.take(COMPLAINT_BYTES_MAX).read_to_end(&mut complaint)?;
    }
    let complaint = String::from_utf8_lossy(&complaint).trim().to_owned();
    Err(FusermountError::Refused(if complaint.is_empty() { format!("it ended with {status}") } else { complaint }))
}

/// Duplicates a descriptor so that a child inherits it.
///
/// A child that another thread starts at the same moment inherits it too. That does no harm here:
/// nobody waits for the socket's end of file, only for the program's own end.
fn inheritable(socket: &OwnedFd) -> io::Result<OwnedFd> {
    // Above the standard streams: newer versions refuse a lower number.
    const FIRST_PLAIN_FD: i32 = 3;
    let duplicate = rustix::io::fcntl_dupfd_cloexec(socket, FIRST_PLAIN_FD)?;
    rustix::io::fcntl_setfd(&duplicate, rustix::io::FdFlags::empty())?;
    Ok(duplicate)
}

fn has_ended(child: &Child, limit: Duration) -> io::Result<bool> {
    let pidfd = rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).expect("seconds fit");
        let mut events = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
        match rustix::event::poll(&mut events, Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .chain(FOLDERS.iter().map(PathBuf::from))
        .map(|folder| folder.join(NAME))
        .find(|candidate| candidate.is_file())
}
