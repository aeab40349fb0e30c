//! Who gets in, who does not, and what is kept secret.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use perf::lab::End;
use rustix::process::Signal;
use serde_json::Value;
use tests::e2e::pair::{is_mounted, signal};
use tests::e2e::wait::{self, SOON};
use tests::e2e::{Io, Pair};
use tests::on_both_backends;

on_both_backends!(only_the_code_opens_and_then_the_key_does, a_revoked_device_is_out_at_once);

/// The exit code of a refusal.
const REFUSED: i32 = 4;

/// Another valid code with the same nameplate.
fn wrong(code: &str) -> String {
    let (front, last) = code.rsplit_once('-').expect("a code has words");
    format!("{front}-{}", if last == "zebra" { "abandon" } else { "zebra" })
}

fn only_the_code_opens_and_then_the_key_does(io: Io) {
    let mut pair = Pair::hosting(io);
    fs::write(pair.share().join("secret-name"), "content").unwrap();
    let point = pair.lab().mount_point("mnt").unwrap();
    let (target, code) = (pair.target(), pair.code().to_owned());

    let mut command = pair.client_without_code(&["mount", &target]);
    let refused = pair.run(command.arg(&point).env("WORMHOLE_CODE", wrong(&code))).expect(REFUSED);
    assert!(refused.stderr.contains("wrong join code"), "{}", refused.stderr);
    assert!(!is_mounted(&point));
    for words in [&["ls", &target][..], &["mount", &target, point.to_str().unwrap()]] {
        let refused = pair.run(&mut pair.client_without_code(words)).expect(REFUSED);
        let said = refused.stderr + &String::from_utf8_lossy(&refused.stdout);
        assert!(said.contains("WORMHOLE_CODE"), "no remedy in: {said}");
        assert!(!said.contains("secret-name"), "a name was told to a stranger");
        assert!(!is_mounted(&point));
    }
    pair.host().wait_event("two refusals", |_| Some(()));
    let events = pair.host().events();
    assert!(events.iter().any(|event| event["type"] == "PeerRefused"), "{events:?}");
    assert!(events.iter().all(|event| event["type"] != "PeerConnected"), "{events:?}");

    let mount = pair.mount("mnt");
    assert_eq!(fs::read(mount.point.join("secret-name")).unwrap(), b"content");
    pair.host().wait_event("an enrolment", |event| {
        (event["type"] == "PeerConnected" && event["data"]["enrolled"] == true).then_some(())
    });
    // The key that was enrolled opens without a code, and beside a code that is stale.
    let listed = pair.run(&mut pair.client_without_code(&["ls", &target])).expect(0);
    assert_eq!(listed.stdout, b"secret-name\n");
    let mut command = pair.client_without_code(&["ls", &target]);
    pair.run(command.env("WORMHOLE_CODE", wrong(&code))).expect(0);
    let second = pair.lab().mount_point("second").unwrap();
    let mut command = pair.client_without_code(&["mount", &target]);
    pair.run(command.arg(&second)).expect(0);
    assert_eq!(fs::read(second.join("secret-name")).unwrap(), b"content");
}

fn a_revoked_device_is_out_at_once(io: Io) {
    let mut pair = Pair::hosting(io);
    fs::write(pair.share().join("file"), "content").unwrap();
    let mount = pair.mount("mnt");
    assert_eq!(fs::read(mount.point.join("file")).unwrap(), b"content");

    let peers = pair.run(&mut pair.at(End::Host, &["peers", "list", "--json"])).expect(0);
    let peer = peers.event("Peer");
    assert_eq!(peer["revoked"], false, "{peer}");
    let fingerprint = peer["fingerprint"].as_str().expect("a fingerprint").to_owned();
    let revoked = pair.run(&mut pair.at(End::Host, &["peers", "revoke", &fingerprint[..9], "--json"])).expect(0);
    assert_eq!(revoked.event("PeerRevoked")["fingerprint"], fingerprint.as_str());

    pair.host().wait_event("the device dropped", |event| (event["type"] == "PeerDisconnected").then_some(()));
    let denied = wait::until("an open that is denied", SOON, || fs::read(mount.point.join("file")).err());
    let denied = match denied.raw_os_error() {
        Some(13) => denied,
        // The first call may meet the end of the connection itself; those after it know why.
        _ => wait::until("EACCES", SOON, || {
            fs::read(mount.point.join("file")).err().filter(|error| error.raw_os_error() == Some(13))
        }),
    };
    assert_eq!(denied.kind(), std::io::ErrorKind::PermissionDenied);
    let again = pair.lab().mount_point("again").unwrap();
    let mut command = pair.client_without_code(&["mount", &pair.target()]);
    let refused = pair.run(command.arg(&again)).expect(REFUSED);
    assert!(refused.stderr.contains("revoked"), "{}", refused.stderr);
    assert!(!refused.stderr.contains("WORMHOLE_CODE"), "no code would help: {}", refused.stderr);
    assert!(!is_mounted(&again));
    let peers = pair.run(&mut pair.at(End::Host, &["peers", "list", "--json"])).expect(0);
    assert_eq!(peers.event("Peer")["revoked"], true);
    // The dead mount is still taken away in order.
    signal(mount.daemon, Signal::TERM);
    pair.wait_nothing_left("revocation");
}

/// Every file below a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[test]
fn secrets_stay_where_they_belong() {
    let mut pair = Pair::up(Io::Uring);
    fs::write(pair.share().join("file"), "content").unwrap();
    pair.start_host(&["-vvv"]);
    let mount = pair.mount_as("mnt", |command| {
        command.env("WORMHOLE_LOG_LEVEL", "trace");
    });
    assert_eq!(fs::read(mount.point.join("file")).unwrap(), b"content");
    let code = pair.code().to_owned();
    let mut command = pair.client(&["ls", &pair.target(), "-vvv"]);
    let listed = pair.run(&mut command).expect(0);

    // In nobody's arguments, of the whole machine.
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let shown = String::from_utf8_lossy(&arguments).into_owned();
        assert!(!shown.contains(&code), "the code stands in the arguments of {:?}: {shown}", entry.file_name());
    }
    // Nor in the environment of what stays in the background.
    for id in &mount.processes {
        let environment = fs::read(format!("/proc/{id}/environ")).unwrap();
        assert!(!String::from_utf8_lossy(&environment).contains(&code), "the code stays in the environment of {id}");
    }

    // State is its owner's alone.
    let mut states = Vec::new();
    for end in [End::Host, End::Client] {
        let state = pair.lab().home(end).join("state/wormhole");
        let files = files_below(&state);
        assert!(files.iter().any(|file| file.ends_with("node.key")), "{files:?}");
        for file in files {
            let mode = fs::metadata(&file).unwrap().mode() & 0o7777;
            assert_eq!(mode, 0o600, "{}", file.display());
            let folder = fs::metadata(file.parent().unwrap()).unwrap().mode() & 0o7777;
            assert_eq!(folder, 0o700, "the folder of {}", file.display());
            states.push(file);
        }
    }

    // Logs at their most talkative hold neither codes nor keys. The host shows its code to its owner, on lines of
    // their own.
    let host_said = pair.host().stderr();
    let host_log: Vec<&str> =
        host_said.lines().filter(|line| !line.starts_with("Join code:") && !line.starts_with("Link:")).collect();
    let mut logs = vec![host_log.join("\n"), listed.stderr];
    logs.extend(
        states
            .iter()
            .filter(|file| file.extension().is_some_and(|it| it == "log"))
            .map(|file| String::from_utf8_lossy(&fs::read(file).unwrap()).into_owned()),
    );
    assert_eq!(logs.len(), 3, "one log of the mount");
    assert!(logs[0].lines().count() > 3, "the host was to be talkative: {host_said}");
    let words = code.split_once('-').expect("a nameplate, then words").1.to_owned();
    let keys: Vec<Vec<u8>> =
        states.iter().filter(|file| file.ends_with("node.key")).map(|f| fs::read(f).unwrap()).collect();
    for log in &logs {
        assert!(!log.contains(&words), "the code is in a log: {log}");
        for key in &keys {
            // The private half of a PKCS#8 key of Ed25519 is the 32 bytes behind its 16 byte head (RFC 8410 §7).
            let hex: String = key.iter().skip(16).take(16).map(|byte| format!("{byte:02x}")).collect();
            assert!(!log.contains(&hex), "a key is in a log");
        }
    }
}

#[test]
fn a_code_from_a_file_opens_and_is_not_repeated() {
    let pair = Pair::hosting(Io::Uring);
    fs::write(pair.share().join("file"), "content").unwrap();
    let file = pair.directory().join("code");
    let list = |text: &str| {
        fs::write(&file, text).unwrap();
        let mut command = pair.client_without_code(&["ls", &pair.target(), "--json"]);
        pair.run(command.arg("--code-file").arg(&file))
    };
    let bad = list("hunter2 hunter2 hunter2").expect(2);
    assert!(!bad.stderr.contains("hunter2"), "{}", bad.stderr);
    let refused = list(&wrong(pair.code())).expect(REFUSED);
    assert_eq!(refused.event("Error")["kind"], Value::from("Refused"));
    let opened = list(&format!("{}\n", pair.code())).expect(0);
    assert_eq!(opened.event("Entry")["name"], "file");
}
