//! What can go wrong: one errno for a call on a share, an explained enum for opening one.

use std::fmt;
use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use super::path::PathError;

/// An error of the host's file system, as the errno that goes to the client.
///
/// Numbers are Linux's, as in errno(3); `Display` is the system's sentence.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FsError(i32);

impl FsError {
    /// The answer is not in memory: ask again from a thread that may block.
    pub const WOULD_BLOCK: Self = Self(libc::EAGAIN);
    /// The range cannot be mapped (table of mappings full, address space short, file system without
    /// mmap): read it through a buffer instead.
    pub const UNMAPPABLE: Self = Self(libc::ENODEV);
    /// The file became shorter than the range that was being read.
    pub const TRUNCATED: Self = Self(libc::ENODATA);
    /// The caller raised the cancel flag.
    pub const CANCELLED: Self = Self(libc::ECANCELED);
    /// No such file or directory.
    pub const NOT_FOUND: Self = Self(libc::ENOENT);
    /// An argument no well-behaved peer sends.
    pub const INVALID: Self = Self(libc::EINVAL);
    /// Permission denied.
    pub const DENIED: Self = Self(libc::EACCES);
    /// A directory where a file was asked for.
    pub const IS_DIRECTORY: Self = Self(libc::EISDIR);
    /// A symbolic link where a file was asked for.
    pub const IS_SYMLINK: Self = Self(libc::ELOOP);
    /// A FIFO, socket or device: open(2)'s own errno for a socket.
    pub const NOT_REGULAR: Self = Self(libc::ENXIO);
    /// The kernel kept asking for another attempt; the bounded number of them was used up.
    pub const BUSY: Self = Self(libc::EBUSY);

    /// Wraps an errno of Linux.
    pub const fn from_errno(errno: i32) -> Self {
        Self(errno)
    }

    /// The errno, positive.
    pub const fn errno(self) -> i32 {
        self.0
    }
}

impl fmt::Display for FsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl fmt::Debug for FsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FsError({self})")
    }
}

impl std::error::Error for FsError {}

impl From<Errno> for FsError {
    fn from(errno: Errno) -> Self {
        Self(errno.raw_os_error())
    }
}

impl From<PathError> for FsError {
    fn from(error: PathError) -> Self {
        match error {
            PathError::ComponentTooLong | PathError::TooLong => Self(libc::ENAMETOOLONG),
            PathError::Nul | PathError::EmptyComponent | PathError::DotComponent | PathError::Separator => {
                Self::INVALID
            }
        }
    }
}

/// Why a folder cannot be shared; all are the environment's or the caller's fault.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// Nothing has that name.
    #[error("{0}: no such folder")]
    NotFound(PathBuf),
    /// The name belongs to something that is not a directory.
    #[error("{0}: not a folder; share the folder that contains it")]
    NotDirectory(PathBuf),
    /// This user may not read and search the folder.
    #[error("{0}: this user may not read the folder")]
    Denied(PathBuf),
    /// The folder lies on a file system that the kernel makes up.
    #[error("{0}: a file system made by the kernel (such as /proc or /sys) cannot be shared")]
    KernelFilesystem(PathBuf),
    /// `openat2(2)` with `RESOLVE_CACHED` is missing (Linux 5.12) or forbidden by a seccomp filter.
    #[error("openat2 is not usable ({0}): needs Linux 5.12, and no seccomp filter in the way")]
    NoOpenat2(FsError),
    /// `/proc/self/fd`, through which files are opened, is not there or not this process's.
    #[error("/proc/self/fd is not this process's own: files are opened safely through it, so mount procfs on /proc")]
    NoProc,
    /// Anything else the file system said.
    #[error("{path}: {error}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the file system said.
        error: FsError,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_the_numbers_of_linux() {
        assert_eq!(FsError::WOULD_BLOCK.errno(), 11);
        assert_eq!(FsError::UNMAPPABLE.errno(), 19);
        assert_eq!(FsError::from(Errno::NAMETOOLONG).errno(), 36);
        assert_eq!(FsError::from(PathError::TooLong).errno(), 36);
        assert_eq!(FsError::from(PathError::DotComponent).errno(), 22);
    }

    #[test]
    fn display_is_a_sentence() {
        assert!(FsError::NOT_FOUND.to_string().starts_with("No such file or directory"));
    }
}
