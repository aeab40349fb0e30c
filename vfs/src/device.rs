//! `/dev/fuse` read and written by ourselves: the handshake, the requests that come nowhere else, the notices.
//!
//! Behind a ring it is nearly silent: FORGET, BATCH_FORGET and INTERRUPT come here and notices go out here. Where the
//! kernel did not take the ring, every request comes here and is served all the same.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, PollFd, PollFlags};
use rustix::fs::OFlags;

use crate::abi::{self, Asked, InitIn, InitOut, Request, init_flag};
use crate::errno::Errno;
use crate::fuse::{Backend, InitSettings, REQUEST_BYTES_MAX};
use crate::owed::Owed;
use crate::serve::Edge;

/// Room for the longest request: a write of [`REQUEST_BYTES_MAX`] with its headers, which the kernel wants to fit
/// even where nothing is ever written (`fuse_dev_do_read`, fs/fuse/dev.c). Touched only as far as requests reach.
const READ_BUFFER_BYTES: usize = REQUEST_BYTES_MAX as usize + 4096;

/// The oldest protocol that knows requests through io_uring (Linux 6.14).
const MINOR_MIN: u32 = 42;

/// Parts of one answer that one call takes (`IOV_MAX`); a read of 1 MiB from small frames has 17, and a header.
const PARTS_MAX: usize = 1024;

/// The device of one mount, shared by whoever reads it or owes it an answer.
#[derive(Debug)]
pub(crate) struct Device(File);

impl Device {
    pub(crate) fn new(device: OwnedFd) -> Arc<Self> {
        Arc::new(Self(device.into()))
    }

    /// Sends one message, which the kernel takes whole or not at all.
    fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        loop {
            match (&self.0).write_vectored(parts) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done.map(drop),
            }
        }
    }

    /// Has the kernel forget attributes, and from a non-negative offset on the pages of a file.
    ///
    /// An inode that the kernel does not know counts as told.
    pub(crate) fn inval_inode(&self, ino: u64, offset: i64, length: i64) -> io::Result<()> {
        match self.write(&[IoSlice::new(&abi::inval_inode_out(ino, offset, length))]) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The kernel's INIT, waiting for its answer.
#[derive(Debug)]
pub(crate) struct Greeting {
    unique: u64,
    offer: InitIn,
}

impl Greeting {
    /// Takes INIT out of a device that was just mounted; it is there already.
    pub(crate) fn receive(device: &Device) -> io::Result<Self> {
        let mut buffer = vec![0; READ_BUFFER_BYTES];
        let size = loop {
            match (&device.0).read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => break done?,
            }
        };
        let Request { header, asked } = Request::parse(&buffer[..size]).map_err(io::Error::other)?;
        match asked.map_err(io::Error::other)? {
            Asked::Init(offer) if offer.major == abi::MAJOR && offer.minor >= MINOR_MIN => {
                Ok(Self { unique: header.unique, offer })
            }
            Asked::Init(InitIn { major, minor, .. }) => {
                Err(io::Error::new(io::ErrorKind::Unsupported, format!("the kernel speaks FUSE {major}.{minor}")))
            }
            other => Err(io::Error::new(io::ErrorKind::InvalidData, format!("the kernel begins with {other:?}"))),
        }
    }

    /// Says whether the kernel offers requests through io_uring.
    pub(crate) fn offers_ring(&self) -> bool {
        self.offer.flags & init_flag::OVER_IO_URING != 0
    }

    /// Answers. With `over_ring` the kernel holds every request back until each queue of the ring is there, or one is
    /// refused.
    ///
    /// The flags are those that [`fuse`](crate::fuse) chooses through fuser; why others are left out stands there.
    pub(crate) fn accept(self, device: &Device, settings: InitSettings, over_ring: bool) -> io::Result<()> {
        let wished = init_flag::ASYNC_READ
            | init_flag::BIG_WRITES
            | init_flag::MAX_PAGES
            | init_flag::ASYNC_DIO
            | init_flag::PARALLEL_DIROPS
            | init_flag::DO_READDIRPLUS
            | init_flag::READDIRPLUS_AUTO
            | init_flag::INIT_EXT
            | if over_ring { init_flag::OVER_IO_URING } else { 0 };
        let out = abi::init_out(&InitOut {
            minor: abi::MINOR.min(self.offer.minor),
            max_readahead: self.offer.max_readahead, // the protocol can only lower it
            flags: wished & self.offer.flags,
            max_background: settings.max_background,
            max_write: REQUEST_BYTES_MAX,
            max_pages: u16::try_from(REQUEST_BYTES_MAX as usize / rustix::param::page_size()).expect("256 at most"),
        });
        let header = abi::out_header(self.unique, 0, out.len());
        device.write(&[IoSlice::new(&header), IoSlice::new(&out)])
    }
}

/// Tells the threads of one session to end; raised once and for all.
#[derive(Debug)]
pub(crate) struct Stop(OwnedFd);

impl Stop {
    pub(crate) fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    pub(crate) fn raise(&self) {
        // It fails only where it was raised very often.
        let _raised = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Why nothing is read from the device any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The mount is gone.
    Gone,
    /// The session is to end.
    Told,
}

/// Serves what comes by the device until the mount or the session ends.
///
/// # Errors
/// What the kernel says; `ECONNABORTED` is one of the ways in which a mount ends.
pub(crate) fn serve<B: Backend>(device: &Arc<Device>, edge: &Edge<B>, stop: &Stop) -> io::Result<End> {
    rustix::fs::fcntl_setfl(device.as_fd(), OFlags::NONBLOCK)?;
    let mut buffer = vec![0; READ_BUFFER_BYTES];
    loop {
        let size = match (&device.0).read(&mut buffer) {
            Ok(size) => size,
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) if wait(device, stop)? => continue,
                Some(libc::EAGAIN) => return Ok(End::Told),
                Some(libc::ENODEV) => return Ok(End::Gone),
                // ENOENT: whoever asked went away before the request was read.
                Some(libc::EINTR | libc::ENOENT) => continue,
                _ => return Err(error),
            },
        };
        let request = Request::parse(&buffer[..size]).map_err(io::Error::other)?;
        match request.asked {
            Ok(Asked::Forget(ones)) => edge.forget(ones),
            _ => {
                let is_last = request.asked == Ok(Asked::Destroy);
                let pending = Pending { device: Arc::clone(device), unique: request.header.unique, is_sent: false };
                edge.serve(request, Owed::Device(pending));
                if is_last {
                    return Ok(End::Gone);
                }
            }
        }
    }
}

/// Waits for a request; `false` when the session ends.
fn wait(device: &Device, stop: &Stop) -> io::Result<bool> {
    let mut events = [PollFd::from_borrowed_fd(device.as_fd(), PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
    loop {
        match rustix::event::poll(&mut events, None) {
            Ok(_) => return Ok(events[1].revents().is_empty()),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// An answer owed to the device. Dropped unsent it says `EIO`.
#[derive(Debug)]
pub(crate) struct Pending {
    device: Arc<Device>,
    unique: u64,
    is_sent: bool,
}

impl Pending {
    pub(crate) fn answer<'a>(mut self, parts: impl Iterator<Item = &'a [u8]>) {
        let mut parts: Vec<IoSlice<'_>> = std::iter::once(IoSlice::new(&[])).chain(parts.map(IoSlice::new)).collect();
        debug_assert!(parts.len() <= PARTS_MAX, "one call takes no more");
        let header = abi::out_header(self.unique, 0, parts.iter().map(|part| part.len()).sum());
        parts[0] = IoSlice::new(&header);
        self.send(&parts);
    }

    pub(crate) fn refuse(mut self, errno: Errno) {
        self.send_errno(errno);
    }

    fn send_errno(&mut self, errno: Errno) {
        let header = abi::out_header(self.unique, errno.code(), 0);
        self.send(&[IoSlice::new(&header)]);
    }

    fn send(&mut self, parts: &[IoSlice<'_>]) {
        self.is_sent = true;
        if let Err(error) = self.device.write(parts) {
            // ENOENT: nobody waits any more. Anything else may be an answer that the kernel does not take.
            if error.kind() == io::ErrorKind::NotFound {
                tracing::debug!(unique = self.unique, "an answer came too late");
            } else {
                tracing::warn!(unique = self.unique, %error, "the kernel did not take an answer");
            }
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.is_sent {
            self.send_errno(Errno::EIO);
        }
    }
}
