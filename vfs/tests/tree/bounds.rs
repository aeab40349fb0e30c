//! Each bound is met with an error of its own, and the end of the service answers everybody.

use std::time::Duration;

use vfs::directory::WAITING_PER_HANDLE_MAX;
use vfs::handle::OPEN_FILES_MAX;
use vfs::tree::{CALLS_PENDING_MAX, NOTICES_QUEUED_MAX, OPEN_DIRECTORIES_MAX, READS_QUEUED_MAX};
use vfs::{
    AttrReply, DataReply, DirReply, EntryReply, Errno, FileKind, LinkReply, Op, OpenReply, ROOT_INO, StatfsReply,
};

use super::host::Host;
use super::rig::Rig;

/// root/file, looked up.
fn rig() -> (Rig, u64) {
    let mut host = Host::new();
    let file = host.create(ROOT_INO, b"file", FileKind::Regular);
    let mut rig = Rig::new(host);
    rig.find(ROOT_INO, b"file");
    (rig, file)
}

/// Without the checks after each step, which would take the square of the number of steps.
fn feed(rig: &mut Rig, op: Op) {
    rig.tree.handle_op(rig.now, op);
}

#[test]
fn calls_that_wait() {
    let (mut rig, file) = rig();
    let mut receivers = vec![];
    for _ in 0..CALLS_PENDING_MAX {
        let (reply, receiver) = EntryReply::channel();
        feed(&mut rig, Op::Lookup { parent: ROOT_INO, name: b"x".to_vec(), reply });
        receivers.push(receiver);
    }
    let (reply, refused) = StatfsReply::channel();
    rig.feed(Op::Statfs { reply });
    assert_eq!(refused.try_recv().unwrap(), Err(Errno::EBUSY));
    let (reply, refused) = OpenReply::channel();
    rig.feed(Op::Open { ino: file, flags: 0, reply });
    assert_eq!(refused.try_recv().unwrap(), Err(Errno::EBUSY));
    assert_eq!(rig.tree.handle_count(), 0);
    // A directory opens without its page; the listing that needs it is refused.
    let (reply, opened) = OpenReply::channel();
    rig.feed(Op::Opendir { ino: ROOT_INO, reply });
    let dh = opened.try_recv().unwrap().unwrap().fh;
    let (reply, refused) = DirReply::channel(4096);
    rig.feed(Op::Readdir { ino: ROOT_INO, dh, offset: 0, reply });
    assert_eq!(refused.try_recv().unwrap(), Err(Errno::EBUSY));

    while let Some((id, call)) = rig.tree.poll_call() {
        let answer = rig.host.answer(&call).unwrap();
        rig.tree.handle_answer(rig.now, id, answer);
    }
    assert!(receivers.iter().all(|receiver| receiver.try_recv().unwrap().is_ok()));
    assert!(rig.open(file).is_ok());
    assert!(rig.readdir(ROOT_INO, dh, 0, 4096).is_ok());
}

#[test]
fn open_files() {
    let (mut rig, file) = rig();
    let mut last = 0;
    for _ in 0..OPEN_FILES_MAX {
        let (reply, receiver) = OpenReply::channel();
        feed(&mut rig, Op::Open { ino: file, flags: 0, reply });
        // Answered in batches, as large as may wait.
        if rig.tree.pending_count() == CALLS_PENDING_MAX {
            while let Some((id, call)) = rig.tree.poll_call() {
                let answer = rig.host.answer(&call).unwrap();
                rig.tree.handle_answer(rig.now, id, answer);
            }
            last = receiver.try_recv().unwrap().unwrap().fh;
        }
    }
    assert_eq!(rig.tree.handle_count(), OPEN_FILES_MAX);
    assert_eq!(rig.open(file), Err(Errno::ENFILE));
    rig.release(last).unwrap();
    assert!(rig.open(file).is_ok());
}

#[test]
fn open_directories() {
    let (mut rig, _) = rig();
    for _ in 0..OPEN_DIRECTORIES_MAX {
        let (reply, _receiver) = OpenReply::channel();
        feed(&mut rig, Op::Opendir { ino: ROOT_INO, reply });
    }
    assert_eq!(rig.opendir(ROOT_INO), Err(Errno::ENFILE));
}

#[test]
fn reads_that_wait() {
    let (mut rig, file) = rig();
    let fh = rig.open(file).unwrap().fh;
    for refused in (0..READS_QUEUED_MAX).map(|_| false).chain([true]) {
        let (reply, receiver) = DataReply::channel();
        feed(&mut rig, Op::Read { ino: file, fh, offset: 0, length: 1, reply });
        assert_eq!(receiver.try_recv().is_ok(), refused);
    }
    assert!(rig.tree.poll_read().is_some());
}

#[test]
fn listings_that_wait() {
    let (mut rig, _) = rig();
    let dh = rig.opendir(ROOT_INO).unwrap();
    let mut receivers = vec![];
    for _ in 0..=WAITING_PER_HANDLE_MAX {
        let (reply, receiver) = DirReply::channel(4096);
        rig.feed(Op::Readdir { ino: ROOT_INO, dh, offset: 77, reply });
        receivers.push(receiver);
    }
    let refused = receivers.pop().unwrap();
    assert_eq!(refused.try_recv().unwrap(), Err(Errno::EBUSY));
    rig.settle();
    assert!(receivers.iter().all(|receiver| receiver.try_recv().unwrap().is_ok()));
}

#[test]
fn notices_that_wait() {
    let (mut rig, file) = rig();
    for version in 0..NOTICES_QUEUED_MAX as u64 + 10 {
        rig.tree.handle_newer_attr(rig.now, file, version, 100 + version);
    }
    rig.settle();
    assert_eq!(rig.notices.len(), NOTICES_QUEUED_MAX);
}

#[test]
fn the_end_answers_all_that_waits_and_all_that_comes() {
    const END: Errno = Errno::ENOTCONN;
    let (mut rig, file) = rig();
    let fh = rig.open(file).unwrap().fh;
    let dh = rig.opendir(ROOT_INO).unwrap();
    rig.pass(Duration::from_secs(2));

    // An open that waits for its notice to be heard.
    rig.host.file(file).attr.version = 9;
    let (reply, held) = OpenReply::channel();
    rig.feed(Op::Open { ino: file, flags: 0, reply });
    let (id, call) = rig.next_call().unwrap();
    rig.answer(id, &call);
    assert!(held.try_recv().is_err());

    let ino = file;
    for round in 0..2 {
        let (reply, lookup) = EntryReply::channel();
        rig.feed(Op::Lookup { parent: ROOT_INO, name: b"x".to_vec(), reply });
        let (reply, getattr) = AttrReply::channel();
        rig.feed(Op::Getattr { ino: ROOT_INO, reply });
        let (reply, readlink) = LinkReply::channel();
        rig.feed(Op::Readlink { ino, reply });
        let (reply, open) = OpenReply::channel();
        rig.feed(Op::Open { ino, flags: 0, reply });
        let (reply, read) = DataReply::channel();
        rig.feed(Op::Read { ino, fh, offset: 0, length: 1, reply });
        let (reply, readdir) = DirReply::channel(4096);
        rig.feed(Op::Readdir { ino: ROOT_INO, dh, offset: 77, reply });
        let (reply, statfs) = StatfsReply::channel();
        rig.feed(Op::Statfs { reply });
        if round == 0 {
            assert!(lookup.is_empty() && readdir.is_empty() && read.is_empty());
            rig.tree.fail_all(END);
            rig.tree.check_invariants();
            assert_eq!(held.try_recv().unwrap(), Err(END));
        }
        assert_eq!(lookup.try_recv().unwrap(), Err(END));
        assert_eq!(getattr.try_recv().unwrap(), Err(END));
        assert_eq!(readlink.try_recv().unwrap(), Err(END));
        assert_eq!(open.try_recv().unwrap(), Err(END));
        assert_eq!(read.try_recv().unwrap(), Err(END));
        assert_eq!(readdir.try_recv().unwrap(), Err(END));
        assert_eq!(statfs.try_recv().unwrap(), Err(END));
    }
    assert!(rig.tree.poll_call().is_none());
    assert!(rig.tree.poll_read().is_none());
    assert!(rig.tree.poll_notice().is_none());

    // The kernel can still let go.
    rig.release(fh).unwrap();
    rig.releasedir(dh).unwrap();
    rig.forget(file, 1);
    assert_eq!((rig.tree.handle_count(), rig.tree.inode_count()), (0, 1));
}
