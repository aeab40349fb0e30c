//! The loop: whoever is due next acts, and time jumps there.

use super::client::ClientEnd;
use super::folder::{Folder, OUTSIDE};
use super::host::{HostEnd, new_identity};
use super::impostor::{Impostor, Manner};
use super::net::Net;
use super::raw::RawEnd;
use super::rng::Rng;
use super::weather::Weather;
use engine::client::{Answer, Ask, CallError, CallId, ClientOptions, FileKey};
use signal::JoinCode;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use transport::wire::{Attr, INLINE_BYTES_MAX};
use transport::{Identity, Inbound, PeerKey};

/// Turns of the loop after which a world is taken to run in circles; the longest scenario takes a tenth of it.
const STEPS_MAX: u64 = 3_000_000;
/// Virtual time within which anything a scenario waits for must have happened: ten per cent loss at 200 ms of round
/// trip leaves a few kB/s of a window that never grows, and 3 MiB still arrive within it.
const PATIENCE: Duration = Duration::from_secs(1_800);
/// The bound on a client's calls while the host does not answer: the engine's default.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// The host's address.
const HOST: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)), 4433);
/// The host's code.
const CODE: &str = "7-nebula-orbit-cedar-maple";

/// How a client enters.
#[derive(Debug, Clone)]
pub enum Entry {
    /// With the host's code.
    Code,
    /// With a code that is not the host's.
    WrongCode,
    /// With the key alone: host and device know each other from before.
    Key,
}

/// What a world is made of.
pub struct WorldOptions {
    /// Decides everything but keys.
    pub seed: u64,
    /// Towards the host, then from it.
    pub weather: [Weather; 2],
}

/// A host, its folder, clients and strangers.
pub struct World {
    start: Instant,
    now: Instant,
    steps: u64,
    seed: u64,
    /// Draws for the scenario.
    pub rng: Rng,
    /// The network.
    pub net: Net,
    /// What is served.
    pub folder: Folder,
    /// The host.
    pub host: HostEnd,
    /// The clients, in the order they were added.
    pub clients: Vec<ClientEnd>,
    /// The strangers, in the order they were added.
    pub raws: Vec<RawEnd>,
    /// Who answers where the host was to be, in the order they were added.
    pub impostors: Vec<Impostor>,
}

impl World {
    /// Creates a world with a host and nobody else.
    ///
    /// # Panics
    /// Where there is no room for a temporary folder.
    pub fn new(options: WorldOptions) -> Self {
        let WorldOptions { seed, weather } = options;
        let mut rng = Rng::new(seed);
        let start = Instant::now();
        let folder = Folder::new();
        let code = JoinCode::parse(CODE).expect("a code");
        let host = HostEnd::new(&folder, code, HOST, rng.fork());
        let net = Net::new(start, rng.fork(), HOST, weather);
        Self {
            start,
            now: start,
            steps: 0,
            seed,
            rng,
            net,
            folder,
            host,
            clients: Vec::new(),
            raws: Vec::new(),
            impostors: Vec::new(),
        }
    }

    /// A world whose weather is drawn from the seed, alike in both directions.
    pub fn drawn(seed: u64) -> Self {
        let weather = Weather::draw(&mut Rng::new(seed ^ 0x5eed));
        Self::new(WorldOptions { seed, weather: [weather.clone(), weather] })
    }

    /// A world on a quiet wired network.
    pub fn quiet(seed: u64) -> Self {
        Self::new(WorldOptions { seed, weather: [Weather::lan(), Weather::lan()] })
    }

    /// Virtual time now.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Virtual time since the beginning.
    pub fn age(&self) -> Duration {
        self.now - self.start
    }

    /// Virtual time of an instant since the beginning.
    pub fn age_at(&self, at: Instant) -> Duration {
        at - self.start
    }

    /// Adds a client with a fresh key; it begins to connect at once. Returns its index.
    pub fn add_client(&mut self, entry: &Entry) -> usize {
        self.add_client_as(&new_identity(), entry)
    }

    /// Adds a client with this key.
    pub fn add_client_as(&mut self, identity: &Identity, entry: &Entry) -> usize {
        let code = match entry {
            Entry::Code => Some(self.host.code()),
            Entry::WrongCode => Some(JoinCode::parse("7-abandon-ability-able-about").expect("a code")),
            Entry::Key => None,
        };
        let trusted = match entry {
            Entry::Key => {
                self.host.enrol(&self.folder, identity.public(), "device");
                vec![self.host.key()]
            }
            Entry::Code | Entry::WrongCode => Vec::new(),
        };
        self.add_client_with(identity, code, trusted)
    }

    /// Adds a client with this key, that code and those hosts known.
    pub fn add_client_with(&mut self, identity: &Identity, code: Option<JoinCode>, trusted: Vec<PeerKey>) -> usize {
        self.add_client_at(identity, vec![HOST], code, trusted, &[])
    }

    /// Adds a client that tries these addresses, with this key, that code, those hosts known, and met where `known_at`
    /// says.
    pub fn add_client_at(
        &mut self,
        identity: &Identity,
        addresses: Vec<SocketAddr>,
        code: Option<JoinCode>,
        trusted: Vec<PeerKey>,
        known_at: &[(SocketAddr, PeerKey)],
    ) -> usize {
        let index = self.clients.len();
        let options = ClientOptions {
            addresses,
            code,
            device: "device".into(),
            key: identity.public(),
            trusted,
            known_at: known_at.iter().copied().collect(),
            timeout: CALL_TIMEOUT,
        };
        let address = guest(1, index);
        self.clients.push(ClientEnd::new(self.now, identity, options, address, self.rng.node_seed()));
        index
    }

    /// A key for a device.
    pub fn new_identity() -> Identity {
        new_identity()
    }

    /// Adds a stranger that connects at once; a `mute` one falls silent after its first flight. Returns its index.
    pub fn add_raw(&mut self, identity: &Identity, mute: bool) -> usize {
        self.add_raw_at(identity, guest(2, self.raws.len()), mute)
    }

    /// Adds a stranger at the address of another one, as behind one router. Returns its index.
    pub fn add_raw_beside(&mut self, identity: &Identity, other: usize) -> usize {
        let port = 6_000 + u16::try_from(self.raws.len()).expect("few guests");
        self.add_raw_at(identity, SocketAddr::new(self.raws[other].address().ip(), port), false)
    }

    fn add_raw_at(&mut self, identity: &Identity, address: SocketAddr, mute: bool) -> usize {
        let (index, seed) = (self.raws.len(), self.rng.node_seed());
        self.raws.push(RawEnd::new(self.now, identity, HOST, address, seed, mute));
        index
    }

    /// Adds somebody with a key of their own who answers as a host would. Returns their index.
    pub fn add_impostor(&mut self, manner: Manner) -> usize {
        let index = self.impostors.len();
        let (address, seed) = (guest(4, index), self.rng.node_seed());
        self.impostors.push(Impostor::new(address, seed, manner));
        index
    }

    /// Adds the same impostor, with the same key and manner, at another address; returns that.
    pub fn add_alias(&mut self, impostor: usize) -> SocketAddr {
        let (address, seed) = (guest(4, self.impostors.len()), self.rng.node_seed());
        let alias = self.impostors[impostor].at(address, seed);
        self.impostors.push(alias);
        address
    }

    /// Where the host is.
    pub fn host_address(&self) -> SocketAddr {
        HOST
    }

    /// Sends the host bytes out of nowhere.
    pub fn send_garbage(&mut self, bytes: &[u8]) {
        self.net.send(self.now, guest(3, self.rng.below(200) as usize), HOST, 0, bytes, bytes.len().max(1));
    }

    /// Lets one thing happen, not after `end`. False when nothing does before then; it is `end` then.
    fn step(&mut self, end: Instant) -> bool {
        let now = self.now;
        let deadlines = self.clients.iter().filter_map(|client| client.deadline(now));
        let deadlines = deadlines.chain(self.raws.iter().filter_map(|raw| raw.deadline(now)));
        let deadlines = deadlines.chain(self.impostors.iter().filter_map(|impostor| impostor.deadline(now)));
        let next = deadlines.chain(self.host.deadline(now)).chain(self.net.next_arrival()).min();
        let Some(next) = next.filter(|&next| next <= end) else {
            self.now = self.now.max(end);
            return false;
        };
        self.now = self.now.max(next);
        self.steps += 1;
        let now = self.now;
        while let Some((to, inbound)) = self.net.pop_due(now) {
            self.deliver(to, inbound);
        }
        let is_due = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        if is_due(self.host.deadline(now)) {
            self.host.turn(now, &mut self.net);
        }
        for client in self.clients.iter_mut().filter(|client| is_due(client.deadline(now))) {
            client.turn(now, &mut self.net);
        }
        for raw in self.raws.iter_mut().filter(|raw| is_due(raw.deadline(now))) {
            raw.turn(now, &mut self.net);
        }
        for impostor in self.impostors.iter_mut().filter(|impostor| is_due(impostor.deadline(now))) {
            impostor.turn(now, &mut self.net);
        }
        true
    }

    fn deliver(&mut self, to: SocketAddr, inbound: Inbound) {
        let now = self.now;
        if to == self.host.address() {
            self.host.handle(now, inbound);
        } else if let Some(client) = self.clients.iter_mut().find(|client| client.address() == to) {
            client.handle(now, inbound);
        } else if let Some(raw) = self.raws.iter_mut().find(|raw| raw.address() == to) {
            raw.handle(now, inbound);
        } else if let Some(impostor) = self.impostors.iter_mut().find(|impostor| impostor.address() == to) {
            impostor.handle(now, inbound);
        }
    }

    /// Lets the world go on for `span`.
    ///
    /// # Panics
    /// If it runs in circles.
    pub fn run_for(&mut self, span: Duration) {
        let end = self.now + span;
        while self.step(end) {
            self.check_steps("time to pass");
        }
    }

    /// Lets the world go on until `done`; `what` says for what, should it never come.
    ///
    /// # Panics
    /// If it does not within the bounds on steps and on virtual time.
    pub fn run_until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let end = self.now + PATIENCE;
        while !done(self) {
            self.check_steps(what);
            assert!(self.step(end), "seed {}: waited {PATIENCE:?} in vain for {what}: {}", self.seed, self.report());
        }
    }

    fn check_steps(&self, what: &str) {
        let (seed, steps) = (self.seed, self.steps);
        assert!(steps < STEPS_MAX, "seed {seed}: {steps} steps while waiting for {what}: {}", self.report());
    }

    /// Where everybody stands, for failures.
    fn report(&self) -> String {
        let clients: Vec<_> =
            self.clients.iter().map(|c| (c.is_ready(), c.welcomes.len(), c.losses.len(), c.failed.clone())).collect();
        format!(
            "at {:?}, {} steps, {} datagrams, host holds {} connections, clients (ready, welcomes, losses, failed) {clients:?}",
            self.age(),
            self.steps,
            self.net.carried(),
            self.host.connections()
        )
    }

    /// Lets the world go on until a client is let in.
    ///
    /// # Panics
    /// If it is not.
    pub fn join(&mut self, client: usize) {
        self.run_until("a welcome", |world| {
            let client = &world.clients[client];
            assert_eq!(client.failed, None, "the client comes in");
            client.is_ready()
        });
    }

    /// Asks, and does not wait.
    pub fn ask(&mut self, client: usize, ask: Ask) -> CallId {
        let now = self.now;
        self.clients[client].ask(now, ask)
    }

    /// Waits for the end of a call.
    ///
    /// # Panics
    /// If it never ends.
    pub fn answer(&mut self, client: usize, call: CallId) -> (Result<Answer, CallError>, Vec<u8>) {
        self.run_until("an answer", |world| world.clients[client].is_done(call));
        self.clients[client].take(call)
    }

    /// Opens a file with its first `inline_max` bytes.
    ///
    /// # Panics
    /// If it cannot be opened.
    pub fn open(&mut self, client: usize, path: &str, inline_max: u32) -> (FileKey, Attr, Vec<u8>) {
        let call = self.ask(client, Ask::Open { path: path.into(), inline_max, hash: false });
        match self.answer(client, call) {
            (Ok(Answer::Opened { file, attr, .. }), inline) => (file, attr, inline),
            (other, _) => panic!("seed {}: {path} opens, but: {other:?}", self.seed),
        }
    }

    /// Reads a part of an open file.
    ///
    /// # Panics
    /// If it cannot be read.
    pub fn read(&mut self, client: usize, file: FileKey, offset: u64, length: u64) -> Vec<u8> {
        let call = self.ask(client, Ask::Read { file, offset, length });
        match self.answer(client, call) {
            (Ok(Answer::Read { .. }), bytes) => bytes,
            (other, _) => panic!("seed {}: the file can be read, but: {other:?}", self.seed),
        }
    }

    /// Reads a file whole, some of its bytes with the opening or none, and closes it.
    ///
    /// # Panics
    /// If that fails.
    pub fn read_file(&mut self, client: usize, path: &str) -> Vec<u8> {
        let inline_max = if self.rng.chance(0.5) { INLINE_BYTES_MAX } else { 0 };
        let (file, attr, mut bytes) = self.open(client, path, inline_max);
        let offset = bytes.len() as u64;
        if offset < attr.size || self.rng.chance(0.5) {
            bytes.extend(self.read(client, file, offset, attr.size - offset));
        }
        self.clients[client].close_file(file);
        bytes
    }

    /// Reads every file of the folder and compares every byte.
    ///
    /// # Panics
    /// If one differs.
    pub fn check_every_file(&mut self, client: usize) {
        for (path, _) in Folder::FILES {
            self.check_file(client, path);
        }
    }

    /// Reads one file of the folder and compares every byte.
    ///
    /// # Panics
    /// If one differs.
    pub fn check_file(&mut self, client: usize, path: &str) {
        let bytes = self.read_file(client, path);
        assert!(bytes == Folder::expected(path), "seed {}: {path} arrives as it is", self.seed);
    }

    /// Lists a directory, page by page of a drawn size.
    ///
    /// # Panics
    /// If that fails.
    pub fn list(&mut self, client: usize, path: &str) -> Vec<(String, Attr)> {
        let entries_max = 1 + self.rng.below(5) as u32;
        let (mut cursor, mut all) = (0, Vec::new());
        loop {
            let call = self.ask(client, Ask::List { path: path.into(), cursor, entries_max });
            let (Ok(Answer::Page { entries, end }), _) = self.answer(client, call) else { panic!("{path} lists") };
            cursor = entries.last().map_or(cursor, |entry| entry.cookie);
            let text = |name| String::from_utf8(name).expect("names of the folder are text");
            all.extend(entries.into_iter().map(|entry| (text(entry.name), entry.attr)));
            if end {
                return all;
            }
        }
    }

    /// Checks that no stranger was sent a byte of what lies outside.
    ///
    /// # Panics
    /// If one was.
    pub fn check_nothing_leaked(&self) {
        for stream in self.raws.iter().flat_map(RawEnd::streams) {
            assert!(
                !stream.bytes.windows(OUTSIDE.len()).any(|window| window == OUTSIDE),
                "what is outside stays there"
            );
        }
    }
}

fn guest(kind: u8, index: usize) -> SocketAddr {
    let [high, low] = u16::try_from(index).expect("few guests").to_be_bytes();
    SocketAddr::from(([10, kind, high, low], 5_000))
}
