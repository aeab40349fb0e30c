//! One request stream: the request coming in, the answer going out.
//!
//! ```text
//!   Reading ── request ──▶ Working ── answer ──▶ Sending ── all written ──▶ Finished
//! ```

use super::job::{Cancel, CancelOnDrop};
use super::quota::HeldFile;
use crate::share::{MappedCheck, Residency};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use transport::wire::{Frames, REQUEST_BYTES_MAX, Request, WireError, code};
use transport::{Connection, StreamId};

/// Bytes handed to QUIC at once: few, large pieces, for its send buffer walks them for every packet.
const SEGMENT_BYTES: u64 = 1 << 20;
/// Reads up to this size are copied out rather than mapped: cheaper than a page fault's worth of mapping.
const COPY_BYTES_MAX: u64 = 32 << 10;

/// The part of a file still to be sent.
pub(super) struct Source {
    file: Arc<HeldFile>,
    offset: u64,
    end: u64,
    /// The ring is reading the next segment.
    reading: bool,
}

impl Source {
    pub(super) fn new(file: Arc<HeldFile>, offset: u64, end: u64) -> Self {
        Self { file, offset, end, reading: false }
    }
}

enum Stage {
    Reading(Frames),
    /// The job, where there is one, is told when the stage ends.
    Working {
        _job: Option<CancelOnDrop>,
    },
    Sending {
        pending: VecDeque<Bytes>,
        source: Option<Source>,
    },
    Finished,
}

/// What an exchange needs next.
pub(super) enum Step {
    /// Nothing until an event.
    Wait,
    /// Bytes were copied for sending; go on.
    Copied,
    /// Mapped bytes of this file up to this offset are to be sent; go on.
    Mapped(Arc<HeldFile>, MappedCheck, u64),
    /// The ring shall read this.
    Read { file: Arc<OwnedFd>, offset: u64, length: usize },
    /// The answer cannot be finished.
    GiveUp(u32),
    /// All is written.
    Finished,
}

/// See the module.
pub(super) struct Exchange {
    stage: Stage,
}

impl Exchange {
    pub(super) fn new() -> Self {
        Self { stage: Stage::Reading(Frames::new(REQUEST_BYTES_MAX)) }
    }

    /// Takes in request bytes; the request once it is whole. Bytes behind it mean nothing and are dropped.
    pub(super) fn handle_bytes(&mut self, bytes: &[u8]) -> Result<Option<Request>, WireError> {
        let Stage::Reading(frames) = &mut self.stage else { return Ok(None) };
        frames.handle_bytes(bytes);
        let request = frames.poll_message()?;
        if request.is_some() {
            self.stage = Stage::Working { _job: None };
        }
        Ok(request)
    }

    /// Waits for a job, which is told when nobody does any more.
    pub(super) fn begin_job(&mut self) -> Cancel {
        let cancel = Cancel::default();
        self.stage = Stage::Working { _job: Some(cancel.on_drop()) };
        cancel
    }

    pub(super) fn respond(&mut self, head: Bytes, data: Option<Bytes>) {
        let mut pending = VecDeque::from([head]);
        pending.extend(data.filter(|data| !data.is_empty()));
        self.stage = Stage::Sending { pending, source: None };
    }

    pub(super) fn send_file(&mut self, head: Bytes, source: Source) {
        self.stage = Stage::Sending { pending: VecDeque::from([head]), source: Some(source) };
    }

    /// The ring has read a segment.
    ///
    /// # Errors
    /// The code to reset the stream with: the file was truncated or cannot be read.
    pub(super) fn on_file_read(&mut self, result: io::Result<BytesMut>) -> Result<(), u32> {
        let Stage::Sending { pending, source: Some(source) } = &mut self.stage else { return Ok(()) };
        let bytes = result.map_err(|_| code::IO)?;
        let wanted = segment(source);
        source.reading = false;
        if (bytes.len() as u64) < wanted {
            return Err(code::STALE);
        }
        source.offset += wanted;
        pending.push_back(bytes.freeze());
        Ok(())
    }

    pub(super) fn poll_step(&mut self, connection: &mut Connection<'_>, stream: StreamId) -> Step {
        let Stage::Sending { pending, source } = &mut self.stage else { return Step::Wait };
        match connection.write(stream, pending) {
            Ok(true) => {}
            Ok(false) => return Step::Wait,
            Err(_) => return Step::GiveUp(code::CANCELLED),
        }
        let Some(source) = source.as_mut().filter(|source| source.offset < source.end) else {
            self.stage = Stage::Finished;
            // A client that stopped the stream needs no end.
            let _ = connection.finish(stream);
            return Step::Finished;
        };
        if source.reading {
            return Step::Wait;
        }
        next_segment(source, pending)
    }
}

/// Length of the next segment: up to a boundary of `SEGMENT_BYTES` in the file, so that segments line up with chunks.
fn segment(source: &Source) -> u64 {
    let boundary = (source.offset / SEGMENT_BYTES + 1) * SEGMENT_BYTES;
    boundary.min(source.end) - source.offset
}

/// Brings the next segment from memory into `pending`, or asks for it to be read.
fn next_segment(source: &mut Source, pending: &mut VecDeque<Bytes>) -> Step {
    let length = segment(source);
    let size = usize::try_from(length).expect("segments are small");
    if length <= COPY_BYTES_MAX {
        let mut bytes = BytesMut::zeroed(size);
        if source.file.read_now(source.offset, &mut bytes) == Ok(size) {
            source.offset += length;
            pending.push_back(bytes.freeze());
            // What was copied is ours: nothing to watch.
            return Step::Copied;
        }
    } else if source.file.residency(source.offset, length) == Residency::Resident
        && let Ok(mapped) = source.file.map(source.offset, size)
        && mapped.len() == size
    {
        let check = mapped.check();
        mapped.populate();
        source.offset += length;
        pending.push_back(Bytes::from_owner(mapped));
        return Step::Mapped(Arc::clone(&source.file), check, source.offset);
    }
    source.reading = true;
    Step::Read { file: source.file.fd(), offset: source.offset, length: size }
}
