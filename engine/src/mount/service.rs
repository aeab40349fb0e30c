//! The mount's shard: tree, cache and client, each fed with what the others want.

use super::backend::ENDED;
use super::fetch::{Fetches, errno_of};
use crate::client::{Answer, Ask, CallError, CallId, Client, ClientError, FileKey, Output, Welcome};
use crate::convert::attr_to_vfs;
use crate::event::ServiceEvent;
use crate::service::{FileRead, Service, Watch};
use bytes::BytesMut;
use cache::L1Reader;
use crossbeam_channel::Sender;
use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};
use transport::wire::{INLINE_BYTES_MAX, PAGE_ENTRIES_MAX};
use transport::{ConnId, Event, Node};
use vfs::notifier::{NoticeRefused, Notifier};
use vfs::{Call, Errno, HandleTable, Intake, Notice, Op, Taken, Tree, TreeOptions};

/// How soon a notice is offered again to a notifier that had no room: nothing tells of room, and an open may wait for
/// the notice. Its thread takes microseconds for one; waiting behind a page lock, as long as the backend for a read.
const NOTICE_RETRY: Duration = Duration::from_millis(5);

/// Requests of the kernel that one turn takes: its share, so that no process on the mount starves the socket.
const REQUESTS_PER_TURN_MAX: usize = 64;
/// Bytes of answers from memory that are copied in one turn, and one answer more: half a millisecond away from the
/// socket, whose slots hold 3 ms.
const COPIED_PER_TURN_MAX: usize = 2 << 20;

/// Messages to a mount's shard.
pub(super) enum MountMail {
    /// The kernel asks, by the thread of a ring.
    Op(Op),
    /// The folder is mounted: notices go here, and the kernel asks there.
    Mounted(Notifier, Intake),
    /// Say goodbye and end.
    Shutdown,
    /// Fail as a bug of ours would.
    #[cfg(test)]
    Panic,
}

/// What the starter needs to mount the folder.
pub(super) struct Joined {
    pub(super) welcome: Welcome,
    pub(super) handles: Arc<HandleTable>,
    pub(super) l1: L1Reader,
}

/// Whom an answer of the host is for.
enum Asker {
    /// The tree.
    Tree(vfs::CallId),
    /// The tree, for an open; the bytes that came along are for the cache.
    Open { call: vfs::CallId, fh: u64, id: vfs::FileId, data: Vec<u8> },
}

/// See the module.
pub(super) struct MountService {
    client: Client,
    options: TreeOptions,
    /// From the first welcome on.
    tree: Option<Tree>,
    fetches: Fetches,
    l1: L1Reader,
    askers: BTreeMap<CallId, Asker>,
    /// The host's open file behind each of the tree's handles.
    files: BTreeMap<u64, FileKey>,
    notifier: Option<Notifier>,
    intake: Option<Intake>,
    watch: Option<Watch>,
    /// A notice the notifier had no room for, and when it is offered again; those behind it wait in the tree.
    notice: Option<(Notice, Instant)>,
    /// Told once: the first welcome, or why there is none.
    first: Option<Sender<Result<Joined, ClientError>>>,
    events: Sender<ServiceEvent>,
    over: bool,
}

impl MountService {
    pub(super) fn new(
        client: Client,
        options: TreeOptions,
        fetches: Fetches,
        first: Sender<Result<Joined, ClientError>>,
        events: Sender<ServiceEvent>,
    ) -> Self {
        Self {
            client,
            options,
            tree: None,
            l1: fetches.reader(),
            fetches,
            askers: BTreeMap::new(),
            files: BTreeMap::new(),
            notifier: None,
            intake: None,
            watch: None,
            notice: None,
            first: Some(first),
            events,
            over: false,
        }
    }

    fn tell(&self, event: ServiceEvent) {
        if self.events.try_send(event).is_err() {
            tracing::debug!("an event was dropped: nobody reads them");
        }
    }

    /// Carries everything on until nobody has anything to say.
    fn settle(&mut self, now: Instant, node: &mut Node) {
        loop {
            self.drain_client(now, node);
            let Some(tree) = &mut self.tree else { return };
            if let Some((call, what)) = tree.poll_call() {
                self.on_call(now, node, call, what);
            } else if let Some(read) = tree.poll_read() {
                match self.files.get(&read.fh) {
                    Some(&file) => self.fetches.read(now, &mut self.client, node, file, read),
                    None => read.reply.error(Errno::EBADF),
                }
            } else if !self.send_notice(now) {
                return;
            }
        }
    }

    /// Sends the next notice on; false when there is none or no room.
    fn send_notice(&mut self, now: Instant) -> bool {
        let held = self.notice.take().map(|(notice, _)| notice);
        let waiting = held.or_else(|| self.tree.as_mut().and_then(Tree::poll_notice));
        let Some(notice) = waiting else { return false };
        let Some(notifier) = &self.notifier else {
            // Nothing is mounted yet, so no kernel holds anything to invalidate.
            notice.complete();
            return true;
        };
        match notifier.send(notice) {
            Ok(()) => true,
            Err(NoticeRefused::Ended(notice)) => {
                notice.complete();
                true
            }
            Err(NoticeRefused::Full(notice)) => {
                self.notice = Some((notice, now + NOTICE_RETRY));
                false
            }
        }
    }

    fn on_call(&mut self, now: Instant, node: &mut Node, call: vfs::CallId, what: Call) {
        let (ask, asker) = match what {
            Call::Attr { path } => (Ask::Attr { path }, Asker::Tree(call)),
            Call::Readlink { path } => (Ask::Readlink { path }, Asker::Tree(call)),
            Call::List { path, cursor } => {
                (Ask::List { path, cursor, entries_max: PAGE_ENTRIES_MAX }, Asker::Tree(call))
            }
            Call::Statfs => (Ask::StatFs, Asker::Tree(call)),
            Call::Open { fh, path, id } => (
                Ask::Open { path, inline_max: INLINE_BYTES_MAX, hash: false },
                Asker::Open { call, fh, id, data: Vec::new() },
            ),
            Call::Close { fh } => {
                if let Some(file) = self.files.remove(&fh) {
                    self.client.close_file(node, file);
                }
                return;
            }
        };
        let id = self.client.call(now, node, ask);
        self.askers.insert(id, asker);
    }

    fn drain_client(&mut self, now: Instant, node: &mut Node) {
        while let Some(output) = self.client.poll_output() {
            match output {
                Output::Ready(welcome) => self.on_ready(*welcome),
                Output::Lost { reason } => self.tell(ServiceEvent::HostLost { reason }),
                Output::Failed(error) => match self.first.take() {
                    // A starter that gave up waiting needs no answer.
                    Some(first) => drop(first.send(Err(error))),
                    // The mount stays: were it taken away, programs would go on in the empty folder beneath it.
                    None => self.tell(ServiceEvent::Warning {
                        message: format!("{error}; every call fails from now on: unmount the folder"),
                    }),
                },
                Output::Begin { call, length, size, version } => {
                    if let Some(Asker::Open { data, .. }) = self.askers.get_mut(&call) {
                        data.clear();
                    } else if let Some(newer) = self.fetches.on_begin(call, length, size, version)
                        && let Some(tree) = &mut self.tree
                    {
                        tree.handle_newer_attr(now, newer.ino, newer.size, newer.version);
                    }
                }
                Output::Data { call, bytes } => match self.askers.get_mut(&call) {
                    Some(Asker::Open { data, .. }) => data.extend_from_slice(&bytes),
                    Some(Asker::Tree(_)) => {}
                    None => self.fetches.on_data(call, &bytes),
                },
                Output::Done { call, result } => self.on_done(now, node, call, result),
            }
        }
    }

    fn on_ready(&mut self, welcome: Welcome) {
        if welcome.again {
            return self.tell(ServiceEvent::HostBack { address: welcome.address });
        }
        let tree = Tree::new(self.options, attr_to_vfs(&welcome.root));
        let joined = Joined { welcome, handles: tree.handle_table(), l1: self.l1.clone() };
        self.tree = Some(tree);
        if let Some(first) = self.first.take() {
            // As in `drain_client`.
            let _ = first.send(Ok(joined));
        }
    }

    fn on_done(&mut self, now: Instant, node: &mut Node, id: CallId, result: Result<Answer, CallError>) {
        let Some(asker) = self.askers.remove(&id) else {
            self.fetches.on_done(id, result.as_ref().map(|_| ()));
            return;
        };
        let (call, answer) = match asker {
            Asker::Tree(call) => (call, result.map_err(|error| errno_of(&error)).and_then(answer_to_vfs)),
            Asker::Open { call, fh, id, data } => {
                let answer = match result {
                    Ok(Answer::Opened { file, attr, .. }) => {
                        let attr = attr_to_vfs(&attr);
                        if attr.id == id {
                            self.files.insert(fh, file);
                            self.fetches.insert_whole(attr.id.ino, attr.version, attr.size, &data);
                            Ok(vfs::Answer::Opened(attr))
                        } else {
                            self.client.close_file(node, file);
                            Err(Errno::ESTALE)
                        }
                    }
                    Ok(_) => Err(Errno::EIO),
                    Err(error) => Err(errno_of(&error)),
                };
                (call, answer)
            }
        };
        if let Some(tree) = &mut self.tree {
            tree.handle_answer(now, call, answer);
        }
    }

    fn on_op(&mut self, now: Instant, op: Op) {
        // Without a tree nothing is mounted and nobody asks; a dropped op answers EIO.
        if let Some(tree) = &mut self.tree {
            tree.handle_op(now, op);
        }
    }

    fn end(&mut self, now: Instant, node: &mut Node) {
        self.fetches.fail_all(ENDED);
        if let Some(tree) = &mut self.tree {
            tree.fail_all(ENDED);
        }
        self.client.close(now, node);
        self.over = true;
    }
}

/// Ends a read of what is in memory with how many bytes were copied for it here; every other op goes on.
fn answer_cached(fetches: &Fetches, intake: &Intake, op: Op) -> ControlFlow<usize, Op> {
    let Op::Read { ino, fh, offset, length, reply } = op else { return ControlFlow::Continue(op) };
    let answered = match intake.open_view(fh) {
        Some(view) => fetches.read_cached(view, offset, length, reply),
        None => Err(reply),
    };
    match answered {
        Ok(bytes) => ControlFlow::Break(bytes),
        Err(reply) => ControlFlow::Continue(Op::Read { ino, fh, offset, length, reply }),
    }
}

fn answer_to_vfs(answer: Answer) -> Result<vfs::Answer, Errno> {
    Ok(match answer {
        Answer::Attr(attr) => vfs::Answer::Attr(attr_to_vfs(&attr)),
        Answer::Link(target) => vfs::Answer::Link(target),
        Answer::Page { entries, end } => {
            let entry = |e: transport::wire::Entry| vfs::DirEntry {
                attr: attr_to_vfs(&e.attr),
                cookie: e.cookie,
                name: e.name,
            };
            vfs::Answer::Page { entries: entries.into_iter().map(entry).collect(), end }
        }
        Answer::StatFs(s) => vfs::Answer::Statfs(vfs::StatFs {
            blocks: s.blocks,
            blocks_free: s.blocks_free,
            blocks_available: s.blocks_available,
            files: s.files,
            files_free: s.files_free,
            block_size: u32::try_from(s.block_bytes).unwrap_or(u32::MAX),
            fragment_size: u32::try_from(s.block_bytes).unwrap_or(u32::MAX),
            name_bytes_max: s.name_bytes_max,
        }),
        Answer::Opened { .. } | Answer::Read { .. } | Answer::Hash { .. } => return Err(Errno::EIO),
    })
}

impl Service for MountService {
    type Mail = MountMail;

    fn handle_event(&mut self, now: Instant, node: &mut Node, conn: ConnId, event: Event) {
        self.client.handle_event(now, node, conn, event);
        self.settle(now, node);
    }

    fn handle_mail(&mut self, now: Instant, node: &mut Node, mail: MountMail) {
        match mail {
            MountMail::Op(op) => self.on_op(now, op),
            MountMail::Mounted(notifier, intake) => {
                self.notifier = Some(notifier);
                self.watch = Some(Watch::File(intake.file()));
                self.intake = Some(intake);
            }
            MountMail::Shutdown => self.end(now, node),
            #[cfg(test)]
            MountMail::Panic => panic!("a test asked for it"),
        }
        self.settle(now, node);
    }

    fn handle_file_read(&mut self, _: Instant, _: &mut Node, _: u64, _: io::Result<BytesMut>) {
        unreachable!("a client reads no files through its ring");
    }

    fn handle_timeout(&mut self, now: Instant, node: &mut Node) {
        self.client.handle_timeout(now, node);
        if let Some(tree) = &mut self.tree {
            tree.handle_timeout(now);
        }
        self.settle(now, node);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let offer_at = self.notice.as_ref().map(|&(_, offer_at)| offer_at);
        let tree = self.tree.as_ref().and_then(Tree::poll_timeout);
        self.client.poll_timeout().into_iter().chain(offer_at).chain(tree).min()
    }

    fn poll_file_read(&mut self) -> Option<FileRead> {
        None
    }

    fn poll_watch(&mut self) -> Option<Watch> {
        self.watch.take()
    }

    fn handle_readable(&mut self, now: Instant, node: &mut Node) {
        let (mut is_asked, mut copied) = (false, 0);
        for _ in 0..REQUESTS_PER_TURN_MAX {
            let Some(intake) = &mut self.intake else { break };
            match intake.take() {
                Taken::Op(op) => match answer_cached(&self.fetches, intake, op) {
                    ControlFlow::Break(bytes) => copied += bytes,
                    ControlFlow::Continue(op) => {
                        self.on_op(now, op);
                        is_asked = true;
                    }
                },
                Taken::Forgets(ones) => {
                    for (ino, nlookup) in ones {
                        self.on_op(now, Op::Forget { ino, nlookup });
                    }
                    is_asked = true;
                }
                Taken::Answered => {}
                Taken::Nothing => break,
                Taken::End => {
                    self.intake = None;
                    self.watch = Some(Watch::Nothing);
                }
            }
            if copied >= COPIED_PER_TURN_MAX {
                break;
            }
        }
        if is_asked {
            self.settle(now, node);
        }
    }

    fn may_leave(&mut self, _: Instant, _: &mut Node, _: ConnId) -> bool {
        true
    }

    fn is_over(&self) -> bool {
        self.over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::fixture::{TIMEOUT, unheard};
    use crate::mount::replies::Replies;
    use crossbeam_channel::{Receiver, bounded};
    use vfs::ROOT_INO;
    use vfs::notifier::NOTICES_MAX;

    fn fetches() -> Fetches {
        let (_, l1) = cache::l1(cache::L1Config { bytes_max: 16 << 20, seed: 7 }).unwrap();
        Fetches::new(l1, Replies::start().unwrap())
    }

    /// A service whose client gives up at once, before its first welcome or after it; what it told.
    fn gives_up(is_welcomed: bool) -> (Receiver<Result<Joined, ClientError>>, Receiver<ServiceEvent>) {
        let now = Instant::now();
        let (client, mut node) = unheard(now);
        let (first, joined) = bounded(1);
        let (events, receiver) = bounded(8);
        let mut service = MountService::new(client, TreeOptions::CLOSE_TO_OPEN, fetches(), first, events);
        if is_welcomed {
            service.first = None;
        }
        service.handle_timeout(now + TIMEOUT, &mut node);
        (joined, receiver)
    }

    #[test]
    fn a_conversation_that_ends_in_a_mount_is_no_end_of_the_mount() {
        let (joined, events) = gives_up(false);
        assert!(matches!(joined.try_recv(), Ok(Err(ClientError::Unreachable(_)))), "the starter is told");
        assert_eq!(events.try_iter().count(), 0);
        let (_, events) = gives_up(true);
        let told: Vec<ServiceEvent> = events.try_iter().collect();
        assert!(
            matches!(&told[..], [ServiceEvent::Warning { message }] if message.contains("unmount")),
            "an Error would say that the mount ends: {told:?}"
        );
    }

    #[test]
    fn a_notice_without_room_is_offered_again_though_nothing_happens() {
        let now = Instant::now();
        let (client, mut node) = unheard(now);
        let mut service = MountService::new(client, TreeOptions::CLOSE_TO_OPEN, fetches(), bounded(1).0, bounded(8).0);
        let mut tree = Tree::new(TreeOptions::CLOSE_TO_OPEN, root());
        for version in 1..=NOTICES_MAX as u64 + 1 {
            tree.handle_newer_attr(now, ROOT_INO, 0, version);
        }
        service.tree = Some(tree);
        // Nothing comes from a client that is closed.
        service.client.close(now, &mut node);
        let (notifier, notices) = Notifier::channel();
        service.notifier = Some(notifier);
        service.settle(now, &mut node);
        assert_eq!(notices.len(), NOTICES_MAX, "one has no room");
        let due = service.poll_timeout().expect("it is offered again");
        assert!(due > now && due <= now + NOTICE_RETRY, "without spinning");
        service.handle_timeout(due, &mut node);
        assert_eq!(service.poll_timeout(), Some(due + NOTICE_RETRY), "there is still no room");
        notices.try_iter().for_each(Notice::complete);
        service.handle_timeout(due + NOTICE_RETRY, &mut node);
        assert_eq!((notices.len(), service.poll_timeout()), (1, None));
    }

    fn root() -> vfs::Attr {
        let time = vfs::Timestamp::default();
        vfs::Attr {
            id: vfs::FileId { ino: ROOT_INO, birth_ns: 0 },
            kind: vfs::FileKind::Directory,
            mode: 0o755,
            nlink: 2,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 0,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
            version: 0,
        }
    }
}
