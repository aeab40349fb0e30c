//! One connection: its streams, its end, and the secret that names it.

use super::{ConnId, Event};
use crate::tls::{EXPORTER_LABEL, PeerKey};
use bytes::Bytes;
use quinn_proto::{ConnectionError, Dir, ReadError, ReadableError, StreamEvent, VarInt, WriteError};
use rustls::pki_types::CertificateDer;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Names one bidirectional stream of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub(super) quinn_proto::StreamId);

/// Why a connection ended, by whose doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloseReason {
    /// We closed it.
    Local,
    /// The peer's application closed it with this code.
    Peer(u64),
    /// The peer restarted and knows nothing of this connection (RFC 9000 §10.3).
    Reset,
    /// Nothing was heard for the idle timeout.
    TimedOut,
    /// The peer speaks another version of QUIC or of Wormhole, or its handshake failed.
    Handshake,
    /// The peer, or somebody on the path, broke the protocol.
    Protocol,
}

/// The end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// Why, by whose doing.
    pub reason: CloseReason,
    /// The transport's own words, for logs.
    pub detail: String,
}

impl Closed {
    /// The end of a connection that this side closed.
    pub(super) fn local() -> Self {
        Self::new(&ConnectionError::LocallyClosed)
    }

    fn new(error: &ConnectionError) -> Self {
        let reason = match error {
            ConnectionError::LocallyClosed => CloseReason::Local,
            ConnectionError::ApplicationClosed(close) => CloseReason::Peer(close.error_code.into_inner()),
            ConnectionError::Reset => CloseReason::Reset,
            ConnectionError::TimedOut => CloseReason::TimedOut,
            ConnectionError::VersionMismatch => CloseReason::Handshake,
            // Codes 0x100..0x1ff carry TLS alerts (RFC 9000 §20.1): ALPN or keys that do not fit.
            ConnectionError::ConnectionClosed(close) if is_tls_alert(close.error_code) => CloseReason::Handshake,
            ConnectionError::TransportError(error) if is_tls_alert(error.code) => CloseReason::Handshake,
            ConnectionError::ConnectionClosed(_)
            | ConnectionError::TransportError(_)
            | ConnectionError::CidsExhausted => CloseReason::Protocol,
        };
        Self { reason, detail: error.to_string() }
    }
}

fn is_tls_alert(code: quinn_proto::TransportErrorCode) -> bool {
    (0x100..0x200).contains(&u64::from(code))
}

/// What one read of a stream yielded.
#[derive(Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// The next bytes, in order.
    Bytes(Bytes),
    /// Nothing yet; [`Event::Readable`] follows.
    Blocked,
    /// The peer finished the stream and all was read.
    Finished,
    /// The peer gave the stream up with this code; what was not read is lost.
    Reset(u64),
}

/// A stream that is not (or no longer) there to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The stream is closed or was never open.
    #[error("the stream is closed")]
    Closed,
    /// The peer asked us to stop sending, with this code.
    #[error("the peer stopped the stream with code {0}")]
    Stopped(u64),
}

/// A connection as the node keeps it.
pub(super) struct Slot {
    pub(super) proto: quinn_proto::Connection,
    pub(super) serial: u64,
    /// In `Node::ready`.
    pub(super) queued: bool,
    /// In `Node::touched`.
    pub(super) touched: bool,
    /// The handshake has not ended, well or badly.
    pub(super) handshaking: bool,
    /// The owner was told of the end.
    pub(super) closed: bool,
    /// The endpoint has forgotten it.
    pub(super) drained: bool,
    /// The entry in `Node::deadlines`.
    pub(super) deadline: Option<Instant>,
}

impl Slot {
    pub(super) fn new(proto: quinn_proto::Connection, serial: u64) -> Self {
        Self {
            proto,
            serial,
            queued: false,
            touched: false,
            handshaking: true,
            closed: false,
            drained: false,
            deadline: None,
        }
    }

    /// Turns quinn-proto's event into ours.
    pub(super) fn collect(&mut self, id: ConnId, event: quinn_proto::Event, events: &mut VecDeque<(ConnId, Event)>) {
        use quinn_proto::Event as Proto;
        let ours = match event {
            Proto::Connected => {
                self.handshaking = false;
                match peer_key(&self.proto) {
                    Some(peer) => Event::Connected { peer },
                    // The verifier lets only Ed25519 keys through, so this is a bug, not a peer's doing.
                    None => unreachable!("a finished handshake shows an Ed25519 key"),
                }
            }
            Proto::ConnectionLost { reason } => {
                self.handshaking = false;
                self.closed = true;
                Event::Closed(Closed::new(&reason))
            }
            Proto::Stream(StreamEvent::Opened { dir: Dir::Bi }) => {
                while let Some(stream) = self.proto.streams().accept(Dir::Bi) {
                    events.push_back((id, Event::Opened(StreamId(stream))));
                }
                return;
            }
            Proto::Stream(StreamEvent::Readable { id: stream }) => Event::Readable(StreamId(stream)),
            Proto::Stream(StreamEvent::Writable { id: stream }) => Event::Writable(StreamId(stream)),
            Proto::Stream(StreamEvent::Finished { id: stream }) => Event::Finished(StreamId(stream)),
            Proto::Stream(StreamEvent::Stopped { id: stream, error_code }) => {
                // The answer RFC 9000 §3.5 asks for. Without it the stream is never done with, and the peer never gets
                // its credit for another one back. A stream that is closed already needs none.
                let _ = self.proto.send_stream(stream).reset(error_code);
                Event::Finished(StreamId(stream))
            }
            Proto::Stream(StreamEvent::Available { dir: Dir::Bi }) => Event::StreamsAvailable,
            // Unidirectional streams and datagrams are not negotiated.
            Proto::Stream(StreamEvent::Opened { .. } | StreamEvent::Available { .. })
            | Proto::HandshakeDataReady
            | Proto::DatagramReceived
            | Proto::DatagramsUnblocked => return,
        };
        // quinn-proto says "readable" for each packet; reading once takes it all.
        if let Event::Readable(stream) = ours
            && let Some(&(last, Event::Readable(told))) = events.back()
            && (last, told) == (id, stream)
        {
            return;
        }
        events.push_back((id, ours));
    }
}

fn peer_key(proto: &quinn_proto::Connection) -> Option<PeerKey> {
    let identity = proto.crypto_session().peer_identity()?;
    let certificates = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    PeerKey::from_spki(certificates.first()?)
}

/// A connection in use; dropping it ends nothing.
pub struct Connection<'a> {
    proto: &'a mut quinn_proto::Connection,
}

impl<'a> Connection<'a> {
    pub(super) fn new(proto: &'a mut quinn_proto::Connection) -> Self {
        Self { proto }
    }

    /// The peer's address now.
    pub fn remote(&self) -> SocketAddr {
        self.proto.remote_address()
    }

    /// The smoothed round-trip time (RFC 9002 §5.3).
    pub fn smoothed_rtt(&self) -> Duration {
        self.proto.rtt()
    }

    /// The datagram size in use, UDP payload bytes.
    pub fn mtu(&self) -> u16 {
        self.proto.current_mtu()
    }

    /// Packets sent and deemed lost so far.
    pub fn packets(&self) -> (u64, u64) {
        let path = self.proto.stats().path;
        (path.sent_packets, path.lost_packets)
    }

    /// The key that the peer proved, once the handshake is done.
    pub fn peer(&self) -> Option<PeerKey> {
        peer_key(self.proto)
    }

    /// A secret only the two ends of this very handshake know (RFC 8446 §7.5): what the PAKE is bound to.
    ///
    /// # Panics
    /// Before [`Event::Connected`].
    pub fn exporter(&self) -> [u8; 32] {
        let mut secret = [0; 32];
        self.proto
            .crypto_session()
            .export_keying_material(&mut secret, EXPORTER_LABEL, b"")
            .expect("the handshake is done and 32 bytes is a legal length");
        secret
    }

    /// Opens a bidirectional stream, or `None` when the peer allows no more; [`Event::StreamsAvailable`] follows then.
    pub fn open(&mut self) -> Option<StreamId> {
        self.proto.streams().open(Dir::Bi).map(StreamId)
    }

    /// Writes as much of `chunks` as the windows take, without copying; what was taken is removed from the front.
    ///
    /// Returns true when all of it was taken; otherwise [`Event::Writable`] follows.
    ///
    /// # Errors
    /// [`StreamError`] when the stream cannot be written any more; what is left in `chunks` will never be sent.
    pub fn write(&mut self, stream: StreamId, chunks: &mut VecDeque<Bytes>) -> Result<bool, StreamError> {
        while !chunks.is_empty() {
            let mut sender = self.proto.send_stream(stream.0);
            match sender.write_chunks(chunks.make_contiguous()) {
                Ok(written) => {
                    chunks.drain(..written.chunks);
                }
                Err(WriteError::Blocked) => return Ok(false),
                Err(WriteError::Stopped(code)) => return Err(StreamError::Stopped(code.into_inner())),
                Err(WriteError::ClosedStream) => return Err(StreamError::Closed),
            }
        }
        Ok(true)
    }

    /// Ends our side of the stream; the peer sees the end after all that was written.
    ///
    /// # Errors
    /// [`StreamError`] when the stream is closed or stopped.
    pub fn finish(&mut self, stream: StreamId) -> Result<(), StreamError> {
        self.proto.send_stream(stream.0).finish().map_err(|error| match error {
            quinn_proto::FinishError::Stopped(code) => StreamError::Stopped(code.into_inner()),
            quinn_proto::FinishError::ClosedStream => StreamError::Closed,
        })
    }

    /// Gives our side of the stream up; bytes not yet sent never will be. Harmless on a closed stream.
    pub fn reset(&mut self, stream: StreamId, code: u32) {
        // A closed stream has nothing left to give up.
        let _ = self.proto.send_stream(stream.0).reset(VarInt::from_u32(code));
    }

    /// Asks the peer to stop sending on the stream. Harmless on a closed stream.
    pub fn stop(&mut self, stream: StreamId, code: u32) {
        // A closed stream has nothing left to stop.
        let _ = self.proto.recv_stream(stream.0).stop(VarInt::from_u32(code));
    }

    /// Reads the next bytes of the stream in order, at most `bytes_max`, without copying.
    ///
    /// # Errors
    /// [`StreamError::Closed`] after the end was read, or for a stream never opened.
    pub fn read(&mut self, stream: StreamId, bytes_max: usize) -> Result<ReadOutcome, StreamError> {
        let mut receiver = self.proto.recv_stream(stream.0);
        let mut chunks = match receiver.read(true) {
            Ok(chunks) => chunks,
            Err(ReadableError::ClosedStream | ReadableError::IllegalOrderedRead) => return Err(StreamError::Closed),
        };
        let outcome = match chunks.next(bytes_max) {
            Ok(Some(chunk)) => ReadOutcome::Bytes(chunk.bytes),
            Ok(None) => ReadOutcome::Finished,
            Err(ReadError::Blocked) => ReadOutcome::Blocked,
            Err(ReadError::Reset(code)) => ReadOutcome::Reset(code.into_inner()),
        };
        // Whether a window update is due is the connection's affair: it is queued for transmission already.
        let _ = chunks.finalize().should_transmit();
        Ok(outcome)
    }

    /// Reads bytes in order into `sink` until the stream blocks or ends, or `bytes_max` were read; one call a batch.
    ///
    /// Returns how the last read ended; [`ReadOutcome::Bytes`] is never returned but means "more may wait".
    ///
    /// # Errors
    /// As [`Connection::read`].
    pub fn read_each(
        &mut self,
        stream: StreamId,
        bytes_max: usize,
        mut sink: impl FnMut(Bytes),
    ) -> Result<Option<ReadOutcome>, StreamError> {
        let mut receiver = self.proto.recv_stream(stream.0);
        let mut chunks = match receiver.read(true) {
            Ok(chunks) => chunks,
            Err(ReadableError::ClosedStream | ReadableError::IllegalOrderedRead) => return Err(StreamError::Closed),
        };
        let mut left = bytes_max;
        let outcome = loop {
            if left == 0 {
                break None;
            }
            match chunks.next(left) {
                Ok(Some(chunk)) => {
                    left -= chunk.bytes.len();
                    sink(chunk.bytes);
                }
                Ok(None) => break Some(ReadOutcome::Finished),
                Err(ReadError::Blocked) => break Some(ReadOutcome::Blocked),
                Err(ReadError::Reset(code)) => break Some(ReadOutcome::Reset(code.into_inner())),
            }
        };
        // As in `read`.
        let _ = chunks.finalize().should_transmit();
        Ok(outcome)
    }

    /// Closes the connection; the peer is told `code` and `reason`, streams end at once.
    pub fn close(&mut self, now: Instant, code: u32, reason: &'static str) {
        self.proto.close(now, VarInt::from_u32(code), Bytes::from_static(reason.as_bytes()));
    }
}
