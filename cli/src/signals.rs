//! SIGINT, SIGTERM and SIGHUP: the first asks for an orderly end, a SIGINT after it ends the run at once.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::exit::{Exit, Failure};

type Action = Box<dyn FnOnce() + Send>;

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
                let mut is_ending = false;
                for signal in signals.forever() {
                    // Bound first: holding the lock while acting would deadlock with `arm`.
                    let action = armed.lock().unwrap_or_else(PoisonError::into_inner).take();
                    match action {
                        Some(action) if !is_ending => {
                            is_ending = true;
                            action();
                        }
                        _ if is_ending && signal != SIGINT => {}
                        _ => exit_interrupted(),
                    }
                }
            })
            .map_err(failed)?;
        Ok(interrupts)
    }

    /// Makes the first signal from now on call `action` instead.
    pub fn arm(&self, action: impl FnOnce() + Send + 'static) {
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(action));
    }

    /// Makes the first signal end the run again.
    pub fn disarm(&self) {
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner) = None;
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

    #[test]
    fn the_mask_counts_from_signal_one() {
        assert_eq!(ignored_mask("Name:\tx\nSigIgn:\t0000000000001001\n"), 0x1001);
        assert_eq!(ignored_mask("Name:\tx\n"), 0);
        assert_eq!(SIGHUP, 1);
    }
}
