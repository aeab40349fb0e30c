//! How two machines that share a few words find and trust each other: join codes, links and the
//! proof of knowing the words.
//!
//! Opens no socket, reads no clock, spawns no thread, writes no file. The one thing taken from the
//! operating system is the secret scalar of a key exchange ([`pake`]): a caller that repeated one
//! would give its code away, so no caller supplies it.
//!
//! ```text
//!   command line ──▶ Target ──▶ JoinCode | JoinLink | HostAddress
//!                                  │
//!        client                    ▼                       host
//!   ClientStart ───────── share (33 bytes) ─────────▶ Attempts::try_begin
//!        │      ◀──────── share (33 bytes) ────────── HostExchange::respond
//!   ClientConfirm ─────── proof (32 bytes) ─────────▶ Attempts::try_judge, HostExchange::verify
//!     verify    ◀──────── proof (32 bytes) ────────── only when the client's proof was right
//! ```
//!
//! Read [`code`], then [`pake`], then [`attempts`]; [`target`] holds the grammar of what people type.
//! Secrets are wiped when dropped, `Debug` never shows them, and the one way to print one is a method
//! called `reveal`.
#![forbid(unsafe_code)]

pub mod address;
pub mod attempts;
pub mod code;
pub mod link;
pub mod pake;
mod percent;
pub mod target;

pub use address::{DEFAULT_PORT, Host, HostAddress, HostAddressError};
pub use attempts::{Attempt, Attempts, Expired, Guess, Refusal, RefusalCause, Source, Verdict};
pub use code::{CODE_RANDOM_BYTES, CodeError, JoinCode, Nameplate, WeakCode};
pub use link::{JoinLink, LinkError};
pub use pake::{Binding, ClientConfirm, ClientStart, HostExchange, PROOF_BYTES, PakeError, SHARE_BYTES, WrongCode};
pub use target::{RemotePath, SubPath, SubPathError, Target, TargetError};
