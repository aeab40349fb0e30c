//! Directory handles and the listings served from their pages.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use super::{Pending, Tree, TreeOptions, shown};
use crate::attr::{Attr, FileKind};
use crate::call::{Answer, Call, CallId, DirEntry, NoticeScope};
use crate::directory::{
    DirHandle, ListReply, Listing, OFFSET_DOT_DOT, OFFSET_FIRST, Page, Position, WAITING_PER_HANDLE_MAX, cursor_at,
    offset_after,
};
use crate::errno::Errno;
use crate::inode::{InodeTable, KeptListing, remaining};
use crate::listed::Listed;
use crate::reply::{Added, EmptyReply, OpenReply};

/// Directories open at one time; one more is refused with `ENFILE`. Each holds up to
/// [`PAGES_PER_HANDLE_MAX`](crate::directory::PAGES_PER_HANDLE_MAX) pages.
pub const OPEN_DIRECTORIES_MAX: usize = 4096;

/// What became of filling a reply.
enum Filled {
    /// It goes out; the page at this cursor is likely to be wanted next, unless this is the end.
    Send { ahead: Option<u64>, is_end: bool },
    /// The page at this cursor is needed first.
    Wait { cursor: u64 },
}

impl Tree {
    pub(super) fn opendir(&mut self, now: Instant, ino: u64, reply: OpenReply) {
        match self.inodes.get(ino) {
            Ok(inode) if inode.seen.attr.kind == FileKind::Directory => {}
            Ok(_) => return reply.error(Errno::ENOTDIR),
            Err(errno) => return reply.error(errno),
        }
        let Ok(dh) = self.dirs.insert(DirHandle::new(ino)) else { return reply.error(Errno::ENFILE) };
        let listing_ttl = self.options.listing_ttl;
        let inode = self.inodes.get_mut(ino).expect("found above");
        inode.open_directories += 1;
        let is_good = |kept: &KeptListing| kept.is_whole && now.saturating_duration_since(kept.since) < listing_ttl;
        let keep_cache = inode.kept_listing.as_ref().is_some_and(is_good);
        if keep_cache {
            self.arm(ino);
        } else {
            // The kernel drops what it has with the reply.
            self.forget_kept(ino);
            // Who opens a directory lists it. If this cannot be asked now, the listing tells.
            let _ = self.ask_page(dh, 0);
        }
        reply.opened_directory(dh, keep_cache);
    }

    /// Sets the time at which the kernel is told to forget a directory's listing, as long as one who has it open could
    /// rewind to it. Where nobody has, whoever opens it next decides.
    fn arm(&mut self, ino: u64) {
        if let Ok(inode) = self.inodes.get_mut(ino)
            && inode.open_directories > 0
            && inode.expires_at.is_none()
            && let Some(kept) = inode.kept_listing
        {
            let at = kept.since + self.options.listing_ttl;
            inode.expires_at = Some(at);
            self.expiries.insert((at, ino));
        }
    }

    fn disarm(&mut self, ino: u64) {
        if let Ok(inode) = self.inodes.get_mut(ino)
            && let Some(at) = inode.expires_at.take()
        {
            self.expiries.remove(&(at, ino));
        }
    }

    fn forget_kept(&mut self, ino: u64) {
        self.disarm(ino);
        if let Ok(inode) = self.inodes.get_mut(ino) {
            inode.kept_listing = None;
        }
    }

    /// Has the kernel forget the listing of a directory that is open, so that a rewind lists anew.
    pub(super) fn expire(&mut self, now: Instant, ino: u64) {
        let Ok(inode) = self.inodes.get_mut(ino) else { return };
        if inode.expires_at.is_none_or(|at| at > now) {
            return;
        }
        self.forget_kept(ino);
        if !self.notify(ino, NoticeScope::Data)
            && let Ok(inode) = self.inodes.get_mut(ino)
        {
            // Too much waits to be told: once more in a while.
            inode.kept_listing = Some(KeptListing { since: now, is_whole: false });
            self.arm(ino);
        }
    }

    pub(super) fn releasedir(&mut self, dh: u64, reply: EmptyReply) {
        match self.dirs.remove(dh) {
            Some(mut dir) => {
                for listing in dir.drop_work() {
                    listing.reply.error(Errno::EBADF);
                }
                if let Ok(inode) = self.inodes.get_mut(dir.ino) {
                    inode.open_directories = inode.open_directories.saturating_sub(1);
                    if inode.open_directories == 0 {
                        self.disarm(dir.ino);
                    }
                }
                reply.ok();
            }
            None => reply.error(Errno::EBADF),
        }
    }

    pub(super) fn readdir(&mut self, now: Instant, ino: u64, dh: u64, offset: u64, reply: ListReply) {
        match self.dirs.get_mut(dh) {
            Some(dir) if dir.ino == ino => {
                if offset == 0 {
                    let since = dir.begin(now, self.options.listing_ttl);
                    // The kernel adds to what it has; it may ask for the start again while it keeps an older one.
                    if let Ok(inode) = self.inodes.get_mut(ino) {
                        inode.kept_listing.get_or_insert(KeptListing { since, is_whole: false });
                    }
                    self.arm(ino);
                } else {
                    dir.go_on();
                }
                let listing = Listing { offset, has_any: false, has_entries: false, reply };
                self.list(now, dh, listing);
            }
            _ => reply.error(Errno::EBADF),
        }
    }

    pub(super) fn on_page(&mut self, now: Instant, dh: u64, call: CallId, answer: Result<Answer, Errno>) {
        let Some(dir) = self.dirs.get_mut(dh) else {
            return;
        };
        let cursor = dir.on_answered(call);
        let mut waiting = std::mem::take(&mut dir.waiting);
        if let Some(cursor) = cursor {
            let page = match answer {
                Ok(Answer::Page { entries, end }) => Page::new(cursor, entries, end, now),
                Ok(_) => Err(Errno::EIO),
                Err(errno) => Err(errno),
            };
            match page {
                Ok(page) => dir.hold(page),
                Err(errno) => {
                    let for_page = |listing: &mut Listing| cursor_at(listing.offset) == cursor;
                    for listing in waiting.extract_if(.., for_page) {
                        listing.reply.error(errno);
                    }
                }
            }
        }
        for listing in waiting {
            self.list(now, dh, listing);
        }
    }

    /// Fills a reply and sends it, or lets it wait for the page it needs.
    fn list(&mut self, now: Instant, dh: u64, mut listing: Listing) {
        match self.fill(now, dh, &mut listing) {
            Ok(Filled::Send { ahead, is_end }) => {
                if is_end {
                    self.on_end(dh);
                }
                if let Some(cursor) = ahead {
                    // Not being able to ask ahead hurts nobody.
                    let _ = self.ask_page(dh, cursor);
                }
                listing.reply.ok();
            }
            Ok(Filled::Wait { cursor }) => match self.ask_page(dh, cursor) {
                Ok(dir) if dir.waiting.len() < WAITING_PER_HANDLE_MAX => dir.waiting.push(listing),
                Ok(_) => listing.reply.error(Errno::EBUSY),
                Err(errno) => listing.reply.error(errno),
            },
            Err(errno) => listing.reply.error(errno),
        }
    }

    /// A listing was told to its end.
    fn on_end(&mut self, dh: u64) {
        if let Some(dir) = self.dirs.get(dh)
            && let Ok(inode) = self.inodes.get_mut(dir.ino)
            && let Some(kept) = &mut inode.kept_listing
        {
            kept.is_whole = true;
        }
    }

    /// Sees to it that a page is held or on its way.
    fn ask_page(&mut self, dh: u64, cursor: u64) -> Result<&mut DirHandle, Errno> {
        let dir = self.dirs.get(dh).ok_or(Errno::EBADF)?;
        if !dir.is_held(cursor) && !dir.is_fetching(cursor) {
            let path = self.inodes.path(dir.ino)?;
            let call = Call::List { path, cursor };
            let id = self.ask(Pending::List { dh }, call).ok_or(Errno::EBUSY)?;
            if let Some(dir) = self.dirs.get_mut(dh) {
                dir.on_asked(cursor, id);
            }
        }
        self.dirs.get_mut(dh).ok_or(Errno::EBADF)
    }

    /// Adds to the reply what the pages hold, until it is full or they end.
    fn fill(&mut self, now: Instant, dh: u64, listing: &mut Listing) -> Result<Filled, Errno> {
        let Self { options, inodes, dirs, listed, .. } = self;
        let dir = dirs.get(dh).ok_or(Errno::EBADF)?;
        let mut counted = Vec::new();
        let mut filler = Filler { now, options, inodes, listed, ino: dir.ino, counted: &mut counted };
        let filled = filler.fill(dir, listing);
        self.on_contents(counted);
        filled
    }
}

/// All it takes to put entries into a reply while the pages are borrowed.
struct Filler<'a> {
    now: Instant,
    options: &'a TreeOptions,
    inodes: &'a mut InodeTable,
    listed: &'a mut Listed,
    /// The directory.
    ino: u64,
    /// Inodes the kernel was told about.
    counted: &'a mut Vec<u64>,
}

impl Filler<'_> {
    fn fill(&mut self, dir: &DirHandle, listing: &mut Listing) -> Result<Filled, Errno> {
        let mut ahead = None;
        while listing.offset < OFFSET_FIRST {
            if self.add_dots(listing)? == Added::Full {
                return full(listing, ahead);
            }
        }
        loop {
            let (page, entries) = match dir.position(listing.offset) {
                Position::Entries { page, entries } => (page, entries),
                Position::Missing if !listing.has_entries => {
                    return Ok(Filled::Wait { cursor: cursor_at(listing.offset) });
                }
                Position::End => return Ok(Filled::Send { ahead: None, is_end: true }),
                Position::Missing => return Ok(Filled::Send { ahead, is_end: false }),
            };
            ahead = page.next_cursor();
            for entry in entries {
                match self.add(listing, entry, page.at) {
                    Ok(Added::Yes) => {
                        listing.offset = offset_after(entry.cookie);
                        (listing.has_any, listing.has_entries) = (true, true);
                    }
                    Ok(Added::Full) => return full(listing, ahead),
                    // Those before it are counted by now and must reach the kernel.
                    Err(_) if listing.has_any => return Ok(Filled::Send { ahead, is_end: false }),
                    Err(errno) => return Err(errno),
                }
            }
        }
    }

    /// Adds `.` or `..`, whichever is next; the kernel counts no reference for either.
    fn add_dots(&mut self, listing: &mut Listing) -> Result<Added, Errno> {
        let (name, ino): (&[u8], _) = match listing.offset {
            OFFSET_DOT_DOT => (b"..", self.inodes.parent(self.ino)?),
            _ => (b".", self.ino),
        };
        let attr = self.inodes.get(ino)?.seen.attr;
        let next = listing.offset + 1;
        let added = match &mut listing.reply {
            ListReply::Plain(reply) => reply.add(ino, next, attr.kind, name),
            ListReply::Plus(reply) => reply.add(next, name, &shown(self.options, &attr), Duration::ZERO),
        };
        if added == Added::Yes {
            (listing.offset, listing.has_any) = (next, true);
        }
        Ok(added)
    }

    fn add(&mut self, listing: &mut Listing, entry: &DirEntry, page_at: Instant) -> Result<Added, Errno> {
        let DirEntry { name, cookie, attr } = entry;
        let next = offset_after(*cookie);
        match &mut listing.reply {
            ListReply::Plain(reply) => {
                let added = reply.add(attr.id.ino, next, attr.kind, name);
                if added == Added::Yes {
                    self.listed.insert(self.ino, name, *attr, page_at);
                }
                Ok(added)
            }
            ListReply::Plus(reply) => {
                let entry = self.inodes.entry(self.ino, attr, page_at)?;
                let Attr { id, .. } = entry.seen.attr;
                // FUSE libraries send one time to live for name and attributes: the shorter.
                let ttl = match entry.is_current {
                    true => remaining(page_at, self.now, self.options.entry_ttl)
                        .min(entry.seen.remaining(self.now, self.options.attr_ttl)),
                    false => Duration::ZERO,
                };
                let added = reply.add(next, name, &shown(self.options, &entry.seen.attr), ttl);
                if added == Added::Yes {
                    self.inodes.count_lookup(self.ino, name, &entry);
                    self.counted.push(id.ino);
                }
                Ok(added)
            }
        }
    }
}

/// A reply that takes no more goes out; one that took nothing is too small for any entry.
fn full(listing: &Listing, ahead: Option<u64>) -> Result<Filled, Errno> {
    if listing.has_any { Ok(Filled::Send { ahead, is_end: false }) } else { Err(Errno::EINVAL) }
}
