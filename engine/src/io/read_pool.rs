//! Blocking file reads on a few threads, for the backend whose kernel interface has no others.

use super::{MailReceiver, MailSender, ReadQueueFull, Waker, mailbox};
use crate::sys::file::FileRead;
use bytes::BytesMut;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Threads per shard: enough to keep one SATA disk or a network file system at work while another
/// read waits, few enough not to crowd the cores. The ring backend has no such limit.
const READ_THREADS_MAX: usize = 4;

/// A read that ended: its token, and the bytes or why not.
#[derive(Debug)]
pub(super) struct DoneRead {
    pub(super) token: u64,
    pub(super) result: io::Result<BytesMut>,
}

/// The threads, started when first needed, and what they owe us.
#[derive(Debug)]
pub(super) struct ReadPool {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
    sender: MailSender<DoneRead>,
    receiver: MailReceiver<DoneRead>,
    in_flight: usize,
    in_flight_max: usize,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<QueueState>,
    ready: Condvar,
}

#[derive(Debug, Default)]
struct QueueState {
    /// At most `in_flight_max` long.
    reads: VecDeque<FileRead>,
    closed: bool,
}

impl ReadPool {
    /// Makes a pool without threads for up to `reads` at once.
    pub(super) fn new(reads: u16, waker: Waker) -> Self {
        let in_flight_max = usize::from(reads);
        let (sender, receiver) = mailbox(in_flight_max, waker);
        Self { queue: Arc::default(), threads: Vec::new(), sender, receiver, in_flight: 0, in_flight_max }
    }

    /// Hands a read to the threads.
    pub(super) fn submit(&mut self, read: FileRead) -> Result<(), ReadQueueFull> {
        if self.in_flight == self.in_flight_max {
            return Err(ReadQueueFull);
        }
        if self.threads.len() < READ_THREADS_MAX.min(self.in_flight + 1) {
            self.start_thread();
        }
        if self.threads.is_empty() {
            return Err(ReadQueueFull);
        }
        self.in_flight += 1;
        self.queue.lock().reads.push_back(read);
        self.queue.ready.notify_one();
        Ok(())
    }

    /// Takes a read that has ended.
    pub(super) fn take(&mut self) -> Option<DoneRead> {
        let done = self.receiver.take()?;
        self.in_flight -= 1;
        Some(done)
    }

    /// Returns whether a read has ended.
    pub(super) fn has_done(&self) -> bool {
        self.receiver.has_mail()
    }

    fn start_thread(&mut self) {
        let queue = Arc::clone(&self.queue);
        let sender = self.sender.clone();
        let spawned = std::thread::Builder::new().name("wormhole-read".to_owned()).spawn(move || queue.serve(&sender));
        match spawned {
            Ok(thread) => self.threads.push(thread),
            Err(error) => tracing::warn!(%error, "a file-read thread could not be started"),
        }
    }
}

impl Drop for ReadPool {
    /// Drops reads not yet begun and waits for the others.
    fn drop(&mut self) {
        {
            let mut state = self.queue.lock();
            state.closed = true;
            state.reads.clear();
        }
        self.queue.ready.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a file-read thread panicked");
            }
        }
    }
}

impl Queue {
    /// No code that can panic runs under the lock, so a poisoned one is as good as any.
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, sender: &MailSender<DoneRead>) {
        while let Some(mut read) = self.next() {
            let outcome = read.read_blocking();
            let (token, bytes) = read.into_parts();
            let result = outcome.map(|()| bytes);
            sender.send(DoneRead { token, result }).expect("the mailbox holds as many as may be in flight");
        }
    }

    fn next(&self) -> Option<FileRead> {
        let mut state = self.lock();
        loop {
            if let Some(read) = state.reads.pop_front() {
                return Some(read);
            }
            if state.closed {
                return None;
            }
            state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
