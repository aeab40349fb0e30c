//! The steps of each verb: named, timed, in order, ending at the first that fails.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use crate::prerequisites;

/// The cargo that runs this program.
pub fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// The repository's root.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this package is a folder of the repository")
}

/// The steps done so far and the time each took.
pub struct Steps {
    started: Instant,
    done: Vec<(String, Duration)>,
}

impl Steps {
    /// No step done; the clock runs.
    pub fn new() -> Self {
        Self { started: Instant::now(), done: Vec::new() }
    }

    /// Everything the gate runs, cheapest first.
    ///
    /// # Errors
    /// The first step that failed.
    pub fn test(&mut self, install_deny: bool) -> anyhow::Result<()> {
        self.step("prerequisites", prerequisites::ensure_present)?;
        self.step("browser", prerequisites::ensure_browser)?;
        self.cargo("format", &["fmt", "--all", "--check"])?;
        self.cargo("clippy", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
        self.step("documentation", || {
            run(Command::new(cargo()).args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
        })?;
        self.deny(install_deny)?;
        // The end-to-end tests run the program users run.
        self.cargo("release build", &["build", "--release", "--package", "cli"])?;
        let program = target_directory().join("release/wormhole");
        // The figures of SPECIFICATION.md are those of the committed runs.
        self.cargo("figures", &["run", "--quiet", "--package", "perf", "--", "specification", "--check"])?;
        if prerequisites::has_cargo_command("nextest") {
            self.step("tests", || {
                // All of them, so that one report names everything that fails.
                run(Command::new(cargo())
                    .args(["nextest", "run", "--workspace", "--no-fail-fast"])
                    .env("WORMHOLE_PROGRAM", &program))
            })?;
            // nextest leaves the examples in the documentation out.
            self.cargo("documentation tests", &["test", "--workspace", "--doc"])
        } else {
            self.step("tests", || {
                run(Command::new(cargo())
                    .args(["test", "--workspace", "--no-fail-fast"])
                    .env("WORMHOLE_PROGRAM", &program))
            })
        }
    }

    /// The micro-benchmarks.
    ///
    /// # Errors
    /// If one does not build or run.
    pub fn bench(&mut self) -> anyhow::Result<()> {
        self.cargo("benchmarks", &["bench", "--package", "benches"])
    }

    /// Every fuzz target in turn.
    ///
    /// # Errors
    /// If cargo-fuzz is missing, or a target found something.
    pub fn fuzz(&mut self, seconds: u32) -> anyhow::Result<()> {
        ensure!(
            prerequisites::has_cargo_command("fuzz"),
            "fuzzing needs cargo-fuzz; run: cargo install --locked cargo-fuzz"
        );
        let output = Command::new(cargo())
            .args(["fuzz", "list"])
            .current_dir(root())
            .stderr(Stdio::inherit())
            .output()
            .context("cannot run cargo fuzz list")?;
        ensure!(output.status.success(), "cargo fuzz list: {}", output.status);
        let time = format!("-max_total_time={seconds}");
        for target in String::from_utf8(output.stdout)?.lines() {
            self.cargo(&format!("fuzz {target}"), &["fuzz", "run", target, "--", &time])?;
        }
        Ok(())
    }

    /// cargo-deny takes minutes to build, so it runs where it is installed and is installed only when asked for.
    fn deny(&mut self, install: bool) -> anyhow::Result<()> {
        if !prerequisites::has_cargo_command("deny") {
            if !install {
                println!("-- deny: not installed, left out (cargo xtask test --deny installs it)");
                return Ok(());
            }
            self.cargo("install cargo-deny", &["install", "--locked", "cargo-deny"])?;
        }
        self.cargo("deny", &["deny", "check"])
    }

    fn cargo(&mut self, name: &str, arguments: &[&str]) -> anyhow::Result<()> {
        self.step(name, || run(Command::new(cargo()).args(arguments)))
    }

    fn step(&mut self, name: &str, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
        println!("== {name}");
        let started = Instant::now();
        let result = work().with_context(|| name.to_owned());
        let took = started.elapsed();
        let mark = if result.is_ok() { "ok" } else { "FAILED" };
        println!("-- {name}: {mark}, {:.1} s", took.as_secs_f64());
        self.done.push((name.to_owned(), took));
        result
    }

    /// The closing line.
    pub fn summary(&self, failure: Option<&anyhow::Error>) -> String {
        let total = self.started.elapsed().as_secs_f64();
        match failure {
            None => {
                let steps: Vec<String> =
                    self.done.iter().map(|(name, took)| format!("{name} {:.0} s", took.as_secs_f64())).collect();
                format!("xtask: passed in {total:.0} s ({})", steps.join(", "))
            }
            Some(error) => format!("xtask: FAILED after {total:.0} s: {error:#}"),
        }
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command
        .current_dir(root())
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot run {:?}", command.get_program()))?;
    if !status.success() {
        bail!("{status}");
    }
    Ok(())
}

fn target_directory() -> PathBuf {
    // Relative to where cargo was called, which is not always the root.
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || root().join("target"),
        |directory| std::path::absolute(&directory).unwrap_or_else(|_| directory.into()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_ends_the_steps_and_is_in_the_summary() {
        let mut steps = Steps::new();
        steps.step("one", || Ok(())).unwrap();
        let error = steps.step("two", || bail!("broken")).unwrap_err();
        let summary = steps.summary(Some(&error));
        assert!(summary.contains("FAILED") && summary.contains("two: broken"), "{summary}");
    }

    #[test]
    fn a_pass_lists_its_steps() {
        let mut steps = Steps::new();
        steps.step("one", || Ok(())).unwrap();
        steps.step("two", || Ok(())).unwrap();
        let summary = steps.summary(None);
        assert!(summary.starts_with("xtask: passed"), "{summary}");
        assert!(summary.contains("one 0 s, two 0 s"), "{summary}");
    }

    #[test]
    fn a_program_that_fails_fails_its_step() {
        assert!(run(&mut Command::new("true")).is_ok());
        assert!(run(&mut Command::new("false")).is_err());
        assert!(run(&mut Command::new("no-such-program-anywhere")).is_err());
    }

    #[test]
    fn the_root_holds_the_gate() {
        assert!(root().join("xtask").is_dir());
        assert!(root().join(".ci/run").is_file());
    }
}
