//! Cutting a stream of bytes into frames, and frames into checked messages.

use super::limits::PREFIX_BYTES;
use bytes::{Buf, Bytes, BytesMut};

/// Why bytes of a peer are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A frame announces more bytes than its place allows.
    #[error("a frame of {length} bytes is longer than the {limit} allowed here")]
    FrameTooLong {
        /// Announced.
        length: usize,
        /// Allowed.
        limit: usize,
    },
    /// The message's kind is not known here: the peer is newer, or this is not its place.
    #[error("message kind {0} is not known here")]
    UnknownKind(u16),
    /// The reserved bytes of the prefix are not zero.
    #[error("the reserved bytes of a frame are not zero")]
    ReservedBits,
    /// The body does not validate, or is of another kind than announced.
    #[error("the body of a message of kind {0} is malformed")]
    Malformed(u16),
    /// A field is longer than its limit.
    #[error("the {what} of {length} is over its limit of {limit}")]
    OverLimit {
        /// Which field.
        what: &'static str,
        /// Its length or count.
        length: usize,
        /// Its limit.
        limit: usize,
    },
    /// A name in a listing is empty, `.`, `..`, or holds `/` or NUL.
    #[error("a directory entry's name is not a name")]
    BadName,
    /// The stream ended inside a frame.
    #[error("the stream ended inside a message")]
    Truncated,
}

/// A message that travels in a frame of its own.
pub trait Message: Sized {
    /// The number that tells it from every other message.
    fn kind(&self) -> u16;
    /// Whether a message of this kind belongs to this set.
    fn knows(kind: u16) -> bool;
    /// Checks every length and count against its limit.
    ///
    /// # Errors
    /// The first limit that is exceeded.
    fn check(&self) -> Result<(), WireError>;
    /// Validates and decodes a body.
    ///
    /// # Errors
    /// rkyv's, when the bytes are not a message.
    fn decode(body: &[u8]) -> Result<Self, rkyv::rancor::Error>;
    /// Encodes the body.
    fn encode_body(&self) -> Vec<u8>;
}

/// Encodes a message with its prefix.
pub fn encode<M: Message>(message: &M) -> Bytes {
    debug_assert_eq!(message.check(), Ok(()), "our own messages keep their limits");
    let body = message.encode_body();
    let mut frame = Vec::with_capacity(PREFIX_BYTES + body.len());
    frame.extend_from_slice(&u32::try_from(body.len()).expect("bodies are bounded").to_le_bytes());
    frame.extend_from_slice(&message.kind().to_le_bytes());
    frame.extend_from_slice(&[0; 2]);
    frame.extend_from_slice(&body);
    Bytes::from(frame)
}

/// Collects a stream's bytes until frames are whole. Holds at most one frame and what came in with its end.
#[derive(Debug)]
pub struct Frames {
    buffer: BytesMut,
    body_bytes_max: usize,
}

impl Frames {
    /// Creates a collector that refuses bodies over `body_bytes_max`.
    pub fn new(body_bytes_max: usize) -> Self {
        Self { buffer: BytesMut::new(), body_bytes_max }
    }

    /// Adds the stream's next bytes.
    pub fn handle_bytes(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`WireError`]; the stream is of no use then.
    pub fn poll_message<M: Message>(&mut self) -> Result<Option<M>, WireError> {
        let Some(prefix) = self.buffer.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        let length = u32::from_le_bytes([prefix[0], prefix[1], prefix[2], prefix[3]]) as usize;
        let kind = u16::from_le_bytes([prefix[4], prefix[5]]);
        if prefix[6..] != [0; 2] {
            return Err(WireError::ReservedBits);
        }
        if !M::knows(kind) {
            return Err(WireError::UnknownKind(kind));
        }
        if length > self.body_bytes_max {
            return Err(WireError::FrameTooLong { length, limit: self.body_bytes_max });
        }
        if self.buffer.len() < PREFIX_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX_BYTES);
        let body = self.buffer.split_to(length);
        let message = M::decode(&body).map_err(|_| WireError::Malformed(kind))?;
        if message.kind() != kind {
            return Err(WireError::Malformed(kind));
        }
        message.check()?;
        Ok(Some(message))
    }

    /// Takes what came in behind the last message: raw data of a response.
    pub fn take_rest(&mut self) -> Bytes {
        self.buffer.split().freeze()
    }

    /// True when nothing is held: the stream may end here.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;
    use proptest::prelude::*;

    fn attr() -> Attr {
        let time = Timestamp { seconds: -1, nanoseconds: 999_999_999 };
        Attr {
            id: FileId { ino: u64::MAX, birth_ns: 7 },
            kind: Kind::File,
            mode: 0o7777,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 1 << 40,
            blocks: 8,
            atime: time,
            mtime: time,
            ctime: time,
            version: 3,
        }
    }

    fn every_response() -> Vec<Response> {
        vec![
            Response::Attr { attr: attr() },
            Response::Page {
                entries: vec![Entry { name: vec![0xff, b'\n'], cookie: u64::MAX, attr: attr() }],
                end: true,
            },
            Response::Link { target: b"../x".to_vec() },
            Response::Opened { handle: 1, attr: attr(), data: 9, hash: Some([1; 32]) },
            Response::Data { data: 1, size: 2, version: 3 },
            Response::Hash { hash: [7; 32], length: 1 },
            Response::StatFs {
                statfs: StatFs {
                    block_bytes: 1,
                    blocks: 2,
                    blocks_free: 3,
                    blocks_available: 4,
                    files: 5,
                    files_free: 6,
                    name_bytes_max: 7,
                },
            },
            Response::Error { errno: 2 },
        ]
    }

    fn read_back<M: Message>(bytes: &[u8], body_bytes_max: usize) -> Result<Option<M>, WireError> {
        let mut frames = Frames::new(body_bytes_max);
        frames.handle_bytes(bytes);
        frames.poll_message()
    }

    #[test]
    fn messages_survive_the_round_trip_byte_by_byte() {
        for message in every_response() {
            let bytes = encode(&message);
            let mut frames = Frames::new(RESPONSE_BYTES_MAX);
            for (index, byte) in bytes.iter().enumerate() {
                assert_eq!(frames.poll_message::<Response>(), Ok(None), "{message:?} at {index}");
                frames.handle_bytes(&[*byte]);
            }
            assert_eq!(frames.poll_message::<Response>(), Ok(Some(message)));
            assert!(frames.is_empty());
        }
    }

    #[test]
    fn raw_data_behind_a_message_is_kept() {
        let mut bytes = encode(&Response::Data { data: 3, size: 3, version: 0 }).to_vec();
        bytes.extend_from_slice(b"abc");
        let mut frames = Frames::new(RESPONSE_BYTES_MAX);
        frames.handle_bytes(&bytes);
        assert!(matches!(frames.poll_message::<Response>(), Ok(Some(Response::Data { data: 3, .. }))));
        assert_eq!(&frames.take_rest()[..], b"abc");
    }

    #[test]
    fn a_full_page_fits_a_response() {
        let names = PAGE_NAME_BYTES_MAX as usize / NAME_BYTES_MAX;
        let mut entries = vec![Entry { name: vec![b'n'; NAME_BYTES_MAX], cookie: 1, attr: attr() }; names];
        entries.resize(PAGE_ENTRIES_MAX as usize, Entry { name: vec![b'n'], cookie: 1, attr: attr() });
        let page = Response::Page { entries, end: false };
        let bytes = encode(&page);
        assert!(bytes.len() <= RESPONSE_BYTES_MAX, "{}", bytes.len());
        assert_eq!(read_back(&bytes, RESPONSE_BYTES_MAX), Ok(Some(page)));
    }

    #[test]
    fn the_longest_path_fits_a_request() {
        let request = Request::Open { path: vec![b'p'; PATH_BYTES_MAX], inline_max: INLINE_BYTES_MAX, hash: true };
        assert_eq!(read_back(&encode(&request), REQUEST_BYTES_MAX), Ok(Some(request)));
    }

    #[test]
    fn limits_and_kinds_are_enforced() {
        let prefix = |length: u32, kind: u16, zero: u16| {
            [&length.to_le_bytes()[..], &kind.to_le_bytes(), &zero.to_le_bytes()].concat()
        };
        let over = u32::try_from(REQUEST_BYTES_MAX + 1).unwrap();
        assert!(matches!(
            read_back::<Request>(&prefix(over, 32, 0), REQUEST_BYTES_MAX),
            Err(WireError::FrameTooLong { .. })
        ));
        assert_eq!(read_back::<Request>(&prefix(0, 64, 0), 9), Err(WireError::UnknownKind(64)));
        assert_eq!(read_back::<Request>(&prefix(0, 32, 1), 9), Err(WireError::ReservedBits));
        assert_eq!(read_back::<Request>(&prefix(0, 32, 0), 9), Err(WireError::Malformed(32)));
        // A body of one kind under another kind's number.
        let mut bytes = encode(&Request::StatFs).to_vec();
        bytes[4] = 32;
        assert_eq!(read_back::<Request>(&bytes, REQUEST_BYTES_MAX), Err(WireError::Malformed(32)));
    }

    #[test]
    fn hostile_names_are_refused() {
        for name in [&b""[..], b".", b"..", b"a/b", b"a\0b"] {
            let page =
                Response::Page { entries: vec![Entry { name: name.to_vec(), cookie: 0, attr: attr() }], end: true };
            assert_eq!(page.check(), Err(WireError::BadName), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let _ = read_back::<Control>(&bytes, REQUEST_BYTES_MAX);
            let _ = read_back::<Request>(&bytes, REQUEST_BYTES_MAX);
            let _ = read_back::<Response>(&bytes, RESPONSE_BYTES_MAX);
        }

        #[test]
        fn a_flipped_byte_never_panics(which in 0usize..8, at in any::<prop::sample::Index>(), with in 1u8..) {
            let mut bytes = encode(&every_response()[which]).to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= with;
            if let Ok(Some(message)) = read_back::<Response>(&bytes, RESPONSE_BYTES_MAX) {
                prop_assert_eq!(message.check(), Ok(()));
            }
        }

        #[test]
        fn requests_round_trip(path in proptest::collection::vec(any::<u8>(), 0..PATH_BYTES_MAX), cursor in any::<u64>(), entries_max in any::<u32>()) {
            let request = Request::List { path, cursor, entries_max };
            prop_assert_eq!(read_back(&encode(&request), REQUEST_BYTES_MAX), Ok(Some(request)));
        }
    }
}
