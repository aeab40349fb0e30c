//! Bare streams: one stream, one core at each end, no file system in the way of the reader.
//!
//! The sender is pinned to core 0 and the receiver to core 1. Ours is `wormhole host --shards 1` and the engine's
//! client; the peers are s2n-quic, quinn in its variants, nginx with curl over one TCP connection, encrypted and in
//! clear, and iperf3. All send from memory and throw away what arrives. iperf3 sends no known content, so only its
//! bytes are counted.
//!
//! The receiver's CPU time is that of its program's whole life for all of them, connection and handshake included: of
//! curl and iperf3 nothing else is known from outside.
//!
//! The scaling row is another question: N readers at once from a host of N shards, nobody pinned, joining included.

use std::cell::OnceCell;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Map, Value, json};

use super::{Contender, Entry, Plan, RUN_LIMIT, Run, alternate, folded, present, row, rows};
use crate::arguments::Mode;
use crate::cpu_time::{self, CpuTime};
use crate::fixture::{self, Fixture};
use crate::lab::{End, Lab};
use crate::link::LinkWatch;
use crate::process::{Ended, Process, SocketKind};
use crate::quinn_peer::{self, Identity, Settings, Variant};
use crate::report::{OURS, Row, Unit};
use crate::s2n_peer;
use crate::sample::Sample;
use crate::statistics::Summary;
use crate::web::{Scheme, WebServer, transfer_of_curl};
use crate::wormhole::{self, CODE_VARIABLE, Cores, Host};

/// The links measured.
pub const MTUS: [u32; 2] = [1500, 9000];

/// The core the sender runs on.
const SENDER_CORE: usize = 0;

/// The core the receiver runs on.
const RECEIVER_CORE: usize = 1;

/// How long a server may take to listen; quinn's makes 256 MiB of content first.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(30);

/// The link the scaling row is measured on.
const SHARDS_MTU: u32 = 1500;

/// The most shards tried: beyond, one link and one reader per shard say little of a machine that large.
const SHARDS_MAX: usize = 16;

/// The port iperf3 listens on in its namespace.
pub(crate) const IPERF3_PORT: u16 = 5201;

/// Measures all links; rows come in the order of [`MTUS`], goodput first.
///
/// # Errors
/// If no lab can be made. What goes wrong with one contender stands in its rows.
pub fn run(plan: Plan, fixture: &Fixture, note: &mut dyn FnMut(&str)) -> anyhow::Result<Vec<Row>> {
    ensure!(
        std::thread::available_parallelism()?.get() > RECEIVER_CORE,
        "the transport suite needs a core for each end"
    );
    let mut all = Vec::new();
    for mtu in MTUS {
        all.extend(goodput(mtu, plan, fixture, note)?);
    }
    all.push(by_shards(plan, fixture, note)?);
    Ok(all)
}

/// One stream on a link of `mtu` bytes, ours and every peer.
///
/// # Errors
/// As [`run`].
pub fn goodput(mtu: u32, plan: Plan, fixture: &Fixture, note: &mut dyn FnMut(&str)) -> anyhow::Result<[Row; 3]> {
    let prefix = format!("transport.mtu{mtu}");
    note(&prefix);
    let lab = Lab::up(mtu)?;
    let (mut peers, absent) =
        present(&["s2n-quic", "quinn", "quinn-ack-frequency", "quinn-trains", "https", "http", "iperf3"]);
    let settings = |variant| Settings::for_link(mtu, End::Host.address(), variant);
    let differs = settings(Variant::Trains) != settings(Variant::Plain);
    peers.retain(|&peer| differs || peer != "quinn-trains");
    let web = OnceCell::new();
    let mut entries: Vec<Entry<'_>> = vec![(OURS.to_owned(), boxed(Ours::start(&lab, fixture)))];
    for peer in peers {
        let contender = match peer {
            "iperf3" => boxed(Iperf3::start(&lab, plan)),
            "http" => boxed(Curl::start(&lab, fixture, &web, Scheme::Http)),
            "https" => boxed(Curl::start(&lab, fixture, &web, Scheme::Https)),
            "s2n-quic" => boxed(Quic::start_s2n(&lab, plan, mtu)),
            "quinn-ack-frequency" => boxed(Quic::start_quinn(&lab, plan, mtu, Variant::AckFrequency)),
            "quinn-trains" => boxed(Quic::start_quinn(&lab, plan, mtu, Variant::Trains)),
            _ => boxed(Quic::start_quinn(&lab, plan, mtu, Variant::Plain)),
        };
        entries.push((peer.to_owned(), contender));
    }
    let series = alternate(entries, plan, note);
    Ok(rows(&prefix, ".goodput", &series, &absent))
}

/// All bytes of N readers at once from a host of N shards, for every N up to the number of cores.
fn by_shards(plan: Plan, fixture: &Fixture, note: &mut dyn FnMut(&str)) -> anyhow::Result<Row> {
    let name = format!("transport.mtu{SHARDS_MTU}.shards");
    note(&name);
    let cores = std::thread::available_parallelism()?.get().min(SHARDS_MAX);
    let mut points = Vec::new();
    let mut parts = Vec::new();
    for count in 1..=cores {
        // One after the other, since hosts of all sizes at once would share the cores; each in a lab of its own, since
        // a killed host's port is only free once the kernel has taken its ring down.
        let lab = Lab::up(SHARDS_MTU)?;
        let readers = Readers::start(&lab, fixture, count);
        let whole = Plan { bytes: plan.bytes * count as u64, ..plan };
        let part = alternate(vec![(OURS.to_owned(), boxed(readers))], whole, note);
        if let Some(Ok(runs)) = part.first().map(|series| &series.runs) {
            let speeds: Vec<f64> = runs.iter().map(Run::gigabytes_per_second).collect();
            points.extend(Summary::of(&speeds).map(|summary| json!([count, summary.median])));
        }
        parts.push((format!("{count} shards"), part));
    }
    let row = row(name, Unit::GigabytesPerSecond, &folded(parts), &[], Run::gigabytes_per_second);
    Ok(row.with_points("shards", Map::from_iter([(OURS.to_owned(), points.into())])))
}

fn boxed<'l, C: Contender + 'l>(made: anyhow::Result<C>) -> anyhow::Result<Box<dyn Contender + 'l>> {
    Ok(Box::new(made?))
}

/// Runs a client of this program that prints a [`Sample`], and adds the server's CPU time to it.
fn sampled(lab: &Lab, label: &str, command: &mut Command, server: &Process) -> anyhow::Result<Run> {
    let watch = LinkWatch::start(server.id())?;
    let before = cpu_time::of_tree(server.id());
    let mut client = lab.spawn(label, command)?;
    client.wait(RUN_LIMIT)?;
    let sender_cpu = cpu_time::of_tree(server.id()).since(before);
    let output = client.output()?;
    let sample = Sample::from_line(output.trim())?;
    Ok(Run {
        bytes: sample.bytes,
        elapsed: sample.elapsed,
        sender_cpu,
        receiver_cpu: CpuTime::exact(sample.receiver_cpu),
        over_time: watch.finish(sample.bytes)?,
    })
}

struct Ours<'l> {
    lab: &'l Lab,
    fixture: &'l Fixture,
    host: Host,
}

impl<'l> Ours<'l> {
    fn start(lab: &'l Lab, fixture: &'l Fixture) -> anyhow::Result<Self> {
        let program = wormhole::program()?;
        let cores = Cores::One(SENDER_CORE);
        let host = Host::start(lab, &program, &fixture.directory(), cores)?;
        Ok(Self { lab, fixture, host })
    }

    fn client(&self, mode: Mode) -> anyhow::Result<Command> {
        our_client(self.lab, Some(RECEIVER_CORE), mode, self.fixture, &self.host.code)
    }
}

fn our_client(lab: &Lab, core: Option<usize>, mode: Mode, fixture: &Fixture, code: &str) -> anyhow::Result<Command> {
    let own = std::env::current_exe()?;
    let mut command = lab.command(End::Client, core, own);
    command
        .args(["__client", mode.word()])
        .arg(lab.socket(End::Host, wormhole::PORT).to_string())
        .args([fixture::NAME, &fixture.bytes().to_string()])
        .env(CODE_VARIABLE, code);
    Ok(command)
}

fn check_hash(output: &str, fixture: &Fixture) -> anyhow::Result<()> {
    let hash = blake3::Hash::from_hex(output.trim()).context("the client printed no hash")?;
    ensure!(hash == fixture.hash(), "the bytes that arrived are not the file's");
    Ok(())
}

impl Contender for Ours<'_> {
    fn verify(&mut self) -> anyhow::Result<()> {
        let mut client = self.lab.spawn("ours-verify", &mut self.client(Mode::Verify)?)?;
        client.wait(RUN_LIMIT)?;
        check_hash(&client.output()?, self.fixture)
    }

    fn run(&mut self) -> anyhow::Result<Run> {
        let mut command = self.client(Mode::Read)?;
        sampled(self.lab, "ours-read", &mut command, &self.host.process)
    }
}

/// N of our readers at once.
struct Readers<'l> {
    lab: &'l Lab,
    fixture: &'l Fixture,
    host: Host,
    count: usize,
}

impl<'l> Readers<'l> {
    fn start(lab: &'l Lab, fixture: &'l Fixture, count: usize) -> anyhow::Result<Self> {
        let program = wormhole::program()?;
        let host = Host::start(lab, &program, &fixture.directory(), Cores::Shards(count))?;
        Ok(Self { lab, fixture, host, count })
    }

    fn outputs(&self, mode: Mode) -> anyhow::Result<Vec<String>> {
        let mut readers = (0..self.count)
            .map(|_| {
                let mut command = our_client(self.lab, None, mode, self.fixture, &self.host.code)?;
                self.lab.spawn("ours-reader", &mut command)
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        readers
            .iter_mut()
            .map(|reader| {
                reader.wait(RUN_LIMIT)?;
                Ok(reader.output()?)
            })
            .collect()
    }
}

impl Contender for Readers<'_> {
    fn verify(&mut self) -> anyhow::Result<()> {
        self.outputs(Mode::Verify)?.iter().try_for_each(|output| check_hash(output, self.fixture))
    }

    fn run(&mut self) -> anyhow::Result<Run> {
        let server = self.host.process.id();
        let before = cpu_time::of_tree(server);
        let started = Instant::now();
        let outputs = self.outputs(Mode::Read)?;
        let elapsed = started.elapsed();
        let sender_cpu = cpu_time::of_tree(server).since(before);
        let samples =
            outputs.iter().map(|output| Sample::from_line(output.trim())).collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Run {
            bytes: samples.iter().map(|sample| sample.bytes).sum(),
            elapsed,
            sender_cpu,
            receiver_cpu: CpuTime::exact(samples.iter().map(|sample| sample.receiver_cpu).sum()),
            over_time: Vec::new(),
        })
    }
}

/// s2n-quic, or quinn in one of its variants: a server and a client inside this program.
struct Quic<'l> {
    lab: &'l Lab,
    bytes: u64,
    server: Process,
    identity: Identity,
    address: SocketAddr,
    client: &'static str,
    flags: Vec<String>,
}

impl<'l> Quic<'l> {
    fn start_quinn(lab: &'l Lab, plan: Plan, mtu: u32, variant: Variant) -> anyhow::Result<Self> {
        let flags = vec!["--mtu".to_owned(), mtu.to_string(), "--variant".to_owned(), variant.word().to_owned()];
        Self::start(lab, plan, ["__quinn-server", "__quinn-client"], quinn_peer::port(variant), flags)
    }

    fn start_s2n(lab: &'l Lab, plan: Plan, mtu: u32) -> anyhow::Result<Self> {
        let flags = vec!["--mtu".to_owned(), mtu.to_string()];
        Self::start(lab, plan, ["__s2n-server", "__s2n-client"], s2n_peer::PORT, flags)
    }

    fn start(
        lab: &'l Lab,
        plan: Plan,
        [server, client]: [&'static str; 2],
        port: u16,
        flags: Vec<String>,
    ) -> anyhow::Result<Self> {
        let identity = Identity::create(lab.directory(), &format!("quic-{port}"))?;
        let address = lab.socket(End::Host, port);
        let own = std::env::current_exe()?;
        let mut command = lab.command(End::Host, Some(SENDER_CORE), own);
        command.arg(server).arg(address.to_string()).args([&identity.certificate, &identity.key]);
        command.arg(plan.bytes.to_string()).args(&flags);
        let mut server = lab.spawn("quic-server", &mut command)?;
        server.wait_socket(SocketKind::Udp, port, START_LIMIT)?;
        Ok(Self { lab, bytes: plan.bytes, server, identity, address, client, flags })
    }

    fn client(&self, mode: Mode) -> anyhow::Result<Command> {
        let own = std::env::current_exe()?;
        let mut command = self.lab.command(End::Client, Some(RECEIVER_CORE), own);
        command
            .args([self.client, mode.word()])
            .arg(self.address.to_string())
            .arg(&self.identity.certificate)
            .arg(self.bytes.to_string())
            .args(&self.flags);
        Ok(command)
    }
}

impl Contender for Quic<'_> {
    fn verify(&mut self) -> anyhow::Result<()> {
        let mut client = self.lab.spawn("quic-verify", &mut self.client(Mode::Verify)?)?;
        client.wait(RUN_LIMIT)?;
        Ok(())
    }

    fn run(&mut self) -> anyhow::Result<Run> {
        let mut command = self.client(Mode::Read)?;
        sampled(self.lab, "quic-read", &mut command, &self.server)
    }
}

/// nginx and curl.
struct Curl<'l> {
    lab: &'l Lab,
    fixture: &'l Fixture,
    server: Rc<WebServer>,
    scheme: Scheme,
}

impl<'l> Curl<'l> {
    fn start(
        lab: &'l Lab,
        fixture: &'l Fixture,
        web: &OnceCell<Rc<WebServer>>,
        scheme: Scheme,
    ) -> anyhow::Result<Self> {
        let server = match web.get() {
            Some(server) => Rc::clone(server),
            None => {
                let server = Rc::new(WebServer::start(lab, &fixture.directory(), Some(SENDER_CORE))?);
                Rc::clone(web.get_or_init(|| server))
            }
        };
        Ok(Self { lab, fixture, server, scheme })
    }

    fn transfer(&self, destination: &Path) -> anyhow::Result<(Ended, u64, Duration)> {
        let mut command = self.server.curl(self.lab, Some(RECEIVER_CORE), self.scheme, fixture::NAME, destination);
        let mut curl = self.lab.spawn("curl", &mut command)?;
        let ended = curl.wait(RUN_LIMIT)?;
        let (bytes, elapsed) = transfer_of_curl(&curl.output()?)?;
        Ok((ended, bytes, elapsed))
    }
}

impl Contender for Curl<'_> {
    fn verify(&mut self) -> anyhow::Result<()> {
        let destination = self.fixture.destination("curl");
        self.transfer(&destination)?;
        let (_, hash) = fixture::hash_file(&destination)?;
        fs::remove_file(&destination)?;
        ensure!(hash == self.fixture.hash(), "the bytes that arrived are not the file's");
        Ok(())
    }

    fn run(&mut self) -> anyhow::Result<Run> {
        let server = self.server.process.id();
        let watch = LinkWatch::start(server)?;
        let before = cpu_time::of_tree(server);
        let (ended, bytes, elapsed) = self.transfer(Path::new("/dev/null"))?;
        let sender_cpu = cpu_time::of_tree(server).since(before);
        Ok(Run { bytes, elapsed, sender_cpu, receiver_cpu: ended.cpu, over_time: watch.finish(bytes)? })
    }
}

/// One connection from an iperf3 server; the client's program receives.
pub(crate) fn iperf3_client(lab: &Lab, core: Option<usize>, bytes: u64) -> Command {
    let mut command = lab.command(End::Client, core, "iperf3");
    command
        .args(["--client", &lab.socket(End::Host, IPERF3_PORT).ip().to_string()])
        .args(["--port", &IPERF3_PORT.to_string()])
        .args(["--bytes", &bytes.to_string()])
        // The server sends, as everywhere in this suite.
        .args(["--reverse", "--json"]);
    command
}

/// An iperf3 server at the host's end.
pub(crate) fn iperf3_server(lab: &Lab, core: Option<usize>) -> anyhow::Result<Process> {
    let mut command = lab.command(End::Host, core, "iperf3");
    command
        .args(["--server", "--bind", &lab.socket(End::Host, IPERF3_PORT).ip().to_string()])
        .args(["--port", &IPERF3_PORT.to_string()]);
    let mut server = lab.spawn("iperf3-server", &mut command)?;
    server.wait_socket(SocketKind::Tcp, IPERF3_PORT, START_LIMIT)?;
    Ok(server)
}

struct Iperf3<'l> {
    lab: &'l Lab,
    bytes: u64,
    server: Process,
}

impl<'l> Iperf3<'l> {
    fn start(lab: &'l Lab, plan: Plan) -> anyhow::Result<Self> {
        let server = iperf3_server(lab, Some(SENDER_CORE))?;
        Ok(Self { lab, bytes: plan.bytes, server })
    }
}

impl Contender for Iperf3<'_> {
    /// Moves and counts, without comparing: the content is iperf3's own.
    fn verify(&mut self) -> anyhow::Result<()> {
        self.run().map(drop)
    }

    fn run(&mut self) -> anyhow::Result<Run> {
        let watch = LinkWatch::start(self.server.id())?;
        let before = cpu_time::of_tree(self.server.id());
        let mut command = iperf3_client(self.lab, Some(RECEIVER_CORE), self.bytes);
        let mut client = self.lab.spawn("iperf3-client", &mut command)?;
        let ended = client.wait(RUN_LIMIT)?;
        let sender_cpu = cpu_time::of_tree(self.server.id()).since(before);
        let (received, elapsed) = iperf3_result(&client.output()?)?;
        // It stops at a block's end, up to one 128 KiB block past the length asked for.
        ensure!(received >= self.bytes, "{received} of {} bytes arrived", self.bytes);
        let part = share(self.bytes, received);
        Ok(Run {
            bytes: self.bytes,
            elapsed: elapsed.mul_f64(part),
            sender_cpu: sender_cpu.scaled(part),
            receiver_cpu: ended.cpu.scaled(part),
            over_time: watch.finish(received)?,
        })
    }
}

// Both are below 2^53.
#[expect(clippy::cast_precision_loss, reason = "see above")]
pub(crate) fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

/// Bytes received and the time they took, from iperf3's JSON.
pub(crate) fn iperf3_result(output: &str) -> anyhow::Result<(u64, Duration)> {
    let report: Value = serde_json::from_str(output).context("iperf3 printed no JSON")?;
    if let Some(error) = report["error"].as_str() {
        anyhow::bail!("iperf3: {error}");
    }
    let received = &report["end"]["sum_received"];
    let bytes = received["bytes"].as_u64().context("iperf3 counted no bytes")?;
    let seconds = received["seconds"].as_f64().context("iperf3 took no time")?;
    Ok((bytes, Duration::try_from_secs_f64(seconds)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_of_iperf3_is_its_receivers() {
        let report = r#"{"end":{"sum_sent":{"bytes":9,"seconds":9.0},"sum_received":{"bytes":1000,"seconds":0.5}}}"#;
        let expected = (1000, Duration::from_millis(500));
        assert_eq!(iperf3_result(report).unwrap(), expected);
    }

    #[test]
    fn an_error_of_iperf3_is_passed_on() {
        let error = iperf3_result(r#"{"error":"unable to connect"}"#).unwrap_err();
        assert!(error.to_string().contains("unable to connect"));
        assert!(iperf3_result("{}").is_err());
        assert!(iperf3_result("iperf3: usage").is_err());
    }
}
