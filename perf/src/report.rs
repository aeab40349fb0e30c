//! Rows of figures: a table for people, JSON for programs.
//!
//! A row is one quantity, measured for Wormhole (`ours`) and its peers in alternation. A contender with a run that did
//! not complete or verify has no figure: its reason stands in `failed` instead. A peer that is not installed stands in
//! `absent` with the package that has it. `ratios` is always ours divided by the peer's, so where less is better a
//! ratio below 1 is good. `grain` is by how much values may be off because of how they were counted. `in_clear` names the contenders of the row that do not encrypt.
//!
//! Some rows carry what a picture is drawn from: `series` (`{contender: [[s, GB/s], …]}`, speed over time of the run
//! nearest the median), `percentiles` (`{contender: [[percentile, us], …]}`) or `points` (`[[shards, GB/s], …]`, or by
//! contender `[[bytes, GB/s], …]` and `[[files, ms or MiB], …]`).

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::peers;
use crate::statistics::Summary;

/// The contender that is Wormhole.
pub const OURS: &str = "ours";

/// One quantity over all contenders.
#[derive(Clone, Debug)]
pub struct Row {
    /// Dotted name, stable across releases.
    pub name: String,
    /// Unit of every figure in it.
    pub unit: Unit,
    /// The contenders that were tried, in the order they ran.
    pub figures: Vec<Figure>,
    /// Peers that are not installed, each with the packages it needs.
    pub absent: Vec<(String, String)>,
    /// Contenders that ran well and have no figure here, each with the reason.
    pub withheld: Vec<(String, String)>,
    /// What a reader must know of all its runs.
    pub remark: Option<String>,
    /// By how much a value may be off because of how it was counted; zero where that is below all noise.
    pub grain: f64,
    /// What a picture is drawn from, by kind: `series`, `percentiles` or `points`. Stands in the JSON as it is.
    pub curves: Map<String, Value>,
}

/// Units of figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// 1e9 payload bytes per second of wall time.
    GigabytesPerSecond,
    /// CPU seconds per 1e9 payload bytes.
    SecondsPerGigabyte,
    /// Microseconds.
    Microseconds,
    /// Milliseconds.
    Milliseconds,
    /// Requests answered per second.
    OperationsPerSecond,
    /// Whole files per second.
    FilesPerSecond,
    /// CPU time in hundredths of the wall time of one core.
    PercentOfCore,
    /// Voluntary context switches per second.
    WakeupsPerSecond,
    /// 2^20 bytes.
    Mebibytes,
}

impl Unit {
    /// As it is printed.
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::GigabytesPerSecond => "GB/s",
            Self::SecondsPerGigabyte => "s/GB",
            Self::Microseconds => "us",
            Self::Milliseconds => "ms",
            Self::OperationsPerSecond => "ops/s",
            Self::FilesPerSecond => "files/s",
            Self::PercentOfCore => "% of a core",
            Self::WakeupsPerSecond => "wakeups/s",
            Self::Mebibytes => "MiB",
        }
    }

    /// Which way is better.
    pub const fn better(self) -> &'static str {
        match self {
            Self::GigabytesPerSecond | Self::OperationsPerSecond | Self::FilesPerSecond => "higher",
            Self::SecondsPerGigabyte
            | Self::Microseconds
            | Self::Milliseconds
            | Self::PercentOfCore
            | Self::WakeupsPerSecond
            | Self::Mebibytes => "lower",
        }
    }
}

/// One contender's runs in a row, or why there are none.
#[derive(Clone, Debug)]
pub struct Figure {
    /// [`OURS`] or the name of a peer.
    pub contender: String,
    /// One value per run, all verified, or the reason why nothing may be printed.
    pub runs: Result<Vec<f64>, String>,
}

impl Figure {
    fn summary(&self) -> Option<Summary> {
        Summary::of(self.runs.as_deref().ok()?)
    }

    /// Why there is no figure; `None` if there is one. Runs without a middle are a failure like any other.
    fn failure(&self) -> Option<&str> {
        match (&self.runs, self.summary()) {
            (Err(reason), _) => Some(reason),
            (Ok(runs), None) if runs.is_empty() => Some("no runs"),
            (Ok(_), None) => Some("a run's value is no number"),
            (Ok(_), Some(_)) => None,
        }
    }
}

impl Row {
    /// Whether any contender that was tried failed.
    pub fn failure(&self) -> Option<String> {
        let reasons: Vec<String> = self
            .figures
            .iter()
            .filter_map(|figure| Some(format!("{}: {}", figure.contender, figure.failure()?)))
            .collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    /// The same row, its values counted in steps of `grain`.
    #[must_use]
    pub const fn with_grain(mut self, grain: f64) -> Self {
        self.grain = grain;
        self
    }

    /// The same row with a curve under `kind`.
    #[must_use]
    pub fn with_curve(mut self, kind: &str, curve: Value) -> Self {
        self.curves.insert(kind.to_owned(), curve);
        self
    }

    /// The same row with `[x, y]` points for each contender, `x` in `x_unit` and `y` in the row's.
    #[must_use]
    pub fn with_points(mut self, x_unit: &str, points: Map<String, Value>) -> Self {
        self.curves.insert("x_unit".to_owned(), x_unit.into());
        self.with_curve("points", points.into())
    }

    fn ours(&self) -> Option<Summary> {
        self.figures.iter().find(|figure| figure.contender == OURS)?.summary()
    }

    fn peers(&self) -> impl Iterator<Item = (&Figure, Summary)> {
        self.figures
            .iter()
            .filter(|figure| figure.contender != OURS)
            .filter_map(|figure| Some((figure, figure.summary()?)))
    }

    /// The row as JSON; `ours` is `null` if Wormhole failed.
    pub fn to_json(&self) -> Value {
        let ours = self.ours().map(|summary| summary.median);
        let peers: Map<_, _> =
            self.peers().map(|(figure, summary)| (figure.contender.clone(), json!(summary.median))).collect();
        let ratios: Map<_, _> = self
            .peers()
            .filter_map(|(figure, summary)| {
                let ratio = ratio(ours?, summary.median)?;
                Some((figure.contender.clone(), json!(ratio)))
            })
            .collect();
        let spread: Map<_, _> = self
            .figures
            .iter()
            .filter_map(|figure| {
                let summary = figure.summary()?;
                let spread = json!({
                    "min": summary.min,
                    "max": summary.max,
                    "mad": summary.median_deviation,
                });
                Some((figure.contender.clone(), spread))
            })
            .collect();
        let absent: Map<_, _> = self.absent.iter().map(|(peer, packages)| (peer.clone(), json!(packages))).collect();
        let mut row = json!({
            "name": self.name,
            "unit": self.unit.symbol(),
            "better": self.unit.better(),
            "ours": ours,
            "peers": peers,
            "ratios": ratios,
            "runs": self.runs_json(),
            "spread": spread,
            "absent": absent,
            "in_clear": self.in_clear(),
        });
        if let Some(reason) = self.failure() {
            row["failed"] = json!(reason);
            let reasons: Map<_, _> = self
                .figures
                .iter()
                .filter_map(|figure| Some((figure.contender.clone(), json!(figure.failure()?))))
                .collect();
            row["failures"] = reasons.into();
        }
        if self.grain > 0.0 {
            row["grain"] = json!(self.grain);
        }
        if !self.withheld.is_empty() {
            row["withheld"] =
                Value::Object(self.withheld.iter().cloned().map(|(who, why)| (who, why.into())).collect());
        }
        if let Some(remark) = &self.remark {
            row["remark"] = json!(remark);
        }
        for (kind, curve) in &self.curves {
            row[kind.as_str()] = curve.clone();
        }
        row
    }

    /// The contenders that were tried and move their bytes unencrypted.
    fn in_clear(&self) -> Vec<&str> {
        self.figures.iter().map(|figure| figure.contender.as_str()).filter(|name| peers::is_in_clear(name)).collect()
    }

    /// One object per round of the alternation, from contender to value.
    fn runs_json(&self) -> Vec<Value> {
        let complete: Vec<(&str, &[f64])> = self
            .figures
            .iter()
            .filter(|figure| figure.failure().is_none())
            .filter_map(|figure| Some((figure.contender.as_str(), figure.runs.as_deref().ok()?)))
            .collect();
        let rounds = complete.iter().map(|(_, runs)| runs.len()).max().unwrap_or(0);
        (0..rounds)
            .map(|round| {
                complete
                    .iter()
                    .filter_map(|(name, runs)| Some(((*name).to_owned(), json!(runs.get(round)?))))
                    .collect::<Map<_, _>>()
                    .into()
            })
            .collect()
    }

    fn write_table(&self, table: &mut String) {
        let ours = self.ours();
        let mut line = |text: std::fmt::Arguments<'_>| {
            writeln!(table, "{text}").expect("a String takes every write");
        };
        let grain = if self.grain > 0.0 { format!(", counted to {:.3}", self.grain) } else { String::new() };
        line(format_args!("{}  ({}, {} is better{grain})", self.name, self.unit.symbol(), self.unit.better()));
        for figure in &self.figures {
            let name = &figure.contender;
            match (&figure.runs, figure.summary()) {
                (Ok(runs), Some(summary)) => {
                    let ratio = ours
                        .filter(|_| name != OURS)
                        .and_then(|ours| ratio(ours.median, summary.median))
                        .map(|ratio| format!("  ours is {ratio:.2} x"))
                        .unwrap_or_default();
                    line(format_args!(
                        "  {name:<20} {:>8.3}   {:.3}..{:.3}, MAD {:.3}, {} runs{ratio}",
                        summary.median,
                        summary.min,
                        summary.max,
                        summary.median_deviation,
                        runs.len()
                    ));
                }
                _ => {
                    let reason = figure.failure().unwrap_or_default();
                    line(format_args!("  {name:<20}   failed   {reason}"));
                }
            }
        }
        for (contender, reason) in &self.withheld {
            line(format_args!("  {contender:<20}     none   {reason}"));
        }
        if let Some(remark) = &self.remark {
            line(format_args!("  {remark}"));
        }
        for (peer, packages) in &self.absent {
            line(format_args!("  {peer:<20}   absent   apt-get install {packages}"));
        }
    }
}

/// A quotient that can be printed; `None` when the grain of the clock made the divisor zero.
fn ratio(ours: f64, peer: f64) -> Option<f64> {
    (peer > 0.0).then(|| ours / peer)
}

/// All rows of one invocation and the machine they come from.
#[derive(Clone, Debug)]
pub struct Report {
    /// See [`crate::machine::describe`].
    pub machine: Value,
    /// How much was moved and how often, at which scale, by a program of which build profile: figures of two plans are
    /// not compared.
    pub plan: Value,
    /// In the order measured.
    pub rows: Vec<Row>,
}

impl Report {
    /// Whether every contender that was tried has its figures.
    pub fn is_complete(&self) -> bool {
        self.rows.iter().all(|row| row.failure().is_none())
    }

    /// The whole report as JSON: `machine`, `plan` and `rows`.
    pub fn to_json(&self) -> Value {
        json!({
            "machine": self.machine,
            "plan": self.plan,
            "rows": self.rows.iter().map(Row::to_json).collect::<Vec<_>>(),
        })
    }

    /// The rows for people.
    pub fn to_table(&self) -> String {
        let mut table = String::new();
        for (what, program) in [("perf", &self.machine["perf"]), ("wormhole", &self.machine["program"])] {
            if program["profile"] == "debug" {
                writeln!(table, "DEBUG BUILD of {what}: no figure here says how fast a release is.")
                    .expect("a String takes every write");
            }
        }
        for row in &self.rows {
            row.write_table(&mut table);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(figures: &[(&str, Result<&[f64], &str>)]) -> Row {
        Row {
            name: "transport.mtu1500.goodput".into(),
            unit: Unit::GigabytesPerSecond,
            figures: figures
                .iter()
                .map(|(contender, runs)| Figure {
                    contender: (*contender).into(),
                    runs: runs.map(<[f64]>::to_vec).map_err(str::to_owned),
                })
                .collect(),
            absent: vec![("iperf3".into(), "iperf3".into())],
            withheld: Vec::new(),
            remark: None,
            grain: 0.0,
            curves: Map::new(),
        }
    }

    #[test]
    fn a_complete_row_in_json() {
        let row = row(&[("ours", Ok(&[3.0, 2.0, 4.0])), ("quinn", Ok(&[1.5, 1.5, 2.0]))]);
        assert_eq!(
            row.to_json(),
            json!({
                "name": "transport.mtu1500.goodput",
                "unit": "GB/s",
                "better": "higher",
                "ours": 3.0,
                "peers": {"quinn": 1.5},
                "ratios": {"quinn": 2.0},
                "runs": [
                    {"ours": 3.0, "quinn": 1.5},
                    {"ours": 2.0, "quinn": 1.5},
                    {"ours": 4.0, "quinn": 2.0},
                ],
                "spread": {
                    "ours": {"min": 2.0, "max": 4.0, "mad": 1.0},
                    "quinn": {"min": 1.5, "max": 2.0, "mad": 0.0},
                },
                "absent": {"iperf3": "iperf3"},
                "in_clear": [],
            })
        );
    }

    #[test]
    fn a_failed_contender_has_a_reason_and_no_figure() {
        let row = row(&[("ours", Err("hash differs")), ("quinn", Ok(&[1.5]))]);
        let json = row.to_json();
        assert_eq!(json["ours"], Value::Null);
        assert_eq!(json["failed"], "ours: hash differs");
        assert_eq!(json["failures"], json!({"ours": "hash differs"}));
        assert_eq!(json["ratios"], json!({}));
        assert_eq!(json["runs"], json!([{"quinn": 1.5}]));
        let report = Report { machine: Value::Null, plan: Value::Null, rows: vec![row] };
        assert!(!report.is_complete());
        assert!(report.to_table().contains("ours                   failed   hash differs"));
    }

    #[test]
    fn runs_without_a_middle_are_a_failure() {
        for (runs, reason) in [(&[][..], "no runs"), (&[1.0, f64::NAN], "a run's value is no number")] {
            let row = row(&[("ours", Ok(&[2.0, 2.0])), ("quinn", Ok(runs))]);
            assert_eq!(row.failure(), Some(format!("quinn: {reason}")));
            let json = row.to_json();
            assert_eq!((&json["failures"]["quinn"], &json["peers"]), (&json!(reason), &json!({})));
            assert_eq!(json["runs"], json!([{"ours": 2.0}, {"ours": 2.0}]));
            let report = Report { machine: Value::Null, plan: Value::Null, rows: vec![row] };
            assert!(!report.is_complete() && report.to_table().contains(reason));
        }
    }

    #[test]
    fn an_absent_peer_is_no_failure_and_no_zero() {
        let row = row(&[("ours", Ok(&[2.0]))]);
        assert_eq!(row.failure(), None);
        assert_eq!(row.to_json()["peers"], json!({}));
        let report = Report { machine: Value::Null, plan: Value::Null, rows: vec![row] };
        assert!(report.is_complete());
        assert!(report.to_table().contains("absent   apt-get install iperf3"));
    }

    #[test]
    fn a_table_line_has_median_spread_and_ratio() {
        let report = Report {
            machine: Value::Null,
            plan: Value::Null,
            rows: vec![row(&[("ours", Ok(&[3.0, 2.0, 4.0])), ("quinn", Ok(&[1.5]))])],
        };
        assert_eq!(
            report.to_table(),
            "transport.mtu1500.goodput  (GB/s, higher is better)\n  \
             ours                    3.000   2.000..4.000, MAD 1.000, 3 runs\n  \
             quinn                   1.500   1.500..1.500, MAD 0.000, 1 runs  ours is 2.00 x\n  \
             iperf3                 absent   apt-get install iperf3\n"
        );
    }

    #[test]
    fn a_curve_stands_beside_the_figures() {
        let row = row(&[("ours", Ok(&[2.0]))]).with_curve("series", json!({"ours": [[0.1, 2.0]]}));
        assert_eq!(row.to_json()["series"], json!({"ours": [[0.1, 2.0]]}));
        assert_eq!(row.to_json()["ours"], 2.0);
    }

    #[test]
    fn what_is_withheld_and_remarked_is_said_and_no_failure() {
        let mut row = row(&[("ours", Ok(&[2.0]))]);
        row.withheld = vec![("sshfs".into(), "too few reads".into())];
        row.remark = Some("3 of 5 rounds".into());
        let json = row.to_json();
        assert_eq!((&json["withheld"], &json["remark"]), (&json!({"sshfs": "too few reads"}), &json!("3 of 5 rounds")));
        let report = Report { machine: Value::Null, plan: Value::Null, rows: vec![row] };
        let table = report.to_table();
        assert!(report.is_complete() && table.contains("none   too few reads") && table.contains("  3 of 5 rounds\n"));
    }

    #[test]
    fn a_debug_build_is_said_first() {
        let table =
            |machine| Report { machine, plan: Value::Null, rows: vec![row(&[("ours", Ok(&[2.0]))])] }.to_table();
        let debug = json!({"perf": {"profile": "release"}, "program": {"profile": "debug"}});
        assert!(table(debug).starts_with("DEBUG BUILD of wormhole"));
        assert!(!table(json!({"program": {"profile": "release"}})).contains("DEBUG"));
    }

    #[test]
    fn a_grain_is_said_where_there_is_one() {
        let fine = row(&[("ours", Ok(&[2.0]))]);
        assert!(fine.to_json().get("grain").is_none());
        let coarse = fine.with_grain(0.0375);
        assert_eq!(coarse.to_json()["grain"], 0.0375);
        let table = Report { machine: Value::Null, plan: Value::Null, rows: vec![coarse] }.to_table();
        assert!(table.contains("is better, counted to 0.037"), "{table}");
    }

    #[test]
    fn a_zero_divisor_gives_no_ratio() {
        let row = row(&[("ours", Ok(&[0.1])), ("quinn", Ok(&[0.0]))]);
        assert_eq!(row.to_json()["ratios"], json!({}));
    }
}
