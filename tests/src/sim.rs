//! A host, clients and strangers in one thread, on a network and a clock that are made up.
//!
//! ```text
//!   seeds ──▶ World ── step ──▶ Net ── datagrams due ──▶ HostEnd    (engine's HostService, a Node, jobs, file reads)
//!               │                ▲                       ClientEnd  (engine's Client, a Node, what it was told)
//!               └─ the clock     └───── trains cut up ── RawEnd     (a Node that says whatever a test likes)
//!                                          Impostor   (a Node that answers where the host was to be)
//! ```
//!
//! Read `seeds` for how a scenario is run, `weather` and `net` for what may happen to a datagram, `world` for the loop.
//! The crate's front page says how to replay a failure.

mod client;
mod folder;
mod host;
mod impostor;
mod net;
mod raw;
mod rng;
mod seeds;
mod weather;
mod world;

pub use client::{ClientEnd, Heard};
pub use folder::{Folder, HOLES_BYTES, LARGE_BYTES, OUTSIDE, content};
pub use host::{HostEnd, OPEN_FILES_MAX};
pub use impostor::{Impostor, Manner};
pub use net::Net;
pub use raw::{RawEnd, RawStream};
pub use rng::Rng;
pub use seeds::seeds;
pub use weather::Weather;
pub use world::{CALL_TIMEOUT, Entry, World, WorldOptions};
