//! Small reads in random order through a mount that is cold: how long one takes, and how many go at once.
//!
//! Reads of 4 KiB by direct I/O, so that the kernel's page cache helps nobody. Each load has a fresh mount. In the
//! first loads no two blocks lie within 64 KiB, so that every read is cold, whatever a mount fetches besides; the dense
//! ones read every block once, as fio does, and there a mount that fetches more than it is asked for gains. Every block
//! is compared with the file's.
//!
//! A load ends after its time or once each of its blocks was read, whichever is sooner, so that loads differ in how many
//! reads they are made of: `reads` says how many. A percentile has a figure only if ten reads lie beyond it.
//!
//! First bytes are taken over many small files, each opened for the first time, and then for the second: from before the
//! open, which is what a program waits for (`first_byte`), and from the open's return alone (`first_byte_after_open`).
//! A mount may bring the bytes with the open, which moves the waiting from the one into the other.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::mount::check_hash;
use super::mounter::{self, Mounter};
use super::{Contender, Outcome, Plan, RUN_LIMIT, Scale, Series, alternate, row, typical};
use crate::fixture::{self, Fixture};
use crate::lab::Lab;
use crate::random_load::{LoadResult, Pattern};
use crate::report::{Row, Unit};
use crate::tree::{self, FirstBytes, Shape};

/// The link measured.
pub const MTU: u32 = 1500;

/// Reads in flight in the load that is about their number.
const DEPTH: u16 = 32;

/// How long each load lasts at most: it ends sooner once each of its blocks was read, and a spread load has one of
/// every 64 KiB of the file.
const LOAD_LIMIT: Duration = Duration::from_secs(5);

/// The same of a quick run.
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
    let (mounters, absent) = mounter::contenders(&lab, &fixture.directory(), &mounter::PEERS);
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
    // Twenty reads are enough for a median, and far fewer than any load makes: where there are fewer the row fails.
    let median = |load: &LoadResult| load.latencies.at(50.0).unwrap_or(f64::NAN);
    let one_median = |run: &RandomRun| median(&run.one);
    let many_rate = |run: &RandomRun| run.many.reads_per_second();
    let rate = Unit::OperationsPerSecond;
    let percentile = |name: &str, percentile: f64, load: fn(&RandomRun) -> &LoadResult| {
        percentile_row(format!("{prefix}.{name}"), percentile, &series, &absent, load)
    };
    let reads = |load: fn(&RandomRun) -> &LoadResult| reads(&series, load);
    let rows = [
        Some(
            row("qd1_p50", micros, &one_median)
                .with_curve("percentiles", typical(&series, one_median, |run| run.one.latencies.to_json()))
                .with_curve("reads", reads(|run| &run.one)),
        ),
        percentile("qd1_p90", 90.0, |run| &run.one),
        percentile("qd1_p99", 99.0, |run| &run.one),
        percentile("qd1_p999", 99.9, |run| &run.one),
        Some(
            row("qd32_iops", rate, &many_rate)
                .with_curve("percentiles", typical(&series, many_rate, |run| run.many.latencies.to_json()))
                .with_curve("reads", reads(|run| &run.many)),
        ),
        percentile("qd32_p50", 50.0, |run| &run.many),
        percentile("qd32_p99", 99.0, |run| &run.many),
        percentile("qd1_dense_p50", 50.0, |run| &run.one_dense),
        percentile("qd1_dense_p99", 99.0, |run| &run.one_dense),
        Some(
            row("qd32_dense_iops", rate, &|run| run.many_dense.reads_per_second())
                .with_curve("reads", reads(|run| &run.many_dense)),
        ),
    ];
    let mut rows: Vec<Row> = rows.into_iter().flatten().collect();
    rows.extend([
        row("first_byte_cold", micros, &|run| run.first_cold.with_open_us),
        row("first_byte_warm", micros, &|run| run.first_warm.with_open_us),
        row("first_byte_after_open_cold", micros, &|run| run.first_cold.after_open_us),
        row("first_byte_after_open_warm", micros, &|run| run.first_warm.after_open_us),
    ]);
    Ok(rows)
}

/// The row of one percentile, of the contenders that made enough reads for it in every round; the others are in it with
/// the reason. None if nobody did.
fn percentile_row(
    name: String,
    percentile: f64,
    series: &[Series<RandomRun>],
    absent: &[(String, String)],
    load: fn(&RandomRun) -> &LoadResult,
) -> Option<Row> {
    let fewest = |series: &Series<RandomRun>| {
        let runs = series.runs.as_ref().ok()?;
        runs.iter().map(load).filter(|load| load.latencies.at(percentile).is_none()).map(|load| load.reads).min()
    };
    let (mut kept, mut withheld) = (Vec::new(), Vec::new());
    for series in series {
        match fewest(series) {
            Some(reads) => {
                withheld.push((series.contender.clone(), format!("{reads} reads are too few for p{percentile}")));
            }
            None => kept.push(series.clone()),
        }
    }
    if kept.is_empty() {
        return None;
    }
    let quantity = |run: &RandomRun| load(run).latencies.at(percentile).unwrap_or(f64::NAN);
    let row = row(name, Unit::Microseconds, &kept, absent, quantity).with_curve("reads", reads(&kept, load));
    Some(Row { withheld, ..row })
}

/// How many reads each contender made in each round.
fn reads(series: &[Series<RandomRun>], load: fn(&RandomRun) -> &LoadResult) -> Value {
    let of = |series: &Series<RandomRun>| {
        let reads: Vec<u64> = series.runs.as_ref().ok()?.iter().map(|run| load(run).reads).collect();
        Some((series.contender.clone(), json!(reads)))
    };
    Value::Object(series.iter().filter_map(of).collect())
}

/// One round of one contender.
#[derive(Clone, Debug)]
struct RandomRun {
    one: LoadResult,
    many: LoadResult,
    one_dense: LoadResult,
    many_dense: LoadResult,
    first_cold: FirstBytes,
    first_warm: FirstBytes,
}

impl Outcome for RandomRun {
    fn check(&self, _: Plan) -> anyhow::Result<()> {
        let loads = [&self.one, &self.many, &self.one_dense, &self.many_dense];
        ensure!(loads.iter().all(|load| load.reads > 0), "not one block was read");
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
    fn load(&self, pattern: Pattern, depth: u16) -> anyhow::Result<LoadResult> {
        let arguments = [
            "__random".into(),
            self.mount_point.join(fixture::NAME),
            self.fixture.file(),
            pattern.word().into(),
            depth.to_string().into(),
            self.limit.as_millis().to_string().into(),
            self.seed.to_string().into(),
        ];
        let line = self.cold(&arguments).with_context(|| format!("{} reads, {depth} at once", pattern.word()))?;
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
    /// Every block is checked where it is timed, so this is the whole file once, in order.
    fn verify(&mut self) -> anyhow::Result<()> {
        mounter::with_cold_mount(self.lab, &*self.mounter, &self.mount_point, |_| {
            check_hash(self.lab, &self.mount_point.join(fixture::NAME), self.fixture.hash())
        })
    }

    fn run(&mut self) -> anyhow::Result<RandomRun> {
        self.seed += 1;
        let first = self.mount_point.join(FIRST).join("folder-0000");
        let one = self.load(Pattern::Spread, 1)?;
        let many = self.load(Pattern::Spread, DEPTH)?;
        let one_dense = self.load(Pattern::Dense, 1)?;
        let many_dense = self.load(Pattern::Dense, DEPTH)?;
        let line = self.cold(&["__first-bytes".into(), first, FIRST_BYTES.to_string().into()])?;
        let [first_cold, first_warm] = FirstBytes::from_line(&line)?;
        Ok(RandomRun { one, many, one_dense, many_dense, first_cold, first_warm })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::{Curve, Latencies};

    fn load(reads: u64) -> LoadResult {
        let mut latencies = Latencies::new().unwrap();
        for _ in 0..reads {
            latencies.record(Duration::from_micros(50));
        }
        let latencies = Curve::from_json(&json!(latencies.curve())).unwrap();
        LoadResult { reads, elapsed: Duration::from_secs(1), latencies }
    }

    fn series(contender: &str, reads: &[u64]) -> Series<RandomRun> {
        let first = FirstBytes { with_open_us: 1.0, after_open_us: 1.0 };
        let run = |&reads: &u64| RandomRun {
            one: load(reads),
            many: load(reads),
            one_dense: load(reads),
            many_dense: load(reads),
            first_cold: first,
            first_warm: first,
        };
        Series { contender: contender.into(), runs: Ok(reads.iter().map(run).collect()), remark: None }
    }

    #[test]
    fn a_percentile_of_too_few_reads_is_withheld_with_its_reason() {
        let all = [series("ours", &[12_000, 10_000]), series("sshfs", &[12_000, 9999])];
        let row = |percentile| percentile_row("r".into(), percentile, &all, &[], |run| &run.one);
        let tail = row(99.9).unwrap();
        assert_eq!(tail.figures.len(), 1);
        assert_eq!(tail.withheld, [("sshfs".to_owned(), "9999 reads are too few for p99.9".to_owned())]);
        assert_eq!(tail.curves["reads"], json!({"ours": [12_000, 10_000]}));
        // It has no figure and is no failure.
        assert_eq!(tail.failure(), None);
        assert!(row(99.0).unwrap().withheld.is_empty());
        assert!(row(99.99).is_none());
    }
}
