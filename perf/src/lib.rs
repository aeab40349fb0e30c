//! The benchmark suite: Wormhole beside the tools its user would pick instead, on the user's own machine.
//!
//! Measures whole programs from outside and never reaches into them; prints no figure of a run that did not complete
//! and verify; names no peer that was not run. The lab is a pair of network namespaces and leaves nothing behind.
//!
//! ```text
//!   namespace wh-PID-N-h          veth, MTU as asked         namespace wh-PID-N-c
//!   ┌──────────────────────┐                              ┌──────────────────────┐
//!   │ wormhole host        │ 10.77.0.1 ──────── 10.77.0.2 │ reader, mount, get   │
//!   │ quinn, sshd, nginx…  │          bytes ───▶          │ quinn, sshfs, curl…  │
//!   └──────────────────────┘                              └──────────────────────┘
//!     core 0 (transport)                                     core 1 (transport)
//! ```
//!
//! Read [`lab`], then [`suite`] for the method, then [`suite::transport`], [`suite::mounter`] and [`suite::mount`], the
//! other suites in any order. What the figures mean stands in [`report`]; who the rivals are, in [`peers`]; two real
//! machines, in [`pair`].
//!
//! A run is kept as JSON. [`recorded`] reads it back, [`html`] draws it, [`compare`] says what changed from one to
//! another, and [`specification`] keeps the figures of `SPECIFICATION.md` equal to a run's.
#![forbid(unsafe_code)]

pub mod arguments;
mod cleanup;
pub mod compare;
pub mod cpu_time;
pub mod fingerprint;
pub mod fixture;
pub mod html;
pub mod interface;
pub mod lab;
pub mod latency;
pub mod link;
pub mod machine;
pub mod memory;
pub mod mounts;
pub mod ours;
pub mod pair;
pub mod peers;
pub mod process;
pub mod quinn_peer;
pub mod random_load;
pub mod recorded;
pub mod report;
pub mod s2n_peer;
pub mod sample;
pub mod specification;
pub mod ssh;
pub mod statistics;
pub mod suite;
pub mod tree;
pub mod verbs;
pub mod web;
mod words;
pub mod wormhole;

pub use cleanup::end_cleanly_on_signals;
