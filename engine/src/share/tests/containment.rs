//! Nothing outside the folder can be reached.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags, fcntl_getfl, mkdirat, openat, renameat_with};
use rustix::mount::{MountFlags, mount};

use super::*;
use crate::share::{FileKind, ShareError};

/// Exchanges of a folder and a link, and as many attempts to get through: over in about a second.
const RACE_ATTEMPTS: usize = 20_000;

const OUTSIDE: &[u8] = b"outside";

#[test]
fn links_are_served_as_links_and_never_followed() {
    let outside = tempfile::tempdir().expect("folder");
    fs::write(outside.path().join("secret"), OUTSIDE).expect("write");
    let folder = tempfile::tempdir().expect("folder");
    fs::create_dir(folder.path().join("in")).expect("mkdir");
    let upwards = format!("../{}", outside.path().file_name().and_then(|name| name.to_str()).expect("a plain name"));
    let targets =
        [outside.path().to_str().expect("plain"), &upwards, "/", "..", "/proc/self/root", "/proc/self/cwd", "in"];
    let share = open(folder.path());
    for (n, target) in targets.iter().enumerate() {
        let name = format!("link{n}");
        symlink(target, folder.path().join(&name)).expect("symlink");
        let link = path(name.as_bytes());
        assert_eq!(share.attr(&link, Blocking::Allowed).expect("attr").kind, FileKind::Symlink);
        assert_eq!(share.readlink(&link, Blocking::Allowed).expect("readlink"), target.as_bytes());
        assert_eq!(share.readlink(&link, Blocking::CachedOnly).expect("readlink"), target.as_bytes());
        assert_eq!(share.open_file(&link, Blocking::Allowed).unwrap_err(), FsError::IS_SYMLINK);
        for below in [&b"secret"[..], b"etc", b"tmp", b"x"] {
            let through = link.join(below).expect("plain");
            assert_eq!(share.attr(&through, Blocking::Allowed).unwrap_err().errno(), libc::ELOOP, "{through}");
            assert_eq!(share.open_file(&through, Blocking::Allowed).unwrap_err().errno(), libc::ELOOP, "{through}");
        }
    }
    assert_eq!(share.readlink(&path(b"in"), Blocking::Allowed), Err(FsError::INVALID));
}

#[test]
fn a_long_link_target_is_left_to_a_worker() {
    let folder = tempfile::tempdir().expect("folder");
    let target = "t".repeat(60);
    symlink(&target, folder.path().join("link")).expect("symlink");
    let share = open(folder.path());
    assert_eq!(share.readlink(&path(b"link"), Blocking::CachedOnly), Err(FsError::WOULD_BLOCK));
    assert_eq!(share.readlink(&path(b"link"), Blocking::Allowed).expect("readlink"), target.as_bytes());
}

#[test]
fn the_kernels_own_links_and_files_stay_shut() {
    let share = open(Path::new("/"));
    let pid = std::process::id();
    for magic in ["proc/self/root/etc/passwd", &format!("proc/{pid}/root/etc/passwd"), &format!("proc/{pid}/fd/0/x")] {
        let error = share.attr(&path(magic.as_bytes()), Blocking::Allowed).unwrap_err();
        assert_eq!(error.errno(), libc::ELOOP, "{magic}");
    }
    for file in [format!("proc/{pid}/environ"), format!("proc/{pid}/mem"), "sys/kernel/uevent_seqnum".into()] {
        assert_eq!(open_file(&share, file.as_bytes()).unwrap_err(), FsError::DENIED, "{file}");
    }
    assert!(matches!(Share::open(Path::new("/proc")), Err(ShareError::KernelFilesystem(_))));
    assert!(matches!(Share::open(Path::new("/proc/self/task")), Err(ShareError::KernelFilesystem(_))));
}

#[test]
fn only_a_folder_can_be_shared() {
    let folder = tempfile::tempdir().expect("folder");
    fs::write(folder.path().join("file"), b"x").expect("write");
    assert!(matches!(Share::open(&folder.path().join("file")), Err(ShareError::NotDirectory(_))));
    assert!(matches!(Share::open(&folder.path().join("none")), Err(ShareError::NotFound(_))));
    symlink(folder.path(), folder.path().join("link")).expect("symlink");
    assert!(open(&folder.path().join("link")).attr(&path(b"file"), Blocking::Allowed).is_ok());
}

#[test]
fn a_folder_exchanged_with_a_link_lets_no_one_out() {
    let outside = tempfile::tempdir().expect("folder");
    fs::write(outside.path().join("f"), OUTSIDE).expect("write");
    let folder = tempfile::tempdir().expect("folder");
    let (dir, link) = (folder.path().join("dir"), folder.path().join("link"));
    fs::create_dir(&dir).expect("mkdir");
    fs::write(dir.join("f"), b"inside!").expect("write");
    symlink(outside.path(), &link).expect("symlink");
    let share = open(folder.path());
    let secret = fs::metadata(outside.path().join("f")).expect("stat");
    let secret_ino = std::os::unix::fs::MetadataExt::ino(&secret);

    let done = AtomicBool::new(false);
    let (mut inside, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                renameat_with(CWD, &dir, CWD, &link, RenameFlags::EXCHANGE).expect("exchange");
            }
        });
        for _ in 0..RACE_ATTEMPTS {
            match open_file(&share, b"dir/f") {
                Ok(file) => {
                    assert_ne!(file.id().ino, secret_ino);
                    let mut bytes = [0; 7];
                    assert_eq!(file.read_now(0, &mut bytes), Ok(7));
                    assert_eq!(&bytes, b"inside!");
                    inside += 1;
                }
                Err(error) => {
                    assert_eq!(error.errno(), libc::ELOOP);
                    refused += 1;
                }
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(inside > 0 && refused > 0, "the race was run: {inside} inside, {refused} refused");
}

#[test]
fn a_renamed_root_is_still_the_root() {
    let parent = tempfile::tempdir().expect("folder");
    fs::create_dir(parent.path().join("a")).expect("mkdir");
    fs::write(parent.path().join("a/f"), b"1").expect("write");
    let share = open(&parent.path().join("a"));
    fs::rename(parent.path().join("a"), parent.path().join("b")).expect("rename");
    fs::create_dir(parent.path().join("a")).expect("mkdir");
    assert_eq!(content(&open_file(&share, b"f").expect("open")), b"1");
}

#[test]
fn a_path_deeper_than_path_max_is_reached_in_segments() {
    let folder = tempfile::tempdir().expect("folder");
    let name = [b'd'; 200];
    let mut deep = RelPath::ROOT;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = openat(CWD, folder.path(), flags, Mode::empty()).expect("open");
    while deep.as_bytes().len() < 3 * 4096 {
        mkdirat(&at, &name[..], Mode::RWXU).expect("mkdir");
        at = openat(&at, &name[..], flags, Mode::empty()).expect("open");
        deep = deep.join(&name).expect("within 16 KiB");
    }
    let create = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    let bottom = openat(&at, c"f", create, Mode::RUSR | Mode::WUSR).expect("create");
    rustix::io::write(&bottom, b"deep").expect("write");

    let share = open(folder.path());
    let file = deep.join(b"f").expect("within 16 KiB");
    for blocking in [Blocking::Allowed, Blocking::CachedOnly] {
        assert_eq!(share.attr(&file, blocking).expect("attr").size, 4);
        assert_eq!(content(&share.open_file(&file, blocking).expect("open")), b"deep");
    }
    let limit = crate::share::ListLimit { entries: 10, bytes: 10_000 };
    assert_eq!(share.list(&deep, 0, limit).expect("list").entries[0].name, b"f");

    // A link in the middle of a segment, and one at its very end, stop the way as they do in a
    // short path.
    symlink("/", folder.path().join("link")).expect("symlink");
    let around = [&b"link/"[..], file.as_bytes()].concat();
    assert_eq!(share.attr(&path(&around), Blocking::Allowed).unwrap_err().errno(), libc::ELOOP);
}

#[test]
fn what_is_not_in_the_cache_is_left_to_a_worker() {
    let folder = tempfile::tempdir().expect("folder");
    fs::write(folder.path().join("known"), b"x").expect("write");
    let share = open(folder.path());
    assert!(share.attr(&path(b"known"), Blocking::CachedOnly).is_ok());
    assert!(share.open_file(&path(b"known"), Blocking::CachedOnly).is_ok());
    assert!(share.attr(&RelPath::ROOT, Blocking::CachedOnly).is_ok());
    // A name that no one ever looked up is not in the cache, not even as missing.
    assert_eq!(share.attr(&path(b"unknown"), Blocking::CachedOnly), Err(FsError::WOULD_BLOCK));
    assert_eq!(share.attr(&path(b"unknown"), Blocking::Allowed), Err(FsError::NOT_FOUND));
}

/// Its mark is for the opening alone: before Linux 6.5 a ring takes it to mean that a read must not wait for the disk.
#[test]
fn what_a_shard_opened_reads_as_patiently_as_what_a_worker_opened() {
    let folder = tempfile::tempdir().expect("folder");
    fs::write(folder.path().join("file"), OUTSIDE).expect("write");
    let share = open(folder.path());
    let flags = |blocking| {
        let file = share.open_file(&path(b"file"), blocking).expect("opened");
        fcntl_getfl(file.fd()).expect("flags of an open file")
    };
    assert!(!flags(Blocking::CachedOnly).contains(OFlags::NONBLOCK));
    assert_eq!(flags(Blocking::CachedOnly), flags(Blocking::Allowed));
}

#[test]
fn what_is_mounted_over_proc_changes_nothing_for_a_share_that_is_open() {
    if in_child() {
        let folder = tempfile::tempdir().expect("folder");
        fs::write(folder.path().join("file"), b"inside!").expect("write");
        let share = open(folder.path());
        mount("tmpfs", "/proc", "tmpfs", MountFlags::empty(), c"").expect("tmpfs in an own mount namespace");
        // Each number leads to a file of another one's making.
        fs::create_dir_all("/proc/self/fd").expect("mkdir");
        for fd in 0..64 {
            fs::write(format!("/proc/self/fd/{fd}"), OUTSIDE).expect("write");
        }
        let file = open_file(&share, b"file").expect("open");
        let mut bytes = [0; 7];
        assert_eq!((file.read_now(0, &mut bytes), &bytes), (Ok(7), b"inside!"));
        assert!(matches!(Share::open(folder.path()), Err(ShareError::NoProc)));
        return;
    }
    run_with_own_mounts(
        "share::tests::containment::what_is_mounted_over_proc_changes_nothing_for_a_share_that_is_open",
    );
}
