//! Several readers at once, and readers of files that change.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::process::Command;
use std::time::Duration;

use tests::e2e::load::{Load, content, write_files};
use tests::e2e::wait::{self, SOON};
use tests::e2e::{Io, Pair};
use tests::on_both_backends;

on_both_backends!(
    ten_readers_of_ten_files,
    ten_processes_read_one_file_and_it_crosses_the_wire_once,
    an_open_sees_what_the_last_close_left,
    a_truncated_file_never_shows_other_bytes,
);

/// Longest that readers may take to stop when told to; they stop after the read in hand.
const STOP_LIMIT: Duration = Duration::from_secs(30);

fn ten_readers_of_ten_files(io: Io) {
    const BYTES: usize = 3 << 20;
    let pair = Pair::hosting(io);
    let names = write_files(pair.share(), 10, BYTES);
    let mount = pair.mount("mnt");
    let load = Load::start(&mount.point, pair.share(), &names);
    wait::until("three rounds of every file", SOON, || {
        (load.bytes() >= (3 * names.len() * BYTES) as u64).then_some(())
    });
    for outcome in load.stop("three rounds", STOP_LIMIT) {
        assert!(outcome.error.is_none() && !outcome.differs, "{outcome:?}");
    }
}

fn ten_processes_read_one_file_and_it_crosses_the_wire_once(io: Io) {
    const BYTES: usize = 64 << 20;
    let mut pair = Pair::hosting(io);
    let original = pair.share().join("big");
    fs::write(&original, content("big", BYTES)).unwrap();
    let mount = pair.mount("mnt");
    let before = pair.host_bytes_sent();
    let readers: Vec<_> = (0..10)
        .map(|index| {
            let mut command = Command::new("cmp");
            pair.start(command.arg(mount.point.join("big")).arg(&original), &format!("cmp-{index}"))
        })
        .collect();
    for reader in readers {
        reader.wait(SOON).expect(0);
    }
    let sent = pair.host_bytes_sent() - before;
    assert!(sent >= BYTES as u64, "{sent} bytes cannot have carried the file");
    assert!(sent < BYTES as u64 * 3 / 2, "{sent} bytes were sent for a file of {BYTES}");
}

/// Rounds of each kind of change.
const CHANGE_ROUNDS: usize = 12;

fn an_open_sees_what_the_last_close_left(io: Io) {
    let pair = Pair::hosting(io);
    let mount = pair.mount("mnt");
    // Below and above what is kept as one small frame.
    for base in [3_000, 700_000] {
        let name = format!("file-{base}");
        let (original, through) = (pair.share().join(&name), mount.point.join(&name));
        let mut expected = content("first", base);
        fs::write(&original, &expected).unwrap();
        assert_eq!(fs::read(&through).unwrap(), expected);
        for round in 0..CHANGE_ROUNDS * 4 {
            let kind = ["grow", "shrink", "rewrite", "replace"][round % 4];
            match kind {
                "grow" => {
                    let more = content(&format!("more {round}"), 5_000 + round * 997);
                    fs::OpenOptions::new().append(true).open(&original).unwrap().write_all(&more).unwrap();
                    expected.extend_from_slice(&more);
                }
                "shrink" => {
                    expected.truncate(expected.len() * 2 / 3);
                    File::options().write(true).open(&original).unwrap().set_len(expected.len() as u64).unwrap();
                }
                "rewrite" => {
                    expected = content(&format!("rewritten {round}"), expected.len());
                    File::options().write(true).open(&original).unwrap().write_all_at(&expected, 0).unwrap();
                }
                _ => {
                    expected = content(&format!("replaced {round}"), base + round);
                    let beside = pair.share().join("beside");
                    fs::write(&beside, &expected).unwrap();
                    fs::rename(&beside, &original).unwrap();
                }
            }
            let seen = fs::read(&through).unwrap_or_else(|error| panic!("{kind}, round {round}: {error}"));
            assert_eq!(seen.len(), expected.len(), "{kind}, round {round}: length");
            assert!(seen == expected, "{kind}, round {round}: other bytes than the host's");
            assert_eq!(fs::metadata(&through).unwrap().len(), expected.len() as u64);
        }
    }
}

/// Truncations under a reader.
const TRUNCATE_ROUNDS: usize = 20;

fn a_truncated_file_never_shows_other_bytes(io: Io) {
    const BYTES: usize = 6 << 20;
    let mut pair = Pair::hosting(io);
    let mount = pair.mount("mnt");
    for round in 0..TRUNCATE_ROUNDS {
        // A name of its own each time, so that every round starts cold.
        let name = format!("file-{round}");
        let expected = content(&name, BYTES);
        let original = pair.share().join(&name);
        fs::write(&original, &expected).unwrap();
        let mut file = File::open(mount.point.join(&name)).unwrap();
        let cut_at = round * BYTES / TRUNCATE_ROUNDS;
        let keep = (round * 7_919_000 + 1) % BYTES;
        let mut seen = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        let mut is_cut = false;
        let outcome: io::Result<()> = loop {
            if seen.len() >= cut_at && !is_cut {
                is_cut = true;
                File::options().write(true).open(&original).unwrap().set_len(keep as u64).unwrap();
            }
            match file.read(&mut buffer) {
                Ok(0) => break Ok(()),
                Ok(length) => seen.extend_from_slice(&buffer[..length]),
                Err(error) => break Err(error),
            }
        };
        assert!(is_cut, "round {round} read too little to be cut: {outcome:?}");
        if let Some(at) = seen.iter().zip(&expected).position(|(seen, was)| seen != was) {
            let zeros = seen[at..].iter().all(|&byte| byte == 0);
            panic!(
                "round {round}: from byte {at} on, bytes that never were in the file (zeros: {zeros}; {} read, cut at \
                 {cut_at} to {keep}, {outcome:?})",
                seen.len()
            );
        }
        assert!(!pair.host().has_ended(), "the host died in round {round}: {}", pair.host().stderr());
        // What is left can be read by whoever opens it now.
        assert!(fs::read(mount.point.join(&name)).unwrap() == expected[..keep], "round {round}: the rest differs");
    }
}
