//! The hosts that this node has joined, and where they were.

use std::path::Path;

use serde::{Deserialize, Serialize};
use signal::HostAddress;

use super::node_key::PublicKey;
use super::store::{NAME_BYTES_MAX, Store, StoreError, Table, UnixSeconds, clean_name};

/// Name of the file within the state folder.
const FILE_NAME: &str = "known_hosts.json";

/// Most hosts remembered; above it the one not seen for longest makes room.
pub const KNOWN_HOSTS_MAX: usize = 1024;

/// Most addresses remembered for one host, the latest first: its interfaces in both families.
pub const KNOWN_HOST_ADDRESSES_MAX: usize = 8;

/// A host that this node has enrolled with; its key is enough from then on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownHost {
    /// Its identity.
    pub key: PublicKey,
    /// What it called itself, cleaned; at most [`NAME_BYTES_MAX`] bytes and possibly empty.
    pub name: String,
    /// Where it was reached, the latest first.
    #[serde(with = "address_list")]
    pub addresses: Vec<HostAddress>,
    /// When it was last reached.
    pub last_seen: UnixSeconds,
}

/// The hosts of `known_hosts.json`.
///
/// An address belongs to one host at most: the one that last proved itself there.
pub struct KnownHosts {
    store: Store<HostTable>,
}

impl KnownHosts {
    /// Opens the list of the state folder, which is made if needed.
    ///
    /// # Errors
    /// A [`StoreError`] that names the file.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        Ok(Self { store: Store::open(state_dir, FILE_NAME)? })
    }

    /// Reads the file again if another process changed it; says whether it did.
    ///
    /// # Errors
    /// A [`StoreError`]; what was read before stays in force.
    pub fn reload_if_changed(&mut self) -> Result<bool, StoreError> {
        self.store.reload_if_changed()
    }

    /// The host with this key.
    pub fn by_key(&self, key: &PublicKey) -> Option<&KnownHost> {
        self.iter().find(|host| host.key == *key)
    }

    /// The host that must answer at this address. Another key there means another machine, or
    /// somebody in between: ask for a join code again.
    pub fn by_address(&self, address: &HostAddress) -> Option<&KnownHost> {
        self.iter().find(|host| host.addresses.contains(address))
    }

    /// All hosts, the one reached last first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &KnownHost> {
        self.store.table().hosts.iter()
    }

    /// Notes that a host proved itself at an address, by join code or by its known key.
    ///
    /// # Errors
    /// A [`StoreError`].
    pub fn on_reached(
        &mut self,
        key: PublicKey,
        name: &str,
        address: &HostAddress,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        self.store.update(|table| {
            for host in &mut table.hosts {
                host.addresses.retain(|known| known != address);
            }
            let at = table.hosts.iter().position(|host| host.key == key);
            let mut host = match at {
                Some(at) => table.hosts.remove(at),
                None => KnownHost { key, name: String::new(), addresses: Vec::new(), last_seen: 0 },
            };
            host.name = clean_name(name);
            host.addresses.insert(0, address.clone());
            host.addresses.truncate(KNOWN_HOST_ADDRESSES_MAX);
            host.last_seen = host.last_seen.max(now);
            table.hosts.insert(0, host);
            table.hosts.truncate(KNOWN_HOSTS_MAX);
            Ok(())
        })
    }

    /// Drops all memory of a host; says whether there was any.
    ///
    /// # Errors
    /// A [`StoreError`].
    pub fn forget(&mut self, key: &PublicKey) -> Result<bool, StoreError> {
        self.store.update(|table| {
            let before = table.hosts.len();
            table.hosts.retain(|host| host.key != *key);
            Ok(table.hosts.len() < before)
        })
    }
}

/// What the file holds, the host reached last first.
#[derive(Clone, Default, Serialize, Deserialize)]
struct HostTable {
    hosts: Vec<KnownHost>,
}

impl Table for HostTable {
    fn check(&self) -> Result<(), String> {
        if self.hosts.len() > KNOWN_HOSTS_MAX {
            return Err(format!("it holds more than {KNOWN_HOSTS_MAX} hosts"));
        }
        let mut keys = std::collections::BTreeSet::new();
        let mut addresses = std::collections::BTreeSet::new();
        for host in &self.hosts {
            let key = host.key.to_hex();
            if !keys.insert(host.key) {
                return Err(format!("the key {key} appears twice"));
            }
            if host.name != clean_name(&host.name) {
                return Err(format!(
                    "the name of {key} is longer than {NAME_BYTES_MAX} bytes or holds control characters"
                ));
            }
            if host.addresses.len() > KNOWN_HOST_ADDRESSES_MAX {
                return Err(format!("{key} has more than {KNOWN_HOST_ADDRESSES_MAX} addresses"));
            }
            if let Some(twice) = host.addresses.iter().find(|address| !addresses.insert(*address)) {
                return Err(format!("the address {twice} appears twice"));
            }
        }
        Ok(())
    }
}

/// Addresses on disk are text, `HOST:PORT`.
mod address_list {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};
    use signal::HostAddress;

    pub(super) fn serialize<S: Serializer>(addresses: &[HostAddress], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(addresses.iter().map(HostAddress::to_string))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<HostAddress>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
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

    fn address(text: &str) -> HostAddress {
        text.parse().unwrap()
    }

    #[test]
    fn hosts_are_found_by_key_and_by_address_after_a_restart() {
        let root = tempfile::tempdir().unwrap();
        let mut hosts = KnownHosts::open(root.path()).unwrap();
        hosts.on_reached(key(1), "studio", &address("studio"), 10).unwrap();
        hosts.on_reached(key(2), "attic", &address("[fd00::1]:99"), 20).unwrap();
        hosts.on_reached(key(1), "studio\n", &address("10.0.0.1"), 30).unwrap();
        let hosts = KnownHosts::open(root.path()).unwrap();
        let studio = hosts.by_key(&key(1)).unwrap();
        assert_eq!(studio.addresses, [address("10.0.0.1:4433"), address("studio:4433")]);
        assert_eq!((studio.name.as_str(), studio.last_seen), ("studio", 30));
        assert_eq!(hosts.by_address(&address("STUDIO")).unwrap().key, key(1));
        assert_eq!(hosts.by_address(&address("[fd00::1]:99")).unwrap().key, key(2));
        assert_eq!(hosts.by_address(&address("[fd00::1]")), None);
        assert_eq!(hosts.by_key(&key(3)), None);
        assert!(hosts.iter().map(|host| host.key).eq([key(1), key(2)]));
    }

    #[test]
    fn an_address_belongs_to_the_host_that_proved_itself_there_last() {
        let root = tempfile::tempdir().unwrap();
        let mut hosts = KnownHosts::open(root.path()).unwrap();
        hosts.on_reached(key(1), "old", &address("studio"), 10).unwrap();
        hosts.on_reached(key(2), "new", &address("studio"), 20).unwrap();
        assert_eq!(hosts.by_address(&address("studio")).unwrap().key, key(2));
        assert!(hosts.by_key(&key(1)).unwrap().addresses.is_empty());
        assert!(hosts.forget(&key(2)).unwrap());
        assert!(!hosts.forget(&key(2)).unwrap());
        assert_eq!(hosts.by_address(&address("studio")), None);
    }

    #[test]
    fn both_lists_are_bounded_and_the_oldest_gives_way() {
        let root = tempfile::tempdir().unwrap();
        let mut hosts = KnownHosts::open(root.path()).unwrap();
        for port in 1..=KNOWN_HOST_ADDRESSES_MAX as u16 + 1 {
            hosts.on_reached(key(1), "", &address(&format!("h:{port}")), 1).unwrap();
        }
        assert_eq!(hosts.by_key(&key(1)).unwrap().addresses.len(), KNOWN_HOST_ADDRESSES_MAX);
        assert_eq!(hosts.by_address(&address("h:1")), None);

        let host = |n: u16| KnownHost { key: key(n), name: String::new(), addresses: Vec::new(), last_seen: 1 };
        let full: Vec<KnownHost> = (0..KNOWN_HOSTS_MAX as u16).map(host).collect();
        let text = serde_json::json!({
            "version": 1,
            "hosts": full.iter().map(|h| serde_json::to_value(h).unwrap()).collect::<Vec<_>>(),
        });
        fs::write(root.path().join("known_hosts.json"), text.to_string()).unwrap();
        let new = key(u16::MAX);
        hosts.on_reached(new, "", &address("n"), 2).unwrap();
        assert_eq!(hosts.iter().len(), KNOWN_HOSTS_MAX);
        assert!(hosts.by_key(&new).is_some() && hosts.by_key(&key(0)).is_some());
        assert!(hosts.by_key(&key(KNOWN_HOSTS_MAX as u16 - 1)).is_none());
    }

    #[test]
    fn damaged_files_are_named_and_kept() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("known_hosts.json");
        let host = |n: u16, address: &str| {
            let key = key(n).to_hex();
            format!(r#"{{"key":"{key}","name":"x","addresses":["{address}"],"last_seen":1}}"#)
        };
        let file = |hosts: &[String]| format!(r#"{{"version":1,"hosts":[{}]}}"#, hosts.join(","));
        for damaged in [
            "null".to_owned(),
            file(&[host(1, "a:0")]),
            file(&[host(1, "a"), host(1, "b")]),
            file(&[host(1, "a"), host(2, "a:4433")]),
        ] {
            fs::write(&path, &damaged).unwrap();
            let refused = KnownHosts::open(root.path()).err().expect("must be refused");
            assert!(refused.to_string().contains("known_hosts.json"), "{damaged}");
            assert_eq!(fs::read_to_string(&path).unwrap(), damaged);
        }
        fs::write(&path, file(&[host(1, "a"), host(2, "b")])).unwrap();
        assert_eq!(KnownHosts::open(root.path()).unwrap().iter().len(), 2);
    }

    #[test]
    fn writers_side_by_side_lose_nothing() {
        let root = tempfile::tempdir().unwrap();
        thread::scope(|scope| {
            for number in 0..4 {
                let dir = root.path();
                scope.spawn(move || {
                    let mut hosts = KnownHosts::open(dir).unwrap();
                    for port in 1..=KNOWN_HOST_ADDRESSES_MAX {
                        let at = address(&format!("h{number}:{port}"));
                        hosts.on_reached(key(number), "x", &at, 1).unwrap();
                    }
                });
            }
        });
        let mut hosts = KnownHosts::open(root.path()).unwrap();
        assert!(!hosts.reload_if_changed().unwrap());
        assert_eq!(hosts.iter().len(), 4);
        assert!(hosts.iter().all(|host| host.addresses.len() == KNOWN_HOST_ADDRESSES_MAX));
    }
}
