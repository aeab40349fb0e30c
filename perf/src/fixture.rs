//! The file every contender moves: pseudo-random, so that neither compression nor deduplication can help, and known
//! by its BLAKE3 hash, so that every contender's bytes can be checked.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;

use crate::cleanup::{Registration, Remains};

/// The size of a full run's file; about a second of transfer at the speeds expected.
pub const BYTES: u64 = 2 << 30;

/// The size of a `--quick` run's file.
pub const BYTES_QUICK: u64 = 256 << 20;

/// The name of the file in the share.
pub const NAME: &str = "big";

/// How much is read, written or hashed at a time.
const BLOCK_BYTES: usize = 1 << 20;

/// The directory inside the fixture's own that is shared.
const SHARE: &str = "share";

/// What the directory's name starts with; the process id and a number follow.
const PREFIX: &str = "wh-share-";

/// A directory to share and room beside it, in memory where the machine has `/dev/shm`; removed when dropped.
pub struct Directory {
    path: PathBuf,
    _registration: Registration,
}

impl Directory {
    /// Makes an empty one.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn create() -> anyhow::Result<Self> {
        let shared_memory = Path::new("/dev/shm");
        let parent = if shared_memory.is_dir() { shared_memory.to_owned() } else { std::env::temp_dir() };
        sweep(&parent);
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("{PREFIX}{}-{number}", std::process::id()));
        Self::create_at(path)
    }

    fn create_at(path: PathBuf) -> anyhow::Result<Self> {
        // The name can be guessed and its parent is everybody's: what stands there already is not ours to use, nor to
        // remove; hence the directory first and the registration after it.
        private_directory().create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let registration = Registration::new(Arc::new(Remnant(path.clone())));
        private_directory().create(path.join(SHARE))?;
        Ok(Self { path, _registration: registration })
    }

    /// The part that is shared.
    pub fn share(&self) -> PathBuf {
        self.path.join(SHARE)
    }

    /// A place for a copy: on the same file system, outside the share, removed with the rest.
    pub fn destination(&self, name: &str) -> PathBuf {
        self.path.join(format!("copy-{name}"))
    }
}

/// How directories are made: for this user alone, and only where nothing is.
fn private_directory() -> fs::DirBuilder {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(false).mode(0o700);
    builder
}

/// A file in a [`Directory`] of its own.
pub struct Fixture {
    directory: Directory,
    bytes: u64,
    hash: blake3::Hash,
}

impl Fixture {
    /// Makes a directory with a file of `bytes` pseudo-random bytes in it.
    ///
    /// # Errors
    /// If it cannot be written, for instance for lack of space.
    pub fn create(bytes: u64) -> anyhow::Result<Self> {
        let directory = Directory::create()?;
        let hash = write(&directory.share().join(NAME), pattern(), bytes)
            .with_context(|| format!("cannot write {bytes} bytes to {}", directory.share().display()))?;
        Ok(Self { directory, bytes, hash })
    }

    /// The directory that is shared, with nothing but the file in it.
    pub fn directory(&self) -> PathBuf {
        self.directory.share()
    }

    /// The file in it.
    pub fn file(&self) -> PathBuf {
        self.directory().join(NAME)
    }

    /// A place for a copy: on the same file system, outside the share, removed with the fixture.
    pub fn destination(&self, name: &str) -> PathBuf {
        self.directory.destination(name)
    }

    /// Its length.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Its BLAKE3 hash.
    pub const fn hash(&self) -> blake3::Hash {
        self.hash
    }
}

/// One of several files.
#[derive(Clone, Debug)]
pub struct File {
    /// Its name in the share.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Its BLAKE3 hash.
    pub hash: blake3::Hash,
}

/// Files of several sizes in one share, no two with a block in common.
pub struct Files {
    directory: Directory,
    entries: Vec<File>,
}

impl Files {
    /// Makes a file of each size.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn create(sizes: &[u64]) -> anyhow::Result<Self> {
        let directory = Directory::create()?;
        let mut source = pattern();
        let entries = sizes
            .iter()
            .map(|&bytes| {
                let name = format!("file-{bytes}");
                let hash = write(&directory.share().join(&name), source.clone(), bytes)
                    .with_context(|| format!("cannot write {bytes} bytes to {}", directory.share().display()))?;
                source.set_position(source.position() + bytes);
                Ok(File { name, bytes, hash })
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(Self { directory, entries })
    }

    /// The directory that is shared.
    pub fn directory(&self) -> PathBuf {
        self.directory.share()
    }

    /// In the order of the sizes.
    pub fn entries(&self) -> &[File] {
        &self.entries
    }
}

struct Remnant(PathBuf);

impl Remains for Remnant {
    fn remove(&self) {
        if let Err(error) = fs::remove_dir_all(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            eprintln!("perf: {} stays: {error}", self.0.display());
        }
    }
}

/// Removes directories whose process was killed before it could.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(owner);
        if owner.is_some_and(|id| !Path::new("/proc").join(id.to_string()).exists()) {
            Remnant(entry.path()).remove();
        }
    }
}

/// The process a directory's name gives it to; `None` if it is not a fixture's.
fn owner(name: &str) -> Option<u32> {
    let (process, number) = name.strip_prefix(PREFIX)?.split_once('-')?;
    number.parse::<u64>().ok()?;
    process.parse().ok()
}

/// The stream of bytes all fixtures are made of: BLAKE3's extendable output, the same on every machine.
pub fn pattern() -> blake3::OutputReader {
    blake3::Hasher::new().update(b"wormhole perf fixture 1").finalize_xof()
}

fn write(path: &Path, mut source: blake3::OutputReader, bytes: u64) -> std::io::Result<blake3::Hash> {
    let mut file = fs::File::create_new(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut block = vec![0; BLOCK_BYTES];
    let mut left = bytes;
    while left > 0 {
        let length = usize::try_from(left).map_or(BLOCK_BYTES, |left| left.min(BLOCK_BYTES));
        source.fill(&mut block[..length]);
        hasher.update(&block[..length]);
        file.write_all(&block[..length])?;
        left -= length as u64;
    }
    Ok(hasher.finalize())
}

/// The length and BLAKE3 hash of a file.
///
/// # Errors
/// If it cannot be read.
pub fn hash_file(path: &Path) -> std::io::Result<(u64, blake3::Hash)> {
    let mut file = fs::File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        match file.read(&mut block)? {
            0 => return Ok((hasher.count(), hasher.finalize())),
            length => hasher.update(&block[..length]),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixture_is_what_its_hash_says_and_goes_with_its_owner() {
        // Not a multiple of the block, so that the tail is written too.
        let bytes = 3 * BLOCK_BYTES as u64 + 17;
        let fixture = Fixture::create(bytes).unwrap();
        assert_eq!(hash_file(&fixture.file()).unwrap(), (bytes, fixture.hash()));
        assert_eq!(fixture.bytes(), bytes);
        let directory = fixture.directory();
        drop(fixture);
        assert!(!directory.exists());
    }

    #[test]
    fn files_of_several_sizes_are_what_their_hashes_say() {
        let files = Files::create(&[5000, 0, 5000]).err();
        // Two files of one size would be one file.
        assert!(files.is_some());
        let files = Files::create(&[4096, 10_000]).unwrap();
        for file in files.entries() {
            let found = hash_file(&files.directory().join(&file.name)).unwrap();
            assert_eq!(found, (file.bytes, file.hash));
        }
        let large = fs::read(files.directory().join("file-10000")).unwrap();
        assert_ne!(fs::read(files.directory().join("file-4096")).unwrap(), large[..4096]);
    }

    #[test]
    fn a_directory_is_ours_alone_and_never_one_that_was_there() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = Directory::create().unwrap();
        for path in [directory.path.clone(), directory.share()] {
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700, "{}", path.display());
        }
        // Somebody was faster, with a folder or with a link to one; theirs stays as it is.
        let theirs = directory.destination("theirs");
        fs::create_dir(&theirs).unwrap();
        fs::write(theirs.join("file"), b"x").unwrap();
        let link = directory.destination("link");
        std::os::unix::fs::symlink(&theirs, &link).unwrap();
        for path in [&theirs, &link] {
            assert!(Directory::create_at(path.clone()).is_err(), "{}", path.display());
            assert!(path.join("file").exists() && !path.join(SHARE).exists(), "{}", path.display());
        }
    }

    #[test]
    fn an_owner_is_read_from_fixture_names_only() {
        assert_eq!(owner("wh-share-12-0"), Some(12));
        for stranger in ["wh-share-12", "wh-12-0", "wh-share-x-0", "wh-share-12-0-1"] {
            assert_eq!(owner(stranger), None, "{stranger}");
        }
    }

    #[test]
    fn a_flipped_bit_changes_the_hash() {
        let fixture = Fixture::create(4096).unwrap();
        let mut bytes = fs::read(fixture.file()).unwrap();
        bytes[1000] ^= 1;
        fs::write(fixture.file(), bytes).unwrap();
        assert_ne!(hash_file(&fixture.file()).unwrap().1, fixture.hash());
    }
}
