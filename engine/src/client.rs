//! One client's conversation with one host: connect, prove, ask, survive losses.
//!
//! Sans-IO: driven with a [`Node`], events and the time. Calls outlive connections: what was asked and not answered
//! when the link broke is asked again after the reconnect, with files opened anew by path and checked to be the same
//! file. Every call ends within its bound.
//!
//! ```text
//!            connect                Connected              Welcome
//!   Down ───────────────▶ Dialing ────────────▶ Proving ────────────▶ Ready
//!    ▲                       │ attempt over        │ lost               │ lost
//!    └───────────────────────┴─────────────────────┴────────────────────┘      Refused ─▶ Over
//! ```

mod call;
mod outcome;
mod proof;

pub use call::{Ask, CallId, FileKey};
use call::{Call, Calls, Stage};
pub use outcome::{Answer, CallError, ClientError, Output, Welcome};
use proof::{Proof, Step};
use signal::JoinCode;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use transport::wire::{self, Control, Frames, RESPONSE_BYTES_MAX, Request, Response, code};
use transport::{ConnId, Event, Node, PeerKey, ReadOutcome, StreamId};

/// Calls that may wait for an answer at once: all of FUSE's background requests and what `get` pipelines, with room.
pub const CALLS_MAX: usize = 8_192;
/// Patience with one attempt to connect before it is begun anew: its packets are retried ever more slowly.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// First pause before connecting again; doubles up to the next constant.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause between attempts: a host that comes back is found within it.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(2);
/// Proofs of the code that are sent without a valid one in return. Each is a guess for whoever gets it, and nobody
/// counts the guesses of a false host. Two, since an honest one may be lost between a proof and its answer.
const PROOFS_OPEN_MAX: u32 = 2;

/// What a client is made of. No default: every field is a decision.
pub struct ClientOptions {
    /// Where the host may be; tried in turn.
    pub addresses: Vec<SocketAddr>,
    /// The join code, used only where the host does not know this device, or its key is not the one expected there.
    pub code: Option<JoinCode>,
    /// This device's name, shown to the host's owner.
    pub device: String,
    /// This device's public key.
    pub key: PeerKey,
    /// Keys of the hosts this device has enrolled with. One of them is let stand for the host that is meant where
    /// neither a code nor `known_at` says which that is.
    pub trusted: Vec<PeerKey>,
    /// The host that was last met at an address, for those of `addresses` where one was: no other is trusted there.
    pub known_at: BTreeMap<SocketAddr, PeerKey>,
    /// Bound on every call while the host does not answer.
    pub timeout: Duration,
}

enum State {
    Down { retry_at: Instant },
    Dialing { conn: ConnId, give_up_at: Instant },
    Proving { conn: ConnId, give_up_at: Instant, proof: Box<Proof> },
    Ready { conn: ConnId, since: Instant },
    Over(ClientError),
}

/// See the module.
pub struct Client {
    options: ClientOptions,
    state: State,
    /// The host's key once it let us in: nobody else is spoken to after that.
    pinned: Option<PeerKey>,
    /// Attempts to connect so far; the addresses take turns.
    dials: usize,
    /// Hosts that did not let us in, one for each address at most: they are asked no second time.
    refused_by: Vec<PeerKey>,
    /// The most helpful of their reasons; after the first welcome, why the host put us off last.
    refusal: Option<ClientError>,
    /// Proofs of the code sent since the last valid one came; at most [`PROOFS_OPEN_MAX`].
    proofs_open: u32,
    retry_pause: Duration,
    /// Since when there is no way to the host.
    down_since: Option<Instant>,
    calls: Calls,
    control: Option<StreamId>,
    /// Bytes that a stream did not take yet.
    unsent: BTreeMap<StreamId, VecDeque<bytes::Bytes>>,
    outputs: VecDeque<Output>,
}

impl Client {
    /// Creates a client that connects as soon as it is driven.
    ///
    /// # Panics
    /// Without an address.
    pub fn new(now: Instant, options: ClientOptions) -> Self {
        assert!(!options.addresses.is_empty(), "a client knows an address of its host");
        Self {
            options,
            state: State::Down { retry_at: now },
            pinned: None,
            dials: 0,
            refused_by: Vec::new(),
            refusal: None,
            proofs_open: 0,
            retry_pause: RETRY_PAUSE_MIN,
            down_since: Some(now),
            calls: Calls::default(),
            control: None,
            unsent: BTreeMap::new(),
            outputs: VecDeque::new(),
        }
    }

    /// True while the host answers.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready { .. })
    }

    /// The connection in use, for its statistics.
    pub fn connection(&self) -> Option<ConnId> {
        match self.state {
            State::Dialing { conn, .. } | State::Proving { conn, .. } | State::Ready { conn, .. } => Some(conn),
            State::Down { .. } | State::Over(_) => None,
        }
    }

    /// The next thing the owner must know.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Client::handle_timeout`] must be called at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let own = match self.state {
            State::Down { retry_at } => Some(retry_at),
            State::Dialing { give_up_at, .. } | State::Proving { give_up_at, .. } => Some(give_up_at),
            State::Ready { .. } | State::Over(_) => None,
        };
        own.into_iter().chain(self.calls.next_deadline()).min()
    }

    /// Asks the host something. The answer, or why there is none, comes as [`Output::Done`], within the bound.
    pub fn call(&mut self, now: Instant, node: &mut Node, ask: Ask) -> CallId {
        let call = self.calls.insert(ask, now, now + self.options.timeout);
        match &self.state {
            State::Over(error) => {
                let error = CallError::Over(error.clone());
                self.finish(call, Err(error));
            }
            _ if self.calls.is_path_too_long(call) => self.finish(call, Err(CallError::Errno(libc::ENAMETOOLONG))),
            _ if self.calls.len() > CALLS_MAX => self.finish(call, Err(CallError::Busy)),
            _ if self.is_long_down(now) => self.finish(call, Err(CallError::HostDown)),
            _ => {
                self.calls.enqueue(call);
                self.send_waiting(node);
            }
        }
        call
    }

    /// Tells the host that an open file is not needed any more. Nothing answers.
    pub fn close_file(&mut self, node: &mut Node, file: FileKey) {
        self.calls.close_file(file);
        self.send_closes(node);
    }

    /// Tells the host of the open files that nobody needs any more.
    fn send_closes(&mut self, node: &mut Node) {
        while let Some(handle) = self.calls.pop_closed() {
            if let (State::Ready { conn, .. }, Some(control)) = (&self.state, self.control) {
                let conn = *conn;
                self.write(node, conn, control, wire::encode(&Control::Close { handle }));
            }
        }
    }

    /// Gives up a call: its answer is not wanted any more.
    pub fn cancel(&mut self, node: &mut Node, call: CallId) {
        if let Some(Call { stage: Stage::Sent { stream, .. }, .. }) = self.calls.remove(call)
            && let State::Ready { conn, .. } = self.state
        {
            self.abandon(node, conn, stream);
        }
        self.send_closes(node);
    }

    /// Says goodbye to the host; every waiting call ends with [`CallError::Cancelled`].
    pub fn close(&mut self, now: Instant, node: &mut Node) {
        if let Some(conn) = self.connection()
            && let Some(mut connection) = node.connection(conn)
        {
            connection.close(now, code::NONE, "done");
        }
        self.fail_all(&CallError::Cancelled);
        self.state = State::Over(ClientError::Closed);
    }

    /// Acts on what has come due.
    pub fn handle_timeout(&mut self, now: Instant, node: &mut Node) {
        match self.state {
            State::Down { retry_at } if retry_at <= now => self.dial(now, node),
            State::Dialing { conn, give_up_at } | State::Proving { conn, give_up_at, .. } if give_up_at <= now => {
                self.drop_connection(now, node, conn, "no answer");
            }
            _ => {}
        }
        while let Some(call) = self.calls.pop_expired(now, self.options.timeout, self.is_ready()) {
            let stream = match self.calls.stage(call) {
                Some(&Stage::Sent { stream, .. }) => Some(stream),
                _ => None,
            };
            if let (Some(stream), State::Ready { conn, .. }) = (stream, &self.state) {
                let conn = *conn;
                self.abandon(node, conn, stream);
            }
            self.finish(call, Err(CallError::TimedOut));
        }
        self.send_closes(node);
        if self.pinned.is_none() && self.is_long_down(now) && !matches!(self.state, State::Over(_)) {
            let error = self.last_word();
            self.give_up(error);
        }
    }

    /// Takes in an event of one of the node's connections; events of other connections are ignored.
    pub fn handle_event(&mut self, now: Instant, node: &mut Node, conn: ConnId, event: Event) {
        if self.connection() != Some(conn) {
            return;
        }
        match event {
            Event::Connected { peer } => self.on_connected(now, node, conn, peer),
            Event::Closed(closed) => self.on_closed(now, node, conn, &closed),
            Event::Readable(stream) => {
                if Some(stream) == self.control {
                    self.read_control(now, node, conn, stream);
                } else {
                    self.read_response(now, node, conn, stream);
                }
            }
            Event::Writable(stream) => self.flush_unsent(node, conn, stream),
            Event::StreamsAvailable => self.send_waiting(node),
            // Hosts open no streams; acknowledged requests need no thought.
            Event::Opened(_) | Event::Finished(_) => {}
        }
    }

    fn is_long_down(&self, now: Instant) -> bool {
        self.down_since.is_some_and(|since| since + self.options.timeout <= now)
    }

    fn dial(&mut self, now: Instant, node: &mut Node) {
        let address = self.options.addresses[self.dials % self.options.addresses.len()];
        self.dials = self.dials.wrapping_add(1);
        self.state = match node.connect(now, address) {
            Ok(conn) => State::Dialing { conn, give_up_at: now + ATTEMPT_TIMEOUT },
            Err(error) => {
                tracing::debug!(%address, %error, "cannot connect");
                State::Down { retry_at: now + self.next_pause() }
            }
        };
    }

    fn next_pause(&mut self) -> Duration {
        let pause = self.retry_pause;
        self.retry_pause = (pause * 2).min(RETRY_PAUSE_MAX);
        pause
    }

    fn on_connected(&mut self, now: Instant, node: &mut Node, conn: ConnId, peer: PeerKey) {
        if self.pinned.is_some_and(|pinned| pinned != peer) {
            self.drop_connection(now, node, conn, "another host answers at this address");
            return;
        }
        if self.refused_by.contains(&peer) {
            self.drop_connection(now, node, conn, "this host has refused already");
            return;
        }
        let Some(address) = node.connection(conn).map(|connection| connection.remote()) else { return };
        let trusted = self.is_trusted(peer, address);
        if !trusted && self.options.code.is_none() {
            let error = match self.options.known_at.contains_key(&address) {
                true => ClientError::OtherHost(address),
                false => ClientError::UnknownHost,
            };
            self.on_refused(now, node, conn, None, error);
            return;
        }
        if !trusted && self.proofs_open >= PROOFS_OPEN_MAX {
            self.on_refused(now, node, conn, None, ClientError::WrongHost);
            return;
        }
        let Some(mut connection) = node.connection(conn) else { return };
        let Some(stream) = connection.open() else {
            return self.drop_connection(now, node, conn, "the host allows no streams");
        };
        let proof = Proof::new(peer, self.options.key, connection.exporter(), trusted);
        self.control = Some(stream);
        let hello = proof.hello(&self.options.device);
        self.state = State::Proving { conn, give_up_at: now + ATTEMPT_TIMEOUT, proof: Box::new(proof) };
        self.write(node, conn, stream, wire::encode(&hello));
    }

    /// Whether this host's key is enough, so that it need not prove the code.
    fn is_trusted(&self, peer: PeerKey, address: SocketAddr) -> bool {
        match (self.pinned, self.options.known_at.get(&address)) {
            (Some(pinned), _) => pinned == peer,
            (None, Some(&known)) => known == peer,
            // A code says which host is meant; a key that is known from elsewhere does not stand in for it.
            (None, None) => self.options.code.is_none() && self.options.trusted.contains(&peer),
        }
    }

    fn read_control(&mut self, now: Instant, node: &mut Node, conn: ConnId, stream: StreamId) {
        let mut bytes = Vec::new();
        let end = match node
            .connection(conn)
            .map(|mut c| c.read_each(stream, usize::MAX, |chunk| bytes.extend_from_slice(&chunk)))
        {
            Some(Ok(end)) => end,
            Some(Err(_)) | None => return,
        };
        let State::Proving { proof, .. } = &mut self.state else {
            // After the welcome the host has nothing to say here in version 1.
            if !bytes.is_empty() {
                self.on_protocol_error(now, node, conn, "unexpected control message");
            }
            return;
        };
        let host = proof.host();
        let code = self.options.code.as_ref().filter(|_| self.proofs_open < PROOFS_OPEN_MAX);
        match proof.handle_bytes(&bytes, code) {
            Ok(steps) => {
                for step in steps {
                    self.apply(now, node, conn, stream, step);
                }
            }
            // A host that had us in and cannot have us now may do so again: when it says, or when it is put right.
            Err(error) if self.pinned.is_some() && error.may_pass() => self.on_put_off(now, node, conn, error),
            Err(error) => self.on_refused(now, node, conn, Some(host), error),
        }
        if matches!(end, Some(ReadOutcome::Finished | ReadOutcome::Reset(_)))
            && matches!(self.state, State::Proving { .. })
        {
            self.drop_connection(now, node, conn, "the host ended the conversation");
        }
    }

    fn apply(&mut self, now: Instant, node: &mut Node, conn: ConnId, stream: StreamId, step: Step) {
        match step {
            Step::Send(message) => {
                if matches!(message, Control::ClientConfirm { .. }) {
                    self.proofs_open += 1;
                }
                self.write(node, conn, stream, wire::encode(&message));
            }
            Step::Proven => self.proofs_open = 0,
            Step::Welcomed { host, share, root, enrolled } => {
                let State::Proving { proof, .. } = &self.state else { return };
                let key = proof.host();
                let again = self.pinned.replace(key).is_some();
                self.options.trusted.push(key);
                self.state = State::Ready { conn, since: now };
                self.down_since = None;
                self.refusal = None;
                let address = node.connection(conn).map_or(self.options.addresses[0], |c| c.remote());
                self.outputs.push_back(Output::Ready(Box::new(Welcome {
                    host,
                    share,
                    root,
                    key,
                    enrolled,
                    again,
                    address,
                })));
                self.send_waiting(node);
            }
        }
    }

    fn on_protocol_error(&mut self, now: Instant, node: &mut Node, conn: ConnId, what: &str) {
        tracing::warn!(what, "the host breaks the protocol");
        if let Some(mut connection) = node.connection(conn) {
            connection.close(now, code::PROTOCOL, "protocol error");
        }
        self.on_lost(now, format!("the host broke the protocol: {what}"));
    }

    /// The host's answer to one call is none: that call ends with it, or it would be asked again for ever.
    fn on_bad_answer(&mut self, now: Instant, node: &mut Node, conn: ConnId, call: CallId, what: &str) {
        self.finish(call, Err(CallError::Errno(libc::EPROTO)));
        self.on_protocol_error(now, node, conn, what);
    }

    fn drop_connection(&mut self, now: Instant, node: &mut Node, conn: ConnId, why: &str) {
        if let Some(mut connection) = node.connection(conn) {
            connection.close(now, code::NONE, "trying again");
        }
        self.on_lost(now, why.to_owned());
    }

    fn on_closed(&mut self, now: Instant, node: &mut Node, conn: ConnId, closed: &transport::Closed) {
        if let transport::CloseReason::Peer(reason) = closed.reason
            && reason == u64::from(code::REVOKED)
        {
            let revoked = ClientError::Refused(wire::Refusal::Revoked, Duration::ZERO);
            self.on_refused(now, node, conn, None, revoked);
            return;
        }
        if closed.reason == transport::CloseReason::Handshake && self.pinned.is_none() {
            self.on_refused(now, node, conn, None, ClientError::Incompatible(closed.detail.clone()));
            return;
        }
        self.on_lost(now, closed.detail.clone());
    }

    /// The connection is gone: what was asked waits for the next one.
    fn on_lost(&mut self, now: Instant, reason: String) {
        let was_ready = self.is_ready();
        // At once after a connection that stood; ever more slowly when each is lost as soon as it is made.
        let stood = matches!(self.state, State::Ready { since, .. } if since + RETRY_PAUSE_MAX <= now);
        if stood {
            self.retry_pause = RETRY_PAUSE_MIN;
        }
        self.state = State::Down { retry_at: now + if stood { Duration::ZERO } else { self.next_pause() } };
        self.control = None;
        self.unsent.clear();
        self.calls.on_lost();
        if self.down_since.is_none() {
            self.down_since = Some(now);
        }
        if was_ready {
            self.outputs.push_back(Output::Lost { reason });
        }
        if self.is_hopeless() {
            let error = self.last_word();
            self.give_up(error);
        }
    }

    /// The host of this conversation cannot have us back yet.
    fn on_put_off(&mut self, now: Instant, node: &mut Node, conn: ConnId, error: ClientError) {
        let wait = match error {
            ClientError::Refused(_, wait) => wait,
            _ => Duration::ZERO,
        };
        if self.refusal.as_ref() != Some(&error) {
            tracing::warn!(%error, "the host does not let this device back in yet; asking again");
        }
        self.drop_connection(now, node, conn, "not now");
        self.refusal = Some(error);
        if let State::Down { retry_at } = &mut self.state {
            *retry_at = (*retry_at).max(now + wait);
        }
    }

    /// Whoever answers does not let us in; `host` is not asked again. While no host ever did, another address may be
    /// the right one.
    fn on_refused(&mut self, now: Instant, node: &mut Node, conn: ConnId, host: Option<PeerKey>, error: ClientError) {
        if let Some(mut connection) = node.connection(conn) {
            connection.close(now, code::REFUSED, "refused");
        }
        if self.pinned.is_some() {
            return self.give_up(error);
        }
        self.refused_by.extend(host);
        if self.refusal.as_ref().is_none_or(|known| known.helpfulness() < error.helpfulness()) {
            self.refusal = Some(error);
        }
        self.on_lost(now, "refused".into());
        if let State::Down { retry_at } = &mut self.state {
            *retry_at = now;
        }
    }

    /// Nobody let us in yet, every address was tried, and going on would only repeat it.
    fn is_hopeless(&self) -> bool {
        let is_barred = self.refusal.is_some() || self.proofs_open >= PROOFS_OPEN_MAX;
        self.pinned.is_none() && is_barred && self.dials >= self.options.addresses.len()
    }

    /// Why no host let us in.
    fn last_word(&mut self) -> ClientError {
        match self.refusal.take() {
            Some(refusal) => refusal,
            None if self.proofs_open > 0 => ClientError::WrongHost,
            None => ClientError::Unreachable(self.options.addresses.clone()),
        }
    }

    fn give_up(&mut self, error: ClientError) {
        self.state = State::Over(error.clone());
        self.control = None;
        self.unsent.clear();
        self.fail_all(&CallError::Over(error.clone()));
        self.outputs.push_back(Output::Failed(error));
    }

    fn fail_all(&mut self, error: &CallError) {
        for call in self.calls.ids() {
            self.finish(call, Err(error.clone()));
        }
    }

    fn finish(&mut self, id: CallId, result: Result<Answer, CallError>) {
        let Some(call) = self.calls.remove(id) else { return };
        match (self.calls.on_reopened(&call, &result), &result) {
            // Not an answer the owner asked for: the reads that waited for it fail with it, or are queued again.
            (Some(failed), Err(error)) => {
                for reader in failed {
                    self.finish(reader, Err(error.clone()));
                }
            }
            (Some(_), Ok(_)) => {}
            (None, _) => self.outputs.push_back(Output::Done { call: id, result }),
        }
    }

    /// Sends waiting calls as far as streams go; reads of files without a handle open them first.
    fn send_waiting(&mut self, node: &mut Node) {
        self.send_closes(node);
        let State::Ready { conn, .. } = self.state else { return };
        while let Some(id) = self.calls.front_waiting() {
            let request = match self.calls.request_for(id) {
                call::Ready::Request(request) => request,
                call::Ready::AwaitsOpen => {
                    self.calls.pop_waiting();
                    continue;
                }
                call::Ready::NoSuchFile => {
                    self.calls.pop_waiting();
                    self.finish(id, Err(CallError::Errno(libc::EBADF)));
                    continue;
                }
            };
            let Some(stream) = node.connection(conn).and_then(|mut connection| connection.open()) else { return };
            self.calls.pop_waiting();
            self.calls.on_sent(id, stream);
            self.write(node, conn, stream, wire::encode::<Request>(&request));
            if let Some(mut connection) = node.connection(conn)
                && !self.unsent.contains_key(&stream)
            {
                // A stream the host has stopped already is told of by its reset.
                let _ = connection.finish(stream);
            }
        }
    }

    fn write(&mut self, node: &mut Node, conn: ConnId, stream: StreamId, bytes: bytes::Bytes) {
        self.unsent.entry(stream).or_default().push_back(bytes);
        self.flush_unsent(node, conn, stream);
    }

    fn flush_unsent(&mut self, node: &mut Node, conn: ConnId, stream: StreamId) {
        let Some(chunks) = self.unsent.get_mut(&stream) else { return };
        let Some(mut connection) = node.connection(conn) else { return };
        match connection.write(stream, chunks) {
            Ok(false) => {}
            Ok(true) => {
                self.unsent.remove(&stream);
                if Some(stream) != self.control {
                    // As in `send_waiting`.
                    let _ = connection.finish(stream);
                }
            }
            // The host stopped reading the request: its answer says why.
            Err(_) => {
                self.unsent.remove(&stream);
            }
        }
    }

    fn abandon(&mut self, node: &mut Node, conn: ConnId, stream: StreamId) {
        self.unsent.remove(&stream);
        if let Some(mut connection) = node.connection(conn) {
            connection.reset(stream, code::CANCELLED);
            connection.stop(stream, code::CANCELLED);
        }
    }

    fn read_response(&mut self, now: Instant, node: &mut Node, conn: ConnId, stream: StreamId) {
        let Some(id) = self.calls.by_stream(stream) else { return };
        let Some(mut connection) = node.connection(conn) else { return };
        let (call, outputs) = (self.calls.get_mut(id), &mut self.outputs);
        call.heard(now);
        let data_max = call.data_max();
        let Stage::Sent { frames, data_left, .. } = &mut call.stage else { return };

        // The head: one frame, which may bring the data's first bytes with it.
        if call.head.is_none() {
            let mut heads = frames.take().unwrap_or_else(|| Frames::new(RESPONSE_BYTES_MAX));
            let end = loop {
                match connection.read(stream, usize::MAX) {
                    Ok(ReadOutcome::Bytes(bytes)) => heads.handle_bytes(&bytes),
                    Ok(end) => break end,
                    Err(_) => return,
                }
                match heads.poll_message::<Response>() {
                    Ok(None) => {}
                    Ok(Some(response)) => {
                        let rest = heads.take_rest();
                        *data_left = call::data_behind(&response);
                        if *data_left > data_max {
                            return self.on_bad_answer(now, node, conn, id, "more data than was asked for");
                        }
                        if let Some(begin) = call::begin(id, &response) {
                            outputs.push_back(begin);
                        }
                        call.head = Some(response);
                        if !rest.is_empty() {
                            let Some(left) = data_left.checked_sub(rest.len() as u64) else {
                                return self.on_bad_answer(now, node, conn, id, "more data than announced");
                            };
                            *data_left = left;
                            outputs.push_back(Output::Data { call: id, bytes: rest });
                        }
                        break ReadOutcome::Blocked;
                    }
                    Err(error) => return self.on_bad_answer(now, node, conn, id, &error.to_string()),
                }
            };
            if call.head.is_none() {
                match end {
                    ReadOutcome::Reset(code) => self.on_reset(node, id, code),
                    ReadOutcome::Finished => self.on_bad_answer(now, node, conn, id, "an empty answer"),
                    ReadOutcome::Blocked | ReadOutcome::Bytes(_) => *frames = Some(heads),
                }
                return;
            }
        }

        // The data, straight on.
        let mut overrun = false;
        let end = connection.read_each(stream, usize::MAX, |bytes| {
            match data_left.checked_sub(bytes.len() as u64) {
                Some(left) => *data_left = left,
                None => overrun = true,
            }
            outputs.push_back(Output::Data { call: id, bytes });
        });
        let short = *data_left > 0;
        match end {
            _ if overrun => self.on_bad_answer(now, node, conn, id, "more data than announced"),
            Ok(Some(ReadOutcome::Finished)) if short => {
                self.on_bad_answer(now, node, conn, id, "less data than announced");
            }
            Ok(Some(ReadOutcome::Finished)) => self.on_answered(node, id),
            Ok(Some(ReadOutcome::Reset(code))) => self.on_reset(node, id, code),
            Ok(Some(ReadOutcome::Blocked | ReadOutcome::Bytes(_)) | None) | Err(_) => {}
        }
    }

    fn on_reset(&mut self, node: &mut Node, id: CallId, reset: u64) {
        let error = match u32::try_from(reset) {
            Ok(code::STALE) => CallError::Stale,
            Ok(code::IO) => CallError::Errno(libc::EIO),
            Ok(code::UNSUPPORTED) => CallError::Errno(libc::EOPNOTSUPP),
            _ => CallError::Errno(libc::EPROTO),
        };
        self.finish(id, Err(error));
        self.send_waiting(node);
    }

    fn on_answered(&mut self, node: &mut Node, id: CallId) {
        let result = self.calls.answer(id);
        self.finish(id, result);
        self.send_waiting(node);
    }
}
