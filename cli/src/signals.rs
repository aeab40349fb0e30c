//! SIGINT, SIGTERM and SIGHUP: each asks for an orderly end, a SIGINT after another ends the run at once.
//!
//! Each, since an orderly end can fail, as that of a mount that another one lies over, and be possible later.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::exit::{Exit, Failure};

type Action = Box<dyn FnMut() + Send>;

/// What a signal does, for the rest of the run.
///
/// Until armed, the first signal ends the run with 130: nothing has begun that would need tidying, or a
/// mount guard tidies it.
#[derive(Clone)]
pub struct Interrupts {
    armed: Arc<Mutex<Option<Action>>>,
}

impl fmt::Debug for Interrupts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interrupts").finish_non_exhaustive()
    }
}

impl Interrupts {
    /// Takes the signals over; costs one thread that sleeps. Call once.
    ///
    /// SIGHUP stays ignored where it was, as `nohup` wants.
    ///
    /// # Errors
    /// When the handlers or the thread cannot be made.
    pub fn install() -> Result<Self, Failure> {
        let failed = |error| Failure::io("cannot handle signals", &error);
        let mut taken = vec![SIGINT, SIGTERM];
        if !is_ignored(SIGHUP) {
            taken.push(SIGHUP);
        }
        let mut signals = Signals::new(taken).map_err(failed)?;
        let interrupts = Self { armed: Arc::default() };
        let armed = Arc::clone(&interrupts.armed);
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                let mut ending = Ending::default();
                for signal in signals.forever() {
                    if !ending.on_signal(signal, &armed) {
                        exit_interrupted();
                    }
                }
            })
            .map_err(failed)?;
        Ok(interrupts)
    }

    /// Makes signals from now on call `action` instead, which must be harmless when it has done its work.
    pub fn arm(&self, action: impl FnMut() + Send + 'static) {
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(action));
    }

    /// Makes a signal end the run again.
    pub fn disarm(&self) {
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// How far the run is on its way to the end.
#[derive(Default)]
struct Ending {
    is_begun: bool,
}

impl Ending {
    /// Acts on a signal; false when the run is to end at once.
    fn on_signal(&mut self, signal: i32, armed: &Mutex<Option<Action>>) -> bool {
        if self.is_begun && signal == SIGINT {
            return false;
        }
        // Taken out: holding the lock while acting would deadlock with `arm`.
        let action = armed.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut action) = action else { return self.is_begun };
        self.is_begun = true;
        action();
        // Back for the next signal, unless another was armed meanwhile.
        armed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(action);
        true
    }
}

/// Ends the process with 130 and without running anything else.
pub fn exit_interrupted() -> ! {
    signal_hook::low_level::exit(i32::from(Exit::Interrupted.code()))
}

/// Whether this process was started with `signal` ignored: `SigIgn` of proc_pid_status(5).
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignored_mask(&status) & (1 << (signal - 1)) != 0
}

fn ignored_mask(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// An orderly end that counts how often it was asked for.
    fn counted() -> (Mutex<Option<Action>>, Arc<AtomicUsize>) {
        let count = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&count);
        let action: Action = Box::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        (Mutex::new(Some(action)), count)
    }

    #[test]
    fn an_orderly_end_that_failed_can_be_asked_for_again() {
        let (armed, count) = counted();
        let mut ending = Ending::default();
        for asked in 1..=3 {
            assert!(ending.on_signal(SIGTERM, &armed));
            assert_eq!(count.load(Ordering::Relaxed), asked);
        }
        assert!(!ending.on_signal(SIGINT, &armed), "whoever presses ^C then wants out");
        assert_eq!(count.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn unarmed_the_first_signal_ends_the_run() {
        assert!(!Ending::default().on_signal(SIGTERM, &Mutex::new(None)));
        let (armed, _) = counted();
        assert!(Ending::default().on_signal(SIGINT, &armed), "the first ^C is an orderly end");
    }

    #[test]
    fn the_mask_counts_from_signal_one() {
        assert_eq!(ignored_mask("Name:\tx\nSigIgn:\t0000000000001001\n"), 0x1001);
        assert_eq!(ignored_mask("Name:\tx\n"), 0);
        assert_eq!(SIGHUP, 1);
    }
}
