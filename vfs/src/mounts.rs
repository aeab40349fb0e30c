//! The mount table, as the kernel tells it: which wormhole mounts exist and which of them are dead.
//!
//! Source: `proc_pid_mountinfo(5)`. Nothing here touches the mounts themselves except [`probe`],
//! which does so on a thread of its own, since a mount whose server is stuck answers never.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crossbeam_channel::RecvTimeoutError;
use rustix::io::Errno;

/// The FUSE subtype of every wormhole mount.
pub const SUBTYPE: &str = "wormhole";

/// The file system type that `/proc/mounts` shows for a wormhole mount: `fuse.` and [`SUBTYPE`].
pub const FS_TYPE: &str = "fuse.wormhole";

/// Bounds the bytes read from the mount table.
///
/// The kernel allows 100,000 mounts in a namespace (`fs.mount-max`); at a generous 320 bytes a
/// line that is 32 MB. A longer table is cut, which can only hide mounts, never invent one: the
/// last, incomplete line does not parse.
pub const MOUNTINFO_BYTES_MAX: u64 = 32 << 20;

/// Bounds the symbolic links followed by [`resolve`]; the kernel's own limit (`path_resolution(7)`).
const SYMLINKS_MAX: usize = 40;

/// A device number as the kernel prints it, `major:minor`.
///
/// Each FUSE mount has its own, so it tells a mount from a later one at the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceNumber {
    /// The major number; 0 for every FUSE mount that is not on a block device.
    pub major: u32,
    /// The minor number.
    pub minor: u32,
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// One line of the mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// The device number of the mounted file system.
    pub device: DeviceNumber,
    /// Where it is mounted, relative to this process's root, octal escapes undone.
    pub mountpoint: PathBuf,
    /// The type with its subtype, such as `fuse.wormhole`.
    pub fs_type: OsString,
    /// The source as given when mounting.
    pub source: OsString,
}

impl MountEntry {
    /// Says whether this is a wormhole mount.
    pub fn is_wormhole(&self) -> bool {
        self.fs_type == FS_TYPE
    }

    /// Reads one line without its newline; `None` where it does not have the documented shape.
    ///
    /// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|&byte| byte == b' ');
        let device = parse_device(fields.nth(2)?)?;
        let mountpoint = unescape(fields.nth(1)?);
        if !mountpoint.starts_with(b"/") {
            return None;
        }
        // After the mount options come zero or more optional fields, ended by a lone hyphen.
        fields.by_ref().skip(1).find(|field| *field == b"-")?;
        let fs_type = unescape(fields.next()?);
        let source = unescape(fields.next()?);
        // The super options are not used, but a line cut before them is not whole.
        fields.next()?;
        Some(Self {
            device,
            mountpoint: PathBuf::from(OsString::from_vec(mountpoint)),
            fs_type: OsString::from_vec(fs_type),
            source: OsString::from_vec(source),
        })
    }
}

/// Reads a mount table, in its order; later entries lie on top of earlier ones at the same place.
///
/// A line without the documented shape is passed over: one odd line must not hide the others.
pub fn parse_mountinfo(table: &[u8]) -> impl Iterator<Item = MountEntry> + '_ {
    table.split(|&byte| byte == b'\n').filter_map(MountEntry::parse)
}

/// Lists the wormhole mounts in this process's mount namespace.
///
/// # Errors
/// If `/proc/self/mountinfo` cannot be read.
pub fn wormhole_mounts() -> io::Result<Vec<MountEntry>> {
    let table = read_table()?;
    Ok(parse_mountinfo(&table).filter(MountEntry::is_wormhole).collect())
}

/// Finds what lies on top at `mountpoint`, which is compared as [`resolve`] gives it.
///
/// # Errors
/// If `/proc/self/mountinfo` cannot be read.
pub fn topmost_at(mountpoint: &Path) -> io::Result<Option<MountEntry>> {
    Ok(stack_at(mountpoint)?.pop())
}

/// Lists what lies at `mountpoint`, bottom first.
pub(crate) fn stack_at(mountpoint: &Path) -> io::Result<Vec<MountEntry>> {
    let table = read_table()?;
    Ok(parse_mountinfo(&table).filter(|entry| entry.mountpoint == mountpoint).collect())
}

/// Makes a mountpoint's path absolute and free of links without asking what is mounted on it.
///
/// The last component is looked at with `readlink(2)` alone, which no server sees; so this works
/// over a dead or stuck mount, where `stat` fails or hangs.
///
/// # Errors
/// If a component is missing, may not be searched, or there are too many links.
pub fn resolve(mountpoint: &Path) -> io::Result<PathBuf> {
    let mut path = std::path::absolute(mountpoint)?;
    for _ in 0..SYMLINKS_MAX {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return path.canonicalize(); // `/`, or a path that ends in `..`
        };
        let parent = parent.canonicalize()?;
        let whole = parent.join(name);
        match rustix::fs::readlink(&whole, Vec::new()) {
            Ok(target) => path = parent.join(OsStr::from_bytes(target.as_bytes())),
            Err(Errno::INVAL) => return Ok(whole), // not a link
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(Errno::LOOP.into())
}

/// What a mount's server did when it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It answered, or the kernel answered for it since another user owns the mount.
    Alive,
    /// It is gone: the kernel refuses with `ENOTCONN`, and only an unmount helps.
    Dead,
    /// It did not answer in time.
    Silent,
}

/// Asks the mount at `mountpoint` for its statistics and waits at most `timeout`.
///
/// The question is put by a thread of its own. If the server never answers, that thread stays
/// until the mount goes; ask rarely.
///
/// # Errors
/// If `statfs(2)` fails otherwise than by a dead server, or no thread could be started.
pub fn probe(mountpoint: &Path, timeout: Duration) -> io::Result<Liveness> {
    let (answer, answered) = crossbeam_channel::bounded(1);
    let path = mountpoint.to_owned();
    std::thread::Builder::new().name("vfs-probe".to_owned()).spawn(move || {
        // The asker may have stopped waiting; then nobody wants the answer.
        let _unheard = answer.send(rustix::fs::statfs(&path).map(drop));
    })?;
    match answered.recv_timeout(timeout) {
        Ok(Ok(())) => Ok(Liveness::Alive),
        // Aborted while the question was pending, or before.
        Ok(Err(Errno::NOTCONN | Errno::CONNABORTED)) => Ok(Liveness::Dead),
        Ok(Err(errno)) => Err(errno.into()),
        Err(RecvTimeoutError::Timeout) => Ok(Liveness::Silent),
        Err(RecvTimeoutError::Disconnected) => unreachable!("the thread sends before it ends"),
    }
}

fn read_table() -> io::Result<Vec<u8>> {
    let mut table = Vec::new();
    File::open("/proc/self/mountinfo")?.take(MOUNTINFO_BYTES_MAX).read_to_end(&mut table)?;
    Ok(table)
}

fn parse_device(field: &[u8]) -> Option<DeviceNumber> {
    let (major, minor) = std::str::from_utf8(field).ok()?.split_once(':')?;
    Some(DeviceNumber { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

/// Undoes the kernel's `\ooo` escapes (space, tab, newline, backslash, `#`).
///
/// A backslash without three octal digits of one byte behind it stands for itself.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        match after {
            [high @ b'0'..=b'3', middle @ b'0'..=b'7', low @ b'0'..=b'7', tail @ ..] if byte == b'\\' => {
                plain.push((high - b'0') << 6 | (middle - b'0') << 3 | (low - b'0'));
                rest = tail;
            }
            _ => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests;
