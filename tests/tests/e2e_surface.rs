//! What scripts rely on: the shapes of `--json`, `ls`, `status` and `doctor`, and the exit codes.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use perf::lab::End;
use rustix::process::Signal;
use serde_json::Value;
use tests::e2e::run::Finished;
use tests::e2e::snapshot;
use tests::e2e::wait::SOON;
use tests::e2e::{Io, Pair};
use tests::on_both_backends;

on_both_backends!(listings_have_their_shape, services_say_what_they_do, a_mount_outlives_who_reads_its_events);

/// A pair whose share has a file, a folder, a link and a name that is not text.
fn furnished(io: Io) -> Pair {
    let pair = Pair::up(io);
    fs::write(pair.share().join("file"), "hello").unwrap();
    fs::create_dir(pair.share().join("folder")).unwrap();
    fs::write(pair.share().join("folder/inner"), "").unwrap();
    std::os::unix::fs::symlink("folder/inner", pair.share().join("link")).unwrap();
    fs::write(pair.share().join(std::ffi::OsStr::from_bytes(b"odd\n\xff")), "").unwrap();
    pair
}

fn listings_have_their_shape(io: Io) {
    let mut pair = furnished(io);
    pair.start_host(&[]);
    let ls = |subpath: &str, flags: &[&str]| -> Finished {
        let target = format!("{}{subpath}", pair.target());
        let mut command = pair.client(&["ls", &target]);
        pair.run(command.args(flags))
    };
    assert_eq!(ls("", &["-0"]).expect(0).stdout, b"file\0folder\0link\0odd\n\xff\0");
    assert_eq!(ls(":folder", &[]).expect(0).stdout, b"inner\n");
    let long = String::from_utf8(ls("", &["-l"]).expect(0).stdout).unwrap();
    assert_eq!(long.lines().count(), 4, "{long}");
    assert!(long.contains(r"$'odd\n\377'") && long.contains("link -> folder/inner"), "{long}");

    let events = ls("", &["--json"]).expect(0).events();
    let entries: Vec<&Value> =
        events.iter().inspect(|event| assert_eq!(event["type"], "Entry")).map(|e| &e["data"]).collect();
    let kinds: Vec<(&str, &str)> =
        entries.iter().map(|entry| (entry["name"].as_str().unwrap(), entry["kind"].as_str().unwrap())).collect();
    assert_eq!(kinds, [("file", "file"), ("folder", "directory"), ("link", "symlink"), ("odd\n\u{fffd}", "file")]);
    assert_eq!(entries[0]["size"], 5);
    assert_eq!(entries[2]["target"], "folder/inner");
    assert_eq!(entries[3]["name_hex"], "6f64640aff");
    for key in ["mode", "nlink", "uid", "gid", "size", "mtime_s", "mtime_ns"] {
        assert!(entries.iter().all(|entry| entry[key].is_i64() || entry[key].is_u64()), "{key}");
    }

    let missing = ls(":no/such", &["--json"]).expect(3);
    assert_eq!(missing.event("Error")["kind"], "NotFound");
    let outside = ls(":../../etc", &["--json"]);
    assert!([2, 3, 4].map(Some).contains(&outside.code()), "{outside:?}");
    assert!(outside.events().iter().all(|event| event["type"] == "Error"), "{outside:?}");
}

fn services_say_what_they_do(io: Io) {
    let mut pair = furnished(io);
    pair.start_host(&["--name", "the shots"]);
    let events = pair.host().events();
    let started = &events.iter().find(|event| event["type"] == "HostStarted").expect("HostStarted")["data"];
    assert_eq!((&started["name"], &started["io"]), (&"the shots".into(), &io.word().into()));
    assert_eq!(started["address"], pair.target());
    assert_eq!(Path::new(started["path"].as_str().unwrap()), pair.share());
    let waiting = &events.iter().find(|event| event["type"] == "WaitingForPeer").expect("WaitingForPeer")["data"];
    assert!(waiting["link"].as_str().unwrap().starts_with("wormhole://"), "{waiting}");

    let mount = pair.mount("mnt");
    let hosts = pair.status(End::Host);
    let [host] = &hosts[..] else { panic!("one host: {hosts:?}") };
    assert_eq!(host["type"], "Service");
    assert_eq!(host["data"]["kind"], "host");
    assert_eq!(host["data"]["pid"], pair.host().id());
    assert_eq!(host["data"]["report"]["io"], io.word());
    let mounts = pair.status(End::Client);
    let [service] = &mounts[..] else { panic!("one mount: {mounts:?}") };
    assert_eq!((&service["data"]["kind"], &service["data"]["pid"]), (&"mount".into(), &mount.daemon.into()));
    assert_eq!(Path::new(service["data"]["report"]["mountpoint"].as_str().unwrap()), mount.point);
    let said = format!("{hosts:?}{mounts:?}");
    assert!(!said.contains(pair.code()), "status tells the code");

    pair.host().wait_event("the enrolment", |event| {
        let data = &event["data"];
        (event["type"] == "PeerConnected" && data["peer"].is_string() && data["enrolled"] == true).then_some(())
    });
    // A host that ends in order says so last, with 0, and takes its socket along.
    pair.host().signal(rustix::process::Signal::TERM);
    tests::e2e::wait::until("the host's end", tests::e2e::wait::SOON, || pair.host().has_ended().then_some(()));
    assert_eq!(pair.host().events().last().expect("events")["type"], "Stopped");
    assert!(pair.status(End::Host).is_empty());
}

#[test]
fn a_mount_in_the_background_logs_as_it_was_told() {
    let mut pair = furnished(Io::Uring);
    pair.start_host(&[]);
    let mut logs = Vec::new();
    for (name, flags) in [("quiet", &[][..]), ("talkative", &["-vv"][..])] {
        let mount = pair.mount_as(name, |command| {
            command.args(flags);
        });
        assert_eq!(fs::read(mount.point.join("file")).unwrap(), b"hello");
        let services = pair.status(End::Client);
        let report = |service: &Value| {
            let report = &service["data"]["report"];
            (Path::new(report["mountpoint"].as_str()?) == mount.point)
                .then(|| report["log"].as_str().map(str::to_owned))
        };
        let log = services.iter().find_map(report).flatten().expect("status tells where it logs");
        logs.push(fs::read_to_string(&log).unwrap());
        pair.run(&mut pair.at(End::Client, &["unmount", mount.point.to_str().unwrap()])).expect(0);
    }
    assert_eq!(logs[0], "", "nothing to warn of");
    assert!(logs[1].contains("DEBUG") && logs[1].contains(" INFO"), "{}", logs[1]);
}

/// What a pipe whose reader has gone away is to a program.
fn closed_pipe() -> std::io::PipeWriter {
    std::io::pipe().expect("a pipe").1
}

fn a_mount_outlives_who_reads_its_events(io: Io) {
    let mut pair = furnished(io);
    pair.start_host(&[]);
    let point = pair.lab().mount_point("mnt").unwrap();
    let mut command = pair.client(&["mount", &pair.target(), point.to_str().unwrap(), "--json"]);
    let status = command.stdout(closed_pipe()).stderr(std::process::Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(fs::read(point.join("file")).unwrap(), b"hello", "it is mounted");
    pair.run(&mut pair.at(End::Client, &["unmount", point.to_str().unwrap()])).expect(0);

    // And so does one in the foreground.
    let mut command = pair.client(&["mount", &pair.target(), point.to_str().unwrap(), "--json", "--foreground"]);
    let mut child = command.stdout(closed_pipe()).stderr(std::process::Stdio::null()).spawn().unwrap();
    tests::e2e::wait::until("a mount", SOON, || {
        assert_eq!(child.try_wait().unwrap(), None, "it ended with its reader");
        fs::read(point.join("file")).ok()
    });
    pair.run(&mut pair.at(End::Client, &["unmount", point.to_str().unwrap()])).expect(0);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn doctor_finds_a_machine_that_can_mount() {
    let pair = Pair::up(Io::Uring);
    let findings = pair.run(&mut pair.at(End::Client, &["doctor", "--json"])).expect(0).events();
    assert!(findings.len() > 3, "{findings:?}");
    for finding in &findings {
        assert_eq!(finding["type"], "Finding");
        for key in ["name", "status", "detail"] {
            assert!(finding["data"][key].is_string(), "{key} in {finding}");
        }
    }
}

#[test]
fn nobody_there_is_a_network_error() {
    let pair = Pair::up(Io::Uring);
    let point = pair.lab().mount_point("mnt").unwrap();
    let target = pair.target();
    let words = ["mount", &target, point.to_str().unwrap(), "--json"];
    let mut command = pair.client_without_code(&words);
    let finished = pair.run(command.env("WORMHOLE_CODE", "1-abandon-ability-able-about")).expect(5);
    assert_eq!(finished.event("Error")["kind"], "Network");
    pair.wait_nothing_left("a mount of nobody");
}

#[test]
fn a_demo_leaves_nothing_behind() {
    let pair = Pair::up(Io::Uring);
    let temp = pair.directory().join("temp");
    fs::create_dir(&temp).unwrap();
    let names = |folder: &Path| snapshot::take(folder).into_keys().collect::<Vec<_>>();
    let home = pair.lab().home(End::Client);
    let before = names(&home);
    let demo = |size_mb: &str| {
        let mut command = pair.at(End::Client, &["demo", "--json", "--size-mb", size_mb]);
        command.env("TMPDIR", &temp);
        command
    };
    let check = |why: &str| {
        pair.wait_nothing_left(why);
        assert_eq!(names(&temp), Vec::<Vec<u8>>::new(), "left in the temporary folder after {why}");
        assert_eq!(names(&home), before, "left at home after {why}");
    };

    pair.run(&mut demo("1")).expect(0).event("DemoFinished");
    check("a demo");

    // Nor where it is interrupted while it reads through its mount.
    let mut running = pair.start(&mut demo("256"), "demo");
    running.wait_event("a mount", |event| (event["data"]["step"] == "mounted").then_some(()));
    assert_eq!(fs::read_dir(&temp).unwrap().count(), 1, "it is at work below the temporary folder");
    running.signal(Signal::TERM);
    running.wait(SOON).expect(130);
    check("an interrupted demo");
}
