//! One error for programs above the engine: what failed, by whose fault, what to do.

/// Whose fault, as the exit codes of the command line tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The environment: disk, permissions, kernel.
    Failed,
    /// The caller's arguments.
    Usage,
    /// A file, folder or host that is not there.
    NotFound,
    /// The host refused, or is not who it should be.
    Refused,
    /// The host refused for want of a join code: with its code this device may come in.
    CodeWanted,
    /// Nobody answers, or the link broke.
    Network,
}

/// Why an operation of the engine failed. Display is one sentence for a person, with the remedy where one is known.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct EngineError {
    /// By whose fault.
    pub kind: ErrorKind,
    message: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl EngineError {
    /// Creates an error of `kind` that tells `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// Adds what caused it.
    pub fn caused_by(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }
}
