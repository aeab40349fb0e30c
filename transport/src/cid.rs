//! Connection ids whose first byte names the shard that owns the connection.

use quinn_proto::{ConnectionId, ConnectionIdGenerator};
use std::time::Duration;

/// Length of every connection id we issue, in bytes: one steering byte and 7 random ones.
///
/// 56 random bits keep ids unlinkable and collisions out of reach for the connections one host can hold.
pub(crate) const CID_BYTES: usize = 8;

/// Issues connection ids whose first byte is congruent to the shard's index modulo the number of shards.
///
/// The kernel's steering program reads that byte (short header: byte 1; long header: byte 6), so that a datagram
/// reaches the owning shard after a rebinding or migration too (RFC 9000 §5.1, §9).
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShardCids {
    shard: u8,
    shards: u8,
}

impl ShardCids {
    /// Creates the generator of shard `shard` of `shards`.
    ///
    /// # Panics
    /// If `shard >= shards`.
    pub(crate) fn new(shard: u8, shards: u8) -> Self {
        assert!(shard < shards, "a shard's index lies below their number");
        Self { shard, shards }
    }

    /// Maps a random byte to one that steers to this shard, keeping as much randomness as the modulus allows.
    fn steer(self, random: u8) -> u8 {
        let shards = u16::from(self.shards);
        let groups = 256 / shards; // whole groups of `shards` values within a byte
        let group = u16::from(random) % groups;
        u8::try_from(group * shards + u16::from(self.shard)).expect("group * shards + shard < 256")
    }
}

impl ConnectionIdGenerator for ShardCids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes = [0; CID_BYTES];
        aws_lc_rs::rand::fill(&mut bytes).expect("the system's random source answers");
        bytes[0] = self.steer(bytes[0]);
        ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        CID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_random_byte_steers_home() {
        for shards in 1..=255u8 {
            for shard in [0, shards / 2, shards - 1] {
                let cids = ShardCids::new(shard, shards);
                for random in 0..=255 {
                    assert_eq!(cids.steer(random) % shards, shard);
                }
            }
        }
    }

    #[test]
    fn ids_differ() {
        let mut cids = ShardCids::new(1, 2);
        assert_ne!(&*cids.generate_cid(), &*cids.generate_cid());
    }
}
