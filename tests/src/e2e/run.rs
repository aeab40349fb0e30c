//! A program that runs, and how it ended.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::wait::{self, SOON};

/// Names another `wormhole` than the one beside the test program.
const PROGRAM_VARIABLE: &str = "WORMHOLE_PROGRAM";

/// The `wormhole` program of the same profile as this test, or the one that `WORMHOLE_PROGRAM` names.
///
/// # Panics
/// When it is not built.
pub fn wormhole() -> PathBuf {
    if let Some(named) = std::env::var_os(PROGRAM_VARIABLE) {
        return named.into();
    }
    let own = std::env::current_exe().expect("a program knows its own path");
    // target/PROFILE/deps/TEST
    let profile = own.parent().and_then(Path::parent).expect("cargo keeps tests two folders below target");
    let program = profile.join("wormhole");
    assert!(program.is_file(), "{} is missing; build it first: cargo build -p cli", program.display());
    program
}

/// A started program, its output in two files; dropping it kills and reaps it.
#[derive(Debug)]
pub struct Running {
    label: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    ended: Option<ExitStatus>,
}

/// A program that has ended.
#[derive(Debug)]
pub struct Finished {
    /// How.
    pub status: ExitStatus,
    /// Everything it wrote to its standard output.
    pub stdout: Vec<u8>,
    /// Everything it wrote to its standard error, lossily.
    pub stderr: String,
}

impl Running {
    /// Starts `command` with no input; its output goes to files in `directory`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn start(command: &mut Command, directory: &Path, label: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let stdout = directory.join(format!("run-{number}-{label}.out"));
        let stderr = directory.join(format!("run-{number}-{label}.err"));
        let create = |path: &Path| File::create(path).expect("the lab's directory takes files");
        let child = command
            .stdin(Stdio::null())
            .stdout(create(&stdout))
            .stderr(create(&stderr))
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {label}: {error}"));
        Self { label: label.to_owned(), child, stdout, stderr, ended: None }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended; it is reaped then.
    pub fn has_ended(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("a child of ours can be waited for");
        }
        self.ended.is_some()
    }

    /// Sends it a signal, unless it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if !self.has_ended() {
            // Not reaped, so the number is still this child's.
            let sent = kill_process(Pid::from_child(&self.child), signal);
            assert!(sent.is_ok(), "cannot signal {}: {sent:?}", self.label);
        }
    }

    /// Kills it at once and reaps it.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        if self.ended.is_none() {
            self.ended = self.child.wait().ok();
        }
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stderr).unwrap_or_default()).into_owned()
    }

    /// The JSON objects it printed so far, one a line; an unfinished line is left out.
    pub fn events(&self) -> Vec<Value> {
        events_in(&fs::read(&self.stdout).unwrap_or_default())
    }

    /// Waits for an event that satisfies `pick`.
    ///
    /// # Panics
    /// When the program ends first, or a minute passes.
    #[track_caller]
    pub fn wait_event<T>(&mut self, what: &str, mut pick: impl FnMut(&Value) -> Option<T>) -> T {
        wait::until(what, SOON, || {
            let ended = self.has_ended();
            let found = self.events().iter().find_map(&mut pick);
            assert!(found.is_some() || !ended, "{} ended before {what}: {}", self.label, self.stderr());
            found
        })
    }

    /// Waits for it to end by itself.
    ///
    /// # Panics
    /// When it runs on after `limit`.
    #[track_caller]
    pub fn wait(mut self, limit: Duration) -> Finished {
        let what = format!("the end of {}", self.label);
        wait::until(&what, limit, || self.has_ended().then_some(()));
        Finished {
            status: self.ended.expect("it has ended"),
            stdout: fs::read(&self.stdout).expect("its output was opened by us"),
            stderr: self.stderr(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Finished {
    /// The exit code; `None` when a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Expects an exit code.
    ///
    /// # Panics
    /// With what the program said, when it is another.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        let signal = self.status.signal();
        assert_eq!(self.code(), Some(code), "signal {signal:?}, stderr: {}", self.stderr);
        self
    }

    /// The JSON objects it printed.
    pub fn events(&self) -> Vec<Value> {
        events_in(&self.stdout)
    }

    /// The data of its only event of `kind`.
    ///
    /// # Panics
    /// When there is none or more than one.
    #[track_caller]
    pub fn event(&self, kind: &str) -> Value {
        let mut found: Vec<Value> = self.events().into_iter().filter(|event| event["type"] == kind).collect();
        assert_eq!(found.len(), 1, "{kind} in {:?}", self.events());
        found.remove(0)["data"].take()
    }
}

fn events_in(bytes: &[u8]) -> Vec<Value> {
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    bytes[..whole]
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect()
}
