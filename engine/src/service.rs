//! What a shard runs: a service that answers events, and touches no socket, disk or clock of its own.

use bytes::BytesMut;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;
use transport::{ConnId, Event, Node};

/// A read of a file that is not in memory: the shard's ring does it.
#[derive(Debug)]
pub struct FileRead {
    /// Comes back with the result.
    pub token: u64,
    /// What to read.
    pub file: Arc<OwnedFd>,
    /// From where, in bytes.
    pub offset: u64,
    /// How many bytes; fewer come only at the end of the file.
    pub length: usize,
}

/// What a shard shall watch for its service.
#[derive(Debug)]
pub enum Watch {
    /// This file, the only one in its life.
    File(Arc<OwnedFd>),
    /// Nothing any more.
    Nothing,
}

/// One role of a node, driven by a shard or by the simulator.
///
/// Feed: `handle_*`. Take: `poll_*` until `None`. `now` never goes back.
pub trait Service {
    /// Messages from other threads.
    type Mail: Send + 'static;

    /// Takes in what happened on a connection.
    fn handle_event(&mut self, now: Instant, node: &mut Node, conn: ConnId, event: Event);
    /// Takes in a message from another thread.
    fn handle_mail(&mut self, now: Instant, node: &mut Node, mail: Self::Mail);
    /// Takes in a finished file read.
    fn handle_file_read(&mut self, now: Instant, node: &mut Node, token: u64, result: io::Result<BytesMut>);
    /// Acts on what has come due.
    fn handle_timeout(&mut self, now: Instant, node: &mut Node);
    /// When `handle_timeout` must be called at the latest.
    fn poll_timeout(&self) -> Option<Instant>;
    /// The next file read the shard shall do. `None` too when nothing is to be read.
    fn poll_file_read(&mut self) -> Option<FileRead>;
    /// What to watch from now on; `None` when nothing is to change.
    fn poll_watch(&mut self) -> Option<Watch> {
        None
    }
    /// Takes in that what is watched can be read, or has ended. Comes again while that is so.
    fn handle_readable(&mut self, _now: Instant, _node: &mut Node) {}
    /// Whether a train may leave whose bytes were just copied out of this connection's buffers. The service that serves
    /// mapped files refuses when they were truncated before the copy was done; the train is dropped then, as if lost.
    fn may_leave(&mut self, now: Instant, node: &mut Node, conn: ConnId) -> bool;
    /// True when the service has ended and the shard may too.
    fn is_over(&self) -> bool;
}
