//! A host's folder as a drive: the mount's tree, its cache and its client on one shard.
//!
//! ```text
//!   FUSE readers ─ cached? ─▶ reply           ┌───────────── MountService ─────────────┐
//!        │ no                                 │  vfs::Tree ── calls ──▶ Client ──▶ host │
//!        └── mailbox ──────────────────────▶  │     └ reads ─▶ Fetches ─▶ L1 frames     │ ──▶ replies
//!                                             └────────────────────────────────────────┘
//! ```
//!
//! Readers never wait: what is in memory they answer themselves, the rest goes to the shard with its reply.
//! Read [`start_mount`], then `service`, then `fetch` and `replies`.

mod backend;
mod fetch;
#[cfg(test)]
mod fixture;
mod replies;
mod service;
mod start;

pub use start::{MountHandle, MountOptions, run_mount_guard, start_mount, unmount};
pub use vfs::session::FuseTransport;
