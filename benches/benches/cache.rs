//! L1 beside quick_cache and moka: a hit on one thread and on two, a miss, an insertion that evicts.
//!
//! Same work for all three: 64 KiB chunks, a budget of 64 MiB, keys drawn from the same sequence, the value held as
//! long as a reply would hold it (cloned out, one byte read, dropped). The rivals store `Bytes` and are told each
//! value's weight. For an insertion each side obtains 64 KiB and writes one word per page: the L1 in a frame, the rivals
//! in a fresh allocation, since that is what they would be given.
#![allow(missing_docs, reason = "criterion's macros generate undocumented items")]

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cache::{ChunkKey, FrameClass, L1Config, L1Reader, L1Writer, l1};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const BUDGET_BYTES: u64 = 64 << 20;
const CHUNK_BYTES: usize = 64 << 10;
/// Half of what fits: every lookup hits, in a working set larger than the L2 cache's reach of headers.
const RESIDENT: u32 = 512;

fn key(number: u32) -> ChunkKey {
    ChunkKey { file: u64::from(number % 13), version: 1, index: number, class: FrameClass::Small }
}

/// The next number of a full-period sequence below `RESIDENT`.
fn step(number: u32) -> u32 {
    (number.wrapping_mul(5).wrapping_add(3)) % RESIDENT
}

fn dirty(bytes: &mut [u8], value: u8) {
    bytes.iter_mut().step_by(4096).for_each(|byte| *byte = value);
}

fn chunk(value: u8) -> Bytes {
    let mut bytes = vec![0; CHUNK_BYTES];
    dirty(&mut bytes, value);
    Bytes::from(bytes)
}

/// Where a lookup reads its byte. Frames start on page boundaries, and the same offset in each would fall in the same
/// few cache sets; a reply, which reads a chunk whole, does not have that problem, so neither should the benchmark.
fn offset(key: &ChunkKey) -> usize {
    key.index as usize * 64 % CHUNK_BYTES
}

/// What all three can do.
trait Chunks: Clone + Send + Sync {
    /// Looks a chunk up, reads a byte of it, lets it go.
    fn hit(&self, key: &ChunkKey) -> Option<u8>;
}

impl Chunks for L1Reader {
    fn hit(&self, key: &ChunkKey) -> Option<u8> {
        self.lookup(key).map(|frame| frame[offset(key)])
    }
}

#[derive(Clone)]
struct Weight;

impl quick_cache::Weighter<ChunkKey, Bytes> for Weight {
    fn weight(&self, _: &ChunkKey, value: &Bytes) -> u64 {
        value.len() as u64
    }
}

type QuickCache = std::sync::Arc<quick_cache::sync::Cache<ChunkKey, Bytes, Weight>>;

impl Chunks for QuickCache {
    fn hit(&self, key: &ChunkKey) -> Option<u8> {
        self.get(key).map(|bytes| bytes[offset(key)])
    }
}

type Moka = moka::sync::Cache<ChunkKey, Bytes>;

impl Chunks for Moka {
    fn hit(&self, key: &ChunkKey) -> Option<u8> {
        self.get(key).map(|bytes| bytes[offset(key)])
    }
}

fn put(writer: &mut L1Writer, key: ChunkKey) {
    let mut frame = writer.allocate(key.class).expect("nothing is held");
    dirty(&mut frame, key.index as u8);
    drop(writer.insert(key, frame, CHUNK_BYTES as u32));
}

fn ours() -> (L1Reader, L1Writer) {
    let (reader, mut writer) = l1(L1Config { bytes_max: BUDGET_BYTES, seed: 1 }).expect("64 MiB of address space");
    (0..RESIDENT).for_each(|number| put(&mut writer, key(number)));
    (reader, writer)
}

fn quick() -> QuickCache {
    let chunks = (BUDGET_BYTES as usize) / CHUNK_BYTES;
    let cache = quick_cache::sync::Cache::with_weighter(chunks, BUDGET_BYTES, Weight);
    (0..RESIDENT).for_each(|number| cache.insert(key(number), chunk(number as u8)));
    std::sync::Arc::new(cache)
}

fn moka() -> Moka {
    let cache = Moka::builder().max_capacity(BUDGET_BYTES).weigher(|_, value: &Bytes| value.len() as u32).build();
    (0..RESIDENT).for_each(|number| cache.insert(key(number), chunk(number as u8)));
    cache.run_pending_tasks();
    cache
}

fn hit_one_thread(c: &mut Criterion) {
    fn run<C: Chunks>(c: &mut Criterion, name: &str, cache: C) {
        let mut number = 0;
        c.benchmark_group("hit/1-thread").throughput(Throughput::Elements(1)).bench_function(name, |b| {
            b.iter(|| {
                number = step(number);
                black_box(cache.hit(&key(number)))
            });
        });
    }
    run(c, "l1", ours().0);
    run(c, "quick_cache", quick());
    run(c, "moka", moka());
}

/// Time per lookup of one thread while another does the same, once over all chunks and once both on a single one.
fn hit_two_threads(c: &mut Criterion) {
    fn run<C: Chunks>(c: &mut Criterion, name: &str, cache: C) {
        for (group, same) in [("hit/2-threads", false), ("hit/2-threads-one-chunk", true)] {
            let next = |number: u32| if same { 7 } else { step(number) };
            let beside = cache.clone();
            c.benchmark_group(group).throughput(Throughput::Elements(1)).bench_function(name, |b| {
                b.iter_custom(|iterations| {
                    let (started, stop) = (AtomicBool::new(false), AtomicBool::new(false));
                    std::thread::scope(|scope| {
                        scope.spawn(|| {
                            let mut number = RESIDENT / 2;
                            while !stop.load(Ordering::Relaxed) {
                                number = next(number);
                                black_box(beside.hit(&key(number)));
                                started.store(true, Ordering::Relaxed);
                            }
                        });
                        while !started.load(Ordering::Relaxed) {
                            std::hint::spin_loop();
                        }
                        let (mut number, start) = (0, Instant::now());
                        for _ in 0..iterations {
                            number = next(number);
                            black_box(cache.hit(&key(number)));
                        }
                        let elapsed = start.elapsed();
                        stop.store(true, Ordering::Relaxed);
                        elapsed
                    })
                });
            });
        }
    }
    run(c, "l1", ours().0);
    run(c, "quick_cache", quick());
    run(c, "moka", moka());
}

fn miss(c: &mut Criterion) {
    fn run<C: Chunks>(c: &mut Criterion, name: &str, cache: C) {
        let mut number = 0;
        c.benchmark_group("miss").throughput(Throughput::Elements(1)).bench_function(name, |b| {
            b.iter(|| {
                number = step(number);
                black_box(cache.hit(&key(number + RESIDENT)))
            });
        });
    }
    run(c, "l1", ours().0);
    run(c, "quick_cache", quick());
    run(c, "moka", moka());
}

/// Inserts new keys for ever into a full cache, so that each insertion evicts.
fn insert_and_evict(c: &mut Criterion) {
    let mut group = c.benchmark_group("insert-evict");
    group.throughput(Throughput::Elements(1));
    let (_, mut writer) = ours();
    let mut number = RESIDENT;
    group.bench_function("l1", |b| {
        b.iter(|| {
            number += 1;
            put(&mut writer, key(number));
        });
    });
    let cache = quick();
    group.bench_function("quick_cache", |b| {
        b.iter(|| {
            number += 1;
            cache.insert(key(number), chunk(number as u8));
        });
    });
    let cache = moka();
    group.bench_function("moka", |b| {
        b.iter(|| {
            number += 1;
            cache.insert(key(number), chunk(number as u8));
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = hit_one_thread, hit_two_threads, miss, insert_and_evict
}
criterion_main!(benches);
