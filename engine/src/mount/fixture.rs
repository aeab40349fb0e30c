//! What the mount's unit tests share: a client that no host has answered.

use crate::client::{Client, ClientOptions};
use crate::trust::NodeKey;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use transport::tuning::Tuning;
use transport::{Identity, Node, NodeOptions, Role};

/// The bound on the client's calls.
pub(super) const TIMEOUT: Duration = Duration::from_secs(1);

/// A client whose calls wait for a host that was never heard.
pub(super) fn unheard(now: Instant) -> (Client, Node) {
    let key = NodeKey::generate().unwrap();
    let identity = Identity::from_pkcs8(key.pkcs8_der()).unwrap();
    let tuning = Tuning::default();
    let options =
        NodeOptions { identity: &identity, role: Role::Client, tuning, shard: 0, shards: 1, seed: Some([7; 32]) };
    let client = ClientOptions {
        addresses: vec!["127.0.0.1:1".parse().unwrap()],
        code: None,
        device: String::new(),
        key: identity.public(),
        trusted: Vec::new(),
        known_at: BTreeMap::new(),
        timeout: TIMEOUT,
    };
    (Client::new(now, client), Node::new(options).unwrap())
}
