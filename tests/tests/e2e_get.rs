//! `wormhole get`: whole copies, resumed copies, and copies that cannot be made.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::fs::FileType;
use rustix::process::Signal;
use serde_json::Value;
use tests::e2e::load::content;
use tests::e2e::snapshot::{self, Snapshot};
use tests::e2e::wait::SOON;
use tests::e2e::{Io, Pair};
use tests::on_both_backends;

on_both_backends!(a_folder_of_odd_names_is_copied, an_interrupted_copy_goes_on);

/// A file that takes seconds at [`SLOW`], so that something can happen meanwhile.
const LARGE_BYTES: usize = 96 << 20;

/// The rate of the link for that.
const SLOW: &str = "400mbit";

/// What `get` promises to take over: kinds it copies, contents, targets, times and the permissions below 0o1000.
fn as_copied(mut snapshot: Snapshot) -> Snapshot {
    snapshot.retain(|_, entry| {
        let kind = FileType::from_raw_mode(entry.mode);
        matches!(kind, FileType::RegularFile | FileType::Directory | FileType::Symlink)
    });
    for entry in snapshot.values_mut() {
        let kind = FileType::from_raw_mode(entry.mode);
        entry.mode &= !0o7000;
        (entry.owner, entry.links) = ((0, 0), 0);
        if kind == FileType::Symlink {
            entry.size = 0;
        }
    }
    snapshot
}

fn finished(events: &[Value]) -> &Value {
    let last = events.last().expect("events");
    assert_eq!(last["type"], "GetFinished", "{last}");
    &last["data"]
}

fn a_folder_of_odd_names_is_copied(io: Io) {
    let mut pair = Pair::up(io);
    for folder in ["names", "deep/er"] {
        fs::create_dir_all(pair.share().join(folder)).unwrap();
    }
    use std::os::unix::ffi::OsStrExt as _;
    for byte in (1..=255).filter(|&byte| byte != b'/') {
        let name = [b'x', byte, b'y'];
        fs::write(pair.share().join("names").join(std::ffi::OsStr::from_bytes(&name)), name).unwrap();
    }
    fs::write(pair.share().join("n".repeat(255)), "longest").unwrap();
    for size in [0, 65_535, 65_536, 65_537, (1 << 20) + 1, 9 << 20] {
        fs::write(pair.share().join(format!("deep/er/{size}")), content("get", size)).unwrap();
    }
    std::os::unix::fs::symlink("no/such", pair.share().join("dangling")).unwrap();
    assert!(Command::new("mkfifo").arg(pair.share().join("fifo")).status().unwrap().success());
    pair.start_host(&[]);

    let copy = pair.directory().join("copy");
    let get = || {
        let mut command = pair.client(&["get", &pair.target(), "--json"]);
        pair.run(command.arg(&copy)).expect(0).events()
    };
    let events = get();
    let summary = finished(&events);
    assert_eq!(summary["skipped"].as_array().map(Vec::len), Some(1), "the FIFO: {summary}");
    assert_eq!(summary["failed"], Value::Array(Vec::new()));
    assert_eq!(summary["bytes_resumed"], 0);
    let progress: Vec<&Value> = events.iter().filter(|event| event["type"] == "Progress").collect();
    let data = &progress.last().expect("progress")["data"];
    for key in ["files_done", "files_total", "bytes_done", "bytes_total", "bytes_resumed"] {
        assert!(data[key].is_u64(), "{key} in {data}");
    }
    assert_eq!(data["listing"], false);
    let original = as_copied(snapshot::take(pair.share()));
    assert!(original.len() > 260);
    snapshot::assert_same(&original, &as_copied(snapshot::take(&copy)));

    // Again: all of it is there.
    let events = get();
    assert_eq!(finished(&events)["bytes_resumed"], finished(&events)["bytes"]);
    snapshot::assert_same(&original, &as_copied(snapshot::take(&copy)));
}

fn an_interrupted_copy_goes_on(io: Io) {
    let pair = Pair::hosting(io);
    pair.limit_rate(SLOW);
    let original = content("large", LARGE_BYTES);
    fs::write(pair.share().join("large"), &original).unwrap();
    let copy = pair.directory().join("copy");
    let target = format!("{}:large", pair.target());
    let mut command = pair.client(&["get", &target, "--json"]);
    let mut running = pair.start(command.arg(&copy), "get");
    running.wait_event("some of the file", |event| {
        event["data"]["bytes_done"].as_u64().filter(|&bytes| event["type"] == "Progress" && bytes > 4 << 20)
    });
    running.signal(Signal::INT);
    let interrupted = running.wait(SOON).expect(130);
    assert!(interrupted.stderr.contains("goes on from here"), "{}", interrupted.stderr);
    assert!(!copy.exists(), "an unfinished file stands at its place");

    let mut command = pair.client(&["get", &target, "--json"]);
    let events = pair.run(command.arg(&copy)).expect(0).events();
    let summary = finished(&events);
    let resumed = summary["bytes_resumed"].as_u64().expect("a count");
    assert!(resumed > 0 && resumed <= LARGE_BYTES as u64, "{summary}");
    assert!(fs::read(&copy).unwrap() == original);
    let left: Vec<_> = fs::read_dir(pair.directory()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains(".part")), "{left:?}");
}

#[test]
fn a_file_that_changes_meanwhile_is_never_a_mixture() {
    let pair = Pair::hosting(Io::Uring);
    pair.limit_rate(SLOW);
    let (old, new) = (content("old", LARGE_BYTES), content("new", LARGE_BYTES));
    let original = pair.share().join("file");
    let target = format!("{}:file", pair.target());
    for replace in [true, false] {
        fs::write(&original, &old).unwrap();
        let copy = pair.directory().join(format!("copy-{replace}"));
        let mut command = pair.client(&["get", &target, "--json"]);
        let mut running = pair.start(command.arg(&copy), "get");
        running.wait_event("the beginning", |event| {
            event["data"]["bytes_done"].as_u64().filter(|&bytes| event["type"] == "Progress" && bytes > 1 << 20)
        });
        if replace {
            fs::write(pair.share().join("beside"), &new).unwrap();
            fs::rename(pair.share().join("beside"), &original).unwrap();
        } else {
            fs::write(&original, &new).unwrap();
        }
        let ended = running.wait(SOON);
        if ended.code() == Some(1) && !replace {
            // It changed at every try: said so, and nothing put in its place.
            assert!(ended.stderr.contains("keeps changing"), "{}", ended.stderr);
            assert!(!copy.exists());
        } else {
            ended.expect(0);
            let seen = fs::read(&copy).unwrap();
            // A file rewritten in place begins empty and grows: each state it had on the host is one to copy.
            let was_there = seen == old || if replace { seen == new } else { new.starts_with(&seen) };
            assert!(was_there, "a mixture of two versions ({} bytes, replaced: {replace})", seen.len());
        }
        let mut command = pair.client(&["get", &target]);
        pair.run(command.arg(&copy)).expect(0);
        assert!(fs::read(&copy).unwrap() == new, "the next run brings the new version");
    }
}

/// A file system of its own, so small that it fills; it goes with the lab's mounts.
fn mount_tmpfs(options: &str, point: &Path) {
    let status = Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(point).status();
    assert!(status.unwrap().success(), "mount -o {options}");
}

#[test]
fn a_full_destination_is_an_error_and_room_lets_it_go_on() {
    let pair = Pair::hosting(Io::Uring);
    fs::create_dir(pair.share().join("folder")).unwrap();
    for index in 0..6 {
        fs::write(pair.share().join(format!("folder/{index}")), content(&index.to_string(), 4 << 20)).unwrap();
    }
    let small = pair.lab().mount_point("small").unwrap();
    mount_tmpfs("size=10m", &small);
    let copy = small.join("copy");
    let get = || {
        let mut command = pair.client(&["get", &format!("{}:folder", pair.target()), "--json"]);
        pair.run(command.arg(&copy))
    };
    let full = get().expect(1);
    let error = full.event("Error");
    assert!(error["message"].as_str().unwrap().contains("free some space"), "{error}");
    mount_tmpfs("remount,size=64m", &small);
    let events = get().expect(0).events();
    assert!(finished(&events)["bytes_resumed"].as_u64().unwrap() > 0, "nothing was resumed: {events:?}");
    snapshot::assert_same(&as_copied(snapshot::take(&pair.share().join("folder"))), &as_copied(snapshot::take(&copy)));
}

#[test]
fn a_file_that_cannot_be_read_fails_the_copy_and_is_named() {
    let mut pair = Pair::up(Io::Uring);
    fs::write(pair.share().join("good"), "good").unwrap();
    pair.start_host(&[]);
    // A name that is listed and cannot be opened: something is mounted there, and shares end at mount points.
    let bad = pair.share().join("bad");
    fs::write(&bad, content("bad", 200_000)).unwrap();
    assert!(Command::new("mount").args(["--bind", "/proc/self/mem"]).arg(&bad).status().unwrap().success());
    let _unmounted = Unmount(&bad);
    let copy = pair.directory().join("copy");
    let mut command = pair.client(&["get", &pair.target(), "--json"]);
    let finished = pair.run(command.arg(&copy));
    assert_eq!(fs::read(copy.join("good")).unwrap(), b"good");
    let said = format!("{:?} {}", finished.events(), finished.stderr);
    assert!(said.contains("bad"), "the file is not named: {said}");
    finished.expect(1);
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        // The share is removed afterwards, through nothing that is mounted there.
        let _gone = rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH);
    }
}
