//! Strangers at the host's port: random bytes and handshakes that are begun and left.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use perf::lab::End;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tests::e2e::load::{Load, content, write_files};
use tests::e2e::pair::PORT;
use tests::e2e::wait::{self, SOON};
use tests::e2e::{Io, Pair};
use tests::on_both_backends;
use transport::tuning::Tuning;
use transport::{Identity, Node, NodeOptions, Role};

on_both_backends!(noise_at_the_port_harms_nobody);

/// Handshakes begun and left.
const HANDSHAKES: usize = 1_000;

/// Datagrams of random bytes.
const DATAGRAMS: usize = 20_000;

/// Most memory the host may gain under all this: 1,000 handshakes at 64 KiB each.
const GROWTH_KIB_MAX: u64 = 64 << 10;

/// The memory a process holds that is no file's, in KiB (proc_pid_status(5)). What the host maps of the share is the
/// page cache's and comes and goes with it.
fn resident_kib(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("the host runs");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// A node key made of a fixed seed: PKCS#8 of Ed25519 (RFC 8410 §7). It guards nothing.
fn stranger() -> Identity {
    let head = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    Identity::from_pkcs8(&[&head[..], &[7; 32]].concat()).expect("a well-formed key")
}

/// Sends the noise from inside the client's namespace; returns how many handshakes were begun.
fn make_noise(namespace: &PathBuf, host: SocketAddr, sent: &AtomicU64) -> usize {
    let namespace = fs::File::open(namespace).expect("the namespace has a name");
    move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(LinkNameSpaceType::Network))
        .expect("root enters namespaces");
    let socket = || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a free port");
        socket.connect(host).expect("a route");
        socket
    };
    let send = |socket: &UdpSocket, bytes: &[u8]| {
        // A full queue drops it, as networks do.
        if socket.send(bytes).is_ok() {
            sent.fetch_add(1, Ordering::Relaxed);
        }
    };
    let identity = stranger();
    let mut node = Node::new(NodeOptions {
        identity: &identity,
        role: Role::Client,
        tuning: Tuning::default(),
        shard: 0,
        shards: 1,
        seed: Some([3; 32]),
    })
    .expect("a client");
    let random = content("noise", 1 << 20);
    let (mut payload, mut begun) = (Vec::new(), 0);
    let mut talkers: Vec<UdpSocket> = (0..64).map(|_| socket()).collect();
    for round in 0..HANDSHAKES {
        let now = Instant::now();
        node.connect(now, host).expect("room for a connection");
        let talker = &mut talkers[round % 64];
        *talker = socket();
        while let Some(transmit) = node.poll_transmit(now, &mut payload) {
            let stride = transmit.segment_size.unwrap_or(payload.len());
            payload.chunks(stride).for_each(|datagram| send(talker, datagram));
            begun += usize::from(transmit.from.is_some());
        }
        for index in 0..DATAGRAMS / HANDSHAKES {
            let at = (round * 7919 + index * 104_729) % (random.len() - 1500);
            let mut datagram = random[at..at + 1 + (round * 31 + index * 577) % 1400].to_vec();
            // Every other one looks like the start of a QUIC version 1 packet (RFC 9000 §17.2).
            if index % 2 == 0 && datagram.len() > 5 {
                datagram[..5].copy_from_slice(&[0xc0 | (random[at] & 0x3f), 0, 0, 0, 1]);
            }
            send(talker, &datagram);
        }
    }
    begun
}

fn noise_at_the_port_harms_nobody(io: Io) {
    const BYTES: usize = 1 << 20;
    let mut pair = Pair::hosting(io);
    let names = write_files(pair.share(), 4, BYTES);
    let mount = pair.mount_with("mnt", &["--ram-cache-mb", "1"]);
    let load = Load::start(&mount.point, pair.share(), &names);
    let before = resident_kib(pair.host().id());

    let namespace = PathBuf::from("/run/netns").join(pair.lab().namespace(End::Client));
    let host = pair.lab().socket(End::Host, PORT);
    let (sent, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let noise = std::thread::spawn({
        let (sent, done) = (Arc::clone(&sent), Arc::clone(&done));
        move || {
            let begun = make_noise(&namespace, host, &sent);
            done.store(true, Ordering::Relaxed);
            begun
        }
    });
    let mut most = before;
    wait::until("the noise is made", SOON, || {
        most = most.max(resident_kib(pair.host().id()));
        (done.load(Ordering::Relaxed) || noise.is_finished()).then_some(())
    });
    assert!(noise.join().expect("the noise is made") >= HANDSHAKES, "fewer handshakes were begun");
    assert!(sent.load(Ordering::Relaxed) > DATAGRAMS as u64 / 2, "most of it left the machine");

    // Readers read on: as much again, and all of it right.
    let until = load.bytes() + (names.len() * BYTES) as u64 * 3;
    wait::until("readers go on", SOON, || {
        most = most.max(resident_kib(pair.host().id()));
        (load.bytes() >= until).then_some(())
    });
    for outcome in load.stop("noise", SOON) {
        assert!(outcome.error.is_none() && !outcome.differs, "{outcome:?}");
    }
    assert!(most - before < GROWTH_KIB_MAX, "the host grew by {} KiB from {before}", most - before);
    // And who comes with the key is still let in.
    pair.run(&mut pair.client_without_code(&["ls", &pair.target()])).expect(0);
    assert!(!pair.host().has_ended());
}
