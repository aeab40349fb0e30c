//! A machine that answers at an address as a host would, and is not the host that was meant.

use super::host::new_identity;
use super::net::Net;
use signal::{Binding, HostExchange, JoinCode};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;
use transport::tuning::Tuning;
use transport::wire::{
    Attr, Control, FileId, Frames, Kind, REQUEST_BYTES_MAX, Refusal, Timestamp, VERSION_MAX, encode,
};
use transport::{ConnId, Event, Identity, Inbound, Node, NodeOptions, PeerKey, Role, StreamId};

/// The code that an impostor believes in.
const CODE: &str = "9-zoo-zone-zero-zebra";

/// What an impostor makes of a device that comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Takes the device's proof of the code and hangs up without a word, to be given another one.
    HangUp,
    /// Takes the proof and answers with one that is none.
    Bluff,
    /// Takes the proof and says that the code is wrong, as an honest host of another code does.
    Refuse,
    /// Lets the device in on its key where it asks for that, and takes its proof as `Refuse` does where it does not.
    Welcome,
    /// Speaks another version of the protocol.
    Foreign,
    /// Speaks out of turn.
    Babble,
}

struct Guest {
    device: PeerKey,
    frames: Frames,
}

/// See the module.
pub struct Impostor {
    address: SocketAddr,
    node: Node,
    identity: Rc<Identity>,
    /// What it does from now on.
    pub manner: Manner,
    guests: BTreeMap<ConnId, Guest>,
    /// Proofs of a code that were sent to it: what a false host gets to guess with.
    pub proofs: u32,
    dirty: bool,
}

impl Impostor {
    pub(super) fn new(address: SocketAddr, seed: [u8; 32], manner: Manner) -> Self {
        Self::with(Rc::new(new_identity()), address, seed, manner)
    }

    /// The same machine at another address.
    pub(super) fn at(&self, address: SocketAddr, seed: [u8; 32]) -> Self {
        Self::with(Rc::clone(&self.identity), address, seed, self.manner)
    }

    fn with(identity: Rc<Identity>, address: SocketAddr, seed: [u8; 32], manner: Manner) -> Self {
        let tuning = Tuning::default();
        let options =
            NodeOptions { identity: &identity, role: Role::Host, tuning, shard: 0, shards: 1, seed: Some(seed) };
        let node = Node::new(options).expect("the identity serves");
        Self { address, node, identity, manner, guests: BTreeMap::new(), proofs: 0, dirty: false }
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its own key, which it holds honestly.
    pub fn key(&self) -> PeerKey {
        self.identity.public()
    }

    /// Ends all conversations, as one that is restarted does.
    pub fn hang_up(&mut self, now: Instant) {
        self.node.close_all(now, 0, "restarting");
        self.dirty = true;
    }

    pub(super) fn handle(&mut self, now: Instant, inbound: Inbound) {
        self.node.handle_datagrams(now, inbound);
        self.dirty = true;
    }

    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        if self.dirty { Some(now) } else { self.node.poll_timeout() }
    }

    pub(super) fn turn(&mut self, now: Instant, net: &mut Net) {
        if self.node.poll_timeout().is_some_and(|deadline| deadline <= now) {
            self.node.handle_timeout(now);
        }
        self.apply_events(now);
        net.send_all(now, self.address, &mut self.node);
        self.apply_events(now);
        self.dirty = self.node.has_output();
    }

    fn apply_events(&mut self, now: Instant) {
        while let Some((conn, event)) = self.node.poll_event() {
            match event {
                Event::Connected { peer } => {
                    let frames = Frames::new(REQUEST_BYTES_MAX);
                    self.guests.insert(conn, Guest { device: peer, frames });
                }
                Event::Closed(_) => drop(self.guests.remove(&conn)),
                Event::Opened(stream) | Event::Readable(stream) => self.read(now, conn, stream),
                Event::Writable(_) | Event::Finished(_) | Event::StreamsAvailable => {}
            }
        }
    }

    fn read(&mut self, now: Instant, conn: ConnId, stream: StreamId) {
        let (Some(guest), Some(mut connection)) = (self.guests.get_mut(&conn), self.node.connection(conn)) else {
            return;
        };
        let mut bytes = Vec::new();
        // A stream that the device gave up has no more to say.
        let _ = connection.read_each(stream, usize::MAX, |chunk| bytes.extend_from_slice(&chunk));
        guest.frames.handle_bytes(&bytes);
        while let Some(message) = self.guests.get_mut(&conn).and_then(|guest| next_message(&mut guest.frames)) {
            self.answer(now, conn, stream, message);
        }
    }

    fn answer(&mut self, now: Instant, conn: ConnId, stream: StreamId, message: Control) {
        let (Some(guest), Some(mut connection)) = (self.guests.get_mut(&conn), self.node.connection(conn)) else {
            return;
        };
        let refusal = |reason| Control::Refused { reason, retry_after_ms: 0 };
        let reply = match message {
            Control::Hello { .. } if self.manner == Manner::Foreign => refusal(Refusal::Version),
            Control::Hello { .. } if self.manner == Manner::Babble => Control::HostConfirm { mac: [7; 32] },
            Control::Hello { prove: false, .. } if self.manner == Manner::Welcome => welcome(),
            Control::Hello { .. } => Control::Challenge { version: VERSION_MAX },
            Control::ClientShare { share } => {
                let exporter = connection.exporter();
                let binding =
                    Binding { exporter: &exporter, host_key: &self.identity.public().0, client_key: &guest.device.0 };
                let code = JoinCode::parse(CODE).expect("a code");
                let (_, share) = HostExchange::respond(&code, binding, &share).expect("a device's share is a point");
                Control::HostShare { share }
            }
            Control::ClientConfirm { .. } => {
                self.proofs += 1;
                match self.manner {
                    Manner::HangUp => return connection.close(now, 0, "never mind"),
                    Manner::Bluff => Control::HostConfirm { mac: [7; 32] },
                    Manner::Refuse | Manner::Welcome | Manner::Foreign | Manner::Babble => refusal(Refusal::WrongCode),
                }
            }
            _ => return,
        };
        // What finds no room is never said; nobody waits for it without a bound.
        let _ = connection.write(stream, &mut VecDeque::from([encode(&reply)]));
    }
}

fn next_message(frames: &mut Frames) -> Option<Control> {
    frames.poll_message().expect("a device's messages are whole")
}

fn welcome() -> Control {
    let epoch = Timestamp { seconds: 0, nanoseconds: 0 };
    let root = Attr {
        id: FileId { ino: 1, birth_ns: 0 },
        kind: Kind::Directory,
        mode: 0o755,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        blocks: 0,
        atime: epoch,
        mtime: epoch,
        ctime: epoch,
        version: 0,
    };
    Control::Welcome { version: VERSION_MAX, capabilities: 0, host: "impostor".into(), share: "bait".into(), root }
}
