//! The FUSE protocol as bytes: what is read from the kernel and written to it.
//!
//! Layouts and numbers are those of include/uapi/linux/fuse.h at protocol 7.45. Every field is taken
//! out of, or put into, a byte slice by hand; nothing is cast. All is in the machine's byte order.
//! Requests of any content parse to an [`Asked`] or to [`Malformed`], and never panic.
//!
//! ```text
//!   from /dev/fuse:  fuse_in_header │ first argument │ names and data
//!   from a ring:     in_out[..40]   │ op_in          │ payload        (split by the kernel)
//! ```

mod answer;

pub(crate) use answer::{
    InitOut, OUT_HEADER_BYTES, absent_out, attr_out, entry_out, init_out, inval_inode_out, open_out, out_header,
    push_dirent, push_direntplus, statfs_out,
};

/// Bytes of `struct fuse_in_header`.
pub(crate) const IN_HEADER_BYTES: usize = 40;

/// The protocol's major number; another one is another protocol.
pub(crate) const MAJOR: u32 = 7;
/// The minor number whose structures these are.
pub(crate) const MINOR: u32 = 45;

/// Bits of `enum fuse_opcode` that this file system tells apart.
mod opcode {
    pub(super) const LOOKUP: u32 = 1;
    pub(super) const FORGET: u32 = 2;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const SETATTR: u32 = 4;
    pub(super) const READLINK: u32 = 5;
    pub(super) const SYMLINK: u32 = 6;
    pub(super) const MKNOD: u32 = 8;
    pub(super) const MKDIR: u32 = 9;
    pub(super) const UNLINK: u32 = 10;
    pub(super) const RMDIR: u32 = 11;
    pub(super) const RENAME: u32 = 12;
    pub(super) const LINK: u32 = 13;
    pub(super) const OPEN: u32 = 14;
    pub(super) const READ: u32 = 15;
    pub(super) const WRITE: u32 = 16;
    pub(super) const STATFS: u32 = 17;
    pub(super) const RELEASE: u32 = 18;
    pub(super) const FSYNC: u32 = 20;
    pub(super) const FLUSH: u32 = 25;
    pub(super) const INIT: u32 = 26;
    pub(super) const OPENDIR: u32 = 27;
    pub(super) const READDIR: u32 = 28;
    pub(super) const RELEASEDIR: u32 = 29;
    pub(super) const FSYNCDIR: u32 = 30;
    pub(super) const CREATE: u32 = 35;
    pub(super) const INTERRUPT: u32 = 36;
    pub(super) const DESTROY: u32 = 38;
    pub(super) const IOCTL: u32 = 39;
    pub(super) const BATCH_FORGET: u32 = 42;
    pub(super) const FALLOCATE: u32 = 43;
    pub(super) const READDIRPLUS: u32 = 44;
    pub(super) const RENAME2: u32 = 45;
    pub(super) const COPY_FILE_RANGE: u32 = 47;
    pub(super) const TMPFILE: u32 = 51;
}

/// Flags of INIT, `flags2` above bit 31.
pub(crate) mod init_flag {
    /// Several reads of one file at a time.
    pub(crate) const ASYNC_READ: u64 = 1 << 0;
    /// Requests above a page.
    pub(crate) const BIG_WRITES: u64 = 1 << 5;
    /// READDIRPLUS exists.
    pub(crate) const DO_READDIRPLUS: u64 = 1 << 13;
    /// The kernel chooses between READDIR and READDIRPLUS.
    pub(crate) const READDIRPLUS_AUTO: u64 = 1 << 14;
    /// Direct reads wait together.
    pub(crate) const ASYNC_DIO: u64 = 1 << 15;
    /// Lookups of one directory in parallel.
    pub(crate) const PARALLEL_DIROPS: u64 = 1 << 18;
    /// `max_pages` is set.
    pub(crate) const MAX_PAGES: u64 = 1 << 22;
    /// `flags2` is set.
    pub(crate) const INIT_EXT: u64 = 1 << 30;
    /// Requests through io_uring.
    pub(crate) const OVER_IO_URING: u64 = 1 << 41;
}

/// Flags of an answer to OPEN and OPENDIR (`FOPEN_*`).
pub(crate) mod open_flag {
    /// The pages of earlier opens hold.
    pub(crate) const KEEP_CACHE: u32 = 1 << 1;
    /// The kernel may keep the listing.
    pub(crate) const CACHE_DIR: u32 = 1 << 3;
    /// No FLUSH at close.
    pub(crate) const NOFLUSH: u32 = 1 << 5;
}

/// Bytes of the first argument's structure, which a ring delivers apart; 0 where a request begins with a name or has
/// no argument. Only the requests whose arguments are looked at count.
fn first_bytes(code: u32) -> usize {
    match code {
        opcode::GETATTR => 16,
        opcode::FORGET | opcode::OPEN | opcode::OPENDIR | opcode::BATCH_FORGET => 8,
        opcode::READ | opcode::READDIR | opcode::READDIRPLUS => 40,
        opcode::RELEASE | opcode::RELEASEDIR => 24,
        opcode::INIT => INIT_IN_BYTES_MIN,
        _ => 0,
    }
}

/// Bytes of `struct fuse_init_in` up to where protocol 7.36 added `flags2`.
const INIT_IN_BYTES_MIN: usize = 16;

/// A request that is no request: the kernel's bug, or bytes that never came from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a FUSE request of {opcode} is malformed")]
pub(crate) struct Malformed {
    /// Its code, or 0 where not even that could be read.
    pub(crate) opcode: u32,
}

/// What every request begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InHeader {
    /// Length of the whole request.
    pub(crate) len: u32,
    /// What is asked.
    pub(crate) opcode: u32,
    /// Names the request in its answer.
    pub(crate) unique: u64,
    /// Inode number.
    pub(crate) nodeid: u64,
}

impl InHeader {
    /// Reads the header of a request.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields(bytes);
        let header = (|| {
            Some(Self { len: fields.u32()?, opcode: fields.u32()?, unique: fields.u64()?, nodeid: fields.u64()? })
        })();
        header.filter(|_| bytes.len() >= IN_HEADER_BYTES).ok_or(Malformed { opcode: 0 })
    }
}

/// A request with what it asks, where that could be read: one that could not is still to be answered.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) header: InHeader,
    pub(crate) asked: Result<Asked, Malformed>,
}

impl Request {
    /// Reads a request as `/dev/fuse` hands it over, in one piece.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let header = InHeader::parse(bytes)?;
        let asked =
            split(&header, &bytes[IN_HEADER_BYTES..]).and_then(|(first, rest)| Asked::parse(&header, first, rest));
        Ok(Self { header, asked })
    }
}

/// Splits what follows the header of a request from `/dev/fuse` as a ring delivers it.
fn split<'a>(header: &InHeader, body: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), Malformed> {
    body.split_at_checked(first_bytes(header.opcode)).ok_or(Malformed { opcode: header.opcode })
}

/// What the kernel offers in INIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InitIn {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) max_readahead: u32,
    pub(crate) flags: u64,
}

/// One request, as far as this file system tells requests apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Init(InitIn),
    Lookup {
        name: Vec<u8>,
    },
    /// Inode numbers with their counts; nobody waits for an answer.
    Forget(Vec<(u64, u64)>),
    Getattr,
    Readlink,
    Open {
        flags: i32,
    },
    Read {
        fh: u64,
        offset: u64,
        size: u32,
    },
    Release {
        fh: u64,
    },
    Opendir,
    Readdir {
        fh: u64,
        offset: u64,
        size: u32,
    },
    ReaddirPlus {
        fh: u64,
        offset: u64,
        size: u32,
    },
    Releasedir {
        fh: u64,
    },
    Statfs,
    /// FLUSH, FSYNC, FSYNCDIR.
    Sync,
    /// Whatever would change something.
    Change,
    Ioctl,
    /// Somebody waits no longer for a request.
    Interrupt,
    /// The mount ends.
    Destroy,
    /// Anything else.
    Unknown,
}

impl Asked {
    /// Reads the arguments of a request: the first one's structure, then names and data.
    ///
    /// A ring hands the structure over in a field that may hold more bytes than it has.
    pub(crate) fn parse(header: &InHeader, first: &[u8], rest: &[u8]) -> Result<Self, Malformed> {
        Self::try_parse(header, Fields(first), rest).ok_or(Malformed { opcode: header.opcode })
    }

    fn try_parse(header: &InHeader, mut first: Fields<'_>, rest: &[u8]) -> Option<Self> {
        Some(match header.opcode {
            opcode::INIT => Self::Init(init_in(first, rest)?),
            opcode::LOOKUP => Self::Lookup { name: name(rest)?.to_vec() },
            opcode::FORGET => Self::Forget(vec![(header.nodeid, first.u64()?)]),
            opcode::BATCH_FORGET => Self::Forget(forgets(first.u32()?, rest)?),
            opcode::GETATTR => Self::Getattr,
            opcode::READLINK => Self::Readlink,
            opcode::OPEN => Self::Open { flags: first.u32()?.cast_signed() },
            opcode::READ => {
                let (fh, offset, size) = read_in(first)?;
                Self::Read { fh, offset, size }
            }
            opcode::READDIR => {
                let (fh, offset, size) = read_in(first)?;
                Self::Readdir { fh, offset, size }
            }
            opcode::READDIRPLUS => {
                let (fh, offset, size) = read_in(first)?;
                Self::ReaddirPlus { fh, offset, size }
            }
            opcode::RELEASE => Self::Release { fh: first.u64()? },
            opcode::OPENDIR => Self::Opendir,
            opcode::RELEASEDIR => Self::Releasedir { fh: first.u64()? },
            opcode::STATFS => Self::Statfs,
            opcode::FLUSH | opcode::FSYNC | opcode::FSYNCDIR => Self::Sync,
            opcode::SETATTR
            | opcode::SYMLINK
            | opcode::MKNOD
            | opcode::MKDIR
            | opcode::UNLINK
            | opcode::RMDIR
            | opcode::RENAME
            | opcode::RENAME2
            | opcode::LINK
            | opcode::WRITE
            | opcode::CREATE
            | opcode::FALLOCATE
            | opcode::COPY_FILE_RANGE
            | opcode::TMPFILE => Self::Change,
            opcode::IOCTL => Self::Ioctl,
            opcode::INTERRUPT => Self::Interrupt,
            opcode::DESTROY => Self::Destroy,
            _ => Self::Unknown,
        })
    }
}

fn init_in(mut first: Fields<'_>, rest: &[u8]) -> Option<InitIn> {
    let (major, minor, max_readahead, low) = (first.u32()?, first.u32()?, first.u32()?, u64::from(first.u32()?));
    let high = if low & init_flag::INIT_EXT == 0 { 0 } else { Fields(rest).u32().unwrap_or(0) };
    Some(InitIn { major, minor, max_readahead, flags: u64::from(high) << 32 | low })
}

/// `struct fuse_read_in`, as far as it is looked at.
fn read_in(mut first: Fields<'_>) -> Option<(u64, u64, u32)> {
    Some((first.u64()?, first.u64()?, first.u32()?))
}

/// A name ends with NUL; extensions of the request may follow it.
fn name(rest: &[u8]) -> Option<&[u8]> {
    let end = rest.iter().position(|&byte| byte == 0)?;
    Some(&rest[..end])
}

/// `count` times `struct fuse_forget_one`.
fn forgets(count: u32, rest: &[u8]) -> Option<Vec<(u64, u64)>> {
    // The count is believed only as far as there are bytes for it.
    let mut ones = Fields(rest.get(..usize::try_from(count).ok()?.checked_mul(16)?)?);
    std::iter::from_fn(|| (!ones.0.is_empty()).then(|| Some((ones.u64()?, ones.u64()?)))).collect()
}

/// Fields still to be read.
#[derive(Clone, Copy)]
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_ne_bytes)
    }
}

#[cfg(test)]
mod tests;
