//! What a process holds and how often it wakes, from `/proc/PID/status` and `/proc/PID/task` (proc_pid_status(5)).

use std::fs;
use std::time::Duration;

/// Anonymous memory of a process: its heap and stacks, without files it maps and without the kernel's page cache.
///
/// `None` if there is no such process.
pub fn own_mebibytes(process: u32) -> Option<f64> {
    anonymous_mebibytes(&fs::read_to_string(format!("/proc/{process}/status")).ok()?)
}

// A count of KiB below 2^53.
#[expect(clippy::cast_precision_loss, reason = "see above")]
fn anonymous_mebibytes(status: &str) -> Option<f64> {
    Some(field(status, "RssAnon:")? as f64 / 1024.0)
}

fn field(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// What all threads of a process did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Time on a CPU, to the nanosecond where the kernel counts so.
    pub cpu: Duration,
    /// How often a thread gave up the CPU by itself, to wait.
    pub waits: u64,
}

impl Activity {
    /// Of the process now; zero for one that is not there. A thread that ends takes its share with it.
    pub fn of(process: u32) -> Self {
        let Ok(tasks) = fs::read_dir(format!("/proc/{process}/task")) else {
            return Self::default();
        };
        let of_thread = |path: &std::path::Path| {
            let read = |name: &str| fs::read_to_string(path.join(name)).unwrap_or_default();
            Self {
                cpu: on_cpu(&read("schedstat")).unwrap_or_default(),
                waits: field(&read("status"), "voluntary_ctxt_switches:").unwrap_or(0),
            }
        };
        tasks
            .flatten()
            .map(|task| of_thread(&task.path()))
            .fold(Self::default(), |sum, thread| Self { cpu: sum.cpu + thread.cpu, waits: sum.waits + thread.waits })
    }

    /// What was done since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self { cpu: self.cpu.saturating_sub(earlier.cpu), waits: self.waits.saturating_sub(earlier.waits) }
    }
}

/// The first number of `schedstat`: nanoseconds on a CPU (sched-stats in the kernel's documentation).
fn on_cpu(schedstat: &str) -> Option<Duration> {
    schedstat.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often a program is asked: a count that no stray wait of its start could make up.
    const WAITS: u64 = 50;
    /// How long a program may take to wait again; only a broken counter takes so long.
    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let status = "Name:\tx\nRssAnon:\t    2048 kB\nRssFile:\t 9 kB\n\
                      voluntary_ctxt_switches:\t150\nnonvoluntary_ctxt_switches:\t545\n";
        assert_eq!(anonymous_mebibytes(status), Some(2.0));
        assert_eq!(field(status, "voluntary_ctxt_switches:"), Some(150));
        assert_eq!(field(status, "VmSwap:"), None);
        assert_eq!(on_cpu("1500 20 3\n"), Some(Duration::from_nanos(1500)));
        assert_eq!(on_cpu(""), None);
    }

    #[test]
    fn our_own_memory_is_seen() {
        let own = std::process::id();
        assert!(own_mebibytes(own) > Some(0.0));
        assert_eq!(Activity::of(u32::MAX), Activity::default());
    }

    /// An echo on a loaded machine may answer without ever having slept, so each question is put to one that waits.
    #[test]
    fn a_program_that_is_asked_again_and_again_waits_each_time() {
        use std::io::{BufRead as _, BufReader, Write as _};
        use std::process::{Command, Stdio};
        use std::time::Instant;
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut ask, mut answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let until_it_waits = |seen: Activity| {
            let start = Instant::now();
            loop {
                let now = Activity::of(child.id());
                if now.waits > seen.waits {
                    return now;
                }
                assert!(start.elapsed() < PATIENCE, "{seen:?} and then {now:?}");
                std::thread::yield_now();
            }
        };
        let first = until_it_waits(Activity::default());
        let mut last = first;
        for _ in 0..WAITS {
            ask.write_all(b"line\n").unwrap();
            answers.read_line(&mut String::new()).unwrap();
            last = until_it_waits(last);
        }
        let activity = last.since(first);
        assert!(activity.waits >= WAITS && !activity.cpu.is_zero(), "{activity:?}");
        drop(ask);
        child.wait().unwrap();
    }
}
