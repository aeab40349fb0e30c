//! What a chunk is called, how large its frame is, and how its name is hashed.
#![forbid(unsafe_code)]

/// Bytes of one unit, the small frame and the grain of the arena.
pub(super) const UNIT_BYTES: usize = 64 << 10;
/// Units in one slab; one slab is one large frame.
pub(super) const UNITS_PER_SLAB: u32 = 16;
/// Bytes of one slab.
pub(super) const SLAB_BYTES: usize = UNIT_BYTES * UNITS_PER_SLAB as usize;

const _: () = assert!(SLAB_BYTES == 1 << 20);

/// The two sizes of frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrameClass {
    /// 64 KiB: small files, random reads.
    Small,
    /// 1 MiB: streams.
    Large,
}

impl FrameClass {
    /// Tells how many bytes a frame of this class holds.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Small => UNIT_BYTES,
            Self::Large => SLAB_BYTES,
        }
    }

    /// Tells how many arena units a frame of this class covers.
    pub(super) const fn units(self) -> u32 {
        match self {
            Self::Small => 1,
            Self::Large => UNITS_PER_SLAB,
        }
    }
}

/// The full name of one chunk. Two chunks are the same only if every field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkKey {
    /// The file, as the engine numbers it.
    pub file: u64,
    /// The version of the file's content: bytes of an old version can never answer for a new one.
    pub version: u64,
    /// The chunk's position in the file, counted in chunks of its class.
    pub index: u32,
    /// The chunk's size class.
    pub class: FrameClass,
}

impl ChunkKey {
    /// Packs the key into the three words that a slot stores; injective.
    pub(super) const fn words(&self) -> [u64; 3] {
        let class = match self.class {
            FrameClass::Small => 0,
            FrameClass::Large => 1_u64 << 32,
        };
        [self.file, self.version, class | self.index as u64]
    }

    /// Hashes the key under `seed`, three multiplications long.
    ///
    /// Collisions cost a probe, never a wrong answer. The seed keeps a peer from choosing file versions that crowd one
    /// bucket.
    pub(super) const fn hash(&self, seed: u64) -> u64 {
        let [file, version, place] = self.words();
        // Odd constants: the fractional digits of the golden ratio, of the square root of 2 and of 3.
        let h = fold(file ^ seed, 0x9e37_79b9_7f4a_7c15);
        let h = fold(h ^ version.rotate_left(32), 0x6a09_e667_f3bc_c909);
        fold(h ^ place ^ seed.rotate_left(17), 0xbb67_ae85_84ca_a73b)
    }
}

/// Multiplies to 128 bits and folds the halves, so that every input bit reaches every output bit.
const fn fold(a: u64, b: u64) -> u64 {
    let product = (a as u128) * (b as u128);
    (product as u64) ^ ((product >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn words_tell_every_field_apart() {
        let base = ChunkKey { file: 1, version: 2, index: 3, class: FrameClass::Small };
        let others = [
            ChunkKey { file: 9, ..base },
            ChunkKey { version: 9, ..base },
            ChunkKey { index: 9, ..base },
            ChunkKey { class: FrameClass::Large, ..base },
            ChunkKey { file: 2, version: 1, ..base },
        ];
        for other in others {
            assert_ne!(base.words(), other.words());
            assert_ne!(base.hash(5), other.hash(5));
        }
    }

    /// Neighbouring chunks of neighbouring files are the common input: they must spread over low and high bits alike.
    #[test]
    fn neighbouring_keys_spread() {
        let mut buckets = vec![0_u32; 1024];
        let mut tags = HashSet::new();
        for file in 0..64 {
            for index in 0..128 {
                let hash = ChunkKey { file, version: 1, index, class: FrameClass::Large }.hash(0);
                buckets[(hash & 1023) as usize] += 1;
                tags.insert((hash >> 32) as u32);
            }
        }
        // Mean 8 per bucket; a Poisson draw passes 30 about once in 1e9 buckets.
        assert!(buckets.iter().all(|&count| count < 30), "{:?}", buckets.iter().max());
        assert!(tags.len() > 8180, "{} of 8192 tags differ", tags.len());
    }
}
