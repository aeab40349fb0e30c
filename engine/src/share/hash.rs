//! Hashes ranges of files, on worker threads.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{Errno, pread};

use super::attr::size_now;
use super::error::FsError;
use super::file::OpenFile;
use super::mapping::MappedBytes;
use super::residency::Residency;

/// Bytes between two looks at the cancel flag: about 50 us of hashing, enough for BLAKE3's widest SIMD, and few enough
/// to stay in a core's second-level cache from the copy to the hash.
const STEP_BYTES: usize = 128 << 10;

/// Bytes mapped at once: what a mapping remembers to have populated.
const SEGMENT_BYTES: u64 = 1 << 20;

/// BLAKE3 of a range, which must lie inside the file. Blocks.
///
/// Through a buffer, since hashed bytes must not change between two looks of the hasher. What is in the page cache is
/// copied there out of the file's map, whose page table is shared with the shards, at half the cost of a read.
///
/// # Errors
/// [`FsError::CANCELLED`] within 128 KiB of the flag's rise; [`FsError::TRUNCATED`] if the
/// file is, or during the call became, shorter than the range; else the errno of pread(2).
pub fn blake3_of(file: &OpenFile, range: Range<u64>, cancel: &AtomicBool) -> Result<[u8; 32], FsError> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; STEP_BYTES];
    let mut start = range.start;
    while start < range.end {
        let end = range.end.min((start / SEGMENT_BYTES + 1) * SEGMENT_BYTES);
        match map_resident(file, start..end) {
            Some(mapped) => update_mapped(&mut hasher, &mapped, &mut buffer, cancel)?,
            None => update_read(&mut hasher, file, start..end, &mut buffer, cancel)?,
        }
        start = end;
    }
    // As in `fault`: the size falls before a tail is zeroed, so zeros read from such a tail are
    // noticed here.
    if size_now(file.fd())? < range.end {
        return Err(FsError::TRUNCATED);
    }
    Ok(*hasher.finalize().as_bytes())
}

/// The range as memory, where all of it is in the page cache.
fn map_resident(file: &OpenFile, range: Range<u64>) -> Option<MappedBytes> {
    let len = range.end - range.start;
    if file.residency(range.start, len) != Residency::Resident {
        return None;
    }
    let len = usize::try_from(len).expect("at most a segment");
    let mapped = file.map(range.start, len).ok().filter(|mapped| mapped.len() == len)?;
    mapped.populate();
    Some(mapped)
}

fn update_mapped(
    hasher: &mut blake3::Hasher,
    mapped: &MappedBytes,
    buffer: &mut [u8],
    cancel: &AtomicBool,
) -> Result<(), FsError> {
    let mut at = 0;
    while at < mapped.len() {
        check(cancel)?;
        let count = mapped.copy_to(at, buffer);
        hasher.update(&buffer[..count]);
        at += count;
    }
    if mapped.check().is_intact() { Ok(()) } else { Err(FsError::TRUNCATED) }
}

fn update_read(
    hasher: &mut blake3::Hasher,
    file: &OpenFile,
    range: Range<u64>,
    buffer: &mut [u8],
    cancel: &AtomicBool,
) -> Result<(), FsError> {
    let fd = file.fd();
    let mut offset = range.start;
    while offset < range.end {
        check(cancel)?;
        let room = usize::try_from(range.end - offset).map_or(STEP_BYTES, |left| left.min(STEP_BYTES));
        match pread(&fd, &mut buffer[..room], offset) {
            Ok(0) => return Err(FsError::TRUNCATED),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                offset += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn check(cancel: &AtomicBool) -> Result<(), FsError> {
    if cancel.load(Ordering::Relaxed) { Err(FsError::CANCELLED) } else { Ok(()) }
}
