//! `wormhole doctor`: what this machine can do, and what to type where it cannot.

use std::path::Path;

use engine::doctor::{self, Finding, Status, Surroundings};

use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::settings::Settings;

/// Runs `doctor`; exit 1 where something will not work.
///
/// # Errors
/// When the findings cannot be printed.
pub fn run(output: &Output, settings: &Settings) -> Result<Exit, Failure> {
    let port = settings.number("port").and_then(|port| u16::try_from(port).ok());
    let findings = with_this_machine(port.unwrap_or(signal::DEFAULT_PORT), |machine| doctor::examine(&machine));
    for finding in &findings {
        output.event("Finding", finding)?;
        output.line(&lines(finding))?;
    }
    if findings.iter().any(|finding| finding.status == Status::Fail) {
        return Ok(Exit::Failed);
    }
    Ok(Exit::Ok)
}

/// Says what is missing for this user to mount, and how to install it.
///
/// # Errors
/// One sentence that names everything missing.
pub fn require_fuse() -> Result<(), Failure> {
    let findings = with_this_machine(signal::DEFAULT_PORT, |machine| doctor::fuse::requirements(&machine));
    let missing: Vec<String> = findings
        .into_iter()
        .filter(|finding| finding.status == Status::Fail)
        .map(|finding| {
            let remedy = finding.remedy.unwrap_or_default();
            format!("{}; to fix it: {remedy}", finding.detail)
        })
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(Failure::failed(missing.join(". "))) }
}

fn with_this_machine<T>(port: u16, look: impl FnOnce(Surroundings<'_>) -> T) -> T {
    let program_dirs = doctor::program_dirs();
    look(Surroundings {
        root: Path::new("/"),
        uid: rustix::process::geteuid().as_raw(),
        port,
        program_dirs: &program_dirs,
        probe_uring: &doctor::probe_uring,
    })
}

fn lines(finding: &Finding) -> String {
    let mut text = format!("{:<4}  {}: {}", finding.status, finding.name, finding.detail);
    if let Some(remedy) = &finding.remedy {
        text.push_str("\n      fix: ");
        text.push_str(remedy);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_stands_below_its_finding() {
        let finding = Finding {
            name: "FUSE device",
            status: Status::Fail,
            detail: "missing".into(),
            remedy: Some("install it".into()),
        };
        assert_eq!(lines(&finding), "fail  FUSE device: missing\n      fix: install it");
    }
}
