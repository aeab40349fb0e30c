//! The io_uring backend: one enter per turn carries sends, reads, re-arms and the deadline.

use super::receive::{PAYLOAD_BYTES_MAX, SlotPool};
use super::transmit::{TransmitPool, may_lack_segmentation, send_singly};
use super::{
    COMPLETIONS_PER_TURN_MAX, Completion, FILE_READ_BYTES_MAX, Io, IoError, IoKind, IoOptions, IoStats, ReadQueueFull,
    TransmitBuffer, TransmitTarget, Wait, Waker, Watched,
};
use crate::sys::address::Family;
use crate::sys::clock::ClockBase;
use crate::sys::cqe::{self, Progress};
use crate::sys::enter::Patience;
use crate::sys::file::FileRead;
use crate::sys::ring::{Filled, Finished, RECEIVE_HEADER_BYTES, Ring, RingOptions, Train, Waited};
use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Receives that may fail in a row, for other reasons than a lack of slots, before the socket is
/// taken to be dead: an ICMP error fails one, a closed socket all.
const RECEIVE_ERRORS_IN_A_ROW_MAX: u32 = 64;

/// A shard's ring and what goes through it. Drop order: the ring first, which waits for all that
/// is in flight; then the socket and eventfd it had registered.
pub(super) struct UringIo {
    ring: Ring,
    socket: UdpSocket,
    waker: Waker,
    local_addr: SocketAddr,
    clock: ClockBase,
    slots: SlotPool,
    buffers: TransmitPool,
    receive_armed: bool,
    receive_errors_in_a_row: u32,
    wake_armed: bool,
    watched: Watched,
    watch_armed: bool,
    reads_in_flight: usize,
    reads_max: usize,
    stats: IoStats,
}

impl UringIo {
    /// Opens a ring on the calling thread, or gives the socket back with the reason.
    pub(super) fn open(socket: UdpSocket, options: IoOptions) -> Result<Self, (IoError, UdpSocket)> {
        match Self::prepare(&socket, options) {
            Ok((ring, waker, local_addr, slots)) => Ok(Self {
                ring,
                socket,
                waker,
                local_addr,
                clock: ClockBase::read(),
                slots,
                buffers: TransmitPool::new(options.transmit_buffers),
                receive_armed: false,
                receive_errors_in_a_row: 0,
                wake_armed: false,
                watched: Watched::Never,
                watch_armed: false,
                reads_in_flight: 0,
                reads_max: usize::from(options.file_reads),
                stats: IoStats { segmentation: true, ..IoStats::default() },
            }),
            Err(error) => Err((error, socket)),
        }
    }

    fn prepare(socket: &UdpSocket, options: IoOptions) -> Result<(Ring, Waker, SocketAddr, SlotPool), IoError> {
        // The ring waits for room to send by itself, but on blocking files only.
        socket.set_nonblocking(false).map_err(IoError::Socket)?;
        let local_addr = socket.local_addr().map_err(IoError::Socket)?;
        let waker = Waker::new().map_err(IoError::Events)?;
        let slot_bytes = RECEIVE_HEADER_BYTES + PAYLOAD_BYTES_MAX;
        let mut ring = Ring::open(RingOptions {
            socket: socket.as_fd(),
            family: Family::of(local_addr),
            wake: waker.eventfd(),
            ops_max: usize::from(options.transmit_buffers) + usize::from(options.file_reads),
            receive_slots: options.receive_slots,
            slot_bytes,
        })
        .map_err(IoError::Uring)?;
        tracing::debug!(%local_addr, report = %ring.report(), "opened a ring");
        let slots = usize::from(options.receive_slots) + usize::from(options.receive_spare);
        let mut slots = SlotPool::new(slots, slot_bytes);
        for bid in 0..options.receive_slots {
            ring.provide(bid, slots.take().expect("the pool was sized for it"));
        }
        ring.publish();
        Ok((ring, waker, local_addr, slots))
    }

    fn arm(&mut self) {
        self.receive_armed = self.receive_armed || self.ring.arm_receive();
        self.wake_armed = self.wake_armed || self.ring.arm_wake();
        if let Watched::Now(file) = &self.watched
            && !self.watch_armed
        {
            self.watch_armed = self.ring.arm_watch(Arc::clone(file));
        }
    }

    fn enter(&mut self, wait: Wait, has_mail: &dyn Fn() -> bool) -> io::Result<()> {
        let patience = match wait {
            _ if self.ring.has_completions() => Patience::None,
            Wait::No => Patience::None,
            Wait::ForEvent => Patience::Forever,
            Wait::Until(deadline) => Patience::Until(self.clock.monotonic(deadline)),
        };
        if patience == Patience::None {
            if self.ring.has_work() {
                self.ring.enter(Patience::None)?;
            }
            return Ok(());
        }
        let may_wait = self.waker.park(has_mail);
        let entered = self.wait(if may_wait { patience } else { Patience::None });
        self.waker.unpark();
        entered
    }

    /// Waits through signals: a handler that wants attention wakes us.
    fn wait(&mut self, patience: Patience) -> io::Result<()> {
        while self.ring.enter(patience)? == Waited::Interrupted {}
        Ok(())
    }

    fn finish(&mut self, finished: Finished) -> io::Result<Option<Completion>> {
        match finished {
            Finished::Received { filled, error, ended } => {
                self.receive_armed &= !ended;
                if let Some(error) = error {
                    self.on_receive_error(error)?;
                }
                Ok(filled.and_then(|filled| self.on_filled(filled)))
            }
            Finished::Sent { train, result } => {
                self.on_sent(train, result);
                Ok(None)
            }
            Finished::Read { read, result } => Ok(self.on_read(read, result)),
            Finished::Watched(result) => {
                self.watch_armed = false;
                match result {
                    Ok(()) => Ok(matches!(self.watched, Watched::Now(_)).then_some(Completion::Readable)),
                    Err(error) if cqe::is_weather(&error) => Ok(None),
                    Err(error) => Err(error),
                }
            }
            Finished::Woken(result) => {
                self.wake_armed = false;
                match result {
                    Ok(()) => {
                        self.stats.wakes += 1;
                        Ok(Some(Completion::Woken))
                    }
                    Err(error) if cqe::is_weather(&error) => Ok(None),
                    Err(error) => Err(error),
                }
            }
        }
    }

    fn on_filled(&mut self, filled: Filled) -> Option<Completion> {
        let Filled { bid, slot, payload, arrival } = filled;
        self.receive_errors_in_a_row = 0;
        let (datagrams, empty) = self.slots.deliver(slot, payload, arrival, &mut self.stats);
        self.ring.provide(bid, empty);
        datagrams.map(Completion::Datagrams)
    }

    /// Counts a failed receive; the next turn arms it again.
    fn on_receive_error(&mut self, error: io::Error) -> io::Result<()> {
        if error.raw_os_error() == Some(libc::ENOBUFS) {
            self.stats.slots_exhausted += 1;
            return Ok(());
        }
        self.stats.receive_errors += 1;
        self.receive_errors_in_a_row += 1;
        if self.receive_errors_in_a_row > RECEIVE_ERRORS_IN_A_ROW_MAX {
            return Err(error);
        }
        tracing::debug!(%error, "a receive failed");
        Ok(())
    }

    fn on_sent(&mut self, mut train: Train, result: io::Result<usize>) {
        match result {
            Ok(bytes) => {
                self.stats.trains_sent += 1;
                self.stats.bytes_sent += bytes as u64;
            }
            Err(error) if train.segmented && may_lack_segmentation(&error) => {
                // Several trains that were under way at once come here; the first one says it.
                if self.send_singly(&mut train) && self.stats.segmentation {
                    tracing::warn!(%error, "trains are not cut by the kernel; sending singly");
                    self.stats.segmentation = false;
                }
            }
            Err(error) => self.stats.transmit_errors.count(&error),
        }
        self.buffers.put_train(train);
    }

    /// Sends a train without the kernel's help; what finds no room is lost and counted.
    ///
    /// Returns whether that proves that it is the cutting which fails.
    fn send_singly(&mut self, train: &mut Train) -> bool {
        let errors = &mut self.stats.transmit_errors;
        let family = Family::of(self.local_addr);
        let sent = send_singly(self.socket.as_fd(), family, train, 0, errors);
        errors.no_room += u64::from(sent.reached < train.payload.len());
        self.stats.trains_sent += u64::from(sent.taken_bytes > 0);
        self.stats.bytes_sent += sent.taken_bytes as u64;
        sent.whole_stride
    }

    fn on_read(&mut self, read: FileRead, result: io::Result<Progress>) -> Option<Completion> {
        let result = match result {
            Ok(Progress::Complete | Progress::End) => Ok(()),
            Ok(Progress::Short) => return self.read_on(read),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                return self.read_on(read);
            }
            Err(error) => Err(error),
        };
        self.reads_in_flight -= 1;
        self.stats.file_reads += 1;
        let (token, bytes) = read.into_parts();
        let result = result.map(|()| bytes);
        Some(Completion::FileRead { token, result })
    }

    /// Asks for what is missing. There is room: the entry that just completed had some.
    fn read_on(&mut self, read: FileRead) -> Option<Completion> {
        self.ring.push_read(read).expect("a read that ended left room for itself");
        None
    }
}

impl Io for UringIo {
    fn turn(&mut self, wait: Wait, has_mail: &dyn Fn() -> bool, inbox: &mut VecDeque<Completion>) -> io::Result<()> {
        self.stats.turns += 1;
        self.arm();
        self.enter(wait, has_mail)?;
        for _ in 0..COMPLETIONS_PER_TURN_MAX {
            let Some(finished) = self.ring.pop() else {
                break;
            };
            inbox.extend(self.finish(finished)?);
        }
        self.ring.publish();
        Ok(())
    }

    fn transmit_buffer(&mut self) -> Option<TransmitBuffer> {
        self.buffers.take()
    }

    fn transmit(&mut self, buffer: TransmitBuffer, to: TransmitTarget) {
        let several = to.segment_size.is_some_and(|size| size < buffer.payload.len());
        let mut train = buffer.into_train(to, &self.stats);
        if several && !train.segmented {
            self.send_singly(&mut train);
            self.buffers.put_train(train);
        } else if let Err(train) = self.ring.push_send(train) {
            // Only a buffer from another door can exceed the table.
            self.stats.transmit_errors.other += 1;
            self.buffers.put_train(train);
        }
    }

    fn return_buffer(&mut self, buffer: TransmitBuffer) {
        self.buffers.put(buffer);
    }

    fn read_file(&mut self, token: u64, file: Arc<OwnedFd>, offset: u64, len: usize) -> Result<(), ReadQueueFull> {
        assert!(len <= FILE_READ_BYTES_MAX, "a read of {len} bytes");
        if self.reads_in_flight == self.reads_max {
            return Err(ReadQueueFull);
        }
        let read = FileRead::new(token, file, offset, len);
        self.ring.push_read(read).map_err(|_| ReadQueueFull)?;
        self.reads_in_flight += 1;
        Ok(())
    }

    fn watch(&mut self, file: Arc<OwnedFd>) -> io::Result<()> {
        self.watched.begin(file);
        Ok(())
    }

    fn unwatch(&mut self) -> io::Result<()> {
        self.watched.end();
        Ok(())
    }

    fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn stats(&self) -> IoStats {
        IoStats { enters: self.ring.enters(), stray_completions: self.ring.strays(), ..self.stats }
    }

    fn kind(&self) -> IoKind {
        IoKind::Uring
    }
}

#[cfg(test)]
mod tests {
    use super::super::bind_group;
    use super::*;
    use std::net::Ipv4Addr;
    use std::num::NonZeroU16;

    /// The stride is refused, not the cutting; EINVAL may stand for either.
    #[test]
    fn a_train_too_long_for_its_path_does_not_end_segmentation() {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let sockets = bind_group(address, NonZeroU16::MIN).expect("a free port");
        let socket = sockets.into_iter().next().expect("one socket");
        let mut io = UringIo::open(socket, IoOptions::STANDARD).map_err(|(error, _)| error).expect("a door");
        // The first stride is longer than any datagram; the 100 bytes behind it pass.
        for (stride, bytes_sent, segmentation) in [(66_000, 100, true), (1_000, 66_200, false)] {
            let train = io.buffers.take_oversized(io.local_addr, stride, &io.stats);
            io.on_sent(train, Err(io::Error::from_raw_os_error(libc::EINVAL)));
            assert_eq!((io.stats.bytes_sent, io.stats.segmentation), (bytes_sent, segmentation));
        }
        assert_eq!(io.stats.transmit_errors.total(), 1);
    }
}
