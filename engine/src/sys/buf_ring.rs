//! Receive slots lent to the kernel through a ring of provided buffers.
//!
//! ```text
//!   provide ─▶ slot in the ring ─▶ kernel fills it ─▶ take ─▶ ours, bid vacant ─▶ provide …
//! ```
//!
//! Each slot is a `BytesMut` that leaves with its bytes, so a train reaches the application
//! without a copy. `IOU_PBUF_RING_INC` is never used: with multishot recvmsg it cuts datagrams
//! off without saying so.

use bytes::BytesMut;
use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// The one buffer group of a shard's ring.
pub(crate) const BUFFER_GROUP: u16 = 0;

/// The kernel maps the entries page by page (io_uring_register(2), `IORING_REGISTER_PBUF_RING`).
const PAGE_BYTES: usize = 4096;

/// A registered ring of provided buffers and the slots it owns.
#[derive(Debug)]
pub(crate) struct BufRing {
    entries: NonNull<BufRingEntry>,
    layout: Layout,
    /// Number of entries, a power of two.
    count: u16,
    /// Entries ever written; those up to the last `publish` are the kernel's to read.
    tail: u16,
    slot_bytes: usize,
    /// By buffer id; `None` while the slot's bytes are out with us.
    slots: Box<[Option<BytesMut>]>,
    /// The kernel may look at the entries, and write to the slots they name.
    registered: bool,
}

impl BufRing {
    /// Registers a ring of `count` entries, all vacant.
    ///
    /// # Errors
    /// What the kernel says; `EINVAL` before Linux 5.19.
    ///
    /// # Panics
    /// If `count` is not a power of two up to 32768.
    pub(crate) fn register(uring: &IoUring, count: u16, slot_bytes: usize) -> io::Result<Self> {
        assert!(count.is_power_of_two(), "a ring's size is a power of two");
        let bytes = usize::from(count) * size_of::<BufRingEntry>();
        let layout = Layout::from_size_align(bytes, PAGE_BYTES).expect("at most 512 KiB");
        // SAFETY: the layout's size is not zero, as `count` is at least one.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(entries) = NonNull::new(memory.cast::<BufRingEntry>()) else {
            handle_alloc_error(layout);
        };
        let slots = (0..count).map(|_| None).collect();
        let mut ring = Self { entries, layout, count, tail: 0, slot_bytes, slots, registered: false };
        let address = entries.as_ptr().expose_provenance() as u64;
        // SAFETY: `address` is page-aligned memory of `count` entries owned by `ring`, which frees it only if this
        // fails, or after an `unregister` that did not (`BufRing::drop`).
        unsafe { uring.submitter().register_buf_ring_with_flags(address, count, BUFFER_GROUP, 0) }?;
        ring.registered = true;
        Ok(ring)
    }

    /// Tells the kernel to forget the ring; to be called before the drop, which leaks entries and slots otherwise.
    ///
    /// # Errors
    /// What the kernel says; it may go on using the ring then.
    pub(crate) fn unregister(&mut self, uring: &IoUring) -> io::Result<()> {
        uring.submitter().unregister_buf_ring(BUFFER_GROUP)?;
        self.registered = false;
        Ok(())
    }

    /// Puts an empty slot under a vacant buffer id; the kernel sees it at the next [`publish`].
    ///
    /// # Panics
    /// If `bid` is not vacant or the slot is not empty or too small: our own bug.
    ///
    /// [`publish`]: Self::publish
    pub(crate) fn provide(&mut self, bid: u16, slot: BytesMut) {
        assert!(slot.is_empty() && slot.capacity() >= self.slot_bytes);
        let home = &mut self.slots[usize::from(bid)];
        assert!(home.is_none(), "buffer {bid} is in the ring already");
        let room = home.insert(slot).spare_capacity_mut().as_mut_ptr();
        let address = room.expose_provenance() as u64;
        let index = usize::from(self.tail & (self.count - 1));
        // SAFETY: `index < count`, so the entry lies within the allocation of `count` entries.
        let mut entry = unsafe { self.entries.add(index) };
        // SAFETY: the entry is initialised (zeroed at the start), and `&mut self` makes this the
        // only reference; the kernel reads entries only up to the last published tail.
        let entry = unsafe { entry.as_mut() };
        entry.set_addr(address);
        entry.set_len(self.slot_bytes as u32);
        entry.set_bid(bid);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Makes all provided slots visible to the kernel.
    pub(crate) fn publish(&self) {
        // SAFETY: `entries` is the address of the first entry of a live, initialised ring.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: `tail` is aligned to two bytes inside the live allocation; the kernel only reads
        // it, and we write it only here, through the atomic.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    /// Takes the slot `bid` out with the first `len` bytes filled.
    ///
    /// # Safety
    /// A completion has just said that the kernel filled `len` bytes of buffer `bid`.
    pub(crate) unsafe fn take(&mut self, bid: u16, len: usize) -> Option<BytesMut> {
        let mut slot = self.slots.get_mut(usize::from(bid))?.take()?;
        let len = len.min(self.slot_bytes);
        // SAFETY: `len <= slot_bytes <= capacity`, and the caller promises that these bytes are
        // written; the kernel gave the buffer up with that completion.
        unsafe { slot.set_len(len) };
        Some(slot)
    }

    /// Gives up all slots without freeing them, for when the kernel may still write to them.
    pub(crate) fn leak_slots(&mut self) {
        std::mem::forget(std::mem::take(&mut self.slots));
    }
}

impl Drop for BufRing {
    fn drop(&mut self) {
        if self.registered {
            // The kernel may read an entry and fill its slot at any time: worth less than what would lie there next.
            return self.leak_slots();
        }
        // SAFETY: allocated in `register` with this layout, freed nowhere else; the kernel never took it over, or has
        // said that it let go of it, as `registered` is false.
        unsafe { dealloc(self.entries.as_ptr().cast(), self.layout) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT_BYTES: usize = 4096;

    /// Whether a ring with one slot gives its memory back, when it was unregistered from `mine` or from another ring.
    fn frees(mine: &IoUring, unregistered_from: &IoUring) -> bool {
        let mut ring = BufRing::register(mine, 1, SLOT_BYTES).expect("io_uring works here");
        let mut slot = BytesMut::with_capacity(2 * SLOT_BYTES);
        let mut beside = slot.split_off(SLOT_BYTES);
        ring.provide(0, slot);
        ring.publish();
        let unregistered = ring.unregister(unregistered_from);
        drop(ring);
        // All of the allocation can be had only once nobody else holds a part of it.
        let frees = beside.try_reclaim(SLOT_BYTES + 1);
        assert_eq!(unregistered.is_ok(), frees);
        frees
    }

    #[test]
    fn what_the_kernel_did_not_let_go_of_is_not_freed() {
        let [mine, other] = [(); 2].map(|()| IoUring::new(4).expect("io_uring works here"));
        assert!(frees(&mine, &mine));
        assert!(!frees(&mine, &other), "the other ring knows no such buffers");
    }
}
