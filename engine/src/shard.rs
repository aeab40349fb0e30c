//! One core's share of a node: its ring, its connections, its service. Nobody else holds any of it.
//!
//! One turn: submit and wait → read the clock once → drain completions and mail, each with its events (no I/O inside) →
//! flush transmits → arm the next deadline. Work in several steps is a written-out state machine in the service; in
//! return one thing happens at a time, nothing locks, and the simulator drives the same service without a shard.

use crate::io::{
    self, Completion, Io, IoError, IoKind, IoMode, IoOptions, MailReceiver, MailSender, TransmitTarget, Wait, mailbox,
};
use crate::service::{Service, Watch};
use std::collections::VecDeque;
use std::net::UdpSocket;
use std::time::Instant;
use transport::{Inbound, Node};

/// Messages a shard takes from its mailbox in one turn: its share, so that no sender starves the socket.
const MAIL_PER_TURN_MAX: usize = 256;
/// Trains a shard sends in one turn before it looks at its socket again: 64 x 64 KiB are 3 ms of 10 Gbit/s.
const TRAINS_PER_TURN_MAX: usize = 64;
/// Turns a shard that is over may take to tell its peers.
const FAREWELL_TURNS_MAX: usize = 64;

/// Where a shard's door opens.
pub(crate) struct Door {
    pub(crate) socket: UdpSocket,
    pub(crate) mode: IoMode,
    pub(crate) mail_capacity: usize,
}

/// See the module.
pub(crate) struct Shard<S: Service> {
    io: Box<dyn Io>,
    node: Node,
    service: S,
    mail: MailReceiver<S::Mail>,
    inbox: VecDeque<Completion>,
    /// Output waits for a transmit buffer, which the end of a send brings.
    starved: bool,
    /// A file read waits for room in the ring.
    read_waiting: Option<crate::service::FileRead>,
    /// The turn ended with output left.
    cut_short: bool,
}

impl<S: Service> Shard<S> {
    /// Opens the door and creates the shard on the calling thread, which must run it.
    ///
    /// `make` is given the way to reach the shard.
    ///
    /// # Errors
    /// [`IoError`] when neither backend, or not the one asked for, can be had.
    pub(crate) fn open(
        door: Door,
        node: Node,
        make: impl FnOnce(MailSender<S::Mail>) -> S,
    ) -> Result<(Self, MailSender<S::Mail>), IoError> {
        let io = io::open(door.mode, door.socket, IoOptions::STANDARD)?;
        let (sender, mail) = mailbox(door.mail_capacity, io.waker());
        let service = make(sender.clone());
        let inbox = VecDeque::with_capacity(io::COMPLETIONS_PER_TURN_MAX);
        let shard = Self { io, node, service, mail, inbox, starved: false, read_waiting: None, cut_short: false };
        Ok((shard, sender))
    }

    /// The backend in use.
    pub(crate) fn kind(&self) -> IoKind {
        self.io.kind()
    }

    /// Runs until the service is over and its peers are told.
    ///
    /// # Errors
    /// What makes the socket or the ring useless.
    pub(crate) fn run(mut self) -> std::io::Result<()> {
        // What the service wants before anything happened: a client dials.
        self.finish_turn(Instant::now())?;
        while !self.service.is_over() {
            self.turn()?;
        }
        for _ in 0..FAREWELL_TURNS_MAX {
            if !self.node.has_output() {
                break;
            }
            self.turn()?;
        }
        Ok(())
    }

    fn turn(&mut self) -> std::io::Result<()> {
        let wait = self.wait();
        self.io.turn(wait, &|| self.mail.has_mail(), &mut self.inbox)?; // the one place that blocks
        let now = Instant::now(); // the one place that reads time

        while let Some(completion) = self.inbox.pop_front() {
            match completion {
                Completion::Datagrams(d) => {
                    let inbound = Inbound {
                        remote: d.remote,
                        local_ip: d.local_ip,
                        ecn: d.ecn,
                        stride: d.stride,
                        bytes: d.bytes,
                    };
                    self.node.handle_datagrams(now, inbound);
                    // At once, not after the batch: what was decrypted is still in the core's cache when it is copied,
                    // and QUIC's reassembly holds one train's chunks, not the whole batch's.
                    self.apply_events(now);
                }
                Completion::FileRead { token, result } => {
                    self.service.handle_file_read(now, &mut self.node, token, result)
                }
                Completion::Readable => self.service.handle_readable(now, &mut self.node),
                Completion::Woken => {}
            }
        }
        for _ in 0..MAIL_PER_TURN_MAX {
            let Some(mail) = self.mail.take() else { break };
            self.service.handle_mail(now, &mut self.node, mail);
        }
        self.finish_turn(now)
    }

    /// Whatever leaves the shard clean: timers due, events, file reads, transmits, what to watch.
    fn finish_turn(&mut self, now: Instant) -> std::io::Result<()> {
        if self.node.poll_timeout().is_some_and(|deadline| deadline <= now) {
            self.node.handle_timeout(now);
        }
        if self.service.poll_timeout().is_some_and(|deadline| deadline <= now) {
            self.service.handle_timeout(now, &mut self.node);
        }
        self.apply_events(now);
        self.start_file_reads();
        self.flush(now);
        self.apply_events(now);
        while let Some(watch) = self.service.poll_watch() {
            match watch {
                Watch::File(file) => self.io.watch(file)?,
                Watch::Nothing => self.io.unwatch()?,
            }
        }
        Ok(())
    }

    fn apply_events(&mut self, now: Instant) {
        while let Some((conn, event)) = self.node.poll_event() {
            self.service.handle_event(now, &mut self.node, conn, event);
        }
    }

    fn start_file_reads(&mut self) {
        while let Some(read) = self.read_waiting.take().or_else(|| self.service.poll_file_read()) {
            if self.io.read_file(read.token, read.file.clone(), read.offset, read.length).is_err() {
                // The end of another read brings room.
                self.read_waiting = Some(read);
                return;
            }
        }
    }

    fn flush(&mut self, now: Instant) {
        self.starved = false;
        self.cut_short = false;
        for _ in 0..TRAINS_PER_TURN_MAX {
            let Some(mut buffer) = self.io.transmit_buffer() else {
                self.starved = self.node.has_output();
                return;
            };
            let Some(transmit) = self.node.poll_transmit(now, &mut buffer.payload) else {
                self.io.return_buffer(buffer);
                return;
            };
            if let Some(conn) = transmit.from
                && !self.service.may_leave(now, &mut self.node, conn)
            {
                self.io.return_buffer(buffer);
                continue;
            }
            let target = TransmitTarget {
                remote: transmit.remote,
                src_ip: transmit.src_ip,
                ecn: Some(transmit.ecn),
                segment_size: transmit.segment_size,
            };
            self.io.transmit(buffer, target);
        }
        self.cut_short = self.node.has_output();
    }

    /// Completions left in the ring end a wait by themselves; mail and cut-short output do not.
    fn wait(&self) -> Wait {
        if self.cut_short || (self.node.has_output() && !self.starved) || self.mail.has_mail() {
            return Wait::No;
        }
        let deadline = self.node.poll_timeout().into_iter().chain(self.service.poll_timeout()).min();
        deadline.map_or(Wait::ForEvent, Wait::Until)
    }
}
