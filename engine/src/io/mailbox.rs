//! Bounded mail from any thread to one shard.

use super::Waker;
use crossbeam_queue::ArrayQueue;
use std::sync::Arc;

/// Makes a mailbox of `capacity` messages whose senders wake the shard behind `waker`.
///
/// # Panics
/// If `capacity` is 0.
pub fn mailbox<M>(capacity: usize, waker: Waker) -> (MailSender<M>, MailReceiver<M>) {
    let queue = Arc::new(ArrayQueue::new(capacity));
    let receiver = MailReceiver { queue: Arc::clone(&queue) };
    (MailSender { queue, waker }, receiver)
}

/// The senders' end. Cheap to clone.
#[derive(Debug)]
pub struct MailSender<M> {
    queue: Arc<ArrayQueue<M>>,
    waker: Waker,
}

impl<M> Clone for MailSender<M> {
    fn clone(&self) -> Self {
        Self { queue: Arc::clone(&self.queue), waker: self.waker.clone() }
    }
}

impl<M> MailSender<M> {
    /// Stores `mail`, then wakes the shard if it waits. Never blocks.
    ///
    /// # Errors
    /// Gives the mail back when the box is full; the shard is awake or being woken then.
    pub fn send(&self, mail: M) -> Result<(), M> {
        let sent = self.queue.push(mail);
        self.waker.wake();
        sent
    }
}

/// The shard's end.
#[derive(Debug)]
pub struct MailReceiver<M> {
    queue: Arc<ArrayQueue<M>>,
}

impl<M> MailReceiver<M> {
    /// Takes the oldest message.
    pub fn take(&self) -> Option<M> {
        self.queue.pop()
    }

    /// Returns whether a message waits: what [`Io::turn`](super::Io::turn) asks before it waits.
    pub fn has_mail(&self) -> bool {
        !self.queue.is_empty()
    }
}
