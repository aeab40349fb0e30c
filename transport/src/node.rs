//! One shard's QUIC endpoint and the connections it owns.
//!
//! Ask: [`Node::poll_timeout`], [`Node::connection`]. Feed: `handle_*`, [`Node::connect`]. Take: other `poll_*`.
//! After feeding, take events and transmits until both say `None`, then arm the timer from `poll_timeout`.
//! `now` never goes back.

mod connection;
#[cfg(test)]
mod tests;
mod transmit;

use crate::cid::ShardCids;
use crate::tls::{Identity, PeerKey, SERVER_NAME, TlsError};
use crate::tuning::{MTU_MAX_BYTES, Tuning};
use bytes::BytesMut;
use connection::Slot;
pub use connection::{CloseReason, Closed, Connection, ReadOutcome, StreamError, StreamId};
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::{
    ClientConfig, ConnectionHandle, DatagramEvent, EcnCodepoint, Endpoint, EndpointConfig, Incoming, ServerConfig,
};
use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;
pub use transmit::Transmit;

/// Connections one shard holds at most; hundreds of clients per host are the aim, spread over shards.
pub const CONNECTIONS_MAX: usize = 4_096;
/// Handshakes in progress above which a client must first prove its address (RFC 9000 §8.1.2).
pub const HANDSHAKES_BEFORE_RETRY: usize = 64;
/// Handshakes in progress above which new ones are dropped: what one core finishes well within a handshake's patience.
pub const HANDSHAKES_MAX: usize = 1_024;
/// Answers of the endpoint itself (retries, resets, version negotiation) that may wait for a transmit buffer.
const RESPONSES_MAX: usize = 256;

/// Which end of connections a node plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Opens connections only.
    Client,
    /// Accepts connections only.
    Host,
}

/// What a node is made of. No default: every field is a decision.
pub struct NodeOptions<'a> {
    /// The key this node proves in handshakes.
    pub identity: &'a Identity,
    /// Which end it plays.
    pub role: Role,
    /// Windows, MTU, time-outs.
    pub tuning: Tuning,
    /// Index of the owning shard.
    pub shard: u8,
    /// Number of shards that share the port.
    pub shards: u8,
    /// Seed of everything random but keys and connection ids; `None` draws from the system.
    pub seed: Option<[u8; 32]>,
}

/// Names one connection of one node, for its life and never again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    index: u32,
    serial: u64,
}

/// Datagrams of one peer that arrived together: all `stride` bytes long but the last, which may be shorter.
#[derive(Debug)]
pub struct Inbound {
    /// Where they came from.
    pub remote: SocketAddr,
    /// Which of our addresses they were sent to, where the socket tells.
    pub local_ip: Option<IpAddr>,
    /// The two ECN bits of the IP header.
    pub ecn: u8,
    /// Length of each datagram but the last, in bytes; not 0.
    pub stride: usize,
    /// The datagrams, one behind the other.
    pub bytes: BytesMut,
}

/// What a node tells its owner.
#[derive(Debug)]
pub enum Event {
    /// The handshake is done, and the peer holds the private half of `peer`.
    Connected {
        /// The key that the peer proved.
        peer: PeerKey,
    },
    /// The connection is over; its id is dead. Told once of every connection; of one that we closed, when it has drained.
    Closed(Closed),
    /// The peer opened this bidirectional stream (host side).
    Opened(StreamId),
    /// The stream has bytes, an end or a reset to read.
    Readable(StreamId),
    /// The stream takes bytes again.
    Writable(StreamId),
    /// Everything written to the finished stream is acknowledged, or the peer stopped it: its bytes are released.
    Finished(StreamId),
    /// Streams may be opened again after [`Connection::open`] said `None`.
    StreamsAvailable,
}

/// Why a connection could not be begun.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// This node only accepts.
    #[error("this node does not open connections")]
    NotAClient,
    /// This node holds all the connections it may.
    #[error("too many connections are open")]
    TooMany,
    /// quinn-proto refused, such as for port 0.
    #[error("the address {0} cannot be connected to: {1}")]
    Address(SocketAddr, #[source] quinn_proto::ConnectError),
}

/// One shard's QUIC endpoint with its connections.
pub struct Node {
    endpoint: Endpoint,
    client: Option<ClientConfig>,
    /// Indexed by quinn-proto's connection handle.
    slots: Vec<Option<Slot>>,
    serial_next: u64,
    /// Connections that may have something to send, in turn; each at most once (`Slot::queued`).
    ready: VecDeque<u32>,
    /// Deadline of each connection that has one; equals `Slot::deadline`.
    deadlines: BTreeSet<(Instant, u32)>,
    events: VecDeque<(ConnId, Event)>,
    responses: VecDeque<transmit::Response>,
    /// Connections touched by the batch in hand; empty between calls.
    touched: Vec<u32>,
    handshakes: usize,
    open: usize,
    scratch: Vec<u8>,
}

impl Node {
    /// Creates a node without connections.
    ///
    /// # Errors
    /// [`TlsError`] where the identity cannot be used.
    pub fn new(options: NodeOptions<'_>) -> Result<Self, TlsError> {
        let NodeOptions { identity, role, tuning, shard, shards, seed } = options;
        let mut config = EndpointConfig::new(Arc::new(identity.reset_key()));
        config
            .cid_generator(move || Box::new(ShardCids::new(shard, shards)))
            .max_udp_payload_size(MTU_MAX_BYTES.max(tuning.mtu_max_bytes))
            .expect("the largest datagram exceeds QUIC's minimum")
            .rng_seed(seed);
        let transport = Arc::new(tuning.transport_config(role));
        let (client, server) = match role {
            Role::Client => {
                let tls = QuicClientConfig::try_from(identity.client_config()?)
                    .expect("AES-128-GCM, which Initial packets need, is offered");
                let mut client = ClientConfig::new(Arc::new(tls));
                client.transport_config(transport);
                (Some(client), None)
            }
            Role::Host => {
                let tls = QuicServerConfig::try_from(identity.server_config()?)
                    .expect("AES-128-GCM, which Initial packets need, is offered");
                let mut server = ServerConfig::with_crypto(Arc::new(tls));
                server.transport_config(transport);
                (None, Some(Arc::new(server)))
            }
        };
        Ok(Self {
            endpoint: Endpoint::new(Arc::new(config), server, true, None),
            client,
            slots: Vec::new(),
            serial_next: 0,
            ready: VecDeque::new(),
            deadlines: BTreeSet::new(),
            events: VecDeque::new(),
            responses: VecDeque::new(),
            touched: Vec::new(),
            handshakes: 0,
            open: 0,
            scratch: Vec::with_capacity(2_048),
        })
    }

    /// Number of connections held, handshakes and draining ones included.
    pub fn connections(&self) -> usize {
        self.open
    }

    /// The connection behind an id, or `None` once it is closed. Using it may queue bytes: take transmits afterwards.
    pub fn connection(&mut self, id: ConnId) -> Option<Connection<'_>> {
        let slot = self.slots.get_mut(id.index as usize)?.as_mut()?;
        if slot.serial != id.serial || slot.closed {
            return None;
        }
        if !slot.queued {
            slot.queued = true;
            self.ready.push_back(id.index);
        }
        Some(Connection::new(&mut slot.proto))
    }

    /// Begins a connection to `remote`; [`Event::Connected`] or [`Event::Closed`] follows.
    ///
    /// # Errors
    /// [`ConnectError`], by whose fault.
    pub fn connect(&mut self, now: Instant, remote: SocketAddr) -> Result<ConnId, ConnectError> {
        let config = self.client.clone().ok_or(ConnectError::NotAClient)?;
        if self.open >= CONNECTIONS_MAX {
            return Err(ConnectError::TooMany);
        }
        let (handle, proto) = self
            .endpoint
            .connect(now, config, remote, SERVER_NAME)
            .map_err(|error| ConnectError::Address(remote, error))?;
        Ok(self.adopt(handle, proto))
    }

    /// Takes in a batch of datagrams from one peer.
    pub fn handle_datagrams(&mut self, now: Instant, inbound: Inbound) {
        let Inbound { remote, local_ip, ecn, stride, mut bytes } = inbound;
        debug_assert!(stride > 0, "a stride of nothing never advances");
        let ecn = EcnCodepoint::from_bits(ecn);
        while !bytes.is_empty() {
            let datagram = bytes.split_to(stride.clamp(1, bytes.len()));
            self.handle_datagram(now, remote, local_ip, ecn, datagram);
        }
        self.settle_touched(now);
    }

    fn handle_datagram(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        local_ip: Option<IpAddr>,
        ecn: Option<EcnCodepoint>,
        datagram: BytesMut,
    ) {
        self.scratch.clear();
        let event = self.endpoint.handle(now, remote, local_ip, ecn, datagram, &mut self.scratch);
        match event {
            None => {}
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                let index = index_of(handle);
                if let Some(slot) = self.slots.get_mut(index as usize).and_then(Option::as_mut) {
                    slot.proto.handle_event(event);
                    if !slot.touched {
                        slot.touched = true;
                        self.touched.push(index);
                    }
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.handle_incoming(now, incoming),
            Some(DatagramEvent::Response(transmit)) => self.respond(&transmit),
        }
    }

    /// Decides on a stranger's first packet: accept, ask for a proof of address, or drop.
    fn handle_incoming(&mut self, now: Instant, incoming: Incoming) {
        if self.open >= CONNECTIONS_MAX || self.handshakes >= HANDSHAKES_MAX {
            self.endpoint.ignore(incoming);
            return;
        }
        if self.handshakes >= HANDSHAKES_BEFORE_RETRY && incoming.may_retry() && !incoming.remote_address_validated() {
            self.scratch.clear();
            if let Ok(transmit) = self.endpoint.retry(incoming, &mut self.scratch) {
                self.respond(&transmit);
            }
            return;
        }
        self.scratch.clear();
        match self.endpoint.accept(incoming, now, &mut self.scratch, None) {
            Ok((handle, proto)) => {
                let id = self.adopt(handle, proto);
                let slot = self.slots[id.index as usize].as_mut().expect("adopted above");
                slot.touched = true;
                self.touched.push(id.index);
            }
            Err(refused) => {
                if let Some(transmit) = refused.response {
                    self.respond(&transmit);
                }
            }
        }
    }

    fn respond(&mut self, transmit: &quinn_proto::Transmit) {
        if self.responses.len() < RESPONSES_MAX {
            self.responses.push_back(transmit::Response::new(transmit, &self.scratch[..transmit.size]));
        }
    }

    fn adopt(&mut self, handle: ConnectionHandle, proto: quinn_proto::Connection) -> ConnId {
        let index = index_of(handle);
        if self.slots.len() <= index as usize {
            self.slots.resize_with(index as usize + 1, || None);
        }
        let serial = self.serial_next;
        self.serial_next += 1;
        debug_assert!(self.slots[index as usize].is_none(), "a drained connection left its slot");
        self.slots[index as usize] = Some(Slot::new(proto, serial));
        self.open += 1;
        self.handshakes += 1;
        self.queue(index);
        ConnId { index, serial }
    }

    fn queue(&mut self, index: u32) {
        if let Some(slot) = self.slots[index as usize].as_mut()
            && !slot.queued
        {
            slot.queued = true;
            self.ready.push_back(index);
        }
    }

    /// Lets every connection act whose deadline has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(deadline, index)) = self.deadlines.first() {
            if deadline > now {
                break;
            }
            self.deadlines.pop_first();
            let slot = self.slots[index as usize].as_mut().expect("deadlines belong to live slots");
            slot.deadline = None;
            slot.proto.handle_timeout(now);
            slot.touched = true;
            self.touched.push(index);
        }
        self.settle_touched(now);
    }

    fn settle_touched(&mut self, _now: Instant) {
        while let Some(index) = self.touched.pop() {
            if let Some(slot) = self.slots[index as usize].as_mut() {
                slot.touched = false;
                self.settle(index);
                self.queue_if_live(index);
            }
        }
    }

    fn queue_if_live(&mut self, index: u32) {
        if self.slots[index as usize].is_some() {
            self.queue(index);
        }
    }

    /// Carries messages between a connection and the endpoint, then collects what the owner must know.
    fn settle(&mut self, index: u32) {
        let Some(slot) = self.slots[index as usize].as_mut() else { return };
        let id = ConnId { index, serial: slot.serial };
        while let Some(event) = slot.proto.poll_endpoint_events() {
            let drained = event.is_drained();
            if let Some(back) = self.endpoint.handle_event(ConnectionHandle(index as usize), event) {
                slot.proto.handle_event(back);
            }
            if drained {
                slot.drained = true;
            }
        }
        while let Some(event) = slot.proto.poll() {
            let was_handshaking = slot.handshaking;
            slot.collect(id, event, &mut self.events);
            if was_handshaking && !slot.handshaking {
                self.handshakes -= 1;
            }
        }
        if slot.drained {
            // quinn-proto does not tell of an end that we asked for; the owner has state to let go of all the same.
            if !slot.closed {
                slot.closed = true;
                self.events.push_back((id, Event::Closed(Closed::local())));
            }
            self.release(index);
        }
    }

    fn release(&mut self, index: u32) {
        let Some(slot) = self.slots[index as usize].take() else { return };
        if let Some(deadline) = slot.deadline {
            self.deadlines.remove(&(deadline, index));
        }
        if slot.handshaking {
            self.handshakes -= 1;
        }
        if slot.queued {
            self.ready.retain(|&queued| queued != index);
        }
        self.open -= 1;
    }

    /// When [`Node::handle_timeout`] must be called at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// The next thing the owner must know.
    pub fn poll_event(&mut self) -> Option<(ConnId, Event)> {
        self.events.pop_front()
    }

    /// Fills `payload` (cleared first) with the next train of datagrams, connections taking turns.
    ///
    /// `None` means nothing to send now. The train is at most 64 KiB of equal segments but the last.
    pub fn poll_transmit(&mut self, now: Instant, payload: &mut Vec<u8>) -> Option<Transmit> {
        payload.clear();
        if let Some(response) = self.responses.pop_front() {
            return Some(response.into_transmit(payload));
        }
        while let Some(index) = self.ready.pop_front() {
            let Some(slot) = self.slots[index as usize].as_mut() else { continue };
            let segments = transmit::segments_max(slot.proto.current_mtu());
            let sent = slot.proto.poll_transmit(now, segments, payload);
            let id = ConnId { index, serial: slot.serial };
            if let Some(sent) = sent {
                self.ready.push_back(index);
                return Some(Transmit::new(Some(id), &sent));
            }
            slot.queued = false;
            self.rearm(index);
            self.settle(index);
        }
        None
    }

    fn rearm(&mut self, index: u32) {
        let Some(slot) = self.slots[index as usize].as_mut() else { return };
        let deadline = slot.proto.poll_timeout();
        if deadline == slot.deadline {
            return;
        }
        if let Some(old) = std::mem::replace(&mut slot.deadline, deadline) {
            self.deadlines.remove(&(old, index));
        }
        if let Some(new) = deadline {
            self.deadlines.insert((new, index));
        }
    }

    /// True while some connection may have something to send.
    pub fn has_output(&self) -> bool {
        !self.ready.is_empty() || !self.responses.is_empty()
    }

    /// Closes every connection with `code` and `reason`; take transmits afterwards so that the peers learn of it.
    pub fn close_all(&mut self, now: Instant, code: u32, reason: &'static str) {
        for index in 0..self.slots.len() {
            let Some(slot) = self.slots[index].as_mut() else { continue };
            slot.proto.close(now, code.into(), bytes::Bytes::from_static(reason.as_bytes()));
            self.queue(u32::try_from(index).expect("slots are bounded"));
        }
    }

    /// Checks what must hold between calls; for the simulator.
    ///
    /// # Panics
    /// If an invariant is broken.
    pub fn check_invariants(&self) {
        assert!(self.touched.is_empty());
        let live = self.slots.iter().flatten().count();
        assert_eq!(live, self.open);
        assert_eq!(self.handshakes, self.slots.iter().flatten().filter(|s| s.handshaking).count());
        let armed = self.slots.iter().flatten().filter(|s| s.deadline.is_some()).count();
        assert_eq!(armed, self.deadlines.len());
        let queued = self.slots.iter().flatten().filter(|s| s.queued).count();
        assert_eq!(queued, self.ready.len());
    }
}

fn index_of(handle: ConnectionHandle) -> u32 {
    u32::try_from(handle.0).expect("connections are bounded far below 2^32")
}
