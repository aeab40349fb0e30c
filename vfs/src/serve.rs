//! The FUSE edge: each request of the kernel becomes an [`Op`] for the shard that owns the tree.
//!
//! | request | answer |
//! | --- | --- |
//! | lookup, getattr, readlink, open, readdir(plus), statfs, release(dir), forget | by the shard |
//! | read | from a cache if it has the bytes, else by the shard |
//! | flush, fsync, fsyncdir | done at once: nothing is ever dirty |
//! | whatever changes something | `EROFS`, a second wall: the kernel refuses it before on a read-only mount |
//! | access, xattr, lseek, bmap, poll, locks | `ENOSYS`, after which the kernel asks no more |

use std::sync::Arc;

use crate::abi::{Asked, Request};
use crate::backend::Backend;
use crate::errno::Errno;
use crate::handle::HandleTable;
use crate::op::Op;
use crate::owed::Owed;
use crate::reply::{DirPlusReply, DirReply};

/// Answers a request, or makes of it what its owner is to be asked. Never waits.
///
/// Inodes to forget come several at a time and are owed nothing: who takes requests looks for them first.
pub(crate) fn to_op(request: Request, owed: Owed) -> Option<Op> {
    let ino = request.header.nodeid;
    let asked = match request.asked {
        Ok(asked) => asked,
        Err(error) => {
            tracing::error!(%error, "refused");
            owed.refuse(Errno::EIO);
            return None;
        }
    };
    Some(match asked {
        Asked::Lookup { name } => Op::Lookup { parent: ino, name, reply: owed.into() },
        Asked::Getattr => Op::Getattr { ino, reply: owed.into() },
        Asked::Readlink => Op::Readlink { ino, reply: owed.into() },
        Asked::Open { flags } if !is_for_writing(flags) => Op::Open { ino, flags, reply: owed.into() },
        Asked::Read { fh, offset, size } => Op::Read { ino, fh, offset, length: size, reply: owed.into() },
        Asked::Release { fh } => Op::Release { fh, reply: owed.into() },
        Asked::Opendir => Op::Opendir { ino, reply: owed.into() },
        Asked::Readdir { fh, offset, size } => Op::Readdir { ino, dh: fh, offset, reply: DirReply::owed(owed, size) },
        Asked::ReaddirPlus { fh, offset, size } => {
            Op::ReaddirPlus { ino, dh: fh, offset, reply: DirPlusReply::owed(owed, size) }
        }
        Asked::Releasedir { fh } => Op::Releasedir { dh: fh, reply: owed.into() },
        Asked::Statfs => Op::Statfs { reply: owed.into() },
        done_here => {
            match done_here {
                Asked::Sync | Asked::Destroy | Asked::Forget(_) => owed.answer_with(&[]),
                Asked::Open { .. } | Asked::Change => owed.refuse(Errno::EROFS),
                Asked::Ioctl => owed.refuse(Errno::new(libc::ENOTTY)),
                Asked::Init(_) => owed.refuse(Errno::EIO), // there is one, and it is over
                _ => owed.refuse(Errno::ENOSYS),
            }
            return None;
        }
    })
}

/// Says whether an open asks for more than reading. The kernel refuses it on a read-only mount
/// before it gets here; this is the second wall.
fn is_for_writing(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0
}

/// Whoever answers what a thread takes, with the files that are open.
#[derive(Debug)]
pub(crate) struct Edge<B> {
    pub(crate) backend: Arc<B>,
    pub(crate) handles: Arc<HandleTable>,
}

impl<B> Clone for Edge<B> {
    fn clone(&self) -> Self {
        Self { backend: Arc::clone(&self.backend), handles: Arc::clone(&self.handles) }
    }
}

impl<B: Backend> Edge<B> {
    /// Answers a request, or hands it over with what it is owed. Never waits.
    pub(crate) fn serve(&self, mut request: Request, owed: Owed) {
        if let Ok(Asked::Forget(ones)) = &mut request.asked {
            self.forget(std::mem::take(ones));
        }
        if let Some(op) = to_op(request, owed) {
            self.submit(op);
        }
    }

    /// Gives back references counted by lookups.
    pub(crate) fn forget(&self, ones: Vec<(u64, u64)>) {
        for (ino, nlookup) in ones {
            self.backend.submit(Op::Forget { ino, nlookup });
        }
    }

    /// Hands an op over, but for a read that the backend answers from memory.
    pub(crate) fn submit(&self, op: Op) {
        let op = match op {
            Op::Read { ino, fh, offset, length, reply } => {
                let missed = match self.handles.snapshot(fh) {
                    Some(view) => self.backend.read_cached(view, offset, length, reply),
                    None => Some(reply),
                };
                let Some(reply) = missed else { return };
                Op::Read { ino, fh, offset, length, reply }
            }
            op => op,
        };
        self.backend.submit(op);
    }
}
