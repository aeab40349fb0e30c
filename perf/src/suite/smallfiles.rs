//! Many small files: copied whole, and read one after the other through a mount.
//!
//! Copies go from memory to memory and are timed from start to exit, connection included. Every copy is compared with
//! the tree, names and contents; what was read through a mount is summed on the way.

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::mounter::{self, Mounter, Ours};
use super::{Contender, Entry, Outcome, Plan, Run, Scale, alternate, grain, present, row};
use crate::cpu_time;
use crate::fixture::Directory;
use crate::lab::{End, Lab};
use crate::process::Process;
use crate::report::{OURS, Row, Unit};
use crate::ssh::SshServer;
use crate::tree::{self, Depth, Shape, Walk};

/// The link measured.
pub const MTU: u32 = 1500;

/// 100,000 files.
const SHAPE: Shape = Shape::Wide { folders: 100, files: 1000 };

/// 10,000 files.
const SHAPE_QUICK: Shape = Shape::Wide { folders: 100, files: 100 };

/// The length of each.
const FILE_BYTES: usize = 10_000;

/// The tree's name in the share.
const TREE: &str = "tree";

/// Rounds in a full plan: the slowest peers take minutes for each.
const ROUNDS_MAX: usize = 3;

/// The peers whose mounts are read. rclone over SFTP is left out: it takes some 25 ms for every open.
const READ_PEERS: [&str; 2] = ["sshfs", "rclone-http"];

/// How long one copy may take: 100,000 files at 150 a second, a tenth of the slowest peer.
const COPY_LIMIT: Duration = Duration::from_secs(600);

const _: () = assert!(SHAPE.files() == 100_000 && SHAPE_QUICK.files() == 10_000, "the figures are for these");

/// Measures on one link.
///
/// # Errors
/// If no lab or no tree can be made. What goes wrong with one contender stands in its rows.
pub fn run(plan: Plan, note: &mut dyn FnMut(&str)) -> anyhow::Result<Vec<Row>> {
    let prefix = format!("smallfiles.mtu{MTU}");
    note(&prefix);
    let directory = Directory::create()?;
    let shape = match plan.scale {
        Scale::Full => SHAPE,
        Scale::Quick => SHAPE_QUICK,
    };
    let root = directory.share().join(TREE);
    tree::create(&root, shape, FILE_BYTES)?;
    let truth = Truth { content: tree::walk(&root, Depth::Content)?, proof: tree::walk(&root, Depth::Proof)? };
    let plan = Plan { runs: plan.runs.min(ROUNDS_MAX), ..plan };
    let mut rows = copies(&prefix, plan, &directory, &truth, note)?;
    rows.push(reads(&prefix, plan, &directory, &truth, note)?);
    Ok(rows)
}

/// What the tree is.
struct Truth {
    content: Walk,
    proof: Walk,
}

fn copies(
    prefix: &str,
    plan: Plan,
    directory: &Directory,
    truth: &Truth,
    note: &mut dyn FnMut(&str),
) -> anyhow::Result<Vec<Row>> {
    let lab = Lab::up(MTU)?;
    let share = directory.share();
    let (peers, absent) = present(&["scp", "rclone-sftp", "rsync"]);
    let ours = Ours::start(&lab, &share).map(|ours| Copier::Ours(Box::new(ours)));
    let ssh = OnceCell::new();
    let mut copiers = vec![(OURS, ours)];
    for peer in peers {
        copiers.push((peer, ssh_copier(peer, &lab, &share, &ssh)));
    }
    let entries = copiers
        .into_iter()
        .map(|(name, copier)| {
            let contender = copier.map(|copier| {
                let destination = directory.destination(name);
                Box::new(CopyTree { lab: &lab, copier, destination, truth }) as Box<dyn Contender<TreeRun>>
            });
            (name.to_owned(), contender)
        })
        .collect::<Vec<Entry<'_, TreeRun>>>();
    let series = alternate(entries, plan, note);
    let name = |what: &str| format!("{prefix}.{what}");
    let cpu = Unit::SecondsPerGigabyte;
    let sender_grain = grain(&series, |run| run.run.sender_grain());
    let receiver_grain = grain(&series, |run| run.run.receiver_grain());
    Ok(vec![
        row(name("get"), Unit::FilesPerSecond, &series, &absent, TreeRun::files_per_second),
        row(name("get_throughput"), Unit::GigabytesPerSecond, &series, &absent, |run| run.run.gigabytes_per_second()),
        row(name("cpu_sender"), cpu, &series, &absent, |run| run.run.sender_seconds_per_gigabyte())
            .with_grain(sender_grain),
        row(name("cpu_receiver"), cpu, &series, &absent, |run| run.run.receiver_seconds_per_gigabyte())
            .with_grain(receiver_grain),
    ])
}

fn ssh_copier<'l>(
    peer: &str,
    lab: &'l Lab,
    share: &Path,
    server: &OnceCell<Rc<SshServer>>,
) -> anyhow::Result<Copier<'l>> {
    let ssh = match server.get() {
        Some(ssh) => Rc::clone(ssh),
        None => {
            let ssh = Rc::new(SshServer::start(lab)?);
            Rc::clone(server.get_or_init(|| ssh))
        }
    };
    let source = share.join(TREE);
    Ok(match peer {
        "scp" => Copier::Scp { ssh, source },
        "rsync" => Copier::Rsync { ssh, source },
        _ => Copier::Rclone { ssh, source },
    })
}

/// A whole tree in one run.
#[derive(Clone, Debug)]
struct TreeRun {
    files: u64,
    run: Run,
}

impl TreeRun {
    // Far below 2^53.
    #[expect(clippy::cast_precision_loss, reason = "see above")]
    fn files_per_second(&self) -> f64 {
        self.files as f64 / self.run.elapsed.as_secs_f64()
    }
}

impl Outcome for TreeRun {
    /// The tree was compared when the run was made.
    fn check(&self, _: Plan) -> anyhow::Result<()> {
        ensure!(!self.run.elapsed.is_zero(), "the run took no time");
        Ok(())
    }
}

/// The programs that copy trees.
enum Copier<'l> {
    Ours(Box<Ours<'l>>),
    Scp { ssh: Rc<SshServer>, source: PathBuf },
    Rclone { ssh: Rc<SshServer>, source: PathBuf },
    Rsync { ssh: Rc<SshServer>, source: PathBuf },
}

impl Copier<'_> {
    fn server(&self) -> &Process {
        match self {
            Self::Ours(ours) => &ours.host.process,
            Self::Scp { ssh, .. } | Self::Rclone { ssh, .. } | Self::Rsync { ssh, .. } => &ssh.process,
        }
    }

    fn copy(&self, lab: &Lab, destination: &Path) -> anyhow::Result<Process> {
        match self {
            Self::Ours(ours) => ours.get(TREE, destination),
            Self::Scp { ssh, source } => {
                let mut command = ssh.client(lab, "scp");
                command.args(["-q", "-r"]).arg(ssh.remote(source)).arg(destination);
                lab.spawn("scp", &mut command)
            }
            Self::Rclone { ssh, source } => {
                let mut command = lab.command(End::Client, None, "rclone");
                command
                    .arg("copy")
                    // Otherwise it starts a program on the server for every file, to hash it, and takes minutes.
                    .arg("--sftp-disable-hashcheck")
                    .args(ssh.rclone_options())
                    .arg(format!(":sftp:{}", source.display()))
                    .arg(destination);
                lab.spawn("rclone-copy", &mut command)
            }
            Self::Rsync { ssh, source } => {
                let mut command = lab.command(End::Client, None, "rsync");
                let source = format!("{}/", ssh.remote(source));
                command.args(["-a", "-e", &ssh.shell()]).arg(source).arg(destination);
                lab.spawn("rsync", &mut command)
            }
        }
    }
}

struct CopyTree<'l> {
    lab: &'l Lab,
    copier: Copier<'l>,
    destination: PathBuf,
    truth: &'l Truth,
}

impl Contender<TreeRun> for CopyTree<'_> {
    /// Every copy is checked where it is timed.
    fn verify(&mut self) -> anyhow::Result<()> {
        self.run().map(drop)
    }

    fn run(&mut self) -> anyhow::Result<TreeRun> {
        self.lab.forget_cache(End::Client)?;
        let server = self.copier.server().id();
        let before = cpu_time::of_tree(server);
        let ended = self.copier.copy(self.lab, &self.destination)?.wait(COPY_LIMIT)?;
        let sender_cpu = cpu_time::of_tree(server).since(before);
        let copy = tree::walk(&self.destination, Depth::Proof).context("the copy")?;
        ensure!(
            copy.is_same_tree(&self.truth.proof),
            "the copy is another tree: {} files of {}, {} bytes of {}",
            copy.files,
            self.truth.proof.files,
            copy.bytes,
            self.truth.proof.bytes
        );
        fs::remove_dir_all(&self.destination)?;
        let run = Run {
            bytes: copy.bytes,
            elapsed: ended.elapsed,
            sender_cpu,
            receiver_cpu: ended.cpu,
            over_time: Vec::new(),
        };
        Ok(TreeRun { files: copy.files, run })
    }
}

fn reads(
    prefix: &str,
    plan: Plan,
    directory: &Directory,
    truth: &Truth,
    note: &mut dyn FnMut(&str),
) -> anyhow::Result<Row> {
    let name = format!("{prefix}.read_tree");
    note(&name);
    let lab = Lab::up(MTU)?;
    let (mounters, absent) = mounter::contenders(&lab, &directory.share(), &READ_PEERS);
    let entries = mounters
        .into_iter()
        .map(|(name, mounter)| {
            let contender = mounter.and_then(|mounter| {
                let mount_point = lab.mount_point(&format!("mnt-{name}"))?;
                Ok(Box::new(ReadTree { lab: &lab, mounter, mount_point, truth }) as Box<dyn Contender<TreeRun>>)
            });
            (name, contender)
        })
        .collect::<Vec<Entry<'_, TreeRun>>>();
    let series = alternate(entries, plan, note);
    Ok(row(name, Unit::FilesPerSecond, &series, &absent, TreeRun::files_per_second))
}

/// One reader that takes file after file, as `tar` does.
struct ReadTree<'l> {
    lab: &'l Lab,
    mounter: Box<dyn Mounter + 'l>,
    mount_point: PathBuf,
    truth: &'l Truth,
}

impl Contender<TreeRun> for ReadTree<'_> {
    /// Every read is checked where it is timed.
    fn verify(&mut self) -> anyhow::Result<()> {
        self.run().map(drop)
    }

    fn run(&mut self) -> anyhow::Result<TreeRun> {
        mounter::with_cold_mount(self.lab, &*self.mounter, &self.mount_point, |program| {
            let ends = [self.mounter.server().id(), program.id()];
            let before = ends.map(cpu_time::of_tree);
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["__walk", Depth::Content.word()]).arg(self.mount_point.join(TREE));
            let mut process = self.lab.spawn("read-tree", &mut command)?;
            process.wait(COPY_LIMIT)?;
            let after = ends.map(cpu_time::of_tree);
            let walk = Walk::from_line(process.output()?.trim())?;
            ensure!(walk.is_same_tree(&self.truth.content), "other names or bytes came than the tree's");
            let run = Run {
                bytes: walk.bytes,
                elapsed: walk.elapsed,
                sender_cpu: after[0].since(before[0]),
                receiver_cpu: after[1].since(before[1]),
                over_time: Vec::new(),
            };
            Ok(TreeRun { files: walk.files, run })
        })
    }
}
