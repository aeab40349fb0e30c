//! Work that might wait for a disk, done by a worker pool off the shards; and the same work, tried at once from memory.

use super::HostShared;
use super::quota::{DeviceFiles, HeldFile};
use crate::convert::attr_to_wire;
use crate::share::{Blocking, FsError, ListLimit, RelPath, blake3_of};
use crate::trust::{EnrolError, StoreError};
use bytes::Bytes;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use transport::wire::{Entry, INLINE_BYTES_MAX, PAGE_ENTRIES_MAX, PAGE_NAME_BYTES_MAX, Response, StatFs};
use transport::{ConnId, PeerKey, StreamId};

/// Times a file that keeps changing is read again for an open's inline bytes before they are left out.
const INLINE_TRIES: u32 = 3;

/// Tells a job that nobody waits for its answer any more.
#[derive(Clone, Default)]
pub(crate) struct Cancel(Arc<AtomicBool>);

impl Cancel {
    pub(crate) fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// What raises it when dropped: held by who waits for the answer.
    pub(crate) fn on_drop(&self) -> CancelOnDrop {
        CancelOnDrop(self.clone())
    }
}

/// Raises its [`Cancel`] when it is dropped.
pub(crate) struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// What is to be done.
pub(crate) enum Work {
    Attr {
        path: RelPath,
    },
    List {
        path: RelPath,
        cursor: u64,
        entries_max: u32,
    },
    Readlink {
        path: RelPath,
    },
    Open {
        path: RelPath,
        inline_max: u32,
        hash: bool,
        /// The asker's share.
        files: Arc<DeviceFiles>,
    },
    Hash {
        file: Arc<HeldFile>,
        offset: u64,
        length: u64,
    },
    StatFs,
    /// Remember a device that proved the code.
    Enrol {
        key: PeerKey,
        name: String,
    },
    /// Note that a device is here again.
    NoteConnected {
        key: PeerKey,
    },
}

/// What came of it.
pub(crate) enum Outcome {
    Response(Response),
    Opened {
        file: Arc<HeldFile>,
        attr: transport::wire::Attr,
        inline: Bytes,
        whole: bool,
        hash: Option<[u8; 32]>,
    },
    Enrolled(Result<(), EnrolError>),
    /// Nobody waits for it.
    Noted,
}

/// Work on its way to a worker, with the way back.
pub struct Job {
    pub(crate) conn: ConnId,
    pub(crate) stream: StreamId,
    pub(crate) work: Work,
    pub(crate) cancel: Cancel,
    pub(crate) shared: Arc<HostShared>,
}

/// Work on its way back.
pub struct JobDone {
    pub(crate) conn: ConnId,
    pub(crate) stream: StreamId,
    /// It was a [`Work::Hash`].
    pub(crate) is_hash: bool,
    pub(crate) outcome: Outcome,
    /// Where a pool did it: kept until the shard has taken the answer in, and so until its mailbox has room for another.
    pub(crate) room: Option<Room>,
}

/// A job's room at a pool and, after it, in its shard's mailbox; dropping it makes room for another.
pub(crate) struct Room(Arc<AtomicUsize>);

impl Room {
    /// Counts one more in `taken`, or nothing where there are `max` already. For one thread: only the drops may come
    /// from others.
    pub(crate) fn try_take(taken: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        if taken.load(Ordering::Relaxed) >= max {
            return None;
        }
        taken.fetch_add(1, Ordering::Relaxed);
        Some(Self(Arc::clone(taken)))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Job {
    /// True for work that takes as long as its bytes take to read.
    pub(crate) fn is_hash(&self) -> bool {
        matches!(self.work, Work::Hash { .. })
    }

    /// True when nobody waits for the answer any more: the job is done without its work then.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_raised()
    }

    /// Does the work; may wait for disks and locks.
    pub fn perform(self) -> JobDone {
        let outcome = match self.is_cancelled() {
            true => Outcome::Noted,
            false => perform(&self.shared, &self.work, &self.cancel, Blocking::Allowed).unwrap_or_else(failed),
        };
        self.done(outcome)
    }

    /// The answer should the work never end: an error of ours.
    pub(crate) fn unfinished(&self) -> JobDone {
        self.done(match self.work {
            Work::NoteConnected { .. } => Outcome::Noted,
            Work::Enrol { .. } => {
                let source = io::Error::other("a fault of this program");
                Outcome::Enrolled(Err(
                    StoreError::Io { action: "write", path: "the list of devices".into(), source }.into()
                ))
            }
            _ => failed(FsError::from_errno(libc::EIO)),
        })
    }

    fn done(&self, outcome: Outcome) -> JobDone {
        JobDone { conn: self.conn, stream: self.stream, is_hash: self.is_hash(), outcome, room: None }
    }
}

/// Where jobs go: a worker pool, or at once in the simulator.
pub trait Jobs {
    /// Takes a job over, or gives it back when too many wait.
    ///
    /// # Errors
    /// The job.
    fn submit(&mut self, job: Job) -> Result<(), Box<Job>>;
}

pub(crate) fn failed(error: FsError) -> Outcome {
    Outcome::Response(Response::Error { errno: error.errno() })
}

/// Tries the work without waiting for anything; `None` when it is one for a worker.
pub(crate) fn try_now(shared: &HostShared, work: &Work) -> Option<Outcome> {
    match work {
        Work::Attr { .. } | Work::Readlink { .. } | Work::Open { .. } => {
            match perform(shared, work, &Cancel::default(), Blocking::CachedOnly) {
                Err(error) if error == FsError::WOULD_BLOCK => None,
                done => Some(done.unwrap_or_else(failed)),
            }
        }
        // Pages cost about a millisecond, hashes many, the rest may write or ask a remote file system.
        Work::List { .. } | Work::Hash { .. } | Work::StatFs | Work::Enrol { .. } | Work::NoteConnected { .. } => None,
    }
}

fn perform(shared: &HostShared, work: &Work, cancel: &Cancel, blocking: Blocking) -> Result<Outcome, FsError> {
    let share = &shared.share;
    let response = match work {
        Work::Attr { path } => Response::Attr { attr: attr_to_wire(&share.attr(path, blocking)?) },
        Work::Readlink { path } => Response::Link { target: share.readlink(path, blocking)? },
        Work::List { path, cursor, entries_max } => {
            let entries = (*entries_max).clamp(1, PAGE_ENTRIES_MAX) as usize;
            let limit = ListLimit { entries, bytes: PAGE_NAME_BYTES_MAX as usize };
            let page = share.list(path, *cursor, limit)?;
            let entry = |e: crate::share::Entry| Entry { name: e.name, cookie: e.cookie, attr: attr_to_wire(&e.attr) };
            Response::Page { entries: page.entries.into_iter().map(entry).collect(), end: page.end }
        }
        Work::Open { path, inline_max, hash, files } => {
            let Some(slot) = files.try_open() else { return Err(FsError::from_errno(libc::EMFILE)) };
            let file = Arc::new(HeldFile::new(share.open_file(path, blocking)?, slot));
            return open(file, *inline_max, *hash, blocking);
        }
        Work::Hash { file, offset, length } => {
            let size = file.attr()?.size;
            // Behind the end of the file there is nothing, whose hash is well known; as with reads, that is no error.
            let end = offset.saturating_add(*length).min(size);
            let start = end.min(*offset);
            let hash = blake3_of(file, start..end, &cancel.0)?;
            Response::Hash { hash, length: end - start }
        }
        Work::StatFs => {
            let s = share.statfs()?;
            Response::StatFs {
                statfs: StatFs {
                    block_bytes: s.block_bytes,
                    blocks: s.blocks,
                    blocks_free: s.blocks_free,
                    blocks_available: s.blocks_available,
                    files: s.files,
                    files_free: s.files_free,
                    name_bytes_max: s.name_bytes_max,
                },
            }
        }
        Work::Enrol { key, name } => return Ok(Outcome::Enrolled(shared.gate.enrol(*key, name))),
        Work::NoteConnected { key } => {
            if let Err(error) = shared.gate.on_connected(*key) {
                tracing::warn!(%error, "cannot note when a device was last seen");
            }
            return Ok(Outcome::Noted);
        }
    };
    Ok(Outcome::Response(response))
}

/// Opens with all of the file's bytes, where they are few: bytes of one version, or none.
fn open(file: Arc<HeldFile>, inline_max: u32, hash: bool, blocking: Blocking) -> Result<Outcome, FsError> {
    let mut attr = file.attr_at_open();
    for _ in 0..INLINE_TRIES {
        // All of it or nothing: a part would have to be asked for again with the rest.
        let inline_max = u64::from(inline_max.min(INLINE_BYTES_MAX));
        let wanted = if attr.size <= inline_max { attr.size } else { 0 };
        let mut inline = vec![0; usize::try_from(wanted).expect("bounded by INLINE_BYTES_MAX")];
        let read = read_start(&file, &mut inline, blocking)?;
        inline.truncate(read);
        let after = file.attr()?;
        if after.version() == attr.version() && read as u64 == wanted {
            // Who asks for no bytes wants the file to stay open, an empty one too.
            let whole = wanted == attr.size && inline_max > 0;
            let hash = (whole && hash).then(|| *blake3::hash(&inline).as_bytes());
            return Ok(Outcome::Opened { file, attr: attr_to_wire(&attr), inline: Bytes::from(inline), whole, hash });
        }
        attr = after;
    }
    Ok(Outcome::Opened { file, attr: attr_to_wire(&attr), inline: Bytes::new(), whole: false, hash: None })
}

/// Fills `target` from the file's start; returns how much there was.
fn read_start(file: &HeldFile, target: &mut [u8], blocking: Blocking) -> Result<usize, FsError> {
    let mut read = 0;
    while read < target.len() {
        let offset = read as u64;
        let step = match blocking {
            Blocking::CachedOnly => file.read_now(offset, &mut target[read..])?,
            Blocking::Allowed => file.read_waiting(offset, &mut target[read..])?,
        };
        if step == 0 {
            break;
        }
        read += step;
    }
    Ok(read)
}
