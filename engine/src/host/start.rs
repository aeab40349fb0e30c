//! Starting and stopping a host: keys, sockets, shards, the control socket.

use super::gate::fresh_code;
use super::quota::{Quotas, open_files_max};
use super::supervisor::{Supervisor, join_shards, tell_all};
use super::{Events, Gate, HostMail, HostService, HostShared};
use crate::error::{EngineError, ErrorKind};
use crate::event::ServiceEvent;
use crate::io::{self, IoKind, IoMode, MailSender};
use crate::pool::{JOBS_PER_SHARD_MAX, Pool};
use crate::shard::{Door, Shard};
use crate::share::Share;
use crate::status::{ServiceKind, StatusServer};
use crate::trust::NodeKey;
use crossbeam_channel::{Receiver, bounded};
use signal::{HostAddress, JoinCode};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use transport::tuning::Tuning;
use transport::{Identity, Node, NodeOptions, Role};

/// Events that may wait for a reader before they are dropped.
const EVENTS_MAX: usize = 4_096;
/// Mail that may wait for a shard: every job's answer, and notices.
const MAIL_MAX: usize = JOBS_PER_SHARD_MAX + 64;
/// Shards of one host at most: the connection id's steering byte.
const SHARDS_MAX: u16 = 128;
/// Addresses offered in a join link at most.
const LINK_ADDRESSES_MAX: usize = 8;

/// What a host is made of. No default: every field is a decision.
#[derive(Debug)]
pub struct HostOptions {
    /// The folder to serve.
    pub path: PathBuf,
    /// Where to listen (UDP).
    pub bind: SocketAddr,
    /// The share's display name; the folder's name otherwise.
    pub name: Option<String>,
    /// A chosen join code; a fresh one otherwise.
    pub code: Option<JoinCode>,
    /// Shards; one a core otherwise.
    pub shards: Option<NonZeroU16>,
    /// Which I/O backend.
    pub io: IoMode,
    /// Where keys and devices are kept.
    pub state_dir: PathBuf,
    /// Where the control socket lives.
    pub runtime_dir: PathBuf,
}

/// A running host. Dropping it stops the host and waits for its end.
pub struct HostHandle {
    shared: Arc<HostShared>,
    mail: Vec<MailSender<HostMail>>,
    address: SocketAddr,
    /// Sees the shards' end and ends everything else with it.
    supervisor: Option<JoinHandle<Result<(), EngineError>>>,
}

/// Stops a service from any thread; cheap to clone.
#[derive(Clone)]
pub struct ShutdownHandle(pub(crate) Arc<dyn Fn() + Send + Sync>);

impl ShutdownHandle {
    /// Begins a graceful stop. Harmless when it was begun already.
    pub fn shutdown(&self) {
        (self.0)();
    }
}

impl HostHandle {
    /// Where the host listens, with the port that was chosen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The join code now.
    pub fn code(&self) -> String {
        self.shared.gate.code().reveal().to_string()
    }

    /// The join link now.
    pub fn link(&self) -> String {
        self.shared.link(&self.shared.gate.code())
    }

    /// Begins a graceful stop: peers are told.
    pub fn shutdown(&self) {
        self.shutdown_handle().shutdown();
    }

    /// Something to stop the host with from elsewhere.
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        let mail = self.mail.clone();
        ShutdownHandle(Arc::new(move || tell_all(&mail, || HostMail::Shutdown)))
    }

    /// Waits until everything has ended.
    ///
    /// # Errors
    /// The first shard's that failed.
    pub fn wait(mut self) -> Result<(), EngineError> {
        self.join()
    }

    fn join(&mut self) -> Result<(), EngineError> {
        let Some(supervisor) = self.supervisor.take() else { return Ok(()) };
        supervisor
            .join()
            .unwrap_or_else(|_| Err(EngineError::new(ErrorKind::Failed, "the host panicked; please report it")))
    }
}

impl Drop for HostHandle {
    fn drop(&mut self) {
        if self.supervisor.is_none() {
            return;
        }
        self.shutdown();
        if let Err(error) = self.join() {
            tracing::error!(%error, "the host ended badly");
        }
    }
}

/// Serves a folder until it is shut down.
///
/// Events come until `Stopped`.
///
/// # Errors
/// [`EngineError`], by whose fault: a folder that is not there, a port that is taken, keys that cannot be read.
pub fn start_host(options: HostOptions) -> Result<(HostHandle, Receiver<ServiceEvent>), EngineError> {
    let share = Share::open(&options.path).map_err(|error| {
        let kind = if options.path.exists() { ErrorKind::Failed } else { ErrorKind::NotFound };
        EngineError::new(kind, format!("cannot serve {}: {error}", options.path.display()))
    })?;
    let key = NodeKey::load_or_create(&options.state_dir)
        .map_err(|error| EngineError::new(ErrorKind::Failed, error.to_string()))?;
    let identity = Identity::from_pkcs8(key.pkcs8_der())
        .map_err(|error| EngineError::new(ErrorKind::Failed, error.to_string()))?;
    let code = options.code.clone().unwrap_or_else(fresh_code);
    let gate =
        Gate::open(&options.state_dir, code).map_err(|error| EngineError::new(ErrorKind::Failed, error.to_string()))?;
    let shards = options.shards.unwrap_or_else(one_per_core).min(NonZeroU16::new(SHARDS_MAX).expect("not zero"));
    let sockets = io::bind_group(options.bind, shards).map_err(|error| {
        let message = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                format!("UDP port {} is taken: stop the other program or give another --bind", options.bind)
            }
            _ => format!("cannot listen on {}: {error}", options.bind),
        };
        EngineError::new(ErrorKind::Failed, message)
    })?;
    let address = sockets[0].local_addr().map_err(|error| EngineError::new(ErrorKind::Failed, error.to_string()))?;
    let descriptors = io::raise_descriptor_limit().unwrap_or_else(|error| {
        tracing::warn!(%error, "the limit on open files stays low");
        io::descriptor_limit()
    });

    let (events, receiver) = bounded(EVENTS_MAX);
    let folder = options.path.canonicalize().unwrap_or_else(|_| options.path.clone());
    let folder_name = folder.file_name().map_or_else(|| "/".to_owned(), |name| name.to_string_lossy().into_owned());
    let shared = Arc::new(HostShared {
        share,
        gate,
        quotas: Quotas::new(open_files_max(descriptors, shards.get())),
        host_name: crate::trust::clean_name(&machine_name()),
        share_name: crate::trust::clean_name(&options.name.clone().unwrap_or(folder_name)),
        key: identity.public(),
        addresses: link_addresses(address),
        events: Events::new(events),
    });
    let pool =
        Pool::start().map_err(|error| EngineError::new(ErrorKind::Failed, format!("cannot start threads: {error}")))?;

    let (mut running, mut mail, mut kind) = (Vec::new(), Vec::new(), IoKind::Poll);
    for (index, socket) in (0u16..).zip(sockets) {
        let seat = Seat { index, shards: shards.get(), socket, io: options.io };
        match start_shard(seat, &identity, &shared, &pool) {
            Ok((thread, sender, shard_kind)) => {
                running.push(thread);
                mail.push(sender);
                kind = shard_kind;
            }
            Err(error) => {
                tell_all(&mail, || HostMail::Shutdown);
                // What counts is why the host does not start.
                let _ = join_shards(running, &mail, &shared);
                return Err(error);
            }
        }
    }
    let report = Report { path: folder.clone(), address, shards: shards.get(), kind };
    let status = match start_status(&options, report, &shared, &mail) {
        Ok(status) => status,
        Err(error) => {
            tell_all(&mail, || HostMail::Shutdown);
            // As above.
            let _ = join_shards(running, &mail, &shared);
            return Err(error);
        }
    };
    shared.events.tell(ServiceEvent::HostStarted {
        path: folder,
        address,
        shards: shards.get(),
        io: kind.to_string(),
        name: shared.share_name.clone(),
    });
    shared.announce();
    let supervisor = Supervisor { shared: Arc::clone(&shared), mail: mail.clone(), shards: running, pool, status };
    let supervisor = thread::Builder::new()
        .name("host-end".into())
        .spawn(move || supervisor.run())
        .map_err(|error| EngineError::new(ErrorKind::Failed, format!("cannot start a thread: {error}")))?;
    Ok((HostHandle { shared, mail, address, supervisor: Some(supervisor) }, receiver))
}

struct Seat {
    index: u16,
    shards: u16,
    socket: UdpSocket,
    io: IoMode,
}

/// What a shard's thread says once its door is open, or cannot be.
type Opened = Result<(MailSender<HostMail>, IoKind), String>;
type Started = (JoinHandle<std::io::Result<()>>, MailSender<HostMail>, IoKind);

/// Starts one shard's thread and waits until its door is open.
fn start_shard(seat: Seat, identity: &Identity, shared: &Arc<HostShared>, pool: &Pool) -> Result<Started, EngineError> {
    let failed = |message: String| EngineError::new(ErrorKind::Failed, message);
    let node = host_node(identity, seat.index, seat.shards).map_err(|error| failed(error.to_string()))?;
    let (opened, ready) = bounded::<Opened>(1);
    let shared = Arc::clone(shared);
    let orders = pool.entry();
    let thread = thread::Builder::new()
        .name(format!("shard-{}", seat.index))
        .spawn(move || {
            if seat.shards > 1
                && let Err(error) = pin(seat.index)
            {
                tracing::debug!(%error, "the shard runs unpinned");
            }
            let door = Door { socket: seat.socket, mode: seat.io, mail_capacity: MAIL_MAX };
            let make = |mail| HostService::new(shared, Box::new(orders.jobs(mail)));
            match Shard::open(door, node, make) {
                Ok((shard, mail)) => {
                    // The starter waits for exactly this.
                    let _ = opened.send(Ok((mail, shard.kind())));
                    shard.run()
                }
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                    // As above.
                    let _ = opened.send(Err(format!("{error}{cause}")));
                    Ok(())
                }
            }
        })
        .map_err(|error| failed(format!("cannot start a thread: {error}")))?;
    match ready.recv() {
        Ok(Ok((mail, kind))) => Ok((thread, mail, kind)),
        Ok(Err(message)) => Err(failed(message)),
        Err(_) => Err(failed("a shard ended before it began".into())),
    }
}

/// A host's node as every shard and the simulator build it.
///
/// # Errors
/// [`transport::TlsError`] where the identity cannot be used.
pub fn host_node(identity: &Identity, shard: u16, shards: u16) -> Result<Node, transport::TlsError> {
    Node::new(NodeOptions {
        identity,
        role: Role::Host,
        tuning: Tuning::default(),
        shard: u8::try_from(shard).expect("bounded by SHARDS_MAX"),
        shards: u8::try_from(shards).expect("bounded by SHARDS_MAX"),
        seed: None,
    })
}

fn pin(index: u16) -> std::io::Result<()> {
    let allowed = io::allowed_cpus()?;
    match allowed.get(usize::from(index) % allowed.len().max(1)) {
        Some(&cpu) => io::pin_thread(cpu),
        None => Ok(()),
    }
}

fn one_per_core() -> NonZeroU16 {
    let cores = thread::available_parallelism().map_or(1, |n| n.get());
    NonZeroU16::new(u16::try_from(cores).unwrap_or(SHARDS_MAX)).expect("there is a core")
}

fn machine_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Addresses others may reach us at: the one bound, or each interface's where all are.
fn link_addresses(bound: SocketAddr) -> Vec<HostAddress> {
    if !bound.ip().is_unspecified() {
        return vec![HostAddress::from(bound)];
    }
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let reachable = |interface: &if_addrs::Interface| !interface.is_loopback() && !interface.is_link_local();
    let usable = |ip: &IpAddr| ip.is_ipv4() || bound.is_ipv6();
    let addresses = interfaces.iter().filter(|i| reachable(i)).map(if_addrs::Interface::ip).filter(usable);
    addresses.take(LINK_ADDRESSES_MAX).map(|ip| HostAddress::from(SocketAddr::new(ip, bound.port()))).collect()
}

/// What `wormhole status` tells of a host beside its share.
struct Report {
    path: PathBuf,
    address: SocketAddr,
    shards: u16,
    kind: IoKind,
}

fn start_status(
    options: &HostOptions,
    facts: Report,
    shared: &Arc<HostShared>,
    mail: &[MailSender<HostMail>],
) -> Result<StatusServer, EngineError> {
    let (reported, reloaded, mail) = (Arc::clone(shared), Arc::clone(shared), mail.to_vec());
    let report = move || {
        serde_json::json!({
            "path": facts.path, "address": facts.address, "shards": facts.shards, "io": facts.kind.to_string(),
            "share": reported.share_name, "key": crate::trust::PublicKey::from_raw(reported.key.0).to_string(),
        })
    };
    let reload = move || {
        reloaded.gate.reload().map_err(|error| error.to_string())?;
        tell_all(&mail, || HostMail::PeersChanged);
        Ok(())
    };
    StatusServer::start(&options.runtime_dir, ServiceKind::Host, Box::new(report), Box::new(reload))
        .map_err(|error| EngineError::new(ErrorKind::Failed, format!("cannot open the control socket: {error}")))
}
