//! Control messages of UDP sockets (`cmsg(3)`), read and written as plain bytes.
//!
//! The layout is the kernel's own: a `usize` length that counts the header, two `i32`, the data,
//! then padding to the word. Reading it from a slice keeps the whole codec in safe code.

use super::address::Family;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const WORD_BYTES: usize = size_of::<usize>();
const HEADER_BYTES: usize = WORD_BYTES + 8;

/// `in_pktinfo`: interface index, local address, destination in the header.
const PKTINFO_V4_BYTES: usize = 12;
/// `in6_pktinfo`: destination, interface index.
const PKTINFO_V6_BYTES: usize = 20;

/// Room for what one send may carry: segment size, source address, ECN.
pub(crate) const SEND_CONTROL_BYTES: usize =
    space(size_of::<u16>()) + space(PKTINFO_V6_BYTES) + space(size_of::<i32>());

/// Room for what one receive may carry on a dual-stack socket with every option on, and one
/// message of 32 bytes more, so that an option set by somebody else does not cut ours off.
pub(crate) const RECEIVE_CONTROL_BYTES: usize = 2 * space(size_of::<i32>())
    + space(size_of::<u8>())
    + space(PKTINFO_V4_BYTES)
    + space(PKTINFO_V6_BYTES)
    + space(32);

/// Returns the bytes one message with `data` bytes takes, padding included (`CMSG_SPACE`).
const fn space(data: usize) -> usize {
    HEADER_BYTES + data.next_multiple_of(WORD_BYTES)
}

/// What the kernel is told beside the payload of a send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SendControl {
    /// Whether the peer is IPv4 (v4-mapped counts): decides which options speak.
    pub(crate) peer_is_v4: bool,
    /// Source address to send from; ignored if its family is not the peer's.
    pub(crate) src_ip: Option<IpAddr>,
    /// The two ECN bits (RFC 3168).
    pub(crate) ecn: Option<u8>,
    /// Size of each datagram of a train (`UDP_SEGMENT`, udp(7)).
    pub(crate) segment_size: Option<u16>,
}

impl SendControl {
    /// Writes the messages; returns the length in use.
    pub(crate) fn encode(&self, control: &mut [u8; SEND_CONTROL_BYTES]) -> usize {
        let mut writer = Writer { control, len: 0 };
        if let Some(size) = self.segment_size {
            writer.push(libc::SOL_UDP, libc::UDP_SEGMENT, &size.to_ne_bytes());
        }
        if let Some(ecn) = self.ecn {
            let (level, kind) = if self.peer_is_v4 {
                (libc::IPPROTO_IP, libc::IP_TOS)
            } else {
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
            };
            writer.push(level, kind, &i32::from(ecn & 0b11).to_ne_bytes());
        }
        match (self.src_ip.map(|ip| ip.to_canonical()), self.peer_is_v4) {
            (Some(IpAddr::V4(source)), true) => {
                let mut data = [0; PKTINFO_V4_BYTES];
                data[4..8].copy_from_slice(&source.octets());
                writer.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &data);
            }
            (Some(IpAddr::V6(source)), false) => {
                let mut data = [0; PKTINFO_V6_BYTES];
                data[..16].copy_from_slice(&source.octets());
                writer.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &data);
            }
            _ => {}
        }
        writer.len
    }
}

struct Writer<'a> {
    control: &'a mut [u8; SEND_CONTROL_BYTES],
    len: usize,
}

impl Writer<'_> {
    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let message = &mut self.control[self.len..self.len + space(data.len())];
        message.fill(0);
        let len = HEADER_BYTES + data.len();
        message[..WORD_BYTES].copy_from_slice(&len.to_ne_bytes());
        message[WORD_BYTES..WORD_BYTES + 4].copy_from_slice(&level.to_ne_bytes());
        message[WORD_BYTES + 4..HEADER_BYTES].copy_from_slice(&kind.to_ne_bytes());
        message[HEADER_BYTES..len].copy_from_slice(data);
        self.len += message.len();
    }
}

/// What the kernel told beside the payload of a receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ReceiveControl {
    /// Destination address of the datagram, v4-mapped ones as IPv4.
    pub(crate) local_ip: Option<IpAddr>,
    /// The two ECN bits; 0 if the kernel said nothing.
    pub(crate) ecn: u8,
    /// Size of each datagram if several were joined (`UDP_GRO`, udp(7)).
    pub(crate) stride: Option<usize>,
}

impl ReceiveControl {
    /// Reads all messages; stops at the first that is cut short.
    pub(crate) fn decode(mut control: &[u8], family: Family) -> Self {
        let mut told = Self::default();
        while let Some((level, kind, data, rest)) = next_message(control) {
            told.apply(level, kind, data, family);
            control = rest;
        }
        told
    }

    fn apply(&mut self, level: i32, kind: i32, data: &[u8], family: Family) {
        match (level, kind) {
            (libc::SOL_UDP, libc::UDP_GRO) => {
                let stride = data.first_chunk().map(|raw| i32::from_ne_bytes(*raw));
                self.stride = stride.and_then(|size| usize::try_from(size).ok());
            }
            // The kernel passes the IPv4 byte as it stands and the IPv6 class as an int.
            (libc::IPPROTO_IP, libc::IP_TOS) => {
                self.ecn = data.first().map_or(0, |tos| tos & 0b11);
            }
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                let class = data.first_chunk().map(|raw| i32::from_ne_bytes(*raw));
                self.ecn = class.map_or(0, |class| (class & 0b11) as u8);
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) if family == Family::V4 => {
                let octets = data.get(8..).and_then(|rest| rest.first_chunk::<4>());
                self.local_ip = octets.map(|octets| Ipv4Addr::from(*octets).into());
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let octets = data.first_chunk::<16>();
                let ip = octets.map(|octets| IpAddr::from(Ipv6Addr::from(*octets)));
                self.local_ip = ip.map(|ip| ip.to_canonical());
            }
            _ => {}
        }
    }
}

/// Splits the first message off: level, kind, data, what follows.
fn next_message(control: &[u8]) -> Option<(i32, i32, &[u8], &[u8])> {
    let len = usize::from_ne_bytes(*control.first_chunk()?);
    let level = i32::from_ne_bytes(*control.get(WORD_BYTES..)?.first_chunk()?);
    let kind = i32::from_ne_bytes(*control.get(WORD_BYTES + 4..)?.first_chunk()?);
    let data = control.get(HEADER_BYTES..len)?;
    let next = len.next_multiple_of(WORD_BYTES).min(control.len());
    Some((level, kind, data, &control[next..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_send_fits_and_has_the_kernel_layout() {
        let control = SendControl {
            peer_is_v4: false,
            src_ip: Some("2001:db8::7".parse().expect("a literal")),
            ecn: Some(0b10),
            segment_size: Some(1452),
        };
        let mut bytes = [0xff; SEND_CONTROL_BYTES];
        let len = control.encode(&mut bytes);
        assert_eq!(len, SEND_CONTROL_BYTES);
        let (level, kind, data, rest) = next_message(&bytes).expect("a first message");
        assert_eq!((level, kind), (17, 103), "SOL_UDP and UDP_SEGMENT of linux/udp.h");
        assert_eq!(data, 1452_u16.to_ne_bytes());
        let told = ReceiveControl::decode(rest, Family::V6);
        assert_eq!(told.ecn, 0b10);
        assert_eq!(told.local_ip, control.src_ip);
    }

    #[test]
    fn a_source_of_the_other_family_is_left_out() {
        let control = SendControl {
            peer_is_v4: true,
            src_ip: Some("::1".parse().expect("a literal")),
            ecn: None,
            segment_size: None,
        };
        assert_eq!(control.encode(&mut [0; SEND_CONTROL_BYTES]), 0);
    }

    #[test]
    fn garbage_is_cut_off_not_read_past() {
        for control in [&[][..], &[0; 15], &[0; 16], &[0xff; 64], &[17, 0, 0, 0]] {
            let told = ReceiveControl::decode(control, Family::V4);
            assert_eq!(told, ReceiveControl::default());
        }
    }
}
