//! One slot per frame: who may touch its memory, decided by a single atomic word.
//!
//! ```text
//!   state word   63     62     61 ................................ 0
//!               LIVE   LENT                  pins
//!
//!                  lend                       publish
//!   ┌──────┐  +LENT +1 pin   ┌──────┐  LENT → LIVE, keeps the pin  ┌──────┐
//!   │ HOME │ ──────────────▶ │ LENT │ ───────────────────────────▶ │ LIVE │ ◀─▶ pin, unpin
//!   │      │ ◀────────────── │      │ ◀─────────────────────────── │      │
//!   └──────┘    last unpin   └──────┘     retire: LIVE → LENT      └──────┘
//!      ▲     LENT|0 → HOME (CAS)                                       │
//!      └─────────────────── try_evict: LIVE|0 → HOME (CAS) ────────────┘
//! ```
//!
//! * HOME: the writer owns the slot. LENT: out of the table, owned by its pins (one filler, or readers that still hold
//!   an unlinked frame); the last one brings it home. LIVE: published, anybody may pin it.
//! * **Only the writer** lends, publishes, retires and evicts. Readers pin and unpin.
//! * **A pin is one `fetch_add`**, whatever the state, and is judged by the value it replaced: LIVE there means that
//!   the pin holds; otherwise the reader takes it back with `unpin`. So a word may carry a few *stray* pins, of readers
//!   that came with a stale table word. A stray pin never touches key or payload.
//! * **Payload is written only while LENT by the filler, read only under a pin that found LIVE** (or a clone of one).
//!   A held pin keeps the slot from going HOME: both ways home are a compare-exchange that demands no pins.
//! * **A key needs no generation.** It is read under a held pin only, when it cannot change, and compared whole; a table
//!   word that went stale can therefore lead to another chunk's slot but never to a wrong answer.
//! * **One way home per lending.** The bit LENT falls by exactly one successful compare-exchange, so one caller, and
//!   only one, is told that the slot came home. A stray pin that arrives between the last unpin and that exchange makes
//!   it fail, and then finds `LENT|1` in its own unpin and brings the slot home itself.
//!
//! Orderings: `publish` releases, a holding `pin` acquires: key and payload are seen whole. `unpin` releases, both ways
//! home acquire: all reading is over before the memory is filled again. All changes of the word are read-modify-writes,
//! so each release sequence stays unbroken. Returned slots travel on an intrusive stack, pushed by anybody (release),
//! taken whole by the writer (acquire); taking everything at once leaves no room for ABA.
#![forbid(unsafe_code)]

use super::key::ChunkKey;
use super::sync::{AtomicU8, AtomicU32, AtomicU64, Ordering};

const LIVE: u64 = 1 << 63;
const LENT: u64 = 1 << 62;
/// 62 bits: at one pin per nanosecond, none returned, they overflow after 146 years.
const PINS: u64 = LENT - 1;

/// The frequency counter's ceiling: two bits, as in S3-FIFO (SOSP'23, section 4.1).
pub(super) const TOUCHES_MAX: u8 = 3;

/// Ends the stack of returned slots.
const NONE: u32 = u32::MAX;

/// One frame's header, alone on its cache line: a hit writes here and nowhere else that other frames use.
#[repr(align(64))]
struct Slot {
    state: AtomicU64,
    key: [AtomicU64; 3],
    len: AtomicU32,
    /// The slot below on the returned stack; meaningful only while on it.
    below: AtomicU32,
    touches: AtomicU8,
}

const _: () = assert!(align_of::<Slot>() == 64);

/// The top of the returned stack, away from the slots.
#[repr(align(64))]
struct Returned(AtomicU32);

/// All slots of a cache.
pub(super) struct Slots {
    slots: Box<[Slot]>,
    returned: Returned,
}

impl Slots {
    /// Creates `count` slots, all HOME.
    pub(super) fn new(count: u32) -> Self {
        assert!(count < NONE, "slot numbers stop short of the sentinel");
        let slot = |_| Slot {
            state: AtomicU64::new(0),
            key: [AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0)],
            len: AtomicU32::new(0),
            below: AtomicU32::new(NONE),
            touches: AtomicU8::new(0),
        };
        Self { slots: (0..count).map(slot).collect(), returned: Returned(AtomicU32::new(NONE)) }
    }

    fn at(&self, slot: u32) -> &Slot {
        &self.slots[slot as usize]
    }

    // What readers do.

    /// Pins the slot if it is LIVE. Wait-free: one `fetch_add`, and on refusal one `unpin`.
    pub(super) fn pin(&self, slot: u32) -> bool {
        let old = self.at(slot).state.fetch_add(1, Ordering::Acquire);
        if old & LIVE != 0 {
            return true;
        }
        self.unpin(slot);
        false
    }

    /// Adds a pin beside one that the caller already holds.
    pub(super) fn pin_again(&self, slot: u32) {
        // Relaxed, as in `Arc::clone`: the pin held already keeps everything in place.
        let old = self.at(slot).state.fetch_add(1, Ordering::Relaxed);
        debug_assert!(old & PINS != 0, "only the holder of a pin adds another");
    }

    /// Takes a pin back; the last pin of a LENT slot brings it home.
    pub(super) fn unpin(&self, slot: u32) {
        let old = self.at(slot).state.fetch_sub(1, Ordering::Release);
        debug_assert!(old & PINS != 0, "each pin is taken back once");
        if old == LENT | 1 && self.try_home(slot, LENT) {
            self.push_returned(slot);
        }
    }

    /// Tells whether the slot carries exactly `key`. The caller holds a pin, or is the writer.
    pub(super) fn carries(&self, slot: u32, key: &ChunkKey) -> bool {
        let words = key.words();
        let stored = &self.at(slot).key;
        // Relaxed: the pin's acquire made these stores visible, and they cannot change under it.
        stored.iter().zip(words).all(|(stored, word)| stored.load(Ordering::Relaxed) == word)
    }

    /// Reads the length published with the slot. The caller holds a pin.
    pub(super) fn len(&self, slot: u32) -> u32 {
        self.at(slot).len.load(Ordering::Relaxed)
    }

    /// Counts a use, up to [`TOUCHES_MAX`].
    ///
    /// A load and at most one store, no read-modify-write: two readers at once may count as one, which a two-bit
    /// estimate can bear, and a hot frame is only read.
    pub(super) fn touch(&self, slot: u32) {
        let touches = &self.at(slot).touches;
        let seen = touches.load(Ordering::Relaxed);
        if seen < TOUCHES_MAX {
            touches.store(seen + 1, Ordering::Relaxed);
        }
    }

    // What the writer does.

    /// HOME → LENT, with one pin for the filler.
    pub(super) fn lend(&self, slot: u32) {
        let old = self.at(slot).state.fetch_add(LENT + 1, Ordering::Relaxed);
        debug_assert_eq!(old & (LIVE | LENT), 0, "only a slot at home is lent");
    }

    /// LENT → LIVE under `key`; the filler's pin stays with the caller.
    pub(super) fn publish(&self, slot: u32, key: &ChunkKey, len: u32) {
        let header = self.at(slot);
        for (stored, word) in header.key.iter().zip(key.words()) {
            stored.store(word, Ordering::Relaxed);
        }
        header.len.store(len, Ordering::Relaxed);
        header.touches.store(0, Ordering::Relaxed);
        // An addition that turns bit 62 into bit 63. Stray pins may be in the word, so no plain store.
        let old = header.state.fetch_add(LIVE - LENT, Ordering::Release);
        debug_assert!(old & LENT != 0 && old & LIVE == 0 && old & PINS != 0, "only a filled slot is published");
    }

    /// LIVE → LENT: no new pin will hold. Returns true if nobody held one, and the slot is home at once.
    ///
    /// On false the slot comes home through [`take_returned`](Self::take_returned), after its last pin.
    pub(super) fn retire(&self, slot: u32) -> bool {
        let old = self.at(slot).state.fetch_sub(LIVE - LENT, Ordering::AcqRel);
        debug_assert!(old & LIVE != 0 && old & LENT == 0, "only a live slot is retired");
        old & PINS == 0 && self.try_home(slot, LENT)
    }

    /// LIVE → HOME if nobody holds a pin; otherwise changes nothing and returns false.
    pub(super) fn try_evict(&self, slot: u32) -> bool {
        self.try_home(slot, LIVE)
    }

    /// Tells whether somebody holds a pin now; by the time the caller looks, a reader may have come or gone.
    pub(super) fn is_pinned(&self, slot: u32) -> bool {
        self.at(slot).state.load(Ordering::Relaxed) & PINS != 0
    }

    /// Reads the use counter.
    pub(super) fn touches(&self, slot: u32) -> u8 {
        self.at(slot).touches.load(Ordering::Relaxed)
    }

    /// Sets the use counter; a touch at the same moment may be lost.
    pub(super) fn set_touches(&self, slot: u32, touches: u8) {
        self.at(slot).touches.store(touches, Ordering::Relaxed);
    }

    /// Hands every slot that came home since the last call to `each`.
    pub(super) fn take_returned(&self, mut each: impl FnMut(u32)) {
        // A look first: an empty stack, the common case, is then not written to.
        if self.returned.0.load(Ordering::Relaxed) == NONE {
            return;
        }
        let mut slot = self.returned.0.swap(NONE, Ordering::Acquire);
        while slot != NONE {
            // Read before `each` may lend the slot on.
            let below = self.at(slot).below.load(Ordering::Relaxed);
            each(slot);
            slot = below;
        }
    }

    // The moves behind both.

    /// `flag|0` → HOME. Acquires what every earlier `unpin` released.
    fn try_home(&self, slot: u32, flag: u64) -> bool {
        self.at(slot).state.compare_exchange(flag, 0, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Pushes a slot that the caller just brought home; lock-free.
    fn push_returned(&self, slot: u32) {
        let below = &self.at(slot).below;
        let mut top = self.returned.0.load(Ordering::Relaxed);
        loop {
            below.store(top, Ordering::Relaxed);
            match self.returned.0.compare_exchange_weak(top, slot, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => top = now,
            }
        }
    }
}
