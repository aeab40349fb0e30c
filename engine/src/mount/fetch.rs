//! Chunks on their way from the host to the reads that wait for them.
//!
//! A read waits for one or two chunks; a chunk serves every read that needs it and crosses the wire once. Bytes go from
//! datagrams straight into the frame they will be kept in, and a read is answered as soon as its part has come.
//!
//! Small reads that scatter over a large file go past all this: a chunk for each would be many times what was asked
//! for, and the kernel's page cache keeps what it got.

use super::backend::{ends_chunk, held, is_scan};
use super::replies::Replies;
use crate::client::{Ask, CallError, CallId, Client, FileKey};
use cache::{ChunkKey, Flights, Frame, FrameClass, FrameMut, Joined, L1Reader, L1Writer};
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;
use transport::Node;
use vfs::{DataReply, Errno, OpenView, Pattern, ReadOp};

/// Chunks on their way beyond which none is fetched ahead of its reads: 48 MiB fill 10 Gbit/s over 40 ms. What reads
/// wait for is bounded by `cache::flight::FLIGHTS_MAX` and by memory: that of the cache, and then [`PLAIN_MAX`].
const AHEAD_FETCHES_MAX: usize = 48;
/// Chunks that one read has fetched ahead at most.
const AHEAD_MAX: usize = 8;
/// Chunks on their way that found every frame held; 256 MiB beside the cache. Reads that need one more are refused with
/// EBUSY. The kernel's 128 background requests stay below it, even where each spans two chunks.
const PLAIN_MAX: usize = 256;
/// Bytes that come in before waiting reads are looked at again.
const ANSWER_STEP_BYTES: usize = 64 << 10;
/// Files up to this size are kept in small frames.
const SMALL_FILE_BYTES_MAX: u64 = 64 << 10;

/// Reads from this size on are never taken for random access: a small frame's worth.
const RANDOM_BYTES_MAX: u32 = 64 << 10;
/// Scattered reads on their way beyond which more are served by chunks: what 1,000 threads ask for at once. Bounds their
/// memory to 64 MiB.
const SCATTERED_MAX: usize = 1_024;
/// Buffers of scattered reads that are kept for the next ones.
const SPARE_BUFFERS_MAX: usize = 64;

/// Where a chunk's bytes go.
enum Buffer {
    Frame(FrameMut),
    /// All frames are held by readers: the chunk is delivered and not kept.
    Plain(Vec<u8>),
}

impl Buffer {
    fn bytes(&self, filled: usize) -> &[u8] {
        match self {
            Self::Frame(frame) => &frame[..filled],
            Self::Plain(bytes) => &bytes[..filled],
        }
    }
}

struct Fetch {
    key: ChunkKey,
    ino: u64,
    buffer: Buffer,
    filled: usize,
    /// Bytes wanted, then bytes announced.
    length: usize,
    answered_at: usize,
    /// The file's size and version as the host sent them with the data.
    found: Option<(u64, u64)>,
    /// Part of a pass over a file that the cache cannot hold.
    is_scan: bool,
}

/// A scattered read on its way: exactly the bytes that were asked for, for one reader.
struct Scattered {
    reply: DataReply,
    ino: u64,
    version: u64,
    bytes: Vec<u8>,
    length: usize,
}

/// A read that waits.
struct Read {
    reply: DataReply,
    offset: u64,
    end: u64,
    /// Chunks still missing.
    missing: usize,
    /// Chunks that came, by their offset in the file.
    parts: BTreeMap<u64, Part>,
}

/// Names one read for ever: a read that failed by one chunk may still be listed as waiting for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ReadId(u64);

/// A chunk that came: kept in memory for others too, or for its readers alone.
#[derive(Clone)]
enum Part {
    Frame(Frame),
    Plain(Arc<Vec<u8>>),
}

impl Deref for Part {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Frame(frame) => frame,
            Self::Plain(bytes) => bytes,
        }
    }
}

/// What the tree must be told after a chunk came.
pub(super) struct Newer {
    pub(super) ino: u64,
    pub(super) size: u64,
    pub(super) version: u64,
}

/// See the module.
pub(super) struct Fetches {
    l1: L1Writer,
    reader: L1Reader,
    flights: Flights<ChunkKey, ReadId>,
    fetches: BTreeMap<CallId, Fetch>,
    reads: BTreeMap<ReadId, Read>,
    read_next: u64,
    scattered: BTreeMap<CallId, Scattered>,
    spare: Vec<Vec<u8>>,
    replies: Replies,
}

impl Fetches {
    pub(super) fn new(l1: L1Writer, replies: Replies) -> Self {
        Self {
            reader: l1.reader(),
            l1,
            flights: Flights::new(),
            fetches: BTreeMap::new(),
            reads: BTreeMap::new(),
            read_next: 0,
            scattered: BTreeMap::new(),
            spare: Vec::new(),
            replies,
        }
    }

    /// Who looks into the same cache.
    pub(super) fn reader(&self) -> L1Reader {
        self.reader.clone()
    }

    /// Puts a whole small file, which came with its open, where its reads will look for it.
    pub(super) fn insert_whole(&mut self, ino: u64, version: u64, size: u64, data: &[u8]) {
        let class = FrameClass::Small;
        if data.is_empty() || data.len() > class.bytes() || data.len() as u64 != size {
            return;
        }
        let key = ChunkKey { file: ino, version, index: 0, class };
        if let Some(mut frame) = self.l1.allocate(class) {
            frame[..data.len()].copy_from_slice(data);
            self.l1.insert(key, frame, u32::try_from(data.len()).expect("bounded by a frame"));
        }
    }

    /// Answers a read whose bytes are all in memory, and says how many were copied for it here.
    ///
    /// # Errors
    /// The reply, where they are not.
    pub(super) fn read_cached(
        &self,
        view: OpenView,
        offset: u64,
        length: u32,
        reply: DataReply,
    ) -> Result<usize, DataReply> {
        match held(&self.reader, view, offset, length) {
            Some(parts) => Ok(self.replies.parts(reply, parts)),
            None => Err(reply),
        }
    }

    /// Serves a read from memory, or fetches what is missing of it.
    pub(super) fn read(&mut self, now: Instant, client: &mut Client, node: &mut Node, file: FileKey, op: ReadOp) {
        let end = op.offset.saturating_add(op.length.into()).min(op.size);
        if op.offset >= end {
            return op.reply.data(&[]);
        }
        if is_scattered(&op) && self.scattered.len() < SCATTERED_MAX {
            return self.read_scattered(now, client, node, file, op, end);
        }
        let class = class_of(&op);
        let bytes = class.bytes() as u64;
        let Ok(last) = u32::try_from((end - 1) / bytes) else { return op.reply.error(Errno::new(libc::EFBIG)) };
        let first = u32::try_from(op.offset / bytes).expect("not beyond the last");

        let read = ReadId(self.read_next);
        self.read_next += 1;
        self.reads.insert(read, Read { reply: op.reply, offset: op.offset, end, missing: 0, parts: BTreeMap::new() });
        for index in first..=last {
            let key = ChunkKey { file: op.ino, version: op.version, index, class };
            let begin = u64::from(index) * bytes;
            if let Some(frame) =
                self.reader.peek(&key).filter(|frame| begin + frame.len() as u64 >= end.min(begin + bytes))
            {
                // It came after a ring's thread had looked for it, so nobody has counted this use.
                if is_scan(&self.reader, class, op.size) && ends_chunk(&key, op.size, end) {
                    frame.count_use();
                }
                waiting(&mut self.reads, read).parts.insert(begin, Part::Frame(frame));
                continue;
            }
            match self.flights.join(key, read) {
                Ok(joined) => {
                    waiting(&mut self.reads, read).missing += 1;
                    if joined == Joined::Leader {
                        self.begin(now, client, node, file, key, op.ino, op.size);
                    } else {
                        self.answer_early(key);
                    }
                    if !self.reads.contains_key(&read) {
                        return;
                    }
                }
                Err(_) => return self.fail_read(read, Errno::EBUSY),
            }
        }
        if self.reads.get(&read).is_some_and(|read| read.missing == 0) {
            self.answer(read);
        }
        if class == FrameClass::Large {
            self.fetch_ahead(now, client, node, file, (op.ino, op.version, op.size), &op.prefetch);
        }
    }

    fn read_scattered(
        &mut self,
        now: Instant,
        client: &mut Client,
        node: &mut Node,
        file: FileKey,
        op: ReadOp,
        end: u64,
    ) {
        let length = end - op.offset;
        let call = client.call(now, node, Ask::Read { file, offset: op.offset, length });
        let length = usize::try_from(length).expect("below RANDOM_BYTES_MAX");
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.reserve_exact(length);
        self.scattered.insert(call, Scattered { reply: op.reply, ino: op.ino, version: op.version, bytes, length });
    }

    fn fetch_ahead(
        &mut self,
        now: Instant,
        client: &mut Client,
        node: &mut Node,
        file: FileKey,
        (ino, version, size): (u64, u64, u64),
        chunks: &[u64],
    ) {
        for &chunk in chunks.iter().take(AHEAD_MAX) {
            let Ok(index) = u32::try_from(chunk) else { return };
            let key = ChunkKey { file: ino, version, index, class: FrameClass::Large };
            if self.fetches.len() >= AHEAD_FETCHES_MAX || chunk * key.class.bytes() as u64 >= size {
                return;
            }
            if self.reader.peek(&key).is_none() && self.flights.lead(key) == Ok(true) {
                self.begin(now, client, node, file, key, ino, size);
            }
        }
    }

    /// Fetches a chunk whose flight is open; where there is no memory for it, whoever waits is refused.
    #[allow(clippy::too_many_arguments, reason = "one call site's locals; a struct would only rename them")]
    fn begin(
        &mut self,
        now: Instant,
        client: &mut Client,
        node: &mut Node,
        file: FileKey,
        key: ChunkKey,
        ino: u64,
        size: u64,
    ) {
        let bytes = key.class.bytes();
        let offset = u64::from(key.index) * bytes as u64;
        let length = usize::try_from((size - offset).min(bytes as u64)).expect("bounded by a frame");
        let is_scan = is_scan(&self.reader, key.class, size);
        let frame = if is_scan { self.l1.allocate_for_scan(key.class) } else { self.l1.allocate(key.class) };
        let buffer = match frame {
            Some(frame) => Buffer::Frame(frame),
            None if self.plain() < PLAIN_MAX => Buffer::Plain(vec![0; length]),
            None => {
                for read in self.flights.complete(&key) {
                    self.fail_read(read, Errno::EBUSY);
                }
                return;
            }
        };
        let call = client.call(now, node, Ask::Read { file, offset, length: length as u64 });
        let fetch = Fetch { key, ino, buffer, filled: 0, length, answered_at: 0, found: None, is_scan };
        self.fetches.insert(call, fetch);
    }

    fn plain(&self) -> usize {
        self.fetches.values().filter(|fetch| matches!(fetch.buffer, Buffer::Plain(_))).count()
    }

    /// Data of this call begins (again); tells the tree when the file is not what it thought.
    pub(super) fn on_begin(&mut self, call: CallId, length: u64, size: u64, version: u64) -> Option<Newer> {
        if let Some(read) = self.scattered.get_mut(&call) {
            read.bytes.clear();
            return (version != read.version).then_some(Newer { ino: read.ino, size, version });
        }
        let fetch = self.fetches.get_mut(&call)?;
        fetch.filled = 0;
        fetch.answered_at = 0;
        fetch.length = fetch.length.min(usize::try_from(length).unwrap_or(usize::MAX));
        fetch.found = Some((size, version));
        (version != fetch.key.version).then_some(Newer { ino: fetch.ino, size, version })
    }

    pub(super) fn on_data(&mut self, call: CallId, bytes: &[u8]) {
        if let Some(read) = self.scattered.get_mut(&call) {
            let room = read.length - read.bytes.len();
            return read.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
        let Some(fetch) = self.fetches.get_mut(&call) else { return };
        let room = fetch.length - fetch.filled;
        let bytes = &bytes[..bytes.len().min(room)];
        let target = match &mut fetch.buffer {
            Buffer::Frame(frame) => &mut frame[fetch.filled..fetch.filled + bytes.len()],
            Buffer::Plain(plain) => &mut plain[fetch.filled..fetch.filled + bytes.len()],
        };
        target.copy_from_slice(bytes);
        fetch.filled += bytes.len();
        if fetch.filled - fetch.answered_at >= ANSWER_STEP_BYTES && fetch.filled < fetch.length {
            fetch.answered_at = fetch.filled;
            let key = fetch.key;
            self.answer_early(key);
        }
    }

    /// Answers reads whose whole span lies in what has come of one chunk.
    fn answer_early(&mut self, key: ChunkKey) {
        let Some(fetch) = self.fetches.values().find(|fetch| fetch.key == key) else { return };
        let begin = u64::from(key.index) * key.class.bytes() as u64;
        let come = begin + fetch.filled as u64;
        let filled = fetch.buffer.bytes(fetch.filled);
        let reads = &mut self.reads;
        self.flights.retain_waiters(&key, |&mut read| {
            let Some(waiting) = reads.get(&read) else { return false };
            if waiting.offset < begin || waiting.end > come {
                return true;
            }
            let waiting = reads.remove(&read).expect("looked at just now");
            let from = usize::try_from(waiting.offset - begin).expect("within a frame");
            let to = usize::try_from(waiting.end - begin).expect("within a frame");
            waiting.reply.data(&filled[from..to]);
            false
        });
    }

    /// A chunk is all there, or will not come. True when the call was one of ours.
    pub(super) fn on_done(&mut self, call: CallId, result: Result<(), &CallError>) -> bool {
        if let Some(read) = self.scattered.remove(&call) {
            self.on_scattered_done(read, result);
            return true;
        }
        let Some(fetch) = self.fetches.remove(&call) else { return false };
        let waiters = self.flights.complete(&fetch.key);
        if let Err(error) = result {
            for read in waiters {
                self.fail_read(read, errno_of(error));
            }
            return true;
        }
        let begin = u64::from(fetch.key.index) * fetch.key.class.bytes() as u64;
        let come = begin + fetch.filled as u64;
        let chunk_end = begin + fetch.key.class.bytes() as u64;
        let part = match (fetch.buffer, fetch.found) {
            // Kept under the version that was sent: the one asked for, unless the file changed under its readers. Of a
            // file that grew meanwhile, what was asked for is less than that version's chunk, and is not kept.
            (Buffer::Frame(frame), Some((size, version))) if fetch.filled > 0 && come == size.min(chunk_end) => {
                let length = u32::try_from(fetch.filled).expect("bounded by a frame");
                let key = ChunkKey { version, ..fetch.key };
                Part::Frame(if fetch.is_scan {
                    let frame = self.l1.insert_for_scan(key, frame, length);
                    if waiters.iter().filter_map(|read| self.reads.get(read)).any(|read| read.end >= come) {
                        frame.count_use();
                    }
                    frame
                } else {
                    self.l1.insert(key, frame, length)
                })
            }
            (Buffer::Frame(frame), _) => Part::Plain(Arc::new(frame[..fetch.filled].to_vec())),
            (Buffer::Plain(mut bytes), _) => {
                bytes.truncate(fetch.filled);
                Part::Plain(Arc::new(bytes))
            }
        };
        for read in waiters {
            let Some(waiting) = self.reads.get_mut(&read) else { continue };
            let end_here = waiting.end.min(chunk_end);
            // The file has become shorter than its reader knows: zeros or a short read would be bytes that never were.
            if end_here > come {
                self.fail_read(read, Errno::ESTALE);
                continue;
            }
            waiting.parts.insert(begin, part.clone());
            waiting.missing -= 1;
            if waiting.missing == 0 {
                self.answer(read);
            }
        }
        true
    }

    fn on_scattered_done(&mut self, mut read: Scattered, result: Result<(), &CallError>) {
        match result {
            // As with chunks: the file has become shorter than its reader knows.
            Ok(()) if read.bytes.len() < read.length => read.reply.error(Errno::ESTALE),
            Ok(()) => read.reply.data(&read.bytes),
            Err(error) => read.reply.error(errno_of(error)),
        }
        if self.spare.len() < SPARE_BUFFERS_MAX {
            read.bytes.clear();
            self.spare.push(read.bytes);
        }
    }

    /// Every part of a read is there.
    fn answer(&mut self, read: ReadId) {
        let Read { reply, offset, end, parts, .. } = self.reads.remove(&read).expect("its last chunk came just now");
        let span = |begin: u64, part: &Part| {
            let from = usize::try_from(offset.saturating_sub(begin)).expect("within a frame");
            let to = usize::try_from((end - begin).min(part.len() as u64)).expect("within a frame");
            from.min(to)..to
        };
        let found: usize = parts.iter().map(|(&begin, part)| span(begin, part).len()).sum();
        if found as u64 != end - offset {
            return reply.error(Errno::ESTALE);
        }
        let frame = |(&begin, part): (&u64, &Part)| match part {
            Part::Frame(frame) => Some((frame.clone(), span(begin, part))),
            Part::Plain(_) => None,
        };
        match parts.iter().map(frame).collect() {
            Some(frames) => {
                self.replies.parts(reply, frames);
            }
            None => reply.parts(parts.iter().map(|(&begin, part)| &part[span(begin, part)])),
        }
    }

    fn fail_read(&mut self, read: ReadId, errno: Errno) {
        if let Some(read) = self.reads.remove(&read) {
            read.reply.error(errno);
        }
    }

    /// Every waiting read ends with this.
    pub(super) fn fail_all(&mut self, errno: Errno) {
        self.fetches.clear();
        for (_, read) in std::mem::take(&mut self.scattered) {
            read.reply.error(errno);
        }
        // Their waiters are in `reads` too.
        drop(self.flights.complete_all());
        for (_, read) in std::mem::take(&mut self.reads) {
            read.reply.error(errno);
        }
    }
}

/// The read that is being built up, which nothing can have answered yet.
fn waiting(reads: &mut BTreeMap<ReadId, Read>, read: ReadId) -> &mut Read {
    reads.get_mut(&read).expect("a read waits until it is answered")
}

/// Whether a read is served past the cache.
fn is_scattered(op: &ReadOp) -> bool {
    op.pattern == Pattern::Scattered && op.length < RANDOM_BYTES_MAX && op.size > SMALL_FILE_BYTES_MAX
}

/// Which frames a read's chunks go to: small for small files, and for small reads that jump about in large ones. Large
/// reads are streams, whatever order the kernel's readahead sends them in.
fn class_of(op: &ReadOp) -> FrameClass {
    let jumps = op.pattern != Pattern::Stream && op.length < RANDOM_BYTES_MAX;
    if op.size <= SMALL_FILE_BYTES_MAX || jumps { FrameClass::Small } else { FrameClass::Large }
}

/// The errno a program sees for a call that has no answer.
pub(super) fn errno_of(error: &CallError) -> Errno {
    match error {
        CallError::Errno(errno) => Errno::new(*errno),
        CallError::Stale => Errno::ESTALE,
        CallError::TimedOut => Errno::new(libc::ETIMEDOUT),
        CallError::HostDown => Errno::new(libc::EHOSTDOWN),
        CallError::Busy => Errno::EBUSY,
        CallError::Cancelled => Errno::ENOTCONN,
        CallError::Over(crate::client::ClientError::Refused(..)) => Errno::new(libc::EACCES),
        CallError::Over(_) => Errno::ENOTCONN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::fixture::unheard;
    use crossbeam_channel::Receiver;
    use vfs::FileId;

    type Answered = Receiver<Result<Vec<u8>, Errno>>;

    struct Bench {
        now: Instant,
        client: Client,
        node: Node,
        fetches: Fetches,
    }

    impl Bench {
        fn new() -> Self {
            Self::with_frames(16)
        }

        /// With a cache of so many large frames.
        fn with_frames(frames: u64) -> Self {
            let now = Instant::now();
            let (client, node) = unheard(now);
            let (_, l1) = cache::l1(cache::L1Config { bytes_max: frames << 20, seed: 7 }).unwrap();
            Self { now, client, node, fetches: Fetches::new(l1, Replies::start().unwrap()) }
        }

        /// Reads from the one file, of which `version` with `size` bytes is known.
        fn read(&mut self, file: (u64, u64), offset: u64, length: u32) -> Answered {
            self.read_in(Pattern::Stream, file, offset, length)
        }

        fn read_in(&mut self, pattern: Pattern, (version, size): (u64, u64), offset: u64, length: u32) -> Answered {
            let (reply, answered) = DataReply::channel();
            let id = FileId { ino: 1, birth_ns: 0 };
            let (fh, ino, prefetch) = (1, 1, Vec::new());
            let op = ReadOp { fh, ino, id, version, size, offset, length, reply, prefetch, pattern };
            self.fetches.read(self.now, &mut self.client, &mut self.node, FileKey::NONE, op);
            answered
        }

        /// The host answers the one fetch under way, with `length` bytes of a file that is now `size` bytes long.
        fn answer(&mut self, (version, size): (u64, u64), length: usize) -> Option<Newer> {
            let calls = self.fetches.fetches.keys().chain(self.fetches.scattered.keys());
            let calls: Vec<CallId> = calls.copied().collect();
            let [call] = calls[..] else { panic!("{} fetches are under way", calls.len()) };
            let newer = self.fetches.on_begin(call, length as u64, size, version);
            self.fetches.on_data(call, &vec![version as u8; length]);
            assert!(self.fetches.on_done(call, Ok(())));
            newer
        }
    }

    #[test]
    fn a_file_that_grew_under_its_reader_is_read_whole() {
        let (old, new) = ((1, 100 << 10), (2, 200 << 10));
        let mut bench = Bench::new();
        let first = bench.read(old, 0, 100 << 10);
        // The host sends what was asked for, of a file that is longer by now.
        assert!(bench.answer(new, 100 << 10).is_some());
        assert_eq!(first.recv().unwrap().unwrap().len(), 100 << 10, "what it knew of is there");
        assert_eq!(bench.fetches.l1.reader().stats().insertions, 0, "half a chunk is not kept as a whole one");
        let second = bench.read(new, 0, 200 << 10);
        bench.answer(new, 200 << 10);
        assert_eq!(second.recv().unwrap(), Ok(vec![2; 200 << 10]));
        let third = bench.read(new, 0, 200 << 10);
        assert_eq!(third.recv().unwrap(), Ok(vec![2; 200 << 10]), "kept");
    }

    #[test]
    fn a_frame_that_is_too_short_for_a_read_is_fetched_anew() {
        // Two writes within one tick of the host's clock: another size, the same version.
        let (old, new) = ((1, 100 << 10), (1, 200 << 10));
        let mut bench = Bench::new();
        let first = bench.read(old, 0, 100 << 10);
        bench.answer(old, 100 << 10);
        assert_eq!(first.recv().unwrap().unwrap().len(), 100 << 10);
        let second = bench.read(new, 0, 200 << 10);
        bench.answer(new, 200 << 10);
        assert_eq!(second.recv().unwrap(), Ok(vec![1; 200 << 10]));
    }

    #[test]
    fn a_file_that_shrank_under_its_reader_is_stale_and_then_as_it_is() {
        let (old, new) = ((1, 200 << 10), (2, 100 << 10));
        let mut bench = Bench::new();
        let first = bench.read(old, 0, 200 << 10);
        assert!(bench.answer(new, 100 << 10).is_some());
        assert_eq!(first.recv().unwrap(), Err(Errno::ESTALE));
        let second = bench.read(new, 0, 200 << 10);
        assert_eq!(second.recv().unwrap(), Ok(vec![2; 100 << 10]), "its last chunk was kept");
    }

    #[test]
    fn scattered_reads_fetch_what_they_ask_for_and_keep_nothing() {
        let (old, new) = ((1, 1 << 30), (2, 1 << 20));
        let mut bench = Bench::new();
        let read = bench.read_in(Pattern::Scattered, old, 5 << 20, 4096);
        bench.answer(old, 4096);
        assert_eq!(read.recv().unwrap(), Ok(vec![1; 4096]));
        assert_eq!(bench.fetches.l1.reader().stats().insertions, 0);
        // Over the end of the file as its reader knows it.
        let read = bench.read_in(Pattern::Scattered, old, (1 << 30) - 100, 4096);
        bench.answer(old, 100);
        assert_eq!(read.recv().unwrap(), Ok(vec![1; 100]));
        let read = bench.read_in(Pattern::Scattered, old, (1 << 20) - 100, 4096);
        assert!(bench.answer(new, 100).is_some(), "the tree hears of the change");
        assert_eq!(read.recv().unwrap(), Err(Errno::ESTALE), "it is shorter than its reader knows");
        let read = bench.read_in(Pattern::Scattered, old, 5 << 20, 4096);
        bench.fetches.fail_all(Errno::EIO);
        assert_eq!(read.recv().unwrap(), Err(Errno::EIO));
    }

    #[test]
    fn a_pass_over_a_file_larger_than_the_cache_leaves_most_of_it_alone() {
        for (chunks, kept) in [(16, 16), (17, 2)] {
            let mut bench = Bench::new();
            let file = (1, chunks << 20);
            for chunk in 0..chunks {
                let read = bench.read(file, chunk << 20, 1 << 20);
                bench.answer(file, 1 << 20);
                assert_eq!(read.recv().unwrap().unwrap().len(), 1 << 20);
            }
            assert_eq!(bench.fetches.l1.reader().stats().frames_resident, kept, "of {chunks} chunks in 16 frames");
        }
    }

    #[test]
    fn too_many_scattered_reads_at_once_share_chunks() {
        let mut bench = Bench::new();
        let file = (1, 1 << 30);
        let reads = (0..=SCATTERED_MAX as u64).map(|place| bench.read_in(Pattern::Scattered, file, place << 12, 4096));
        assert!(reads.collect::<Vec<_>>().iter().all(Receiver::is_empty));
        assert_eq!((bench.fetches.scattered.len(), bench.fetches.fetches.len()), (SCATTERED_MAX, 1));
    }

    #[test]
    fn reads_without_memory_are_refused_and_leave_nothing_behind() {
        let mut bench = Bench::with_frames(1);
        let file = (1, 1 << 30);
        let chunk = |index: usize| (index as u64) << 20;
        let waiting: Vec<Answered> = (0..=PLAIN_MAX).map(|index| bench.read(file, chunk(index), 1 << 20)).collect();
        assert!(waiting.iter().all(|answered| answered.is_empty()), "one frame, and the memory beside it");
        for _ in 0..2 {
            let refused = bench.read(file, chunk(PLAIN_MAX + 1), 1 << 20);
            assert_eq!(refused.try_recv(), Ok(Err(Errno::EBUSY)));
        }
        let joined = bench.read(file, chunk(PLAIN_MAX), 4096);
        assert!(joined.is_empty(), "what is on its way serves all");
        assert_eq!(bench.fetches.fetches.len(), PLAIN_MAX + 1);
        bench.fetches.fail_all(Errno::EIO);
        assert_eq!(joined.try_recv(), Ok(Err(Errno::EIO)));
    }
}
