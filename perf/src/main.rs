//! `perf`: measures Wormhole beside its rivals. Everything it does is in the library; this picks what.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use perf::arguments::{self, Action, Mode, Outputs, Suites};
use perf::compare::Comparison;
use perf::fixture::{self, Fixture};
use perf::recorded::Recorded;
use perf::report::Report;
use perf::{html, machine, ours, pair, peers, quinn_peer, specification, suite, wormhole};

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
        Action::Measure { suites, plan, outputs } => return publish(&measure(suites, plan)?, &outputs),
        Action::Serve { bind, mtu, plan } => {
            perf::end_cleanly_on_signals()?;
            pair::serve(bind, mtu, plan)?;
        }
        Action::Run { host, plan, outputs } => {
            perf::end_cleanly_on_signals()?;
            let note = &mut |text: &str| eprintln!("{text}");
            return publish(&pair::run(&host, plan.runs, plan.scale, note)?, &outputs);
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
        Action::QuinnServer { listen, identity, settings, bytes_max } => {
            quinn_peer::serve(listen, &identity, settings, bytes_max)?;
        }
        Action::QuinnClient { mode, server, certificate, settings, bytes } => match mode {
            Mode::Read => {
                let sample = quinn_peer::fetch(server, &certificate, settings, bytes)?;
                println!("{}", sample.at_end().to_line());
            }
            Mode::Verify => quinn_peer::verify(server, &certificate, settings, bytes)?,
        },
        Action::Client { mode, host, path, bytes } => {
            let code = std::env::var(wormhole::CODE_VARIABLE)
                .with_context(|| format!("{} is not set", wormhole::CODE_VARIABLE))?;
            match mode {
                Mode::Read => {
                    let sample = ours::read_discard(host, &code, &path, bytes)?;
                    println!("{}", sample.at_end().to_line());
                }
                Mode::Verify => println!("{}", ours::read_hash(host, &code, &path, bytes)?),
            }
        }
        Action::Verb(verb) => {
            if let Some(line) = verb.perform()? {
                println!("{line}");
            }
        }
        Action::Hash { file } => println!("{}", fixture::hash_file(&file)?.1),
    }
    Ok(ExitCode::SUCCESS)
}

fn write_page(recorded: &Recorded, path: &Path) -> anyhow::Result<()> {
    std::fs::write(path, html::render(recorded)).with_context(|| format!("cannot write {}", path.display()))
}

/// Prints the table, writes what was asked for, and says by the exit code whether every contender has its figures.
fn publish(report: &Report, outputs: &Outputs) -> anyhow::Result<ExitCode> {
    print!("{}", report.to_table());
    if let Some(path) = &outputs.json {
        let text = serde_json::to_string_pretty(&report.to_json())?;
        std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &outputs.html {
        write_page(&Recorded::from_json(report.to_json())?, path)?;
    }
    Ok(if report.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure(suites: Suites, plan: suite::Plan) -> anyhow::Result<Report> {
    perf::lab::Lab::available()?;
    perf::end_cleanly_on_signals()?;
    // Described first: afterwards its load would be our own.
    let mut machine = machine::describe();
    machine["program"] = wormhole::describe();
    let fixture = Fixture::create(plan.bytes)?;
    let note = &mut |text: &str| eprintln!("{text}");
    let mut rows = Vec::new();
    if suites.include(Suites::Transport) {
        rows.extend(suite::transport::run(plan, &fixture, note)?);
    }
    if suites.include(Suites::Mount) {
        rows.extend(suite::mount::run(plan, &fixture, note)?);
    }
    // With all suites its transfers have run already.
    if suites == Suites::Cpu {
        rows.extend(suite::cpu::transfers(plan, &fixture, note)?);
    }
    if suites.include(Suites::Cpu) {
        rows.extend(suite::cpu::idle(plan, &fixture, note)?);
    }
    // The others have fixtures of their own.
    drop(fixture);
    if suites.include(Suites::Random) {
        rows.extend(suite::random::run(plan, note)?);
    }
    if suites.include(Suites::Metadata) {
        rows.extend(suite::metadata::run(plan, note)?);
    }
    if suites.include(Suites::Smallfiles) {
        rows.extend(suite::smallfiles::run(plan, note)?);
    }
    Ok(Report { machine, plan: plan.to_json(), rows })
}
