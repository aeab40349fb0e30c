//! Trains of datagrams on their way out, capped by bytes.

use super::ConnId;
use std::net::{IpAddr, SocketAddr};

/// Largest UDP payload the kernel takes in one send, segmented or not: 65,535 less IPv4 and UDP headers.
pub const TRAIN_BYTES_MAX: usize = 65_507;
/// Most segments in one train; Linux takes 128 (`UDP_MAX_SEGMENTS`), 44 fill 64 KiB at Ethernet's MTU.
pub const TRAIN_SEGMENTS_MAX: usize = 44;

/// How many datagrams of `mtu` bytes one train may hold: capped by bytes, for the kernel refuses more than 64 KiB.
pub(super) fn segments_max(mtu: u16) -> usize {
    (TRAIN_BYTES_MAX / usize::from(mtu.max(1))).clamp(1, TRAIN_SEGMENTS_MAX)
}

/// Where a train goes and how it is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transmit {
    /// The connection that sent it, or `None` for the endpoint's own answers.
    pub from: Option<ConnId>,
    /// Where to.
    pub remote: SocketAddr,
    /// The source address to use, where the peer's choice is known.
    pub src_ip: Option<IpAddr>,
    /// The two ECN bits to set.
    pub ecn: u8,
    /// Length of each segment but the last, in bytes; `None` for a single datagram.
    pub segment_size: Option<usize>,
}

impl Transmit {
    pub(super) fn new(from: Option<ConnId>, sent: &quinn_proto::Transmit) -> Self {
        Self {
            from,
            remote: sent.destination,
            src_ip: sent.src_ip,
            ecn: sent.ecn.map_or(0, |ecn| ecn as u8),
            segment_size: sent.segment_size,
        }
    }
}

/// An answer of the endpoint itself, waiting for a buffer.
pub(super) struct Response {
    transmit: Transmit,
    payload: Vec<u8>,
}

impl Response {
    pub(super) fn new(sent: &quinn_proto::Transmit, payload: &[u8]) -> Self {
        Self { transmit: Transmit::new(None, sent), payload: payload.to_vec() }
    }

    pub(super) fn into_transmit(self, payload: &mut Vec<u8>) -> Transmit {
        payload.extend_from_slice(&self.payload);
        self.transmit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trains_are_capped_by_bytes_then_by_count() {
        for (mtu, segments) in [(1_200, 44), (1_452, 44), (1_472, 44), (1_500, 43), (8_952, 7), (65_000, 1)] {
            assert_eq!(segments_max(mtu), segments, "MTU {mtu}");
            assert!(segments_max(mtu) * usize::from(mtu) <= TRAIN_BYTES_MAX);
        }
    }
}
