//! What needs the crate's inside: published handles and notices, against the real kernel.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

use crate::attr::{Attr, FileId, FileKind, Timestamp};
use crate::call::{HeldOpen, Notice, NoticeScope};
use crate::device::Taken;
use crate::handle::{HandlePublisher, OpenView};
use crate::op::Op;
use crate::reply::{DataReply, OpenReply};
use crate::{Errno, ROOT_INO, StatFs};

use crate::notifier::NoticeRefused;

use super::*;

#[path = "../../tests/mount_support/switch.rs"]
pub(crate) mod switch;

const FILE: u64 = 2;
const FH: u64 = 1 << 32;
const LENGTH: usize = 8192;
const TTL: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(20);

/// Serves one file, `file`, each of whose bytes is `byte`; a lookup of `bug` panics, and `other` is another file at each
/// lookup.
pub(crate) struct OneFile {
    byte: AtomicU8,
    cached: bool,
    reads: AtomicUsize,
    reads_cached: AtomicUsize,
    lookups: AtomicU64,
    forgets: Mutex<Vec<(u64, u64)>>,
}

impl OneFile {
    pub(crate) fn new(cached: bool) -> Arc<Self> {
        Arc::new(Self {
            byte: AtomicU8::new(1),
            cached,
            reads: AtomicUsize::new(0),
            reads_cached: AtomicUsize::new(0),
            lookups: AtomicU64::new(0),
            forgets: Mutex::default(),
        })
    }

    fn attr(ino: u64) -> Attr {
        let kind = if ino == ROOT_INO { FileKind::Directory } else { FileKind::Regular };
        Attr {
            id: FileId { ino, birth_ns: 0 },
            kind,
            mode: 0o755,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: LENGTH as u64,
            blocks: 16,
            atime: Timestamp::default(),
            mtime: Timestamp::default(),
            ctime: Timestamp::default(),
            version: 1,
        }
    }

    fn read(&self, offset: u64, length: u32, reply: DataReply) {
        let left = LENGTH.saturating_sub(offset as usize);
        let byte = self.byte.load(Ordering::SeqCst);
        reply.data(&vec![byte; left.min(length as usize)]);
    }
}

impl Backend for OneFile {
    fn submit(&self, op: Op) {
        match op {
            Op::Lookup { name, reply, .. } => match name.as_slice() {
                b"file" => reply.entry(&Self::attr(FILE), TTL, TTL),
                b"other" => {
                    let number = self.lookups.fetch_add(1, Ordering::SeqCst);
                    reply.entry(&Self::attr(100 + number), Duration::ZERO, Duration::ZERO);
                }
                b"bug" => panic!("a bug in the backend, made for the test"),
                _ => reply.error(Errno::ENOENT),
            },
            Op::Getattr { ino, reply } => reply.attr(&Self::attr(ino), TTL),
            Op::Open { reply, .. } => reply.opened(FH, true),
            Op::Read { offset, length, reply, .. } => {
                self.reads.fetch_add(1, Ordering::SeqCst);
                self.read(offset, length, reply);
            }
            Op::Release { reply, .. } | Op::Releasedir { reply, .. } => reply.ok(),
            Op::Statfs { reply } => reply.statfs(&StatFs {
                blocks: 0,
                blocks_free: 0,
                blocks_available: 0,
                files: 0,
                files_free: 0,
                block_size: 4096,
                name_bytes_max: 255,
                fragment_size: 4096,
            }),
            Op::Forget { ino, nlookup } => self.forgets.lock().expect("no panic").push((ino, nlookup)),
            other => drop(other), // answers `EIO`
        }
    }

    fn read_cached(&self, view: OpenView, offset: u64, length: u32, reply: DataReply) -> Option<DataReply> {
        assert_eq!(view.size, LENGTH as u64);
        if !self.cached {
            return Some(reply);
        }
        self.reads_cached.fetch_add(1, Ordering::SeqCst);
        self.read(offset, length, reply);
        None
    }
}

/// Both ways in which requests come, where the ring can be switched on.
fn transports() -> impl Iterator<Item = FuseTransport> {
    [FuseTransport::Device, FuseTransport::Ring].into_iter()
}

struct Mounted {
    session: FuseSession,
    backend: Arc<OneFile>,
    handles: HandlePublisher,
    folder: tempfile::TempDir,
}

impl Mounted {
    fn new(backend: Arc<OneFile>, transport: FuseTransport) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let handles = HandlePublisher::new(4);
        let mut options = MountOptions::new(folder.path());
        options.transport = transport;
        let switch = (transport == FuseTransport::Ring).then(switch::on).flatten();
        let (session, intake) = FuseSession::mount(options, Arc::clone(&backend), handles.table()).expect("a mount");
        std::thread::spawn({
            let backend = Arc::clone(&backend);
            move || intake.run(backend)
        });
        let found = &session.report().transport;
        assert_eq!(matches!(found, Transport::Ring { .. }), switch.is_some(), "{found:?}");
        Self { session, backend, handles, folder }
    }

    fn read(&self) -> Vec<u8> {
        std::fs::read(self.folder.path().join("file")).expect("it is served")
    }
}

fn view() -> OpenView {
    OpenView { file: FILE, version: 1, size: LENGTH as u64 }
}

#[test]
fn a_cached_read_does_not_reach_the_shard() {
    let cases = [(true, true), (true, false), (false, true)];
    for (transport, (cached, published)) in transports().flat_map(|one| cases.map(|case| (one, case))) {
        let mut mounted = Mounted::new(OneFile::new(cached), transport);
        if published {
            mounted.handles.publish(FH, view());
        }
        assert_eq!(mounted.read(), [1; LENGTH]);
        let by_shard = mounted.backend.reads.load(Ordering::SeqCst);
        let by_cache = mounted.backend.reads_cached.load(Ordering::SeqCst);
        assert_eq!(by_cache > 0, cached && published);
        assert_eq!(by_shard > 0, !(cached && published));
    }
}

#[test]
fn a_data_notice_drops_the_pages_and_an_attribute_notice_does_not() {
    for transport in transports() {
        let mounted = Mounted::new(OneFile::new(false), transport);
        assert_eq!(mounted.read(), [1; LENGTH]);
        mounted.backend.byte.store(2, Ordering::SeqCst);

        let notifier = mounted.session.notifier();
        for (scope, expected) in [(NoticeScope::Attr, 1), (NoticeScope::Data, 2)] {
            let (reply, opened) = OpenReply::channel();
            let then = Some(HeldOpen { reply, fh: FH, keep_cache: true });
            let ino = FILE;
            notifier.send(Notice { ino, scope, then }).expect("room");
            let opened = opened.recv_timeout(PATIENCE).expect("the notice is completed");
            assert_eq!(opened.expect("granted").fh, FH);
            assert_eq!(mounted.read(), [expected; LENGTH], "{scope:?}");
        }
    }
}

#[test]
fn a_notice_for_an_unknown_inode_is_completed_too() {
    for transport in transports() {
        let mounted = Mounted::new(OneFile::new(false), transport);
        let (reply, opened) = OpenReply::channel();
        let then = Some(HeldOpen { reply, fh: FH, keep_cache: false });
        let (ino, scope) = (99, NoticeScope::Data);
        (mounted.session.notifier().send(Notice { ino, scope, then })).expect("room");
        assert!(opened.recv_timeout(PATIENCE).expect("completed").is_ok());
    }
}

#[test]
fn notices_after_the_end_come_back() {
    for transport in transports() {
        let mounted = Mounted::new(OneFile::new(false), transport);
        let notifier = mounted.session.notifier();
        mounted.session.unmount().expect("it goes");
        // The session's end is told just before its notifier's; a notice in between is completed.
        loop {
            let (ino, scope) = (FILE, NoticeScope::Attr);
            match notifier.send(Notice { ino, scope, then: None }) {
                Ok(()) => std::thread::yield_now(),
                Err(NoticeRefused::Full(notice)) => notice.complete(),
                Err(NoticeRefused::Ended(notice)) => break notice.complete(),
            }
        }
    }
}

#[test]
fn a_panic_in_the_backend_ends_the_session_and_leaves_nothing_mounted() {
    for transport in transports() {
        let mounted = Mounted::new(OneFile::new(false), transport);
        let file = File::open(mounted.folder.path().join("file")).expect("it opens");
        let refused = std::fs::metadata(mounted.folder.path().join("bug")).expect_err("a bug");
        assert_eq!(refused.raw_os_error(), Some(libc::EIO), "the lost reply answers by itself");
        let end = mounted.session.wait_timeout(PATIENCE);
        assert!(matches!(end, Some(SessionEnd::Failed(_))), "{end:?}");
        let left = mounts::topmost_at(mounted.folder.path()).expect("a mount table");
        assert_eq!(left, None);
        file.read_at(&mut [0; 16], 0).expect_err("nobody serves it, and it does not hang");
    }
}

#[test]
fn a_mount_whose_requests_nobody_takes_any_more_goes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = MountOptions::new(folder.path());
    let handles = HandlePublisher::new(1).table();
    let (session, mut intake) = FuseSession::mount(options, OneFile::new(false), handles).expect("a mount");
    assert!(!matches!(intake.take(), Taken::End), "it is served, whoever looks at it already");
    drop(intake);
    let end = session.wait_timeout(PATIENCE);
    assert!(matches!(end, Some(SessionEnd::Failed(_))), "{end:?}");
    assert_eq!(mounts::topmost_at(folder.path()).expect("a mount table"), None);
}

#[test]
fn what_the_kernel_forgets_is_told_by_the_device() {
    for transport in transports() {
        let mounted = Mounted::new(OneFile::new(false), transport);
        let path = mounted.folder.path().join("other");
        // The second look finds another file under the name: the kernel lets go of one of them at least.
        let _any_file = (std::fs::metadata(&path), std::fs::metadata(&path));
        let deadline = Instant::now() + PATIENCE;
        while mounted.backend.forgets.lock().expect("no panic").is_empty() {
            assert!(Instant::now() < deadline, "{transport:?}");
            std::thread::yield_now();
        }
        let forgets = mounted.backend.forgets.lock().expect("no panic").clone();
        assert!(forgets.iter().all(|&(ino, nlookup)| ino >= 100 && nlookup > 0), "{forgets:?}");
    }
}
