//! The `wormhole` program, run the way a user runs it: `host`, `mount` and `get` as processes of the lab.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::fixture;
use crate::lab::{End, Lab};
use crate::process::Process;

/// The port the host listens on in its namespace.
pub const PORT: u16 = 4433;

/// The variable that carries the join code, so that it stands in no process's arguments.
pub const CODE_VARIABLE: &str = "WORMHOLE_CODE";

/// How long a host may take to be ready.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Finds the `wormhole` program that belongs to this one, building it first when run by cargo.
///
/// `WORMHOLE_PROGRAM` names another one.
///
/// # Errors
/// If it cannot be built or is not there.
pub fn program() -> anyhow::Result<PathBuf> {
    if let Some(named) = std::env::var_os("WORMHOLE_PROGRAM") {
        return Ok(named.into());
    }
    let own = std::env::current_exe()?;
    let mut directory = own.parent().context("this program is in no directory")?;
    // Where cargo keeps test programs: one below the others.
    if directory.file_name() == Some(OsStr::new("deps")) {
        directory = directory.parent().context("deps is in no directory")?;
    }
    if let Some(cargo) = std::env::var_os("CARGO") {
        let is_release = directory.file_name() == Some(OsStr::new("release"));
        build(&cargo, is_release)?;
    }
    let program = directory.join("wormhole");
    ensure!(program.is_file(), "no wormhole beside this program; run: cargo build --release -p cli");
    Ok(program)
}

/// What was measured, as the `program` object of the report: the program's word for its version, its BLAKE3 hash, and
/// how it was built, as far as that is known.
///
/// What cannot be found out is `null`.
pub fn describe() -> Value {
    let Ok(program) = program() else {
        return Value::Null;
    };
    let said = Command::new(&program).arg("--version").stdin(Stdio::null()).output();
    let version = said.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    json!({
        "version": version.and_then(|text| String::from_utf8(text).ok()).map(|text| text.trim().to_owned()),
        "blake3": fixture::hash_file(&program).ok().map(|(_, hash)| hash.to_hex().as_str().to_owned()),
        "profile": profile(&program),
    })
}

/// How a program was built, from the folder that cargo puts it in; `None` for one that lies elsewhere.
fn profile(program: &Path) -> Option<&'static str> {
    let folder = program.parent()?.file_name()?;
    ["release", "debug"].into_iter().find(|profile| folder == *profile)
}

fn build(cargo: &OsStr, is_release: bool) -> anyhow::Result<()> {
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--package", "cli", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    if is_release {
        command.arg("--release");
    }
    let status = command.status().context("cannot run cargo")?;
    ensure!(status.success(), "building wormhole: {status}");
    Ok(())
}

/// A running `wormhole host` and its join code.
pub struct Host {
    /// The program.
    pub process: Process,
    /// The join code it printed.
    pub code: String,
}

/// How a host is run.
#[derive(Clone, Copy, Debug)]
pub enum Cores {
    /// As it comes: one shard per core, not pinned.
    All,
    /// One shard, pinned to this core.
    One(usize),
    /// So many shards, not pinned.
    Shards(usize),
}

impl Host {
    /// Starts `wormhole host` on `share` and waits for its join code.
    ///
    /// # Errors
    /// If it ends, or prints no `WaitingForPeer` event in time.
    pub fn start(lab: &Lab, program: &Path, share: &Path, cores: Cores) -> anyhow::Result<Self> {
        Self::launch(lab, program, share, lab.socket(End::Host, PORT), cores)
    }

    /// The same on an address of its own, with all cores.
    ///
    /// # Errors
    /// As [`Host::start`].
    pub fn start_at(lab: &Lab, program: &Path, share: &Path, bind: SocketAddr) -> anyhow::Result<Self> {
        Self::launch(lab, program, share, bind, Cores::All)
    }

    fn launch(lab: &Lab, program: &Path, share: &Path, bind: SocketAddr, cores: Cores) -> anyhow::Result<Self> {
        let core = match cores {
            Cores::All | Cores::Shards(_) => None,
            Cores::One(core) => Some(core),
        };
        let mut command = lab.command(End::Host, core, program);
        command.arg("host").arg(share).args(["--bind", &bind.to_string()]).args(["--no-signal", "--json"]);
        match cores {
            Cores::All => {}
            Cores::One(_) => {
                command.args(["--shards", "1"]);
            }
            Cores::Shards(count) => {
                command.args(["--shards", &count.to_string()]);
            }
        }
        let mut process = lab.spawn("wormhole-host", &mut command)?;
        let code = process.wait_line(START_LIMIT, join_code)?;
        Ok(Self { process, code })
    }
}

/// The code in a line of events, if it is the event that carries it.
fn join_code(line: &str) -> Option<String> {
    let event: Value = serde_json::from_str(line).ok()?;
    (event["type"] == "WaitingForPeer").then(|| event["data"]["code"].as_str().map(str::to_owned)).flatten()
}

/// The command that mounts the host's share; more options may be added.
pub fn mount_command(lab: &Lab, program: &Path, code: &str, mount_point: &Path) -> Command {
    let mut command = lab.command(End::Client, None, program);
    command.arg("mount").arg(lab.socket(End::Host, PORT).to_string()).arg(mount_point).env(CODE_VARIABLE, code);
    command
}

/// Starts copying `subpath` of the host's share to `destination`.
///
/// # Errors
/// If the program cannot be started.
pub fn get(lab: &Lab, program: &Path, code: &str, subpath: &str, destination: &Path) -> anyhow::Result<Process> {
    let mut command = lab.command(End::Client, None, program);
    command
        .arg("get")
        .arg(format!("{}:{subpath}", lab.socket(End::Host, PORT)))
        .arg(destination)
        .env(CODE_VARIABLE, code);
    lab.spawn("wormhole-get", &mut command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_the_folder_of_cargo() {
        assert_eq!(profile(Path::new("/t/release/wormhole")), Some("release"));
        assert_eq!(profile(Path::new("/t/debug/wormhole")), Some("debug"));
        assert_eq!(profile(Path::new("/usr/bin/wormhole")), None);
    }

    #[test]
    fn the_code_is_taken_from_its_event_alone() {
        let event = r#"{"type":"WaitingForPeer","data":{"code":"7-nebula-orbit-cedar"}}"#;
        assert_eq!(join_code(event).as_deref(), Some("7-nebula-orbit-cedar"));
        assert_eq!(join_code(r#"{"type":"HostStarted","data":{"code":"7-no"}}"#), None);
        assert_eq!(join_code(r#"{"type":"WaitingForPeer","data":{}}"#), None);
        assert_eq!(join_code("not json"), None);
    }
}
