//! What was done so far, and telling it.

use crate::client::CallError;
use std::time::{Duration, Instant};

/// Pause between two reports of progress.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);
/// Names kept of files that were skipped or failed; the rest is only counted.
const NAMES_MAX: usize = 1_000;

/// How far a copy is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GetProgress {
    /// Files finished, resumed ones included.
    pub files_done: u64,
    /// Files known so far.
    pub files_total: u64,
    /// Bytes in place, resumed ones included.
    pub bytes_done: u64,
    /// Bytes known so far.
    pub bytes_total: u64,
    /// Bytes that were in place before.
    pub bytes_resumed: u64,
    /// Listing still goes on: totals grow.
    pub listing: bool,
}

/// What a copy did.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct GetSummary {
    /// Files in place, resumed ones included.
    pub files: u64,
    /// Directories made or met.
    pub directories: u64,
    /// Symbolic links made.
    pub symlinks: u64,
    /// Bytes in place, resumed ones included.
    pub bytes: u64,
    /// Bytes that were in place before.
    pub bytes_resumed: u64,
    /// What cannot be copied by its nature, each with its cause.
    pub skipped: Vec<String>,
    /// What should have been copied and was not, each with its cause.
    pub failed: Vec<String>,
    /// Wall time, microseconds.
    pub elapsed_us: u64,
}

pub(super) struct Tally {
    pub(super) files_total: u64,
    pub(super) bytes_total: u64,
    pub(super) bytes_done: u64,
    pub(super) directories: u64,
    pub(super) symlinks: u64,
    pub(super) listing: bool,
    files_done: u64,
    bytes_resumed: u64,
    skipped: Vec<String>,
    failed: Vec<String>,
    reported_at: Instant,
}

impl Tally {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            files_total: 0,
            bytes_total: 0,
            bytes_done: 0,
            directories: 0,
            symlinks: 0,
            listing: true,
            files_done: 0,
            bytes_resumed: 0,
            skipped: Vec::new(),
            failed: Vec::new(),
            reported_at: now,
        }
    }

    pub(super) fn progress(&self) -> GetProgress {
        GetProgress {
            files_done: self.files_done,
            files_total: self.files_total,
            bytes_done: self.bytes_done,
            bytes_total: self.bytes_total,
            bytes_resumed: self.bytes_resumed,
            listing: self.listing,
        }
    }

    pub(super) fn report(&mut self, now: Instant, progress: &mut dyn FnMut(GetProgress)) {
        if now.duration_since(self.reported_at) >= REPORT_INTERVAL {
            self.reported_at = now;
            progress(self.progress());
        }
    }

    /// A file is in place; `bytes` of it were not counted before.
    pub(super) fn file_done(&mut self, bytes: u64) {
        self.files_done += 1;
        self.bytes_done += bytes;
    }

    /// A file was in place already.
    pub(super) fn resumed(&mut self, bytes: u64) {
        self.file_done(bytes);
        self.bytes_resumed += bytes;
    }

    /// A file's beginning was in place already.
    pub(super) fn resumed_part(&mut self, bytes: u64) {
        self.bytes_done += bytes;
        self.bytes_resumed += bytes;
    }

    pub(super) fn skip(&mut self, path: &[u8], why: &str) {
        note(&mut self.skipped, path, why);
    }

    /// Notes a file the host did not give; without an error it answered something else.
    pub(super) fn fail(&mut self, path: &[u8], error: Option<CallError>) {
        let why =
            error.map_or_else(|| "the host answered something that was not asked".into(), |error| error.to_string());
        self.fail_because(path, &why);
    }

    pub(super) fn fail_because(&mut self, path: &[u8], why: &str) {
        note(&mut self.failed, path, why);
    }

    pub(super) fn into_summary(self, elapsed: Duration) -> GetSummary {
        GetSummary {
            files: self.files_done,
            directories: self.directories,
            symlinks: self.symlinks,
            bytes: self.bytes_done,
            bytes_resumed: self.bytes_resumed,
            skipped: self.skipped,
            failed: self.failed,
            elapsed_us: u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
        }
    }
}

fn note(list: &mut Vec<String>, path: &[u8], why: &str) {
    if list.len() < NAMES_MAX {
        list.push(format!("{}: {why}", String::from_utf8_lossy(path)));
    } else if list.len() == NAMES_MAX {
        list.push("and more".into());
    }
}
