//! The shard's side of a [`super::Remote`]: carries asks to the client and answers back.

use crate::client::{Answer, Ask, CallError, CallId, Client, ClientError, FileKey, Output, Welcome};
use crate::service::{FileRead, Service};
use bytes::BytesMut;
use crossbeam_channel::Sender;
use crossbeam_queue::ArrayQueue;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Instant;
use transport::{ConnId, Event, Node};

/// Shortest answer worth a buffer that was used before: what the allocator would map anew and the kernel clear.
const SPARE_BYTES_MIN: u64 = 1 << 20;

/// Buffers of answers that were used and given back; see [`super::Remote::give_back`].
pub(super) type Spare = Arc<ArrayQueue<Vec<u8>>>;

/// Asks to the shard.
pub(crate) enum RemoteMail {
    /// Ask this; the answer goes to `reply` under `tag`. Data is collected unless `discard`ed.
    Ask { ask: Ask, tag: u64, discard: bool, reply: Sender<Reply> },
    /// This file is not needed any more.
    CloseFile(FileKey),
    /// Say goodbye and end.
    Shutdown,
}

/// One answer.
pub(crate) struct Reply {
    pub(crate) tag: u64,
    pub(crate) result: Result<(Answer, Vec<u8>), CallError>,
}

struct Waiting {
    tag: u64,
    data: Vec<u8>,
    discard: bool,
    reply: Sender<Reply>,
}

/// See the module.
pub(crate) struct RemoteService {
    client: Client,
    waiting: BTreeMap<CallId, Waiting>,
    /// Told once: the first welcome, or why there is none.
    first: Option<Sender<Result<Welcome, ClientError>>>,
    spare: Spare,
    over: bool,
}

impl RemoteService {
    pub(super) fn new(client: Client, first: Sender<Result<Welcome, ClientError>>, spare: Spare) -> Self {
        Self { client, waiting: BTreeMap::new(), first: Some(first), spare, over: false }
    }

    fn drain(&mut self) {
        while let Some(output) = self.client.poll_output() {
            match output {
                Output::Ready(welcome) => {
                    if let Some(first) = self.first.take() {
                        // A caller that gave up waiting needs no answer; so below.
                        let _ = first.send(Ok(*welcome));
                    }
                }
                Output::Failed(error) => {
                    if let Some(first) = self.first.take() {
                        let _ = first.send(Err(error));
                    }
                }
                Output::Lost { reason } => tracing::warn!(reason, "the host is lost; reconnecting"),
                Output::Begin { call, length, .. } => {
                    if let Some(waiting) = self.waiting.get_mut(&call) {
                        waiting.data.clear();
                        if !waiting.discard {
                            if length >= SPARE_BYTES_MIN && waiting.data.capacity() == 0 {
                                waiting.data = self.spare.pop().unwrap_or_default();
                            }
                            waiting.data.reserve(usize::try_from(length).unwrap_or(0));
                        }
                    }
                }
                Output::Data { call, bytes } => {
                    if let Some(waiting) = self.waiting.get_mut(&call).filter(|waiting| !waiting.discard) {
                        waiting.data.extend_from_slice(&bytes);
                    }
                }
                Output::Done { call, result } => {
                    if let Some(waiting) = self.waiting.remove(&call) {
                        let result = result.map(|answer| (answer, waiting.data));
                        let _ = waiting.reply.send(Reply { tag: waiting.tag, result });
                    }
                }
            }
        }
    }
}

impl Service for RemoteService {
    type Mail = RemoteMail;

    fn handle_event(&mut self, now: Instant, node: &mut Node, conn: ConnId, event: Event) {
        self.client.handle_event(now, node, conn, event);
        self.drain();
    }

    fn handle_mail(&mut self, now: Instant, node: &mut Node, mail: RemoteMail) {
        match mail {
            RemoteMail::Ask { ask, tag, discard, reply } => {
                let call = self.client.call(now, node, ask);
                self.waiting.insert(call, Waiting { tag, data: Vec::new(), discard, reply });
            }
            RemoteMail::CloseFile(file) => self.client.close_file(node, file),
            RemoteMail::Shutdown => {
                self.client.close(now, node);
                self.over = true;
            }
        }
        self.drain();
    }

    fn handle_file_read(&mut self, _: Instant, _: &mut Node, _: u64, _: io::Result<BytesMut>) {
        unreachable!("a client reads no files through its ring");
    }

    fn handle_timeout(&mut self, now: Instant, node: &mut Node) {
        self.client.handle_timeout(now, node);
        self.drain();
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.client.poll_timeout()
    }

    fn poll_file_read(&mut self) -> Option<FileRead> {
        None
    }

    fn may_leave(&mut self, _: Instant, _: &mut Node, _: ConnId) -> bool {
        true
    }

    fn is_over(&self) -> bool {
        self.over
    }
}
