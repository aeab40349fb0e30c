//! Whole programs: sequential reads through a mount, cold and warm, by file size, and a copy.
//!
//! A cold read has a fresh mount, an empty client cache, and kernel caches dropped. The reader is `dd bs=1M`, and its
//! time is the one it prints. Nothing is pinned: both ends and the reader share the machine as they would anywhere.
//! The receiver's CPU time is the mounting program's, its `ssh` included, without the reader.
//!
//! Warm reads are of a file that fits what our mount keeps by default. Warm in L1 is a second read with the kernel's
//! caches dropped but the mount left as it is, and fails if the link carried more than a hundredth of the bytes
//! meanwhile; warm in the page cache is a third with nothing dropped, beside the same read of a local file. That one lies on tmpfs, whose small pages are
//! copied slower than the large ones of a mount's page cache, so that a mount may well be ahead.
//!
//! By size, a reader of our own times the open and the read together: a mount may fetch the bytes of a small file with
//! its open, and `dd` starts its clock after that.
//!
//! Copies write to memory and are timed from start to exit, connection included; each copy is hashed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{bail, ensure};
use serde_json::{Map, Value, json};

use super::mounter::{self, Mounter, Ours};
use super::{Contender, Entry, Plan, RUN_LIMIT, Run, Scale, Series, alternate, present, row, rows};
use crate::cpu_time::{self, CpuTime};
use crate::fixture::{self, Fixture};
use crate::lab::{End, Lab};
use crate::link::{self, LinkWatch};
use crate::process::Process;
use crate::report::{OURS, Row, Unit};
use crate::sample::Sample;
use crate::ssh::SshServer;
use crate::statistics::Summary;

/// The links mounts are measured on.
pub const MTUS: [u32; 2] = [1500, 9000];

/// The link copies, warm reads and sizes are measured on.
pub const COPY_MTU: u32 = 1500;

/// The largest file that is read again: it fits the 512 MiB our mount keeps unless told otherwise, with a quarter to
/// spare.
const WARM_BYTES_MAX: u64 = 384 << 20;

/// The share of a file's bytes that the link may carry while the file is read from our cache: attributes and the like.
const WARM_LINK_SHARE: u64 = 100;

/// The sizes of the files whose speed is compared: from one request to what a stream needs to run freely.
const SIZES: [u64; 5] = [64 << 10, 1 << 20, 16 << 20, 128 << 20, 1 << 30];

/// The largest of [`SIZES`] in a quick run.
const SIZE_MAX_QUICK: u64 = 16 << 20;

/// Rounds over the sizes; each file is short, and a curve needs less than a figure.
const SIZE_ROUNDS_MAX: usize = 3;

/// Measures mounts on all links, and the rest on one.
///
/// # Errors
/// If no lab can be made. What goes wrong with one contender stands in its rows.
pub fn run(plan: Plan, fixture: &Fixture, note: &mut dyn FnMut(&str)) -> anyhow::Result<Vec<Row>> {
    let mut all = Vec::new();
    for mtu in MTUS {
        all.extend(sequential(mtu, plan, fixture, note)?);
    }
    all.extend(warm(plan, note)?);
    all.push(by_size(plan, note)?);
    all.extend(copy(plan, fixture, note)?);
    Ok(all)
}

/// Cold sequential reads on a link of `mtu` bytes.
///
/// # Errors
/// As [`run`].
pub fn sequential(mtu: u32, plan: Plan, fixture: &Fixture, note: &mut dyn FnMut(&str)) -> anyhow::Result<[Row; 3]> {
    let prefix = format!("mount.mtu{mtu}");
    note(&prefix);
    let lab = Lab::up(mtu)?;
    let (mounters, absent) = mounter::contenders(&lab, &fixture.directory(), &mounter::PEERS);
    let entries = mounters
        .into_iter()
        .map(|(name, mounter)| {
            let contender = mounter.and_then(|mounter| {
                let mount_point = lab.mount_point(&format!("mnt-{name}"))?;
                Ok(Box::new(SequentialRead { lab: &lab, fixture, mounter, mount_point }) as Box<dyn Contender>)
            });
            (name, contender)
        })
        .collect();
    let series = alternate(entries, plan, note);
    Ok(rows(&prefix, ".sequential_cold", &series, &absent))
}

/// Copies of the one file.
///
/// # Errors
/// As [`run`].
pub fn copy(plan: Plan, fixture: &Fixture, note: &mut dyn FnMut(&str)) -> anyhow::Result<[Row; 3]> {
    let prefix = format!("get.mtu{COPY_MTU}");
    note(&prefix);
    let lab = Lab::up(COPY_MTU)?;
    let share = fixture.directory();
    let (peers, absent) = present(&["scp"]);
    let mut entries = vec![copied(OURS, &lab, fixture, Ours::start(&lab, &share))];
    for peer in peers {
        let scp = SshServer::start(&lab).map(|ssh| Scp { lab: &lab, ssh, share: share.clone() });
        entries.push(copied(peer, &lab, fixture, scp));
    }
    let series = alternate(entries, plan, note);
    Ok(rows(&prefix, "", &series, &absent))
}

/// A server at the host's end, and how a client copies one file from it.
trait Copier {
    fn server(&self) -> &Process;

    fn copy(&self, destination: &Path) -> anyhow::Result<Process>;
}

fn copied<'l, C: Copier + 'l>(name: &str, lab: &'l Lab, fixture: &'l Fixture, made: anyhow::Result<C>) -> Entry<'l> {
    let contender = made.map(|copier| {
        // In memory, beside the fixture and outside the share, so that neither end waits for a disk.
        let destination = fixture.destination(name);
        Box::new(Copy { lab, fixture, copier, destination }) as Box<dyn Contender>
    });
    (name.to_owned(), contender)
}

struct SequentialRead<'l> {
    lab: &'l Lab,
    fixture: &'l Fixture,
    mounter: Box<dyn Mounter + 'l>,
    mount_point: PathBuf,
}

impl Contender for SequentialRead<'_> {
    fn verify(&mut self) -> anyhow::Result<()> {
        mounter::with_cold_mount(self.lab, &*self.mounter, &self.mount_point, |_| {
            check_hash(self.lab, &self.mount_point.join(fixture::NAME), self.fixture.hash())
        })
    }

    fn run(&mut self) -> anyhow::Result<Run> {
        mounter::with_cold_mount(self.lab, &*self.mounter, &self.mount_point, |program| {
            read_watched(self.lab, &self.mount_point.join(fixture::NAME), self.mounter.server(), program)
        })
    }
}

/// Hashes a file in a process of its own, so that a mount that hangs can be given up.
pub(crate) fn check_hash(lab: &Lab, file: &Path, expected: blake3::Hash) -> anyhow::Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    let mut hash = lab.spawn("hash", command.arg("__hash").arg(file))?;
    hash.wait(RUN_LIMIT)?;
    let found = blake3::Hash::from_hex(hash.output()?.trim())?;
    ensure!(found == expected, "the bytes read through the mount are not the file's");
    Ok(())
}

/// Reads a file and accounts for both ends and for the link.
pub(crate) fn read_watched(lab: &Lab, file: &Path, server: &Process, program: &Process) -> anyhow::Result<Run> {
    let ends = [server.id(), program.id()];
    let watch = LinkWatch::start(server.id())?;
    let before = ends.map(cpu_time::of_tree);
    let (bytes, elapsed) = read(lab, file)?;
    let after = ends.map(cpu_time::of_tree);
    Ok(Run {
        bytes,
        elapsed,
        sender_cpu: after[0].since(before[0]),
        receiver_cpu: after[1].since(before[1]),
        over_time: watch.finish(bytes)?,
    })
}

/// Reads a file once with `dd`; the bytes and the time are those it prints.
pub(crate) fn read(lab: &Lab, file: &Path) -> anyhow::Result<(u64, Duration)> {
    let mut command = Command::new("dd");
    command.arg(format!("if={}", file.display())).args(["of=/dev/null", "bs=1M"]).env("LC_ALL", "C");
    let mut dd = lab.spawn("dd", &mut command)?;
    dd.wait(RUN_LIMIT)?;
    dd_result(&dd.last_words())
}

/// Opens a file and reads it once; unlike [`read`], the open is in the time.
fn open_and_read(lab: &Lab, file: &Path) -> anyhow::Result<Sample> {
    let mut command = Command::new(std::env::current_exe()?);
    let mut reader = lab.spawn("open-read", command.arg("__open-read").arg(file))?;
    reader.wait(RUN_LIMIT)?;
    Sample::from_line(reader.output()?.trim())
}

/// Second reads through a mount that stays: from our cache, and from the kernel's.
fn warm(plan: Plan, note: &mut dyn FnMut(&str)) -> anyhow::Result<[Row; 2]> {
    let prefix = format!("mount.mtu{COPY_MTU}");
    note(&format!("{prefix}.warm"));
    let lab = Lab::up(COPY_MTU)?;
    let fixture = &Fixture::create(plan.bytes.min(WARM_BYTES_MAX))?;
    let plan = Plan { bytes: fixture.bytes(), ..plan };
    let (mounters, absent) = mounter::contenders(&lab, &fixture.directory(), &["sshfs"]);
    let mut kept = Vec::new();
    for (name, mounter) in mounters {
        let mount = mounter.and_then(|mounter| KeptMount::start(&lab, fixture, mounter, &name));
        kept.push((name, mount.map_err(|error| format!("{error:#}"))));
    }
    let mut entries: Vec<Entry<'_>> = Vec::new();
    for (name, mount) in &kept {
        if name == OURS {
            entries.push((name.clone(), warm_read(mount, Warmth::Client)));
        }
    }
    let series = alternate(entries, plan, note);
    let in_l1 = row(format!("{prefix}.warm_l1"), Unit::GigabytesPerSecond, &series, &[], Run::gigabytes_per_second);
    let mut entries: Vec<Entry<'_>> =
        kept.iter().map(|(name, mount)| (name.clone(), warm_read(mount, Warmth::Kernel))).collect();
    let local = LocalRead { lab: &lab, fixture };
    entries.push(("local".to_owned(), Ok(Box::new(local))));
    let series = alternate(entries, plan, note);
    let name = format!("{prefix}.warm_page_cache");
    let in_kernel = row(name, Unit::GigabytesPerSecond, &series, &absent, Run::gigabytes_per_second);
    Ok([in_l1, in_kernel])
}

/// A mount that stays over all runs; it goes with its lab.
struct KeptMount<'l> {
    lab: &'l Lab,
    fixture: &'l Fixture,
    mounter: Box<dyn Mounter + 'l>,
    program: Process,
    mount_point: PathBuf,
}

impl<'l> KeptMount<'l> {
    fn start(lab: &'l Lab, fixture: &'l Fixture, mounter: Box<dyn Mounter + 'l>, name: &str) -> anyhow::Result<Self> {
        let mount_point = lab.mount_point(&format!("mnt-{name}"))?;
        let program = mounter.mount(lab, &mount_point)?;
        Ok(Self { lab, fixture, mounter, program, mount_point })
    }

    fn file(&self) -> PathBuf {
        self.mount_point.join(fixture::NAME)
    }
}

/// Where the bytes of a second read come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Warmth {
    /// The mounting program: the kernel's caches are dropped before each read.
    Client,
    /// The kernel's page cache.
    Kernel,
}

fn warm_read<'l>(mount: &'l Result<KeptMount<'l>, String>, warmth: Warmth) -> anyhow::Result<Box<dyn Contender + 'l>> {
    match mount {
        Ok(mount) => Ok(Box::new(WarmRead { mount, warmth })),
        Err(reason) => bail!("{reason}"),
    }
}

struct WarmRead<'l> {
    mount: &'l KeptMount<'l>,
    warmth: Warmth,
}

impl Contender for WarmRead<'_> {
    /// The read that warms is the one that is checked; what is timed comes from there.
    fn verify(&mut self) -> anyhow::Result<()> {
        check_hash(self.mount.lab, &self.mount.file(), self.mount.fixture.hash())
    }

    fn run(&mut self) -> anyhow::Result<Run> {
        let server = self.mount.mounter.server();
        let read = || read_watched(self.mount.lab, &self.mount.file(), server, &self.mount.program);
        if self.warmth == Warmth::Kernel {
            // Whether the kernel keeps anything is up to the mount: sshfs has it forget at every open.
            return read();
        }
        mounter::drop_kernel_caches()?;
        let before = link::sent_by(server.id())?;
        let run = read()?;
        ensure_warm(run.bytes, link::sent_by(server.id())?.saturating_sub(before))?;
        Ok(run)
    }
}

/// Refuses a read whose bytes came over the link.
fn ensure_warm(bytes: u64, carried: u64) -> anyhow::Result<()> {
    ensure!(
        carried <= bytes / WARM_LINK_SHARE,
        "the read was not warm: of {bytes} bytes the link carried {carried} meanwhile"
    );
    Ok(())
}

/// The same file without a network or a mount of ours.
struct LocalRead<'l> {
    lab: &'l Lab,
    fixture: &'l Fixture,
}

impl Contender for LocalRead<'_> {
    fn verify(&mut self) -> anyhow::Result<()> {
        check_hash(self.lab, &self.fixture.file(), self.fixture.hash())
    }

    fn run(&mut self) -> anyhow::Result<Run> {
        let (bytes, elapsed) = read(self.lab, &self.fixture.file())?;
        let none = CpuTime::default();
        Ok(Run { bytes, elapsed, sender_cpu: none, receiver_cpu: none, over_time: Vec::new() })
    }
}

/// Cold speed over the size of the file: one mount per round and contender, the files read smallest first.
fn by_size(plan: Plan, note: &mut dyn FnMut(&str)) -> anyhow::Result<Row> {
    let name = format!("mount.mtu{COPY_MTU}.by_size");
    note(&name);
    let sizes: Vec<u64> =
        SIZES.into_iter().filter(|&size| plan.scale == Scale::Full || size <= SIZE_MAX_QUICK).collect();
    let fixtures = fixture::Files::create(&sizes)?;
    let lab = Lab::up(COPY_MTU)?;
    let (mounters, absent) = mounter::contenders(&lab, &fixtures.directory(), &mounter::PEERS);
    let entries = mounters
        .into_iter()
        .map(|(name, mounter)| {
            let contender = mounter.and_then(|mounter| {
                let mount_point = lab.mount_point(&format!("mnt-{name}"))?;
                let contender = BySize { lab: &lab, files: &fixtures, mounter, mount_point };
                Ok(Box::new(contender) as Box<dyn Contender<Vec<Run>>>)
            });
            (name, contender)
        })
        .collect();
    let rounds = Plan { runs: plan.runs.min(SIZE_ROUNDS_MAX), ..plan };
    let series = alternate(entries, rounds, note);
    let points: Map<String, Value> = series.iter().filter_map(points).collect();
    let largest = |runs: &Vec<Run>| runs.last().map_or(f64::NAN, Run::gigabytes_per_second);
    let row = row(name, Unit::GigabytesPerSecond, &series, &absent, largest);
    Ok(row.with_points("bytes", points))
}

/// `[bytes, GB/s]` of each size, the median over the rounds.
fn points(series: &Series<Vec<Run>>) -> Option<(String, Value)> {
    let rounds = series.runs.as_ref().ok()?;
    let sizes = rounds.first()?.len();
    let point = |index: usize| {
        let speeds: Vec<f64> = rounds.iter().filter_map(|runs| Some(runs.get(index)?.gigabytes_per_second())).collect();
        Some(json!([rounds.first()?.get(index)?.bytes, Summary::of(&speeds)?.median]))
    };
    Some((series.contender.clone(), (0..sizes).filter_map(point).collect()))
}

/// The runs of all sizes in one round.
impl super::Outcome for Vec<Run> {
    /// Each run was held against its own file's length when it was made.
    fn check(&self, _: Plan) -> anyhow::Result<()> {
        ensure!(self.iter().all(|run| !run.elapsed.is_zero()), "a run took no time");
        Ok(())
    }
}

struct BySize<'l> {
    lab: &'l Lab,
    files: &'l fixture::Files,
    mounter: Box<dyn Mounter + 'l>,
    mount_point: PathBuf,
}

impl Contender<Vec<Run>> for BySize<'_> {
    fn verify(&mut self) -> anyhow::Result<()> {
        mounter::with_cold_mount(self.lab, &*self.mounter, &self.mount_point, |_| {
            self.files
                .entries()
                .iter()
                .try_for_each(|file| check_hash(self.lab, &self.mount_point.join(&file.name), file.hash))
        })
    }

    fn run(&mut self) -> anyhow::Result<Vec<Run>> {
        mounter::with_cold_mount(self.lab, &*self.mounter, &self.mount_point, |_| {
            let read = |file: &fixture::File| {
                let sample = open_and_read(self.lab, &self.mount_point.join(&file.name))?;
                ensure!(sample.bytes == file.bytes, "{} of {} bytes arrived", sample.bytes, file.bytes);
                Ok(Run {
                    bytes: sample.bytes,
                    elapsed: sample.elapsed,
                    sender_cpu: CpuTime::default(),
                    receiver_cpu: CpuTime::default(),
                    over_time: Vec::new(),
                })
            };
            self.files.entries().iter().map(read).collect()
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
        let watch = LinkWatch::start(server)?;
        let before = cpu_time::of_tree(server);
        let ended = self.copier.copy(&self.destination)?.wait(RUN_LIMIT)?;
        let sender_cpu = cpu_time::of_tree(server).since(before);
        let (bytes, hash) = fixture::hash_file(&self.destination)?;
        let over_time = watch.finish(bytes)?;
        fs::remove_file(&self.destination)?;
        ensure!(hash == self.fixture.hash(), "the copy is not the file");
        Ok(Run { bytes, elapsed: ended.elapsed, sender_cpu, receiver_cpu: ended.cpu, over_time })
    }
}

impl Copier for Ours<'_> {
    fn server(&self) -> &Process {
        &self.host.process
    }

    fn copy(&self, destination: &Path) -> anyhow::Result<Process> {
        self.get(fixture::NAME, destination)
    }
}

struct Scp<'l> {
    lab: &'l Lab,
    ssh: SshServer,
    share: PathBuf,
}

impl Copier for Scp<'_> {
    fn server(&self) -> &Process {
        &self.ssh.process
    }

    fn copy(&self, destination: &Path) -> anyhow::Result<Process> {
        let mut command = self.ssh.client(self.lab, "scp");
        command.arg("-q").arg(self.ssh.remote(&self.share.join(fixture::NAME))).arg(destination);
        self.lab.spawn("scp", &mut command)
    }
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
    fn a_read_over_the_link_is_not_warm() {
        assert!(ensure_warm(1000, 0).is_ok() && ensure_warm(1000, 10).is_ok());
        assert!(ensure_warm(1000, 11).is_err() && ensure_warm(1000, 1000).is_err());
    }

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
