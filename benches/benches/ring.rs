//! A train of datagrams over loopback and back, on both backends and in both sizes that matter.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use engine::io::{Completion, Io, IoMode, IoOptions, TransmitTarget, Wait, bind_client, bind_group, open};
use std::collections::VecDeque;
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;

/// One datagram of an acknowledgement's size, and the longest train at MTU 1500.
const TRAINS: [(usize, usize); 2] = [(64, 1), (1452, 45)];

struct Pair {
    client: Box<dyn Io>,
    server: Box<dyn Io>,
    inbox: VecDeque<Completion>,
}

impl Pair {
    fn open(mode: IoMode) -> Self {
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let socket = bind_group(local, NonZeroU16::MIN).expect("a free port").remove(0);
        let server = open(mode, socket, IoOptions::STANDARD).expect("a server's door");
        let socket = bind_client(&[server.local_addr()]).expect("a free port");
        let client = open(mode, socket, IoOptions::STANDARD).expect("a client's door");
        let inbox = VecDeque::new();
        Self { client, server, inbox }
    }

    fn round_trip(&mut self, payload: &[u8], stride: usize) {
        let there = self.server.local_addr();
        send(&mut *self.client, payload, there, stride);
        let back = receive(&mut *self.server, &mut self.inbox, payload.len());
        send(&mut *self.server, payload, back, stride);
        black_box(receive(&mut *self.client, &mut self.inbox, payload.len()));
    }
}

fn send(io: &mut dyn Io, payload: &[u8], remote: SocketAddr, stride: usize) {
    let mut buffer = io.transmit_buffer().expect("one train at a time");
    buffer.payload.extend_from_slice(payload);
    let target = TransmitTarget { remote, src_ip: None, ecn: None, segment_size: Some(stride) };
    io.transmit(buffer, target);
    io.turn(Wait::No, &|| false, &mut VecDeque::new()).expect("a turn");
}

/// Receives `len` bytes, splitting each train as a QUIC endpoint would; returns the sender.
fn receive(io: &mut dyn Io, inbox: &mut VecDeque<Completion>, len: usize) -> SocketAddr {
    let mut missing = len;
    loop {
        io.turn(Wait::ForEvent, &|| false, inbox).expect("a turn");
        while let Some(completion) = inbox.pop_front() {
            let Completion::Datagrams(mut datagrams) = completion else {
                continue;
            };
            missing -= datagrams.bytes.len();
            while !datagrams.bytes.is_empty() {
                let len = datagrams.stride.min(datagrams.bytes.len());
                black_box(datagrams.bytes.split_to(len));
            }
            if missing == 0 {
                return datagrams.remote;
            }
        }
    }
}

fn round_trips(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring/round_trip");
    for (stride, count) in TRAINS {
        let payload = vec![7; stride * count];
        group.throughput(Throughput::Bytes(2 * payload.len() as u64));
        for (name, mode) in [("uring", IoMode::Uring), ("poll", IoMode::Poll)] {
            let mut pair = Pair::open(mode);
            let id = BenchmarkId::new(name, format!("{count}x{stride}"));
            group.bench_function(id, |bencher| {
                bencher.iter(|| pair.round_trip(&payload, stride));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, round_trips);
criterion_main!(benches);
