//! A host and a client: two namespaces, one share, the program at both ends.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use perf::lab::{End, Lab};
use perf::mounts;
use serde_json::Value;

use super::run::{Finished, Running, wormhole};
use super::wait::{self, SOON};

/// The host's port inside its namespace.
pub const PORT: u16 = 4433;

/// The link's MTU: that of most networks.
const MTU: u32 = 1500;

/// How long a command that answers at once may take on a loaded machine.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);

/// How sockets and files are driven at both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io {
    /// io_uring.
    Uring,
    /// epoll.
    Poll,
}

impl Io {
    /// The word `--io` takes.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::Poll => "poll",
        }
    }
}

/// Two machines and a folder to share.
pub struct Pair {
    // Before the lab, which takes down what is left.
    host: Option<Running>,
    code: String,
    io: Io,
    share: PathBuf,
    lab: Lab,
}

/// A mount in the background, and the processes that keep it up.
#[derive(Debug)]
pub struct Mount {
    /// Where.
    pub point: PathBuf,
    /// The process that serves it.
    pub daemon: u32,
    /// All processes of this mount: the daemon and its guard.
    pub processes: Vec<u32>,
}

impl Pair {
    /// Makes the two machines and an empty share; nothing runs yet.
    ///
    /// # Panics
    /// Without root and the tools of a lab.
    #[track_caller]
    pub fn up(io: Io) -> Self {
        let lab = Lab::up(MTU).expect("end-to-end tests run as root, with iproute2 and util-linux");
        let share = lab.directory().join("share");
        fs::create_dir(&share).expect("the lab's directory takes a folder");
        Self { host: None, code: String::new(), io, share, lab }
    }

    /// The same with the host running.
    #[track_caller]
    pub fn hosting(io: Io) -> Self {
        let mut pair = Self::up(io);
        pair.start_host(&[]);
        pair
    }

    /// The folder that is shared.
    pub fn share(&self) -> &Path {
        &self.share
    }

    /// Shares another folder from the next [`Pair::start_host`] on.
    pub fn set_share(&mut self, folder: impl Into<PathBuf>) {
        self.share = folder.into();
    }

    /// A directory for the test's own things; it goes with the pair.
    pub fn directory(&self) -> &Path {
        self.lab.directory()
    }

    /// The lab beneath.
    pub const fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The join code that the host printed last.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The host as a target.
    pub fn target(&self) -> String {
        self.lab.socket(End::Host, PORT).to_string()
    }

    /// The host's process.
    ///
    /// # Panics
    /// When it was not started.
    pub fn host(&mut self) -> &mut Running {
        self.host.as_mut().expect("the host was started")
    }

    /// Starts the host, again after an end, and waits for its join code.
    #[track_caller]
    pub fn start_host(&mut self, flags: &[&str]) {
        self.host = None;
        let mut command = self.lab.command(End::Host, None, wormhole());
        command
            .arg("host")
            .arg(&self.share)
            .args(["--bind", &self.target(), "--no-signal", "--json", "--io", self.io.word()])
            .args(flags);
        let mut host = Running::start(&mut command, self.directory(), "host");
        self.code = host.wait_event("a join code", |event| {
            let code = event["data"]["code"].as_str().filter(|_| event["type"] == "WaitingForPeer");
            code.map(str::to_owned)
        });
        self.host = Some(host);
    }

    /// A command of the program at one end, without a code.
    pub fn at(&self, end: End, words: &[&str]) -> Command {
        let mut command = self.lab.command(end, None, wormhole());
        command.args(words);
        command
    }

    /// A command at the client's end that talks to the host: with the backend, a bound on waiting, and the code.
    pub fn client(&self, words: &[&str]) -> Command {
        let mut command = self.client_without_code(words);
        command.env("WORMHOLE_CODE", &self.code);
        command
    }

    /// The same without a code.
    pub fn client_without_code(&self, words: &[&str]) -> Command {
        let mut command = self.at(End::Client, words);
        command.args(["--io", self.io.word(), "--timeout-s", "3"]);
        command
    }

    /// Runs a command to its end.
    #[track_caller]
    pub fn run(&self, command: &mut Command) -> Finished {
        Running::start(command, self.directory(), "command").wait(COMMAND_LIMIT)
    }

    /// Starts a command of the test's own.
    #[track_caller]
    pub fn start(&self, command: &mut Command, label: &str) -> Running {
        Running::start(command, self.directory(), label)
    }

    /// Mounts the share on a folder of this name and expects it to be there.
    #[track_caller]
    pub fn mount(&self, name: &str) -> Mount {
        self.mount_with(name, &[])
    }

    /// The same with more flags.
    #[track_caller]
    pub fn mount_with(&self, name: &str, flags: &[&str]) -> Mount {
        self.mount_as(name, |command| {
            command.args(flags);
        })
    }

    /// The same with the command changed in another way.
    #[track_caller]
    pub fn mount_as(&self, name: &str, change: impl FnOnce(&mut Command)) -> Mount {
        let point = self.lab.mount_point(name).expect("the lab's directory takes a folder");
        let before = self.processes(End::Client);
        let mut command = self.client(&["mount", &self.target()]);
        change(command.arg(&point));
        self.run(&mut command).expect(0);
        assert!(is_mounted(&point), "mount returned 0 and nothing is mounted");
        let mut processes = self.processes(End::Client);
        processes.retain(|process| !before.contains(process));
        let daemon = processes.iter().find(|(_, words)| words.contains("mount-daemon"));
        let daemon = daemon.unwrap_or_else(|| panic!("no mount daemon among {processes:?}")).0;
        Mount { point, daemon, processes: processes.into_iter().map(|(id, _)| id).collect() }
    }

    /// The processes at one end, with their arguments; ended ones that nobody reaped are left out.
    pub fn processes(&self, end: End) -> Vec<(u32, String)> {
        let identity = |path: &Path| fs::metadata(path).ok().map(|is| (is.dev(), is.ino()));
        let namespace = identity(&Path::new("/run/netns").join(self.lab.namespace(end)));
        let entries = fs::read_dir("/proc").expect("/proc is mounted");
        let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        ids.filter(|id| namespace.is_some() && identity(Path::new(&format!("/proc/{id}/ns/net"))) == namespace)
            .filter_map(|id| Some((id, fs::read(format!("/proc/{id}/cmdline")).ok()?)))
            .filter(|(_, words)| !words.is_empty())
            .map(|(id, words)| (id, String::from_utf8_lossy(&words).replace('\0', " ")))
            .collect()
    }

    /// Waits until nothing is mounted in the lab and no process is left at the client's end.
    #[track_caller]
    pub fn wait_nothing_left(&self, why: &str) {
        wait::until(&format!("after {why}, no mount"), SOON, || {
            mounts::below(self.directory()).expect("the mount table is readable").is_empty().then_some(())
        });
        let mut left = Vec::new();
        let deadline = std::time::Instant::now() + SOON;
        wait::until(&format!("after {why}, no process"), SOON + SOON, || {
            left = self.processes(End::Client);
            assert!(std::time::Instant::now() < deadline, "after {why}, these processes stay: {left:?}");
            left.is_empty().then_some(())
        });
    }

    /// Bytes that the host has sent over the link so far, frames' headers included (`/proc/PID/net/dev`).
    pub fn host_bytes_sent(&mut self) -> u64 {
        let table = fs::read_to_string(format!("/proc/{}/net/dev", self.host().id())).expect("the host runs");
        let line = table.lines().find_map(|line| line.trim().strip_prefix("veth0:")).expect("the lab's device");
        // Eight counters of receiving come first.
        line.split_whitespace().nth(8).and_then(|bytes| bytes.parse().ok()).expect("a counter")
    }

    /// Takes the link down or up at the host's end.
    #[track_caller]
    pub fn set_link(&self, state: &str) {
        let namespace = self.lab.namespace(End::Host);
        let status = Command::new("ip").args(["-n", namespace, "link", "set", "veth0", state]).status();
        assert!(status.expect("ip runs").success(), "link {state}");
    }

    /// Slows what the host sends down to a rate of tc(8), so that a copy takes long enough to be met half-way.
    #[track_caller]
    pub fn limit_rate(&self, rate: &str) {
        let namespace = self.lab.namespace(End::Host);
        let status = Command::new("tc")
            .args(["-n", namespace, "qdisc", "replace", "dev", "veth0", "root", "tbf"])
            .args(["rate", rate, "burst", "256kb", "latency", "50ms"])
            .status();
        assert!(status.expect("tc runs (package iproute2)").success(), "a rate of {rate}");
    }

    /// What the services at one end say of themselves.
    #[track_caller]
    pub fn status(&self, end: End) -> Vec<Value> {
        self.run(&mut self.at(end, &["status", "--json"])).expect(0).events()
    }
}

/// Whether something is mounted on a folder; never enters it.
pub fn is_mounted(point: &Path) -> bool {
    mounts::below(point).expect("the mount table is readable").iter().any(|path| path == point)
}

/// Sends a signal to a process that is not our child.
///
/// # Panics
/// When there is no such process.
#[track_caller]
pub fn signal(process: u32, signal: rustix::process::Signal) {
    let pid = i32::try_from(process).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
    rustix::process::kill_process(pid, signal).unwrap_or_else(|error| panic!("cannot signal {process}: {error}"));
}
