//! `io_uring_enter` and the registered ring descriptor, with the arguments the `io-uring` crate
//! keeps to itself.
//!
//! The crate holds a registered ring index in a short-lived `Submitter`; a ring that enters a
//! million times a second wants it once.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

/// `IORING_ENTER_GETEVENTS`: run deferred work and wait for completions.
const GETEVENTS: u32 = 1 << 0;
/// `IORING_ENTER_EXT_ARG`: the argument is a [`GetEventsArg`] (Linux 5.11).
const EXT_ARG: u32 = 1 << 3;
/// `IORING_ENTER_REGISTERED_RING`: the descriptor is a registered index (Linux 5.18).
const REGISTERED_RING: u32 = 1 << 4;
/// `IORING_ENTER_ABS_TIMER`: the timeout is a moment, not a distance (Linux 6.12).
const ABS_TIMER: u32 = 1 << 5;

const REGISTER_RING_FDS: u32 = 20;
const UNREGISTER_RING_FDS: u32 = 21;
/// Asks the kernel to choose the index of a registered ring.
const ANY_INDEX: u32 = u32::MAX;

/// How a ring is named to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RingName {
    /// By descriptor.
    Descriptor(RawFd),
    /// By an index in the calling thread's table, which saves a descriptor look-up per enter.
    Index(u32),
}

/// How long an enter waits for a completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Not at all.
    None,
    /// Until one comes.
    Forever,
    /// Until one comes or this distance is over.
    For(Duration),
    /// Until one comes or `CLOCK_MONOTONIC` shows this.
    Until(Duration),
}

/// `io_uring_getevents_arg` of linux/io_uring.h.
#[repr(C)]
struct GetEventsArg {
    signal_mask: u64,
    signal_mask_bytes: u32,
    min_wait_us: u32,
    timeout: u64,
}

/// `__kernel_timespec` of linux/time_types.h.
#[repr(C)]
struct KernelTimespec {
    seconds: i64,
    nanoseconds: i64,
}

/// `io_uring_rsrc_update` of linux/io_uring.h.
#[repr(C)]
struct ResourceUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

/// Submits `to_submit` entries, runs deferred work, waits; returns how many were submitted.
///
/// # Errors
/// `ETIME` when the wait ran out, and the rest of io_uring_enter(2).
pub(crate) fn enter(ring: RingName, to_submit: u32, patience: Patience) -> io::Result<usize> {
    let (fd, name_flag) = match ring {
        RingName::Descriptor(fd) => (fd, 0),
        RingName::Index(index) => (index as RawFd, REGISTERED_RING),
    };
    let (min_complete, limit, timer_flag) = match patience {
        Patience::None => (0_u32, None, 0),
        Patience::Forever => (1, None, 0),
        Patience::For(distance) => (1, Some(distance), 0),
        Patience::Until(moment) => (1, Some(moment), ABS_TIMER),
    };
    let limit = limit.map(|limit| KernelTimespec {
        seconds: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        nanoseconds: i64::from(limit.subsec_nanos()),
    });
    let arg = GetEventsArg {
        signal_mask: 0,
        signal_mask_bytes: 0,
        min_wait_us: 0,
        // The kernel follows this number back to the timespec, hence the exposed address.
        timeout: limit.as_ref().map_or(0, |limit| std::ptr::from_ref(limit).expose_provenance() as u64),
    };
    // SAFETY: `arg` and the timespec it names are locals that outlive the call. The entries that
    // this submits were pushed under the promises written at `Ring::push`.
    let submitted = unsafe {
        libc::syscall(
            libc::SYS_io_uring_enter,
            fd,
            to_submit,
            min_complete,
            GETEVENTS | EXT_ARG | name_flag | timer_flag,
            &raw const arg,
            size_of::<GetEventsArg>(),
        )
    };
    usize::try_from(submitted).map_err(|_| io::Error::last_os_error())
}

/// Returns whether this kernel takes absolute timeouts: it refuses flags it does not know.
pub(crate) fn takes_absolute_timeouts(ring: RawFd) -> bool {
    let past = Patience::Until(Duration::from_nanos(1));
    match enter(RingName::Descriptor(ring), 0, past) {
        Ok(_) => true,
        Err(error) => error.raw_os_error() == Some(libc::ETIME),
    }
}

/// Enters the ring into the calling thread's table; falls back to the descriptor where it cannot.
///
/// A registered ring outlives its descriptor, so [`unregister`] must follow.
pub(crate) fn register(ring: RawFd) -> RingName {
    let mut update = ResourceUpdate { offset: ANY_INDEX, reserved: 0, data: ring as u64 };
    match update_ring(ring, REGISTER_RING_FDS, &mut update) {
        1 => RingName::Index(update.offset),
        _ => RingName::Descriptor(ring),
    }
}

/// Takes the ring out of the calling thread's table again.
pub(crate) fn unregister(ring: RawFd, name: RingName) {
    if let RingName::Index(index) = name {
        let mut update = ResourceUpdate { offset: index, reserved: 0, data: 0 };
        update_ring(ring, UNREGISTER_RING_FDS, &mut update);
    }
}

fn update_ring(ring: RawFd, verb: u32, update: &mut ResourceUpdate) -> i64 {
    // SAFETY: `update` is borrowed mutably until the call returns, and the count passed is one.
    unsafe { libc::syscall(libc::SYS_io_uring_register, ring, verb, std::ptr::from_mut(update), 1_u32) }
}
