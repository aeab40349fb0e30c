//! Which chunk gives way: S3-FIFO, its three queues and a two-bit counter, and a queue for passes over large files.
//!
//! Source: Yang, Zhang, Qiu, Yue, Rashmi, "FIFO queues are all you need for cache eviction", SOSP'23, section 4 and
//! Algorithm 1. Readers only raise a counter ([`Slots::touch`](super::slot::Slots::touch)); the writer alone moves
//! chunks between queues, so the queues are plain data.
//!
//! ```text
//!                                  touched more than once
//!   new ───────▶ small (10 %) ─────────────────────────────▶ main (90 %) ◀─┐ touched: again, one touch less
//!                    │ otherwise                               │   │       │
//!                    ▼                                         │   └───────┘
//!                  evicted ─▶ ghost (names only)               ▼ otherwise
//!   new, its name in ghost ─────────────────────▶ main       evicted
//!
//!   new, of a file larger than the cache ──▶ scan (10 %) ── touched once ──▶ evicted ─▶ ghost
//!                                               ├── more than once ──▶ main
//!                                               └── not at all, or held ──▶ small
//! ```
//!
//! Three departures. Sizes are counted in units, since frames come in two classes. A chunk that a reader holds at its
//! turn is passed over (from small it moves to main): evicting it would cost a later hit and free no memory now. And a
//! pass over a file that is larger than the whole cache has a queue of its own, scan, as large as small: once that is
//! full, what was read gives way to what comes next, even while other memory is free. Such a pass would push out its
//! own first chunks before they could be read again, and touch all of the memory to no purpose (PostgreSQL's ring for
//! bulk reads, src/backend/storage/buffer/README, is the same thought). What was fetched ahead and is not read at its
//! turn goes on as any other chunk.
#![forbid(unsafe_code)]

/// The small queue's share of the cache, one part in ten (SOSP'23, section 4.2.1: 10 % suits most traces).
const SMALL_SHARE: u64 = 10;
/// A chunk leaves small for main if touched more often than this (Algorithm 1, line 20).
const TOUCHES_TO_STAY: u8 = 1;
/// Held chunks passed over before [`S3Fifo::victim`] stops disturbing the queues' order and just searches.
const PASSED_OVER_MAX: usize = 32;
/// Turns per resident chunk before counters are ignored: three touches and the turn that finds none. Only readers that
/// touch chunks faster than the writer can discount them get that far.
const TURNS_PER_FRAME: usize = 4;

/// Stands for "no slot" in links.
const NONE: u32 = u32::MAX;

/// What the policy asks about chunks in the cache.
pub(super) trait Residents {
    /// Reads the use counter.
    fn touches(&self, slot: u32) -> u8;
    /// Sets the use counter.
    fn set_touches(&self, slot: u32, touches: u8);
    /// Tells whether a reader holds the chunk now.
    fn is_pinned(&self, slot: u32) -> bool;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    Out,
    Small,
    Main,
    Scan,
}

/// A slot's links in the queue it is in.
#[derive(Clone, Copy, Debug)]
struct Node {
    newer: u32,
    older: u32,
    units: u32,
    queue: Queue,
}

#[derive(Debug)]
struct Fifo {
    newest: u32,
    oldest: u32,
    units: u64,
    frames: usize,
}

impl Fifo {
    const EMPTY: Self = Self { newest: NONE, oldest: NONE, units: 0, frames: 0 };
}

/// The policy's state.
#[derive(Debug)]
pub(super) struct S3Fifo {
    nodes: Box<[Node]>,
    small: Fifo,
    main: Fifo,
    scan: Fifo,
    ghosts: Ghosts,
    units: u64,
    small_units_target: u64,
}

impl S3Fifo {
    /// Creates empty queues for slots below `slots`, one unit of memory each.
    pub(super) fn new(slots: u32) -> Self {
        let node = Node { newer: NONE, older: NONE, units: 0, queue: Queue::Out };
        Self {
            nodes: vec![node; slots as usize].into_boxed_slice(),
            small: Fifo::EMPTY,
            main: Fifo::EMPTY,
            scan: Fifo::EMPTY,
            ghosts: Ghosts::new(slots),
            units: slots.into(),
            small_units_target: u64::from(slots) / SMALL_SHARE,
        }
    }

    /// Enters a new chunk: into main if its name is remembered, else into small, or into scan.
    pub(super) fn admit(&mut self, slot: u32, units: u32, hash: u64, is_scan: bool) {
        debug_assert_eq!(self.nodes[slot as usize].queue, Queue::Out);
        // A pass leaves few chunks behind; its names are remembered as if it had filled the cache.
        let length = if is_scan { (self.units / u64::from(units)) as usize } else { self.len() };
        let queue = match (self.ghosts.take(hash, length), is_scan) {
            (true, _) => Queue::Main,
            (false, true) => Queue::Scan,
            (false, false) => Queue::Small,
        };
        self.nodes[slot as usize].units = units;
        self.push(slot, queue);
    }

    /// Takes out a chunk that leaves for reasons of its own; its name is not remembered.
    pub(super) fn remove(&mut self, slot: u32) {
        self.unlink(slot);
    }

    /// Takes out a chunk that was evicted; if it was not in main, its name is remembered.
    pub(super) fn evicted(&mut self, slot: u32, hash: u64) {
        if self.unlink(slot) != Queue::Main {
            self.ghosts.remember(hash);
        }
    }

    /// Puts a victim that could not be evicted back at the new end of main, or of scan.
    pub(super) fn defer(&mut self, slot: u32) {
        let queue = if self.unlink(slot) == Queue::Scan { Queue::Scan } else { Queue::Main };
        self.push(slot, queue);
    }

    /// Counts the chunks in the queues.
    pub(super) fn len(&self) -> usize {
        self.small.frames + self.main.frames + self.scan.frames
    }

    /// Picks the oldest chunk of scan that was read once, if scan has more than its share; it stays queued, as with
    /// [`victim`](Self::victim). Those before it leave scan. Cost: amortised O(1).
    pub(super) fn scan_victim(&mut self, residents: &impl Residents) -> Option<u32> {
        while self.scan.units > self.small_units_target {
            let slot = self.scan.oldest;
            let touches = residents.touches(slot);
            let queue = if touches > TOUCHES_TO_STAY {
                residents.set_touches(slot, 0);
                Queue::Main
            } else if touches == 0 || residents.is_pinned(slot) {
                Queue::Small
            } else {
                return Some(slot);
            };
            self.unlink(slot);
            self.push(slot, queue);
        }
        None
    }

    /// Picks the chunk to evict next; it stays queued until [`evicted`](Self::evicted) or [`defer`](Self::defer).
    ///
    /// `None` means that a reader holds every chunk. Cost: amortised O(1); O(len) if nearly all are held.
    pub(super) fn victim(&mut self, residents: &impl Residents) -> Option<u32> {
        if let Some(slot) = self.scan_victim(residents) {
            return Some(slot);
        }
        let mut passed_over = 0;
        for _ in 0..TURNS_PER_FRAME * (self.small.frames + self.main.frames) {
            let from_small = self.main.frames == 0 || self.small.units > self.small_units_target;
            let slot = if from_small { self.small.oldest } else { self.main.oldest };
            let touches = residents.touches(slot);
            if residents.is_pinned(slot) {
                passed_over += 1;
                if passed_over > PASSED_OVER_MAX {
                    break;
                }
                self.defer(slot);
            } else if from_small && touches > TOUCHES_TO_STAY {
                residents.set_touches(slot, 0);
                self.defer(slot);
            } else if !from_small && touches > 0 {
                residents.set_touches(slot, touches - 1);
                self.defer(slot);
            } else {
                return Some(slot);
            }
        }
        self.oldest_first().find(|&slot| !residents.is_pinned(slot))
    }

    /// Walks scan, small, then main, from the old ends.
    fn oldest_first(&self) -> impl Iterator<Item = u32> {
        [&self.scan, &self.small, &self.main].into_iter().flat_map(|fifo| self.walk(fifo.oldest))
    }

    /// Walks one queue from its old end.
    fn walk(&self, oldest: u32) -> impl Iterator<Item = u32> {
        let real = |slot: u32| (slot != NONE).then_some(slot);
        std::iter::successors(real(oldest), move |&slot| real(self.nodes[slot as usize].newer))
    }

    fn fifo(&mut self, queue: Queue) -> &mut Fifo {
        match queue {
            Queue::Small => &mut self.small,
            Queue::Main => &mut self.main,
            Queue::Scan => &mut self.scan,
            Queue::Out => unreachable!("a slot outside the queues has no fifo"),
        }
    }

    fn push(&mut self, slot: u32, queue: Queue) {
        let units = self.nodes[slot as usize].units;
        let fifo = self.fifo(queue);
        let older = fifo.newest;
        fifo.newest = slot;
        fifo.units += u64::from(units);
        fifo.frames += 1;
        if older == NONE {
            fifo.oldest = slot;
        } else {
            self.nodes[older as usize].newer = slot;
        }
        self.nodes[slot as usize] = Node { newer: NONE, older, units, queue };
    }

    fn unlink(&mut self, slot: u32) -> Queue {
        let Node { newer, older, units, queue } = self.nodes[slot as usize];
        let fifo = self.fifo(queue);
        fifo.units -= u64::from(units);
        fifo.frames -= 1;
        if newer == NONE {
            fifo.newest = older;
        }
        if older == NONE {
            fifo.oldest = newer;
        }
        if newer != NONE {
            self.nodes[newer as usize].older = older;
        }
        if older != NONE {
            self.nodes[older as usize].newer = newer;
        }
        self.nodes[slot as usize].queue = Queue::Out;
        queue
    }
}

/// Names in a ghost bucket: half a cache line.
const GHOST_WAYS: usize = 4;

/// The names of chunks lately evicted from small and scan: a fixed table of fingerprints with the time of their
/// eviction.
///
/// As the paper implements it (section 4.2.3): a name lapses by age, counted in evictions, or when its bucket needs the
/// room. 32-bit fingerprints: about one chunk in 1e9 is taken for another and enters main undeserved.
#[derive(Debug)]
struct Ghosts {
    /// fingerprint << 32 | time; 0 is empty, since times start at 1.
    buckets: Box<[[u64; GHOST_WAYS]]>,
    now: u32,
}

impl Ghosts {
    fn new(slots: u32) -> Self {
        let buckets = (slots as usize / GHOST_WAYS).next_power_of_two();
        Self { buckets: vec![[0; GHOST_WAYS]; buckets].into_boxed_slice(), now: 1 }
    }

    fn remember(&mut self, hash: u64) {
        let now = self.now;
        self.now = self.now.checked_add(1).unwrap_or(1);
        let bucket = self.bucket(hash);
        // The oldest gives way; an empty entry is of time 0, older than all.
        let age = |name: u64| {
            if name == 0 { u32::MAX } else { now.wrapping_sub(name as u32) }
        };
        let oldest = bucket.iter_mut().max_by_key(|name| age(**name)).expect("a bucket has ways");
        *oldest = hash & !u64::from(u32::MAX) | u64::from(now);
    }

    /// Takes a name out if it is among the last `length` that were remembered.
    fn take(&mut self, hash: u64, length: usize) -> bool {
        let now = self.now;
        let fresh =
            |name: u64| name != 0 && (name ^ hash) >> 32 == 0 && now.wrapping_sub(name as u32) as usize <= length;
        let Some(name) = self.bucket(hash).iter_mut().find(|name| fresh(**name)) else {
            return false;
        };
        *name = 0;
        true
    }

    fn bucket(&mut self, hash: u64) -> &mut [u64; GHOST_WAYS] {
        let mask = self.buckets.len() - 1;
        &mut self.buckets[hash as usize & mask]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// Counters and pins under the test's hand.
    struct Fake(RefCell<Vec<(u8, bool)>>);

    impl Fake {
        fn new(slots: u32) -> Self {
            Self(RefCell::new(vec![(0, false); slots as usize]))
        }

        fn set(&self, slot: u32, touches: u8, pinned: bool) {
            self.0.borrow_mut()[slot as usize] = (touches, pinned);
        }
    }

    impl Residents for Fake {
        fn touches(&self, slot: u32) -> u8 {
            self.0.borrow()[slot as usize].0
        }
        fn set_touches(&self, slot: u32, touches: u8) {
            self.0.borrow_mut()[slot as usize].0 = touches;
        }
        fn is_pinned(&self, slot: u32) -> bool {
            self.0.borrow()[slot as usize].1
        }
    }

    fn hash(name: u32) -> u64 {
        u64::from(name).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn evict(policy: &mut S3Fifo, residents: &Fake) -> u32 {
        let slot = policy.victim(residents).unwrap();
        policy.evicted(slot, hash(slot));
        slot
    }

    fn filled(slots: u32) -> (S3Fifo, Fake) {
        let mut policy = S3Fifo::new(slots);
        for slot in 0..slots {
            policy.admit(slot, 1, hash(slot), false);
        }
        (policy, Fake::new(slots))
    }

    #[test]
    fn untouched_chunks_leave_in_order_of_arrival() {
        let (mut policy, fake) = filled(20);
        let out: Vec<_> = (0..20).map(|_| evict(&mut policy, &fake)).collect();
        assert_eq!(out, (0..20).collect::<Vec<_>>());
        assert_eq!(policy.victim(&fake), None);
    }

    #[test]
    fn one_touch_is_not_enough_to_stay_and_two_are() {
        let (mut policy, fake) = filled(20);
        fake.set(0, 1, false);
        fake.set(1, 2, false);
        assert_eq!(evict(&mut policy, &fake), 0);
        assert_eq!(evict(&mut policy, &fake), 2);
        assert_eq!((policy.main.frames, fake.touches(1)), (1, 0), "promoted with its counter cleared");
    }

    #[test]
    fn a_name_in_the_ghost_queue_enters_main_once() {
        let (mut policy, fake) = filled(20);
        assert_eq!(evict(&mut policy, &fake), 0);
        policy.admit(0, 1, hash(0), false);
        assert_eq!(policy.nodes[0].queue, Queue::Main);
        policy.remove(0);
        policy.admit(0, 1, hash(0), false);
        assert_eq!(policy.nodes[0].queue, Queue::Small, "a name is taken out when it is used");
    }

    #[test]
    fn ghosts_lapse_by_age_on_both_sides_of_the_limit() {
        let mut ghosts = Ghosts::new(1024);
        for name in 0..10 {
            ghosts.remember(hash(name));
        }
        assert!(!ghosts.take(hash(4), 5), "six evictions ago");
        assert!(ghosts.take(hash(5), 5), "five evictions ago");
        assert!(!ghosts.take(hash(5), 5), "taken");
    }

    #[test]
    fn main_gives_each_touch_one_more_turn() {
        let mut policy = S3Fifo::new(10);
        let fake = Fake::new(10);
        for slot in 0..3 {
            policy.nodes[slot as usize].units = 1;
            policy.push(slot, Queue::Main);
        }
        fake.set(0, 3, false);
        fake.set(1, 1, false);
        let out: Vec<_> = (0..3).map(|_| evict(&mut policy, &fake)).collect();
        assert_eq!(out, [2, 1, 0]);
    }

    /// The property S3-FIFO is chosen for: a scan ten times the cache leaves the working set alone.
    #[test]
    fn a_scan_does_not_wash_out_what_is_used() {
        let (mut policy, fake) = filled(100);
        let hot: Vec<u32> = (0..50).collect();
        for _ in 0..1000 {
            for &slot in &hot {
                fake.set(slot, 2, false);
            }
            let out = evict(&mut policy, &fake);
            assert!(!hot.contains(&out), "{out} is in use");
            fake.set(out, 0, false);
            policy.admit(out, 1, hash(out) ^ hash(fake.0.borrow().len() as u32), false);
        }
    }

    #[test]
    fn held_chunks_are_passed_over_and_all_held_means_none() {
        let (mut policy, fake) = filled(100);
        for slot in 0..100 {
            fake.set(slot, 0, slot != 71);
        }
        assert_eq!(policy.victim(&fake), Some(71));
        fake.set(71, 0, true);
        assert_eq!(policy.victim(&fake), None);
        assert_eq!(policy.len(), 100);
    }

    /// Chunks that are read as they come, with memory to spare.
    #[test]
    fn a_pass_takes_its_share_and_no_more() {
        let (mut policy, fake) = (S3Fifo::new(100), Fake::new(100));
        for slot in 0..10 {
            policy.admit(slot, 1, hash(slot), false);
        }
        let mut resident = Vec::new();
        for slot in 10..100 {
            if let Some(out) = policy.scan_victim(&fake) {
                policy.evicted(out, hash(out));
                resident.retain(|&slot| slot != out);
            }
            policy.admit(slot, 1, hash(slot), true);
            fake.set(slot, 1, false);
            resident.push(slot);
        }
        assert_eq!((policy.small.frames, policy.scan.frames), (10, 11), "one more than a tenth, and it gives way next");
        assert_eq!(resident, (89..100).collect::<Vec<_>>(), "the newest");
        policy.admit(20, 1, hash(20), true);
        assert_eq!(policy.nodes[20].queue, Queue::Main, "what comes again soon stays");
    }

    #[test]
    fn what_a_pass_has_not_read_or_reads_again_leaves_its_queue() {
        let (mut policy, fake) = (S3Fifo::new(40), Fake::new(40));
        for slot in 0..8 {
            policy.admit(slot, 1, hash(slot), true);
        }
        // Read twice; read and held; not read.
        fake.set(0, 2, false);
        fake.set(1, 1, true);
        assert_eq!(policy.scan_victim(&fake), None, "four are its share");
        let queues: Vec<Queue> = (0..8).map(|slot| policy.nodes[slot].queue).collect();
        let (main, small, scan) = (Queue::Main, Queue::Small, Queue::Scan);
        assert_eq!(queues, [main, small, small, small, scan, scan, scan, scan]);
        policy.admit(8, 1, hash(8), true);
        fake.set(4, 1, false);
        assert_eq!(policy.scan_victim(&fake), Some(4), "read once");
        policy.defer(4);
        assert_eq!(policy.nodes[4].queue, Queue::Scan, "a reader was faster");
    }

    /// What was fetched ahead is needed next, what was read once long ago is not.
    #[test]
    fn what_a_pass_has_not_read_outlives_older_chunks_of_others() {
        let (mut policy, fake) = (S3Fifo::new(100), Fake::new(100));
        for slot in 0..92 {
            policy.admit(slot, 1, hash(slot), slot >= 80);
        }
        assert_eq!((0..80).map(|_| evict(&mut policy, &fake)).collect::<Vec<_>>(), (0..80).collect::<Vec<_>>());
    }

    #[test]
    fn a_cache_full_of_passes_alone_gives_way_oldest_first() {
        let (mut policy, fake) = (S3Fifo::new(40), Fake::new(40));
        for slot in 0..4 {
            policy.admit(slot, 1, hash(slot), true);
        }
        fake.set(0, 0, true);
        assert_eq!(evict(&mut policy, &fake), 1);
        (0..4).for_each(|slot| fake.set(slot, 0, true));
        assert_eq!(policy.victim(&fake), None);
    }

    #[test]
    fn queues_weigh_units() {
        let mut policy = S3Fifo::new(160);
        policy.admit(0, 16, hash(0), false);
        policy.admit(16, 1, hash(16), false);
        assert_eq!((policy.small.units, policy.small.frames), (17, 2));
        policy.remove(0);
        assert_eq!((policy.small.units, policy.small.frames), (1, 1));
    }
}
