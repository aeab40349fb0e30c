//! The method every suite shares: contenders take turns within one run, so that what the machine does meanwhile
//! falls on all of them alike.
//!
//! Each contender is checked first, untimed: it moves all the bytes once and they must be the right ones. That is its
//! warm-up too. Then the timed rounds, each in another order, so that nobody always comes after the same one. A contender
//! that fails once is out and has no figure: a partial series would flatter it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use serde_json::{Map, Value, json};

use crate::cpu_time::CpuTime;
use crate::link::Point;
use crate::machine;
use crate::report::{Figure, Row, Unit};
use crate::statistics::Summary;

pub mod cpu;
pub mod metadata;
pub mod mount;
pub mod mounter;
pub mod random;
pub mod smallfiles;
pub mod transport;

/// How long one untimed check or one run may take: 2 GiB at 18 MB/s, a tenth of the slowest peer.
pub const RUN_LIMIT: Duration = Duration::from_secs(120);

/// How much is moved, how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Bytes per run.
    pub bytes: u64,
    /// Timed runs of each contender.
    pub runs: usize,
    /// How large everything else is.
    pub scale: Scale,
}

impl Plan {
    /// The plan as the report keeps it, with the build profile of this program.
    pub fn to_json(self) -> Value {
        let scale = match self.scale {
            Scale::Full => "full",
            Scale::Quick => "quick",
        };
        json!({ "bytes": self.bytes, "runs": self.runs, "scale": scale, "profile": machine::PROFILE })
    }
}

/// The two sizes of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// What the promises are measured with.
    Full,
    /// A look in minutes.
    Quick,
}

/// How long the timed rounds of one part of a suite may take before no further one begins: a machine that is busy gets
/// fewer rounds and not a run without end.
pub const PART_BUDGET: Duration = Duration::from_secs(300);

/// Rounds that are run however long they take.
pub const ROUNDS_MIN: usize = 3;

/// What a timed run yields.
pub trait Outcome {
    /// Whether the run moved what the plan asks for.
    ///
    /// # Errors
    /// What is missing: such a run has no figure.
    fn check(&self, plan: Plan) -> anyhow::Result<()>;
}

/// One complete run, seen from both ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Payload bytes that arrived.
    pub bytes: u64,
    /// What the receiver waited.
    pub elapsed: Duration,
    /// CPU time of all processes of the serving end.
    pub sender_cpu: CpuTime,
    /// CPU time of all processes of the receiving end.
    pub receiver_cpu: CpuTime,
    /// Speed over time; empty where nobody watched the link.
    pub over_time: Vec<Point>,
}

impl Outcome for Run {
    fn check(&self, plan: Plan) -> anyhow::Result<()> {
        ensure!(self.bytes == plan.bytes, "{} of {} bytes arrived", self.bytes, plan.bytes);
        ensure!(!self.elapsed.is_zero(), "the run took no time");
        Ok(())
    }
}

impl Run {
    /// 1e9 bytes per second.
    pub fn gigabytes_per_second(&self) -> f64 {
        self.gigabytes() / self.elapsed.as_secs_f64()
    }

    /// CPU seconds of the serving end per 1e9 bytes.
    pub fn sender_seconds_per_gigabyte(&self) -> f64 {
        self.sender_cpu.time.as_secs_f64() / self.gigabytes()
    }

    /// CPU seconds of the receiving end per 1e9 bytes.
    pub fn receiver_seconds_per_gigabyte(&self) -> f64 {
        self.receiver_cpu.time.as_secs_f64() / self.gigabytes()
    }

    /// By how much [`Run::sender_seconds_per_gigabyte`] may be off.
    pub fn sender_grain(&self) -> f64 {
        self.sender_cpu.grain.as_secs_f64() / self.gigabytes()
    }

    /// By how much [`Run::receiver_seconds_per_gigabyte`] may be off.
    pub fn receiver_grain(&self) -> f64 {
        self.receiver_cpu.grain.as_secs_f64() / self.gigabytes()
    }

    // Exact up to 2^53 bytes, far beyond any fixture.
    #[expect(clippy::cast_precision_loss, reason = "see above")]
    fn gigabytes(&self) -> f64 {
        self.bytes as f64 / 1e9
    }
}

/// Something that can move the fixture from the host to the client, or do what else a suite is about.
pub trait Contender<T = Run> {
    /// Moves the bytes once, untimed, and compares them with what they should be.
    ///
    /// # Errors
    /// If it does not complete or the bytes differ.
    fn verify(&mut self) -> anyhow::Result<()>;

    /// Moves the bytes once, from cold where the suite says so, and counts them.
    ///
    /// # Errors
    /// If it does not complete.
    fn run(&mut self) -> anyhow::Result<T>;
}

/// A contender's name and the contender, or why it could not be set up.
pub type Entry<'l, T = Run> = (String, anyhow::Result<Box<dyn Contender<T> + 'l>>);

/// All timed runs of one contender, or why it has none.
#[derive(Clone, Debug)]
pub struct Series<T = Run> {
    /// [`crate::report::OURS`] or the peer's name.
    pub contender: String,
    /// Complete, or the reason.
    pub runs: Result<Vec<T>, String>,
    /// What a reader of the figures must know of all contenders' runs.
    pub remark: Option<String>,
}

/// Checks every contender, which warms it up, and lets them take turns; `note` hears what is going on.
///
/// Past [`PART_BUDGET`] no further round begins once there are [`ROUNDS_MIN`]; the series say so then.
pub fn alternate<T: Outcome>(entries: Vec<Entry<'_, T>>, plan: Plan, note: &mut dyn FnMut(&str)) -> Vec<Series<T>> {
    alternate_by(entries, plan, note, &mut Instant::now)
}

fn alternate_by<T: Outcome>(
    entries: Vec<Entry<'_, T>>,
    plan: Plan,
    note: &mut dyn FnMut(&str),
    now: &mut dyn FnMut() -> Instant,
) -> Vec<Series<T>> {
    let mut lanes: Vec<Lane<'_, T>> = entries.into_iter().map(Lane::new).collect();
    for lane in &mut lanes {
        lane.turn(note, "check", |contender, _| contender.verify());
    }
    let started = now();
    let mut remark = None;
    for round in 1..=plan.runs {
        if round > ROUNDS_MIN && now().saturating_duration_since(started) >= PART_BUDGET {
            let said = format!("{} of {} rounds: {PART_BUDGET:?} had passed", round - 1, plan.runs);
            note(&said);
            remark = Some(said);
            break;
        }
        for index in order(round - 1, lanes.len()) {
            lanes[index].turn(note, &format!("run {round}"), |contender, runs| {
                runs.push(measured(contender, plan)?);
                Ok(())
            });
        }
    }
    lanes.into_iter().map(|lane| lane.finish(remark.clone())).collect()
}

/// The order of `count` contenders in a round, counted from 0: a balanced Latin square (Williams, 1949). Over as many
/// rounds as there are contenders, twice as many if they are odd, each comes equally often at each place and after each
/// other one.
fn order(round: usize, count: usize) -> Vec<usize> {
    // 0, 1, n-1, 2, n-2, …: all steps from one to the next differ.
    let zigzag = |place: usize| if place % 2 == 1 { place.div_ceil(2) } else { count - place / 2 };
    let mut order: Vec<usize> = (0..count).map(|place| (zigzag(place) + round) % count).collect();
    if count % 2 == 1 && (round / count) % 2 == 1 {
        order.reverse();
    }
    order
}

fn measured<T: Outcome>(contender: &mut dyn Contender<T>, plan: Plan) -> anyhow::Result<T> {
    let run = contender.run()?;
    run.check(plan)?;
    Ok(run)
}

struct Lane<'l, T> {
    name: String,
    state: Result<Box<dyn Contender<T> + 'l>, String>,
    runs: Vec<T>,
}

impl<'l, T> Lane<'l, T> {
    fn new((name, contender): Entry<'l, T>) -> Self {
        Self { name, state: contender.map_err(|error| format!("{error:#}")), runs: Vec::new() }
    }

    fn turn(
        &mut self,
        note: &mut dyn FnMut(&str),
        what: &str,
        step: impl FnOnce(&mut dyn Contender<T>, &mut Vec<T>) -> anyhow::Result<()>,
    ) {
        let Ok(contender) = &mut self.state else {
            return;
        };
        let result = step(&mut **contender, &mut self.runs).with_context(|| what.to_owned());
        match result {
            Ok(()) => note(&format!("{}: {what}", self.name)),
            Err(error) => {
                let reason = format!("{error:#}");
                note(&format!("{}: {reason}", self.name));
                self.state = Err(reason);
            }
        }
    }

    fn finish(self, remark: Option<String>) -> Series<T> {
        Series { contender: self.name, runs: self.state.map(|_| self.runs), remark }
    }
}

/// Makes the row of one quantity from all contenders' runs.
pub fn row<T>(
    name: String,
    unit: Unit,
    series: &[Series<T>],
    absent: &[(String, String)],
    quantity: impl Fn(&T) -> f64,
) -> Row {
    let remark = series.iter().find_map(|series| series.remark.clone());
    let figure = |series: &Series<T>| Figure {
        contender: series.contender.clone(),
        runs: match &series.runs {
            Ok(runs) => Ok(runs.iter().map(&quantity).collect()),
            Err(reason) => Err(reason.clone()),
        },
    };
    Row {
        name,
        unit,
        figures: series.iter().map(figure).collect(),
        absent: absent.to_vec(),
        withheld: Vec::new(),
        remark,
        grain: 0.0,
        curves: Map::new(),
    }
}

/// The last of several parts of one row, each with a word for itself: a contender that failed in one of them has failed,
/// also where its figure comes from the last part alone.
pub fn folded<T>(parts: Vec<(String, Vec<Series<T>>)>) -> Vec<Series<T>> {
    let mut reasons: Vec<(String, String)> = Vec::new();
    let mut remark = None;
    let mut last = Vec::new();
    for (part, all) in parts {
        for series in &all {
            remark = remark.or_else(|| series.remark.as_ref().map(|said| format!("{part}: {said}")));
            if let Err(reason) = &series.runs {
                reasons.push((series.contender.clone(), format!("{part}: {reason}")));
            }
        }
        last = all;
    }
    for series in &mut last {
        let of_contender: Vec<&str> = reasons
            .iter()
            .filter(|(contender, _)| *contender == series.contender)
            .map(|(_, reason)| reason.as_str())
            .collect();
        if !of_contender.is_empty() {
            series.runs = Err(of_contender.join("; "));
        }
        series.remark.clone_from(&remark);
    }
    last
}

/// The coarsest grain of all runs.
pub fn grain<T>(series: &[Series<T>], of_run: impl Fn(&T) -> f64) -> f64 {
    series.iter().filter_map(|series| series.runs.as_ref().ok()).flatten().map(of_run).fold(0.0, f64::max)
}

/// For each contender with runs, what `curve` makes of the run whose `quantity` is nearest the median: a whole run
/// that did happen rather than a mean that did not.
pub fn typical<T>(series: &[Series<T>], quantity: impl Fn(&T) -> f64, curve: impl Fn(&T) -> Value) -> Value {
    let pick = |series: &Series<T>| {
        let runs = series.runs.as_ref().ok()?;
        let values: Vec<f64> = runs.iter().map(&quantity).collect();
        let median = Summary::of(&values)?.median;
        let distance = |run: &&T| (quantity(run) - median).abs();
        let typical = runs.iter().min_by(|a, b| distance(a).total_cmp(&distance(b)))?;
        Some((series.contender.clone(), curve(typical)))
    };
    Value::Object(series.iter().filter_map(pick).collect())
}

/// The rows of speed and of CPU at both ends; the speed's name is `prefix` with `speed` behind it.
pub fn rows(prefix: &str, speed: &str, series: &[Series], absent: &[(String, String)]) -> [Row; 3] {
    let cpu = Unit::SecondsPerGigabyte;
    let (sender_grain, receiver_grain) = (grain(series, Run::sender_grain), grain(series, Run::receiver_grain));
    [
        row(format!("{prefix}{speed}"), Unit::GigabytesPerSecond, series, absent, Run::gigabytes_per_second)
            .with_curve("series", typical(series, Run::gigabytes_per_second, |run| json!(run.over_time))),
        row(format!("{prefix}.cpu_sender"), cpu, series, absent, Run::sender_seconds_per_gigabyte)
            .with_grain(sender_grain),
        row(format!("{prefix}.cpu_receiver"), cpu, series, absent, Run::receiver_seconds_per_gigabyte)
            .with_grain(receiver_grain),
    ]
}

/// Sorts the named peers into those to run and those absent, with their packages.
pub(crate) fn present(names: &[&'static str]) -> (Vec<&'static str>, Vec<(String, String)>) {
    let mut found = Vec::new();
    let mut absent = Vec::new();
    for &name in names {
        let missing = crate::peers::peer(name).missing_packages();
        if missing.is_empty() {
            found.push(name);
        } else {
            absent.push((name.to_owned(), missing.join(" ")));
        }
    }
    (found, absent)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use anyhow::bail;

    use super::*;

    const PLAN: Plan = Plan { bytes: 1_000_000_000, runs: 2, scale: Scale::Quick };

    struct Scripted<'l> {
        name: &'static str,
        log: &'l RefCell<Vec<String>>,
        bytes: u64,
        fails_at: Option<usize>,
        turns: usize,
    }

    impl Contender for Scripted<'_> {
        fn verify(&mut self) -> anyhow::Result<()> {
            self.log.borrow_mut().push(format!("{} verify", self.name));
            Ok(())
        }

        fn run(&mut self) -> anyhow::Result<Run> {
            self.log.borrow_mut().push(format!("{} run", self.name));
            if self.fails_at == Some(self.turns) {
                bail!("connection lost");
            }
            self.turns += 1;
            Ok(Run {
                bytes: self.bytes,
                elapsed: Duration::from_millis(500),
                sender_cpu: CpuTime { time: Duration::from_millis(400), grain: Duration::from_millis(20) },
                receiver_cpu: CpuTime::exact(Duration::from_millis(300)),
                over_time: vec![[0.1, 2.0]],
            })
        }
    }

    fn entry<'l>(log: &'l RefCell<Vec<String>>, name: &'static str, bytes: u64, fails_at: Option<usize>) -> Entry<'l> {
        let contender = Scripted { name, log, bytes, fails_at, turns: 0 };
        (name.to_owned(), Ok(Box::new(contender)))
    }

    #[test]
    fn contenders_take_turns_after_the_check() {
        let log = RefCell::default();
        let entries = vec![entry(&log, "ours", PLAN.bytes, None), entry(&log, "peer", PLAN.bytes, None)];
        let series = alternate(entries, PLAN, &mut |_| {});
        assert_eq!(*log.borrow(), ["ours verify", "peer verify", "ours run", "peer run", "peer run", "ours run"]);
        for series in series {
            assert_eq!(series.runs.unwrap().len(), PLAN.runs);
        }
    }

    #[test]
    fn nobody_always_follows_the_same_one() {
        for count in 1..=8 {
            let rounds = if count % 2 == 0 { count } else { 2 * count };
            let mut places = vec![vec![0; count]; count];
            let mut follows = vec![vec![0; count]; count];
            for round in 0..rounds {
                let order = order(round, count);
                for (place, &lane) in order.iter().enumerate() {
                    places[lane][place] += 1;
                }
                for pair in order.windows(2) {
                    follows[pair[0]][pair[1]] += 1;
                }
            }
            let expected = rounds / count;
            assert!(places.iter().flatten().all(|&times| times == expected), "{count}: {places:?}");
            for (one, row) in follows.iter().enumerate() {
                for (other, &times) in row.iter().enumerate() {
                    assert_eq!(times, if one == other { 0 } else { expected }, "{count}: {one} before {other}");
                }
            }
        }
        assert!(order(3, 0).is_empty());
    }

    #[test]
    fn a_slow_machine_gets_fewer_rounds_and_says_so() {
        let check = |seconds: u64, rounds: usize, remark: Option<&str>| {
            let log = RefCell::default();
            let plan = Plan { runs: 6, ..PLAN };
            let mut clock = Instant::now();
            let mut now = || {
                clock += Duration::from_secs(seconds);
                clock
            };
            let series = alternate_by(vec![entry(&log, "ours", PLAN.bytes, None)], plan, &mut |_| {}, &mut now);
            assert_eq!(series[0].runs.as_ref().unwrap().len(), rounds, "{seconds} s");
            let row = row("r".into(), Unit::GigabytesPerSecond, &series, &[], Run::gigabytes_per_second);
            assert_eq!(row.remark.as_deref(), remark);
        };
        // The clock is read once at the start and once before each round past the least number.
        check(1000, ROUNDS_MIN, Some("3 of 6 rounds: 300s had passed"));
        check(150, 4, Some("4 of 6 rounds: 300s had passed"));
        check(99, 6, None);
    }

    #[test]
    fn one_failed_run_takes_the_whole_series() {
        let log = RefCell::default();
        let entries = vec![entry(&log, "ours", PLAN.bytes, None), entry(&log, "peer", PLAN.bytes, Some(1))];
        let series = alternate(entries, PLAN, &mut |_| {});
        assert!(series[0].runs.is_ok());
        assert_eq!(series[1].runs, Err("run 2: connection lost".to_owned()));
    }

    #[test]
    fn a_short_run_is_a_failed_run() {
        let log = RefCell::default();
        let series = alternate(vec![entry(&log, "ours", PLAN.bytes - 1, None)], PLAN, &mut |_| {});
        let reason = series[0].runs.clone().unwrap_err();
        assert!(reason.contains("999999999 of 1000000000"), "{reason}");
    }

    #[test]
    fn a_contender_that_could_not_be_set_up_has_its_reason() {
        let entries: Vec<Entry<'_>> = vec![("ours".into(), Err(anyhow::anyhow!("no program")))];
        let series = alternate(entries, PLAN, &mut |_| {});
        assert_eq!(series[0].runs, Err("no program".to_owned()));
    }

    #[test]
    fn a_failure_in_any_part_is_one_of_the_whole() {
        let of =
            |contender: &str, runs: Result<Vec<u8>, String>| Series { contender: contender.into(), runs, remark: None };
        let parts = vec![
            ("1 shard".to_owned(), vec![of("ours", Err("run 2: lost".into())), of("sshfs", Ok(vec![1]))]),
            ("2 shards".to_owned(), vec![of("ours", Ok(vec![3])), of("sshfs", Ok(vec![4]))]),
        ];
        let whole = folded(parts);
        assert_eq!(whole[0].runs, Err("1 shard: run 2: lost".into()));
        assert_eq!(whole[1].runs, Ok(vec![4]));
        assert!(folded::<u8>(Vec::new()).is_empty());
    }

    #[test]
    fn the_typical_run_is_the_one_nearest_the_median() {
        struct Number(f64);
        impl Outcome for Number {
            fn check(&self, _: Plan) -> anyhow::Result<()> {
                Ok(())
            }
        }
        let series = [
            Series { contender: "a".into(), runs: Ok([9.0, 2.0, 3.0, 1.0].map(Number).into()), remark: None },
            Series { contender: "b".into(), runs: Err("no".into()), remark: None },
        ];
        let found = typical(&series, |number| number.0, |number| json!(number.0));
        assert_eq!(found, json!({"a": 2.0}));
    }

    #[test]
    fn rows_are_speed_and_cpu_at_both_ends() {
        let log = RefCell::default();
        let series = alternate(vec![entry(&log, "ours", PLAN.bytes, None)], PLAN, &mut |_| {});
        let rows = rows("transport.mtu1500", ".goodput", &series, &[]);
        assert_eq!(rows.each_ref().map(|row| row.grain), [0.0, 0.02, 0.0]);
        let found = rows.map(|row| (row.to_json()["ours"].as_f64(), row.name));
        assert_eq!(
            found,
            [
                (Some(2.0), "transport.mtu1500.goodput".to_owned()),
                (Some(0.4), "transport.mtu1500.cpu_sender".to_owned()),
                (Some(0.3), "transport.mtu1500.cpu_receiver".to_owned()),
            ]
        );
    }
}
