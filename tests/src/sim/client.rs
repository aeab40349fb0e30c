//! A client: the engine's core with its node, and all it told its owner.

use super::net::Net;
use bytes::Bytes;
use engine::client::{Answer, Ask, CallError, CallId, Client, ClientError, ClientOptions, FileKey, Output, Welcome};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;
use transport::tuning::{KEEP_ALIVE, Tuning};
use transport::{Identity, Inbound, Node, NodeOptions, Role};

/// What was heard of one call.
#[derive(Debug, Clone)]
pub struct Heard {
    /// When it was asked.
    pub asked_at: Instant,
    /// The data that stands: what came after the last `Begin`.
    pub data: Vec<u8>,
    /// Bytes announced by the last `Begin`.
    announced: Option<u64>,
    /// How often data was begun.
    pub begins: u32,
    /// How it ended, and when.
    pub done: Option<(Instant, Result<Answer, CallError>)>,
}

/// See the module.
pub struct ClientEnd {
    address: SocketAddr,
    node: Node,
    client: Client,
    calls: BTreeMap<CallId, Heard>,
    /// Each `Ready`, and when it came.
    pub welcomes: Vec<(Instant, Welcome)>,
    /// Each `Lost`, and when it came.
    pub losses: Vec<(Instant, String)>,
    /// Why it is over for good.
    pub failed: Option<(Instant, ClientError)>,
    dirty: bool,
}

impl ClientEnd {
    pub(super) fn new(
        now: Instant,
        identity: &Identity,
        options: ClientOptions,
        address: SocketAddr,
        seed: [u8; 32],
    ) -> Self {
        let tuning = Tuning { keep_alive: Some(KEEP_ALIVE), ..Tuning::default() };
        let node =
            Node::new(NodeOptions { identity, role: Role::Client, tuning, shard: 0, shards: 1, seed: Some(seed) })
                .expect("the identity serves");
        Self {
            address,
            node,
            client: Client::new(now, options),
            calls: BTreeMap::new(),
            welcomes: Vec::new(),
            losses: Vec::new(),
            failed: None,
            dirty: true,
        }
    }

    /// True while the host answers.
    pub fn is_ready(&self) -> bool {
        self.client.is_ready()
    }

    /// The datagram size in use, while there is a connection.
    pub fn mtu(&mut self) -> Option<u16> {
        let conn = self.client.connection()?;
        self.node.connection(conn).map(|connection| connection.mtu())
    }

    pub(super) fn ask(&mut self, now: Instant, ask: Ask) -> CallId {
        let call = self.client.call(now, &mut self.node, ask);
        self.calls.insert(call, Heard { asked_at: now, data: Vec::new(), announced: None, begins: 0, done: None });
        self.drain(now);
        self.dirty = true;
        call
    }

    /// What was heard of a call so far.
    ///
    /// # Panics
    /// For a call that was never asked, or was taken.
    pub fn heard(&self, call: CallId) -> &Heard {
        &self.calls[&call]
    }

    /// True when a call has ended.
    pub fn is_done(&self, call: CallId) -> bool {
        self.calls[&call].done.is_some()
    }

    /// Takes out what was heard of a call that has ended.
    ///
    /// # Panics
    /// If it has not.
    pub fn take(&mut self, call: CallId) -> (Result<Answer, CallError>, Vec<u8>) {
        let heard = self.calls.remove(&call).expect("a call that was asked");
        (heard.done.expect("a call that is over").1, heard.data)
    }

    /// Gives up a call; it is not heard of again.
    pub fn cancel(&mut self, call: CallId) {
        self.client.cancel(&mut self.node, call);
        self.calls.remove(&call);
        self.dirty = true;
    }

    /// Tells the host that a file is not needed any more.
    pub fn close_file(&mut self, file: FileKey) {
        self.client.close_file(&mut self.node, file);
        self.dirty = true;
    }

    /// Says goodbye.
    pub fn close(&mut self, now: Instant) {
        self.client.close(now, &mut self.node);
        self.drain(now);
        self.dirty = true;
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn handle(&mut self, now: Instant, inbound: Inbound) {
        self.node.handle_datagrams(now, inbound);
        self.dirty = true;
    }

    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        if self.dirty {
            return Some(now);
        }
        [self.node.poll_timeout(), self.client.poll_timeout()].into_iter().flatten().min()
    }

    pub(super) fn turn(&mut self, now: Instant, net: &mut Net) {
        if self.node.poll_timeout().is_some_and(|deadline| deadline <= now) {
            self.node.handle_timeout(now);
        }
        if self.client.poll_timeout().is_some_and(|deadline| deadline <= now) {
            self.client.handle_timeout(now, &mut self.node);
        }
        self.apply_events(now);
        net.send_all(now, self.address, &mut self.node);
        self.apply_events(now);
        self.node.check_invariants();
        self.dirty = self.node.has_output();
    }

    fn apply_events(&mut self, now: Instant) {
        while let Some((conn, event)) = self.node.poll_event() {
            self.client.handle_event(now, &mut self.node, conn, event);
        }
        self.drain(now);
    }

    /// Notes every output, and checks that they come in an order that makes sense.
    fn drain(&mut self, now: Instant) {
        while let Some(output) = self.client.poll_output() {
            match output {
                Output::Ready(welcome) => self.welcomes.push((now, *welcome)),
                Output::Lost { reason } => self.losses.push((now, reason)),
                Output::Failed(error) => self.failed = Some((now, error)),
                Output::Begin { call, length, .. } => {
                    if let Some(heard) = self.calls.get_mut(&call) {
                        assert!(heard.done.is_none(), "nothing begins behind the end");
                        heard.data.clear();
                        heard.announced = Some(length);
                        heard.begins += 1;
                    }
                }
                Output::Data { call, bytes } => self.on_data(call, &bytes),
                Output::Done { call, result } => {
                    if let Some(heard) = self.calls.get_mut(&call) {
                        assert!(heard.done.is_none(), "a call ends once");
                        if result.is_ok() {
                            let announced = heard.announced.unwrap_or(0);
                            assert_eq!(announced, heard.data.len() as u64, "all that was announced came");
                        }
                        heard.done = Some((now, result));
                    }
                }
            }
        }
    }

    fn on_data(&mut self, call: CallId, bytes: &Bytes) {
        if let Some(heard) = self.calls.get_mut(&call) {
            assert!(heard.done.is_none() && heard.announced.is_some(), "data comes between its Begin and its Done");
            heard.data.extend_from_slice(bytes);
        }
    }
}
