//! A share made by hand, served from memory by a thread of its own, and a mountpoint that cleans up.

#![allow(dead_code)] // each test program uses its part

pub mod share;
pub mod switch;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use tempfile::TempDir;
use vfs::session::{FuseSession, FuseTransport, MountError, MountOptions, Transport};
use vfs::unmount::{Lazy, unmount};

use share::{Server, Share};

/// Says to a test program started by a test which part it plays.
const ROLE: &str = "VFS_TEST_ROLE";
/// Says to it where to mount.
const MOUNTPOINT: &str = "VFS_TEST_MOUNTPOINT";

/// A temporary folder that is unmounted, if need be, before it is removed.
pub struct Mountpoint(TempDir);

impl Mountpoint {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }
}

impl Drop for Mountpoint {
    fn drop(&mut self) {
        // Nothing is mounted after a test that went well.
        while unmount(self.path(), Lazy::Yes).is_ok() {}
    }
}

/// A mounted share.
///
/// Fields drop in this order: the session while its server still answers, the folder last.
pub struct Mounted {
    pub session: FuseSession,
    pub server: Arc<Server>,
    pub at: Mountpoint,
}

impl Mounted {
    pub fn new(share: Share) -> Self {
        Self::with(share, |_| {})
    }

    pub fn with(share: Share, change: impl FnOnce(&mut MountOptions)) -> Self {
        let at = Mountpoint::new();
        let server = Server::start(share);
        let mut options = MountOptions::new(at.path());
        change(&mut options);
        let session = mount(options, &server);
        Self { session, server, at }
    }
}

/// Whether this test program is the one that tests requests through io_uring.
fn is_for_ring() -> bool {
    env!("CARGO_CRATE_NAME") == "mount_ring"
}

/// What keeps FUSE over io_uring switched on while this program, or one that it starts, mounts.
pub fn switch_on() -> Option<switch::Switch> {
    is_for_ring().then(switch::on).flatten()
}

pub fn mount(mut options: MountOptions, server: &Arc<Server>) -> FuseSession {
    if is_for_ring() {
        options.transport = FuseTransport::Ring;
    }
    let _switch = switch_on();
    let session = attempt(options, server).expect("a mount");
    match &session.report().transport {
        Transport::Ring { .. } => assert!(is_for_ring()),
        Transport::Device { ring_unavailable: None } => assert!(!is_for_ring()),
        Transport::Device { ring_unavailable: Some(why) } => {
            assert!(is_for_ring() && !switch::is_on(), "{why:?}");
            println!("requests come by the device: {why}");
        }
    }
    session
}

/// Mounts, and serves from a thread of its own what comes by the device.
pub fn attempt(options: MountOptions, server: &Arc<Server>) -> Result<FuseSession, MountError> {
    let (session, intake) = FuseSession::mount(options, Arc::clone(server), share::no_handles())?;
    let server = Arc::clone(server);
    std::thread::spawn(move || intake.run(server));
    Ok(session)
}

/// The line of `/proc/mounts` for what is mounted at `path`.
pub fn mount_line(path: &Path) -> Option<String> {
    let table = std::fs::read_to_string("/proc/mounts").expect("a mount table");
    let wanted = path.to_str().expect("a plain path");
    table.lines().rfind(|line| line.split(' ').nth(1) == Some(wanted)).map(str::to_owned)
}

/// The part this process plays, with its mountpoint; `None` in the test itself.
pub fn role() -> Option<(String, PathBuf)> {
    let role = std::env::var(ROLE).ok()?;
    let mountpoint = std::env::var_os(MOUNTPOINT).expect("set with the role");
    Some((role, mountpoint.into()))
}

/// This test program again, running only `test` and playing `role`.
pub fn play(program: &Path, test: &str, role: &str, mountpoint: &Path) -> Command {
    // The path of this module without its ends is that of the test.
    let module = module_path!().split("::").skip(1).filter(|&name| name != "mount_support");
    let test = module.chain([test]).collect::<Vec<_>>().join("::");
    let mut command = Command::new(program);
    command
        .args(["--exact", test.as_str(), "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(MOUNTPOINT, mountpoint)
        .stdin(Stdio::null());
    command
}

pub fn this_program() -> PathBuf {
    std::env::current_exe().expect("a path to this program")
}

/// Runs a program that must succeed.
pub fn run(program: impl AsRef<OsStr>, arguments: &[&OsStr]) {
    let program = program.as_ref();
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{} must be installed: {error}", program.display()));
    assert!(
        output.status.success(),
        "{} {arguments:?}: {}",
        program.display(),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A child process that is killed and reaped when the test is done with it.
pub struct Part {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Part {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let lines = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { child, lines }
    }

    /// Reads what it prints until a line holds `sign`, which is returned.
    pub fn await_line(&mut self, sign: &str) -> String {
        let mut line = String::new();
        while {
            line.clear();
            self.lines.read_line(&mut line).expect("readable output") > 0
        } {
            if line.contains(sign) {
                return line;
            }
        }
        panic!("the other process ended without saying {sign:?}");
    }

    /// Sends `SIGKILL` and reaps it.
    pub fn kill(&mut self) {
        self.child.kill().expect("it is ours to kill");
        self.child.wait().expect("it is ours to reap");
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _already_reaped = self.child.wait();
    }
}
