//! What a run prints: results on stdout, words for people on stderr, one JSON object a line with `--json`.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use engine::ServiceEvent;
use serde::Serialize;
use serde_json::{Value, json};
use tracing_subscriber::filter::LevelFilter;

use crate::exit::{Exit, Failure};
use crate::log::Log;
use crate::quote;

/// Where and how this run prints.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// One JSON object a line on stdout.
    pub json: bool,
    /// Errors and results only.
    pub quiet: bool,
    /// Whether stderr takes escape sequences for bold text.
    colour: bool,
}

impl Output {
    /// Looks at the terminal and at `NO_COLOR` (no-color.org).
    pub fn new(json: bool, quiet: bool) -> Self {
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { json, quiet, colour: !no_colour && io::stderr().is_terminal() }
    }

    /// Whether a person watches stderr, so that bars and pictures make sense.
    pub fn is_watched(&self) -> bool {
        !self.json && !self.quiet && io::stderr().is_terminal()
    }

    /// Prints `{"type":kind,"data":data}` on stdout and flushes; nothing without `--json`.
    ///
    /// # Errors
    /// When stdout cannot be written to; a closed pipe is [`Failure::output_closed`].
    pub fn event(&self, kind: &str, data: impl Serialize) -> Result<(), Failure> {
        let data = serde_json::to_value(data)
            .map_err(|error| Failure::failed(format!("cannot write {kind} as JSON: {error}")))?;
        self.value(&json!({"type": kind, "data": data}))
    }

    /// Prints an event that is JSON already; nothing without `--json`.
    ///
    /// # Errors
    /// As [`Output::event`].
    pub fn value(&self, event: &Value) -> Result<(), Failure> {
        if !self.json {
            return Ok(());
        }
        print_raw(format!("{event}\n").as_bytes())
    }

    /// Prints a result for people on stdout; nothing with `--json`.
    ///
    /// # Errors
    /// As [`Output::event`].
    pub fn line(&self, text: &str) -> Result<(), Failure> {
        if self.json {
            return Ok(());
        }
        print_raw(format!("{text}\n").as_bytes())
    }

    /// Tells a person what goes on, on stderr, unless quiet.
    pub fn say(&self, text: &str) {
        if !self.quiet {
            say_always(text);
        }
    }

    /// Tells a person what they need even when quiet, such as a join code.
    pub fn tell(&self, text: &str) {
        say_always(text);
    }

    /// Reports a failure: a sentence on stderr, and with `--json` an `Error` event on stdout.
    pub fn failure(&self, failure: &Failure) {
        if failure.message.is_empty() {
            return;
        }
        // Nobody is left to tell when this fails too.
        let _ = self.value(&error_event(failure));
        say_always(&format!("wormhole: {}", quote::text(&failure.message)));
    }

    /// Sets a word off from the text around it.
    pub fn bold(&self, text: &str) -> String {
        if self.colour { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Sends log lines of `level` and above to stderr; call this or [`log_to`] once.
    pub fn start_log(&self, level: LevelFilter) {
        tracing_subscriber::fmt()
            .with_max_level(level)
            .with_writer(io::stderr)
            .with_ansi(self.colour)
            .with_target(false)
            .init();
    }
}

/// The events of a service on stdout, for a reader who may go away: the service goes on, since others use it.
#[derive(Debug)]
pub struct Events<'a> {
    output: &'a Output,
    is_read: bool,
}

impl<'a> Events<'a> {
    /// Prints to `output`.
    pub fn new(output: &'a Output) -> Self {
        Self { output, is_read: true }
    }

    /// Prints as [`Output::value`] does, until that fails once.
    pub fn print(&mut self, event: &Value) {
        if self.is_read && self.output.value(event).is_err() {
            self.is_read = false;
            tracing::warn!("nobody reads the events any more; going on");
        }
    }
}

/// Sends log lines of `level` and above to a file.
pub fn log_to(log: Log, level: LevelFilter) {
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(Arc::new(log))
        .with_ansi(false)
        .with_target(false)
        .init();
}

/// Writes bytes to stdout as they are, and flushes.
///
/// # Errors
/// As [`Output::event`].
pub fn print_raw(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::output_closed()),
        Err(error) => Err(Failure::io("cannot write to standard output", &error)),
        Ok(()) => Ok(()),
    }
}

/// The event that reports a failure.
pub fn error_event(failure: &Failure) -> Value {
    json!({"type": "Error", "data": {
        "message": failure.message, "kind": failure.exit, "wants_code": failure.wants_code,
    }})
}

/// A service's event as JSON; bytes of a path that are not UTF-8 become U+FFFD.
pub fn event_value(event: &ServiceEvent) -> Value {
    serde_json::to_value(event).unwrap_or_else(|_| {
        // Only a path can fail to become JSON.
        let mut event = event.clone();
        if let ServiceEvent::HostStarted { path, .. } | ServiceEvent::MountReady { mountpoint: path, .. } = &mut event {
            *path = path.to_string_lossy().into_owned().into();
        }
        serde_json::to_value(event).expect("every path is UTF-8 now")
    })
}

/// How the failure of a finished service reads, if it ended by itself.
pub fn stopped(reason: &str) -> Failure {
    Failure::new(Exit::Failed, format!("the service ended: {reason}"))
}

fn say_always(text: &str) {
    // A person who closed stderr does not want to hear.
    let _ = writeln!(io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn a_path_of_any_bytes_becomes_an_event() {
        let event = ServiceEvent::MountReady {
            mountpoint: OsStr::from_bytes(b"/mnt/\xff").into(),
            address: "10.0.0.1:4433".parse().unwrap(),
            host: "studio".into(),
            share: "shots".into(),
        };
        let value = event_value(&event);
        assert_eq!(value["type"], "MountReady");
        assert_eq!(value["data"]["mountpoint"], "/mnt/\u{fffd}");
    }

    #[test]
    fn errors_name_their_kind() {
        let event = error_event(&Failure::new(Exit::NotFound, "no such file"));
        assert_eq!(
            event.to_string(),
            r#"{"data":{"kind":"NotFound","message":"no such file","wants_code":false},"type":"Error"}"#
        );
    }
}
