//! The one source of chance of a simulated world.

use std::time::Duration;

/// SplitMix64 (Steele, Lea and Flood, 2014): a counter and a mixer, the same numbers from the same seed for ever.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// Starts at `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    ///
    /// # Panics
    /// If `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.bits() % bound
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        // 53 bits are what a double holds exactly.
        ((self.bits() >> 11) as f64) < p * (1u64 << 53) as f64
    }

    /// A span from 0 up to `max`.
    pub fn span(&mut self, max: Duration) -> Duration {
        let max_ns = u64::try_from(max.as_nanos()).expect("spans of a simulation are short");
        Duration::from_nanos(self.below(max_ns + 1))
    }

    /// A generator of its own, so that one part's draws do not shift another's.
    pub fn fork(&mut self) -> Self {
        Self(self.bits())
    }

    /// A seed for a node.
    pub fn node_seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        for chunk in seed.chunks_exact_mut(8) {
            chunk.copy_from_slice(&self.bits().to_le_bytes());
        }
        seed
    }
}
