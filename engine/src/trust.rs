//! Whom this node trusts, on disk: its own key, the devices it has let in, the hosts it has joined.
//!
//! ```text
//!   $STATE/node.key          our Ed25519 key pair            NodeKey
//!   $STATE/peers.json        devices enrolled with our host  Peers
//!   $STATE/known_hosts.json  hosts we have enrolled with     KnownHosts
//!   $STATE/*.lock            taken while one of them changes
//! ```
//!
//! Every change happens under a lock, on what the file holds at that moment, and arrives by renaming
//! a finished file: programs side by side lose nothing of each other's, and a crash leaves the old
//! file or the new one. A damaged file is an error that names it and is never replaced by an empty
//! one. Calls block on locks and `fsync`, so they belong on the control thread, never on a shard.
//!
//! Read [`node_key`], then [`peers`]; [`paths`] says where all this is.

mod admin;
pub mod known_hosts;
pub mod node_key;
pub mod paths;
pub mod peers;
mod store;

pub use admin::{PeerRecord, config_dir, forget_peer, list_peers, revoke_peer, runtime_dir, state_dir};
pub use known_hosts::{KnownHost, KnownHosts};
pub use node_key::{NodeKey, NodeKeyError, PublicKey, PublicKeyError};
pub use paths::PathsError;
pub use peers::{EnrolError, Peer, PeerState, Peers, SelectError, Standing};
pub use store::{NAME_BYTES_MAX, StoreError, UnixSeconds, clean_name, unix_now};
