//! A mount whose requests come through io_uring holds what every other mount does; where it cannot, it says so.

#[path = "../../vfs/tests/mount_support/switch.rs"]
mod switch;

use std::fs;
use std::process::Command;
use std::time::Duration;

use perf::lab::End;
use rustix::process::Signal;
use serde_json::Value;
use tests::e2e::load::{Load, content, write_files};
use tests::e2e::pair::{is_mounted, signal};
use tests::e2e::wait::{SOON, pass};
use tests::e2e::{Io, Mount, Pair, snapshot, tree};

/// How long readers are under way before their mount ends.
const MOMENT: Duration = Duration::from_millis(150);

/// A mount that asked for io_uring, and whether it must have got it.
fn mounted(pair: &Pair) -> (Mount, bool) {
    let switch = switch::on();
    let mount = pair.mount_with("mnt", &["--fuse", "uring", "--ram-cache-mb", "16"]);
    let report = report(pair);
    assert_eq!(report["fuse"], if switch.is_some() { "uring" } else { "device" }, "{report}");
    (mount, switch.is_some())
}

/// What the one mount says of itself.
fn report(pair: &Pair) -> Value {
    let reports = pair.status(End::Client);
    assert_eq!(reports.len(), 1, "{reports:?}");
    reports[0]["data"]["report"].clone()
}

#[test]
fn a_tree_and_a_large_file_read_as_on_the_host() {
    let pair = Pair::hosting(Io::Uring);
    tree::create(pair.share());
    fs::write(pair.share().join("large"), content("large", 64 << 20)).unwrap();
    let (mount, _) = mounted(&pair);
    snapshot::assert_same(&snapshot::take(pair.share()), &snapshot::take(&mount.point));
    let compare = |pair: &Pair| {
        let mut command = Command::new("cmp");
        pair.start(command.arg(mount.point.join("large")).arg(pair.share().join("large")), "cmp")
    };
    let both = [compare(&pair), compare(&pair)];
    both.into_iter().for_each(|one| drop(one.wait(SOON).expect(0)));
    pair.run(&mut pair.at(End::Client, &["unmount", mount.point.to_str().unwrap()])).expect(0);
    pair.wait_nothing_left("unmount");
}

#[test]
fn it_ends_under_load_without_a_trace() {
    let pair = Pair::hosting(Io::Uring);
    let names = write_files(pair.share(), 4, 4 << 20);
    for end in [Signal::KILL, Signal::TERM, Signal::KILL, Signal::INT] {
        let (mount, _) = mounted(&pair);
        let load = Load::start(&mount.point, pair.share(), &names);
        pass(MOMENT);
        signal(mount.daemon, end);
        let why = format!("{end:?}");
        assert!(load.wait(&why, SOON).iter().all(|outcome| !outcome.differs), "{why}: other bytes than the host's");
        pair.wait_nothing_left(&why);
    }
}

#[test]
fn where_it_is_switched_off_the_device_serves_and_the_mount_says_so() {
    let pair = Pair::hosting(Io::Uring);
    fs::write(pair.share().join("file"), "content").unwrap();
    let switch = switch::off();
    let mount = pair.mount_with("mnt", &["--fuse", "uring"]);
    assert!(is_mounted(&mount.point));
    assert_eq!(fs::read(mount.point.join("file")).unwrap(), b"content");
    let report = report(&pair);
    assert_eq!(report["fuse"], "device", "{report}");
    let why = report["fuse_uring_unavailable"].as_str().unwrap_or_default();
    let expected = if switch.is_some() { "enable_uring" } else { "Linux 6.14" };
    assert!(why.contains(expected), "{why}");
}

#[test]
fn without_a_wish_no_reason_is_given() {
    let pair = Pair::hosting(Io::Uring);
    let _mount = pair.mount("mnt");
    let report = report(&pair);
    assert_eq!((&report["fuse"], report.get("fuse_uring_unavailable")), (&"device".into(), None), "{report}");
}
