//! Threads that may wait for a disk, so that shards need not.

use crate::host::{HASHES_PER_SESSION_MAX, HostMail, Job, Jobs};
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
/// Quick jobs one shard may have at the pool; its mailbox has room for all their answers.
const QUICK_PER_SHARD_MAX: usize = 1_024;
/// Hashes one shard may have at the pool, counted apart so that they use up nobody's room: 32 clients with as many as
/// each may have.
const HASHES_PER_SHARD_MAX: usize = 32 * HASHES_PER_SESSION_MAX;
/// Answers that may be on their way to one shard.
pub(crate) const JOBS_PER_SHARD_MAX: usize = QUICK_PER_SHARD_MAX + HASHES_PER_SHARD_MAX;
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
        let lane = |orders, in_flight_max| Lane { orders, in_flight_max, in_flight: Arc::default() };
        PoolJobs {
            quick: lane(self.orders.quick, QUICK_PER_SHARD_MAX),
            hashes: lane(self.orders.hashes, HASHES_PER_SHARD_MAX),
            answer,
        }
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
    quick: Lane,
    hashes: Lane,
    answer: MailSender<HostMail>,
}

/// One shard's part of a lane.
struct Lane {
    orders: Sender<Order>,
    in_flight: Arc<AtomicUsize>,
    in_flight_max: usize,
}

impl Jobs for PoolJobs {
    fn submit(&mut self, job: Job) -> Result<(), Box<Job>> {
        let lane = if job.is_hash() { &self.hashes } else { &self.quick };
        if lane.in_flight.load(Ordering::Relaxed) >= lane.in_flight_max {
            return Err(Box::new(job));
        }
        lane.in_flight.fetch_add(1, Ordering::Relaxed);
        let order = Order { job, answer: self.answer.clone(), in_flight: Arc::clone(&lane.in_flight) };
        lane.orders.try_send(order).map_err(|error| {
            lane.in_flight.fetch_sub(1, Ordering::Relaxed);
            match error {
                TrySendError::Full(order) | TrySendError::Disconnected(order) => Box::new(order.job),
            }
        })
    }
}
