//! What watches over a host's shards: their end, the list of devices, and maps that nobody reads any more.

use super::{HostMail, HostShared};
use crate::error::{EngineError, ErrorKind};
use crate::event::ServiceEvent;
use crate::io::MailSender;
use crate::pool::Pool;
use crate::status::StatusServer;
use crossbeam_channel::bounded;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often the list of devices is looked at: a revocation by a program that cannot reach the control socket holds
/// after this time at the latest. One stat(2) each.
const PEERS_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Looks at the list from one sweep of the share to the next: a map that nobody reads any more lives on for one to two
/// times half a minute.
const POLLS_PER_SWEEP: u32 = 30;
/// Times a notice is offered to a shard whose mailbox is full.
const TELL_TRIES_MAX: usize = 100_000;

/// A host's parts that end after its shards.
pub(super) struct Supervisor {
    pub(super) shared: Arc<HostShared>,
    pub(super) mail: Vec<MailSender<HostMail>>,
    pub(super) shards: Vec<JoinHandle<std::io::Result<()>>>,
    pub(super) pool: Pool,
    pub(super) status: StatusServer,
}

impl Supervisor {
    /// Waits for the shards' end, then ends the rest and says so last.
    pub(super) fn run(self) -> Result<(), EngineError> {
        let result = join_shards(self.shards, &self.mail, &self.shared);
        drop(self.status);
        drop(self.pool);
        let reason = result.as_ref().err().map_or_else(|| "shut down".to_owned(), ToString::to_string);
        crate::event::tell_last(self.shared.events.sender(), reason);
        result
    }
}

/// Waits for every shard, and looks after what they share meanwhile; when one shard fails the others are ended too, for
/// connections are steered to all of them.
pub(super) fn join_shards(
    shards: Vec<JoinHandle<std::io::Result<()>>>,
    mail: &[MailSender<HostMail>],
    shared: &HostShared,
) -> Result<(), EngineError> {
    // Each is waited for by a thread of its own, for any may be the first to fail.
    let (ended, ends) = bounded(shards.len());
    let mut rounds = Rounds::default();
    let mut result = Ok(());
    thread::scope(|scope| {
        let count = shards.len();
        for shard in shards {
            let ended = ended.clone();
            // The channel has room for every end.
            scope.spawn(move || ended.send(shard.join()));
        }
        for _ in 0..count {
            let end = loop {
                match ends.recv_timeout(PEERS_POLL_INTERVAL) {
                    Ok(end) => break end,
                    Err(_) => rounds.make(mail, shared),
                }
            };
            let end = match end {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(EngineError::new(ErrorKind::Failed, "a shard lost its socket").caused_by(error)),
                Err(_) => Err(EngineError::new(ErrorKind::Failed, "a shard panicked; please report it")),
            };
            if result.is_ok() && end.is_err() {
                tell_all(mail, || HostMail::Shutdown);
                result = end;
            }
        }
    });
    result
}

/// What is looked after once in [`PEERS_POLL_INTERVAL`].
#[derive(Default)]
struct Rounds {
    made: u32,
    /// The list could not be read at the last look, and the owner knows.
    unreadable: bool,
}

impl Rounds {
    fn make(&mut self, mail: &[MailSender<HostMail>], shared: &HostShared) {
        match shared.gate.reload() {
            Ok(changed) => {
                self.unreadable = false;
                if changed {
                    tell_all(mail, || HostMail::PeersChanged);
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.unreadable, true) {
                    let message = format!("cannot read the list of devices: {error}; what it said before holds");
                    shared.events.tell(ServiceEvent::Warning { message });
                }
            }
        }
        shared.events.handle_timeout(Instant::now());
        self.made += 1;
        if self.made == POLLS_PER_SWEEP {
            self.made = 0;
            shared.share.sweep();
        }
    }
}

/// Gives every shard a notice.
pub(super) fn tell_all(mail: &[MailSender<HostMail>], what: impl Fn() -> HostMail) {
    for sender in mail {
        let mut message = what();
        for _ in 0..TELL_TRIES_MAX {
            // A full mailbox is being emptied by its shard, unless that is gone and needs no telling.
            let Err(back) = sender.send(message) else { break };
            message = back;
            thread::yield_now();
        }
    }
}
