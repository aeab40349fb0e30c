//! Lookups, attributes and links: what a name stands for.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use super::{Pending, Tree, stale_if_gone};
use crate::attr::Attr;
use crate::call::{Answer, Call, NoticeScope};
use crate::errno::Errno;
use crate::inode::{LINK_BYTES_MAX, NAME_BYTES_MAX, Seen, is_valid_name, remaining};
use crate::reply::{AttrReply, EntryReply, LinkReply};

impl Tree {
    pub(super) fn lookup(&mut self, now: Instant, parent: u64, name: Vec<u8>, reply: EntryReply) {
        if name.len() > NAME_BYTES_MAX {
            return reply.error(Errno::ENAMETOOLONG);
        }
        if !is_valid_name(&name) {
            return reply.error(Errno::EINVAL);
        }
        if let Some((at, attr)) = self.listed.find(now, self.options.entry_ttl, parent, &name) {
            return self.grant(now, parent, &name, &attr, at, reply);
        }
        match self.inodes.path_of_child(parent, &name) {
            Ok(path) => {
                self.ask(Pending::Lookup { parent, name, reply }, Call::Attr { path });
            }
            Err(errno) => reply.error(errno),
        }
    }

    pub(super) fn on_lookup(
        &mut self,
        now: Instant,
        parent: u64,
        name: &[u8],
        answer: Result<Attr, Errno>,
        reply: EntryReply,
    ) {
        self.listed.remove(parent, name);
        match answer {
            Ok(attr) => self.grant(now, parent, name, &attr, now, reply),
            Err(Errno::ENOENT) if self.options.negative_ttl > Duration::ZERO => {
                reply.absent(self.options.negative_ttl);
            }
            Err(errno) => reply.error(errno),
        }
    }

    /// Tells the kernel what a name stands for, as seen `at`, and counts the reference.
    fn grant(&mut self, now: Instant, parent: u64, name: &[u8], attr: &Attr, at: Instant, reply: EntryReply) {
        let entry = match self.inodes.entry(parent, attr, at) {
            Ok(entry) => entry,
            Err(errno) => return reply.error(errno),
        };
        self.inodes.count_lookup(parent, name, &entry);
        self.on_content(entry.seen.attr.id.ino);
        let entry_ttl = remaining(at, now, self.options.entry_ttl);
        let attr_ttl = entry.seen.remaining(now, self.options.attr_ttl);
        reply.entry(&self.shown(&entry.seen.attr), attr_ttl, entry_ttl);
    }

    pub(super) fn getattr(&mut self, now: Instant, ino: u64, reply: AttrReply) {
        let seen = match self.inodes.get(ino) {
            Ok(inode) => inode.seen,
            Err(errno) => return reply.error(errno),
        };
        let attr_ttl = seen.remaining(now, self.options.attr_ttl);
        if attr_ttl > Duration::ZERO {
            return reply.attr(&self.shown(&seen.attr), attr_ttl);
        }
        match self.inodes.path(ino) {
            Ok(path) => {
                self.ask(Pending::Getattr { ino, reply }, Call::Attr { path });
            }
            Err(errno) => reply.error(errno),
        }
    }

    pub(super) fn on_getattr(&mut self, now: Instant, ino: u64, answer: Result<Attr, Errno>, reply: AttrReply) {
        let inode = match self.inodes.get_mut(ino) {
            Ok(inode) => inode,
            Err(errno) => return reply.error(errno),
        };
        let answer = match answer {
            Ok(attr) if attr.id != inode.id => Err(Errno::ESTALE),
            Ok(attr) => Ok(attr),
            Err(errno) => Err(stale_if_gone(errno)),
        };
        match answer {
            Ok(attr) => {
                inode.seen = Seen { attr, at: Some(now), is_whole: true };
                self.on_content(ino);
                reply.attr(&self.shown(&attr), self.options.attr_ttl);
            }
            // Renamed over or removed while open: fstat(2) goes on with what was last known.
            Err(Errno::ESTALE) if !inode.handles.is_empty() => {
                let attr = inode.seen.attr;
                reply.attr(&self.shown(&attr), Duration::ZERO);
            }
            Err(errno) => reply.error(errno),
        }
    }

    pub(super) fn readlink(&mut self, ino: u64, reply: LinkReply) {
        match self.inodes.path(ino) {
            Ok(path) => {
                self.ask(Pending::Readlink { reply }, Call::Readlink { path });
            }
            Err(errno) => reply.error(errno),
        }
    }

    pub(super) fn on_readlink(answer: Result<Answer, Errno>, reply: LinkReply) {
        match answer {
            Ok(Answer::Link(target)) if target.len() <= LINK_BYTES_MAX => reply.target(&target),
            Ok(_) => reply.error(Errno::EIO),
            Err(errno) => reply.error(stale_if_gone(errno)),
        }
    }

    /// Acts on what was just learnt of a file: its handles follow, and pages of another version
    /// leave the kernel.
    fn on_content(&mut self, ino: u64) {
        let Ok(inode) = self.inodes.get_mut(ino) else {
            return;
        };
        let Attr { version, size, .. } = inode.seen.attr;
        self.files.set_contents(&inode.handles, version, size);
        if inode.cached_version.is_some_and(|cached| cached != version) {
            inode.cached_version = None;
            self.notify(ino, NoticeScope::Data);
        }
    }

    /// The same for many files: listings are shown with the directory's pages borrowed.
    pub(super) fn on_contents(&mut self, inos: Vec<u64>) {
        for ino in inos {
            self.on_content(ino);
        }
    }
}
