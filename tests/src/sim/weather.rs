//! What a network does to datagrams, and when.

use super::rng::Rng;
use std::time::Duration;

/// One direction of a network. Times count from the world's beginning.
#[derive(Debug, Clone, PartialEq)]
pub struct Weather {
    /// How long every datagram takes.
    pub latency: Duration,
    /// How much longer some take at most. Order is kept.
    pub jitter: Duration,
    /// Probability that a datagram is lost.
    pub loss: f64,
    /// Probability that a datagram is held up until later ones have passed it.
    pub reordering: f64,
    /// Probability that a datagram comes twice.
    pub duplication: f64,
    /// Probability that one bit of a datagram is flipped.
    pub corruption: f64,
    /// What the link carries, if that is bounded.
    pub bytes_per_second: Option<u64>,
    /// Datagrams over so many bytes vanish without a word, from that time on.
    pub black_hole: Option<(usize, Duration)>,
    /// Spans in which nothing passes.
    pub partitions: Vec<(Duration, Duration)>,
}

impl Weather {
    /// A perfect network that takes no time.
    pub const CALM: Self = Self {
        latency: Duration::ZERO,
        jitter: Duration::ZERO,
        loss: 0.0,
        reordering: 0.0,
        duplication: 0.0,
        corruption: 0.0,
        bytes_per_second: None,
        black_hole: None,
        partitions: Vec::new(),
    };

    /// A quiet wired network.
    pub fn lan() -> Self {
        Self { latency: Duration::from_micros(100), jitter: Duration::from_micros(50), ..Self::CALM }
    }

    /// One impairment alone, or a mixture, by the seed.
    pub fn draw(rng: &mut Rng) -> Self {
        let mut weather = Self { latency: Duration::from_micros(rng.below(2_000)), ..Self::CALM };
        if rng.chance(0.5) {
            // Ethernet's usual datagram: the path carries no jumbo frames.
            weather.black_hole = Some((1_472, Duration::ZERO));
        }
        let mixture = rng.chance(0.5);
        let one = rng.below(6);
        let mut has = |n| if mixture { rng.chance(0.5) } else { one == n };
        let (far, jittery, lossy, reordered, doubled, corrupt) = (has(0), has(1), has(2), has(3), has(4), has(5));
        if far {
            weather.latency = rng.span(Duration::from_millis(100));
        }
        if jittery {
            weather.jitter = rng.span(Duration::from_millis(20));
        }
        if lossy {
            weather.loss = 0.001 * rng.below(101) as f64;
        }
        if reordered {
            weather.reordering = 0.01 * rng.below(20) as f64;
        }
        if doubled {
            weather.duplication = 0.01 * rng.below(20) as f64;
        }
        if corrupt {
            weather.corruption = 0.01;
        }
        weather
    }

    pub(super) fn is_partitioned(&self, age: Duration) -> bool {
        self.partitions.iter().any(|&(from, to)| from <= age && age < to)
    }

    pub(super) fn swallows(&self, age: Duration, bytes: usize) -> bool {
        self.black_hole.is_some_and(|(bytes_max, from)| bytes > bytes_max && from <= age)
    }
}
