//! What a process may do to its own scheduling and limits: CPU affinity, open descriptors.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::io;

/// Pins the calling thread to one CPU, so that its ring, socket and caches stay there.
///
/// # Errors
/// `EINVAL` if the CPU does not exist or the process is not allowed on it
/// (sched_setaffinity(2), cgroup cpusets); the caller may go on unpinned.
pub fn pin_thread(cpu: usize) -> io::Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// Lists the CPUs the calling thread may run on, ascending.
///
/// # Errors
/// What sched_getaffinity(2) says; in practice none.
pub fn allowed_cpus() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect())
}

/// Raises the soft limit of open descriptors to the hard one; returns what holds now.
///
/// # Errors
/// What setrlimit(2) says; a limit that is already at its top is no error.
pub fn raise_descriptor_limit() -> io::Result<Option<u64>> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let raised = Rlimit { current: maximum, maximum };
        setrlimit(Resource::Nofile, raised)?;
    }
    Ok(maximum)
}

/// The soft limit of open descriptors that holds now; `None` is no limit.
pub fn descriptor_limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_may_run_there_only() {
        let pinned = std::thread::spawn(|| {
            let cpu = *allowed_cpus()?.last().expect("this thread runs somewhere");
            pin_thread(cpu)?;
            Ok::<_, io::Error>((cpu, allowed_cpus()?))
        });
        let (cpu, allowed) = pinned.join().expect("no panic").expect("pinning");
        assert_eq!(allowed, [cpu]);
        assert!(pin_thread(usize::MAX).is_err());
    }

    #[test]
    fn the_soft_limit_meets_the_hard_one() {
        let raised = raise_descriptor_limit().expect("raising to the hard limit");
        assert_eq!(descriptor_limit(), raised);
    }
}
