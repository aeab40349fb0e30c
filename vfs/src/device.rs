//! `/dev/fuse` read and written by ourselves: the handshake, the requests that come nowhere else, the notices.
//!
//! Behind a ring it is nearly silent: FORGET, BATCH_FORGET and INTERRUPT come here and notices go out here. Without
//! one, every request comes here.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;

use crate::abi::{self, Asked, InitIn, InitOut, Request, init_flag};
use crate::backend::Backend;
use crate::errno::Errno;
use crate::handle::{HandleTable, OpenView};
use crate::op::Op;
use crate::owed::Owed;
use crate::serve::{self, Edge};
use crate::server::End;

/// Room for the longest request: a write of [`REQUEST_BYTES_MAX`] with its headers, which the kernel wants to fit
/// even where nothing is ever written (`fuse_dev_do_read`, fs/fuse/dev.c). Touched only as far as requests reach.
const READ_BUFFER_BYTES: usize = REQUEST_BYTES_MAX as usize + 4096;

/// The oldest protocol whose structures are those of `abi`: the one that brought `max_pages` (Linux 4.20).
const MINOR_MIN: u32 = 28;

/// Parts of one answer that one call takes (`IOV_MAX`); a read of 1 MiB from small frames has 17, and a header.
const PARTS_MAX: usize = 1024;

/// The device of one mount, shared by whoever reads it or owes it an answer.
#[derive(Debug)]
pub(crate) struct Device(Arc<OwnedFd>);

impl Device {
    pub(crate) fn new(device: OwnedFd) -> Arc<Self> {
        Arc::new(Self(Arc::new(device)))
    }

    /// Sends one message, which the kernel takes whole or not at all.
    fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        loop {
            match rustix::io::writev(&self.0, parts) {
                Err(rustix::io::Errno::INTR) => {}
                done => return done.map(drop).map_err(io::Error::from),
            }
        }
    }

    /// Waits until a request is there or the mount is gone, at most `limit`.
    fn wait(&self, limit: Option<Duration>) -> io::Result<()> {
        let limit = limit.map(|limit| Timespec::try_from(limit).expect("a moment"));
        match rustix::event::poll(&mut [PollFd::new(&self.0, PollFlags::IN)], limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Refuses what is asked within `limit`, after whoever took the requests is gone; `false` once the mount is, too.
    pub(crate) fn refuse_all(self: &Arc<Self>, limit: Duration) -> bool {
        let mut buffer = vec![0; READ_BUFFER_BYTES];
        if self.wait(Some(limit)).is_err() {
            return false;
        }
        loop {
            match rustix::io::read(&self.0, &mut buffer) {
                Ok(size) => match Request::parse(&buffer[..size]) {
                    Ok(Request { asked: Ok(Asked::Forget(_)), .. }) => {}
                    Ok(Request { header, .. }) => Pending::new(self, header.unique).refuse(Errno::ENOTCONN),
                    Err(_) => return false,
                },
                Err(rustix::io::Errno::AGAIN) => return true,
                Err(rustix::io::Errno::INTR | rustix::io::Errno::NOENT) => {}
                Err(_) => return false,
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

/// The most bytes of one request: what 6.18 allows by default (`/proc/sys/fs/fuse/max_pages_limit`, 256 pages).
pub(crate) const REQUEST_BYTES_MAX: u32 = 1 << 20;

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
            match rustix::io::read(&device.0, &mut buffer) {
                Err(rustix::io::Errno::INTR) => {}
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
    /// Left out on purpose:
    /// - `AUTO_INVAL_DATA` drops a file's pages whenever a refreshed mtime differs. We know versions and invalidate by
    ///   them: on open (without `FOPEN_KEEP_CACHE`) and by notice.
    /// - `EXPLICIT_INVAL_DATA` would also stop the kernel from dropping pages when a refreshed *size* differs. For
    ///   close-to-open that is wrong: when a file grows on the host under an open descriptor, the last cached page is
    ///   zero beyond the old end, and those zeros would be read as data until our notice came
    ///   (`fuse_change_attributes`, fs/fuse/inode.c). The default costs a second read of a file whose size changed, no
    ///   more; notices work all the same.
    /// - `WRITEBACK_CACHE` has no sense on a read-only mount; with `NO_OPEN_SUPPORT` the host would not learn of opens;
    ///   `CACHE_SYMLINKS` keeps a target until the inode goes, whatever its mtime says.
    pub(crate) fn accept(self, device: &Device, max_background: u16, over_ring: bool) -> io::Result<()> {
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
            max_background,
            max_write: REQUEST_BYTES_MAX,
            max_pages: u16::try_from(REQUEST_BYTES_MAX as usize / rustix::param::page_size()).expect("256 at most"),
        });
        let header = abi::out_header(self.unique, 0, out.len());
        device.write(&[IoSlice::new(&header), IoSlice::new(&out)])
    }
}

/// What a look at the device brought.
#[derive(Debug)]
pub enum Taken {
    /// A request, for whoever owns the tree.
    Op(Op),
    /// Inode numbers with the lookups to take back from each; nobody waits for an answer.
    Forgets(Vec<(u64, u64)>),
    /// A request that is answered already.
    Answered,
    /// No request waits.
    Nothing,
    /// The mount is gone, or the device cannot be read any more: nothing will come.
    End,
}

/// The requests of one mount, for whoever has the time: a shard between two looks at its socket.
///
/// The session ends with it: dropped before the mount's end, it takes the mount away.
#[derive(Debug)]
pub struct Intake {
    device: Arc<Device>,
    handles: Arc<HandleTable>,
    buffer: Vec<u8>,
    /// Told once, how it ended.
    ends: Option<Sender<End>>,
}

impl Intake {
    pub(crate) fn new(device: Arc<Device>, handles: Arc<HandleTable>, ends: Sender<End>) -> io::Result<Self> {
        rustix::fs::fcntl_setfl(&device.0, OFlags::NONBLOCK)?;
        Ok(Self { device, handles, buffer: vec![0; READ_BUFFER_BYTES], ends: Some(ends) })
    }

    /// The device: readable while a request waits, and once the mount is gone.
    pub fn file(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.device.0)
    }

    /// The file that is open under `fh`, as a cache needs to know it; see [`HandleTable::snapshot`].
    pub fn open_view(&self, fh: u64) -> Option<OpenView> {
        self.handles.snapshot(fh)
    }

    /// Takes the next request. Never waits.
    ///
    /// Cost: one read(2).
    pub fn take(&mut self) -> Taken {
        if self.ends.is_none() {
            return Taken::End;
        }
        let size = match rustix::io::read(&self.device.0, &mut self.buffer) {
            Ok(size) => size,
            Err(rustix::io::Errno::AGAIN) => return Taken::Nothing,
            // ENOENT: whoever asked went away before the request was read.
            Err(rustix::io::Errno::INTR | rustix::io::Errno::NOENT) => return Taken::Answered,
            Err(rustix::io::Errno::NODEV) => return self.end(Ok(())),
            // ECONNABORTED, one of the ways in which a mount ends, and whatever is wrong.
            Err(errno) => return self.end(Err(errno.into())),
        };
        let request = match Request::parse(&self.buffer[..size]) {
            Ok(request) => request,
            Err(error) => return self.end(Err(io::Error::other(error))),
        };
        match request.asked {
            Ok(Asked::Forget(ones)) => Taken::Forgets(ones),
            _ => {
                let is_last = request.asked == Ok(Asked::Destroy);
                let pending = Pending::new(&self.device, request.header.unique);
                let op = serve::to_op(request, Owed::Device(pending));
                if is_last {
                    return self.end(Ok(()));
                }
                op.map_or(Taken::Answered, Taken::Op)
            }
        }
    }

    /// Serves from the calling thread until the mount is gone: for who has no loop of its own.
    pub fn run<B: Backend>(mut self, backend: Arc<B>) {
        let edge = Edge { backend, handles: Arc::clone(&self.handles) };
        loop {
            match self.take() {
                Taken::Op(op) => edge.submit(op),
                Taken::Forgets(ones) => edge.forget(ones),
                Taken::Answered => {}
                Taken::Nothing => {
                    if let Err(error) = self.device.wait(None) {
                        self.end(Err(error));
                    }
                }
                Taken::End => return,
            }
        }
    }

    fn end(&mut self, how: io::Result<()>) -> Taken {
        if let Some(ends) = self.ends.take() {
            // There is room for one word from each who may end a session.
            let _heard = ends.try_send(End::Intake(how));
        }
        Taken::End
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.end(Err(io::Error::other("nobody takes its requests any more")));
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
    fn new(device: &Arc<Device>, unique: u64) -> Self {
        Self { device: Arc::clone(device), unique, is_sent: false }
    }

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
