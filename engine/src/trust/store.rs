//! Small private files that several processes change: locked, replaced whole, checked when read.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Seconds since 1970 in UTC, as kept on disk.
pub type UnixSeconds = u64;

/// Longest name of a device or host in bytes, as shown in lists.
pub const NAME_BYTES_MAX: usize = 64;

/// Largest file that is read. A full list of peers takes less than 2 MiB.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// The layout of the JSON files; raised when an older program could misread a newer file.
const LAYOUT_VERSION: u32 = 1;

/// Permission bits of anyone but the owner.
const OTHERS: u32 = 0o077;

/// Write permission of anyone but the owner.
const OTHERS_WRITE: u32 = 0o022;

/// The present time for `first_seen` and `last_seen`; 0 on a clock before 1970.
pub fn unix_now() -> UnixSeconds {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs())
}

/// Makes a name from elsewhere fit to be stored and shown on a terminal.
///
/// Control characters and those that reorder or hide text are dropped, so that no peer can rewrite
/// somebody's screen; what exceeds [`NAME_BYTES_MAX`] bytes is cut off between characters.
pub fn clean_name(name: &str) -> String {
    let shows = |c: &char| {
        !c.is_control()
            && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    let mut clean = String::new();
    for c in name.trim().chars().filter(shows) {
        if clean.len() + c.len_utf8() > NAME_BYTES_MAX {
            break;
        }
        clean.push(c);
    }
    clean
}

/// Why a file of the key store could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file does not hold what this program writes. It was left as it is.
    #[error("{} is damaged: {reason}; repair it or move it away", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where and why reading stopped.
        reason: String,
    },
    /// The file was written by a newer program.
    #[error("{} has layout {found}, and this program knows {LAYOUT_VERSION}; use a newer one", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its layout.
        found: u32,
    },
    /// Other users may write to the folder, so they could put their keys in it; or they may enter one
    /// that must be ours alone.
    #[error("other users can reach into {} (mode {mode:04o}): run chmod 700 on it", path.display())]
    DirOpen {
        /// The folder.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The folder belongs to another user.
    #[error("{} belongs to user {owner}, not to us", path.display())]
    DirOwner {
        /// The folder.
        path: PathBuf,
        /// The numeric id of its owner.
        owner: u32,
    },
    /// The path is something other than a folder.
    #[error("{} is not a folder", path.display())]
    NotDir {
        /// The path.
        path: PathBuf,
    },
}

/// Names the action and the file of an I/O error.
pub(super) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { action, path, source }
}

/// Makes `dir` and the folders above it, all 0700, and refuses one that others may change.
pub(super) fn ensure_private_dir(dir: &Path) -> Result<(), StoreError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io_error("make the folder", dir))?;
    let metadata = fs::metadata(dir).map_err(io_error("look at", dir))?;
    check_dir(dir, &metadata, OTHERS_WRITE)
}

/// Makes `dir` alone, 0700, and refuses a link, another's folder, or one that is open to others.
pub(super) fn ensure_exclusive_dir(dir: &Path) -> Result<(), StoreError> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(io_error("make the folder", dir)(error));
        }
        _ => {}
    }
    // Not followed: in /tmp anybody may have put a link of this name.
    let metadata = fs::symlink_metadata(dir).map_err(io_error("look at", dir))?;
    check_dir(dir, &metadata, OTHERS)
}

fn check_dir(dir: &Path, metadata: &fs::Metadata, forbidden: u32) -> Result<(), StoreError> {
    let path = dir.to_owned();
    if !metadata.is_dir() {
        return Err(StoreError::NotDir { path });
    }
    // Root's folders are as good as ours: root could change ours as well.
    if metadata.uid() != rustix::process::geteuid().as_raw() && metadata.uid() != 0 {
        return Err(StoreError::DirOwner { path, owner: metadata.uid() });
    }
    if metadata.mode() & forbidden != 0 {
        return Err(StoreError::DirOpen { path, mode: metadata.mode() & 0o7777 });
    }
    Ok(())
}

/// A file in the state folder, its lock and its temporary name.
pub(super) struct PrivateFile {
    path: PathBuf,
}

impl PrivateFile {
    /// Names a file within a folder that [`ensure_private_dir`] has made.
    pub(super) fn new(dir: &Path, name: &str) -> Self {
        Self { path: dir.join(name) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the lock beside the file; it is let go when the returned value drops.
    ///
    /// Holders write one small file, so the wait is that of an `fsync`.
    pub(super) fn lock(&self) -> Result<Lock, StoreError> {
        let path = self.path.with_added_extension("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits() as i32)
            .open(&path)
            .map_err(io_error("open", &path))?;
        file.lock().map_err(io_error("lock", &path))?;
        Ok(Lock { _file: file })
    }

    /// Opens the file and reads all of it; `None` when there is none.
    pub(super) fn read(&self) -> Result<Option<(File, Vec<u8>)>, StoreError> {
        let failed = |action| io_error(action, &self.path);
        // O_NONBLOCK: a FIFO of this name must not hold us up.
        let opened = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(&self.path);
        let mut file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("open")(error)),
        };
        let corrupt = |reason: String| StoreError::Corrupt { path: self.path.clone(), reason };
        if !file.metadata().map_err(failed("look at"))?.is_file() {
            return Err(corrupt("it is not a regular file".to_owned()));
        }
        let mut bytes = Vec::new();
        (&mut file).take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed("read"))?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(corrupt(format!("it is larger than {FILE_BYTES_MAX} bytes")));
        }
        Ok(Some((file, bytes)))
    }

    /// Puts `bytes` in place of what the file holds, durably: write, fsync, rename, fsync the folder.
    ///
    /// The lock makes the temporary name ours alone; what a crash left under it is removed.
    pub(super) fn replace(&self, _lock: &Lock, bytes: &[u8]) -> Result<(), StoreError> {
        let temporary = self.path.with_added_extension("tmp");
        let failed = |action| io_error(action, &temporary);
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove")(error));
            }
            _ => {}
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).map_err(failed("create"))?;
        file.write_all(bytes).map_err(failed("write"))?;
        file.sync_all().map_err(failed("sync"))?;
        fs::rename(&temporary, &self.path).map_err(io_error("replace", &self.path))?;
        let dir = self.path.parent().expect("a file stands in a folder");
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error("sync", dir))
    }
}

/// Held while a file is read, changed and replaced.
pub(super) struct Lock {
    _file: File,
}

/// What a [`Store`] keeps in its file.
pub(super) trait Table: Clone + Default + Serialize + DeserializeOwned {
    /// Says what is wrong with a table that parsed: duplicates, bounds.
    fn check(&self) -> Result<(), String>;
}

/// The outer object of every JSON file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Layout<T> {
    version: u32,
    #[serde(flatten)]
    table: T,
}

/// Reads the version before the rest, which a newer program may have laid out otherwise.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// A table in memory and the file it is kept in.
pub(super) struct Store<T> {
    file: PrivateFile,
    table: T,
    /// What `table` was read from, kept open so that no later file can get the same inode number.
    seen: Option<(File, Stamp)>,
}

/// What tells one state of a file from the next.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    mtime: (i64, i64),
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

impl<T: Table> Store<T> {
    /// Opens `name` in the state folder, which is made if needed; a missing file is an empty table.
    pub(super) fn open(state_dir: &Path, name: &str) -> Result<Self, StoreError> {
        ensure_private_dir(state_dir)?;
        let file = PrivateFile::new(state_dir, name);
        let mut store = Self { file, table: T::default(), seen: None };
        store.reload()?;
        Ok(store)
    }

    pub(super) fn table(&self) -> &T {
        &self.table
    }

    /// Reads the file again if it is another than last time; says whether it was.
    pub(super) fn reload_if_changed(&mut self) -> Result<bool, StoreError> {
        let path = self.file.path();
        let now = match fs::metadata(path) {
            Ok(metadata) => Some(Stamp::of(&metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(io_error("look at", path)(error)),
        };
        if now == self.seen.as_ref().map(|&(_, stamp)| stamp) {
            return Ok(false);
        }
        self.reload()?;
        Ok(true)
    }

    /// Changes the table under the lock, beginning with what the file holds now.
    ///
    /// When `change` refuses, or the file cannot be written, both memory and file stay at what the
    /// file held.
    pub(super) fn update<R, E: From<StoreError>>(
        &mut self,
        change: impl FnOnce(&mut T) -> Result<R, E>,
    ) -> Result<R, E> {
        let lock = self.file.lock()?;
        self.reload()?;
        let mut table = self.table.clone();
        let result = change(&mut table)?;
        debug_assert_eq!(table.check(), Ok(()));
        let layout = Layout { version: LAYOUT_VERSION, table };
        let mut bytes = serde_json::to_vec_pretty(&layout).expect("tables are maps with text keys");
        bytes.push(b'\n');
        self.file.replace(&lock, &bytes)?;
        self.reload()?;
        Ok(result)
    }

    fn reload(&mut self) -> Result<(), StoreError> {
        let Some((file, bytes)) = self.file.read()? else {
            (self.table, self.seen) = (T::default(), None);
            return Ok(());
        };
        let path = self.file.path();
        let corrupt = |reason: String| StoreError::Corrupt { path: path.to_owned(), reason };
        let Version { version } = serde_json::from_slice(&bytes).map_err(|error| corrupt(error.to_string()))?;
        if version > LAYOUT_VERSION {
            return Err(StoreError::Newer { path: path.to_owned(), found: version });
        }
        let layout: Layout<T> = serde_json::from_slice(&bytes).map_err(|error| corrupt(error.to_string()))?;
        layout.table.check().map_err(corrupt)?;
        let stamp = Stamp::of(&file.metadata().map_err(io_error("look at", path))?);
        (self.table, self.seen) = (layout.table, Some((file, stamp)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn names_from_elsewhere_cannot_rewrite_a_screen() {
        assert_eq!(clean_name("  farm\u{1b}[2J\n01\u{202e}x "), "farm[2J01x");
        let long = clean_name(&"ä".repeat(100));
        assert_eq!(long, "ä".repeat(NAME_BYTES_MAX / 2));
    }

    #[test]
    fn folders_are_made_private_and_open_ones_refused() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b");
        ensure_private_dir(&dir).unwrap();
        for made in ["a", "a/b"] {
            let mode = fs::metadata(root.path().join(made)).unwrap().mode();
            assert_eq!(mode & 0o7777, 0o700, "{made}");
        }
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        ensure_private_dir(&dir).unwrap();
        assert!(matches!(ensure_exclusive_dir(&dir), Err(StoreError::DirOpen { .. })));
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o775)).unwrap();
        let refused = ensure_private_dir(&dir).unwrap_err();
        assert!(matches!(refused, StoreError::DirOpen { mode: 0o775, .. }));
        assert!(refused.to_string().contains("chmod 700"));
    }

    #[test]
    fn an_exclusive_folder_is_no_link() {
        let root = tempfile::tempdir().unwrap();
        let real = root.path().join("real");
        ensure_exclusive_dir(&real).unwrap();
        ensure_exclusive_dir(&real).unwrap();
        let link = root.path().join("link");
        symlink(&real, &link).unwrap();
        assert!(matches!(ensure_exclusive_dir(&link), Err(StoreError::NotDir { .. })));
    }

    #[test]
    fn a_fifo_or_a_giant_is_refused_at_once() {
        let root = tempfile::tempdir().unwrap();
        let fifo = PrivateFile::new(root.path(), "fifo");
        rustix::fs::mknodat(rustix::fs::CWD, fifo.path(), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(matches!(fifo.read(), Err(StoreError::Corrupt { .. })));
        let giant = PrivateFile::new(root.path(), "giant");
        File::create(giant.path()).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
        assert!(matches!(giant.read(), Err(StoreError::Corrupt { .. })));
    }

    #[test]
    fn leftovers_of_a_crash_are_replaced() {
        let root = tempfile::tempdir().unwrap();
        let file = PrivateFile::new(root.path(), "file");
        // A link, the worst that can lie there: what it points to must stay untouched.
        let victim = root.path().join("victim");
        fs::write(&victim, "safe").unwrap();
        symlink(&victim, root.path().join("file.tmp")).unwrap();
        file.replace(&file.lock().unwrap(), b"new").unwrap();
        assert_eq!(fs::read(file.path()).unwrap(), b"new");
        assert_eq!(fs::read(&victim).unwrap(), b"safe");
        assert_eq!(fs::metadata(file.path()).unwrap().mode() & 0o7777, 0o600);
        assert!(!root.path().join("file.tmp").exists());
    }
}
