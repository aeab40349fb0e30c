//! Wire protocol v1: what the two ends say to each other once QUIC carries them.
//!
//! One control stream per connection, opened first by the client: hello, proof, one-way notices. One short
//! bidirectional stream per request: the client writes one [`Request`] frame and finishes; the host answers one
//! [`Response`] frame, raw bytes behind it where the answer carries data, and finishes.
//!
//! ```text
//!   0       4       6       8                      8+length
//!   ├───────┼───────┼───────┼──────────────────────┤
//!   │length │ kind  │ zero  │ body: rkyv, validated│   little endian, bodies need no alignment
//!   └───────┴───────┴───────┴──────────────────────┘
//! ```
//!
//! Everything read from a peer passes [`Frames`] (lengths), rkyv's validation (structure) and `check` (limits), in that
//! order, before anybody sees it. An unknown kind is its own error: a newer peer, not a broken one.

mod frame;
mod limits;
mod message;

pub use frame::{Frames, Message, WireError, encode};
pub use limits::*;
pub use message::{Attr, Control, Entry, FileId, Kind, Refusal, Request, Response, StatFs, Timestamp};

/// The oldest protocol version spoken here.
pub const VERSION_MIN: u16 = 1;
/// The newest protocol version spoken here.
pub const VERSION_MAX: u16 = 1;

/// Application error codes of streams and connections (RFC 9000 §20.2).
pub mod code {
    /// Nothing went wrong: done, or shutting down.
    pub const NONE: u32 = 0;
    /// The peer broke the Wormhole protocol.
    pub const PROTOCOL: u32 = 1;
    /// The peer may not enter.
    pub const REFUSED: u32 = 2;
    /// A message of a kind this end does not know.
    pub const UNSUPPORTED: u32 = 3;
    /// The bytes being sent changed under the sender: the file was truncated. Ask again.
    pub const STALE: u32 = 4;
    /// The bytes being sent could not be read on.
    pub const IO: u32 = 5;
    /// The request is not wanted any more.
    pub const CANCELLED: u32 = 6;
    /// The node is going away.
    pub const SHUTDOWN: u32 = 7;
    /// The peer's key was revoked while connected.
    pub const REVOKED: u32 = 8;
}
