//! The engine: shards that serve a folder or bring one here.
//!
//! The only crate that knows rings and threads. It joins the leaves, which do not know each other: `transport` (QUIC and
//! the wire), `vfs` (the mount's tree and its FUSE edge), `cache` (chunks in memory) and `signal` (codes and the PAKE).
//!
//! ```text
//!   start_host ─▶ HostService ─┐                    ┌─ share (the folder: openat2, mmap)
//!   start_mount ▶ MountService ┼─ runs on a Shard ──┼─ io (ring or epoll: socket, files, deadline, wake)
//!   Remote ─────▶ RemoteService┘   with a Node      └─ pool (what may wait for a disk)
//! ```
//!
//! Read [`service`] for what a service is, `shard` for the loop, [`host`] and [`client`] for the two ends of a
//! conversation, then [`mount`] and [`remote`] for what is built on the client.

pub mod client;
mod convert;
pub mod doctor;
mod error;
mod event;
pub mod get;
pub mod host;
pub mod io;
pub mod mount;
mod pool;
pub mod remote;
pub mod service;
mod shard;
pub mod share;
pub mod status;
mod sys;
pub mod trust;

pub use crossbeam_channel::Receiver;
pub use error::{EngineError, ErrorKind};
pub use event::{Invitation, ServiceEvent};
pub use get::{GetOptions, GetProgress, GetSummary, get};
pub use host::{HostHandle, HostOptions, ShutdownHandle, start_host};
pub use io::IoMode;
pub use mount::{FuseTransport, MountHandle, MountOptions, run_mount_guard, start_mount, unmount};
pub use remote::{Remote, RemoteAttr, RemoteKind, RemoteOptions};
