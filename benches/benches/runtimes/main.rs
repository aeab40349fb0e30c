//! Our ring and epoll beside tokio-uring and glommio, on a shard's datagram path: what docs/design/0013 cites.
//!
//! ```text
//!   cargo bench -p benches --bench runtimes                                  ours alone
//!   cargo bench -p benches --bench runtimes --features tokio-uring,glommio   all four
//! ```
//!
//! Two threads, each pinned to a CPU of its own, over loopback. The same conversation, sockets, buffers and batch sizes for
//! all (`conversation`); each runtime is one file that implements `End`. Beside criterion's times it prints GB/s, counted
//! where the bytes arrive, and the CPU time of each thread.
#![allow(missing_docs, reason = "criterion's macros generate undocumented items")]

mod conversation;
#[cfg(feature = "glommio")]
mod glommio;
mod ours;
#[cfg(feature = "tokio-uring")]
mod tokio_uring;

use conversation::{PING_BYTES, Part, Played, Scene, Shape, TRAIN_BYTES};
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use engine::io::{IoMode, allowed_cpus, bind_group, pin_thread};
use nix::sys::socket::{setsockopt, sockopt};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU16;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

/// Longest a scene may take; far beyond what criterion asks for, so that only a lost datagram ends it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Scenes of one measurement: the fewest that criterion takes, since each is long.
const SCENES: usize = 10;

#[derive(Debug, Clone, Copy)]
enum Runtime {
    Ours(IoMode),
    #[cfg(feature = "tokio-uring")]
    TokioUring,
    #[cfg(feature = "glommio")]
    Glommio,
}

impl Runtime {
    const ALL: &[Self] = &[
        Self::Ours(IoMode::Uring),
        Self::Ours(IoMode::Poll),
        #[cfg(feature = "tokio-uring")]
        Self::TokioUring,
        #[cfg(feature = "glommio")]
        Self::Glommio,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Ours(IoMode::Poll) => "epoll",
            Self::Ours(_) => "ring",
            #[cfg(feature = "tokio-uring")]
            Self::TokioUring => "tokio_uring",
            #[cfg(feature = "glommio")]
            Self::Glommio => "glommio",
        }
    }

    /// Plays a part on a thread of its own.
    fn spawn(self, cpu: usize, socket: UdpSocket, scene: Scene) -> Receiver<Played> {
        let (outcome, played) = mpsc::channel();
        thread::spawn(move || {
            pin_thread(cpu).expect("a CPU that this process may use");
            let played = match self {
                Self::Ours(mode) => ours::play(mode, socket, &scene),
                #[cfg(feature = "tokio-uring")]
                Self::TokioUring => tokio_uring::play(socket, &scene),
                #[cfg(feature = "glommio")]
                Self::Glommio => glommio::play(socket, cpu, &scene),
            };
            // Nobody listens any more where the other end has failed first.
            let _ = outcome.send(played);
        });
        played
    }
}

/// Two parts that belong together: who begins, and who answers.
const ROUND_TRIP: (Part, Part) = (Part::Ping, Part::Echo);
const BULK: (Part, Part) = (Part::Send, Part::Receive);

/// Plays a scene with both ends on `runtime`; the one who begins comes first.
fn perform(runtime: Runtime, parts: (Part, Part), iterations: u64, shape: Shape) -> (Played, Played) {
    let cpus = allowed_cpus().expect("this process runs somewhere");
    let [first, second] = [cpus[0], *cpus.get(1).unwrap_or(&cpus[0])];
    let start = Arc::new(Barrier::new(2));
    let (near, far) = (bind(shape), bind(shape));
    let [near_address, far_address] = [&near, &far].map(|socket| socket.local_addr().expect("a bound socket"));
    let scene = |part, peer| Scene { part, iterations, shape, peer, start: Arc::clone(&start) };
    let answering = runtime.spawn(second, far, scene(parts.1, near_address));
    let beginning = runtime.spawn(first, near, scene(parts.0, far_address));
    let wait = |end: Receiver<Played>| {
        end.recv_timeout(PATIENCE).unwrap_or_else(|error| {
            panic!("{}: {error}: an end failed, or a datagram was lost (net.core.rmem_max?)", runtime.name())
        })
    };
    (wait(beginning), wait(answering))
}

/// A socket as a shard's, but joined trains only where they are asked for.
fn bind(shape: Shape) -> UdpSocket {
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let socket = bind_group(local, NonZeroU16::MIN).expect("a free port").remove(0);
    setsockopt(&socket, sockopt::UdpGroSegment, &shape.is_joined()).expect("UDP_GRO");
    socket
}

/// What all scenes of one measurement came to.
#[derive(Default)]
struct Tally {
    iterations: u64,
    received_bytes: u64,
    elapsed: Duration,
    cpu: [Duration; 2],
}

impl Tally {
    fn add(&mut self, iterations: u64, (beginning, answering): (Played, Played)) -> Duration {
        self.iterations += iterations;
        self.received_bytes += answering.received_bytes;
        self.elapsed += beginning.elapsed;
        self.cpu[0] += beginning.cpu;
        self.cpu[1] += answering.cpu;
        beginning.elapsed
    }

    fn print_round_trip(&self) {
        if self.iterations > 0 {
            let us = |time: Duration| time.as_secs_f64() * 1e6 / self.iterations as f64;
            let [ping, echo] = self.cpu.map(us);
            println!("  {:.1} us a round trip; CPU {ping:.1} us at one end, {echo:.1} at the other", us(self.elapsed));
        }
    }

    fn print_bulk(&self) {
        if self.iterations > 0 {
            let gigabytes = self.received_bytes as f64 / 1e9;
            let [sender, receiver] = self.cpu.map(|time| time.as_secs_f64() / gigabytes);
            let rate = gigabytes / self.elapsed.as_secs_f64();
            println!("  {rate:.3} GB/s; CPU {sender:.3} s/GB sending, {receiver:.3} s/GB receiving");
        }
    }
}

fn round_trips(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("runtimes/round_trip");
    group.sampling_mode(SamplingMode::Flat).sample_size(SCENES);
    for &runtime in Runtime::ALL {
        let mut tally = Tally::default();
        group.bench_function(runtime.name(), |bencher| {
            bencher.iter_custom(|iterations| {
                let played = perform(runtime, ROUND_TRIP, iterations, Shape::Singles);
                assert_eq!(played.1.received_bytes, iterations * PING_BYTES as u64);
                assert_eq!(played.0.received_bytes, played.1.received_bytes, "each ping came back whole");
                tally.add(iterations, played)
            });
        });
        tally.print_round_trip();
    }
    group.finish();
}

fn bulks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("runtimes/bulk");
    group.sampling_mode(SamplingMode::Flat).sample_size(SCENES).throughput(Throughput::Bytes(TRAIN_BYTES as u64));
    for shape in Shape::ALL {
        for &runtime in Runtime::ALL {
            let mut tally = Tally::default();
            group.bench_function(BenchmarkId::new(runtime.name(), shape.name()), |bencher| {
                bencher.iter_custom(|trains| {
                    let played = perform(runtime, BULK, trains, shape);
                    assert_eq!(played.1.received_bytes, trains * TRAIN_BYTES as u64);
                    assert_eq!(played.0.received_bytes, played.1.received_bytes, "all was acknowledged");
                    tally.add(trains, played)
                });
            });
            tally.print_bulk();
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = round_trips, bulks
}
criterion_main!(benches);
