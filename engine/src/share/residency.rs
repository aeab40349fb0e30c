//! Asks the kernel whether pages of a file are in its cache: cachestat(2), one system call for any
//! range.
//!
//! mincore(2) would need a map and a byte per page, and answers "yes" to those who may not know.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

use super::attr::size_now;

/// cachestat(2), Linux 6.5; one number on all architectures but alpha.
const SYS_CACHESTAT: libc::c_long = 451;

/// Where the bytes of a range are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residency {
    /// Each page is in the page cache.
    Resident,
    /// At least one page is not; holes count as such.
    Cold,
    /// The kernel does not say: before Linux 6.5, or a file that this user neither owns nor may
    /// write.
    Unknown,
}

/// `struct cachestat_range` of `linux/mman.h`.
#[repr(C)]
struct CachestatRange {
    offset: u64,
    /// 0 means "to the end of the file".
    len: u64,
}

/// `struct cachestat` of `linux/mman.h`, in pages.
#[repr(C)]
#[derive(Default)]
struct Cachestat {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// Residency of a range, clipped to the file; an empty one is resident.
pub(super) fn residency(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Residency {
    let end = offset.saturating_add(len);
    match are_cached(fd, offset, end) {
        // Of a range that goes past the end only the part before it counts.
        Some(false) => {}
        known => return if known.is_some() { Residency::Resident } else { Residency::Unknown },
    }
    match size_now(fd) {
        Ok(size) if size >= end => Residency::Cold,
        Ok(size) if are_cached(fd, offset, size) == Some(true) => Residency::Resident,
        Ok(_) => Residency::Cold,
        Err(_) => Residency::Unknown,
    }
}

/// Whether each page of a range is in the page cache; `None` where the kernel does not say.
fn are_cached(fd: BorrowedFd<'_>, start: u64, end: u64) -> Option<bool> {
    if end <= start {
        return Some(true);
    }
    let page = rustix::param::page_size() as u64;
    let pages = end.div_ceil(page) - start / page;
    Some(cached_pages(fd, &CachestatRange { offset: start, len: end - start })? >= pages)
}

fn cached_pages(fd: BorrowedFd<'_>, range: &CachestatRange) -> Option<u64> {
    let mut stat = Cachestat::default();
    // SAFETY: the kernel reads `*range` and writes `stat`, both live borrows of this frame, both
    // laid out as in linux/mman.h (repr(C), u64 only), and keeps neither pointer after the call.
    // `fd` is open while it is borrowed.
    let outcome = unsafe { libc::syscall(SYS_CACHESTAT, fd.as_raw_fd(), range, &raw mut stat, 0u32) };
    (outcome == 0).then_some(stat.cached)
}
