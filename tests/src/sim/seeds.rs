//! Running a scenario over many seeds, and saying which one failed.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Runs `scenario` with the seeds `0..count`, or as the environment says (see the crate's front page).
///
/// `name` is the test's own, for the line that replays a failure.
///
/// # Panics
/// When a seed fails, after printing how to replay it; when an environment variable is not a number.
pub fn seeds(name: &str, count: u64, scenario: impl Fn(u64)) {
    if let Some(seed) = number("SIM_SEED") {
        return scenario(seed);
    }
    for seed in 0..count.max(number("SIM_SEEDS").unwrap_or(0)) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| scenario(seed))) {
            eprintln!("{name} failed with seed {seed}; again: SIM_SEED={seed} cargo test -p tests --test sim {name}");
            resume_unwind(panic);
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a decimal number, not {text:?}")))
}
