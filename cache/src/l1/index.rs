//! Table and slots together: the whole protocol between many readers and the one writer.
//!
//! ```text
//!   reader                                   writer
//!   load word (acquire)      ◀──────┐        publish slot (release), then store word (release)
//!   tag matches? pin slot           │        replace: publish new, store word over the old one, retire old
//!   key matches? ── yes ─▶ hit      │        evict:   slot LIVE|0 → HOME, then clear word
//!   no: unpin, load word again ─────┘        remove:  clear word, then retire slot
//!       unchanged? next cell
//! ```
//!
//! A hit takes effect at its pin, a publication at its word store. Where a word changed under a reader, the writer has
//! moved on; the reader looks again, at most [`LOOKS_MAX`] times a cell, so a lookup is wait-free. A reader that loses
//! every one of those races reports a miss, which a cache may.
#![forbid(unsafe_code)]

use super::key::ChunkKey;
use super::slot::Slots;
use super::table::{Cell, Table};

/// The most times one cell is read in one lookup. Each further look means that the writer replaced the chunk within
/// the nanoseconds between two loads; four in a row do not happen by chance.
const LOOKS_MAX: usize = 4;

/// All that readers and the writer share besides payload.
pub(super) struct Index {
    pub(super) slots: Slots,
    table: Table,
}

impl Index {
    /// Creates an index of `slots` slots, all of them home and none in the table.
    pub(super) fn new(slots: u32) -> Self {
        Self { slots: Slots::new(slots), table: Table::new(slots) }
    }

    /// Finds the slot of `key` and pins it; the caller owes one `unpin`. Wait-free, no allocation.
    pub(super) fn lookup(&self, key: &ChunkKey, hash: u64) -> Option<u32> {
        self.table.probe(hash, |cell| self.look(cell, key, hash))
    }

    /// Looks at one cell whose tag seemed to match; kept out of the probe's loop.
    #[inline(never)]
    fn look(&self, cell: Cell, key: &ChunkKey, hash: u64) -> Option<u32> {
        let mut word = self.table.load(cell);
        for _ in 0..LOOKS_MAX {
            let slot = word.slot_for(hash)?;
            if self.slots.pin(slot) {
                if self.slots.carries(slot, key) {
                    return Some(slot);
                }
                self.slots.unpin(slot);
            }
            let again = self.table.load(cell);
            if again == word {
                return None;
            }
            word = again;
        }
        None
    }

    // What the writer does. Each takes or returns the cell, which the writer keeps per slot.

    /// Finds where `key` stands.
    pub(super) fn find(&self, key: &ChunkKey, hash: u64) -> Option<(Cell, u32)> {
        self.table.probe(hash, |cell| {
            let slot = self.table.load(cell).slot_for(hash)?;
            self.slots.carries(slot, key).then_some((cell, slot))
        })
    }

    /// Finds an empty cell for a chunk that stands nowhere yet.
    pub(super) fn vacancy(&self, hash: u64) -> Option<Cell> {
        self.table.vacancy(hash)
    }

    /// Lists the slots that stand in the cells of `hash`.
    pub(super) fn neighbours(&self, hash: u64) -> impl Iterator<Item = u32> {
        self.table.cells(hash).filter_map(|cell| self.table.slot_in(cell))
    }

    /// Publishes a filled slot in `cell`, which is empty or holds an older slot of the same key.
    pub(super) fn publish(&self, cell: Cell, slot: u32, key: &ChunkKey, hash: u64, len: u32) {
        self.slots.publish(slot, key, len);
        self.table.store(cell, hash, slot);
    }

    /// Evicts the slot in `cell` if nobody holds it; it is then home.
    pub(super) fn try_evict(&self, cell: Cell, slot: u32) -> bool {
        let evicted = self.slots.try_evict(slot);
        if evicted {
            self.table.clear(cell);
        }
        evicted
    }

    /// Removes the slot in `cell`, held or not; returns true if it is home at once.
    pub(super) fn remove(&self, cell: Cell, slot: u32) -> bool {
        self.table.clear(cell);
        self.slots.retire(slot)
    }
}
