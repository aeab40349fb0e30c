//! The memory: one anonymous mapping, reserved whole, resident only where it was used.
//!
//! `MAP_NORESERVE`, so that a budget costs address space until frames are filled (mmap(2)). The mapping neither moves
//! nor shrinks before it is dropped, and the last holder of a frame keeps it alive.
//!
//! Pages stay resident once touched: a frame that leaves the cache is filled again at once in a cache at work, and
//! `MADV_DONTNEED` would buy 256 page faults per MiB of the next fill for nothing.
#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;

use memmap2::{Advice, MmapOptions, MmapRaw};

use super::key::{SLAB_BYTES, UNIT_BYTES, UNITS_PER_SLAB};

/// The mapping under all frames.
pub(super) struct Arena {
    map: MmapRaw,
    units: u32,
}

impl Arena {
    /// Maps `slabs` slabs.
    ///
    /// # Errors
    /// The operating system's, where it refuses the mapping.
    pub(super) fn new(slabs: u32) -> io::Result<Self> {
        let bytes = slabs as usize * SLAB_BYTES;
        let map = MmapOptions::new().len(bytes).no_reserve_swap().map_anon()?;
        // Best effort: with huge pages a first fill faults once per 2 MiB instead of 512 times. Kernels built without
        // them refuse, which changes speed only.
        let _ = map.advise(Advice::HugePage);
        Ok(Self { map: MmapRaw::from(map), units: slabs * UNITS_PER_SLAB })
    }

    /// Counts its bytes.
    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.units) * UNIT_BYTES as u64
    }

    /// Returns the address of a unit.
    ///
    /// Valid for reads and writes up to the end of the frame that starts there, while the arena lives; it holds
    /// initialised bytes (an anonymous mapping starts as zeros). Who may use it when is the slot protocol's matter.
    pub(super) fn unit(&self, unit: u32) -> NonNull<u8> {
        assert!(unit < self.units, "unit {unit} of {}", self.units);
        let base = self.map.as_mut_ptr();
        // SAFETY: `base` is the start of the mapping that `self.map` owns until it is dropped. The offset is below
        // `units * UNIT_BYTES`, the mapping's length, by the assertion above, so the sum stays within one object.
        let address = unsafe { base.add(unit as usize * UNIT_BYTES) };
        NonNull::new(address).expect("no mapping holds address zero")
    }
}
