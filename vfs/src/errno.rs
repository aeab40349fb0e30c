//! The error number an operation is refused with.

use std::fmt;
use std::io;

/// An error number of errno(3), always positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Errno(i32);

impl Errno {
    /// The handle does not name an open file or directory.
    pub const EBADF: Self = Self(libc::EBADF);
    /// A bounded table of pending work is full.
    pub const EBUSY: Self = Self(libc::EBUSY);
    /// An argument makes no sense for the operation.
    pub const EINVAL: Self = Self(libc::EINVAL);
    /// The host answered something that cannot be true, or nobody answered at all.
    pub const EIO: Self = Self(libc::EIO);
    /// The file is a directory.
    pub const EISDIR: Self = Self(libc::EISDIR);
    /// A name or a path is longer than its limit.
    pub const ENAMETOOLONG: Self = Self(libc::ENAMETOOLONG);
    /// The table of open files is full.
    pub const ENFILE: Self = Self(libc::ENFILE);
    /// Nothing has this name.
    pub const ENOENT: Self = Self(libc::ENOENT);
    /// The operation is not part of this filesystem.
    pub const ENOSYS: Self = Self(libc::ENOSYS);
    /// The file is not a directory.
    pub const ENOTDIR: Self = Self(libc::ENOTDIR);
    /// The host is gone.
    pub const ENOTCONN: Self = Self(libc::ENOTCONN);
    /// The mount takes no changes.
    pub const EROFS: Self = Self(libc::EROFS);
    /// The name now stands for another file; the kernel looks it up again and retries.
    pub const ESTALE: Self = Self(libc::ESTALE);

    /// Takes a raw error number; what is not positive becomes [`Errno::EIO`].
    pub const fn new(code: i32) -> Self {
        if code > 0 { Self(code) } else { Self::EIO }
    }

    /// The raw, positive number.
    pub const fn code(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl std::error::Error for Errno {}
