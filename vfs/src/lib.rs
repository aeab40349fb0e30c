//! The client's filesystem: what the kernel asks, what the host must be asked, what is known.
//!
//! Knows no network, no cache and no clock: the engine carries calls to the host and reads to
//! the cache, and brings the time. The FUSE edge turns kernel requests into [`Op`]s.
//!
//! ```text
//!   FUSE device ─── handle_op ────▶ ┌──────┐ ── poll_call ───▶ the host
//!   the host ────── handle_answer ▶ │ Tree │ ── poll_read ───▶ cache, or the host
//!                                   └──────┘ ── poll_notice ─▶ the kernel
//! ```
//!
//! Read [`op`], [`call`] and [`reply`] for the words, then [`tree`], then [`directory`],
//! [`handle`] and [`readahead`]. The edge is [`session`], [`device`], [`notifier`], [`unmount`] and [`guard`]; its inside
//! is `abi`, `serve` and `server`, and `ring` for requests through io_uring to a [`backend`].

mod abi;
mod arena;
pub mod attr;
pub mod backend;
pub mod call;
pub mod device;
pub mod directory;
pub mod errno;
mod file;
pub mod guard;
pub mod handle;
mod inode;
mod listed;
pub mod mounts;
pub mod notifier;
pub mod op;
mod owed;
pub mod readahead;
pub mod reply;
mod ring;
mod serve;
mod server;
pub mod session;
pub mod tree;
pub mod unmount;

pub use attr::{Attr, FileId, FileKind, ROOT_INO, StatFs, Timestamp};
pub use backend::Backend;
pub use call::{Answer, Call, CallId, DirEntry, Notice, NoticeScope, ReadOp};
pub use device::{Intake, Taken};
pub use errno::Errno;
pub use handle::{HandleTable, OpenView};
pub use inode::{LINK_BYTES_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX};
pub use listed::LISTED_ENTRIES_MAX;
pub use op::Op;
pub use readahead::Pattern;
pub use reply::{
    AttrReply, DataReply, DirPlusReply, DirReply, EmptyReply, EntryReply, LinkReply, OpenReply, StatfsReply,
};
pub use tree::{Tree, TreeOptions};
