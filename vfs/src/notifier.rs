//! Tells the kernel what it must no longer believe, from a thread that serves no request.
//!
//! Dropping a file's pages waits for their locks, and a page under readahead stays locked until
//! the backend has answered that READ. A shard that sent the notification itself would wait for
//! its own answer, for ever. Attributes alone need no page, but the kernel may drop the last
//! reference to the inode on that occasion, and evicting it waits for the same locks
//! (`fuse_reverse_inval_inode`, fs/fuse/inode.c). So every [`Notice`] goes through this thread.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, select_biased};

use crate::call::{Notice, NoticeScope};
use crate::device::Device;

/// Bounds the notices under way.
///
/// The thread is usually done with one in microseconds; a page lock can stop it for as long as the
/// backend takes for a read. 1024 is the open files that one revalidation burst may touch.
pub const NOTICES_MAX: usize = 1024;

/// How often a session that ends badly looks whether its notifier has ended.
const STOP_LOOK: Duration = Duration::from_millis(20);

/// Sends notices to one mount's kernel side. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Notifier {
    notices: Sender<Notice>,
}

/// Why a notice was not taken; it comes back to be sent later or completed.
#[derive(Debug, thiserror::Error)]
pub enum NoticeRefused {
    /// The queue holds [`NOTICES_MAX`] notices. Keep this one, and its place in the order.
    #[error("{NOTICES_MAX} notices are already under way")]
    Full(Notice),
    /// The session has ended: there is no kernel state left to invalidate.
    #[error("the session has ended")]
    Ended(Notice),
}

impl Notifier {
    /// A notifier without a kernel: notices arrive at the receiver, who completes them.
    pub fn channel() -> (Self, Receiver<Notice>) {
        let (notices, incoming) = bounded(NOTICES_MAX);
        (Self { notices }, incoming)
    }

    /// Queues a notice; it is completed once the kernel has heard it. Never blocks.
    ///
    /// Notices are delivered in the order of the calls.
    ///
    /// # Errors
    /// See [`NoticeRefused`]. A notice must not be forgotten: the kernel would go on showing old
    /// bytes, and an open may wait for it.
    pub fn send(&self, notice: Notice) -> Result<(), NoticeRefused> {
        self.notices.try_send(notice).map_err(|error| match error {
            TrySendError::Full(notice) => NoticeRefused::Full(notice),
            TrySendError::Disconnected(notice) => NoticeRefused::Ended(notice),
        })
    }
}

/// The thread behind the notifiers of one session. Dropping it tells the thread to end.
///
/// It alone holds the kernel's channel, so that a forgotten [`Notifier`] keeps no dead connection
/// open, on which processes would hang.
#[derive(Debug)]
pub(crate) struct NotifierThread {
    /// Never sent to: the thread ends when this is dropped.
    running: Sender<()>,
    thread: JoinHandle<()>,
}

impl NotifierThread {
    /// Ends the thread. Pending notices are completed unheard: the mount they concern is gone.
    ///
    /// Where the mount outlives whoever took its requests, the thread may wait for a page whose read nobody takes any
    /// more; so the requests that still come to `device` are refused meanwhile.
    pub(crate) fn stop(self, device: &Arc<Device>) {
        drop(self.running);
        while !self.thread.is_finished() && device.refuse_all(STOP_LOOK) {}
        if self.thread.join().is_err() {
            tracing::error!("the notifier thread panicked");
        }
    }
}

/// Starts the thread.
pub(crate) fn start(device: Arc<Device>) -> io::Result<(Notifier, NotifierThread)> {
    let (notifier, incoming) = Notifier::channel();
    let (running, stopped) = bounded(0);
    let thread =
        std::thread::Builder::new().name("vfs-notify".to_owned()).spawn(move || run(&device, &incoming, &stopped))?;
    Ok((notifier, NotifierThread { running, thread }))
}

fn run(device: &Device, incoming: &Receiver<Notice>, stopped: &Receiver<()>) {
    loop {
        select_biased! {
            recv(stopped) -> _ => break,
            recv(incoming) -> notice => match notice {
                Ok(notice) => deliver(device, notice),
                Err(_) => break, // every notifier is gone
            },
        }
    }
    incoming.try_iter().for_each(Notice::complete);
}

fn deliver(device: &Device, notice: Notice) {
    // A negative offset leaves the pages alone; length 0 from offset 0 means all of them.
    let offset = match notice.scope {
        NoticeScope::Attr => -1,
        NoticeScope::Data => 0,
    };
    if let Err(error) = device.inval_inode(notice.ino, offset, 0) {
        tracing::debug!(ino = notice.ino, %error, "the kernel did not take a notice");
    }
    notice.complete();
}
