//! The load generator of the random suite: 4 KiB reads by direct I/O, one at a time or many in flight, every block
//! compared with what it should be.
//!
//! Blocks come in a pseudo-random order in which none comes twice. A mount may fetch more than it was asked for, so that
//! a block never read before is in its cache nevertheless; hence two patterns. Spread takes one block of each 64 KiB, so
//! that every read is cold; dense takes every block, as fio does, and gets warmer as it goes. One at a time is `pread`, as a program would; many in flight go through the
//! engine's io_uring, so that one thread keeps them all going and the measuring end takes as little CPU as it can.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use engine::IoMode;
use engine::io::{Completion, Io, IoOptions, Wait};
use rustix::fs::{Mode, OFlags};
use serde_json::{Value, json};

use crate::fingerprint;
use crate::latency::{Curve, Latencies};

/// The size of one read.
pub const BLOCK_BYTES: usize = 4096;

/// The most reads in flight: what the engine's ring takes.
pub const DEPTH_MAX: u16 = IoOptions::SLOTS_MAX;

/// The regions a spread load reads one block of: what a mount fetches for a read of 4 KiB, if it fetches more, is this
/// or less (ours 64 KiB at most; sshfs and rclone fetch what is asked for, or stream on from there).
const REGION_BLOCKS: u64 = 16;

/// Blocks of the reference read at a time.
const BLOCKS_AT_ONCE: usize = 256;

/// The socket the engine's ring insists on; nothing is sent over it.
const NOBODY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9);

/// Which blocks a load reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// One of each 64 KiB.
    Spread,
    /// All.
    Dense,
}

impl Pattern {
    /// Its word on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Spread => "spread",
            Self::Dense => "dense",
        }
    }

    /// Reads [`Pattern::word`] back; `None` for anything else.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Spread, Self::Dense].into_iter().find(|pattern| pattern.word() == word)
    }

    /// The blocks of a file that has `count` of them, in an order that `seed` picks.
    fn blocks(self, count: u64, seed: u64) -> Box<dyn Iterator<Item = u64>> {
        match self {
            Self::Dense => Box::new(Order::new(count, seed)),
            Self::Spread => {
                // The last region may be short: its first block is always there.
                let within = move |region: u64| fingerprint::avalanche(region ^ seed.rotate_left(32)) % REGION_BLOCKS;
                let block = move |region: u64| (region * REGION_BLOCKS + within(region)).min(count - 1);
                Box::new(Order::new(count.div_ceil(REGION_BLOCKS), seed).map(block))
            }
        }
    }
}

/// What one load is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Which blocks.
    pub pattern: Pattern,
    /// Reads in flight.
    pub depth: u16,
    /// When it ends at the latest; it ends sooner once the pattern is through.
    pub limit: Duration,
    /// Picks the order of the blocks.
    pub seed: u64,
}

/// What a load did.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadResult {
    /// Blocks read and found right.
    pub reads: u64,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// The latency of each.
    pub latencies: Curve,
}

impl LoadResult {
    /// Answers per second.
    // Far below 2^53.
    #[expect(clippy::cast_precision_loss, reason = "see above")]
    pub fn reads_per_second(&self) -> f64 {
        self.reads as f64 / self.elapsed.as_secs_f64()
    }

    /// Reads the line that [`run`] returned.
    ///
    /// # Errors
    /// If it is not such JSON.
    pub fn from_line(line: &str) -> anyhow::Result<Self> {
        let value: Value = serde_json::from_str(line).context("a load ends with one JSON object")?;
        let number = |key: &str| value[key].as_u64().with_context(|| format!("a load has no {key}"));
        Ok(Self {
            reads: number("reads")?,
            elapsed: Duration::from_nanos(number("elapsed_ns")?),
            latencies: Curve::from_json(&value["latencies"])?,
        })
    }
}

/// Reads `file` as `load` says, holds each block against `reference`, and returns the line that
/// [`LoadResult::from_line`] reads.
///
/// # Errors
/// If a read fails or brings other bytes.
pub fn run(file: &Path, reference: &Path, load: Load) -> anyhow::Result<String> {
    let expected = fingerprints(reference)?;
    ensure!(!expected.is_empty(), "the reference has no block");
    let blocks = load.pattern.blocks(expected.len() as u64, load.seed);
    let opened = rustix::fs::open(file, OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty())
        .with_context(|| format!("cannot open {} for direct I/O", file.display()))?;
    let mut latencies = Latencies::new()?;
    let elapsed = match load.depth {
        1 => one_at_a_time(opened, blocks, &expected, load.limit, &mut latencies)?,
        depth => in_flight(opened, blocks, &expected, depth, load.limit, &mut latencies)?,
    };
    let line = json!({
        "reads": latencies.count(),
        "elapsed_ns": u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX),
        "latencies": latencies.curve(),
    });
    Ok(line.to_string())
}

/// The checksum of every whole block of a file.
fn fingerprints(reference: &Path) -> anyhow::Result<Vec<u64>> {
    let mut file = File::open(reference).with_context(|| format!("cannot open {}", reference.display()))?;
    let mut buffer = vec![0; BLOCK_BYTES * BLOCKS_AT_ONCE];
    let mut found = Vec::new();
    let mut filled = 0;
    loop {
        let length = file.read(&mut buffer[filled..])?;
        filled += length;
        if length == 0 || filled == buffer.len() {
            found.extend(buffer[..filled].chunks_exact(BLOCK_BYTES).map(fingerprint::of));
            filled = 0;
        }
        if length == 0 {
            return Ok(found);
        }
    }
}

fn one_at_a_time(
    file: OwnedFd,
    blocks: impl Iterator<Item = u64>,
    expected: &[u64],
    limit: Duration,
    latencies: &mut Latencies,
) -> anyhow::Result<Duration> {
    let file = File::from(file);
    // Direct I/O wants the buffer aligned on some file systems.
    let mut room = vec![0; 2 * BLOCK_BYTES];
    let start = room.as_ptr().align_offset(BLOCK_BYTES);
    let buffer = &mut room[start..start + BLOCK_BYTES];
    let started = Instant::now();
    for block in blocks {
        let asked = Instant::now();
        if asked - started >= limit {
            break;
        }
        let length = file.read_at(buffer, block * BLOCK_BYTES as u64)?;
        latencies.record(asked.elapsed());
        check(block, &buffer[..length], expected)?;
    }
    Ok(started.elapsed())
}

fn in_flight(
    file: OwnedFd,
    mut blocks: impl Iterator<Item = u64>,
    expected: &[u64],
    depth: u16,
    limit: Duration,
    latencies: &mut Latencies,
) -> anyhow::Result<Duration> {
    let options = IoOptions { file_reads: depth, ..IoOptions::STANDARD };
    let mut ring = engine::io::open(IoMode::Uring, engine::io::bind_client(&[NOBODY])?, options)?;
    let file = Arc::new(file);
    let mut asked = vec![(0, Instant::now()); depth.into()];
    let mut inbox = VecDeque::new();
    let started = Instant::now();
    let mut in_flight: u16 = 0;
    for slot in 0..depth {
        in_flight += u16::from(ask(&mut *ring, &file, &mut blocks, &mut asked, slot.into())?);
    }
    while in_flight > 0 {
        ring.turn(Wait::ForEvent, &|| false, &mut inbox)?;
        let now = Instant::now();
        for completion in inbox.drain(..) {
            let Completion::FileRead { token, result } = completion else {
                continue;
            };
            in_flight -= 1;
            let (block, since) = asked[usize::try_from(token)?];
            latencies.record(now - since);
            let bytes = result?;
            if now - started < limit {
                in_flight += u16::from(ask(&mut *ring, &file, &mut blocks, &mut asked, token)?);
            }
            check(block, &bytes, expected)?;
        }
    }
    Ok(started.elapsed())
}

/// Asks for the next block in the place of one that came; false if there is no next.
fn ask(
    ring: &mut dyn Io,
    file: &Arc<OwnedFd>,
    blocks: &mut impl Iterator<Item = u64>,
    asked: &mut [(u64, Instant)],
    token: u64,
) -> anyhow::Result<bool> {
    let Some(block) = blocks.next() else {
        return Ok(false);
    };
    asked[usize::try_from(token)?] = (block, Instant::now());
    ring.read_file(token, Arc::clone(file), block * BLOCK_BYTES as u64, BLOCK_BYTES)?;
    Ok(true)
}

fn check(block: u64, bytes: &[u8], expected: &[u64]) -> anyhow::Result<()> {
    if bytes.len() != BLOCK_BYTES {
        bail!("block {block}: {} of {BLOCK_BYTES} bytes came", bytes.len());
    }
    ensure!(
        Some(&fingerprint::of(bytes)) == expected.get(usize::try_from(block)?),
        "block {block}: other bytes than the file's came"
    );
    Ok(())
}

/// Every number below a limit once, in an order that a seed picks.
///
/// A bijection of the numbers of some bits; those at or above the limit are skipped.
struct Order {
    limit: u64,
    bits: u32,
    seed: u64,
    index: u64,
}

impl Order {
    fn new(limit: u64, seed: u64) -> Self {
        // Two bits at least, so that the shift below is one.
        let bits = (u64::BITS - limit.saturating_sub(1).leading_zeros()).max(2);
        Self { limit, bits, seed, index: 0 }
    }

    const fn mask(&self) -> u64 {
        u64::MAX >> (u64::BITS - self.bits)
    }

    /// Each step is a bijection of the numbers below `2^bits`: adding, multiplying by an odd number, and folding the
    /// upper half onto the lower.
    fn shuffled(&self, index: u64) -> u64 {
        let mut value = index.wrapping_add(self.seed) & self.mask();
        for key in [0xbf58_476d_1ce4_e5b9_u64, 0x94d0_49bb_1331_11eb, 0x9e37_79b9_7f4a_7c15] {
            value = value.wrapping_mul(key) & self.mask();
            value ^= value >> (self.bits / 2);
        }
        value
    }
}

impl Iterator for Order {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        while self.index <= self.mask() {
            let value = self.shuffled(self.index);
            self.index += 1;
            if value < self.limit {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Fixture;

    #[test]
    fn an_order_is_a_permutation() {
        for limit in [1, 2, 3, 4, 5, 1000, 4096, 5000] {
            let mut found: Vec<u64> = Order::new(limit, 7).collect();
            // A handful may happen to come in order.
            assert!(limit < 1000 || !found.is_sorted(), "{limit}");
            found.sort_unstable();
            assert_eq!(found, (0..limit).collect::<Vec<_>>(), "{limit}");
        }
    }

    #[test]
    fn a_spread_load_never_reads_twice_in_a_region() {
        for count in [1, 15, 16, 17, 1000] {
            let mut regions: Vec<u64> = Pattern::Spread
                .blocks(count, 5)
                .map(|block| {
                    assert!(block < count);
                    block / REGION_BLOCKS
                })
                .collect();
            regions.sort_unstable();
            assert_eq!(regions, (0..count.div_ceil(REGION_BLOCKS)).collect::<Vec<_>>(), "{count}");
        }
        for pattern in [Pattern::Spread, Pattern::Dense] {
            assert_eq!(Pattern::from_word(pattern.word()), Some(pattern));
        }
    }

    #[test]
    fn seeds_give_different_orders() {
        let first: Vec<u64> = Order::new(1000, 1).take(20).collect();
        assert_ne!(first, Order::new(1000, 2).take(20).collect::<Vec<_>>());
    }

    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn every_block_of_a_right_file_is_read_once_at_any_depth() {
        let fixture = Fixture::create(300 * BLOCK_BYTES as u64 + 100).unwrap();
        for depth in [1, 8] {
            let load = Load { pattern: Pattern::Dense, depth, limit: LIMIT, seed: 3 };
            // Where io_uring is forbidden, many in flight cannot be tried.
            let line = match run(&fixture.file(), &fixture.file(), load) {
                Err(error) if depth > 1 && format!("{error:#}").contains("io_uring") => {
                    eprintln!("not run: {error:#}");
                    continue;
                }
                line => line.unwrap(),
            };
            let result = LoadResult::from_line(&line).unwrap();
            assert_eq!(result.reads, 300, "depth {depth}");
            assert!(result.reads_per_second() > 0.0);
            assert!(result.latencies.at(50.0) > Some(0.0));
        }
    }

    #[test]
    fn one_wrong_byte_is_found() {
        let fixture = Fixture::create(64 * BLOCK_BYTES as u64).unwrap();
        let wrong = fixture.destination("wrong");
        let mut bytes = std::fs::read(fixture.file()).unwrap();
        bytes[40 * BLOCK_BYTES + 17] ^= 1;
        std::fs::write(&wrong, bytes).unwrap();
        let load = Load { pattern: Pattern::Dense, depth: 1, limit: LIMIT, seed: 3 };
        let error = run(&wrong, &fixture.file(), load).unwrap_err();
        assert!(error.to_string().contains("block 40"), "{error}");
    }

    #[test]
    fn a_load_without_a_field_is_refused() {
        assert!(LoadResult::from_line(r#"{"reads":1,"elapsed_ns":5}"#).is_err());
        assert!(LoadResult::from_line("").is_err());
    }
}
