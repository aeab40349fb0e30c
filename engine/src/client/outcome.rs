//! What a client tells its owner.

use super::{CallId, FileKey};
use bytes::Bytes;
use std::net::SocketAddr;
use std::time::Duration;
use transport::PeerKey;
use transport::wire::{Attr, Entry, Refusal, StatFs};

/// The host let us in.
#[derive(Debug, Clone, PartialEq)]
pub struct Welcome {
    /// The host's display name.
    pub host: String,
    /// The share's display name.
    pub share: String,
    /// The share's root.
    pub root: Attr,
    /// The host's key.
    pub key: PeerKey,
    /// True when the code was proven just now: the key is to be remembered.
    pub enrolled: bool,
    /// True after a loss: the host is back.
    pub again: bool,
    /// Where the host is.
    pub address: SocketAddr,
}

/// What a host answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// To `Attr`.
    Attr(Attr),
    /// To `List`.
    Page {
        /// The entries, in the host's order.
        entries: Vec<Entry>,
        /// True when nothing follows.
        end: bool,
    },
    /// To `Readlink`.
    Link(Vec<u8>),
    /// To `Open`; the file's first bytes came as data before.
    Opened {
        /// Names the open file.
        file: FileKey,
        /// Its attributes.
        attr: Attr,
        /// BLAKE3 of the bytes that came along, when they are all of the file and it was asked for.
        hash: Option<[u8; 32]>,
    },
    /// To `Read`; the bytes came as data before.
    Read {
        /// The file's size as of the read.
        size: u64,
        /// The file's version as of the read.
        version: u64,
    },
    /// To `Hash`.
    Hash {
        /// BLAKE3 of the range.
        hash: [u8; 32],
        /// The range's length, cut at the end of the file.
        length: u64,
    },
    /// To `StatFs`.
    StatFs(StatFs),
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The host's file system said so.
    #[error("{}", std::io::Error::from_raw_os_error(*.0))]
    Errno(i32),
    /// The file changed under the read, or is not the one that was opened.
    #[error("the file changed on the host while it was read")]
    Stale,
    /// No answer within the bound.
    #[error("the host did not answer in time")]
    TimedOut,
    /// The host has been away for longer than the bound.
    #[error("the host is down or unreachable")]
    HostDown,
    /// Too much is asked at once.
    #[error("too many requests are waiting")]
    Busy,
    /// The owner is going away.
    #[error("cancelled")]
    Cancelled,
    /// The conversation is over for good.
    #[error(transparent)]
    Over(#[from] ClientError),
}

/// Why a conversation is over for good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// Nobody answered within the bound.
    #[error("no Wormhole host answers at {}; check the address, that `wormhole host` runs there, and that its UDP port is open", list(.0))]
    Unreachable(Vec<SocketAddr>),
    /// The host speaks another protocol.
    #[error("the host speaks an incompatible protocol ({0}); use the same version of Wormhole on both sides")]
    Incompatible(String),
    /// This device does not know the host and holds no code.
    #[error("this device has not joined that host yet: give its join code")]
    UnknownHost,
    /// Another key than before answers at this address, and this device holds no code.
    #[error(
        "another host answers at {0} than the one this device joined there; if it was set up anew, give its join code"
    )]
    OtherHost(SocketAddr),
    /// The host does not know this device and this device holds no code.
    #[error("the host does not know this device: give its join code")]
    NotEnrolled,
    /// The host refused.
    #[error("{}", refusal(*.0, *.1))]
    Refused(Refusal, Duration),
    /// The host could not prove the code: it is not the one the code is for.
    #[error("the join code does not match this host; check the code and the address")]
    WrongHost,
    /// We ended it.
    #[error("closed")]
    Closed,
}

impl ClientError {
    /// Whether a host that let this device in before may do so again although it says this now.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Incompatible(_)
            | Self::Refused(Refusal::Full | Refusal::TooManyAttempts | Refusal::Version, _)
            | Self::Unreachable(_) => true,
            Self::Refused(Refusal::WrongCode | Refusal::Revoked, _)
            | Self::UnknownHost
            | Self::OtherHost(_)
            | Self::NotEnrolled
            | Self::WrongHost
            | Self::Closed => false,
        }
    }

    /// How much it tells somebody whose attempts failed at several addresses for several reasons. More to do about it
    /// comes first, then what a host said that knows this device, then what any host would say.
    pub(super) fn helpfulness(&self) -> u8 {
        match self {
            Self::Unreachable(_) | Self::Closed => 0,
            Self::Incompatible(_) | Self::Refused(Refusal::Version, _) => 1,
            Self::WrongHost => 2,
            Self::UnknownHost | Self::OtherHost(_) | Self::Refused(Refusal::WrongCode, _) => 3,
            Self::NotEnrolled => 4,
            Self::Refused(Refusal::Full | Refusal::TooManyAttempts, _) => 5,
            Self::Refused(Refusal::Revoked, _) => 6,
        }
    }
}

fn list(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn refusal(reason: Refusal, retry_after: Duration) -> String {
    match reason {
        Refusal::WrongCode => "wrong join code; ask the host's owner for the current one".into(),
        Refusal::TooManyAttempts => {
            format!("too many wrong join codes lately; try again in {} s", retry_after.as_secs().max(1))
        }
        Refusal::Revoked => "the host's owner has revoked this device".into(),
        Refusal::Version => {
            "the host speaks no common protocol version; use the same version of Wormhole on both sides".into()
        }
        Refusal::Full => "the host has all the clients it takes; try again later".into(),
    }
}

/// One thing the owner of a client must know. Data comes between its `Begin` and its `Done`; a second `Begin` for a
/// call means that all data before it is void, because the call was asked again after a loss.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// The host answers.
    Ready(Box<Welcome>),
    /// The host does not answer any more; reconnecting goes on by itself.
    Lost {
        /// For people.
        reason: String,
    },
    /// It is over for good; every call has ended.
    Failed(ClientError),
    /// Data of this call follows.
    Begin {
        /// Whose.
        call: CallId,
        /// How many bytes.
        length: u64,
        /// The file's size as of now.
        size: u64,
        /// The file's version as of now.
        version: u64,
    },
    /// The next data of this call, in order.
    Data {
        /// Whose.
        call: CallId,
        /// The bytes, a slice of the datagram they came in.
        bytes: Bytes,
    },
    /// The call is over.
    Done {
        /// Which.
        call: CallId,
        /// How.
        result: Result<Answer, CallError>,
    },
}
