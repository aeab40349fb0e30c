//! Starting and ending a mount.

use super::backend::MountBackend;
use super::fetch::Fetches;
use super::replies::Replies;
use super::service::{Joined, MountMail, MountService};
use crate::client::Client;
use crate::error::{EngineError, ErrorKind};
use crate::event::ServiceEvent;
use crate::host::ShutdownHandle;
use crate::io::MailSender;
use crate::remote::{ClientThread, RemoteOptions, client_options, client_thread, remember};
use crate::status::{ServiceKind, StatusServer};
use cache::L1Config;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vfs::TreeOptions;
use vfs::session::{FuseSession, FuseTransport, MountError, RingUnavailable, SessionEnd, Transport};
use vfs::unmount::{Lazy, UnmountError};

/// Events that may wait for a reader before they are dropped.
const EVENTS_MAX: usize = 4_096;

/// How long a session may take to see that its shard is gone, before its mount is taken away for it.
const SESSION_END_WAIT: Duration = Duration::from_secs(5);

/// How to mount a host's folder. No default: every field is a decision.
#[derive(Debug)]
pub struct MountOptions {
    /// The host and how to join it.
    pub remote: RemoteOptions,
    /// Where to mount.
    pub mountpoint: PathBuf,
    /// Lets other users of this machine in, by the files' modes and owners.
    pub allow_other: bool,
    /// Bytes of chunks kept in memory.
    pub ram_cache_bytes: u64,
    /// The kernel's readahead in KiB; `None` is 4096 where permitted.
    pub read_ahead_kb: Option<u32>,
    /// The way in which the kernel's requests should come; one that cannot be had is told by a `Warning` event.
    pub fuse: FuseTransport,
    /// Where the control socket lives.
    pub runtime_dir: PathBuf,
    /// Where this process logs, for the report of the control socket; `None` where that is no file.
    pub log: Option<PathBuf>,
}

/// A mounted folder. Dropping it unmounts and waits for the end; where it cannot be unmounted it is left mounted, and
/// served for as long as the process lives.
pub struct MountHandle {
    session: Arc<FuseSession>,
    /// The supervisor's: its end is the end of the events, whoever can still ask for one.
    events: Weak<Sender<ServiceEvent>>,
    /// Sees the mount's end and ends everything else with it.
    supervisor: Option<JoinHandle<Result<(), EngineError>>>,
}

/// The way to the mount's shard; dropping it ends the shard.
struct MountShard {
    mail: MailSender<MountMail>,
    thread: Option<ClientThread>,
}

impl MountShard {
    fn new(mail: MailSender<MountMail>, thread: ClientThread) -> Self {
        Self { mail, thread: Some(thread) }
    }

    /// Offers mail until it is taken: the shard empties its mailbox within microseconds, and one that has ended drops
    /// what comes.
    fn send(&self, mail: MountMail) {
        let mut mail = mail;
        while let Err(back) = self.mail.send(mail) {
            mail = back;
            std::thread::yield_now();
        }
    }

    /// Watches the shard from a thread of its own: with the shard gone nobody answers the kernel, so the mount goes, too.
    fn watch(&mut self, session: &Arc<FuseSession>) -> std::io::Result<Watch> {
        let session = Arc::clone(session);
        let thread = self.thread.take().expect("a shard is watched once");
        let watch = std::thread::Builder::new().name("mount-watch".into()).spawn(move || {
            let how = match thread.join() {
                Ok(Ok(())) => return None,
                Ok(Err(_)) => "lost its socket",
                Err(_) => "panicked; please report it",
            };
            tracing::error!("the mount's shard {how}");
            // The session sees that nobody takes its requests and takes the mount away; two at once might take away
            // what lies beneath.
            if session.wait_timeout(SESSION_END_WAIT).is_none()
                && let Err(error) = session.abort()
            {
                tracing::error!(%error, "cannot take the mount away");
            }
            Some(format!("the mount's shard {how}"))
        })?;
        Ok(Watch(watch))
    }

    fn end(&mut self) {
        self.send(MountMail::Shutdown);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the mount's shard panicked");
        }
    }
}

impl Drop for MountShard {
    fn drop(&mut self) {
        self.end();
    }
}

/// Sees the shard's end; yields why, where nobody had asked for it.
struct Watch(JoinHandle<Option<String>>);

impl Watch {
    fn join(self) -> Option<String> {
        self.0.join().unwrap_or_else(|_| Some("the watch over the mount panicked; please report it".into()))
    }
}

impl MountHandle {
    /// Unmounts the folder; `wait` returns once its last user is gone. Harmless when that has happened already.
    ///
    /// Blocks for some seconds at most.
    ///
    /// # Errors
    /// When it cannot be unmounted, such as under another mount. It goes on as before, and may be unmounted later.
    pub fn unmount(&self) -> Result<(), EngineError> {
        self.session.unmount().map(drop).map_err(|error| cannot_unmount(&error))
    }

    /// Something to unmount with from elsewhere, as [`unmount`](Self::unmount) does; why that cannot be is told by a
    /// `Warning` event.
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        let (session, events) = (Arc::clone(&self.session), Weak::clone(&self.events));
        ShutdownHandle(Arc::new(move || {
            let Err(error) = session.unmount() else { return };
            let message = format!("{error}; the mount goes on until it is asked to end again");
            tracing::debug!(message);
            let is_told = |events: Arc<Sender<_>>| events.try_send(ServiceEvent::Warning { message }).is_ok();
            if !events.upgrade().is_some_and(is_told) {
                tracing::error!(%error, "cannot unmount");
            }
        }))
    }

    /// Waits until the folder is unmounted, by whomever, and everything has ended.
    ///
    /// # Errors
    /// When the mount ended by a failure.
    pub fn wait(mut self) -> Result<(), EngineError> {
        self.join()
    }

    fn join(&mut self) -> Result<(), EngineError> {
        let Some(supervisor) = self.supervisor.take() else { return Ok(()) };
        supervisor
            .join()
            .unwrap_or_else(|_| Err(EngineError::new(ErrorKind::Failed, "the mount panicked; please report it")))
    }
}

impl Drop for MountHandle {
    fn drop(&mut self) {
        if self.supervisor.is_none() {
            return;
        }
        // Where it still stands, there is no end to wait for.
        if let Err(error) = self.unmount().and_then(|()| self.join()) {
            tracing::error!(%error, "the mount ended badly");
        }
    }
}

/// A mount's parts that end after it.
struct Supervisor {
    session: Arc<FuseSession>,
    shard: MountShard,
    watch: Watch,
    events: Arc<Sender<ServiceEvent>>,
    status: StatusServer,
}

impl Supervisor {
    /// Waits for the mount's end, whoever brought it about, then ends the shard and says so last.
    fn run(mut self) -> Result<(), EngineError> {
        let end = self.session.wait();
        self.shard.end();
        let failure = self.watch.join().or(match end {
            SessionEnd::Unmounted => None,
            SessionEnd::Failed(reason) => Some(format!("the mount failed: {reason}")),
        });
        drop(self.status);
        let Some(failure) = failure else {
            crate::event::tell_last(&self.events, "unmounted".into());
            return Ok(());
        };
        if self.events.try_send(ServiceEvent::Error { message: failure.clone() }).is_err() {
            tracing::debug!("nobody reads the events any more");
        }
        crate::event::tell_last(&self.events, failure.clone());
        Err(EngineError::new(ErrorKind::Failed, failure))
    }
}

/// Joins a host and mounts its folder.
///
/// Events come until `Stopped`; `MountReady` is among them when this returns.
///
/// # Errors
/// [`EngineError`], by whose fault; nothing is left mounted then.
pub fn start_mount(options: MountOptions) -> Result<(MountHandle, Receiver<ServiceEvent>), EngineError> {
    let (handle, events, _) = start(options)?;
    Ok((handle, events))
}

type Started = (MountHandle, Receiver<ServiceEvent>, MailSender<MountMail>);

/// [`start_mount`], with the way to the shard beside it.
fn start(options: MountOptions) -> Result<Started, EngineError> {
    let failed = |message: String| EngineError::new(ErrorKind::Failed, message);
    let (client, node) = client_options(&options.remote)?;
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).expect("the system's random source answers");
    let config = L1Config { bytes_max: options.ram_cache_bytes, seed: u64::from_ne_bytes(seed) };
    let (_, l1) = cache::l1(config).map_err(|error| EngineError::new(ErrorKind::Usage, error.to_string()))?;
    if let Err(error) = crate::io::raise_descriptor_limit() {
        tracing::debug!(%error, "the limit on open files stays low");
    }

    let (events, receiver) = bounded(EVENTS_MAX);
    let (first, joined) = bounded(1);
    let tree_options = TreeOptions { owner: owner(), ..TreeOptions::CLOSE_TO_OPEN };
    let service_events = events.clone();
    let replies = Replies::start().map_err(|error| failed(format!("cannot start a thread: {error}")))?;
    let fetches = Fetches::new(l1, replies);
    let make = move |_mail| {
        MountService::new(Client::new(Instant::now(), client), tree_options, fetches, first, service_events)
    };
    let (mail, thread) = client_thread::<MountService>("mount", &options.remote, node, make)?;
    let mut shard = MountShard::new(mail, thread);
    let Joined { welcome, handles, l1 } =
        joined.recv().map_err(|_| failed("the mount's shard ended; please report it".into()))??;
    remember(&options.remote.state_dir, &welcome)?;

    let backend = Arc::new(MountBackend::new(shard.mail.clone(), l1.clone()));
    let mount = vfs::session::MountOptions {
        source: format!("wormhole:{}", welcome.share),
        allow_other: options.allow_other,
        read_ahead_kb: Some(options.read_ahead_kb.unwrap_or(READ_AHEAD_KB)),
        transport: options.fuse,
        ..vfs::session::MountOptions::new(&options.mountpoint)
    };
    let (session, intake) = FuseSession::mount(mount, backend, handles).map_err(mount_error)?;
    shard.send(MountMail::Mounted(session.notifier(), intake));
    let session = Arc::new(session);
    let mountpoint = session.report().mountpoint.clone();

    let (report_session, address, host, share) =
        (Arc::clone(&session), welcome.address, welcome.host.clone(), welcome.share.clone());
    let log = options.log;
    let report = move || {
        let stats = l1.stats();
        let mut report = serde_json::json!({
            "mountpoint": report_session.report().mountpoint, "address": address, "host": host, "share": share,
            "cache": { "hits": stats.hits, "misses": stats.misses, "evictions": stats.evictions, "bytes": stats.bytes_resident },
        });
        let (fuse, ring_unavailable) = described(&report_session.report().transport);
        report["fuse"] = fuse.into();
        if let Some(why) = ring_unavailable {
            report["fuse_uring_unavailable"] = why.into();
        }
        if let Some(log) = &log {
            report["log"] = log.to_string_lossy().into();
        }
        report
    };
    let reload = || Err("a mount has nothing to reload".to_owned());
    let status = StatusServer::start(&options.runtime_dir, ServiceKind::Mount, Box::new(report), Box::new(reload))
        .map_err(|error| failed(format!("cannot open the control socket: {error}")))?;

    let ready =
        ServiceEvent::MountReady { mountpoint, address: welcome.address, host: welcome.host, share: welcome.share };
    // The channel was made above with room.
    let _ = events.try_send(ready);
    if let (_, Some(why)) = described(&session.report().transport) {
        let message = format!("{why}; this mount's requests come by /dev/fuse");
        let _ = events.try_send(ServiceEvent::Warning { message });
    }
    let no_thread = |error: std::io::Error| failed(format!("cannot start a thread: {error}"));
    let (mail, watch) = (shard.mail.clone(), shard.watch(&session).map_err(no_thread)?);
    let events = Arc::new(events);
    let told = Arc::downgrade(&events);
    let supervisor = Supervisor { session: Arc::clone(&session), shard, watch, events, status };
    let supervisor =
        std::thread::Builder::new().name("mount-end".into()).spawn(move || supervisor.run()).map_err(no_thread)?;
    Ok((MountHandle { session, events: told, supervisor: Some(supervisor) }, receiver, mail))
}

/// The kernel's readahead where nothing else is asked for: 4 MiB keeps 8 MiB in flight, enough for 10 Gbit/s x 6 ms.
const READ_AHEAD_KB: u32 = 4_096;

/// Whose the files are shown to be: the host's owners for root, who can tell them apart, else the mounting user's.
fn owner() -> Option<(u32, u32)> {
    let uid = rustix::process::geteuid();
    (!uid.is_root()).then(|| (uid.as_raw(), rustix::process::getegid().as_raw()))
}

/// The way in which requests come, as `wormhole mount --fuse` names it, and why it is not the one wished for.
fn described(transport: &Transport) -> (&'static str, Option<String>) {
    let explained = |why: &RingUnavailable| match std::error::Error::source(why) {
        Some(cause) => format!("{why}: {cause}"),
        None => why.to_string(),
    };
    match transport {
        Transport::Ring { .. } => ("uring", None),
        Transport::Device { ring_unavailable } => ("device", ring_unavailable.as_ref().map(explained)),
    }
}

fn cannot_unmount(error: &UnmountError) -> EngineError {
    let kind = if matches!(error, UnmountError::NotMounted(_)) { ErrorKind::NotFound } else { ErrorKind::Failed };
    EngineError::new(kind, error.to_string())
}

fn mount_error(error: MountError) -> EngineError {
    let kind = match &error {
        MountError::MountpointMissing(_) => ErrorKind::NotFound,
        _ => ErrorKind::Failed,
    };
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    EngineError::new(kind, format!("{error}{cause}"))
}

/// Unmounts a folder, whoever mounted it; lazily when it is in use.
///
/// # Errors
/// [`EngineError`]: `NotFound` where no wormhole is mounted.
pub fn unmount(mountpoint: &Path) -> Result<(), EngineError> {
    match vfs::unmount::unmount(mountpoint, Lazy::No) {
        Err(UnmountError::Busy(_)) => vfs::unmount::unmount(mountpoint, Lazy::Yes),
        done => done,
    }
    .map_err(|error| cannot_unmount(&error))
}

/// The mount guard's whole life: waits until its standard input ends, then removes the mount if it is dead.
///
/// # Errors
/// When a dead mount cannot be removed.
pub fn run_mount_guard(mountpoint: &Path) -> Result<(), EngineError> {
    vfs::guard::run_guard(mountpoint, std::io::stdin())
        .map(drop)
        .map_err(|error| EngineError::new(ErrorKind::Failed, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{HostHandle, HostOptions, start_host};
    use crate::io::IoMode;
    use rustix::mount::{MountFlags, UnmountFlags};
    use std::num::NonZeroU16;
    use std::time::Duration;

    /// A host in `root` and a mount of its one file; what mounting needs is `/dev/fuse` and root, as for the tests of
    /// `vfs`.
    fn mounted(root: &Path) -> (HostHandle, PathBuf, Started) {
        let folder = |name: &str| {
            let path = root.join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let (share, mountpoint) = (folder("share"), folder("mnt"));
        std::fs::write(share.join("file"), "content").unwrap();
        let (host, _events) = start_host(HostOptions {
            path: share,
            bind: ([127, 0, 0, 1], 0).into(),
            name: None,
            code: None,
            shards: NonZeroU16::new(1),
            io: IoMode::Auto,
            state_dir: root.join("host"),
            runtime_dir: root.join("run"),
        })
        .unwrap();
        let options = MountOptions {
            remote: RemoteOptions {
                addresses: vec![host.address()],
                code: Some(signal::JoinCode::parse(&host.code()).unwrap()),
                io: IoMode::Auto,
                state_dir: root.join("client"),
                timeout: Duration::from_secs(5),
            },
            mountpoint: mountpoint.clone(),
            allow_other: false,
            ram_cache_bytes: 16 << 20,
            read_ahead_kb: None,
            fuse: FuseTransport::Auto,
            runtime_dir: root.join("run"),
            log: None,
        };
        (host, mountpoint, start(options).unwrap())
    }

    #[test]
    fn a_shard_that_panics_takes_its_mount_along_and_says_so() {
        let root = tempfile::tempdir().unwrap();
        let (_host, mountpoint, (handle, events, mail)) = mounted(root.path());
        assert_eq!(std::fs::read(mountpoint.join("file")).unwrap(), b"content");
        let held = std::fs::File::open(mountpoint.join("file")).unwrap();
        mail.send(MountMail::Panic).unwrap_or_else(|_| panic!("the mailbox has room"));
        let error = handle.wait().expect_err("it ended by a failure");
        assert_eq!(error.kind, ErrorKind::Failed);
        assert!(error.to_string().contains("panicked"), "{error}");
        assert!(std::fs::read_dir(&mountpoint).unwrap().next().is_none(), "nothing is mounted any more");
        drop(held);
        let last: Vec<ServiceEvent> =
            events.try_iter().skip_while(|e| !matches!(e, ServiceEvent::Error { .. })).collect();
        assert!(matches!(&last[..], [ServiceEvent::Error { .. }, ServiceEvent::Stopped { .. }]), "{last:?}");
    }

    #[test]
    fn a_mount_that_cannot_be_unmounted_says_why_and_can_be_asked_again() {
        let root = tempfile::tempdir().unwrap();
        let (_host, mountpoint, (handle, events, _)) = mounted(root.path());
        let cover = |is_covered: bool| {
            if is_covered {
                rustix::mount::mount("none", &mountpoint, "tmpfs", MountFlags::empty(), None).unwrap();
            } else {
                rustix::mount::unmount(&mountpoint, UnmountFlags::empty()).unwrap();
            }
        };
        cover(true);
        let shutdown = handle.shutdown_handle();
        shutdown.shutdown();
        assert!(handle.unmount().unwrap_err().to_string().contains("another mount lies over"));
        let told: Vec<ServiceEvent> = events.try_iter().collect();
        let is_told =
            |event: &ServiceEvent| matches!(event, ServiceEvent::Warning { message } if message.contains("lies over"));
        assert!(told.iter().any(is_told), "{told:?}");
        // There is no end to wait for.
        drop(handle);
        cover(false);
        assert_eq!(std::fs::read(mountpoint.join("file")).unwrap(), b"content", "it is served as before");
        shutdown.shutdown();
        let last = events.iter().last();
        assert!(matches!(last, Some(ServiceEvent::Stopped { .. })), "{last:?}");
    }
}
