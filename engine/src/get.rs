//! Recursive copy of a host's folder or file: pipelined, verified, resumable.
//!
//! One orchestrating thread, many asks in flight. Small files come whole with their open, one round trip each; large
//! ones in pieces, hashed as they are written while the host hashes its side, and compared at the end. What an
//! interrupted run left is checked against the host's hash of the same bytes and gone on from.
//!
//! ```text
//!   directories ── List ──▶ files ── Open(+bytes, hash) ──▶ small: written, linked
//!                                        └─ large: Read … Read ▶ part file ── Hash equal ▶ renamed
//! ```
//!
//! The local side never follows a symlink: a hostile host cannot have anything written outside of the target.
//!
//! Read [`get`], then `local`, then `large`.

mod large;
mod local;
mod tally;

use crate::client::{Answer, Ask, CallError};
use crate::error::{EngineError, ErrorKind};
use crate::remote::{LISTING_ENTRIES_MAX, Next, Pages, Remote, RemoteAttr, RemoteKind, Reply, at_path};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use large::{LargeFile, LargeStep};
use local::Local;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tally::Tally;
pub use tally::{GetProgress, GetSummary};
use transport::tuning::STREAMS_MAX;
use transport::wire::{INLINE_BYTES_MAX, PAGE_ENTRIES_MAX};

/// Directory pages asked for at once while few files are known.
const LISTS_MAX: usize = 16;
/// Files known and not begun from which on one directory page is asked for at a time: the host then lists between the
/// files it opens, where a burst of pages would leave the files waiting.
const BACKLOG_ENOUGH: usize = 4 * OPENS_MAX;
/// Files being opened at once: all the requests a host takes from one client, less those for directories. Each may
/// bring `INLINE_BYTES_MAX`, so 15 MiB in all. Host, link and the writing here work side by side only while each has
/// a queue: on two cores 240 made 1.08 and 1.14 times the files/s of 128 (medians of 4 and 5).
const OPENS_MAX: usize = STREAMS_MAX as usize - LISTS_MAX;
/// Large files copied at once; their reads share the budget below.
const LARGE_MAX: usize = 4;
/// Files known and not begun above which listing pauses: bounds memory whatever the tree's size.
const BACKLOG_MAX: usize = 20_000;
/// How often a cancelled copy looks up from waiting.
const CANCEL_POLL: Duration = Duration::from_millis(100);
/// Times one file that changes while it is copied is begun anew.
const CHANGED_TRIES_MAX: u32 = 3;

/// What to copy where.
#[derive(Debug, Clone)]
pub struct GetOptions {
    /// '/'-joined path in the share; empty is all of it.
    pub source: Vec<u8>,
    /// A directory becomes `target` itself, so that a second run goes on where the first stopped; a file becomes
    /// `target`, or goes into it where that is a directory.
    pub target: PathBuf,
}

/// A file or directory on its way.
struct Item {
    /// In the share.
    source: Vec<u8>,
    /// Below the target; empty is the target itself.
    target: Vec<u8>,
    attr: RemoteAttr,
    tries: u32,
    /// In a directory that this run made: it cannot be here yet.
    is_new: bool,
}

/// A directory that was met.
struct Directory {
    item: Item,
    /// Made by this run.
    is_new: bool,
}

enum Purpose {
    List { item: usize, pages: Pages },
    Open(Box<Item>),
    Readlink(Box<Item>),
    Large(u64),
}

struct Get<'a> {
    remote: &'a Remote,
    local: Local,
    cancel: &'a AtomicBool,
    replies: Receiver<Reply>,
    reply: Sender<Reply>,
    tag_next: u64,
    waiting: BTreeMap<u64, Purpose>,
    /// Every directory met, for the modes and times set at the end.
    directories: Vec<Directory>,
    /// Directories with pages still to ask for.
    to_list: VecDeque<(usize, u64, Pages)>,
    to_open: VecDeque<Item>,
    to_read_link: VecDeque<Item>,
    to_copy: VecDeque<LargeFile>,
    copying: BTreeMap<u64, LargeFile>,
    lists: usize,
    opens: usize,
    links: Vec<(Item, Vec<u8>)>,
    tally: Tally,
}

/// Copies a file or a whole folder from a host.
///
/// `progress` is called at most ten times a second. When `cancel` is set the copy ends soon with `Failed`, and what is
/// there stays for the next run to go on from.
///
/// # Errors
/// [`EngineError`] where nothing can go on: the host is lost for good, the target cannot be written. Files that cannot
/// be copied are in the summary's `failed` instead.
pub fn get(
    remote: &Remote,
    options: GetOptions,
    progress: &mut dyn FnMut(GetProgress),
    cancel: &AtomicBool,
) -> Result<GetSummary, EngineError> {
    let begun_at = Instant::now();
    let attr = remote.attr(&options.source)?;
    let (target, top) = match attr.kind {
        RemoteKind::Directory => (options.target.clone(), Vec::new()),
        RemoteKind::File | RemoteKind::Symlink => local::place_of_file(&options.target, &options.source),
        RemoteKind::Other => {
            return Err(EngineError::new(ErrorKind::Failed, "a FIFO, socket or device cannot be copied"));
        }
    };
    let (reply, replies) = unbounded();
    let mut get = Get {
        remote,
        local: Local::open(&target)?,
        cancel,
        replies,
        reply,
        tag_next: 0,
        waiting: BTreeMap::new(),
        directories: Vec::new(),
        to_list: VecDeque::new(),
        to_open: VecDeque::new(),
        to_read_link: VecDeque::new(),
        to_copy: VecDeque::new(),
        copying: BTreeMap::new(),
        lists: 0,
        opens: 0,
        links: Vec::new(),
        tally: Tally::new(begun_at),
    };
    get.meet(Item { source: options.source, target: top, attr, tries: 0, is_new: false })?;
    get.run(progress)?;
    get.finish()?;
    Ok(get.tally.into_summary(begun_at.elapsed()))
}

impl Get<'_> {
    fn run(&mut self, progress: &mut dyn FnMut(GetProgress)) -> Result<(), EngineError> {
        loop {
            self.ask_more();
            self.tally.listing = self.lists > 0 || !self.to_list.is_empty();
            self.tally.report(Instant::now(), progress);
            if self.waiting.is_empty() {
                progress(self.tally.progress());
                return Ok(());
            }
            if self.cancel.load(Ordering::Relaxed) {
                return Err(EngineError::new(ErrorKind::Failed, "interrupted; run the same command again to go on"));
            }
            match self.replies.recv_timeout(CANCEL_POLL) {
                Ok(reply) => self.on_reply(reply)?,
                Err(RecvTimeoutError::Timeout) if self.remote.has_ended() && self.replies.is_empty() => {
                    return Err(EngineError::new(ErrorKind::Failed, "the client's shard ended; please report it"));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => unreachable!("we hold a sender ourselves"),
            }
        }
    }

    fn ask_more(&mut self) {
        let lists_max = if self.to_open.len() < BACKLOG_ENOUGH { LISTS_MAX } else { 1 };
        while self.lists < lists_max && self.to_open.len() < BACKLOG_MAX {
            let Some((item, cursor, pages)) = self.to_list.pop_front() else { break };
            self.lists += 1;
            let path = self.directories[item].item.source.clone();
            self.ask(Ask::List { path, cursor, entries_max: PAGE_ENTRIES_MAX }, Purpose::List { item, pages });
        }
        while self.opens < OPENS_MAX && self.to_copy.len() < LARGE_MAX {
            let Some(item) = self.to_open.pop_front() else { break };
            self.opens += 1;
            let inline_max = if item.attr.size <= u64::from(INLINE_BYTES_MAX) { INLINE_BYTES_MAX } else { 0 };
            self.ask(Ask::Open { path: item.source.clone(), inline_max, hash: true }, Purpose::Open(Box::new(item)));
        }
        while self.opens < OPENS_MAX {
            let Some(item) = self.to_read_link.pop_front() else { break };
            self.opens += 1;
            self.ask(Ask::Readlink { path: item.source.clone() }, Purpose::Readlink(Box::new(item)));
        }
        while self.copying.len() < LARGE_MAX {
            let Some(file) = self.to_copy.pop_front() else { break };
            self.copying.insert(file.key(), file);
        }
        let keys: Vec<u64> = self.copying.keys().copied().collect();
        for key in keys {
            let share = (large::READS_MAX / self.copying.len()).max(1);
            while let Some((ask, role)) = self.copying.get_mut(&key).and_then(|file| file.poll_ask(share)) {
                let tag = self.ask(ask, Purpose::Large(key));
                self.copying.get_mut(&key).expect("asked just now").on_asked(tag, role);
            }
        }
    }

    fn ask(&mut self, ask: Ask, purpose: Purpose) -> u64 {
        let tag = self.tag_next;
        self.tag_next += 1;
        self.waiting.insert(tag, purpose);
        self.remote.submit(ask, tag, &self.reply);
        tag
    }

    fn on_reply(&mut self, Reply { tag, result }: Reply) -> Result<(), EngineError> {
        let Some(purpose) = self.waiting.remove(&tag) else { return Ok(()) };
        // A lost host fails every file alike: say so once, instead of listing them all.
        if let Err(error @ (CallError::TimedOut | CallError::HostDown | CallError::Over(_) | CallError::Cancelled)) =
            &result
        {
            return Err(at_path(b"", error));
        }
        match purpose {
            Purpose::List { item, pages } => {
                self.lists -= 1;
                match result {
                    Ok((Answer::Page { entries, end }, _)) => self.on_page(item, pages, entries, end)?,
                    other => self.fail(item, other.err()),
                }
            }
            Purpose::Open(item) => {
                self.opens -= 1;
                self.on_opened(*item, result)?;
            }
            Purpose::Readlink(item) => {
                self.opens -= 1;
                match result {
                    Ok((Answer::Link(target), _)) => self.links.push((*item, target)),
                    other => self.tally.fail(&item.source, other.err()),
                }
            }
            Purpose::Large(key) => self.on_large(key, tag, result)?,
        }
        Ok(())
    }

    fn fail(&mut self, directory: usize, error: Option<CallError>) {
        let source = self.directories[directory].item.source.clone();
        self.tally.fail(&source, error);
    }

    fn on_page(
        &mut self,
        item: usize,
        mut pages: Pages,
        entries: Vec<transport::wire::Entry>,
        end: bool,
    ) -> Result<(), EngineError> {
        match pages.on_page(&entries, end) {
            Ok(Next::Page(cursor)) => self.to_list.push_back((item, cursor, pages)),
            Ok(Next::End) => {}
            // What came before is copied; the rest of such a directory is nobody's.
            Err(error) => {
                let source = self.directories[item].item.source.clone();
                self.tally.fail_because(&source, &error.to_string());
                return Ok(());
            }
        }
        for entry in entries {
            let Directory { item: directory, is_new } = &self.directories[item];
            let join =
                |base: &[u8]| if base.is_empty() { entry.name.clone() } else { [base, b"/", &entry.name].concat() };
            let item = Item {
                source: join(&directory.source),
                target: join(&directory.target),
                attr: entry.attr.into(),
                tries: 0,
                is_new: *is_new,
            };
            self.meet(item)?;
        }
        Ok(())
    }

    /// Decides what becomes of something found on the host.
    fn meet(&mut self, item: Item) -> Result<(), EngineError> {
        match item.attr.kind {
            RemoteKind::Directory => {
                let made = self.local.make_directory(&item.target);
                let is_new = made.map_err(|error| self.local.explain(&item.target, error))?;
                self.directories.push(Directory { item, is_new });
                self.to_list.push_back((self.directories.len() - 1, 0, Pages::new(LISTING_ENTRIES_MAX)));
            }
            RemoteKind::File => {
                self.tally.files_total += 1;
                self.tally.bytes_total += item.attr.size;
                if !item.is_new && self.local.is_same(&item.target, &item.attr) {
                    self.tally.resumed(item.attr.size);
                } else {
                    self.to_open.push_back(item);
                }
            }
            RemoteKind::Symlink => self.to_read_link.push_back(item),
            RemoteKind::Other => self.tally.skip(&item.source, "a FIFO, socket or device"),
        }
        Ok(())
    }

    fn on_opened(&mut self, item: Item, result: Result<(Answer, Vec<u8>), CallError>) -> Result<(), EngineError> {
        let (file, attr, hash, data) = match result {
            Ok((Answer::Opened { file, attr, hash }, data)) => (file, RemoteAttr::from(attr), hash, data),
            other => {
                self.tally.fail(&item.source, other.err());
                return Ok(());
            }
        };
        // The size may have changed since the listing.
        self.tally.bytes_total = (self.tally.bytes_total + attr.size).saturating_sub(item.attr.size);
        let item = Item { attr, ..item };
        if data.len() as u64 != attr.size {
            let key = self.tag_next;
            self.tag_next += 1;
            match LargeFile::new(key, item, file, &mut self.local) {
                Ok(large) => self.to_copy.push_back(large),
                Err((item, error)) => return Err(self.local.explain(&item.target, error)),
            }
            return Ok(());
        }
        self.remote.close_file(file);
        if hash.is_some_and(|hash| hash != *blake3::hash(&data).as_bytes()) {
            self.tally.fail_because(&item.source, "its BLAKE3 hash is not the host's");
            return Ok(());
        }
        match self.local.write_small(&item.target, &item.attr, &data, item.is_new) {
            Ok(()) => self.tally.file_done(attr.size),
            Err(error) => return Err(self.local.explain(&item.target, error)),
        }
        Ok(())
    }

    fn on_large(
        &mut self,
        key: u64,
        tag: u64,
        result: Result<(Answer, Vec<u8>), CallError>,
    ) -> Result<(), EngineError> {
        let Some(file) = self.copying.get_mut(&key) else { return Ok(()) };
        let step = match file.handle_answer(tag, result) {
            Ok(step) => step,
            Err(error) => {
                let target = file.item().target.clone();
                return Err(self.local.explain(&target, error));
            }
        };
        while let Some(buffer) = file.pop_spent() {
            self.remote.give_back(buffer);
        }
        match step {
            LargeStep::Wait => {}
            LargeStep::Written(bytes) => self.tally.bytes_done += bytes,
            LargeStep::Resumed(bytes) => self.tally.resumed_part(bytes),
            LargeStep::Done | LargeStep::Changed | LargeStep::Failed(_) => {
                let file = self.copying.remove(&key).expect("found above");
                self.remote.close_file(file.file());
                self.end_large(file, step)?;
            }
        }
        Ok(())
    }

    fn end_large(&mut self, file: LargeFile, step: LargeStep) -> Result<(), EngineError> {
        let counted = file.counted();
        match step {
            LargeStep::Done => {
                let item = file.into_item();
                self.local
                    .finish_large(&item.target, &item.attr)
                    .map_err(|error| self.local.explain(&item.target, error))?;
                self.tally.file_done(0);
            }
            LargeStep::Changed => {
                let mut item = file.into_item();
                item.tries += 1;
                self.tally.bytes_done = self.tally.bytes_done.saturating_sub(counted);
                if item.tries >= CHANGED_TRIES_MAX {
                    self.tally.fail_because(&item.source, "it keeps changing on the host");
                } else {
                    self.local.discard_large(&item.target);
                    self.to_open.push_back(item);
                }
            }
            LargeStep::Failed(error) => self.tally.fail(&file.into_item().source, error),
            LargeStep::Wait | LargeStep::Written(_) | LargeStep::Resumed(_) => unreachable!("only ends come here"),
        }
        Ok(())
    }

    /// What must come last: symlinks, then the directories' modes and times, children before parents.
    fn finish(&mut self) -> Result<(), EngineError> {
        for (item, target) in std::mem::take(&mut self.links) {
            match self.local.make_link(&item.target, &item.attr, &target) {
                Ok(()) => self.tally.symlinks += 1,
                Err(error) => return Err(self.local.explain(&item.target, error)),
            }
        }
        for Directory { item, .. } in self.directories.iter().rev() {
            self.local
                .finish_directory(&item.target, &item.attr)
                .map_err(|error| self.local.explain(&item.target, error))?;
            self.tally.directories += 1;
        }
        Ok(())
    }
}
