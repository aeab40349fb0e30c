//! What a running service tells its owner.

use crossbeam_channel::Sender;
use serde::Serialize;
use std::fmt;
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
    WaitingForPeer(Invitation),
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

/// How a device may join; whoever reads it may come in, so `Debug` does not show it.
#[derive(Clone, Serialize, PartialEq)]
pub struct Invitation {
    /// The join code.
    pub code: String,
    /// The join link.
    pub link: String,
}

impl fmt::Debug for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invitation").finish_non_exhaustive()
    }
}

/// How long a service that has ended waits for a reader that does not keep up before it drops its last word.
const LAST_WORD_PATIENCE: Duration = Duration::from_secs(1);

/// Says that a service has ended: the one event that is worth waiting for room.
pub(crate) fn tell_last(events: &Sender<ServiceEvent>, reason: String) {
    if events.send_timeout(ServiceEvent::Stopped { reason }, LAST_WORD_PATIENCE).is_err() {
        tracing::debug!("nobody reads the events any more");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invitation_is_told_and_not_shown() {
        let link = "wormhole://join/7-nebula-orbit-cedar".to_owned();
        let event = ServiceEvent::WaitingForPeer(Invitation { code: "7-nebula-orbit-cedar".into(), link });
        assert!(!format!("{event:?}").contains("nebula"));
        assert_eq!(
            serde_json::to_value(&event).unwrap(),
            serde_json::json!({"type": "WaitingForPeer", "data": {
                "code": "7-nebula-orbit-cedar", "link": "wormhole://join/7-nebula-orbit-cedar",
            }})
        );
    }
}
