//! The bounds of every length and count on the wire.

/// Bytes of a frame's prefix: length, kind, zero.
pub const PREFIX_BYTES: usize = 4 + 2 + 2;
/// Bytes of a request or control body: a path and change. Bounds what an unauthenticated peer can make us buffer.
pub const REQUEST_BYTES_MAX: usize = PATH_BYTES_MAX + 1024;
/// Bytes of a response body: a directory page.
pub const RESPONSE_BYTES_MAX: usize = 512 << 10;
/// Bytes of a path, components joined by '/': four times PATH_MAX, for trees deeper than one system call can name.
pub const PATH_BYTES_MAX: usize = 16 << 10;
/// Bytes of one name (NAME_MAX of every Linux file system).
pub const NAME_BYTES_MAX: usize = 255;
/// Bytes of a symlink's target (PATH_MAX).
pub const LINK_BYTES_MAX: usize = 4096;
/// Bytes of a device's or share's display name.
pub const LABEL_BYTES_MAX: usize = 255;
/// Entries of one directory page: a page stays under a millisecond of host time.
pub const PAGE_ENTRIES_MAX: u32 = 1024;
/// Bytes of names in one directory page.
pub const PAGE_NAME_BYTES_MAX: u32 = 192 << 10;
/// Bytes one open may ask to have sent along: the small cache frame.
pub const INLINE_BYTES_MAX: u32 = 64 << 10;
/// Bytes of a PAKE share: an Ed25519 element and SPAKE2's side byte.
pub const SHARE_BYTES: usize = 33;
/// Open files one connection may hold at the host.
pub const HANDLES_MAX: usize = 16_384;

// A full page of the longest names and 160 bytes of attributes each still fits a response.
const _: () = assert!(
    PAGE_NAME_BYTES_MAX as usize + NAME_BYTES_MAX + PAGE_ENTRIES_MAX as usize * 160 + PREFIX_BYTES
        <= RESPONSE_BYTES_MAX
);
const _: () = assert!(PATH_BYTES_MAX < REQUEST_BYTES_MAX && LINK_BYTES_MAX < RESPONSE_BYTES_MAX);
