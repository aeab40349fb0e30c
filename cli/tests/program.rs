//! The program as scripts see it: exit codes, stdout, stderr. Nothing here needs a host.

use std::path::Path;
use std::process::{Command, Output};

/// The program with folders of its own below `home` and no terminal.
fn wormhole(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wormhole"));
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .stdin(std::process::Stdio::null());
    for (variable, folder) in [
        ("XDG_CONFIG_HOME", "c"),
        ("XDG_CACHE_HOME", "k"),
        ("XDG_STATE_HOME", "s"),
        ("XDG_DATA_HOME", "d"),
        ("XDG_RUNTIME_DIR", "r"),
    ] {
        command.env(variable, home.join(folder));
    }
    std::fs::create_dir_all(home.join("r")).unwrap();
    command
}

fn run(home: &Path, line: &str) -> Output {
    wormhole(home).args(line.split(' ')).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs `line`, expects `code`, and expects `part` in what people read.
#[track_caller]
fn fails(line: &str, code: i32, part: &str) {
    let home = tempfile::tempdir().unwrap();
    let output = run(home.path(), line);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{line}: {stderr}");
    assert!(stderr.contains(part), "{line}: {stderr}");
    assert_eq!(text(&output.stdout), "", "{line}");
}

#[test]
fn what_is_not_yet_is_refused_and_not_ignored() {
    fails("host . --allow-write", 2, "not yet: shares are read-only");
    fails("host . --signal https://s", 2, "no signal server");
    fails("mount studio /tmp --cache-dir /c", 2, "--cache-dir");
    fails("put a studio:", 2, "put");
    fails("mount studio /tmp --disk-cache-gb 1", 2, "--disk-cache-gb");
    fails("config set cache_dir /c", 2, "there is no disk cache yet");
    let home = tempfile::tempdir().unwrap();
    for (line, variable) in
        [(&["host", "."][..], "WORMHOLE_SIGNAL_SERVER"), (&["mount", "127.0.0.1", "/tmp"], "WORMHOLE_CACHE_DIR")]
    {
        let output = wormhole(home.path()).args(line).env(variable, "/s").output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains(variable));
    }
}

#[test]
fn a_code_is_given_once() {
    let target = "wormhole://join/4821-nebula-orbit-cedar-maple?host=127.0.0.1";
    for line in [format!("ls {target} --code-file f"), format!("mount {target} /tmp --code-file f")] {
        fails(&line, 2, "leave --code-file out");
    }
}

#[test]
fn a_code_without_an_address_is_explained_and_never_repeated() {
    let code = "4821-nebula-orbit-cedar-maple";
    for line in [format!("mount {code} /tmp"), format!("ls {code}:a"), format!("get wormhole://join/{code} /tmp")] {
        fails(&line, 2, "wormhole:// link");
        let home = tempfile::tempdir().unwrap();
        assert!(!text(&run(home.path(), &line).stderr).contains("nebula"));
    }
}

#[test]
fn a_code_cut_short_is_no_host_to_look_up() {
    for line in ["ls 4821-orbit-ocean", "get 4821-orbit:a /tmp", "mount 4821-orbit-ocean /tmp", "ls orbit-ocean-zebra"]
    {
        fails(line, 2, "looks like a join code");
        let home = tempfile::tempdir().unwrap();
        assert!(!text(&run(home.path(), line).stderr).contains("orbit"), "{line}");
    }
}

#[test]
fn a_missing_mountpoint_is_not_found() {
    fails("mount 127.0.0.1 /no/such/folder", 3, "mkdir -p");
}

#[test]
fn a_weak_code_is_refused() {
    fails("host . --code 1-a-b-c", 2, "--code");
}

#[test]
fn errors_are_events_with_json() {
    for (line, kind) in [
        ("--json nonsense", "Usage"),
        ("host . --allow-write --json", "Usage"),
        ("mount --json 127.0.0.1 /no/such/folder", "NotFound"),
    ] {
        let home = tempfile::tempdir().unwrap();
        let output = run(home.path(), line);
        let stdout = text(&output.stdout);
        assert_eq!(stdout.lines().count(), 1, "{line}: {stdout}");
        let event: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(event["type"], "Error");
        assert_eq!(event["data"]["kind"], kind, "{line}");
        assert!(!event["data"]["message"].as_str().unwrap().is_empty());
    }
}

#[test]
fn settings_go_round() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let stdout = |line: &str| {
        let output = run(home, line);
        assert!(output.status.success(), "{line}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    assert_eq!(stdout("config get port"), "4433\n");
    stdout("config set port 5001");
    assert_eq!(stdout("config get port"), "5001\n");
    assert!(stdout("config show").contains("port = 5001  # file\n"));
    let path = stdout("config path");
    assert!(Path::new(path.trim_end()).starts_with(home.join("c")), "{path}");
    let unset = run(home, "config get name");
    assert_eq!(unset.status.code(), Some(3));

    std::fs::write(path.trim_end(), "# comment\nprot = 1\n").unwrap();
    let broken = run(home, "status");
    assert_eq!(broken.status.code(), Some(2));
    assert!(text(&broken.stderr).contains("line 2: there is no setting `prot`"));
    assert_eq!(stdout("config path"), path);
}

#[test]
fn nothing_runs_and_nobody_joined() {
    let home = tempfile::tempdir().unwrap();
    for line in ["status", "status --json"] {
        let output = run(home.path(), line);
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(text(&output.stdout), "");
        assert!(text(&output.stderr).contains("Nothing is hosted or mounted"));
    }
}

#[test]
fn a_revoked_device_is_forgotten_by_name() {
    let home = tempfile::tempdir().unwrap();
    let state = home.path().join("s/wormhole");
    // The program itself makes the folder, as its own.
    assert_eq!(run(home.path(), "peers list").status.code(), Some(0));
    let key = "ab".repeat(32);
    let peer = format!(r#"{{"key":"{key}","name":"farm","first_seen":1,"last_seen":1,"state":"enrolled"}}"#);
    std::fs::write(state.join("peers.json"), format!(r#"{{"version":1,"peers":[{peer}]}}"#)).unwrap();

    let revoked = run(home.path(), "peers revoke farm --json");
    assert_eq!(revoked.status.code(), Some(0), "{}", text(&revoked.stderr));
    let events: Vec<serde_json::Value> =
        text(&revoked.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&events[0]["type"], &events[0]["data"]["revoked"]), (&"PeerRevoked".into(), &true.into()));
    assert_eq!(events[1], serde_json::json!({"type": "HostsTold", "data": {"count": 0}}));
    assert!(text(&run(home.path(), "peers list").stdout).contains("(revoked)"));

    let forgotten = run(home.path(), "peers forget farm");
    assert_eq!(forgotten.status.code(), Some(0));
    let said = text(&forgotten.stderr);
    assert!(said.contains("Forgot farm") && said.contains("No running host"), "{said}");
    assert!(text(&run(home.path(), "peers list").stderr).contains("No device has joined"));
    assert_eq!(run(home.path(), "peers forget farm").status.code(), Some(3));
}

#[test]
fn completions_name_the_commands() {
    let home = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let output = run(home.path(), &format!("completions {shell}"));
        assert!(output.status.success());
        assert!(text(&output.stdout).contains("unmount"), "{shell}");
        let event = run(home.path(), &format!("completions {shell} --json"));
        let event: serde_json::Value = serde_json::from_slice(&event.stdout).unwrap();
        assert_eq!(event["type"], "CompletionScript");
        assert_eq!(event["data"]["script"], text(&output.stdout), "{shell}");
    }
}

#[test]
fn doctor_speaks_json_and_its_exit_code_follows_its_findings() {
    let home = tempfile::tempdir().unwrap();
    let output = run(home.path(), "doctor --json");
    let findings: Vec<serde_json::Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(findings.iter().all(|finding| finding["type"] == "Finding"));
    assert!(findings.iter().any(|finding| finding["data"]["name"] == "kernel"));
    let has_failed = findings.iter().any(|finding| finding["data"]["status"] == "Fail");
    assert_eq!(output.status.code(), Some(i32::from(has_failed)));
}

#[test]
fn the_hidden_daemon_explains_itself() {
    let home = tempfile::tempdir().unwrap();
    let output = run(home.path(), "mount-daemon");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("wormhole mount"));
}

#[test]
fn version_and_help_succeed() {
    let home = tempfile::tempdir().unwrap();
    for line in ["--version", "--help", "help mount", "host --help"] {
        let output = run(home.path(), line);
        assert!(output.status.success(), "{line}");
        assert!(!output.stdout.is_empty(), "{line}");
    }
}
