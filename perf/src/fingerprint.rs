//! A fast 64-bit checksum for bytes that are checked while a clock runs: 4 KiB in some 0.2 µs.
//!
//! Finds wrong, stale, shifted and swapped bytes; it is no defence against an adversary, and BLAKE3 is used wherever
//! time does not count.

/// Bytes taken per step, 8 for each lane.
const STEP_BYTES: usize = 32;

/// Odd constants with mixed bits (the fractional parts of square roots of small primes).
const KEYS: [u64; 4] = [0x6a09_e667_f3bc_c909, 0xbb67_ae85_84ca_a73b, 0x3c6e_f372_fe94_f82b, 0xa54f_f53a_5f1d_36f1];

/// The checksum of `bytes`, their length included.
pub fn of(bytes: &[u8]) -> u64 {
    let mut lanes = KEYS;
    let mut steps = bytes.chunks_exact(STEP_BYTES);
    for step in &mut steps {
        mix(&mut lanes, step);
    }
    let mut last = [0; STEP_BYTES];
    let rest = steps.remainder();
    last[..rest.len()].copy_from_slice(rest);
    mix(&mut lanes, &last);
    let mut sum = bytes.len() as u64;
    for lane in lanes {
        sum = avalanche(sum ^ lane);
    }
    sum
}

fn mix(lanes: &mut [u64; 4], step: &[u8]) {
    for ((lane, key), word) in lanes.iter_mut().zip(KEYS).zip(step.chunks_exact(8)) {
        let word = u64::from_le_bytes(word.try_into().expect("chunks_exact gives 8 bytes"));
        *lane = (*lane ^ word).wrapping_mul(key).rotate_left(29);
    }
}

/// Spreads every bit over all (the finaliser of SplitMix64).
pub fn avalanche(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_and_the_length_count() {
        let mut bytes = vec![0; 101];
        let whole = of(&bytes);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(of(&bytes), whole, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert_ne!(of(&bytes[..100]), whole);
        assert_ne!(of(&[]), of(&[0]));
    }

    #[test]
    fn swapped_halves_are_found() {
        let (a, b) = ([1_u8; 64], [2_u8; 64]);
        assert_ne!(of(&[a, b].concat()), of(&[b, a].concat()));
    }
}
