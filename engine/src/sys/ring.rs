//! One io_uring with everything its operations own.
//!
//! ```text
//!   arm_receive, arm_wake, arm_watch, push_send, push_read ─▶ SQ ─▶ enter ─▶ CQ ─▶ pop ─▶ Finished
//!        │                                                                             │
//!        └──────────── ops, buffers: owned here until the last CQE ────────────────────┘
//! ```
//!
//! Made, entered and dropped on one thread: `SINGLE_ISSUER` and the registered ring index are
//! that thread's.

use super::address::{Family, NAME_BYTES};
use super::buf_ring::{BUFFER_GROUP, BufRing};
use super::clock::monotonic_now;
use super::control::RECEIVE_CONTROL_BYTES;
use super::cqe::{self, Progress};
use super::enter::{self, Patience, RingName};
use super::file::FileRead;
use super::msg::{Arrival, Envelope, TransmitTarget, empty_header};
use super::op::{OpKey, OpTable};
use super::probe::{self, UringReport, UringUnavailable};
use bytes::BytesMut;
use io_uring::types::{CancelBuilder, Fd, Fixed, RecvMsgOut};
use io_uring::{IoUring, cqueue, opcode, squeue};
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Bytes the kernel puts before the payload of a multishot receive: `io_uring_recvmsg_out`, the
/// name and the control data, each in a field of fixed size.
pub(crate) const RECEIVE_HEADER_BYTES: usize = 16 + NAME_BYTES + RECEIVE_CONTROL_BYTES;

/// Operations a ring needs for itself: the receive, the wake, the watch, the cancel at the end.
const OPS_OWN: usize = 4;

const SOCKET: Fixed = Fixed(0);
const WAKE: Fixed = Fixed(1);

/// What a ring is made for.
#[derive(Debug)]
pub(crate) struct RingOptions<'a> {
    /// The UDP socket, blocking (a non-blocking file would not wait for room to send).
    pub(crate) socket: BorrowedFd<'a>,
    /// The socket's family.
    pub(crate) family: Family,
    /// The eventfd other threads write to.
    pub(crate) wake: BorrowedFd<'a>,
    /// Sends and reads that may be in flight together.
    pub(crate) ops_max: usize,
    /// Receive slots, a power of two.
    pub(crate) receive_slots: u16,
    /// Size of each slot, header included.
    pub(crate) slot_bytes: usize,
}

/// A payload with its address, in the kernel's hands or on the way there.
#[derive(Debug)]
pub(crate) struct Train {
    /// The datagrams.
    pub(crate) payload: Vec<u8>,
    /// Where their address is written.
    pub(crate) envelope: Box<Envelope>,
    /// Where they go.
    pub(crate) target: TransmitTarget,
    /// Whether the kernel is asked to cut the payload (`UDP_SEGMENT`).
    pub(crate) segmented: bool,
}

/// A received slot, out of the ring.
#[derive(Debug)]
pub(crate) struct Filled {
    /// The vacant buffer id, to be given a new slot with [`Ring::provide`].
    pub(crate) bid: u16,
    /// The slot, header and payload in it.
    pub(crate) slot: BytesMut,
    /// Where the payload lies in the slot.
    pub(crate) payload: Range<usize>,
    /// What came with it; `None` if the datagram must be dropped.
    pub(crate) arrival: Option<Arrival>,
}

/// A completion with its owner's property given back.
#[derive(Debug)]
pub(crate) enum Finished {
    /// The receive brought a slot, an error, or both nothing and its end.
    Received {
        /// The slot, if one was used.
        filled: Option<Filled>,
        /// Why the receive failed, if it did.
        error: Option<io::Error>,
        /// Whether it must be armed again.
        ended: bool,
    },
    /// A train left, or did not.
    Sent {
        /// The train.
        train: Train,
        /// Bytes taken, or why not.
        result: io::Result<usize>,
    },
    /// A read came further, or failed.
    Read {
        /// The read.
        read: FileRead,
        /// How far.
        result: io::Result<Progress>,
    },
    /// The watched file can be read without waiting, or has ended, or cannot be watched; it must be armed again.
    Watched(io::Result<()>),
    /// The eventfd was written to, or reading it failed; it must be armed again.
    Woken(io::Result<()>),
}

/// How an enter ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waited {
    /// By a completion, the time-out, or a want of memory.
    Done,
    /// By a signal; what was submitted is submitted.
    Interrupted,
}

#[derive(Debug)]
enum Op {
    Receive(Box<libc::msghdr>),
    Send(Train),
    Read(FileRead),
    Wake(Box<[u8; 8]>),
    Watch(Arc<OwnedFd>),
    CancelAll,
}

/// The ring. Drop order: `drop` waits for every operation, then forgets the buffer ring and the
/// thread's index; then the fields go, the descriptor first.
pub(crate) struct Ring {
    uring: IoUring,
    name: RingName,
    report: UringReport,
    family: Family,
    buffers: BufRing,
    ops: OpTable<Op>,
    enters: u64,
    strays: u64,
}

impl Ring {
    /// Makes a ring on the calling thread, which must be the one that uses and drops it.
    pub(crate) fn open(options: RingOptions<'_>) -> Result<Self, UringUnavailable> {
        let ops_max = options.ops_max + OPS_OWN;
        // Each queued entry belongs to one operation in the table, so a queue as large as the
        // table is never full. Completions owed: one per operation, one per lent slot.
        let entries = ops_max.next_power_of_two() as u32;
        let completions = ops_max + usize::from(options.receive_slots);
        let (uring, report) = probe::build(entries, completions.next_power_of_two() as u32)?;
        let fixed = [options.socket.as_raw_fd(), options.wake.as_raw_fd()];
        uring
            .submitter()
            .register_files(&fixed)
            .map_err(|source| UringUnavailable::Setup { step: "IORING_REGISTER_FILES", source })?;
        let buffers = BufRing::register(&uring, options.receive_slots, options.slot_bytes)
            .map_err(|source| UringUnavailable::Setup { step: "IORING_REGISTER_PBUF_RING", source })?;
        let name = enter::register(uring.as_raw_fd());
        Ok(Self {
            uring,
            name,
            report,
            family: options.family,
            buffers,
            ops: OpTable::new(ops_max),
            enters: 0,
            strays: 0,
        })
    }

    /// Queues the multishot receive; `false` if the table has no room.
    pub(crate) fn arm_receive(&mut self) -> bool {
        let mut header = Box::new(empty_header());
        // The kernel takes only these two lengths from a multishot header; they shape each slot.
        header.msg_namelen = NAME_BYTES as libc::socklen_t;
        header.msg_controllen = RECEIVE_CONTROL_BYTES as _;
        self.push(Op::Receive(header)).is_ok()
    }

    /// Queues a read of the eventfd; `false` if the table has no room.
    pub(crate) fn arm_wake(&mut self) -> bool {
        self.push(Op::Wake(Box::new([0; 8]))).is_ok()
    }

    /// Queues a look at whether `file` can be read; `false` if the table has no room.
    pub(crate) fn arm_watch(&mut self, file: Arc<OwnedFd>) -> bool {
        self.push(Op::Watch(file)).is_ok()
    }

    /// Queues a train, or gives it back.
    pub(crate) fn push_send(&mut self, train: Train) -> Result<(), Train> {
        self.push(Op::Send(train)).map_err(|op| match op {
            Op::Send(train) => train,
            _ => unreachable!("a refused push gives back what was pushed"),
        })
    }

    /// Queues a file read, or gives it back.
    pub(crate) fn push_read(&mut self, read: FileRead) -> Result<(), FileRead> {
        self.push(Op::Read(read)).map_err(|op| match op {
            Op::Read(read) => read,
            _ => unreachable!("a refused push gives back what was pushed"),
        })
    }

    /// Puts an empty slot under a vacant buffer id; seen by the kernel after [`publish`].
    ///
    /// [`publish`]: Self::publish
    pub(crate) fn provide(&mut self, bid: u16, slot: BytesMut) {
        self.buffers.provide(bid, slot);
    }

    /// Shows the kernel the slots provided since the last time.
    pub(crate) fn publish(&self) {
        self.buffers.publish();
    }

    /// Submits what is queued and waits as told for a completion; says whether a signal cut the
    /// wait short. May return early when memory is short.
    ///
    /// # Errors
    /// What is left of io_uring_enter(2) after ordinary weather and the time-out: our bug, or a
    /// ring that is gone.
    pub(crate) fn enter(&mut self, patience: Patience) -> io::Result<Waited> {
        let to_submit = self.uring.submission().len() as u32;
        let patience = match patience {
            Patience::Until(moment) if !self.report.absolute_timer => {
                Patience::For(moment.saturating_sub(monotonic_now()))
            }
            // A distance of zero or a moment in the past must still end at once.
            Patience::For(Duration::ZERO) => Patience::None,
            other => other,
        };
        self.enters += 1;
        match enter::enter(self.name, to_submit, patience) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Waited::Interrupted),
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => Ok(Waited::Done),
            Err(error) if !cqe::is_weather(&error) => Err(error),
            _ => Ok(Waited::Done),
        }
    }

    /// Takes the next completion the kernel has put up.
    pub(crate) fn pop(&mut self) -> Option<Finished> {
        loop {
            let cqe = self.uring.completion().next()?;
            if let Some(finished) = self.settle(&cqe) {
                return Some(finished);
            }
        }
    }

    /// Returns whether an enter without waiting would do anything.
    pub(crate) fn has_work(&mut self) -> bool {
        let queue = self.uring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
    }

    /// Returns whether completions are there to be taken.
    pub(crate) fn has_completions(&mut self) -> bool {
        !self.uring.completion().is_empty()
    }

    /// Returns how often the kernel was entered.
    pub(crate) fn enters(&self) -> u64 {
        self.enters
    }

    /// Returns what the kernel granted.
    pub(crate) fn report(&self) -> UringReport {
        self.report
    }

    /// Returns how many completions belonged to no operation; anything but 0 is a bug.
    pub(crate) fn strays(&self) -> u64 {
        self.strays
    }

    fn push(&mut self, op: Op) -> Result<(), Op> {
        let key = self.ops.insert(op)?;
        let op = self.ops.op_mut(key).expect("inserted just above");
        let sqe = describe(op, self.family).user_data(key.user_data());
        // SAFETY: `sqe` carries addresses of memory that the operation in `self.ops[key]` owns.
        // - Owner: the operation moved into its slot before `describe` took the addresses; they
        //   point at heap blocks of it, which stay where they are.
        // - Life: only `settle` empties the slot, on the last completion with this key; `drop`
        //   awaits that completion or leaks the table.
        // - Aliasing: until then nothing but `op_mut` in `settle` reaches the operation, and
        //   that looks at its kind only.
        // - Descriptors: the socket and the eventfd are registered; a file is kept by its read or its watch.
        let pushed = unsafe { self.uring.submission().push(&sqe) };
        if pushed.is_err() {
            return Err(self.ops.remove(key).expect("inserted just above"));
        }
        Ok(())
    }

    fn settle(&mut self, cqe: &cqueue::Entry) -> Option<Finished> {
        let key = OpKey::from_user_data(cqe.user_data());
        let Some(op) = self.ops.op_mut(key) else {
            self.strays += 1;
            tracing::error!(user_data = cqe.user_data(), "completion without an operation");
            return None;
        };
        let result = cqe::outcome(cqe.result());
        if let Op::Receive(header) = op {
            let header = **header;
            return Some(self.settle_receive(key, &header, cqe.flags(), result));
        }
        match self.ops.remove(key)? {
            Op::Receive(_) | Op::CancelAll => None,
            Op::Send(train) => Some(Finished::Sent { train, result }),
            Op::Wake(_) => Some(Finished::Woken(result.map(drop))),
            Op::Watch(_) => Some(Finished::Watched(result.map(drop))),
            Op::Read(mut read) => {
                // SAFETY: the kernel wrote `moved` bytes at the address `describe` took from this
                // read; it has been advanced by nobody since, and its memory is a heap block.
                let result = result.map(|moved| unsafe { read.advance(moved) });
                Some(Finished::Read { read, result })
            }
        }
    }

    fn settle_receive(&mut self, key: OpKey, header: &libc::msghdr, flags: u32, result: io::Result<usize>) -> Finished {
        let ended = !cqueue::more(flags);
        if ended {
            self.ops.remove(key);
        }
        let len = *result.as_ref().unwrap_or(&0);
        let filled = cqueue::buffer_select(flags).and_then(|bid| {
            // SAFETY: this is the completion that says so; a failed one filled nothing.
            let slot = unsafe { self.buffers.take(bid, len) }?;
            let (arrival, payload) = read_slot(&slot, header, self.family);
            Some(Filled { bid, slot, payload, arrival })
        });
        Finished::Received { filled, error: result.err(), ended }
    }

    /// Cancels everything and waits until the kernel holds nothing of ours.
    fn drain(&mut self) -> io::Result<()> {
        if self.ops.live() == 0 {
            return Ok(());
        }
        if self.push(Op::CancelAll).is_err() {
            return Err(io::Error::other("no room for the cancel"));
        }
        while self.ops.live() > 0 {
            self.enter(Patience::Forever)?;
            while self.pop().is_some() {}
        }
        Ok(())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let drained = self.drain();
        if let Err(error) = &drained {
            // Memory the kernel may still write to is worth less than its safety.
            tracing::error!(%error, "operations still in flight; leaking their memory");
            std::mem::forget(std::mem::replace(&mut self.ops, OpTable::new(0)));
            self.buffers.leak_slots();
        }
        if let Err(error) = self.buffers.unregister(&self.uring) {
            tracing::error!(%error, "the buffer ring could not be unregistered; leaking its memory");
        }
        // A closed ring is torn down later, by a kernel worker; its files are to be closed now.
        if let Err(error) = self.uring.submitter().unregister_files() {
            tracing::error!(%error, "the registered files could not be let go");
        }
        enter::unregister(self.uring.as_raw_fd(), self.name);
    }
}

/// Builds the entry for an operation that already lies in its slot.
fn describe(op: &mut Op, family: Family) -> squeue::Entry {
    match op {
        Op::Receive(header) => opcode::RecvMsgMulti::new(SOCKET, &raw const **header, BUFFER_GROUP).build(),
        Op::Send(train) => {
            let header = train.envelope.seal(&train.payload, &train.target, family, train.segmented);
            opcode::SendMsg::new(SOCKET, header).flags(libc::MSG_NOSIGNAL as u32).build()
        }
        Op::Read(read) => {
            let (fd, offset) = (Fd(read.raw_fd()), read.next_offset());
            let len = u32::try_from(read.missing()).expect("bounded by FILE_READ_BYTES_MAX");
            opcode::Read::new(fd, read.room(), len).offset(offset).build()
        }
        Op::Wake(word) => opcode::Read::new(WAKE, word.as_mut_ptr(), word.len() as u32).build(),
        Op::Watch(file) => opcode::PollAdd::new(Fd(file.as_raw_fd()), libc::POLLIN as u32).build(),
        Op::CancelAll => opcode::AsyncCancel2::new(CancelBuilder::any()).build(),
    }
}

/// Reads what the kernel put before the payload.
fn read_slot(slot: &[u8], header: &libc::msghdr, family: Family) -> (Option<Arrival>, Range<usize>) {
    let Ok(out) = RecvMsgOut::parse(slot, header) else {
        return (None, 0..0);
    };
    let flags = out.flags() as i32;
    let arrival = Arrival::read(out.name_data(), out.control_data(), flags, family);
    let end = RECEIVE_HEADER_BYTES + out.payload_data().len();
    (arrival, RECEIVE_HEADER_BYTES..end)
}
