//! Which thread serves which queue. The kernel has one queue for each CPU that there might be, and wants them all.

use std::io;
use std::ops::RangeInclusive;

use rustix::thread::CpuSet;

/// Requests of one CPU that may be with us at a time; more wait in the kernel.
///
/// A reader with 4 MiB of readahead has 8 requests of 1 MiB under way; as many again let others in beside it. Each
/// costs 1 MiB of address space, and of memory as far as answers have reached: the kernel takes the entry used last.
pub(crate) const QUEUE_ENTRIES: usize = 16;

/// The same for a CPU that this process cannot run on now, such as one that was never plugged in.
const QUEUE_ENTRIES_AWAY: usize = 2;

/// Bounds the threads of one mount; CPUs beyond share them.
pub(crate) const THREADS_MAX: usize = 64;

/// The queues of one thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Share {
    /// The queue of each entry.
    pub(super) queues: Vec<u16>,
    /// Where the thread runs.
    pub(super) cpus: Vec<usize>,
}

/// Deals the queues of `possible` CPUs among threads on the `usable` ones; the first thread has the rest.
pub(super) fn deal(possible: usize, usable: &[usize]) -> Vec<Share> {
    let threads = usable.len().clamp(1, THREADS_MAX);
    let mut shares = vec![Share { queues: Vec::new(), cpus: Vec::new() }; threads];
    let mut dealt = 0;
    for cpu in 0..possible {
        let (share, entries) = if usable.contains(&cpu) {
            let share = &mut shares[dealt % threads];
            dealt += 1;
            share.cpus.push(cpu);
            (share, QUEUE_ENTRIES)
        } else {
            (&mut shares[0], QUEUE_ENTRIES_AWAY)
        };
        let queue = u16::try_from(cpu).expect("a CpuSet holds 1024");
        share.queues.extend(std::iter::repeat_n(queue, entries));
    }
    shares.retain(|share| !share.queues.is_empty());
    shares
}

/// The number of CPUs that the kernel has queues for.
pub(super) fn possible() -> io::Result<usize> {
    let list = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let range = parse_range(list.trim()).filter(|range| *range.start() == 0 && *range.end() < CpuSet::MAX_CPU);
    let range = range.ok_or_else(|| io::Error::other(format!("CPUs {} are not numbered from 0 on", list.trim())))?;
    Ok(range.end() + 1)
}

/// One range of a CPU list, cpuset(7).
fn parse_range(list: &str) -> Option<RangeInclusive<usize>> {
    let (first, last) = list.split_once('-').unwrap_or((list, list));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

/// The CPUs that this process may run on.
pub(super) fn usable() -> io::Result<Vec<usize>> {
    let set = rustix::thread::sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect())
}

/// Keeps the calling thread on these CPUs, so that a request is served where its caller waits.
pub(super) fn stay_on(cpus: &[usize]) {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|&cpu| set.set(cpu));
    if set.count() > 0
        && let Err(error) = rustix::thread::sched_setaffinity(None, &set)
    {
        tracing::debug!(%error, "a ring's thread runs anywhere");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_queue_has_entries_in_one_thread() {
        let many: Vec<usize> = (0..200).collect();
        for (possible, usable) in [(1, &[0][..]), (2, &[0, 1]), (8, &[2, 5]), (4, &[]), (200, &many)] {
            let shares = deal(possible, usable);
            assert_eq!(shares.len(), usable.len().clamp(1, THREADS_MAX));
            for queue in 0..possible {
                let owners: Vec<_> = shares.iter().filter(|s| s.queues.contains(&(queue as u16))).collect();
                assert_eq!(owners.len(), 1, "queue {queue} of {possible}");
                let entries = owners[0].queues.iter().filter(|&&q| usize::from(q) == queue).count();
                let expected = if usable.contains(&queue) { QUEUE_ENTRIES } else { QUEUE_ENTRIES_AWAY };
                assert_eq!(entries, expected);
                assert_eq!(owners[0].cpus.contains(&queue), usable.contains(&queue));
            }
        }
    }

    #[test]
    fn cpu_lists_of_one_range() {
        assert_eq!(parse_range("0-127"), Some(0..=127));
        assert_eq!(parse_range("0"), Some(0..=0));
        assert_eq!(parse_range("0-1,4-5"), None);
        assert!(possible().unwrap() >= usable().unwrap().len());
    }
}
