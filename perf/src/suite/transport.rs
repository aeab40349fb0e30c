//! Bare streams: one stream, one core at each end, no file system in the way of the reader.
//!
//! The sender is pinned to core 0 and the receiver to core 1. Ours is `wormhole host --shards 1` and the engine's
//! client; the peers are quinn in its variants and iperf3 over one TCP connection. All
//! send from memory and throw away what arrives. iperf3 sends no known content, so only its bytes are counted.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::{Contender, Entry, Plan, RUN_LIMIT, Run, alternate, present, rows};
use crate::arguments::Mode;
use crate::cpu_time;
use crate::fixture::{self, Fixture};
use crate::lab::{End, Lab};
use crate::process::{Process, SocketKind};
use crate::quinn_peer::{self, Settings, Variant};
use crate::report::{OURS, Row};
use crate::sample::Sample;
use crate::wormhole::{self, CODE_VARIABLE, Cores, Host};

/// The links measured.
pub const MTUS: [u32; 2] = [1500, 9000];

/// The core the sender runs on.
const SENDER_CORE: usize = 0;

/// The core the receiver runs on.
const RECEIVER_CORE: usize = 1;

/// How long a server may take to listen; quinn's makes 256 MiB of content first.
const START_LIMIT: Duration = Duration::from_secs(30);

/// The port iperf3 listens on in its namespace.
const IPERF3_PORT: u16 = 5201;

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
        let prefix = format!("transport.mtu{mtu}");
        note(&prefix);
        let lab = Lab::up(mtu)?;
        let (mut peers, absent) = present(&["quinn", "quinn-ack-frequency", "quinn-trains", "iperf3"]);
        let differs = Settings::for_link(mtu, Variant::Trains) != Settings::for_link(mtu, Variant::Plain);
        peers.retain(|&peer| differs || peer != "quinn-trains");
        let mut entries: Vec<Entry<'_>> = vec![(OURS.to_owned(), boxed(Ours::start(&lab, fixture)))];
        for (index, peer) in peers.into_iter().enumerate() {
            let contender = match peer {
                "iperf3" => boxed(Iperf3::start(&lab, plan)),
                quinn => {
                    let port = quinn_peer::PORT + u16::try_from(index)?;
                    let variant = match quinn {
                        "quinn-ack-frequency" => Variant::AckFrequency,
                        "quinn-trains" => Variant::Trains,
                        _ => Variant::Plain,
                    };
                    boxed(Quinn::start(&lab, plan, mtu, port, variant))
                }
            };
            entries.push((peer.to_owned(), contender));
        }
        let series = alternate(entries, plan, note);
        all.extend(rows(&prefix, ".goodput", &series, &absent));
    }
    Ok(all)
}

fn boxed<'l, C: Contender + 'l>(made: anyhow::Result<C>) -> anyhow::Result<Box<dyn Contender + 'l>> {
    Ok(Box::new(made?))
}

/// Runs a client of this program that prints a [`Sample`], and adds the server's CPU time to it.
fn sampled(lab: &Lab, label: &str, command: &mut Command, server: &Process) -> anyhow::Result<Run> {
    let before = cpu_time::of_tree(server.id());
    let mut client = lab.spawn(label, command)?;
    client.wait(RUN_LIMIT)?;
    let sender_cpu = cpu_time::of_tree(server.id()).saturating_sub(before);
    let output = client.output()?;
    let sample = Sample::from_line(output.trim())?;
    Ok(Run { bytes: sample.bytes, elapsed: sample.elapsed, sender_cpu, receiver_cpu: sample.receiver_cpu })
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
        let own = std::env::current_exe()?;
        let mut command = self.lab.command(End::Client, Some(RECEIVER_CORE), own);
        command
            .args(["__client", mode.word()])
            .arg(self.lab.socket(End::Host, wormhole::PORT).to_string())
            .args([fixture::NAME, &self.fixture.bytes().to_string()])
            .env(CODE_VARIABLE, &self.host.code);
        Ok(command)
    }
}

impl Contender for Ours<'_> {
    fn verify(&mut self) -> anyhow::Result<()> {
        let mut client = self.lab.spawn("ours-verify", &mut self.client(Mode::Verify)?)?;
        client.wait(RUN_LIMIT)?;
        let output = client.output()?;
        let hash = blake3::Hash::from_hex(output.trim()).context("the client printed no hash")?;
        ensure!(hash == self.fixture.hash(), "the bytes that arrived are not the file's");
        Ok(())
    }

    fn run(&mut self) -> anyhow::Result<Run> {
        let mut command = self.client(Mode::Read)?;
        sampled(self.lab, "ours-read", &mut command, &self.host.process)
    }
}

struct Quinn<'l> {
    lab: &'l Lab,
    bytes: u64,
    server: Process,
    identity: quinn_peer::Identity,
    port: u16,
    flags: [String; 4],
}

impl<'l> Quinn<'l> {
    fn start(lab: &'l Lab, plan: Plan, mtu: u32, port: u16, variant: Variant) -> anyhow::Result<Self> {
        let identity = quinn_peer::Identity::create(lab.directory(), &format!("quinn-{port}"))?;
        let flags = ["--mtu", &mtu.to_string(), "--variant", variant.word()].map(str::to_owned);
        let own = std::env::current_exe()?;
        let mut command = lab.command(End::Host, Some(SENDER_CORE), own);
        command
            .arg("__quinn-server")
            .arg(lab.socket(End::Host, port).to_string())
            .args([&identity.certificate, &identity.key])
            .args(&flags);
        let mut server = lab.spawn("quinn-server", &mut command)?;
        server.wait_socket(SocketKind::Udp, port, START_LIMIT)?;
        Ok(Self { lab, bytes: plan.bytes, server, identity, port, flags })
    }

    fn client(&self, mode: Mode) -> anyhow::Result<Command> {
        let own = std::env::current_exe()?;
        let mut command = self.lab.command(End::Client, Some(RECEIVER_CORE), own);
        command
            .args(["__quinn-client", mode.word()])
            .arg(self.lab.socket(End::Host, self.port).to_string())
            .arg(&self.identity.certificate)
            .arg(self.bytes.to_string())
            .args(&self.flags);
        Ok(command)
    }
}

impl Contender for Quinn<'_> {
    fn verify(&mut self) -> anyhow::Result<()> {
        let mut client = self.lab.spawn("quinn-verify", &mut self.client(Mode::Verify)?)?;
        client.wait(RUN_LIMIT)?;
        Ok(())
    }

    fn run(&mut self) -> anyhow::Result<Run> {
        let mut command = self.client(Mode::Read)?;
        sampled(self.lab, "quinn-read", &mut command, &self.server)
    }
}

struct Iperf3<'l> {
    lab: &'l Lab,
    bytes: u64,
    server: Process,
}

impl<'l> Iperf3<'l> {
    fn start(lab: &'l Lab, plan: Plan) -> anyhow::Result<Self> {
        let mut command = lab.command(End::Host, Some(SENDER_CORE), "iperf3");
        command
            .args(["--server", "--bind", &End::Host.address().to_string()])
            .args(["--port", &IPERF3_PORT.to_string()]);
        let mut server = lab.spawn("iperf3-server", &mut command)?;
        server.wait_socket(SocketKind::Tcp, IPERF3_PORT, START_LIMIT)?;
        Ok(Self { lab, bytes: plan.bytes, server })
    }
}

impl Contender for Iperf3<'_> {
    /// Moves and counts, without comparing: the content is iperf3's own.
    fn verify(&mut self) -> anyhow::Result<()> {
        self.run().map(drop)
    }

    fn run(&mut self) -> anyhow::Result<Run> {
        let before = cpu_time::of_tree(self.server.id());
        let mut command = self.lab.command(End::Client, Some(RECEIVER_CORE), "iperf3");
        command
            .args(["--client", &End::Host.address().to_string()])
            .args(["--port", &IPERF3_PORT.to_string()])
            .args(["--bytes", &self.bytes.to_string()])
            // The server sends, as everywhere in this suite.
            .args(["--reverse", "--json"]);
        let mut client = self.lab.spawn("iperf3-client", &mut command)?;
        let ended = client.wait(RUN_LIMIT)?;
        let sender_cpu = cpu_time::of_tree(self.server.id()).saturating_sub(before);
        let (received, elapsed) = iperf3_result(&client.output()?)?;
        // It stops at a block's end, up to one 128 KiB block past the length asked for.
        ensure!(received >= self.bytes, "{received} of {} bytes arrived", self.bytes);
        let scale = |duration: Duration| duration.mul_f64(share(self.bytes, received));
        Ok(Run {
            bytes: self.bytes,
            elapsed: scale(elapsed),
            sender_cpu: scale(sender_cpu),
            receiver_cpu: scale(ended.cpu),
        })
    }
}

// Both are below 2^53.
#[expect(clippy::cast_precision_loss, reason = "see above")]
fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

/// Bytes received and the time they took, from iperf3's JSON.
fn iperf3_result(output: &str) -> anyhow::Result<(u64, Duration)> {
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
