//! A host's folder from a program, without a mount: ask and wait.
//!
//! One shard thread carries the conversation; any thread may ask. What `get` and `ls` are built on, and the simplest
//! way to use the engine as a client.

mod attr;
mod connect;
mod listing;
mod service;

pub use attr::{RemoteAttr, RemoteKind};
pub(crate) use connect::{ClientThread, at_path, client_options, client_thread, remember};
pub use connect::{Remote, RemoteOptions};
pub use listing::LISTING_ENTRIES_MAX;
pub(crate) use listing::{Next, Pages};
pub(crate) use service::Reply;
