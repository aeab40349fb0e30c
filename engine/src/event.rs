//! What a running service tells its owner.

use crossbeam_channel::Sender;
use serde::Serialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// One thing that happened in a host or a mount, in the order it happened.
///
/// Serialized as `{"type":"HostStarted","data":{…}}`, one object a line: a stable interface for scripts.
#[derive(Debug, Clone, Serialize, PartialEq)]
#[serde(tag = "type", content = "data")]
pub enum ServiceEvent {
    /// The host listens.
    HostStarted {
        /// The folder served.
        path: PathBuf,
        /// The address in use.
        address: SocketAddr,
        /// Number of shards.
        shards: u16,
        /// The I/O backend: `uring` or `poll`.
        io: String,
        /// The display name.
        name: String,
    },
    /// A client may join with this code; sent again when the code was replaced.
    WaitingForPeer {
        /// The join code.
        code: String,
        /// The join link.
        link: String,
    },
    /// A device came in. `enrolled` is true the first time.
    PeerConnected {
        /// The device's key, as its fingerprint.
        peer: String,
        /// The display name.
        name: String,
        /// The address in use.
        address: SocketAddr,
        /// True when the device was enrolled just now.
        enrolled: bool,
    },
    /// A device left or was lost.
    PeerDisconnected {
        /// The device's key, as its fingerprint.
        peer: String,
        /// Why, for people.
        reason: String,
    },
    /// A device was refused; nothing was told to it.
    PeerRefused {
        /// The address in use.
        address: SocketAddr,
        /// Why, for people.
        reason: String,
    },
    /// The folder is mounted.
    MountReady {
        /// Where.
        mountpoint: PathBuf,
        /// The address in use.
        address: SocketAddr,
        /// The host's display name.
        host: String,
        /// The share's display name.
        share: String,
    },
    /// The host cannot be reached; calls wait or fail until `HostBack`.
    HostLost {
        /// Why, for people.
        reason: String,
    },
    /// The host is back; the mount goes on.
    HostBack {
        /// The address in use.
        address: SocketAddr,
    },
    /// Something a person should know that does not end the service.
    Warning {
        /// For people.
        message: String,
    },
    /// The service ends because of this.
    Error {
        /// For people.
        message: String,
    },
    /// The service has ended, always the last event; nothing is left mounted or listening.
    Stopped {
        /// Why, for people.
        reason: String,
    },
}

/// How long a service that has ended waits for a reader that does not keep up before it drops its last word.
const LAST_WORD_PATIENCE: Duration = Duration::from_secs(1);

/// Says that a service has ended: the one event that is worth waiting for room.
pub(crate) fn tell_last(events: &Sender<ServiceEvent>, reason: String) {
    if events.send_timeout(ServiceEvent::Stopped { reason }, LAST_WORD_PATIENCE).is_err() {
        tracing::debug!("nobody reads the events any more");
    }
}
