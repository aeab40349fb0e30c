//! Joining a host and asking it things.

use super::attr::RemoteAttr;
use super::listing::{LISTING_ENTRIES_MAX, Listing, Next};
use super::service::{RemoteMail, RemoteService, Reply, Spare};
use crate::client::{Answer, Ask, CallError, Client, ClientError, ClientOptions, FileKey, Welcome};
use crate::error::{EngineError, ErrorKind};
use crate::io::{self, IoMode, MailSender};
use crate::service::Service;
use crate::shard::{Door, Shard};
use crate::sys::address::canonical;
use crate::trust::{KnownHosts, NodeKey, PublicKey, unix_now};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use crossbeam_queue::ArrayQueue;
use signal::{HostAddress, JoinCode};
use std::borrow::Cow;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use transport::tuning::{KEEP_ALIVE, Tuning};
use transport::wire::{Entry, PAGE_ENTRIES_MAX, Refusal};
use transport::{Identity, Node, NodeOptions, PeerKey, Role};

/// Asks that may wait for the shard.
const MAIL_MAX: usize = 4_096;
/// Bytes asked for at once where a file is read in pieces.
const PIECE_BYTES: u64 = 4 << 20;
/// Buffers kept for the next answers: as many as `get` has reads in flight.
const SPARE_BUFFERS_MAX: usize = 8;
/// How much longer than a call's bound a caller waits for the shard's word, which always comes.
const WORD_SLACK: Duration = Duration::from_secs(90);

/// How to join a host. No default: every field is a decision.
#[derive(Debug, Clone)]
pub struct RemoteOptions {
    /// Addresses to try in turn.
    pub addresses: Vec<SocketAddr>,
    /// The join code; used only where this device is not enrolled yet, or another host answers than was met there.
    pub code: Option<JoinCode>,
    /// Which I/O backend.
    pub io: IoMode,
    /// Where keys and known hosts are kept.
    pub state_dir: PathBuf,
    /// Bound on every call while the host does not answer.
    pub timeout: Duration,
}

/// A joined host. Dropping it says goodbye.
pub struct Remote {
    shard: ShardLink,
    spare: Spare,
    welcome: Welcome,
    timeout: Duration,
}

/// The way to the client's shard; dropping it ends the shard.
struct ShardLink {
    mail: MailSender<RemoteMail>,
    thread: Option<ClientThread>,
}

impl ShardLink {
    fn post(&self, mail: RemoteMail) {
        let mut mail = mail;
        // The shard empties its mailbox within microseconds; one that is gone will never answer.
        while let Err(back) = self.mail.send(mail) {
            if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
                return;
            }
            mail = back;
            thread::yield_now();
        }
    }
}

impl Drop for ShardLink {
    fn drop(&mut self) {
        self.post(RemoteMail::Shutdown);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the client's shard panicked");
        }
    }
}

/// Loads keys and known hosts into a client's options and its node.
pub(crate) fn client_options(options: &RemoteOptions) -> Result<(ClientOptions, Node), EngineError> {
    let failed = |message: String| EngineError::new(ErrorKind::Failed, message);
    let key = NodeKey::load_or_create(&options.state_dir).map_err(|error| failed(error.to_string()))?;
    let identity = Identity::from_pkcs8(key.pkcs8_der()).map_err(|error| failed(error.to_string()))?;
    let known = KnownHosts::open(&options.state_dir).map_err(|error| failed(error.to_string()))?;
    let device = rustix::system::uname().nodename().to_string_lossy().into_owned();
    // As the socket names a peer, IPv4 plain and not mapped: what comes is compared with what was dialled.
    let addresses: Vec<SocketAddr> = options.addresses.iter().copied().map(canonical).collect();
    if addresses.is_empty() {
        return Err(EngineError::new(ErrorKind::Usage, "no address of the host is known"));
    }
    let known_at = |&address: &SocketAddr| {
        let host = known.by_address(&HostAddress::from(address))?;
        Some((address, PeerKey(*host.key.as_raw())))
    };
    let client = ClientOptions {
        addresses: addresses.clone(),
        code: options.code.clone(),
        device: crate::trust::clean_name(&device),
        key: identity.public(),
        trusted: known.iter().map(|host| PeerKey(*host.key.as_raw())).collect(),
        known_at: addresses.iter().filter_map(known_at).collect(),
        timeout: options.timeout,
    };
    let node = client_node(&identity).map_err(|error| failed(error.to_string()))?;
    Ok((client, node))
}

fn client_node(identity: &Identity) -> Result<Node, transport::TlsError> {
    let tuning = Tuning { keep_alive: Some(KEEP_ALIVE), ..Tuning::default() };
    Node::new(NodeOptions { identity, role: Role::Client, tuning, shard: 0, shards: 1, seed: None })
}

/// A client's shard: it ends well when its service is over, and badly when it lost its socket.
pub(crate) type ClientThread = JoinHandle<std::io::Result<()>>;

/// Starts a client's shard on a thread of its own; `make` builds its service there.
pub(crate) fn client_thread<S: Service + 'static>(
    name: &str,
    options: &RemoteOptions,
    node: Node,
    make: impl FnOnce(MailSender<S::Mail>) -> S + Send + 'static,
) -> Result<(MailSender<S::Mail>, ClientThread), EngineError> {
    let failed = |message: String| EngineError::new(ErrorKind::Failed, message);
    let socket =
        io::bind_client(&options.addresses).map_err(|error| failed(format!("cannot open a UDP socket: {error}")))?;
    let door = Door { socket, mode: options.io, mail_capacity: MAIL_MAX };
    let (opened, ready) = mpsc::sync_channel(1);
    let thread = thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || match Shard::open(door, node, make) {
            Ok((shard, mail)) => {
                // The starter waits for exactly this.
                let _ = opened.send(Ok(mail));
                shard.run().inspect_err(|error| tracing::error!(%error, "the client's shard lost its socket"))
            }
            Err(error) => {
                // As above.
                let _ = opened.send(Err(error));
                Ok(())
            }
        })
        .map_err(|error| failed(format!("cannot start a thread: {error}")))?;
    match ready.recv() {
        Ok(Ok(mail)) => Ok((mail, thread)),
        Ok(Err(error)) => Err(failed(error.to_string()).caused_by(error)),
        Err(_) => Err(failed("the client's shard ended before it began".into())),
    }
}

/// Remembers a host after its welcome: its key when the code was just proven, its address always.
pub(crate) fn remember(state_dir: &Path, welcome: &Welcome) -> Result<(), EngineError> {
    let failed = |error: crate::trust::StoreError| {
        EngineError::new(ErrorKind::Failed, format!("cannot remember the host: {error}"))
    };
    let mut known = KnownHosts::open(state_dir).map_err(failed)?;
    let key = PublicKey::from_raw(welcome.key.0);
    let address = HostAddress::from(welcome.address);
    known
        .on_reached(key, &welcome.host, &address, unix_now())
        .map_err(|error| EngineError::new(ErrorKind::Failed, format!("cannot remember the host: {error}")))
}

impl Remote {
    /// Joins a host: connects, proves the code or this device's key.
    ///
    /// # Errors
    /// [`EngineError`]: `Network` when nobody answers, `Refused` for a wrong code or a revoked key, `CodeWanted` where
    /// none was given and one is needed.
    pub fn connect(options: RemoteOptions) -> Result<Self, EngineError> {
        let (client, node) = client_options(&options)?;
        let (first, welcomed) = bounded(1);
        let spare = Spare::new(ArrayQueue::new(SPARE_BUFFERS_MAX));
        let used = Spare::clone(&spare);
        let make = move |_mail| RemoteService::new(Client::new(Instant::now(), client), first, used);
        let (mail, thread) = client_thread::<RemoteService>("client", &options, node, make)?;
        let shard = ShardLink { mail, thread: Some(thread) };
        let welcome = welcomed
            .recv_timeout(options.timeout + WORD_SLACK)
            .map_err(|_| EngineError::new(ErrorKind::Failed, "the client's shard ended; please report it"))??;
        remember(&options.state_dir, &welcome)?;
        Ok(Self { shard, spare, welcome, timeout: options.timeout })
    }

    /// Takes a buffer back that an answer came in, for a later one: a fresh one costs a page fault every 4 KiB, an eighth
    /// of a core at 1 GB/s.
    pub(crate) fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        // One too many is freed.
        let _ = self.spare.push(buffer);
    }

    /// The host's display name.
    pub fn host_name(&self) -> String {
        self.welcome.host.clone()
    }

    /// The share's display name.
    pub fn share_name(&self) -> String {
        self.welcome.share.clone()
    }

    /// The attributes of what is at `path`, symlinks not followed.
    ///
    /// # Errors
    /// [`EngineError`]; `NotFound` where nothing is.
    pub fn attr(&self, path: &[u8]) -> Result<RemoteAttr, EngineError> {
        if path.is_empty() {
            return Ok(self.welcome.root.into());
        }
        match self.ask(Ask::Attr { path: path.to_vec() }) {
            Ok((Answer::Attr(attr), _)) => Ok(attr.into()),
            Ok(_) => Err(unasked()),
            Err(error) => Err(at_path(path, &error)),
        }
    }

    /// A directory's entries, all pages, in the host's order.
    ///
    /// # Errors
    /// As [`Remote::attr`]; also when the host's pages lead back, or hold more than
    /// [`LISTING_ENTRIES_MAX`] entries.
    pub fn list(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, RemoteAttr)>, EngineError> {
        let mut listing = Listing::new(LISTING_ENTRIES_MAX);
        let mut cursor = 0;
        loop {
            let (entries, end) = self.page(path, cursor).map_err(|error| at_path(path, &error))?;
            match listing.on_page(entries, end) {
                Ok(Next::Page(next)) => cursor = next,
                Ok(Next::End) => return Ok(listing.into_entries()),
                Err(error) => {
                    return Err(EngineError::new(ErrorKind::Network, format!("{}: {error}", shown(path))));
                }
            }
        }
    }

    fn page(&self, path: &[u8], cursor: u64) -> Result<(Vec<Entry>, bool), CallError> {
        match self.ask(Ask::List { path: path.to_vec(), cursor, entries_max: PAGE_ENTRIES_MAX })? {
            (Answer::Page { entries, end }, _) => Ok((entries, end)),
            _ => Err(CallError::Errno(libc::EPROTO)),
        }
    }

    /// The target of the symlink at `path`.
    ///
    /// # Errors
    /// As [`Remote::attr`].
    pub fn readlink(&self, path: &[u8]) -> Result<Vec<u8>, EngineError> {
        match self.ask(Ask::Readlink { path: path.to_vec() }) {
            Ok((Answer::Link(target), _)) => Ok(target),
            Ok(_) => Err(unasked()),
            Err(error) => Err(at_path(path, &error)),
        }
    }

    /// Reads a whole file in one stream and drops the bytes: what a measurement of the transport wants. Returns the size.
    ///
    /// # Errors
    /// As [`Remote::attr`].
    pub fn read_and_discard(&self, path: &[u8]) -> Result<u64, EngineError> {
        let (answer, _) = self
            .ask(Ask::Open { path: path.to_vec(), inline_max: 0, hash: false })
            .map_err(|error| at_path(path, &error))?;
        let Answer::Opened { file, attr, .. } = answer else { return Err(unasked()) };
        let (reply, replies) = bounded(1);
        self.shard.post(RemoteMail::Ask {
            ask: Ask::Read { file, offset: 0, length: attr.size },
            tag: 0,
            discard: true,
            reply,
        });
        // Bounded by the transport: a call that gets nothing for its bound ends.
        let read = replies.recv().map_err(|_| unasked())?;
        self.close_file(file);
        read.result.map_err(|error| at_path(path, &error))?;
        Ok(attr.size)
    }

    /// Reads a whole file in order, a piece at a time, into `sink`. Returns the size.
    ///
    /// # Errors
    /// As [`Remote::attr`]; also when the file changes meanwhile.
    pub fn read_each(&self, path: &[u8], sink: &mut dyn FnMut(&[u8])) -> Result<u64, EngineError> {
        let (answer, _) = self
            .ask(Ask::Open { path: path.to_vec(), inline_max: 0, hash: false })
            .map_err(|error| at_path(path, &error))?;
        let Answer::Opened { file, attr, .. } = answer else { return Err(unasked()) };
        let mut offset = 0;
        let mut result = Ok(attr.size);
        while offset < attr.size {
            let length = PIECE_BYTES.min(attr.size - offset);
            match self.ask(Ask::Read { file, offset, length }) {
                Ok((_, data)) if data.len() as u64 == length => sink(&data),
                Ok(_) => result = Err(at_path(path, &CallError::Stale)),
                Err(error) => result = Err(at_path(path, &error)),
            }
            if result.is_err() {
                break;
            }
            offset += length;
        }
        self.close_file(file);
        result
    }

    /// True when no ask will be answered any more.
    pub(crate) fn has_ended(&self) -> bool {
        self.shard.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Sends an ask whose answer goes to `reply`.
    pub(crate) fn submit(&self, ask: Ask, tag: u64, reply: &Sender<Reply>) {
        self.shard.post(RemoteMail::Ask { ask, tag, discard: false, reply: reply.clone() });
    }

    pub(crate) fn close_file(&self, file: FileKey) {
        self.shard.post(RemoteMail::CloseFile(file));
    }

    fn ask(&self, ask: Ask) -> Result<(Answer, Vec<u8>), CallError> {
        let (reply, replies): (Sender<Reply>, Receiver<Reply>) = unbounded();
        self.submit(ask, 0, &reply);
        drop(reply);
        replies.recv_timeout(self.timeout + WORD_SLACK).map_err(|_| CallError::Cancelled)?.result
    }
}

fn unasked() -> EngineError {
    EngineError::new(ErrorKind::Network, "the host answered something that was not asked")
}

fn shown(path: &[u8]) -> Cow<'_, str> {
    if path.is_empty() { "the share".into() } else { String::from_utf8_lossy(path) }
}

/// Says what failed at which path, by whose fault.
pub(crate) fn at_path(path: &[u8], error: &CallError) -> EngineError {
    let kind = match error {
        CallError::Errno(libc::ENOENT | libc::ENOTDIR) => ErrorKind::NotFound,
        CallError::Errno(_) | CallError::Stale | CallError::Busy | CallError::Cancelled => ErrorKind::Failed,
        CallError::TimedOut | CallError::HostDown => ErrorKind::Network,
        CallError::Over(over) => return over.clone().into(),
    };
    EngineError::new(kind, format!("{}: {error}", shown(path)))
}

impl From<ClientError> for EngineError {
    fn from(error: ClientError) -> Self {
        let kind = match &error {
            ClientError::Unreachable(_) | ClientError::Incompatible(_) | ClientError::Closed => ErrorKind::Network,
            ClientError::Refused(Refusal::Full | Refusal::Version, _) => ErrorKind::Network,
            ClientError::UnknownHost | ClientError::OtherHost(_) | ClientError::NotEnrolled => ErrorKind::CodeWanted,
            ClientError::Refused(..) | ClientError::WrongHost => ErrorKind::Refused,
        };
        Self::new(kind, error.to_string())
    }
}
