//! Trees of many files: made, walked as `find -ls` does, read whole, and stormed with single requests.
//!
//! A tree is told from another by a sum over its entries that does not depend on their order.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, StatxFlags};
use serde_json::{Value, json};

use crate::fingerprint;
use crate::fixture;
use crate::sample::{Sample, Stopwatch};
use crate::statistics::Summary;

/// The deepest tree that is walked; each level holds a descriptor open.
const DEPTH_MAX: usize = 400;

/// The largest file that is read whole: the files of a tree are small.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Paths a storm goes through again and again.
const STORM_PATHS_MAX: usize = 10_000;

/// What is read of a file whose first byte is waited for: a page.
const FIRST_BLOCK_BYTES: usize = 4096;

/// What [`open_and_read`] asks for at a time, as `dd bs=1M` does.
const READ_BYTES: usize = 1 << 20;

/// Single requests between two looks at the clock.
const STORM_STEP: usize = 64;

/// The form of a tree to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Folders side by side, each with so many files.
    Wide {
        /// Folders.
        folders: usize,
        /// Files in each.
        files: usize,
    },
    /// Folders inside one another, each with so many files.
    Deep {
        /// Folders.
        folders: usize,
        /// Files in each.
        files: usize,
    },
}

impl Shape {
    /// Files and folders, the root left out.
    pub const fn entries(self) -> usize {
        match self {
            Self::Wide { folders, files } | Self::Deep { folders, files } => folders * (files + 1),
        }
    }

    /// Files alone.
    pub const fn files(self) -> usize {
        match self {
            Self::Wide { folders, files } | Self::Deep { folders, files } => folders * files,
        }
    }
}

/// Makes a tree at `root`, which must not exist, with files of `file_bytes` pseudo-random bytes, no two alike.
///
/// # Errors
/// If it cannot be written.
pub fn create(root: &Path, shape: Shape, file_bytes: usize) -> anyhow::Result<()> {
    let mut source = fixture::pattern();
    let mut content = vec![0; file_bytes];
    fs::create_dir(root)?;
    let mut fill = |folder: &Path, files: usize| -> anyhow::Result<()> {
        fs::create_dir(folder)?;
        for file in 0..files {
            source.fill(&mut content);
            fs::write(folder.join(format!("file-{file:04}")), &content)?;
        }
        Ok(())
    };
    match shape {
        Shape::Wide { folders, files } => {
            (0..folders).try_for_each(|folder| fill(&root.join(format!("folder-{folder:04}")), files))
        }
        Shape::Deep { folders, files } => {
            ensure!(folders <= DEPTH_MAX, "{folders} folders are deeper than {DEPTH_MAX}");
            let mut folder = root.to_owned();
            (0..folders).try_for_each(|_| {
                folder.push("d");
                fill(&folder, files)
            })
        }
    }
    .with_context(|| format!("cannot make the tree {}", root.display()))
}

/// What a walk saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    /// Files and folders below the root.
    pub entries: u64,
    /// Files alone.
    pub files: u64,
    /// Bytes of all files, as their attributes say or as they were read.
    pub bytes: u64,
    /// A sum over path, kind, length and, where it was read, content of every entry.
    pub sum: u64,
    /// From the first request to the last answer.
    pub elapsed: Duration,
}

impl Walk {
    /// Whether both saw the same tree.
    pub fn is_same_tree(&self, other: &Self) -> bool {
        let tree = |walk: &Self| (walk.entries, walk.files, walk.bytes, walk.sum);
        tree(self) == tree(other)
    }

    /// The walk as one line of JSON.
    pub fn to_line(self) -> String {
        json!({
            "entries": self.entries,
            "files": self.files,
            "bytes": self.bytes,
            "sum": self.sum,
            "elapsed_ns": u64::try_from(self.elapsed.as_nanos()).unwrap_or(u64::MAX),
        })
        .to_string()
    }

    /// Reads [`Walk::to_line`] back.
    ///
    /// # Errors
    /// If the line is not such JSON.
    pub fn from_line(line: &str) -> anyhow::Result<Self> {
        let value: Value = serde_json::from_str(line).context("a walk ends with one JSON object")?;
        let number = |key: &str| value[key].as_u64().with_context(|| format!("a walk has no {key}"));
        Ok(Self {
            entries: number("entries")?,
            files: number("files")?,
            bytes: number("bytes")?,
            sum: number("sum")?,
            elapsed: Duration::from_nanos(number("elapsed_ns")?),
        })
    }
}

/// What a walk does with each file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Its attributes, as `find -ls` asks for them.
    Attributes,
    /// Its content too, summed fast enough to be timed.
    Content,
    /// Its content too, by BLAKE3, for comparing where time does not count.
    Proof,
}

impl Depth {
    /// Its word on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Attributes => "attributes",
            Self::Content => "content",
            Self::Proof => "proof",
        }
    }

    /// Reads [`Depth::word`] back; `None` for anything else.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Attributes, Self::Content, Self::Proof].into_iter().find(|depth| depth.word() == word)
    }
}

/// Walks the tree at `root`: every folder listed (getdents64), every entry asked for its attributes (statx).
///
/// # Errors
/// If an entry cannot be read, is neither file nor folder, or lies deeper than 400 folders.
pub fn walk(root: &Path, depth: Depth) -> anyhow::Result<Walk> {
    let started = Instant::now();
    let mut walker = Walker {
        depth,
        found: Walk { entries: 0, files: 0, bytes: 0, sum: 0, elapsed: Duration::ZERO },
        path: Vec::new(),
        content: Vec::new(),
    };
    let folder = rustix::fs::openat(CWD, root, FOLDER, Mode::empty())
        .with_context(|| format!("cannot open {}", root.display()))?;
    walker.enter(folder, 0)?;
    Ok(Walk { elapsed: started.elapsed(), ..walker.found })
}

/// How folders are opened.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

struct Walker {
    depth: Depth,
    found: Walk,
    /// The path below the root, for the sum.
    path: Vec<u8>,
    content: Vec<u8>,
}

impl Walker {
    fn enter(&mut self, folder: OwnedFd, level: usize) -> anyhow::Result<()> {
        ensure!(level <= DEPTH_MAX, "deeper than {DEPTH_MAX} folders");
        let mut listing = Dir::read_from(&folder)?;
        while let Some(entry) = listing.read() {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let above = self.path.len();
            self.path.push(b'/');
            self.path.extend_from_slice(name.to_bytes());
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            let attributes = rustix::fs::statx(&folder, name, flags, StatxFlags::BASIC_STATS)
                .with_context(|| format!("no attributes of {}", String::from_utf8_lossy(&self.path)))?;
            self.found.entries += 1;
            match FileType::from_raw_mode(attributes.stx_mode.into()) {
                FileType::Directory => {
                    self.add(u64::MAX);
                    let inner = rustix::fs::openat(&folder, name, FOLDER, Mode::empty())?;
                    self.enter(inner, level + 1)?;
                }
                FileType::RegularFile => {
                    self.found.files += 1;
                    self.found.bytes += attributes.stx_size;
                    self.add(attributes.stx_size);
                    if self.depth != Depth::Attributes {
                        self.read(&folder, name, attributes.stx_size)?;
                    }
                }
                other => anyhow::bail!("{} is a {other:?}", String::from_utf8_lossy(&self.path)),
            }
            self.path.truncate(above);
        }
        Ok(())
    }

    fn read(&mut self, folder: &OwnedFd, name: &std::ffi::CStr, bytes: u64) -> anyhow::Result<()> {
        let file = rustix::fs::openat(folder.as_fd(), name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        self.content.clear();
        let length = File::from(file).take(FILE_BYTES_MAX).read_to_end(&mut self.content)? as u64;
        ensure!(length == bytes, "{}: {length} of {bytes} bytes", String::from_utf8_lossy(&self.path));
        let sum = match self.depth {
            Depth::Attributes => return Ok(()),
            Depth::Content => fingerprint::of(&self.content),
            Depth::Proof => {
                let hash = blake3::hash(&self.content);
                u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("a hash has 32 bytes"))
            }
        };
        self.add(sum);
        Ok(())
    }

    /// Adds one fact about the current path to the sum.
    fn add(&mut self, fact: u64) {
        let fact = fingerprint::avalanche(fingerprint::of(&self.path) ^ fingerprint::avalanche(fact));
        self.found.sum = self.found.sum.wrapping_add(fact);
    }
}

/// The request a storm is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storm {
    /// `stat` of a path.
    Stat,
    /// `open` and `close` of a path.
    Open,
}

impl Storm {
    /// Its word on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Stat => "stat",
            Self::Open => "open",
        }
    }

    /// Reads [`Storm::word`] back; `None` for anything else.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Stat, Self::Open].into_iter().find(|storm| storm.word() == word)
    }
}

/// Does the same request on the files below `root` in turn, one at a time, for `limit`; returns requests per second.
///
/// # Errors
/// If there is no file or a request fails.
// Counts stay far below 2^53.
#[expect(clippy::cast_precision_loss, reason = "see above")]
pub fn storm(root: &Path, storm: Storm, limit: Duration) -> anyhow::Result<f64> {
    let mut paths = Vec::new();
    collect(root, &mut paths)?;
    ensure!(!paths.is_empty(), "no file to ask for");
    let started = Instant::now();
    let mut count: u64 = 0;
    let mut paths = paths.iter().cycle();
    while started.elapsed() < limit {
        for path in paths.by_ref().take(STORM_STEP) {
            match storm {
                Storm::Stat => drop(rustix::fs::stat(path)?),
                Storm::Open => drop(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?),
            }
            count += 1;
        }
    }
    Ok(count as f64 / started.elapsed().as_secs_f64())
}

/// The files below `root`, as many as a storm takes.
fn collect(root: &Path, paths: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        if paths.len() == STORM_PATHS_MAX {
            return Ok(());
        }
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), paths)?;
        } else {
            paths.push(entry.path());
        }
    }
    Ok(())
}

/// How long the first bytes of a folder's files took, microseconds; medians over the files.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FirstBytes {
    /// From just before the open to the first bytes.
    pub with_open_us: f64,
    /// From the return of the open to the first bytes.
    pub after_open_us: f64,
}

impl FirstBytes {
    fn to_json(self) -> Value {
        json!({ "with_open_us": self.with_open_us, "after_open_us": self.after_open_us })
    }

    /// Reads the line of [`first_bytes`]: the pass that opened each file for the first time, and the one after it.
    ///
    /// # Errors
    /// If it is not such JSON.
    pub fn from_line(line: &str) -> anyhow::Result<[Self; 2]> {
        let value: Value = serde_json::from_str(line).context("first bytes are one JSON object")?;
        let pass = |name: &str| {
            let number = |key: &str| value[name][key].as_f64().with_context(|| format!("no {name} {key}"));
            anyhow::Ok(Self { with_open_us: number("with_open_us")?, after_open_us: number("after_open_us")? })
        };
        Ok([pass("cold")?, pass("warm")?])
    }
}

/// Opens every file in the folder `root` and reads its first block, twice; returns the line that
/// [`FirstBytes::from_line`] reads. The folder is the first of a tree whose files have `file_bytes` bytes each, which
/// says what must come.
///
/// # Errors
/// If there is no file, one cannot be read, or other bytes come than the tree was made of.
pub fn first_bytes(root: &Path, file_bytes: u64) -> anyhow::Result<String> {
    let mut names: Vec<PathBuf> = fs::read_dir(root)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    names.sort_unstable();
    let mut source = fixture::pattern();
    let expected: Vec<Vec<u8>> = (0..names.len() as u64)
        .map(|index| {
            let mut block =
                vec![0; usize::try_from(file_bytes).map_or(FIRST_BLOCK_BYTES, |all| all.min(FIRST_BLOCK_BYTES))];
            source.set_position(index * file_bytes);
            source.fill(&mut block);
            block
        })
        .collect();
    let pass = || -> anyhow::Result<FirstBytes> {
        let mut block = vec![0; FIRST_BLOCK_BYTES];
        let (mut with_open, mut after_open) = (Vec::new(), Vec::new());
        for (name, expected) in names.iter().zip(&expected) {
            let started = Instant::now();
            let mut file = File::open(name)?;
            let opened = Instant::now();
            let length = file.read(&mut block)?;
            let ended = Instant::now();
            with_open.push((ended - started).as_secs_f64() * 1e6);
            after_open.push((ended - opened).as_secs_f64() * 1e6);
            ensure!(length > 0, "{} is empty", name.display());
            ensure!(expected.starts_with(&block[..length]), "{} begins with other bytes than its own", name.display());
        }
        let median = |latencies: &[f64]| anyhow::Ok(Summary::of(latencies).context("no file to open")?.median);
        Ok(FirstBytes { with_open_us: median(&with_open)?, after_open_us: median(&after_open)? })
    };
    let (cold, warm) = (pass()?, pass()?);
    Ok(json!({ "cold": cold.to_json(), "warm": warm.to_json() }).to_string())
}

/// Opens `file`, reads it to its end and throws it away; the clock runs from just before the open to the last byte.
///
/// # Errors
/// If it cannot be read.
pub fn open_and_read(file: &Path) -> anyhow::Result<Sample> {
    let mut block = vec![0; READ_BYTES];
    let mut bytes = 0;
    let watch = Stopwatch::start();
    let mut opened = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    loop {
        match opened.read(&mut block)? {
            0 => return Ok(watch.stop(bytes)),
            length => bytes += length as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Directory;

    fn made(shape: Shape) -> (Directory, PathBuf) {
        let directory = Directory::create().unwrap();
        let root = directory.share().join("tree");
        create(&root, shape, 100).unwrap();
        (directory, root)
    }

    const WIDE: Shape = Shape::Wide { folders: 3, files: 5 };

    #[test]
    fn a_walk_counts_what_was_made() {
        for shape in [WIDE, Shape::Deep { folders: 7, files: 2 }] {
            let (_directory, root) = made(shape);
            let walk = walk(&root, Depth::Attributes).unwrap();
            assert_eq!(walk.entries, shape.entries() as u64, "{shape:?}");
            assert_eq!(walk.files, shape.files() as u64, "{shape:?}");
            assert_eq!(walk.bytes, 100 * walk.files, "{shape:?}");
            assert_eq!(Walk::from_line(&walk.to_line()).unwrap(), walk);
        }
    }

    #[test]
    fn a_difference_is_seen_at_the_depth_it_lies_at() {
        let (_left, left) = made(WIDE);
        let (_right, right) = made(WIDE);
        let is_same = |depth| walk(&left, depth).unwrap().is_same_tree(&walk(&right, depth).unwrap());
        for depth in [Depth::Attributes, Depth::Content, Depth::Proof] {
            assert_eq!(Depth::from_word(depth.word()), Some(depth));
            assert!(is_same(depth), "{depth:?}");
        }
        let file = right.join("folder-0001/file-0002");
        let mut bytes = fs::read(&file).unwrap();
        bytes[50] ^= 1;
        fs::write(&file, &bytes).unwrap();
        assert!(is_same(Depth::Attributes) && !is_same(Depth::Content) && !is_same(Depth::Proof));
        fs::rename(&file, right.join("folder-0001/other")).unwrap();
        assert!(!is_same(Depth::Attributes));
    }

    #[test]
    fn storms_and_first_bytes_need_files() {
        let (directory, root) = made(WIDE);
        for kind in [Storm::Stat, Storm::Open] {
            assert_eq!(Storm::from_word(kind.word()), Some(kind));
            assert!(storm(&root, kind, Duration::from_millis(5)).unwrap() > 0.0);
        }
        for pass in FirstBytes::from_line(&first_bytes(&root.join("folder-0000"), 100).unwrap()).unwrap() {
            assert!(pass.after_open_us > 0.0 && pass.with_open_us > pass.after_open_us, "{pass:?}");
        }
        let empty = directory.destination("empty");
        fs::create_dir(&empty).unwrap();
        assert!(storm(&empty, Storm::Stat, Duration::ZERO).is_err());
        assert!(first_bytes(&empty, 100).is_err());
    }

    #[test]
    fn first_bytes_that_are_not_the_files_are_found() {
        let (_directory, root) = made(WIDE);
        let folder = root.join("folder-0000");
        assert!(first_bytes(&folder, 100).is_ok());
        // The same length, and right but for one byte of one file.
        let file = folder.join("file-0003");
        let mut bytes = fs::read(&file).unwrap();
        bytes[99] ^= 1;
        fs::write(&file, &bytes).unwrap();
        let error = first_bytes(&folder, 100).unwrap_err();
        assert!(error.to_string().contains("file-0003"), "{error}");
    }

    #[test]
    fn a_whole_read_counts_the_open_and_every_byte() {
        let (_directory, root) = made(WIDE);
        let sample = open_and_read(&root.join("folder-0000/file-0000")).unwrap();
        assert!(sample.bytes == 100 && sample.elapsed > Duration::ZERO, "{sample:?}");
        assert!(open_and_read(&root.join("none")).is_err());
    }

    #[test]
    fn what_is_neither_file_nor_folder_is_refused() {
        let (_directory, root) = made(WIDE);
        std::os::unix::fs::symlink("folder-0000", root.join("link")).unwrap();
        assert!(walk(&root, Depth::Attributes).is_err());
    }
}
