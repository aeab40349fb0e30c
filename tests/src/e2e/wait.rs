//! The one way to wait: look until it is so, or fail at a deadline.

use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

/// How long anything that ought to happen soon may take on a loaded machine.
pub const SOON: Duration = Duration::from_secs(60);

/// Pause between two looks: small against what is waited for, large against the cost of looking.
const LOOK_INTERVAL: Duration = Duration::from_millis(3);

/// Looks until there is an answer, and returns it.
///
/// # Panics
/// With `what`, when `limit` passes.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        pass(LOOK_INTERVAL);
    }
}

/// Lets a measured interval pass, for a figure that is per time, or a random moment that something is to happen at.
pub fn pass(span: Duration) {
    let (never, woken) = (Mutex::new(()), Condvar::new());
    let guard = never.lock().expect("a lock of our own");
    let _outcome = woken.wait_timeout_while(guard, span, |()| true).expect("a lock of our own");
}
