//! Our ring, and epoll beneath the same trait. Nothing here ever waits outside of `turn`, so nothing is ever pending.

use super::conversation::{Arrived, BULK, End, Played, STRIDE, Scene, Shape, TRAIN_BYTES};
use engine::io::{Completion, Io, IoMode, IoOptions, TransmitTarget, Wait, open};
use std::collections::VecDeque;
use std::hint::black_box;
use std::net::{SocketAddr, UdpSocket};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// Plays a part behind one of our doors, on the calling thread.
pub fn play(mode: IoMode, socket: UdpSocket, scene: &Scene) -> Played {
    let io = open(mode, socket, IoOptions::STANDARD).expect("a door");
    let mut end = Door { io, peer: scene.peer, shape: scene.shape, inbox: VecDeque::new() };
    let scene = pin!(scene.play(&mut end));
    match scene.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(played) => played,
        Poll::Pending => unreachable!("a door waits in its turn"),
    }
}

struct Door {
    io: Box<dyn Io>,
    peer: SocketAddr,
    shape: Shape,
    inbox: VecDeque<Completion>,
}

impl Door {
    fn turn(&mut self, wait: Wait) {
        self.io.turn(wait, &|| false, &mut self.inbox).expect("a turn");
    }

    fn transmit(&mut self, payload: &[u8], segment_size: Option<usize>) {
        let mut buffer = loop {
            match self.io.transmit_buffer() {
                Some(buffer) => break buffer,
                None => self.turn(Wait::No),
            }
        };
        buffer.payload.extend_from_slice(payload);
        self.io.transmit(buffer, TransmitTarget { remote: self.peer, src_ip: None, ecn: None, segment_size });
    }
}

impl End for Door {
    async fn send(&mut self, datagram: &[u8]) {
        self.transmit(datagram, None);
    }

    async fn send_trains(&mut self, trains: usize) {
        let send_bytes = self.shape.send_bytes();
        for _ in 0..trains * TRAIN_BYTES / send_bytes {
            self.transmit(&BULK[..send_bytes], self.shape.is_cut().then_some(STRIDE));
        }
    }

    async fn receive(&mut self) -> Arrived {
        loop {
            match self.inbox.pop_front() {
                Some(Completion::Datagrams(datagrams)) => {
                    for datagram in datagrams.bytes.chunks(datagrams.stride) {
                        black_box(datagram);
                    }
                    return Arrived::of(&datagrams.bytes);
                }
                Some(Completion::FileRead { .. } | Completion::Readable | Completion::Woken) => {}
                None => self.turn(Wait::ForEvent),
            }
        }
    }

    async fn flush(&mut self) {
        self.turn(Wait::No);
    }
}
