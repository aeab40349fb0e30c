//! The MTU of this machine's own interfaces, as iproute2 tells it: what a real link carries, where nobody says.

use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::lab::MTU_MAX;

/// The MTU of the interface that has the address `bind`; for an unspecified one, what all interfaces but loopback agree
/// on.
///
/// # Errors
/// If no interface has the address, or the interfaces differ.
pub fn serving(bind: IpAddr) -> anyhow::Result<u32> {
    serving_of(&ip(&["addr", "show", "up"])?, bind)
}

/// The MTU of the way to `target`: the route's own, or that of the interface it leaves by.
///
/// # Errors
/// If there is no route.
pub fn towards(target: IpAddr) -> anyhow::Result<u32> {
    towards_of(&ip(&["route", "get", &target.to_string()])?, |device| ip(&["link", "show", "dev", device]))
}

fn serving_of(interfaces: &Value, bind: IpAddr) -> anyhow::Result<u32> {
    // iproute2 leaves empty objects where its filter left something out.
    let all = interfaces.as_array().context("ip printed no list")?;
    let has = |interface: &Value, wanted: &dyn Fn(IpAddr) -> bool| {
        let addresses = interface["addr_info"].as_array().into_iter().flatten();
        addresses.filter_map(|address| address["local"].as_str()?.parse().ok()).any(wanted)
    };
    let is_wanted = |address: IpAddr| if bind.is_unspecified() { !address.is_loopback() } else { address == bind };
    let mut found: Vec<u32> =
        all.iter().filter(|interface| has(interface, &is_wanted)).map(mtu_of).collect::<anyhow::Result<_>>()?;
    found.sort_unstable();
    found.dedup();
    ensure!(found.len() < 2, "the interfaces have the MTUs {found:?}; say --mtu, or one address with --bind");
    found.first().copied().with_context(|| format!("no interface has the address {bind}; say --mtu"))
}

fn towards_of(routes: &Value, link: impl FnOnce(&str) -> anyhow::Result<Value>) -> anyhow::Result<u32> {
    let route = &routes[0];
    if route["metrics"][0]["mtu"].is_u64() {
        return mtu_of(&route["metrics"][0]);
    }
    let device = route["dev"].as_str().context("ip printed a route without a device")?;
    mtu_of(&link(device)?[0])
}

/// The field `mtu`; loopback's 65,536 is cut to what an IPv4 packet can hold.
fn mtu_of(object: &Value) -> anyhow::Result<u32> {
    let mtu = object["mtu"].as_u64().context("ip printed no MTU")?;
    Ok(u32::try_from(mtu)?.min(MTU_MAX))
}

fn ip(arguments: &[&str]) -> anyhow::Result<Value> {
    let output =
        Command::new("ip").arg("-json").args(arguments).output().context("cannot run ip (package iproute2)")?;
    let line = arguments.join(" ");
    ensure!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr).trim());
    serde_json::from_slice(&output.stdout).with_context(|| format!("ip {line} printed no JSON"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn interface(name: &str, mtu: u32, address: &str) -> Value {
        json!({"ifname": name, "mtu": mtu, "addr_info": [{"family": "inet", "local": address}]})
    }

    fn served(interfaces: &[Value], bind: &str) -> Option<u32> {
        serving_of(&json!(interfaces), bind.parse().unwrap()).ok()
    }

    #[test]
    fn an_address_has_the_mtu_of_its_interface() {
        let lo = interface("lo", 65_536, "127.0.0.1");
        let jumbo = interface("eth0", 9000, "10.0.0.1");
        let plain = interface("eth1", 1500, "10.1.0.1");
        let all = [lo.clone(), json!({}), jumbo.clone(), plain];
        assert_eq!(served(&all, "10.0.0.1"), Some(9000));
        assert_eq!(served(&all, "10.1.0.1"), Some(1500));
        assert_eq!(served(&all, "127.0.0.1"), Some(MTU_MAX));
        assert_eq!(served(&all, "10.2.0.1"), None);
        // Nobody can say which of the two a client will come by.
        assert_eq!(served(&all, "0.0.0.0"), None);
        assert_eq!(served(&[lo.clone(), jumbo.clone(), jumbo], "0.0.0.0"), Some(9000));
        assert_eq!(served(&[lo], "0.0.0.0"), None);
    }

    #[test]
    fn a_route_may_have_an_mtu_of_its_own() {
        let link = |device: &str| Ok(json!([{"ifname": device, "mtu": 9000}]));
        assert_eq!(towards_of(&json!([{"dev": "eth0"}]), link).unwrap(), 9000);
        assert_eq!(towards_of(&json!([{"dev": "eth0", "metrics": [{"mtu": 1400}]}]), link).unwrap(), 1400);
        assert!(towards_of(&json!([]), link).is_err());
    }

    #[test]
    fn loopback_is_the_same_from_both_sides() {
        let loopback = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
        assert_eq!((serving(loopback).unwrap(), towards(loopback).unwrap()), (MTU_MAX, MTU_MAX));
    }
}
