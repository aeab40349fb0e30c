//! Bounded mail from any thread to one shard.

use super::Waker;
use crossbeam_queue::ArrayQueue;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Makes a mailbox of `capacity` messages whose senders wake the shard behind `waker`.
///
/// # Panics
/// If `capacity` is 0.
pub fn mailbox<M>(capacity: usize, waker: Waker) -> (MailSender<M>, MailReceiver<M>) {
    let post = Arc::new(Post { queue: ArrayQueue::new(capacity), is_closed: AtomicBool::new(false) });
    let receiver = MailReceiver { post: Arc::clone(&post) };
    (MailSender { post, waker }, receiver)
}

/// What both ends hold.
#[derive(Debug)]
struct Post<M> {
    queue: ArrayQueue<M>,
    /// Set once, when the shard is gone: mail is dropped from then on, not kept for nobody.
    is_closed: AtomicBool,
}

impl<M> Post<M> {
    /// Drops what waits: whoever awaits an answer to it learns that there will be none.
    fn clear(&self) {
        while self.queue.pop().is_some() {}
    }
}

/// The senders' end. Cheap to clone.
#[derive(Debug)]
pub struct MailSender<M> {
    post: Arc<Post<M>>,
    waker: Waker,
}

impl<M> Clone for MailSender<M> {
    fn clone(&self) -> Self {
        Self { post: Arc::clone(&self.post), waker: self.waker.clone() }
    }
}

impl<M> MailSender<M> {
    /// Stores `mail`, then wakes the shard if it waits. Never blocks. Mail to a shard that has ended is dropped.
    ///
    /// # Errors
    /// Gives the mail back when the box is full; the shard is awake or being woken then.
    pub fn send(&self, mail: M) -> Result<(), M> {
        let sent = self.post.queue.push(mail);
        // Pushed before this look, and closed before the receiver's last clearing: one of the two drops it.
        if self.post.is_closed.load(Ordering::SeqCst) {
            self.post.clear();
            return Ok(());
        }
        self.waker.wake();
        sent
    }
}

/// The shard's end.
#[derive(Debug)]
pub struct MailReceiver<M> {
    post: Arc<Post<M>>,
}

impl<M> MailReceiver<M> {
    /// Takes the oldest message.
    pub fn take(&self) -> Option<M> {
        self.post.queue.pop()
    }

    /// Returns whether a message waits: what [`Io::turn`](super::Io::turn) asks before it waits.
    pub fn has_mail(&self) -> bool {
        !self.post.queue.is_empty()
    }
}

impl<M> Drop for MailReceiver<M> {
    fn drop(&mut self) {
        self.post.is_closed.store(true, Ordering::SeqCst);
        self.post.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mail_to_a_shard_that_is_gone_is_dropped() {
        let (sender, receiver) = mailbox(4, Waker::new().unwrap());
        let letter = Arc::new(());
        sender.send(Arc::clone(&letter)).unwrap();
        drop(receiver);
        assert_eq!(Arc::strong_count(&letter), 1, "what waited is dropped");
        sender.send(Arc::clone(&letter)).unwrap();
        assert_eq!(Arc::strong_count(&letter), 1, "and so is what comes later");
    }
}
