//! A shard's only door to the kernel: one UDP socket, file reads, a watched file, a deadline and a wake.
//!
//! Knows nothing of QUIC and keeps no timers of its own; never wakes a thread that has nothing to
//! do. Two backends do the same work with the same batching: io_uring, and epoll where io_uring
//! is forbidden.
//!
//! ```text
//!                      ┌───────────────────────── Io ─────────────────────────┐
//!   transmit ────────▶ │ trains of datagrams, cut by the kernel (UDP_SEGMENT) │ ──▶ socket
//!   read_file ───────▶ │ ranges of open files                                 │ ──▶ files
//!   watch ───────────▶ │ whether a file can be read                           │ ──▶ a FUSE device
//!   turn(wait) ──────▶ │ submit, wait for an event, mail or the deadline      │
//!   inbox ◀─────────── │ Datagrams (joined by UDP_GRO), FileRead, Readable,   │ ◀── Waker, from
//!                      │ Woken                                                │     any thread
//!                      └──────────────────────────────────────────────────────┘
//! ```
//!
//! Bytes are not copied on the way in: a received train leaves in the slot the kernel wrote it to,
//! and the slot comes back when its last slice is dropped.
//!
//! Read this page, then `socket`, `mailbox` and `receive`, then the backends `uring` and `poll`.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;

mod mailbox;
mod poll;
mod read_pool;
mod receive;
mod socket;
mod stats;
#[cfg(test)]
mod tests;
mod transmit;
mod uring;
mod wake;

pub use crate::sys::limits::{allowed_cpus, descriptor_limit, pin_thread, raise_descriptor_limit};
pub use crate::sys::msg::TransmitTarget;
pub use crate::sys::probe::{UringReport, UringUnavailable, probe_uring};
pub use mailbox::{MailReceiver, MailSender, mailbox};
pub use socket::{bind_client, bind_group};
pub use stats::{IoStats, TransmitErrors};
pub use transmit::TransmitBuffer;
pub use wake::Waker;

/// Payload bytes of the largest train: an IPv4 packet less its IP and UDP headers (65,535 − 28).
///
/// The kernel builds a train as one such packet before it cuts it (udp(7), `UDP_SEGMENT`).
pub const DATAGRAM_TRAIN_BYTES_MAX: usize = 65_507;

/// Datagrams in one train: `UDP_MAX_SEGMENTS` of linux/udp.h since Linux 6.9 (64 before).
pub const DATAGRAM_TRAIN_SEGMENTS_MAX: usize = 128;

/// Completions one turn may append: two full receive rings, so that a flood cannot keep a shard
/// from its timers for longer than some ten milliseconds of packet work.
pub const COMPLETIONS_PER_TURN_MAX: usize = 128;

/// Bytes one file read may ask for. A read is copied by the kernel in one go; 16 MiB of cached
/// file take a few milliseconds, the most a shard should be away from its socket.
pub const FILE_READ_BYTES_MAX: usize = 16 << 20;

/// One or more datagrams of one sender, as they came: `stride` bytes each, the last may be shorter.
#[derive(Debug)]
pub struct Datagrams {
    /// The sender; v4-mapped addresses appear as IPv4.
    pub remote: SocketAddr,
    /// The local address they were sent to, if the kernel said so.
    pub local_ip: Option<IpAddr>,
    /// The two ECN bits (RFC 3168).
    pub ecn: u8,
    /// Bytes per datagram; at least 1.
    pub stride: usize,
    /// The payloads, one behind the other; never empty.
    pub bytes: BytesMut,
}

/// Something that happened.
#[derive(Debug)]
pub enum Completion {
    /// A train arrived.
    Datagrams(Datagrams),
    /// A file read ended.
    FileRead {
        /// The token given to [`Io::read_file`].
        token: u64,
        /// The bytes, fewer than asked for only where the file ended; or why not.
        result: io::Result<BytesMut>,
    },
    /// The file given to [`Io::watch`] can be read without waiting, or has ended.
    Readable,
    /// A [`Waker`] interrupted a wait: look at the mailboxes.
    Woken,
}

/// How long a turn may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    No,
    /// Until something happens.
    ForEvent,
    /// Until something happens or this moment; never returns idle before it.
    Until(Instant),
}

/// Which backend is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoMode {
    /// io_uring where it works, else epoll.
    Auto,
    /// io_uring or an error.
    Uring,
    /// epoll.
    Poll,
}

/// Which backend runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoKind {
    /// io_uring.
    Uring,
    /// epoll.
    Poll,
}

impl fmt::Display for IoKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uring => "uring",
            Self::Poll => "poll",
        })
    }
}

/// Sizes of one shard's door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoOptions {
    /// Receive slots of 64 KiB in the kernel's hands; a power of two up to [`Self::SLOTS_MAX`].
    pub receive_slots: u16,
    /// Further slots that may be out with the application before trains are copied.
    pub receive_spare: u16,
    /// Trains that may be in flight; 1 to [`Self::SLOTS_MAX`].
    pub transmit_buffers: u16,
    /// File reads that may be in flight; 1 to [`Self::SLOTS_MAX`].
    pub file_reads: u16,
}

impl IoOptions {
    /// The limit of each size: 1024 slots are 64 MiB, more than a shard should ever pin.
    pub const SLOTS_MAX: u16 = 1024;

    /// What a shard runs with.
    ///
    /// 64 slots hold 4 MiB, 3 ms of 10 Gb/s: as long as a turn may take. 128 spare ones let an
    /// application hold 8 MiB of holes in reassembly before copies begin. 64 trains are as much
    /// as a turn sends. 64 reads of 1 MiB keep a fast disk busy. Memory is touched only when used.
    pub const STANDARD: Self = Self { receive_slots: 64, receive_spare: 128, transmit_buffers: 64, file_reads: 64 };

    fn check(self) -> Result<Self, IoError> {
        let in_range = |size: u16| (1..=Self::SLOTS_MAX).contains(&size);
        if !self.receive_slots.is_power_of_two() || !in_range(self.receive_slots) {
            return Err(IoError::Options("receive_slots"));
        }
        if self.receive_spare > Self::SLOTS_MAX {
            return Err(IoError::Options("receive_spare"));
        }
        if !in_range(self.transmit_buffers) {
            return Err(IoError::Options("transmit_buffers"));
        }
        if !in_range(self.file_reads) {
            return Err(IoError::Options("file_reads"));
        }
        Ok(self)
    }
}

/// Why no door could be opened.
#[derive(Debug, thiserror::Error)]
pub enum IoError {
    /// A size is out of range: the caller's fault.
    #[error("I/O option {0} is out of range")]
    Options(&'static str),
    /// The socket is not what it should be.
    #[error("the socket cannot be used")]
    Socket(#[source] io::Error),
    /// io_uring was asked for and is not to be had.
    #[error("io_uring cannot be used")]
    Uring(#[source] UringUnavailable),
    /// The kernel refused an eventfd or epoll set.
    #[error("the event loop could not be set up")]
    Events(#[source] io::Error),
}

/// All file reads are in flight; a later turn frees some.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("as many file reads are in flight as may be")]
pub struct ReadQueueFull;

/// A shard's door to the kernel. Lives on one thread; only its [`Waker`] goes elsewhere.
///
/// Ask: `local_addr`, `waker`, `stats`, `kind`. Order: `transmit`, `read_file`; what is ordered
/// starts at the next `turn` at the latest. Take: `turn`. Dropping it waits for everything in
/// flight, so that no kernel writes to freed memory.
pub trait Io {
    /// Submits what is queued, waits as told, appends what happened.
    ///
    /// Before it waits it says so to the [`Waker`] and then asks `has_mail`: mail stored before a
    /// `wake` is either seen here or ends the wait. A signal does not end it: its handler wakes.
    /// Appends at most [`COMPLETIONS_PER_TURN_MAX`]; the rest stays for the next turn, which then
    /// does not wait.
    ///
    /// # Errors
    /// What makes the socket or the ring useless. Lost datagrams are counted, never errors.
    fn turn(&mut self, wait: Wait, has_mail: &dyn Fn() -> bool, inbox: &mut VecDeque<Completion>) -> io::Result<()>;

    /// Lends a buffer for one train; `None` while all are in flight, which is the back-pressure.
    ///
    /// Goes back by [`transmit`](Self::transmit) or [`return_buffer`](Self::return_buffer).
    fn transmit_buffer(&mut self) -> Option<TransmitBuffer>;

    /// Sends the payload as one datagram, or as several of `segment_size`.
    ///
    /// Losses on the way out (no route, no memory, over the path MTU, refused by the peer) are
    /// counted in [`IoStats::transmit_errors`]: to QUIC they are lost packets.
    ///
    /// # Panics
    /// If the payload is empty, longer than [`DATAGRAM_TRAIN_BYTES_MAX`], or cut into none or more
    /// than [`DATAGRAM_TRAIN_SEGMENTS_MAX`] datagrams: the caller's bug.
    fn transmit(&mut self, buffer: TransmitBuffer, to: TransmitTarget);

    /// Takes an unused buffer back.
    fn return_buffer(&mut self, buffer: TransmitBuffer);

    /// Reads `len` bytes of `file` from `offset`; a [`Completion::FileRead`] brings them.
    ///
    /// Whatever the kernel answers with fewer bytes is asked for again until the file ends.
    ///
    /// # Errors
    /// [`ReadQueueFull`] while [`IoOptions::file_reads`] are in flight.
    ///
    /// # Panics
    /// If `len` exceeds [`FILE_READ_BYTES_MAX`]: the caller's bug.
    fn read_file(&mut self, token: u64, file: Arc<OwnedFd>, offset: u64, len: usize) -> Result<(), ReadQueueFull>;

    /// Watches `file`: each turn that finds it readable, or ended, brings one [`Completion::Readable`].
    ///
    /// # Errors
    /// When the kernel cannot watch such a file.
    ///
    /// # Panics
    /// If a file was given before, watched still or not: a door watches one, and may keep it open until it is dropped.
    fn watch(&mut self, file: Arc<OwnedFd>) -> io::Result<()>;

    /// Stops to watch.
    ///
    /// # Errors
    /// When the kernel does not let go of the file.
    fn unwatch(&mut self) -> io::Result<()>;

    /// Returns the address the socket is bound to.
    fn local_addr(&self) -> SocketAddr;

    /// Returns a handle that ends this door's waits from any thread.
    fn waker(&self) -> Waker;

    /// Returns what was counted since the start.
    fn stats(&self) -> IoStats;

    /// Returns which backend this is.
    fn kind(&self) -> IoKind;
}

/// The one file that a door watches in its life.
#[derive(Debug)]
enum Watched {
    Never,
    Now(Arc<OwnedFd>),
    Before,
}

impl Watched {
    fn begin(&mut self, file: Arc<OwnedFd>) {
        assert!(matches!(self, Self::Never), "a door watches one file");
        *self = Self::Now(file);
    }

    /// What was watched until now.
    fn end(&mut self) -> Option<Arc<OwnedFd>> {
        match std::mem::replace(self, Self::Before) {
            Self::Now(file) => Some(file),
            Self::Never | Self::Before => None,
        }
    }
}

/// Opens a door on the calling thread, which must be the one that uses and drops it.
///
/// `socket` comes from [`bind_group`] or [`bind_client`], which set what a backend relies on.
///
/// # Errors
/// [`IoError::Uring`] only where io_uring was asked for by name; `Auto` falls back and says why in
/// the log.
pub fn open(mode: IoMode, socket: UdpSocket, options: IoOptions) -> Result<Box<dyn Io>, IoError> {
    let options = options.check()?;
    match mode {
        IoMode::Poll => open_poll(socket, options),
        IoMode::Uring => {
            uring::UringIo::open(socket, options).map(|io| Box::new(io) as Box<dyn Io>).map_err(|(error, _)| error)
        }
        IoMode::Auto => match uring::UringIo::open(socket, options) {
            Ok(io) => Ok(Box::new(io)),
            Err((IoError::Uring(reason), socket)) => {
                tracing::info!(%reason, "falling back from io_uring to epoll");
                open_poll(socket, options)
            }
            Err((error, _)) => Err(error),
        },
    }
}

fn open_poll(socket: UdpSocket, options: IoOptions) -> Result<Box<dyn Io>, IoError> {
    Ok(Box::new(poll::PollIo::open(socket, options)?))
}
