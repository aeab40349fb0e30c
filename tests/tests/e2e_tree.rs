//! The tree that a mount shows is the tree that was shared.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Dir, FileType};
use tests::e2e::{Io, Pair, snapshot, tree};
use tests::on_both_backends;

on_both_backends!(
    a_tree_of_everything_looks_the_same,
    a_real_tree_looks_the_same,
    a_listing_shows_what_is_new_to_who_opens_and_to_who_rewinds
);

fn a_tree_of_everything_looks_the_same(io: Io) {
    let mut pair = Pair::up(io);
    tree::create(pair.share());
    pair.start_host(&[]);
    let mount = pair.mount("mnt");
    let original = snapshot::take(pair.share());
    assert!(original.len() > tree::WIDE_ENTRIES + 3_000, "{} entries were made", original.len());
    assert!(original.keys().any(|path| path.len() > 4_096), "no path is longer than PATH_MAX");
    snapshot::assert_same(&original, &snapshot::take(&mount.point));
    // Again from warm caches.
    snapshot::assert_same(&original, &snapshot::take(&mount.point));
}

/// Entries of the real tree that are compared; enough to meet every habit of a distribution.
const REAL_ENTRIES_MAX: usize = 4_000;

/// Larger files of the real tree are left out, which bounds the bytes.
const REAL_FILE_BYTES_MAX: u64 = 1 << 20;

fn a_real_tree_looks_the_same(io: Io) {
    let mut pair = Pair::up(io);
    pair.set_share("/usr/share");
    pair.start_host(&[]);
    let mount = pair.mount("mnt");
    let taken = Cell::new(0);
    let original = snapshot::take_some(Path::new("/usr/share"), &|_, entry| {
        taken.set(taken.get() + 1);
        let is_large = FileType::from_raw_mode(entry.mode).is_file() && entry.size > REAL_FILE_BYTES_MAX;
        taken.get() <= REAL_ENTRIES_MAX && !is_large
    });
    assert!(original.len() > 100, "/usr/share has {} entries", original.len());
    let copy = snapshot::take_some(&mount.point, &|path, _| original.contains_key(path));
    snapshot::assert_same(&original, &copy);
}

/// By when a new file is in a listing: ten times what is promised, for machines that are busy.
const SHOWN_WITHIN: Duration = Duration::from_secs(5);

fn a_listing_shows_what_is_new_to_who_opens_and_to_who_rewinds(io: Io) {
    let mut pair = Pair::up(io);
    fs::write(pair.share().join("old"), "").unwrap();
    pair.start_host(&[]);
    let mount = pair.mount("mnt");
    // The kernel keeps the listing of one who goes on holding the directory open.
    let mut held = Dir::new(
        rustix::fs::open(
            &mount.point,
            rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .unwrap(),
    )
    .unwrap();
    let mut rewound = || -> bool {
        held.rewind();
        std::iter::from_fn(|| held.read()).any(|entry| entry.unwrap().file_name().to_bytes() == b"new")
    };
    let opened = || fs::read_dir(&mount.point).unwrap().any(|entry| entry.unwrap().file_name() == "new");
    assert!(!rewound() && !opened());
    fs::write(pair.share().join("new"), "").unwrap();
    let made_at = Instant::now();
    let (mut by_open, mut by_rewind) = (false, false);
    while !(by_open && by_rewind) {
        assert!(made_at.elapsed() < SHOWN_WITHIN, "shown to who opens: {by_open}, to who rewinds: {by_rewind}");
        by_rewind = by_rewind || rewound();
        by_open = by_open || opened();
        std::thread::yield_now();
    }
}
