//! The open files as any thread that takes requests sees them: no lock, no visit to the shard.
//!
//! One slot per open file, each a seqlock made of atomics alone: the shard writes, any thread
//! reads a consistent copy or nothing. The handle number names its slot and the slot's
//! generation, so that a late reader of a closed handle finds nothing.

#![forbid(unsafe_code)]

use std::hint;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::arena;

/// Files open at one time, through all processes on the mount.
///
/// Bounds the table to 2.5 MiB, allocated at once. A build or render machine holds a few
/// thousand files open; the usual hard limit of one process is half a million, which no share
/// has been seen to approach.
pub const OPEN_FILES_MAX: usize = 65_536;

/// How often a snapshot is taken again before the reader goes by way of the shard instead.
///
/// The writer holds a slot for five stores, tens of nanoseconds; a reader that meets it this
/// often has caught a writer that was descheduled.
const SNAPSHOT_TRIES_MAX: u32 = 64;

/// What a reader needs to find the bytes of an open file in a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenView {
    /// Inode number of the file.
    pub file: u64,
    /// Version of the content when last heard of.
    pub version: u64,
    /// Size in bytes at that version.
    pub size: u64,
}

/// One open file. `sequence` is odd while the fields change.
#[derive(Debug, Default)]
struct Slot {
    sequence: AtomicU64,
    /// The whole handle, or 0 for a free slot.
    fh: AtomicU64,
    file: AtomicU64,
    version: AtomicU64,
    size: AtomicU64,
}

/// The open files of one mount; shared by all its threads.
#[derive(Debug)]
pub struct HandleTable {
    slots: Box<[Slot]>,
}

impl HandleTable {
    /// What is open under `fh`, or `None` when it is closed or being changed just now.
    ///
    /// Wait-free; about five loads. `None` means: ask the shard, it knows for certain.
    pub fn snapshot(&self, fh: u64) -> Option<OpenView> {
        let slot = self.slots.get(arena::index(fh))?;
        for _ in 0..SNAPSHOT_TRIES_MAX {
            let before = slot.sequence.load(Ordering::Acquire);
            if before.is_multiple_of(2) {
                let found = slot.fh.load(Ordering::Relaxed);
                let view = OpenView {
                    file: slot.file.load(Ordering::Relaxed),
                    version: slot.version.load(Ordering::Relaxed),
                    size: slot.size.load(Ordering::Relaxed),
                };
                // Keeps the loads above from sinking below the second look at the sequence.
                fence(Ordering::Acquire);
                if slot.sequence.load(Ordering::Relaxed) == before {
                    return (found == fh && fh != 0).then_some(view);
                }
            }
            hint::spin_loop();
        }
        None
    }
}

/// The only writer of a [`HandleTable`]: not cloneable, and every change needs `&mut`.
#[derive(Debug)]
pub(crate) struct HandlePublisher {
    table: Arc<HandleTable>,
}

impl HandlePublisher {
    pub(crate) fn new(capacity: usize) -> Self {
        let slots = (0..capacity).map(|_| Slot::default()).collect();
        Self { table: Arc::new(HandleTable { slots }) }
    }

    pub(crate) fn table(&self) -> Arc<HandleTable> {
        Arc::clone(&self.table)
    }

    /// Makes `fh` visible, or changes what is seen under it.
    pub(crate) fn publish(&mut self, fh: u64, view: OpenView) {
        self.write(fh, fh, view);
    }

    /// Makes `fh` invisible, if the slot has not gone to another handle since.
    pub(crate) fn retract(&mut self, fh: u64) {
        let slot = &self.table.slots[arena::index(fh)];
        if slot.fh.load(Ordering::Relaxed) == fh {
            self.write(fh, 0, OpenView { file: 0, version: 0, size: 0 });
        }
    }

    fn write(&mut self, fh: u64, visible: u64, view: OpenView) {
        let slot = &self.table.slots[arena::index(fh)];
        let before = slot.sequence.load(Ordering::Relaxed);
        debug_assert!(before.is_multiple_of(2), "one writer at a time");
        slot.sequence.store(before.wrapping_add(1), Ordering::Relaxed);
        // Keeps the stores below from rising above the odd sequence.
        fence(Ordering::Release);
        slot.fh.store(visible, Ordering::Relaxed);
        slot.file.store(view.file, Ordering::Relaxed);
        slot.version.store(view.version, Ordering::Relaxed);
        slot.size.store(view.size, Ordering::Relaxed);
        slot.sequence.store(before.wrapping_add(2), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

    fn key(generation: u64, index: u64) -> u64 {
        generation << 32 | index
    }

    fn view(seed: u64) -> OpenView {
        OpenView { file: seed, version: !seed, size: seed.wrapping_mul(3) }
    }

    #[test]
    fn shows_only_the_handle_that_is_open() {
        let mut publisher = HandlePublisher::new(2);
        let table = publisher.table();
        assert_eq!(table.snapshot(0), None);
        publisher.publish(key(1, 1), view(7));
        assert_eq!(table.snapshot(key(1, 1)), Some(view(7)));
        assert_eq!(table.snapshot(key(2, 1)), None);
        assert_eq!(table.snapshot(key(1, 2)), None);
        publisher.publish(key(3, 1), view(8));
        publisher.retract(key(1, 1));
        assert_eq!(table.snapshot(key(3, 1)), Some(view(8)));
        publisher.retract(key(3, 1));
        assert_eq!(table.snapshot(key(3, 1)), None);
    }

    /// The fields of a view depend on each other, and the file on the handle: any mixture shows.
    #[test]
    fn readers_never_see_a_mixture() {
        const ROUNDS: u64 = 200_000;
        let mut publisher = HandlePublisher::new(1);
        let table = publisher.table();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        let mut seen = 0u64;
                        while !done.load(Ordering::Acquire) || seen == 0 {
                            for generation in 1..=2 {
                                if let Some(found) = table.snapshot(key(generation, 0)) {
                                    assert_eq!(found, view(found.file));
                                    assert_eq!(found.file % 2 + 1, generation);
                                    seen += 1;
                                }
                            }
                        }
                        seen
                    })
                })
                .collect();
            for round in 0..ROUNDS {
                publisher.publish(key(round % 2 + 1, 0), view(round));
            }
            done.store(true, Ordering::Release);
            for reader in readers {
                assert!(reader.join().unwrap() > 0);
            }
        });
    }
}
