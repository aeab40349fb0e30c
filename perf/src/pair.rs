//! Two real machines: one serves, the other measures against it with the same report.
//!
//! `perf serve` hosts a fixture with Wormhole and starts the servers of the peers it has. Everything the other side
//! needs to know of them stands in a file of the share itself, so that it travels through Wormhole's own authenticated
//! connection; the join code is all that goes from hand to hand. The peers' servers send the public pattern and know
//! nothing else.
//!
//! The sender's CPU time is not measured: its programs are out of reach.

use std::fs;
use std::io::{BufRead as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs as _, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use crate::arguments::Mode;
use crate::cpu_time::{self, CpuTime};
use crate::fixture::{self, Fixture};
use crate::interface;
use crate::lab::{End, Lab};
use crate::machine;
use crate::mounts;
use crate::peers;
use crate::process::{Process, SocketKind};
use crate::quinn_peer::{self, Identity, Variant};
use crate::report::{OURS, Report, Row, Unit};
use crate::s2n_peer;
use crate::sample::Sample;
use crate::suite::mounter::{STEP_LIMIT, drop_kernel_caches};
use crate::suite::transport::{START_LIMIT, iperf3_client, iperf3_result, iperf3_server, share};
use crate::suite::{Contender, Entry, Plan, RUN_LIMIT, Run, alternate, grain, mount, row};
use crate::wormhole::{self, CODE_VARIABLE};

/// The manifest's name in the share.
const MANIFEST: &str = "perf.json";

/// The longest manifest that is read: ten times what a few peers and their certificates take.
pub const MANIFEST_BYTES_MAX: usize = 64 << 10;

/// The version of the manifest; another one is refused.
const VERSION: u64 = 1;

/// How long a server stays at most, so that a forgotten one goes.
const SERVE_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

/// One of the peers of a serving machine.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Peer {
    name: &'static str,
    port: u16,
    /// DER, for those that have one.
    certificate: Option<Vec<u8>>,
}

/// What the measuring side must know.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Manifest {
    mtu: u32,
    bytes: u64,
    hash: blake3::Hash,
    peers: Vec<Peer>,
    /// Peers that could not be started, each with the reason.
    left_out: Vec<(String, String)>,
}

/// The peers that serve on their own; iperf3 only where it is installed.
const PEERS: [&str; 4] = ["s2n-quic", "quinn", "quinn-ack-frequency", "iperf3"];

impl Manifest {
    fn to_json(&self) -> Value {
        let peer = |peer: &Peer| json!({ "name": peer.name, "port": peer.port, "certificate": peer.certificate });
        json!({
            "version": VERSION,
            "mtu": self.mtu,
            "bytes": self.bytes,
            "hash": self.hash.to_hex().as_str(),
            "peers": self.peers.iter().map(peer).collect::<Vec<_>>(),
            "left_out": self.left_out,
        })
    }

    /// Reads what another machine wrote. Peers this program does not know are left out.
    fn from_json(text: &str) -> anyhow::Result<Self> {
        let value: Value = serde_json::from_str(text).context("the manifest is no JSON")?;
        let version = value["version"].as_u64().context("the manifest has no version")?;
        ensure!(version == VERSION, "the other side's manifest is version {version}, this program's {VERSION}");
        let number = |key: &str| value[key].as_u64().with_context(|| format!("the manifest has no {key}"));
        let listed = value["peers"].as_array().context("the manifest has no peers")?;
        let peers = listed
            .iter()
            .filter_map(|peer| Some((*PEERS.iter().find(|&&name| peer["name"] == name)?, peer)))
            .map(|(name, peer)| {
                let port = peer["port"].as_u64().context("a peer has no port")?;
                let certificate = match &peer["certificate"] {
                    Value::Null => None,
                    value => Some(serde_json::from_value(value.clone()).context("a certificate is bytes")?),
                };
                Ok(Peer { name, port: u16::try_from(port)?, certificate })
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let hash = value["hash"].as_str().context("the manifest has no hash")?;
        let left_out = match &value["left_out"] {
            // Of an older release.
            Value::Null => Vec::new(),
            listed => serde_json::from_value(listed.clone()).context("who is left out is a list of pairs")?,
        };
        Ok(Self { mtu: u32::try_from(number("mtu")?)?, bytes: number("bytes")?, hash: hash.parse()?, peers, left_out })
    }
}

/// Serves a fixture with Wormhole and the peers until the host ends or a day has passed; a signal ends it at once.
///
/// The peers are told `mtu`, or that of the interface that `bind` names. One that cannot be started, for instance because
/// its port is taken, is left out with its reason.
///
/// # Errors
/// If the MTU cannot be found out, or our host cannot be started or ends.
pub fn serve(bind: SocketAddr, mtu: Option<u32>, plan: Plan) -> anyhow::Result<()> {
    let mtu = mtu.map_or_else(|| interface::serving(bind.ip()), Ok)?;
    let lab = Lab::on_this_machine(bind.ip())?;
    let fixture = Fixture::create(plan.bytes)?;
    let mut peers = Vec::new();
    let mut servers = Vec::new();
    let mut left_out = Vec::new();
    for name in PEERS {
        if !peers::peer(name).missing_packages().is_empty() {
            continue;
        }
        match start(&lab, name, mtu, plan.bytes) {
            Ok((peer, server)) => {
                peers.push(peer);
                servers.push(server);
            }
            Err(error) => {
                eprintln!("{name} is left out: {error:#}");
                left_out.push((name.to_owned(), format!("{error:#}")));
            }
        }
    }
    let manifest = Manifest { mtu, bytes: fixture.bytes(), hash: fixture.hash(), peers, left_out };
    fs::write(fixture.directory().join(MANIFEST), manifest.to_json().to_string())?;
    let program = wormhole::program()?;
    let mut host = wormhole::Host::start_at(&lab, &program, &fixture.directory(), bind)?;
    println!("{}", invitation(bind, mtu, &host.code));
    std::io::stdout().flush()?;
    host.process.wait(SERVE_LIMIT).map(drop)
}

/// What the person at the other machine must know, and what the one at this machine should.
fn invitation(bind: SocketAddr, mtu: u32, code: &str) -> String {
    let reached_at =
        if bind.ip().is_unspecified() { format!("ADDRESS-OF-THIS-MACHINE:{}", bind.port()) } else { bind.to_string() };
    format!(
        "The servers of the peers are open to anybody who reaches {}: they send a public pattern, and load this machine.\n\
         serving on {bind}, MTU {mtu}; on the other machine: perf run {reached_at} and, when asked, the code {code}",
        bind.ip(),
    )
}

/// Whether nobody has the port yet: a server that waits for its own socket would take somebody else's for it.
fn ensure_free(kind: SocketKind, address: SocketAddr) -> anyhow::Result<()> {
    let bound = match kind {
        SocketKind::Tcp => TcpListener::bind(address).map(drop),
        SocketKind::Udp => UdpSocket::bind(address).map(drop),
    };
    bound.with_context(|| format!("cannot listen on {address}"))
}

fn start(lab: &Lab, name: &'static str, mtu: u32, bytes_max: u64) -> anyhow::Result<(Peer, Process)> {
    let (port, variant) = match name {
        "iperf3" => {
            ensure_free(SocketKind::Tcp, lab.socket(End::Host, crate::suite::transport::IPERF3_PORT))?;
            let peer = Peer { name, port: crate::suite::transport::IPERF3_PORT, certificate: None };
            return Ok((peer, iperf3_server(lab, None)?));
        }
        "s2n-quic" => (s2n_peer::PORT, None),
        quinn => (quinn_peer::port(variant(quinn)), Some(variant(quinn))),
    };
    ensure_free(SocketKind::Udp, lab.socket(End::Host, port))?;
    let identity = Identity::create(lab.directory(), name)?;
    let mut command = lab.command(End::Host, None, std::env::current_exe()?);
    command
        .arg(verb(name, "server"))
        .arg(lab.socket(End::Host, port).to_string())
        .args([&identity.certificate, &identity.key])
        .arg(bytes_max.to_string())
        .args(flags(mtu, variant));
    let mut server = lab.spawn(name, &mut command)?;
    server.wait_socket(SocketKind::Udp, port, START_LIMIT)?;
    Ok((Peer { name, port, certificate: Some(fs::read(identity.certificate)?) }, server))
}

fn variant(quinn: &str) -> Variant {
    if quinn == "quinn-ack-frequency" { Variant::AckFrequency } else { Variant::Plain }
}

fn verb(name: &str, role: &str) -> String {
    format!("__{}-{role}", if name == "s2n-quic" { "s2n" } else { "quinn" })
}

fn flags(mtu: u32, variant: Option<Variant>) -> Vec<String> {
    let mut flags = vec!["--mtu".to_owned(), mtu.to_string()];
    if let Some(variant) = variant {
        flags.extend(["--variant".to_owned(), variant.word().to_owned()]);
    }
    flags
}

/// Measures transport and mount against a machine that runs [`serve`].
///
/// # Errors
/// If the other machine is not reached, its manifest cannot be read, or the way to it has another MTU than the one the
/// peers were told: ours finds the real one out, so that the peers would be at a disadvantage or fail. What goes wrong later stands in the rows.
pub fn run(host: &str, runs: usize, scale: crate::suite::Scale, note: &mut dyn FnMut(&str)) -> anyhow::Result<Report> {
    let mut machine = machine::describe();
    machine["program"] = wormhole::describe();
    let target = resolve(host)?;
    let code = ask_code()?;
    let lab = Lab::on_this_machine(target.ip())?;
    let manifest = fetch_manifest(&lab, target, &code)?;
    ensure_mtu(manifest.mtu, interface::towards(target.ip())?)?;
    for (peer, reason) in &manifest.left_out {
        note(&format!("{peer}: left out by the other side: {reason}"));
    }
    let plan = Plan { bytes: manifest.bytes, runs, scale };
    let far = Far { lab: &lab, target, code: &code, manifest: &manifest };
    note("transport.pair");
    let mut entries: Vec<Entry<'_>> = vec![(OURS.to_owned(), Ok(Box::new(OurStream(far))))];
    let mut absent = Vec::new();
    for peer in &manifest.peers {
        let missing = peers::peer(peer.name).missing_packages();
        if missing.is_empty() {
            entries.push((peer.name.to_owned(), peer_stream(far, peer)));
        } else {
            absent.push((peer.name.to_owned(), missing.join(" ")));
        }
    }
    let mut rows = pair_rows("transport.pair", "goodput", &alternate(entries, plan, note), &absent);
    note("mount.pair");
    let ours = wormhole::program().and_then(|program| {
        let mount_point = lab.mount_point("mnt-ours")?;
        Ok(Box::new(OurMount { far, program, mount_point }) as Box<dyn Contender>)
    });
    let series = alternate(vec![(OURS.to_owned(), ours)], plan, note);
    rows.extend(pair_rows("mount.pair", "sequential_cold", &series, &[]));
    let mut plan = plan.to_json();
    plan["mtu"] = json!(manifest.mtu);
    Ok(Report { machine, plan, rows })
}

/// Refuses a way with another MTU than the one the peers were told.
fn ensure_mtu(told: u32, found: u32) -> anyhow::Result<()> {
    ensure!(
        told == found,
        "the other side told its peers an MTU of {told}, and the way there has {found}; run there: perf serve --mtu \
         {found}, or give the route here the MTU {told} (ip route change)"
    );
    Ok(())
}

fn pair_rows(prefix: &str, speed: &str, series: &[crate::suite::Series], absent: &[(String, String)]) -> Vec<Row> {
    let seconds = Run::receiver_seconds_per_gigabyte;
    vec![
        row(format!("{prefix}.{speed}"), Unit::GigabytesPerSecond, series, absent, Run::gigabytes_per_second),
        row(format!("{prefix}.cpu_receiver"), Unit::SecondsPerGigabyte, series, absent, seconds)
            .with_grain(grain(series, Run::receiver_grain)),
    ]
}

/// The address of `HOST` or `HOST:PORT`.
fn resolve(host: &str) -> anyhow::Result<SocketAddr> {
    let mut found = match host.parse::<IpAddr>() {
        Ok(address) => return Ok(SocketAddr::new(address, wormhole::PORT)),
        Err(_) if host.contains(':') => host.to_socket_addrs(),
        Err(_) => (host, wormhole::PORT).to_socket_addrs(),
    }
    .with_context(|| format!("{host} is no address"))?;
    found.next().with_context(|| format!("{host} has no address"))
}

/// The join code from the environment, or from whoever sits at the terminal; never from the arguments.
fn ask_code() -> anyhow::Result<String> {
    if let Ok(code) = std::env::var(CODE_VARIABLE) {
        return Ok(code);
    }
    eprint!("join code: ");
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let code = line.trim();
    if code.is_empty() {
        bail!("no join code: set {CODE_VARIABLE} or type it");
    }
    Ok(code.to_owned())
}

fn fetch_manifest(lab: &Lab, target: SocketAddr, code: &str) -> anyhow::Result<Manifest> {
    let mut command = lab.command(End::Client, None, std::env::current_exe()?);
    command.args(["__text", &target.to_string(), MANIFEST]).env(CODE_VARIABLE, code);
    let mut client = lab.spawn("manifest", &mut command)?;
    client.wait(STEP_LIMIT)?;
    Manifest::from_json(&client.output()?)
}

/// The other machine.
#[derive(Clone, Copy)]
struct Far<'l> {
    lab: &'l Lab,
    target: SocketAddr,
    code: &'l str,
    manifest: &'l Manifest,
}

impl Far<'_> {
    fn finished(&self, label: &str, command: &mut Command) -> anyhow::Result<String> {
        let mut client = self.lab.spawn(label, command)?;
        client.wait(RUN_LIMIT)?;
        Ok(client.output()?.trim().to_owned())
    }

    fn run(&self, label: &str, command: &mut Command) -> anyhow::Result<Run> {
        let sample = Sample::from_line(&self.finished(label, command)?)?;
        Ok(received(sample.bytes, sample.elapsed, CpuTime::exact(sample.receiver_cpu)))
    }
}

/// A run whose sender is out of reach.
fn received(bytes: u64, elapsed: Duration, receiver_cpu: CpuTime) -> Run {
    Run { bytes, elapsed, sender_cpu: CpuTime::default(), receiver_cpu, over_time: Vec::new() }
}

struct OurStream<'l>(Far<'l>);

impl OurStream<'_> {
    fn client(&self, mode: Mode) -> anyhow::Result<Command> {
        let Far { lab, target, code, manifest } = self.0;
        let mut command = lab.command(End::Client, None, std::env::current_exe()?);
        command
            .args(["__client", mode.word(), &target.to_string(), fixture::NAME, &manifest.bytes.to_string()])
            .env(CODE_VARIABLE, code);
        Ok(command)
    }
}

impl Contender for OurStream<'_> {
    fn verify(&mut self) -> anyhow::Result<()> {
        let hash: blake3::Hash = self.0.finished("ours-verify", &mut self.client(Mode::Verify)?)?.parse()?;
        ensure!(hash == self.0.manifest.hash, "the bytes that arrived are not the file's");
        Ok(())
    }

    fn run(&mut self) -> anyhow::Result<Run> {
        self.0.run("ours-read", &mut self.client(Mode::Read)?)
    }
}

fn peer_stream<'l>(far: Far<'l>, peer: &Peer) -> anyhow::Result<Box<dyn Contender + 'l>> {
    if peer.name == "iperf3" {
        return Ok(Box::new(Iperf3Stream(far)));
    }
    let certificate = far.lab.directory().join(format!("{}-certificate.der", peer.name));
    fs::write(&certificate, peer.certificate.as_deref().context("the other side sent no certificate")?)?;
    let variant = (peer.name != "s2n-quic").then(|| variant(peer.name));
    let flags = flags(far.manifest.mtu, variant);
    let address = far.lab.socket(End::Host, peer.port);
    Ok(Box::new(QuicStream { far, verb: verb(peer.name, "client"), address, certificate, flags }))
}

struct QuicStream<'l> {
    far: Far<'l>,
    verb: String,
    address: SocketAddr,
    certificate: PathBuf,
    flags: Vec<String>,
}

impl QuicStream<'_> {
    fn client(&self, mode: Mode) -> anyhow::Result<Command> {
        let mut command = self.far.lab.command(End::Client, None, std::env::current_exe()?);
        command
            .args([&self.verb, mode.word(), &self.address.to_string()])
            .arg(&self.certificate)
            .arg(self.far.manifest.bytes.to_string())
            .args(&self.flags);
        Ok(command)
    }
}

impl Contender for QuicStream<'_> {
    fn verify(&mut self) -> anyhow::Result<()> {
        self.far.finished("quic-verify", &mut self.client(Mode::Verify)?).map(drop)
    }

    fn run(&mut self) -> anyhow::Result<Run> {
        self.far.run("quic-read", &mut self.client(Mode::Read)?)
    }
}

struct Iperf3Stream<'l>(Far<'l>);

impl Contender for Iperf3Stream<'_> {
    /// Moves and counts, without comparing: the content is iperf3's own.
    fn verify(&mut self) -> anyhow::Result<()> {
        self.run().map(drop)
    }

    fn run(&mut self) -> anyhow::Result<Run> {
        let bytes = self.0.manifest.bytes;
        let mut client = self.0.lab.spawn("iperf3-client", &mut iperf3_client(self.0.lab, None, bytes))?;
        let ended = client.wait(RUN_LIMIT)?;
        let (arrived, elapsed) = iperf3_result(&client.output()?)?;
        ensure!(arrived >= bytes, "{arrived} of {bytes} bytes arrived");
        let part = share(bytes, arrived);
        Ok(received(bytes, elapsed.mul_f64(part), ended.cpu.scaled(part)))
    }
}

struct OurMount<'l> {
    far: Far<'l>,
    program: PathBuf,
    mount_point: PathBuf,
}

impl OurMount<'_> {
    fn with_cold_mount<T>(&self, read: impl FnOnce(&Path, &Process) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let Far { lab, target, code, .. } = self.far;
        lab.forget_cache(End::Client)?;
        let mut command = lab.command(End::Client, None, &self.program);
        command
            .arg("mount")
            .arg(target.to_string())
            .arg(&self.mount_point)
            .arg("--foreground")
            .env(CODE_VARIABLE, code);
        let mut program = lab.spawn("mount", &mut command)?;
        mounts::wait_mounted(&self.mount_point, &mut program, STEP_LIMIT)?;
        drop_kernel_caches()?;
        let result = read(&self.mount_point.join(fixture::NAME), &program)?;
        mounts::unmount(&self.mount_point, STEP_LIMIT)?;
        program.wait(STEP_LIMIT).context("after the unmount")?;
        Ok(result)
    }
}

impl Contender for OurMount<'_> {
    fn verify(&mut self) -> anyhow::Result<()> {
        self.with_cold_mount(|file, _| mount::check_hash(self.far.lab, file, self.far.manifest.hash))
    }

    fn run(&mut self) -> anyhow::Result<Run> {
        self.with_cold_mount(|file, program| {
            let before = cpu_time::of_tree(program.id());
            let (bytes, elapsed) = mount::read(self.far.lab, file)?;
            let cpu = cpu_time::of_tree(program.id()).since(before);
            Ok(received(bytes, elapsed, cpu))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            mtu: 9000,
            bytes: 1 << 31,
            hash: blake3::hash(b"x"),
            peers: vec![
                Peer { name: "quinn", port: 4434, certificate: Some(vec![0, 255, 7]) },
                Peer { name: "iperf3", port: 5201, certificate: None },
            ],
            left_out: vec![("s2n-quic".to_owned(), "cannot listen".to_owned())],
        }
    }

    #[test]
    fn a_manifest_survives_its_way() {
        assert_eq!(Manifest::from_json(&manifest().to_json().to_string()).unwrap(), manifest());
    }

    #[test]
    fn strangers_and_nonsense_in_a_manifest() {
        let mut value = manifest().to_json();
        value["peers"][0]["name"] = json!("../../etc");
        assert_eq!(Manifest::from_json(&value.to_string()).unwrap().peers.len(), 1);
        let broken = |key: &str, with: Value| {
            let mut value = manifest().to_json();
            value[key] = with;
            Manifest::from_json(&value.to_string()).is_err()
        };
        assert!(broken("version", json!(2)));
        assert!(broken("bytes", json!("many")));
        assert!(broken("left_out", json!(["s2n-quic"])));
        assert!(!broken("left_out", Value::Null));
        assert!(broken("hash", json!("00")));
        assert!(broken("mtu", json!(1_u64 << 40)));
        assert!(broken("peers", json!([{"name": "quinn", "port": 70_000, "certificate": null}])));
        assert!(broken("peers", json!([{"name": "quinn", "port": 1, "certificate": [256]}])));
        assert!(Manifest::from_json("").is_err());
    }

    #[test]
    fn a_host_may_have_a_port() {
        assert_eq!(resolve("10.0.0.1").unwrap().to_string(), "10.0.0.1:4433");
        assert_eq!(resolve("10.0.0.1:99").unwrap().to_string(), "10.0.0.1:99");
        assert_eq!(resolve("::1").unwrap().to_string(), "[::1]:4433");
        assert!(resolve("10.0.0.1:x").is_err());
    }

    #[test]
    fn an_invitation_names_an_address_that_leads_here() {
        let invited = |bind: &str| invitation(bind.parse().unwrap(), 9000, "7-nebula");
        assert!(invited("10.0.0.1:4433").contains("perf run 10.0.0.1:4433 and"));
        assert!(invited("0.0.0.0:99").contains("perf run ADDRESS-OF-THIS-MACHINE:99 and"));
        assert!(invited("[::]:99").ends_with("7-nebula") && invited("[::]:99").contains("MTU 9000"));
        assert!(invited("10.0.0.1:4433").contains("open to anybody who reaches 10.0.0.1"));
    }

    #[test]
    fn a_taken_port_is_no_server_of_ours() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = ensure_free(SocketKind::Udp, address).unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        assert!(ensure_free(SocketKind::Tcp, address).is_err());
        drop(taken);
        assert!(ensure_free(SocketKind::Tcp, address).is_ok());
    }

    #[test]
    fn a_way_with_another_mtu_is_refused() {
        assert!(ensure_mtu(9000, 9000).is_ok());
        let error = ensure_mtu(1500, 9000).unwrap_err().to_string();
        assert!(error.contains("--mtu 9000") && error.contains("the MTU 1500"), "{error}");
    }

    #[test]
    fn verbs_and_flags_are_those_of_the_peer() {
        assert_eq!(verb("s2n-quic", "server"), "__s2n-server");
        assert_eq!(verb("quinn-ack-frequency", "client"), "__quinn-client");
        assert_eq!(flags(1500, None), ["--mtu", "1500"]);
        assert_eq!(flags(9000, Some(variant("quinn"))), ["--mtu", "9000", "--variant", "plain"]);
    }
}
