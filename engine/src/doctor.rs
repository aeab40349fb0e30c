//! Looks at the machine the way a support engineer would: what will not work, what will be slow, what
//! to type about it.
//!
//! Changes nothing and opens no network connection. Everything is read below one root folder, so that
//! tests invent machines; the one live question, whether io_uring works, is a closure of the caller.
//!
//! Read [`examine`], then [`fuse`] (what a mount cannot do without), `kernel` and `network`.

pub mod fuse;
mod kernel;
mod network;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Longest file that is read here; each file of /proc and /sys that matters is smaller by far.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Entries of the ring that [`probe_uring`] makes; any size answers the question.
const RING_ENTRIES: u32 = 8;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Status {
    /// As it should be.
    Ok,
    /// Works, but slower or with less than it could.
    Warn,
    /// Something will not work.
    Fail,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        })
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, a few words that do not change between releases.
    pub name: &'static str,
    /// How bad it is.
    pub status: Status,
    /// What was found, one sentence.
    pub detail: String,
    /// What to do about it, usually a command; present wherever something can be done.
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, detail: detail.into(), remedy: None }
    }

    fn warn(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, status: Status::Warn, detail: detail.into(), remedy: Some(remedy.into()) }
    }

    fn fail(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { status: Status::Fail, ..Self::warn(name, detail, remedy) }
    }
}

/// Tries io_uring the way a shard would: `Ok` says what works, `Err` why nothing does.
pub type UringProbe<'a> = &'a dyn Fn() -> Result<String, String>;

/// The machine to examine.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// Where /proc, /sys, /dev, /etc and the programs are found: `/`, or a folder in tests.
    pub root: &'a Path,
    /// The user who will host and mount.
    pub uid: u32,
    /// The UDP port that a host takes by default.
    pub port: u16,
    /// Folders that are searched for programs, absolute as in `PATH`.
    pub program_dirs: &'a [PathBuf],
    /// Tries io_uring.
    pub probe_uring: UringProbe<'a>,
}

impl Surroundings<'_> {
    /// The path of `absolute` below the root.
    fn path(&self, absolute: impl AsRef<Path>) -> PathBuf {
        let absolute = absolute.as_ref();
        self.root.join(absolute.strip_prefix("/").unwrap_or(absolute))
    }

    /// The text of a small file without the white space around it; `None` if it cannot be read.
    fn read(&self, absolute: impl AsRef<Path>) -> Option<String> {
        let path = self.path(absolute);
        let length = fs::metadata(&path).ok()?.len();
        if length > FILE_BYTES_MAX {
            return None;
        }
        let text = fs::read_to_string(path).ok()?;
        Some(text.trim().to_owned())
    }

    fn read_number(&self, absolute: impl AsRef<Path>) -> Option<u64> {
        self.read(absolute)?.parse().ok()
    }
}

/// Examines the machine; returns one finding for each thing, in the order a person should read them.
pub fn examine(surroundings: &Surroundings<'_>) -> Vec<Finding> {
    let mut findings = vec![kernel::version(surroundings), kernel::io_uring(surroundings)];
    findings.extend(fuse::examine(surroundings));
    findings.extend(kernel::limits(surroundings));
    findings.extend(network::buffers(surroundings));
    findings.extend(network::interfaces(surroundings));
    findings.push(network::port(surroundings));
    findings
}

/// Makes one small ring and lets go of it: the plainest [`UringProbe`].
///
/// # Errors
/// What the kernel said, io_uring_setup(2).
pub fn probe_uring() -> Result<String, String> {
    io_uring::IoUring::new(RING_ENTRIES).map(|_| "rings can be made".to_owned()).map_err(|error| error.to_string())
}

/// The folders named by the environment variable `PATH`, and those that hold mount programs.
pub fn program_dirs() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&path).filter(|dir| dir.is_absolute()).collect();
    for usual in ["/usr/bin", "/bin", "/usr/local/bin"] {
        if !dirs.iter().any(|dir| dir == Path::new(usual)) {
            dirs.push(usual.into());
        }
    }
    dirs
}

#[cfg(test)]
mod tests;
