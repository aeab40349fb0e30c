//! Where a host listens: a name or an IP address, and a port.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// The UDP port of a host that was given without one.
pub const DEFAULT_PORT: u16 = 4433;

/// Longest host name in bytes (RFC 1035 §2.3.4).
pub const HOST_NAME_BYTES_MAX: usize = 253;

/// Longest label of a host name in bytes (RFC 1035 §2.3.4).
const LABEL_BYTES_MAX: usize = 63;

/// Most digits of a port.
const PORT_DIGITS_MAX: usize = 5;

/// A machine, by name or by address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A name to be resolved, in lower case; letters, digits, dashes, dots and underscores.
    Name(String),
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address, written in brackets; zone ids are not accepted.
    V6(Ipv6Addr),
}

impl Host {
    /// Reads a host without its port; an IPv6 address must stand in brackets.
    pub(crate) fn parse(text: &str) -> Result<Self, HostAddressError> {
        if let Some(rest) = text.strip_prefix('[') {
            let inside = rest.strip_suffix(']').ok_or(HostAddressError::Brackets)?;
            return inside.parse().map(Self::V6).map_err(|_| HostAddressError::Brackets);
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::V4(address));
        }
        if is_host_name(text) { Ok(Self::Name(text.to_ascii_lowercase())) } else { Err(HostAddressError::Host) }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::V4(address) => address.fmt(f),
            Self::V6(address) => write!(f, "[{address}]"),
        }
    }
}

/// A host and its UDP port. `Display` always writes the port, and what it writes parses back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostAddress {
    /// The machine.
    pub host: Host,
    /// Its UDP port, never 0.
    pub port: u16,
}

impl HostAddress {
    /// The address as a socket address, when no name must be resolved.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        let ip = match &self.host {
            Host::Name(_) => return None,
            Host::V4(address) => IpAddr::V4(*address),
            Host::V6(address) => IpAddr::V6(*address),
        };
        Some(SocketAddr::new(ip, self.port))
    }
}

impl From<SocketAddr> for HostAddress {
    /// Takes address and port; an IPv4-mapped IPv6 address becomes IPv4, a scope id is dropped.
    fn from(address: SocketAddr) -> Self {
        let host = match address.ip().to_canonical() {
            IpAddr::V4(ip) => Host::V4(ip),
            IpAddr::V6(ip) => Host::V6(ip),
        };
        Self { host, port: address.port() }
    }
}

impl FromStr for HostAddress {
    type Err = HostAddressError;

    /// Reads `HOST[:PORT]`, `[IPV6][:PORT]`; without a port it is [`DEFAULT_PORT`].
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.parse::<Ipv6Addr>().is_ok() {
            return Err(HostAddressError::Ipv6WithoutBrackets);
        }
        let host_end = match text.find(']') {
            Some(bracket) => bracket + 1,
            None => text.find(':').unwrap_or(text.len()),
        };
        let (host, rest) = text.split_at(host_end);
        let host = Host::parse(host)?;
        let port = match rest.strip_prefix(':') {
            Some(digits) => parse_port(digits)?,
            None if rest.is_empty() => DEFAULT_PORT,
            None => return Err(HostAddressError::Brackets),
        };
        Ok(Self { host, port })
    }
}

impl fmt::Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Why a text names no host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostAddressError {
    /// Neither an address nor a well-formed host name.
    #[error("not a host: give a name such as studio.example, an IPv4 address, or an IPv6 address in brackets")]
    Host,
    /// The brackets do not enclose an IPv6 address.
    #[error("brackets enclose an IPv6 address without a zone, as in [fd00::1]:4433")]
    Brackets,
    /// An IPv6 address stands bare, so its port could not be told apart.
    #[error("an IPv6 address must stand in brackets, as in [fd00::1]:4433")]
    Ipv6WithoutBrackets,
    /// The port is not a number between 1 and 65535.
    #[error("the port must be a number between 1 and 65535")]
    Port,
}

/// Reads a port of decimal digits, never 0.
pub(crate) fn parse_port(digits: &str) -> Result<u16, HostAddressError> {
    if digits.len() > PORT_DIGITS_MAX || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(HostAddressError::Port);
    }
    digits.parse().ok().filter(|&port| port != 0).ok_or(HostAddressError::Port)
}

/// Whether `text` may be looked up: RFC 1123 §2.1 names, underscores allowed, a final dot too, but
/// no name of digits and dots alone, which resolvers take for an odd IPv4 address.
fn is_host_name(text: &str) -> bool {
    let rooted = text.strip_suffix('.').unwrap_or(text);
    let label_is_good = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && !label.starts_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    text.len() <= HOST_NAME_BYTES_MAX
        && rooted.split('.').all(label_is_good)
        && !rooted.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Any host address.
    pub(crate) fn any_host_address() -> impl Strategy<Value = HostAddress> {
        let name = "[a-z_][a-z0-9_-]{0,20}(\\.[a-z0-9]{1,9}){0,3}\\.?".prop_map(Host::Name);
        let host = prop_oneof![
            name,
            any::<u32>().prop_map(|bits| Host::V4(Ipv4Addr::from_bits(bits))),
            any::<u128>().prop_map(|bits| Host::V6(Ipv6Addr::from_bits(bits))),
        ];
        (host, 1..=u16::MAX).prop_map(|(host, port)| HostAddress { host, port })
    }

    #[test]
    fn hosts_and_ports_are_told_apart() {
        let parse = |text: &str| text.parse::<HostAddress>().map(|address| address.to_string());
        assert_eq!(parse("Studio.example").unwrap(), "studio.example:4433");
        assert_eq!(parse("10.0.0.1:99").unwrap(), "10.0.0.1:99");
        assert_eq!(parse("[fd00::1]").unwrap(), "[fd00::1]:4433");
        assert_eq!(parse("[fd00::1]:1").unwrap(), "[fd00::1]:1");
        assert_eq!(parse("fd00::1"), Err(HostAddressError::Ipv6WithoutBrackets));
        assert_eq!(parse("[fd00::1]x"), Err(HostAddressError::Brackets));
        assert_eq!(parse("[fe80::1%eth0]"), Err(HostAddressError::Brackets));
        assert_eq!(parse("[10.0.0.1]"), Err(HostAddressError::Brackets));
        for port in ["", "0", "65536", "000080", "+1", "4x"] {
            assert_eq!(parse(&format!("h:{port}")), Err(HostAddressError::Port), "{port}");
        }
        for host in ["", ".", "a..b", "-a", "a b", "ä", "7", "1.2.3", &"a".repeat(64)] {
            assert_eq!(parse(host), Err(HostAddressError::Host), "{host}");
        }
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_one() {
        let address: SocketAddr = "[::ffff:10.0.0.1]:7".parse().unwrap();
        assert_eq!(HostAddress::from(address).to_string(), "10.0.0.1:7");
        assert_eq!(HostAddress::from(address).socket_addr(), "10.0.0.1:7".parse().ok());
    }

    proptest! {
        #[test]
        fn what_is_written_parses_back(address in any_host_address()) {
            prop_assert_eq!(address.to_string().parse(), Ok(address));
        }

        #[test]
        fn any_text_parses_or_fails(text in "\\PC{0,40}|[\\[\\]:.0-9a-f%]{0,40}") {
            if let Ok(address) = text.parse::<HostAddress>() {
                prop_assert_eq!(address.to_string().parse(), Ok(address));
            }
        }
    }
}
