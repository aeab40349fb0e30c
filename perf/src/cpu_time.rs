//! CPU time of other processes, read from `/proc/PID/stat` (proc_pid_stat(5)).
//!
//! The kernel counts there in clock ticks of 10 ms, exited threads included. Over a transfer that costs one second of
//! CPU this is a grain of 1 %.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

/// One line of `/proc/PID/stat`, as far as CPU accounting needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessStat {
    /// The parent's process id.
    pub parent: u32,
    /// User and system time of the process and of the children it has reaped, in clock ticks.
    pub ticks: u64,
}

impl ProcessStat {
    /// Parses the text of `/proc/PID/stat`; `None` if it does not have the documented form.
    pub fn parse(text: &str) -> Option<Self> {
        // The command name may hold spaces and parentheses, so the fields start after the last one.
        let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        // Field numbers of proc_pid_stat(5), which counts from 1; the slice starts at field 3, the state.
        const FIRST: usize = 3;
        let ticks = [14, 15, 16, 17].into_iter().map(|field| number(field - FIRST)).sum::<Option<u64>>()?;
        Some(Self { parent: fields.get(4 - FIRST)?.parse().ok()?, ticks })
    }
}

/// The CPU time a process has used so far, its reaped children included; zero if there is no such process.
///
/// A process that ended and was not yet reaped still answers.
pub fn of_process(id: u32) -> Duration {
    read(id).map_or(Duration::ZERO, |stat| from_ticks(stat.ticks))
}

/// The CPU time of a process and of every descendant alive now, reaped ones included.
///
/// The difference of two calls is what the whole tree used in between, also when a child ended meanwhile: its time
/// moves to the parent that reaped it. Cost: one walk over `/proc`.
pub fn of_tree(root: u32) -> Duration {
    let Ok(entries) = fs::read_dir("/proc") else {
        return of_process(root);
    };
    let processes: HashMap<u32, ProcessStat> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|id| Some((id, read(id)?)))
        .collect();
    from_ticks(tree_ticks(&processes, root))
}

fn tree_ticks(processes: &HashMap<u32, ProcessStat>, root: u32) -> u64 {
    processes.iter().filter(|&(&id, _)| descends(processes, id, root)).map(|(_, stat)| stat.ticks).sum()
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
        assert_eq!(ProcessStat::parse(line), Some(ProcessStat { parent: 17, ticks: 31 + 12 + 5 + 2 }));
    }

    #[test]
    fn a_short_line_is_refused() {
        assert_eq!(ProcessStat::parse("1 (init) S 0 1"), None);
        assert_eq!(ProcessStat::parse("no parenthesis"), None);
    }

    #[test]
    fn a_tree_counts_descendants_and_nobody_else() {
        let stat = |parent, ticks| ProcessStat { parent, ticks };
        let processes = HashMap::from([
            (1, stat(0, 1000)),
            (10, stat(1, 1)),
            (11, stat(10, 2)),
            (12, stat(11, 4)),
            (20, stat(1, 500)),
        ]);
        assert_eq!(tree_ticks(&processes, 10), 7);
        assert_eq!(tree_ticks(&processes, 99), 0);
    }

    #[test]
    fn a_ring_of_parents_ends() {
        let stat = |parent| ProcessStat { parent, ticks: 1 };
        let processes = HashMap::from([(5, stat(6)), (6, stat(5))]);
        assert_eq!(tree_ticks(&processes, 7), 0);
    }

    #[test]
    fn our_own_time_grows_with_work() {
        let own = std::process::id();
        let before = of_process(own);
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while of_process(own) < before + Duration::from_millis(20) {
            assert!(std::time::Instant::now() < deadline, "20 s of work were not counted");
            std::hint::black_box(blake3::hash(&[0; 65_536]));
        }
        assert!(of_tree(own) >= of_process(own).saturating_sub(Duration::from_millis(10)));
    }
}
