//! The `wormhole` program: flags, progress bars, NDJSON events. What is done is done by `engine`.
//!
//! ```text
//!   args ─▶ main ─▶ host | mount | get | ls | status | peers | doctor | demo | config
//!                     │      └─▶ daemon (a second process, so that `mount` may return)
//!                     └─▶ settings, secret, remote ─▶ engine
//! ```
//!
//! Read [`args`], then one command, then [`daemon`].

mod args;
mod config;
mod daemon;
mod demo;
mod doctor;
mod exit;
mod get;
mod host;
mod log;
mod ls;
mod mount;
mod output;
mod peers;
mod quote;
mod remote;
mod secret;
mod settings;
mod signals;
mod status;
mod time;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use serde_json::json;
use tracing_subscriber::filter::LevelFilter;

use crate::args::{Arguments, Command, OutputFlags};
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::remote::Context;
use crate::secret::environment::EnvironmentCode;
use crate::settings::Settings;
use crate::signals::Interrupts;

fn main() -> ExitCode {
    let environment = EnvironmentCode::take();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let parsed = match Arguments::try_parse_from(&arguments) {
        Ok(parsed) => parsed,
        Err(error) => return refuse(&arguments, &error).into(),
    };
    let output = Output::new(parsed.output.json, parsed.output.quiet);
    let exit = run(&output, &environment, parsed).unwrap_or_else(|failure| {
        output.failure(&failure);
        failure.exit
    });
    exit.into()
}

fn run(output: &Output, environment: &EnvironmentCode, arguments: Arguments) -> Result<Exit, Failure> {
    let settings = settings::path().and_then(|path| Settings::load(&path, |name| std::env::var_os(name)));
    let log_level = log_level(arguments.output, settings.as_ref().ok());
    // A mount in the background is told where to log, and how much, with all else it must know.
    if !matches!(arguments.command, Command::MountDaemon) {
        output.start_log(log_level);
    }
    match arguments.command {
        // These work without settings, and before a wrong settings file is put right.
        Command::Config(config) => return config::run(output, &config.command),
        Command::Completions(completions) => {
            let mut script = Vec::new();
            let mut command = Arguments::command();
            clap_complete::generate(completions.shell, &mut command, "wormhole", &mut script);
            let shell = completions.shell.to_string();
            output.event("CompletionScript", json!({"shell": shell, "script": String::from_utf8_lossy(&script)}))?;
            if !output.json {
                output::print_raw(&script)?;
            }
            return Ok(Exit::Ok);
        }
        Command::MountGuard(guard) => return mount::guard(&guard.mountpoint),
        Command::Unmount(unmount) => return mount::unmount(output, &unmount.mountpoint),
        _ => {}
    }
    let settings = settings?;
    match arguments.command {
        Command::Status => return status::run(output),
        Command::Peers(peers) => return peers::run(output, &peers.command),
        Command::Doctor => return doctor::run(output, &settings),
        _ => {}
    }
    let interrupts = Interrupts::install()?;
    let context = Context { output, settings: &settings, environment, interrupts: &interrupts, log_level };
    match arguments.command {
        Command::Host(host) => host::run(&context, host),
        Command::Mount(mount) => mount::run(&context, &mount),
        Command::MountDaemon => mount::run_daemon(&interrupts),
        Command::Get(get) => get::run(&context, &get),
        Command::Ls(ls) => ls::run(&context, &ls),
        Command::Demo(demo) => demo::run(&context, demo),
        Command::Unmount(_)
        | Command::Status
        | Command::Peers(_)
        | Command::Doctor
        | Command::Config(_)
        | Command::Completions(_)
        | Command::MountGuard(_) => unreachable!("handled above"),
    }
}

/// Prints why the arguments were refused, or the help or version that was asked for.
fn refuse(arguments: &[OsString], error: &clap::Error) -> Exit {
    if !error.use_stderr() {
        // Broken pipes end quietly, as everywhere.
        let _ = error.print();
        return Exit::Ok;
    }
    let wants_json = arguments.iter().take_while(|argument| *argument != "--").any(|argument| argument == "--json");
    let text = error.to_string();
    let sentence = text.lines().next().unwrap_or_default();
    let sentence = sentence.strip_prefix("error: ").unwrap_or(sentence);
    let failure = Failure::usage(sentence);
    // Nobody is left to tell when stdout is closed.
    let _ = Output::new(wants_json, false).value(&output::error_event(&failure));
    let _ = error.print();
    Exit::Usage
}

/// Flags over the setting; warnings where the settings cannot be read.
fn log_level(flags: OutputFlags, settings: Option<&Settings>) -> LevelFilter {
    match (flags.quiet, flags.verbose) {
        (true, _) => LevelFilter::ERROR,
        (_, 0) => settings.map_or(LevelFilter::WARN, |settings| {
            let level = settings.text("log_level").and_then(|level| level.parse().ok());
            level.expect("the setting has a default, and its words are levels")
        }),
        (_, 1) => LevelFilter::INFO,
        (_, 2) => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    }
}
