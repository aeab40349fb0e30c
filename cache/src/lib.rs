//! Keeps chunks of remote files close: in memory, and joined while they are on their way.
//!
//! Opens no socket, reads no clock, starts no thread. Time, seeds and bytes come in as arguments; the engine decides
//! what to fetch, when, and whom to tell.
//!
//! ```text
//!   FUSE threads ── L1Reader::lookup ──▶ hit: Frame ─▶ reply straight from the frame
//!        │ miss
//!        ▼
//!   shard thread ── Flights::join ──▶ Leader: fetch · Follower: wait
//!        │ bytes arrive
//!        ├─ L1Writer::allocate ─▶ FrameMut, filled in place
//!        └─ L1Writer::insert ───▶ Frame ─▶ Flights::complete ─▶ every waiter gets a clone
//! ```
//!
//! Read [`mod@l1`] first (the cache and its protocol), then [`flight`] (single flight).

pub mod flight;
pub mod l1;

pub use flight::{FLIGHTS_MAX, FlightError, Flights, Joined, WAITERS_PER_FLIGHT_MAX};
pub use l1::{ChunkKey, Frame, FrameClass, FrameMut, L1Config, L1Error, L1Reader, L1Stats, L1Writer, l1};
