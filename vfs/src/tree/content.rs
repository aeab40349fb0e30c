//! Opens, reads and closes.
//!
//! Close-to-open: every open asks the host, and the kernel keeps its pages only if they were
//! filled under the version the host now tells.

#![forbid(unsafe_code)]

use std::time::Instant;

use super::{Pending, Tree, stale_if_gone};
use crate::attr::FileKind;
use crate::call::{Answer, Call, CallId, HeldOpen, Notice, NoticeScope, ReadOp};
use crate::errno::Errno;
use crate::inode::Seen;
use crate::reply::{DataReply, EmptyReply, OpenReply};

/// Reads that may wait to be taken; one more is refused with `EBUSY`.
///
/// The engine takes them at the end of each turn, and the kernel sends `max_background` (at most
/// 128 here) beside those of waiting threads.
pub const READS_QUEUED_MAX: usize = 16_384;

/// A call that needs no answer; no pending call has this id, for generations are never 0.
const UNANSWERED: CallId = CallId(0);

impl Tree {
    pub(super) fn open(&mut self, ino: u64, flags: i32, reply: OpenReply) {
        if flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0 {
            return reply.error(Errno::EROFS);
        }
        let (id, path) = match self.openable(ino) {
            Ok(found) => found,
            Err(errno) => return reply.error(errno),
        };
        if self.pending.is_full() {
            return reply.error(Errno::EBUSY);
        }
        match self.files.reserve(id) {
            Some(fh) => {
                self.ask(Pending::Open { fh, reply }, Call::Open { fh, path, id });
            }
            None => reply.error(Errno::ENFILE),
        }
    }

    fn openable(&self, ino: u64) -> Result<(crate::FileId, Vec<u8>), Errno> {
        let inode = self.inodes.get(ino)?;
        match inode.seen.attr.kind {
            FileKind::Directory => Err(Errno::EISDIR),
            _ => Ok((inode.id, self.inodes.path(ino)?)),
        }
    }

    pub(super) fn on_open(&mut self, now: Instant, fh: u64, answer: Result<Answer, Errno>, reply: OpenReply) {
        let attr = match answer {
            Ok(Answer::Opened(attr)) => attr,
            Ok(_) => {
                self.close(fh);
                return reply.error(Errno::EIO);
            }
            Err(errno) => {
                self.files.remove(fh);
                return reply.error(stale_if_gone(errno));
            }
        };
        let id = self.files.get(fh).expect("an open that waits holds its handle").id;
        let inode = match self.inodes.get_mut(id.ino) {
            Ok(inode) if inode.id == id && attr.id == id => inode,
            _ => {
                self.close(fh);
                return reply.error(Errno::ESTALE);
            }
        };
        let (version, size) = (attr.version, attr.size);
        let known = inode.seen.attr;
        let keep_cache = inode.cached_version == Some(version);
        inode.cached_version = Some(version);
        inode.seen = Seen { attr, at: Some(now), is_whole: true };
        self.files.set_contents(&inode.handles, version, size);
        self.files.set_content(fh, version, size);
        inode.handles.push(fh);
        if (known.version, known.size) == (version, size) {
            reply.opened(fh, keep_cache);
        } else {
            // The kernel must not read by the old size once open(2) has returned.
            let then = Some(HeldOpen { reply, fh, keep_cache });
            self.notices.push_back(Notice { ino: id.ino, scope: NoticeScope::Attr, then });
        }
    }

    pub(super) fn read(&mut self, ino: u64, fh: u64, offset: u64, length: u32, reply: DataReply) {
        if self.reads.len() >= READS_QUEUED_MAX {
            return reply.error(Errno::EBUSY);
        }
        let file = match self.files.open_mut(fh) {
            Some(file) if file.id.ino == ino => file,
            _ => return reply.error(Errno::EBADF),
        };
        let advice = file.readahead.on_read(offset, length, file.size);
        self.reads.push_back(ReadOp {
            fh,
            ino,
            id: file.id,
            version: file.version,
            size: file.size,
            offset,
            length,
            reply,
            prefetch: advice.prefetch.collect(),
            pattern: advice.pattern,
        });
    }

    pub(super) fn release(&mut self, fh: u64, reply: EmptyReply) {
        if self.files.open_mut(fh).is_none() {
            return reply.error(Errno::EBADF);
        }
        self.close(fh);
        reply.ok();
    }

    /// Gives up a handle the host has open.
    pub(super) fn close(&mut self, fh: u64) {
        let Some(file) = self.files.remove(fh) else {
            return;
        };
        if let Ok(inode) = self.inodes.get_mut(file.id.ino) {
            inode.handles.retain(|&open| open != fh);
        }
        self.calls.push_back((UNANSWERED, Call::Close { fh }));
    }
}
