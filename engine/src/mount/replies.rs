//! A thread that gives long answers to the kernel, beside the shard.
//!
//! A reply of a MiB is a copy of a MiB: a fifth of what a mount's shard does for it. The shard hands over what it would
//! copy, and decrypts the next train meanwhile. What does not fit in the queue it copies itself.

use cache::Frame;
use crossbeam_channel::{Sender, TrySendError, bounded};
use std::io;
use std::ops::Range;
use std::thread::{self, JoinHandle};
use vfs::DataReply;

/// Replies from this size on are handed over: the copy takes longer than waking a thread.
const HANDED_BYTES_MIN: usize = 256 << 10;
/// Replies that may wait; each holds the frames of one read.
const QUEUED_MAX: usize = 16;

/// A part of a frame.
pub(super) type FramePart = (Frame, Range<usize>);

struct Answer {
    reply: DataReply,
    parts: Vec<FramePart>,
}

impl Answer {
    fn give(self) {
        self.reply.parts(self.parts.iter().map(|(frame, span)| &frame[span.clone()]));
    }
}

/// See the module. Dropping it gives what waits, then ends the thread.
pub(super) struct Replies {
    queue: Option<Sender<Answer>>,
    thread: Option<JoinHandle<()>>,
}

impl Replies {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives none.
    pub(super) fn start() -> io::Result<Self> {
        let (queue, answers) = bounded::<Answer>(QUEUED_MAX);
        let thread =
            thread::Builder::new().name("mount-reply".into()).spawn(move || answers.iter().for_each(Answer::give))?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Answers with parts of frames, here or there; returns the bytes that were copied here.
    pub(super) fn parts(&self, reply: DataReply, parts: Vec<FramePart>) -> usize {
        let bytes = parts.iter().map(|(_, span)| span.len()).sum();
        let answer = Answer { reply, parts };
        let answer = match &self.queue {
            Some(queue) if bytes >= HANDED_BYTES_MIN => match queue.try_send(answer) {
                Ok(()) => return 0,
                Err(TrySendError::Full(answer) | TrySendError::Disconnected(answer)) => answer,
            },
            _ => answer,
        };
        answer.give();
        bytes
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that answers the kernel panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cache::{ChunkKey, FrameClass, L1Config};

    #[test]
    fn answers_of_any_length_come_also_those_that_wait_at_the_end() {
        let (_, mut l1) = cache::l1(L1Config { bytes_max: 16 << 20, seed: 7 }).unwrap();
        let class = FrameClass::Large;
        let mut bytes = l1.allocate(class).unwrap();
        bytes.fill(5);
        let length = u32::try_from(class.bytes()).unwrap();
        let frame = l1.insert(ChunkKey { file: 1, version: 1, index: 0, class }, bytes, length);
        let replies = Replies::start().unwrap();
        // More than the queue holds: some are given here.
        let asked: Vec<_> = (0..3 * QUEUED_MAX)
            .flat_map(|_| [0..HANDED_BYTES_MIN - 1, 1..HANDED_BYTES_MIN + 1])
            .map(|span| {
                let (reply, answer) = DataReply::channel();
                replies.parts(reply, vec![(frame.clone(), span.clone())]);
                (span, answer)
            })
            .collect();
        drop(replies);
        for (span, answer) in asked {
            assert_eq!(answer.try_recv().expect("given before the end"), Ok(vec![5; span.len()]));
        }
    }
}
