//! Frames as their holders see them: bytes that stay while they are held.
//!
//! A frame is a pin on a slot (see [`slot`](super::slot)) and a share in the memory below it. Dropping the last one of
//! an unlinked slot sends its memory back to the writer, from whichever thread that happens on.
#![allow(unsafe_code)]

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::key::{ChunkKey, FrameClass};
use super::reader::{Lane, Shared};
use super::slab::Vacant;
use super::table::Cell;

/// One pin on one slot, and a share in the cache that the slot belongs to.
struct Held {
    lane: Arc<Lane>,
    slot: u32,
}

impl Clone for Held {
    fn clone(&self) -> Self {
        self.lane.shared.index.slots.pin_again(self.slot);
        Self { lane: Arc::clone(&self.lane), slot: self.slot }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.lane.shared.index.slots.unpin(self.slot);
    }
}

/// A cached chunk, held: its bytes neither change nor go away while a clone of it exists.
///
/// Cost of a clone: two uncontended atomic additions. Zero copy: `bytes::Bytes::from_owner(frame)` wraps it as it is.
/// A holder keeps one frame out of circulation, so hold frames for a reply, not for keeps.
#[derive(Clone)]
pub struct Frame {
    held: Held,
    len: u32,
}

impl Frame {
    /// Looks `key` up and holds what it finds.
    pub(super) fn find(lane: &Arc<Lane>, key: &ChunkKey) -> Option<Self> {
        let Shared { index, seed, .. } = &*lane.shared;
        let slot = index.lookup(key, key.hash(*seed))?;
        // The pin that the lookup left us, found LIVE; the length is read under it.
        let held = Held { lane: Arc::clone(lane), slot };
        Some(Self { held, len: index.slots.len(slot) })
    }

    /// Publishes a filled frame under `key` in `cell`; the filler's pin becomes the result's.
    ///
    /// # Panics
    /// If the frame's class is not the key's, or `len` is more than it holds.
    pub(super) fn publish(filled: FrameMut, cell: Cell, key: &ChunkKey, hash: u64, len: u32) -> Self {
        assert_eq!(filled.class, key.class, "the frame is of the key's class");
        assert!(len as usize <= filled.class.bytes(), "{len} bytes in a frame of {:?}", filled.class);
        let FrameMut { held, .. } = filled;
        held.lane.shared.index.publish(cell, held.slot, key, hash, len);
        Self { held, len }
    }

    /// Counts a use for eviction, as [`L1Reader::lookup`](super::L1Reader::lookup) does, of a frame found otherwise.
    pub fn count_use(&self) {
        self.held.lane.shared.index.slots.touch(self.held.slot);
    }
}

impl Deref for Frame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let start = self.held.lane.shared.arena.unit(self.held.slot);
        // SAFETY: `start` is the slot's first byte in the arena, which `held.lane` keeps mapped. `len` was published
        // with the slot (`find` reads it under the pin), and `publish` asserted that it lies within the slot's frame.
        // The bytes are initialised, and nobody writes them while this pin is held: payload is written through a
        // `FrameMut` only, and none of this slot exists before it has been home, which it cannot be while pinned.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), self.len as usize) }
    }
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame").field("slot", &self.held.slot).field("len", &self.len).finish()
    }
}

/// An empty frame to fill, held by one owner; dropped unpublished, it goes back to the cache.
///
/// Always as long as its class; starts with whatever the memory held before. Its address does not change until it is
/// dropped or published.
pub struct FrameMut {
    held: Held,
    class: FrameClass,
}

impl FrameMut {
    /// Lends vacant memory to a filler.
    pub(super) fn lend(lane: &Arc<Lane>, vacant: Vacant) -> Self {
        let slot = vacant.slot();
        lane.shared.index.slots.lend(slot);
        Self { held: Held { lane: Arc::clone(lane), slot }, class: vacant.class() }
    }

    /// Tells the frame's class.
    #[must_use]
    pub fn class(&self) -> FrameClass {
        self.class
    }

    pub(super) fn slot(&self) -> u32 {
        self.held.slot
    }

    /// Tells whether the frame was lent by the cache `shared`.
    pub(super) fn is_of(&self, shared: &Arc<Shared>) -> bool {
        Arc::ptr_eq(&self.held.lane.shared, shared)
    }
}

impl Deref for FrameMut {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let start = self.held.lane.shared.arena.unit(self.held.slot);
        // SAFETY: `start` begins `class.bytes()` initialised bytes, mapped while `held.lane` lives. They are this
        // value's alone: it consumed the `Vacant` that was the only claim to them (`slab`), and its slot is LENT, so no
        // `Frame` of it exists. `&self` rules out `deref_mut` meanwhile.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), self.class.bytes()) }
    }
}

impl DerefMut for FrameMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        let start = self.held.lane.shared.arena.unit(self.held.slot);
        // SAFETY: as in `deref`; `&mut self` makes this the only reference, since there is one `FrameMut` to a LENT
        // slot and it cannot be cloned. Stray pins may be counted in the slot's word, but they never reach payload.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), self.class.bytes()) }
    }
}

impl fmt::Debug for FrameMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameMut").field("slot", &self.held.slot).field("class", &self.class).finish()
    }
}
