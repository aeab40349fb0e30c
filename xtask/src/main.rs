//! The one door to everything that is checked: `cargo xtask test`, `bench`, `fuzz`.
//!
//! Runs other programs in order and stops at the first that fails. Knows no test by name, keeps no state, and is all
//! that the gate (`.ci/run`) calls.
#![forbid(unsafe_code)]

mod arguments;
mod prerequisites;
mod steps;

use std::process::ExitCode;

use arguments::Verb;
use steps::Steps;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let verb = match arguments::parse(&arguments) {
        Ok(verb) => verb,
        Err(error) => {
            eprintln!("{error:#}\n\n{}", arguments::USAGE);
            return ExitCode::from(2);
        }
    };
    let mut steps = Steps::new();
    let result = match verb {
        Verb::Help => {
            println!("{}", arguments::USAGE);
            return ExitCode::SUCCESS;
        }
        Verb::Test { deny } => steps.test(deny),
        Verb::Bench => steps.bench(),
        Verb::Fuzz { seconds } => steps.fuzz(seconds),
    };
    println!("{}", steps.summary(result.as_ref().err()));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
