//! What changed from one run to another beyond what runs differ by anyway.
//!
//! A figure counts as changed if its medians differ by more than [`DEVIATIONS`] times the combined median deviation of
//! both runs, and by more than [`CHANGE_MIN`]. Beside our own figure stands our ratio to each peer, taken round by
//! round: what a machine does falls on both sides of a ratio, so a slow day of the machine moves the figure and leaves
//! the ratio. A row with peers is therefore judged by its ratios, and only a row without by its figure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::recorded::{Machine, Recorded, RecordedPlan, RecordedRow};
use crate::report::OURS;
use crate::statistics::{Summary, deviation_factor};
use crate::words;

/// Median deviations, combined in quadrature, that chance may move a median by.
///
/// Each is corrected for the number of runs ([`crate::statistics::deviation_factor`]). With [`RUNS_MIN`] runs that
/// scatter normally about one comparison in eighty is flagged without a cause, with more runs fewer; a test counts them.
pub const DEVIATIONS: f64 = 3.5;

/// Smallest relative change that is flagged, however calm the runs were: a few runs can agree by luck.
pub const CHANGE_MIN: f64 = 0.03;

/// Fewer runs than this say too little about how far runs scatter: with three, whose median deviation is often tiny by
/// luck, one comparison in seventeen would be flagged without a cause.
pub const RUNS_MIN: usize = 5;

/// What became of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Changed beyond noise, for the better.
    Better,
    /// Changed beyond noise, for the worse.
    Worse,
    /// No change beyond noise.
    Same,
    /// Nothing to judge by: too few runs, another plan, other units, or a machine apart and no peer.
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
    /// Judges two series of runs whose medians may be off by `grain` together because of how they were counted; none
    /// if one is empty or the old median is zero.
    pub fn between(old: &[f64], new: &[f64], higher_is_better: bool, grain: f64) -> Option<Self> {
        let (before, after) = (Summary::of(old)?, Summary::of(new)?);
        let difference = after.median - before.median;
        let relative = difference / before.median;
        if !relative.is_finite() {
            return None;
        }
        let deviation = |summary: Summary, runs: &[f64]| summary.median_deviation * deviation_factor(runs.len());
        let noise = (DEVIATIONS * deviation(before, old).hypot(deviation(after, new))).max(grain);
        let is_change = difference.abs() > noise && relative.abs() > CHANGE_MIN;
        let verdict = match (old.len().min(new.len()) < RUNS_MIN, is_change) {
            (true, _) => Verdict::Undecided,
            (false, false) => Verdict::Same,
            (false, true) if (difference > 0.0) == higher_is_better => Verdict::Better,
            (false, true) => Verdict::Worse,
        };
        Some(Self { old: before.median, new: after.median, relative, verdict })
    }

    /// The same change of runs that were planned otherwise: shown, and not judged.
    const fn undecided(self) -> Self {
        Self { verdict: Verdict::Undecided, ..self }
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
    fn of(old: &RecordedRow, new: &RecordedRow, is_one_machine: bool, is_one_plan: bool) -> Self {
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
        if [old, new].iter().any(|row| row.withheld.contains_key(OURS)) {
            row.remark = Some("not enough reads in both for a figure".to_owned());
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
        let judged = |change: Change| if is_one_plan { change } else { change.undecided() };
        let grain = old.grain + new.grain;
        row.ours = Change::between(&old.runs_of(OURS), &new.runs_of(OURS), higher_is_better, grain).map(judged);
        for peer in old.peers.keys().filter(|peer| new.peers.contains_key(*peer)) {
            let grain = old.ratio_grain(peer) + new.ratio_grain(peer);
            let change = Change::between(&old.ratios_of(peer), &new.ratios_of(peer), higher_is_better, grain);
            row.ratios.extend(change.map(|change| (peer.clone(), judged(change))));
        }
        row.verdict = match row.ours {
            _ if !is_one_plan => Verdict::Undecided,
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
    /// In what the plans differ: what, before, after. Empty if as much was moved in the same way.
    pub plans: Vec<(&'static str, String, String)>,
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
        let machines = machine_differences(&old.machine, &new.machine);
        let plans = plan_differences(&old.plan, &new.plan);
        let pairs = new.rows.iter().filter_map(|row| Some((old.row(&row.name)?, row)));
        let only = |rows: &[RecordedRow], other: &Recorded| {
            rows.iter().filter(|row| other.row(&row.name).is_none()).map(|row| row.name.clone()).collect()
        };
        Self {
            rows: pairs.map(|(old, new)| RowChange::of(old, new, machines.is_empty(), plans.is_empty())).collect(),
            appeared: only(&new.rows, old),
            vanished: only(&old.rows, new),
            runs: [&old.machine, &new.machine].map(run_words),
            machines,
            plans,
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
        if !self.plans.is_empty() {
            line(format_args!("NOT ONE PLAN: nothing here is judged."));
            for (what, old, new) in &self.plans {
                line(format_args!("  {what}: {old} before, {new} now"));
            }
        }
        line(format_args!("before: {}", self.runs[0]));
        line(format_args!("now:    {}", self.runs[1]));
        line(format_args!(
            "Changed means: medians of {RUNS_MIN} runs or more, more than {DEVIATIONS} combined median deviations and \
             {:.0} % apart. Rows with peers are judged by the ratios.",
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
        let differences = |all: &[(&'static str, String, String)]| -> Vec<Value> {
            all.iter().map(|(what, old, new)| json!({"what": what, "old": old, "new": new})).collect()
        };
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
            "machine_differs": differences(&self.machines),
            "plan_differs": differences(&self.plans),
            "rows": rows,
            "vanished": self.vanished,
            "new": self.appeared,
            "regression": self.has_regression(),
        })
    }
}

/// In what two machines differ that moves figures. What is unknown on one side differs: nobody can say that it is one.
fn machine_differences(old: &Machine, new: &Machine) -> Vec<(&'static str, String, String)> {
    let words = |machine: &Machine| {
        [
            ("processor", machine.cpu.clone()),
            ("cores", machine.cores.map(|cores| cores.to_string())),
            ("kernel", machine.kernel.clone()),
            ("memory", machine.memory_bytes.map(words::memory)),
        ]
    };
    differences(words(old), words(new))
}

/// In what two plans differ that moves figures; how many runs there were is told by the runs. As with machines, two
/// plans nobody wrote down are not one.
fn plan_differences(old: &RecordedPlan, new: &RecordedPlan) -> Vec<(&'static str, String, String)> {
    let words = |plan: &RecordedPlan| {
        [
            ("bytes", plan.bytes.map(|bytes| bytes.to_string())),
            ("scale", plan.scale.clone()),
            ("MTU", Some(plan.mtu.map_or_else(|| "the rows'".to_owned(), |mtu| mtu.to_string()))),
            ("profile", plan.profile.clone()),
        ]
    };
    differences(words(old), words(new))
}

/// The facts that differ or are unknown in the first.
fn differences<const N: usize>(
    old: [(&'static str, Option<String>); N],
    new: [(&'static str, Option<String>); N],
) -> Vec<(&'static str, String, String)> {
    let known = |text: Option<String>| text.unwrap_or_else(|| "unknown".to_owned());
    old.into_iter()
        .zip(new)
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

    const CALM: [f64; 5] = [0.998, 0.999, 1.0, 1.001, 1.002];

    fn verdict(old: &[f64], new: &[f64]) -> Verdict {
        Change::between(old, new, true, 0.0).unwrap().verdict
    }

    /// Five runs with the median and the median deviation asked for.
    fn runs(median: f64, deviation: f64) -> [f64; 5] {
        [-2.0, -1.0, 0.0, 1.0, 2.0].map(|far| median + far * deviation)
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
        let (old, noise) = (runs(1.0, 0.03), DEVIATIONS * deviation_factor(5) * 0.05);
        assert_eq!(verdict(&old, &runs(1.0 - noise + 0.01, 0.04)), Verdict::Same);
        assert_eq!(verdict(&old, &runs(1.0 - noise - 0.01, 0.04)), Verdict::Worse);
    }

    #[test]
    fn a_difference_within_the_grain_is_none() {
        let judged = |grain| Change::between(&CALM, &runs(1.2, 0.0), true, grain).unwrap().verdict;
        assert_eq!([judged(0.0), judged(0.19), judged(0.21)], [Verdict::Better, Verdict::Better, Verdict::Same]);
    }

    /// Numbers that scatter normally about 1, the same ones for each seed.
    struct Scatter {
        state: u64,
        deviation: f64,
    }

    impl Scatter {
        fn uniform(&mut self) -> f64 {
            self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            f64::from(u32::try_from(crate::fingerprint::avalanche(self.state) >> 32).unwrap()) / f64::from(u32::MAX)
        }

        fn run(&mut self) -> f64 {
            // Twelve uniform numbers have a variance of one together.
            let sum: f64 = (0..12).map(|_| self.uniform()).sum();
            1.0 + self.deviation * (sum - 6.0)
        }
    }

    /// Of so many comparisons of like with like, how many are flagged.
    fn false_positives(runs: usize, comparisons: usize) -> usize {
        // A tenth: far above the least change, which then holds nothing back.
        let mut scatter = Scatter { state: 20_261_121, deviation: 0.1 };
        let mut series = || -> Vec<f64> { (0..runs).map(|_| scatter.run()).collect() };
        (0..comparisons).filter(|_| matches!(verdict(&series(), &series()), Verdict::Better | Verdict::Worse)).count()
    }

    #[test]
    fn like_is_rarely_told_from_like() {
        assert_eq!(false_positives(RUNS_MIN - 1, 1000), 0);
        let found = false_positives(RUNS_MIN, 10_000);
        assert!((50..=200).contains(&found), "{found} of 10,000 with {RUNS_MIN} runs");
        let found = false_positives(9, 10_000);
        assert!(found <= 20, "{found} of 10,000 with 9 runs");
    }

    #[test]
    fn a_real_change_is_found() {
        let mut old = Scatter { state: 1, deviation: 0.02 };
        let mut flagged = 0;
        for _ in 0..1000 {
            let (before, after): (Vec<f64>, Vec<f64>) = (0..7).map(|_| (old.run(), 0.8 * old.run())).unzip();
            flagged += usize::from(verdict(&before, &after) == Verdict::Worse);
        }
        assert!(flagged > 950, "{flagged} of 1,000");
    }

    #[test]
    fn one_wild_run_neither_flags_nor_hides_a_change() {
        assert_eq!(verdict(&[1.0, 1.0, 1.01, 0.99, 1.0], &[1.0, 1.01, 0.99, 1.0, 0.2]), Verdict::Same);
        assert_eq!(verdict(&[1.0, 1.0, 1.01, 0.99, 1.0], &[0.8, 0.81, 0.79, 0.8, 1.2]), Verdict::Worse);
    }

    #[test]
    fn where_less_is_better_more_is_worse() {
        assert_eq!(Change::between(&CALM, &runs(2.0, 0.001), false, 0.0).unwrap().verdict, Verdict::Worse);
        assert_eq!(Change::between(&CALM, &runs(0.5, 0.001), false, 0.0).unwrap().verdict, Verdict::Better);
    }

    #[test]
    fn too_few_runs_decide_nothing() {
        assert_eq!(verdict(&CALM, &[9.0; RUNS_MIN]), Verdict::Better);
        assert_eq!(verdict(&CALM, &[9.0; RUNS_MIN - 1]), Verdict::Undecided);
        assert_eq!(Change::between(&CALM, &[], true, 0.0), None);
        assert_eq!(Change::between(&[0.0; 5], &CALM, true, 0.0), None);
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
        let median = |runs: &[f64]| Summary::of(runs).unwrap().median;
        let medians: BTreeMap<&str, f64> = peers.iter().map(|(peer, runs)| (*peer, median(runs))).collect();
        Recorded::from_json(json!({
            "machine": {"cpu": "c", "cores": 2, "kernel": "6.18", "memory_bytes": 1 << 30},
            "plan": {"bytes": 1 << 20, "runs": 5, "scale": "full", "profile": "release"},
            "rows": [{
                "name": name, "unit": "GB/s", "better": "higher", "ours": median(ours), "peers": medians,
                "runs": rounds,
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
        let old = report("r", &runs(2.0, 0.005), &[("quinn", &[1.0; 5])]);
        let slow = report("r", &runs(1.0, 0.0025), &[("quinn", &[0.5; 5])]);
        let comparison = Comparison::of(&old, &slow);
        assert_eq!(comparison.rows[0].ours.unwrap().verdict, Verdict::Worse);
        assert_eq!(comparison.rows[0].verdict, Verdict::Same);
        // It is still shown at length.
        assert!(comparison.to_table().contains("ours ÷ quinn"));
    }

    #[test]
    fn a_fast_day_of_the_machine_hides_no_regression() {
        let old = report("r", &runs(2.0, 0.005), &[("quinn", &[1.0; 5])]);
        let new = report("r", &runs(2.0, 0.005), &[("quinn", &[1.3; 5])]);
        assert_eq!(compared(&old, &new), Verdict::Worse);
    }

    #[test]
    fn one_peer_that_got_better_is_not_our_regression() {
        let calm: &[f64] = &[1.0; 5];
        let old = report("r", &runs(2.0, 0.005), &[("one", calm), ("other", calm)]);
        let new = report("r", &runs(2.0, 0.005), &[("one", &[3.0; 5]), ("other", calm)]);
        assert_eq!(compared(&old, &new), Verdict::Same);
    }

    #[test]
    fn a_row_without_peers_is_judged_by_its_figure_on_one_machine_only() {
        let old = report("r", &[2.0; 5], &[]);
        let mut new = report("r", &[1.0; 5], &[]);
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
    fn another_plan_is_said_first_and_decides_nothing() {
        let old = report("r", &runs(2.0, 0.001), &[("quinn", &[1.0; 5])]);
        let new = report("r", &runs(1.0, 0.001), &[("quinn", &[1.0; 5])]);
        assert_eq!(compared(&old, &new), Verdict::Worse);
        for change in [
            |plan: &mut RecordedPlan| plan.scale = Some("quick".into()),
            |plan: &mut RecordedPlan| plan.bytes = Some(1 << 21),
            |plan: &mut RecordedPlan| plan.profile = Some("debug".into()),
            |plan: &mut RecordedPlan| plan.mtu = Some(9000),
            |plan: &mut RecordedPlan| *plan = RecordedPlan::default(),
        ] {
            let mut other = new.clone();
            change(&mut other.plan);
            assert_eq!(compared(&old, &other), Verdict::Undecided);
            let comparison = Comparison::of(&old, &other);
            assert!(comparison.rows[0].ratios.values().all(|change| change.verdict == Verdict::Undecided));
            assert!(comparison.to_table().starts_with("NOT ONE PLAN"), "{}", comparison.to_table());
            assert!(!comparison.to_json()["plan_differs"].as_array().unwrap().is_empty());
        }
        // More runs of the same are the same plan.
        let mut more = new.clone();
        more.plan.runs = Some(9);
        assert_eq!(compared(&old, &more), Verdict::Worse);
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
        let old = report("r", &[2.0; 5], &[("quinn", &[1.0; 5])]);
        let new = report("r", &[1.0; 5], &[("quinn", &[1.0; 5])]);
        let json = Comparison::of(&old, &new).to_json();
        assert_eq!(json["regression"], true);
        assert_eq!(json["rows"][0]["verdict"], "worse");
        assert_eq!(json["rows"][0]["ratios"]["quinn"]["relative"], -0.5);
        assert_eq!(json["rule"]["deviations"], DEVIATIONS);
    }
}
