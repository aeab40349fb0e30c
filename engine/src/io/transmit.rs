//! Transmit buffers, and trains the kernel will not cut for us.

use super::{DATAGRAM_TRAIN_BYTES_MAX, DATAGRAM_TRAIN_SEGMENTS_MAX, IoStats, TransmitErrors, TransmitTarget};
use crate::sys::address::Family;
use crate::sys::msg::{self, Envelope};
use crate::sys::ring::Train;
use std::io;
#[cfg(test)]
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

/// A buffer for one train: write datagrams to `payload`, then give it to
/// [`Io::transmit`](super::Io::transmit).
///
/// Dropping it instead is no leak of memory, but the door then lends one buffer less.
#[derive(Debug)]
pub struct TransmitBuffer {
    /// Empty when lent, with room for [`DATAGRAM_TRAIN_BYTES_MAX`] bytes.
    pub payload: Vec<u8>,
    envelope: Box<Envelope>,
}

impl TransmitBuffer {
    /// Addresses the payload.
    ///
    /// # Panics
    /// As [`Io::transmit`](super::Io::transmit) says.
    pub(super) fn into_train(self, target: TransmitTarget, stats: &IoStats) -> Train {
        let len = self.payload.len();
        assert!(
            (1..=DATAGRAM_TRAIN_BYTES_MAX).contains(&len),
            "a train has 1 to {DATAGRAM_TRAIN_BYTES_MAX} bytes, not {len}"
        );
        let several = target.segment_size.is_some_and(|size| {
            assert!(size > 0, "a datagram has at least one byte");
            let segments = len.div_ceil(size);
            assert!(
                segments <= DATAGRAM_TRAIN_SEGMENTS_MAX,
                "a train has up to {DATAGRAM_TRAIN_SEGMENTS_MAX} datagrams, not {segments}"
            );
            segments > 1
        });
        Train { payload: self.payload, envelope: self.envelope, target, segmented: several && stats.segmentation }
    }
}

/// The buffers of one shard, made when first needed, lent last-in first-out to stay in cache.
#[derive(Debug)]
pub(super) struct TransmitPool {
    unmade: usize,
    free: Vec<TransmitBuffer>,
}

impl TransmitPool {
    pub(super) fn new(buffers: u16) -> Self {
        Self { unmade: usize::from(buffers), free: Vec::with_capacity(usize::from(buffers)) }
    }

    pub(super) fn take(&mut self) -> Option<TransmitBuffer> {
        if let Some(buffer) = self.free.pop() {
            return Some(buffer);
        }
        self.unmade = self.unmade.checked_sub(1)?;
        Some(TransmitBuffer { payload: Vec::with_capacity(DATAGRAM_TRAIN_BYTES_MAX), envelope: Envelope::new() })
    }

    pub(super) fn put(&mut self, mut buffer: TransmitBuffer) {
        buffer.payload.clear();
        self.free.push(buffer);
    }

    pub(super) fn put_train(&mut self, train: Train) {
        self.put(TransmitBuffer { payload: train.payload, envelope: train.envelope });
    }

    /// A train of 66,100 bytes in datagrams of `stride`: past what [`TransmitBuffer::into_train`] lets through, so that a
    /// stride can be longer than any path takes.
    #[cfg(test)]
    pub(super) fn take_oversized(&mut self, remote: SocketAddr, stride: usize, stats: &IoStats) -> Train {
        let mut buffer = self.take().expect("a buffer");
        buffer.payload.resize(1_500, 1);
        let target = TransmitTarget { remote, src_ip: None, ecn: None, segment_size: Some(1_000) };
        let mut train = buffer.into_train(target, stats);
        train.payload.resize(66_100, 1);
        train.target.segment_size = Some(stride);
        train
    }
}

/// Returns whether `error` may mean that the kernel or device cannot cut trains.
///
/// `EIO`: no checksum offload on the way out. `EINVAL`: no `UDP_SEGMENT`, more than 64 datagrams
/// before Linux 6.9; but also other faults of a send, so the proof is that single datagrams go
/// ([`SentSingly::whole_stride`]).
pub(super) fn may_lack_segmentation(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL))
}

/// Sends the datagrams of `train` from byte `from` on one by one; returns the offset reached.
///
/// Stops early only for lack of room in the send buffer; other errors lose one datagram each and
/// are counted.
pub(super) fn send_singly(
    socket: BorrowedFd<'_>,
    family: Family,
    train: &mut Train,
    from: usize,
    errors: &mut TransmitErrors,
) -> SentSingly {
    let stride = train.target.segment_size.unwrap_or(train.payload.len());
    let mut sent = SentSingly { reached: from, taken_bytes: 0, whole_stride: false };
    for datagram in train.payload[from..].chunks(stride) {
        let target = &train.target;
        match msg::send(socket, &mut train.envelope, datagram, target, family, false) {
            Ok(_) => {
                sent.taken_bytes += datagram.len();
                sent.whole_stride |= datagram.len() == stride;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => errors.count(&error),
        }
        sent.reached += datagram.len();
    }
    sent
}

/// How far single sends came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SentSingly {
    /// Offset of the first datagram not tried.
    pub(super) reached: usize,
    /// Bytes the kernel took.
    pub(super) taken_bytes: usize,
    /// The kernel took a datagram as long as the train's stride: where it refused the train, cutting was at fault. A
    /// shorter one at the end proves nothing, for the stride may be what was refused: too long for the path.
    pub(super) whole_stride: bool,
}
