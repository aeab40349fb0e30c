//! Socket options of a QUIC socket, one named function each.

use super::address::Family;
use std::io;
use std::num::NonZeroU16;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Lets several sockets share one port (socket(7), `SO_REUSEPORT`).
pub(crate) fn share_port(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_int(socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)
}

/// Lets a wildcard IPv6 bind take IPv4 too (ipv6(7), `IPV6_V6ONLY`).
pub(crate) fn set_dual_stack(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0)
}

/// Sets DF and ignores the kernel's own path MTU guess: QUIC does its discovery (RFC 9000 §14).
///
/// An IPv6 socket gets the IPv4 option as well, for its v4-mapped peers.
pub(crate) fn probe_path(socket: BorrowedFd<'_>, family: Family) -> io::Result<()> {
    if family == Family::V6 {
        let probe = libc::IPV6_PMTUDISC_PROBE;
        set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, probe)?;
    }
    let probe = libc::IP_PMTUDISC_PROBE;
    set_int(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, probe)
}

/// Asks for the destination address of each datagram.
pub(crate) fn report_local_ip(socket: BorrowedFd<'_>, family: Family) -> io::Result<()> {
    match family {
        Family::V4 => set_int(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1),
        Family::V6 => set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1),
    }
}

/// Asks for the ECN bits of each datagram, v4-mapped ones included.
pub(crate) fn report_ecn(socket: BorrowedFd<'_>, family: Family) -> io::Result<()> {
    if family == Family::V6 {
        set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
    }
    set_int(socket, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)
}

/// Lets the kernel join consecutive datagrams of one flow (udp(7), `UDP_GRO`; Linux 5.0).
pub(crate) fn join_datagrams(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_int(socket, libc::SOL_UDP, libc::UDP_GRO, 1)
}

/// Sizes both buffers, beyond `rmem_max` and `wmem_max` where the process may (`CAP_NET_ADMIN`).
pub(crate) fn size_buffers(socket: BorrowedFd<'_>, bytes: i32) -> io::Result<()> {
    for (forced, plain) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)] {
        if set_int(socket, libc::SOL_SOCKET, forced, bytes).is_err() {
            set_int(socket, libc::SOL_SOCKET, plain, bytes)?;
        }
    }
    Ok(())
}

/// Steers each datagram of a `SO_REUSEPORT` group by its QUIC connection id.
///
/// ```text
///   byte 0 >= 0x80 (long header):  member = byte 6 mod members   first byte of the DCID
///   else           (short header): member = byte 1 mod members   first byte of the DCID
/// ```
///
/// Members count in the order they were bound. The program sees the UDP payload from offset 0; a
/// byte past its end reads as member 0 (the filter machine returns 0 there). Source: RFC 8999
/// §5, socket(7) `SO_ATTACH_REUSEPORT_CBPF`, which needs no privilege.
pub(crate) fn steer_by_connection_id(socket: BorrowedFd<'_>, members: NonZeroU16) -> io::Result<()> {
    let load_byte = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    let jump_if_set = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
    let modulo = (libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K) as u16;
    let jump = (libc::BPF_JMP | libc::BPF_JA) as u16;
    let return_a = (libc::BPF_RET | libc::BPF_A) as u16;
    let instruction = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        instruction(load_byte, 0, 0, 0),
        instruction(jump_if_set, 0, 2, 0x80),
        instruction(load_byte, 0, 0, 6),
        instruction(jump, 0, 0, 1),
        instruction(load_byte, 0, 0, 1),
        instruction(modulo, 0, 0, u32::from(members.get())),
        instruction(return_a, 0, 0, 0),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: `program` and the instructions it points at are locals that outlive the call, its
    // length is theirs, and the kernel copies them before it returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    checked(result)
}

/// Sends without UDP checksums (socket(7), `SO_NO_CHECK`), which forbids `UDP_SEGMENT`.
#[cfg(test)]
pub(crate) fn disable_checksums(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_int(socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1)
}

fn set_int(socket: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: `value` is a local that outlives the call and the length passed is its size; the
    // kernel copies it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    checked(result)
}

fn checked(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
