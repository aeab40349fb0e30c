//! Receive slots: handed to the application without a copy, taken back when it lets go.
//!
//! ```text
//!   kernel ─▶ slot filled ─┬─ small train ──────────▶ copied; the slot goes straight back
//!                          ├─ a spare slot is there ─▶ handed over; the spare takes its place,
//!                          │                           the remainder handle waits in `lent`
//!                          └─ all spares are out ────▶ copied; the slot goes straight back
//! ```
//!
//! The remainder handle and the application's slices share one allocation; when the handle is the
//! last of them, `BytesMut::try_reclaim` turns it into the whole slot again.

use super::{DATAGRAM_TRAIN_BYTES_MAX, Datagrams, IoStats};
use crate::sys::msg::Arrival;
use bytes::{Buf, BytesMut};
use std::collections::VecDeque;
use std::ops::Range;

/// Payload room of a slot: no UDP datagram, joined or not, is longer (the length field has 16
/// bits). A smaller slot would cut trains off.
pub(super) const PAYLOAD_BYTES_MAX: usize = 65_535;

const _: () = assert!(PAYLOAD_BYTES_MAX >= DATAGRAM_TRAIN_BYTES_MAX);

/// Trains up to this size are copied: an acknowledgement must not pin 64 KiB, and copying 2 KiB
/// costs about as much as the bookkeeping of a hand-over. One full datagram at MTU 1500 fits.
const COPY_BYTES_MAX: usize = 2048;

/// Lent slots looked at per train. Slots come back nearly in order; a few tries step over those
/// held by a hole in some stream, and the bound keeps a starved shard from searching all.
const RECLAIM_TRIES_MAX: usize = 4;

/// The slots of one shard that are not in the kernel's hands.
#[derive(Debug)]
pub(super) struct SlotPool {
    slot_bytes: usize,
    /// Slots that may still be allocated.
    unmade: usize,
    /// Remainders of handed-over slots, oldest first.
    lent: VecDeque<BytesMut>,
}

impl SlotPool {
    /// Makes a pool that will allocate up to `slots` of `slot_bytes`, none of them yet.
    pub(super) fn new(slots: usize, slot_bytes: usize) -> Self {
        Self { slot_bytes, unmade: slots, lent: VecDeque::with_capacity(slots) }
    }

    /// Takes an empty slot: a returned one while its memory is warm, else a new one.
    pub(super) fn take(&mut self) -> Option<BytesMut> {
        for _ in 0..RECLAIM_TRIES_MAX.min(self.lent.len()) {
            let mut slot = self.lent.pop_front()?;
            if slot.try_reclaim(self.slot_bytes) {
                return Some(slot);
            }
            self.lent.push_back(slot);
        }
        self.unmade = self.unmade.checked_sub(1)?;
        Some(BytesMut::with_capacity(self.slot_bytes))
    }

    /// Turns a filled slot into the train it holds and an empty slot for the kernel.
    pub(super) fn hand_over(
        &mut self,
        mut slot: BytesMut,
        payload: Range<usize>,
        stats: &mut IoStats,
    ) -> (BytesMut, BytesMut) {
        let spare = if payload.len() <= COPY_BYTES_MAX {
            stats.trains_copied_small += 1;
            None
        } else {
            let spare = self.take();
            stats.trains_copied_starved += u64::from(spare.is_none());
            spare
        };
        let Some(spare) = spare else {
            let copy = BytesMut::from(&slot[payload]);
            slot.clear();
            return (copy, slot);
        };
        let mut train = slot.split_to(payload.end);
        train.advance(payload.start);
        slot.clear();
        self.lent.push_back(slot);
        (train, spare)
    }

    /// Delivers a filled slot; returns the train, unless it is to be dropped, and an empty slot.
    pub(super) fn deliver(
        &mut self,
        mut slot: BytesMut,
        payload: Range<usize>,
        arrival: Option<Arrival>,
        stats: &mut IoStats,
    ) -> (Option<Datagrams>, BytesMut) {
        let Some(arrival) = arrival.filter(|_| !payload.is_empty()) else {
            stats.trains_dropped += 1;
            slot.clear();
            return (None, slot);
        };
        let len = payload.len();
        let (bytes, empty) = self.hand_over(slot, payload, stats);
        // No stride means one datagram; a stride of 0 would make a splitting loop endless.
        let stride = arrival.control.stride.filter(|&stride| stride > 0);
        let stride = stride.unwrap_or(len);
        stats.trains_received += 1;
        stats.datagrams_received += len.div_ceil(stride) as u64;
        stats.bytes_received += len as u64;
        let datagrams = Datagrams {
            remote: arrival.remote,
            local_ip: arrival.control.local_ip,
            ecn: arrival.control.ecn,
            stride,
            bytes,
        };
        (Some(datagrams), empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT_BYTES: usize = 8192;

    fn filled(pool: &mut SlotPool, byte: u8) -> BytesMut {
        let mut slot = pool.take().expect("a slot");
        assert!(slot.capacity() >= SLOT_BYTES);
        slot.resize(SLOT_BYTES, byte);
        slot
    }

    #[test]
    fn a_slot_comes_back_whole_when_its_last_slice_goes() {
        let mut pool = SlotPool::new(2, SLOT_BYTES);
        let mut stats = IoStats::default();
        let slot = filled(&mut pool, 1);
        let address = slot.as_ptr();
        let (mut train, spare) = pool.hand_over(slot, 100..SLOT_BYTES, &mut stats);
        assert_eq!(train.as_ptr(), address.wrapping_add(100), "not a copy");
        assert_eq!(train.len(), SLOT_BYTES - 100);
        let slice = train.split_to(10).freeze();
        drop(train);
        assert!(pool.take().is_none(), "a slice still holds the slot");
        drop(slice);
        let back = pool.take().expect("the slot is free again");
        assert_eq!((back.as_ptr(), back.len()), (address, 0));
        assert!(back.capacity() >= SLOT_BYTES);
        assert_ne!(spare.as_ptr(), address);
    }

    #[test]
    fn small_and_starved_trains_are_copied_and_the_slot_stays() {
        let mut pool = SlotPool::new(1, SLOT_BYTES);
        let mut stats = IoStats::default();
        let slot = filled(&mut pool, 2);
        let address = slot.as_ptr();
        let (train, slot) = pool.hand_over(slot, 8..8 + COPY_BYTES_MAX, &mut stats);
        assert_eq!(train.as_ref(), [2; COPY_BYTES_MAX]);
        assert_eq!((slot.as_ptr(), slot.len()), (address, 0));
        assert_eq!(stats.trains_copied_small, 1);

        let mut slot = slot;
        slot.resize(SLOT_BYTES, 3);
        let (train, slot) = pool.hand_over(slot, 0..COPY_BYTES_MAX + 1, &mut stats);
        assert_eq!(train.as_ref(), [3; COPY_BYTES_MAX + 1]);
        assert_eq!((slot.as_ptr(), slot.len()), (address, 0));
        assert_eq!(stats.trains_copied_starved, 1);
    }

    #[test]
    fn held_slots_are_stepped_over() {
        let mut pool = SlotPool::new(3, SLOT_BYTES);
        let mut stats = IoStats::default();
        let slot = filled(&mut pool, 1);
        let (held, mut slot) = pool.hand_over(slot, 0..SLOT_BYTES, &mut stats);
        slot.resize(SLOT_BYTES, 2);
        let (let_go, _in_use) = pool.hand_over(slot, 0..SLOT_BYTES, &mut stats);
        drop(let_go);
        assert!(pool.take().is_some(), "behind the held one lies a free one");
        assert!(pool.take().is_none());
        drop(held);
        assert!(pool.take().is_some());
    }
}
