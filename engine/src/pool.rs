//! Threads that may wait for a disk, so that shards need not.

use crate::host::{HASHES_PER_SESSION_MAX, HostMail, Job, JobDone, Jobs, Room};
use crate::io::MailSender;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
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
    room: Room,
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
        Self::start_with(Job::perform)
    }

    fn start_with(perform: fn(Job) -> JobDone) -> io::Result<Self> {
        let (quick, quick_queue) = bounded::<Order>(JOBS_WAITING_MAX);
        let (hashes, hash_queue) = bounded::<Order>(JOBS_WAITING_MAX);
        let mut workers = Vec::with_capacity(WORKERS + HASHERS);
        for (name, count, queue) in [("worker", WORKERS, quick_queue), ("hasher", HASHERS, hash_queue)] {
            for index in 0..count {
                let queue = queue.clone();
                let run = move || work(&queue, perform);
                workers.push(thread::Builder::new().name(format!("{name}-{index}")).spawn(run)?);
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

fn work(queue: &Receiver<Order>, perform: fn(Job) -> JobDone) {
    for Order { job, answer, room } in queue {
        let unfinished = job.unfinished();
        // What a job shares with others is behind locks and counters that hold whole values at every point.
        let mut done = panic::catch_unwind(AssertUnwindSafe(|| perform(job))).unwrap_or_else(|_| {
            tracing::error!("a job panicked; it is answered with an error");
            unfinished
        });
        done.room = Some(room);
        // The mailbox has room for every job in flight; one whose shard is gone takes all mail and drops it.
        if answer.send(HostMail::Done(Box::new(done))).is_err() {
            tracing::error!("an answer found no room in its shard's mailbox and is lost");
        }
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
    /// Jobs at the pool, and answers that the shard has not taken in yet.
    in_flight: Arc<AtomicUsize>,
    in_flight_max: usize,
}

impl Jobs for PoolJobs {
    fn submit(&mut self, job: Job) -> Result<(), Box<Job>> {
        let lane = if job.is_hash() { &self.hashes } else { &self.quick };
        let Some(room) = Room::try_take(&lane.in_flight, lane.in_flight_max) else { return Err(Box::new(job)) };
        let order = Order { job, answer: self.answer.clone(), room };
        lane.orders.try_send(order).map_err(|error| match error {
            TrySendError::Full(order) | TrySendError::Disconnected(order) => Box::new(order.job),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Events, Gate, HostShared, Outcome, Quotas, Work};
    use crate::io::{MailReceiver, Waker, mailbox};
    use crate::share::Share;
    use crate::trust::NodeKey;
    use std::net::SocketAddr;
    use std::time::{Duration, Instant};
    use transport::tuning::Tuning;
    use transport::wire::Response;
    use transport::{ConnId, Identity, Inbound, Node, NodeOptions, Role, StreamId};

    /// What no test should ever come near.
    const PATIENCE: Duration = Duration::from_secs(20);

    fn identity() -> Identity {
        let key = NodeKey::generate().expect("the system's random source answers");
        Identity::from_pkcs8(key.pkcs8_der()).expect("a fresh key loads")
    }

    /// Names of a stream and its connection, as only a finished handshake gives them.
    fn names() -> (ConnId, StreamId) {
        let node = |role, seed| {
            let (identity, tuning) = (&identity(), Tuning::default());
            Node::new(NodeOptions { identity, role, tuning, shard: 0, shards: 1, seed: Some([seed; 32]) })
                .expect("the identity serves")
        };
        let [here, there] = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let (mut client, mut host, now) = (node(Role::Client, 1), node(Role::Host, 2), Instant::now());
        let conn = client.connect(now, there).expect("an address");
        let mut train = Vec::new();
        let mut carry = |from: &mut Node, to: &mut Node, remote| {
            while let Some(sent) = from.poll_transmit(now, &mut train) {
                let stride = sent.segment_size.unwrap_or(train.len());
                to.handle_datagrams(now, Inbound { remote, local_ip: None, ecn: 0, stride, bytes: train[..].into() });
            }
        };
        for _ in 0..10 {
            carry(&mut client, &mut host, here);
            carry(&mut host, &mut client, there);
            if let Some(stream) = client.connection(conn).expect("open").open() {
                return (conn, stream);
            }
        }
        panic!("no stream after ten round trips");
    }

    /// One shard's side of a pool.
    struct Desk {
        jobs: PoolJobs,
        mail: MailReceiver<HostMail>,
        shared: Arc<HostShared>,
        names: (ConnId, StreamId),
        _folder: tempfile::TempDir,
        // Dropped after the way in.
        _pool: Pool,
    }

    impl Desk {
        fn new(perform: fn(Job) -> JobDone) -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let state = folder.path().join("state");
            let shared = Arc::new(HostShared {
                share: Share::open(folder.path()).expect("the folder can be shared"),
                gate: Gate::open(&state, crate::host::gate::fresh_code()).expect("an empty list"),
                quotas: Quotas::new(1),
                host_name: String::new(),
                share_name: String::new(),
                key: identity().public(),
                addresses: Vec::new(),
                events: Events::new(bounded(1).0),
            });
            let pool = Pool::start_with(perform).expect("threads");
            let (sender, mail) = mailbox(JOBS_PER_SHARD_MAX, Waker::new().expect("an eventfd"));
            let jobs = pool.entry().jobs(sender);
            Self { jobs, mail, shared, names: names(), _folder: folder, _pool: pool }
        }

        fn submit(&mut self, work: Work) -> bool {
            let ((conn, stream), shared) = (self.names, Arc::clone(&self.shared));
            self.jobs.submit(Job { conn, stream, work, cancel: Default::default(), shared }).is_ok()
        }

        fn answer(&self) -> Box<JobDone> {
            let deadline = Instant::now() + PATIENCE;
            loop {
                match self.mail.take() {
                    Some(HostMail::Done(done)) => return done,
                    Some(_) => unreachable!("a pool sends answers only"),
                    None => assert!(Instant::now() < deadline, "no answer"),
                }
                thread::yield_now();
            }
        }
    }

    #[test]
    fn a_job_keeps_its_room_until_its_answer_is_taken_in() {
        let mut desk = Desk::new(Job::perform);
        desk.jobs.quick.in_flight_max = 1;
        assert!(desk.submit(Work::StatFs));
        let deadline = Instant::now() + PATIENCE;
        while !desk.mail.has_mail() {
            assert!(Instant::now() < deadline, "no answer");
            thread::yield_now();
        }
        // The worker is done with it; the mailbox is not.
        for _ in 0..1_000 {
            assert!(!desk.submit(Work::StatFs), "one answer fills this mailbox");
            thread::yield_now();
        }
        let done = desk.answer();
        assert!(matches!(done.outcome, Outcome::Response(Response::StatFs { .. })));
        drop(done);
        assert!(desk.submit(Work::StatFs));
    }

    #[test]
    fn a_job_that_panics_is_answered_and_costs_no_worker() {
        let mut desk = Desk::new(|job| match job.work {
            Work::StatFs => panic!("as a fault of ours would"),
            _ => job.perform(),
        });
        for _ in 0..2 * WORKERS {
            assert!(desk.submit(Work::StatFs));
            let outcome = desk.answer().outcome;
            assert!(matches!(outcome, Outcome::Response(Response::Error { errno: libc::EIO })));
        }
        assert!(desk.submit(Work::Attr { path: crate::share::RelPath::ROOT }));
        assert!(matches!(desk.answer().outcome, Outcome::Response(Response::Attr { .. })));
        assert_eq!(desk.jobs.quick.in_flight.load(std::sync::atomic::Ordering::Relaxed), 0);
    }
}
