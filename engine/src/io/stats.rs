//! What a door counts.

use std::io;

/// Counters since the door was opened; all but the last only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IoStats {
    /// Turns taken.
    pub turns: u64,
    /// Times the kernel was entered by turns (io_uring_enter or epoll_wait).
    pub enters: u64,
    /// Waits ended by a [`Waker`](super::Waker).
    pub wakes: u64,
    /// Trains delivered.
    pub trains_received: u64,
    /// Datagrams in them.
    pub datagrams_received: u64,
    /// Bytes in them.
    pub bytes_received: u64,
    /// Trains dropped on arrival: cut off, without control data, or empty.
    pub trains_dropped: u64,
    /// Trains copied because they were small.
    pub trains_copied_small: u64,
    /// Trains copied because the application held all spare slots.
    pub trains_copied_starved: u64,
    /// Times the kernel found no slot (`ENOBUFS`); the receive was armed again.
    pub slots_exhausted: u64,
    /// Receives that failed otherwise; the socket was tried again.
    pub receive_errors: u64,
    /// Trains the kernel took.
    pub trains_sent: u64,
    /// Bytes in them.
    pub bytes_sent: u64,
    /// Trains that waited for room in the socket's send buffer (epoll only; a ring does not tell).
    pub trains_deferred: u64,
    /// Trains lost on the way out.
    pub transmit_errors: TransmitErrors,
    /// File reads delivered, failed ones included.
    pub file_reads: u64,
    /// Completions that belonged to no operation; anything but 0 is a bug.
    pub stray_completions: u64,
    /// Whether the kernel cuts trains; if not, each datagram is a system call.
    pub segmentation: bool,
}

/// Trains lost on the way out, by what the kernel said. QUIC sees lost packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TransmitErrors {
    /// The peer's port is closed (`ECONNREFUSED`, from ICMP).
    pub refused: u64,
    /// No memory or queue room (`ENOBUFS`, `ENOMEM`, `EAGAIN`).
    pub no_room: u64,
    /// Over the MTU known for the path (`EMSGSIZE`).
    pub too_big: u64,
    /// No route or address (`ENETUNREACH`, `EHOSTUNREACH`, `ENETDOWN`, `EADDRNOTAVAIL`).
    pub unreachable: u64,
    /// Forbidden by a firewall or policy (`EPERM`, `EACCES`).
    pub denied: u64,
    /// Anything else.
    pub other: u64,
}

impl TransmitErrors {
    /// Returns the sum.
    pub fn total(&self) -> u64 {
        self.refused + self.no_room + self.too_big + self.unreachable + self.denied + self.other
    }

    pub(super) fn count(&mut self, error: &io::Error) {
        let counter = match error.raw_os_error() {
            Some(libc::ECONNREFUSED) => &mut self.refused,
            Some(libc::ENOBUFS | libc::ENOMEM | libc::EAGAIN) => &mut self.no_room,
            Some(libc::EMSGSIZE) => &mut self.too_big,
            Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EADDRNOTAVAIL) => {
                &mut self.unreachable
            }
            Some(libc::EPERM | libc::EACCES) => &mut self.denied,
            _ => &mut self.other,
        };
        *counter += 1;
        tracing::debug!(%error, "a train was lost on the way out");
    }
}
