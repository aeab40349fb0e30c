//! Who may enter: the join code, the guesses at it, and the devices that were let in before.
//!
//! Shared by a host's shards. Its locks are held for a few instructions and only at the entrance, never on the data
//! path; the store on disk is touched by workers and the control thread alone.

use crate::trust::{EnrolError, Peers, PublicKey, Standing, StoreError, unix_now};
use signal::{Attempt, Attempts, CODE_RANDOM_BYTES, Expired, Guess, JoinCode, Refusal, Source, Verdict};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use transport::PeerKey;

struct Secret {
    code: Arc<JoinCode>,
    attempts: Attempts,
}

/// What the list says of every device it holds.
type Standings = Arc<BTreeMap<[u8; 32], Standing>>;

/// See the module.
pub struct Gate {
    secret: Mutex<Secret>,
    /// What holds now, replaced whole when the list changes.
    standings: Mutex<Standings>,
    list: Mutex<List>,
}

/// The list on disk; workers and the control thread only.
struct List {
    peers: Peers,
    /// What held when [`Gate::reload`] was last asked whether anything changed.
    reported: Standings,
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
        let known = Arc::new(standings(&peers));
        Ok(Self {
            secret: Mutex::new(Secret { code: Arc::new(code), attempts: Attempts::new() }),
            standings: Mutex::new(Arc::clone(&known)),
            list: Mutex::new(List { peers, reported: known }),
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

    pub(super) fn try_begin(&self, now: Instant, source: Source) -> Result<Attempt, Refusal> {
        lock(&self.secret).attempts.try_begin(now, source)
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

    /// Counts a wrong guess; after too many the code is replaced, which is true then, and the owner must see the new one.
    pub(super) fn on_failed(&self, now: Instant, guess: Guess) -> bool {
        let mut secret = lock(&self.secret);
        let is_spent = matches!(secret.attempts.on_failed(now, guess), Verdict::Rotate);
        if is_spent {
            secret.code = Arc::new(fresh_code());
        }
        is_spent
    }

    /// Remembers a device that proved the code; durable when this returns. Blocks on the disk: for workers.
    pub(super) fn enrol(&self, key: PeerKey, name: &str) -> Result<(), EnrolError> {
        self.access(&mut lock(&self.list), |peers| peers.enrol(PublicKey::from_raw(key.0), name, unix_now()))
    }

    /// Notes that a device came in again. Blocks on the disk: for workers.
    pub(super) fn on_connected(&self, key: PeerKey) -> Result<(), StoreError> {
        self.access(&mut lock(&self.list), |peers| peers.on_connected(&PublicKey::from_raw(key.0), unix_now()))
    }

    /// Reads the list again where another program changed it; true when a device's standing is another than at the last
    /// call. Blocks on the disk: control threads.
    ///
    /// # Errors
    /// [`StoreError`] when the list cannot be read; what was known before stays in force.
    pub fn reload(&self) -> Result<bool, StoreError> {
        let mut list = lock(&self.list);
        self.access(&mut list, Peers::reload_if_changed)?;
        let known = Arc::clone(&lock(&self.standings));
        let changed = *known != *list.reported;
        list.reported = known;
        Ok(changed)
    }

    /// Works on the list and takes over what it then says, whatever came of the work: every access may have read the
    /// file, and with it what another program wrote there, and whether the next one finds it changed is then past.
    fn access<T, E>(&self, list: &mut List, work: impl FnOnce(&mut Peers) -> Result<T, E>) -> Result<T, E> {
        let result = work(&mut list.peers);
        let now = standings(&list.peers);
        let mut known = lock(&self.standings);
        if **known != now {
            *known = Arc::new(now);
        }
        result
    }
}

fn standings(peers: &Peers) -> BTreeMap<[u8; 32], Standing> {
    peers.iter().map(|peer| (*peer.key.as_raw(), peers.standing(&peer.key))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: PeerKey = PeerKey([1; 32]);
    const OTHER: PeerKey = PeerKey([2; 32]);

    fn gate(state: &Path) -> Gate {
        Gate::open(state, fresh_code()).unwrap()
    }

    /// Revokes as another process does, which this one is not told of.
    fn revoke_elsewhere(state: &Path, key: PeerKey) {
        assert!(Peers::open(state).unwrap().revoke(&PublicKey::from_raw(key.0)).unwrap());
    }

    #[test]
    fn a_revocation_that_a_refused_enrolment_read_is_in_force_and_reported() {
        let state = tempfile::tempdir().unwrap();
        let gate = gate(state.path());
        gate.enrol(DEVICE, "device").unwrap();
        assert!(gate.reload().unwrap());
        revoke_elsewhere(state.path(), DEVICE);
        // The device proves the code anew before anybody reloads.
        assert!(matches!(gate.enrol(DEVICE, "device"), Err(EnrolError::Revoked)));
        assert!(gate.is_revoked(DEVICE));
        assert!(gate.reload().unwrap(), "connections must still be told");
        assert!(!gate.reload().unwrap());
    }

    #[test]
    fn a_revocation_that_another_devices_visit_read_is_in_force_and_reported() {
        let state = tempfile::tempdir().unwrap();
        let mut peers = Peers::open(state.path()).unwrap();
        for key in [DEVICE, OTHER] {
            // Seen long ago, so that the visit is written down.
            peers.enrol(PublicKey::from_raw(key.0), "device", 0).unwrap();
        }
        let gate = gate(state.path());
        revoke_elsewhere(state.path(), DEVICE);
        gate.on_connected(OTHER).unwrap();
        assert!(gate.is_revoked(DEVICE));
        assert!(!gate.is_revoked(OTHER));
        assert!(gate.reload().unwrap(), "connections must still be told");
    }
}
