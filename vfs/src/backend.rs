//! Whoever answers the requests that threads of the edge take from the kernel.
//!
//! Such threads must never wait: one that did would stop every process on the mount whose requests happen to reach it.
//! So a request is answered there only where the answer needs nobody, and handed over otherwise.

use crate::handle::OpenView;
use crate::op::Op;
use crate::reply::DataReply;

/// Whoever answers the requests: the engine's shards, or a test.
///
/// Every request must be answered, and within a bounded time: a process that waits for one sleeps
/// uninterruptibly once the request has been read, and not even `SIGKILL` ends it
/// (`request_wait_answer`, fs/fuse/dev.c). A reply that is dropped answers `EIO` by itself.
pub trait Backend: Send + Sync + 'static {
    /// Hands `op` to the shard that owns it.
    ///
    /// Called in the thread that took the request: must not wait, neither for the host nor for room in a mailbox.
    /// When the shard's bounded mailbox is full, or the shard has ended, the op must be answered
    /// here with an errno (`EBUSY`, `ENOTCONN`, or `EIO` by dropping it). A
    /// [`Forget`](Op::Forget) has no reply and must not be lost silently: count what could not be
    /// mailed and take it in later, or the inode stays known for the life of the mount.
    fn submit(&self, op: Op);

    /// Answers a read from memory, if the bytes are there; else gives the reply back.
    ///
    /// Called in the thread that took the request, for a file that is open now. Must not wait. Bytes beyond
    /// `view.size` do not exist: a read that starts there is answered with none.
    fn read_cached(&self, view: OpenView, offset: u64, length: u32, reply: DataReply) -> Option<DataReply>;
}
