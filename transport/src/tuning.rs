//! The transport's numbers: windows, MTU, acknowledgements, time-outs, right for a LAN without tuning.
//!
//! Each constant says what it bounds and how it was chosen; `docs/design/0004-transport-numbers.md` has the figures.

use crate::node::Role;
use quinn_proto::congestion::CubicConfig;
use quinn_proto::{AckFrequencyConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use std::sync::Arc;
use std::time::Duration;

/// Flow-control window of one stream towards a client, in bytes: 10 Gbit/s x 10 ms is 12.5 MB, doubled so that a window update is never awaited.
pub const STREAM_WINDOW_BYTES: u32 = 32 << 20;
/// Flow-control window of one connection towards a client, in bytes: two full streams, which also bounds what a peer can make us hold.
pub const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
/// Flow-control window of a stream towards a host, in bytes: a request is at most 17 KiB. What a stranger can make a
/// host hold is bounded by it.
pub const HOST_STREAM_WINDOW_BYTES: u32 = 64 << 10;
/// Flow-control window of a connection towards a host, in bytes: every stream's request at once.
pub const HOST_CONNECTION_WINDOW_BYTES: u32 = STREAMS_MAX * (20 << 10);
/// Bytes one connection may have written and not acknowledged: one bandwidth-delay product of 10 Gbit/s x 10 ms plus slack
/// for whole chunks, which stay counted until their last byte is acknowledged.
pub const SEND_WINDOW_BYTES: u64 = 24 << 20;
/// Streams a client may have open at a host: one per request in flight. 256 covers FUSE's 64 background requests and the
/// deepest pipeline of `get`; it bounds the work one client can queue.
pub const STREAMS_MAX: u32 = 256;
/// First datagram size tried, UDP payload bytes: the IPv6 minimum of RFC 9000 §14, discovery raises it.
pub const MTU_INITIAL_BYTES: u16 = 1_200;
/// Largest datagram size discovery tries, UDP payload bytes: a 9000-byte interface less IPv6 and UDP headers, rounded down.
pub const MTU_MAX_BYTES: u16 = 8_952;
/// First guess of the round-trip time before a sample exists (RFC 9002 §6.2.2 says 333 ms, for the Internet).
pub const INITIAL_RTT: Duration = Duration::from_millis(10);
/// Initial congestion window, in bytes: what a 10 GbE LAN drains in 0.4 ms; paced, so no burst on a slower path.
pub const INITIAL_WINDOW_BYTES: u64 = 512 << 10;
/// Ack-eliciting packets between acknowledgements (draft-ietf-quic-ack-frequency): the sender's loop pays for each ACK.
pub const ACK_THRESHOLD: u32 = 20;
/// Longest an acknowledgement may be held back.
pub const ACK_DELAY_MAX: Duration = Duration::from_millis(2);
/// Packet-number gap that makes the peer acknowledge at once under ack frequency.
pub const ACK_REORDERING_THRESHOLD: u32 = 3;
/// Silence after which a connection is lost. Below the default bound on pending calls (10 s), so that a dead host is
/// known, and a reconnect begun, while the calls still wait.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(8);
/// Interval of keep-alive pings, client side: under a third of the idle timeout, so two may be lost.
pub const KEEP_ALIVE: Duration = Duration::from_millis(2_500);

const _: () = assert!(STREAM_WINDOW_BYTES <= CONNECTION_WINDOW_BYTES);
const _: () = assert!(KEEP_ALIVE.as_millis() * 3 <= IDLE_TIMEOUT.as_millis());
// quinn-proto's long header holds its length in a 2-byte varint.
const _: () = assert!(MTU_MAX_BYTES < 1 << 14);

/// What a node may set differently from the defaults above.
#[derive(Debug, Clone)]
pub struct Tuning {
    /// Largest datagram size tried, UDP payload bytes; `MTU_MAX_BYTES` unless a test needs a small path.
    pub mtu_max_bytes: u16,
    /// First datagram size tried, UDP payload bytes. A client that knows its interface's MTU starts there.
    pub mtu_initial_bytes: u16,
    /// Silence after which a connection is lost.
    pub idle_timeout: Duration,
    /// Interval of keep-alive pings, or none (hosts answer, clients ask).
    pub keep_alive: Option<Duration>,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            mtu_max_bytes: MTU_MAX_BYTES,
            mtu_initial_bytes: MTU_INITIAL_BYTES,
            idle_timeout: IDLE_TIMEOUT,
            keep_alive: None,
        }
    }
}

impl Tuning {
    /// Builds quinn-proto's configuration from these numbers.
    pub(crate) fn transport_config(&self, role: Role) -> TransportConfig {
        let (stream_window_bytes, connection_window_bytes) = match role {
            Role::Client => (STREAM_WINDOW_BYTES, CONNECTION_WINDOW_BYTES),
            Role::Host => (HOST_STREAM_WINDOW_BYTES, HOST_CONNECTION_WINDOW_BYTES),
        };
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(self.mtu_max_bytes);
        let mut acks = AckFrequencyConfig::default();
        acks.ack_eliciting_threshold(VarInt::from_u32(ACK_THRESHOLD));
        acks.max_ack_delay(Some(ACK_DELAY_MAX));
        acks.reordering_threshold(VarInt::from_u32(ACK_REORDERING_THRESHOLD));
        let mut cubic = CubicConfig::default();
        cubic.initial_window(INITIAL_WINDOW_BYTES);
        let idle = IdleTimeout::try_from(self.idle_timeout).expect("idle timeouts fit 62 bits of ms");

        let mut config = TransportConfig::default();
        config
            .stream_receive_window(VarInt::from_u32(stream_window_bytes))
            .receive_window(VarInt::from_u32(connection_window_bytes))
            .send_window(SEND_WINDOW_BYTES)
            .send_fairness(false)
            .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .initial_mtu(self.mtu_initial_bytes)
            .mtu_discovery_config(Some(discovery))
            .initial_rtt(INITIAL_RTT)
            .ack_frequency_config(Some(acks))
            .max_idle_timeout(Some(idle))
            .keep_alive_interval(self.keep_alive)
            .datagram_receive_buffer_size(None)
            .congestion_controller_factory(Arc::new(cubic));
        config
    }
}
