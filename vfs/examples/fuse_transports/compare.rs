//! The same short work on two mounts in turn.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use rustix::fs::Advice;

use crate::memory::SMALL_COUNT;

const MIB: usize = 1 << 20;
/// What one sequential case reads.
const SPAN_MIB: usize = 64;
const READERS: usize = 8;
const RANDOM_BYTES: usize = 4096;
/// Random reads of one reader, in one round.
const RANDOM_READS: usize = 2_000;

/// A case: what it is called, and what it yields of a mount (more is better).
type Case = (&'static str, fn(&Path) -> f64);

const READS: [Case; 6] = [
    ("sequential buffered, GB/s", |mount| read_all(mount, 1, false)),
    ("sequential direct, GB/s", |mount| read_all(mount, 1, true)),
    ("8 readers buffered, GB/s", |mount| read_all(mount, READERS, false)),
    ("8 readers direct, GB/s", |mount| read_all(mount, READERS, true)),
    ("4 KiB random direct, 1 reader, /s", |mount| read_randomly(mount, 1)),
    ("4 KiB random direct, 8 readers, /s", |mount| read_randomly(mount, READERS)),
];

const NAMES: [Case; 4] = [
    ("stat, 1 thread, /s", |mount| visit(mount, 1, stat)),
    ("stat, 8 threads, /s", |mount| visit(mount, READERS, stat)),
    ("open, read, close, 1 thread, /s", |mount| visit(mount, 1, open_and_read)),
    ("open, read, close, 8 threads, /s", |mount| visit(mount, READERS, open_and_read)),
];

/// Prints a table; `has_names` says whether there is a folder `many`.
pub fn run(device: &Path, ring: &Path, has_names: bool, rounds: usize) {
    let cases: Vec<Case> = READS.into_iter().chain(has_names.then_some(NAMES).into_iter().flatten()).collect();
    let mut found: Vec<Vec<[f64; 2]>> = vec![Vec::new(); cases.len()];
    for round in 0..rounds {
        for (found, (_, case)) in found.iter_mut().zip(&cases) {
            // Who comes first changes from round to round.
            found.push(if round % 2 == 0 {
                let first = case(device);
                [first, case(ring)]
            } else {
                let first = case(ring);
                [case(device), first]
            });
        }
    }
    println!("| case | device | ring | ring to device (quartiles) |\n| --- | --- | --- | --- |");
    for (found, (name, _)) in found.iter().zip(&cases) {
        let sorted = |of: fn(&[f64; 2]) -> f64| {
            let mut values: Vec<f64> = found.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let (device, ring, ratio) = (sorted(|pair| pair[0]), sorted(|pair| pair[1]), sorted(|pair| pair[1] / pair[0]));
        let at = |values: &[f64], quarter: usize| values[(values.len() - 1) * quarter / 4];
        println!(
            "| {name} | {} | {} | {:.2} ({:.2} to {:.2}) |",
            shown(at(&device, 2)),
            shown(at(&ring, 2)),
            at(&ratio, 2),
            at(&ratio, 1),
            at(&ratio, 3)
        );
    }
}

fn shown(value: f64) -> String {
    if value < 100.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

/// Runs `work` in so many threads, each with its number; returns the seconds it took.
fn timed(threads: usize, work: impl Fn(usize) + Sync) -> f64 {
    let begun = Instant::now();
    thread::scope(|scope| {
        for number in 0..threads {
            let work = &work;
            scope.spawn(move || work(number));
        }
    });
    begun.elapsed().as_secs_f64()
}

fn open(mount: &Path, is_direct: bool) -> File {
    let flags = if is_direct { libc::O_DIRECT } else { 0 };
    OpenOptions::new().read(true).custom_flags(flags).open(mount.join("file")).expect("a large file")
}

/// A part of `buffer` that begins with a page, as direct reads want it.
fn page_aligned(buffer: &mut [u8], bytes: usize) -> &mut [u8] {
    let offset = buffer.as_ptr().align_offset(4096);
    &mut buffer[offset..offset + bytes]
}

/// Reads the span in MiB, each reader its part, past the kernel's pages or after they were dropped.
fn read_all(mount: &Path, readers: usize, is_direct: bool) -> f64 {
    rustix::fs::fadvise(open(mount, false), 0, None, Advice::DontNeed).expect("pages are dropped");
    let part = SPAN_MIB / readers;
    let seconds = timed(readers, |reader| {
        let file = open(mount, is_direct);
        let mut buffer = vec![0; MIB + 4096];
        let buffer = page_aligned(&mut buffer, MIB);
        for block in reader * part..(reader + 1) * part {
            file.read_exact_at(buffer, (block * MIB) as u64).expect("bytes");
        }
    });
    (SPAN_MIB * MIB) as f64 / 1e9 / seconds
}

fn read_randomly(mount: &Path, readers: usize) -> f64 {
    let seconds = timed(readers, |reader| {
        let file = open(mount, true);
        let mut buffer = vec![0; 2 * RANDOM_BYTES];
        let buffer = page_aligned(&mut buffer, RANDOM_BYTES);
        let mut state = reader as u64 + 1;
        for _ in 0..RANDOM_READS {
            // The constants of Knuth's MMIX generator.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let block = (state >> 33) % (SPAN_MIB * MIB / RANDOM_BYTES) as u64;
            file.read_exact_at(buffer, block * RANDOM_BYTES as u64).expect("bytes");
        }
    });
    (RANDOM_READS * readers) as f64 / seconds
}

/// Does something with every small file, in each thread.
fn visit(mount: &Path, threads: usize, each: impl Fn(PathBuf) + Sync) -> f64 {
    let folder = mount.join("many");
    let seconds = timed(threads, |_| (0..SMALL_COUNT).for_each(|number| each(folder.join(number.to_string()))));
    (SMALL_COUNT as usize * threads) as f64 / seconds
}

fn stat(path: PathBuf) {
    path.metadata().expect("attributes");
}

fn open_and_read(path: PathBuf) {
    let mut buffer = [0; 4096];
    let count = File::open(path).and_then(|mut file| file.read(&mut buffer)).expect("bytes");
    assert!(count > 0);
}
