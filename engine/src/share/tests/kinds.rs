//! Special files, permissions, attributes and versions.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, FileType, Mode, mkfifoat, mknodat};
use rustix::process::{Gid, Uid, getuid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::*;
use crate::share::{FileKind, ListLimit, Residency, ShareError};

const NOBODY: u32 = 65534;
const ALL: ListLimit = ListLimit { entries: 1000, bytes: 1 << 20 };

#[test]
fn special_files_are_shown_and_never_opened() {
    let folder = tempfile::tempdir().expect("folder");
    let mode = Mode::RUSR | Mode::WUSR;
    // Without a writer, an open for reading would hang.
    mkfifoat(CWD, folder.path().join("fifo"), mode).expect("mkfifo");
    let _socket = UnixListener::bind(folder.path().join("socket")).expect("bind");
    // Device 0:0 is the one that needs no privilege (overlayfs whiteouts).
    mknodat(CWD, folder.path().join("device"), FileType::CharacterDevice, mode, 0).expect("mknod");
    fs::create_dir(folder.path().join("dir")).expect("mkdir");
    let share = open(folder.path());
    let expected = [
        (&b"fifo"[..], FileKind::Fifo, FsError::NOT_REGULAR),
        (b"socket", FileKind::Socket, FsError::NOT_REGULAR),
        (b"device", FileKind::CharDevice, FsError::NOT_REGULAR),
        (b"dir", FileKind::Directory, FsError::IS_DIRECTORY),
    ];
    for blocking in [Blocking::Allowed, Blocking::CachedOnly] {
        for (name, kind, error) in expected {
            assert_eq!(share.attr(&path(name), blocking).expect("attr").kind, kind);
            assert_eq!(share.open_file(&path(name), blocking).unwrap_err(), error);
        }
    }
    assert_eq!(share.list(&RelPath::ROOT, 0, ALL).expect("list").entries.len(), expected.len());
    assert_eq!(share.open_file(&RelPath::ROOT, Blocking::Allowed).unwrap_err(), FsError::IS_DIRECTORY);
    assert_eq!(open_file(&share, b"none").unwrap_err(), FsError::NOT_FOUND);
    assert_eq!(open_file(&share, b"fifo/x").unwrap_err().errno(), libc::ENOTDIR);
}

#[test]
fn device_nodes_keep_their_numbers() {
    let null = open(Path::new("/dev")).attr(&path(b"null"), Blocking::Allowed).expect("attr");
    assert_eq!((null.kind, null.rdev), (FileKind::CharDevice, 0x103));
    assert_eq!(open_file(&open(Path::new("/dev")), b"null").unwrap_err(), FsError::NOT_REGULAR);
}

/// Runs a check without privilege: on Linux, credentials belong to the thread, and the raw calls
/// change this one's only.
fn as_nobody(check: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if getuid().is_root() {
                let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
                set_thread_groups(&[]).expect("root may");
                set_thread_res_gid(group, group, group).expect("root may");
                set_thread_res_uid(user, user, user).expect("root may");
            }
            check();
        });
    });
}

#[test]
fn permissions_of_the_hosts_user_hold() {
    let folder = tempfile::tempdir().expect("folder");
    let set =
        |name: &str, mode| fs::set_permissions(folder.path().join(name), Permissions::from_mode(mode)).expect("chmod");
    for dir in ["listable", "searchable", "shut"] {
        fs::create_dir(folder.path().join(dir)).expect("mkdir");
        fs::write(folder.path().join(dir).join("f"), b"f").expect("write");
    }
    fs::write(folder.path().join("unreadable"), b"x").expect("write");
    fs::write(folder.path().join("readable"), b"r").expect("write");
    let modes =
        [("", 0o755), ("unreadable", 0), ("readable", 0o644), ("listable", 0o444), ("searchable", 0o111), ("shut", 0)];
    for (name, mode) in modes {
        set(name, mode);
    }
    // cachestat(2) answers owners and writers only; without root, the files are our own.
    let is_stranger = getuid().is_root();
    let residency = if is_stranger { Residency::Unknown } else { Residency::Resident };
    as_nobody(|| {
        let share = open(folder.path());
        assert_eq!(open_file(&share, b"unreadable").unwrap_err(), FsError::DENIED);
        assert_eq!(share.attr(&path(b"unreadable"), Blocking::Allowed).expect("attr").mode, 0);
        let readable = open_file(&share, b"readable").expect("without O_NOATIME, which needs ownership");
        assert_eq!(content(&readable), b"r");
        assert_eq!(readable.residency(0, 1), residency);

        assert_eq!(share.attr(&path(b"listable/f"), Blocking::Allowed), Err(FsError::DENIED));
        let page = share.list(&path(b"listable"), 0, ALL).expect("readable");
        let [entry] = &page.entries[..] else { panic!("one entry, not {page:?}") };
        assert_eq!((&entry.name[..], entry.attr.kind, entry.attr.mode), (&b"f"[..], FileKind::File, 0));

        assert_eq!(share.list(&path(b"searchable"), 0, ALL), Err(FsError::DENIED));
        assert_eq!(share.attr(&path(b"searchable/f"), Blocking::Allowed).expect("attr").size, 1);
        assert!(matches!(Share::open(&folder.path().join("shut")), Err(ShareError::Denied(_))));
    });
    for dir in ["listable", "searchable", "shut"] {
        set(dir, 0o755); // for the folder's removal
    }
}

#[test]
fn ids_are_unique_and_the_root_is_one() {
    let folder = tempfile::tempdir().expect("folder");
    fs::write(folder.path().join("a"), b"x").expect("write");
    fs::hard_link(folder.path().join("a"), folder.path().join("b")).expect("link");
    let share = open(folder.path());
    let attr = |name: &[u8]| share.attr(&path(name), Blocking::Allowed).expect("attr");
    assert_eq!(attr(b"").id.ino, 1);
    assert_eq!((attr(b"a").id, attr(b"a").nlink), (attr(b"b").id, 2));
    assert!(attr(b"a").id.ino > 1);
    assert_eq!(open_file(&share, b"a").expect("open").attr(), Ok(attr(b"a")));

    let system = open(Path::new("/"));
    let other = system.attr(&path(b"proc"), Blocking::Allowed).expect("attr");
    assert!(other.id.ino >= 1 << 63, "another device");
    let listed = system.list(&RelPath::ROOT, 0, ALL).expect("list");
    let listed = listed.entries.iter().find(|entry| entry.name == b"proc").expect("mounted");
    assert_eq!(listed.attr.id, other.id, "a mount is seen from above, not below");
}

#[test]
fn attributes_are_those_of_stat() {
    let folder = tempfile::tempdir().expect("folder");
    let name = folder.path().join("f");
    fs::write(&name, [1; 5000]).expect("write");
    fs::set_permissions(&name, Permissions::from_mode(0o6751)).expect("chmod");
    let past = SystemTime::UNIX_EPOCH - Duration::from_nanos(1_500_000_000);
    File::options().write(true).open(&name).and_then(|file| file.set_modified(past)).expect("set time");
    let attr = open(folder.path()).attr(&path(b"f"), Blocking::Allowed).expect("attr");
    let stat = fs::metadata(&name).expect("stat");
    assert_eq!((attr.size, attr.mode, attr.nlink, attr.rdev), (5000, 0o6751, 1, 0));
    assert_eq!((attr.uid, attr.blocks), {
        use std::os::unix::fs::MetadataExt;
        (stat.uid(), stat.blocks())
    });
    assert_eq!((attr.mtime.s, attr.mtime.ns), (-2, 500_000_000));
}

#[test]
fn a_version_changes_with_the_content() {
    let folder = tempfile::tempdir().expect("folder");
    let name = folder.path().join("f");
    fs::write(&name, b"one").expect("write");
    let file = open_file(&open(folder.path()), b"f").expect("open");
    let version = || file.attr().expect("attr").version();
    let writer = File::options().write(true).open(&name).expect("open");
    let mut seen = vec![version()];
    assert_eq!(version(), seen[0], "reading changes nothing");

    std::os::unix::fs::FileExt::write_at(&writer, b"two", 0).expect("write");
    seen.push(version());
    writer.set_len(2).expect("truncate");
    seen.push(version());
    writer.set_modified(SystemTime::UNIX_EPOCH).expect("touch -d");
    seen.push(version());
    fs::write(folder.path().join("g"), b"two").expect("write");
    fs::rename(folder.path().join("g"), &name).expect("rename");
    seen.push(open_file(&open(folder.path()), b"f").expect("open").attr().expect("attr").version());

    let count = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), count);
}

#[test]
fn statfs_is_that_of_the_root() {
    let folder = tempfile::tempdir().expect("folder");
    let stat = open(folder.path()).statfs().expect("statfs");
    assert!(stat.block_bytes >= 512 && stat.blocks > 0 && stat.blocks_free >= stat.blocks_available);
    assert_eq!(stat.name_bytes_max, 255);
}
