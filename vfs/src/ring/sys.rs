//! The fence around unsafe code: memory that the kernel writes to, and the ring that lends it.
//!
//! ```text
//!            register, commit                     a request is delivered
//!   Lease ───────────────────▶ the kernel's ─────────────────────────────▶ Lease
//!   (whoever holds it reads and writes the entry)     (Completion::Delivered)
//! ```
//!
//! A [`Lease`] is the right to one entry's header and payload. There is one for each entry; while the kernel has the
//! entry there is none. [`Commands`] is the thread's ring, and never leaves its thread; [`Thread`] keeps the memory
//! until that thread has ended, which is when the kernel can touch it no more.

#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::thread::JoinHandle;

use io_uring::squeue::Entry128;
use io_uring::{IoUring, cqueue, opcode, types};
use rustix::mm::{MapFlags, ProtFlags};

/// Bytes of `struct fuse_uring_req_header`: `in_out[128]`, `op_in[128]`, then `struct fuse_uring_ent_in_out`.
pub(super) const HEADER_BYTES: usize = 288;
/// Distance between two headers, so that none shares a cache line.
const HEADER_STRIDE_BYTES: usize = 512;
const PAGE_BYTES: usize = 4096;

/// `FUSE_IO_URING_CMD_REGISTER` and `FUSE_IO_URING_CMD_COMMIT_AND_FETCH`.
const CMD_REGISTER: u32 = 1;
const CMD_COMMIT_AND_FETCH: u32 = 2;

/// Offset of `len` in `struct io_uring_sqe`, for which `UringCmd80` has no setter.
const SQE_LEN_OFFSET: usize = 24;
const _: () = assert!(size_of::<Entry128>() == 128);

/// What completions of the ring's own operations carry; entries carry their index.
const WAKE: u64 = u64::MAX;
const STOP: u64 = u64::MAX - 1;
/// Operations beside one per entry: the wake, the stop.
const OPS_OWN: usize = 2;

/// The device, as the ring's only registered file.
const DEVICE: types::Fixed = types::Fixed(0);

/// One mapping: a page for the wake's counter, the headers, the payloads. Untouched pages take no memory.
pub(super) struct Memory {
    base: NonNull<u8>,
    bytes: usize,
    entries: usize,
    payload_bytes: usize,
    /// Two for each entry: its header, its payload. The kernel reads them while it registers the entry.
    iovecs: Box<[[libc::iovec; 2]]>,
}

// SAFETY: the mapping belongs to the process and not to a thread. Its bytes are reached through a `Lease` only, of
// which there is one for each entry, and by `Commands`, which alone uses the first page.
unsafe impl Send for Memory {}
// SAFETY: as above; `&Memory` gives out pointers and no reference.
unsafe impl Sync for Memory {}

impl Memory {
    /// Maps memory for `entries` requests of `payload_bytes`, a multiple of the page size.
    pub(super) fn map(entries: usize, payload_bytes: usize) -> io::Result<Arc<Self>> {
        assert!(payload_bytes.is_multiple_of(PAGE_BYTES), "payloads are pages");
        let payloads = payloads_offset(entries);
        let bytes = payloads + entries * payload_bytes;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing; it is owned by the value built
        // below, whose `Drop` unmaps it.
        let mapped =
            unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, flags) }?;
        let base = NonNull::new(mapped.cast::<u8>()).expect("the kernel maps nothing at address 0");
        let mut memory = Self { base, bytes, entries, payload_bytes, iovecs: Box::new([]) };
        memory.iovecs = (0..entries)
            .map(|index| {
                [
                    libc::iovec { iov_base: memory.header(index).cast(), iov_len: HEADER_BYTES },
                    libc::iovec { iov_base: memory.payload(index).cast(), iov_len: payload_bytes },
                ]
            })
            .collect();
        Ok(Arc::new(memory))
    }

    /// The address of an entry's header. Within the mapping for `index < entries`.
    fn header(&self, index: usize) -> *mut u8 {
        assert!(index < self.entries);
        self.base.as_ptr().wrapping_add(PAGE_BYTES + index * HEADER_STRIDE_BYTES)
    }

    fn payload(&self, index: usize) -> *mut u8 {
        assert!(index < self.entries);
        self.base.as_ptr().wrapping_add(payloads_offset(self.entries) + index * self.payload_bytes)
    }
}

const fn payloads_offset(entries: usize) -> usize {
    PAGE_BYTES + (entries * HEADER_STRIDE_BYTES).next_multiple_of(PAGE_BYTES)
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} entries, {} bytes)", self.entries, self.bytes)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: `base` and `bytes` are those of the mapping made in `map`, which nothing else unmaps. No reference
        // into it is left: each `Lease` holds an `Arc` of this value. The kernel is done with it: `Thread` holds one,
        // too, until the thread that commanded the ring has ended.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok());
    }
}

/// The right to one entry: its holder alone reads and writes it. Given back by [`Commands::commit`].
#[derive(Debug)]
pub(super) struct Lease {
    memory: Arc<Memory>,
    index: usize,
}

impl Lease {
    /// Which entry, counted from 0 in its thread's memory.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    pub(super) fn header(&self) -> &[u8; HEADER_BYTES] {
        let header = self.memory.header(self.index).cast::<[u8; HEADER_BYTES]>();
        // SAFETY: the pointer is into the mapping, which `self.memory` keeps, and zero-filled memory is initialized.
        // Nobody writes meanwhile: this is the entry's only lease, `&self` keeps `header_mut` off, and the kernel
        // writes to entries that were given to it only.
        unsafe { &*header }
    }

    pub(super) fn header_mut(&mut self) -> &mut [u8; HEADER_BYTES] {
        let header = self.memory.header(self.index).cast::<[u8; HEADER_BYTES]>();
        // SAFETY: as in `header`, and `&mut self` keeps every other reference to these bytes off.
        unsafe { &mut *header }
    }

    pub(super) fn payload(&self) -> &[u8] {
        let payload = ptr::slice_from_raw_parts(self.memory.payload(self.index), self.memory.payload_bytes);
        // SAFETY: as in `header`; payloads overlap neither headers nor each other (`payloads_offset`).
        unsafe { &*payload }
    }

    pub(super) fn payload_mut(&mut self) -> &mut [u8] {
        let payload = ptr::slice_from_raw_parts_mut(self.memory.payload(self.index), self.memory.payload_bytes);
        // SAFETY: as in `payload`, and `&mut self` keeps every other reference to these bytes off.
        unsafe { &mut *payload }
    }
}

/// What the ring has to say.
#[derive(Debug)]
pub(super) enum Completion {
    /// A request lies in the entry.
    Delivered(Lease),
    /// The kernel did not take the entry, or gave it back without a request.
    Refused(io::Error),
    /// Another thread has given an answer.
    Woken,
    /// The session ends.
    Stop,
}

/// The ring of one thread. Not `Send`: what it has in flight is that thread's.
pub(super) struct Commands {
    uring: IoUring<Entry128>,
    memory: Arc<Memory>,
    _thread: PhantomData<*const ()>,
}

impl Commands {
    /// Makes a ring whose commands go to `device`, with the leases of all its entries.
    fn open(device: &impl AsFd, memory: Arc<Memory>) -> io::Result<(Self, Vec<Lease>)> {
        let ops = u32::try_from(memory.entries + OPS_OWN).expect("entries are bounded").next_power_of_two();
        // One operation for each entry, and the own ones: a queue of as many is never full.
        let mut builder = IoUring::<Entry128>::builder();
        builder.dontfork().setup_submit_all().setup_single_issuer().setup_coop_taskrun().setup_defer_taskrun();
        let uring = builder.build(ops)?;
        uring.submitter().register_files(&[device.as_fd().as_raw_fd()])?;
        let leases = (0..memory.entries).map(|index| Lease { memory: Arc::clone(&memory), index }).collect();
        Ok((Self { uring, memory, _thread: PhantomData }, leases))
    }

    /// Offers an entry to the kernel for the first time, for requests made on CPU `queue`.
    pub(super) fn register(&mut self, lease: Lease, queue: u16) {
        self.hand_over(lease, CMD_REGISTER, queue, 0);
    }

    /// Gives an answered entry back: the kernel takes the answer and puts the next request there.
    pub(super) fn commit(&mut self, lease: Lease, queue: u16, unique: u64) {
        self.hand_over(lease, CMD_COMMIT_AND_FETCH, queue, unique);
    }

    fn hand_over(&mut self, lease: Lease, cmd_op: u32, queue: u16, commit_id: u64) {
        assert!(Arc::ptr_eq(&lease.memory, &self.memory), "an entry goes back to its own ring");
        // `struct fuse_uring_cmd_req`: flags, commit_id, qid, padding.
        let mut command = [0; 80];
        command[8..16].copy_from_slice(&commit_id.to_ne_bytes());
        command[16..18].copy_from_slice(&queue.to_ne_bytes());
        let iovecs = ptr::from_ref(&self.memory.iovecs[lease.index]);
        let mut entry = opcode::UringCmd80::new(DEVICE, cmd_op)
            .cmd(command)
            .addr(Some(iovecs.expose_provenance() as u64))
            .build()
            .user_data(lease.index as u64);
        let len = (&raw mut entry).cast::<u8>().wrapping_add(SQE_LEN_OFFSET).cast::<u32>();
        // SAFETY: `len` points into `entry`, 128 bytes that begin with a `struct io_uring_sqe` (`repr(C)`, asserted
        // above), at an offset that is a multiple of 4 in a structure of alignment 8. `entry` is a local of ours.
        unsafe { len.write(2) };
        drop(lease); // the kernel's from here on
        self.push(entry);
    }

    /// Has the next [`submit_and_wait`](Self::submit_and_wait) end when `wake`, an eventfd, is written to.
    pub(super) fn arm_wake(&mut self, wake: &impl AsFd) {
        let counter = self.memory.base.as_ptr();
        let read = opcode::Read::new(types::Fd(wake.as_fd().as_raw_fd()), counter, 8).build().user_data(WAKE);
        self.push(read.into());
    }

    /// Has a later wait end when `stop` is raised; once.
    pub(super) fn arm_stop(&mut self, stop: &impl AsFd) {
        let poll = opcode::PollAdd::new(types::Fd(stop.as_fd().as_raw_fd()), libc::POLLIN as u32).build();
        self.push(poll.user_data(STOP).into());
    }

    fn push(&mut self, entry: Entry128) {
        let mut queue = self.uring.submission();
        // SAFETY: what the entry points to stays valid until its completion. The iovecs and the counter are
        // `self.memory`'s, and so are the header and payload that the kernel learns from the iovecs; the memory
        // outlives this thread by `Thread`, and a thread that has begun to exit runs no more deliveries
        // (`io_should_terminate_tw`, io_uring/io_uring.h), nor does any other (they are task work of this one). The
        // kernel has these bytes to itself: the entry's only lease was dropped by `hand_over`, and the counter is
        // read by nobody. Descriptors are the caller's, who keeps them open while it uses this ring; one that is
        // closed fails the operation.
        let pushed = unsafe { queue.push(&entry) };
        pushed.expect("one operation for each entry, and a queue of as many");
    }

    /// Submits what is queued and waits for at least `want` completions.
    pub(super) fn submit_and_wait(&mut self, want: usize) -> io::Result<()> {
        match self.uring.submit_and_wait(want) {
            Ok(_) => Ok(()),
            // EINTR: a signal. EBUSY, EAGAIN: completions must be taken first, or memory is short. Nothing is lost.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Takes one completion.
    pub(super) fn pop(&mut self) -> Option<Completion> {
        let entry: cqueue::Entry = self.uring.completion().next()?;
        Some(match entry.user_data() {
            WAKE => Completion::Woken,
            STOP => Completion::Stop,
            index => {
                let index = usize::try_from(index).expect("as it was given");
                // The command of this entry is over, and there is one command for each entry: nobody else has it.
                let lease = Lease { memory: Arc::clone(&self.memory), index };
                match entry.result() {
                    0.. => Completion::Delivered(lease),
                    error => Completion::Refused(io::Error::from_raw_os_error(-error)),
                }
            }
        })
    }
}

/// A thread with a ring. Dropping it waits for the thread's end.
#[derive(Debug)]
pub(crate) struct Thread {
    thread: Option<JoinHandle<io::Result<()>>>,
    /// Kept until the thread has ended: see [`Commands::push`].
    _memory: Arc<Memory>,
}

impl Thread {
    /// Starts a thread that makes its ring over `memory` and runs `body` with it.
    pub(super) fn spawn(
        name: String,
        device: impl AsFd + Send + 'static,
        memory: Arc<Memory>,
        body: impl FnOnce(io::Result<(Commands, Vec<Lease>)>) -> io::Result<()> + Send + 'static,
    ) -> io::Result<Self> {
        let theirs = Arc::clone(&memory);
        let thread = std::thread::Builder::new().name(name).spawn(move || body(Commands::open(&device, theirs)))?;
        Ok(Self { thread: Some(thread), _memory: memory })
    }

    /// Waits for the thread's end; a panic is an error.
    pub(crate) fn join(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|_| Err(io::Error::other("a ring's thread panicked")))
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(%error, "a ring's thread failed");
        }
    }
}

/// The lease of the first entry of a memory that no ring uses.
#[cfg(test)]
pub(super) fn lease_for_test(memory: &Arc<Memory>) -> Lease {
    Lease { memory: Arc::clone(memory), index: 0 }
}
