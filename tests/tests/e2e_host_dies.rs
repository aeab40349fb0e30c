//! The host is killed or cut off: calls end within their bound, and the mount comes back by itself.

use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tests::e2e::load::{Load, kill_rounds, write_files};
use tests::e2e::wait::{self, SOON};
use tests::e2e::{Io, Mount, Pair};
use tests::on_both_backends;

on_both_backends!(a_killed_host_releases_its_readers_and_comes_back, a_cut_link_releases_its_readers_and_comes_back);

/// How long one call may take without a host: mounts here are given 3 s (`--timeout-s 3`), the rest is for a loaded
/// machine.
const CALL_LIMIT: Duration = Duration::from_secs(15);

/// How soon a mount must work again once its host can be reached.
const BACK_LIMIT: Duration = Duration::from_secs(30);

/// Files and their size: together more than the mount keeps, so that readers need the host.
const FILES: usize = 10;
const FILE_BYTES: usize = 8 << 20;

/// Memory for file contents that holds a fraction of the files.
const SMALL_CACHE: [&str; 2] = ["--ram-cache-mb", "16"];

/// Kills in the gate; each costs the seconds that a mount waits for its host.
const ROUNDS: usize = 3;

/// Waits for the readers and checks that each was released in time by an error, with right bytes until then.
#[track_caller]
fn expect_released(load: Load, why: &str) {
    for outcome in load.wait(why, SOON) {
        assert!(outcome.error.is_some(), "{why}: a reader ended without an error");
        assert!(!outcome.differs, "{why}: other bytes than the host's");
        assert!(outcome.longest < CALL_LIMIT, "{why}: one call took {:?}", outcome.longest);
    }
}

#[track_caller]
fn expect_ls_returns(pair: &Pair, mount: &Mount, why: &str) {
    let begun = Instant::now();
    let mut ls = Command::new("ls");
    // Whatever it says: it must not hang.
    pair.start(ls.arg(&mount.point), "ls").wait(SOON);
    assert!(begun.elapsed() < CALL_LIMIT, "{why}: ls took {:?}", begun.elapsed());
}

/// Reads every file again until all of it is right.
#[track_caller]
fn expect_back(pair: &Pair, mount: &Mount, names: &[String], why: &str) {
    wait::until(&format!("{why}: the mount is back"), BACK_LIMIT, || std::fs::read(mount.point.join(&names[0])).ok());
    for name in names {
        let seen = std::fs::read(mount.point.join(name)).unwrap_or_else(|error| panic!("{why}: {name}: {error}"));
        assert!(seen == std::fs::read(pair.share().join(name)).unwrap(), "{why}: {name} differs");
    }
}

fn a_killed_host_releases_its_readers_and_comes_back(io: Io) {
    let mut pair = Pair::hosting(io);
    let names = write_files(pair.share(), FILES, FILE_BYTES);
    let mount = pair.mount_with("mnt", &SMALL_CACHE);
    for round in 0..kill_rounds(ROUNDS) {
        let why = format!("round {round}");
        let load = Load::start(&mount.point, pair.share(), &names);
        pair.host().signal(Signal::KILL);
        expect_released(load, &why);
        expect_ls_returns(&pair, &mount, &why);
        pair.start_host(&[]);
        expect_back(&pair, &mount, &names, &why);
    }
}

fn a_cut_link_releases_its_readers_and_comes_back(io: Io) {
    let pair = Pair::hosting(io);
    let names = write_files(pair.share(), FILES, FILE_BYTES);
    let mount = pair.mount_with("mnt", &SMALL_CACHE);
    let load = Load::start(&mount.point, pair.share(), &names);
    pair.set_link("down");
    expect_released(load, "cut");
    expect_ls_returns(&pair, &mount, "cut");
    pair.set_link("up");
    expect_back(&pair, &mount, &names, "cut");
}
