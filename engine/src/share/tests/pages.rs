//! Listings: every name once, in pages of any size, while the folder changes, on the file systems
//! that differ.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::mount::{MountFlags, mount};

use super::*;
use crate::share::{ENTRY_BYTES_FIXED, FileKind, ListLimit};

const MANY: usize = 10_000;
/// Entries that stay while others come and go.
const STEADY: usize = 2_000;
/// No listing here has more pages; one that goes on has lost its way.
const PAGES_MAX: usize = 50_000;

fn entries(entries: usize) -> ListLimit {
    ListLimit { entries, bytes: usize::MAX }
}

fn bytes(bytes: usize) -> ListLimit {
    ListLimit { entries: usize::MAX, bytes }
}

/// Lists the root to its end; counts how often each name came. `between` runs after each page.
fn list_all(share: &Share, limit: ListLimit, mut between: impl FnMut()) -> BTreeMap<Vec<u8>, usize> {
    list_all_by(|cursor| share.list(&RelPath::ROOT, cursor, limit).expect("list"), &mut between)
}

fn list_all_by(mut next: impl FnMut(u64) -> crate::share::Page, between: &mut dyn FnMut()) -> BTreeMap<Vec<u8>, usize> {
    let (mut seen, mut cursor) = (BTreeMap::new(), 0);
    for _ in 0..PAGES_MAX {
        let page = next(cursor);
        for entry in &page.entries {
            *seen.entry(entry.name.clone()).or_default() += 1;
        }
        if page.end {
            return seen;
        }
        cursor = page.entries.last().expect("a page that is not the last holds an entry").cookie;
        between();
    }
    panic!("no end after {PAGES_MAX} pages");
}

fn create(folder: &Path, name: &str) {
    File::create(folder.join(name)).expect("create");
}

/// Temporary folders on the disk and in memory, whose directories are built differently.
fn folders() -> [tempfile::TempDir; 2] {
    [tempfile::tempdir().expect("folder"), tempfile::tempdir_in("/dev/shm").expect("folder in memory")]
}

#[test]
fn names_of_any_byte_are_listed_and_opened() {
    let folder = tempfile::tempdir().expect("folder");
    let mut names: Vec<Vec<u8>> = (1..=255).filter(|&byte| byte != b'/').map(|byte| vec![byte, b'n']).collect();
    names.extend((1..=255).filter(|byte| !b"/.".contains(byte)).map(|byte| vec![byte]));
    names.extend([vec![0xff; 255], vec![b'l'; 255], b"...".to_vec(), b"new\nline".to_vec()]);
    for name in &names {
        fs::write(folder.path().join(OsStr::from_bytes(name)), name).expect("write");
    }
    let share = open(folder.path());
    let seen = list_all(&share, entries(50), || {});
    assert_eq!(seen.len(), names.len());
    for name in &names {
        assert_eq!(seen.get(name), Some(&1));
        assert_eq!(content(&open_file(&share, name).expect("open")), *name);
        assert_eq!(share.attr(&path(name), Blocking::CachedOnly).expect("attr").size, name.len() as u64);
    }
}

#[test]
fn ten_thousand_entries_come_once_each_at_any_limit() {
    for folder in folders() {
        for n in 0..MANY {
            create(folder.path(), &format!("file-{n}"));
        }
        let share = open(folder.path());
        for limit in [entries(1), entries(7), entries(1000), entries(MANY), entries(usize::MAX), bytes(0), bytes(2000)]
        {
            let seen = list_all(&share, limit, || {});
            assert_eq!(seen.len(), MANY, "{limit:?}");
            assert!(seen.values().all(|&count| count == 1), "{limit:?}");
        }
        let page = share.list(&RelPath::ROOT, 0, entries(MANY)).expect("list");
        assert!(page.end, "a page that takes the last entry says so");

        // From a cookie alone, with no listing parked: each page by a host that has just started.
        let seen = list_all_by(
            |cursor| open(folder.path()).list(&RelPath::ROOT, cursor, entries(777)).expect("list"),
            &mut || {},
        );
        assert!(seen.len() == MANY && seen.values().all(|&count| count == 1));
    }
}

#[test]
fn limits_are_kept_and_empty_folders_end_at_once() {
    let folder = tempfile::tempdir().expect("folder");
    let share = open(folder.path());
    let page = share.list(&RelPath::ROOT, 0, entries(1)).expect("list");
    assert!(page.entries.is_empty() && page.end);
    for n in 0..10 {
        create(folder.path(), &format!("n{n}"));
    }
    let count = |limit| share.list(&RelPath::ROOT, 0, limit).expect("list").entries.len();
    assert_eq!(count(entries(3)), 3);
    assert_eq!(count(bytes(4 * (ENTRY_BYTES_FIXED + 2))), 4);
    assert_eq!(count(bytes(4 * (ENTRY_BYTES_FIXED + 2) - 1)), 3);
    assert_eq!(count(bytes(0)), 1);
    assert_eq!(share.list(&RelPath::ROOT, 0, entries(0)), Err(FsError::INVALID));
    assert_eq!(share.list(&RelPath::ROOT, u64::MAX, entries(1)), Err(FsError::INVALID));
    assert_eq!(share.list(&path(b"n1"), 0, entries(1)).unwrap_err().errno(), libc::ENOTDIR);
    std::os::unix::fs::symlink(".", folder.path().join("link")).expect("symlink");
    let through_link = share.list(&path(b"link"), 0, entries(1)).unwrap_err().errno();
    assert!([libc::ENOTDIR, libc::ELOOP].contains(&through_link), "{through_link}");
}

#[test]
fn entries_carry_their_attributes() {
    let folder = tempfile::tempdir().expect("folder");
    fs::write(folder.path().join("f"), b"1234").expect("write");
    fs::create_dir(folder.path().join("d")).expect("mkdir");
    std::os::unix::fs::symlink("nowhere", folder.path().join("l")).expect("symlink");
    let share = open(folder.path());
    let page = share.list(&RelPath::ROOT, 0, entries(10)).expect("list");
    assert_eq!(page.entries.len(), 3);
    for entry in page.entries {
        assert_eq!(entry.attr, share.attr(&path(&entry.name), Blocking::Allowed).expect("attr"));
        let kind = match &entry.name[..] {
            b"f" => FileKind::File,
            b"d" => FileKind::Directory,
            _ => FileKind::Symlink,
        };
        assert_eq!(entry.attr.kind, kind);
    }
}

/// Lists while, after each page, entries go and more come than went.
fn check_changing(folder: &Path) {
    for n in 0..STEADY {
        create(folder, &format!("steady-{n}"));
        create(folder, &format!("going-{n}"));
    }
    let share = open(folder);
    let (mut turn, mut gone) = (0, 0);
    let seen = list_all(&share, entries(10), || {
        for _ in 0..5 {
            if gone < STEADY {
                fs::remove_file(folder.join(format!("going-{gone}"))).expect("remove");
                gone += 1;
            }
        }
        for n in 0..10 {
            create(folder, &format!("coming-{turn}-{n}"));
        }
        // Moves of entries that may be listed already must not bring them back for ever.
        fs::rename(folder.join(format!("coming-{turn}-0")), folder.join(format!("moved-{turn}"))).expect("rename");
        turn += 1;
    });
    for n in 0..STEADY {
        assert_eq!(seen.get(format!("steady-{n}").as_bytes()), Some(&1), "steady-{n}");
    }
    assert!(turn >= STEADY / 10);
}

#[test]
fn what_stays_is_listed_once_while_other_entries_come_and_go() {
    for folder in folders() {
        check_changing(folder.path());
    }
}

#[test]
fn what_stays_is_listed_once_on_overlayfs_too() {
    if in_child() {
        let folder = tempfile::tempdir().expect("folder");
        mount("tmpfs", folder.path(), "tmpfs", MountFlags::empty(), c"").expect("tmpfs in an own mount namespace");
        let part = |name: &str| {
            fs::create_dir(folder.path().join(name)).expect("mkdir");
            folder.path().join(name)
        };
        let (lower, upper, work, merged) = (part("lower"), part("upper"), part("work"), part("merged"));
        for n in 0..100 {
            create(&lower, &format!("below-{n}"));
        }
        let options =
            format!("lowerdir={},upperdir={},workdir={},userxattr", lower.display(), upper.display(), work.display());
        let options = std::ffi::CString::new(options).expect("no NUL");
        mount("overlay", &merged, "overlay", MountFlags::empty(), &*options).expect("overlay");
        check_changing(&merged);
        for name in [&merged, folder.path()] {
            rustix::mount::unmount(name, rustix::mount::UnmountFlags::DETACH).expect("unmount");
        }
        return;
    }
    run_with_own_mounts("share::tests::pages::what_stays_is_listed_once_on_overlayfs_too");
}

#[test]
fn a_listing_ends_while_another_thread_creates_and_removes() {
    for folder in folders() {
        for n in 0..STEADY {
            create(folder.path(), &format!("steady-{n}"));
        }
        let (share, done) = (open(folder.path()), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    create(folder.path(), &format!("brief-{n}"));
                    if n >= 50 {
                        fs::remove_file(folder.path().join(format!("brief-{}", n - 50))).expect("remove");
                    }
                }
            });
            for _ in 0..5 {
                let seen = list_all(&share, entries(20), || {});
                for n in 0..STEADY {
                    assert_eq!(seen.get(format!("steady-{n}").as_bytes()), Some(&1), "steady-{n}");
                }
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}

#[test]
fn listings_beyond_those_parked_go_on_from_their_cookie() {
    let folder = tempfile::tempdir().expect("folder");
    for n in 0..500 {
        create(folder.path(), &format!("n{n}"));
    }
    let share = open(folder.path());
    let first: Vec<_> = (0..200).map(|_| share.list(&RelPath::ROOT, 0, entries(100)).expect("list")).collect();
    assert_eq!(share.parked.lock().expect("whole").len(), 64, "bounded");
    for page in first {
        let names = list_all_by(
            |cursor| match cursor {
                0 => page.clone(),
                _ => share.list(&RelPath::ROOT, cursor, entries(100)).expect("list"),
            },
            &mut || {},
        );
        assert!(names.len() == 500 && names.values().all(|&count| count == 1));
    }
    assert!(share.parked.lock().expect("whole").len() <= 64);
}

#[test]
fn a_removed_folder_lists_as_empty_or_gone() {
    let folder = tempfile::tempdir().expect("folder");
    fs::create_dir(folder.path().join("d")).expect("mkdir");
    let share = open(&folder.path().join("d"));
    fs::remove_dir(folder.path().join("d")).expect("rmdir");
    match share.list(&RelPath::ROOT, 0, entries(1)) {
        Ok(page) => assert!(page.end && page.entries.is_empty()),
        Err(error) => assert_eq!(error, FsError::NOT_FOUND),
    }
}
