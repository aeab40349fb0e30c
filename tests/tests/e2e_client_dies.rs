//! However a mount ends, nothing of it is left: no mount, no process.

use std::process::Command;
use std::time::Duration;

use perf::lab::End;
use rustix::process::Signal;
use tests::e2e::load::{Load, content, kill_rounds, write_files};
use tests::e2e::pair::{is_mounted, signal};
use tests::e2e::wait::{self, SOON, pass};
use tests::e2e::{Io, Mount, Pair};
use tests::on_both_backends;

on_both_backends!(a_mount_under_load_ends_without_a_trace);

/// The ways a mount may end.
const ENDS: [&str; 5] = ["SIGKILL", "SIGTERM", "SIGINT", "wormhole unmount", "umount"];

/// Longest time of the load before the end; a mount is in full flow long before.
const MOMENT_MAX: Duration = Duration::from_millis(300);

/// Ends in the gate, each of [`ENDS`] twice.
const ROUNDS: usize = 10;

fn a_mount_under_load_ends_without_a_trace(io: Io) {
    let pair = Pair::hosting(io);
    let names = write_files(pair.share(), 4, 4 << 20);
    for round in 0..kill_rounds(ROUNDS) {
        let end = ENDS[round % ENDS.len()];
        let why = format!("{end} in round {round}");
        let mount = pair.mount_with("mnt", &["--ram-cache-mb", "8"]);
        let load = Load::start(&mount.point, pair.share(), &names);
        // Another moment each round, the same in each run.
        pass(MOMENT_MAX * u32::from(content(&why, 1)[0]) / 255);
        let outcomes = match end {
            // An orderly `umount` wants the readers gone; the other ends come under them.
            "umount" => {
                let outcomes = load.stop(&why, SOON);
                end_it(&pair, &mount, end);
                outcomes
            }
            _ => {
                end_it(&pair, &mount, end);
                load.wait(&why, SOON)
            }
        };
        assert!(outcomes.iter().all(|outcome| !outcome.differs), "{why}: other bytes than the host's");
        pair.wait_nothing_left(&why);
        assert!(std::fs::read_dir(&mount.point).unwrap().next().is_none(), "{why}: the folder beneath is not empty");
    }
    assert!(!pair.processes(End::Host).is_empty(), "the host died");
}

fn end_it(pair: &Pair, mount: &Mount, end: &str) {
    match end {
        "SIGKILL" => signal(mount.daemon, Signal::KILL),
        "SIGTERM" => signal(mount.daemon, Signal::TERM),
        "SIGINT" => signal(mount.daemon, Signal::INT),
        "wormhole unmount" => {
            let mut command = pair.at(End::Client, &["unmount"]);
            pair.run(command.arg(&mount.point)).expect(0);
            assert!(!is_mounted(&mount.point), "unmount returned 0 and the mount is there");
        }
        _ => {
            let finished = pair.run(Command::new("umount").arg(&mount.point));
            finished.expect(0);
        }
    }
}

/// A mount in the foreground is its own process, and a signal ends it in order.
#[test]
fn a_mount_in_the_foreground_ends_with_its_process() {
    let pair = Pair::hosting(Io::Uring);
    std::fs::write(pair.share().join("file"), "hello").unwrap();
    for end in [Signal::INT, Signal::TERM, Signal::KILL] {
        let point = pair.lab().mount_point("mnt").unwrap();
        let mut command = pair.client(&["mount", &pair.target(), "--foreground", "--json"]);
        let mut running = pair.start(command.arg(&point), "foreground");
        running.wait_event("MountReady", |event| (event["type"] == "MountReady").then_some(()));
        assert_eq!(std::fs::read(point.join("file")).unwrap(), b"hello");
        running.signal(end);
        let finished = running.wait(SOON);
        if end != Signal::KILL {
            assert!(finished.events().iter().any(|event| event["type"] == "Stopped"), "{end:?}: {finished:?}");
            finished.expect(0);
        }
        pair.wait_nothing_left(&format!("{end:?}"));
    }
}

/// Unmounting what is not mounted is an error that says so, and a second mount on one point leaves none behind.
#[test]
fn an_unmount_of_nothing_is_not_found() {
    let pair = Pair::hosting(Io::Uring);
    let point = pair.lab().mount_point("mnt").unwrap();
    let finished = pair.run(pair.at(End::Client, &["unmount"]).arg(&point)).expect(3);
    assert!(finished.stderr.contains("not a wormhole mount"), "{}", finished.stderr);
    let mount = pair.mount("mnt");
    wait::until("the mount answers", SOON, || std::fs::read_dir(&mount.point).ok());
    pair.run(pair.at(End::Client, &["unmount"]).arg(&point)).expect(0);
    pair.wait_nothing_left("unmount");
}
