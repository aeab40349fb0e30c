//! Raises a mount's readahead above the 128 KiB that the FUSE protocol can ask for.
//!
//! The kernel takes the smaller of its own 128 KiB and INIT's `max_readahead`, so the window can
//! only be raised afterwards, in sysfs, and only by root. At 1 ms to the host, 4 MiB is worth a
//! factor of ten for one sequential reader (measured on Linux 6.18).

use std::io;
use std::path::PathBuf;

use crate::mounts::DeviceNumber;

/// What became of the wish for a larger readahead window.
#[derive(Debug)]
pub enum ReadAhead {
    /// None was wished for: the kernel's default stands.
    Default,
    /// The window now has this size.
    Set {
        /// The size that the kernel reports, in KiB.
        kb: u32,
    },
    /// This process may not write the file: the kernel's default (128 KiB) stands, and sequential
    /// reads from a distant host are slower than they could be.
    NotPermitted {
        /// What root would have to write to.
        path: PathBuf,
    },
    /// The file could not be written for another reason, such as sysfs not being mounted.
    Failed {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        error: io::Error,
    },
}

/// Sets the window of the mount with this device number; never looks at the mount itself.
pub(super) fn set(device: DeviceNumber, wished_kb: Option<u32>) -> ReadAhead {
    let Some(wished_kb) = wished_kb else {
        return ReadAhead::Default;
    };
    let path = PathBuf::from(format!("/sys/class/bdi/{device}/read_ahead_kb"));
    let written = std::fs::write(&path, wished_kb.to_string())
        .and_then(|()| std::fs::read_to_string(&path))
        .and_then(|kb| kb.trim().parse().map_err(io::Error::other));
    match written {
        Ok(kb) => ReadAhead::Set { kb },
        Err(error) => match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ReadAhead::NotPermitted { path },
            _ => ReadAhead::Failed { path, error },
        },
    }
}
