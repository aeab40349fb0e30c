//! The fence: every unsafe call the engine makes to the kernel, behind faces that cannot be misused.
//!
//! Nothing here knows QUIC, shards or back-pressure; nothing outside writes `unsafe` to do I/O.
//! Each block is one operation, and the comment above it names the pointer, its owner and its life.
//!
//! ```text
//!   io::uring ──▶ ring ──▶ op        who owns what while the kernel holds it
//!                  │  └──▶ buf_ring  receive slots lent to the kernel
//!                  └─────▶ cqe       `-res` becomes `io::Error`, once
//!   io::poll ───▶ epoll, file        the same work with plain system calls
//!   both ───────▶ msg ──▶ address, control    sockaddr and cmsg, in safe code
//!   io::socket ─▶ option             setsockopt;   probe: what this kernel grants;
//!                                    clock, limits: deadlines, CPU affinity, descriptor limit
//! ```
//!
//! Read [`op`], then [`ring`], then [`msg`].
#![allow(unsafe_code)]

pub(crate) mod address;
pub(crate) mod buf_ring;
pub(crate) mod clock;
pub(crate) mod control;
pub(crate) mod cqe;
pub(crate) mod enter;
pub(crate) mod epoll;
pub(crate) mod file;
pub(crate) mod limits;
pub(crate) mod msg;
pub(crate) mod op;
pub(crate) mod option;
pub(crate) mod probe;
pub(crate) mod ring;
