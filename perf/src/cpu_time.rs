//! CPU time of other processes, to the nanosecond where the kernel says it so.
//!
//! What living threads used stands in `/proc/PID/task/TID/schedstat`, in nanoseconds. What threads and children that have
//! ended used is left in `/proc/PID/stat` alone (proc_pid_stat(5)), in clock ticks of 10 ms. So a [`Reading`] takes the
//! first as far as it goes and the second for the rest, and a [`CpuTime`] says whether ticks had a part in it.

use std::collections::HashMap;
use std::fs;
use std::iter::Sum;
use std::ops::Add;
use std::time::Duration;

use crate::memory;

/// Ticks by which a time that is made of ticks may be off: user and system time are each cut to whole ones.
const GRAIN_TICKS: u64 = 2;

/// CPU time that was used, and how finely it was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// User and system time.
    pub time: Duration,
    /// By how much it may be off; zero where all of it was counted in nanoseconds.
    pub grain: Duration,
}

impl CpuTime {
    /// A time that is right to the nanosecond.
    pub const fn exact(time: Duration) -> Self {
        Self { time, grain: Duration::ZERO }
    }

    /// The part of it that falls on `share` of the work.
    #[must_use]
    pub fn scaled(self, share: f64) -> Self {
        Self { time: self.time.mul_f64(share), grain: self.grain.mul_f64(share) }
    }
}

impl Add for CpuTime {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { time: self.time + other.time, grain: self.grain + other.grain }
    }
}

impl Sum for CpuTime {
    fn sum<I: Iterator<Item = Self>>(times: I) -> Self {
        times.fold(Self::default(), Add::add)
    }
}

/// The account of a process or of a tree of them at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// What threads that still live used.
    living: Duration,
    /// What the ticks say beyond that, for threads and children that have ended.
    ended: Duration,
}

impl Reading {
    fn of(living: Duration, stat: ProcessStat) -> Self {
        Self { living, ended: from_ticks(stat.own_ticks).saturating_sub(living) + from_ticks(stat.children_ticks) }
    }

    /// What was used since `earlier`.
    pub fn since(self, earlier: Self) -> CpuTime {
        let all = |reading: Self| reading.living + reading.ended;
        let is_exact = self.ended == earlier.ended;
        CpuTime {
            time: all(self).saturating_sub(all(earlier)),
            grain: if is_exact { Duration::ZERO } else { from_ticks(GRAIN_TICKS) },
        }
    }
}

impl Add for Reading {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { living: self.living + other.living, ended: self.ended + other.ended }
    }
}

/// One line of `/proc/PID/stat`, as far as CPU accounting needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessStat {
    /// The parent's process id.
    pub parent: u32,
    /// User and system time of all its threads, ended ones too, in clock ticks.
    pub own_ticks: u64,
    /// The same of the children it has reaped.
    pub children_ticks: u64,
}

impl ProcessStat {
    /// Parses the text of `/proc/PID/stat`; `None` if it does not have the documented form.
    pub fn parse(text: &str) -> Option<Self> {
        // The command name may hold spaces and parentheses, so the fields start after the last one.
        let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        // Field numbers of proc_pid_stat(5), which counts from 1; the slice starts at field 3, the state.
        const FIRST: usize = 3;
        let sum = |one: usize, other: usize| Some(number(one - FIRST)? + number(other - FIRST)?);
        Some(Self {
            parent: fields.get(4 - FIRST)?.parse().ok()?,
            own_ticks: sum(14, 15)?,
            children_ticks: sum(16, 17)?,
        })
    }
}

/// The account of a process, its reaped children included; zero if there is no such process.
///
/// A process that ended and was not yet reaped still answers.
pub fn of_process(id: u32) -> Reading {
    // The threads first: what they use until the ticks are read must not look like the time of ended ones.
    let living = memory::Activity::of(id).cpu;
    read(id).map_or_else(Reading::default, |stat| Reading::of(living, stat))
}

/// The account of a process and of every descendant alive now, reaped ones included.
///
/// The difference of two calls is what the whole tree used in between, also when a child ended meanwhile: its time
/// moves to the parent that reaped it. Cost: one walk over `/proc`.
pub fn of_tree(root: u32) -> Reading {
    let Ok(entries) = fs::read_dir("/proc") else {
        return of_process(root);
    };
    let processes: HashMap<u32, ProcessStat> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|id| Some((id, read(id)?)))
        .collect();
    family(&processes, root).into_iter().map(of_process).fold(Reading::default(), Add::add)
}

/// A process and its descendants.
fn family(processes: &HashMap<u32, ProcessStat>, root: u32) -> Vec<u32> {
    processes.keys().copied().filter(|&id| descends(processes, id, root)).collect()
}

fn descends(processes: &HashMap<u32, ProcessStat>, mut id: u32, root: u32) -> bool {
    // A walk cannot be longer than the table, even if ids were reused between two reads and form a ring.
    for _ in 0..=processes.len() {
        if id == root {
            return true;
        }
        match processes.get(&id) {
            Some(stat) => id = stat.parent,
            None => return false,
        }
    }
    false
}

fn read(id: u32) -> Option<ProcessStat> {
    ProcessStat::parse(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
}

fn from_ticks(ticks: u64) -> Duration {
    let per_second = rustix::param::clock_ticks_per_second();
    Duration::from_nanos(ticks.saturating_mul(1_000_000_000 / per_second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_is_skipped() {
        let line = "4242 (a) b (c)) S 17 4242 4242 0 -1 4194304 100 0 0 0 31 12 5 2 20 0 1 0 99 1000 10";
        let expected = ProcessStat { parent: 17, own_ticks: 31 + 12, children_ticks: 5 + 2 };
        assert_eq!(ProcessStat::parse(line), Some(expected));
    }

    #[test]
    fn a_short_line_is_refused() {
        assert_eq!(ProcessStat::parse("1 (init) S 0 1"), None);
        assert_eq!(ProcessStat::parse("no parenthesis"), None);
    }

    const fn stat(parent: u32, own_ticks: u64, children_ticks: u64) -> ProcessStat {
        ProcessStat { parent, own_ticks, children_ticks }
    }

    #[test]
    fn a_tree_is_its_descendants_and_nobody_else() {
        let processes = HashMap::from([
            (1, stat(0, 0, 0)),
            (10, stat(1, 0, 0)),
            (11, stat(10, 0, 0)),
            (12, stat(11, 0, 0)),
            (20, stat(1, 0, 0)),
        ]);
        let mut found = family(&processes, 10);
        found.sort_unstable();
        assert_eq!(found, [10, 11, 12]);
        assert!(family(&processes, 99).is_empty());
    }

    #[test]
    fn a_ring_of_parents_ends() {
        let processes = HashMap::from([(5, stat(6, 1, 0)), (6, stat(5, 1, 0))]);
        assert!(family(&processes, 7).is_empty());
    }

    #[test]
    fn living_threads_count_in_nanoseconds_and_only_ended_ones_in_ticks() {
        let milliseconds = Duration::from_millis;
        let (tick, nanosecond) = (from_ticks(1), Duration::from_nanos(1));
        // Less than a tick, which ticks alone do not see.
        let before = Reading::of(tick * 3 + nanosecond, stat(1, 2, 0));
        let after = Reading::of(tick * 3 + nanosecond * 5, stat(1, 3, 0));
        assert_eq!(after.since(before), CpuTime::exact(nanosecond * 4));
        // A child came and went: its time is known in ticks.
        let reaped = Reading::of(tick * 3 + nanosecond * 5, stat(1, 3, 4));
        assert_eq!(reaped.since(before), CpuTime { time: tick * 4 + nanosecond * 4, grain: tick * 2 });
        // A thread ended and took its account along; the process's own ticks still have it.
        let ended = Reading::of(tick, stat(1, 5, 0));
        let found = ended.since(before);
        assert!(found.time < tick * 2 && found.time >= tick && !found.grain.is_zero(), "{found:?}");
        // What was there before is no reason to doubt the difference.
        assert_eq!(
            Reading::of(milliseconds(7), stat(1, 0, 9)).since(Reading::of(milliseconds(6), stat(1, 0, 9))),
            CpuTime::exact(milliseconds(1))
        );
    }

    #[test]
    fn a_program_that_used_less_than_a_tick_is_seen() {
        use std::io::{BufRead as _, BufReader, Write as _};
        use std::process::{Command, Stdio};
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // Once it answers it has been on a CPU.
        child.stdin.as_mut().unwrap().write_all(b"line\n").unwrap();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
        for reading in [of_process(child.id()), of_tree(child.id())] {
            let used = reading.since(Reading::default());
            assert!(!used.time.is_zero() && used.grain.is_zero(), "{used:?}");
        }
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(of_process(u32::MAX), Reading::default());
    }
}
