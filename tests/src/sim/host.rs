//! The host: its service and node, the disk and the workers, all in virtual time.

use super::folder::Folder;
use super::net::Net;
use super::rng::Rng;
use bytes::BytesMut;
use crossbeam_channel::{Receiver, bounded};
use engine::ServiceEvent;
use engine::host::{Events, Gate, HostMail, HostService, HostShared, Job, Jobs, Quotas};
use engine::service::{FileRead, Service};
use engine::share::Share;
use engine::trust::{NodeKey, Peers, PublicKey};
use signal::JoinCode;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use transport::tuning::Tuning;
use transport::{Identity, Inbound, Node, NodeOptions, PeerKey, Role};

/// Events that may wait for the test to look at them.
const EVENTS_MAX: usize = 16_384;
/// Jobs that may wait at once; the engine's pool takes as many from one shard.
const JOBS_MAX: usize = 1_024;
/// Files that all clients may have open together: few enough that a scenario can come there.
pub const OPEN_FILES_MAX: usize = 600;
/// Longest a job or a file read takes.
const DISK_DELAY_MAX: Duration = Duration::from_millis(5);

/// Jobs handed over and not yet begun.
struct Desk(Rc<RefCell<VecDeque<Job>>>);

impl Jobs for Desk {
    fn submit(&mut self, job: Job) -> Result<(), Box<Job>> {
        let mut jobs = self.0.borrow_mut();
        if jobs.len() >= JOBS_MAX {
            return Err(Box::new(job));
        }
        jobs.push_back(job);
        Ok(())
    }
}

enum Task {
    Job(Job),
    Read(FileRead),
}

struct Live {
    node: Node,
    service: HostService,
}

/// A host that can crash and come back with its key and its list of devices.
pub struct HostEnd {
    address: SocketAddr,
    identity: Identity,
    code: JoinCode,
    live: Option<Live>,
    shared: Arc<HostShared>,
    events: Receiver<ServiceEvent>,
    desk: Rc<RefCell<VecDeque<Job>>>,
    tasks: BTreeMap<(Instant, u64), Task>,
    task_next: u64,
    rng: Rng,
    dirty: bool,
    /// File reads that went through the ring's stead.
    file_reads: u64,
    /// Jobs that nobody waited for any more when their turn came.
    jobs_cancelled: u64,
}

fn open(folder: &Folder, identity: &Identity, code: &JoinCode) -> (Arc<HostShared>, Receiver<ServiceEvent>) {
    let (events, receiver) = bounded(EVENTS_MAX);
    let shared = HostShared {
        share: Share::open(&folder.share()).expect("the folder can be shared"),
        gate: Gate::open(&folder.state(), code.clone()).expect("the list of devices can be read"),
        quotas: Quotas::new(OPEN_FILES_MAX),
        host_name: "host".into(),
        share_name: "share".into(),
        key: identity.public(),
        addresses: Vec::new(),
        events: Events::new(events),
    };
    (Arc::new(shared), receiver)
}

impl HostEnd {
    pub(super) fn new(folder: &Folder, code: JoinCode, address: SocketAddr, rng: Rng) -> Self {
        let identity = new_identity();
        let (shared, events) = open(folder, &identity, &code);
        let mut host = Self {
            address,
            identity,
            code,
            live: None,
            shared,
            events,
            desk: Rc::default(),
            tasks: BTreeMap::new(),
            task_next: 0,
            rng,
            dirty: false,
            file_reads: 0,
            jobs_cancelled: 0,
        };
        host.start();
        host
    }

    fn start(&mut self) {
        let node = Node::new(NodeOptions {
            identity: &self.identity,
            role: Role::Host,
            tuning: Tuning::default(),
            shard: 0,
            shards: 1,
            seed: Some(self.rng.node_seed()),
        })
        .expect("the identity serves");
        let service = HostService::new(Arc::clone(&self.shared), Box::new(Desk(Rc::clone(&self.desk))));
        self.live = Some(Live { node, service });
        self.dirty = true;
    }

    /// Ends without a word: what is in memory is gone.
    pub fn crash(&mut self) {
        self.live = None;
        self.desk.borrow_mut().clear();
        self.tasks.clear();
    }

    /// Begins anew with the key, the code and the list of devices that the crash left on disk.
    ///
    /// # Panics
    /// If it runs already, or its state cannot be read.
    pub fn restart(&mut self, folder: &Folder) {
        assert!(self.live.is_none(), "a host that runs is crashed first");
        (self.shared, self.events) = open(folder, &self.identity, &self.code);
        self.start();
    }

    /// The host's public key.
    pub fn key(&self) -> PeerKey {
        self.identity.public()
    }

    /// The code that lets a device in now.
    pub fn code(&self) -> JoinCode {
        (*self.shared.gate.code()).clone()
    }

    /// What the host told its owner since the last call.
    pub fn events(&self) -> Vec<ServiceEvent> {
        self.events.try_iter().collect()
    }

    /// Reads done in the stead of the shard's ring.
    pub fn file_reads(&self) -> u64 {
        self.file_reads
    }

    /// Jobs that were given up before a worker began them.
    pub fn jobs_cancelled(&self) -> u64 {
        self.jobs_cancelled
    }

    /// The most bytes of answers that wait on the heap for one client.
    pub fn owned_bytes_max(&self) -> usize {
        self.live.as_ref().map_or(0, |live| live.service.owned_bytes_max())
    }

    /// Connections the host's node holds.
    pub fn connections(&self) -> usize {
        self.live.as_ref().map_or(0, |live| live.node.connections())
    }

    /// Enrols a device as if it had proven the code before, while the host was not running.
    ///
    /// # Panics
    /// Where the list cannot be written.
    pub fn enrol(&self, folder: &Folder, key: PeerKey, name: &str) {
        let mut peers = Peers::open(&folder.state()).expect("the list can be read");
        peers.enrol(PublicKey::from_raw(key.0), name, 0).expect("the list can be written");
        self.shared.gate.reload().expect("the list can be read");
    }

    /// Revokes a device as the command line does: in the list on disk, and with a word to the shards.
    ///
    /// # Panics
    /// Where the list cannot be written.
    pub fn revoke(&mut self, now: Instant, folder: &Folder, key: PeerKey) {
        let mut peers = Peers::open(&folder.state()).expect("the list can be read");
        assert!(peers.revoke(&PublicKey::from_raw(key.0)).expect("the list can be written"), "a known device");
        assert!(self.shared.gate.reload().expect("the list can be read"), "the list has changed");
        if let Some(Live { node, service }) = &mut self.live {
            service.handle_mail(now, node, HostMail::PeersChanged);
            self.dirty = true;
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn handle(&mut self, now: Instant, inbound: Inbound) {
        if let Some(live) = &mut self.live {
            live.node.handle_datagrams(now, inbound);
            self.dirty = true;
        }
    }

    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        let live = self.live.as_ref()?;
        if self.dirty {
            return Some(now);
        }
        let task = self.tasks.first_key_value().map(|(&(at, _), _)| at);
        [live.node.poll_timeout(), live.service.poll_timeout(), task].into_iter().flatten().min()
    }

    /// One turn, as the engine's shard does it.
    pub(super) fn turn(&mut self, now: Instant, net: &mut Net) {
        self.dirty = false;
        let Some(Live { node, service }) = &mut self.live else { return };
        while let Some(entry) = self.tasks.first_entry().filter(|entry| entry.key().0 <= now) {
            match entry.remove() {
                Task::Job(job) => {
                    self.jobs_cancelled += u64::from(job.is_cancelled());
                    service.handle_mail(now, node, HostMail::Done(Box::new(job.perform())));
                }
                Task::Read(read) => {
                    self.file_reads += 1;
                    service.handle_file_read(now, node, read.token, perform(&read));
                }
            }
        }
        if node.poll_timeout().is_some_and(|deadline| deadline <= now) {
            node.handle_timeout(now);
        }
        if service.poll_timeout().is_some_and(|deadline| deadline <= now) {
            service.handle_timeout(now, node);
        }
        apply_events(now, node, service);
        let mut train = Vec::new();
        while let Some(transmit) = node.poll_transmit(now, &mut train) {
            if transmit.from.is_some_and(|conn| !service.may_leave(now, node, conn)) {
                continue;
            }
            let stride = transmit.segment_size.unwrap_or(train.len());
            net.send(now, self.address, transmit.remote, transmit.ecn, &train, stride);
        }
        apply_events(now, node, service);
        node.check_invariants();
        self.dirty = node.has_output();

        let reads = std::iter::from_fn(|| service.poll_file_read()).map(Task::Read).collect::<Vec<_>>();
        let jobs = self.desk.borrow_mut().drain(..).map(Task::Job).collect::<Vec<_>>();
        for task in jobs.into_iter().chain(reads) {
            self.tasks.insert((now + self.rng.span(DISK_DELAY_MAX), self.task_next), task);
            self.task_next += 1;
        }
    }
}

fn apply_events(now: Instant, node: &mut Node, service: &mut HostService) {
    while let Some((conn, event)) = node.poll_event() {
        service.handle_event(now, node, conn, event);
    }
}

/// What the shard's ring does: reads until the length is there or the file ends.
fn perform(read: &FileRead) -> io::Result<BytesMut> {
    let file = File::from(read.file.try_clone()?);
    let mut bytes = BytesMut::zeroed(read.length);
    let mut filled = 0;
    while filled < read.length {
        match file.read_at(&mut bytes[filled..], read.offset + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// A fresh key pair; the one thing of a world that its seed does not decide.
pub(super) fn new_identity() -> Identity {
    let key = NodeKey::generate().expect("the system's random source answers");
    Identity::from_pkcs8(key.pkcs8_der()).expect("a fresh key loads")
}
