//! One request stream: the request coming in, the answer going out.
//!
//! ```text
//!   Reading ── request ──▶ Working ── answer ──▶ Sending ── all written ──▶ Finished
//! ```

use super::job::{Cancel, CancelOnDrop};
use super::quota::HeldFile;
use crate::share::{MappedCheck, Residency};
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use transport::wire::{
    Frames, NAME_BYTES_MAX, PAGE_ENTRIES_MAX, PREFIX_BYTES, REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX, Request, WireError,
    code,
};
use transport::{Connection, StreamId};

/// Bytes handed to QUIC at once: few, large pieces, for its send buffer walks them for every packet.
const SEGMENT_BYTES: u64 = 1 << 20;
/// Reads up to this size are copied out rather than mapped: cheaper than a page fault's worth of mapping.
const COPY_BYTES_MAX: u64 = 32 << 10;

/// Bytes of one client's answers that wait on the heap while its windows are shut: read by the ring, or listed. Enough
/// for 30 large reads side by side.
///
/// Who has used it up goes on in small pieces: 32 KiB a read, 64 entries a page. So no stream
/// waits for another one to be read by the client, and what waits is this and a piece for each stream at most.
pub const OWNED_BYTES_MAX: usize = 32 << 20;
/// Entries of a directory page where there is no room for a full one: with the longest names, still less than
/// [`COPY_BYTES_MAX`].
const SHORT_PAGE_ENTRIES: u32 = 64;

const _: () = assert!(page_bytes_max(SHORT_PAGE_ENTRIES) as u64 <= COPY_BYTES_MAX);

/// Bytes of a page of so many entries at most; `transport::wire` proves the first bound.
const fn page_bytes_max(entries: u32) -> usize {
    let bytes = PREFIX_BYTES + entries as usize * (NAME_BYTES_MAX + 160);
    if bytes < RESPONSE_BYTES_MAX { bytes } else { RESPONSE_BYTES_MAX }
}

/// The part of a file still to be sent.
pub(super) struct Source {
    file: Arc<HeldFile>,
    offset: u64,
    end: u64,
    /// Bytes that the ring is reading; 0 while it is not.
    reading: usize,
}

impl Source {
    pub(super) fn new(file: Arc<HeldFile>, offset: u64, end: u64) -> Self {
        Self { file, offset, end, reading: 0 }
    }

    /// Goes on behind bytes that were copied out of the file, if they were all the file's.
    ///
    /// # Errors
    /// [`code::STALE`]: the file was truncated, and what was copied may be zeros in place of its bytes.
    fn take_copy(&mut self, bytes: BytesMut, pending: &mut VecDeque<Bytes>) -> Result<(), u32> {
        let end = self.offset + bytes.len() as u64;
        if !self.file.reaches(end) {
            return Err(code::STALE);
        }
        self.offset = end;
        pending.push_back(bytes.freeze());
        Ok(())
    }
}

enum Stage {
    Reading(Frames),
    /// The job, where there is one, is told when the stage ends.
    Working {
        _job: Option<CancelOnDrop>,
        /// Bytes that it brings at most, where they are many.
        expected: usize,
    },
    Sending {
        pending: VecDeque<Bytes>,
        /// What is pending is mapped, not on the heap.
        is_mapped: bool,
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
            self.stage = Stage::Working { _job: None, expected: 0 };
        }
        Ok(request)
    }

    /// Waits for a job, which is told when nobody does any more.
    pub(super) fn begin_job(&mut self, expected: usize) -> Cancel {
        let cancel = Cancel::default();
        self.stage = Stage::Working { _job: Some(cancel.on_drop()), expected };
        cancel
    }

    pub(super) fn respond(&mut self, head: Bytes, data: Option<Bytes>) {
        let mut pending = VecDeque::from([head]);
        pending.extend(data.filter(|data| !data.is_empty()));
        self.stage = Stage::Sending { pending, is_mapped: false, source: None };
    }

    pub(super) fn send_file(&mut self, head: Bytes, source: Source) {
        self.stage = Stage::Sending { pending: VecDeque::from([head]), is_mapped: false, source: Some(source) };
    }

    /// The ring has read a segment.
    ///
    /// # Errors
    /// The code to reset the stream with: the file was truncated or cannot be read.
    pub(super) fn on_file_read(&mut self, result: io::Result<BytesMut>) -> Result<(), u32> {
        let Stage::Sending { pending, source: Some(source), .. } = &mut self.stage else { return Ok(()) };
        let wanted = std::mem::take(&mut source.reading);
        let bytes = result.map_err(|_| code::IO)?;
        if bytes.len() < wanted {
            return Err(code::STALE);
        }
        source.take_copy(bytes, pending)
    }

    /// Goes on; `room` is what may still wait on the heap, of this client's answers.
    pub(super) fn poll_step(&mut self, connection: &mut Connection<'_>, stream: StreamId, room: usize) -> Step {
        let Stage::Sending { pending, is_mapped, source } = &mut self.stage else { return Step::Wait };
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
        if source.reading > 0 {
            return Step::Wait;
        }
        let step = next_segment(source, pending, room);
        *is_mapped = matches!(step, Step::Mapped(..));
        step
    }

    /// True while the ring reads for it, or is to.
    pub(super) fn is_reading(&self) -> bool {
        matches!(&self.stage, Stage::Sending { source: Some(source), .. } if source.reading > 0)
    }

    /// Bytes of its answer that are on the heap and not in QUIC's buffers, or will be.
    fn owned_bytes(&self) -> usize {
        match &self.stage {
            Stage::Reading(_) | Stage::Finished => 0,
            Stage::Working { expected, .. } => *expected,
            Stage::Sending { pending, is_mapped, source } => {
                let waiting = if *is_mapped { 0 } else { pending.iter().map(Bytes::len).sum() };
                waiting + source.as_ref().map_or(0, |source| source.reading)
            }
        }
    }
}

/// The exchanges of one client, and what their answers hold of the heap.
#[derive(Default)]
pub(super) struct Exchanges {
    streams: BTreeMap<StreamId, Exchange>,
    /// The sum over `streams`.
    owned_bytes: usize,
}

impl Exchanges {
    pub(super) fn insert(&mut self, stream: StreamId) {
        self.remove(stream);
        self.streams.insert(stream, Exchange::new());
    }

    pub(super) fn remove(&mut self, stream: StreamId) -> Option<Exchange> {
        let exchange = self.streams.remove(&stream)?;
        self.owned_bytes -= exchange.owned_bytes();
        Some(exchange)
    }

    pub(super) fn contains(&self, stream: StreamId) -> bool {
        self.streams.contains_key(&stream)
    }

    /// Works on an exchange that is there; the work is told how many more bytes may wait.
    pub(super) fn with<T>(&mut self, stream: StreamId, work: impl FnOnce(&mut Exchange, usize) -> T) -> Option<T> {
        let room = self.room();
        let exchange = self.streams.get_mut(&stream)?;
        let before = exchange.owned_bytes();
        let result = work(exchange, room);
        self.owned_bytes = self.owned_bytes - before + exchange.owned_bytes();
        Some(result)
    }

    pub(super) fn owned_bytes(&self) -> usize {
        self.owned_bytes
    }

    fn room(&self) -> usize {
        OWNED_BYTES_MAX.saturating_sub(self.owned_bytes)
    }

    /// The entries that a page may have now, of those asked for, and the bytes it may come to.
    pub(super) fn page(&self, asked: u32) -> (u32, usize) {
        let asked = asked.clamp(1, PAGE_ENTRIES_MAX);
        // Half, so that what is left is shared by those who come next.
        let fits = page_bytes_max(asked) <= self.room() / 2;
        let entries = if fits { asked } else { asked.min(SHORT_PAGE_ENTRIES) };
        (entries, page_bytes_max(entries))
    }
}

/// Length of the next segment: up to a boundary of `SEGMENT_BYTES` in the file, so that segments line up with chunks.
fn segment(source: &Source) -> u64 {
    let boundary = (source.offset / SEGMENT_BYTES + 1) * SEGMENT_BYTES;
    boundary.min(source.end) - source.offset
}

/// How much of a segment the ring shall read: all of it where there is room, else less, by halves of the room.
fn piece(segment: usize, room: usize) -> usize {
    const STEP: usize = COPY_BYTES_MAX as usize;
    segment.min((room / 2 / STEP * STEP).max(STEP))
}

/// Brings the next segment from memory into `pending`, or asks for it to be read.
fn next_segment(source: &mut Source, pending: &mut VecDeque<Bytes>, room: usize) -> Step {
    let length = segment(source);
    let size = usize::try_from(length).expect("segments are small");
    if length <= COPY_BYTES_MAX {
        let mut bytes = BytesMut::zeroed(size);
        if source.file.read_now(source.offset, &mut bytes) == Ok(size) {
            // What was copied, and is the file's, is ours: nothing to watch.
            return source.take_copy(bytes, pending).map_or_else(Step::GiveUp, |()| Step::Copied);
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
    source.reading = piece(size, room);
    Step::Read { file: source.file.fd(), offset: source.offset, length: source.reading }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_shrink_with_the_room_and_never_to_nothing() {
        let (segment, least) = (SEGMENT_BYTES as usize, COPY_BYTES_MAX as usize);
        assert_eq!(piece(segment, OWNED_BYTES_MAX), segment);
        assert_eq!(piece(segment, 2 * segment), segment);
        assert_eq!(piece(segment, 2 * segment - 1), segment - least);
        assert_eq!(piece(segment, 0), least);
        assert_eq!(piece(100, OWNED_BYTES_MAX), 100);
        assert_eq!(piece(100, 0), 100);
        let (mut owned, mut full) = (0, 0);
        for _ in 0..transport::tuning::STREAMS_MAX {
            let piece = piece(segment, OWNED_BYTES_MAX.saturating_sub(owned));
            full += usize::from(piece == segment);
            owned += piece;
        }
        assert!(full >= 30, "{full}");
        assert!(owned <= OWNED_BYTES_MAX + transport::tuning::STREAMS_MAX as usize * least, "{owned}");
    }

    #[test]
    fn pages_are_short_where_there_is_no_room() {
        let mut exchanges = Exchanges::default();
        assert_eq!(exchanges.page(u32::MAX), (PAGE_ENTRIES_MAX, page_bytes_max(PAGE_ENTRIES_MAX)));
        assert_eq!(exchanges.page(0).0, 1);
        exchanges.owned_bytes = OWNED_BYTES_MAX;
        assert_eq!(exchanges.page(u32::MAX).0, SHORT_PAGE_ENTRIES);
        assert_eq!(exchanges.page(3).0, 3);
    }

    /// A read(2) that found the size before a truncation may copy what the truncation cleared.
    #[test]
    fn a_whole_copy_of_a_file_that_shrank_meanwhile_is_stale() {
        use crate::host::Quotas;
        use crate::share::{Blocking, RelPath, Share};

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, [7; 8_192]).unwrap();
        let file = Share::open(folder.path()).unwrap();
        let file = file.open_file(&RelPath::parse(b"file").unwrap(), Blocking::Allowed).unwrap();
        let place = Quotas::new(9).try_enter(transport::PeerKey([1; 32])).unwrap();
        let file = Arc::new(HeldFile::new(file, place.files().try_open().unwrap()));
        // What the ring brings, after the file got this long.
        let read = |length| {
            let mut exchange = Exchange::new();
            exchange.send_file(Bytes::from_static(b"head"), Source::new(Arc::clone(&file), 4_096, 8_192));
            let Stage::Sending { source: Some(source), .. } = &mut exchange.stage else { unreachable!("just set") };
            source.reading = 4_096;
            std::fs::File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
            exchange.on_file_read(Ok(BytesMut::zeroed(4_096)))
        };
        assert_eq!(read(8_192), Ok(()));
        assert_eq!(read(8_191), Err(code::STALE));
        assert_eq!(read(9_000), Ok(()));
    }
}
