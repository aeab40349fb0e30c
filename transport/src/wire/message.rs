//! The messages themselves. rkyv's derives write `unsafe` impls for validated access; no hand-written `unsafe` is here.
#![allow(unsafe_code, missing_docs)]

use super::frame::{Message, WireError};
use super::limits::{LABEL_BYTES_MAX, LINK_BYTES_MAX, NAME_BYTES_MAX, PAGE_ENTRIES_MAX, PATH_BYTES_MAX, SHARE_BYTES};
use rkyv::{Archive, Deserialize, Serialize};

/// Seconds and nanoseconds since 1970, as `statx` gives them.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Timestamp {
    pub seconds: i64,
    pub nanoseconds: u32,
}

/// Which file it is: unique in the share while the file lives, and not again by the inode number's reuse.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId {
    pub ino: u64,
    pub birth_ns: u64,
}

/// What kind of file it is.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

/// A file's attributes.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    pub id: FileId,
    pub kind: Kind,
    /// Permission bits, 12 of them.
    pub mode: u16,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u64,
    /// Bytes.
    pub size: u64,
    /// Units of 512 bytes.
    pub blocks: u64,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    /// Changes whenever the content may have changed.
    pub version: u64,
}

/// One name of a directory page.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: Vec<u8>,
    /// Where listing goes on after this entry.
    pub cookie: u64,
    pub attr: Attr,
}

/// The share's file system, as `statvfs` gives it.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatFs {
    pub block_bytes: u64,
    pub blocks: u64,
    pub blocks_free: u64,
    pub blocks_available: u64,
    pub files: u64,
    pub files_free: u64,
    pub name_bytes_max: u32,
}

/// Why a host refused a client; tells nothing of the share.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The code is not the host's.
    WrongCode,
    /// Too many wrong codes lately; wait.
    TooManyAttempts,
    /// The device's key was revoked.
    Revoked,
    /// No protocol version is common.
    Version,
    /// The host holds all the clients it may.
    Full,
}

/// What is said on the control stream.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// Client, first: versions and capabilities; `prove` asks for the PAKE even of a host that knows this client's key,
    /// because the client does not know the host's.
    Hello { version_min: u16, version_max: u16, capabilities: u64, prove: bool, device: String },
    /// Host: prove the code. Tells only the version.
    Challenge { version: u16 },
    /// Client: its PAKE share.
    ClientShare { share: [u8; SHARE_BYTES] },
    /// Host: its PAKE share.
    HostShare { share: [u8; SHARE_BYTES] },
    /// Client: its key confirmation, first, so that the host can count a wrong guess before it tells anything.
    ClientConfirm { mac: [u8; 32] },
    /// Host: its key confirmation, with the welcome right behind it.
    HostConfirm { mac: [u8; 32] },
    /// Host: come in.
    Welcome { version: u16, capabilities: u64, host: String, share: String, root: Attr },
    /// Host: stay out; it closes the connection behind this.
    Refused { reason: Refusal, retry_after_ms: u32 },
    /// Client: this open file is not needed any more. One-way.
    Close { handle: u64 },
}

/// What a client asks, one to a stream.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// The attributes of what is at `path`, symlinks not followed.
    Attr { path: Vec<u8> },
    /// A page of the directory at `path`, from `cursor` (0 is the start).
    List { path: Vec<u8>, cursor: u64, entries_max: u32 },
    /// The target of the symlink at `path`.
    Readlink { path: Vec<u8> },
    /// Opens the file at `path` and sends its first `inline_max` bytes along, with their hash where `hash` asks for it.
    /// Asked for no bytes, the file stays open even if it is empty.
    Open { path: Vec<u8>, inline_max: u32, hash: bool },
    /// Bytes of an open file; the stream's flow control bounds what is in flight, not `length`.
    Read { handle: u64, offset: u64, length: u64 },
    /// The BLAKE3 hash of a range of an open file, cut at its end.
    Hash { handle: u64, offset: u64, length: u64 },
    /// The share's file system.
    StatFs,
}

/// What a host answers. Data, where there is any, follows the frame raw.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub enum Response {
    Attr {
        attr: Attr,
    },
    Page {
        entries: Vec<Entry>,
        end: bool,
    },
    Link {
        target: Vec<u8>,
    },
    /// `data` bytes follow: all of the file, or none. `handle` 0 means all of it and nothing stays open; `hash` is
    /// then their BLAKE3 hash, if it was asked for.
    Opened {
        handle: u64,
        attr: Attr,
        data: u32,
        hash: Option<[u8; 32]>,
    },
    /// `data` bytes follow, fewer than asked only at the end of the file. `size` and `version` are the file's as of now.
    Data {
        data: u64,
        size: u64,
        version: u64,
    },
    Hash {
        hash: [u8; 32],
        length: u64,
    },
    StatFs {
        statfs: StatFs,
    },
    /// The host's errno, in Linux's numbers.
    Error {
        errno: i32,
    },
}

fn within(what: &'static str, length: usize, limit: usize) -> Result<(), WireError> {
    if length > limit {
        return Err(WireError::OverLimit { what, length, limit });
    }
    Ok(())
}

impl Message for Control {
    fn kind(&self) -> u16 {
        match self {
            Self::Hello { .. } => 1,
            Self::Challenge { .. } => 2,
            Self::ClientShare { .. } => 3,
            Self::HostShare { .. } => 4,
            Self::ClientConfirm { .. } => 5,
            Self::HostConfirm { .. } => 6,
            Self::Welcome { .. } => 7,
            Self::Refused { .. } => 8,
            Self::Close { .. } => 9,
        }
    }

    fn knows(kind: u16) -> bool {
        (1..=9).contains(&kind)
    }

    fn check(&self) -> Result<(), WireError> {
        match self {
            Self::Hello { device, .. } => within("device name", device.len(), LABEL_BYTES_MAX),
            Self::Welcome { host, share, .. } => {
                within("host name", host.len(), LABEL_BYTES_MAX)?;
                within("share name", share.len(), LABEL_BYTES_MAX)
            }
            _ => Ok(()),
        }
    }

    fn decode(body: &[u8]) -> Result<Self, rkyv::rancor::Error> {
        rkyv::from_bytes(body)
    }

    fn encode_body(&self) -> Vec<u8> {
        rkyv::to_bytes::<rkyv::rancor::Error>(self).expect("serializing to memory cannot fail").into_vec()
    }
}

impl Message for Request {
    fn kind(&self) -> u16 {
        match self {
            Self::Attr { .. } => 32,
            Self::List { .. } => 33,
            Self::Readlink { .. } => 34,
            Self::Open { .. } => 35,
            Self::Read { .. } => 36,
            Self::Hash { .. } => 37,
            Self::StatFs => 38,
        }
    }

    fn knows(kind: u16) -> bool {
        (32..=38).contains(&kind)
    }

    fn check(&self) -> Result<(), WireError> {
        match self {
            Self::Attr { path } | Self::List { path, .. } | Self::Readlink { path } | Self::Open { path, .. } => {
                within("path", path.len(), PATH_BYTES_MAX)
            }
            Self::Read { .. } | Self::Hash { .. } | Self::StatFs => Ok(()),
        }
    }

    fn decode(body: &[u8]) -> Result<Self, rkyv::rancor::Error> {
        rkyv::from_bytes(body)
    }

    fn encode_body(&self) -> Vec<u8> {
        rkyv::to_bytes::<rkyv::rancor::Error>(self).expect("serializing to memory cannot fail").into_vec()
    }
}

impl Message for Response {
    fn kind(&self) -> u16 {
        match self {
            Self::Attr { .. } => 64,
            Self::Page { .. } => 65,
            Self::Link { .. } => 66,
            Self::Opened { .. } => 67,
            Self::Data { .. } => 68,
            Self::Hash { .. } => 69,
            Self::StatFs { .. } => 70,
            Self::Error { .. } => 71,
        }
    }

    fn knows(kind: u16) -> bool {
        (64..=71).contains(&kind)
    }

    fn check(&self) -> Result<(), WireError> {
        match self {
            Self::Page { entries, .. } => {
                within("directory page", entries.len(), PAGE_ENTRIES_MAX as usize)?;
                entries.iter().try_for_each(|entry| {
                    within("name", entry.name.len(), NAME_BYTES_MAX)?;
                    if entry.name.is_empty()
                        || entry.name.contains(&b'/')
                        || entry.name.contains(&0)
                        || matches!(&*entry.name, b"." | b"..")
                    {
                        return Err(WireError::BadName);
                    }
                    Ok(())
                })
            }
            Self::Link { target } => within("link target", target.len(), LINK_BYTES_MAX),
            _ => Ok(()),
        }
    }

    fn decode(body: &[u8]) -> Result<Self, rkyv::rancor::Error> {
        rkyv::from_bytes(body)
    }

    fn encode_body(&self) -> Vec<u8> {
        rkyv::to_bytes::<rkyv::rancor::Error>(self).expect("serializing to memory cannot fail").into_vec()
    }
}
