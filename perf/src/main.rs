//! `perf`: measures Wormhole beside its rivals. Everything it does is in the library; this picks what.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use perf::arguments::{self, Action, Mode, Suites};
use perf::fixture::{self, Fixture};
use perf::report::Report;
use perf::{machine, ours, pair, peers, quinn_peer, suite, wormhole};

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
        Action::Measure { suites, plan, json } => {
            return publish(&measure(suites, plan)?, json);
        }
        Action::Serve { bind, mtu, plan } => {
            perf::end_cleanly_on_signals()?;
            pair::serve(bind, mtu, plan)?;
        }
        Action::Run { host, plan, json } => {
            perf::end_cleanly_on_signals()?;
            let note = &mut |text: &str| eprintln!("{text}");
            return publish(&pair::run(&host, plan.runs, plan.scale, note)?, json);
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
        Action::Verb(verb) => {
            if let Some(line) = verb.perform()? {
                println!("{line}");
            }
        }
        Action::Hash { file } => println!("{}", fixture::hash_file(&file)?.1),
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the table, writes the JSON where asked, and says by the exit code whether every contender has its figures.
fn publish(report: &Report, json: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    print!("{}", report.to_table());
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&report.to_json())?;
        std::fs::write(&path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(if report.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure(suites: Suites, plan: suite::Plan) -> anyhow::Result<Report> {
    perf::lab::Lab::available()?;
    perf::end_cleanly_on_signals()?;
    // Described first: afterwards its load would be our own.
    let machine = machine::describe();
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
    Ok(Report { machine, rows })
}
