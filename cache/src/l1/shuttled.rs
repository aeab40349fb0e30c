//! The protocol under shuttle: longer histories than loom can exhaust, thousands of random and PCT schedules.
//!
//! Shuttle runs every operation in one total order, so it says nothing about memory orderings (loom does); it finds
//! the interleavings of a whole cache: several keys, slots that change hands, held frames, replacement, removal.
#![allow(dead_code, reason = "the modules below are compiled whole, and a model uses a part")]
#![allow(clippy::duplicate_mod, reason = "the same sources over other atomics is the point")]

use super::key;

mod sync {
    pub(super) use shuttle::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
}

#[path = "index.rs"]
mod index;
#[path = "slot.rs"]
mod slot;
#[path = "table.rs"]
mod table;

use index::Index;
use key::{ChunkKey, FrameClass};
use shuttle::rand::Rng;
use shuttle::sync::Arc;
use shuttle::thread;
use sync::{AtomicU64, Ordering};
use table::Cell;

const SLOTS: u32 = 3;
const KEYS: u64 = 5;
const WRITES: u64 = 8;
const READS: u64 = 6;

fn key(file: u64) -> ChunkKey {
    ChunkKey { file, version: 1, index: 0, class: FrameClass::Small }
}

struct Cache {
    index: Index,
    /// Two words a slot, the second the complement of the first while the slot is published: torn or reused memory
    /// shows. A value is `file * 1000 + write number`.
    payload: Vec<[AtomicU64; 2]>,
}

impl Cache {
    fn new() -> Arc<Self> {
        let payload = (0..SLOTS).map(|_| [AtomicU64::new(0), AtomicU64::new(0)]).collect();
        Arc::new(Self { index: Index::new(SLOTS), payload })
    }

    /// Reads the payload of a slot that the caller holds, and checks it.
    fn value(&self, slot: u32, file: u64) -> u64 {
        let [value, complement] = &self.payload[slot as usize];
        let value = value.load(Ordering::Relaxed);
        assert_eq!(value, !complement.load(Ordering::Relaxed), "torn payload");
        assert_eq!(value / 1000, file, "payload of another key");
        value
    }

    fn fill(&self, slot: u32, value: u64) {
        let [first, second] = &self.payload[slot as usize];
        first.store(value, Ordering::Relaxed);
        second.store(!value, Ordering::Relaxed);
    }

    /// Looks keys up, holds what it finds across other lookups, checks that held values do not change.
    fn read(&self) {
        let mut held: Option<(u32, u64, u64)> = None;
        let mut newest = [0; KEYS as usize];
        for _ in 0..READS {
            let file = shuttle::rand::thread_rng().gen_range(0..KEYS);
            let found = self.index.lookup(&key(file), key(file).hash(0));
            if let Some(slot) = found {
                let value = self.value(slot, file);
                assert!(value >= newest[file as usize], "an older value after a newer one");
                newest[file as usize] = value;
                self.index.slots.touch(slot);
                let before = held.replace((slot, file, value));
                if let Some((slot, file, value)) = before {
                    assert_eq!(self.value(slot, file), value, "a held frame changed");
                    self.index.slots.unpin(slot);
                }
            }
        }
        if let Some((slot, file, value)) = held {
            self.index.slots.pin_again(slot);
            self.index.slots.unpin(slot);
            assert_eq!(self.value(slot, file), value, "a held frame changed");
            self.index.slots.unpin(slot);
        }
    }
}

/// The least writer that uses every move; victims are drawn by lot.
struct Writer {
    cache: Arc<Cache>,
    home: Vec<u32>,
    placed: Vec<(Cell, u32)>,
}

impl Writer {
    fn come_home(&mut self, slot: u32) {
        assert!(!self.home.contains(&slot), "slot {slot} came home twice");
        assert!(self.placed.iter().all(|(_, placed)| *placed != slot), "slot {slot} came home while in the table");
        self.home.push(slot);
    }

    fn collect(&mut self) {
        let mut returned = Vec::new();
        self.cache.index.slots.take_returned(|slot| returned.push(slot));
        for slot in returned {
            self.come_home(slot);
        }
    }

    fn make_room(&mut self) {
        if self.placed.is_empty() {
            return;
        }
        let lot = shuttle::rand::thread_rng().gen_range(0..self.placed.len());
        let (cell, slot) = self.placed[lot];
        let index = &self.cache.index;
        if index.try_evict(cell, slot) {
            self.placed.swap_remove(lot);
            self.come_home(slot);
        } else if shuttle::rand::thread_rng().gen_bool(0.5) {
            let home = index.remove(cell, slot);
            self.placed.swap_remove(lot);
            if home {
                self.come_home(slot);
            }
        }
    }

    fn write(&mut self, number: u64) {
        self.collect();
        if self.home.is_empty() {
            self.make_room();
        }
        let Some(slot) = self.home.pop() else { return };
        let cache = Arc::clone(&self.cache);
        let index = &cache.index;
        index.slots.lend(slot);
        let file = shuttle::rand::thread_rng().gen_range(0..KEYS);
        cache.fill(slot, file * 1000 + number);
        if shuttle::rand::thread_rng().gen_bool(0.1) {
            // The fetch failed: the frame goes back unpublished.
            index.slots.unpin(slot);
            return;
        }
        let (chunk, hash) = (key(file), key(file).hash(0));
        let older = index.find(&chunk, hash);
        let cell = older.map_or_else(|| index.vacancy(hash).expect("16 cells for 3 slots"), |(cell, _)| cell);
        index.publish(cell, slot, &chunk, hash, 0);
        if let Some((cell, older)) = older {
            self.placed.retain(|placed| *placed != (cell, older));
            if index.slots.retire(older) {
                self.come_home(older);
            }
        }
        self.placed.push((cell, slot));
        let found = index.lookup(&chunk, hash).expect("published and not yet evicted");
        assert_eq!(found, slot);
        index.slots.unpin(found);
        index.slots.unpin(slot);
    }
}

fn history() {
    let cache = Cache::new();
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let cache = Arc::clone(&cache);
            thread::spawn(move || cache.read())
        })
        .collect();
    let mut writer = Writer { cache: Arc::clone(&cache), home: (0..SLOTS).collect(), placed: Vec::new() };
    for number in 1..=WRITES {
        writer.write(number);
    }
    for reader in readers {
        reader.join().unwrap();
    }
    writer.collect();
    assert_eq!(writer.home.len() + writer.placed.len(), SLOTS as usize, "every slot is accounted for");
    assert!((0..SLOTS).all(|slot| !cache.index.slots.is_pinned(slot)), "every pin was taken back");
}

#[test]
fn random_schedules() {
    shuttle::check_random(history, 10_000);
}

#[test]
fn priority_schedules() {
    shuttle::check_pct(history, 10_000, 4);
}
