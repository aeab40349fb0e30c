//! The thread of one or more queues: takes requests, gives them to the backend, gives answers back.

use std::io;
use std::sync::Arc;

use crossbeam_channel::Receiver;

use super::slot::{Answered, Returns, Slot};
use super::sys::{Commands, Completion, Lease};
use crate::backend::Backend;
use crate::owed::Owed;
use crate::serve::Edge;
use crate::server::Stop;

/// Whether the kernel took the entries, or what it refused one with.
pub(super) type Registered = Result<(), io::Error>;

/// See the module.
pub(super) struct Worker<B> {
    pub(super) commands: Commands,
    /// The queue of each entry.
    pub(super) queues: Vec<u16>,
    pub(super) edge: Edge<B>,
    pub(super) returns: Arc<Returns>,
    pub(super) answered: Receiver<Answered>,
}

impl<B: Backend> Worker<B> {
    /// Offers every entry to the kernel; says what it refused one with, since it uses the device then.
    ///
    /// # Errors
    /// What kept an entry from the kernel otherwise: it would wait for that entry for ever. `EAGAIN` is among them: it
    /// means that INIT is not answered, which it is before anything is registered.
    pub(super) fn register(&mut self, leases: Vec<Lease>) -> io::Result<Registered> {
        for lease in leases {
            let queue = self.queues[lease.index()];
            self.commands.register(lease, queue);
        }
        self.commands.submit_and_wait(0)?;
        let mut registered = Ok(());
        // A request may be here before all entries are.
        while let Some(completion) = self.commands.pop() {
            match completion {
                Completion::Refused(error) if error.raw_os_error() == Some(libc::EAGAIN) => return Err(error),
                Completion::Refused(error) => registered = Err(error),
                Completion::Delivered(lease) => self.serve(lease),
                Completion::Woken | Completion::Stop => unreachable!("nothing else is armed yet"),
            }
        }
        Ok(registered)
    }

    /// Serves until the session ends.
    ///
    /// # Errors
    /// What the kernel says of the ring, or of an answer that it had to take.
    pub(super) fn run(&mut self, stop: &Stop) -> io::Result<()> {
        self.commands.arm_stop(stop);
        self.commands.arm_wake(self.returns.wake());
        loop {
            self.commit();
            self.returns.fall_asleep();
            self.commit();
            self.commands.submit_and_wait(1)?;
            self.returns.stay_awake();
            while let Some(completion) = self.commands.pop() {
                match completion {
                    Completion::Delivered(lease) => self.serve(lease),
                    Completion::Woken => self.commands.arm_wake(self.returns.wake()),
                    Completion::Stop => return Ok(()),
                    Completion::Refused(error) => match error.raw_os_error() {
                        // The connection is going; who reads the device learns of it, too, and ends the session.
                        Some(libc::ENOTCONN | libc::ECONNABORTED | libc::ECANCELED) => {}
                        // This entry is lost to its queue, which must not dry up under the processes that use it.
                        _ => return Err(error),
                    },
                }
            }
        }
    }

    fn serve(&self, lease: Lease) {
        let (slot, request) = Slot::receive(lease, &self.returns);
        match request {
            Ok(request) => self.edge.serve(request, Owed::Ring(slot)),
            Err(error) => tracing::error!(%error, "refused"), // and dropping the slot says EIO
        }
    }

    /// Queues the answers that have been given.
    fn commit(&mut self) {
        for Answered { lease, unique } in self.answered.try_iter() {
            let queue = self.queues[lease.index()];
            self.commands.commit(lease, queue, unique);
        }
    }
}

/// Sends the answers that were given in the end, such as that of a request on which the backend panicked.
impl<B> Drop for Worker<B> {
    fn drop(&mut self) {
        for Answered { lease, unique } in self.answered.try_iter() {
            let queue = self.queues[lease.index()];
            self.commands.commit(lease, queue, unique);
        }
        if let Err(error) = self.commands.submit_and_wait(0) {
            tracing::debug!(%error, "the last answers were not taken");
        }
    }
}
