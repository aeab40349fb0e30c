//! tokio-uring 0.5. Its `sendmsg` takes control data, so trains can leave; no receive gives any, so that whoever turns
//! `UDP_GRO` on gets trains of a stride that nobody tells.

use super::conversation::{Arrived, BULK, End, Part, Played, STRIDE, Scene, Shape, TRAIN_BYTES, receive_bytes};
use futures_util::StreamExt as _;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use std::hint::black_box;
use std::net::SocketAddr;
use std::rc::Rc;
use tokio_uring::net::UdpSocket;

/// Sends in flight at most: as many as a shard's door has buffers.
const SENDS_MAX: usize = 64;

/// Receives in flight where a bulk comes in. A datagram wakes all of them, so more is not always better: beside 1, 4 and
/// 16 took more than a third off the receiver's CPU; 64 took a quarter off and put as much on the sender's.
const RECEIVES: usize = 8;

/// Plays a part in a runtime of its own, on the calling thread.
pub fn play(socket: std::net::UdpSocket, scene: &Scene) -> Played {
    tokio_uring::start(async {
        let mut end = Socket::new(UdpSocket::from_std(socket), scene);
        scene.play(&mut end).await
    })
}

struct Socket {
    socket: Rc<UdpSocket>,
    peer: SocketAddr,
    shape: Shape,
    /// Payload and control data of sends, to be used again.
    spare: Vec<(Vec<u8>, Vec<u8>)>,
    receives: FuturesUnordered<LocalBoxFuture<'static, (usize, Vec<u8>)>>,
}

impl Socket {
    fn new(socket: UdpSocket, scene: &Scene) -> Self {
        let Scene { peer, shape, .. } = *scene;
        let receives = FuturesUnordered::new();
        let mut end = Self { socket: Rc::new(socket), peer, shape, spare: Vec::new(), receives };
        let receives = if matches!(scene.part, Part::Receive) { RECEIVES } else { 1 };
        for _ in 0..receives {
            end.begin_receive(Vec::with_capacity(receive_bytes(shape)));
        }
        end
    }

    fn begin_receive(&mut self, buffer: Vec<u8>) {
        let socket = Rc::clone(&self.socket);
        self.receives.push(Box::pin(async move {
            let (result, buffer) = socket.recv_from(buffer).await;
            (result.expect("a datagram").0, buffer)
        }));
    }

    /// Sends `payload` as often as `times` says, many at once.
    async fn send_each(&mut self, payload: &[u8], times: usize, is_cut: bool) {
        let mut sends = FuturesUnordered::new();
        for _ in 0..times.min(SENDS_MAX) {
            let (mut bytes, control) = self.spare.pop().unwrap_or_else(|| (Vec::new(), segment_size_control()));
            bytes.clear();
            bytes.extend_from_slice(payload);
            sends.push(self.socket.sendmsg(vec![bytes], Some(self.peer), is_cut.then_some(control)));
        }
        while let Some((result, mut payloads, control)) = sends.next().await {
            assert_eq!(result.expect("a send"), payload.len());
            let bytes = payloads.pop().expect("what was lent");
            self.spare.push((bytes, control.unwrap_or_else(segment_size_control)));
        }
    }
}

impl End for Socket {
    async fn send(&mut self, datagram: &[u8]) {
        self.send_each(datagram, 1, false).await;
    }

    async fn send_trains(&mut self, trains: usize) {
        let send_bytes = self.shape.send_bytes();
        let mut left = trains * TRAIN_BYTES / send_bytes;
        while left > 0 {
            let times = left.min(SENDS_MAX);
            self.send_each(&BULK[..send_bytes], times, self.shape.is_cut()).await;
            left -= times;
        }
    }

    async fn receive(&mut self) -> Arrived {
        let (len, buffer) = self.receives.next().await.expect("some receives are always in flight");
        let arrived = Arrived::of(black_box(&buffer[..len]));
        self.begin_receive(buffer);
        arrived
    }
}

/// The control data that has the kernel cut a train (udp(7), `UDP_SEGMENT`; layout in cmsg(3)).
fn segment_size_control() -> Vec<u8> {
    const HEADER_BYTES: usize = size_of::<usize>() + 2 * size_of::<i32>();
    const SEGMENT_SIZE_BYTES: usize = size_of::<u16>();
    let mut control = Vec::with_capacity((HEADER_BYTES + SEGMENT_SIZE_BYTES).next_multiple_of(size_of::<usize>()));
    control.extend_from_slice(&(HEADER_BYTES + SEGMENT_SIZE_BYTES).to_ne_bytes());
    control.extend_from_slice(&nix::libc::SOL_UDP.to_ne_bytes());
    control.extend_from_slice(&nix::libc::UDP_SEGMENT.to_ne_bytes());
    control.extend_from_slice(&(STRIDE as u16).to_ne_bytes());
    control.resize(control.capacity(), 0);
    control
}
