//! Deadlines on the kernel's monotonic clock.

use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};

/// One moment read on both clocks, so that an [`Instant`] can be given to the kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClockBase {
    instant: Instant,
    monotonic: Duration,
}

impl ClockBase {
    /// Reads both clocks, the `Instant` first.
    ///
    /// In that order the pair errs by the nanoseconds between the reads and only to the late
    /// side: a converted deadline never lies before the one that was meant.
    pub(crate) fn read() -> Self {
        let instant = Instant::now();
        Self { instant, monotonic: monotonic_now() }
    }

    /// Returns `deadline` as time since the zero of `CLOCK_MONOTONIC`.
    pub(crate) fn monotonic(&self, deadline: Instant) -> Duration {
        match deadline.checked_duration_since(self.instant) {
            Some(ahead) => self.monotonic.saturating_add(ahead),
            None => self.monotonic.saturating_sub(self.instant - deadline),
        }
    }
}

/// Reads `CLOCK_MONOTONIC`.
pub(crate) fn monotonic_now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    // The clock starts at boot and never goes back, so neither part is negative.
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversion_keeps_distances_and_is_never_early() {
        let before = monotonic_now();
        let base = ClockBase::read();
        let second = Duration::from_secs(1);
        let here = base.monotonic(base.instant);
        assert!(here >= before);
        assert_eq!(base.monotonic(base.instant + second) - here, second);
        let earlier = base.instant.checked_sub(Duration::from_millis(1));
        if let Some(earlier) = earlier {
            assert_eq!(here - base.monotonic(earlier), Duration::from_millis(1));
        }
    }
}
