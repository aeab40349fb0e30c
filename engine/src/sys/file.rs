//! Reads of file ranges into memory that is not initialised first.

use super::cqe::{Progress, progress};
use bytes::BytesMut;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// One read on its way: what is wanted, where it goes, what is there already.
#[derive(Debug)]
pub(crate) struct FileRead {
    token: u64,
    file: Arc<OwnedFd>,
    offset: u64,
    wanted: usize,
    bytes: BytesMut,
}

impl FileRead {
    /// Prepares to read `len` bytes of `file` from `offset`.
    pub(crate) fn new(token: u64, file: Arc<OwnedFd>, offset: u64, len: usize) -> Self {
        Self { token, file, offset, wanted: len, bytes: BytesMut::with_capacity(len) }
    }

    /// Returns the descriptor number; the read keeps it open.
    pub(crate) fn raw_fd(&self) -> i32 {
        self.file.as_raw_fd()
    }

    /// Returns the file offset of the next missing byte.
    pub(crate) fn next_offset(&self) -> u64 {
        self.offset.saturating_add(self.bytes.len() as u64)
    }

    /// Returns how many bytes are missing.
    pub(crate) fn missing(&self) -> usize {
        self.wanted - self.bytes.len()
    }

    /// Returns where the next missing byte goes; [`missing`](Self::missing) bytes fit there.
    pub(crate) fn room(&mut self) -> *mut u8 {
        self.bytes.spare_capacity_mut().as_mut_ptr().cast()
    }

    /// Counts `moved` bytes as read; says what is left to do.
    ///
    /// # Safety
    /// The kernel has written the `moved` bytes at [`room`](Self::room), and the read has not
    /// been advanced or moved to other memory since that address was taken.
    pub(crate) unsafe fn advance(&mut self, moved: usize) -> Progress {
        let missing = self.missing();
        let moved = moved.min(missing);
        // SAFETY: `len + moved <= wanted <= capacity`, and the caller promises that these bytes
        // are written.
        unsafe { self.bytes.set_len(self.bytes.len() + moved) };
        progress(moved, missing)
    }

    /// Ends the read; returns its token and what was read.
    pub(crate) fn into_parts(self) -> (u64, BytesMut) {
        (self.token, self.bytes)
    }

    /// Reads on the calling thread until all is there, the file ends or an error comes.
    ///
    /// # Errors
    /// What pread(2) says, `EINTR` excepted.
    pub(crate) fn read_blocking(&mut self) -> io::Result<()> {
        loop {
            let (fd, room, missing) = (self.raw_fd(), self.room(), self.missing());
            let offset =
                libc::off_t::try_from(self.next_offset()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
            // SAFETY: `room` points at `missing` bytes of spare room in `self.bytes`, which
            // `&mut self` keeps in place until the call returns.
            let moved = unsafe { libc::pread(fd, room.cast(), missing, offset) };
            let Ok(moved) = usize::try_from(moved) else {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error);
            };
            // SAFETY: pread wrote `moved` bytes at `room`, taken just above.
            match unsafe { self.advance(moved) } {
                Progress::Short => {}
                Progress::Complete | Progress::End => return Ok(()),
            }
        }
    }
}
