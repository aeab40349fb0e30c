//! A report read back from its JSON, of this release or another.
//!
//! Unknown keys are passed over and missing ones are empty, so that an old run can still be drawn and compared. What is
//! there must be of the right kind, finite and within the bounds below: a file is not trusted because it ends in
//! `.json`. Nothing here measures or writes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::peers;
use crate::report::OURS;
use crate::statistics::Summary;

/// Longest report read: the largest run so far has 60 KB, and a series of a million points fits.
pub const REPORT_BYTES_MAX: u64 = 64 << 20;

/// Most rows of one report; all suites together make fewer than a hundred.
pub const ROWS_MAX: usize = 2000;

/// Most contenders of one row; no suite has ten.
pub const CONTENDERS_MAX: usize = 64;

/// Most points of one contender's curve: an hour, a point every 100 ms.
pub const POINTS_MAX: usize = 36_000;

/// The least magnitude of any number of a report but zero: a picosecond in microseconds is a million times more.
pub const MAGNITUDE_MIN: f64 = 1e-12;

/// The greatest magnitude of any number of a report: a petabyte.
pub const MAGNITUDE_MAX: f64 = 1e15;

/// By how much of itself a median may differ from the one its runs give: what a decimal fraction loses on its way.
const ROUNDING: f64 = 1e-9;

/// Share of the cores that may be busy before a run without the reader being warned.
pub const QUIET_LOAD: f64 = 0.25;

/// One point of a curve: where, and how much.
pub type Point = [f64; 2];

/// A whole run.
#[derive(Clone, Debug, Deserialize)]
pub struct Recorded {
    /// Where and when it was measured.
    #[serde(default)]
    pub machine: Machine,
    /// How much was moved, and how.
    #[serde(default)]
    pub plan: RecordedPlan,
    /// In the order measured.
    pub rows: Vec<RecordedRow>,
}

/// The plan of a run; see [`crate::report::Report::plan`]. Older reports leave it out.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct RecordedPlan {
    /// Bytes per run.
    pub bytes: Option<u64>,
    /// Timed runs of each contender that were asked for.
    pub runs: Option<u64>,
    /// `full` or `quick`.
    pub scale: Option<String>,
    /// The MTU of a real link; in labs the rows' names have it.
    pub mtu: Option<u32>,
    /// `release` or `debug`: how the measuring program was built.
    pub profile: Option<String>,
}

/// The machine of a run, as far as it was found out; see [`crate::machine::describe`].
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Machine {
    /// The processor's name for itself.
    pub cpu: Option<String>,
    /// Processors this program may use.
    pub cores: Option<u64>,
    /// The kernel's release.
    pub kernel: Option<String>,
    /// RAM.
    pub memory_bytes: Option<u64>,
    /// Load average over a minute, before the run.
    pub load_1min: Option<f64>,
    /// Full hash of the commit that was measured.
    pub commit: Option<String>,
    /// Whether files differed from that commit.
    pub uncommitted_changes: Option<bool>,
    /// When the run began, in UTC.
    pub date: Option<String>,
    /// The command line.
    pub command: Option<String>,
    /// The program that measured; older reports leave it out.
    pub perf: Option<Program>,
    /// `wormhole`, which was measured; older reports leave it out.
    pub program: Option<Program>,
}

/// A program of a run, as far as it was found out.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Program {
    /// Its word for its version.
    pub version: Option<String>,
    /// BLAKE3 hash of its file.
    pub blake3: Option<String>,
    /// `release` or `debug`.
    pub profile: Option<String>,
}

/// One quantity over all contenders.
#[derive(Clone, Debug, Deserialize)]
pub struct RecordedRow {
    /// Dotted name.
    pub name: String,
    /// Unit of every figure.
    pub unit: String,
    /// `higher` or `lower`; older reports leave it out.
    #[serde(default)]
    better: Option<String>,
    /// Median of our runs; none if we failed.
    #[serde(default)]
    pub ours: Option<f64>,
    /// Medians of the peers' runs.
    #[serde(default)]
    pub peers: BTreeMap<String, f64>,
    /// How far each contender's runs lie apart.
    #[serde(default)]
    pub spread: BTreeMap<String, Spread>,
    /// Each round of the alternation, from contender to value.
    #[serde(default)]
    pub runs: Vec<BTreeMap<String, f64>>,
    /// By how much a value may be off because of how it was counted; older reports leave it out.
    #[serde(default)]
    pub grain: f64,
    /// Contenders that ran well and have no figure here, each with the reason.
    #[serde(default)]
    pub withheld: BTreeMap<String, String>,
    /// What a reader must know of all its runs.
    #[serde(default)]
    pub remark: Option<String>,
    /// Peers that are not installed, each with the packages it needs.
    #[serde(default)]
    pub absent: BTreeMap<String, String>,
    /// Contenders that moved their bytes unencrypted; older reports leave it out.
    #[serde(default)]
    in_clear: Option<BTreeSet<String>>,
    /// Why contenders failed, all in one sentence.
    #[serde(default)]
    pub failed: Option<String>,
    /// Why each contender failed; older reports leave it out.
    #[serde(default)]
    failures: BTreeMap<String, String>,
    /// Throughput over time, `[seconds, GB/s]`.
    #[serde(default)]
    pub series: BTreeMap<String, Vec<Point>>,
    /// Latency curves, `[percentile, microseconds]`.
    #[serde(default)]
    pub percentiles: BTreeMap<String, Vec<Point>>,
    /// Scaling, `[x, y]` with `x` in [`RecordedRow::x_unit`] and `y` in the row's unit.
    #[serde(default)]
    pub points: BTreeMap<String, Vec<Point>>,
    /// Unit of the points' first number, such as `shards` or `bytes`.
    #[serde(default)]
    pub x_unit: Option<String>,
}

/// Extremes and median absolute deviation of one contender's runs.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
pub struct Spread {
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// The median distance from the median.
    pub mad: f64,
}

impl Recorded {
    /// Reads a report from a file.
    ///
    /// # Errors
    /// If it cannot be read, is longer than [`REPORT_BYTES_MAX`], or is no report.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let name = || path.display().to_string();
        let file = std::fs::File::open(path).with_context(name)?;
        let mut text = String::new();
        // One byte past the bound tells too long from just long enough.
        file.take(REPORT_BYTES_MAX + 1).read_to_string(&mut text).with_context(name)?;
        ensure!(text.len() as u64 <= REPORT_BYTES_MAX, "{} is longer than {REPORT_BYTES_MAX} bytes", name());
        let value: Value = serde_json::from_str(&text).with_context(name)?;
        Self::from_json(value).with_context(name)
    }

    /// Takes a report from its JSON.
    ///
    /// # Errors
    /// If it is no report or past a bound of this module.
    pub fn from_json(value: Value) -> anyhow::Result<Self> {
        let recorded: Self = serde_json::from_value(value).context("this is no report of perf")?;
        ensure!(recorded.rows.len() <= ROWS_MAX, "more than {ROWS_MAX} rows");
        for row in &recorded.rows {
            row.ensure_bounded().with_context(|| format!("row {:?}", row.name))?;
            row.ensure_medians().with_context(|| format!("row {:?}", row.name))?;
        }
        Ok(recorded)
    }

    /// Whether every figure has the runs it is the median of.
    ///
    /// # Errors
    /// The first figure that has none.
    pub fn ensure_backed(&self) -> anyhow::Result<()> {
        for row in &self.rows {
            for (name, _) in row.contenders() {
                ensure!(!row.runs_of(name).is_empty(), "row {:?}: the figure of {name:?} has no runs", row.name);
            }
        }
        Ok(())
    }

    /// The row of that name.
    pub fn row(&self, name: &str) -> Option<&RecordedRow> {
        self.rows.iter().find(|row| row.name == name)
    }
}

impl Machine {
    /// The commit, short enough to read, with a word about changes on top of it.
    pub fn commit_words(&self) -> Option<String> {
        let short: String = self.commit.as_deref()?.chars().take(12).collect();
        Some(match self.uncommitted_changes {
            Some(true) => format!("{short} with uncommitted changes"),
            _ => short,
        })
    }

    /// Which of the two programs was a debug build, in words for readers; none if neither is known to have been one.
    pub fn debug_words(&self) -> Option<&'static str> {
        let is_debug = |program: &Option<Program>| {
            program.as_ref().is_some_and(|program| program.profile.as_deref() == Some("debug"))
        };
        match (is_debug(&self.program), is_debug(&self.perf)) {
            (true, _) => Some("wormhole was a debug build"),
            (false, true) => Some("perf, and the peers in it, was a debug build"),
            (false, false) => None,
        }
    }

    /// The load before the run, if it was more than [`QUIET_LOAD`] of the cores.
    // No machine has 2^52 cores.
    #[expect(clippy::cast_precision_loss, reason = "see above")]
    pub fn busy_load(&self) -> Option<f64> {
        let cores = self.cores? as f64;
        self.load_1min.filter(|&load| load > QUIET_LOAD * cores)
    }
}

impl RecordedRow {
    /// Whether more is better in this row.
    pub fn higher_is_better(&self) -> bool {
        match self.better.as_deref() {
            Some(word) => word != "lower",
            None => self.unit.ends_with("/s") || self.unit == "IOPS",
        }
    }

    /// Whether that contender moved its bytes unencrypted when this row was measured.
    pub fn is_in_clear(&self, contender: &str) -> bool {
        match &self.in_clear {
            Some(names) => names.contains(contender),
            None => peers::is_in_clear(contender),
        }
    }

    /// Every contender with a figure, ours first, then the peers from best to worst.
    pub fn contenders(&self) -> Vec<(&str, f64)> {
        let mut peers: Vec<(&str, f64)> = self.peers.iter().map(|(name, &value)| (name.as_str(), value)).collect();
        peers.sort_by(|(_, one), (_, other)| one.total_cmp(other));
        if self.higher_is_better() {
            peers.reverse();
        }
        self.ours.map(|ours| (OURS, ours)).into_iter().chain(peers).collect()
    }

    /// Whether we were to have figures and have none: a failure, or neither a median nor a curve.
    pub fn we_failed(&self) -> bool {
        let has_curve =
            || [&self.series, &self.percentiles, &self.points].iter().any(|curves| curves.contains_key(OURS));
        self.failures().iter().any(|&(name, _)| name == OURS)
            || (self.ours.is_none() && !has_curve() && !self.withheld.contains_key(OURS))
    }

    /// Whether the row has a curve of anybody.
    pub fn has_curves(&self) -> bool {
        [&self.series, &self.percentiles, &self.points].iter().any(|curves| !curves.is_empty())
    }

    /// Ours divided by the peer's; none where one of them has no figure, or the peer's is zero.
    pub fn ratio(&self, peer: &str) -> Option<f64> {
        let divisor = *self.peers.get(peer)?;
        let ratio = self.ours? / divisor;
        (divisor > 0.0 && ratio.is_finite()).then_some(ratio)
    }

    /// How many times better than the peer we are: above 1 we lead, whichever way the row counts.
    pub fn advantage(&self, peer: &str) -> Option<f64> {
        let ratio = self.ratio(peer)?;
        let advantage = if self.higher_is_better() { ratio } else { 1.0 / ratio };
        advantage.is_finite().then_some(advantage)
    }

    /// One contender's runs, in the order measured.
    pub fn runs_of(&self, contender: &str) -> Vec<f64> {
        self.runs.iter().filter_map(|round| round.get(contender).copied()).collect()
    }

    /// Our value divided by the peer's, round by round: what the machine does meanwhile falls on both.
    pub fn ratios_of(&self, peer: &str) -> Vec<f64> {
        let quotient = |round: &BTreeMap<String, f64>| Some(round.get(OURS)? / round.get(peer)?);
        self.runs.iter().filter_map(quotient).filter(|ratio| ratio.is_finite()).collect()
    }

    /// By how much our ratio to a peer may be off because of how the two were counted.
    pub fn ratio_grain(&self, peer: &str) -> f64 {
        let (Some(ratio), Some(ours), Some(theirs)) = (self.ratio(peer), self.ours, self.peers.get(peer)) else {
            return 0.0;
        };
        let relative = self.grain / ours + self.grain / theirs;
        if relative.is_finite() { ratio * relative } else { 0.0 }
    }

    /// How far a contender's runs lie apart: from the runs themselves, else as it was written down.
    pub fn spread_of(&self, contender: &str) -> Option<Spread> {
        Summary::of(&self.runs_of(contender))
            .map(|summary| Spread { min: summary.min, max: summary.max, mad: summary.median_deviation })
            .or_else(|| self.spread.get(contender).copied())
    }

    /// Every contender that failed, with its reason.
    pub fn failures(&self) -> Vec<(&str, &str)> {
        if !self.failures.is_empty() {
            return self.failures.iter().map(|(name, reason)| (name.as_str(), reason.as_str())).collect();
        }
        // Older reports name the contender in front of its reason, and put several in one line.
        let Some(line) = self.failed.as_deref() else {
            return Vec::new();
        };
        match line.split_once(": ") {
            Some((name, reason)) => vec![(name, reason)],
            None => vec![("a contender", line)],
        }
    }

    /// Refuses a figure that is not the median of its runs, where there are runs.
    fn ensure_medians(&self) -> anyhow::Result<()> {
        for (name, figure) in self.contenders() {
            if let Some(Summary { median, .. }) = Summary::of(&self.runs_of(name)) {
                let is_same = (figure - median).abs() <= ROUNDING * median.abs();
                ensure!(is_same, "{name:?} has the figure {figure}, and the median of its runs is {median}");
            }
        }
        Ok(())
    }

    fn ensure_bounded(&self) -> anyhow::Result<()> {
        let in_clear = self.in_clear.as_ref().map_or(0, BTreeSet::len);
        let contenders = [
            self.peers.len(),
            self.spread.len(),
            self.absent.len(),
            self.failures.len(),
            self.withheld.len(),
            in_clear,
        ];
        let curves = [&self.series, &self.percentiles, &self.points];
        let most = contenders
            .into_iter()
            .chain(curves.map(BTreeMap::len))
            .chain(self.runs.iter().map(BTreeMap::len))
            .max()
            .unwrap_or(0);
        ensure!(most <= CONTENDERS_MAX, "more than {CONTENDERS_MAX} contenders");
        for (contender, points) in curves.into_iter().flatten() {
            ensure!(points.len() <= POINTS_MAX, "more than {POINTS_MAX} points of {contender:?}");
        }
        let spreads = self.spread.values().flat_map(|spread| [spread.min, spread.max, spread.mad]);
        let figures = self.ours.iter().chain(self.peers.values()).chain(self.runs.iter().flat_map(BTreeMap::values));
        let points = curves.into_iter().flat_map(BTreeMap::values).flatten().flatten();
        for value in figures.chain(points).copied().chain(spreads).chain([self.grain]) {
            let is_within = value == 0.0 || (MAGNITUDE_MIN..=MAGNITUDE_MAX).contains(&value.abs());
            ensure!(is_within, "{value:e} is outside {MAGNITUDE_MIN:e}..{MAGNITUDE_MAX:e}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(json: Value) -> RecordedRow {
        let report = Recorded::from_json(json!({"machine": {}, "rows": [json]})).unwrap();
        report.rows.into_iter().next().unwrap()
    }

    #[test]
    fn the_reports_of_this_release_are_read_back() {
        use crate::report::{Figure, Report, Row, Unit};
        let figure = |contender: &str, runs: Result<Vec<f64>, String>| Figure { contender: contender.into(), runs };
        let report = Report {
            machine: crate::machine::describe(),
            plan: crate::suite::Plan { bytes: 5, runs: 3, scale: crate::suite::Scale::Quick }.to_json(),
            rows: vec![Row {
                name: "transport.mtu1500.goodput".into(),
                unit: Unit::GigabytesPerSecond,
                figures: vec![
                    figure(OURS, Ok(vec![3.0, 2.0, 4.0])),
                    figure("quinn", Ok(vec![1.5, 1.0, 1.0])),
                    figure("scp", Err("check: no route; gave up: twice".into())),
                ],
                absent: vec![("iperf3".into(), "iperf3".into())],
                withheld: vec![("sshfs".into(), "too few reads".into())],
                remark: Some("3 of 5 rounds".into()),
                grain: 0.25,
                curves: serde_json::Map::new(),
            }],
        };
        let read = Recorded::from_json(report.to_json()).unwrap();
        assert!(read.machine.kernel.is_some() && read.machine.date.is_some());
        assert_eq!((read.plan.bytes, read.plan.runs, read.plan.scale.as_deref()), (Some(5), Some(3), Some("quick")));
        let row = read.row("transport.mtu1500.goodput").unwrap();
        assert_eq!(row.contenders(), [(OURS, 3.0), ("quinn", 1.0)]);
        assert_eq!(row.runs_of(OURS), [3.0, 2.0, 4.0]);
        assert_eq!(row.ratios_of("quinn"), [2.0, 2.0, 4.0]);
        assert_eq!(row.spread_of("quinn"), Some(Spread { min: 1.0, max: 1.5, mad: 0.0 }));
        assert_eq!(row.failures(), [("scp", "check: no route; gave up: twice")]);
        assert_eq!(row.absent["iperf3"], "iperf3");
        assert!(row.in_clear.is_some() && row.grain == 0.25);
        assert_eq!((row.withheld["sshfs"].as_str(), row.remark.as_deref()), ("too few reads", Some("3 of 5 rounds")));
    }

    #[test]
    fn keys_of_other_releases_are_passed_over_and_missing_ones_are_empty() {
        let row = row(json!({"name": "n", "unit": "GB/s", "colour": "blue"}));
        assert_eq!(row.contenders(), []);
        assert!(row.failures().is_empty() && row.runs.is_empty());
        assert!(Recorded::from_json(json!({"rows": [], "machine": {"cores": null, "new": 1}})).is_ok());
    }

    #[test]
    fn what_is_no_report_is_refused() {
        for wrong in [
            json!([]),
            json!({"machine": {}}),
            json!({"rows": [{"unit": "GB/s"}]}),
            json!({"rows": [{"name": "n", "unit": "GB/s", "ours": "fast"}]}),
            json!({"rows": [{"name": "n", "unit": "GB/s", "series": {"ours": [[1.0]]}}]}),
        ] {
            assert!(Recorded::from_json(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn bounds_hold_on_both_sides() {
        let rows = |count: usize| json!({"rows": vec![json!({"name": "n", "unit": "us"}); count]});
        assert!(Recorded::from_json(rows(ROWS_MAX)).is_ok());
        assert!(Recorded::from_json(rows(ROWS_MAX + 1)).is_err());
        let peers = |count: usize| {
            let peers: BTreeMap<String, f64> = (0..count).map(|index| (format!("p{index}"), 1.0)).collect();
            json!({"rows": [{"name": "n", "unit": "us", "peers": peers}]})
        };
        assert!(Recorded::from_json(peers(CONTENDERS_MAX)).is_ok());
        assert!(Recorded::from_json(peers(CONTENDERS_MAX + 1)).is_err());
        let points =
            |count: usize| json!({"rows": [{"name": "n", "unit": "us", "series": {"ours": vec![[0, 1]; count]}}]});
        assert!(Recorded::from_json(points(POINTS_MAX)).is_ok());
        assert!(Recorded::from_json(points(POINTS_MAX + 1)).is_err());
    }

    #[test]
    fn numbers_no_machine_measures_are_refused() {
        let is_taken = |value: f64| {
            let rows = [
                json!({"ours": value}),
                json!({"peers": {"q": value}}),
                json!({"spread": {"q": {"min": 0, "max": value, "mad": 0}}}),
                json!({"runs": [{"q": value}]}),
                json!({"series": {"q": [[value, 1.0]]}}),
                json!({"points": {"q": [[1.0, value]]}}),
                json!({"grain": value}),
            ];
            let taken = rows.map(|mut row| {
                (row["name"], row["unit"]) = (json!("n"), json!("us"));
                Recorded::from_json(json!({"rows": [row]})).is_ok()
            });
            assert!(taken.iter().all(|&is_taken| is_taken == taken[0]), "{value:e}: {taken:?}");
            taken[0]
        };
        for value in [0.0, MAGNITUDE_MIN, MAGNITUDE_MAX, -MAGNITUDE_MAX] {
            assert!(is_taken(value), "{value:e}");
        }
        for value in [1.7e308, MAGNITUDE_MAX * 1.001, MAGNITUDE_MIN * 0.999, 1e-310, -1e-310] {
            assert!(!is_taken(value), "{value:e}");
        }
    }

    #[test]
    fn a_file_past_the_bound_is_not_read_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("long.json");
        std::fs::File::create(&path).unwrap().set_len(REPORT_BYTES_MAX + 1).unwrap();
        let error = format!("{:#}", Recorded::read(&path).unwrap_err());
        assert!(error.contains("longer than"), "{error}");
        std::fs::write(&path, r#"{"rows":[]}"#).unwrap();
        assert!(Recorded::read(&path).is_ok());
    }

    #[test]
    fn an_advantage_is_above_one_where_we_lead() {
        let fast = row(json!({"name": "n", "unit": "GB/s", "better": "higher", "ours": 3.0, "peers": {"q": 1.5}}));
        assert_eq!(fast.advantage("q"), Some(2.0));
        let cheap = row(json!({"name": "n", "unit": "s/GB", "better": "lower", "ours": 0.5, "peers": {"q": 1.0}}));
        assert_eq!((cheap.ratio("q"), cheap.advantage("q")), (Some(0.5), Some(2.0)));
        let zero = row(json!({"name": "n", "unit": "s/GB", "ours": 0.5, "peers": {"q": 0.0}}));
        assert_eq!(zero.ratio("q"), None);
        assert!(!zero.higher_is_better());
        let zero = row(json!({"name": "n", "unit": "s/GB", "ours": 0.0, "peers": {"q": 1.0}}));
        assert_eq!((zero.ratio("q"), zero.advantage("q")), (Some(0.0), None));
    }

    #[test]
    fn a_busy_machine_is_told_from_a_quiet_one() {
        let machine = |load| Machine { cores: Some(2), load_1min: Some(load), ..Machine::default() };
        assert_eq!(machine(0.5).busy_load(), None);
        assert_eq!(machine(0.51).busy_load(), Some(0.51));
        assert_eq!(Machine::default().busy_load(), None);
    }

    #[test]
    fn a_debug_build_is_told_from_a_release() {
        let words = |machine: Value| {
            Recorded::from_json(json!({"machine": machine, "rows": []})).unwrap().machine.debug_words()
        };
        assert!(words(json!({"program": {"profile": "debug"}})).unwrap().starts_with("wormhole"));
        assert!(words(json!({"perf": {"profile": "debug"}, "program": null})).unwrap().starts_with("perf"));
        assert_eq!(words(json!({"perf": {"profile": "release"}, "program": {"profile": null}})), None);
        assert_eq!(words(json!({})), None);
    }

    #[test]
    fn medians_are_those_of_the_runs() {
        let read = |ours: f64, quinn: f64| {
            let runs = json!([{"ours": 3.0, "quinn": 1.0}, {"ours": 2.0, "quinn": 0.1}, {"ours": 4.0, "quinn": 0.2}]);
            let row = json!({"name": "n", "unit": "GB/s", "ours": ours, "peers": {"quinn": quinn}, "runs": runs});
            Recorded::from_json(json!({"rows": [row]}))
        };
        assert!(read(3.0, 0.2).is_ok_and(|recorded| recorded.ensure_backed().is_ok()));
        for (ours, quinn) in [(3.001, 0.2), (4.0, 0.2), (3.0, 0.1)] {
            let error = format!("{:#}", read(ours, quinn).unwrap_err());
            assert!(error.contains("median"), "{error}");
        }
        // A figure without runs can be drawn, and stands in no specification.
        let bare = Recorded::from_json(json!({"rows": [{"name": "n", "unit": "GB/s", "ours": 3.0}]})).unwrap();
        assert!(bare.ensure_backed().is_err());
        let failed =
            Recorded::from_json(json!({"rows": [{"name": "n", "unit": "GB/s", "failed": "ours: x"}]})).unwrap();
        assert!(failed.ensure_backed().is_ok());
    }

    #[test]
    fn a_row_of_curves_alone_is_no_failure() {
        let curves = row(json!({"name": "n", "unit": "GB/s", "points": {"ours": [[1, 1]]}}));
        assert!(!curves.we_failed() && curves.has_curves());
        let theirs = row(json!({"name": "n", "unit": "GB/s", "points": {"quinn": [[1, 1]]}}));
        assert!(theirs.we_failed());
        let failed = row(json!({"name": "n", "unit": "GB/s", "points": {"ours": [[1, 1]]}, "failures": {"ours": "x"}}));
        assert!(failed.we_failed());
        assert!(!row(json!({"name": "n", "unit": "GB/s", "ours": 1.0})).we_failed());
        assert!(row(json!({"name": "n", "unit": "GB/s"})).we_failed());
    }

    #[test]
    fn a_row_says_itself_who_does_not_encrypt() {
        let told = row(json!({"name": "n", "unit": "GB/s", "in_clear": ["a peer of another release"]}));
        assert!(told.is_in_clear("a peer of another release") && !told.is_in_clear("iperf3"));
        let old = row(json!({"name": "n", "unit": "GB/s"}));
        assert!(old.is_in_clear("iperf3") && !old.is_in_clear("quinn"));
    }

    #[test]
    fn an_old_line_of_failures_keeps_its_words() {
        let row = row(json!({"name": "n", "unit": "GB/s", "failed": "ours: hash differs; quinn: lost"}));
        assert_eq!(row.failures(), [("ours", "hash differs; quinn: lost")]);
    }
}
