//! The devices that this node's host lets in.
//!
//! ```text
//!            enrol                revoke
//!   Unknown ────────▶ Enrolled ───────────▶ Revoked
//!      ▲                  │                    │
//!      └──────────────────┴────── forget ──────┘
//! ```
//!
//! A revoked device stays out even with a valid join code, until it is forgotten: somebody who may
//! still read the code out must not undo a revocation by accident.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::node_key::PublicKey;
use super::store::{NAME_BYTES_MAX, Store, StoreError, Table, UnixSeconds, clean_name};

/// Name of the file within the state folder.
const FILE_NAME: &str = "peers.json";

/// Most devices a host remembers, revoked ones included: a large render farm several times over, in
/// a file that is still read in milliseconds.
pub const PEERS_MAX: usize = 4096;

/// Step in which `last_seen` is kept. Devices that come and go cost one write in this time each.
pub const LAST_SEEN_STEP_SECS: u64 = 60;

/// Fewest fingerprint digits that select a device.
const SELECTOR_DIGITS_MIN: usize = 4;

/// Whether a remembered device may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerState {
    /// It proved a join code once; its key is enough now.
    Enrolled,
    /// The owner of the host shut it out.
    Revoked,
}

/// A device that the host remembers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its identity.
    pub key: PublicKey,
    /// What it called itself, cleaned; at most [`NAME_BYTES_MAX`] bytes and possibly empty.
    pub name: String,
    /// When it enrolled.
    pub first_seen: UnixSeconds,
    /// When it last connected, within [`LAST_SEEN_STEP_SECS`].
    pub last_seen: UnixSeconds,
    /// Whether it may come in.
    pub state: PeerState,
}

/// What a host knows about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Never seen or forgotten: it must prove a join code.
    Unknown,
    /// Let it in.
    Enrolled,
    /// Refuse it, whatever it proves.
    Revoked,
}

/// The devices of `peers.json`.
///
/// Ask: `standing`, `select`, `iter`; these answer from memory as of the last change or reload.
/// Order: the others; each works on what the file holds at that moment and blocks on it.
pub struct Peers {
    store: Store<PeerTable>,
}

impl Peers {
    /// Opens the list of the state folder, which is made if needed.
    ///
    /// # Errors
    /// A [`StoreError`] that names the file.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        Ok(Self { store: Store::open(state_dir, FILE_NAME)? })
    }

    /// Reads the file again if another process changed it; says whether it did. Costs one `stat`
    /// otherwise, so a host may call it for each device that connects.
    ///
    /// # Errors
    /// A [`StoreError`]; what was read before stays in force.
    pub fn reload_if_changed(&mut self) -> Result<bool, StoreError> {
        self.store.reload_if_changed()
    }

    /// Whether a device may come in.
    pub fn standing(&self, key: &PublicKey) -> Standing {
        match self.peer(key).map(|peer| peer.state) {
            None => Standing::Unknown,
            Some(PeerState::Enrolled) => Standing::Enrolled,
            Some(PeerState::Revoked) => Standing::Revoked,
        }
    }

    /// What is remembered about a device.
    pub fn peer(&self, key: &PublicKey) -> Option<&Peer> {
        self.store.table().peers.get(key)
    }

    /// All devices in order of their keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Peer> {
        self.store.table().peers.values()
    }

    /// Finds the one device that a person means: by its whole name, its key in hexadecimal, or four
    /// or more leading digits of its fingerprint, dashes or not.
    ///
    /// # Errors
    /// A [`SelectError`] when it is none or several.
    pub fn select(&self, selector: &str) -> Result<&Peer, SelectError> {
        let digits = selector.replace('-', "").to_ascii_lowercase();
        let means = |peer: &&Peer| {
            peer.name == selector
                || peer.key.to_hex() == digits
                || (digits.len() >= SELECTOR_DIGITS_MIN && peer.key.fingerprint_hex().starts_with(&digits))
        };
        let mut found = self.iter().filter(means);
        match (found.next(), found.next()) {
            (None, _) => Err(SelectError::Nobody),
            (Some(peer), None) => Ok(peer),
            (Some(_), Some(_)) => Err(SelectError::Several),
        }
    }

    /// Lets a device in that has just proved the join code; one that is enrolled gets its new name.
    ///
    /// # Errors
    /// [`EnrolError::Revoked`] for a device that was shut out, [`EnrolError::Full`] at
    /// [`PEERS_MAX`], or a store error. Nothing changes then.
    pub fn enrol(&mut self, key: PublicKey, name: &str, now: UnixSeconds) -> Result<(), EnrolError> {
        self.store.update(|table| {
            let full = table.peers.len() >= PEERS_MAX;
            if let Some(peer) = table.peers.get_mut(&key) {
                if peer.state == PeerState::Revoked {
                    return Err(EnrolError::Revoked);
                }
                peer.name = clean_name(name);
                peer.last_seen = peer.last_seen.max(now);
                return Ok(());
            }
            if full {
                return Err(EnrolError::Full);
            }
            let (name, state) = (clean_name(name), PeerState::Enrolled);
            table.peers.insert(key, Peer { key, name, first_seen: now, last_seen: now, state });
            Ok(())
        })
    }

    /// Notes that an enrolled device connected. Writes the file at most once in
    /// [`LAST_SEEN_STEP_SECS`] for each device; unknown and revoked ones leave no trace.
    ///
    /// # Errors
    /// A [`StoreError`].
    pub fn on_connected(&mut self, key: &PublicKey, now: UnixSeconds) -> Result<(), StoreError> {
        let due = |peer: &Peer| {
            peer.state == PeerState::Enrolled && now >= peer.last_seen.saturating_add(LAST_SEEN_STEP_SECS)
        };
        if !self.peer(key).is_some_and(due) {
            return Ok(());
        }
        self.store.update(|table| {
            if let Some(peer) = table.peers.get_mut(key).filter(|peer| due(peer)) {
                peer.last_seen = now;
            }
            Ok(())
        })
    }

    /// Shuts a device out until it is forgotten; says whether it was enrolled.
    ///
    /// A running host learns of it by [`Peers::reload_if_changed`] and must then end the device's
    /// connections.
    ///
    /// # Errors
    /// A [`StoreError`].
    pub fn revoke(&mut self, key: &PublicKey) -> Result<bool, StoreError> {
        self.store.update(|table| {
            let enrolled = table.peers.get_mut(key).filter(|p| p.state == PeerState::Enrolled);
            Ok(enrolled.map(|peer| peer.state = PeerState::Revoked).is_some())
        })
    }

    /// Drops all memory of a device, a revocation included; says whether there was any.
    ///
    /// # Errors
    /// A [`StoreError`].
    pub fn forget(&mut self, key: &PublicKey) -> Result<bool, StoreError> {
        self.store.update(|table| Ok(table.peers.remove(key).is_some()))
    }
}

/// Why a device that proved the join code is not let in.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// It was revoked and not forgotten since.
    #[error("this device was revoked; the host must forget it first (wormhole peers forget)")]
    Revoked,
    /// [`PEERS_MAX`] devices are remembered.
    #[error("the host remembers {PEERS_MAX} devices already; forget some (wormhole peers forget)")]
    Full,
    /// The list could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why words on the command line do not name one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// None matches.
    #[error("no device has this name or fingerprint; wormhole peers lists them")]
    Nobody,
    /// Several match.
    #[error("several devices match; give more of the fingerprint")]
    Several,
}

/// What the file holds: a list on disk, a map in memory.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(try_from = "PeerList", into = "PeerList")]
struct PeerTable {
    peers: BTreeMap<PublicKey, Peer>,
}

#[derive(Serialize, Deserialize)]
struct PeerList {
    peers: Vec<Peer>,
}

impl TryFrom<PeerList> for PeerTable {
    type Error = String;

    fn try_from(list: PeerList) -> Result<Self, String> {
        let mut peers = BTreeMap::new();
        for peer in list.peers {
            if let Some(twice) = peers.insert(peer.key, peer) {
                return Err(format!("the key {} appears twice", twice.key.to_hex()));
            }
        }
        Ok(Self { peers })
    }
}

impl From<PeerTable> for PeerList {
    fn from(table: PeerTable) -> Self {
        Self { peers: table.peers.into_values().collect() }
    }
}

impl Table for PeerTable {
    fn check(&self) -> Result<(), String> {
        if self.peers.len() > PEERS_MAX {
            return Err(format!("it holds more than {PEERS_MAX} devices"));
        }
        match self.peers.values().find(|peer| peer.name != clean_name(&peer.name)) {
            Some(peer) => Err(format!(
                "the name of {} is longer than {NAME_BYTES_MAX} bytes or holds control characters",
                peer.key.to_hex()
            )),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::thread;

    use super::*;

    fn key(number: u16) -> PublicKey {
        let mut raw = [0; 32];
        raw[..2].copy_from_slice(&number.to_be_bytes());
        PublicKey::from_raw(raw)
    }

    #[test]
    fn enrolled_devices_are_there_after_a_restart() {
        let root = tempfile::tempdir().unwrap();
        let mut peers = Peers::open(root.path()).unwrap();
        assert_eq!(peers.standing(&key(1)), Standing::Unknown);
        peers.enrol(key(1), "farm\u{7}01", 100).unwrap();
        peers.enrol(key(1), "farm02", 90).unwrap();
        let peers = Peers::open(root.path()).unwrap();
        assert_eq!(peers.standing(&key(1)), Standing::Enrolled);
        let kept = peers.peer(&key(1)).unwrap();
        assert_eq!((kept.name.as_str(), kept.first_seen, kept.last_seen), ("farm02", 100, 100));
        assert_eq!(peers.iter().len(), 1);
    }

    #[test]
    fn a_revoked_device_stays_out_until_it_is_forgotten() {
        let root = tempfile::tempdir().unwrap();
        let mut host = Peers::open(root.path()).unwrap();
        host.enrol(key(1), "farm01", 100).unwrap();

        let mut cli = Peers::open(root.path()).unwrap();
        assert!(cli.revoke(&key(1)).unwrap());
        assert!(!cli.revoke(&key(1)).unwrap());
        assert!(!cli.revoke(&key(2)).unwrap());

        // Even before it reloads, the running host cannot enrol it again.
        assert!(matches!(host.enrol(key(1), "farm01", 200), Err(EnrolError::Revoked)));
        assert_eq!(host.standing(&key(1)), Standing::Revoked);
        host.on_connected(&key(1), 10_000).unwrap();
        assert_eq!(host.peer(&key(1)).unwrap().last_seen, 100);

        assert!(cli.forget(&key(1)).unwrap());
        assert!(!cli.forget(&key(1)).unwrap());
        host.enrol(key(1), "farm01", 300).unwrap();
        assert_eq!(host.peer(&key(1)).unwrap().first_seen, 300);
    }

    #[test]
    fn a_running_host_sees_each_change_once() {
        let root = tempfile::tempdir().unwrap();
        let mut host = Peers::open(root.path()).unwrap();
        let mut cli = Peers::open(root.path()).unwrap();
        assert!(!host.reload_if_changed().unwrap());
        cli.enrol(key(1), "a", 1).unwrap();
        assert!(host.reload_if_changed().unwrap());
        assert!(!host.reload_if_changed().unwrap());
        // Same size and, on a coarse clock, the same time: only the inode differs.
        for name in ["b", "c", "d", "e"] {
            cli.enrol(key(1), name, 1).unwrap();
            assert!(host.reload_if_changed().unwrap());
            assert_eq!(host.peer(&key(1)).unwrap().name, name);
        }
        cli.revoke(&key(1)).unwrap();
        assert!(host.reload_if_changed().unwrap());
        assert_eq!(host.standing(&key(1)), Standing::Revoked);
        fs::remove_file(root.path().join("peers.json")).unwrap();
        assert!(host.reload_if_changed().unwrap());
        assert_eq!(host.standing(&key(1)), Standing::Unknown);
    }

    #[test]
    fn writers_side_by_side_lose_nothing() {
        const WRITERS: u16 = 4;
        const EACH: u16 = 10;
        let root = tempfile::tempdir().unwrap();
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                let dir = root.path();
                scope.spawn(move || {
                    let mut peers = Peers::open(dir).unwrap();
                    for number in 0..EACH {
                        peers.enrol(key(writer * EACH + number), "x", 1).unwrap();
                    }
                });
            }
        });
        let peers = Peers::open(root.path()).unwrap();
        assert_eq!(peers.iter().len(), usize::from(WRITERS * EACH));
    }

    #[test]
    fn last_seen_is_written_in_steps() {
        let root = tempfile::tempdir().unwrap();
        let mut peers = Peers::open(root.path()).unwrap();
        let mut watcher = Peers::open(root.path()).unwrap();
        peers.enrol(key(1), "x", 1000).unwrap();
        assert!(watcher.reload_if_changed().unwrap());
        peers.on_connected(&key(1), 1000 + LAST_SEEN_STEP_SECS - 1).unwrap();
        peers.on_connected(&key(2), 5000).unwrap();
        assert!(!watcher.reload_if_changed().unwrap());
        peers.on_connected(&key(1), 1000 + LAST_SEEN_STEP_SECS).unwrap();
        assert!(watcher.reload_if_changed().unwrap());
        assert_eq!(watcher.peer(&key(1)).unwrap().last_seen, 1000 + LAST_SEEN_STEP_SECS);
    }

    #[test]
    fn damaged_files_are_named_and_kept() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("peers.json");
        let hex = key(1).to_hex();
        let peer = format!(r#"{{"key":"{hex}","name":"x","first_seen":1,"last_seen":1,"state":"enrolled"}}"#);
        let file = |peers: &str| format!(r#"{{"version":1,"peers":[{peers}]}}"#);
        let good = file(&peer);
        for damaged in [
            String::new(),
            "{}".to_owned(),
            good[..good.len() / 2].to_owned(),
            file(&format!("{peer},{peer}")),
            file(&peer.replace("enrolled", "admin")),
            file(&peer.replace("\"x\"", "\"\\u001b\"")),
            file(&peer.replace(&hex, &hex[2..])),
            good.replace("\"version\":1,", "\"version\":1,\"extra\":1,"),
        ] {
            fs::write(&path, &damaged).unwrap();
            let refused = Peers::open(root.path()).err().expect("must be refused");
            assert!(matches!(&refused, StoreError::Corrupt { path: named, .. } if *named == path), "{damaged}");
            assert!(refused.to_string().contains("peers.json"));
            assert_eq!(fs::read_to_string(&path).unwrap(), damaged);
        }
        fs::write(&path, &good).unwrap();
        let mut host = Peers::open(root.path()).unwrap();

        // Damage under a running host: it keeps what it knew and does not write over the file.
        fs::write(&path, "{").unwrap();
        assert!(matches!(host.reload_if_changed(), Err(StoreError::Corrupt { .. })));
        assert!(matches!(host.revoke(&key(1)), Err(StoreError::Corrupt { .. })));
        assert_eq!(host.standing(&key(1)), Standing::Enrolled);
        assert_eq!(fs::read_to_string(&path).unwrap(), "{");

        fs::write(&path, r#"{"version":2,"devices":{}}"#).unwrap();
        assert!(matches!(Peers::open(root.path()), Err(StoreError::Newer { found: 2, .. })));
    }

    #[test]
    fn a_full_list_takes_no_more() {
        let root = tempfile::tempdir().unwrap();
        let state = PeerState::Enrolled;
        let list = |count: usize| {
            let peer = |n: u16| Peer { key: key(n), name: String::new(), first_seen: 1, last_seen: 1, state };
            let peers: Vec<Peer> = (0..count).map(|n| peer(n as u16)).collect();
            serde_json::json!({ "version": 1, "peers": peers }).to_string()
        };
        fs::write(root.path().join("peers.json"), list(PEERS_MAX)).unwrap();
        let mut peers = Peers::open(root.path()).unwrap();
        let new = key(u16::MAX);
        assert!(matches!(peers.enrol(new, "x", 1), Err(EnrolError::Full)));
        peers.enrol(key(0), "known", 1).unwrap();
        peers.forget(&key(0)).unwrap();
        peers.enrol(new, "x", 1).unwrap();

        fs::write(root.path().join("peers.json"), list(PEERS_MAX + 1)).unwrap();
        assert!(matches!(peers.reload_if_changed(), Err(StoreError::Corrupt { .. })));
    }

    #[test]
    fn a_device_is_selected_by_name_key_or_fingerprint() {
        let root = tempfile::tempdir().unwrap();
        let mut peers = Peers::open(root.path()).unwrap();
        for (number, name) in [(1, "farm"), (2, "farm"), (3, "desk")] {
            peers.enrol(key(number), name, 1).unwrap();
        }
        let fingerprint = key(1).to_string();
        for selector in [&fingerprint, &fingerprint[..9].to_uppercase(), &key(1).to_hex()] {
            assert_eq!(peers.select(selector).unwrap().key, key(1), "{selector}");
        }
        assert_eq!(peers.select("desk").unwrap().key, key(3));
        assert_eq!(peers.select("farm"), Err(SelectError::Several));
        assert_eq!(peers.select(&fingerprint[..3]), Err(SelectError::Nobody));
        assert_eq!(peers.select(""), Err(SelectError::Nobody));
    }
}
