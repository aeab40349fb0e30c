//! Who may enter: the join code, the guesses at it, and the devices that were let in before.
//!
//! Shared by a host's shards. Its locks are held for a few instructions and only at the entrance, never on the data
//! path; the store on disk is touched by workers and the control thread alone.

use crate::trust::{EnrolError, Peers, PublicKey, Standing, StoreError, unix_now};
use signal::{Attempt, Attempts, CODE_RANDOM_BYTES, Expired, Guess, JoinCode, Verdict};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use transport::PeerKey;

struct Secret {
    code: Arc<JoinCode>,
    attempts: Attempts,
}

/// See the module.
pub struct Gate {
    secret: Mutex<Secret>,
    /// Standing of every known device, replaced whole when the list changes.
    standings: Mutex<Arc<BTreeMap<[u8; 32], Standing>>>,
    /// The list on disk; workers and the control thread only.
    peers: Mutex<Peers>,
}

/// A lock whose holder panicked still guards consistent data here: every section below assigns whole values.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Draws a fresh code.
pub(crate) fn fresh_code() -> JoinCode {
    let mut random = [0; CODE_RANDOM_BYTES];
    getrandom::fill(&mut random).expect("the system's random source answers");
    JoinCode::generate(&random)
}

impl Gate {
    /// Opens the list of devices under `state_dir`.
    ///
    /// # Errors
    /// [`StoreError`] when the list cannot be read.
    pub fn open(state_dir: &Path, code: JoinCode) -> Result<Self, StoreError> {
        let peers = Peers::open(state_dir)?;
        Ok(Self {
            secret: Mutex::new(Secret { code: Arc::new(code), attempts: Attempts::new() }),
            standings: Mutex::new(Arc::new(standings(&peers))),
            peers: Mutex::new(peers),
        })
    }

    /// The code that lets a device in now.
    pub fn code(&self) -> Arc<JoinCode> {
        Arc::clone(&lock(&self.secret).code)
    }

    pub(super) fn standing(&self, key: PeerKey) -> Standing {
        lock(&self.standings).get(&key.0).copied().unwrap_or(Standing::Unknown)
    }

    pub(super) fn is_revoked(&self, key: PeerKey) -> bool {
        self.standing(key) == Standing::Revoked
    }

    pub(super) fn try_begin(&self, now: Instant) -> Result<Attempt, Duration> {
        lock(&self.secret).attempts.try_begin(now).map_err(|refusal| refusal.retry_after)
    }

    pub(super) fn try_judge(&self, now: Instant, attempt: Attempt) -> Result<Guess, Expired> {
        lock(&self.secret).attempts.try_judge(now, attempt)
    }

    pub(super) fn on_abandoned(&self, attempt: Attempt) {
        lock(&self.secret).attempts.on_abandoned(attempt);
    }

    pub(super) fn on_succeeded(&self, guess: Guess) {
        lock(&self.secret).attempts.on_succeeded(guess);
    }

    /// Counts a wrong guess; after too many the code is replaced, and the new one returned for the owner to see.
    pub(super) fn on_failed(&self, now: Instant, guess: Guess) -> Option<Arc<JoinCode>> {
        let mut secret = lock(&self.secret);
        if !matches!(secret.attempts.on_failed(now, guess), Verdict::Rotate) {
            return None;
        }
        secret.code = Arc::new(fresh_code());
        secret.attempts.on_replaced();
        Some(Arc::clone(&secret.code))
    }

    /// Remembers a device that proved the code; durable when this returns. Blocks on the disk: for workers.
    pub(super) fn enrol(&self, key: PeerKey, name: &str) -> Result<(), EnrolError> {
        let mut peers = lock(&self.peers);
        peers.enrol(PublicKey::from_raw(key.0), name, unix_now())?;
        *lock(&self.standings) = Arc::new(standings(&peers));
        Ok(())
    }

    /// Notes that a device came in again. Blocks on the disk: for workers.
    pub(super) fn on_connected(&self, key: PeerKey) -> Result<(), StoreError> {
        lock(&self.peers).on_connected(&PublicKey::from_raw(key.0), unix_now())
    }

    /// Reads the list again where another program changed it; true when it did. Blocks on the disk: control thread.
    ///
    /// # Errors
    /// [`StoreError`] when the list cannot be read; what was known before stays in force.
    pub fn reload(&self) -> Result<bool, StoreError> {
        let mut peers = lock(&self.peers);
        let changed = peers.reload_if_changed()?;
        if changed {
            *lock(&self.standings) = Arc::new(standings(&peers));
        }
        Ok(changed)
    }
}

fn standings(peers: &Peers) -> BTreeMap<[u8; 32], Standing> {
    peers.iter().map(|peer| (*peer.key.as_raw(), peers.standing(&peer.key))).collect()
}
