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
    fn our_own_memory_and_activity_are_seen() {
        let own = std::process::id();
        assert!(own_mebibytes(own) > Some(0.0));
        let before = Activity::of(own);
        // A wait by itself: this thread asks another and sleeps until it answers.
        std::thread::scope(|scope| {
            let (ask, asked) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || asked.recv());
            std::hint::black_box(blake3::hash(&vec![0; 1 << 22]));
            drop(ask);
        });
        assert!(Activity::of(own).cpu > before.cpu);
        assert_eq!(Activity::of(u32::MAX), Activity::default());
    }
}
