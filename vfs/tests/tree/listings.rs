//! Directory reads: offsets, pages asked ahead, rewinding, and what a listing teaches.

use std::time::Duration;

use vfs::{
    Answer, Call, DirEntry, DirReply, EntryReply, Errno, FileKind, NoticeScope, Op, OpenReply, ROOT_INO, TreeOptions,
};

use super::host::Host;
use super::rig::Rig;

const TTL: Duration = Duration::from_secs(1);
/// Room for one entry with a short name, in a readdir.
const ONE: usize = 32;

fn name(index: usize) -> Vec<u8> {
    format!("f{index}").into_bytes()
}

/// A root with `count` files.
fn rig(count: usize) -> Rig {
    let mut host = Host::new();
    for index in 0..count {
        host.create(ROOT_INO, &name(index), FileKind::Regular);
    }
    Rig::new(host)
}

fn names(count: usize) -> Vec<Vec<u8>> {
    [b".".to_vec(), b"..".to_vec()].into_iter().chain((0..count).map(name)).collect()
}

fn cursors(asked: &[Call]) -> Vec<u64> {
    let cursor = |call: &Call| match call {
        Call::List { cursor, .. } => Some(*cursor),
        _ => None,
    };
    asked.iter().filter_map(cursor).collect()
}

#[test]
fn each_entry_comes_once_whatever_the_buffer_and_the_pages() {
    for count in [0, 1, 3, 7] {
        for bytes_max in [ONE, 3 * ONE, 4096] {
            let mut rig = rig(count);
            let dh = rig.opendir(ROOT_INO).unwrap();
            assert_eq!(rig.list(ROOT_INO, dh, bytes_max), names(count));
            let pages = count.div_ceil(3).max(1);
            assert_eq!(cursors(&rig.take_asked()).len(), pages, "each page is asked for once");
            rig.releasedir(dh).unwrap();
            assert_eq!(rig.readdir(ROOT_INO, dh, 0, 4096), Err(Errno::EBADF));
        }
    }
}

#[test]
fn offsets_work_on_any_handle_at_any_time() {
    let mut rig = rig(20);
    let dh = rig.opendir(ROOT_INO).unwrap();
    let mut entries = rig.readdir(ROOT_INO, dh, 0, 4096).unwrap();
    while entries.len() < 22 {
        let offset = entries[entries.len() - 1].offset;
        entries.extend(rig.readdir(ROOT_INO, dh, offset, 4096).unwrap());
    }
    let other = rig.opendir(ROOT_INO).unwrap();
    for (index, entry) in entries.iter().enumerate().rev() {
        for dh in [dh, other] {
            let rest = rig.readdir(ROOT_INO, dh, entry.offset, ONE).unwrap();
            let next = entries.get(index + 1).map(|entry| &entry.name);
            assert_eq!(rest.first().map(|entry| &entry.name), next);
        }
    }
}

#[test]
fn the_first_page_is_asked_by_the_open_and_the_next_one_ahead() {
    let mut rig = rig(9);
    let dh = rig.opendir(ROOT_INO).unwrap();
    assert_eq!(cursors(&rig.take_asked()), [0]);
    let third = rig.host.file(ROOT_INO).entries[2].2;
    let two_dots_and_one = rig.readdir(ROOT_INO, dh, 0, 3 * ONE).unwrap();
    assert_eq!(two_dots_and_one.len(), 3);
    assert_eq!(cursors(&rig.take_asked()), [third]);
    rig.readdir(ROOT_INO, dh, two_dots_and_one[2].offset, ONE).unwrap();
    assert_eq!(cursors(&rig.take_asked()), [], "asked already");
}

#[test]
fn one_reply_takes_from_all_pages_held() {
    let mut rig = rig(9);
    let dh = rig.opendir(ROOT_INO).unwrap();
    assert_eq!(rig.readdir(ROOT_INO, dh, 0, 3 * ONE).unwrap().len(), 3);
    let entries = rig.readdir(ROOT_INO, dh, 2, 4096).unwrap();
    let listed: Vec<_> = entries.into_iter().map(|entry| entry.name).collect();
    assert_eq!(listed, names(6)[2..]);
}

#[test]
fn several_wait_for_one_page() {
    let mut rig = rig(2);
    let dh = rig.opendir(ROOT_INO).unwrap();
    rig.readdir(ROOT_INO, dh, 0, 4096).unwrap();
    rig.take_asked();
    let waiting: Vec<_> = [0, 2, 2]
        .into_iter()
        .map(|offset| {
            let (reply, receiver) = DirReply::channel(4096);
            rig.feed(Op::Readdir { ino: ROOT_INO, dh, offset, reply });
            receiver
        })
        .collect();
    rig.settle();
    assert_eq!(cursors(&rig.take_asked()), [0]);
    let counts = waiting.iter().map(|receiver| receiver.try_recv().unwrap().unwrap().len());
    assert_eq!(counts.collect::<Vec<_>>(), [4, 2, 2]);
}

#[test]
fn a_rewind_lists_what_is_there_now() {
    let mut rig = rig(2);
    let dh = rig.opendir(ROOT_INO).unwrap();
    assert_eq!(rig.list(ROOT_INO, dh, 4096).len(), 4);
    rig.host.create(ROOT_INO, b"new", FileKind::Regular);
    assert_eq!(rig.list(ROOT_INO, dh, 4096).len(), 5);
}

/// How long the kernel may list out of its own cache.
const LISTING_TTL: Duration = TreeOptions::CLOSE_TO_OPEN.listing_ttl;
const MOMENT: Duration = Duration::from_millis(1);

/// Opens the root; whether the kernel may list what it has.
fn open_root(rig: &mut Rig) -> (u64, bool) {
    let (reply, receiver) = OpenReply::channel();
    rig.feed(Op::Opendir { ino: ROOT_INO, reply });
    rig.settle();
    let out = receiver.try_recv().unwrap().unwrap();
    (out.fh, out.keep_cache)
}

#[test]
fn the_kernel_lists_a_directory_anew_out_of_its_cache_for_a_while() {
    let mut rig = rig(2);
    let (first, keep_cache) = open_root(&mut rig);
    assert!(!keep_cache, "nothing was listed yet");
    rig.list(ROOT_INO, first, 4096);
    rig.releasedir(first).unwrap();
    assert_eq!(rig.tree.poll_timeout(), None, "nobody can rewind");
    rig.take_asked();
    rig.pass(LISTING_TTL - MOMENT);
    let (second, keep_cache) = open_root(&mut rig);
    assert!(keep_cache);
    assert_eq!(rig.take_asked(), []);
    rig.releasedir(second).unwrap();
    rig.pass(MOMENT);
    let (third, keep_cache) = open_root(&mut rig);
    assert!(!keep_cache, "it counts from the listing, not from the last open");
    assert_eq!(cursors(&rig.take_asked()), [0], "and the first page is asked for");
    rig.releasedir(third).unwrap();
}

#[test]
fn what_was_only_opened_is_not_taken_for_listed() {
    let mut rig = rig(2);
    let (first, _) = open_root(&mut rig);
    rig.releasedir(first).unwrap();
    assert!(!open_root(&mut rig).1);
}

/// Lets the time come at which the kernel is told to forget a listing; what it is told.
fn expire(rig: &mut Rig) -> Vec<(u64, NoticeScope)> {
    let due = rig.tree.poll_timeout().expect("the kernel has a listing that will be too old");
    assert!(due > rig.now && due <= rig.now + LISTING_TTL);
    rig.now = due;
    rig.tree.handle_timeout(rig.now);
    rig.settle();
    assert_eq!(rig.tree.poll_timeout(), None, "once is enough");
    std::mem::take(&mut rig.notices)
}

#[test]
fn a_directory_that_stays_open_is_not_rewound_to_an_old_listing() {
    let mut rig = rig(2);
    let (dh, _) = open_root(&mut rig);
    assert_eq!(rig.tree.poll_timeout(), None, "nothing was listed yet");
    for _ in 0..2 {
        // The kernel asks again, and has another listing.
        rig.list(ROOT_INO, dh, 4096);
        assert_eq!(expire(&mut rig), [(ROOT_INO, NoticeScope::Data)]);
        let (other, keep_cache) = open_root(&mut rig);
        assert!(!keep_cache, "who opens it now lists anew, too");
        rig.releasedir(other).unwrap();
    }
}

#[test]
fn nor_to_one_that_somebody_else_has_listed_meanwhile() {
    let mut rig = rig(2);
    let (held, _) = open_root(&mut rig);
    rig.list(ROOT_INO, held, 4096);
    expire(&mut rig);
    rig.pass(TTL);
    let (other, _) = open_root(&mut rig);
    rig.list(ROOT_INO, other, 4096);
    rig.releasedir(other).unwrap();
    assert_eq!(expire(&mut rig), [(ROOT_INO, NoticeScope::Data)], "the kernel serves the rewind of the first from it");
}

#[test]
fn a_listing_that_is_kept_for_another_open_grows_no_older() {
    let mut rig = rig(2);
    let (first, _) = open_root(&mut rig);
    rig.list(ROOT_INO, first, 4096);
    rig.releasedir(first).unwrap();
    let listed_at = rig.now;
    rig.pass(LISTING_TTL - MOMENT);
    assert!(open_root(&mut rig).1);
    expire(&mut rig);
    assert_eq!(rig.now, listed_at + LISTING_TTL);
}

#[test]
fn a_part_of_a_listing_is_not_kept() {
    let mut rig = rig(7);
    let (first, _) = open_root(&mut rig);
    rig.readdir(ROOT_INO, first, 0, 3 * ONE).unwrap();
    rig.releasedir(first).unwrap();
    assert!(!open_root(&mut rig).1, "the kernel would add to it what is listed now");
}

#[test]
fn the_page_asked_by_an_open_is_not_listed_when_it_is_old() {
    let mut rig = rig(2);
    let (dh, _) = open_root(&mut rig);
    rig.take_asked();
    rig.pass(LISTING_TTL - MOMENT);
    rig.list(ROOT_INO, dh, 4096);
    assert_eq!(rig.take_asked(), [], "still young enough");
    expire(&mut rig);
    let (late, _) = open_root(&mut rig);
    rig.take_asked();
    rig.pass(LISTING_TTL);
    rig.list(ROOT_INO, late, 4096);
    assert_eq!(cursors(&rig.take_asked()), [0]);
}

#[test]
fn a_rewind_after_a_start_from_the_kernels_cache_lists_anew() {
    let mut rig = rig(7);
    let (first, _) = open_root(&mut rig);
    let entries = rig.readdir(ROOT_INO, first, 0, 4096).unwrap();
    rig.list(ROOT_INO, first, 4096);
    let (second, keep_cache) = open_root(&mut rig);
    assert!(keep_cache);
    // The kernel had the start, and lost the rest.
    let middle = entries[4].offset;
    let rest = rig.readdir(ROOT_INO, second, middle, 4096).unwrap();
    assert!(!rest.is_empty());
    for index in 0..7 {
        rig.host.unlink(ROOT_INO, &name(index));
    }
    assert_eq!(rig.list(ROOT_INO, second, 4096), names(0));
}

#[test]
fn a_page_asked_before_a_rewind_is_thrown_away() {
    let mut rig = rig(1);
    let dh = rig.opendir(ROOT_INO).unwrap();
    let begin = |rig: &mut Rig| {
        let (reply, receiver) = DirReply::channel(4096);
        rig.feed(Op::Readdir { ino: ROOT_INO, dh, offset: 0, reply });
        receiver
    };
    rig.list(ROOT_INO, dh, 4096);
    let first = begin(&mut rig);
    let (old_id, old_call) = rig.next_call().unwrap();
    let old = rig.host.answer(&old_call).unwrap();
    rig.host.create(ROOT_INO, b"new", FileKind::Regular);
    let second = begin(&mut rig);
    rig.tree.handle_answer(rig.now, old_id, old);
    assert!(first.try_recv().is_err() && second.try_recv().is_err());
    rig.settle();
    assert_eq!(first.try_recv().unwrap().unwrap().len(), 4);
    assert_eq!(second.try_recv().unwrap().unwrap().len(), 4);
}

#[test]
fn a_plain_listing_answers_the_lookups_after_it() {
    let mut rig = rig(5);
    let dh = rig.opendir(ROOT_INO).unwrap();
    rig.list(ROOT_INO, dh, 4096);
    rig.take_asked();
    rig.pass(TTL - Duration::from_millis(1));
    let entry = rig.lookup(ROOT_INO, &name(4)).unwrap();
    assert_eq!(entry.entry_ttl, Duration::from_millis(1), "counted from the page");
    assert_eq!(rig.take_asked(), []);
    rig.pass(Duration::from_millis(1));
    rig.find(ROOT_INO, &name(4));
    assert_eq!(rig.take_asked().len(), 1);
}

#[test]
fn a_listing_does_not_overrule_a_newer_lookup() {
    let mut rig = rig(1);
    let dh = rig.opendir(ROOT_INO).unwrap();
    rig.host.unlink(ROOT_INO, &name(0));
    let (reply, receiver) = EntryReply::channel();
    rig.feed(Op::Lookup { parent: ROOT_INO, name: name(0), reply });
    // The page from before the removal is delivered while the lookup is under way.
    let (reply, listed) = DirReply::channel(4096);
    rig.feed(Op::Readdir { ino: ROOT_INO, dh, offset: 0, reply });
    assert_eq!(listed.try_recv().unwrap().unwrap().len(), 3);
    rig.settle();
    assert_eq!(receiver.try_recv().unwrap().unwrap().attr, None);
    assert_eq!(rig.lookup(ROOT_INO, &name(0)).unwrap().attr, None);
}

#[test]
fn a_full_listing_counts_what_it_delivered_and_no_more() {
    let mut rig = rig(5);
    let dh = rig.opendir(ROOT_INO).unwrap();
    // Four entries of 160 bytes each: the dots and two files.
    let listed = rig.readdirplus(ROOT_INO, dh, 0, 4 * 160 + 159).unwrap();
    assert_eq!(listed.len(), 4);
    assert_eq!(listed[2].attr, rig.host.attr(listed[2].attr.id.ino));
    assert_eq!(listed[2].ttl, TTL);
    assert_eq!(rig.tree.inode_count(), 3);
    for entry in &listed[2..] {
        rig.forget(entry.attr.id.ino, 1);
    }
    assert_eq!(rig.tree.inode_count(), 1);
}

#[test]
fn an_old_page_does_not_overrule_newer_attributes() {
    let mut rig = rig(1);
    let dh = rig.opendir(ROOT_INO).unwrap();
    rig.pass(Duration::from_millis(400));
    let ino = rig.host.child(ROOT_INO, &name(0)).unwrap();
    rig.host.file(ino).attr.size = 1;
    rig.find(ROOT_INO, &name(0));
    let listed = rig.readdirplus(ROOT_INO, dh, 0, 4096).unwrap();
    assert_eq!((listed[2].attr.size, listed[2].ttl), (1, Duration::ZERO));
    rig.pass(TTL);
    let listed = rig.readdirplus(ROOT_INO, dh, 0, 4096).unwrap();
    assert_eq!((listed[2].attr.size, listed[2].ttl), (1, TTL));
    rig.forget(ino, 3);
    assert_eq!(rig.tree.inode_count(), 1);
}

#[test]
fn a_buffer_too_small_for_any_entry_is_invalid() {
    let mut rig = rig(1);
    let dh = rig.opendir(ROOT_INO).unwrap();
    assert_eq!(rig.readdir(ROOT_INO, dh, 0, ONE - 1), Err(Errno::EINVAL));
    assert_eq!(rig.readdirplus(ROOT_INO, dh, 2, 100), Err(Errno::EINVAL));
    assert_eq!(rig.tree.inode_count(), 1);
}

#[test]
fn only_directories_are_listed() {
    let mut rig = rig(1);
    let file = rig.find(ROOT_INO, &name(0));
    assert_eq!(rig.opendir(file), Err(Errno::ENOTDIR));
    let dh = rig.opendir(ROOT_INO).unwrap();
    assert_eq!(rig.readdir(file, dh, 0, 4096), Err(Errno::EBADF));
}

#[test]
fn the_hosts_error_is_told() {
    let mut rig = rig(0);
    let dir = rig.host.create(ROOT_INO, b"dir", FileKind::Directory);
    rig.find(ROOT_INO, b"dir");
    rig.host.unlink(ROOT_INO, b"dir");
    let dh = rig.opendir(dir).unwrap();
    assert_eq!(rig.readdir(dir, dh, 0, 4096), Err(Errno::ENOENT));
}

#[test]
fn pages_that_cannot_be_are_not_believed() {
    let attr = rig(1).host.attr(2);
    let entry = |name: &[u8], cookie| DirEntry { name: name.to_vec(), cookie, attr };
    let beyond = i64::MAX as u64 + 1;
    for (entries, end, is_valid) in [
        (vec![entry(b"ok", 1)], true, true),
        (vec![entry(b"ok", beyond - 1)], true, true),
        (vec![entry(b"ok", 0)], true, false),
        (vec![entry(b"ok", beyond)], true, false),
        (vec![entry(b"", 1)], true, false),
        (vec![entry(b".", 1)], true, false),
        (vec![entry(b"..", 1)], true, false),
        (vec![entry(b"a/b", 1)], true, false),
        (vec![entry(b"a\0", 1)], true, false),
        (vec![entry(&[b'x'; 255], 1)], true, true),
        (vec![entry(&[b'x'; 256], 1)], true, false),
        (vec![], true, true),
        (vec![], false, false),
    ] {
        let mut rig = rig(0);
        rig.opendir(ROOT_INO).unwrap();
        let dh = rig.opendir(ROOT_INO).unwrap();
        rig.readdir(ROOT_INO, dh, 0, 4096).unwrap();
        let (reply, receiver) = DirReply::channel(4096);
        rig.feed(Op::Readdir { ino: ROOT_INO, dh, offset: 0, reply });
        let (id, _) = rig.next_call().unwrap();
        let described = format!("{entries:?} {end}");
        rig.tree.handle_answer(rig.now, id, Ok(Answer::Page { entries, end }));
        rig.settle();
        let outcome = receiver.try_recv().unwrap();
        assert_eq!(outcome.err(), (!is_valid).then_some(Errno::EIO), "{described}");
    }
}

#[test]
fn a_page_that_does_not_advance_ends_the_listing() {
    let mut rig = rig(0);
    let file = rig.host.create(ROOT_INO, b"file", FileKind::Regular);
    let attr = rig.host.attr(file);
    let dh = rig.opendir(ROOT_INO).unwrap();
    let (reply, receiver) = DirReply::channel(4096);
    rig.feed(Op::Readdir { ino: ROOT_INO, dh, offset: 9, reply });
    let (id, call) = rig.next_call().unwrap();
    assert_eq!(cursors(&[call]), [7]);
    let entries = vec![DirEntry { name: b"file".to_vec(), cookie: 7, attr }];
    rig.tree.handle_answer(rig.now, id, Ok(Answer::Page { entries, end: false }));
    assert_eq!(receiver.try_recv().unwrap(), Err(Errno::EIO));
}

/// ext4 gives its last entry the cookie 2^63 - 1.
#[test]
fn the_last_cookie_of_all_ends_a_listing() {
    let mut rig = rig(4);
    let last = i64::MAX as u64;
    rig.host.file(ROOT_INO).entries[3].2 = last;
    let dh = rig.opendir(ROOT_INO).unwrap();
    assert_eq!(rig.list(ROOT_INO, dh, ONE), names(4));
    let other = rig.opendir(ROOT_INO).unwrap();
    assert_eq!(rig.readdir(ROOT_INO, other, last, 4096), Ok(vec![]));
    assert_eq!(cursors(&rig.take_asked()).last(), Some(&last));
}
