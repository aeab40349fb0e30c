//! A tree with everything in it that a file system may hold.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps};

use super::load::content;

/// Length of the sparse file: more than 32 bits can count.
pub const SPARSE_BYTES: u64 = 8 << 30;

/// Where the sparse file has data, each mark 4 KiB long: both sides of 2 GiB and 4 GiB, and the end.
pub const SPARSE_MARKS: [u64; 7] =
    [0, (1 << 30) + 511, (2 << 30) - 2048, (4 << 30) - 1, (4 << 30) + 4096, (6 << 30) + 1, SPARSE_BYTES - 4096];

/// Entries of the largest folder: ten pages of a listing.
pub const WIDE_ENTRIES: usize = 10_000;

/// Ordinary files, in folders of a hundred.
const ORDINARY_FILES: usize = 3_000;

/// Folders within each other; with names of [`DEEP_NAME_BYTES`] the deepest path is longer than PATH_MAX.
const DEEP_LEVELS: usize = 24;

/// Length of each name of the deep path.
const DEEP_NAME_BYTES: usize = 200;

/// Makes the whole tree below `root`, an existing empty folder.
///
/// # Panics
/// When something cannot be made; needs root for the device nodes.
pub fn create(root: &Path) {
    let root = directory(CWD, root.as_os_str().as_encoded_bytes());
    names(&make_directory(&root, b"names"));
    sizes(&make_directory(&root, b"sizes"));
    kinds(&make_directory(&root, b"kinds"));
    modes_and_times(&make_directory(&root, b"modes"));
    sparse(&root);
    deep(&root);
    let wide = make_directory(&root, b"wide");
    for index in 0..WIDE_ENTRIES {
        write(&wide, format!("entry-{index:05}").as_bytes(), b"");
    }
    for folder in 0..ORDINARY_FILES / 100 {
        let parent = make_directory(&root, format!("folder-{folder:02}").as_bytes());
        for index in 0..100 {
            let name = format!("file-{index:02}.dat");
            // Mostly small, some beyond one small frame.
            let length = (folder * 100 + index) * 7919 % if index % 25 == 0 { 300_000 } else { 9_000 };
            write(&parent, name.as_bytes(), &content(&format!("{folder}/{name}"), length));
        }
    }
}

/// Every byte a name may hold, alone and in company; the longest names; names that are not text.
fn names(at: &OwnedFd) {
    for byte in (1..=255).filter(|&byte| byte != b'/') {
        if byte != b'.' {
            write(at, &[byte], &[byte]);
        }
        write(at, &[b'x', byte, byte, b'y'], &[byte; 2]);
    }
    write(at, &[b'n'; 255], b"longest");
    write(at, &[0xff; 255], b"longest, and no text");
    let folder = make_directory(at, &"\u{20ac}".repeat(85).into_bytes());
    write(&folder, b"...", b"three dots");
    write(&folder, b"-rf", b"a flag");
    write(&folder, b"a\nb\tc\r", b"white");
}

fn sizes(at: &OwnedFd) {
    for size in [0, 1, 4095, 4096, 4097, 65_535, 65_536, 65_537, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (5 << 20) + 3] {
        write(at, format!("size-{size}").as_bytes(), &content("sizes", size));
    }
}

fn kinds(at: &OwnedFd) {
    write(at, b"file", b"one file");
    fs::linkat(at, "file", at, "hard-link", AtFlags::empty()).expect("a hard link");
    let longest = [b"l".repeat(4000), b"/x".repeat(47)].concat();
    for (name, target) in [
        ("relative", &b"file"[..]),
        ("up", b"../sizes/size-1"),
        ("absolute", b"/etc/hostname"),
        ("dangling", b"no/such/\xff\xfe"),
        ("itself", b"itself"),
        ("folder-link", b"../names"),
        ("longest", &longest),
    ] {
        fs::symlinkat(target, at, name).expect("a symlink");
    }
    for (name, kind, device) in [
        ("fifo", FileType::Fifo, 0),
        ("socket", FileType::Socket, 0),
        ("null", FileType::CharacterDevice, fs::makedev(1, 3)),
        ("block", FileType::BlockDevice, fs::makedev(7, 200)),
    ] {
        fs::mknodat(at, name, kind, Mode::from_raw_mode(0o640), device).expect("a node; device nodes need root");
    }
    make_directory(at, b"empty-folder");
}

fn modes_and_times(at: &OwnedFd) {
    for (index, mode) in [0o000, 0o400, 0o644, 0o755, 0o777, 0o4755, 0o2755, 0o1644, 0o6711].into_iter().enumerate() {
        let name = format!("mode-{mode:04o}");
        write(at, name.as_bytes(), name.as_bytes());
        fs::chmodat(at, &*name, Mode::from_raw_mode(mode), AtFlags::empty()).expect("a mode");
        set_mtime(at, &name, 1_000_000_000 + index as i64, 123_456_789 + index as i64);
    }
    for (name, seconds, nanoseconds) in
        [("epoch", 0, 1), ("before-epoch", -86_400, 999_999_999), ("later-than-2038", 4_000_000_000, 7)]
    {
        write(at, name.as_bytes(), b"");
        set_mtime(at, name, seconds, nanoseconds);
    }
    let folder = make_directory(at, b"sticky");
    fs::fchmod(&folder, Mode::from_raw_mode(0o1777)).expect("a mode");
    fs::chownat(at, "mode-0644", Some(fs::Uid::from_raw(1234)), Some(fs::Gid::from_raw(4321)), AtFlags::empty())
        .expect("an owner; needs root");
}

fn sparse(at: &OwnedFd) {
    let file = File::from(
        fs::openat(at, "sparse", OFlags::CREATE | OFlags::WRONLY, Mode::from_raw_mode(0o644)).expect("the sparse file"),
    );
    for mark in SPARSE_MARKS {
        file.write_all_at(&content(&mark.to_string(), 4096), mark).expect("a mark");
    }
    assert_eq!(file.metadata().expect("its attributes").len(), SPARSE_BYTES);
}

fn deep(at: &OwnedFd) {
    let mut folder = make_directory(at, b"deep");
    for level in 0..DEEP_LEVELS {
        write(&folder, b"here", format!("level {level}").as_bytes());
        folder = make_directory(&folder, &[b'a' + level as u8; DEEP_NAME_BYTES]);
    }
    write(&folder, b"bottom", &content("bottom", 70_000));
}

fn set_mtime(at: &OwnedFd, name: &str, tv_sec: i64, tv_nsec: i64) {
    let time = Timespec { tv_sec, tv_nsec };
    let times = Timestamps { last_access: time, last_modification: time };
    fs::utimensat(at, name, &times, AtFlags::empty()).expect("a time");
}

fn write(at: &OwnedFd, name: &[u8], bytes: &[u8]) {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
    let file = fs::openat(at, name, flags, Mode::from_raw_mode(0o644));
    let mut file = File::from(file.unwrap_or_else(|error| panic!("{}: {error}", name.escape_ascii())));
    file.write_all(bytes).expect("the disk has room");
}

fn make_directory(at: &OwnedFd, name: &[u8]) -> OwnedFd {
    fs::mkdirat(at, name, Mode::from_raw_mode(0o755)).expect("a folder");
    directory(at, name)
}

fn directory(at: impl AsFd, name: &[u8]) -> OwnedFd {
    fs::openat(at, name, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).expect("a folder opens")
}
