//! Open directories: the offsets the kernel sees, and the few pages held for each handle.
//!
//! # Offsets
//!
//! The kernel goes on listing at an offset that came with an entry, and lets programs keep and
//! reuse offsets (telldir(3), seekdir(3)). They are a function of the host's cookie alone, so any
//! offset works on any handle at any time:
//!
//! | offset | the listing goes on with |
//! | --- | --- |
//! | 0 | `.` |
//! | 1 | `..` |
//! | 2 | the host's first entry (cursor 0) |
//! | `min(cookie + 2, 2^63 - 1)` | what follows the entry with that cookie |
//!
//! Two offsets more than cookies cannot fit one to one into the 63 bits of a `loff_t`. The three
//! topmost cookies share the last offset and go on at cursor 2^63 - 1. No Linux filesystem gives
//! them to an entry that another follows: 2^63 - 1 is ext4's mark for the end
//! (`EXT4_HTREE_EOF_64BIT`), and its hashes end at `0x7ffffffe_ffffffff`.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::call::{CallId, DirEntry};
use crate::errno::Errno;
use crate::inode::is_valid_name;
use crate::reply::{DirPlusReply, DirReply};

/// Pages held per handle: the one being read, the one after it, and one for each of two readers
/// elsewhere in the directory.
pub const PAGES_PER_HANDLE_MAX: usize = 4;
/// Entries a page may have; about 13 MiB of memory at the most. Wire limits come earlier.
pub const ENTRIES_PER_PAGE_MAX: usize = 65_536;
/// Reads that may wait on one handle for a page. The kernel lets one thread at a time read one
/// open directory, so more than a few come only from handles shared outside its rules.
pub const WAITING_PER_HANDLE_MAX: usize = 64;

/// Offset at which `..` follows.
pub(crate) const OFFSET_DOT_DOT: u64 = 1;
/// Offset at which the host's first entry follows.
pub(crate) const OFFSET_FIRST: u64 = 2;
/// The last offset a `loff_t` can hold, and the last cookie.
const OFFSET_LAST: u64 = i64::MAX as u64;

/// The offset at which the listing goes on after the entry with this cookie; cursor 0 included.
pub(crate) fn offset_after(cookie: u64) -> u64 {
    cookie.saturating_add(OFFSET_FIRST).min(OFFSET_LAST)
}

/// The cursor to ask the host for at an offset of [`OFFSET_FIRST`] or more.
pub(crate) fn cursor_at(offset: u64) -> u64 {
    debug_assert!(offset >= OFFSET_FIRST);
    if offset >= OFFSET_LAST { OFFSET_LAST } else { offset - OFFSET_FIRST }
}

/// One answer of the host, whole.
#[derive(Debug)]
pub(crate) struct Page {
    /// The cursor it was asked with.
    cursor: u64,
    entries: Vec<DirEntry>,
    end: bool,
    /// When it came.
    pub(crate) at: Instant,
}

impl Page {
    /// Takes in an answer.
    ///
    /// # Errors
    /// [`Errno::EIO`]: the host sent names, cookies or a page that cannot be.
    pub(crate) fn new(cursor: u64, entries: Vec<DirEntry>, end: bool, at: Instant) -> Result<Self, Errno> {
        let is_valid = |entry: &DirEntry| is_valid_name(&entry.name) && (1..=OFFSET_LAST).contains(&entry.cookie);
        // A page that ends where it began would be asked for again without end.
        let advances = entries.last().map_or(end, |last| end || last.cookie != cursor);
        if entries.len() > ENTRIES_PER_PAGE_MAX || !advances || !entries.iter().all(is_valid) {
            return Err(Errno::EIO);
        }
        if cursor == OFFSET_LAST {
            // Offsets beyond cannot be told apart; see the module's page.
            return Ok(Self { cursor, entries: Vec::new(), end: true, at });
        }
        Ok(Self { cursor, entries, end, at })
    }

    /// The cursor of the page after this one, if there is one.
    pub(crate) fn next_cursor(&self) -> Option<u64> {
        match self.entries.last() {
            Some(last) if !self.end => Some(cursor_at(offset_after(last.cookie))),
            _ => None,
        }
    }
}

/// Where a listing stands in the pages held.
#[derive(Debug)]
pub(crate) enum Position<'a> {
    /// These entries follow, at least one.
    Entries { page: &'a Page, entries: &'a [DirEntry] },
    /// Nothing follows.
    End,
    /// The page is not held.
    Missing,
}

/// One open directory.
#[derive(Debug)]
pub(crate) struct DirHandle {
    pub(crate) ino: u64,
    /// Oldest first.
    pages: VecDeque<Page>,
    /// Pages asked for.
    fetching: Vec<Fetch>,
    /// Whether a listing began with the pages held.
    has_begun: bool,
    pub(crate) waiting: Vec<Listing>,
}

/// A page asked for.
#[derive(Debug)]
struct Fetch {
    cursor: u64,
    call: CallId,
    /// Whether the listing began anew since: the page is thrown away when it comes.
    is_stale: bool,
}

/// A readdir or readdirplus under way.
#[derive(Debug)]
pub(crate) struct Listing {
    /// Where it goes on.
    pub(crate) offset: u64,
    /// Whether anything is in the reply, `.` and `..` included.
    pub(crate) has_any: bool,
    /// Whether an entry of the host is in the reply: it is worth sending as it is.
    pub(crate) has_entries: bool,
    pub(crate) reply: ListReply,
}

/// The reply of a [`Listing`].
#[derive(Debug)]
pub(crate) enum ListReply {
    Plain(DirReply),
    Plus(DirPlusReply),
}

impl ListReply {
    pub(crate) fn ok(self) {
        match self {
            Self::Plain(reply) => reply.ok(),
            Self::Plus(reply) => reply.ok(),
        }
    }

    pub(crate) fn error(self, errno: Errno) {
        match self {
            Self::Plain(reply) => reply.error(errno),
            Self::Plus(reply) => reply.error(errno),
        }
    }
}

impl From<DirReply> for ListReply {
    fn from(reply: DirReply) -> Self {
        Self::Plain(reply)
    }
}

impl From<DirPlusReply> for ListReply {
    fn from(reply: DirPlusReply) -> Self {
        Self::Plus(reply)
    }
}

impl DirHandle {
    pub(crate) fn new(ino: u64) -> Self {
        Self { ino, pages: VecDeque::new(), fetching: Vec::new(), has_begun: false, waiting: Vec::new() }
    }

    /// A listing begins at the start: as rewinddir(3) wants, not with what was listed before. Returns how old it is.
    ///
    /// The page fetched ahead when the directory was opened serves the first one, unless it is older than `age_max`.
    pub(crate) fn begin(&mut self, now: Instant, age_max: Duration) -> Instant {
        if std::mem::replace(&mut self.has_begun, true) {
            self.pages.clear();
            for fetch in &mut self.fetching {
                fetch.is_stale = true;
            }
        }
        self.pages.retain(|page| now.saturating_duration_since(page.at) < age_max);
        self.pages.iter().map(|page| page.at).min().unwrap_or(now)
    }

    /// A listing goes on, perhaps from what the kernel had: its pages are none of a later one.
    pub(crate) fn go_on(&mut self) {
        self.has_begun = true;
    }

    /// Finds what follows at an offset of [`OFFSET_FIRST`] or more.
    pub(crate) fn position(&self, offset: u64) -> Position<'_> {
        let is_after = |entry: &DirEntry| offset_after(entry.cookie) == offset;
        // Newest first: where pages overlap, the newer one tells what is there.
        for page in self.pages.iter().rev() {
            let start = if offset_after(page.cursor) == offset {
                0
            } else if let Some(last) = page.entries.iter().rposition(is_after) {
                last + 1
            } else {
                continue;
            };
            let entries = &page.entries[start..];
            if !entries.is_empty() {
                return Position::Entries { page, entries };
            }
            if page.end {
                return Position::End;
            }
        }
        Position::Missing
    }

    /// Whether a page is held already.
    pub(crate) fn is_held(&self, cursor: u64) -> bool {
        self.pages.iter().any(|page| page.cursor == cursor)
    }

    /// Whether a page is on its way.
    pub(crate) fn is_fetching(&self, cursor: u64) -> bool {
        self.fetching.iter().any(|fetch| fetch.cursor == cursor && !fetch.is_stale)
    }

    pub(crate) fn on_asked(&mut self, cursor: u64, call: CallId) {
        self.fetching.push(Fetch { cursor, call, is_stale: false });
    }

    /// Which cursor this call was asked with, if its page is still wanted.
    pub(crate) fn on_answered(&mut self, call: CallId) -> Option<u64> {
        let index = self.fetching.iter().position(|fetch| fetch.call == call)?;
        let fetch = self.fetching.remove(index);
        (!fetch.is_stale).then_some(fetch.cursor)
    }

    pub(crate) fn hold(&mut self, page: Page) {
        self.pages.retain(|held| held.cursor != page.cursor);
        if self.pages.len() >= PAGES_PER_HANDLE_MAX {
            self.pages.pop_front();
        }
        self.pages.push_back(page);
    }

    /// Gives up all that is asked for, and hands out who waits for it.
    pub(crate) fn drop_work(&mut self) -> Vec<Listing> {
        self.fetching.clear();
        std::mem::take(&mut self.waiting)
    }

    pub(crate) fn check_invariants(&self) {
        assert!(self.pages.len() <= PAGES_PER_HANDLE_MAX);
        assert!(self.waiting.len() <= WAITING_PER_HANDLE_MAX);
        for listing in &self.waiting {
            assert!(listing.offset >= OFFSET_FIRST && !listing.has_entries);
            assert!(!self.fetching.is_empty(), "nothing would wake {listing:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_and_cursors_match() {
        for cookie in [0, 1, 2, 3, 1 << 62, OFFSET_LAST - 3] {
            assert_eq!(cursor_at(offset_after(cookie)), cookie);
            assert!(offset_after(cookie) >= OFFSET_FIRST);
        }
        for cookie in [OFFSET_LAST - 2, OFFSET_LAST - 1, OFFSET_LAST] {
            assert_eq!(offset_after(cookie), OFFSET_LAST);
            assert_eq!(cursor_at(offset_after(cookie)), OFFSET_LAST);
        }
    }
}
