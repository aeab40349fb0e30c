//! Tells streams from random access, one detector per open file, and says what to fetch ahead.
//!
//! ```text
//!            behind: 256 KiB   ahead: 512 KiB
//!   ───────────┼───────────────┼────────┼──────────────▶ offset
//!              └── a read that starts in here goes on with the stream ──┘
//!                              ▲ furthest byte read so far
//! ```
//!
//! The kernel reads one file from several threads, so the reads of a stream arrive out of order;
//! the tolerances are those of mountpoint-s3, found there on the same kernel interface.
//!
//! Reads that jump are told apart once more: those that keep coming back to a few places, where fetching
//! more than was asked for pays, and those that scatter, where it only costs.

#![forbid(unsafe_code)]

use std::ops::Range;

/// Unit of fetching, in bytes: the chunk of cache and wire.
pub const CHUNK_BYTES: u64 = 1 << 20;
/// How far behind the furthest byte a read of the stream may start.
pub const BEHIND_BYTES_MAX: u64 = 256 << 10;
/// How far ahead of the furthest byte a read of the stream may start.
pub const AHEAD_BYTES_MAX: u64 = 512 << 10;
/// First window: one chunk, the least there is to fetch.
pub const WINDOW_BYTES_MIN: u64 = CHUNK_BYTES;
/// Largest window: 10 Gbit/s for 6.7 ms, and all that one stream may pin in the cache.
pub const WINDOW_BYTES_MAX: u64 = 8 << 20;

const _: () = assert!(WINDOW_BYTES_MAX.is_multiple_of(CHUNK_BYTES));
const _: () = assert!(WINDOW_BYTES_MIN <= WINDOW_BYTES_MAX);

/// Jumps that are remembered to tell local from scattered reads.
///
/// Of reads scattered evenly over 1 GiB one in 64 then counts as local; reads within 16 MiB nearly all do.
pub const JUMPS_REMEMBERED: usize = 16;

/// How a read relates to those before it in the same open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// It goes on with a stream.
    Stream,
    /// It jumps, into a chunk that one of the last jumps went to.
    Local,
    /// It jumps to where none of the last jumps went.
    Scattered,
}

/// What a read means for the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// How the read relates to those before it.
    pub pattern: Pattern,
    /// Chunk indexes to fetch now; none of them was named before in this stream.
    pub prefetch: Range<u64>,
}

/// The detector of one open file.
#[derive(Clone, Debug, Default)]
pub struct Readahead {
    /// End of the furthest byte the stream has read; `None` before the first read.
    furthest: Option<u64>,
    /// Chunks below this index are read or named already.
    frontier: u64,
    /// Bytes to hold ready beyond `furthest`; 0 while there is no stream to follow.
    window_bytes: u64,
    jumps: Jumps,
}

/// The chunks that the last [`JUMPS_REMEMBERED`] jumps went to.
#[derive(Clone, Debug)]
struct Jumps {
    chunks: [u64; JUMPS_REMEMBERED],
    next: usize,
}

impl Default for Jumps {
    fn default() -> Self {
        // No file reaches to this chunk.
        Self { chunks: [u64::MAX; JUMPS_REMEMBERED], next: 0 }
    }
}

impl Jumps {
    /// Takes note of a jump; says whether an earlier one went there.
    fn note(&mut self, chunk: u64) -> bool {
        let is_known = self.chunks.contains(&chunk);
        if !is_known {
            self.chunks[self.next] = chunk;
            self.next = (self.next + 1) % JUMPS_REMEMBERED;
        }
        is_known
    }
}

impl Readahead {
    /// Takes note of a read of a file of `size` bytes, and advises.
    ///
    /// A first read at the start is sequential but fetches nothing ahead: many files are opened
    /// for their header alone. From the second read on the window doubles with each advance up to
    /// [`WINDOW_BYTES_MAX`]; a random read halves it, and below [`WINDOW_BYTES_MIN`] drops it.
    pub fn on_read(&mut self, offset: u64, length: u32, size: u64) -> Advice {
        let end = offset.saturating_add(length.into()).min(size);
        match self.furthest {
            None if offset == 0 => {
                self.move_to(end);
                self.advice(Pattern::Stream, 0)
            }
            Some(furthest) if is_near(offset, furthest) => {
                let furthest = furthest.max(end);
                self.furthest = Some(furthest);
                self.frontier = self.frontier.max(furthest.div_ceil(CHUNK_BYTES));
                self.window_bytes = self.window_bytes.max(WINDOW_BYTES_MIN);
                let target = furthest.saturating_add(self.window_bytes).min(size);
                let advice = self.advice(Pattern::Stream, target.div_ceil(CHUNK_BYTES));
                if !advice.prefetch.is_empty() {
                    self.window_bytes = (self.window_bytes * 2).min(WINDOW_BYTES_MAX);
                }
                advice
            }
            _ => {
                self.move_to(end.max(offset.min(size)));
                let halved = self.window_bytes / 2;
                self.window_bytes = if halved < WINDOW_BYTES_MIN { 0 } else { halved };
                let pattern = if self.jumps.note(offset / CHUNK_BYTES) { Pattern::Local } else { Pattern::Scattered };
                self.advice(pattern, 0)
            }
        }
    }

    /// Bytes held ready ahead of the stream; 0 while there is none.
    pub fn window_bytes(&self) -> u64 {
        self.window_bytes
    }

    /// Begins anew: what was named for the old place may be named again.
    fn move_to(&mut self, furthest: u64) {
        self.furthest = Some(furthest);
        self.frontier = furthest.div_ceil(CHUNK_BYTES);
    }

    /// Names the chunks from the frontier up to `target`, and moves the frontier there.
    fn advice(&mut self, pattern: Pattern, target: u64) -> Advice {
        let prefetch = self.frontier..target.max(self.frontier);
        self.frontier = prefetch.end;
        Advice { pattern, prefetch }
    }
}

fn is_near(offset: u64, furthest: u64) -> bool {
    let behind = furthest.saturating_sub(BEHIND_BYTES_MAX);
    let ahead = furthest.saturating_add(AHEAD_BYTES_MAX);
    (behind..=ahead).contains(&offset)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: u64 = 1 << 30;
    const READ: u32 = 128 << 10;

    /// A detector that has followed a stream up to 16 MiB.
    fn in_stream() -> Readahead {
        let mut readahead = Readahead::default();
        for offset in (0..16 << 20).step_by(READ as usize) {
            assert_eq!(readahead.on_read(offset, READ, SIZE).pattern, Pattern::Stream);
        }
        assert_eq!(readahead.window_bytes(), WINDOW_BYTES_MAX);
        readahead
    }

    #[test]
    fn the_first_read_fetches_nothing_ahead() {
        let advice = Readahead::default().on_read(0, READ, SIZE);
        assert_eq!(advice, Advice { pattern: Pattern::Stream, prefetch: 1..1 });
        let advice = Readahead::default().on_read(1, READ, SIZE);
        assert_eq!(advice, Advice { pattern: Pattern::Scattered, prefetch: 1..1 });
    }

    #[test]
    fn the_window_doubles_up_to_its_bound() {
        let mut readahead = Readahead::default();
        let mut windows = vec![];
        for offset in (0..8 << 20).step_by(READ as usize) {
            readahead.on_read(offset, READ, SIZE);
            windows.push(readahead.window_bytes() >> 20);
        }
        windows.dedup();
        assert_eq!(windows, [0, 2, 4, 8]);
    }

    #[test]
    fn a_stream_tolerates_exactly_its_bounds() {
        let furthest = 16 << 20;
        for (offset, sequential) in [
            (furthest - BEHIND_BYTES_MAX, true),
            (furthest - BEHIND_BYTES_MAX - 1, false),
            (furthest + AHEAD_BYTES_MAX, true),
            (furthest + AHEAD_BYTES_MAX + 1, false),
        ] {
            let pattern = in_stream().on_read(offset, READ, SIZE).pattern;
            assert_eq!(pattern == Pattern::Stream, sequential, "{offset}");
        }
    }

    #[test]
    fn random_reads_halve_then_drop_the_window() {
        let mut readahead = in_stream();
        let mut windows = vec![];
        for jump in 1..=5u64 {
            let advice = readahead.on_read(jump * (64 << 20), READ, SIZE);
            assert!(advice.pattern == Pattern::Scattered && advice.prefetch.is_empty());
            windows.push(readahead.window_bytes() >> 20);
        }
        assert_eq!(windows, [4, 2, 1, 0, 0]);
    }

    #[test]
    fn jumps_that_come_back_are_local_until_they_are_forgotten() {
        let mut readahead = Readahead::default();
        let mut pattern = |chunk: u64| readahead.on_read(chunk * CHUNK_BYTES + 4096, 4096, SIZE).pattern;
        let places = (1..=JUMPS_REMEMBERED as u64).map(|place| place * 10);
        for place in places.clone() {
            assert_eq!(pattern(place), Pattern::Scattered, "{place}");
        }
        for place in places {
            assert_eq!(pattern(place), Pattern::Local, "{place}");
        }
        assert_eq!(pattern(500), Pattern::Scattered);
        assert_eq!(pattern(10), Pattern::Scattered, "the oldest made room");
        assert_eq!(pattern(30), Pattern::Local);
    }

    #[test]
    fn nothing_beyond_the_end_is_fetched() {
        let mut readahead = Readahead::default();
        let size = (3 << 20) + 1;
        let named: Vec<u64> = (0..size)
            .step_by(READ as usize)
            .flat_map(|offset| readahead.on_read(offset, READ, size).prefetch)
            .collect();
        assert_eq!(named, [1, 2, 3]);
    }

    proptest! {
        /// Within a stream chunks are named in order, each once, none twice read, none past the end.
        #[test]
        fn each_chunk_is_named_once_per_stream(
            reads in prop::collection::vec((0u64..40 << 20, 1u32..1 << 21), 1..60),
            size in 1u64..40 << 20,
        ) {
            let mut readahead = Readahead::default();
            let mut named_below = 0;
            for (offset, length) in reads {
                let advice = readahead.on_read(offset, length, size);
                if advice.pattern != Pattern::Stream {
                    prop_assert!(advice.prefetch.is_empty());
                    named_below = 0;
                }
                prop_assert!(advice.prefetch.start >= named_below);
                named_below = advice.prefetch.end;
                prop_assert!(advice.prefetch.is_empty() || advice.prefetch.end <= size.div_ceil(CHUNK_BYTES));
                prop_assert!(readahead.window_bytes() <= WINDOW_BYTES_MAX);
            }
        }
    }
}
