//! The demo's files: how they are made, and whether a folder holds the same.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use blake3::{Hash, Hasher, OutputReader};

use crate::exit::{Exit, Failure};
use crate::quote;

/// Readers that work at once, as the threads of a program would.
const READERS: usize = 4;

/// Folders of small files, and files in each.
const FOLDERS: usize = 20;
const FILES_PER_FOLDER: usize = 25;

/// Depth of the nested folders.
const DEPTH: usize = 12;

/// Length of the file that is a hole but for its two ends.
const SPARSE_BYTES: u64 = 16 << 20;

/// Bytes that are written, read and compared at a time.
const PIECE_BYTES: usize = 1 << 20;

/// The large file's name.
const LARGE: &str = "large.bin";

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Folder,
    Link(PathBuf),
    File { bytes: u64, hash: Hash },
}

/// The files that were made, with their hashes.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
    /// Everything but the large file, by path below the root.
    entries: BTreeMap<PathBuf, Entry>,
    large_bytes: u64,
}

impl Tree {
    /// Makes many small files, nested folders, a symbolic link, a sparse file and one large file.
    pub(super) fn create(root: &Path, large_bytes: u64, cancel: &AtomicBool) -> Result<Self, Failure> {
        Self::write(root, large_bytes, cancel).map_err(|error| Failure::io("cannot make the demo's files", &error))
    }

    fn write(root: &Path, large_bytes: u64, cancel: &AtomicBool) -> io::Result<Self> {
        fs::create_dir(root)?;
        let mut tree = Self { root: root.to_owned(), entries: BTreeMap::new(), large_bytes };
        for folder in 0..FOLDERS {
            let path = PathBuf::from(format!("assets/{folder:02}"));
            tree.make_folder(&path)?;
            for file in 0..FILES_PER_FOLDER {
                // From empty to some pages, and never a round number.
                let bytes = (folder * FILES_PER_FOLDER + file) * 37;
                tree.make_file(&path.join(format!("{file:03}.dat")), bytes as u64)?;
            }
        }
        let mut deep = PathBuf::from("deep");
        for level in 0..DEPTH {
            deep.push(format!("level {level}"));
        }
        tree.make_folder(&deep)?;
        tree.make_file(&deep.join("new\nline \u{e4}\u{4e2d}.txt"), 4097)?;
        let target = PathBuf::from("assets/00/024.dat");
        symlink(&target, root.join("link"))?;
        tree.entries.insert("link".into(), Entry::Link(target));
        tree.make_sparse(Path::new("sparse.bin"))?;

        let mut large = File::create(root.join(LARGE))?;
        let mut content = content(LARGE);
        let mut piece = vec![0; PIECE_BYTES];
        let mut left = large_bytes;
        while left > 0 {
            check(cancel)?;
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE_BYTES);
            content.fill(&mut piece[..count]);
            large.write_all(&piece[..count])?;
            left -= count as u64;
        }
        Ok(tree)
    }

    /// Files in all.
    pub(super) fn files(&self) -> usize {
        self.small_files() + 1
    }

    /// Files but for the large one.
    pub(super) fn small_files(&self) -> usize {
        let is_file = |entry: &&Entry| matches!(entry, Entry::File { .. });
        self.entries.values().filter(is_file).count()
    }

    /// Bytes in all files, holes included.
    pub(super) fn bytes(&self) -> u64 {
        let small: u64 = self
            .entries
            .values()
            .map(|entry| match entry {
                Entry::File { bytes, .. } => *bytes,
                Entry::Folder | Entry::Link(_) => 0,
            })
            .sum();
        small + self.large_bytes
    }

    /// Compares names, kinds, links and contents below `other` with what was made, but for the large
    /// file's contents; several readers.
    pub(super) fn verify_small(&self, other: &Path, cancel: &AtomicBool) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::io("cannot read what is to be verified", &error);
        let mut found = Vec::new();
        list(other, Path::new(""), &mut found, cancel).map_err(failed)?;
        found.retain(|path| path != Path::new(LARGE));
        found.sort();
        if !found.iter().eq(self.entries.keys()) {
            let odd = found
                .iter()
                .find(|path| !self.entries.contains_key(*path))
                .or_else(|| self.entries.keys().find(|path| !found.contains(path)));
            let odd = odd.map_or(String::from("?"), |path| shown(path));
            return Err(Failure::failed(format!("the names differ, first at {odd}")));
        }
        let entries: Vec<_> = self.entries.iter().collect();
        let next = AtomicUsize::new(0);
        each_reader(|_| {
            while let Some((path, expected)) = entries.get(next.fetch_add(1, Ordering::Relaxed)) {
                check(cancel).map_err(failed)?;
                let found = read_entry(&other.join(path)).map_err(|error| Failure::io(shown(path), &error))?;
                if found != **expected {
                    return Err(Failure::failed(format!("{} differs", shown(path))));
                }
            }
            Ok(())
        })
    }

    /// Compares the large file below `other` with the one that was made, byte for byte; each reader
    /// takes an equal part.
    pub(super) fn verify_large(&self, other: &Path, cancel: &AtomicBool) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::io(LARGE, &error);
        let ours = File::open(self.root.join(LARGE)).map_err(failed)?;
        let theirs = File::open(other.join(LARGE)).map_err(failed)?;
        if theirs.metadata().map_err(failed)?.len() != self.large_bytes {
            return Err(Failure::failed(format!("the length of {LARGE} differs")));
        }
        let part = self.large_bytes.div_ceil(READERS as u64);
        each_reader(|reader| {
            let start = (reader as u64 * part).min(self.large_bytes);
            let end = (start + part).min(self.large_bytes);
            let mut a = vec![0; PIECE_BYTES];
            let mut b = vec![0; PIECE_BYTES];
            for offset in (start..end).step_by(PIECE_BYTES) {
                check(cancel).map_err(failed)?;
                let left = usize::try_from(end - offset).unwrap_or(usize::MAX);
                let count = left.min(PIECE_BYTES);
                ours.read_exact_at(&mut a[..count], offset).map_err(failed)?;
                theirs.read_exact_at(&mut b[..count], offset).map_err(failed)?;
                if a[..count] != b[..count] {
                    let message = format!("{LARGE} differs between {offset} and {}", offset + count as u64);
                    return Err(Failure::failed(message));
                }
            }
            Ok(())
        })
    }

    fn make_folder(&mut self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(self.root.join(path))?;
        for ancestor in path.ancestors().filter(|path| !path.as_os_str().is_empty()) {
            self.entries.insert(ancestor.to_owned(), Entry::Folder);
        }
        Ok(())
    }

    fn make_file(&mut self, path: &Path, bytes: u64) -> io::Result<()> {
        let mut piece = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
        content(&shown(path)).fill(&mut piece);
        let mut file = BufWriter::new(File::create(self.root.join(path))?);
        file.write_all(&piece)?;
        file.flush()?;
        let hash = blake3::hash(&piece);
        self.entries.insert(path.to_owned(), Entry::File { bytes, hash });
        Ok(())
    }

    fn make_sparse(&mut self, path: &Path) -> io::Result<()> {
        let file = File::create(self.root.join(path))?;
        file.set_len(SPARSE_BYTES)?;
        file.write_all_at(b"head", 0)?;
        file.write_all_at(b"tail", SPARSE_BYTES - 4)?;
        let mut hasher = Hasher::new();
        hasher.update(b"head");
        let hole = usize::try_from(SPARSE_BYTES - 8).map_err(io::Error::other)?;
        hasher.update(&vec![0; hole]);
        hasher.update(b"tail");
        let entry = Entry::File { bytes: SPARSE_BYTES, hash: hasher.finalize() };
        self.entries.insert(path.to_owned(), entry);
        Ok(())
    }
}

/// Endless bytes that belong to a name and do not compress.
fn content(name: &str) -> OutputReader {
    Hasher::new().update(name.as_bytes()).finalize_xof()
}

fn check(cancel: &AtomicBool) -> io::Result<()> {
    if cancel.load(Ordering::Relaxed) {
        return Err(io::Error::other("interrupted"));
    }
    Ok(())
}

/// Runs `work` in [`READERS`] threads; the first failure by number counts.
fn each_reader(work: impl Fn(usize) -> Result<(), Failure> + Sync) -> Result<(), Failure> {
    let work = &work;
    thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS).map(|reader| scope.spawn(move || work(reader))).collect();
        readers.into_iter().try_for_each(|reader| {
            reader.join().unwrap_or_else(|_| Err(Failure::new(Exit::Failed, "a reader panicked")))
        })
    })
}

/// All paths below `root`, without following links.
fn list(root: &Path, folder: &Path, found: &mut Vec<PathBuf>, cancel: &AtomicBool) -> io::Result<()> {
    check(cancel)?;
    for entry in fs::read_dir(root.join(folder))? {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            list(root, &path, found, cancel)?;
        }
        found.push(path);
    }
    Ok(())
}

fn read_entry(path: &Path) -> io::Result<Entry> {
    let kind = path.symlink_metadata()?.file_type();
    if kind.is_dir() {
        return Ok(Entry::Folder);
    }
    if kind.is_symlink() {
        return Ok(Entry::Link(path.read_link()?));
    }
    let mut file = File::open(path)?;
    let mut hasher = Hasher::new();
    let mut piece = vec![0; PIECE_BYTES];
    let mut bytes = 0;
    loop {
        match file.read(&mut piece)? {
            0 => break,
            count => {
                hasher.update(&piece[..count]);
                bytes += count as u64;
            }
        }
    }
    Ok(Entry::File { bytes, hash: hasher.finalize() })
}

fn shown(path: &Path) -> String {
    quote::name(path.as_os_str().as_encoded_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    static GO: AtomicBool = AtomicBool::new(false);

    fn made() -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::create(&dir.path().join("a"), 3_000_001, &GO).unwrap();
        (dir, tree)
    }

    #[test]
    fn a_tree_equals_itself() {
        let (dir, tree) = made();
        let root = dir.path().join("a");
        tree.verify_small(&root, &GO).unwrap();
        tree.verify_large(&root, &GO).unwrap();
        assert_eq!(tree.files(), FOLDERS * FILES_PER_FOLDER + 3);
        assert!(tree.bytes() > 3_000_001 + SPARSE_BYTES);
    }

    #[test]
    fn every_kind_of_difference_is_seen() {
        type Change = fn(&Path) -> io::Result<()>;
        let changes: [Change; 5] = [
            |root| fs::remove_file(root.join("assets/03/007.dat")),
            |root| fs::write(root.join("assets/extra"), ""),
            |root| {
                let file = File::options().write(true).open(root.join("sparse.bin"))?;
                file.write_all_at(b"x", 8 << 20)
            },
            |root| fs::remove_file(root.join("link")).and_then(|()| symlink("/", root.join("link"))),
            |root| fs::create_dir(root.join("assets/99")),
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let (dir, tree) = made();
            let root = dir.path().join("a");
            change(&root).unwrap();
            assert!(tree.verify_small(&root, &GO).is_err(), "{index}");
        }
    }

    #[test]
    fn one_bit_of_the_large_file_matters() {
        let (dir, tree) = made();
        let copy = dir.path().join("b");
        fs::create_dir(&copy).unwrap();
        fs::copy(dir.path().join("a").join(LARGE), copy.join(LARGE)).unwrap();
        tree.verify_large(&copy, &GO).unwrap();
        let file = File::options().read(true).write(true).open(copy.join(LARGE)).unwrap();
        let mut last = [0];
        file.read_exact_at(&mut last, 3_000_000).unwrap();
        file.write_all_at(&[last[0] ^ 1], 3_000_000).unwrap();
        assert!(tree.verify_large(&copy, &GO).is_err());
        file.set_len(3_000_000).unwrap();
        assert!(tree.verify_large(&copy, &GO).is_err());
    }

    #[test]
    fn a_signal_ends_the_making() {
        let dir = tempfile::tempdir().unwrap();
        let stop = AtomicBool::new(true);
        assert!(Tree::create(&dir.path().join("a"), 1, &stop).is_err());
    }
}
