//! What a running service tells its owner.

use serde::Serialize;
use std::net::SocketAddr;
use std::path::PathBuf;

/// One thing that happened in a host or a mount, in the order it happened.
///
/// Serialized as `{"type":"HostStarted","data":{…}}`, one object a line: a stable interface for scripts.
#[derive(Debug, Clone, Serialize, PartialEq)]
#[serde(tag = "type", content = "data")]
pub enum ServiceEvent {
    /// The host listens.
    HostStarted { path: PathBuf, address: SocketAddr, shards: u16, io: String, name: String },
    /// A client may join with this code; sent again when the code changed.
    WaitingForPeer { code: String, link: String },
    /// A device came in. `enrolled` is true the first time.
    PeerConnected { peer: String, name: String, address: SocketAddr, enrolled: bool },
    /// A device left or was lost.
    PeerDisconnected { peer: String, reason: String },
    /// A device was refused; nothing was told to it.
    PeerRefused { address: SocketAddr, reason: String },
    /// The folder is mounted.
    MountReady { mountpoint: PathBuf, address: SocketAddr, host: String, share: String },
    /// The host cannot be reached; calls wait or fail until `HostBack`.
    HostLost { reason: String },
    /// The host is back; the mount goes on.
    HostBack { address: SocketAddr },
    /// Something a person should know that does not end the service.
    Warning { message: String },
    /// The service ends because of this.
    Error { message: String },
    /// The service has ended; nothing is left mounted or listening.
    Stopped { reason: String },
}
