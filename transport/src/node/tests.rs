//! Two nodes in one thread, joined by nothing but function calls.

use super::*;
use crate::wire::{Control, Frames, Message, REQUEST_BYTES_MAX, encode};
use aws_lc_rs::signature::Ed25519KeyPair;
use bytes::Bytes;
use std::time::Duration;

pub(crate) fn identity() -> Identity {
    let pair = Ed25519KeyPair::generate().expect("the random source answers");
    let der = pair.to_pkcs8().expect("a fresh key encodes");
    Identity::from_pkcs8(der.as_ref()).expect("a fresh key loads")
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, last], 4433))
}

/// A client and a host on a perfect network with no delay.
struct Pair {
    now: Instant,
    client: Node,
    host: Node,
}

/// Deliveries after which a pair that still talks is taken to hang.
const ROUNDS_MAX: usize = 100_000;

impl Pair {
    fn new(client: &Identity, host: &Identity) -> Self {
        let node = |identity, role| {
            Node::new(NodeOptions {
                identity,
                role,
                tuning: Tuning::default(),
                shard: 0,
                shards: 1,
                seed: Some([7; 32]),
            })
            .unwrap()
        };
        Self { now: Instant::now(), client: node(client, Role::Client), host: node(host, Role::Host) }
    }

    /// Carries datagrams both ways until both are silent, stepping the time to the next deadline within `span`.
    fn drive(&mut self, span: Duration) {
        let end = self.now + span;
        let mut payload = Vec::new();
        for _ in 0..ROUNDS_MAX {
            let mut moved = false;
            for towards_host in [true, false] {
                let (from, to, source) = if towards_host {
                    (&mut self.client, &mut self.host, address(2))
                } else {
                    (&mut self.host, &mut self.client, address(1))
                };
                while let Some(transmit) = from.poll_transmit(self.now, &mut payload) {
                    moved = true;
                    let stride = transmit.segment_size.unwrap_or(payload.len());
                    let bytes = BytesMut::from(&payload[..]);
                    to.handle_datagrams(
                        self.now,
                        Inbound { remote: source, local_ip: None, ecn: transmit.ecn, stride, bytes },
                    );
                }
            }
            self.client.check_invariants();
            self.host.check_invariants();
            if moved {
                continue;
            }
            match self.client.poll_timeout().into_iter().chain(self.host.poll_timeout()).min() {
                Some(next) if next <= end => {
                    self.now = self.now.max(next);
                    self.client.handle_timeout(self.now);
                    self.host.handle_timeout(self.now);
                }
                _ => return,
            }
        }
        panic!("the pair never falls silent");
    }
}

fn events(node: &mut Node) -> Vec<(ConnId, Event)> {
    std::iter::from_fn(|| node.poll_event()).collect()
}

/// A pair whose handshake is done, and both ends' connection ids.
fn connected() -> (Pair, ConnId, ConnId) {
    let (client, host) = (identity(), identity());
    let mut pair = Pair::new(&client, &host);
    let id = pair.client.connect(pair.now, address(1)).unwrap();
    pair.drive(Duration::from_millis(5));
    let [(client_id, Event::Connected { peer })] = events(&mut pair.client)[..] else { panic!("the client connects") };
    assert_eq!((client_id, peer), (id, host.public()));
    let seen = events(&mut pair.host);
    let [(host_id, Event::Connected { peer })] = seen[..] else { panic!("the host hears of it: {seen:?}") };
    assert_eq!(peer, client.public());
    (pair, client_id, host_id)
}

fn read_all(node: &mut Node, id: ConnId, stream: StreamId) -> (Vec<u8>, ReadOutcome) {
    let mut bytes = Vec::new();
    let end =
        node.connection(id).unwrap().read_each(stream, usize::MAX, |chunk| bytes.extend_from_slice(&chunk)).unwrap();
    (bytes, end.expect("no bound was set"))
}

#[test]
fn both_ends_prove_their_keys_and_share_a_secret() {
    let (mut pair, client, host) = connected();
    let ours = pair.client.connection(client).unwrap().exporter();
    assert_eq!(ours, pair.host.connection(host).unwrap().exporter());
    assert_ne!(ours, [0; 32]);
}

#[test]
fn a_request_and_its_answer_cross() {
    let (mut pair, client, host) = connected();
    let message = Control::Hello { version_min: 1, version_max: 1, capabilities: 0, prove: true, device: "x".into() };
    let stream = pair.client.connection(client).unwrap().open().unwrap();
    let mut chunks = VecDeque::from([encode(&message)]);
    assert_eq!(pair.client.connection(client).unwrap().write(stream, &mut chunks), Ok(true));
    pair.client.connection(client).unwrap().finish(stream).unwrap();
    pair.drive(Duration::from_millis(50));

    let opened = events(&mut pair.host);
    assert!(opened.iter().any(|(_, event)| matches!(event, Event::Opened(id) if *id == stream)), "{opened:?}");
    let (bytes, end) = read_all(&mut pair.host, host, stream);
    assert_eq!(end, ReadOutcome::Finished);
    let mut frames = Frames::new(REQUEST_BYTES_MAX);
    frames.handle_bytes(&bytes);
    assert_eq!(frames.poll_message::<Control>(), Ok(Some(message)));

    // 3 MB come back: more than a train, a window update's worth, in order.
    let data: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let mut chunks = VecDeque::from([Bytes::from(data.clone())]);
    assert_eq!(pair.host.connection(host).unwrap().write(stream, &mut chunks), Ok(true));
    pair.host.connection(host).unwrap().finish(stream).unwrap();
    pair.drive(Duration::from_secs(1));
    let (bytes, end) = read_all(&mut pair.client, client, stream);
    assert!(bytes == data && end == ReadOutcome::Finished);
    assert!(events(&mut pair.host).iter().any(|(_, event)| matches!(event, Event::Finished(id) if *id == stream)));
}

#[test]
fn a_close_is_told_with_its_code() {
    let (mut pair, client, _) = connected();
    let now = pair.now;
    pair.client.connection(client).unwrap().close(now, crate::wire::code::SHUTDOWN, "bye");
    pair.drive(Duration::from_secs(5));
    let told = events(&mut pair.host);
    assert!(
        matches!(&told[..], [(_, Event::Closed(Closed { reason: CloseReason::Peer(7), .. }))]),
        "the host is told the code: {told:?}"
    );
    assert_eq!((pair.client.connections(), pair.host.connections()), (0, 0), "both ends forget it");
}

#[test]
fn a_silent_peer_is_lost_after_the_idle_timeout() {
    let (mut pair, client, _) = connected();
    let stream = pair.client.connection(client).unwrap().open().unwrap();
    let mut chunks = VecDeque::from([Bytes::from_static(b"anyone?")]);
    pair.client.connection(client).unwrap().write(stream, &mut chunks).unwrap();
    let begin = pair.now;
    let mut payload = Vec::new();
    let mut closed = None;
    while closed.is_none() {
        while pair.client.poll_transmit(pair.now, &mut payload).is_some() {}
        pair.now = pair.client.poll_timeout().expect("a live connection has a deadline");
        pair.client.handle_timeout(pair.now);
        closed = events(&mut pair.client).into_iter().find_map(|(_, event)| match event {
            Event::Closed(closed) => Some(closed),
            _ => None,
        });
        assert!(pair.now - begin < Duration::from_secs(30), "a dead host is noticed");
    }
    assert_eq!(closed.unwrap().reason, CloseReason::TimedOut);
    assert!(pair.now - begin >= crate::tuning::IDLE_TIMEOUT);
}

#[test]
fn a_restarted_host_resets_old_connections() {
    let (client, host) = (identity(), identity());
    let mut pair = Pair::new(&client, &host);
    let id = pair.client.connect(pair.now, address(1)).unwrap();
    pair.drive(Duration::from_millis(5));
    events(&mut pair.client);
    pair.host = Pair::new(&client, &host).host;
    let stream = pair.client.connection(id).unwrap().open().unwrap();
    let mut chunks = VecDeque::from([Bytes::from(vec![1; 5_000])]);
    pair.client.connection(id).unwrap().write(stream, &mut chunks).unwrap();
    pair.drive(Duration::from_millis(500));
    let told = events(&mut pair.client);
    assert!(
        told.iter().any(|(_, event)| matches!(event, Event::Closed(Closed { reason: CloseReason::Reset, .. }))),
        "the same key signs the reset: {told:?}"
    );
}

#[test]
fn the_end_is_told_to_who_asked_for_it_too() {
    let (mut pair, client, host) = connected();
    let now = pair.now;
    pair.host.connection(host).unwrap().close(now, 7, "enough");
    pair.drive(Duration::from_secs(5));
    let told = events(&mut pair.host);
    let [(id, Event::Closed(Closed { reason: CloseReason::Local, .. }))] = told[..] else { panic!("once: {told:?}") };
    assert_eq!(id, host);
    let told = events(&mut pair.client);
    let of_the_end =
        |e: &(ConnId, Event)| matches!(e, (id, Event::Closed(c)) if *id == client && c.reason == CloseReason::Peer(7));
    assert_eq!(told.iter().filter(|event| of_the_end(event)).count(), 1, "{told:?}");
    assert_eq!((pair.host.connections(), pair.client.connections()), (0, 0));
}

#[test]
fn streams_given_up_by_the_client_come_back_to_it() {
    let (mut pair, client, host) = connected();
    for n in 0..2 * crate::tuning::STREAMS_MAX {
        let stream = pair.client.connection(client).unwrap().open().unwrap_or_else(|| panic!("no stream after {n}"));
        let mut request = VecDeque::from([Bytes::from_static(b"all of it, please")]);
        pair.client.connection(client).unwrap().write(stream, &mut request).unwrap();
        pair.client.connection(client).unwrap().finish(stream).unwrap();
        pair.drive(Duration::from_millis(5));
        read_all(&mut pair.host, host, stream);
        // Not finished: the client has had enough before the end.
        let mut answer = VecDeque::from([Bytes::from(vec![1; 100_000])]);
        pair.host.connection(host).unwrap().write(stream, &mut answer).unwrap();
        pair.client.connection(client).unwrap().stop(stream, 6);
        pair.drive(Duration::from_millis(50));
        let told = events(&mut pair.host);
        assert!(told.iter().any(|(_, event)| matches!(event, Event::Finished(id) if *id == stream)), "{told:?}");
    }
}

#[test]
fn stale_ids_find_nothing() {
    let (mut pair, client, _) = connected();
    let now = pair.now;
    pair.client.connection(client).unwrap().close(now, 0, "");
    pair.drive(Duration::from_secs(5));
    events(&mut pair.client);
    let again = pair.client.connect(pair.now, address(1)).unwrap();
    assert!(pair.client.connection(client).is_none());
    assert!(pair.client.connection(again).is_some());
}

#[test]
fn jumbo_paths_are_discovered() {
    let (mut pair, client, _) = connected();
    pair.drive(Duration::from_secs(2));
    assert_eq!(pair.client.connection(client).unwrap().mtu(), crate::tuning::MTU_MAX_BYTES);
}

#[test]
fn floods_of_first_packets_are_bounded() {
    let host = identity();
    let mut node = Pair::new(&identity(), &host).host;
    let now = Instant::now();
    let mut payload = Vec::new();
    let mut retries = 0;
    for n in 0..3_000u32 {
        let mut stranger = Pair::new(&identity(), &host).client;
        stranger.connect(now, address(1)).unwrap();
        let transmit = stranger.poll_transmit(now, &mut payload).unwrap();
        let remote = SocketAddr::from((std::net::Ipv4Addr::from(0x0a00_0000 + n), 1_000));
        let stride = transmit.segment_size.unwrap_or(payload.len());
        node.handle_datagrams(
            now,
            Inbound { remote, local_ip: None, ecn: 0, stride, bytes: BytesMut::from(&payload[..]) },
        );
        while let Some(transmit) = node.poll_transmit(now, &mut payload) {
            retries += usize::from(transmit.from.is_none());
        }
        assert!(node.connections() <= HANDSHAKES_BEFORE_RETRY);
        if n > 200 {
            break;
        }
    }
    assert!(retries > 100, "strangers must prove their address once many handshakes are open");
    node.check_invariants();
    assert!(Control::knows(1));
}
