//! What a name stands for, and for how long that is believed.

use std::time::Duration;

use vfs::{Call, Errno, FileKind, Op, ROOT_INO, TreeOptions};

use super::host::{Host, STATFS};
use super::rig::Rig;

const TTL: Duration = Duration::from_secs(1);

/// root/a/b/file, and root/link.
fn rig() -> (Rig, [u64; 4]) {
    let mut host = Host::new();
    let a = host.create(ROOT_INO, b"a", FileKind::Directory);
    let b = host.create(a, b"b", FileKind::Directory);
    let file = host.create(b, b"file", FileKind::Regular);
    let link = host.create(ROOT_INO, b"link", FileKind::Symlink);
    (Rig::new(host), [a, b, file, link])
}

#[test]
fn lookups_walk_down_and_links_are_read() {
    let (mut rig, [a, b, file, link]) = rig();
    assert_eq!(rig.find(ROOT_INO, b"a"), a);
    assert_eq!(rig.find(a, b"b"), b);
    let entry = rig.lookup(b, b"file").unwrap();
    assert_eq!(entry.attr, Some(rig.host.attr(file)));
    assert_eq!((entry.attr_ttl, entry.entry_ttl), (TTL, TTL));
    assert_eq!(rig.asked.last(), Some(&Call::Attr { path: b"a/b/file".to_vec() }));
    assert_eq!(rig.find(ROOT_INO, b"link"), link);
    assert_eq!(rig.readlink(link), Ok(b"far/away".to_vec()));
}

#[test]
fn absence_is_told_with_its_own_time_to_live() {
    let (mut rig, _) = rig();
    let entry = rig.lookup(ROOT_INO, b"none").unwrap();
    assert_eq!((entry.attr, entry.entry_ttl), (None, Duration::from_millis(500)));
    let options = TreeOptions { negative_ttl: Duration::ZERO, ..TreeOptions::CLOSE_TO_OPEN };
    let mut rig = Rig::with(options, Host::new());
    assert_eq!(rig.lookup(ROOT_INO, b"none").err(), Some(Errno::ENOENT));
}

#[test]
fn names_that_cannot_be_are_refused_without_the_host() {
    let (mut rig, _) = rig();
    for (name, errno) in [
        (&b""[..], Errno::EINVAL),
        (b".", Errno::EINVAL),
        (b"..", Errno::EINVAL),
        (b"a/b", Errno::EINVAL),
        (b"a\0", Errno::EINVAL),
        (&[b'x'; 256], Errno::ENAMETOOLONG),
    ] {
        assert_eq!(rig.lookup(ROOT_INO, name).err(), Some(errno));
    }
    assert_eq!(rig.asked, []);
    assert_eq!(rig.lookup(ROOT_INO, &[b'x'; 255]).unwrap().attr, None);
}

#[test]
fn a_path_may_be_as_long_as_the_wire_carries() {
    // Names of 255 with their slashes: 64 of them are 16 KiB less the first slash.
    let names = vfs::PATH_BYTES_MAX / 256;
    let mut host = Host::new();
    let mut parents = vec![ROOT_INO];
    for _ in 0..names {
        let parent = *parents.last().unwrap();
        parents.push(host.create(parent, &[b'd'; 255], FileKind::Directory));
    }
    let mut rig = Rig::new(host);
    for &parent in &parents[..names - 1] {
        rig.find(parent, &[b'd'; 255]);
    }
    assert!(rig.lookup(parents[names - 1], &[b'x'; 255]).is_ok());
    let last = rig.find(parents[names - 1], &[b'd'; 255]);
    assert_eq!(rig.lookup(last, b"x").err(), Some(Errno::ENAMETOOLONG));
}

#[test]
fn attributes_hold_for_their_time_to_live() {
    let (mut rig, [a, ..]) = rig();
    rig.find(ROOT_INO, b"a");
    rig.take_asked();
    rig.pass(TTL - Duration::from_millis(1));
    assert_eq!(rig.getattr(a).unwrap().attr_ttl, Duration::from_millis(1));
    assert_eq!(rig.take_asked(), []);
    rig.host.file(a).attr.mode = 0o700;
    rig.pass(Duration::from_millis(1));
    let out = rig.getattr(a).unwrap();
    assert_eq!((out.attr.mode, out.attr_ttl), (0o700, TTL));
    assert_eq!(rig.take_asked(), [Call::Attr { path: b"a".to_vec() }]);
}

#[test]
fn the_root_is_asked_for_by_the_empty_path() {
    let (mut rig, _) = rig();
    assert_eq!(rig.getattr(ROOT_INO).unwrap().attr, rig.host.attr(ROOT_INO));
    assert_eq!(rig.take_asked(), [Call::Attr { path: vec![] }]);
}

#[test]
fn a_path_that_names_another_file_is_stale() {
    let (mut rig, [a, ..]) = rig();
    rig.find(ROOT_INO, b"a");
    let replacement = rig.host.create(ROOT_INO, b"a", FileKind::Regular);
    rig.pass(TTL);
    assert_eq!(rig.getattr(a).err(), Some(Errno::ESTALE));
    assert_eq!(rig.find(ROOT_INO, b"a"), replacement);
    rig.host.unlink(ROOT_INO, b"a");
    rig.pass(TTL);
    assert_eq!(rig.getattr(replacement).err(), Some(Errno::ESTALE));
    assert_eq!(rig.open(replacement).err(), Some(Errno::ESTALE));
}

#[test]
fn a_number_that_goes_to_another_file_starts_anew() {
    let (mut rig, [.., link]) = rig();
    rig.find(ROOT_INO, b"link");
    rig.host.file(link).attr.id.birth_ns = 9;
    rig.pass(TTL);
    assert_eq!(rig.getattr(link).err(), Some(Errno::ESTALE));
    assert_eq!(rig.lookup(ROOT_INO, b"link").unwrap().attr.unwrap().id.birth_ns, 9);
    assert!(rig.getattr(link).is_ok());
    // The kernel gives back what it counted for both inodes of this number.
    rig.forget(link, 1);
    assert!(rig.getattr(link).is_ok());
    rig.forget(link, 1);
    assert_eq!(rig.tree.inode_count(), 1);
}

#[test]
fn what_was_seen_last_names_a_file_of_several_names() {
    let (mut rig, [a, b, file, _]) = rig();
    rig.find(ROOT_INO, b"a");
    rig.find(a, b"b");
    rig.find(b, b"file");
    rig.host.link(ROOT_INO, b"other", file);
    assert_eq!(rig.find(ROOT_INO, b"other"), file);
    rig.pass(TTL);
    rig.take_asked();
    rig.getattr(file).unwrap();
    assert_eq!(rig.take_asked(), [Call::Attr { path: b"other".to_vec() }]);
    // Its old parents are free to go, and the file keeps both references.
    rig.forget(b, 1);
    rig.forget(a, 1);
    assert_eq!(rig.tree.inode_count(), 2);
    rig.forget(file, 2);
    assert_eq!(rig.tree.inode_count(), 1);
}

#[test]
fn a_child_keeps_its_ancestors_for_its_path() {
    let (mut rig, [a, b, file, _]) = rig();
    rig.find(ROOT_INO, b"a");
    rig.find(a, b"b");
    rig.find(b, b"file");
    rig.forget(a, 1);
    rig.forget(b, 1);
    rig.pass(TTL);
    assert!(rig.getattr(file).is_ok());
    rig.forget(file, 1);
    assert_eq!(rig.tree.inode_count(), 1);
}

#[test]
fn directories_moved_on_the_host_are_followed_and_loops_refused() {
    let (mut rig, [a, b, ..]) = rig();
    rig.find(ROOT_INO, b"a");
    rig.find(a, b"b");
    // The host moves b out of a and a into b, while b is known to be in a.
    rig.host.unlink(a, b"b");
    rig.host.link(b, b"a", a);
    rig.host.link(a, b"b", b);
    assert_eq!(rig.lookup(b, b"a").err(), Some(Errno::ESTALE));
    rig.host.unlink(a, b"b");
    rig.host.link(ROOT_INO, b"b", b);
    assert_eq!(rig.find(ROOT_INO, b"b"), b);
    assert_eq!(rig.find(b, b"a"), a);
    rig.pass(TTL);
    rig.take_asked();
    rig.getattr(a).unwrap();
    assert_eq!(rig.take_asked(), [Call::Attr { path: b"b/a".to_vec() }]);
}

#[test]
fn a_host_that_claims_the_root_twice_is_not_believed() {
    let (mut rig, [_, _, file, _]) = rig();
    rig.host.link(ROOT_INO, b"me", ROOT_INO);
    assert_eq!(rig.lookup(ROOT_INO, b"me").err(), Some(Errno::EIO));
    rig.host.file(file).attr.id.ino = 0;
    rig.host.link(ROOT_INO, b"zero", file);
    assert_eq!(rig.lookup(ROOT_INO, b"zero").err(), Some(Errno::EIO));
    assert_eq!(rig.tree.inode_count(), 1);
}

#[test]
fn every_file_can_be_shown_as_one_owners() {
    let (mut rig, [a, ..]) = rig();
    let entry = rig.lookup(ROOT_INO, b"a").unwrap().attr.unwrap();
    assert_eq!((entry.uid, entry.gid), (10, 20));
    let options = TreeOptions { owner: Some((7, 8)), ..TreeOptions::CLOSE_TO_OPEN };
    let mut rig = Rig::with(options, rig.host);
    let entry = rig.lookup(ROOT_INO, b"a").unwrap().attr.unwrap();
    let attr = rig.getattr(a).unwrap().attr;
    let dh = rig.opendir(ROOT_INO).unwrap();
    let listed = rig.readdirplus(ROOT_INO, dh, 0, 4096).unwrap();
    for attr in listed.iter().map(|entry| entry.attr).chain([entry, attr]) {
        assert_eq!((attr.uid, attr.gid), (7, 8));
    }
}

#[test]
fn the_filesystem_tells_its_figures() {
    let (mut rig, _) = rig();
    let (reply, receiver) = vfs::StatfsReply::channel();
    rig.feed(Op::Statfs { reply });
    rig.settle();
    assert_eq!(receiver.try_recv().unwrap(), Ok(STATFS));
}

#[test]
fn a_dropped_reply_says_eio() {
    let (reply, receiver) = vfs::EntryReply::channel();
    drop(reply);
    assert_eq!(receiver.try_recv().unwrap().err(), Some(Errno::EIO));
    let (reply, receiver) = vfs::DirReply::channel(4096);
    drop(reply);
    assert_eq!(receiver.try_recv().unwrap().err(), Some(Errno::EIO));
}
