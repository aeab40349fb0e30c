//! What a session of our own does with a request: the twin of [`fuse`](crate::fuse) without fuser.
//!
//! The table in [`fuse`](crate::fuse) says which requests are answered how; both sessions do the same.

use std::sync::Arc;

use crate::abi::{Asked, Request};
use crate::errno::Errno;
use crate::fuse::{Backend, is_for_writing};
use crate::handle::HandleTable;
use crate::op::Op;
use crate::owed::Owed;
use crate::reply::{DataReply, DirPlusReply, DirReply};

/// Whoever answers, with the files that are open.
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
    pub(crate) fn serve(&self, request: Request, owed: Owed) {
        let ino = request.header.nodeid;
        let op = match request.asked {
            Ok(Asked::Lookup { name }) => Op::Lookup { parent: ino, name, reply: owed.into() },
            Ok(Asked::Getattr) => Op::Getattr { ino, reply: owed.into() },
            Ok(Asked::Readlink) => Op::Readlink { ino, reply: owed.into() },
            Ok(Asked::Open { flags }) if is_for_writing(flags) => return owed.refuse(Errno::EROFS),
            Ok(Asked::Open { flags }) => Op::Open { ino, flags, reply: owed.into() },
            Ok(Asked::Read { fh, offset, size }) => match self.read_cached(fh, offset, size, owed.into()) {
                Some(reply) => Op::Read { ino, fh, offset, length: size, reply },
                None => return,
            },
            Ok(Asked::Release { fh }) => Op::Release { fh, reply: owed.into() },
            Ok(Asked::Opendir) => Op::Opendir { ino, reply: owed.into() },
            Ok(Asked::Readdir { fh, offset, size }) => {
                Op::Readdir { ino, dh: fh, offset, reply: DirReply::owed(owed, size) }
            }
            Ok(Asked::ReaddirPlus { fh, offset, size }) => {
                Op::ReaddirPlus { ino, dh: fh, offset, reply: DirPlusReply::owed(owed, size) }
            }
            Ok(Asked::Releasedir { fh }) => Op::Releasedir { dh: fh, reply: owed.into() },
            Ok(Asked::Statfs) => Op::Statfs { reply: owed.into() },
            Ok(Asked::Forget(ones)) => {
                self.forget(ones);
                return owed.answer_with(&[]);
            }
            Ok(Asked::Sync | Asked::Destroy) => return owed.answer_with(&[]),
            Ok(Asked::Change) => return owed.refuse(Errno::EROFS),
            Ok(Asked::Ioctl) => return owed.refuse(Errno::new(libc::ENOTTY)),
            Ok(Asked::Interrupt | Asked::Unknown) => return owed.refuse(Errno::ENOSYS),
            Ok(Asked::Init(_)) => return owed.refuse(Errno::EIO), // there is one, and it is over
            Err(error) => {
                tracing::error!(%error, "refused");
                return owed.refuse(Errno::EIO);
            }
        };
        self.backend.submit(op);
    }

    /// Gives back references counted by lookups.
    pub(crate) fn forget(&self, ones: Vec<(u64, u64)>) {
        for (ino, nlookup) in ones {
            self.backend.submit(Op::Forget { ino, nlookup });
        }
    }

    fn read_cached(&self, fh: u64, offset: u64, size: u32, reply: DataReply) -> Option<DataReply> {
        match self.handles.snapshot(fh) {
            Some(view) => self.backend.read_cached(view, offset, size, reply),
            None => Some(reply),
        }
    }
}
