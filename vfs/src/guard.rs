//! The guard: a small process that outlives a killed daemon long enough to unmount what it left.
//!
//! The daemon starts its own executable as the guard and keeps the writing end of the guard's
//! standard input. However the daemon ends, `SIGKILL` included, the kernel closes that end; the
//! guard wakes, and a mount that is still there without a server goes away.
//!
//! ```text
//!   daemon ──── pipe, never written ───▶ guard: read() ... end of file
//!      └─ /dev/fuse ── killed: the kernel aborts the connection ── mount is dead ── unmount(lazy)
//! ```

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use crate::mounts::{self, Liveness};
use crate::unmount::{Lazy, UnmountError, unmount};

/// How often the guard looks again at a mount that is not dead yet.
///
/// The kernel closes a killed daemon's pipe before or after its FUSE device, and first frees its
/// memory: a cache of many GiB takes seconds. With [`CHECK_INTERVAL`] this waits for 30 s.
pub const CHECKS_MAX: u32 = 120;

/// The longest pause between two looks; a change of the mount table ends it early.
pub const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Bounds the dead mounts taken off one mountpoint.
const DEAD_LAYERS_MAX: u32 = 8;

/// What the guard found once its daemon was gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardOutcome {
    /// No wormhole was mounted there: the daemon had cleaned up.
    NothingMounted,
    /// A dead mount was there and has been taken away.
    Unmounted,
    /// A wormhole is mounted there and has a server, such as a new daemon's: left alone.
    LeftAlive,
}

/// Why the guard could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The pipe from the daemon, the mount table or the mount could not be read.
    #[error("the guard cannot watch the mount")]
    Watch(#[source] io::Error),
    /// The dead mount could not be taken away.
    #[error("the guard cannot remove the dead mount")]
    Unmount(#[source] UnmountError),
}

/// Waits for `stdin` to end and then removes a dead wormhole mount at `mountpoint`.
///
/// Blocks for the daemon's whole life. Bytes on `stdin` mean nothing. The caller has the process to
/// itself: it should have closed every other descriptor and left the daemon's process group, lest
/// a signal to the group kills the guard as well.
///
/// # Errors
/// See [`GuardError`]; the mount may then still be there.
pub fn run_guard(mountpoint: &Path, mut stdin: impl Read) -> Result<GuardOutcome, GuardError> {
    let resolved = mounts::resolve(mountpoint).map_err(GuardError::Watch)?;
    io::copy(&mut stdin, &mut io::sink()).map_err(GuardError::Watch)?;
    let table = File::open("/proc/self/mountinfo").map_err(GuardError::Watch)?;

    let mut removed = 0;
    for _ in 0..CHECKS_MAX {
        let top = mounts::topmost_at(&resolved).map_err(GuardError::Watch)?;
        if !top.is_some_and(|entry| entry.is_wormhole()) {
            return Ok(match removed {
                0 => GuardOutcome::NothingMounted,
                _ => GuardOutcome::Unmounted,
            });
        }
        // A mount that goes between the look and the question leaves the folder beneath, or an
        // error from it; the next look tells.
        let liveness = mounts::probe(&resolved, CHECK_INTERVAL).unwrap_or(Liveness::Silent);
        if liveness == Liveness::Dead && removed < DEAD_LAYERS_MAX {
            match unmount(&resolved, Lazy::Yes) {
                Ok(()) => removed += 1,
                Err(UnmountError::NotMounted(_)) => {}
                Err(error) => return Err(GuardError::Unmount(error)),
            }
        } else {
            pause(&table).map_err(GuardError::Watch)?;
        }
    }
    Ok(GuardOutcome::LeftAlive)
}

/// Waits for a change of the mount table (`proc_pid_mounts(5)`), at most [`CHECK_INTERVAL`].
fn pause(table: &File) -> io::Result<()> {
    let timeout = Timespec::try_from(CHECK_INTERVAL).expect("a quarter of a second fits");
    let mut events = [PollFd::from_borrowed_fd(table.as_fd(), PollFlags::PRI)];
    match rustix::event::poll(&mut events, Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
