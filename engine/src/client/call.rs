//! Calls in flight and the open files they speak of.

use super::outcome::{Answer, CallError, Output};
use slab::Slab;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};
use transport::StreamId;
use transport::wire::{FileId, Frames, PATH_BYTES_MAX, Request, Response};

/// Longest a call waits for a host that is heard but does not answer: a disk that spins up, a busy server.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);
/// Slowest a host is taken to hash at, bytes a second: a spinning disk that serves others too.
const HASH_BYTES_PER_S_MIN: u64 = 5 << 20;
/// How soon such a call is looked at again.
const ANSWER_RECHECK: Duration = Duration::from_secs(1);

/// Names one call of one client, for its life and never again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId {
    index: usize,
    serial: u64,
}

/// Names one open file of one client, across reconnects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileKey {
    index: usize,
    serial: u64,
}

#[cfg(test)]
impl FileKey {
    /// A file that no client has open.
    pub(crate) const NONE: Self = Self { index: usize::MAX, serial: 0 };
}

/// What can be asked of a host. Paths are '/'-joined and relative to the share; the empty path is its root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// The attributes of what is at `path`.
    Attr {
        /// Where.
        path: Vec<u8>,
    },
    /// A page of the directory at `path`.
    List {
        /// Where.
        path: Vec<u8>,
        /// The cookie to go on behind; 0 is the start.
        cursor: u64,
        /// Entries wanted at most.
        entries_max: u32,
    },
    /// The target of the symlink at `path`.
    Readlink {
        /// Where.
        path: Vec<u8>,
    },
    /// Opens the file at `path`.
    Open {
        /// Where.
        path: Vec<u8>,
        /// Size up to which the whole file is sent along, at most `INLINE_BYTES_MAX`; 0 keeps it open.
        inline_max: u32,
        /// Whether to send their hash too.
        hash: bool,
    },
    /// Bytes of an open file.
    Read {
        /// Which.
        file: FileKey,
        /// From where, in bytes.
        offset: u64,
        /// How many bytes.
        length: u64,
    },
    /// The BLAKE3 hash of a range of an open file.
    Hash {
        /// Which.
        file: FileKey,
        /// From where, in bytes.
        offset: u64,
        /// How many bytes.
        length: u64,
    },
    /// The share's file system.
    StatFs,
}

/// Our own kinds of call beside the owner's.
#[derive(Debug)]
enum Purpose {
    Owner(Ask),
    /// Opens a file anew after a reconnect, for the reads that wait in its state.
    Reopen(FileKey),
}

impl Purpose {
    /// The open file the call speaks of.
    fn file(&self) -> Option<FileKey> {
        match self {
            Self::Owner(Ask::Read { file, .. } | Ask::Hash { file, .. }) | Self::Reopen(file) => Some(*file),
            Self::Owner(_) => None,
        }
    }
}

pub(super) enum Stage {
    Waiting,
    Sent {
        stream: StreamId,
        /// Bytes of a head that is not whole yet.
        frames: Option<Frames>,
        /// Announced data not yet come.
        data_left: u64,
    },
}

pub(super) struct Call {
    purpose: Purpose,
    serial: u64,
    created_at: Instant,
    heard_at: Instant,
    deadline: Instant,
    pub(super) stage: Stage,
    pub(super) head: Option<Response>,
}

impl Call {
    /// The most data that may follow an answer to this call.
    pub(super) fn data_max(&self) -> u64 {
        match &self.purpose {
            Purpose::Owner(Ask::Read { length, .. }) => *length,
            Purpose::Owner(Ask::Open { inline_max, .. }) => u64::from(*inline_max),
            Purpose::Owner(_) | Purpose::Reopen(_) => 0,
        }
    }

    /// How long a host that is heard may take over it.
    fn patience(&self) -> Duration {
        match self.purpose {
            Purpose::Owner(Ask::Hash { length, .. }) => {
                ANSWER_PATIENCE + Duration::from_secs(length / HASH_BYTES_PER_S_MIN)
            }
            _ => ANSWER_PATIENCE,
        }
    }

    pub(super) fn heard(&mut self, now: Instant) {
        self.heard_at = now;
    }
}

struct OpenFile {
    serial: u64,
    path: Vec<u8>,
    id: FileId,
    /// The host's name for it on this connection.
    handle: Option<u64>,
    /// Reads that wait for the file to be opened anew; `Some` while that is under way.
    reopening: Option<Vec<CallId>>,
    /// Calls that speak of the file. One may serve readers of another open file of the same bytes, so a file that is
    /// closed meanwhile stays until the last has ended.
    calls: u32,
    closing: bool,
}

/// What stands between a call and its request.
pub(super) enum Ready {
    Request(Request),
    AwaitsOpen,
    NoSuchFile,
}

#[derive(Default)]
pub(super) struct Calls {
    calls: Slab<Call>,
    files: Slab<OpenFile>,
    waiting: VecDeque<CallId>,
    streams: BTreeMap<StreamId, CallId>,
    deadlines: BTreeSet<(Instant, CallId)>,
    /// Handles the host is to be told of.
    closed: VecDeque<u64>,
    serial_next: u64,
}

impl Calls {
    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    fn serial(&mut self) -> u64 {
        self.serial_next += 1;
        self.serial_next
    }

    pub(super) fn insert(&mut self, ask: Ask, now: Instant, deadline: Instant) -> CallId {
        self.insert_with(Purpose::Owner(ask), now, deadline)
    }

    fn insert_with(&mut self, purpose: Purpose, now: Instant, deadline: Instant) -> CallId {
        let serial = self.serial();
        if let Some(open) = purpose.file().and_then(|file| self.file_mut(file)) {
            open.calls += 1;
        }
        let call =
            Call { purpose, serial, created_at: now, heard_at: now, deadline, stage: Stage::Waiting, head: None };
        let id = CallId { index: self.calls.insert(call), serial };
        self.deadlines.insert((deadline, id));
        id
    }

    fn find(&self, id: CallId) -> Option<&Call> {
        self.calls.get(id.index).filter(|call| call.serial == id.serial)
    }

    /// # Panics
    /// If the call is over: ids come from our own tables here.
    pub(super) fn get_mut(&mut self, id: CallId) -> &mut Call {
        let call = &mut self.calls[id.index];
        assert_eq!(call.serial, id.serial, "tables name live calls only");
        call
    }

    pub(super) fn stage(&self, id: CallId) -> Option<&Stage> {
        self.find(id).map(|call| &call.stage)
    }

    pub(super) fn ids(&self) -> Vec<CallId> {
        self.calls.iter().map(|(index, call)| CallId { index, serial: call.serial }).collect()
    }

    pub(super) fn remove(&mut self, id: CallId) -> Option<Call> {
        self.find(id)?;
        let call = self.calls.remove(id.index);
        self.deadlines.remove(&(call.deadline, id));
        if let Stage::Sent { stream, .. } = call.stage {
            self.streams.remove(&stream);
        }
        if let Some(file) = call.purpose.file()
            && let Some(open) = self.file_mut(file)
        {
            open.calls -= 1;
            if open.calls == 0 && open.closing {
                self.forget_file(file);
            }
        }
        Some(call)
    }

    /// A path that no host resolves, and that a request has no room for.
    pub(super) fn is_path_too_long(&self, id: CallId) -> bool {
        self.find(id).is_some_and(|call| match &call.purpose {
            Purpose::Owner(
                Ask::Attr { path } | Ask::List { path, .. } | Ask::Readlink { path } | Ask::Open { path, .. },
            ) => path.len() > PATH_BYTES_MAX,
            Purpose::Owner(_) | Purpose::Reopen(_) => false,
        })
    }

    pub(super) fn enqueue(&mut self, id: CallId) {
        self.waiting.push_back(id);
    }

    /// The next call to send; ids of calls that ended while they waited are dropped on the way.
    pub(super) fn front_waiting(&mut self) -> Option<CallId> {
        while let Some(&id) = self.waiting.front() {
            if self.find(id).is_some() {
                return Some(id);
            }
            self.waiting.pop_front();
        }
        None
    }

    pub(super) fn pop_waiting(&mut self) {
        self.waiting.pop_front();
    }

    /// Turns a call into its request; for a file without a handle, begins to open it anew.
    pub(super) fn request_for(&mut self, id: CallId) -> Ready {
        let call = self.find(id).expect("the front of the queue is live");
        let (created_at, deadline) = (call.created_at, call.deadline);
        let (file, build): (FileKey, Box<dyn Fn(u64) -> Request>) = match &call.purpose {
            Purpose::Owner(ask) => match ask.clone() {
                Ask::Attr { path } => return Ready::Request(Request::Attr { path }),
                Ask::List { path, cursor, entries_max } => {
                    return Ready::Request(Request::List { path, cursor, entries_max });
                }
                Ask::Readlink { path } => return Ready::Request(Request::Readlink { path }),
                Ask::Open { path, inline_max, hash } => {
                    return Ready::Request(Request::Open { path, inline_max, hash });
                }
                Ask::StatFs => return Ready::Request(Request::StatFs),
                Ask::Read { file, offset, length } => {
                    (file, Box::new(move |handle| Request::Read { handle, offset, length }))
                }
                Ask::Hash { file, offset, length } => {
                    (file, Box::new(move |handle| Request::Hash { handle, offset, length }))
                }
            },
            Purpose::Reopen(file) => {
                return match self.file(*file) {
                    Some(open) => Ready::Request(Request::Open { path: open.path.clone(), inline_max: 0, hash: false }),
                    None => Ready::NoSuchFile,
                };
            }
        };
        let Some(open) = self.files.get_mut(file.index).filter(|open| open.serial == file.serial) else {
            return Ready::NoSuchFile;
        };
        if let Some(handle) = open.handle {
            return Ready::Request(build(handle));
        }
        match &mut open.reopening {
            Some(readers) => readers.push(id),
            None => {
                open.reopening = Some(vec![id]);
                let reopen = self.insert_with(Purpose::Reopen(file), created_at, deadline);
                self.waiting.push_back(reopen);
            }
        }
        Ready::AwaitsOpen
    }

    pub(super) fn on_sent(&mut self, id: CallId, stream: StreamId) {
        self.streams.insert(stream, id);
        self.get_mut(id).stage = Stage::Sent { stream, frames: None, data_left: 0 };
    }

    pub(super) fn by_stream(&self, stream: StreamId) -> Option<CallId> {
        self.streams.get(&stream).copied()
    }

    /// The connection is gone, and with it every stream and handle: what was sent waits again, oldest first.
    pub(super) fn on_lost(&mut self) {
        self.streams.clear();
        // The next connection numbers its handles anew: what these name there is another file, or none.
        self.closed.clear();
        let mut again: Vec<CallId> = Vec::new();
        for (index, call) in &mut self.calls {
            call.stage = Stage::Waiting;
            call.head = None;
            again.push(CallId { index, serial: call.serial });
        }
        again.sort_by_key(|id| id.serial);
        self.waiting = again.into();
        for (_, file) in &mut self.files {
            file.handle = None;
        }
        // Readers behind a reopening file are in the queue again; the reopen call itself too, and finds none to serve.
        for (_, file) in &mut self.files {
            if let Some(readers) = &mut file.reopening {
                readers.clear();
            }
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// The next call that has waited too long; it is still there. Calls that were heard of lately, or whose host is
    /// there and only slow (`connected`), get more time.
    pub(super) fn pop_expired(&mut self, now: Instant, timeout: Duration, connected: bool) -> Option<CallId> {
        while let Some(&(deadline, id)) = self.deadlines.first() {
            if deadline > now {
                return None;
            }
            let call = self.get_mut(id);
            let slow = connected && matches!(call.stage, Stage::Sent { .. }) && call.created_at + call.patience() > now;
            let later = if call.heard_at + timeout > now {
                call.heard_at + timeout
            } else if slow {
                now + ANSWER_RECHECK
            } else {
                return Some(id);
            };
            call.deadline = later;
            self.deadlines.pop_first();
            self.deadlines.insert((later, id));
        }
        None
    }

    fn file(&self, key: FileKey) -> Option<&OpenFile> {
        self.files.get(key.index).filter(|open| open.serial == key.serial)
    }

    fn file_mut(&mut self, key: FileKey) -> Option<&mut OpenFile> {
        self.files.get_mut(key.index).filter(|open| open.serial == key.serial)
    }

    /// Forgets a file, once the last call that speaks of it has ended.
    pub(super) fn close_file(&mut self, key: FileKey) {
        let Some(open) = self.file_mut(key) else { return };
        open.closing = true;
        if open.calls == 0 {
            self.forget_file(key);
        }
    }

    fn forget_file(&mut self, key: FileKey) {
        self.closed.extend(self.files.remove(key.index).handle);
    }

    /// The next handle the host need not keep.
    pub(super) fn pop_closed(&mut self) -> Option<u64> {
        self.closed.pop_front()
    }

    fn insert_file(&mut self, path: Vec<u8>, id: FileId, handle: Option<u64>) -> FileKey {
        let serial = self.serial();
        FileKey {
            index: self.files.insert(OpenFile { serial, path, id, handle, reopening: None, calls: 0, closing: false }),
            serial,
        }
    }

    /// Makes the answer of a call out of the head that came.
    pub(super) fn answer(&mut self, id: CallId) -> Result<Answer, CallError> {
        let call = self.get_mut(id);
        let head = call.head.take().expect("an answered call has a head");
        if let Response::Error { errno } = head {
            // The reads that wait for a reopened file ask nothing about its path: it is not the file they know.
            let is_gone = matches!(errno, libc::ENOENT | libc::ENOTDIR | libc::EISDIR | libc::ELOOP);
            return Err(match call.purpose {
                Purpose::Reopen(_) if is_gone => CallError::Stale,
                _ => CallError::Errno(errno),
            });
        }
        let unasked = Err(CallError::Errno(libc::EPROTO));
        match (&call.purpose, head) {
            (Purpose::Owner(Ask::Attr { .. }), Response::Attr { attr }) => Ok(Answer::Attr(attr)),
            (Purpose::Owner(Ask::List { .. }), Response::Page { entries, end }) => Ok(Answer::Page { entries, end }),
            (Purpose::Owner(Ask::Readlink { .. }), Response::Link { target }) => Ok(Answer::Link(target)),
            (Purpose::Owner(Ask::StatFs), Response::StatFs { statfs }) => Ok(Answer::StatFs(statfs)),
            (Purpose::Owner(Ask::Hash { .. }), Response::Hash { hash, length }) => Ok(Answer::Hash { hash, length }),
            (Purpose::Owner(Ask::Read { length, .. }), Response::Data { data, size, version }) => {
                if data > *length {
                    return unasked;
                }
                Ok(Answer::Read { size, version })
            }
            (Purpose::Owner(Ask::Open { path, .. }), Response::Opened { handle, attr, hash, .. }) => {
                let path = path.clone();
                let file = self.insert_file(path, attr.id, (handle != 0).then_some(handle));
                Ok(Answer::Opened { file, attr, hash })
            }
            (&Purpose::Reopen(key), Response::Opened { handle, attr, .. }) => {
                let open = self.files.get_mut(key.index).filter(|open| open.serial == key.serial);
                let Some(open) = open.filter(|open| open.id == attr.id) else {
                    // The host holds open what nobody here will name again.
                    self.closed.extend((handle != 0).then_some(handle));
                    return Err(CallError::Stale);
                };
                // Asked without bytes, so it must stay open; reads behind it would ask for ever otherwise.
                if handle == 0 {
                    return unasked;
                }
                open.handle = Some(handle);
                Ok(Answer::Attr(attr))
            }
            _ => unasked,
        }
    }

    /// Ends a call of our own. Returns the reads that fail with it; those that may go on are queued again.
    ///
    /// `None` when the call was the owner's.
    pub(super) fn on_reopened(&mut self, call: &Call, result: &Result<Answer, CallError>) -> Option<Vec<CallId>> {
        let Purpose::Reopen(key) = call.purpose else { return None };
        let readers = self
            .files
            .get_mut(key.index)
            .filter(|open| open.serial == key.serial)
            .and_then(|open| open.reopening.take())
            .unwrap_or_default();
        if result.is_err() {
            return Some(readers);
        }
        self.waiting.extend(readers);
        Some(Vec::new())
    }
}

/// How many bytes of data follow this head.
pub(super) fn data_behind(head: &Response) -> u64 {
    match *head {
        Response::Data { data, .. } => data,
        Response::Opened { data, .. } => u64::from(data),
        _ => 0,
    }
}

/// The notice that data follows, for heads that announce some kind of it.
pub(super) fn begin(call: CallId, head: &Response) -> Option<Output> {
    match *head {
        Response::Data { data, size, version } => Some(Output::Begin { call, length: data, size, version }),
        Response::Opened { data, attr, .. } => {
            Some(Output::Begin { call, length: u64::from(data), size: attr.size, version: attr.version })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::empty_file_on_wire;

    #[test]
    fn handles_of_a_lost_connection_are_not_closed_on_the_next() {
        let now = Instant::now();
        let mut calls = Calls::default();
        let id = FileId { ino: 1, birth_ns: 0 };
        let file = calls.insert_file(b"file".to_vec(), id, Some(7));
        let read = calls.insert(Ask::Read { file, offset: 0, length: 1 }, now, now);
        calls.close_file(file);
        assert_eq!(calls.pop_closed(), None, "a call still speaks of it");
        calls.remove(read);
        calls.on_lost();
        assert_eq!(calls.pop_closed(), None, "the handle went with its connection");
    }

    /// A read of file 1 after a reconnect, and the answer that the host gives to its being opened again.
    fn reopened(answer: Response) -> (Calls, Result<Answer, CallError>) {
        let now = Instant::now();
        let mut calls = Calls::default();
        let file = calls.insert_file(b"file".to_vec(), FileId { ino: 1, birth_ns: 0 }, None);
        let read = calls.insert(Ask::Read { file, offset: 0, length: 1 }, now, now);
        assert!(matches!(calls.request_for(read), Ready::AwaitsOpen));
        let reopen = calls.front_waiting().expect("the file is opened first");
        calls.get_mut(reopen).head = Some(answer);
        let result = calls.answer(reopen);
        let call = calls.remove(reopen).unwrap();
        assert_eq!(calls.on_reopened(&call, &result), Some(vec![read]), "the read fails with it");
        (calls, result)
    }

    #[test]
    fn another_file_under_a_path_is_stale_and_closed() {
        let (mut calls, result) =
            reopened(Response::Opened { handle: 7, attr: empty_file_on_wire(2), data: 0, hash: None });
        assert_eq!(result, Err(CallError::Stale));
        assert_eq!(calls.pop_closed(), Some(7), "the host must not keep it open for nobody");
    }

    #[test]
    fn a_path_that_names_no_file_any_more_is_stale() {
        for errno in [libc::ENOENT, libc::ENOTDIR, libc::EISDIR, libc::ELOOP] {
            assert_eq!(reopened(Response::Error { errno }).1, Err(CallError::Stale), "{errno}");
        }
        let denied = reopened(Response::Error { errno: libc::EACCES }).1;
        assert_eq!(denied, Err(CallError::Errno(libc::EACCES)), "docs/semantics.md promises it");
    }
}
