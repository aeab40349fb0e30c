//! A client that keeps to QUIC and to nothing else: it says what a test wants said.

use super::net::Net;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;
use transport::tuning::Tuning;
use transport::wire::{Frames, Message, RESPONSE_BYTES_MAX};
use transport::{Closed, ConnId, Event, Identity, Inbound, Node, NodeOptions, ReadOutcome, Role, StreamId};

/// What came on one stream.
#[derive(Debug, Default, Clone)]
pub struct RawStream {
    /// All bytes so far.
    pub bytes: Vec<u8>,
    /// True when the host finished it.
    pub finished: bool,
    /// The code it was reset with.
    pub reset: Option<u64>,
}

impl RawStream {
    /// True when nothing more will come.
    pub fn is_over(&self) -> bool {
        self.finished || self.reset.is_some()
    }

    /// The messages at the stream's start.
    ///
    /// # Panics
    /// If the host's bytes are not messages.
    pub fn messages<M: Message>(&self) -> Vec<M> {
        let mut frames = Frames::new(RESPONSE_BYTES_MAX);
        frames.handle_bytes(&self.bytes);
        std::iter::from_fn(|| frames.poll_message().expect("a host's messages are whole")).collect()
    }

    /// The message at the stream's start, whatever follows.
    pub fn message<M: Message>(&self) -> Option<M> {
        let mut frames = Frames::new(RESPONSE_BYTES_MAX);
        frames.handle_bytes(&self.bytes);
        frames.poll_message().expect("a host's messages are whole")
    }
}

/// See the module.
pub struct RawEnd {
    address: SocketAddr,
    node: Node,
    conn: ConnId,
    connected: bool,
    /// The end of the connection, once it came.
    pub closed: Option<Closed>,
    streams: BTreeMap<StreamId, RawStream>,
    unsent: BTreeMap<StreamId, (VecDeque<Bytes>, bool)>,
    /// Sends its first flight and is never heard of again.
    mute: bool,
    dirty: bool,
}

impl RawEnd {
    pub(super) fn new(
        now: Instant,
        identity: &Identity,
        host: SocketAddr,
        address: SocketAddr,
        seed: [u8; 32],
        mute: bool,
    ) -> Self {
        let options = NodeOptions {
            identity,
            role: Role::Client,
            tuning: Tuning::default(),
            shard: 0,
            shards: 1,
            seed: Some(seed),
        };
        let mut node = Node::new(options).expect("the identity serves");
        let conn = node.connect(now, host).expect("the address can be reached");
        Self {
            address,
            node,
            conn,
            connected: false,
            closed: None,
            streams: BTreeMap::new(),
            unsent: BTreeMap::new(),
            mute,
            dirty: true,
        }
    }

    /// True once the handshake is done.
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// Opens a stream, or `None` when the host allows no more now.
    pub fn open(&mut self) -> Option<StreamId> {
        self.dirty = true;
        let stream = self.node.connection(self.conn)?.open()?;
        self.streams.insert(stream, RawStream::default());
        Some(stream)
    }

    /// Writes to a stream, and ends our side of it where `finish` says so.
    pub fn write(&mut self, stream: StreamId, bytes: impl Into<Bytes>, finish: bool) {
        let (chunks, ends) = self.unsent.entry(stream).or_default();
        chunks.push_back(bytes.into());
        *ends |= finish;
        self.flush(stream);
    }

    /// Stops reading a stream and gives our side up.
    pub fn abandon(&mut self, stream: StreamId) {
        self.dirty = true;
        if let Some(mut connection) = self.node.connection(self.conn) {
            connection.reset(stream, 6);
            connection.stop(stream, 6);
        }
        self.streams.remove(&stream);
    }

    /// Closes the connection.
    pub fn close(&mut self, now: Instant) {
        self.dirty = true;
        if let Some(mut connection) = self.node.connection(self.conn) {
            connection.close(now, 0, "");
        }
    }

    /// What came on a stream.
    ///
    /// # Panics
    /// For a stream never opened, or abandoned.
    pub fn stream(&self, stream: StreamId) -> &RawStream {
        &self.streams[&stream]
    }

    /// All bytes that came, of every stream that was not abandoned.
    pub fn streams(&self) -> impl Iterator<Item = &RawStream> {
        self.streams.values()
    }

    /// Forgets what came on a stream.
    pub fn forget(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
    }

    fn flush(&mut self, stream: StreamId) {
        self.dirty = true;
        let Some((chunks, ends)) = self.unsent.get_mut(&stream) else { return };
        let Some(mut connection) = self.node.connection(self.conn) else { return };
        // A stream that the host refused takes nothing more; its end says why.
        if connection.write(stream, chunks).unwrap_or(true) {
            if *ends {
                let _ = connection.finish(stream);
            }
            self.unsent.remove(&stream);
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn handle(&mut self, now: Instant, inbound: Inbound) {
        if !self.mute {
            self.node.handle_datagrams(now, inbound);
            self.dirty = true;
        }
    }

    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        match (self.dirty, self.mute) {
            (true, _) => Some(now),
            (false, true) => None,
            (false, false) => self.node.poll_timeout(),
        }
    }

    pub(super) fn turn(&mut self, now: Instant, net: &mut Net) {
        if self.node.poll_timeout().is_some_and(|deadline| deadline <= now) {
            self.node.handle_timeout(now);
        }
        self.apply_events();
        net.send_all(now, self.address, &mut self.node);
        self.apply_events();
        self.node.check_invariants();
        self.dirty = self.node.has_output();
    }

    fn apply_events(&mut self) {
        while let Some((conn, event)) = self.node.poll_event() {
            assert_eq!(conn, self.conn, "there is one connection");
            match event {
                Event::Connected { .. } => self.connected = true,
                Event::Closed(closed) => self.closed = Some(closed),
                Event::Readable(stream) => self.read(stream),
                Event::Writable(stream) => self.flush(stream),
                Event::Opened(_) | Event::Finished(_) | Event::StreamsAvailable => {}
            }
        }
    }

    fn read(&mut self, stream: StreamId) {
        let (Some(state), Some(mut connection)) = (self.streams.get_mut(&stream), self.node.connection(self.conn))
        else {
            return;
        };
        match connection.read_each(stream, usize::MAX, |chunk| state.bytes.extend_from_slice(&chunk)) {
            Ok(Some(ReadOutcome::Finished)) => state.finished = true,
            Ok(Some(ReadOutcome::Reset(code))) => state.reset = Some(code),
            Ok(Some(ReadOutcome::Blocked | ReadOutcome::Bytes(_)) | None) | Err(_) => {}
        }
    }
}
