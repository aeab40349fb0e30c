//! The share and its server.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use vfs::backend::Backend;
use vfs::handle::{HandleTable, OpenView};
use vfs::reply::Added;
use vfs::{Attr, DataReply, Errno, FileId, FileKind, Op, StatFs, Timestamp, Tree, TreeOptions};

/// How long the kernel may believe what it is told: longer than any test takes.
const TTL: Duration = Duration::from_secs(60);

/// Bounds the mailbox; far above the requests that 64 background slots and a test's threads make.
const MAILBOX_MAX: usize = 4096;

pub const STATFS: StatFs = StatFs {
    blocks: 1000,
    blocks_free: 700,
    blocks_available: 600,
    files: 50,
    files_free: 20,
    block_size: 1 << 20,
    name_bytes_max: 255,
    fragment_size: 4096,
};

pub enum Content {
    Bytes(Vec<u8>),
    Folder(Vec<u64>),
    Link(Vec<u8>),
    /// A file whose reads are never answered.
    Stuck,
}

struct Node {
    name: Vec<u8>,
    mode: u16,
    content: Content,
}

/// Inode number is index plus one; the root comes first.
pub struct Share(Vec<Node>);

impl Share {
    pub fn new() -> Self {
        Self(vec![Node { name: Vec::new(), mode: 0o755, content: Content::Folder(Vec::new()) }])
    }

    pub fn add(&mut self, folder: u64, name: impl Into<Vec<u8>>, mode: u16, content: Content) -> u64 {
        let name = name.into();
        self.0.push(Node { name, mode, content });
        let ino = self.0.len() as u64;
        match &mut self.0[folder as usize - 1].content {
            Content::Folder(entries) => entries.push(ino),
            _ => panic!("{folder} is not a folder"),
        }
        ino
    }

    /// A file in the root whose bytes [`bytes_of`] gives.
    pub fn with_file(mut self, name: &str, length: usize) -> Self {
        self.add(1, name, 0o644, Content::Bytes(bytes_of(length)));
        self
    }

    fn node(&self, ino: u64) -> Option<&Node> {
        self.0.get(usize::try_from(ino).ok()?.checked_sub(1)?)
    }

    fn attr(&self, ino: u64) -> Option<Attr> {
        let node = self.node(ino)?;
        let (kind, size) = match &node.content {
            Content::Bytes(bytes) => (FileKind::Regular, bytes.len() as u64),
            Content::Folder(_) => (FileKind::Directory, 4096),
            Content::Link(target) => (FileKind::Symlink, target.len() as u64),
            Content::Stuck => (FileKind::Regular, 1 << 20),
        };
        let time = Timestamp { seconds: 1_000_000_000 + ino as i64, nanoseconds: 123_456_789 };
        Some(Attr {
            id: FileId { ino, birth_ns: 7 },
            kind,
            mode: node.mode,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size,
            blocks: size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            version: 1,
        })
    }

    fn entries(&self, ino: u64) -> Option<&[u64]> {
        match &self.node(ino)?.content {
            Content::Folder(entries) => Some(entries),
            _ => None,
        }
    }
}

/// Bytes in which every 8-byte word is different, so that a shifted or mixed-up read shows.
pub fn bytes_of(length: usize) -> Vec<u8> {
    (0..length.div_ceil(8) as u64)
        .flat_map(|index| (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .take(length)
        .collect()
}

/// How often the kernel asked what.
#[derive(Default)]
pub struct Counts {
    pub readdirplus: AtomicU64,
    pub reads: AtomicU64,
    pub longest_read: AtomicU64,
    pub releases: AtomicU64,
}

/// Serves a share from a thread of its own.
pub struct Server {
    mailbox: Mutex<Option<Sender<Op>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    pub counts: Arc<Counts>,
    /// Hears once of every read of a stuck file.
    pub stuck: Receiver<()>,
}

impl Server {
    pub fn start(share: Share) -> Arc<Self> {
        let (mailbox, ops) = bounded(MAILBOX_MAX);
        let (reached, stuck) = bounded(MAILBOX_MAX);
        let counts = Arc::new(Counts::default());
        let serving = Serving { share, counts: Arc::clone(&counts), reached, held: Vec::new() };
        let thread = std::thread::spawn(move || serving.run(&ops));
        Arc::new(Self { mailbox: Mutex::new(Some(mailbox)), thread: Mutex::new(Some(thread)), counts, stuck })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.mailbox.lock().expect("no panic under the lock").take());
        let thread = self.thread.lock().expect("no panic under the lock").take();
        let served = thread.expect("taken once").join();
        if !std::thread::panicking() {
            served.expect("the server thread did not panic");
        }
    }
}

impl Backend for Server {
    fn submit(&self, op: Op) {
        let mailbox = self.mailbox.lock().expect("no panic under the lock");
        // An op that does not fit comes back in the error, and dropping it answers `EIO`.
        if let Some(mailbox) = mailbox.as_ref() {
            let _refused = mailbox.try_send(op);
        }
    }

    fn read_cached(&self, _: OpenView, _: u64, _: u32, reply: DataReply) -> Option<DataReply> {
        Some(reply)
    }
}

struct Serving {
    share: Share,
    counts: Arc<Counts>,
    reached: Sender<()>,
    held: Vec<DataReply>,
}

impl Serving {
    fn run(mut self, ops: &Receiver<Op>) {
        for op in ops {
            self.answer(op);
        }
    }

    fn answer(&mut self, op: Op) {
        match op {
            Op::Lookup { parent, name, reply } => {
                let entries = self.share.entries(parent).unwrap_or_default();
                let found = entries.iter().find(|&&ino| self.share.node(ino).is_some_and(|node| node.name == name));
                match found.and_then(|&ino| self.share.attr(ino)) {
                    Some(attr) => reply.entry(&attr, TTL, TTL),
                    None => reply.error(Errno::ENOENT),
                }
            }
            Op::Forget { .. } => {}
            Op::Getattr { ino, reply } => match self.share.attr(ino) {
                Some(attr) => reply.attr(&attr, TTL),
                None => reply.error(Errno::ENOENT),
            },
            Op::Readlink { ino, reply } => match self.share.node(ino).map(|node| &node.content) {
                Some(Content::Link(target)) => reply.target(target),
                _ => reply.error(Errno::EINVAL),
            },
            Op::Open { ino, reply, .. } => reply.opened(ino, false),
            Op::Opendir { ino, reply } => reply.opened(ino, false),
            Op::Read { ino, fh, offset, length, reply } => {
                assert_eq!(fh, ino, "the handle from open");
                self.counts.reads.fetch_add(1, Ordering::Relaxed);
                (self.counts.longest_read).fetch_max(length.into(), Ordering::Relaxed);
                match self.share.node(ino).map(|node| &node.content) {
                    Some(Content::Bytes(bytes)) => {
                        let start = (offset as usize).min(bytes.len());
                        let end = (start + length as usize).min(bytes.len());
                        reply.data(&bytes[start..end]);
                    }
                    Some(Content::Stuck) => {
                        self.held.push(reply);
                        let _unheard = self.reached.try_send(());
                    }
                    _ => reply.error(Errno::EISDIR),
                }
            }
            Op::Release { reply, .. } | Op::Releasedir { reply, .. } => {
                self.counts.releases.fetch_add(1, Ordering::Relaxed);
                reply.ok();
            }
            Op::Readdir { ino, offset, mut reply, .. } => {
                for (index, &child) in self.listed(ino, offset) {
                    let attr = self.share.attr(child).expect("entries exist");
                    let name = &self.share.node(child).expect("entries exist").name;
                    if reply.add(child, index + 1, attr.kind, name) == Added::Full {
                        break;
                    }
                }
                reply.ok();
            }
            Op::ReaddirPlus { ino, offset, mut reply, .. } => {
                self.counts.readdirplus.fetch_add(1, Ordering::Relaxed);
                for (index, &child) in self.listed(ino, offset) {
                    let attr = self.share.attr(child).expect("entries exist");
                    let name = &self.share.node(child).expect("entries exist").name;
                    if reply.add(index + 1, name, &attr, TTL) == Added::Full {
                        break;
                    }
                }
                reply.ok();
            }
            Op::Statfs { reply } => reply.statfs(&STATFS),
        }
    }

    fn listed(&self, ino: u64, offset: u64) -> impl Iterator<Item = (u64, &u64)> {
        let entries = self.share.entries(ino).unwrap_or_default();
        (0_u64..).zip(entries).skip(offset as usize)
    }
}

/// A table in which no file is open: every read goes to the server.
pub fn no_handles() -> Arc<HandleTable> {
    let root = Share::new().attr(1).expect("a share has a root");
    Tree::new(TreeOptions::CLOSE_TO_OPEN, root).handle_table()
}
