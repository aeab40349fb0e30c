//! `wormhole get`: copies a shared file or folder here, with progress.

use std::ffi::OsStr;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use engine::{GetOptions, GetProgress, GetSummary};
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::args::GetArguments;
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::quote;
use crate::remote::{self, Context, Destination};

/// Time between two lines of progress where no terminal shows a bar.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Names of skipped files, and of failed ones, that are printed; `--json` lists all.
const NAMES_SHOWN_MAX: usize = 20;

/// Runs `get`.
///
/// # Errors
/// What the engine reports; exit 130 after a signal, with what was copied kept for the next run.
pub fn run(context: &Context<'_>, arguments: &GetArguments) -> Result<Exit, Failure> {
    let source = remote::parse(&arguments.source)?;
    let remote = Destination::new(context, source.target, &arguments.remote)?.connect(context)?;
    let cancel = Arc::new(AtomicBool::new(false));
    let on_signal = Arc::clone(&cancel);
    context.interrupts.arm(move || on_signal.store(true, Ordering::Relaxed));
    let options = GetOptions { source: source.subpath.as_bytes().to_owned(), target: arguments.target.clone() };
    let mut display = Display::new(context.output);
    let outcome = engine::get(&remote, options, &mut |progress| display.show(&progress), &cancel);
    display.clear();
    match outcome {
        Ok(summary) => finish(context.output, arguments.target.as_os_str(), &summary),
        Err(_) if cancel.load(Ordering::Relaxed) => {
            Err(Failure::new(Exit::Interrupted, "interrupted; the same command goes on from here"))
        }
        Err(error) => Err(error.into()),
    }
}

fn finish(output: &Output, target: &OsStr, summary: &GetSummary) -> Result<Exit, Failure> {
    output.event("GetFinished", summary)?;
    let elapsed = Duration::from_micros(summary.elapsed_us);
    output.say(&format!(
        "Copied {} files, {} to {} in {elapsed:.1?}{}",
        HumanCount(summary.files),
        HumanBytes(summary.bytes),
        quote::name(target.as_encoded_bytes()),
        match summary.bytes_resumed {
            0 => String::new(),
            bytes => format!(" ({} were here already)", HumanBytes(bytes)),
        }
    ));
    tell_names(output, "skipped", &summary.skipped);
    tell_names(output, "failed", &summary.failed);
    match summary.failed.len() {
        0 => Ok(Exit::Ok),
        count => Err(Failure::failed(format!("{count} files were not copied; the same command tries them again"))),
    }
}

fn tell_names(output: &Output, what: &str, names: &[String]) {
    for name in names.iter().take(NAMES_SHOWN_MAX) {
        output.tell(&format!("{what} {}", quote::text(name)));
    }
    if names.len() > NAMES_SHOWN_MAX {
        output.tell(&format!("{what} {} more", names.len() - NAMES_SHOWN_MAX));
    }
}

/// Progress as a bar, as lines at intervals, or as events.
struct Display<'a> {
    output: &'a Output,
    bar: ProgressBar,
    last_line: Instant,
}

impl<'a> Display<'a> {
    fn new(output: &'a Output) -> Self {
        let bar = if output.is_watched() && std::io::stdout().is_terminal() {
            let style = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}");
            ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
                .with_style(style.expect("the template is well formed"))
        } else {
            ProgressBar::hidden()
        };
        Self { output, bar, last_line: Instant::now() }
    }

    fn show(&mut self, progress: &GetProgress) {
        if self.output.json {
            // A reader that went away is noticed when the summary is printed.
            let _ = self.output.event(
                "Progress",
                json!({
                    "files_done": progress.files_done,
                    "files_total": progress.files_total,
                    "bytes_done": progress.bytes_done,
                    "bytes_total": progress.bytes_total,
                    "bytes_resumed": progress.bytes_resumed,
                    "listing": progress.listing,
                }),
            );
        } else if !self.bar.is_hidden() {
            self.bar.set_length(progress.bytes_total);
            self.bar.set_position(progress.bytes_done);
            self.bar.set_message(files(progress));
        } else if self.last_line.elapsed() >= LINE_INTERVAL {
            self.last_line = Instant::now();
            self.output.say(&format!(
                "{} of {}, {}",
                HumanBytes(progress.bytes_done),
                HumanBytes(progress.bytes_total),
                files(progress)
            ));
        }
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

fn files(progress: &GetProgress) -> String {
    format!("{}/{}{} files", progress.files_done, progress.files_total, if progress.listing { "+" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_that_still_grow_are_marked() {
        let mut progress = GetProgress { files_done: 3, files_total: 7, listing: true, ..GetProgress::default() };
        assert_eq!(files(&progress), "3/7+ files");
        progress.listing = false;
        assert_eq!(files(&progress), "3/7 files");
    }
}
