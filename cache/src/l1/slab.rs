//! The budget's two sizes: each slab is one large frame, sixteen small ones, or free to become either.
//!
//! ```text
//!            take(Large)                 take(Small), where no slab has a small frame left
//!   Large ◀───────────── free slab ─────────────────────────▶ Small, 1 to 16 frames in use
//!         ─────────────▶           ◀─────────────────────────
//!              give                    give of its last frame
//! ```
//!
//! Memory safety of frames rests on this file: a [`Vacant`] is made here only, and no two cover the same bytes until
//! the first has been given back. A double give is therefore an assertion, in release builds too.
#![forbid(unsafe_code)]

use super::key::{FrameClass, UNITS_PER_SLAB};

/// The only claim to a frame's worth of memory that nobody uses.
#[derive(Debug)]
pub(super) struct Vacant {
    slot: u32,
    class: FrameClass,
}

impl Vacant {
    pub(super) fn slot(&self) -> u32 {
        self.slot
    }

    pub(super) fn class(&self) -> FrameClass {
        self.class
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Free,
    Large,
    /// One bit per small frame, set while it is free; never all sixteen.
    Small {
        free: u16,
    },
}

#[derive(Debug)]
struct Slab {
    used: Use,
    /// Position in `partial` while some but not all small frames are free.
    partial_position: u32,
}

/// Who owns which slab.
#[derive(Debug)]
pub(super) struct Slabs {
    slabs: Vec<Slab>,
    /// Free slabs. Last in, first out: memory that was touched before is used before memory that never was.
    free: Vec<u32>,
    /// Slabs of small frames with one free.
    partial: Vec<u32>,
    units_used: u64,
}

impl Slabs {
    /// Creates `count` free slabs.
    pub(super) fn new(count: u32) -> Self {
        let slab = |_| Slab { used: Use::Free, partial_position: 0 };
        Self {
            slabs: (0..count).map(slab).collect(),
            free: (0..count).rev().collect(),
            partial: Vec::with_capacity(count as usize),
            units_used: 0,
        }
    }

    /// Takes memory for one frame, if some is free.
    pub(super) fn take(&mut self, class: FrameClass) -> Option<Vacant> {
        let slot = match class {
            FrameClass::Large => self.take_slab(Use::Large)? * UNITS_PER_SLAB,
            FrameClass::Small => self.take_small()?,
        };
        self.units_used += u64::from(class.units());
        Some(Vacant { slot, class })
    }

    /// Takes back a frame that came home.
    pub(super) fn give(&mut self, slot: u32) {
        let number = slot / UNITS_PER_SLAB;
        let bit = 1_u16 << (slot % UNITS_PER_SLAB);
        match self.slab(number).used {
            Use::Free => panic!("slot {slot} was given back before"),
            Use::Large => {
                assert_eq!(bit, 1, "a large frame is known by its first unit");
                self.units_used -= u64::from(UNITS_PER_SLAB);
                self.free_slab(number);
            }
            Use::Small { free } => {
                assert_eq!(free & bit, 0, "slot {slot} was given back before");
                self.units_used -= 1;
                match free | bit {
                    u16::MAX => {
                        self.leave_partial(number);
                        self.free_slab(number);
                    }
                    more => {
                        self.slab(number).used = Use::Small { free: more };
                        if free == 0 {
                            self.join_partial(number);
                        }
                    }
                }
            }
        }
    }

    /// Lists the frames in use in a slab.
    pub(super) fn used_in(&self, slab: u32) -> impl Iterator<Item = u32> + use<> {
        let used: u16 = match self.slabs[slab as usize].used {
            Use::Free => 0,
            Use::Large => 1,
            Use::Small { free } => !free,
        };
        (0..UNITS_PER_SLAB).filter(move |unit| used & (1 << unit) != 0).map(move |unit| slab * UNITS_PER_SLAB + unit)
    }

    /// Counts the slabs.
    pub(super) fn len(&self) -> u32 {
        self.slabs.len() as u32
    }

    /// Counts the units in use.
    pub(super) fn units_used(&self) -> u64 {
        self.units_used
    }

    fn slab(&mut self, number: u32) -> &mut Slab {
        &mut self.slabs[number as usize]
    }

    fn take_slab(&mut self, used: Use) -> Option<u32> {
        let number = self.free.pop()?;
        self.slab(number).used = used;
        Some(number)
    }

    fn free_slab(&mut self, number: u32) {
        self.slab(number).used = Use::Free;
        self.free.push(number);
    }

    fn take_small(&mut self) -> Option<u32> {
        let number = match self.partial.last() {
            Some(&number) => number,
            None => {
                let number = self.take_slab(Use::Small { free: u16::MAX })?;
                self.join_partial(number);
                number
            }
        };
        let slab = self.slab(number);
        let Use::Small { free } = slab.used else { unreachable!("partial slabs hold small frames") };
        let unit = free.trailing_zeros();
        let left = free & (free - 1);
        slab.used = Use::Small { free: left };
        if left == 0 {
            self.leave_partial(number);
        }
        Some(number * UNITS_PER_SLAB + unit)
    }

    fn join_partial(&mut self, number: u32) {
        self.slab(number).partial_position = self.partial.len() as u32;
        self.partial.push(number);
    }

    fn leave_partial(&mut self, number: u32) {
        let position = self.slab(number).partial_position as usize;
        assert_eq!(self.partial.swap_remove(position), number, "a partial slab knows its place");
        if let Some(&moved) = self.partial.get(position) {
            self.slab(moved).partial_position = position as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn sixteen_small_frames_fill_one_slab_and_free_it_again() {
        let mut slabs = Slabs::new(1);
        let small: Vec<_> = (0..16).map(|_| slabs.take(FrameClass::Small).unwrap().slot()).collect();
        assert_eq!(small, (0..16).collect::<Vec<_>>());
        assert!(slabs.take(FrameClass::Small).is_none());
        for (count, slot) in small.into_iter().enumerate() {
            assert!(slabs.take(FrameClass::Large).is_none(), "{count} of 16 came back");
            slabs.give(slot);
        }
        assert_eq!(slabs.take(FrameClass::Large).unwrap().slot(), 0);
        assert!(slabs.take(FrameClass::Small).is_none());
    }

    #[test]
    #[should_panic(expected = "given back before")]
    fn a_double_give_is_caught() {
        let mut slabs = Slabs::new(2);
        let first = slabs.take(FrameClass::Small).unwrap().slot();
        let _second = slabs.take(FrameClass::Small).unwrap();
        slabs.give(first);
        slabs.give(first);
    }

    proptest! {
        #[test]
        fn frames_in_use_never_overlap(ops in prop::collection::vec((0..3_u8, any::<prop::sample::Index>()), 1..300)) {
            let mut slabs = Slabs::new(3);
            // Frame start to frame end, in units.
            let mut used: BTreeMap<u32, u32> = BTreeMap::new();
            for (kind, pick) in ops {
                if kind == 2 {
                    if !used.is_empty() {
                        let slot = *used.keys().nth(pick.index(used.len())).unwrap();
                        used.remove(&slot);
                        slabs.give(slot);
                    }
                    continue;
                }
                let class = if kind == 0 { FrameClass::Small } else { FrameClass::Large };
                if let Some(vacant) = slabs.take(class) {
                    let (start, end) = (vacant.slot(), vacant.slot() + class.units());
                    prop_assert!(end <= 48);
                    prop_assert!(used.range(..end).next_back().is_none_or(|(_, &before)| before <= start));
                    used.insert(start, end);
                } else {
                    let units: u32 = used.iter().map(|(start, end)| end - start).sum();
                    prop_assert!(class == FrameClass::Large || units == 48, "a small frame fits wherever a unit is free");
                }
                let units: u32 = used.iter().map(|(start, end)| end - start).sum();
                prop_assert_eq!(slabs.units_used(), u64::from(units));
                let listed: Vec<u32> = (0..3).flat_map(|slab| slabs.used_in(slab)).collect();
                prop_assert!(listed.iter().eq(used.keys()));
            }
        }
    }
}
