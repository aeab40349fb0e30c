//! The host's side: who may enter, and what is served to whom has entered.
//!
//! ```text
//!   stream 0 ── hello, proof ──▶ entrance ── enrolled ──▶ session ── request streams ──▶ exchange
//!                                  │ gate (codes, peers, shared by all shards)              │ mapped bytes, file reads,
//!                                  ▼                                                        ▼ jobs for the worker pool
//! ```
//!
//! Read [`gate`], [`crowd`] and [`quota`], then `entrance`, `session`, `exchange`. A shard's [`HostService`] owns its
//! sessions; nothing is shared between shards but the gate, the quotas, the share's root and the pool.

pub mod crowd;
mod entrance;
mod events;
mod exchange;
pub mod gate;
mod job;
pub mod quota;
mod session;
mod start;
mod supervisor;

pub use events::Events;
pub use exchange::OWNED_BYTES_MAX;
pub use gate::Gate;
pub(crate) use job::Room;
pub use job::{Job, JobDone, Jobs};
#[cfg(test)]
pub(crate) use job::{Outcome, Work};
pub use quota::Quotas;
pub use session::HASHES_PER_SESSION_MAX;
pub use start::{HostHandle, HostOptions, ShutdownHandle, host_node, start_host};

use crate::event::{Invitation, ServiceEvent};
use crate::service::{FileRead, Service};
use crate::share::Share;
use crate::trust::Standing;
use bytes::BytesMut;
use crowd::Crowd;
use session::Session;
use signal::{HostAddress, JoinCode, JoinLink};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Instant;
use transport::wire::code;
use transport::{ConnId, Event, Node, PeerKey, StreamId};

/// Messages to a host's shard.
pub enum HostMail {
    /// A worker has done a job.
    Done(Box<JobDone>),
    /// The list of devices changed: whoever was revoked leaves.
    PeersChanged,
    /// End gracefully.
    Shutdown,
}

/// What all shards of one host share.
pub struct HostShared {
    /// The folder.
    pub share: Share,
    /// Who may enter.
    pub gate: Gate,
    /// What each device may take.
    pub quotas: Quotas,
    /// The host's display name.
    pub host_name: String,
    /// The share's display name.
    pub share_name: String,
    /// Our public key.
    pub key: PeerKey,
    /// Where clients find us, for the join link.
    pub addresses: Vec<HostAddress>,
    /// The way to the owner.
    pub events: Events,
}

impl HostShared {
    /// The link a client may join by.
    pub(crate) fn link(&self, code: &JoinCode) -> String {
        JoinLink::new(code.clone(), self.addresses.clone())
            .map_or_else(|_| String::new(), |link| link.reveal().to_string())
    }

    /// Tells the owner the code that lets devices in now.
    pub(crate) fn announce(&self) {
        // Asked for here: of two shards that announce, the later one does not bring an older code.
        let code = self.gate.code();
        let invitation = Invitation { code: code.reveal().to_string(), link: self.link(&code) };
        self.events.announce(ServiceEvent::WaitingForPeer(invitation));
    }
}

/// One shard's share of a host. See the module.
pub struct HostService {
    shared: Arc<HostShared>,
    jobs: Box<dyn Jobs>,
    sessions: BTreeMap<ConnId, Session>,
    /// Sessions of devices that are neither known nor inside.
    crowd: Crowd,
    /// When strangers must be inside; an entry may outlive its need and is then without effect.
    entering: BTreeSet<(Instant, ConnId)>,
    /// File reads for the ring, and whose they are.
    reads: VecDeque<FileRead>,
    read_owners: BTreeMap<u64, (ConnId, StreamId)>,
    read_token_next: u64,
    shutting_down: bool,
}

impl HostService {
    /// Creates the service of one shard.
    pub fn new(shared: Arc<HostShared>, jobs: Box<dyn Jobs>) -> Self {
        Self {
            shared,
            jobs,
            sessions: BTreeMap::new(),
            crowd: Crowd::default(),
            entering: BTreeSet::new(),
            reads: VecDeque::new(),
            read_owners: BTreeMap::new(),
            read_token_next: 0,
            shutting_down: false,
        }
    }

    fn with_session(
        &mut self,
        now: Instant,
        node: &mut Node,
        conn: ConnId,
        act: impl FnOnce(&mut Session, &mut Context<'_>),
    ) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        let mut context = Context {
            now,
            node,
            conn,
            shared: &self.shared,
            jobs: &mut *self.jobs,
            reads: &mut self.reads,
            read_owners: &mut self.read_owners,
            read_token_next: &mut self.read_token_next,
        };
        act(session, &mut context);
        if session.is_inside()
            && let Some(source) = session.leave_crowd()
        {
            self.crowd.leave(source);
        }
    }

    fn on_connected(&mut self, now: Instant, node: &mut Node, conn: ConnId, peer: PeerKey) {
        let Some(mut connection) = node.connection(conn) else { return };
        let remote = connection.remote();
        let place = self.shared.quotas.try_enter(peer);
        let is_known = place.is_some() && self.shared.gate.standing(peer) == Standing::Enrolled;
        let source = (!is_known).then(|| remote.ip().into());
        if source.is_some_and(|source| !self.crowd.try_join(source)) {
            return connection.close(now, code::REFUSED, "too many at the entrance");
        }
        self.sessions.insert(conn, Session::new(peer, place, source, remote, connection.exporter()));
        self.entering.insert((now + session::ENTRANCE_TIMEOUT, conn));
    }

    fn on_closed(&mut self, conn: ConnId, reason: &str) {
        let Some(mut session) = self.sessions.remove(&conn) else { return };
        if let Some(source) = session.leave_crowd() {
            self.crowd.leave(source);
        }
        session.on_closed(&self.shared, reason);
        forget_reads(&mut self.reads, &mut self.read_owners, |&(owner, _)| owner == conn);
    }

    /// The most bytes of answers that wait on the heap for one client; for the simulator.
    pub fn owned_bytes_max(&self) -> usize {
        self.sessions.values().map(Session::owned_bytes).max().unwrap_or(0)
    }
}

/// Drops the file reads of some owners that have not begun. Those in the ring come back to nobody, and are dropped then.
fn forget_reads(
    reads: &mut VecDeque<FileRead>,
    owners: &mut BTreeMap<u64, (ConnId, StreamId)>,
    of: impl Fn(&(ConnId, StreamId)) -> bool,
) {
    reads.retain(|read| {
        let keep = owners.get(&read.token).is_none_or(|owner| !of(owner));
        if !keep {
            owners.remove(&read.token);
        }
        keep
    });
}

/// What a session may use while it acts.
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    pub(crate) node: &'a mut Node,
    pub(crate) conn: ConnId,
    pub(crate) shared: &'a Arc<HostShared>,
    pub(crate) jobs: &'a mut dyn Jobs,
    reads: &'a mut VecDeque<FileRead>,
    read_owners: &'a mut BTreeMap<u64, (ConnId, StreamId)>,
    read_token_next: &'a mut u64,
}

impl Context<'_> {
    /// Has the ring read a part of a file; the bytes come back to this stream.
    pub(crate) fn read_file(&mut self, stream: StreamId, file: Arc<std::os::fd::OwnedFd>, offset: u64, length: usize) {
        let token = *self.read_token_next;
        *self.read_token_next += 1;
        self.read_owners.insert(token, (self.conn, stream));
        self.reads.push_back(FileRead { token, file, offset, length });
    }

    /// Drops the reads for a stream that have not begun.
    pub(crate) fn forget_reads(&mut self, stream: StreamId) {
        let theirs = (self.conn, stream);
        forget_reads(self.reads, self.read_owners, |&owner| owner == theirs);
    }
}

impl Service for HostService {
    type Mail = HostMail;

    fn handle_event(&mut self, now: Instant, node: &mut Node, conn: ConnId, event: Event) {
        match event {
            Event::Connected { peer } => self.on_connected(now, node, conn, peer),
            Event::Closed(closed) => self.on_closed(conn, &closed.detail),
            Event::Opened(stream) => {
                self.with_session(now, node, conn, |session, context| session.on_opened(context, stream))
            }
            Event::Readable(stream) => {
                self.with_session(now, node, conn, |session, context| session.on_readable(context, stream))
            }
            Event::Writable(stream) => {
                self.with_session(now, node, conn, |session, context| session.on_writable(context, stream))
            }
            Event::Finished(stream) => self.with_session(now, node, conn, |session, context| {
                session.on_released(context, stream);
            }),
            // Hosts open no streams.
            Event::StreamsAvailable => {}
        }
    }

    fn handle_mail(&mut self, now: Instant, node: &mut Node, mail: HostMail) {
        match mail {
            HostMail::Done(done) => {
                let conn = done.conn;
                self.with_session(now, node, conn, |session, context| session.on_job_done(context, *done));
            }
            HostMail::PeersChanged => {
                for (&conn, session) in &mut self.sessions {
                    if self.shared.gate.is_revoked(session.peer())
                        && let Some(mut connection) = node.connection(conn)
                    {
                        connection.close(now, code::REVOKED, "revoked");
                    }
                }
            }
            HostMail::Shutdown => {
                self.shutting_down = true;
                node.close_all(now, code::SHUTDOWN, "the host is shutting down");
                for (_, session) in std::mem::take(&mut self.sessions) {
                    session.on_closed(&self.shared, "the host is shutting down");
                }
            }
        }
    }

    fn handle_file_read(&mut self, now: Instant, node: &mut Node, token: u64, result: io::Result<BytesMut>) {
        if let Some((conn, stream)) = self.read_owners.remove(&token) {
            self.with_session(now, node, conn, |session, context| session.on_file_read(context, stream, result));
        }
    }

    fn handle_timeout(&mut self, now: Instant, node: &mut Node) {
        while let Some(&(deadline, conn)) = self.entering.first() {
            if deadline > now {
                break;
            }
            self.entering.pop_first();
            if self.sessions.get(&conn).is_some_and(|session| !session.is_inside())
                && let Some(mut connection) = node.connection(conn)
            {
                connection.close(now, code::REFUSED, "too slow at the entrance");
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.entering.first().map(|&(deadline, _)| deadline)
    }

    fn poll_file_read(&mut self) -> Option<FileRead> {
        self.reads.pop_front()
    }

    fn may_leave(&mut self, now: Instant, node: &mut Node, conn: ConnId) -> bool {
        let mut may = true;
        self.with_session(now, node, conn, |session, context| may = session.may_leave(context));
        may
    }

    fn is_over(&self) -> bool {
        self.shutting_down
    }
}
