//! The host's half of the entrance: hello, the code's proof where one is needed, welcome or refusal.
//!
//! ```text
//!   Hello ── known key ───────────────────────────────────────────────▶ Inside
//!     │ unknown key, or the client wants proof
//!     ▼
//!   Challenged ── share ▶ Shared ── right proof ▶ Enrolling ── saved ▶ Inside
//!                            └───── wrong proof: counted, then ──────▶ Refused
//! ```
//!
//! Until Inside the client is told nothing but versions and its refusal's cause.

use super::Context;
use super::job::{Cancel, Job, Work};
use super::quota::SESSIONS_PER_KEY_MAX;
use crate::convert::attr_to_wire;
use crate::event::ServiceEvent;
use crate::share::{Blocking, RelPath};
use crate::trust::{EnrolError, PublicKey, Standing, clean_name};
use signal::{Attempt, Binding, HostExchange, RefusalCause};
use std::net::SocketAddr;
use std::time::Duration;
use transport::wire::{Control, Frames, REQUEST_BYTES_MAX, Refusal, VERSION_MAX, VERSION_MIN, WireError};
use transport::{PeerKey, StreamId};

/// When a device that has all the sessions it may is to try again: one that broke is noticed after `IDLE_TIMEOUT`.
const PLACE_RETRY: Duration = Duration::from_secs(2);

/// When a device that finds the list of devices full is to try again: the owner must forget some first.
const LIST_RETRY: Duration = Duration::from_secs(60);

enum Stage {
    Hello,
    Challenged(Attempt),
    Shared(Attempt, Box<HostExchange>),
    Enrolling([u8; 32]),
    Inside,
    Refused,
}

/// Why somebody is refused, in the owner's words.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum Cause {
    #[error("wrong join code")]
    WrongCode,
    #[error("too many wrong join codes lately")]
    TooManyAttempts,
    #[error("its key was revoked")]
    Revoked,
    #[error("no common protocol version")]
    Version,
    #[error("too many machines are joining at once")]
    Crowded,
    #[error("its address is joining already")]
    SourceCrowded,
    #[error("the host is overloaded")]
    Busy,
    #[error("{}", EnrolError::Full)]
    ListFull,
    #[error("this device has {SESSIONS_PER_KEY_MAX} connections already")]
    TooManySessions,
}

impl From<RefusalCause> for Cause {
    fn from(cause: RefusalCause) -> Self {
        match cause {
            RefusalCause::BackOff | RefusalCause::LastGuesses => Self::TooManyAttempts,
            RefusalCause::Crowded => Self::Crowded,
            RefusalCause::SourceCrowded => Self::SourceCrowded,
        }
    }
}

impl Cause {
    /// What the client is told of it.
    fn refusal(self) -> Refusal {
        match self {
            Self::WrongCode => Refusal::WrongCode,
            Self::TooManyAttempts => Refusal::TooManyAttempts,
            Self::Revoked => Refusal::Revoked,
            Self::Version => Refusal::Version,
            Self::Crowded | Self::SourceCrowded | Self::Busy | Self::ListFull | Self::TooManySessions => Refusal::Full,
        }
    }
}

/// One client's passage.
pub(super) struct Entrance {
    peer: PeerKey,
    /// The device may have one session more.
    has_place: bool,
    remote: SocketAddr,
    exporter: [u8; 32],
    device: String,
    stage: Stage,
    frames: Frames,
}

/// What the session does next.
pub(super) enum Act {
    Send(Control),
    /// Close this open file.
    Close(u64),
}

/// The client broke the protocol; its connection is to be closed.
pub(super) struct Breach(pub(super) &'static str);

impl Entrance {
    pub(super) fn new(peer: PeerKey, has_place: bool, remote: SocketAddr, exporter: [u8; 32]) -> Self {
        Self {
            peer,
            has_place,
            remote,
            exporter,
            device: String::new(),
            stage: Stage::Hello,
            frames: Frames::new(REQUEST_BYTES_MAX),
        }
    }

    pub(super) fn is_inside(&self) -> bool {
        matches!(self.stage, Stage::Inside)
    }

    /// The client was refused, and nothing more is said.
    pub(super) fn is_refused(&self) -> bool {
        matches!(self.stage, Stage::Refused)
    }

    /// Gives an unfinished attempt's place back: the client leaves, or has broken the protocol.
    pub(super) fn abandon(&mut self, shared: &super::HostShared) {
        match std::mem::replace(&mut self.stage, Stage::Refused) {
            Stage::Challenged(attempt) | Stage::Shared(attempt, _) => shared.gate.on_abandoned(attempt),
            other => self.stage = other,
        }
    }

    pub(super) fn handle_bytes(
        &mut self,
        context: &mut Context<'_>,
        control: StreamId,
        bytes: &[u8],
    ) -> Result<Vec<Act>, Breach> {
        if matches!(self.stage, Stage::Refused) {
            return Ok(Vec::new());
        }
        self.frames.handle_bytes(bytes);
        let mut acts = Vec::new();
        loop {
            match self.frames.poll_message() {
                Ok(Some(message)) => self.handle_message(context, control, message, &mut acts)?,
                Ok(None) => return Ok(acts),
                Err(WireError::UnknownKind(_)) => return Err(Breach("unknown control message")),
                Err(_) => return Err(Breach("malformed control message")),
            }
        }
    }

    fn handle_message(
        &mut self,
        context: &mut Context<'_>,
        control: StreamId,
        message: Control,
        acts: &mut Vec<Act>,
    ) -> Result<(), Breach> {
        let gate = &context.shared.gate;
        match (std::mem::replace(&mut self.stage, Stage::Refused), message) {
            (Stage::Hello, Control::Hello { version_min, version_max, prove, device, .. }) => {
                self.device = clean_name(&device);
                if version_min > VERSION_MAX || version_max < VERSION_MIN {
                    self.refuse(context, Cause::Version, Duration::ZERO, acts);
                    return Ok(());
                }
                match gate.standing(self.peer) {
                    Standing::Revoked => self.refuse(context, Cause::Revoked, Duration::ZERO, acts),
                    Standing::Enrolled | Standing::Unknown if !self.has_place => {
                        self.refuse(context, Cause::TooManySessions, PLACE_RETRY, acts);
                    }
                    Standing::Enrolled if !prove => {
                        let job = Job {
                            conn: context.conn,
                            stream: control,
                            work: Work::NoteConnected { key: self.peer },
                            cancel: Cancel::default(),
                            shared: context.shared.clone(),
                        };
                        // When workers have no room the time of last sight goes unnoted; nothing hangs on it.
                        let _ = context.jobs.submit(job);
                        self.welcome(context, false, acts);
                    }
                    Standing::Enrolled | Standing::Unknown => {
                        match gate.try_begin(context.now, self.remote.ip().into()) {
                            Ok(attempt) => {
                                self.stage = Stage::Challenged(attempt);
                                acts.push(Act::Send(Control::Challenge { version: VERSION_MAX }));
                            }
                            Err(refusal) => self.refuse(context, refusal.cause.into(), refusal.retry_after, acts),
                        }
                    }
                }
            }
            (Stage::Challenged(attempt), Control::ClientShare { share }) => {
                let binding =
                    Binding { exporter: &self.exporter, host_key: &context.shared.key.0, client_key: &self.peer.0 };
                match HostExchange::respond(&gate.code(), binding, &share) {
                    Ok((exchange, share)) => {
                        self.stage = Stage::Shared(attempt, Box::new(exchange));
                        acts.push(Act::Send(Control::HostShare { share }));
                    }
                    Err(_) => {
                        gate.on_abandoned(attempt);
                        return Err(Breach("a key share that is none"));
                    }
                }
            }
            (Stage::Shared(attempt, exchange), Control::ClientConfirm { mac }) => {
                let Ok(guess) = gate.try_judge(context.now, attempt) else {
                    self.refuse(context, Cause::TooManyAttempts, Duration::ZERO, acts);
                    return Ok(());
                };
                match exchange.verify(&mac) {
                    Ok(ours) => {
                        gate.on_succeeded(guess);
                        self.stage = Stage::Enrolling(ours);
                        let work = Work::Enrol { key: self.peer, name: self.device.clone() };
                        let job = Job {
                            conn: context.conn,
                            stream: control,
                            work,
                            // What a device has proved is written down even if it leaves meanwhile.
                            cancel: Cancel::default(),
                            shared: context.shared.clone(),
                        };
                        if context.jobs.submit(job).is_err() {
                            self.refuse(context, Cause::Busy, Duration::from_secs(1), acts);
                        }
                    }
                    Err(_) => {
                        if gate.on_failed(context.now, guess) {
                            let message = "too many wrong join codes: the code was replaced".into();
                            context.shared.events.tell(ServiceEvent::Warning { message });
                            context.shared.announce();
                        }
                        self.refuse(context, Cause::WrongCode, Duration::ZERO, acts);
                    }
                }
            }
            (Stage::Inside, Control::Close { handle }) => {
                self.stage = Stage::Inside;
                acts.push(Act::Close(handle));
            }
            (stage, _) => {
                self.stage = stage;
                self.abandon(context.shared);
                return Err(Breach("control message out of turn"));
            }
        }
        Ok(())
    }

    /// The store answered: the device is remembered, or cannot be.
    pub(super) fn on_enrolled(&mut self, context: &mut Context<'_>, result: Result<(), EnrolError>) -> Vec<Act> {
        let mut acts = Vec::new();
        let Stage::Enrolling(mac) = self.stage else { return acts };
        match result {
            Err(EnrolError::Revoked) => self.refuse(context, Cause::Revoked, Duration::ZERO, &mut acts),
            // Let in unlisted, it could not be revoked.
            Err(EnrolError::Full) => self.refuse(context, Cause::ListFull, LIST_RETRY, &mut acts),
            other @ (Ok(()) | Err(EnrolError::Store(_))) => {
                if let Err(error) = other {
                    // It proved the code, so it may enter this once.
                    let message = format!("cannot remember {}: {error}; it will need the code again", self.device);
                    context.shared.events.tell(ServiceEvent::Warning { message });
                }
                acts.push(Act::Send(Control::HostConfirm { mac }));
                self.welcome(context, true, &mut acts);
            }
        }
        acts
    }

    fn welcome(&mut self, context: &Context<'_>, enrolled: bool, acts: &mut Vec<Act>) {
        let shared = context.shared;
        // The root is open already, so this waits for no disk.
        let Ok(root) = shared.share.attr(&RelPath::ROOT, Blocking::Allowed) else {
            self.refuse(context, Cause::Busy, Duration::from_secs(1), acts);
            return;
        };
        self.stage = Stage::Inside;
        acts.push(Act::Send(Control::Welcome {
            version: VERSION_MAX,
            capabilities: 0,
            host: shared.host_name.clone(),
            share: shared.share_name.clone(),
            root: attr_to_wire(&root),
        }));
        shared.events.tell(ServiceEvent::PeerConnected {
            peer: self.fingerprint(),
            name: self.device.clone(),
            address: self.remote,
            enrolled,
        });
    }

    fn refuse(&mut self, context: &Context<'_>, cause: Cause, retry_after: Duration, acts: &mut Vec<Act>) {
        self.stage = Stage::Refused;
        // Rounded up: who waits as long as told is not too early.
        let retry_after_ms = u32::try_from(retry_after.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX);
        acts.push(Act::Send(Control::Refused { reason: cause.refusal(), retry_after_ms }));
        context.shared.events.on_refused(context.now, self.remote, cause.to_string());
    }

    pub(super) fn fingerprint(&self) -> String {
        PublicKey::from_raw(self.peer.0).to_string()
    }
}
