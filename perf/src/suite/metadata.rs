//! Names and attributes: walking a tree, single requests in a row, and how long mounting a large share takes.
//!
//! A walk lists every folder and asks every entry for its attributes, as `find -ls` does; what it saw must be what the
//! tree is. Cold is a fresh mount with the kernel's caches dropped; warm is the same walk again at once.
//!
//! Mounting is timed as a user sees it: until the command that leaves a daemon behind returns, for a device that has
//! joined before.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Map, Value, json};

use super::mounter::{self, Mounter, Presence, STEP_LIMIT};
use super::{Contender, Outcome, Plan, RUN_LIMIT, Scale, Series, alternate, folded, row};
use crate::fixture::Directory;
use crate::lab::{End, Lab};
use crate::memory;
use crate::mounts;
use crate::report::{OURS, Row, Unit};
use crate::statistics::Summary;
use crate::tree::{self, Depth, Shape, Storm, Walk};
use crate::wormhole::CODE_VARIABLE;

/// The link measured.
pub const MTU: u32 = 1500;

/// 10,000 entries.
const WIDE: Shape = Shape::Wide { folders: 100, files: 99 };

/// Folders as deep as the longest paths people have.
const DEEP: Shape = Shape::Deep { folders: 200, files: 4 };

/// A million files.
const MILLION: Shape = Shape::Wide { folders: 1000, files: 1000 };

/// The length of the files: their names are what counts here.
const FILE_BYTES: usize = 64;

/// How long each storm lasts.
const STORM_LIMIT: Duration = Duration::from_secs(1);

/// The peers whose walks are timed. rclone over HTTP is left out: it asks for each file's length by itself.
const PEERS: [&str; 2] = ["sshfs", "rclone-sftp"];

const _: () = assert!(WIDE.entries() == 10_000 && MILLION.files() == 1_000_000, "the rows are named after these");

/// Measures on one link; the share of a million files is made in full plans alone.
///
/// # Errors
/// If no lab or no tree can be made. What goes wrong with one contender stands in its rows.
pub fn run(plan: Plan, note: &mut dyn FnMut(&str)) -> anyhow::Result<Vec<Row>> {
    let prefix = format!("metadata.mtu{MTU}");
    note(&prefix);
    let directory = Directory::create()?;
    for (name, shape) in [("wide", WIDE), ("deep", DEEP)] {
        tree::create(&directory.share().join(name), shape, FILE_BYTES)?;
    }
    let mut rows = walks(&prefix, plan, &directory, note)?;
    let mut sizes = vec![mounting(&prefix, plan, &directory, WIDE.files() + DEEP.files(), note)?];
    if plan.scale == Scale::Full {
        note("a share of 1,000,000 files is being made");
        let million = Directory::create()?;
        tree::create(&million.share().join("million"), MILLION, 0)?;
        sizes.push(mounting(&prefix, plan, &million, MILLION.files(), note)?);
    }
    rows.extend(mount_rows(&prefix, &sizes));
    Ok(rows)
}

fn walks(prefix: &str, plan: Plan, directory: &Directory, note: &mut dyn FnMut(&str)) -> anyhow::Result<Vec<Row>> {
    let expected = [
        tree::walk(&directory.share().join("wide"), Depth::Attributes)?,
        tree::walk(&directory.share().join("deep"), Depth::Attributes)?,
    ];
    let lab = Lab::up(MTU)?;
    let (mounters, absent) = mounter::contenders(&lab, &directory.share(), &PEERS);
    let entries = mounters
        .into_iter()
        .map(|(name, mounter)| {
            let contender = mounter.and_then(|mounter| {
                let mount_point = lab.mount_point(&format!("mnt-{name}"))?;
                let contender = Names { lab: &lab, mounter, mount_point, expected };
                Ok(Box::new(contender) as Box<dyn Contender<NamesRun>>)
            });
            (name, contender)
        })
        .collect();
    let series = alternate(entries, plan, note);
    let row = |name: &str, unit: Unit, quantity: &dyn Fn(&NamesRun) -> f64| {
        row(format!("{prefix}.{name}"), unit, &series, &absent, quantity)
    };
    let rate = Unit::OperationsPerSecond;
    Ok(vec![
        row("walk_10k_cold", Unit::Milliseconds, &|run| milliseconds(run.wide_cold)),
        row("walk_10k_warm", Unit::Milliseconds, &|run| milliseconds(run.wide_warm)),
        row("walk_deep_cold", Unit::Milliseconds, &|run| milliseconds(run.deep_cold)),
        row("stat_storm", rate, &|run| run.stats_per_second),
        row("open_storm", rate, &|run| run.opens_per_second),
    ])
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// One round of one contender.
#[derive(Clone, Copy, Debug)]
struct NamesRun {
    wide_cold: Duration,
    wide_warm: Duration,
    deep_cold: Duration,
    stats_per_second: f64,
    opens_per_second: f64,
}

impl Outcome for NamesRun {
    /// Each walk was held against the tree when it was made.
    fn check(&self, _: Plan) -> anyhow::Result<()> {
        ensure!(self.stats_per_second > 0.0 && self.opens_per_second > 0.0, "not one request was answered");
        Ok(())
    }
}

struct Names<'l> {
    lab: &'l Lab,
    mounter: Box<dyn Mounter + 'l>,
    mount_point: PathBuf,
    /// What walks of the wide and of the deep tree must see.
    expected: [Walk; 2],
}

impl Names<'_> {
    fn line(&self, command: &mut Command) -> anyhow::Result<String> {
        let mut process = self.lab.spawn("names", command)?;
        process.wait(RUN_LIMIT)?;
        Ok(process.output()?.trim().to_owned())
    }

    fn walk(&self, name: &str, expected: &Walk) -> anyhow::Result<Duration> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["__walk", Depth::Attributes.word()]).arg(self.mount_point.join(name));
        let walk = Walk::from_line(&self.line(&mut command)?)?;
        ensure!(
            walk.is_same_tree(expected),
            "the walk of {name} saw another tree: {} entries of {}, {} bytes of {}",
            walk.entries,
            expected.entries,
            walk.bytes,
            expected.bytes
        );
        Ok(walk.elapsed)
    }

    fn storm(&self, storm: Storm) -> anyhow::Result<f64> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["__storm", storm.word()])
            .arg(self.mount_point.join("wide"))
            .arg(STORM_LIMIT.as_millis().to_string());
        Ok(self.line(&mut command)?.parse()?)
    }
}

impl Contender<NamesRun> for Names<'_> {
    /// Every walk is checked where it is timed.
    fn verify(&mut self) -> anyhow::Result<()> {
        self.run().map(drop)
    }

    fn run(&mut self) -> anyhow::Result<NamesRun> {
        let [wide, deep] = self.expected;
        mounter::with_cold_mount(self.lab, &*self.mounter, &self.mount_point, |_| {
            Ok(NamesRun {
                wide_cold: self.walk("wide", &wide)?,
                wide_warm: self.walk("wide", &wide)?,
                deep_cold: self.walk("deep", &deep)?,
                stats_per_second: self.storm(Storm::Stat)?,
                opens_per_second: self.storm(Storm::Open)?,
            })
        })
    }
}

/// The runs over one share.
struct Sized {
    /// How many files are in it.
    files: usize,
    series: Vec<Series<MountingRun>>,
    absent: Vec<(String, String)>,
}

fn mounting(
    prefix: &str,
    plan: Plan,
    directory: &Directory,
    files: usize,
    note: &mut dyn FnMut(&str),
) -> anyhow::Result<Sized> {
    note(&format!("{prefix}: mounting {files} files"));
    let lab = Lab::up(MTU)?;
    let (mounters, absent) = mounter::contenders(&lab, &directory.share(), &["sshfs"]);
    let entries = mounters
        .into_iter()
        .map(|(name, mounter)| {
            let contender = mounter.and_then(|mounter| {
                let mount_point = lab.mount_point(&format!("mnt-{name}"))?;
                Ok(Box::new(Mounting { lab: &lab, mounter, mount_point }) as Box<dyn Contender<MountingRun>>)
            });
            (name, contender)
        })
        .collect();
    Ok(Sized { files, series: alternate(entries, plan, note), absent })
}

/// Rows named after the largest share, with a point for each.
fn mount_rows(prefix: &str, sizes: &[Sized]) -> Vec<Row> {
    let Some(Sized { files, absent, .. }) = sizes.last() else {
        return Vec::new();
    };
    let name = if *files == MILLION.files() { "1m" } else { "10k" };
    // A curve with a point missing is a failure, also where the row's own figure is there.
    let whole = folded(sizes.iter().map(|size| (format!("{} files", size.files), size.series.clone())).collect());
    let time = |run: &MountingRun| milliseconds(run.elapsed);
    let memory = |run: &MountingRun| run.memory_mebibytes;
    let is_ours = |contender: &str| contender == OURS;
    vec![
        row(format!("{prefix}.mount_{name}"), Unit::Milliseconds, &whole, absent, time)
            .with_points("files", points(sizes, |_| true, time)),
        row(format!("{prefix}.mount_{name}_memory"), Unit::Mebibytes, &ours(&whole), &[], memory)
            .with_points("files", points(sizes, is_ours, memory)),
    ]
}

/// Ours alone: a peer's memory is spread over programs that are not its own.
fn ours(series: &[Series<MountingRun>]) -> Vec<Series<MountingRun>> {
    series.iter().filter(|series| series.contender == OURS).cloned().collect()
}

/// `[files, median]` for each share and each contender that is wanted.
fn points(
    sizes: &[Sized],
    is_wanted: impl Fn(&str) -> bool,
    quantity: impl Fn(&MountingRun) -> f64,
) -> Map<String, Value> {
    let mut points: Map<String, Value> = Map::new();
    for Sized { files, series: all, .. } in sizes {
        for series in all.iter().filter(|series| is_wanted(&series.contender)) {
            let values: Vec<f64> = series.runs.iter().flatten().map(&quantity).collect();
            let Some(summary) = Summary::of(&values) else { continue };
            let of_contender = points.entry(series.contender.clone()).or_insert_with(|| json!([]));
            if let Some(of_contender) = of_contender.as_array_mut() {
                of_contender.push(json!([files, summary.median]));
            }
        }
    }
    points
}

/// One mount: how long it took, and what the mounting program then holds.
#[derive(Clone, Copy, Debug)]
struct MountingRun {
    elapsed: Duration,
    memory_mebibytes: f64,
}

impl Outcome for MountingRun {
    fn check(&self, _: Plan) -> anyhow::Result<()> {
        ensure!(!self.elapsed.is_zero(), "the mount took no time");
        Ok(())
    }
}

struct Mounting<'l> {
    lab: &'l Lab,
    mounter: Box<dyn Mounter + 'l>,
    mount_point: PathBuf,
}

impl Mounting<'_> {
    fn mount_in_background(&self, command: &mut Command) -> anyhow::Result<Duration> {
        self.lab.forget_cache(End::Client)?;
        let ended = self.lab.spawn("mount", command)?.wait(STEP_LIMIT)?;
        has_entries(&self.mount_point)?;
        mounts::unmount(&self.mount_point, STEP_LIMIT)?;
        Ok(ended.elapsed)
    }
}

/// What was mounted is the share and not the empty folder below it.
fn has_entries(mount_point: &Path) -> anyhow::Result<()> {
    ensure!(!mounts::below(mount_point)?.is_empty(), "the command ended and nothing is mounted");
    let first = std::fs::read_dir(mount_point)?.next().context("the mount is empty")?;
    first?;
    Ok(())
}

impl Contender<MountingRun> for Mounting<'_> {
    /// The first mount joins: from then on the device is known.
    fn verify(&mut self) -> anyhow::Result<()> {
        self.mount_in_background(&mut self.mounter.command(&self.mount_point, Presence::Background)).map(drop)
    }

    fn run(&mut self) -> anyhow::Result<MountingRun> {
        let mut command = self.mounter.command(&self.mount_point, Presence::Background);
        command.env_remove(CODE_VARIABLE);
        let elapsed = self.mount_in_background(&mut command)?;
        let memory_mebibytes = mounter::with_cold_mount(self.lab, &*self.mounter, &self.mount_point, |program| {
            has_entries(&self.mount_point)?;
            memory::own_mebibytes(program.id()).context("the mounting program says nothing of its memory")
        })?;
        Ok(MountingRun { elapsed, memory_mebibytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_medians_by_size_and_contender() {
        let run = |ms| MountingRun { elapsed: Duration::from_millis(ms), memory_mebibytes: 1.0 };
        let of = |contender: &str, times: &[u64]| Series {
            contender: contender.into(),
            runs: Ok(times.iter().map(|&ms| run(ms)).collect()),
            remark: None,
        };
        let failed = |contender: &str| Series { contender: contender.into(), runs: Err("no".into()), remark: None };
        let absent = vec![("rclone-sftp".to_owned(), "rclone".to_owned())];
        let mut sizes = [
            Sized { files: 10, series: vec![of("ours", &[1, 2, 3]), of("sshfs", &[9])], absent: absent.clone() },
            Sized { files: 20, series: vec![of("ours", &[5]), failed("sshfs")], absent: absent.clone() },
        ];
        let found = points(&sizes, |_| true, |run| milliseconds(run.elapsed));
        assert_eq!(Value::from(found), json!({"ours": [[10, 2.0], [20, 5.0]], "sshfs": [[10, 9.0]]}));
        let rows = mount_rows("metadata.mtu1500", &sizes);
        assert_eq!(
            rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(),
            ["metadata.mtu1500.mount_10k", "metadata.mtu1500.mount_10k_memory"]
        );
        assert_eq!(rows[0].absent, absent);
        assert_eq!(rows[0].failure().as_deref(), Some("sshfs: 20 files: no"));
        assert_eq!(rows[1].curves["points"], json!({"ours": [[10, 1.0], [20, 1.0]]}));
        // The smaller share counts as well.
        sizes[0].series[0] = failed("ours");
        let rows = mount_rows("metadata.mtu1500", &sizes);
        assert_eq!(rows[1].failure().as_deref(), Some("ours: 10 files: no"));
    }
}
