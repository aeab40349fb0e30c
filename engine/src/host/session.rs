//! One client inside: its open files, its requests, and the mapped bytes on their way to it.

use super::entrance::{Act, Breach, Entrance};
use super::exchange::{Exchanges, Source, Step};
use super::job::{Job, JobDone, Outcome, Work, try_now};
use super::quota::{HeldFile, Place};
use super::{Context, HostShared};
use crate::event::ServiceEvent;
use crate::share::{MappedCheck, RelPath};
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use transport::wire::{self, HANDLES_MAX, Request, Response, WireError, code};
use transport::{PeerKey, ReadOutcome, StreamError, StreamId};

/// Time a client has from its handshake to being inside; a stranger who dallies is closed.
pub(super) const ENTRANCE_TIMEOUT: Duration = Duration::from_secs(15);

/// Hashes of one client that are under way or wait for a worker: twice what `wormhole get` asks for at once. Each may
/// read a whole file.
pub const HASHES_PER_SESSION_MAX: usize = 8;

/// Mapped bytes of one mapping that are in the connection's send buffers.
struct MappedSend {
    /// Counts as open until the bytes are gone: they keep its descriptor.
    _file: Arc<HeldFile>,
    check: MappedCheck,
    /// Highest file offset in the buffers: bytes up to here must still be in the file.
    end: u64,
    streams: Vec<StreamId>,
}

/// See the module.
pub(super) struct Session {
    peer: PeerKey,
    entrance: Entrance,
    control: Option<StreamId>,
    /// Counted in the shard's crowd, as from there.
    crowd: Option<signal::Source>,
    /// Control bytes the stream did not take yet.
    control_unsent: VecDeque<Bytes>,
    exchanges: Exchanges,
    /// Given back when the session ends. There is none for a device that has too many sessions; it is refused.
    place: Option<Place>,
    handles: BTreeMap<u64, Arc<HeldFile>>,
    handle_next: u64,
    /// Handles on their way to the client: it knows one when the end of its stream is acknowledged. One whose stream is
    /// given up before that is closed, for nobody would.
    untold: BTreeMap<StreamId, u64>,
    mapped: Vec<MappedSend>,
    /// Hashes that no worker has given back yet, of streams given up too; `<= HASHES_PER_SESSION_MAX`.
    hashes: usize,
}

impl Session {
    pub(super) fn new(
        peer: PeerKey,
        place: Option<Place>,
        crowd: Option<signal::Source>,
        remote: SocketAddr,
        exporter: [u8; 32],
    ) -> Self {
        Self {
            peer,
            entrance: Entrance::new(peer, place.is_some(), remote, exporter),
            control: None,
            crowd,
            control_unsent: VecDeque::new(),
            exchanges: Exchanges::default(),
            place,
            handles: BTreeMap::new(),
            handle_next: 1,
            untold: BTreeMap::new(),
            mapped: Vec::new(),
            hashes: 0,
        }
    }

    pub(super) fn peer(&self) -> PeerKey {
        self.peer
    }

    /// Where it is counted in the crowd, which it leaves by this.
    pub(super) fn leave_crowd(&mut self) -> Option<signal::Source> {
        self.crowd.take()
    }

    /// Bytes of answers that wait on the heap.
    pub(super) fn owned_bytes(&self) -> usize {
        self.exchanges.owned_bytes()
    }

    pub(super) fn is_inside(&self) -> bool {
        self.entrance.is_inside()
    }

    pub(super) fn on_closed(mut self, shared: &HostShared, reason: &str) {
        if self.entrance.is_inside() {
            shared
                .events
                .tell(ServiceEvent::PeerDisconnected { peer: self.entrance.fingerprint(), reason: reason.to_owned() });
        }
        self.entrance.abandon(shared);
    }

    pub(super) fn on_opened(&mut self, context: &mut Context<'_>, stream: StreamId) {
        if self.control.is_none() {
            self.control = Some(stream);
        } else if self.entrance.is_inside() {
            self.exchanges.insert(stream);
        } else {
            return breach(context, &Breach("a request before the welcome"));
        }
        // Bytes that came with the opening are announced by it alone.
        self.on_readable(context, stream);
    }

    pub(super) fn on_readable(&mut self, context: &mut Context<'_>, stream: StreamId) {
        let mut bytes = BytesMut::new();
        let Some(mut connection) = context.node.connection(context.conn) else { return };
        let Ok(end) = connection.read_each(stream, usize::MAX, |chunk| bytes.extend_from_slice(&chunk)) else { return };
        if Some(stream) == self.control {
            match self.entrance.handle_bytes(context, stream, &bytes) {
                Ok(acts) => self.act(context, acts),
                Err(error) => breach(context, &error),
            }
            return;
        }
        if matches!(end, Some(ReadOutcome::Reset(_))) {
            return self.give_up(context, stream, code::CANCELLED);
        }
        let Some(request) = self.exchanges.with(stream, |exchange, _| exchange.handle_bytes(&bytes)) else { return };
        match request {
            Ok(Some(request)) => self.begin(context, stream, request),
            Ok(None) => {}
            Err(WireError::UnknownKind(_)) => self.give_up(context, stream, code::UNSUPPORTED),
            Err(_) => breach(context, &Breach("a malformed request")),
        }
    }

    fn act(&mut self, context: &mut Context<'_>, acts: Vec<Act>) {
        for act in acts {
            match act {
                Act::Send(message) => self.control_unsent.push_back(wire::encode(&message)),
                Act::Close(handle) => drop(self.handles.remove(&handle)),
            }
        }
        self.flush_control(context);
    }

    fn flush_control(&mut self, context: &mut Context<'_>) {
        let (Some(control), Some(mut connection)) = (self.control, context.node.connection(context.conn)) else {
            return;
        };
        match connection.write(control, &mut self.control_unsent) {
            // A refusal is the last word. The connection is closed when it has arrived; see `on_released`.
            Ok(true) if self.entrance.is_refused() => drop(connection.finish(control)),
            Ok(_) => {}
            // The client stopped listening to the control stream: it will never be let in, or is leaving.
            Err(_) => self.control_unsent.clear(),
        }
    }

    fn begin(&mut self, context: &mut Context<'_>, stream: StreamId, request: Request) {
        let path = |bytes: Vec<u8>| RelPath::parse(&bytes);
        let mut expected = 0;
        let work = match request {
            Request::Attr { path: p } => path(p).map(|path| Work::Attr { path }),
            Request::List { path: p, cursor, entries_max } => {
                let (entries_max, bytes_max) = self.exchanges.page(entries_max);
                expected = bytes_max;
                path(p).map(|path| Work::List { path, cursor, entries_max })
            }
            Request::Readlink { path: p } => path(p).map(|path| Work::Readlink { path }),
            Request::Open { path: p, inline_max, hash } => {
                let place = self.place.as_ref().expect("without a place nobody comes in");
                path(p).map(|path| Work::Open { path, inline_max, hash, files: place.files() })
            }
            Request::StatFs => Ok(Work::StatFs),
            Request::Hash { handle, offset, length } => match self.handles.get(&handle) {
                Some(_) if self.hashes >= HASHES_PER_SESSION_MAX => {
                    return self.respond(context, stream, &Response::Error { errno: libc::EAGAIN }, None);
                }
                Some(file) => Ok(Work::Hash { file: Arc::clone(file), offset, length }),
                None => return self.respond(context, stream, &Response::Error { errno: libc::EBADF }, None),
            },
            Request::Read { handle, offset, length } => return self.read(context, stream, handle, offset, length),
        };
        // A path that is none names nothing.
        let Ok(work) = work else {
            return self.respond(context, stream, &Response::Error { errno: libc::ENOENT }, None);
        };
        if let Some(outcome) = try_now(context.shared, &work) {
            return self.on_outcome(context, stream, outcome);
        }
        let Some(cancel) = self.exchanges.with(stream, |exchange, _| exchange.begin_job(expected)) else { return };
        let job = Job { conn: context.conn, stream, work, cancel, shared: Arc::clone(context.shared) };
        let is_hash = job.is_hash();
        match context.jobs.submit(job) {
            Ok(()) => self.hashes += usize::from(is_hash),
            Err(_) => self.respond(context, stream, &Response::Error { errno: libc::EAGAIN }, None),
        }
    }

    pub(super) fn on_job_done(&mut self, context: &mut Context<'_>, done: JobDone) {
        self.hashes -= usize::from(done.is_hash);
        if let Outcome::Enrolled(result) = done.outcome {
            let acts = self.entrance.on_enrolled(context, result);
            return self.act(context, acts);
        }
        self.on_outcome(context, done.stream, done.outcome);
    }

    fn on_outcome(&mut self, context: &mut Context<'_>, stream: StreamId, outcome: Outcome) {
        if !self.exchanges.contains(stream) {
            return; // Cancelled meanwhile, or nobody waits.
        }
        match outcome {
            Outcome::Response(response) => self.respond(context, stream, &response, None),
            Outcome::Opened { file, attr, inline, whole, hash } => {
                let handle = if whole {
                    0
                } else if self.handles.len() >= HANDLES_MAX {
                    return self.respond(context, stream, &Response::Error { errno: libc::EMFILE }, None);
                } else {
                    let handle = self.handle_next;
                    self.handle_next += 1;
                    self.handles.insert(handle, file);
                    self.untold.insert(stream, handle);
                    handle
                };
                let data = u32::try_from(inline.len()).expect("bounded by INLINE_BYTES_MAX");
                self.respond(context, stream, &Response::Opened { handle, attr, data, hash }, Some(inline));
            }
            Outcome::Enrolled(_) | Outcome::Noted => {}
        }
    }

    fn respond(&mut self, context: &mut Context<'_>, stream: StreamId, response: &Response, data: Option<Bytes>) {
        self.exchanges.with(stream, |exchange, _| exchange.respond(wire::encode(response), data));
        self.pump(context, stream);
    }

    fn read(&mut self, context: &mut Context<'_>, stream: StreamId, handle: u64, offset: u64, length: u64) {
        let Some(file) = self.handles.get(&handle).cloned() else {
            return self.respond(context, stream, &Response::Error { errno: libc::EBADF }, None);
        };
        let attr = match file.attr() {
            Ok(attr) => attr,
            Err(error) => return self.respond(context, stream, &Response::Error { errno: error.errno() }, None),
        };
        let end = offset.saturating_add(length).min(attr.size).max(offset);
        let head = Response::Data { data: end - offset, size: attr.size, version: attr.version() };
        let source = Source::new(file, offset, end);
        self.exchanges.with(stream, |exchange, _| exchange.send_file(wire::encode(&head), source));
        self.pump(context, stream);
    }

    pub(super) fn on_writable(&mut self, context: &mut Context<'_>, stream: StreamId) {
        if Some(stream) == self.control {
            self.flush_control(context);
        } else {
            self.pump(context, stream);
        }
    }

    pub(super) fn on_file_read(&mut self, context: &mut Context<'_>, stream: StreamId, result: io::Result<BytesMut>) {
        match self.exchanges.with(stream, |exchange, _| exchange.on_file_read(result)) {
            Some(Ok(())) => self.pump(context, stream),
            Some(Err(code)) => self.give_up(context, stream, code),
            None => {}
        }
    }

    /// Moves an exchange on as far as windows and memory go.
    fn pump(&mut self, context: &mut Context<'_>, stream: StreamId) {
        loop {
            let Some(mut connection) = context.node.connection(context.conn) else { return };
            let step = self.exchanges.with(stream, |exchange, room| exchange.poll_step(&mut connection, stream, room));
            let Some(step) = step else { return };
            match step {
                Step::Wait => return,
                Step::Copied => {}
                Step::Mapped(file, check, end) => self.note_mapped(stream, file, check, end),
                Step::Read { file, offset, length } => return context.read_file(stream, file, offset, length),
                Step::GiveUp(code) => return self.give_up(context, stream, code),
                Step::Finished => {
                    if !self.mapped.iter().any(|send| send.streams.contains(&stream)) {
                        self.exchanges.remove(stream);
                    }
                    return;
                }
            }
        }
    }

    fn note_mapped(&mut self, stream: StreamId, file: Arc<HeldFile>, check: MappedCheck, end: u64) {
        match self.mapped.iter_mut().find(|send| send.check.is_same_mapping(&check)) {
            Some(send) => {
                send.end = send.end.max(end);
                if !send.streams.contains(&stream) {
                    send.streams.push(stream);
                }
            }
            None => self.mapped.push(MappedSend { _file: file, check, end, streams: vec![stream] }),
        }
    }

    /// Everything of a finished stream is acknowledged, or the client stopped it: its bytes are in nobody's buffer any
    /// more.
    pub(super) fn on_released(&mut self, context: &mut Context<'_>, stream: StreamId) {
        if Some(stream) == self.control && self.entrance.is_refused() {
            if let Some(mut connection) = context.node.connection(context.conn) {
                connection.close(context.now, code::REFUSED, "refused");
            }
            return;
        }
        if self.untold.contains_key(&stream)
            && let Some(mut connection) = context.node.connection(context.conn)
            // A stopped stream remembers that it was; one that is acknowledged to its end is closed.
            && connection.finish(stream) == Err(StreamError::Closed)
        {
            self.untold.remove(&stream);
        }
        self.forget(context, stream);
    }

    /// Lets go of all that a stream has here.
    fn forget(&mut self, context: &mut Context<'_>, stream: StreamId) {
        if let Some(handle) = self.untold.remove(&stream) {
            self.handles.remove(&handle);
        }
        if self.exchanges.remove(stream).is_some_and(|exchange| exchange.is_reading()) {
            context.forget_reads(stream);
        }
        self.release_mapped(stream);
    }

    fn release_mapped(&mut self, stream: StreamId) {
        self.mapped.retain_mut(|send| {
            send.streams.retain(|&s| s != stream);
            !send.streams.is_empty()
        });
    }

    fn give_up(&mut self, context: &mut Context<'_>, stream: StreamId, code: u32) {
        self.forget(context, stream);
        if let Some(mut connection) = context.node.connection(context.conn) {
            connection.reset(stream, code);
            connection.stop(stream, code);
        }
    }

    /// Asked after bytes were copied out of the buffers and before they are sent: were they all still in their files?
    ///
    /// A truncation lowers the size before it clears bytes, so bytes copied before a check that finds the size intact
    /// are the file's.
    pub(super) fn may_leave(&mut self, context: &mut Context<'_>) -> bool {
        let mut lost: Vec<StreamId> = Vec::new();
        for send in &self.mapped {
            if !send.check.is_intact_to(send.end) {
                lost.extend(&send.streams);
            }
        }
        for stream in &lost {
            self.give_up(context, *stream, code::STALE);
        }
        lost.is_empty()
    }
}

fn breach(context: &mut Context<'_>, breach: &Breach) {
    tracing::info!(what = breach.0, "a client broke the protocol");
    if let Some(mut connection) = context.node.connection(context.conn) {
        connection.close(context.now, code::PROTOCOL, breach.0);
    }
}
