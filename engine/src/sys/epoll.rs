//! `epoll` with nanosecond timeouts.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Which of the watched descriptors are ready, by the tag each was added with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Readiness {
    /// The tag given to [`Epoll::add`].
    pub(crate) tag: u64,
    /// A read would not wait, or an error is to be collected.
    pub(crate) readable: bool,
    /// A write would not wait, or an error is to be collected.
    pub(crate) writable: bool,
}

/// What is waited for on one descriptor; reading always is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    /// Input only.
    Read,
    /// Input, and room for output.
    ReadWrite,
}

/// Descriptors watched at once: the socket, the wake eventfd and a file.
const WATCHED_MAX: usize = 3;

/// A level-triggered epoll set of at most three descriptors.
#[derive(Debug)]
pub(crate) struct Epoll {
    fd: OwnedFd,
    /// Whether `epoll_pwait2` (Linux 5.11) is there; a filter may forbid what the kernel has.
    has_pwait2: bool,
}

impl Epoll {
    /// Makes an empty set.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: takes no pointer; the result is checked below.
        let raw = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            // SAFETY: `raw` was just returned by the kernel and belongs to nobody else.
            fd: unsafe { OwnedFd::from_raw_fd(raw) },
            has_pwait2: true,
        })
    }

    /// Watches `fd` under `tag`.
    pub(crate) fn add(&self, fd: BorrowedFd<'_>, tag: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, tag, interest)
    }

    /// Changes what is waited for on a watched `fd`.
    pub(crate) fn change(&self, fd: BorrowedFd<'_>, tag: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, tag, interest)
    }

    /// Watches `fd` no longer.
    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, Interest::Read)
    }

    fn control(&self, verb: i32, fd: BorrowedFd<'_>, tag: u64, interest: Interest) -> io::Result<()> {
        let events = match interest {
            Interest::Read => libc::EPOLLIN,
            Interest::ReadWrite => libc::EPOLLIN | libc::EPOLLOUT,
        };
        let mut event = libc::epoll_event { events: events as u32, u64: tag };
        // SAFETY: `event` is a local that outlives the call; the kernel copies it.
        let result = unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), verb, fd.as_raw_fd(), &raw mut event) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Waits until a descriptor is ready or `timeout` is over; `None` waits for ever.
    ///
    /// # Errors
    /// `EINTR` after a signal; the rest of epoll_wait(2) would be a bug here.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<impl Iterator<Item = Readiness>> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; WATCHED_MAX];
        let count = match self.wait_precisely(&mut events, timeout) {
            Err(error) if lacks_call(&error) && self.has_pwait2 => {
                self.has_pwait2 = false;
                self.wait_precisely(&mut events, timeout)
            }
            outcome => outcome,
        }?;
        Ok(events.into_iter().take(count).map(|event| {
            let flags = event.events as i32;
            let failed = flags & (libc::EPOLLERR | libc::EPOLLHUP) != 0;
            Readiness {
                tag: event.u64,
                readable: failed || flags & libc::EPOLLIN != 0,
                writable: failed || flags & libc::EPOLLOUT != 0,
            }
        }))
    }

    fn wait_precisely(
        &self,
        events: &mut [libc::epoll_event; WATCHED_MAX],
        timeout: Option<Duration>,
    ) -> io::Result<usize> {
        if !self.has_pwait2 {
            return self.wait_in_milliseconds(events, timeout);
        }
        let timeout = timeout.map(|timeout| KernelTimespec {
            seconds: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: i64::from(timeout.subsec_nanos()),
        });
        let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: `events` is borrowed mutably and its length passed with it; `timeout` is null or
        // points at a local that outlives the call; no signal mask is given.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.fd.as_raw_fd(),
                events.as_mut_ptr(),
                WATCHED_MAX,
                timeout,
                std::ptr::null::<libc::sigset_t>(),
                0_usize,
            )
        };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }

    /// The older call; rounds up, so that it is late rather than early.
    fn wait_in_milliseconds(
        &self,
        events: &mut [libc::epoll_event; WATCHED_MAX],
        timeout: Option<Duration>,
    ) -> io::Result<usize> {
        let timeout_ms =
            timeout.map_or(-1, |timeout| i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX));
        // SAFETY: `events` is borrowed mutably and its length is passed with it.
        let count =
            unsafe { libc::epoll_wait(self.fd.as_raw_fd(), events.as_mut_ptr(), WATCHED_MAX as i32, timeout_ms) };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }
}

/// `__kernel_timespec` of linux/time_types.h.
#[repr(C)]
struct KernelTimespec {
    seconds: i64,
    nanoseconds: i64,
}

fn lacks_call(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn neither_call_returns_early() {
        let mut epoll = Epoll::new().expect("an epoll set");
        for has_pwait2 in [true, false] {
            epoll.has_pwait2 = has_pwait2;
            let start = Instant::now();
            let timeout = Duration::from_micros(2_300);
            let ready = epoll.wait(Some(timeout)).expect("a wait").count();
            assert_eq!(ready, 0);
            assert!(start.elapsed() >= timeout, "pwait2 {has_pwait2}");
        }
    }
}
