//! Small reads in random order through a mount that is cold: how long one takes, and how many go at once.
//!
//! Reads of 4 KiB by direct I/O, so that the kernel's page cache helps nobody. Each load has a fresh mount and never
//! reads a block twice. Every block is compared with the file's. The first byte after an open is taken over many
//! small files, each opened for the first time, and then for the second.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::mounter::{self, Mounter};
use super::{Contender, Outcome, Plan, RUN_LIMIT, Scale, alternate, row, typical};
use crate::fixture::{self, Fixture};
use crate::lab::Lab;
use crate::random_load::LoadResult;
use crate::report::{Row, Unit};
use crate::tree::{self, Shape};

/// The link measured.
pub const MTU: u32 = 1500;

/// Reads in flight in the load that is about their number.
const DEPTH: u16 = 32;

/// How long each load lasts.
const LOAD_LIMIT: Duration = Duration::from_secs(5);

/// How long each load of a quick run lasts.
const LOAD_LIMIT_QUICK: Duration = Duration::from_secs(2);

/// The folder of small files whose first bytes are read.
const FIRST: &str = "first";

/// Small files: enough for a median that one slow answer does not move.
const FIRST_FILES: usize = 100;

/// The length of each.
const FIRST_BYTES: usize = 64 << 10;

/// Measures on one link.
///
/// # Errors
/// If no lab or no fixture can be made. What goes wrong with one contender stands in its rows.
pub fn run(plan: Plan, note: &mut dyn FnMut(&str)) -> anyhow::Result<Vec<Row>> {
    let prefix = format!("random.mtu{MTU}");
    note(&prefix);
    let fixture = Fixture::create(plan.bytes)?;
    tree::create(&fixture.directory().join(FIRST), Shape::Wide { folders: 1, files: FIRST_FILES }, FIRST_BYTES)?;
    let lab = Lab::up(MTU)?;
    let (mounters, absent) = mounter::contenders(&lab, &fixture.directory(), &mounter::PEERS, &[]);
    let limit = match plan.scale {
        Scale::Full => LOAD_LIMIT,
        Scale::Quick => LOAD_LIMIT_QUICK,
    };
    let entries = mounters
        .into_iter()
        .map(|(name, mounter)| {
            let contender = mounter.and_then(|mounter| {
                let mount_point = lab.mount_point(&format!("mnt-{name}"))?;
                let contender = RandomReads { lab: &lab, fixture: &fixture, mounter, mount_point, limit, seed: 0 };
                Ok(Box::new(contender) as Box<dyn Contender<RandomRun>>)
            });
            (name, contender)
        })
        .collect();
    let series = alternate(entries, plan, note);
    let row = |name: &str, unit: Unit, quantity: &dyn Fn(&RandomRun) -> f64| {
        row(format!("{prefix}.{name}"), unit, &series, &absent, quantity)
    };
    let micros = Unit::Microseconds;
    let one_median = |run: &RandomRun| run.one.latencies.at(50.0);
    let many_rate = |run: &RandomRun| run.many.reads_per_second();
    Ok(vec![
        row("qd1_p50", micros, &one_median)
            .with_curve("percentiles", typical(&series, one_median, |run| run.one.latencies.to_json())),
        row("qd1_p90", micros, &|run| run.one.latencies.at(90.0)),
        row("qd1_p99", micros, &|run| run.one.latencies.at(99.0)),
        row("qd1_p999", micros, &|run| run.one.latencies.at(99.9)),
        row("qd32_iops", Unit::OperationsPerSecond, &many_rate)
            .with_curve("percentiles", typical(&series, many_rate, |run| run.many.latencies.to_json())),
        row("qd32_p50", micros, &|run| run.many.latencies.at(50.0)),
        row("qd32_p99", micros, &|run| run.many.latencies.at(99.0)),
        row("first_byte_cold", micros, &|run| run.first_cold_us),
        row("first_byte_warm", micros, &|run| run.first_warm_us),
    ])
}

/// One round of one contender.
#[derive(Clone, Debug)]
struct RandomRun {
    one: LoadResult,
    many: LoadResult,
    first_cold_us: f64,
    first_warm_us: f64,
}

impl Outcome for RandomRun {
    fn check(&self, _: Plan) -> anyhow::Result<()> {
        ensure!(self.one.reads > 0 && self.many.reads > 0, "not one block was read");
        Ok(())
    }
}

struct RandomReads<'l> {
    lab: &'l Lab,
    fixture: &'l Fixture,
    mounter: Box<dyn Mounter + 'l>,
    mount_point: PathBuf,
    limit: Duration,
    seed: u64,
}

impl RandomReads<'_> {
    fn load(&self, depth: u16) -> anyhow::Result<LoadResult> {
        let line = self.cold(&[
            "__random".into(),
            self.mount_point.join(fixture::NAME),
            self.fixture.file(),
            depth.to_string().into(),
            self.limit.as_millis().to_string().into(),
            self.seed.to_string().into(),
        ])?;
        LoadResult::from_line(&line)
    }

    /// Runs this program with `arguments` beside a mount that is cold, and returns its line.
    fn cold(&self, arguments: &[PathBuf]) -> anyhow::Result<String> {
        mounter::with_cold_mount(self.lab, &*self.mounter, &self.mount_point, |_| {
            let mut command = Command::new(std::env::current_exe()?);
            let mut process = self.lab.spawn("load", command.args(arguments))?;
            process.wait(RUN_LIMIT)?;
            Ok(process.output()?.trim().to_owned())
        })
    }
}

impl Contender<RandomRun> for RandomReads<'_> {
    /// Every block is checked where it is timed.
    fn verify(&mut self) -> anyhow::Result<()> {
        self.run().map(drop)
    }

    fn run(&mut self) -> anyhow::Result<RandomRun> {
        self.seed += 1;
        let first = self.mount_point.join(FIRST).join("folder-0000");
        let one = self.load(1).context("one at a time")?;
        let many = self.load(DEPTH).with_context(|| format!("{DEPTH} in flight"))?;
        let line: Value = serde_json::from_str(&self.cold(&["__first-bytes".into(), first])?)?;
        let number = |key: &str| line[key].as_f64().with_context(|| format!("no {key}"));
        Ok(RandomRun { one, many, first_cold_us: number("cold_us")?, first_warm_us: number("warm_us")? })
    }
}
