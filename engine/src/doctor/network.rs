//! Socket buffers, interfaces and the port of a host.

use std::fs;

use super::{Finding, Surroundings};

/// Bytes of socket buffer that one shard asks for in each direction: 5 ms at 10 Gbit/s, rounded up.
const BUFFER_BYTES_WANTED: u64 = 7 << 20;

/// Interfaces that are listed; a machine with more has virtual ones, of which a sample is enough.
const INTERFACES_MAX: usize = 16;

/// Smallest MTU with which IPv6 and QUIC work (RFC 8200 §5, RFC 9000 §14).
const MTU_MIN: u64 = 1280;

pub(super) fn buffers(surroundings: &Surroundings<'_>) -> Vec<Finding> {
    [("receive buffer", "rmem_max"), ("send buffer", "wmem_max")]
        .into_iter()
        .filter_map(|(name, knob)| {
            let bytes = surroundings.read_number(format!("/proc/sys/net/core/{knob}"))?;
            Some(if bytes >= BUFFER_BYTES_WANTED {
                Finding::ok(name, format!("net.core.{knob} allows {bytes} bytes"))
            } else if surroundings.uid == 0 {
                Finding::ok(name, format!("net.core.{knob} allows {bytes} bytes; root may go beyond"))
            } else {
                Finding::warn(
                    name,
                    format!("net.core.{knob} allows {bytes} bytes, too few for 10 Gbit/s"),
                    format!("sudo sysctl -w net.core.{knob}={BUFFER_BYTES_WANTED}"),
                )
            })
        })
        .collect()
}

pub(super) fn interfaces(surroundings: &Surroundings<'_>) -> Vec<Finding> {
    let name = "interface";
    let mut names: Vec<String> = fs::read_dir(surroundings.path("/sys/class/net"))
        .map(|entries| entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
        .unwrap_or_default();
    names.sort();
    names.retain(|interface| {
        let state = surroundings.read(format!("/sys/class/net/{interface}/operstate"));
        // Loopback and point-to-point devices say "unknown" although they work.
        matches!(state.as_deref(), Some("up" | "unknown"))
    });
    if names.is_empty() {
        return vec![Finding::warn(name, "no network interface is up", "ip link show; sudo ip link set NAME up")];
    }
    let mut findings: Vec<Finding> = names
        .iter()
        .take(INTERFACES_MAX)
        .filter_map(|interface| {
            let mtu = surroundings.read_number(format!("/sys/class/net/{interface}/mtu"))?;
            Some(if mtu >= MTU_MIN {
                Finding::ok(name, format!("{interface}: up, MTU {mtu}"))
            } else {
                Finding::fail(
                    name,
                    format!("{interface}: MTU {mtu} is below {MTU_MIN}, too small for QUIC"),
                    format!("sudo ip link set {interface} mtu 1500"),
                )
            })
        })
        .collect();
    if names.len() > INTERFACES_MAX {
        findings.push(Finding::ok(name, format!("{} more are up", names.len() - INTERFACES_MAX)));
    }
    findings
}

pub(super) fn port(surroundings: &Surroundings<'_>) -> Finding {
    let name = "port";
    let port = surroundings.port;
    let in_use = ["/proc/net/udp", "/proc/net/udp6"]
        .into_iter()
        .filter_map(|table| surroundings.read(table))
        .any(|table| table.lines().filter_map(parse_local_port).any(|p| p == port));
    if in_use {
        Finding::warn(
            name,
            format!("UDP port {port} is in use, maybe by a running host"),
            format!("wormhole status; `ss -ulpn sport = :{port}` names the program; or host with --bind 0.0.0.0:PORT"),
        )
    } else {
        Finding::ok(name, format!("UDP port {port} is free"))
    }
}

/// The local port in one row of /proc/net/udp, proc_net_udp: `sl local_address rem_address …` in hex.
fn parse_local_port(row: &str) -> Option<u16> {
    let local = row.split_whitespace().nth(1)?;
    let (_, port) = local.rsplit_once(':')?;
    u16::from_str_radix(port, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_hexadecimal() {
        let row = "  42: 0100007F:1151 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2";
        assert_eq!(parse_local_port(row), Some(4433));
        let head = "   sl  local_address rem_address   st tx_queue rx_queue";
        assert_eq!(parse_local_port(head), None);
    }
}
