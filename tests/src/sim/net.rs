//! The network: datagrams on their way, each with its fate drawn when it was sent.

use super::rng::Rng;
use super::weather::Weather;
use bytes::BytesMut;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use transport::{Inbound, Node};

/// Datagrams under way at once, as in a long but finite queue; more are lost.
const PACKETS_MAX: usize = 65_536;
/// Longest a datagram waits for a bounded link before it is dropped: a router's tail drop.
const QUEUE_MAX: Duration = Duration::from_millis(100);
/// How late a reordered datagram or a second copy comes at most.
const DELAY_MAX: Duration = Duration::from_millis(5);
/// Datagrams handed over at once at most, as the kernel's GRO does.
const TRAIN_MAX: usize = 64;

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Packet {
    at: Instant,
    serial: u64,
    from: SocketAddr,
    to: SocketAddr,
    ecn: u8,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Link {
    last_arrival: Instant,
}

/// See the module. Its decisions depend on the seed, on counts and on lengths only.
pub struct Net {
    start: Instant,
    rng: Rng,
    host: SocketAddr,
    /// Towards the host, then from it.
    weather: [Weather; 2],
    links: BTreeMap<(SocketAddr, SocketAddr), Link>,
    /// When the bounded link is free, for each direction: all share it.
    free_at: [Instant; 2],
    packets: BinaryHeap<Reverse<Packet>>,
    serial_next: u64,
    trace: u64,
    carried: u64,
}

impl Net {
    pub(super) fn new(start: Instant, rng: Rng, host: SocketAddr, weather: [Weather; 2]) -> Self {
        Self {
            start,
            rng,
            host,
            weather,
            links: BTreeMap::new(),
            free_at: [start; 2],
            packets: BinaryHeap::new(),
            serial_next: 0,
            trace: 0xcbf2_9ce4_8422_2325,
            carried: 0,
        }
    }

    /// The weather towards the host, then from it; it may change at any time.
    pub fn weather(&mut self) -> &mut [Weather; 2] {
        &mut self.weather
    }

    /// A digest of when what lengths went where: equal for two runs of one seed.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    /// Datagrams sent so far, by anybody.
    pub fn carried(&self) -> u64 {
        self.carried
    }

    /// Sends all that a node has to say now.
    pub(super) fn send_all(&mut self, now: Instant, from: SocketAddr, node: &mut Node) {
        let mut train = Vec::new();
        while let Some(transmit) = node.poll_transmit(now, &mut train) {
            let stride = transmit.segment_size.unwrap_or(train.len());
            self.send(now, from, transmit.remote, transmit.ecn, &train, stride);
        }
    }

    /// Cuts a train into datagrams and sends each on its way.
    pub(super) fn send(
        &mut self,
        now: Instant,
        from: SocketAddr,
        to: SocketAddr,
        ecn: u8,
        train: &[u8],
        stride: usize,
    ) {
        for datagram in train.chunks(stride) {
            self.send_one(now, from, to, ecn, datagram);
        }
    }

    fn send_one(&mut self, now: Instant, from: SocketAddr, to: SocketAddr, ecn: u8, datagram: &[u8]) {
        self.carried += 1;
        let direction = usize::from(to != self.host);
        let age = now - self.start;
        for part in [age.as_nanos() as u64, datagram.len() as u64, direction as u64] {
            self.trace = (self.trace ^ part).wrapping_mul(0x0100_0000_01b3);
        }
        let weather = &self.weather[direction];
        // All draws are made for every datagram, so that one fate does not shift the next one's.
        let lost = self.rng.chance(weather.loss);
        let reordered = self.rng.chance(weather.reordering);
        let doubled = self.rng.chance(weather.duplication);
        let corrupt = self.rng.chance(weather.corruption);
        let (jitter, late, copy) = (self.rng.span(weather.jitter), self.rng.span(DELAY_MAX), self.rng.span(DELAY_MAX));
        let bit = self.rng.below(8 * datagram.len().max(1) as u64);

        let mut leaves = now;
        if let Some(rate) = weather.bytes_per_second {
            let free_at = self.free_at[direction].max(now);
            if free_at - now > QUEUE_MAX {
                return;
            }
            leaves = free_at + Duration::from_secs_f64(datagram.len() as f64 / rate as f64);
            self.free_at[direction] = leaves;
        }
        if lost || weather.is_partitioned(age) || weather.swallows(age, datagram.len()) {
            return;
        }
        let link = self.links.entry((from, to)).or_insert(Link { last_arrival: now });
        let on_time = (leaves + weather.latency + jitter).max(link.last_arrival);
        let at = if reordered { on_time + late } else { on_time };
        if !reordered {
            link.last_arrival = at;
        }
        let mut bytes = datagram.to_vec();
        if corrupt && !bytes.is_empty() {
            let bit = usize::try_from(bit).expect("datagrams are short");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        if doubled {
            self.push(at + copy, from, to, ecn, bytes.clone());
        }
        self.push(at, from, to, ecn, bytes);
    }

    fn push(&mut self, at: Instant, from: SocketAddr, to: SocketAddr, ecn: u8, bytes: Vec<u8>) {
        if self.packets.len() < PACKETS_MAX {
            let serial = self.serial_next;
            self.serial_next += 1;
            self.packets.push(Reverse(Packet { at, serial, from, to, ecn, bytes }));
        }
    }

    /// When the next datagram comes.
    pub(super) fn next_arrival(&self) -> Option<Instant> {
        self.packets.peek().map(|Reverse(packet)| packet.at)
    }

    /// Takes out what has come: equal neighbours of one sender together.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(SocketAddr, Inbound)> {
        let due = |packets: &BinaryHeap<Reverse<Packet>>| packets.peek().is_some_and(|Reverse(next)| next.at <= now);
        if !due(&self.packets) {
            return None;
        }
        let Reverse(first) = self.packets.pop()?;
        let stride = first.bytes.len().max(1);
        let mut bytes = BytesMut::from(&first.bytes[..]);
        for _ in 1..TRAIN_MAX {
            let Some(Reverse(next)) = self.packets.peek().filter(|_| due(&self.packets)) else { break };
            let fits = next.bytes.len() <= stride && !next.bytes.is_empty();
            if !fits || (next.from, next.to, next.ecn) != (first.from, first.to, first.ecn) {
                break;
            }
            let ends = next.bytes.len() < stride;
            bytes.extend_from_slice(&next.bytes);
            self.packets.pop();
            if ends {
                break;
            }
        }
        Some((first.to, Inbound { remote: first.from, local_ip: None, ecn: first.ecn, stride, bytes }))
    }
}
