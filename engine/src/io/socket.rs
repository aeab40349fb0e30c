//! UDP sockets fit for QUIC: DF set, trains joined, addresses and ECN reported, steered by shard.

use crate::sys::address::{Family, canonical};
use crate::sys::option;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU16;
use std::os::fd::{AsFd, OwnedFd};

/// Bytes asked for in each direction: 5.9 ms of 10 Gb/s, longer than a shard is ever away from
/// its socket. The kernel doubles it for its own overhead; without `CAP_NET_ADMIN` it is cut to
/// `net.core.rmem_max`.
const SOCKET_BUFFER_BYTES: i32 = 7 << 20;

/// Binds one socket per shard to `address`; the n-th belongs to shard n.
///
/// With more than one the port is shared and each datagram goes to the shard its connection id
/// names: first byte of the destination id, modulo `shards`. Whoever issues connection ids must
/// choose that byte accordingly. The order is the order of binding, so no socket may be closed
/// and bound again on its own: the kernel moves the last one into the gap.
///
/// Port 0 lets the kernel choose one port for all. An IPv6 wildcard takes IPv4 as well.
///
/// # Errors
/// What socket(2), setsockopt(2) and bind(2) say; `EADDRINUSE` is the usual one.
pub fn bind_group(address: SocketAddr, shards: NonZeroU16) -> io::Result<Vec<UdpSocket>> {
    let shared = shards.get() > 1;
    let mut address = address;
    let mut sockets = Vec::with_capacity(usize::from(shards.get()));
    for shard in 0..shards.get() {
        let socket = bind_one(address, shared)?;
        if shared && shard == 0 {
            // Before the second one is bound, so that no datagram is ever spread by hash.
            option::steer_by_connection_id(socket.as_fd(), shards)?;
            address.set_port(socket.local_addr()?.port());
        }
        sockets.push(socket);
    }
    Ok(sockets)
}

/// Binds a socket of its own to talk to all of `remotes`, any port: IPv4, or IPv6 that takes IPv4 as well where one
/// of them is IPv6.
///
/// Not connected, so that one socket can try several candidates of a peer and survive its
/// migration. On a machine without IPv6 the IPv4 ones are still tried.
///
/// # Errors
/// As [`bind_group`].
pub fn bind_client(remotes: &[SocketAddr]) -> io::Result<UdpSocket> {
    let any_v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let is_v4 = |remote: &SocketAddr| canonical(*remote).is_ipv4();
    if remotes.iter().all(is_v4) {
        return bind_one(any_v4, false);
    }
    match bind_one(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)), false) {
        Err(error) if remotes.iter().any(is_v4) => {
            tracing::debug!(%error, "no IPv6 here; only IPv4 addresses are tried");
            bind_one(any_v4, false)
        }
        bound => bound,
    }
}

fn bind_one(address: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let family = Family::of(address);
    let domain = match family {
        Family::V4 => AddressFamily::INET,
        Family::V6 => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC;
    let socket: OwnedFd = socket_with(domain, SocketType::DGRAM, flags, Some(ipproto::UDP))?;
    let fd = socket.as_fd();
    if shared {
        option::share_port(fd)?;
    }
    if family == Family::V6 && address.ip().is_unspecified() {
        option::set_dual_stack(fd)?;
    }
    option::probe_path(fd, family)?;
    option::report_local_ip(fd, family)?;
    option::report_ecn(fd, family)?;
    option::size_buffers(fd, SOCKET_BUFFER_BYTES)?;
    if let Err(error) = option::join_datagrams(fd) {
        tracing::warn!(%error, "UDP_GRO is not available; each datagram is received alone");
    }
    bind(fd, &address)?;
    Ok(socket.into())
}
