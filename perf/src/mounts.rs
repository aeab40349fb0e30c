//! The mount table, and waiting for a mount to come and go.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::mount::UnmountFlags;

use crate::process::Process;

/// How often the mount table is asked while a program mounts; small against the 50 ms and more that sshfs takes.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The mount points at or below `directory`, deepest first.
///
/// # Errors
/// If the mount table cannot be read.
pub fn below(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = parse(&std::fs::read("/proc/self/mountinfo")?);
    found.retain(|path| path.starts_with(directory));
    found.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    Ok(found)
}

/// Waits until something is mounted on `mount_point` by `process`.
///
/// # Errors
/// If the process ends first or `limit` passes.
pub fn wait_mounted(mount_point: &Path, process: &mut Process, limit: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    while below(mount_point)?.is_empty() {
        if process.has_ended() {
            bail!("{} ended without mounting: {}", process.label(), process.last_words());
        }
        if Instant::now() >= deadline {
            bail!("{} mounted nothing within {limit:?}", process.label());
        }
        sleep(POLL_INTERVAL);
    }
    Ok(())
}

/// Unmounts `mount_point`, retrying while it is busy.
///
/// # Errors
/// If it is still busy after `limit`, or the kernel refuses for another reason.
pub fn unmount(mount_point: &Path, limit: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        match rustix::mount::unmount(mount_point, UnmountFlags::empty()) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::BUSY) if Instant::now() < deadline => sleep(POLL_INTERVAL),
            Err(error) => {
                return Err(error).with_context(|| format!("umount {}", mount_point.display()));
            }
        }
    }
}

/// Takes a mount out of the tree at once, whoever still uses it.
pub(crate) fn detach(mount_point: &Path) -> rustix::io::Result<()> {
    rustix::mount::unmount(mount_point, UnmountFlags::DETACH)
}

/// The mount points of a `mountinfo` text (proc_pid_mountinfo(5), field 5).
fn parse(table: &[u8]) -> Vec<PathBuf> {
    table
        .split(|&byte| byte == b'\n')
        .filter_map(|line| line.split(|&byte| byte == b' ').nth(4))
        .map(|field| PathBuf::from(unescape(field)))
        .collect()
}

/// Undoes the kernel's octal escapes of space, tab, newline and backslash.
fn unescape(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = (byte == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| std::ffi::OsStr::from_bytes(digits).to_str())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match escaped {
            Some(value) => {
                plain.push(value);
                rest = &tail[3..];
            }
            None => {
                plain.push(byte);
                rest = tail;
            }
        }
    }
    OsString::from_vec(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_field_five_unescaped() {
        let table = b"22 1 0:20 / /proc rw - proc proc rw\n\
                      40 22 0:41 / /tmp/a\\040b\\134c rw - fuse x rw\n";
        assert_eq!(parse(table), [PathBuf::from("/proc"), PathBuf::from("/tmp/a b\\c")]);
    }

    #[test]
    fn a_broken_escape_stays_as_it_is() {
        assert_eq!(unescape(b"/a\\9zz"), OsString::from("/a\\9zz"));
        assert_eq!(unescape(b"/a\\0"), OsString::from("/a\\0"));
    }

    #[test]
    fn the_mount_table_of_this_process_has_proc() {
        assert!(below(Path::new("/proc")).unwrap().contains(&PathBuf::from("/proc")));
    }
}
