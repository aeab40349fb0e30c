//! Windows of files as memory, lent out as slices that keep them mapped.
//!
//! A window starts at a multiple of [`WINDOW_STRIDE_BYTES`] and reaches as far beyond the file's
//! present end as the next power of two, so a growing file is remapped a few times, not per write.
//! Windows overlap by [`MAP_BYTES_MAX`], so every range a caller may ask for lies in the window its
//! first byte belongs to. What happens when the file shrinks is told in the module `fault`.
#![allow(unsafe_code)]

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

use super::attr::size_now;
use super::error::FsError;
use super::fault::Watch;

/// Longest range lent at once: sixteen of the protocol's largest reads.
pub const MAP_BYTES_MAX: usize = 64 << 20;

/// Distance of window starts. Page tables cost 1/512 of what is touched: 8 MiB for a whole window.
const WINDOW_STRIDE_BYTES: u64 = 4 << 30;

/// Length of a full window.
const WINDOW_BYTES: u64 = WINDOW_STRIDE_BYTES + MAP_BYTES_MAX as u64;

/// Length of the smallest window: a large page of x86-64 and arm64, so that the kernel may align
/// for one.
const WINDOW_BYTES_MIN: u64 = 2 << 20;

/// Unit in which a mapping remembers what was populated: the host's segment.
const POPULATED_UNIT_BYTES: u64 = 1 << 20;

/// Multiple of every page size of Linux, for lengths cut to a file's end.
const PAGE_BYTES_MAX: u64 = 64 << 10;

const _: () =
    assert!(WINDOW_STRIDE_BYTES.is_multiple_of(WINDOW_BYTES_MIN) && WINDOW_BYTES_MIN.is_multiple_of(PAGE_BYTES_MAX));
const _: () = assert!(WINDOW_BYTES.is_multiple_of(PAGE_BYTES_MAX));

/// Where the window of a byte starts.
pub(super) fn window_at(offset: u64) -> u64 {
    offset - offset % WINDOW_STRIDE_BYTES
}

/// One window of one file, mapped read-only and shared; unmapped when its last holder drops it.
pub struct Mapping {
    // Drop order is field order: the fault table forgets the addresses before they are free for
    // others to map.
    watch: Watch,
    region: Region,
    offset: u64,
    /// A bit for each [`POPULATED_UNIT_BYTES`] whose page table was filled once.
    populated: Box<[AtomicU64]>,
    file: Arc<OwnedFd>,
}

impl Mapping {
    /// Maps the window at `offset`, at least up to `end`, of a file of `size` bytes.
    pub(super) fn new(file: Arc<OwnedFd>, offset: u64, end: u64, size: u64) -> Result<Self, FsError> {
        debug_assert!(offset < end && end <= size && end - offset <= WINDOW_BYTES);
        let roomy = (size - offset).max(WINDOW_BYTES_MIN).checked_next_power_of_two().unwrap_or(WINDOW_BYTES);
        let region = Region::map(file.as_fd(), offset, roomy.min(WINDOW_BYTES)).or_else(|errno| {
            // Past the largest file the file system can hold (EOVERFLOW), or a small address space:
            // only what is there.
            tracing::debug!(%errno, "mapping without room to grow");
            let exact = (size - offset).min(WINDOW_BYTES).next_multiple_of(PAGE_BYTES_MAX);
            Region::map(file.as_fd(), offset, exact)
        });
        let region = region.map_err(|errno| {
            tracing::debug!(%errno, "not mapped, to be read through buffers");
            FsError::UNMAPPABLE
        })?;
        let watch = Watch::new(region.address.as_ptr().expose_provenance(), region.len).map_err(|error| {
            tracing::debug!(%error, "not mapped, to be read through buffers");
            FsError::UNMAPPABLE
        })?;
        let units = (region.len as u64).div_ceil(POPULATED_UNIT_BYTES);
        let populated = (0..units.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Ok(Self { watch, region, offset, populated, file })
    }

    /// Whether bytes copied out of this mapping up to file offset `end` are bytes of the file.
    ///
    /// To be asked after the copy and before its use. `false` once any page of the mapping was
    /// found missing, and while the file is shorter than `end`. Cost: one statx(2) that asks no
    /// server.
    pub fn is_intact(&self, end: u64) -> bool {
        // Keeps the caller's copy before what follows, for compiler and processor: see "Order" in
        // the module `fault`.
        fence(Ordering::SeqCst);
        size_now(&self.file).is_ok_and(|size| size >= end) && !self.is_torn()
    }

    /// Whether a page of this mapping was ever found missing. A torn mapping stays torn.
    pub fn is_torn(&self) -> bool {
        self.watch.is_torn()
    }

    /// File offset of the first byte.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The unit that starts at or holds `at`, a distance into the mapping: its word and its bit there.
    fn unit(&self, at: u64) -> (&AtomicU64, u64) {
        let unit = at / POPULATED_UNIT_BYTES;
        (&self.populated[usize::try_from(unit / 64).expect("within a mapping")], 1 << (unit % 64))
    }

    fn is_populated(&self, from: u64, to: u64) -> bool {
        (from / POPULATED_UNIT_BYTES..to.div_ceil(POPULATED_UNIT_BYTES)).all(|unit| {
            let (word, bit) = self.unit(unit * POPULATED_UNIT_BYTES);
            word.load(Ordering::Relaxed) & bit != 0
        })
    }

    /// Notes the units that lie wholly in a range.
    fn on_populated(&self, from: u64, to: u64) {
        for unit in from.div_ceil(POPULATED_UNIT_BYTES)..to / POPULATED_UNIT_BYTES {
            let (word, bit) = self.unit(unit * POPULATED_UNIT_BYTES);
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    pub(super) fn covers(&self, offset: u64, end: u64) -> bool {
        self.offset <= offset && end <= self.offset + self.region.len as u64
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping")
            .field("offset", &self.offset)
            .field("len", &self.region.len)
            .field("torn", &self.is_torn())
            .finish_non_exhaustive()
    }
}

/// Addresses of this process that belong to one mmap(2).
struct Region {
    address: NonNull<u8>,
    len: usize,
}

// SAFETY: a region is a plain range of addresses of the whole process, readable from every thread;
// it is written by no one here, and unmapped once, by the one owner's drop.
unsafe impl Send for Region {}
// SAFETY: as above; all `&self` uses only read the address and the length.
unsafe impl Sync for Region {}

impl Region {
    fn map(file: BorrowedFd<'_>, offset: u64, len: u64) -> Result<Self, Errno> {
        let len = usize::try_from(len).map_err(|_| Errno::OVERFLOW)?;
        // SAFETY: a null hint without MAP_FIXED lets the kernel choose free addresses, so no memory
        // of ours changes.
        let address = unsafe { mmap(std::ptr::null_mut(), len, ProtFlags::READ, MapFlags::SHARED, file, offset) }?;
        let address = NonNull::new(address.cast()).ok_or(Errno::NOMEM)?;
        Ok(Self { address, len })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `address` and `len` are those of the mmap(2) in `Region::map`, unmapped nowhere
        // else (the fault handler replaces pages in place and leaves the range mapped). Slices of
        // it borrow a `MappedBytes`, which holds the `Arc<Mapping>` that owns this region, so none
        // is left.
        let unmapped = unsafe { munmap(self.address.as_ptr().cast(), self.len) };
        debug_assert_eq!(unmapped, Ok(()), "a region is unmapped whole and once");
    }
}

/// A range of a file as memory; fit for `bytes::Bytes::from_owner`.
///
/// # What the slice is
/// Another process may write or truncate the file while the slice exists, so two reads of one byte
/// may differ. Rust's memory model has no word for that: a `&[u8]` promises bytes that stay. It is
/// accepted here, as by every user of file maps, for these reasons, which bind the users of this
/// type: the bytes are copied out once (into a QUIC packet, which is then encrypted in place),
/// nothing is decided on them before that copy, and the copy is used only if
/// [`MappedCheck::is_intact`] says so afterwards. A copy that a compiler did twice would send one
/// or the other of two states the file really had. [`MappedBytes::copy_to`] makes that copy without
/// forming a slice. To parse, decompress or hash contents, read them into a buffer of your own.
///
/// System calls must not be given the slice: on a missing page the kernel answers `EFAULT` instead
/// of raising the signal that the module `fault` handles.
pub struct MappedBytes {
    /// `None` for the empty range.
    mapping: Option<Arc<Mapping>>,
    offset: u64,
    len: usize,
}

impl MappedBytes {
    pub(super) fn empty() -> Self {
        Self { mapping: None, offset: 0, len: 0 }
    }

    pub(super) fn new(mapping: Arc<Mapping>, offset: u64, end: u64) -> Self {
        assert!(offset <= end && mapping.covers(offset, end), "the window was chosen to cover the range");
        let len = usize::try_from(end - offset).expect("within a mapping, whose length is a usize");
        Self { mapping: Some(mapping), offset, len }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the range has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills the page table for the range in one system call (MADV_POPULATE_READ, madvise(2)), for pages in memory.
    ///
    /// Saves one page fault per page. Done once for each MiB of a mapping: pages that the kernel took back since then are
    /// found missing by faults. An advice only: where the kernel refuses it (before Linux 5.14, or for a range truncated
    /// meanwhile) the faults do the same work one by one.
    pub fn populate(&self) {
        let (Some(mapping), Some(first)) = (&self.mapping, self.address()) else { return };
        let from = self.offset - mapping.offset;
        let to = from + self.len as u64;
        if mapping.is_populated(from, to) {
            return;
        }
        let within_page = first.addr().get() % rustix::param::page_size();
        // SAFETY: a region starts on a page, so the page that holds its byte `first` starts within it.
        let page = unsafe { first.sub(within_page) };
        // SAFETY: the range lies in the region, which `self.mapping` keeps mapped; populating reads and changes nothing.
        let refused = unsafe { madvise(page.as_ptr().cast(), within_page + self.len, Advice::LinuxPopulateRead) };
        if let Err(errno) = refused {
            tracing::trace!(%errno, "the page table is filled by faults instead");
        }
        // Refused ones too: the next reader would be refused as well.
        mapping.on_populated(from, to);
    }

    /// A handle that outlives this value and tells whether bytes copied out of it may be used.
    pub fn check(&self) -> MappedCheck {
        MappedCheck { mapping: self.mapping.clone(), end: self.offset + self.len as u64 }
    }

    /// Copies the bytes from `at` on into `target`, as many as there are and fit; returns their
    /// count.
    ///
    /// The copy may be used if [`MappedCheck::is_intact`] says so after it.
    pub fn copy_to(&self, at: usize, target: &mut [u8]) -> usize {
        let count = self.len.saturating_sub(at).min(target.len());
        let Some(source) = self.address().filter(|_| count > 0) else {
            return 0;
        };
        // SAFETY: `at <= len` since `count > 0`, so the sum stays inside the region
        // (`MappedBytes::new` asserted it).
        let source = unsafe { source.add(at) };
        // SAFETY: `source..+count` lies in the region, which `self.mapping` keeps mapped and
        // readable (a missing page is supplied by the fault handler). `target` is our own memory,
        // exclusively borrowed, hence apart from the map.
        unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), target.as_mut_ptr(), count) };
        count
    }

    /// Where the first byte is mapped.
    fn address(&self) -> Option<NonNull<u8>> {
        let mapping = self.mapping.as_ref()?;
        let at = usize::try_from(self.offset - mapping.offset).expect("within a mapping, whose length is a usize");
        // SAFETY: `new` asserted that `offset..offset + len` lies within the mapping, so the sum is
        // in its region.
        Some(unsafe { mapping.region.address.add(at) })
    }
}

impl AsRef<[u8]> for MappedBytes {
    fn as_ref(&self) -> &[u8] {
        match self.address() {
            None => &[],
            // SAFETY: `address..+len` lies in the region (asserted in `new`), readable and mapped
            // as long as `self`, which the slice borrows, holds its mapping; `u8` has no alignment
            // and no invalid value. This process never writes there. Other processes may: the
            // promise of unchanging bytes is not kept, and the type's documentation says what users
            // refrain from so that no outcome depends on it.
            Some(address) => unsafe { std::slice::from_raw_parts(address.as_ptr(), self.len) },
        }
    }
}

impl fmt::Debug for MappedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MappedBytes").field("offset", &self.offset).field("len", &self.len).finish_non_exhaustive()
    }
}

/// Tells whether bytes copied out of one [`MappedBytes`] are the file's; cheap to clone.
#[derive(Clone, Debug)]
pub struct MappedCheck {
    mapping: Option<Arc<Mapping>>,
    end: u64,
}

impl MappedCheck {
    /// Whether what was copied out before this call may be sent; see [`Mapping::is_intact`].
    pub fn is_intact(&self) -> bool {
        self.is_intact_to(self.end)
    }

    /// Whether both speak of one mapping: then one question about the higher end answers for both.
    pub fn is_same_mapping(&self, other: &Self) -> bool {
        match (&self.mapping, &other.mapping) {
            (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs),
            (None, None) => true,
            _ => false,
        }
    }

    /// As [`MappedCheck::is_intact`], for a copy that ends before the range does, at file offset `end`.
    pub fn is_intact_to(&self, end: u64) -> bool {
        self.mapping.as_ref().is_none_or(|mapping| mapping.is_intact(end))
    }
}
