//! `perf`: measures Wormhole beside its rivals. Everything it does is in the library; this picks what.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use perf::arguments::{self, Action, Mode, Suites};
use perf::compare::Comparison;
use perf::fixture::{self, Fixture};
use perf::recorded::Recorded;
use perf::report::Report;
use perf::{html, machine, ours, peers, quinn_peer, specification, suite, wormhole};

fn main() -> ExitCode {
    let action = match arguments::parse(std::env::args_os()) {
        Ok(action) => action,
        Err(error) => error.exit(),
    };
    match perform(action) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("perf: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(action: Action) -> anyhow::Result<ExitCode> {
    match action {
        Action::Measure { suites, plan, json, html } => {
            let report = measure(suites, plan)?;
            print!("{}", report.to_table());
            if let Some(path) = json {
                let text = serde_json::to_string_pretty(&report.to_json())?;
                std::fs::write(&path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
            }
            if let Some(path) = html {
                write_page(&Recorded::from_json(report.to_json())?, &path)?;
            }
            if !report.is_complete() {
                return Ok(ExitCode::FAILURE);
            }
        }
        Action::Html { report, page } => write_page(&Recorded::read(&report)?, &page)?,
        Action::Compare { old, new, json, fail_on_regression } => {
            let comparison = Comparison::of(&Recorded::read(&old)?, &Recorded::read(&new)?);
            if json {
                println!("{}", serde_json::to_string_pretty(&comparison.to_json())?);
            } else {
                print!("{}", comparison.to_table());
            }
            if fail_on_regression && comparison.has_regression() {
                return Ok(ExitCode::FAILURE);
            }
        }
        Action::Specification { reports, purpose } => {
            let reports = if reports.is_empty() { specification::committed_reports()? } else { reports };
            specification::perform(&reports, purpose)?;
        }
        Action::Peers { install } => {
            if install {
                peers::install()?;
            }
            print!("{}", peers::list());
        }
        Action::QuinnServer { listen, identity, settings } => quinn_peer::serve(listen, &identity, settings)?,
        Action::QuinnClient { mode, server, certificate, settings, bytes } => match mode {
            Mode::Read => {
                let sample = quinn_peer::fetch(server, &certificate, settings, bytes)?;
                println!("{}", sample.to_line());
            }
            Mode::Verify => quinn_peer::verify(server, &certificate, settings, bytes)?,
        },
        Action::Client { mode, host, path, bytes } => {
            let code = std::env::var(wormhole::CODE_VARIABLE)
                .with_context(|| format!("{} is not set", wormhole::CODE_VARIABLE))?;
            match mode {
                Mode::Read => {
                    let sample = ours::read_discard(host, &code, &path, bytes)?;
                    println!("{}", sample.to_line());
                }
                Mode::Verify => println!("{}", ours::read_hash(host, &code, &path, bytes)?),
            }
        }
        Action::Hash { file } => println!("{}", fixture::hash_file(&file)?.1),
    }
    Ok(ExitCode::SUCCESS)
}

fn write_page(recorded: &Recorded, path: &Path) -> anyhow::Result<()> {
    std::fs::write(path, html::render(recorded)).with_context(|| format!("cannot write {}", path.display()))
}

fn measure(suites: Suites, plan: suite::Plan) -> anyhow::Result<Report> {
    perf::lab::Lab::available()?;
    perf::end_cleanly_on_signals()?;
    // Described first: afterwards its load would be our own.
    let machine = machine::describe();
    let fixture = Fixture::create(plan.bytes)?;
    let note = &mut |text: &str| eprintln!("{text}");
    let mut rows = Vec::new();
    if matches!(suites, Suites::Transport | Suites::All) {
        rows.extend(suite::transport::run(plan, &fixture, note)?);
    }
    if matches!(suites, Suites::Mount | Suites::All) {
        rows.extend(suite::mount::run(plan, &fixture, note)?);
    }
    Ok(Report { machine, rows })
}
