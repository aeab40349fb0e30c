//! A tree, its host and its clock, with the kernel's requests as plain methods.

use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use vfs::reply::{AttrOut, DirOut, DirPlusOut, EntryOut, OpenOut};
use vfs::{
    AttrReply, Call, CallId, DirPlusReply, DirReply, EmptyReply, EntryReply, Errno, LinkReply, NoticeScope, Op,
    OpenReply, ROOT_INO, Tree, TreeOptions,
};

use super::host::Host;

pub struct Rig {
    pub tree: Tree,
    pub host: Host,
    pub now: Instant,
    /// Calls asked, in order.
    pub asked: Vec<Call>,
    pub notices: Vec<(u64, NoticeScope)>,
}

impl Rig {
    pub fn new(host: Host) -> Self {
        Self::with(TreeOptions::CLOSE_TO_OPEN, host)
    }

    pub fn with(options: TreeOptions, host: Host) -> Self {
        let tree = Tree::new(options, host.attr(ROOT_INO));
        Self { tree, host, now: Instant::now(), asked: vec![], notices: vec![] }
    }

    pub fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// Gives the tree a request without answering what it asks.
    pub fn feed(&mut self, op: Op) {
        self.tree.handle_op(self.now, op);
        self.tree.check_invariants();
    }

    /// The next call that wants an answer; closes are only noted.
    pub fn next_call(&mut self) -> Option<(CallId, Call)> {
        while let Some((id, call)) = self.tree.poll_call() {
            self.asked.push(call.clone());
            if !matches!(call, Call::Close { .. }) {
                return Some((id, call));
            }
        }
        None
    }

    /// Answers a call by what the host holds now.
    pub fn answer(&mut self, id: CallId, call: &Call) {
        let answer = self.host.answer(call).expect("closes are not answered");
        self.tree.handle_answer(self.now, id, answer);
        self.tree.check_invariants();
    }

    /// Answers all that is asked and hears all notices.
    pub fn settle(&mut self) {
        loop {
            while let Some(notice) = self.tree.poll_notice() {
                self.notices.push((notice.ino, notice.scope));
                notice.complete();
            }
            match self.next_call() {
                Some((id, call)) => self.answer(id, &call),
                None => break,
            }
        }
        assert_eq!(self.tree.pending_count(), 0);
    }

    /// The calls asked since this was last called.
    pub fn take_asked(&mut self) -> Vec<Call> {
        std::mem::take(&mut self.asked)
    }

    fn run<T>(&mut self, op: Op, receiver: &Receiver<Result<T, Errno>>) -> Result<T, Errno> {
        self.feed(op);
        self.settle();
        receiver.try_recv().expect("a settled request is answered")
    }

    pub fn lookup(&mut self, parent: u64, name: &[u8]) -> Result<EntryOut, Errno> {
        let (reply, receiver) = EntryReply::channel();
        self.run(Op::Lookup { parent, name: name.to_vec(), reply }, &receiver)
    }

    /// Looks up a name that is there.
    pub fn find(&mut self, parent: u64, name: &[u8]) -> u64 {
        self.lookup(parent, name).unwrap().attr.expect("the name is there").id.ino
    }

    pub fn forget(&mut self, ino: u64, nlookup: u64) {
        self.feed(Op::Forget { ino, nlookup });
    }

    pub fn getattr(&mut self, ino: u64) -> Result<AttrOut, Errno> {
        let (reply, receiver) = AttrReply::channel();
        self.run(Op::Getattr { ino, reply }, &receiver)
    }

    pub fn readlink(&mut self, ino: u64) -> Result<Vec<u8>, Errno> {
        let (reply, receiver) = LinkReply::channel();
        self.run(Op::Readlink { ino, reply }, &receiver)
    }

    pub fn open(&mut self, ino: u64) -> Result<OpenOut, Errno> {
        self.open_with(ino, 0)
    }

    pub fn open_with(&mut self, ino: u64, flags: i32) -> Result<OpenOut, Errno> {
        let (reply, receiver) = OpenReply::channel();
        self.run(Op::Open { ino, flags, reply }, &receiver)
    }

    pub fn release(&mut self, fh: u64) -> Result<(), Errno> {
        let (reply, receiver) = EmptyReply::channel();
        self.run(Op::Release { fh, reply }, &receiver)
    }

    pub fn opendir(&mut self, ino: u64) -> Result<u64, Errno> {
        let (reply, receiver) = OpenReply::channel();
        self.run(Op::Opendir { ino, reply }, &receiver).map(|out| out.fh)
    }

    pub fn releasedir(&mut self, dh: u64) -> Result<(), Errno> {
        let (reply, receiver) = EmptyReply::channel();
        self.run(Op::Releasedir { dh, reply }, &receiver)
    }

    pub fn readdir(&mut self, ino: u64, dh: u64, offset: u64, bytes_max: usize) -> Result<Vec<DirOut>, Errno> {
        let (reply, receiver) = DirReply::channel(bytes_max);
        self.run(Op::Readdir { ino, dh, offset, reply }, &receiver)
    }

    pub fn readdirplus(&mut self, ino: u64, dh: u64, offset: u64, bytes_max: usize) -> Result<Vec<DirPlusOut>, Errno> {
        let (reply, receiver) = DirPlusReply::channel(bytes_max);
        self.run(Op::ReaddirPlus { ino, dh, offset, reply }, &receiver)
    }

    /// All names of a directory, listed from the start in replies of `bytes_max`.
    pub fn list(&mut self, ino: u64, dh: u64, bytes_max: usize) -> Vec<Vec<u8>> {
        let (mut names, mut offset) = (vec![], 0);
        loop {
            let entries = self.readdir(ino, dh, offset, bytes_max).unwrap();
            let Some(last) = entries.last() else {
                return names;
            };
            offset = last.offset;
            names.extend(entries.into_iter().map(|entry| entry.name));
        }
    }
}
