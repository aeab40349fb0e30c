//! What changed from one run to another beyond what runs differ by anyway.
//!
//! A figure counts as changed if its medians differ by more than [`DEVIATIONS`] times the combined median deviation of
//! both runs, and by more than [`CHANGE_MIN`]. Beside our own figure stands our ratio to each peer, taken round by
//! round: what a machine does falls on both sides of a ratio, so a slow day of the machine moves the figure and leaves
//! the ratio. A row with peers is therefore judged by its ratios, and only a row without by its figure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::recorded::{Machine, Recorded, RecordedRow};
use crate::report::OURS;
use crate::statistics::Summary;
use crate::words;

/// Median deviations, combined in quadrature, that chance may move a median by.
///
/// For runs that scatter normally this is two standard deviations of the difference of two single runs; medians of
/// several runs scatter less, so about one comparison in a hundred is flagged without a cause.
pub const DEVIATIONS: f64 = 3.0;

/// Smallest relative change that is flagged, however calm the runs were: a few runs can agree by luck.
pub const CHANGE_MIN: f64 = 0.03;

/// Fewer runs than this say nothing about how far runs scatter.
pub const RUNS_MIN: usize = 3;

/// What became of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Changed beyond noise, for the better.
    Better,
    /// Changed beyond noise, for the worse.
    Worse,
    /// No change beyond noise.
    Same,
    /// Nothing to judge by: too few runs, other units, or a machine apart and no peer.
    Undecided,
}

impl Verdict {
    /// As it is printed.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "WORSE",
            Self::Same => "same",
            Self::Undecided => "undecided",
        }
    }
}

/// One figure before and after.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// Median before.
    pub old: f64,
    /// Median after.
    pub new: f64,
    /// The difference in parts of the old.
    pub relative: f64,
    /// Whether it is more than noise.
    pub verdict: Verdict,
}

impl Change {
    /// Judges two series of runs; none if one is empty or the old median is zero.
    pub fn between(old: &[f64], new: &[f64], higher_is_better: bool) -> Option<Self> {
        let (before, after) = (Summary::of(old)?, Summary::of(new)?);
        let difference = after.median - before.median;
        let relative = difference / before.median;
        if !relative.is_finite() {
            return None;
        }
        let noise = before.median_deviation.hypot(after.median_deviation);
        let is_change = difference.abs() > DEVIATIONS * noise && relative.abs() > CHANGE_MIN;
        let verdict = match (old.len().min(new.len()) < RUNS_MIN, is_change) {
            (true, _) => Verdict::Undecided,
            (false, false) => Verdict::Same,
            (false, true) if (difference > 0.0) == higher_is_better => Verdict::Better,
            (false, true) => Verdict::Worse,
        };
        Some(Self { old: before.median, new: after.median, relative, verdict })
    }
}

/// One row before and after.
#[derive(Clone, Debug)]
pub struct RowChange {
    /// The row's name.
    pub name: String,
    /// Its unit, in the new report.
    pub unit: String,
    /// Our figure; none if one of the reports has no runs of ours.
    pub ours: Option<Change>,
    /// Our ratio to each peer that has figures in both.
    pub ratios: BTreeMap<String, Change>,
    /// What cannot be compared, in words.
    pub remark: Option<String>,
    /// The row as a whole.
    pub verdict: Verdict,
}

impl RowChange {
    fn of(old: &RecordedRow, new: &RecordedRow, is_one_machine: bool) -> Self {
        let higher_is_better = new.higher_is_better();
        let mut row = Self {
            name: new.name.clone(),
            unit: new.unit.clone(),
            ours: None,
            ratios: BTreeMap::new(),
            remark: None,
            verdict: Verdict::Undecided,
        };
        if old.unit != new.unit || old.higher_is_better() != higher_is_better {
            row.remark = Some(format!("counts {} now, {} before", new.unit, old.unit));
            return row;
        }
        match (old.ours, new.ours) {
            (Some(_), None) => {
                row.remark = Some("we failed, and did not before".to_owned());
                row.verdict = Verdict::Worse;
                return row;
            }
            (None, Some(_)) => {
                row.remark = Some("we failed before".to_owned());
                row.verdict = Verdict::Better;
                return row;
            }
            (None, None) => {
                row.remark = Some("we failed in both".to_owned());
                return row;
            }
            (Some(_), Some(_)) => {}
        }
        row.ours = Change::between(&old.runs_of(OURS), &new.runs_of(OURS), higher_is_better);
        for peer in old.peers.keys().filter(|peer| new.peers.contains_key(*peer)) {
            if let Some(change) = Change::between(&old.ratios_of(peer), &new.ratios_of(peer), higher_is_better) {
                row.ratios.insert(peer.clone(), change);
            }
        }
        row.verdict = match row.ours {
            _ if !row.ratios.is_empty() => majority(row.ratios.values().map(|change| change.verdict)),
            Some(change) if is_one_machine => change.verdict,
            _ => Verdict::Undecided,
        };
        row
    }

    /// Whether anything in the row deserves to be shown at length.
    fn is_remarkable(&self) -> bool {
        let changes = self.ours.iter().chain(self.ratios.values());
        self.remark.is_some()
            || changes.into_iter().any(|change| matches!(change.verdict, Verdict::Better | Verdict::Worse))
    }
}

/// What more than half say: one peer alone may have changed itself.
fn majority(verdicts: impl Iterator<Item = Verdict>) -> Verdict {
    let verdicts: Vec<Verdict> = verdicts.collect();
    [Verdict::Worse, Verdict::Better, Verdict::Undecided]
        .into_iter()
        .find(|verdict| verdicts.iter().filter(|other| *other == verdict).count() * 2 > verdicts.len())
        .unwrap_or(Verdict::Same)
}

/// Two reports side by side.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// In what the machines differ: what, before, after. Empty if it is one machine with one kernel.
    pub machines: Vec<(&'static str, String, String)>,
    /// Commit and date of each.
    runs: [String; 2],
    /// Rows of both, in the order of the new report.
    pub rows: Vec<RowChange>,
    /// Rows only the new report has.
    pub appeared: Vec<String>,
    /// Rows only the old report has.
    pub vanished: Vec<String>,
}

impl Comparison {
    /// Compares two reports.
    pub fn of(old: &Recorded, new: &Recorded) -> Self {
        let machines = differences(&old.machine, &new.machine);
        let pairs = new.rows.iter().filter_map(|row| Some((old.row(&row.name)?, row)));
        let only = |rows: &[RecordedRow], other: &Recorded| {
            rows.iter().filter(|row| other.row(&row.name).is_none()).map(|row| row.name.clone()).collect()
        };
        Self {
            rows: pairs.map(|(old, new)| RowChange::of(old, new, machines.is_empty())).collect(),
            appeared: only(&new.rows, old),
            vanished: only(&old.rows, new),
            runs: [&old.machine, &new.machine].map(run_words),
            machines,
        }
    }

    /// Whether a row became worse.
    pub fn has_regression(&self) -> bool {
        self.rows.iter().any(|row| row.verdict == Verdict::Worse)
    }

    /// The comparison for people: a warning if there is one, the rule, then every row.
    pub fn to_table(&self) -> String {
        let mut table = String::new();
        let mut line = |text: std::fmt::Arguments<'_>| {
            writeln!(table, "{text}").expect("a String takes every write");
        };
        if !self.machines.is_empty() {
            line(format_args!("NOT ONE MACHINE: only the ratios to peers mean anything here."));
            for (what, old, new) in &self.machines {
                line(format_args!("  {what}: {old} before, {new} now"));
            }
        }
        line(format_args!("before: {}", self.runs[0]));
        line(format_args!("now:    {}", self.runs[1]));
        line(format_args!(
            "Changed means: medians more than {DEVIATIONS} combined median deviations and {:.0} % apart. Rows with \
             peers are judged by the ratios.",
            CHANGE_MIN * 100.0
        ));
        for row in &self.rows {
            let remark = row.remark.as_ref().map_or_else(String::new, |remark| format!(", {remark}"));
            line(format_args!("{:<10} {}  ({}){remark}", row.verdict.word(), row.name, row.unit));
            if !row.is_remarkable() {
                continue;
            }
            let changes = row.ours.iter().map(|change| (OURS.to_owned(), change));
            let ratios = row.ratios.iter().map(|(peer, change)| (format!("{OURS} ÷ {peer}"), change));
            for (name, change) in changes.chain(ratios) {
                line(format_args!(
                    "             {name:<28} {:>9} → {:<9} {:+6.1} %  {}",
                    words::figure(change.old),
                    words::figure(change.new),
                    change.relative * 100.0,
                    change.verdict.word()
                ));
            }
        }
        for name in &self.vanished {
            line(format_args!("vanished   {name}"));
        }
        for name in &self.appeared {
            line(format_args!("new        {name}"));
        }
        let count = |verdict| self.rows.iter().filter(|row| row.verdict == verdict).count();
        line(format_args!(
            "{} worse, {} better, {} same, {} undecided, {} vanished, {} new",
            count(Verdict::Worse),
            count(Verdict::Better),
            count(Verdict::Same),
            count(Verdict::Undecided),
            self.vanished.len(),
            self.appeared.len()
        ));
        table
    }

    /// The comparison as JSON.
    pub fn to_json(&self) -> Value {
        let change = |change: &Change| {
            json!({
                "old": change.old,
                "new": change.new,
                "relative": change.relative,
                "verdict": change.verdict.word().to_lowercase(),
            })
        };
        let machines: Vec<Value> =
            self.machines.iter().map(|(what, old, new)| json!({"what": what, "old": old, "new": new})).collect();
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let ratios: BTreeMap<&String, Value> =
                    row.ratios.iter().map(|(peer, ratio)| (peer, change(ratio))).collect();
                json!({
                    "name": row.name,
                    "unit": row.unit,
                    "verdict": row.verdict.word().to_lowercase(),
                    "remark": row.remark,
                    "ours": row.ours.as_ref().map(change),
                    "ratios": ratios,
                })
            })
            .collect();
        json!({
            "rule": {"deviations": DEVIATIONS, "change_min": CHANGE_MIN, "runs_min": RUNS_MIN},
            "machine_differs": machines,
            "rows": rows,
            "vanished": self.vanished,
            "new": self.appeared,
            "regression": self.has_regression(),
        })
    }
}

/// In what two machines differ that moves figures. What is unknown on one side differs: nobody can say that it is one.
fn differences(old: &Machine, new: &Machine) -> Vec<(&'static str, String, String)> {
    let words = |machine: &Machine| {
        [
            ("processor", machine.cpu.clone()),
            ("cores", machine.cores.map(|cores| cores.to_string())),
            ("kernel", machine.kernel.clone()),
            ("memory", machine.memory_bytes.map(words::memory)),
        ]
    };
    let known = |text: Option<String>| text.unwrap_or_else(|| "unknown".to_owned());
    words(old)
        .into_iter()
        .zip(words(new))
        .filter(|((_, old), (_, new))| old != new || old.is_none())
        .map(|((what, old), (_, new))| (what, known(old), known(new)))
        .collect()
}

fn run_words(machine: &Machine) -> String {
    let commit =
        machine.commit_words().map_or_else(|| "unknown commit".to_owned(), |commit| format!("commit {commit}"));
    let date = machine.date.as_deref().map_or_else(|| "unknown date".to_owned(), words::date);
    format!("{commit}, {date}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: [f64; 3] = [0.999, 1.0, 1.001];

    fn verdict(old: &[f64], new: &[f64]) -> Verdict {
        Change::between(old, new, true).unwrap().verdict
    }

    /// Three runs with the median and the median deviation asked for.
    fn runs(median: f64, deviation: f64) -> [f64; 3] {
        [median - deviation, median, median + deviation]
    }

    #[test]
    fn calm_runs_are_held_to_the_least_change() {
        assert_eq!(verdict(&CALM, &runs(1.0 + CHANGE_MIN - 0.001, 0.001)), Verdict::Same);
        assert_eq!(verdict(&CALM, &runs(1.0 + CHANGE_MIN + 0.001, 0.001)), Verdict::Better);
        assert_eq!(verdict(&CALM, &runs(1.0 - CHANGE_MIN + 0.001, 0.001)), Verdict::Same);
        assert_eq!(verdict(&CALM, &runs(1.0 - CHANGE_MIN - 0.001, 0.001)), Verdict::Worse);
    }

    #[test]
    fn restless_runs_are_held_to_their_own_noise() {
        // Deviations of 0.03 and 0.04 combine to 0.05.
        let old = runs(1.0, 0.03);
        assert_eq!(verdict(&old, &runs(1.0 - DEVIATIONS * 0.05 + 0.01, 0.04)), Verdict::Same);
        assert_eq!(verdict(&old, &runs(1.0 - DEVIATIONS * 0.05 - 0.01, 0.04)), Verdict::Worse);
    }

    #[test]
    fn one_wild_run_neither_flags_nor_hides_a_change() {
        assert_eq!(verdict(&[1.0, 1.0, 1.01, 0.99, 1.0], &[1.0, 1.01, 0.99, 1.0, 0.2]), Verdict::Same);
        assert_eq!(verdict(&[1.0, 1.0, 1.01, 0.99, 1.0], &[0.8, 0.81, 0.79, 0.8, 1.2]), Verdict::Worse);
    }

    #[test]
    fn where_less_is_better_more_is_worse() {
        assert_eq!(Change::between(&CALM, &runs(2.0, 0.001), false).unwrap().verdict, Verdict::Worse);
        assert_eq!(Change::between(&CALM, &runs(0.5, 0.001), false).unwrap().verdict, Verdict::Better);
    }

    #[test]
    fn too_few_runs_decide_nothing() {
        assert_eq!(verdict(&CALM, &[9.0; RUNS_MIN]), Verdict::Better);
        assert_eq!(verdict(&CALM, &[9.0; RUNS_MIN - 1]), Verdict::Undecided);
        assert_eq!(Change::between(&CALM, &[], true), None);
        assert_eq!(Change::between(&[0.0; 3], &CALM, true), None);
    }

    /// A report of one row: our runs, and those of each peer.
    fn report(name: &str, ours: &[f64], peers: &[(&str, &[f64])]) -> Recorded {
        let round = |index: usize| {
            let mut round: serde_json::Map<String, Value> =
                peers.iter().map(|(peer, runs)| ((*peer).to_owned(), json!(runs[index]))).collect();
            round.insert(OURS.to_owned(), json!(ours[index]));
            round
        };
        let rounds: Vec<_> = (0..ours.len()).map(round).collect();
        let medians: BTreeMap<&str, f64> = peers.iter().map(|(peer, runs)| (*peer, runs[1])).collect();
        Recorded::from_json(json!({
            "machine": {"cpu": "c", "cores": 2, "kernel": "6.18", "memory_bytes": 1 << 30},
            "rows": [{
                "name": name, "unit": "GB/s", "better": "higher", "ours": ours.get(1), "peers": medians, "runs": rounds,
            }],
        }))
        .unwrap()
    }

    fn compared(old: &Recorded, new: &Recorded) -> Verdict {
        let comparison = Comparison::of(old, new);
        assert_eq!(comparison.has_regression(), comparison.rows[0].verdict == Verdict::Worse);
        comparison.rows[0].verdict
    }

    #[test]
    fn a_slow_day_of_the_machine_is_no_regression() {
        let old = report("r", &[2.0, 2.01, 1.99], &[("quinn", &[1.0, 1.0, 1.0])]);
        let slow = report("r", &[1.0, 1.005, 0.995], &[("quinn", &[0.5, 0.5, 0.5])]);
        let comparison = Comparison::of(&old, &slow);
        assert_eq!(comparison.rows[0].ours.unwrap().verdict, Verdict::Worse);
        assert_eq!(comparison.rows[0].verdict, Verdict::Same);
        // It is still shown at length.
        assert!(comparison.to_table().contains("ours ÷ quinn"));
    }

    #[test]
    fn a_fast_day_of_the_machine_hides_no_regression() {
        let old = report("r", &[2.0, 2.01, 1.99], &[("quinn", &[1.0, 1.0, 1.0])]);
        let new = report("r", &[2.0, 2.01, 1.99], &[("quinn", &[1.3, 1.3, 1.3])]);
        assert_eq!(compared(&old, &new), Verdict::Worse);
    }

    #[test]
    fn one_peer_that_got_better_is_not_our_regression() {
        let calm: &[f64] = &[1.0, 1.0, 1.0];
        let old = report("r", &[2.0, 2.01, 1.99], &[("one", calm), ("other", calm)]);
        let new = report("r", &[2.0, 2.01, 1.99], &[("one", &[3.0, 3.0, 3.0]), ("other", calm)]);
        assert_eq!(compared(&old, &new), Verdict::Same);
    }

    #[test]
    fn a_row_without_peers_is_judged_by_its_figure_on_one_machine_only() {
        let old = report("r", &[2.0, 2.0, 2.0], &[]);
        let mut new = report("r", &[1.0, 1.0, 1.0], &[]);
        assert_eq!(compared(&old, &new), Verdict::Worse);
        new.machine.kernel = Some("7.0".into());
        assert_eq!(compared(&old, &new), Verdict::Undecided);
    }

    #[test]
    fn another_machine_or_kernel_is_said_first() {
        let old = report("r", &CALM, &[]);
        assert!(Comparison::of(&old, &old).machines.is_empty());
        assert!(!Comparison::of(&old, &old).to_table().contains("NOT ONE MACHINE"));
        let mut new = old.clone();
        new.machine.kernel = Some("7.0".into());
        new.machine.cpu = None;
        let table = Comparison::of(&old, &new).to_table();
        assert!(table.starts_with("NOT ONE MACHINE"), "{table}");
        assert!(table.contains("kernel: 6.18 before, 7.0 now") && table.contains("processor: c before, unknown now"));
        // Two machines nobody knows anything of are not one.
        new.machine = Machine::default();
        assert_eq!(Comparison::of(&new, &new).machines.len(), 4);
    }

    #[test]
    fn rows_that_vanished_or_are_new_are_named() {
        let comparison = Comparison::of(&report("old.row", &CALM, &[]), &report("new.row", &CALM, &[]));
        assert_eq!(
            (comparison.vanished.join(" "), comparison.appeared.join(" ")),
            ("old.row".into(), "new.row".into())
        );
        let table = comparison.to_table();
        assert!(table.contains("vanished   old.row") && table.contains("new        new.row"), "{table}");
        assert!(!comparison.has_regression());
    }

    #[test]
    fn failing_is_worse_than_any_figure() {
        let whole = report("r", &CALM, &[]);
        let mut failed = whole.clone();
        failed.rows[0].ours = None;
        assert_eq!(compared(&whole, &failed), Verdict::Worse);
        assert_eq!(compared(&failed, &whole), Verdict::Better);
        assert_eq!(compared(&failed, &failed), Verdict::Undecided);
    }

    #[test]
    fn another_unit_is_not_compared() {
        let old = report("r", &CALM, &[]);
        let mut new = old.clone();
        new.rows[0].unit = "IOPS".into();
        let comparison = Comparison::of(&old, &new);
        assert_eq!(comparison.rows[0].verdict, Verdict::Undecided);
        assert!(comparison.to_table().contains("counts IOPS now, GB/s before"));
    }

    #[test]
    fn the_json_has_the_rule_and_every_verdict() {
        let old = report("r", &[2.0, 2.0, 2.0], &[("quinn", &[1.0, 1.0, 1.0])]);
        let new = report("r", &[1.0, 1.0, 1.0], &[("quinn", &[1.0, 1.0, 1.0])]);
        let json = Comparison::of(&old, &new).to_json();
        assert_eq!(json["regression"], true);
        assert_eq!(json["rows"][0]["verdict"], "worse");
        assert_eq!(json["rows"][0]["ratios"]["quinn"]["relative"], -0.5);
        assert_eq!(json["rule"]["deviations"], DEVIATIONS);
    }
}
