//! The local side of a copy: everything below one directory, no symlink ever followed.

use crate::error::{EngineError, ErrorKind};
use crate::remote::RemoteAttr;
use rustix::fs::{self, AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags, Timespec, Timestamps};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Directories kept open: files of one directory come together.
const OPEN_DIRECTORIES_MAX: usize = 64;

/// See the module.
pub(super) struct Local {
    root: Arc<OwnedFd>,
    shown: PathBuf,
    open: VecDeque<(Vec<u8>, Arc<OwnedFd>)>,
    /// Whether this run made the root.
    root_is_new: bool,
    /// Whether files can be written without a name and linked to one: not on every file system, nor for every user.
    unnamed: bool,
}

/// Where a single file goes: the directory to open and the name in it.
pub(super) fn place_of_file(target: &Path, source: &[u8]) -> (PathBuf, Vec<u8>) {
    let name = source.rsplit(|&byte| byte == b'/').next().unwrap_or_default().to_vec();
    if target.is_dir() {
        return (target.to_owned(), name);
    }
    match (target.parent(), target.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            (parent.to_owned(), name.as_bytes().to_vec())
        }
        _ => (target.to_owned(), name),
    }
}

impl Local {
    /// Opens the directory below which everything is written, creating it and its parents.
    pub(super) fn open(target: &Path) -> Result<Self, EngineError> {
        let failed = |error: std::io::Error| {
            EngineError::new(ErrorKind::Failed, format!("cannot write to {}: {error}", target.display()))
        };
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        let root_is_new = match std::fs::create_dir(target) {
            Ok(()) => true,
            // Whether it is a directory is seen when it is opened.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(failed(error)),
        };
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let root = fs::openat(CWD, target, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
        Ok(Self { root: Arc::new(root), shown: target.to_owned(), open: VecDeque::new(), root_is_new, unnamed: true })
    }

    /// Names what could not be done locally, with the remedy where one is known.
    pub(super) fn explain(&self, path: &[u8], error: Errno) -> EngineError {
        let place = self.shown.join(std::ffi::OsStr::from_bytes(path));
        let remedy = match error {
            Errno::NOSPC | Errno::DQUOT => "; free some space and run the same command again to go on",
            Errno::LOOP | Errno::NOTDIR => "; a symlink or file stands where a directory is needed: remove it",
            _ => "",
        };
        EngineError::new(ErrorKind::Failed, format!("cannot write {}: {error}{remedy}", place.display()))
    }

    fn directory(&mut self, path: &[u8]) -> Result<Arc<OwnedFd>, Errno> {
        if path.is_empty() {
            return Ok(Arc::clone(&self.root));
        }
        if let Some((_, fd)) = self.open.iter().find(|(known, _)| known == path) {
            return Ok(Arc::clone(fd));
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let mut at = Arc::clone(&self.root);
        // In steps that one system call can name.
        let mut rest = path;
        while !rest.is_empty() {
            let (step, left) = split_step(rest);
            at = Arc::new(fs::openat2(&at, step, flags, Mode::empty(), resolve)?);
            rest = left;
        }
        if self.open.len() >= OPEN_DIRECTORIES_MAX {
            self.open.pop_front();
        }
        self.open.push_back((path.to_vec(), Arc::clone(&at)));
        Ok(at)
    }

    fn parent_of<'p>(&mut self, path: &'p [u8]) -> Result<(Arc<OwnedFd>, &'p [u8]), Errno> {
        match path.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => Ok((self.directory(&path[..slash])?, &path[slash + 1..])),
            None => Ok((Arc::clone(&self.root), path)),
        }
    }

    /// Sees to it that a directory is there; true where it was not, so that nothing can be in it.
    pub(super) fn make_directory(&mut self, path: &[u8]) -> Result<bool, Errno> {
        if path.is_empty() {
            return Ok(self.root_is_new);
        }
        let (parent, name) = self.parent_of(path)?;
        match fs::mkdirat(&parent, name, Mode::RWXU) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => self.directory(path).map(|_| false),
            Err(errno) => Err(errno),
        }
    }

    /// Whether this very file is in place: same size, same time of modification to the nanosecond.
    pub(super) fn is_same(&mut self, path: &[u8], attr: &RemoteAttr) -> bool {
        let Ok((parent, name)) = self.parent_of(path) else { return false };
        let mask = StatxFlags::TYPE | StatxFlags::SIZE | StatxFlags::MTIME;
        fs::statx(&parent, name, AtFlags::SYMLINK_NOFOLLOW, mask).is_ok_and(|have| {
            fs::FileType::from_raw_mode(have.stx_mode.into()) == fs::FileType::RegularFile
                && have.stx_size == attr.size
                && have.stx_mtime.tv_sec == attr.mtime_s
                && have.stx_mtime.tv_nsec == attr.mtime_ns
        })
    }

    /// Writes a whole small file where nobody sees it, then puts it in its place.
    ///
    /// `is_new`: this run made its directory. Elsewhere something may have to be replaced in one step, which a link cannot
    /// do, and an earlier run may have left a part of that name, which goes by being written anew.
    pub(super) fn write_small(
        &mut self,
        path: &[u8],
        attr: &RemoteAttr,
        data: &[u8],
        is_new: bool,
    ) -> Result<(), Errno> {
        let (parent, name) = self.parent_of(path)?;
        if is_new && self.unnamed {
            match write_unnamed(&parent, name, attr, data) {
                Ok(()) => return Ok(()),
                // Somebody else was there in between.
                Err(Errno::EXIST) => {}
                Err(errno @ (Errno::NOSPC | Errno::DQUOT)) => return Err(errno),
                Err(errno) => {
                    tracing::debug!(%errno, "files are written under a name for parts");
                    self.unnamed = false;
                }
            }
        }
        let part = part_name(name);
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(&parent, &part[..], flags, Mode::RUSR | Mode::WUSR)?;
        fill(file, attr, data)?;
        fs::renameat(&parent, &part[..], &parent, name)
    }

    /// Opens the part file of a large copy; what an earlier run left is still in it.
    pub(super) fn open_large(&mut self, path: &[u8]) -> Result<File, Errno> {
        let (parent, name) = self.parent_of(path)?;
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fs::openat(&parent, &part_name(name)[..], flags, Mode::RUSR | Mode::WUSR).map(File::from)
    }

    /// Puts a finished part file in its place.
    pub(super) fn finish_large(&mut self, path: &[u8], attr: &RemoteAttr) -> Result<(), Errno> {
        let (parent, name) = self.parent_of(path)?;
        let part = part_name(name);
        let file = fs::openat(&parent, &part[..], OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        dress(&file, attr)?;
        fs::renameat(&parent, &part[..], &parent, name)
    }

    /// Removes a part file that is of no use.
    pub(super) fn discard_large(&mut self, path: &[u8]) {
        if let Ok((parent, name)) = self.parent_of(path) {
            // It may never have been made.
            let _ = fs::unlinkat(&parent, &part_name(name)[..], AtFlags::empty());
        }
    }

    pub(super) fn make_link(&mut self, path: &[u8], attr: &RemoteAttr, target: &[u8]) -> Result<(), Errno> {
        let (parent, name) = self.parent_of(path)?;
        match fs::symlinkat(target, &parent, name) {
            Err(Errno::EXIST) => {
                if fs::readlinkat(&parent, name, Vec::new()).is_ok_and(|have| have.as_bytes() == target) {
                    return Ok(());
                }
                let part = part_name(name);
                // A leftover of an earlier run, perhaps.
                let _ = fs::unlinkat(&parent, &part[..], AtFlags::empty());
                fs::symlinkat(target, &parent, &part[..])?;
                fs::renameat(&parent, &part[..], &parent, name)?;
            }
            made => made?,
        }
        // Links' own times matter to nobody's tools enough to fail for.
        let _ = fs::utimensat(&parent, name, &times(attr), AtFlags::SYMLINK_NOFOLLOW);
        Ok(())
    }

    pub(super) fn finish_directory(&mut self, path: &[u8], attr: &RemoteAttr) -> Result<(), Errno> {
        let directory = self.directory(path)?;
        dress(&*directory, attr)
    }
}

/// Writes a file that has no name until it is whole (`O_TMPFILE`, open(2)): a copy that is killed leaves none behind.
///
/// # Errors
/// `EEXIST` where the name is taken; whatever open(2) and linkat(2) say where this way is not to be had.
fn write_unnamed(parent: &OwnedFd, name: &[u8], attr: &RemoteAttr, data: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = fill(fs::openat(parent, c".", flags, Mode::RUSR | Mode::WUSR)?, attr, data)?;
    // For a file that this very process opened the kernel allows it without privilege since Linux 6.10.
    fs::linkat(&file, c"", parent, name, AtFlags::EMPTY_PATH)
}

fn fill(file: OwnedFd, attr: &RemoteAttr, data: &[u8]) -> Result<File, Errno> {
    let mut file = File::from(file);
    file.write_all(data).map_err(|error| errno_of(&error))?;
    dress(&file, attr)?;
    Ok(file)
}

/// A name for the unfinished file beside its place: fixed length, so that it fits wherever the name does.
fn part_name(name: &[u8]) -> Vec<u8> {
    let hash = blake3::hash(name).to_hex();
    [b".wormhole-", &hash.as_bytes()[..24], b".part"].concat()
}

/// Cuts a path where one system call can take the first part: under PATH_MAX.
fn split_step(path: &[u8]) -> (&[u8], &[u8]) {
    const STEP_BYTES_MAX: usize = 4_000;
    if path.len() <= STEP_BYTES_MAX {
        return (path, b"");
    }
    let slash = path[..STEP_BYTES_MAX].iter().rposition(|&byte| byte == b'/').expect("names are shorter than a step");
    (&path[..slash], &path[slash + 1..])
}

/// Gives a file the host's mode and time of modification. The set-id bits are not taken over: owners differ.
fn dress(file: impl std::os::fd::AsFd, attr: &RemoteAttr) -> Result<(), Errno> {
    fs::fchmod(&file, Mode::from_raw_mode(u32::from(attr.mode & 0o777)))?;
    fs::futimens(&file, &times(attr))
}

fn times(attr: &RemoteAttr) -> Timestamps {
    let mtime = Timespec { tv_sec: attr.mtime_s, tv_nsec: attr.mtime_ns.into() };
    Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT }, last_modification: mtime }
}

/// The errno behind an error of std.
pub(super) fn errno_of(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn part_names_fit_beside_the_longest_name() {
        assert!(part_name(&[b'n'; 255]).len() <= 255);
        assert_ne!(part_name(b"a"), part_name(b"b"));
    }

    #[test]
    fn long_paths_are_cut_at_a_slash() {
        let path = [&[b'd'; 200][..]; 40].join(&b'/');
        let (step, rest) = split_step(&path);
        assert!(step.len() <= 4_000 && [step, b"/", rest].concat() == path);
        assert_eq!(split_step(b"a/b"), (&b"a/b"[..], &b""[..]));
    }

    #[test]
    fn a_symlink_in_the_way_is_not_followed() {
        let outside = tempfile::tempdir().unwrap();
        let inside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), inside.path().join("d")).unwrap();
        let mut local = Local::open(inside.path()).unwrap();
        assert!(local.make_directory(b"d").is_err());
        assert!(local.open_large(b"d/x").is_err());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    fn attr(size: u64) -> RemoteAttr {
        let kind = crate::remote::RemoteKind::File;
        RemoteAttr { kind, mode: 0o640, uid: 7, gid: 7, nlink: 1, size, mtime_s: 1_000, mtime_ns: 5, version: 1 }
    }

    #[test]
    fn small_files_come_whole_and_replace_what_is_there_in_either_way() {
        for (is_new, unnamed) in [(true, true), (true, false), (false, true)] {
            let inside = tempfile::tempdir().unwrap();
            let outside = tempfile::NamedTempFile::new().unwrap();
            let mut local = Local::open(inside.path()).unwrap();
            local.unnamed = unnamed;
            assert_eq!((local.make_directory(b"d"), local.make_directory(b"d")), (Ok(true), Ok(false)));
            std::os::unix::fs::symlink(outside.path(), inside.path().join("d/link")).unwrap();
            std::fs::write(inside.path().join("d/old"), b"older and longer").unwrap();
            for name in ["d/new", "d/old", "d/link"] {
                local.write_small(name.as_bytes(), &attr(4), b"news", is_new).unwrap();
                let path = inside.path().join(name);
                assert_eq!(std::fs::read(&path).unwrap(), b"news");
                let found = std::fs::symlink_metadata(&path).unwrap();
                assert_eq!((found.is_file(), found.mode() & 0o7777, found.mtime()), (true, 0o640, attr(4).mtime_s));
                assert!(local.is_same(name.as_bytes(), &attr(4)));
            }
            assert_eq!(std::fs::read(outside.path()).unwrap(), b"", "a link's target is left alone");
            assert_eq!(std::fs::read_dir(inside.path().join("d")).unwrap().count(), 3, "no parts are left");
        }
    }

    /// A large file that an interrupted run began, and that is small by now.
    #[test]
    fn a_part_that_was_left_goes_with_the_file_that_replaces_it() {
        let inside = tempfile::tempdir().unwrap();
        Local::open(inside.path()).unwrap().open_large(b"x").unwrap().set_len(1 << 20).unwrap();
        let mut local = Local::open(inside.path()).unwrap();
        let is_new = local.make_directory(b"").unwrap();
        local.write_small(b"x", &attr(4), b"news", is_new).unwrap();
        let names: Vec<_> = std::fs::read_dir(inside.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["x"]);
    }

    #[test]
    fn a_target_is_new_once() {
        let inside = tempfile::tempdir().unwrap();
        let target = inside.path().join("a/b");
        assert_eq!(Local::open(&target).unwrap().make_directory(b""), Ok(true));
        assert_eq!(Local::open(&target).unwrap().make_directory(b""), Ok(false));
        std::fs::write(inside.path().join("file"), b"").unwrap();
        assert!(Local::open(&inside.path().join("file")).is_err());
    }
}
