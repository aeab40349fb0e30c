//! glommio 0.9. Its UDP sockets know no control data, so a train's stride is an option of the socket (udp(7)), the same
//! for all that is sent, and that of a received train nobody tells.

use super::conversation::{Arrived, BULK, End, Played, STRIDE, Scene, Shape, TRAIN_BYTES, receive_bytes};
use glommio::net::UdpSocket;
use glommio::{LocalExecutorBuilder, Placement};
use nix::sys::socket::{setsockopt, sockopt};
use std::hint::black_box;
use std::net::SocketAddr;

/// Plays a part in an executor of its own, on the calling thread and CPU.
pub fn play(socket: std::net::UdpSocket, cpu: usize, scene: &Scene) -> Played {
    // Cuts all that this socket sends; acknowledgements are shorter than the stride and pass whole.
    if scene.shape.is_cut() {
        setsockopt(&socket, sockopt::UdpGsoSegment, &(STRIDE as i32)).expect("UDP_SEGMENT");
    }
    let executor = LocalExecutorBuilder::new(Placement::Fixed(cpu)).make();
    let executor = executor.expect("an executor; glommio wants 512 KiB of memory that may be locked, and io_uring");
    executor.run(async {
        let socket = UdpSocket::from(socket2::Socket::from(socket));
        let received = vec![0; receive_bytes(scene.shape)];
        let mut end = Socket { socket, peer: scene.peer, shape: scene.shape, payload: Vec::new(), received };
        scene.play(&mut end).await
    })
}

struct Socket {
    socket: UdpSocket,
    peer: SocketAddr,
    shape: Shape,
    payload: Vec<u8>,
    received: Vec<u8>,
}

impl End for Socket {
    async fn send(&mut self, datagram: &[u8]) {
        self.payload.clear();
        self.payload.extend_from_slice(datagram);
        let sent = self.socket.send_to(&self.payload, self.peer).await;
        assert_eq!(sent.expect("a send"), datagram.len());
    }

    async fn send_trains(&mut self, trains: usize) {
        let send_bytes = self.shape.send_bytes();
        for _ in 0..trains * TRAIN_BYTES / send_bytes {
            self.send(&BULK[..send_bytes]).await;
        }
    }

    async fn receive(&mut self) -> Arrived {
        let (len, _) = self.socket.recv_from(&mut self.received).await.expect("a datagram");
        Arrived::of(black_box(&self.received[..len]))
    }
}
