//! What two ends say to each other, the same on every runtime: a ping and its echo, or a bulk that is acknowledged.

use rustix::time::{ClockId, clock_gettime};
use std::net::SocketAddr;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

/// Bytes of a ping: a QUIC datagram of the least size a path must carry (RFC 9000 §14).
pub const PING_BYTES: usize = 1200;
/// Bytes of one datagram of a train: what is left for QUIC at MTU 1500, 48 bytes being IPv6's and UDP's.
pub const STRIDE: usize = 1452;
/// Datagrams of a train: as many as fit 64 KiB, one less.
pub const TRAIN_DATAGRAMS: usize = 44;
/// Bytes of a train.
pub const TRAIN_BYTES: usize = STRIDE * TRAIN_DATAGRAMS;
/// Trains under way at most: 2 MB, well within a receive buffer of 4 MiB, so that nothing is lost.
const WINDOW_TRAINS: usize = 32;
/// Trains for one acknowledgement: a quarter of the window, so that the sender hardly ever waits.
const ACK_TRAINS: usize = 8;

/// What is sent; written into a buffer for each train, as a QUIC endpoint writes sealed packets.
pub static BULK: [u8; TRAIN_BYTES] = [7; TRAIN_BYTES];

/// How a bulk is handed to the kernel and taken from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Datagram by datagram at both ends.
    Singles,
    /// Trains that the kernel cuts (`UDP_SEGMENT`), received datagram by datagram.
    TrainsOut,
    /// Trains that the kernel cuts and joins again (`UDP_GRO`).
    Trains,
}

impl Shape {
    /// All of them, cheapest last.
    pub const ALL: [Self; 3] = [Self::Singles, Self::TrainsOut, Self::Trains];

    /// The name in the results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Singles => "singles",
            Self::TrainsOut => "trains_out",
            Self::Trains => "trains",
        }
    }

    /// Whether the kernel cuts trains.
    pub fn is_cut(self) -> bool {
        self != Self::Singles
    }

    /// Whether the kernel joins them again.
    pub fn is_joined(self) -> bool {
        self == Self::Trains
    }

    /// Bytes of one send.
    pub fn send_bytes(self) -> usize {
        if self.is_cut() { TRAIN_BYTES } else { STRIDE }
    }
}

/// Room of a receive buffer on runtimes without buffers of their own: one datagram, or the longest train.
#[cfg(any(feature = "glommio", feature = "tokio-uring"))]
pub fn receive_bytes(shape: Shape) -> usize {
    if shape.is_joined() { 65_535 } else { 2048 }
}

/// What one receive brought.
#[derive(Debug, Clone, Copy)]
pub struct Arrived {
    /// Bytes of all its datagrams.
    pub bytes: usize,
    /// The first eight of them; zeros behind the end.
    pub head: [u8; 8],
}

impl Arrived {
    /// Sums up what a receive brought.
    pub fn of(payload: &[u8]) -> Self {
        let mut head = [0; 8];
        let len = payload.len().min(head.len());
        head[..len].copy_from_slice(&payload[..len]);
        Self { bytes: payload.len(), head }
    }
}

/// One end's socket on some runtime.
pub trait End {
    /// Sends one datagram.
    async fn send(&mut self, datagram: &[u8]);

    /// Sends trains of [`BULK`], in the shape the end was made for.
    async fn send_trains(&mut self, trains: usize);

    /// Receives one datagram, or several that the kernel has joined.
    async fn receive(&mut self) -> Arrived;

    /// Sees to it that all that was sent leaves without a further call.
    async fn flush(&mut self) {}
}

/// What an end does.
#[derive(Debug, Clone, Copy)]
pub enum Part {
    /// Sends a ping and waits for its echo.
    Ping,
    /// Sends back what comes.
    Echo,
    /// Sends trains as fast as acknowledgements let it.
    Send,
    /// Counts bytes and acknowledges them.
    Receive,
}

/// One end's part in a scene.
#[derive(Debug, Clone)]
pub struct Scene {
    /// What it does.
    pub part: Part,
    /// Round trips, or trains.
    pub iterations: u64,
    /// How its bulk travels.
    pub shape: Shape,
    /// The other end.
    pub peer: SocketAddr,
    /// Both ends wait here before they begin.
    pub start: Arc<Barrier>,
}

/// How it went at one end.
#[derive(Debug, Clone, Copy)]
pub struct Played {
    /// From the start to the last word.
    pub elapsed: Duration,
    /// CPU time of its thread, the kernel's work for it included.
    pub cpu: Duration,
    /// Bytes it received.
    pub received_bytes: u64,
}

impl Scene {
    /// Plays a part to its end.
    pub async fn play(&self, end: &mut impl End) -> Played {
        self.start.wait();
        let (started, cpu) = (Instant::now(), thread_cpu());
        let received_bytes = match self.part {
            Part::Ping => ping(end, self.iterations).await,
            Part::Echo => echo(end, self.iterations).await,
            Part::Send => send_bulk(end, self.iterations).await,
            Part::Receive => receive_bulk(end, self.iterations).await,
        };
        end.flush().await;
        Played { elapsed: started.elapsed(), cpu: thread_cpu() - cpu, received_bytes }
    }
}

async fn ping(end: &mut impl End, round_trips: u64) -> u64 {
    let mut received_bytes = 0;
    for _ in 0..round_trips {
        end.send(&BULK[..PING_BYTES]).await;
        received_bytes += end.receive().await.bytes as u64;
    }
    received_bytes
}

async fn echo(end: &mut impl End, round_trips: u64) -> u64 {
    let mut received_bytes = 0;
    for _ in 0..round_trips {
        received_bytes += end.receive().await.bytes as u64;
        end.send(&BULK[..PING_BYTES]).await;
    }
    received_bytes
}

/// Returns what the other end says it has received.
async fn send_bulk(end: &mut impl End, trains: u64) -> u64 {
    const TRAIN: u64 = TRAIN_BYTES as u64;
    let (mut sent, mut acknowledged_bytes) = (0, 0);
    while acknowledged_bytes < trains * TRAIN {
        let under_way = sent - acknowledged_bytes / TRAIN;
        let room = (trains - sent).min(WINDOW_TRAINS as u64 - under_way);
        end.send_trains(room as usize).await;
        sent += room;
        // Where several receives are in flight, the order of their ends is the runtime's.
        acknowledged_bytes = acknowledged_bytes.max(u64::from_le_bytes(end.receive().await.head));
    }
    acknowledged_bytes
}

async fn receive_bulk(end: &mut impl End, trains: u64) -> u64 {
    let total_bytes = trains * TRAIN_BYTES as u64;
    let (mut received_bytes, mut acknowledged_bytes) = (0, 0);
    while received_bytes < total_bytes {
        received_bytes += end.receive().await.bytes as u64;
        let is_due = received_bytes - acknowledged_bytes >= (ACK_TRAINS * TRAIN_BYTES) as u64;
        if is_due || received_bytes == total_bytes {
            end.send(&received_bytes.to_le_bytes()).await;
            acknowledged_bytes = received_bytes;
        }
    }
    received_bytes
}

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}
