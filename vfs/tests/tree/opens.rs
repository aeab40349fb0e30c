//! Opens, reads, closes: when the kernel keeps its pages, and what it is told first.

use std::time::Duration;

use vfs::reply::OpenOut;
use vfs::{Answer, Call, DataReply, Errno, FileKind, NoticeScope, Op, OpenReply, OpenView, Pattern, ROOT_INO};

use super::host::Host;
use super::rig::Rig;

const TTL: Duration = Duration::from_secs(1);

/// root/file, looked up.
fn rig() -> (Rig, u64) {
    let mut host = Host::new();
    let file = host.create(ROOT_INO, b"file", FileKind::Regular);
    let mut rig = Rig::new(host);
    assert_eq!(rig.find(ROOT_INO, b"file"), file);
    rig.take_asked();
    (rig, file)
}

fn write(rig: &mut Rig, file: u64, size: u64) {
    let attr = &mut rig.host.file(file).attr;
    attr.version += 1;
    attr.size = size;
}

#[test]
fn pages_are_kept_only_under_the_version_they_were_filled_under() {
    let (mut rig, file) = rig();
    let first = rig.open(file).unwrap();
    assert!(!first.keep_cache);
    let again = rig.open(file).unwrap();
    assert!(again.keep_cache);
    assert_eq!(rig.notices, []);
    write(&mut rig, file, 10);
    assert!(!rig.open(file).unwrap().keep_cache);
    assert_eq!(rig.notices, [(file, NoticeScope::Attr)]);
    assert!(rig.open(file).unwrap().keep_cache);
    assert_eq!(rig.notices.len(), 1);
}

#[test]
fn every_open_asks_the_host() {
    let (mut rig, file) = rig();
    for _ in 0..3 {
        let OpenOut { fh, .. } = rig.open(file).unwrap();
        let id = rig.host.attr(file).id;
        assert_eq!(rig.take_asked(), [Call::Open { fh, path: b"file".to_vec(), id }]);
    }
}

#[test]
fn the_kernel_hears_of_a_new_size_before_the_open_returns() {
    let (mut rig, file) = rig();
    write(&mut rig, file, 10);
    let (reply, receiver) = OpenReply::channel();
    rig.feed(Op::Open { ino: file, flags: 0, reply });
    let (id, call) = rig.next_call().unwrap();
    rig.answer(id, &call);
    assert!(receiver.try_recv().is_err(), "the reply overtook the notice");
    let notice = rig.tree.poll_notice().unwrap();
    assert_eq!((notice.ino, notice.scope), (file, NoticeScope::Attr));
    assert!(receiver.try_recv().is_err());
    notice.complete();
    assert!(!receiver.try_recv().unwrap().unwrap().keep_cache);
}

#[test]
fn a_change_learnt_by_the_way_drops_the_pages() {
    let (mut rig, file) = rig();
    let fh = rig.open(file).unwrap().fh;
    write(&mut rig, file, 10);
    rig.pass(TTL);
    assert_eq!(rig.getattr(file).unwrap().attr.size, 10);
    assert_eq!(rig.notices, [(file, NoticeScope::Data)]);
    let view = OpenView { file, version: 2, size: 10 };
    assert_eq!(rig.tree.handle_table().snapshot(fh), Some(view));
    // What was read between change and notice is of no known version.
    assert!(!rig.open(file).unwrap().keep_cache);
    assert!(rig.open(file).unwrap().keep_cache);
}

#[test]
fn a_shrunken_file_found_by_a_read_is_told_at_once() {
    let (mut rig, file) = rig();
    let fh = rig.open(file).unwrap().fh;
    write(&mut rig, file, 1);
    rig.tree.handle_newer_attr(rig.now, file, 1, 2);
    rig.settle();
    assert_eq!(rig.notices, [(file, NoticeScope::Attr)]);
    // Until the kernel has asked, it would fill what is missing to the size it knows with zeros.
    let told = rig.tree.handle_table().snapshot(fh).unwrap();
    assert!(told.size > 1 && told.version == 2, "{told:?}");
    // The rest of the attributes is asked for, though the time to live has not passed.
    rig.take_asked();
    assert_eq!(rig.getattr(file).unwrap().attr.size, 1);
    assert_eq!(rig.take_asked().len(), 1);
    assert_eq!(rig.tree.handle_table().snapshot(fh).unwrap().size, 1);
    rig.tree.handle_newer_attr(rig.now, file, 1, 2);
    rig.settle();
    assert_eq!(rig.notices.len(), 1, "nothing new, nothing told");
    assert!(!rig.open(file).unwrap().keep_cache);
}

#[test]
fn only_reading_is_allowed() {
    let (mut rig, file) = rig();
    for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_RDONLY | libc::O_TRUNC] {
        assert_eq!(rig.open_with(file, flags), Err(Errno::EROFS));
    }
    assert_eq!(rig.open(ROOT_INO), Err(Errno::EISDIR));
    assert_eq!(rig.open(99), Err(Errno::ESTALE));
    assert_eq!(rig.take_asked(), []);
}

#[test]
fn another_file_under_the_path_is_stale_and_closed_again() {
    let (mut rig, file) = rig();
    let (reply, receiver) = OpenReply::channel();
    rig.feed(Op::Open { ino: file, flags: 0, reply });
    let (id, call) = rig.next_call().unwrap();
    let Call::Open { fh, .. } = call else { panic!("{call:?}") };
    // A host that does not compare opens whatever is there.
    let other = rig.host.create(ROOT_INO, b"file", FileKind::Regular);
    let attr = rig.host.attr(other);
    rig.tree.handle_answer(rig.now, id, Ok(Answer::Opened(attr)));
    assert_eq!(receiver.try_recv().unwrap(), Err(Errno::ESTALE));
    assert_eq!(rig.next_call(), None);
    assert_eq!(rig.asked.last(), Some(&Call::Close { fh }));
    assert_eq!(rig.tree.handle_count(), 0);
    assert_eq!(rig.open(file), Err(Errno::ESTALE));
    assert_eq!(rig.tree.handle_count(), 0);
}

#[test]
fn an_open_file_outlives_its_name() {
    let (mut rig, file) = rig();
    let fh = rig.open(file).unwrap().fh;
    rig.host.unlink(ROOT_INO, b"file");
    rig.pass(TTL);
    let out = rig.getattr(file).unwrap();
    assert_eq!((out.attr.id.ino, out.attr_ttl), (file, Duration::ZERO));
    rig.release(fh).unwrap();
    assert_eq!(rig.getattr(file).err(), Some(Errno::ESTALE));
}

#[test]
fn a_closed_handle_reads_nothing() {
    let (mut rig, file) = rig();
    let fh = rig.open(file).unwrap().fh;
    let table = rig.tree.handle_table();
    assert!(table.snapshot(fh).is_some());
    rig.take_asked();
    rig.release(fh).unwrap();
    assert_eq!(rig.take_asked(), [Call::Close { fh }]);
    assert_eq!(table.snapshot(fh), None);
    assert_eq!(rig.release(fh), Err(Errno::EBADF));
    let reopened = rig.open(file).unwrap().fh;
    assert_ne!(reopened, fh);
    for (ino, fh) in [(file, fh), (ROOT_INO, reopened), (file, 0)] {
        let (reply, receiver) = DataReply::channel();
        rig.feed(Op::Read { ino, fh, offset: 0, length: 1, reply });
        assert_eq!(receiver.try_recv().unwrap(), Err(Errno::EBADF));
    }
    assert!(rig.tree.poll_read().is_none());
}

#[test]
fn reads_come_out_with_what_the_engine_needs() {
    let (mut rig, file) = rig();
    rig.host.file(file).attr.size = 100 << 20;
    let fh = rig.open(file).unwrap().fh;
    let mut prefetch = vec![];
    for offset in [0, 1 << 20, 2 << 20] {
        let (reply, receiver) = DataReply::channel();
        rig.feed(Op::Read { ino: file, fh, offset, length: 1 << 20, reply });
        let read = rig.tree.poll_read().unwrap();
        assert_eq!((read.fh, read.ino, read.id), (fh, file, rig.host.attr(file).id));
        assert_eq!((read.version, read.size), (1, 100 << 20));
        assert_eq!((read.offset, read.length), (offset, 1 << 20));
        assert_eq!(read.pattern, Pattern::Stream);
        prefetch.push(read.prefetch.clone());
        read.reply.data(b"bytes");
        assert_eq!(receiver.try_recv().unwrap(), Ok(b"bytes".to_vec()));
    }
    assert_eq!(prefetch, [vec![], vec![2], vec![3, 4]]);
}
