//! Pages of a directory: complete and finite while the directory changes, with no state the client
//! must hold but a cookie.
//!
//! A cookie is the kernel's `d_off`. Going back to one in a fresh descriptor is right on file
//! systems with stable offsets (ext4, XFS, Btrfs, tmpfs since Linux 6.6), but overlayfs counts
//! positions in a list that it builds per open directory, so a removal before the cookie would
//! shift an entry out of sight. So a listing that is not at its end is parked: the descriptor and
//! the names already read wait, keyed by directory and cookie, for the next page. Then a whole
//! listing is one pass over one open directory, with readdir(3)'s promise: each entry that was
//! there throughout comes exactly once. Only when the client comes back after [`PARKED_MAX`] other
//! listings is the directory opened anew and sought to the cookie.

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::PoisonError;

use rustix::fs::{AtFlags, FileType, OFlags, RawDir, SeekFrom, Statx, StatxFlags, seek, statx};
use rustix::io::Errno;

use super::attr::{Attr, FileId, FileKind, device, statx_fd};
use super::error::FsError;
use super::path::{COMPONENT_BYTES_MAX, RelPath};
use super::tree::{Blocking, Share};

/// What one entry costs of [`ListLimit::bytes`] beside its name: attributes and cookie, generously.
pub const ENTRY_BYTES_FIXED: usize = 128;

/// Bytes of one getdents64(2): glibc's readdir uses the same. Holds 115 entries of the longest
/// names.
const GETDENTS_BYTES: usize = 32 * 1024;

/// Listings that wait for their next page; the oldest gives way. Each holds a descriptor and up to
/// [`GETDENTS_BYTES`] of names, so all together stay near 4 MiB, and 64 directories read at the
/// same moment cover a busy render farm.
const PARKED_MAX: usize = 64;

/// How much one page may hold. A page always holds at least one entry, so that a listing goes on.
#[derive(Clone, Copy, Debug)]
pub struct ListLimit {
    /// Entries, at least 1.
    pub entries: usize,
    /// Bytes of names and [`ENTRY_BYTES_FIXED`] for each.
    pub bytes: usize,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Any bytes but `/` and NUL.
    pub name: Vec<u8>,
    /// Continues the listing after this entry. Opaque; below 2^63.
    pub cookie: u64,
    /// Attributes. Where the host's user may not see them (a folder that may be read but not
    /// searched, a mount that is dead or belongs to someone else), the kind from the directory with
    /// mode 0 and size 0: the name stays visible, and the attempt to use it gives the true error.
    pub attr: Attr,
}

/// A run of entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// In the directory's order; without `.` and `..`.
    pub entries: Vec<Entry>,
    /// Whether the directory ends here.
    pub end: bool,
}

impl Share {
    /// Lists a directory from a cookie on; 0 is the start. May block.
    ///
    /// # Errors
    /// `ENOTDIR` (for a link to a directory too), `EINVAL` for a limit of no entries or a cookie
    /// the file system does not know, and the errno of openat2(2), open(2) or getdents64(2).
    pub fn list(&self, path: &RelPath, cursor: u64, limit: ListLimit) -> Result<Page, FsError> {
        if limit.entries == 0 {
            return Err(FsError::INVALID);
        }
        let handle = self.resolve(path, Blocking::Allowed, OFlags::DIRECTORY)?;
        let directory = DirKey::new(&statx_fd(&handle)?);
        let mut stream = match self.unpark(directory, cursor) {
            Some(stream) => stream,
            None => DirStream::open(self.reopen(&handle, OFlags::DIRECTORY)?.0, directory, cursor)?,
        };
        let page = self.fill_page(&mut stream, limit)?;
        if !page.end {
            self.park(stream);
        }
        Ok(page)
    }

    fn fill_page(&self, stream: &mut DirStream, limit: ListLimit) -> Result<Page, FsError> {
        let mut entries = Vec::new();
        let mut room = limit.bytes;
        while let Some(next) = stream.peek()? {
            let cost = next.name.len() + ENTRY_BYTES_FIXED;
            if !entries.is_empty() && (entries.len() >= limit.entries || cost > room) {
                return Ok(Page { entries, end: false });
            }
            let name = stream.take();
            // Some file systems count characters: a name of more bytes than the wire carries cannot be asked for either.
            if name.name.len() > COMPONENT_BYTES_MAX {
                tracing::warn!(name = %name.name.escape_ascii(), "not listed: the name is too long");
                continue;
            }
            if let Some(entry) = self.entry(stream.fd.as_fd(), name)? {
                room = room.saturating_sub(cost);
                stream.position = entry.cookie;
                entries.push(entry);
            }
        }
        Ok(Page { entries, end: true })
    }

    /// The entry of a name, or `None` if it has gone since the directory was read.
    fn entry(&self, directory: BorrowedFd<'_>, name: DirName) -> Result<Option<Entry>, FsError> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let attr = match statx(directory, &name.name, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME) {
            Ok(stat) => Attr::new(self.origin.id(&stat), &stat),
            Err(Errno::NOENT) => return Ok(None),
            // Not a matter of this entry but of the whole host.
            Err(errno @ (Errno::NOMEM | Errno::NOSYS)) => return Err(errno.into()),
            Err(errno) => {
                let shown = name.name.escape_ascii();
                tracing::debug!(name = %shown, %errno, "listed without attributes");
                let device = device(&statx_fd(directory)?);
                let id = FileId { ino: self.origin.ino(device, name.ino), birth_ns: 0 };
                Attr::veiled(id, FileKind::from_type(name.kind))
            }
        };
        Ok(Some(Entry { name: name.name, cookie: name.cookie, attr }))
    }

    fn unpark(&self, directory: DirKey, cursor: u64) -> Option<DirStream> {
        // A stream in the queue is whole at every point a holder of the lock could panic.
        let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        let at = parked.iter().position(|stream| stream.directory == directory && stream.position == cursor)?;
        parked.remove(at)
    }

    fn park(&self, stream: DirStream) {
        let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = if parked.len() == PARKED_MAX { parked.pop_front() } else { None };
        parked.push_back(stream);
        drop(parked);
        drop(oldest); // closes a descriptor: not under the lock
    }
}

/// Which directory, for the host's kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
struct DirKey {
    device: (u32, u32),
    st_ino: u64,
}

impl DirKey {
    fn new(stat: &Statx) -> Self {
        Self { device: device(stat), st_ino: stat.stx_ino }
    }
}

/// An open directory and the names read from it that no page has taken yet.
pub(super) struct DirStream {
    fd: OwnedFd,
    directory: DirKey,
    /// The cookie of the last entry given out, where the next page goes on.
    position: u64,
    /// At most one getdents64(2) of names.
    ahead: VecDeque<DirName>,
}

struct DirName {
    name: Vec<u8>,
    cookie: u64,
    ino: u64,
    kind: FileType,
}

impl DirStream {
    fn open(fd: OwnedFd, directory: DirKey, cursor: u64) -> Result<Self, FsError> {
        if cursor != 0 {
            if i64::try_from(cursor).is_err() {
                return Err(FsError::INVALID);
            }
            seek(&fd, SeekFrom::Start(cursor))?;
        }
        Ok(Self { fd, directory, position: cursor, ahead: VecDeque::new() })
    }

    /// The next name, or `None` at the end of the directory.
    fn peek(&mut self) -> Result<Option<&DirName>, FsError> {
        // A buffer may hold nothing but "." and "..", so one refill may not be enough.
        while self.ahead.is_empty() {
            if !self.read_ahead()? {
                return Ok(None);
            }
        }
        Ok(self.ahead.front())
    }

    /// Takes the name that `peek` showed.
    fn take(&mut self) -> DirName {
        self.ahead.pop_front().expect("peek has just shown it")
    }

    /// One getdents64(2); `false` at the end of the directory.
    fn read_ahead(&mut self) -> Result<bool, FsError> {
        let mut buffer = vec![MaybeUninit::<u8>::uninit(); GETDENTS_BYTES];
        let mut names = RawDir::new(&self.fd, &mut buffer);
        loop {
            let Some(next) = names.next() else {
                return Ok(false);
            };
            let entry = match next {
                Ok(entry) => entry,
                // Removed: an empty directory to all who still hold it.
                Err(Errno::NOENT) => return Ok(false),
                Err(errno) => return Err(errno.into()),
            };
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                self.ahead.push_back(DirName {
                    name: name.to_vec(),
                    cookie: entry.next_entry_cookie(),
                    ino: entry.ino(),
                    kind: entry.file_type(),
                });
            }
            if names.is_buffer_empty() {
                return Ok(true);
            }
        }
    }
}
