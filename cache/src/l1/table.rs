//! The tag table: from a hash to the few slots that may carry the chunk.
//!
//! ```text
//!   hash  63 ........... 32 31 ............ 0        word  63 .... 32 31 ...... 0
//!             tag              home bucket                   tag      slot + 1      0 = empty
//!
//!   bucket = 8 words = one cache line; each chunk has two: home, and home ^ (tag | 1)
//! ```
//!
//! * A probe reads at most 16 words on two cache lines, so a miss is as bounded as a hit. There are no tombstones and
//!   nothing is ever moved: an entry lives and dies in one cell, so a reader cannot overlook one that was there all the
//!   time.
//! * One writer stores whole words (release); readers load them (acquire). A word is a hint: the slot has the last word.
//! * Sized at two words per slot at the least. Two choices of 8 at half load overflow practically never; when they do,
//!   the writer evicts one of the 16.
#![forbid(unsafe_code)]

use super::sync::{AtomicU64, Ordering};

/// Words in a bucket: one cache line.
const BUCKET_WORDS: usize = 8;
/// Table words per slot, before rounding up to a power of two.
const WORDS_PER_SLOT: usize = 2;

/// One cache line of words.
#[repr(align(64))]
struct Bucket([AtomicU64; BUCKET_WORDS]);

/// The number of one word in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell(u32);

impl Cell {
    /// Stands where a slot has no cell.
    pub(super) const NONE: Self = Self(u32::MAX);

    fn new(bucket: usize, word: usize) -> Self {
        Self((bucket * BUCKET_WORDS + word) as u32)
    }
}

/// One word as read: a tag and a slot.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Word(u64);

impl Word {
    const EMPTY: Self = Self(0);

    fn new(hash: u64, slot: u32) -> Self {
        Self((hash & TAG) | (u64::from(slot) + 1))
    }

    /// Returns the slot if the word is not empty and its tag is the hash's.
    pub(super) fn slot_for(self, hash: u64) -> Option<u32> {
        let filled = self != Self::EMPTY && (self.0 ^ hash) & TAG == 0;
        filled.then(|| (self.0 as u32).wrapping_sub(1))
    }

    fn is_empty(self) -> bool {
        self == Self::EMPTY
    }
}

/// The tag's bits, in words and hashes alike.
const TAG: u64 = u64::MAX << TAG_SHIFT;
const TAG_SHIFT: u32 = 32;

/// The table.
pub(super) struct Table {
    /// A power of two, at least two.
    buckets: Box<[Bucket]>,
}

impl Table {
    /// Creates an empty table for `slots` slots.
    pub(super) fn new(slots: u32) -> Self {
        let words = (slots as usize * WORDS_PER_SLOT).next_power_of_two();
        let buckets = (words / BUCKET_WORDS).max(2);
        let bucket = |_| Bucket(std::array::from_fn(|_| AtomicU64::new(0)));
        Self { buckets: (0..buckets).map(bucket).collect() }
    }

    /// Lists the 16 cells where `hash` may stand, home bucket first.
    pub(super) fn cells(&self, hash: u64) -> impl Iterator<Item = Cell> + use<> {
        let line = |bucket: usize| (0..BUCKET_WORDS).map(move |word| Cell::new(bucket, word));
        let [home, other] = self.pair(hash);
        line(home).chain(line(other))
    }

    /// Tries those of the 16 cells whose tag is the hash's, as a rule the chunk's own or none, until `look` finds.
    ///
    /// A tight loop over tags, with everything else left to `look`: this is what a miss costs.
    #[inline]
    pub(super) fn probe<T>(&self, hash: u64, mut look: impl FnMut(Cell) -> Option<T>) -> Option<T> {
        for number in self.pair(hash) {
            let Bucket(words) = &self.buckets[number];
            for (position, word) in words.iter().enumerate() {
                // Relaxed: only a hint of where to look. Whoever looks loads the word again.
                if (word.load(Ordering::Relaxed) ^ hash) >> TAG_SHIFT == 0 {
                    let found = look(Cell::new(number, position));
                    if found.is_some() {
                        return found;
                    }
                }
            }
        }
        None
    }

    /// The two buckets of `hash`.
    #[inline]
    fn pair(&self, hash: u64) -> [usize; 2] {
        let mask = self.buckets.len() - 1;
        let home = hash as usize & mask;
        [home, (home ^ ((hash >> 32) as usize | 1)) & mask]
    }

    /// Reads a cell.
    pub(super) fn load(&self, cell: Cell) -> Word {
        Word(self.at(cell).load(Ordering::Acquire))
    }

    /// Points a cell at `slot`. Writer only.
    pub(super) fn store(&self, cell: Cell, hash: u64, slot: u32) {
        self.at(cell).store(Word::new(hash, slot).0, Ordering::Release);
    }

    /// Empties a cell. Writer only.
    pub(super) fn clear(&self, cell: Cell) {
        self.at(cell).store(Word::EMPTY.0, Ordering::Release);
    }

    /// Finds an empty cell for `hash` in the emptier of its two buckets.
    pub(super) fn vacancy(&self, hash: u64) -> Option<Cell> {
        let mut vacant = [(0, None); 2];
        for (position, cell) in self.cells(hash).enumerate() {
            if self.load(cell).is_empty() {
                let (count, first) = &mut vacant[position / BUCKET_WORDS];
                *count += 1;
                first.get_or_insert(cell);
            }
        }
        let [home, other] = vacant;
        if other.0 > home.0 { other.1 } else { home.1 }
    }

    /// Reads the slot in a cell, whatever its tag. Writer only.
    pub(super) fn slot_in(&self, cell: Cell) -> Option<u32> {
        let word = self.load(cell);
        (!word.is_empty()).then(|| (word.0 as u32).wrapping_sub(1))
    }

    fn at(&self, Cell(cell): Cell) -> &AtomicU64 {
        let cell = cell as usize;
        &self.buckets[cell / BUCKET_WORDS].0[cell % BUCKET_WORDS]
    }
}
