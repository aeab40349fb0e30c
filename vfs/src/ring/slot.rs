//! An entry with a request in it: read by its queue's thread, answered by any.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::event::EventfdFlags;

use super::sys::Lease;
use crate::abi::{self, Asked, IN_HEADER_BYTES, InHeader, Malformed, OUT_HEADER_BYTES, Request};
use crate::errno::Errno;

/// Offset of `op_in` in `struct fuse_uring_req_header`.
const OP_IN: usize = 128;
/// Offset of `struct fuse_uring_ent_in_out`: flags, commit_id, payload_sz.
const ENT_IN_OUT: usize = 256;
const COMMIT_ID: usize = ENT_IN_OUT + 8;
const PAYLOAD_SZ: usize = ENT_IN_OUT + 16;

/// An answered entry on its way back.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) lease: Lease,
    pub(super) unique: u64,
}

/// The way back to the thread of a queue: lock-free, and a wake only where that thread sleeps.
#[derive(Debug)]
pub(super) struct Returns {
    answered: Sender<Answered>,
    /// Set by the thread before it looks a last time; taken by the one who then has to wake it.
    is_asleep: AtomicBool,
    wake: OwnedFd,
}

impl Returns {
    /// The way back for a thread with `entries` entries, so that there is always room.
    pub(super) fn new(entries: usize) -> io::Result<(Arc<Self>, Receiver<Answered>)> {
        let (answered, incoming) = bounded(entries);
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?;
        Ok((Arc::new(Self { answered, is_asleep: AtomicBool::new(false), wake }), incoming))
    }

    pub(super) fn wake(&self) -> &OwnedFd {
        &self.wake
    }

    /// Says that the thread is about to sleep; it must look once more for what has come before.
    pub(super) fn fall_asleep(&self) {
        self.is_asleep.store(true, Ordering::Relaxed);
        // Either the answer below is seen by the look that follows, or its giver sees the thread asleep.
        fence(Ordering::SeqCst);
    }

    pub(super) fn stay_awake(&self) {
        self.is_asleep.store(false, Ordering::Relaxed);
    }

    fn give(&self, answered: Answered) {
        // Where the thread is gone the session ends, and its connection with it: whoever waits is told then.
        if self.answered.try_send(answered).is_err() {
            return;
        }
        fence(Ordering::SeqCst);
        if self.is_asleep.load(Ordering::Relaxed) && self.is_asleep.swap(false, Ordering::Relaxed) {
            // A counter that is full has woken the thread already.
            let _woken = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
    }
}

/// An answer owed through a ring. Dropped unanswered it says `EIO`.
pub(crate) struct Slot {
    /// `None` once given back.
    lease: Option<Lease>,
    returns: Arc<Returns>,
    /// The kernel's name of the request, in the answer and in the commit.
    unique: u64,
}

impl Slot {
    /// Reads the request in an entry that was just delivered.
    pub(super) fn receive(lease: Lease, returns: &Arc<Returns>) -> (Self, Result<Request, Malformed>) {
        let parsed = parse(&lease);
        let unique = lease.header()[COMMIT_ID..COMMIT_ID + 8].try_into().expect("eight bytes");
        (Self { lease: Some(lease), returns: Arc::clone(returns), unique: u64::from_ne_bytes(unique) }, parsed)
    }

    /// Answers with the bytes of `parts`, copied once, into what the kernel reads.
    pub(crate) fn answer<'a>(mut self, parts: impl Iterator<Item = &'a [u8]>) {
        let Some(lease) = &mut self.lease else { return };
        let payload = lease.payload_mut();
        let mut filled = 0;
        for part in parts {
            let Some(room) = payload.get_mut(filled..filled + part.len()) else {
                tracing::error!(unique = self.unique, "an answer is longer than any request allows");
                return; // which says EIO
            };
            room.copy_from_slice(part);
            filled += part.len();
        }
        self.give_back(0, filled);
    }

    pub(crate) fn refuse(mut self, errno: Errno) {
        self.give_back(errno.code(), 0);
    }

    fn give_back(&mut self, error: i32, payload_bytes: usize) {
        let Some(mut lease) = self.lease.take() else { return };
        let header = lease.header_mut();
        header[..OUT_HEADER_BYTES].copy_from_slice(&abi::out_header(self.unique, error, payload_bytes));
        let size = u32::try_from(payload_bytes).expect("bounded by the payload");
        header[PAYLOAD_SZ..PAYLOAD_SZ + 4].copy_from_slice(&size.to_ne_bytes());
        self.returns.give(Answered { lease, unique: self.unique });
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.give_back(Errno::EIO.code(), 0);
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slot({})", self.unique)
    }
}

fn parse(lease: &Lease) -> Result<Request, Malformed> {
    let bytes = lease.header();
    let header = InHeader::parse(&bytes[..IN_HEADER_BYTES])?;
    let payload = lease.payload();
    let size = u32::from_ne_bytes(bytes[PAYLOAD_SZ..PAYLOAD_SZ + 4].try_into().expect("four bytes"));
    let rest = payload.get(..size as usize).ok_or(Malformed { opcode: header.opcode })?;
    let asked = Asked::parse(&header, &bytes[OP_IN..ENT_IN_OUT], rest);
    Ok(Request { header, asked })
}
