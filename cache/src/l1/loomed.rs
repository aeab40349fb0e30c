//! The protocol under loom: every interleaving, every value the memory model allows, for a few operations at a time.
//!
//! Payload is a loom cell, so a read that is not ordered after the fill, or before the next one, fails the test even
//! where it would return the right bytes. Loom has no lost wake-ups to look for here; what it proves are the orderings.
#![allow(dead_code, reason = "the modules below are compiled whole, and a model uses a part")]
#![allow(clippy::duplicate_mod, reason = "the same sources over other atomics is the point")]

use super::key;

mod sync {
    pub(super) use loom::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
}

#[path = "index.rs"]
mod index;
#[path = "slot.rs"]
mod slot;
#[path = "table.rs"]
mod table;

use index::Index;
use key::{ChunkKey, FrameClass};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use slot::Slots;
use table::Cell;

fn key(file: u64) -> ChunkKey {
    ChunkKey { file, version: 1, index: 0, class: FrameClass::Small }
}

/// Loom's cell asks for raw pointers; this is the fence around them.
#[allow(unsafe_code)]
mod payload {
    use super::UnsafeCell;

    pub(super) struct Payload(UnsafeCell<u64>);

    // SAFETY: loom itself checks each access to the cell for races; that check is what the models are for.
    unsafe impl Sync for Payload {}

    impl Payload {
        pub(super) fn new() -> Self {
            Self(UnsafeCell::new(0))
        }

        pub(super) fn read(&self) -> u64 {
            // SAFETY: loom hands out the cell's own pointer and fails the model if a write is not ordered with this.
            self.0.with(|value| unsafe { *value })
        }

        pub(super) fn write(&self, filled: u64) {
            // SAFETY: loom hands out the cell's own pointer and fails the model if any access is not ordered with this.
            self.0.with_mut(|value| unsafe { *value = filled });
        }
    }
}

struct OneSlot {
    slots: Slots,
    payload: payload::Payload,
}

impl OneSlot {
    fn new() -> Arc<Self> {
        Arc::new(Self { slots: Slots::new(1), payload: payload::Payload::new() })
    }

    /// Fills the slot, which is home, and publishes it, the filler's pin let go.
    fn fill(&self, file: u64) {
        self.slots.lend(0);
        self.payload.write(file);
        self.slots.publish(0, &key(file), 0);
        self.slots.unpin(0);
    }

    /// Pins, checks that key and payload belong together, unpins.
    fn read(&self) {
        if self.slots.pin(0) {
            let file = self.payload.read();
            assert!(self.slots.carries(0, &key(file)), "payload {file} under another key");
            self.slots.unpin(0);
        }
    }

    fn take_returned(&self) -> u32 {
        let mut count = 0;
        self.slots.take_returned(|_| count += 1);
        count
    }
}

#[test]
fn a_reader_sees_a_published_frame_whole_or_not_at_all() {
    loom::model(|| {
        let one = OneSlot::new();
        let reader = {
            let one = Arc::clone(&one);
            thread::spawn(move || one.read())
        };
        one.fill(1);
        reader.join().unwrap();
    });
}

#[test]
fn a_frame_is_refilled_only_after_its_readers_left() {
    loom::model(|| {
        let one = OneSlot::new();
        one.fill(1);
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let one = Arc::clone(&one);
                thread::spawn(move || one.read())
            })
            .collect();
        if one.slots.try_evict(0) {
            one.fill(2);
        }
        for reader in readers {
            reader.join().unwrap();
        }
        assert!(!one.slots.is_pinned(0));
        assert_eq!(one.take_returned(), 0, "what was never lent out unlisted is not returned");
    });
}

#[test]
fn a_retired_frame_comes_home_exactly_once() {
    let mut model = loom::model::Builder::new();
    // Unbounded it passes too, in a minute; the mistakes it is there for need two or three preemptions.
    model.preemption_bound = Some(4);
    model.check(|| {
        let one = OneSlot::new();
        one.fill(1);
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let one = Arc::clone(&one);
                thread::spawn(move || one.read())
            })
            .collect();
        let mut times_home = u32::from(one.slots.retire(0));
        times_home += one.take_returned();
        let refilled = times_home == 1;
        if refilled {
            one.fill(2);
        }
        for reader in readers {
            reader.join().unwrap();
        }
        times_home += one.take_returned();
        assert_eq!(times_home, 1);
        assert!(!one.slots.is_pinned(0));
        if refilled {
            assert!(one.slots.try_evict(0), "live and not held");
        }
    });
}

#[test]
fn an_abandoned_fill_comes_home_once_although_stray_pins_pass_by() {
    loom::model(|| {
        let one = OneSlot::new();
        one.slots.lend(0);
        let stray = {
            let one = Arc::clone(&one);
            thread::spawn(move || assert!(!one.slots.pin(0), "a lent slot cannot be pinned"))
        };
        one.payload.write(9);
        one.slots.unpin(0);
        stray.join().unwrap();
        assert_eq!(one.take_returned(), 1);
        assert!(!one.slots.is_pinned(0));
    });
}

#[test]
fn frames_of_two_threads_return_on_one_stack() {
    loom::model(|| {
        let slots = Arc::new(Slots::new(2));
        slots.lend(0);
        slots.lend(1);
        let other = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || slots.unpin(1))
        };
        slots.unpin(0);
        let mut home = Vec::new();
        slots.take_returned(|slot| home.push(slot));
        other.join().unwrap();
        slots.take_returned(|slot| home.push(slot));
        home.sort_unstable();
        assert_eq!(home, [0, 1]);
    });
}

/// A replaced chunk is never missed: the reader finds the old value or the new one.
#[test]
fn replacement_never_looks_like_absence() {
    let mut model = loom::model::Builder::new();
    // A probe is many loads; three preemptions cover the races of one replacement.
    model.preemption_bound = Some(3);
    model.check(|| {
        let index = Arc::new(Index::new(2));
        let (chunk, hash) = (key(7), key(7).hash(0));
        let cell: Cell = index.vacancy(hash).unwrap();
        index.slots.lend(0);
        index.publish(cell, 0, &chunk, hash, 10);
        index.slots.unpin(0);
        let reader = {
            let index = Arc::clone(&index);
            thread::spawn(move || {
                let slot = index.lookup(&chunk, hash).expect("present throughout");
                let len = index.slots.len(slot);
                assert_eq!(len, [10, 20][slot as usize]);
                index.slots.unpin(slot);
            })
        };
        index.slots.lend(1);
        index.publish(cell, 1, &chunk, hash, 20);
        index.slots.unpin(1);
        let mut home = index.slots.retire(0);
        reader.join().unwrap();
        index.slots.take_returned(|slot| {
            assert_eq!((slot, home), (0, false));
            home = true;
        });
        assert!(home);
    });
}
