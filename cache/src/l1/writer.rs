//! The writing end: the one thread that lends memory, publishes, replaces and evicts.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::arena::Arena;
use super::frame::{Frame, FrameMut};
use super::index::Index;
use super::key::{ChunkKey, FrameClass, SLAB_BYTES, UNIT_BYTES, UNITS_PER_SLAB};
use super::policy::{Residents, S3Fifo};
use super::reader::{L1Reader, Lane, Shared};
use super::slab::Slabs;
use super::slot::Slots;
use super::table::Cell;

/// The smallest budget: one slab.
pub const BYTES_MIN: u64 = SLAB_BYTES as u64;
/// The largest budget, 1 TiB: more memory than the machines this runs on, and 2^24 slots, well within every field.
pub const BYTES_MAX: u64 = 1 << 40;

/// The victims tried for a whole slab before slabs are searched one by one. Reached only if most slabs have a frame
/// that somebody holds.
const SLAB_VICTIMS_MAX: usize = 32;

/// How a cache is built. No default: the budget is the caller's to choose.
#[derive(Clone, Copy, Debug)]
pub struct L1Config {
    /// Bytes of all frames together, both classes; rounded down to whole MiB. Bookkeeping comes on top: about 2.5 KiB
    /// per MiB (0.25 %).
    pub bytes_max: u64,
    /// Any number that peers do not know; it keeps them from crowding the table (see [`ChunkKey`]).
    pub seed: u64,
}

/// Why a cache could not be built.
#[derive(Debug, thiserror::Error)]
pub enum L1Error {
    /// The budget lies outside [`BYTES_MIN`] to [`BYTES_MAX`]; the configuration's fault.
    #[error("a RAM cache of {bytes_max} bytes: between {BYTES_MIN} and {BYTES_MAX} are possible")]
    BudgetOutOfRange {
        /// What was asked for.
        bytes_max: u64,
    },
    /// The operating system refused the address space; the environment's fault.
    #[error("cannot reserve {bytes} bytes of address space for the RAM cache")]
    Map {
        /// What was asked for.
        bytes: u64,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// Builds a cache and returns its two ends.
///
/// # Errors
/// - [`L1Error::BudgetOutOfRange`]: the budget is too small or too large.
/// - [`L1Error::Map`]: the address space was refused.
pub fn l1(config: L1Config) -> Result<(L1Reader, L1Writer), L1Error> {
    let L1Config { bytes_max, seed } = config;
    if !(BYTES_MIN..=BYTES_MAX).contains(&bytes_max) {
        return Err(L1Error::BudgetOutOfRange { bytes_max });
    }
    let slabs = u32::try_from(bytes_max / SLAB_BYTES as u64).expect("BYTES_MAX is 2^20 slabs");
    let slots = slabs * UNITS_PER_SLAB;
    let arena = Arena::new(slabs).map_err(|source| L1Error::Map { bytes: bytes_max, source })?;
    let shared = Arc::new(Shared::new(Index::new(slots), arena, seed));
    let reader = L1Reader::new(Arc::clone(&shared));
    let writer = L1Writer {
        lane: Lane::new(shared),
        slabs: Slabs::new(slabs),
        policy: S3Fifo::new(slots),
        places: vec![Place { cell: Cell::NONE, hash: 0 }; slots as usize].into_boxed_slice(),
        counts: Counts::default(),
    };
    Ok((reader, writer))
}

/// Where a published slot stands.
#[derive(Clone, Copy)]
struct Place {
    /// [`Cell::NONE`] while the slot is not in the table.
    cell: Cell,
    hash: u64,
}

/// The counters, before they are shown to readers.
#[derive(Default)]
struct Counts {
    insertions: u64,
    evictions: u64,
    replacements: u64,
}

/// Fills and empties the cache; one owner, who may hand it to another thread.
///
/// To cache a chunk: `allocate`, fill, `insert`. Frames still held elsewhere when the writer is dropped stay valid, and
/// readers go on finding what was published.
pub struct L1Writer {
    lane: Arc<Lane>,
    slabs: Slabs,
    policy: S3Fifo,
    places: Box<[Place]>,
    counts: Counts,
}

impl Residents for Slots {
    fn touches(&self, slot: u32) -> u8 {
        self.touches(slot)
    }

    fn set_touches(&self, slot: u32, touches: u8) {
        self.set_touches(slot, touches);
    }

    fn is_pinned(&self, slot: u32) -> bool {
        self.is_pinned(slot)
    }
}

impl L1Writer {
    /// Lends an empty frame, evicting what it must.
    ///
    /// - `None`: no frame of this class can be had before readers or fillers let go of some. The caller holds back its
    ///   fetches and asks again later.
    /// - Cost: amortised O(1). A large frame may take the place of the up to sixteen small ones of one slab.
    pub fn allocate(&mut self, class: FrameClass) -> Option<FrameMut> {
        self.collect_returned();
        let mut vacant = self.slabs.take(class);
        if vacant.is_none() && self.make_room(class) {
            vacant = self.slabs.take(class);
        }
        self.show_counts();
        vacant.map(|vacant| FrameMut::lend(&self.lane, vacant))
    }

    /// As [`allocate`](Self::allocate), for a pass over a file that is larger than the cache: once such passes have a
    /// tenth of it, the memory of what they have read is used again before other free memory.
    pub fn allocate_for_scan(&mut self, class: FrameClass) -> Option<FrameMut> {
        self.collect_returned();
        if let Some(victim) = self.policy.scan_victim(&self.lane.shared.index.slots)
            && !self.try_evict(victim)
        {
            self.policy.defer(victim);
        }
        self.allocate(class)
    }

    /// Publishes a filled frame's first `len` bytes under `key`, replacing an older value of the same key.
    ///
    /// Returns the frame, held. Holders of the older value keep their bytes.
    ///
    /// # Panics
    /// If the frame came from another cache, is not of the key's class or is shorter than `len`.
    pub fn insert(&mut self, key: ChunkKey, filled: FrameMut, len: u32) -> Frame {
        self.publish(key, filled, len, false)
    }

    /// As [`insert`](Self::insert), for what [`allocate_for_scan`](Self::allocate_for_scan) lent.
    ///
    /// # Panics
    /// As `insert`.
    pub fn insert_for_scan(&mut self, key: ChunkKey, filled: FrameMut, len: u32) -> Frame {
        self.publish(key, filled, len, true)
    }

    fn publish(&mut self, key: ChunkKey, filled: FrameMut, len: u32, is_scan: bool) -> Frame {
        assert!(filled.is_of(&self.lane.shared), "the frame was lent by this cache");
        let hash = key.hash(self.lane.shared.seed);
        let slot = filled.slot();
        let older = self.index().find(&key, hash);
        let cell = match older {
            Some((cell, _)) => cell,
            None => self.index().vacancy(hash).unwrap_or_else(|| self.clear_cell(hash)),
        };
        let frame = Frame::publish(filled, cell, &key, hash, len);
        if let Some((_, older)) = older {
            // Its cell now points at the new frame, so only the slot is left to retire.
            let home = self.index().slots.retire(older);
            self.policy.remove(older);
            self.forget(older, home);
            self.counts.replacements += 1;
        }
        self.places[slot as usize] = Place { cell, hash };
        self.policy.admit(slot, key.class.units(), hash, is_scan);
        self.counts.insertions += 1;
        self.show_counts();
        frame
    }

    /// Returns another reading end.
    #[must_use]
    pub fn reader(&self) -> L1Reader {
        L1Reader::new(Arc::clone(&self.lane.shared))
    }

    fn index(&self) -> &Index {
        &self.lane.shared.index
    }

    /// Evicts until one frame of `class` fits; false if nothing that is not held would help.
    fn make_room(&mut self, class: FrameClass) -> bool {
        match class {
            FrameClass::Small => self.evict_one(),
            FrameClass::Large => self.evict_slab(),
        }
    }

    /// Evicts one frame of either class.
    fn evict_one(&mut self) -> bool {
        // A victim can be lost to a reader between choice and eviction; one try per frame is far beyond bad luck.
        for _ in 0..=self.policy.len() {
            let Some(victim) = self.policy.victim(&self.lane.shared.index.slots) else {
                return false;
            };
            if self.try_evict(victim) {
                return true;
            }
            self.policy.defer(victim);
        }
        false
    }

    /// Evicts all frames of one slab: the slab of the next victim where possible, else any.
    ///
    /// The victim's neighbours were filled about when it was, so they are about as old; evicting victims one by one
    /// until some slab happens to be empty would cost many times more.
    fn evict_slab(&mut self) -> bool {
        for _ in 0..SLAB_VICTIMS_MAX {
            let Some(victim) = self.policy.victim(&self.lane.shared.index.slots) else {
                return false;
            };
            if self.try_evict_slab(victim / UNITS_PER_SLAB) {
                return true;
            }
            // Still there if a neighbour of it is held or being filled.
            if self.places[victim as usize].cell != Cell::NONE {
                self.policy.defer(victim);
            }
        }
        (0..self.slabs.len()).any(|slab| self.try_evict_slab(slab))
    }

    /// Evicts all frames of a slab, if it has some and nobody holds or fills any of them.
    fn try_evict_slab(&mut self, slab: u32) -> bool {
        let mut frames = self.slabs.used_in(slab).peekable();
        let slots = &self.index().slots;
        let free_to_go = |slot: u32| self.places[slot as usize].cell != Cell::NONE && !slots.is_pinned(slot);
        if frames.peek().is_none() || !self.slabs.used_in(slab).all(free_to_go) {
            return false;
        }
        // A reader may still take hold of one in between; what is evicted by then stays evicted.
        frames.all(|slot| self.try_evict(slot))
    }

    fn try_evict(&mut self, slot: u32) -> bool {
        let Place { cell, hash } = self.places[slot as usize];
        let evicted = self.index().try_evict(cell, slot);
        if evicted {
            self.policy.evicted(slot, hash);
            self.forget(slot, true);
            self.counts.evictions += 1;
        }
        evicted
    }

    /// Frees a cell for `hash` where both its buckets are full: the least used of the sixteen goes, held or not.
    fn clear_cell(&mut self, hash: u64) -> Cell {
        let slots = &self.index().slots;
        let rank = |slot: &u32| (slots.is_pinned(*slot), slots.touches(*slot));
        let slot = self.index().neighbours(hash).min_by_key(rank).expect("without a vacancy there are neighbours");
        let Place { cell, hash } = self.places[slot as usize];
        let home = self.index().remove(cell, slot);
        self.policy.evicted(slot, hash);
        self.forget(slot, home);
        self.counts.evictions += 1;
        cell
    }

    /// Closes the books on a slot that left the table and the queues.
    fn forget(&mut self, slot: u32, home: bool) {
        self.places[slot as usize].cell = Cell::NONE;
        if home {
            self.slabs.give(slot);
        }
    }

    fn collect_returned(&mut self) {
        let Self { lane, slabs, .. } = self;
        lane.shared.index.slots.take_returned(|slot| slabs.give(slot));
    }

    fn show_counts(&self) {
        let Counts { insertions, evictions, replacements } = self.counts;
        let shown = &self.lane.shared.counters;
        shown.insertions.store(insertions, Ordering::Relaxed);
        shown.evictions.store(evictions, Ordering::Relaxed);
        shown.replacements.store(replacements, Ordering::Relaxed);
        shown.frames_resident.store(self.policy.len() as u64, Ordering::Relaxed);
        shown.bytes_resident.store(self.slabs.units_used() * UNIT_BYTES as u64, Ordering::Relaxed);
    }
}

impl fmt::Debug for L1Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("L1Writer").field("stats", &self.reader().stats()).finish_non_exhaustive()
    }
}
