//! Socket addresses in the kernel's byte layout (`ip(7)`, `ipv6(7)`), read and written as plain bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Room for the larger of `sockaddr_in` (16 bytes) and `sockaddr_in6` (28 bytes).
pub(crate) const NAME_BYTES: usize = size_of::<libc::sockaddr_in6>();

const NAME_BYTES_V4: usize = size_of::<libc::sockaddr_in>();

const _: () = assert!(NAME_BYTES == 28 && NAME_BYTES_V4 == 16);

/// The address family a socket was opened with, which decides how peers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// `AF_INET`.
    V4,
    /// `AF_INET6`; IPv4 peers appear as `::ffff:a.b.c.d` on a dual-stack bind.
    V6,
}

impl Family {
    /// Returns the family of a socket bound to `local`.
    pub(crate) fn of(local: SocketAddr) -> Self {
        match local {
            SocketAddr::V4(_) => Self::V4,
            SocketAddr::V6(_) => Self::V6,
        }
    }
}

/// Writes `remote` as a socket of `family` expects it; returns the length in use.
///
/// An IPv4 peer of an IPv6 socket is written v4-mapped. A true IPv6 peer of an IPv4 socket is
/// written as it is: the kernel answers `EAFNOSUPPORT`, which is the honest error.
pub(crate) fn encode(remote: SocketAddr, family: Family, name: &mut [u8; NAME_BYTES]) -> usize {
    let remote = match (family, remote) {
        (Family::V6, SocketAddr::V4(v4)) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        (Family::V4, v6 @ SocketAddr::V6(_)) => canonical(v6),
        (_, as_is) => as_is,
    };
    name.fill(0);
    name[2..4].copy_from_slice(&remote.port().to_be_bytes());
    match remote {
        SocketAddr::V4(v4) => {
            name[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            name[4..8].copy_from_slice(&v4.ip().octets());
            NAME_BYTES_V4
        }
        SocketAddr::V6(v6) => {
            name[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            name[4..8].copy_from_slice(&v6.flowinfo().to_be_bytes());
            name[8..24].copy_from_slice(&v6.ip().octets());
            name[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
            NAME_BYTES
        }
    }
}

/// Reads the sender's address; `None` if the family is neither IPv4 nor IPv6 or bytes are missing.
///
/// A v4-mapped sender comes back as plain IPv4, so that one peer has one address.
pub(crate) fn decode(name: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*name.first_chunk()?);
    let port = u16::from_be_bytes(*name.get(2..)?.first_chunk()?);
    match i32::from(family) {
        libc::AF_INET => {
            let octets: [u8; 4] = *name.get(4..)?.first_chunk()?;
            Some(SocketAddrV4::new(Ipv4Addr::from(octets), port).into())
        }
        libc::AF_INET6 => {
            let flowinfo = u32::from_be_bytes(*name.get(4..)?.first_chunk()?);
            let octets: [u8; 16] = *name.get(8..)?.first_chunk()?;
            let scope_id = u32::from_ne_bytes(*name.get(24..)?.first_chunk()?);
            let v6 = SocketAddrV6::new(Ipv6Addr::from(octets), port, flowinfo, scope_id);
            Some(canonical(v6.into()))
        }
        _ => None,
    }
}

/// Returns a v4-mapped address as IPv4 and every other one unchanged.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::new(v4.into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(remote: &str, family: Family) -> (usize, Option<SocketAddr>) {
        let mut name = [0xff; NAME_BYTES];
        let len = encode(remote.parse().expect("a literal"), family, &mut name);
        (len, decode(&name[..len]))
    }

    #[test]
    fn each_family_round_trips() {
        for (remote, family, len) in [
            ("10.1.2.3:4433", Family::V4, 16),
            ("10.1.2.3:4433", Family::V6, 28),
            ("[2001:db8::1]:80", Family::V6, 28),
            ("[fe80::1%7]:80", Family::V6, 28),
        ] {
            let expected = (len, Some(remote.parse().expect("a literal")));
            assert_eq!(round_trip(remote, family), expected, "{remote} {family:?}");
        }
    }

    #[test]
    fn a_mapped_peer_is_written_plain_on_an_ipv4_socket() {
        let expected = (16, Some("10.0.0.9:1".parse().expect("a literal")));
        assert_eq!(round_trip("[::ffff:10.0.0.9]:1", Family::V4), expected);
    }

    #[test]
    fn short_or_foreign_names_are_refused() {
        assert_eq!(decode(&[]), None);
        assert_eq!(decode(&(libc::AF_UNIX as u16).to_ne_bytes()), None);
        let mut name = [0; NAME_BYTES];
        encode("[::1]:1".parse().expect("a literal"), Family::V6, &mut name);
        assert_eq!(decode(&name[..27]), None);
    }
}
