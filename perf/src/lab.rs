//! Two network namespaces joined by a veth pair: a host machine and a client machine on one real one.
//!
//! Each lab has names of its own (`wh-PID-N-h` and `wh-PID-N-c`), so several coexist; inside, addresses are the same in
//! every lab. Dropping a lab, also while unwinding, kills what runs in it, takes its mounts away, deletes both
//! namespaces and removes its directory. [`crate::end_cleanly_on_signals`] does the same on a signal, and what a
//! SIGKILL left behind is swept by the next [`Lab::up`].
//!
//! Programs are entered with `nsenter --net`, never `ip netns exec`: the latter gives its command a mount namespace of
//! its own, in which a FUSE mount would be invisible to everybody else.

use std::ffi::OsStr;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::cleanup::{Registration, Remains};
use crate::mounts;
use crate::peers;
use crate::process::{Process, exited_within};

/// The smallest MTU a lab takes: what IPv6 requires of every link (RFC 8200 §5).
pub const MTU_MIN: u32 = 1280;

/// The largest MTU a lab takes: what an IPv4 packet can hold (RFC 791).
pub const MTU_MAX: u32 = 65_535;

/// How long killed processes may take to be gone; a large FUSE daemon needs a fraction of a second.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// Where iproute2 keeps the names of network namespaces (ip-netns(8)).
const NAMESPACES: &str = "/run/netns";

/// The network device inside each namespace.
pub(crate) const DEVICE: &str = "veth0";

/// The programs a lab is made with, and their Debian packages.
const TOOLS: [(&str, &str); 4] =
    [("ip", "iproute2"), ("nsenter", "util-linux"), ("setpriv", "util-linux"), ("taskset", "util-linux")];

/// One of the two machines of a lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The machine that serves, 10.77.0.1.
    Host,
    /// The machine that reads, 10.77.0.2.
    Client,
}

impl End {
    /// Its address, the same in every lab.
    pub const fn address(self) -> IpAddr {
        IpAddr::V4(match self {
            Self::Host => Ipv4Addr::new(10, 77, 0, 1),
            Self::Client => Ipv4Addr::new(10, 77, 0, 2),
        })
    }

    const fn index(self) -> usize {
        match self {
            Self::Host => 0,
            Self::Client => 1,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Client => "client",
        }
    }
}

/// Two namespaces, the link between them, and everything started in them.
pub struct Lab {
    remnants: Arc<Remnants>,
    host: IpAddr,
    sequence: AtomicU64,
    // Dropped last, and removes the remnants.
    _registration: Registration,
}

impl Lab {
    /// Whether this process can make a lab: it is root and the tools are there.
    ///
    /// # Errors
    /// What is missing, and the package that has it.
    pub fn available() -> anyhow::Result<()> {
        ensure!(rustix::process::geteuid().is_root(), "a lab needs root: it makes network namespaces");
        for (program, package) in TOOLS {
            ensure!(peers::find_program(program).is_some(), "a lab needs {program}: apt-get install {package}");
        }
        Ok(())
    }

    /// Makes a lab whose link carries packets of `mtu` bytes.
    ///
    /// # Errors
    /// If [`Lab::available`] says no, `mtu` is outside [`MTU_MIN`]..=[`MTU_MAX`], or the kernel refuses.
    pub fn up(mtu: u32) -> anyhow::Result<Self> {
        ensure!((MTU_MIN..=MTU_MAX).contains(&mtu), "MTU {mtu} is outside {MTU_MIN}..={MTU_MAX}");
        Self::available()?;
        sweep();
        let remnants = Arc::new(Remnants::of(LabName::next()));
        let lab = Self {
            _registration: Registration::new(Arc::clone(&remnants) as Arc<dyn Remains>),
            remnants,
            host: End::Host.address(),
            sequence: AtomicU64::new(0),
        };
        lab.build(mtu).context("cannot make the lab")?;
        Ok(lab)
    }

    /// Makes a lab of this machine as it is, without namespaces: the other end is a real machine, or this one serves.
    ///
    /// Programs at either end run here and now; `host` is where the serving end is reached.
    ///
    /// # Errors
    /// If this process is not root, which mounting and dropping caches need, or the directory cannot be made.
    pub fn on_this_machine(host: IpAddr) -> anyhow::Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "this needs root: it mounts and drops the kernel's caches");
        let remnants = Arc::new(Remnants { namespaces: Vec::new(), ..Remnants::of(LabName::next()) });
        let lab = Self {
            _registration: Registration::new(Arc::clone(&remnants) as Arc<dyn Remains>),
            remnants,
            host,
            sequence: AtomicU64::new(0),
        };
        lab.build_directory().context("cannot make the lab's directory")?;
        Ok(lab)
    }

    fn build_directory(&self) -> anyhow::Result<()> {
        let is_removed = self.remnants.is_removed();
        ensure!(!*is_removed, "the lab is being taken down");
        let mut private = fs::DirBuilder::new();
        private.mode(0o700);
        private.create(self.directory())?;
        for end in [End::Host, End::Client] {
            private.create(self.home(end))?;
            private.create(self.home(end).join("run"))?;
        }
        Ok(())
    }

    fn build(&self, mtu: u32) -> anyhow::Result<()> {
        self.build_directory()?;
        let is_removed = self.remnants.is_removed();
        ensure!(!*is_removed, "the lab is being taken down");
        for namespace in &self.remnants.namespaces {
            ip(&["netns", "add", namespace])?;
        }
        let [host, client] = [self.namespace(End::Host), self.namespace(End::Client)];
        // Both ends are born inside their namespaces, so no device name of another lab can be in the way.
        #[rustfmt::skip]
        ip(&["link", "add", DEVICE, "netns", host, "type", "veth", "peer", "name", DEVICE, "netns", client])?;
        for end in [End::Host, End::Client] {
            let namespace = self.namespace(end);
            let address = format!("{}/24", end.address());
            ip(&["-n", namespace, "addr", "add", &address, "dev", DEVICE])?;
            ip(&["-n", namespace, "link", "set", DEVICE, "mtu", &mtu.to_string(), "up"])?;
            ip(&["-n", namespace, "link", "set", "lo", "up"])?;
        }
        Ok(())
    }

    /// The lab's directory: output of programs, homes, mount points. Removed with the lab.
    pub fn directory(&self) -> &Path {
        &self.remnants.directory
    }

    /// The home directory of the programs at one end, their XDG directories below it.
    pub fn home(&self, end: End) -> PathBuf {
        self.directory().join(end.name())
    }

    /// The name of one end's network namespace under `/run/netns`.
    ///
    /// # Panics
    /// If the lab has none, as [`Lab::on_this_machine`].
    pub fn namespace(&self, end: End) -> &str {
        &self.remnants.namespaces[end.index()]
    }

    /// A socket address at one end.
    pub const fn socket(&self, end: End, port: u16) -> SocketAddr {
        let address = match end {
            End::Host => self.host,
            End::Client => end.address(),
        };
        SocketAddr::new(address, port)
    }

    /// A command that runs `program` at one end, on one core if asked; more arguments and variables may be added.
    ///
    /// The program replaces the wrappers, so its process id is the child's; it dies with the thread that started it.
    pub fn command(&self, end: End, core: Option<usize>, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if let Some(namespace) = self.remnants.namespaces.get(end.index()) {
            command.arg("nsenter").arg(format!("--net={NAMESPACES}/{namespace}"));
        }
        if let Some(core) = core {
            command.args(["taskset", "--cpu-list", &core.to_string()]);
        }
        command.arg(program);
        let home = self.home(end);
        command
            .env("HOME", &home)
            .env("XDG_CONFIG_HOME", home.join("config"))
            .env("XDG_CACHE_HOME", home.join("cache"))
            .env("XDG_STATE_HOME", home.join("state"))
            .env("XDG_DATA_HOME", home.join("data"))
            .env("XDG_RUNTIME_DIR", home.join("run"))
            .env("LC_ALL", "C");
        command
    }

    /// Empties one end's cache directory, so that the next program there starts cold.
    ///
    /// # Errors
    /// If the directory cannot be removed.
    pub fn forget_cache(&self, end: End) -> std::io::Result<()> {
        match fs::remove_dir_all(self.home(end).join("cache")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Starts a command as part of the lab: it ends with the lab at the latest.
    ///
    /// # Errors
    /// If it cannot be started, or the lab is being taken down by a signal.
    pub fn spawn(&self, label: &str, command: &mut Command) -> anyhow::Result<Process> {
        let mut children = self.remnants.children();
        ensure!(!children.is_closed, "the lab is being taken down");
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let process = Process::start(command, label, self.directory(), sequence)?;
        children.pidfds.retain(|pidfd| !exited_within(pidfd, Duration::ZERO));
        children.pidfds.push(process.pidfd());
        Ok(process)
    }

    /// Makes an empty directory in the lab to mount on.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn mount_point(&self, name: &str) -> std::io::Result<PathBuf> {
        let path = self.directory().join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    }
}

/// The name shared by a lab's two namespaces and its directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LabName {
    process: u32,
    number: u64,
}

impl LabName {
    /// A name no lab of this process had.
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { process: std::process::id(), number: NEXT.fetch_add(1, Ordering::Relaxed) }
    }

    fn namespace(self, end: End) -> String {
        let letter = match end {
            End::Host => 'h',
            End::Client => 'c',
        };
        format!("wh-{}-{}-{letter}", self.process, self.number)
    }

    fn directory(self) -> PathBuf {
        std::env::temp_dir().join(format!("wh-{}-{}", self.process, self.number))
    }

    /// The lab a namespace belongs to; `None` if it is nobody's lab.
    fn of_namespace(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix("wh-")?.split('-');
        let found = Self { process: parts.next()?.parse().ok()?, number: parts.next()?.parse().ok()? };
        (matches!(parts.next(), Some("h" | "c")) && parts.next().is_none()).then_some(found)
    }
}

/// What a lab would leave behind if nobody removed it.
struct Remnants {
    /// One for each end, or none.
    namespaces: Vec<String>,
    directory: PathBuf,
    children: Mutex<Children>,
    /// Held while the lab is built and while it is removed, so that the two never overlap.
    is_removed: Mutex<bool>,
}

#[derive(Default)]
struct Children {
    pidfds: Vec<Arc<OwnedFd>>,
    is_closed: bool,
}

impl Remnants {
    fn of(name: LabName) -> Self {
        Self {
            namespaces: [End::Host, End::Client].map(|end| name.namespace(end)).into(),
            directory: name.directory(),
            children: Mutex::default(),
            is_removed: Mutex::default(),
        }
    }

    fn children(&self) -> MutexGuard<'_, Children> {
        // The guarded value is a list of descriptors and a flag: valid after any panic.
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_removed(&self) -> MutexGuard<'_, bool> {
        self.is_removed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills what the lab started, then whatever those programs started in its namespaces and did not take along.
    fn kill_all(&self) {
        let deadline = Instant::now() + KILL_LIMIT;
        let started = {
            let mut children = self.children();
            children.is_closed = true;
            std::mem::take(&mut children.pidfds)
        };
        for pidfd in &started {
            // Fails only if the process has ended.
            let _ended = pidfd_send_signal(&**pidfd, Signal::KILL);
        }
        for pidfd in &started {
            exited_within(pidfd, deadline.saturating_duration_since(Instant::now()));
        }
        while Instant::now() < deadline {
            let left: Vec<OwnedFd> = self.inhabitants().into_iter().filter_map(open).collect();
            if left.is_empty() {
                return;
            }
            for pidfd in &left {
                let _ended = pidfd_send_signal(pidfd, Signal::KILL);
            }
            for pidfd in &left {
                exited_within(pidfd, deadline.saturating_duration_since(Instant::now()));
            }
        }
    }

    /// The processes inside the two namespaces. The names are this lab's own, so only its programs get there.
    fn inhabitants(&self) -> Vec<u32> {
        let identity = |path: &Path| fs::metadata(path).ok().map(|is| (is.dev(), is.ino()));
        let ours: Vec<(u64, u64)> =
            self.namespaces.iter().filter_map(|name| identity(&Path::new(NAMESPACES).join(name))).collect();
        let Ok(processes) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        processes
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|id| {
                identity(Path::new(&format!("/proc/{id}/ns/net"))).is_some_and(|theirs| ours.contains(&theirs))
            })
            .collect()
    }

    fn unmount_all(&self) {
        for mount_point in mounts::below(&self.directory).unwrap_or_default() {
            if let Err(error) = mounts::detach(&mount_point) {
                eprintln!("perf: {} stays mounted: {error}", mount_point.display());
            }
        }
    }
}

impl Remains for Remnants {
    fn remove(&self) {
        let mut is_removed = self.is_removed();
        if std::mem::replace(&mut *is_removed, true) {
            return;
        }
        self.kill_all();
        self.unmount_all();
        for name in &self.namespaces {
            if Path::new(NAMESPACES).join(name).exists()
                && let Err(error) = ip(&["netns", "del", name])
            {
                eprintln!("perf: the namespace {name} stays: {error:#}");
            }
        }
        // Never below a mount: that would delete the files of whoever is mounted there.
        let is_clear = mounts::below(&self.directory).is_ok_and(|left| left.is_empty());
        if is_clear
            && let Err(error) = fs::remove_dir_all(&self.directory)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            eprintln!("perf: {} stays: {error}", self.directory.display());
        }
    }
}

/// Opens a process for signals; `None` if it has ended.
fn open(id: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(id).ok()?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// Removes labs whose process is gone without having removed them.
fn sweep() {
    let Ok(names) = fs::read_dir(NAMESPACES) else {
        return;
    };
    let stale = names
        .flatten()
        .filter_map(|entry| LabName::of_namespace(entry.file_name().to_str()?))
        .filter(|lab| !Path::new("/proc").join(lab.process.to_string()).exists());
    for lab in stale {
        Remnants::of(lab).remove();
    }
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(arguments).output().context("cannot run ip (package iproute2)")?;
    if !output.status.success() {
        bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    /// Runs a test in a lab, and fails where none can be made: the gate runs as root.
    fn in_lab(test: impl FnOnce(&Lab)) -> Traces {
        let lab = Lab::up(1500).unwrap();
        let traces = Traces::of(&lab);
        assert_eq!(traces.left(), traces.namespaces.len() + 1);
        test(&lab);
        traces
    }

    /// The outside of a lab, kept beyond its end.
    struct Traces {
        namespaces: Vec<PathBuf>,
        directory: PathBuf,
    }

    impl Traces {
        fn of(lab: &Lab) -> Self {
            Self {
                namespaces: [End::Host, End::Client].map(|end| Path::new(NAMESPACES).join(lab.namespace(end))).into(),
                directory: lab.directory().to_owned(),
            }
        }

        fn left(&self) -> usize {
            let paths = self.namespaces.iter().chain([&self.directory]);
            paths.filter(|path| path.exists()).count() + mounts::below(&self.directory).unwrap().len()
        }
    }

    /// Whether a process runs; one that has ended and waits to be reaped (state Z) does not.
    fn is_alive(id: u32) -> bool {
        fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[test]
    fn names_are_read_back_and_strangers_are_not() {
        let name = LabName { process: 12, number: 3 };
        for end in [End::Host, End::Client] {
            assert_eq!(LabName::of_namespace(&name.namespace(end)), Some(name));
        }
        for stranger in ["wh-12-3", "wh-12-3-x", "wh-12-3-h-1", "wh-a-3-h", "bh", "wh-12--h"] {
            assert_eq!(LabName::of_namespace(stranger), None, "{stranger}");
        }
    }

    #[test]
    fn an_mtu_out_of_range_is_refused() {
        assert!(Lab::up(MTU_MIN - 1).is_err());
        assert!(Lab::up(MTU_MAX + 1).is_err());
    }

    fn said(lab: &Lab, end: End, program: &str, arguments: &[&str]) -> String {
        let mut command = lab.command(end, Some(0), program);
        let mut process = lab.spawn(program, command.args(arguments)).unwrap();
        process.wait(LIMIT).unwrap();
        process.output().unwrap()
    }

    #[test]
    fn the_link_has_the_mtu_asked_for_and_leads_to_the_other_end() {
        in_lab(|lab| {
            let link = said(lab, End::Client, "ip", &["link", "show", DEVICE]);
            assert!(link.contains("mtu 1500"), "{link}");
            let host = End::Host.address().to_string();
            let route = said(lab, End::Client, "ip", &["route", "get", &host]);
            assert!(route.contains(&End::Client.address().to_string()), "{route}");
        });
    }

    #[test]
    fn a_lab_on_this_machine_has_no_namespace_and_leaves_no_directory() {
        let lab = Lab::on_this_machine(IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap();
        assert_eq!(lab.socket(End::Host, 5).to_string(), "127.0.0.1:5");
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let theirs = said(&lab, End::Client, "readlink", &["/proc/self/ns/net"]);
        assert_eq!(Path::new(theirs.trim()), own);
        let directory = lab.directory().to_owned();
        drop(lab);
        assert!(!directory.exists());
    }

    #[test]
    fn nothing_is_left_of_a_lab_with_a_mount_and_an_orphan_in_it() {
        let mut ids = Vec::new();
        let traces = in_lab(|lab| {
            let mut shell = lab.command(End::Host, None, "sh");
            // The orphan outlives its parent and is known to the lab by its namespace alone.
            shell.args(["-c", "setsid sleep 1000 & echo $!"]);
            let mut process = lab.spawn("orphan", &mut shell).unwrap();
            process.wait(LIMIT).unwrap();
            ids.push(process.output().unwrap().trim().parse().unwrap());
            let mut sleep = lab.command(End::Client, None, "sleep");
            let process = lab.spawn("sleep", sleep.arg("1000")).unwrap();
            ids.push(process.id());
            // Forgotten, so that the lab alone can end it.
            std::mem::forget(process);

            let mount_point = lab.mount_point("mnt").unwrap();
            let status = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&mount_point).status();
            assert!(status.unwrap().success());
            assert!(ids.iter().all(|&id| is_alive(id)));
        });
        assert_eq!(traces.left(), 0);
        for id in ids {
            assert!(!is_alive(id), "{id} lives");
        }
    }

    #[test]
    fn nothing_is_left_after_a_panic_inside() {
        let mut traces = None;
        let mut id = 0;
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            in_lab(|lab| {
                traces = Some(Traces::of(lab));
                let mut sleep = lab.command(End::Host, None, "sleep");
                let process = lab.spawn("sleep", sleep.arg("1000")).unwrap();
                id = process.id();
                panic!("on purpose");
            })
        }));
        assert!(panic.is_err());
        let traces = traces.unwrap();
        assert_eq!(traces.left(), 0);
        assert!(!is_alive(id));
    }

    #[test]
    fn labs_coexist_and_end_alone() {
        in_lab(|outer| {
            let inner = in_lab(|inner| {
                assert_ne!(outer.namespace(End::Host), inner.namespace(End::Host));
                for lab in [outer, inner] {
                    let addresses = said(lab, End::Host, "ip", &["-oneline", "addr"]);
                    assert!(addresses.contains(&End::Host.address().to_string()), "{addresses}");
                }
            });
            assert_eq!(inner.left(), 0);
            assert_eq!(Traces::of(outer).left(), 3);
        });
    }

    #[test]
    fn a_program_past_its_limit_is_killed() {
        in_lab(|lab| {
            let mut sleep = lab.command(End::Client, None, "sleep");
            let mut process = lab.spawn("sleep", sleep.arg("1000")).unwrap();
            let id = process.id();
            assert!(process.wait(Duration::from_millis(1)).is_err());
            assert!(!is_alive(id));
        });
    }

    #[test]
    fn a_failed_program_gives_its_last_words() {
        in_lab(|lab| {
            let mut shell = lab.command(End::Client, None, "sh");
            shell.args(["-c", "echo no room >&2; exit 3"]);
            let error = lab.spawn("sh", &mut shell).unwrap().wait(LIMIT).unwrap_err();
            assert!(error.to_string().contains("no room"), "{error}");
        });
    }
}
