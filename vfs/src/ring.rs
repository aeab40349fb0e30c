//! Requests through io_uring: one queue for each CPU, each served by a thread that stays on its CPU.
//!
//! ```text
//!   a process on CPU n ─▶ queue n ─▶ thread n ─▶ Edge ─▶ Backend (cache, or the shard)
//!                            ▲          │                     │
//!                            └─ COMMIT ─┘◀── Returns ◀── Slot ┘  (any thread fills the payload)
//!   FORGET, INTERRUPT ─▶ /dev/fuse ─▶ reader ─▶ Edge          notices ─▶ /dev/fuse
//! ```
//!
//! Read [`slot`], [`worker`] and [`cpus`]; [`sys`] is the fence around what is unsafe. What was measured and why it is
//! so is docs/design/0012-fuse-over-io-uring.md.

mod cpus;
mod slot;
mod sys;
mod worker;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};

use self::slot::Returns;
use self::sys::{Memory, Thread};
use self::worker::{Registered, Worker};
use crate::device::{self, Device, Greeting, Stop};
use crate::fuse::{Backend, InitSettings, REQUEST_BYTES_MAX};
use crate::serve::Edge;

pub(crate) use self::cpus::QUEUE_ENTRIES;
pub(crate) use self::slot::Slot;

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

/// A mount served by ourselves: through a ring where the kernel takes it, else by the device.
#[derive(Debug)]
pub(crate) struct OwnSession {
    // The threads end before the device is closed: `run` waits for them, and so does dropping them.
    workers: Vec<Thread>,
    reader: Option<JoinHandle<io::Result<device::End>>>,
    stop: Arc<Stop>,
    device: Arc<Device>,
}

/// What a session of our own came to.
pub(crate) type Started = (OwnSession, Result<usize, RingUnavailable>);

impl OwnSession {
    /// Answers INIT and begins to serve; says for how many CPUs there are queues, or why there are none.
    ///
    /// Rings are made before INIT is answered, since after that answer the kernel waits for all of them.
    pub(crate) fn start<B: Backend>(device_fd: OwnedFd, edge: &Edge<B>, settings: InitSettings) -> io::Result<Started> {
        Self::start_with(device_fd, edge, settings, REQUEST_BYTES_MAX as usize)
    }

    /// Starts with payloads of a size that the kernel may refuse.
    fn start_with<B: Backend>(
        device_fd: OwnedFd,
        edge: &Edge<B>,
        settings: InitSettings,
        payload_bytes: usize,
    ) -> io::Result<Started> {
        let device = Device::new(device_fd);
        let greeting = Greeting::receive(&device)?;
        let stop = Stop::new()?;
        let prepared = match greeting.offers_ring() {
            true => Prepared::new(&device, edge, &stop, payload_bytes).map_err(RingUnavailable::Setup),
            false => Err(RingUnavailable::Refused(None)),
        };
        greeting.accept(&device, settings, prepared.is_ok())?;
        let mut session = Self { workers: Vec::new(), reader: None, stop, device };
        let outcome = match prepared {
            Ok(prepared) => {
                let queues = prepared.queues;
                let (workers, registered) = prepared.go();
                session.workers = workers;
                registered?.map(|()| queues).map_err(|error| RingUnavailable::Refused(Some(error)))
            }
            Err(error) => Err(error),
        };
        let reader = {
            let (device, edge, stop) = (Arc::clone(&session.device), edge.clone(), Arc::clone(&session.stop));
            move || {
                let _stop = StopAtEnd(Arc::clone(&stop));
                device::serve(&device, &edge, &stop)
            }
        };
        session.reader = Some(std::thread::Builder::new().name("fuse-device".to_owned()).spawn(reader)?);
        Ok((session, outcome))
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
        let mut end = Ok(device::End::Told);
        if let Some(reader) = self.reader.take() {
            end = reader.join().unwrap_or_else(|_| Err(io::Error::other("the thread at the device panicked")));
        }
        let mut outcome = Ok(());
        for worker in std::mem::take(&mut self.workers) {
            outcome = outcome.and(worker.join());
        }
        match end? {
            // An answer that meets the end of its connection is refused in more than one way.
            device::End::Gone => {
                if let Err(error) = outcome {
                    tracing::debug!(%error, "a ring ended with its connection");
                }
                Ok(())
            }
            device::End::Told => outcome,
        }
    }
}

impl Drop for OwnSession {
    fn drop(&mut self) {
        self.stop.raise();
    }
}

/// Ends a session with the first of its threads that ends.
struct StopAtEnd(Arc<Stop>);

impl Drop for StopAtEnd {
    fn drop(&mut self) {
        self.0.raise();
    }
}

/// Threads with rings that wait for the answer to INIT.
struct Prepared {
    /// Dropped without a word, it ends the threads; so it stands before them, who are waited for.
    go: Vec<Sender<()>>,
    registered: Receiver<io::Result<Registered>>,
    workers: Vec<Thread>,
    queues: usize,
}

impl Prepared {
    fn new<B: Backend>(
        device: &Arc<Device>,
        edge: &Edge<B>,
        stop: &Arc<Stop>,
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
            let (edge, stop, ready, register) = (edge.clone(), Arc::clone(stop), ready.clone(), register.clone());
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
                    let _stop = StopAtEnd(Arc::clone(&stop));
                    let _heard = register.try_send(worker.register(leases));
                    drop(register);
                    worker.run(&stop)
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
    fn go(self) -> (Vec<Thread>, io::Result<Registered>) {
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
