//! Whole programs: a cold sequential read through a mount, and a copy.
//!
//! Every mount run starts cold: a fresh mount, an empty client cache, kernel caches dropped. The reader is
//! `dd bs=1M`, and its time is the one it prints. Nothing is pinned: both ends and the reader share the machine as
//! they would anywhere. The receiver's CPU time is the mounting program's, its `ssh` included, without the reader.
//!
//! Copies write to memory and are timed from start to exit, connection included; each copy is hashed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use super::{Contender, Entry, Plan, RUN_LIMIT, Run, alternate, present, rows};
use crate::cpu_time;
use crate::fixture::{self, Fixture};
use crate::lab::{End, Lab};
use crate::mounts;
use crate::process::{Process, SocketKind};
use crate::report::{OURS, Row};
use crate::ssh::SshServer;
use crate::wormhole::{self, Cores, Host};

/// The links mounts are measured on.
pub const MTUS: [u32; 2] = [1500, 9000];

/// The link copies are measured on.
pub const COPY_MTU: u32 = 1500;

/// How long a program may take to listen, to mount or to let go of a mount.
const STEP_LIMIT: Duration = Duration::from_secs(30);

/// The port rclone serves on in its namespace.
const RCLONE_PORT: u16 = 8080;

/// Measures mounts on all links and copies on one.
///
/// # Errors
/// If no lab can be made. What goes wrong with one contender stands in its rows.
pub fn run(plan: Plan, fixture: &Fixture, note: &mut dyn FnMut(&str)) -> anyhow::Result<Vec<Row>> {
    let mut all = Vec::new();
    for mtu in MTUS {
        let prefix = format!("mount.mtu{mtu}");
        note(&prefix);
        let lab = Lab::up(mtu)?;
        let (peers, absent) = present(&["sshfs", "rclone"]);
        let mut entries = vec![mounted(OURS, &lab, fixture, OursMount::start(&lab, fixture))];
        for peer in peers {
            entries.push(match peer {
                "sshfs" => mounted(peer, &lab, fixture, Sshfs::start(&lab, fixture)),
                _ => mounted(peer, &lab, fixture, Rclone::start(&lab, fixture)),
            });
        }
        let series = alternate(entries, plan, note);
        all.extend(rows(&prefix, ".sequential_cold", &series, &absent));
    }
    let prefix = format!("get.mtu{COPY_MTU}");
    note(&prefix);
    let lab = Lab::up(COPY_MTU)?;
    let (peers, absent) = present(&["scp"]);
    let mut entries = vec![copied(OURS, &lab, fixture, OursMount::start(&lab, fixture))];
    for peer in peers {
        entries.push(copied(peer, &lab, fixture, Sshfs::start(&lab, fixture)));
    }
    let series = alternate(entries, plan, note);
    all.extend(rows(&prefix, "", &series, &absent));
    Ok(all)
}

/// A server at the host's end, and how a client mounts what it serves.
trait Mounter {
    fn server(&self) -> &Process;

    /// Mounts in the foreground; returns once the mount is there.
    fn mount(&self, mount_point: &Path) -> anyhow::Result<Process>;
}

/// A server at the host's end, and how a client copies one file from it.
trait Copier {
    fn server(&self) -> &Process;

    fn copy(&self, destination: &Path) -> anyhow::Result<Process>;
}

fn mounted<'l, M: Mounter + 'l>(name: &str, lab: &'l Lab, fixture: &'l Fixture, made: anyhow::Result<M>) -> Entry<'l> {
    let contender = made.and_then(|mounter| {
        let mount_point = lab.mount_point(&format!("mnt-{name}"))?;
        Ok(Box::new(SequentialRead { lab, fixture, mounter, mount_point }) as Box<dyn Contender>)
    });
    (name.to_owned(), contender)
}

fn copied<'l, C: Copier + 'l>(name: &str, lab: &'l Lab, fixture: &'l Fixture, made: anyhow::Result<C>) -> Entry<'l> {
    let contender = made.map(|copier| {
        // In memory, beside the fixture and outside the share, so that neither end waits for a disk.
        let destination = fixture.destination(name);
        Box::new(Copy { lab, fixture, copier, destination }) as Box<dyn Contender>
    });
    (name.to_owned(), contender)
}

struct SequentialRead<'l, M> {
    lab: &'l Lab,
    fixture: &'l Fixture,
    mounter: M,
    mount_point: PathBuf,
}

impl<M: Mounter> SequentialRead<'_, M> {
    /// Mounts cold, lets `read` use the mount, and unmounts.
    fn with_mount<T>(&self, read: impl FnOnce(&Process) -> anyhow::Result<T>) -> anyhow::Result<T> {
        self.lab.forget_cache(End::Client)?;
        let mut program = self.mounter.mount(&self.mount_point)?;
        drop_kernel_caches()?;
        let result = read(&program)?;
        mounts::unmount(&self.mount_point, STEP_LIMIT)?;
        program.wait(STEP_LIMIT).context("after the unmount")?;
        Ok(result)
    }
}

impl<M: Mounter> Contender for SequentialRead<'_, M> {
    fn verify(&mut self) -> anyhow::Result<()> {
        self.with_mount(|_| {
            // In a process of its own, so that a mount that hangs can be given up.
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("__hash").arg(self.mount_point.join(fixture::NAME));
            let mut hash = self.lab.spawn("hash", &mut command)?;
            hash.wait(RUN_LIMIT)?;
            let found = blake3::Hash::from_hex(hash.output()?.trim())?;
            ensure!(found == self.fixture.hash(), "the bytes read through the mount are not the file's");
            Ok(())
        })
    }

    fn run(&mut self) -> anyhow::Result<Run> {
        self.with_mount(|program| {
            let server = self.mounter.server().id();
            let before = [server, program.id()].map(cpu_time::of_tree);
            let mut command = Command::new("dd");
            command
                .arg(format!("if={}", self.mount_point.join(fixture::NAME).display()))
                .args(["of=/dev/null", "bs=1M"])
                .env("LC_ALL", "C");
            let mut dd = self.lab.spawn("dd", &mut command)?;
            dd.wait(RUN_LIMIT)?;
            let after = [server, program.id()].map(cpu_time::of_tree);
            let (bytes, elapsed) = dd_result(&dd.last_words())?;
            Ok(Run {
                bytes,
                elapsed,
                sender_cpu: after[0].saturating_sub(before[0]),
                receiver_cpu: after[1].saturating_sub(before[1]),
            })
        })
    }
}

struct Copy<'l, C> {
    lab: &'l Lab,
    fixture: &'l Fixture,
    copier: C,
    destination: PathBuf,
}

impl<C: Copier> Contender for Copy<'_, C> {
    /// Every copy is checked where it is timed.
    fn verify(&mut self) -> anyhow::Result<()> {
        self.run().map(drop)
    }

    fn run(&mut self) -> anyhow::Result<Run> {
        self.lab.forget_cache(End::Client)?;
        let server = self.copier.server().id();
        let before = cpu_time::of_tree(server);
        let ended = self.copier.copy(&self.destination)?.wait(RUN_LIMIT)?;
        let sender_cpu = cpu_time::of_tree(server).saturating_sub(before);
        let (bytes, hash) = fixture::hash_file(&self.destination)?;
        fs::remove_file(&self.destination)?;
        ensure!(hash == self.fixture.hash(), "the copy is not the file");
        Ok(Run { bytes, elapsed: ended.elapsed, sender_cpu, receiver_cpu: ended.cpu })
    }
}

struct OursMount<'l> {
    lab: &'l Lab,
    program: PathBuf,
    host: Host,
}

impl<'l> OursMount<'l> {
    fn start(lab: &'l Lab, fixture: &Fixture) -> anyhow::Result<Self> {
        let program = wormhole::program()?;
        let host = Host::start(lab, &program, &fixture.directory(), Cores::All)?;
        Ok(Self { lab, program, host })
    }
}

impl Mounter for OursMount<'_> {
    fn server(&self) -> &Process {
        &self.host.process
    }

    fn mount(&self, mount_point: &Path) -> anyhow::Result<Process> {
        wormhole::mount(self.lab, &self.program, &self.host.code, mount_point)
    }
}

impl Copier for OursMount<'_> {
    fn server(&self) -> &Process {
        &self.host.process
    }

    fn copy(&self, destination: &Path) -> anyhow::Result<Process> {
        wormhole::get(self.lab, &self.program, &self.host.code, fixture::NAME, destination)
    }
}

/// The SSH peers share a server: sshfs mounts from it, scp copies from it.
struct Sshfs<'l> {
    lab: &'l Lab,
    ssh: SshServer,
    share: PathBuf,
}

impl<'l> Sshfs<'l> {
    fn start(lab: &'l Lab, fixture: &Fixture) -> anyhow::Result<Self> {
        Ok(Self { lab, ssh: SshServer::start(lab)?, share: fixture.directory() })
    }

    fn client(&self, program: &str) -> Command {
        let mut command = self.lab.command(End::Client, None, program);
        for option in self.ssh.client_options() {
            command.args(["-o", &option]);
        }
        command
    }
}

impl Mounter for Sshfs<'_> {
    fn server(&self) -> &Process {
        &self.ssh.process
    }

    fn mount(&self, mount_point: &Path) -> anyhow::Result<Process> {
        let mut command = self.client("sshfs");
        command.arg("-f").arg(self.ssh.remote(&self.share)).arg(mount_point);
        let mut process = self.lab.spawn("sshfs", &mut command)?;
        mounts::wait_mounted(mount_point, &mut process, STEP_LIMIT)?;
        Ok(process)
    }
}

impl Copier for Sshfs<'_> {
    fn server(&self) -> &Process {
        &self.ssh.process
    }

    fn copy(&self, destination: &Path) -> anyhow::Result<Process> {
        let mut command = self.client("scp");
        command.arg("-q").arg(self.ssh.remote(&self.share.join(fixture::NAME))).arg(destination);
        self.lab.spawn("scp", &mut command)
    }
}

struct Rclone<'l> {
    lab: &'l Lab,
    server: Process,
}

impl<'l> Rclone<'l> {
    fn start(lab: &'l Lab, fixture: &Fixture) -> anyhow::Result<Self> {
        let mut command = lab.command(End::Host, None, "rclone");
        command
            .args(["serve", "http", "--read-only", "--addr"])
            .arg(lab.socket(End::Host, RCLONE_PORT).to_string())
            .arg(fixture.directory());
        let mut server = lab.spawn("rclone-serve", &mut command)?;
        server.wait_socket(SocketKind::Tcp, RCLONE_PORT, STEP_LIMIT)?;
        Ok(Self { lab, server })
    }
}

impl Mounter for Rclone<'_> {
    fn server(&self) -> &Process {
        &self.server
    }

    fn mount(&self, mount_point: &Path) -> anyhow::Result<Process> {
        let mut command = self.lab.command(End::Client, None, "rclone");
        command
            .args(["mount", "--read-only", "--http-url"])
            .arg(format!("http://{}", self.lab.socket(End::Host, RCLONE_PORT)))
            .arg(":http:")
            .arg(mount_point);
        let mut process = self.lab.spawn("rclone-mount", &mut command)?;
        mounts::wait_mounted(mount_point, &mut process, STEP_LIMIT)?;
        Ok(process)
    }
}

/// Empties the page, dentry and inode caches (proc_sys_vm(5)). The fixture stays: it lives in memory itself.
fn drop_kernel_caches() -> anyhow::Result<()> {
    fs::write("/proc/sys/vm/drop_caches", "3").context("cannot drop the kernel's caches")
}

/// Bytes and time from the last line `dd` prints: `N bytes (…) copied, S s, R GB/s`.
fn dd_result(line: &str) -> anyhow::Result<(u64, Duration)> {
    let bytes = line.split(' ').next().and_then(|count| count.parse().ok());
    let seconds = line.split(", ").find_map(|part| part.strip_suffix(" s")).and_then(|seconds| seconds.parse().ok());
    match (bytes, seconds) {
        (Some(bytes), Some(seconds)) => Ok((bytes, Duration::try_from_secs_f64(seconds)?)),
        _ => bail!("dd ended with {line:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_of_dd_is_its_last_line() {
        let line = "268435456 bytes (268 MB, 256 MiB) copied, 0.215384 s, 1.2 GB/s";
        let expected = (268_435_456, Duration::from_nanos(215_384_000));
        assert_eq!(dd_result(line).unwrap(), expected);
        assert_eq!(dd_result("512 bytes copied, 8.1e-05 s, 6.3 MB/s").unwrap(), (512, Duration::from_nanos(81_000)));
        assert!(dd_result("dd: error reading 'x': Input/output error").is_err());
        assert!(dd_result("").is_err());
    }
}
