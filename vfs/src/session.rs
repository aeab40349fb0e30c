//! One FUSE mount, from its making to its end.
//!
//! ```text
//!   mount(2) or fusermount3 ─▶ /dev/fuse ─▶ Intake ─▶ the shard that owns the tree
//!        session/attach.rs         ▲                        │
//!   vfs-session: waits for the end └── replies, straight ───┘
//! ```
//!
//! With [`FuseTransport::Ring`] most requests come through the threads of `ring` instead, one for each CPU, to a
//! [`Backend`]; all else is the same.
//!
//! A session ends when its mount ends, whoever unmounts it; and a mount ends with its session.
//! `SIGKILL` is the one end that a session cannot see to: that is what [`guard`](crate::guard) is for.

pub(crate) mod attach;
mod read_ahead;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::backend::Backend;
use crate::device::Intake;
use crate::handle::HandleTable;
use crate::mounts::{self, DeviceNumber};
use crate::notifier::{self, Notifier, NotifierThread};
use crate::ring;
use crate::serve::Edge;
use crate::server::Server;
use crate::unmount::{self, Lazy, UnmountError};

pub use crate::ring::RingUnavailable;
pub use attach::MountError;
pub use read_ahead::ReadAhead;

/// How long [`FuseSession::unmount`] hopes that a user of the mount leaves.
///
/// Long enough for an indexer or a closing shell, short enough for somebody who waits.
pub const BUSY_GRACE: Duration = Duration::from_millis(500);

/// The pause between two tries to unmount a busy mount.
const BUSY_RETRY: Duration = Duration::from_millis(25);

/// How long an unmounted session may take to see its end before it counts as still in use.
const END_WAIT: Duration = Duration::from_secs(2);

/// The way in which the kernel's requests should come.
///
/// Which one is the faster depends on what is asked: docs/design/0012-fuse-over-io-uring.md has the figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FuseTransport {
    /// The one that was measured to suit most uses: the device.
    #[default]
    Auto,
    /// By `/dev/fuse`, which every kernel has.
    Device,
    /// Through io_uring, where the kernel offers it; else by the device, as [`MountReport::transport`] then says.
    Ring,
}

/// What [`FuseTransport::Auto`] stands for.
///
/// Measured on Linux 6.18 with two CPUs, the ring answers more small requests from memory and fewer by the shard, which is
/// where most of a mount's requests are answered; a single reader's stream loses. The table is in
/// docs/design/0012-fuse-over-io-uring.md.
const AUTO: FuseTransport = FuseTransport::Device;

/// The way in which the kernel's requests come.
#[derive(Debug)]
pub enum Transport {
    /// By `/dev/fuse`.
    Device {
        /// Why they do not come through io_uring, if that was wished for.
        ring_unavailable: Option<RingUnavailable>,
    },
    /// Through io_uring.
    Ring {
        /// Queues: one for each CPU that this machine could have.
        queues: usize,
        /// Requests that each queue of a running CPU holds; more wait in the kernel.
        queue_entries: usize,
    },
}

/// What to mount, and how.
///
/// Every mount is `ro,nosuid,nodev`: a host must not be able to hand out set-id programs or
/// device nodes, and this session answers every change with `EROFS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// The folder to mount on; what it holds is hidden meanwhile.
    pub mountpoint: PathBuf,
    /// What `df` and `/proc/mounts` show as the source, such as the host's name.
    pub source: String,
    /// Lets other users in, with the kernel checking modes and owners (`default_permissions`).
    ///
    /// Ordinary users need `user_allow_other` in `/etc/fuse.conf`.
    pub allow_other: bool,
    /// The readahead window wished for, in KiB; `None` leaves the kernel's 128.
    pub read_ahead_kb: Option<u32>,
    /// Requests that the kernel may have under way without a caller waiting (readahead).
    ///
    /// 0 counts as 1. For mounts without privilege the kernel caps it
    /// (`/sys/module/fuse/parameters/max_user_bgreq`).
    pub max_background: u16,
    /// The way in which requests should come.
    pub transport: FuseTransport,
}

impl MountOptions {
    /// Returns the values that suit a LAN, for a mount at `mountpoint`: only the mounting user gets
    /// in, 4 MiB readahead, 64 background requests.
    pub fn new(mountpoint: impl Into<PathBuf>) -> Self {
        Self {
            mountpoint: mountpoint.into(),
            source: mounts::SUBTYPE.to_owned(),
            allow_other: false,
            read_ahead_kb: Some(4096),
            max_background: 64,
            transport: FuseTransport::Auto,
        }
    }
}

/// What came of a mount, beside the mount itself.
#[derive(Debug)]
pub struct MountReport {
    /// The mountpoint, absolute and free of links.
    pub mountpoint: PathBuf,
    /// The device number that tells this mount from others at the same place.
    pub device: DeviceNumber,
    /// What became of [`MountOptions::read_ahead_kb`].
    pub read_ahead: ReadAhead,
    /// The way in which requests come.
    pub transport: Transport,
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    /// The mount was taken away and its last user left, or its connection was aborted.
    Unmounted,
    /// Whoever took its requests failed; the mount has been taken away lazily.
    Failed(String),
}

/// How far an unmount got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmounted {
    /// The mount is gone and the session has ended.
    Clean,
    /// The mount is out of the tree, but files are still open in it and are still served.
    StillInUse,
}

/// A live mount. Dropping it unmounts.
///
/// Take it down with [`unmount`](Self::unmount), await its end with [`wait`](Self::wait); both may be
/// called from any thread and any number of times.
#[derive(Debug)]
pub struct FuseSession {
    shared: Arc<Shared>,
    notifier: Notifier,
    report: MountReport,
}

/// What the session's owner and its thread both know.
#[derive(Debug)]
struct Shared {
    /// Absolute and free of links.
    mountpoint: PathBuf,
    device: DeviceNumber,
    end: Mutex<Option<SessionEnd>>,
    ended: Condvar,
}

/// What to do about users of the mount who do not leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holdouts {
    /// They keep being served.
    Serve,
    /// They get errors, where the kernel lets us; else they keep being served.
    Abort,
}

impl FuseSession {
    /// Mounts; returns once the kernel has accepted the mount, with what its requests are to be taken by.
    ///
    /// Through a ring most of them go to `backend` instead; those that come by the device are the intake's even then.
    ///
    /// Blocks for system calls, for `fusermount3` (at most 10 s), and up to 2 s per old wormhole
    /// mount at the same place, which is removed if dead. Never asks the new mount anything, so
    /// the backend need not be serving yet.
    ///
    /// # Errors
    /// See [`MountError`]; nothing is left mounted then.
    pub fn mount<B: Backend>(
        options: MountOptions,
        backend: Arc<B>,
        handles: Arc<HandleTable>,
    ) -> Result<(Self, Intake), MountError> {
        if options.source.contains('\0') {
            return Err(MountError::Source);
        }
        let resolved = attach::prepare(&options.mountpoint)?;
        let device_fd = attach::attach(&resolved, &options.source, options.allow_other)?;
        let mount = match Shared::find(&resolved) {
            Ok(shared) => Arc::new(shared),
            Err(error) => {
                drop(device_fd); // aborts the connection, so that nobody waits for it
                let _best_effort = unmount::unmount(&resolved, Lazy::Yes);
                return Err(error);
            }
        };
        // From here on, dropping `serving` takes the mount away.
        let mut serving = TakeDown(Some(Arc::clone(&mount)));

        let wished = if options.transport == FuseTransport::Auto { AUTO } else { options.transport };
        let edge = Edge { backend, handles };
        let ring = if wished == FuseTransport::Ring { Some(ring::offered()) } else { None };
        let (server, intake, ring) = Server::start(device_fd, &edge, options.max_background.max(1), ring)
            .map_err(MountError::system("the kernel and we could not agree (FUSE_INIT)"))?;
        let transport = match ring {
            Some(Ok(queues)) => Transport::Ring { queues, queue_entries: ring::QUEUE_ENTRIES },
            Some(Err(why)) => Transport::Device { ring_unavailable: Some(why) },
            None => Transport::Device { ring_unavailable: None },
        };

        // The readahead is set after the INIT reply, which lowers it.
        let read_ahead = read_ahead::set(mount.device, options.read_ahead_kb);
        let (notifier, notifier_thread) =
            notifier::start(server.device()).map_err(MountError::system("no thread for notifications"))?;
        std::thread::Builder::new()
            .name("vfs-session".to_owned())
            .spawn({
                let shared = Arc::clone(&mount);
                move || serve(server, notifier_thread, &shared)
            })
            .map_err(MountError::system("no thread for the session"))?;
        serving.0 = None;
        let report = MountReport { mountpoint: resolved, device: mount.device, read_ahead, transport };
        Ok((Self { notifier, report, shared: mount }, intake))
    }

    /// Returns what came of the mount.
    pub fn report(&self) -> &MountReport {
        &self.report
    }

    /// Returns a sender of notifications to the kernel; it may outlive the session.
    pub fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }

    /// Takes the mount away; does nothing if that has happened already, whoever did it.
    ///
    /// A busy mount is tried again for [`BUSY_GRACE`] and then taken out of the tree lazily.
    /// The backend must go on answering until the session has ended.
    ///
    /// # Errors
    /// See [`UnmountError`]; the mount then stands.
    pub fn unmount(&self) -> Result<Unmounted, UnmountError> {
        self.shared.take_down(Holdouts::Serve)
    }

    /// Takes the mount away although its backend answers no more: whoever uses it gets errors where privilege allows
    /// that (see `umount2(2)`, `MNT_FORCE`). Does nothing if it is gone already.
    ///
    /// # Errors
    /// As [`unmount`](Self::unmount).
    pub fn abort(&self) -> Result<Unmounted, UnmountError> {
        self.shared.take_down(Holdouts::Abort)
    }

    /// Blocks until the session has ended: unmounted, and its last user gone. Who takes the requests sees that end, so a
    /// shard that hangs hides it.
    pub fn wait(&self) -> SessionEnd {
        let mut end = self.shared.lock_end();
        loop {
            if let Some(end) = &*end {
                return end.clone();
            }
            end = (self.shared.ended.wait(end)).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits as [`wait`](Self::wait) does, at most `limit`.
    pub fn wait_timeout(&self, limit: Duration) -> Option<SessionEnd> {
        self.shared.wait_timeout(limit)
    }
}

/// Unmounts, and where privilege allows it sends remaining users an error instead of leaving them
/// to a backend that is going away. Blocks for some seconds at most.
impl Drop for FuseSession {
    fn drop(&mut self) {
        if let Err(error) = self.shared.take_down(Holdouts::Abort) {
            tracing::warn!(%error, "the mount could not be taken away");
        }
    }
}

/// The session thread: awaits the end, and sees to it that no dead mount is left behind.
fn serve(server: Server, notifier: NotifierThread, shared: &Shared) {
    // Should anything here panic, those who wait still learn of the end.
    let ending = Ending(shared);
    let device = server.device();
    let end = match server.run() {
        Ok(()) => SessionEnd::Unmounted,
        // The connection went while somebody was taking a request out of it: the usual `ENODEV`,
        // told differently (`fuse_dev_do_read`, fs/fuse/dev.c).
        Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => SessionEnd::Unmounted,
        Err(error) => {
            tracing::error!(%error, "the FUSE session failed");
            SessionEnd::Failed(error.to_string())
        }
    };
    // A connection that was aborted (`umount -f`, fusectl) leaves its mount in the tree, dead.
    shared.remove();
    // First tell, then wait for a thread that may itself be waiting for the mount to go.
    ending.0.finish(end);
    notifier.stop(&device);
}

struct Ending<'a>(&'a Shared);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.remove();
            self.0.finish(SessionEnd::Failed("the session thread panicked".to_owned()));
        }
    }
}

/// Takes a mount away again whose session did not get to serve.
struct TakeDown(Option<Arc<Shared>>);

impl Drop for TakeDown {
    fn drop(&mut self) {
        if let Some(mount) = &self.0 {
            mount.remove();
        }
    }
}

impl Shared {
    /// Reads the device number of the mount that was just made at `resolved`.
    ///
    /// From the mount table: `stat` would ask a server that is not serving yet.
    fn find(resolved: &Path) -> Result<Self, MountError> {
        let top = mounts::topmost_at(resolved).map_err(MountError::system("the mount table cannot be read"))?;
        match top {
            Some(entry) if entry.is_wormhole() => Ok(Self {
                mountpoint: resolved.to_owned(),
                device: entry.device,
                end: Mutex::new(None),
                ended: Condvar::new(),
            }),
            _ => Err(MountError::System {
                doing: "the mount vanished as soon as it was made",
                source: rustix::io::Errno::NOENT.into(),
            }),
        }
    }

    fn take_down(&self, holdouts: Holdouts) -> Result<Unmounted, UnmountError> {
        let deadline = Instant::now() + BUSY_GRACE;
        let patience = loop {
            if self.has_ended() {
                return Ok(Unmounted::Clean);
            }
            match unmount::unmount_device(&self.mountpoint, self.device, Lazy::No) {
                // Gone from the tree, by us or by somebody else.
                Ok(()) | Err(UnmountError::NotMounted(_)) => break END_WAIT,
                Err(UnmountError::Busy(_)) if Instant::now() < deadline => {
                    self.wait_timeout(BUSY_RETRY);
                }
                Err(error @ UnmountError::Covered(_)) => return Err(error),
                Err(_) => {
                    break self.take_down_busy(holdouts)?;
                }
            }
        };
        Ok(match self.wait_timeout(patience) {
            Some(_) => Unmounted::Clean,
            None => Unmounted::StillInUse,
        })
    }

    /// Takes the mount out of the tree whoever uses it; returns how long to await the end then.
    fn take_down_busy(&self, holdouts: Holdouts) -> Result<Duration, UnmountError> {
        if holdouts == Holdouts::Abort && unmount::abort_device(&self.mountpoint, self.device) {
            return Ok(END_WAIT);
        }
        match unmount::unmount_device(&self.mountpoint, self.device, Lazy::Yes) {
            Ok(()) | Err(UnmountError::NotMounted(_)) => Ok(BUSY_RETRY),
            Err(error) => Err(error),
        }
    }

    /// Takes away a mount that nobody serves any more.
    fn remove(&self) {
        if let Err(error) = self.take_down_busy(Holdouts::Abort) {
            tracing::warn!(%error, "a mount without a server is left");
        }
    }

    fn finish(&self, end: SessionEnd) {
        *self.lock_end() = Some(end);
        self.ended.notify_all();
    }

    fn has_ended(&self) -> bool {
        self.lock_end().is_some()
    }

    fn wait_timeout(&self, limit: Duration) -> Option<SessionEnd> {
        let end = self.lock_end();
        let (end, _) =
            self.ended.wait_timeout_while(end, limit, |end| end.is_none()).unwrap_or_else(PoisonError::into_inner);
        end.clone()
    }

    /// Every write to the value is one assignment, so a poisoned lock still holds a good one.
    fn lock_end(&self) -> std::sync::MutexGuard<'_, Option<SessionEnd>> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(crate) mod tests;
