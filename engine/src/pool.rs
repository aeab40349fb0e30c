//! Threads that may wait for a disk, so that shards need not.

use crate::host::{HostMail, Job, Jobs};
use crate::io::MailSender;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

/// Threads of the pool: enough that a few slow disk accesses do not hold everybody up.
const WORKERS: usize = 4;
/// Threads that hash: their jobs take seconds, and must not stand before what takes microseconds.
const HASHERS: usize = 2;
/// Jobs one shard may have at the pool; its mailbox has room for all their answers.
pub(crate) const JOBS_PER_SHARD_MAX: usize = 1_024;
/// Jobs that may wait for a worker, of all shards together.
const JOBS_WAITING_MAX: usize = 4_096;

struct Order {
    job: Job,
    answer: MailSender<HostMail>,
    in_flight: Arc<AtomicUsize>,
}

/// The pool. Dropping it, once every [`PoolJobs`] is gone, ends the threads.
pub(crate) struct Pool {
    orders: Option<Lanes>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the system gives none.
    pub(crate) fn start() -> io::Result<Self> {
        let (quick, quick_queue) = bounded::<Order>(JOBS_WAITING_MAX);
        let (hashes, hash_queue) = bounded::<Order>(JOBS_WAITING_MAX);
        let mut workers = Vec::with_capacity(WORKERS + HASHERS);
        for (name, count, queue) in [("worker", WORKERS, quick_queue), ("hasher", HASHERS, hash_queue)] {
            for index in 0..count {
                let queue = queue.clone();
                workers.push(thread::Builder::new().name(format!("{name}-{index}")).spawn(move || work(&queue))?);
            }
        }
        Ok(Self { orders: Some(Lanes { quick, hashes }), workers })
    }

    /// A shard's way in.
    pub(crate) fn entry(&self) -> PoolEntry {
        PoolEntry { orders: self.orders.clone().expect("the pool is alive while it is borrowed") }
    }
}

/// A shard's way to the pool, before it knows the way back.
pub(crate) struct PoolEntry {
    orders: Lanes,
}

/// Where orders wait: what is done at once, and what takes its time.
#[derive(Clone)]
struct Lanes {
    quick: Sender<Order>,
    hashes: Sender<Order>,
}

impl PoolEntry {
    /// The shard's way to the pool, with answers to `answer`.
    pub(crate) fn jobs(self, answer: MailSender<HostMail>) -> PoolJobs {
        PoolJobs { orders: self.orders, answer, in_flight: Arc::new(AtomicUsize::new(0)) }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.orders = None;
        for worker in self.workers.drain(..) {
            if worker.join().is_err() {
                tracing::error!("a worker thread panicked");
            }
        }
    }
}

fn work(queue: &Receiver<Order>) {
    for Order { job, answer, in_flight } in queue {
        let mail = HostMail::Done(Box::new(job.perform()));
        // The mailbox has room for every job in flight; a shard that is gone needs no answer.
        if answer.send(mail).is_err() {
            tracing::debug!("an answer found no room: its shard is gone");
        }
        in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One shard's way to the pool and back.
pub(crate) struct PoolJobs {
    orders: Lanes,
    answer: MailSender<HostMail>,
    in_flight: Arc<AtomicUsize>,
}

impl Jobs for PoolJobs {
    fn submit(&mut self, job: Job) -> Result<(), Box<Job>> {
        if self.in_flight.load(Ordering::Relaxed) >= JOBS_PER_SHARD_MAX {
            return Err(Box::new(job));
        }
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let lane = if job.is_hash() { &self.orders.hashes } else { &self.orders.quick };
        let order = Order { job, answer: self.answer.clone(), in_flight: Arc::clone(&self.in_flight) };
        lane.try_send(order).map_err(|error| {
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
            match error {
                TrySendError::Full(order) | TrySendError::Disconnected(order) => Box::new(order.job),
            }
        })
    }
}
