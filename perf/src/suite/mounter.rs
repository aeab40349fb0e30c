//! The programs that mount a share, behind one contract: a server at the host's end and a client that mounts from it.

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};

use super::present;
use crate::lab::{End, Lab};
use crate::mounts;
use crate::process::Process;
use crate::report::OURS;
use crate::ssh::SshServer;
use crate::web::WebServer;
use crate::wormhole::{self, Cores, Host};

/// How long a program may take to mount, or to let go of a mount.
pub const STEP_LIMIT: Duration = Duration::from_secs(30);

/// The peers that mount.
pub const PEERS: [&str; 3] = ["sshfs", "rclone-http", "rclone-sftp"];

/// A server at the host's end, and how a client mounts what it serves.
pub trait Mounter {
    /// The serving program; its sessions are its children.
    fn server(&self) -> &Process;

    /// The command that mounts: in the foreground, or one that ends once the mount is there.
    fn command(&self, mount_point: &Path, presence: Presence) -> Command;

    /// Mounts in the foreground; returns once the mount is there.
    ///
    /// # Errors
    /// If the program ends or mounts nothing in time.
    fn mount(&self, lab: &Lab, mount_point: &Path) -> anyhow::Result<Process> {
        let mut process = lab.spawn("mount", &mut self.command(mount_point, Presence::Foreground))?;
        mounts::wait_mounted(mount_point, &mut process, STEP_LIMIT)?;
        Ok(process)
    }
}

/// Whether a mounting program stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is the mount, and ends with it.
    Foreground,
    /// It ends once the mount is there, and leaves a daemon behind.
    Background,
}

/// The contenders of a mounting suite: name, and the mounter or why there is none.
pub type Mounters<'l> = Vec<(String, anyhow::Result<Box<dyn Mounter + 'l>>)>;

/// Ours and the named peers that this machine has, all serving `share`, and the peers that are absent.
pub fn contenders<'l>(lab: &'l Lab, share: &Path, peers: &[&'static str]) -> (Mounters<'l>, Vec<(String, String)>) {
    let servers = Servers::new(lab, share);
    let (found, absent) = present(peers);
    let mut mounters: Mounters<'l> =
        vec![(OURS.to_owned(), Ours::start(lab, share).map(|ours| Box::new(ours) as Box<dyn Mounter + 'l>))];
    for peer in found {
        mounters.push((peer.to_owned(), servers.mounter(peer)));
    }
    (mounters, absent)
}

/// Mounts cold: nothing of the share in the client's own cache or in the kernel's; then unmounts.
///
/// # Errors
/// If a step fails, or whatever `use_mount` reports.
pub fn with_cold_mount<T>(
    lab: &Lab,
    mounter: &dyn Mounter,
    mount_point: &Path,
    use_mount: impl FnOnce(&Process) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    lab.forget_cache(End::Client)?;
    let mut program = mounter.mount(lab, mount_point)?;
    drop_kernel_caches()?;
    let result = use_mount(&program)?;
    mounts::unmount(mount_point, STEP_LIMIT)?;
    program.wait(STEP_LIMIT).context("after the unmount")?;
    Ok(result)
}

/// Empties the page, dentry and inode caches (proc_sys_vm(5)). Fixtures stay: they live in memory themselves.
///
/// # Errors
/// If this process may not.
pub fn drop_kernel_caches() -> anyhow::Result<()> {
    fs::write("/proc/sys/vm/drop_caches", "3").context("cannot drop the kernel's caches")
}

/// The servers of the peers, each started when first needed and shared by all who use it.
pub struct Servers<'l> {
    lab: &'l Lab,
    share: PathBuf,
    ssh: OnceCell<Result<Rc<SshServer>, String>>,
    web: OnceCell<Result<Rc<WebServer>, String>>,
}

impl<'l> Servers<'l> {
    /// None started yet.
    pub fn new(lab: &'l Lab, share: &Path) -> Self {
        Self { lab, share: share.to_owned(), ssh: OnceCell::new(), web: OnceCell::new() }
    }

    /// The sshd of the lab.
    ///
    /// # Errors
    /// If it does not start; every caller is told the same.
    pub fn ssh(&self) -> anyhow::Result<Rc<SshServer>> {
        shared(&self.ssh, || SshServer::start(self.lab))
    }

    /// The nginx of the lab.
    ///
    /// # Errors
    /// If it does not start; every caller is told the same.
    pub fn web(&self) -> anyhow::Result<Rc<WebServer>> {
        shared(&self.web, || WebServer::start(self.lab, &self.share, None))
    }

    fn mounter(&self, peer: &str) -> anyhow::Result<Box<dyn Mounter + 'l>> {
        let (lab, share) = (self.lab, self.share.clone());
        Ok(match peer {
            "sshfs" => Box::new(Sshfs { lab, ssh: self.ssh()?, share }),
            "rclone-http" => Box::new(RcloneHttp { lab, web: self.web()? }),
            _ => Box::new(RcloneSftp { lab, ssh: self.ssh()?, share }),
        })
    }
}

fn shared<T>(
    cell: &OnceCell<Result<Rc<T>, String>>,
    start: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<Rc<T>> {
    cell.get_or_init(|| start().map(Rc::new).map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(|reason| anyhow!("{reason}"))
}

/// `wormhole host` and `wormhole mount`.
pub struct Ours<'l> {
    lab: &'l Lab,
    program: PathBuf,
    /// The host.
    pub host: Host,
}

impl<'l> Ours<'l> {
    /// Starts a host on `share`.
    ///
    /// # Errors
    /// If `wormhole` is not there or the host ends.
    pub fn start(lab: &'l Lab, share: &Path) -> anyhow::Result<Self> {
        let program = wormhole::program()?;
        let host = Host::start(lab, &program, share, Cores::All)?;
        Ok(Self { lab, program, host })
    }

    /// Starts copying `subpath` of the share to `destination`.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn get(&self, subpath: &str, destination: &Path) -> anyhow::Result<Process> {
        wormhole::get(self.lab, &self.program, &self.host.code, subpath, destination)
    }
}

impl Mounter for Ours<'_> {
    fn server(&self) -> &Process {
        &self.host.process
    }

    fn command(&self, mount_point: &Path, presence: Presence) -> Command {
        let mut command = wormhole::mount_command(self.lab, &self.program, &self.host.code, mount_point);
        if presence == Presence::Foreground {
            command.arg("--foreground");
        }
        command
    }
}

struct Sshfs<'l> {
    lab: &'l Lab,
    ssh: Rc<SshServer>,
    share: PathBuf,
}

impl Mounter for Sshfs<'_> {
    fn server(&self) -> &Process {
        &self.ssh.process
    }

    fn command(&self, mount_point: &Path, presence: Presence) -> Command {
        let mut command = self.ssh.client(self.lab, "sshfs");
        if presence == Presence::Foreground {
            command.arg("-f");
        }
        command.arg(self.ssh.remote(&self.share)).arg(mount_point);
        command
    }
}

struct RcloneHttp<'l> {
    lab: &'l Lab,
    web: Rc<WebServer>,
}

impl Mounter for RcloneHttp<'_> {
    fn server(&self) -> &Process {
        &self.web.process
    }

    fn command(&self, mount_point: &Path, presence: Presence) -> Command {
        let mut command = rclone_mount(self.lab, presence);
        command.args(["--http-url", &WebServer::url(self.lab), ":http:"]).arg(mount_point);
        command
    }
}

struct RcloneSftp<'l> {
    lab: &'l Lab,
    ssh: Rc<SshServer>,
    share: PathBuf,
}

impl Mounter for RcloneSftp<'_> {
    fn server(&self) -> &Process {
        &self.ssh.process
    }

    fn command(&self, mount_point: &Path, presence: Presence) -> Command {
        let mut command = rclone_mount(self.lab, presence);
        command.args(self.ssh.rclone_options()).arg(format!(":sftp:{}", self.share.display())).arg(mount_point);
        command
    }
}

fn rclone_mount(lab: &Lab, presence: Presence) -> Command {
    let mut command = lab.command(End::Client, None, "rclone");
    command.args(["mount", "--read-only"]);
    if presence == Presence::Background {
        command.arg("--daemon");
    }
    command
}
