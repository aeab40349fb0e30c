//! Ends another thread's wait, at the price of a system call only if it really waits.

use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// Wakes one shard. Cheap to clone; sends nothing by itself.
///
/// ```text
///   sender:  store mail ── fence ── parked? ─▶ clear it, write the eventfd
///   shard:   set parked ── fence ── mail?   ─▶ do not wait
/// ```
///
/// One of the two fences comes first, so either the sender sees the flag or the shard sees the
/// mail: no wake is lost. Of several senders only the one that clears the flag writes.
#[derive(Debug, Clone)]
pub struct Waker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    eventfd: OwnedFd,
    parked: AtomicBool,
}

impl Waker {
    pub(crate) fn new() -> io::Result<Self> {
        // Blocking on purpose: a ring waits for input on a blocking file by itself, and the epoll
        // backend reads only after readiness was reported.
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC)?;
        Ok(Self(Arc::new(Shared { eventfd, parked: AtomicBool::new(false) })))
    }

    /// Ends the shard's wait if it waits; to be called after the mail was stored.
    ///
    /// Cost: a fence and a load, and one write(2) per wait that is ended.
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        let parked = &self.0.parked;
        if parked.load(Ordering::SeqCst) && parked.swap(false, Ordering::SeqCst) {
            self.write();
        }
    }

    /// The counter would have to reach 2^64 − 1 for a write to fail: one per wait, never read.
    fn write(&self) {
        if let Err(error) = rustix::io::write(&self.0.eventfd, &1_u64.to_ne_bytes()) {
            tracing::error!(%error, "a wake could not be written");
        }
    }

    /// Announces a wait; returns whether the shard may really wait.
    pub(super) fn park(&self, has_mail: impl FnOnce() -> bool) -> bool {
        self.0.parked.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        !has_mail()
    }

    /// Ends the announcement.
    pub(super) fn unpark(&self) {
        self.0.parked.store(false, Ordering::SeqCst);
    }

    pub(super) fn eventfd(&self) -> BorrowedFd<'_> {
        self.0.eventfd.as_fd()
    }

    /// Takes all wakes written so far; to be called when the eventfd is readable.
    pub(super) fn clear(&self) -> io::Result<()> {
        rustix::io::read(&self.0.eventfd, &mut [0; 8])?;
        Ok(())
    }
}
