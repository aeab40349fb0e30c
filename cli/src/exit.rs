//! How a run ends: the exit code, and the one sentence that explains it.

use std::io;
use std::process::ExitCode;

use engine::{EngineError, ErrorKind};
use serde::{Deserialize, Serialize};

/// The documented ends of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Exit {
    /// All was done.
    Ok = 0,
    /// The machine failed: disk, permissions, kernel.
    Failed = 1,
    /// The arguments make no sense.
    Usage = 2,
    /// A file, folder or host is not there.
    NotFound = 3,
    /// The host refused, or is not who it should be.
    Refused = 4,
    /// Nobody answers, or the link broke.
    Network = 5,
    /// SIGINT or SIGTERM cut the work short.
    Interrupted = 130,
}

impl Exit {
    /// The number that the shell sees.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

impl From<ErrorKind> for Exit {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Failed => Self::Failed,
            ErrorKind::Usage => Self::Usage,
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::Refused | ErrorKind::CodeWanted => Self::Refused,
            ErrorKind::Network => Self::Network,
        }
    }
}

/// Why a command did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// How the run ends.
    pub exit: Exit,
    /// One sentence for a person, with the remedy where one is known; empty where nothing is to be said.
    pub message: String,
    /// Whether a join code may help that was not given.
    pub wants_code: bool,
}

impl Failure {
    /// Creates a failure.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), wants_code: false }
    }

    /// Creates a failure that the arguments caused.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Creates a failure of the machine.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// Creates a failure of an input or output operation; `what` begins the sentence.
    pub fn io(what: impl AsRef<str>, error: &io::Error) -> Self {
        let exit = match error.kind() {
            io::ErrorKind::NotFound => Exit::NotFound,
            _ => Exit::Failed,
        };
        Self::new(exit, format!("{}: {error}", what.as_ref()))
    }

    /// The reader of our output went away, as `head` does; a quiet and successful end.
    pub fn output_closed() -> Self {
        Self::new(Exit::Ok, "")
    }
}

impl From<EngineError> for Failure {
    /// Joins the error and its causes into one sentence; outer errors do not repeat inner ones.
    fn from(error: EngineError) -> Self {
        let mut message = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        Self { wants_code: error.kind == ErrorKind::CodeWanted, ..Self::new(error.kind.into(), message) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_documented_ones() {
        for (exit, code) in [
            (Exit::Ok, 0),
            (ErrorKind::Failed.into(), 1),
            (ErrorKind::Usage.into(), 2),
            (ErrorKind::NotFound.into(), 3),
            (ErrorKind::Refused.into(), 4),
            (ErrorKind::CodeWanted.into(), 4),
            (ErrorKind::Network.into(), 5),
            (Exit::Interrupted, 130),
        ] {
            assert_eq!(exit.code(), code, "{exit:?}");
        }
    }

    #[test]
    fn causes_are_told_once() {
        let error =
            EngineError::new(ErrorKind::Network, "studio does not answer").caused_by(io::Error::other("no route"));
        assert_eq!(Failure::from(error), Failure::new(Exit::Network, "studio does not answer: no route"));
    }

    #[test]
    fn a_missing_file_is_not_found() {
        let missing = io::Error::from(io::ErrorKind::NotFound);
        assert_eq!(Failure::io("x", &missing).exit, Exit::NotFound);
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        assert_eq!(Failure::io("x", &denied).exit, Exit::Failed);
    }
}
