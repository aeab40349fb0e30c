//! The epoll backend: plain system calls, the same batches, the same slots.

use super::read_pool::ReadPool;
use super::receive::{PAYLOAD_BYTES_MAX, SlotPool};
use super::transmit::{TransmitPool, may_lack_segmentation, send_singly};
use super::{
    COMPLETIONS_PER_TURN_MAX, Completion, FILE_READ_BYTES_MAX, Io, IoError, IoKind, IoOptions, IoStats, ReadQueueFull,
    TransmitBuffer, TransmitTarget, Wait, Waker, Watched,
};
use crate::sys::address::Family;
use crate::sys::epoll::{Epoll, Interest, Readiness};
use crate::sys::file::FileRead;
use crate::sys::msg::{self, Inbound};
use crate::sys::ring::Train;
use bytes::BytesMut;
use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SOCKET_TAG: u64 = 0;
const WAKE_TAG: u64 = 1;
const FILE_TAG: u64 = 2;

/// Receives that may fail in one turn before the next turn goes on: an ICMP error fails one.
const RECEIVE_ERRORS_PER_TURN_MAX: u32 = 8;

/// Receives that may fail in a row before the socket is taken to be dead.
const RECEIVE_ERRORS_IN_A_ROW_MAX: u32 = 64;

/// A train, and how much of it has left if it is sent datagram by datagram.
#[derive(Debug)]
struct Departing {
    train: Train,
    left: usize,
}

/// What became of a train.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Departure {
    /// Sent or lost: the buffer is free.
    Gone,
    /// The send buffer is full: it stays first in line.
    NoRoom,
}

/// A shard's epoll set and what it watches.
pub(super) struct PollIo {
    epoll: Epoll,
    socket: UdpSocket,
    waker: Waker,
    local_addr: SocketAddr,
    inbound: Inbound,
    /// The slot the next train is received into.
    slot: BytesMut,
    slots: SlotPool,
    receive_errors_in_a_row: u32,
    buffers: TransmitPool,
    /// Trains waiting for room, oldest first; as many as there are buffers at most.
    backlog: VecDeque<Departing>,
    interest: Interest,
    watched: Watched,
    reads: ReadPool,
    stats: IoStats,
}

impl PollIo {
    pub(super) fn open(socket: UdpSocket, options: IoOptions) -> Result<Self, IoError> {
        let local_addr = socket.local_addr().map_err(IoError::Socket)?;
        let waker = Waker::new().map_err(IoError::Events)?;
        let epoll = Epoll::new().map_err(IoError::Events)?;
        epoll.add(socket.as_fd(), SOCKET_TAG, Interest::Read).map_err(IoError::Socket)?;
        epoll.add(waker.eventfd(), WAKE_TAG, Interest::Read).map_err(IoError::Events)?;
        // One slot is always the next to be filled; the others are what a ring would hold.
        let slots = usize::from(options.receive_slots) + usize::from(options.receive_spare);
        let mut slots = SlotPool::new(slots, PAYLOAD_BYTES_MAX);
        Ok(Self {
            epoll,
            socket,
            local_addr,
            inbound: Inbound::new(),
            slot: slots.take().expect("at least one slot"),
            slots,
            receive_errors_in_a_row: 0,
            buffers: TransmitPool::new(options.transmit_buffers),
            backlog: VecDeque::new(),
            interest: Interest::Read,
            watched: Watched::Never,
            reads: ReadPool::new(options.file_reads, waker.clone()),
            waker,
            stats: IoStats { segmentation: true, ..IoStats::default() },
        })
    }

    fn family(&self) -> Family {
        Family::of(self.local_addr)
    }

    /// Tries to send; counts what became of it.
    fn depart(&mut self, departing: &mut Departing) -> Departure {
        let (family, train) = (self.family(), &mut departing.train);
        if train.segmented || train.target.segment_size.is_none_or(|size| size >= train.payload.len()) {
            let (envelope, payload) = (&mut train.envelope, &train.payload);
            let socket = self.socket.as_fd();
            match msg::send(socket, envelope, payload, &train.target, family, train.segmented) {
                Ok(bytes) => {
                    self.stats.trains_sent += 1;
                    self.stats.bytes_sent += bytes as u64;
                    return Departure::Gone;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Departure::NoRoom;
                }
                Err(error) if train.segmented && may_lack_segmentation(&error) => {
                    train.segmented = false;
                    let departure = self.depart_singly(departing);
                    if !self.stats.segmentation {
                        tracing::warn!(%error, "trains are not cut by the kernel; sending singly");
                    }
                    return departure;
                }
                Err(error) => {
                    self.stats.transmit_errors.count(&error);
                    return Departure::Gone;
                }
            }
        }
        self.depart_singly(departing)
    }

    fn depart_singly(&mut self, departing: &mut Departing) -> Departure {
        let family = self.family();
        let errors = &mut self.stats.transmit_errors;
        let Departing { train, left } = departing;
        let sent = send_singly(self.socket.as_fd(), family, train, *left, errors);
        *left = sent.reached;
        self.stats.bytes_sent += sent.taken_bytes as u64;
        self.stats.segmentation &= !sent.whole_stride;
        if *left < train.payload.len() {
            return Departure::NoRoom;
        }
        self.stats.trains_sent += u64::from(sent.taken_bytes > 0);
        Departure::Gone
    }

    fn flush_backlog(&mut self) {
        while let Some(mut departing) = self.backlog.pop_front() {
            match self.depart(&mut departing) {
                Departure::Gone => self.buffers.put_train(departing.train),
                Departure::NoRoom => {
                    self.backlog.push_front(departing);
                    return;
                }
            }
        }
    }

    /// Waits for room in the send buffer only while a train needs it.
    fn update_interest(&mut self) -> io::Result<()> {
        let wanted = if self.backlog.is_empty() { Interest::Read } else { Interest::ReadWrite };
        if wanted != self.interest {
            self.epoll.change(self.socket.as_fd(), SOCKET_TAG, wanted)?;
            self.interest = wanted;
        }
        Ok(())
    }

    fn receive(&mut self, inbox: &mut VecDeque<Completion>, room: usize) -> io::Result<()> {
        let (mut taken, mut errors) = (0, 0);
        while taken < room {
            let family = self.family();
            let socket = self.socket.as_fd();
            match self.inbound.receive(socket, &mut self.slot, family) {
                Ok(arrival) => {
                    taken += 1;
                    self.receive_errors_in_a_row = 0;
                    let slot = std::mem::take(&mut self.slot);
                    let payload = 0..slot.len();
                    let stats = &mut self.stats;
                    let (datagrams, empty) = self.slots.deliver(slot, payload, arrival, stats);
                    self.slot = empty;
                    inbox.extend(datagrams.map(Completion::Datagrams));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => {
                    self.stats.receive_errors += 1;
                    self.receive_errors_in_a_row += 1;
                    errors += 1;
                    if self.receive_errors_in_a_row > RECEIVE_ERRORS_IN_A_ROW_MAX {
                        return Err(error);
                    }
                    if errors >= RECEIVE_ERRORS_PER_TURN_MAX {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn wait(&mut self, wait: Wait, has_mail: &dyn Fn() -> bool) -> io::Result<Ready> {
        if wait == Wait::No {
            return self.wait_on_epoll(Wait::No);
        }
        let reads = &self.reads;
        let may_wait = self.waker.park(|| has_mail() || reads.has_done());
        let ready = self.wait_on_epoll(if may_wait { wait } else { Wait::No });
        self.waker.unpark();
        ready
    }

    /// Waits through signals: a handler that wants attention wakes us.
    fn wait_on_epoll(&mut self, wait: Wait) -> io::Result<Ready> {
        loop {
            let timeout = match wait {
                Wait::No => Some(Duration::ZERO),
                Wait::ForEvent => None,
                Wait::Until(deadline) => Some(deadline.saturating_duration_since(Instant::now())),
            };
            self.stats.enters += 1;
            match self.epoll.wait(timeout) {
                Ok(events) => return Ok(Ready::of(events)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// What a wait found.
#[derive(Debug, Clone, Copy, Default)]
struct Ready {
    socket_readable: bool,
    socket_writable: bool,
    woken: bool,
    file_readable: bool,
}

impl Ready {
    fn of(events: impl Iterator<Item = Readiness>) -> Self {
        let mut ready = Self::default();
        for event in events {
            match event.tag {
                SOCKET_TAG => {
                    ready.socket_readable |= event.readable;
                    ready.socket_writable |= event.writable;
                }
                FILE_TAG => ready.file_readable = true,
                _ => ready.woken = true,
            }
        }
        ready
    }
}

impl Io for PollIo {
    fn turn(&mut self, wait: Wait, has_mail: &dyn Fn() -> bool, inbox: &mut VecDeque<Completion>) -> io::Result<()> {
        self.stats.turns += 1;
        let ready = self.wait(wait, has_mail)?;
        let mut room = COMPLETIONS_PER_TURN_MAX;
        if ready.woken {
            self.waker.clear()?;
            self.stats.wakes += 1;
            inbox.push_back(Completion::Woken);
            room -= 1;
        }
        if ready.file_readable {
            inbox.push_back(Completion::Readable);
            room -= 1;
        }
        if ready.socket_writable {
            self.flush_backlog();
            self.update_interest()?;
        }
        // Files get half of the turn, so that neither they nor the socket can starve the other.
        for _ in 0..room / 2 {
            let Some(done) = self.reads.take() else {
                break;
            };
            self.stats.file_reads += 1;
            room -= 1;
            inbox.push_back(Completion::FileRead { token: done.token, result: done.result });
        }
        if ready.socket_readable {
            self.receive(inbox, room)?;
        }
        Ok(())
    }

    fn transmit_buffer(&mut self) -> Option<TransmitBuffer> {
        self.buffers.take()
    }

    fn transmit(&mut self, buffer: TransmitBuffer, to: TransmitTarget) {
        let train = buffer.into_train(to, &self.stats);
        let mut departing = Departing { train, left: 0 };
        // Behind others that wait, it waits too: order is kept.
        if self.backlog.is_empty() && self.depart(&mut departing) == Departure::Gone {
            self.buffers.put_train(departing.train);
            return;
        }
        self.stats.trains_deferred += 1;
        self.backlog.push_back(departing);
        if let Err(error) = self.update_interest() {
            // Without notice of room the train would wait for ever; it is lost instead.
            self.stats.transmit_errors.count(&error);
            for departing in self.backlog.drain(..) {
                self.buffers.put_train(departing.train);
            }
        }
    }

    fn return_buffer(&mut self, buffer: TransmitBuffer) {
        self.buffers.put(buffer);
    }

    fn read_file(&mut self, token: u64, file: Arc<OwnedFd>, offset: u64, len: usize) -> Result<(), ReadQueueFull> {
        assert!(len <= FILE_READ_BYTES_MAX, "a read of {len} bytes");
        self.reads.submit(FileRead::new(token, file, offset, len))
    }

    fn watch(&mut self, file: Arc<OwnedFd>) -> io::Result<()> {
        self.epoll.add(file.as_fd(), FILE_TAG, Interest::Read)?;
        self.watched.begin(file);
        Ok(())
    }

    fn unwatch(&mut self) -> io::Result<()> {
        self.watched.end().map_or(Ok(()), |file| self.epoll.remove(file.as_fd()))
    }

    fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn stats(&self) -> IoStats {
        self.stats
    }

    fn kind(&self) -> IoKind {
        IoKind::Poll
    }
}

#[cfg(test)]
mod tests {
    use super::super::{bind_group, open};
    use super::*;
    use std::net::Ipv4Addr;
    use std::num::NonZeroU16;

    const OPTIONS: IoOptions = IoOptions::STANDARD;

    fn bind_local() -> UdpSocket {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let sockets = bind_group(address, NonZeroU16::MIN).expect("a free port");
        sockets.into_iter().next().expect("one socket")
    }

    /// Loopback never fills a send buffer, so the line is formed by hand.
    #[test]
    fn a_line_of_trains_leaves_in_order_when_there_is_room() {
        let mut io = PollIo::open(bind_local(), OPTIONS).expect("a door");
        let peer = open(super::super::IoMode::Poll, bind_local(), OPTIONS);
        let mut peer = peer.expect("a door");
        let target = TransmitTarget { remote: peer.local_addr(), src_ip: None, ecn: None, segment_size: Some(1000) };
        let mut buffer = io.transmit_buffer().expect("a buffer");
        buffer.payload.resize(3500, 1);
        let train = buffer.into_train(target, &io.stats);
        // 2000 bytes of the first train have left datagram by datagram.
        io.backlog.push_back(Departing { train, left: 2000 });
        io.backlog[0].train.segmented = false;
        io.update_interest().expect("a watched socket");

        let mut buffer = io.transmit_buffer().expect("a buffer");
        buffer.payload.resize(2000, 2);
        io.transmit(buffer, target);
        assert_eq!((io.backlog.len(), io.stats.trains_deferred), (2, 1));

        io.turn(Wait::ForEvent, &|| false, &mut VecDeque::new()).expect("a turn that finds room");
        assert_eq!((io.backlog.len(), io.interest), (0, Interest::Read));
        let mut inbox = VecDeque::new();
        let mut received = Vec::new();
        while received.len() < 1500 + 2000 {
            let wait = Wait::Until(Instant::now() + Duration::from_secs(20));
            peer.turn(wait, &|| false, &mut inbox).expect("a turn");
            assert!(!inbox.is_empty(), "{} bytes came", received.len());
            for completion in inbox.drain(..) {
                if let Completion::Datagrams(datagrams) = completion {
                    received.extend_from_slice(&datagrams.bytes);
                }
            }
        }
        assert_eq!(received[..1500], [1; 1500]);
        assert_eq!(received[1500..], [2; 2000]);
    }

    /// The stride is refused, not the cutting; EINVAL may stand for either.
    #[test]
    fn a_train_too_long_for_its_path_does_not_end_segmentation() {
        let mut io = PollIo::open(bind_local(), OPTIONS).expect("a door");
        // The first stride is longer than any datagram; the 100 bytes behind it pass.
        for (stride, bytes_sent, segmentation) in [(66_000, 100, true), (1_000, 66_200, false)] {
            let train = io.buffers.take_oversized(io.local_addr, stride, &io.stats);
            assert_eq!(io.depart_singly(&mut Departing { train, left: 0 }), Departure::Gone);
            assert_eq!((io.stats.bytes_sent, io.stats.segmentation), (bytes_sent, segmentation));
        }
        assert_eq!(io.stats.transmit_errors.total(), 1);
    }
}
