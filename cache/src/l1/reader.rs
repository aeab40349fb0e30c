//! The reading end: lookups from any thread, and the counters.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::arena::Arena;
use super::frame::Frame;
use super::index::Index;
use super::key::ChunkKey;

/// Counter stripes. Lookups from up to 16 readers count on lines of their own; more share, which is slower, not wrong.
const STRIPES: usize = 16;

/// One stripe of reader counters, alone on its cache line.
#[derive(Default)]
#[repr(align(64))]
struct Stripe {
    hits: AtomicU64,
    misses: AtomicU64,
}

/// The writer's counters as readers see them; stored by the writer alone.
#[derive(Default)]
#[repr(align(64))]
pub(super) struct WriterCounters {
    pub(super) insertions: AtomicU64,
    pub(super) evictions: AtomicU64,
    pub(super) replacements: AtomicU64,
    pub(super) frames_resident: AtomicU64,
    pub(super) bytes_resident: AtomicU64,
}

/// All that the ends of one cache share.
pub(super) struct Shared {
    pub(super) index: Index,
    pub(super) arena: Arena,
    pub(super) counters: WriterCounters,
    pub(super) seed: u64,
    stripes: [Stripe; STRIPES],
    lanes: AtomicUsize,
}

impl Shared {
    pub(super) fn new(index: Index, arena: Arena, seed: u64) -> Self {
        Self {
            index,
            arena,
            counters: WriterCounters::default(),
            seed,
            stripes: Default::default(),
            lanes: AtomicUsize::new(0),
        }
    }
}

/// One handle's share in the cache.
///
/// Each frame keeps its handle's lane alive, and the lane keeps the cache. Counting references per handle instead of
/// per cache keeps threads with a reader each off one another's cache lines.
#[repr(align(64))]
pub(super) struct Lane {
    pub(super) shared: Arc<Shared>,
    stripe: usize,
}

impl Lane {
    pub(super) fn new(shared: Arc<Shared>) -> Arc<Self> {
        let stripe = shared.lanes.fetch_add(1, Ordering::Relaxed) % STRIPES;
        Arc::new(Self { shared, stripe })
    }
}

/// Looks chunks up; wait-free, from any thread.
///
/// Give each thread a clone of its own: clones count on separate cache lines.
pub struct L1Reader {
    lane: Arc<Lane>,
}

impl Clone for L1Reader {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.lane.shared))
    }
}

impl L1Reader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { lane: Lane::new(shared) }
    }

    /// Looks a chunk up and counts the use, for the statistics and for eviction.
    ///
    /// - Cost: at most 16 table words on two cache lines, and three atomic additions on a hit. No lock, no allocation.
    /// - A chunk inserted before the call and not replaced, removed or evicted since is found.
    #[must_use]
    pub fn lookup(&self, key: &ChunkKey) -> Option<Frame> {
        let stripe = &self.lane.shared.stripes[self.lane.stripe];
        let frame = self.peek(key);
        match &frame {
            Some(frame) => {
                frame.count_use();
                stripe.hits.fetch_add(1, Ordering::Relaxed);
            }
            None => {
                stripe.misses.fetch_add(1, Ordering::Relaxed);
            }
        }
        frame
    }

    /// Looks a chunk up without counting a use.
    ///
    /// For reads that go on in a chunk which the same stream looks up once anyway: sixteen 64 KiB reads of one large
    /// chunk are one use of it, and counted as sixteen they would make every file streamed once look popular.
    #[must_use]
    pub fn peek(&self, key: &ChunkKey) -> Option<Frame> {
        Frame::find(&self.lane, key)
    }

    /// Returns the budget: bytes of all frames together.
    #[must_use]
    pub fn bytes_max(&self) -> u64 {
        self.lane.shared.arena.bytes()
    }

    /// Reads the counters. Each is exact; together they are of one moment only while nobody else is at work.
    #[must_use]
    pub fn stats(&self) -> L1Stats {
        let shared = &self.lane.shared;
        let sum = |counter: fn(&Stripe) -> &AtomicU64| {
            shared.stripes.iter().map(|stripe| counter(stripe).load(Ordering::Relaxed)).sum()
        };
        let counters = &shared.counters;
        L1Stats {
            hits: sum(|stripe| &stripe.hits),
            misses: sum(|stripe| &stripe.misses),
            insertions: counters.insertions.load(Ordering::Relaxed),
            evictions: counters.evictions.load(Ordering::Relaxed),
            replacements: counters.replacements.load(Ordering::Relaxed),
            frames_resident: counters.frames_resident.load(Ordering::Relaxed),
            bytes_resident: counters.bytes_resident.load(Ordering::Relaxed),
        }
    }
}

impl fmt::Debug for L1Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("L1Reader").field("stats", &self.stats()).finish()
    }
}

/// What a cache has done so far. `insertions == evictions + replacements + frames_resident`, always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct L1Stats {
    /// Lookups that found their chunk.
    pub hits: u64,
    /// Lookups that did not.
    pub misses: u64,
    /// Chunks published.
    pub insertions: u64,
    /// Chunks that gave way to others.
    pub evictions: u64,
    /// Chunks replaced by a newer value of the same key.
    pub replacements: u64,
    /// Chunks that can be found now.
    pub frames_resident: u64,
    /// Bytes of all frames not free, counted in whole frames: findable, being filled, or unlinked but still held (until
    /// the writer has taken note of their return). Never more than the budget.
    pub bytes_resident: u64,
}
