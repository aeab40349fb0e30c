//! The verbs and their flags.

use anyhow::{Context as _, bail, ensure};

/// What to print for `help` and for nonsense.
pub const USAGE: &str = "\
usage: cargo xtask VERB

  test [--deny]        install what the tests need (root, apt), then run every check there is;
                       cargo-deny runs if it is installed, and --deny installs it
  bench                run the micro-benchmarks
  fuzz [--seconds N]   run every fuzz target for N seconds (60)";

/// Seconds per fuzz target unless told; finds shallow bugs, leaves deep ones to a longer run.
const FUZZ_SECONDS: u32 = 60;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Print the usage.
    Help,
    /// Everything the gate runs.
    Test {
        /// Whether to install cargo-deny if it is missing.
        deny: bool,
    },
    /// The micro-benchmarks.
    Bench,
    /// The fuzz targets.
    Fuzz {
        /// For each target.
        seconds: u32,
    },
}

/// Reads the arguments, the program's name left out.
///
/// # Errors
/// If a verb or flag is unknown, or a value is missing.
pub fn parse(arguments: &[String]) -> anyhow::Result<Verb> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [] | ["help" | "--help" | "-h"] => Ok(Verb::Help),
        ["test"] => Ok(Verb::Test { deny: false }),
        ["test", "--deny"] => Ok(Verb::Test { deny: true }),
        ["bench"] => Ok(Verb::Bench),
        ["fuzz"] => Ok(Verb::Fuzz { seconds: FUZZ_SECONDS }),
        ["fuzz", "--seconds", number] => {
            let seconds = number.parse().with_context(|| format!("--seconds {number}"))?;
            ensure!(seconds > 0, "--seconds 0 would run for ever");
            Ok(Verb::Fuzz { seconds })
        }
        _ => bail!("unknown: {}", words.join(" ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: Option<Verb>) {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        assert_eq!(parse(&words).ok(), expected, "{line}");
    }

    #[test]
    fn verbs_and_flags() {
        check("", Some(Verb::Help));
        check("test", Some(Verb::Test { deny: false }));
        check("test --deny", Some(Verb::Test { deny: true }));
        check("test --fast", None);
        check("bench", Some(Verb::Bench));
        check("fuzz", Some(Verb::Fuzz { seconds: 60 }));
        check("fuzz --seconds 5", Some(Verb::Fuzz { seconds: 5 }));
        check("fuzz --seconds 0", None);
        check("fuzz --seconds", None);
        check("fuzz --seconds -1", None);
        check("deploy", None);
    }
}
