//! Everything a program can see of a tree, so that two trees can be compared.
//!
//! Walks with `openat(2)` one name at a time, so that no path is too long for it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{self, AtFlags, CWD, Dir, FileType, Mode, OFlags};

use super::tree::{SPARSE_BYTES, SPARSE_MARKS};

/// How much is read at a time.
const BLOCK_BYTES: usize = 256 << 10;

/// Differences that a failed comparison prints.
const SHOWN_MAX: usize = 20;

/// One name of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Kind and permissions, as `st_mode` has them.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// Hard links; 0 for folders, whose count is the file system's own affair.
    pub links: u64,
    /// Bytes; 0 for folders.
    pub size: u64,
    /// Device number of a device node, else 0.
    pub device: u64,
    /// Seconds and nanoseconds of the last modification.
    pub mtime: (i64, i64),
    /// Where a symlink points.
    pub target: Option<Vec<u8>>,
    /// BLAKE3 of a file's bytes; of samples, for the sparse giant.
    pub hash: Option<blake3::Hash>,
}

/// A tree, by path.
pub type Snapshot = BTreeMap<Vec<u8>, Entry>;

/// Which names of a folder are looked at.
pub type Filter<'a> = &'a dyn Fn(&[u8], &Entry) -> bool;

/// Looks at the whole tree below `root`.
///
/// # Panics
/// When something cannot be read.
pub fn take(root: &Path) -> Snapshot {
    take_some(root, &|_, _| true)
}

/// Looks at the tree below `root` without the names that `filter` refuses and what is below them.
///
/// # Panics
/// When something cannot be read.
pub fn take_some(root: &Path, filter: Filter<'_>) -> Snapshot {
    let mut snapshot = Snapshot::new();
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let folder = fs::openat(CWD, root, flags, Mode::empty()).unwrap_or_else(|error| panic!("{root:?}: {error}"));
    walk(&folder, &mut Vec::new(), filter, &mut snapshot);
    snapshot
}

fn walk(folder: &OwnedFd, path: &mut Vec<u8>, filter: Filter<'_>, snapshot: &mut Snapshot) {
    let listed = Dir::read_from(folder).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let listed = listed.unwrap_or_else(|error| panic!("listing {}: {error}", path.escape_ascii()));
    for listed in listed {
        let name = listed.file_name();
        if name.to_bytes() == b"." || name.to_bytes() == b".." {
            continue;
        }
        let length = path.len();
        if length > 0 {
            path.push(b'/');
        }
        path.extend_from_slice(name.to_bytes());
        let fail = |what: &str, error: &dyn std::fmt::Display| -> ! {
            panic!("{what} {}: {error}", path.escape_ascii());
        };
        let entry = look(folder, name).unwrap_or_else(|error| fail("looking at", &error));
        let kind = FileType::from_raw_mode(entry.mode);
        let told = listed.file_type();
        assert!(told == kind || told == FileType::Unknown, "{}: readdir says {told:?}", path.escape_ascii());
        if filter(path, &entry) {
            let mut entry = entry;
            let open = |flags| fs::openat(folder, name, flags | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            match kind {
                FileType::Directory => {
                    let inner = open(OFlags::DIRECTORY).unwrap_or_else(|error| fail("opening", &error));
                    walk(&inner, path, filter, snapshot);
                }
                FileType::RegularFile => {
                    let file = open(OFlags::empty()).unwrap_or_else(|error| fail("opening", &error));
                    let hash = hash(&File::from(file), entry.size);
                    entry.hash = Some(hash.unwrap_or_else(|error| fail("reading", &error)));
                }
                FileType::Symlink => {
                    let target = fs::readlinkat(folder, name, Vec::new());
                    entry.target = Some(target.unwrap_or_else(|error| fail("reading", &error)).into_bytes());
                }
                _ => {}
            }
            let twice = snapshot.insert(path.clone(), entry);
            assert!(twice.is_none(), "{} is listed twice", path.escape_ascii());
        }
        path.truncate(length);
    }
}

fn look(folder: &OwnedFd, name: &std::ffi::CStr) -> rustix::io::Result<Entry> {
    let stat = fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let is_folder = kind == FileType::Directory;
    let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
    Ok(Entry {
        mode: stat.st_mode,
        owner: (stat.st_uid, stat.st_gid),
        links: if is_folder { 0 } else { stat.st_nlink },
        size: if is_folder { 0 } else { u64::try_from(stat.st_size).unwrap_or(u64::MAX) },
        device: if is_device { stat.st_rdev } else { 0 },
        mtime: (stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(i64::MAX)),
        target: None,
        hash: None,
    })
}

fn hash(mut file: &File, size: u64) -> io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut block = vec![0; BLOCK_BYTES];
    if size == SPARSE_BYTES {
        // A window around each mark, so that holes beside data are seen too, and a read at the very end.
        for mark in SPARSE_MARKS {
            let from = mark.saturating_sub(BLOCK_BYTES as u64 / 2);
            let window = usize::try_from((size - from).min(BLOCK_BYTES as u64)).expect("a block");
            file.read_exact_at(&mut block[..window], from)?;
            hasher.update(&block[..window]);
        }
        let beyond = file.read_at(&mut block, size)?;
        hasher.update(&[u8::from(beyond == 0)]);
        return Ok(hasher.finalize());
    }
    loop {
        match file.read(&mut block)? {
            0 => return Ok(hasher.finalize()),
            length => hasher.update(&block[..length]),
        };
    }
}

/// Expects two trees to be the same.
///
/// # Panics
/// With the first differences.
#[track_caller]
pub fn assert_same(original: &Snapshot, copy: &Snapshot) {
    let missing = original.keys().filter(|path| !copy.contains_key(*path)).map(|path| (path, "missing".to_owned()));
    let surplus = copy.keys().filter(|path| !original.contains_key(*path)).map(|path| (path, "surplus".to_owned()));
    let changed = original.iter().filter_map(|(path, was)| {
        let is = copy.get(path).filter(|is| *is != was)?;
        Some((path, format!("was {was:?}, is {is:?}")))
    });
    let differences: Vec<String> = missing
        .chain(surplus)
        .chain(changed)
        .map(|(path, what)| {
            let shown = path.escape_ascii().to_string();
            format!("{}: {what}", &shown[shown.len().saturating_sub(120)..])
        })
        .collect();
    let shown = differences.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>().join("\n");
    assert!(differences.is_empty(), "{} of {} entries differ:\n{shown}", differences.len(), original.len());
}
