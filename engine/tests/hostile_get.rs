//! `get` from a host that names what it likes: nothing is written outside of the target.

use bytes::{Bytes, BytesMut};
use engine::trust::NodeKey;
use engine::{GetOptions, GetSummary, IoMode, Remote, RemoteOptions, get};
use signal::{Binding, HostExchange, JoinCode};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use transport::tuning::Tuning;
use transport::wire::{
    Attr, Control, Entry, FileId, Frames, INLINE_BYTES_MAX, Kind, REQUEST_BYTES_MAX, Request, Response, Timestamp,
    VERSION_MAX, encode,
};
use transport::{ConnId, Event, Identity, Inbound, Node, NodeOptions, PeerKey, Role, StreamId};

/// Stands for the bytes of a name until it is encoded.
const PLACEHOLDER: u8 = 0xa7;
/// The highest bit of each byte of a word; `PLACEHOLDER` has it.
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

const CODE: &str = "9-zoo-zone-zero-zebra";

/// How often the host looks whether it is over, where nothing else wakes it.
const LOOK_UP: Duration = Duration::from_millis(50);

/// A name and what it is said to be.
type Named = (Vec<u8>, Kind);

/// What is said of the share: names by directory, and where all links lead.
#[derive(Default)]
struct Lies {
    listings: BTreeMap<Vec<u8>, Vec<Named>>,
    link_target: Vec<u8>,
}

impl Lies {
    /// Files whose name begins with "big" do not fit into an answer to open.
    fn size(path: &[u8]) -> u64 {
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        if name.starts_with(b"big") { u64::from(INLINE_BYTES_MAX) + 1 } else { 4 }
    }

    fn attr(path: &[u8], kind: Kind) -> Attr {
        let epoch = Timestamp { seconds: 0, nanoseconds: 0 };
        // Without the high bits, so that no byte of it looks like `PLACEHOLDER`.
        let ino = u64::from_le_bytes(blake3::hash(path).as_bytes()[..8].try_into().unwrap()) & !HIGH_BITS;
        Attr {
            id: FileId { ino, birth_ns: 0 },
            kind,
            mode: 0o755,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: Self::size(path),
            blocks: 8,
            atime: epoch,
            mtime: epoch,
            ctime: epoch,
            version: 1,
        }
    }

    /// An answer, and the bytes behind it.
    fn answer(&self, request: Request) -> (Response, Vec<u8>) {
        let zeros = |len: u64| vec![0; usize::try_from(len).unwrap()];
        match request {
            Request::Attr { path } if path.is_empty() => {
                (Response::Attr { attr: Self::attr(&path, Kind::Directory) }, Vec::new())
            }
            Request::List { path, .. } => {
                let names = self.listings.get(&path).into_iter().flatten();
                let entry = |(cookie, (name, kind)): (usize, &Named)| {
                    let attr = Self::attr(name, *kind);
                    Entry { name: name.clone(), cookie: cookie as u64 + 1, attr }
                };
                (Response::Page { entries: names.enumerate().map(entry).collect(), end: true }, Vec::new())
            }
            Request::Readlink { .. } => (Response::Link { target: self.link_target.clone() }, Vec::new()),
            Request::Open { path, inline_max, .. } => {
                let attr = Self::attr(&path, Kind::File);
                let data = if attr.size <= u64::from(inline_max) { zeros(attr.size) } else { Vec::new() };
                let hash = (!data.is_empty()).then(|| *blake3::hash(&data).as_bytes());
                let handle = u64::from(data.is_empty());
                (Response::Opened { handle, attr, data: data.len() as u32, hash }, data)
            }
            Request::Read { length, .. } => {
                (Response::Data { data: length, size: u64::from(INLINE_BYTES_MAX) + 1, version: 1 }, zeros(length))
            }
            Request::Hash { length, .. } => {
                (Response::Hash { hash: *blake3::hash(&zeros(length)).as_bytes(), length }, Vec::new())
            }
            Request::Attr { .. } | Request::StatFs => (Response::Error { errno: libc::ENOENT }, Vec::new()),
        }
    }
}

/// Encodes what `encode` would not: our own names are none that lead out.
fn encode_lie(mut response: Response) -> Bytes {
    let mut wanted = Vec::new();
    if let Response::Page { entries, .. } = &mut response {
        for entry in entries {
            let is_bad =
                entry.name.iter().any(|byte| b"/\0".contains(byte)) || [&b"."[..], b".."].contains(&&entry.name[..]);
            if is_bad {
                let placeholder = vec![PLACEHOLDER; entry.name.len()];
                wanted.push(std::mem::replace(&mut entry.name, placeholder));
            }
        }
    }
    let mut encoded = encode(&response).to_vec();
    for name in wanted {
        let places: Vec<usize> = (0..encoded.len()).filter(|&at| encoded[at] == PLACEHOLDER).collect();
        assert_eq!(places.len(), name.len(), "one placeholder, and nothing like it beside it");
        encoded[places[0]..][..name.len()].copy_from_slice(&name);
    }
    encoded.into()
}

/// A host that proves its code honestly and then lies.
struct Host {
    node: Node,
    key: PeerKey,
    socket: UdpSocket,
    lies: Arc<Mutex<Lies>>,
    device: Option<PeerKey>,
    exchange: Option<HostExchange>,
    /// The first stream of the connection, of which there is one at a time.
    control: Option<StreamId>,
    heard: BTreeMap<StreamId, Frames>,
    unsent: BTreeMap<StreamId, VecDeque<Bytes>>,
}

impl Host {
    fn new(socket: UdpSocket, lies: Arc<Mutex<Lies>>) -> Self {
        let key = NodeKey::generate().expect("the system's random source answers");
        let identity = Identity::from_pkcs8(key.pkcs8_der()).expect("a fresh key loads");
        let options = NodeOptions {
            identity: &identity,
            role: Role::Host,
            tuning: Tuning::default(),
            shard: 0,
            shards: 1,
            seed: None,
        };
        let node = Node::new(options).expect("the identity serves");
        let (heard, unsent) = (BTreeMap::new(), BTreeMap::new());
        let key = identity.public();
        Self { node, key, socket, lies, device: None, exchange: None, control: None, heard, unsent }
    }

    fn run(mut self, over: &AtomicBool) {
        let mut buffer = vec![0; 65_535];
        while !over.load(Ordering::Relaxed) {
            let wait = self.node.poll_timeout().map_or(LOOK_UP, |at| at.saturating_duration_since(Instant::now()));
            self.socket.set_read_timeout(Some(wait.clamp(Duration::from_millis(1), LOOK_UP))).unwrap();
            let received = self.socket.recv_from(&mut buffer);
            let now = Instant::now();
            match received {
                Ok((len, remote)) => {
                    let bytes = BytesMut::from(&buffer[..len]);
                    self.node.handle_datagrams(now, Inbound { remote, local_ip: None, ecn: 0, stride: len, bytes });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("the host's socket: {error}"),
            }
            self.node.handle_timeout(now);
            self.apply_events();
            let mut train = Vec::new();
            while let Some(transmit) = self.node.poll_transmit(now, &mut train) {
                for datagram in train.chunks(transmit.segment_size.unwrap_or(train.len())) {
                    self.socket.send_to(datagram, transmit.remote).unwrap();
                }
            }
        }
    }

    fn apply_events(&mut self) {
        while let Some((conn, event)) = self.node.poll_event() {
            match event {
                Event::Connected { peer } => {
                    self.device = Some(peer);
                    self.control = None;
                    self.heard.clear();
                    self.unsent.clear();
                }
                Event::Opened(stream) | Event::Readable(stream) => self.read(conn, stream),
                Event::Writable(stream) => self.write(conn, stream),
                Event::Closed(_) | Event::Finished(_) | Event::StreamsAvailable => {}
            }
        }
    }

    fn read(&mut self, conn: ConnId, stream: StreamId) {
        let Some(mut connection) = self.node.connection(conn) else { return };
        let control = *self.control.get_or_insert(stream);
        let frames = self.heard.entry(stream).or_insert_with(|| Frames::new(REQUEST_BYTES_MAX));
        // A stream that the device gave up has no more to say.
        let _ = connection.read_each(stream, usize::MAX, |chunk| frames.handle_bytes(&chunk));
        if stream != control {
            if let Some(request) = frames.poll_message::<Request>().expect("a device's requests are whole") {
                let (response, data) = self.lies.lock().unwrap().answer(request);
                self.unsent.insert(stream, VecDeque::from([encode_lie(response), Bytes::from(data)]));
                self.write(conn, stream);
            }
            return;
        }
        while let Some(message) = self.heard.get_mut(&stream).and_then(|frames| frames.poll_message().unwrap()) {
            let replies = self.enter(conn, message);
            self.unsent.entry(stream).or_default().extend(replies);
            self.write(conn, stream);
        }
    }

    /// The host's half of docs/format-wire.md, "Entrance".
    fn enter(&mut self, conn: ConnId, message: Control) -> Vec<Bytes> {
        match message {
            Control::Hello { prove: false, .. } => vec![welcome()],
            Control::Hello { .. } => vec![encode(&Control::Challenge { version: VERSION_MAX })],
            Control::ClientShare { share } => {
                let exporter = self.node.connection(conn).expect("it just spoke").exporter();
                let device = self.device.expect("a handshake came first");
                let binding = Binding { exporter: &exporter, host_key: &self.key.0, client_key: &device.0 };
                let code = JoinCode::parse(CODE).expect("a code");
                let (exchange, share) = HostExchange::respond(&code, binding, &share).expect("a point");
                self.exchange = Some(exchange);
                vec![encode(&Control::HostShare { share })]
            }
            Control::ClientConfirm { mac } => {
                let mac = self.exchange.take().expect("a share came first").verify(&mac).expect("the right code");
                vec![encode(&Control::HostConfirm { mac }), welcome()]
            }
            _ => Vec::new(),
        }
    }

    fn write(&mut self, conn: ConnId, stream: StreamId) {
        let (Some(mut connection), Some(chunks)) = (self.node.connection(conn), self.unsent.get_mut(&stream)) else {
            return;
        };
        // What a device does not want any more needs no answer.
        if connection.write(stream, chunks) != Ok(false) && self.control != Some(stream) {
            let _ = connection.finish(stream);
            self.unsent.remove(&stream);
        }
    }
}

fn welcome() -> Bytes {
    let root = Lies::attr(b"", Kind::Directory);
    let (host, share) = ("hostile".into(), "bait".into());
    encode(&Control::Welcome { version: VERSION_MAX, capabilities: 0, host, share, root })
}

/// A folder with a target in it and something beside the target that must stay as it is, and a connection to a liar.
struct Lab {
    folder: TempDir,
    lies: Arc<Mutex<Lies>>,
    remote: Option<Remote>,
    over: Arc<AtomicBool>,
    host: Option<JoinHandle<()>>,
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("outside")).unwrap();
        fs::write(folder.path().join("outside/victim"), "untouched").unwrap();
        let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let address: SocketAddr = socket.local_addr().unwrap();
        let (lies, over) = (Arc::<Mutex<Lies>>::default(), Arc::<AtomicBool>::default());
        let host = {
            let (lies, over) = (Arc::clone(&lies), Arc::clone(&over));
            thread::spawn(move || Host::new(socket, lies).run(&over))
        };
        let remote = Remote::connect(RemoteOptions {
            addresses: vec![address],
            code: Some(JoinCode::parse(CODE).unwrap()),
            io: IoMode::Auto,
            state_dir: folder.path().join("state"),
            timeout: Duration::from_secs(20),
        });
        let remote = Some(remote.expect("the code is right"));
        Self { folder, lies, remote, over, host: Some(host) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Copies what the host claims to have; says whether every name was taken.
    fn get(&self, link_target: &Path, listings: &[(&[u8], &[Named])]) -> Option<GetSummary> {
        let listings = listings.iter().map(|(path, names)| (path.to_vec(), names.to_vec())).collect();
        *self.lies.lock().unwrap() = Lies { listings, link_target: link_target.as_os_str().as_bytes().to_vec() };
        let options = GetOptions { source: Vec::new(), target: self.path("target") };
        let remote = self.remote.as_ref().expect("connected");
        let summary = get(remote, options, &mut |_| {}, &AtomicBool::new(false)).ok();
        self.check();
        summary.filter(|summary| summary.failed.is_empty())
    }

    /// Nothing beside the target is new or other than before.
    #[track_caller]
    fn check(&self) {
        let names = |folder: &Path| {
            let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(self.folder.path()), ["outside", "state", "target"]);
        assert_eq!(names(&self.path("outside")), ["victim"]);
        assert_eq!(fs::read_to_string(self.path("outside/victim")).unwrap(), "untouched");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.remote = None;
        self.over.store(true, Ordering::Relaxed);
        let ended = self.host.take().expect("joined once").join();
        assert!(ended.is_ok() || thread::panicking(), "the host panicked");
    }
}

fn named(name: impl AsRef<[u8]>, kind: Kind) -> Named {
    (name.as_ref().to_vec(), kind)
}

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink())
}

/// The name of an unfinished copy, which a host can work out, too.
fn part_of(name: &str) -> String {
    format!(".wormhole-{}.part", &blake3::hash(name.as_bytes()).to_hex()[..24])
}

#[test]
fn what_is_named_honestly_is_copied() {
    let lab = Lab::new();
    let listings: [(&[u8], &[Named]); 2] = [
        (b"", &[named("big", Kind::File), named("d", Kind::Directory), named("link", Kind::Symlink)]),
        (b"d", &[named("small", Kind::File)]),
    ];
    assert!(lab.get(Path::new("big"), &listings).is_some());
    assert_eq!(fs::read(lab.path("target/d/small")).unwrap(), [0; 4]);
    assert_eq!(fs::metadata(lab.path("target/big")).unwrap().len(), u64::from(INLINE_BYTES_MAX) + 1);
    assert_eq!(fs::read_link(lab.path("target/link")).unwrap(), Path::new("big"));
}

#[test]
fn names_that_lead_out_are_not_taken() {
    let names: [&[u8]; 6] = [b"..", b".", b"../outside/new", b"d/../../outside/new", b"/new", b"a\0b"];
    for name in names {
        for kind in [Kind::File, Kind::Directory, Kind::Symlink] {
            // A lab for each: who was lied to waits ever longer before it talks to that host again.
            let lab = Lab::new();
            let inside = [named("new", Kind::File)];
            let listings: [(&[u8], &[Named]); 2] = [(b"", &[named(name, kind)]), (name, &inside)];
            let taken = lab.get(Path::new("anywhere"), &listings);
            assert!(taken.is_none(), "{:?} as {kind:?} was taken", OsStr::from_bytes(name));
        }
    }
}

#[test]
fn a_link_that_was_copied_leads_nobody_out() {
    for (name, kind, with_part) in [
        ("d", Kind::Directory, false),
        ("small", Kind::File, false),
        ("small", Kind::File, true),
        ("big", Kind::File, false),
        ("big", Kind::File, true),
    ] {
        let lab = Lab::new();
        let target = lab.path(if kind == Kind::Directory { "outside" } else { "outside/victim" });
        let mut links = vec![named(name, Kind::Symlink)];
        links.extend(with_part.then(|| named(part_of(name), Kind::Symlink)));
        assert!(lab.get(&target, &[(b"", &links)]).is_some());
        for (link, _) in &links {
            assert!(is_link(&lab.path("target").join(OsStr::from_bytes(link))), "the link itself is no harm");
        }
        // The same names again, as something to write to.
        let inside = [named("small", Kind::File), named("big", Kind::File), named("deeper", Kind::Directory)];
        let taken = lab.get(&target, &[(b"", &[named(name, kind)]), (b"d", &inside)]);
        // A file takes a link's place.
        assert_eq!(taken.is_some(), kind == Kind::File && !with_part, "{name}");
    }
}
