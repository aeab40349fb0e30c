//! What serves one mount: the device, the threads of a ring where there is one, and the word of their end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::event::EventfdFlags;

use crate::backend::Backend;
use crate::device::{Device, Greeting, Intake, REQUEST_BYTES_MAX};
use crate::ring::{self, Prepared, RingUnavailable, Thread};
use crate::serve::Edge;

/// See the module.
#[derive(Debug)]
pub(crate) struct Server {
    // The threads end before the device is closed: `run` waits for them, and so does dropping them.
    workers: Vec<Thread>,
    stop: Arc<Stop>,
    ends: Receiver<End>,
    device: Arc<Device>,
}

/// Who ended first, and how.
#[derive(Debug)]
pub(crate) enum End {
    /// Who took requests from the device: with the mount, or by a failure.
    Intake(io::Result<()>),
    /// A ring's thread; joining it says why.
    Worker,
}

/// A mount that is served: by whom, with what to take its requests by, and, where a ring was wished for, for how many CPUs
/// it has queues or why there is none.
pub(crate) type Started = (Server, Intake, Option<Result<usize, RingUnavailable>>);

impl Server {
    /// Answers INIT and begins to serve; through a ring where one is wished for and `ring` says that there may be one.
    ///
    /// Rings are made before INIT is answered, since after that answer the kernel waits for all of them.
    pub(crate) fn start<B: Backend>(
        device_fd: OwnedFd,
        edge: &Edge<B>,
        max_background: u16,
        ring: Option<Result<(), RingUnavailable>>,
    ) -> io::Result<Started> {
        Self::start_with(device_fd, edge, max_background, ring, REQUEST_BYTES_MAX as usize)
    }

    /// Starts with payloads of a size that the kernel may refuse.
    fn start_with<B: Backend>(
        device_fd: OwnedFd,
        edge: &Edge<B>,
        max_background: u16,
        ring: Option<Result<(), RingUnavailable>>,
        payload_bytes: usize,
    ) -> io::Result<Started> {
        let device = Device::new(device_fd);
        let greeting = Greeting::receive(&device)?;
        let stop = Stop::new()?;
        let (told, ends) = bounded(1 + ring::THREADS_MAX);
        let prepare = |()| {
            if !greeting.offers_ring() {
                return Err(RingUnavailable::Refused(None));
            }
            let ends = Ends { stop: Arc::clone(&stop), told: told.clone() };
            Prepared::new(&device, edge, &ends, payload_bytes).map_err(RingUnavailable::Setup)
        };
        let prepared = ring.map(|ring| ring.and_then(prepare));
        greeting.accept(&device, max_background, matches!(prepared, Some(Ok(_))))?;
        let intake = Intake::new(Arc::clone(&device), Arc::clone(&edge.handles), told)?;
        let mut server = Self { workers: Vec::new(), stop, ends, device };
        let queues = match prepared {
            Some(Ok(prepared)) => {
                let queues = prepared.queues;
                let (workers, registered) = prepared.go();
                server.workers = workers;
                Some(registered?.map(|()| queues).map_err(|error| RingUnavailable::Refused(Some(error))))
            }
            Some(Err(why)) => Some(Err(why)),
            None => None,
        };
        Ok((server, intake, queues))
    }

    /// The device, to send notices by.
    pub(crate) fn device(&self) -> Arc<Device> {
        Arc::clone(&self.device)
    }

    /// Waits for the end of the mount, or of a thread that failed, and ends the rest.
    ///
    /// # Errors
    /// The first failure; `ECONNABORTED` is one of the ways in which a mount ends.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let first = self.ends.recv().unwrap_or_else(|_| End::Intake(Err(io::Error::other("nobody serves it"))));
        self.stop.raise();
        let mut outcome = Ok(());
        for worker in std::mem::take(&mut self.workers) {
            outcome = outcome.and(worker.join());
        }
        match first {
            // An answer that meets the end of its connection is refused in more than one way.
            End::Intake(how) => {
                if let Err(error) = outcome {
                    tracing::debug!(%error, "a ring ended with its connection");
                }
                how
            }
            End::Worker => outcome,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.raise();
    }
}

/// Tells the threads of one session to end; raised once and for all.
#[derive(Debug)]
pub(crate) struct Stop(OwnedFd);

impl Stop {
    fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    fn raise(&self) {
        // It fails only where it was raised very often.
        let _raised = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What a thread ends with its session, and ends it by.
#[derive(Clone, Debug)]
pub(crate) struct Ends {
    pub(crate) stop: Arc<Stop>,
    told: Sender<End>,
}

/// Ends a session with the first of its threads that ends.
pub(crate) struct EndsSession(pub(crate) Ends);

impl Drop for EndsSession {
    fn drop(&mut self) {
        self.0.stop.raise();
        // There is room for one word from each thread.
        let _heard = self.0.told.try_send(End::Worker);
    }
}

#[cfg(test)]
mod tests;
