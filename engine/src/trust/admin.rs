//! The trust store as programs use it: this process's folders, the devices as records.

use super::paths::{self, PathsError};
use super::{Peer, PeerState, Peers, SelectError, StoreError};
use crate::error::{EngineError, ErrorKind};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A device that has joined this machine's host.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PeerRecord {
    /// Its key's fingerprint.
    pub fingerprint: String,
    /// The name it gave itself.
    pub name: String,
    /// Seconds since 1970.
    pub first_seen_s: u64,
    /// Seconds since 1970.
    pub last_seen_s: u64,
    /// It may not come in any more.
    pub revoked: bool,
}

impl From<&Peer> for PeerRecord {
    fn from(peer: &Peer) -> Self {
        Self {
            fingerprint: peer.key.to_string(),
            name: peer.name.clone(),
            first_seen_s: peer.first_seen,
            last_seen_s: peer.last_seen,
            revoked: peer.state == PeerState::Revoked,
        }
    }
}

fn env(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

fn located(found: Result<PathBuf, PathsError>) -> Result<PathBuf, EngineError> {
    found.map_err(|error| EngineError::new(ErrorKind::Failed, error.to_string()))
}

fn stored(error: StoreError) -> EngineError {
    EngineError::new(ErrorKind::Failed, error.to_string())
}

/// Where keys and devices are kept.
///
/// # Errors
/// When the environment names no place; says what to set.
pub fn state_dir() -> Result<PathBuf, EngineError> {
    located(paths::state_dir(env))
}

/// Where the configuration is kept.
///
/// # Errors
/// As [`state_dir`].
pub fn config_dir() -> Result<PathBuf, EngineError> {
    located(paths::config_dir(env))
}

/// Where control sockets live; created where it is missing.
///
/// # Errors
/// As [`state_dir`], and when the folder belongs to somebody else.
pub fn runtime_dir() -> Result<PathBuf, EngineError> {
    located(paths::runtime_dir(env))
}

/// Every device that has joined.
///
/// # Errors
/// When the list cannot be read.
pub fn list_peers(state_dir: &Path) -> Result<Vec<PeerRecord>, EngineError> {
    Ok(Peers::open(state_dir).map_err(stored)?.iter().map(PeerRecord::from).collect())
}

/// Keeps a device out from now on; `which` is its name or the beginning of its fingerprint. A running host notices
/// within a second, or at once where it is told to reload.
///
/// # Errors
/// `NotFound` for a device that is not there, `Usage` for a name that several have.
pub fn revoke_peer(state_dir: &Path, which: &str) -> Result<PeerRecord, EngineError> {
    let mut peers = Peers::open(state_dir).map_err(stored)?;
    let key = selected(&peers, which)?.key;
    peers.revoke(&key).map_err(stored)?;
    Ok(PeerRecord::from(peers.peer(&key).expect("revoked just now")))
}

/// Drops all memory of a device, a revocation included: it may join again, by the code. One that is inside stays until
/// it leaves. Returns what was remembered.
///
/// # Errors
/// As [`revoke_peer`].
pub fn forget_peer(state_dir: &Path, which: &str) -> Result<PeerRecord, EngineError> {
    let mut peers = Peers::open(state_dir).map_err(stored)?;
    let peer = selected(&peers, which)?.clone();
    peers.forget(&peer.key).map_err(stored)?;
    Ok(PeerRecord::from(&peer))
}

fn selected<'a>(peers: &'a Peers, which: &str) -> Result<&'a Peer, EngineError> {
    peers.select(which).map_err(|error| {
        let kind = match error {
            SelectError::Nobody => ErrorKind::NotFound,
            SelectError::Several => ErrorKind::Usage,
        };
        EngineError::new(kind, error.to_string())
    })
}
