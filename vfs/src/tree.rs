//! The filesystem's state machine: kernel requests in, host calls, reads and notices out.
//!
//! Holds what the kernel holds: inodes it references, files and directories it has open. What it
//! does not know, or knows for longer than the time to live, it asks the host.

#![forbid(unsafe_code)]

mod content;
mod listing;
mod names;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::arena::Arena;
use crate::attr::Attr;
use crate::call::{Answer, Call, CallId, Notice, NoticeScope, ReadOp};
use crate::directory::DirHandle;
use crate::errno::Errno;
use crate::file::OpenFiles;
use crate::handle::HandleTable;
use crate::inode::InodeTable;
use crate::listed::Listed;
use crate::op::Op;
use crate::reply::{AttrReply, EntryReply, LinkReply, OpenReply, StatfsReply};

pub use content::READS_QUEUED_MAX;
pub use listing::OPEN_DIRECTORIES_MAX;

/// Calls to the host that may wait for their answer; one more is refused with `EBUSY`.
///
/// Each stands for a thread that waits in the kernel, so this bounds the threads of a machine
/// that ask at one time; about 2 MiB.
pub const CALLS_PENDING_MAX: usize = 16_384;
/// Notices that may wait without an open behind them. One more is left out: the kernel then asks
/// when the time to live has passed, as it would without any notices.
pub const NOTICES_QUEUED_MAX: usize = 4096;

/// How long the kernel may trust what it was told, and what it is shown.
#[derive(Clone, Copy, Debug)]
pub struct TreeOptions {
    /// Time to live of attributes.
    pub attr_ttl: Duration,
    /// Time to live of a name.
    pub entry_ttl: Duration,
    /// Time to live of a name's absence; zero for none.
    pub negative_ttl: Duration,
    /// How old a listing in the kernel's cache may be when a directory is opened or rewound; above zero.
    pub listing_ttl: Duration,
    /// User and group shown as the owner of every file; `None` for the host's own.
    pub owner: Option<(u32, u32)>,
}

impl TreeOptions {
    /// One second for attributes and names, half of it for absence and listings, the host's owners.
    ///
    /// A second is what NFS and sshfs users know as close-to-open without leases. Absence is
    /// trusted for less: programs that wait for a file ask for it again and again. Listings too, so that the names in
    /// one outlive a walk that begins with it: names that are too old are asked for one by one.
    pub const CLOSE_TO_OPEN: Self = Self {
        attr_ttl: Duration::from_secs(1),
        entry_ttl: Duration::from_secs(1),
        negative_ttl: Duration::from_millis(500),
        listing_ttl: Duration::from_millis(500),
        owner: None,
    };
}

/// A question the host owes an answer to, with the reply that waits for it.
#[derive(Debug)]
enum Pending {
    Lookup { parent: u64, name: Vec<u8>, reply: EntryReply },
    Getattr { ino: u64, reply: AttrReply },
    Readlink { reply: LinkReply },
    Open { fh: u64, reply: OpenReply },
    List { dh: u64 },
    Statfs { reply: StatfsReply },
}

impl Pending {
    fn error(self, errno: Errno) {
        match self {
            Self::Lookup { reply, .. } => reply.error(errno),
            Self::Getattr { reply, .. } => reply.error(errno),
            Self::Readlink { reply } => reply.error(errno),
            Self::Open { reply, .. } => reply.error(errno),
            // Those who wait for the page stand with the directory.
            Self::List { .. } => {}
            Self::Statfs { reply } => reply.error(errno),
        }
    }
}

/// One mount's files as far as the kernel knows them.
///
/// Feed: `handle_*`. Take: `poll_*`, after feeding until all say `None`; each kind comes out in
/// order, and the kinds may be taken in any order. Replies are sent from inside `handle_*`, but
/// for an open whose file has changed: its reply rides in the [`Notice`] the kernel must hear
/// first. `now` never goes back.
#[derive(Debug)]
pub struct Tree {
    options: TreeOptions,
    inodes: InodeTable,
    files: OpenFiles,
    dirs: Arena<DirHandle>,
    /// The inodes with a time to expire, by that time; at most one for each directory that is open.
    expiries: BTreeSet<(Instant, u64)>,
    listed: Listed,
    pending: Arena<Pending>,
    /// Each is pending too, but for `Close`; of those there are no more than files were open.
    calls: VecDeque<(CallId, Call)>,
    reads: VecDeque<ReadOp>,
    notices: VecDeque<Notice>,
    /// Why the service ended, if it did.
    failed: Option<Errno>,
}

impl Tree {
    /// A tree that knows its root alone.
    pub fn new(options: TreeOptions, root: Attr) -> Self {
        Self {
            options,
            inodes: InodeTable::new(root),
            files: OpenFiles::new(),
            dirs: Arena::new(OPEN_DIRECTORIES_MAX),
            expiries: BTreeSet::new(),
            listed: Listed::default(),
            pending: Arena::new(CALLS_PENDING_MAX),
            calls: VecDeque::new(),
            reads: VecDeque::new(),
            notices: VecDeque::new(),
            failed: None,
        }
    }

    /// The open files, for threads that answer reads from a cache.
    pub fn handle_table(&self) -> Arc<HandleTable> {
        self.files.table()
    }

    /// Number of inodes held, the root included.
    pub fn inode_count(&self) -> usize {
        self.inodes.len()
    }

    /// Number of open files and directories.
    pub fn handle_count(&self) -> usize {
        self.files.len() + self.dirs.len()
    }

    /// Number of calls the host owes an answer to.
    pub fn pending_count(&self) -> usize {
        self.pending.len()
    }

    /// Takes a request of the kernel.
    pub fn handle_op(&mut self, now: Instant, op: Op) {
        if let Some(errno) = self.failed {
            return self.handle_op_after_end(op, errno);
        }
        match op {
            Op::Lookup { parent, name, reply } => self.lookup(now, parent, name, reply),
            Op::Forget { ino, nlookup } => self.inodes.forget(ino, nlookup),
            Op::Getattr { ino, reply } => self.getattr(now, ino, reply),
            Op::Readlink { ino, reply } => self.readlink(ino, reply),
            Op::Open { ino, flags, reply } => self.open(ino, flags, reply),
            Op::Read { ino, fh, offset, length, reply } => {
                self.read(ino, fh, offset, length, reply);
            }
            Op::Release { fh, reply } => self.release(fh, reply),
            Op::Opendir { ino, reply } => self.opendir(now, ino, reply),
            Op::Readdir { ino, dh, offset, reply } => {
                self.readdir(now, ino, dh, offset, reply.into());
            }
            Op::ReaddirPlus { ino, dh, offset, reply } => {
                self.readdir(now, ino, dh, offset, reply.into());
            }
            Op::Releasedir { dh, reply } => self.releasedir(dh, reply),
            Op::Statfs { reply } => {
                self.ask(Pending::Statfs { reply }, Call::Statfs);
            }
        }
    }

    /// Takes the host's answer to a call; one that is not waited for any more is dropped.
    pub fn handle_answer(&mut self, now: Instant, call: CallId, answer: Result<Answer, Errno>) {
        let Some(pending) = self.pending.remove(call.0) else {
            return;
        };
        match pending {
            Pending::Lookup { parent, name, reply } => {
                let attr = answer.and_then(Answer::into_attr);
                self.on_lookup(now, parent, &name, attr, reply);
            }
            Pending::Getattr { ino, reply } => {
                self.on_getattr(now, ino, answer.and_then(Answer::into_attr), reply);
            }
            Pending::Readlink { reply } => Self::on_readlink(answer, reply),
            Pending::Open { fh, reply } => self.on_open(now, fh, answer, reply),
            Pending::List { dh } => self.on_page(now, dh, call, answer),
            Pending::Statfs { reply } => match answer {
                Ok(Answer::Statfs(stat)) => reply.statfs(&stat),
                Ok(_) => reply.error(Errno::EIO),
                Err(errno) => reply.error(errno),
            },
        }
    }

    /// Takes size and version of a file that a read found to have changed.
    ///
    /// The kernel hears that its attributes are old; its pages go at the next open.
    pub fn handle_newer_attr(&mut self, now: Instant, ino: u64, size: u64, version: u64) {
        let Ok(inode) = self.inodes.get_mut(ino) else {
            return;
        };
        let attr = &mut inode.seen.attr;
        if (attr.version, attr.size) == (version, size) {
            return;
        }
        (attr.version, attr.size) = (version, size);
        inode.seen.at = Some(now);
        inode.seen.is_whole = false;
        inode.cached_version = None;
        // The kernel believes the size it was told until it asks again. A read that ends where a truncated file now does
        // would be filled up with zeros to that size, so open files keep it, and such reads fail instead.
        let told = inode.handles.first().and_then(|&fh| self.files.get(fh)).map_or(0, |file| file.size);
        self.files.set_contents(&inode.handles, version, size.max(told));
        self.notify(ino, NoticeScope::Attr);
    }

    /// Ends the service: all that waits is answered with `errno`, and so is all that comes.
    ///
    /// Forgets and releases are still obeyed, so that the kernel can let go of the mount.
    pub fn fail_all(&mut self, errno: Errno) {
        self.failed = Some(errno);
        for pending in self.pending.drain() {
            if let Pending::Open { fh, .. } = pending {
                self.files.remove(fh);
            }
            pending.error(errno);
        }
        self.expiries.clear();
        for listing in self.dirs.iter_mut().flat_map(DirHandle::drop_work) {
            listing.reply.error(errno);
        }
        for read in self.reads.drain(..) {
            read.reply.error(errno);
        }
        for open in std::mem::take(&mut self.notices).into_iter().filter_map(|notice| notice.then) {
            self.close(open.fh);
            open.reply.error(errno);
        }
        self.calls.clear();
    }

    /// When [`handle_timeout`](Self::handle_timeout) must be called at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.expiries.first().map(|&(at, _)| at)
    }

    /// Has the kernel forget the listings that are too old and that somebody may rewind to.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, ino)) = self.expiries.first()
            && at <= now
        {
            self.expiries.pop_first();
            self.expire(now, ino);
        }
    }

    /// The next question to the host.
    pub fn poll_call(&mut self) -> Option<(CallId, Call)> {
        self.calls.pop_front()
    }

    /// The next read to serve.
    pub fn poll_read(&mut self) -> Option<ReadOp> {
        self.reads.pop_front()
    }

    /// The next notice for the kernel; see [`Notice`] for what is owed after it.
    pub fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// Checks what must hold between any two calls.
    ///
    /// # Panics
    /// If it does not.
    pub fn check_invariants(&self) {
        self.inodes.check_invariants();
        self.files.check_invariants();
        self.listed.check_invariants();
        for inode in self.inodes.iter() {
            let Attr { version, size, .. } = inode.seen.attr;
            for &fh in &inode.handles {
                let file = self.files.get(fh).expect("an inode lists open handles only");
                assert_eq!((file.id, file.version), (inode.id, version));
                // A truncation found by a read is kept from open files until the kernel has asked.
                assert!(file.size == size || (!inode.seen.is_whole && file.size > size));
            }
        }
        for (_, dir) in self.dirs.iter() {
            dir.check_invariants();
        }
        for inode in self.inodes.iter() {
            let is_due = |at| self.failed.is_some() || self.expiries.contains(&(at, inode.id.ino));
            assert!(inode.expires_at.is_none_or(is_due));
            let can_be_rewound_to = inode.kept_listing.is_some() && inode.open_directories > 0;
            assert!(inode.expires_at.is_some() || !can_be_rewound_to);
        }
        assert!(self.expiries.len() <= OPEN_DIRECTORIES_MAX);
        assert!(self.reads.len() <= READS_QUEUED_MAX);
        let asked = self.calls.iter().filter(|(_, call)| !matches!(call, Call::Close { .. }));
        for (id, call) in asked {
            assert!(self.pending.get(id.0).is_some(), "nobody waits for {call:?}");
        }
    }

    fn handle_op_after_end(&mut self, op: Op, errno: Errno) {
        match op {
            Op::Forget { ino, nlookup } => self.inodes.forget(ino, nlookup),
            Op::Release { fh, reply } => {
                self.release(fh, reply);
                self.calls.clear();
            }
            Op::Releasedir { dh, reply } => self.releasedir(dh, reply),
            Op::Lookup { reply, .. } => reply.error(errno),
            Op::Getattr { reply, .. } => reply.error(errno),
            Op::Readlink { reply, .. } => reply.error(errno),
            Op::Open { reply, .. } | Op::Opendir { reply, .. } => reply.error(errno),
            Op::Read { reply, .. } => reply.error(errno),
            Op::Readdir { reply, .. } => reply.error(errno),
            Op::ReaddirPlus { reply, .. } => reply.error(errno),
            Op::Statfs { reply } => reply.error(errno),
        }
    }

    /// Puts a question to the host; when too many wait, its reply says so.
    fn ask(&mut self, pending: Pending, call: Call) -> Option<CallId> {
        match self.pending.insert(pending) {
            Ok(key) => {
                let id = CallId(key);
                self.calls.push_back((id, call));
                Some(id)
            }
            Err(pending) => {
                pending.error(Errno::EBUSY);
                None
            }
        }
    }

    /// Tells the kernel to forget, unless too much waits to be told; says whether it will be.
    fn notify(&mut self, ino: u64, scope: NoticeScope) -> bool {
        let has_room = self.notices.len() < NOTICES_QUEUED_MAX;
        if has_room {
            self.notices.push_back(Notice { ino, scope, then: None });
        }
        has_room
    }

    /// The attributes as this mount shows them.
    fn shown(&self, attr: &Attr) -> Attr {
        shown(&self.options, attr)
    }
}

fn shown(options: &TreeOptions, attr: &Attr) -> Attr {
    match options.owner {
        Some((uid, gid)) => Attr { uid, gid, ..*attr },
        None => *attr,
    }
}

/// What an operation on an inode says when its path names nothing: the kernel then looks the
/// path up again, and finds what is there now or that nothing is.
fn stale_if_gone(errno: Errno) -> Errno {
    match errno {
        Errno::ENOENT | Errno::ENOTDIR => Errno::ESTALE,
        errno => errno,
    }
}
