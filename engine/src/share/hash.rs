//! Hashes ranges of files, on worker threads.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{Errno, pread};

use super::attr::size_now;
use super::error::FsError;
use super::file::OpenFile;

/// Bytes between two looks at the cancel flag: about 0.1 ms of hashing, and enough for BLAKE3's
/// widest SIMD.
const STEP_BYTES: usize = 256 * 1024;

/// BLAKE3 of a range, which must lie inside the file. Blocks; reads through a buffer, since hashed
/// bytes must not change between two looks of the hasher.
///
/// # Errors
/// [`FsError::CANCELLED`] within 256 KiB of the flag's rise; [`FsError::TRUNCATED`] if the
/// file is, or during the call became, shorter than the range; else the errno of pread(2).
pub fn blake3_of(file: &OpenFile, range: Range<u64>, cancel: &AtomicBool) -> Result<[u8; 32], FsError> {
    let fd = file.fd();
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; STEP_BYTES];
    let mut offset = range.start;
    while offset < range.end {
        if cancel.load(Ordering::Relaxed) {
            return Err(FsError::CANCELLED);
        }
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
    // As in `fault`: the size falls before a tail is zeroed, so zeros read from such a tail are
    // noticed here.
    if size_now(&fd)? < range.end {
        return Err(FsError::TRUNCATED);
    }
    Ok(*hasher.finalize().as_bytes())
}
