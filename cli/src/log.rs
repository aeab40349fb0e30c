//! The log of a mount in the background: a file of bounded length, beside the one before it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::exit::Failure;

/// Length at which a log is set aside, in bytes. One log and the one before it hold months of warnings, or what matters
/// of a fault that was traced just now.
const LOG_BYTES_MAX: u64 = 4 << 20;

/// Longest part of a log's name that is taken from the mountpoint; NAME_MAX is 255.
const LOG_NAME_BYTES_MAX: usize = 100;

/// Where a mount on `mountpoint` logs.
pub fn path(state_dir: &Path, mountpoint: &Path) -> PathBuf {
    let mut name: String = mountpoint
        .to_string_lossy()
        .trim_matches('/')
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    // The end tells mountpoints apart better than the beginning; all of it is ASCII.
    name.drain(..name.len().saturating_sub(LOG_NAME_BYTES_MAX));
    state_dir.join("logs").join(format!("mount-{name}.log"))
}

/// Opens a log to add to it, for its owner alone.
///
/// # Errors
/// When its folder cannot be made or the file not be opened.
pub fn open(path: &Path) -> Result<File, Failure> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let opened = DirBuilder::new().recursive(true).mode(0o700).create(folder).and_then(|()| open_file(path));
    opened.map_err(|error| Failure::io(format!("cannot open {}", path.display()), &error))
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// A log that is set aside when it is full, as `NAME.log.old`, and begun anew.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    bytes_max: u64,
    /// What a fresh file is put in the place of as well, so that words of a panic follow it.
    stands_in_for_stderr: bool,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    file: File,
    length: u64,
}

impl Log {
    /// Goes on with the log at `path`, which is this process's standard error.
    ///
    /// # Errors
    /// As [`open`].
    pub fn of_stderr(path: PathBuf) -> Result<Self, Failure> {
        Self::with(path, LOG_BYTES_MAX, true)
    }

    fn with(path: PathBuf, bytes_max: u64, stands_in_for_stderr: bool) -> Result<Self, Failure> {
        let file = open(&path)?;
        // A length that cannot be read makes the log longer than it should be, once.
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        Ok(Self { path, bytes_max, stands_in_for_stderr, current: Mutex::new(Current { file, length }) })
    }

    fn begin_anew(&self) -> io::Result<Current> {
        std::fs::rename(&self.path, self.path.with_extension("log.old"))?;
        let file = open_file(&self.path)?;
        if self.stands_in_for_stderr {
            rustix::stdio::dup2_stderr(&file)?;
        }
        Ok(Current { file, length: 0 })
    }
}

impl Write for &Log {
    /// Writes all of one line, or nothing where the log is full and cannot be set aside.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = line.len() as u64;
        if current.length > 0 && current.length + bytes > self.bytes_max {
            *current = self.begin_anew()?;
        }
        current.file.write_all(line)?;
        current.length += bytes;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_named_after_mountpoints() {
        let name = |mountpoint: &str| path(Path::new("/s"), Path::new(mountpoint));
        assert_eq!(name("/mnt/my shots"), Path::new("/s/logs/mount-mnt-my-shots.log"));
        let long = name(&format!("/mnt/{}x", "\u{e4}".repeat(300)));
        let long = long.file_name().unwrap().to_str().unwrap();
        assert!(long.len() < 120 && long.ends_with("x.log"), "{long}");
    }

    #[test]
    fn a_log_and_the_one_before_it_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path(), Path::new("/mnt/a"));
        let lengths = || {
            let length = |path: PathBuf| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
            (length(path.clone()), length(path.with_extension("log.old")))
        };
        let log = Log::with(path.clone(), 100, false).unwrap();
        for _ in 0..10 {
            (&log).write_all(&[b'x'; 10]).unwrap();
        }
        assert_eq!(lengths(), (100, 0), "just full");
        (&log).write_all(b"y").unwrap();
        assert_eq!(lengths(), (1, 100));
        // The next process goes on where this one ended.
        drop(log);
        let log = Log::with(path.clone(), 100, false).unwrap();
        for _ in 0..1_000 {
            (&log).write_all(&[b'z'; 33]).unwrap();
            let (length, before) = lengths();
            assert!(length <= 100 && before <= 100, "{length} {before}");
        }
        // One line that is longer than a log is not cut.
        (&log).write_all(&[b'w'; 200]).unwrap();
        assert_eq!(lengths().0, 200);
    }
}
