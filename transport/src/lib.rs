//! Drives QUIC (quinn-proto) and speaks the Wormhole wire protocol, without a socket, a clock or a thread of its own.
//!
//! Time, datagrams and seeds come in as arguments; datagrams, events and deadlines go out. The engine's shards and the
//! simulator in `tests` drive the very same [`Node`].
//!
//! ```text
//!   datagrams ── handle_datagrams ─▶ ┌──────┐ ── poll_transmit ─▶ datagrams
//!   streams  ─── write, read ──────▶ │ Node │ ── poll_event ────▶ engine (host service, client)
//!   the clock ── handle_timeout ───▶ └──────┘ ── poll_timeout ──▶ when to wake
//! ```
//!
//! Read [`node`] for the driving, [`tls`] for who is talking, [`wire`] for what is said, [`tuning`] for the numbers a
//! LAN wants. The bytes are drawn in `docs/format-wire.md`.
//!
//! **Never here:** sockets, clocks, files, threads, rings; no unauthenticated mode.

mod cid;
pub mod node;
pub mod tls;
pub mod tuning;
pub mod wire;

pub use node::{
    CONNECTIONS_MAX, CloseReason, Closed, ConnId, ConnectError, Connection, Event, Inbound, Node, NodeOptions,
    ReadOutcome, Role, StreamError, StreamId, Transmit,
};
pub use tls::{Identity, PeerKey, TlsError};
