//! Readers that keep a mount busy, and remember the longest any call took.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::wait::{self, SOON};

/// What one read asks for.
const READ_BYTES: usize = 128 << 10;

/// Threads that read files again and again until an error, or until told to stop.
pub struct Load {
    shared: Arc<Shared>,
    readers: Vec<JoinHandle<Outcome>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    bytes: AtomicU64,
    /// Readers that have had bytes.
    begun: AtomicU64,
}

/// How one reader ended.
#[derive(Debug)]
pub struct Outcome {
    /// The longest open or read.
    pub longest: Duration,
    /// What stopped it; `None` when it was told to.
    pub error: Option<io::Error>,
    /// True when some byte differed from the original.
    pub differs: bool,
}

impl Load {
    /// Starts one reader a file below `mount` and compares what it reads with the same file below `share`.
    ///
    /// Returns once every reader has had bytes.
    #[track_caller]
    pub fn start(mount: &Path, share: &Path, names: &[String]) -> Self {
        let shared = Arc::<Shared>::default();
        let readers = names
            .iter()
            .map(|name| {
                let (through, original) = (mount.join(name), share.join(name));
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || read_on(&through, &original, &shared))
            })
            .collect::<Vec<_>>();
        let load = Self { shared, readers };
        wait::until("every reader has begun", SOON, || {
            let begun = load.shared.begun.load(Ordering::Relaxed) as usize;
            (begun == load.readers.len() || load.readers.iter().any(JoinHandle::is_finished)).then_some(())
        });
        load
    }

    /// Bytes read so far, by all.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// Tells the readers to stop after the read in hand, and waits for them.
    #[track_caller]
    pub fn stop(self, why: &str, limit: Duration) -> Vec<Outcome> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.wait(why, limit)
    }

    /// Waits until every reader has ended by an error.
    #[track_caller]
    pub fn wait(self, why: &str, limit: Duration) -> Vec<Outcome> {
        wait::until(&format!("{why}: the readers' end"), limit, || {
            self.readers.iter().all(JoinHandle::is_finished).then_some(())
        });
        self.readers.into_iter().map(|reader| reader.join().expect("a reader does not panic")).collect()
    }
}

fn read_on(through: &PathBuf, original: &PathBuf, shared: &Shared) -> Outcome {
    let mut outcome = Outcome { longest: Duration::ZERO, error: None, differs: false };
    let expected = std::fs::read(original).expect("the original is readable");
    let mut buffer = vec![0; READ_BYTES];
    let mut has_begun = false;
    while !shared.stop.load(Ordering::Relaxed) {
        let mut pass = || -> io::Result<()> {
            let mut timed = |begun: Instant| outcome.longest = outcome.longest.max(begun.elapsed());
            let begun = Instant::now();
            let opened = File::open(through);
            timed(begun);
            let mut file = opened?;
            // Cold for this reader each time: the kernel drops the clean pages of the file.
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
            let mut offset = 0;
            while !shared.stop.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let read = file.read(&mut buffer);
                timed(begun);
                let length = read?;
                if length == 0 {
                    outcome.differs |= offset != expected.len();
                    break;
                }
                outcome.differs |= expected.get(offset..offset + length) != Some(&buffer[..length]);
                offset += length;
                shared.bytes.fetch_add(length as u64, Ordering::Relaxed);
                if !has_begun {
                    has_begun = true;
                    shared.begun.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(())
        };
        if let Err(error) = pass() {
            outcome.error = Some(error);
            break;
        }
    }
    outcome
}

/// How often something is killed: `in_gate` times, unless `WORMHOLE_KILL_ROUNDS` says otherwise.
///
/// # Panics
/// When the variable is no number.
pub fn kill_rounds(in_gate: usize) -> usize {
    match std::env::var("WORMHOLE_KILL_ROUNDS") {
        Ok(rounds) => rounds.parse().expect("WORMHOLE_KILL_ROUNDS is a number"),
        Err(_) => in_gate,
    }
}

/// Writes files of pseudo-random bytes for readers, and returns their names.
///
/// # Panics
/// When the folder takes no files.
#[track_caller]
pub fn write_files(share: &Path, count: usize, bytes: usize) -> Vec<String> {
    let names: Vec<String> = (0..count).map(|index| format!("load-{index}")).collect();
    for name in &names {
        std::fs::write(share.join(name), content(name, bytes)).expect("the share takes files");
    }
    names
}

/// Pseudo-random bytes that depend on a seed alone.
pub fn content(seed: &str, bytes: usize) -> Vec<u8> {
    let mut filled = vec![0; bytes];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut filled);
    filled
}
