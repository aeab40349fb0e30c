//! Requests through io_uring: one queue for each CPU, each served by a thread that stays on its CPU.
//!
//! ```text
//!   a process on CPU n ─▶ queue n ─▶ thread n ─▶ Edge ─▶ Backend (cache, or the shard)
//!                            ▲          │                     │
//!                            └─ COMMIT ─┘◀── Returns ◀── Slot ┘  (any thread fills the payload)
//!   FORGET, INTERRUPT ─▶ /dev/fuse ─▶ Intake ─▶ the shard      notices ─▶ /dev/fuse
//! ```
//!
//! Read [`slot`], [`worker`] and [`cpus`]; [`sys`] is the fence around what is unsafe. What was measured and why it is
//! so is docs/design/0012-fuse-over-io-uring.md.

mod cpus;
mod slot;
mod sys;
mod worker;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};

use self::slot::Returns;
use self::sys::Memory;
use self::worker::{Registered, Worker};
use crate::backend::Backend;
use crate::device::Device;
use crate::serve::Edge;
use crate::server::{Ends, EndsSession};

pub(crate) use self::cpus::{QUEUE_ENTRIES, THREADS_MAX};
pub(crate) use self::slot::Slot;
pub(crate) use self::sys::Thread;

/// Where root switches FUSE over io_uring on, for mounts made from then on.
const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";

/// Why requests do not come through io_uring.
#[derive(Debug, thiserror::Error)]
pub enum RingUnavailable {
    /// The administrator has not switched it on; by default it is off (environment's).
    #[error("FUSE over io_uring is switched off; root switches it on with: echo 1 > {SWITCH}")]
    SwitchedOff,
    /// The kernel has no such thing (environment's).
    #[error("this kernel has no FUSE over io_uring (Linux 6.14 or later has it)")]
    NotInKernel,
    /// No ring, memory or thread could be had (environment's).
    #[error("a ring for FUSE cannot be set up")]
    Setup(#[source] io::Error),
    /// The kernel did not offer it to this mount, or refused an entry (environment's).
    #[error("the kernel does not serve this mount through io_uring")]
    Refused(#[source] Option<io::Error>),
}

/// Says whether the kernel would offer requests through io_uring to a new mount.
pub(crate) fn offered() -> Result<(), RingUnavailable> {
    match std::fs::read_to_string(SWITCH) {
        Ok(text) if matches!(text.trim(), "Y" | "1") => Ok(()),
        Ok(_) => Err(RingUnavailable::SwitchedOff),
        Err(_) => Err(RingUnavailable::NotInKernel),
    }
}

/// Threads with rings that wait for the answer to INIT.
pub(crate) struct Prepared {
    /// Dropped without a word, it ends the threads; so it stands before them, who are waited for.
    go: Vec<Sender<()>>,
    registered: Receiver<io::Result<Registered>>,
    workers: Vec<Thread>,
    pub(crate) queues: usize,
}

impl Prepared {
    pub(crate) fn new<B: Backend>(
        device: &Arc<Device>,
        edge: &Edge<B>,
        ends: &Ends,
        payload_bytes: usize,
    ) -> io::Result<Self> {
        let queues = cpus::possible()?;
        let shares = cpus::deal(queues, &cpus::usable()?);
        let (ready, readies) = bounded(shares.len());
        let (register, registered) = bounded(shares.len());
        let mut prepared = Self { go: Vec::new(), registered, workers: Vec::new(), queues };
        for (number, share) in shares.into_iter().enumerate() {
            let memory = Memory::map(share.queues.len(), payload_bytes)?;
            let (returns, answered) = Returns::new(share.queues.len())?;
            let (go, gone) = bounded::<()>(1);
            let (edge, ends, ready, register) = (edge.clone(), ends.clone(), ready.clone(), register.clone());
            let thread =
                Thread::spawn(format!("fuse-ring-{number}"), DeviceOf(Arc::clone(device)), memory, move |made| {
                    cpus::stay_on(&share.cpus);
                    let (commands, leases) = match made {
                        Ok(made) => made,
                        Err(error) => {
                            // There is room for one word from each thread.
                            let _heard = ready.try_send(Err(error));
                            return Ok(());
                        }
                    };
                    let mut worker = Worker { commands, queues: share.queues, edge, returns, answered };
                    let _heard = ready.try_send(Ok(()));
                    drop(ready);
                    if gone.recv().is_err() {
                        return Ok(());
                    }
                    let ends = EndsSession(ends);
                    let _heard = register.try_send(worker.register(leases));
                    drop(register);
                    worker.run(&ends.0.stop)
                })?;
            prepared.workers.push(thread);
            prepared.go.push(go);
        }
        drop(ready);
        for _ in 0..prepared.workers.len() {
            readies.recv().map_err(|_| io::Error::other("a ring's thread ended at once"))??;
        }
        Ok(prepared)
    }

    /// Has the threads register with the kernel; says whether it took all entries.
    pub(crate) fn go(self) -> (Vec<Thread>, io::Result<Registered>) {
        for go in &self.go {
            let _heard = go.try_send(());
        }
        let mut outcome = Ok(Ok(()));
        for _ in 0..self.workers.len() {
            let one = self.registered.recv().unwrap_or_else(|_| Err(io::Error::other("a ring's thread panicked")));
            outcome = match (outcome, one) {
                (Ok(all), Ok(one)) => Ok(all.and(one)),
                (Err(error), _) | (_, Err(error)) => Err(error),
            };
        }
        (self.workers, outcome)
    }
}

/// A reference to the device that a thread can own.
struct DeviceOf(Arc<Device>);

impl AsFd for DeviceOf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests;
