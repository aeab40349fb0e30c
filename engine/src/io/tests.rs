//! Both backends, one expectation each.

use super::*;
use crate::sys::option;
use std::cell::Cell;
use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::os::fd::AsFd;
use std::time::Duration;

/// What no test should ever come near; a hung backend fails instead of hanging the run.
const PATIENCE: Duration = Duration::from_secs(20);

const SMALL: IoOptions = IoOptions { receive_slots: 4, receive_spare: 4, transmit_buffers: 8, file_reads: 4 };

fn on_both(test: impl Fn(IoMode)) {
    for mode in [IoMode::Uring, IoMode::Poll] {
        println!("backend: {mode:?}");
        test(mode);
    }
}

struct Door {
    io: Box<dyn Io>,
    inbox: VecDeque<Completion>,
}

impl Door {
    fn on(mode: IoMode, socket: UdpSocket, options: IoOptions) -> Self {
        let io = open(mode, socket, options).expect("both backends work here");
        let inbox = VecDeque::new();
        Self { io, inbox }
    }

    fn local(mode: IoMode, options: IoOptions) -> Self {
        Self::on(mode, bind_local(), options)
    }

    fn addr(&self) -> SocketAddr {
        self.io.local_addr()
    }

    fn turn(&mut self, wait: Wait) {
        self.io.turn(wait, &|| false, &mut self.inbox).expect("a turn");
    }

    fn next(&mut self) -> Completion {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(completion) = self.inbox.pop_front() {
                return completion;
            }
            assert!(Instant::now() < deadline, "nothing came");
            self.turn(Wait::Until(deadline));
        }
    }

    fn datagrams(&mut self) -> Datagrams {
        match self.next() {
            Completion::Datagrams(datagrams) => datagrams,
            other => panic!("not datagrams: {other:?}"),
        }
    }

    fn file_read(&mut self) -> (u64, io::Result<BytesMut>) {
        loop {
            match self.next() {
                Completion::FileRead { token, result } => return (token, result),
                // The threads of the epoll backend wake it when they are done.
                Completion::Woken => {}
                other => panic!("not a file read: {other:?}"),
            }
        }
    }

    fn send(&mut self, payload: &[u8], to: TransmitTarget) {
        let mut buffer = self.io.transmit_buffer().expect("a free buffer");
        buffer.payload.extend_from_slice(payload);
        self.io.transmit(buffer, to);
        self.turn(Wait::No);
    }
}

fn bind_local() -> UdpSocket {
    bind_one(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
}

fn bind_one(address: SocketAddr) -> UdpSocket {
    let sockets = bind_group(address, NonZeroU16::MIN).expect("a free port");
    sockets.into_iter().next().expect("one socket")
}

fn to(remote: SocketAddr) -> TransmitTarget {
    TransmitTarget { remote, src_ip: None, ecn: None, segment_size: None }
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| ((i + seed) % 251) as u8).collect()
}

/// Receives until `expected` bytes came; returns them in order.
fn collect(door: &mut Door, expected: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(expected);
    while bytes.len() < expected {
        bytes.extend_from_slice(&door.datagrams().bytes);
    }
    bytes
}

#[test]
fn io_uring_works_here() {
    let report = probe_uring().expect("the kernel of this machine grants io_uring");
    assert!(report.to_string().starts_with("io_uring: defer_taskrun "));
    let door = Door::local(IoMode::Auto, SMALL);
    assert_eq!(door.io.kind(), IoKind::Uring);
    assert_eq!(door.io.kind().to_string(), "uring");
}

#[test]
fn sizes_out_of_range_are_refused_by_name() {
    for (options, name) in [
        (IoOptions { receive_slots: 3, ..SMALL }, "receive_slots"),
        (IoOptions { receive_slots: 0, ..SMALL }, "receive_slots"),
        (IoOptions { receive_spare: 1025, ..SMALL }, "receive_spare"),
        (IoOptions { transmit_buffers: 0, ..SMALL }, "transmit_buffers"),
        (IoOptions { file_reads: 1025, ..SMALL }, "file_reads"),
    ] {
        match open(IoMode::Auto, bind_local(), options).map(|io| io.kind()) {
            Err(IoError::Options(named)) => assert_eq!(named, name),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn trains_keep_stride_and_bytes() {
    on_both(|mode| {
        let mut sender = Door::local(mode, SMALL);
        let mut receiver = Door::local(mode, SMALL);
        for (stride, count, tail) in [(1452, 45, 0), (1200, 10, 7), (400, 128, 0), (8952, 7, 1)] {
            let sent = pattern(stride * count - stride + if tail > 0 { tail } else { stride }, count);
            let target = TransmitTarget { segment_size: Some(stride), ..to(receiver.addr()) };
            sender.send(&sent, target);
            let mut received = Vec::new();
            while received.len() < sent.len() {
                let mut datagrams = receiver.datagrams();
                assert_eq!(datagrams.remote, sender.addr());
                assert_eq!(datagrams.local_ip, Some(receiver.addr().ip()));
                assert_eq!(datagrams.stride, stride, "{count} datagrams");
                while !datagrams.bytes.is_empty() {
                    let len = datagrams.stride.min(datagrams.bytes.len());
                    received.extend_from_slice(&datagrams.bytes.split_to(len));
                }
            }
            assert_eq!(received, sent);
        }
        let stats = receiver.io.stats();
        assert_eq!(stats.datagrams_received, 45 + 10 + 128 + 7);
        assert!(stats.trains_received < 20, "GRO joins over loopback: {stats:?}");
        assert_eq!(sender.io.stats().trains_sent, 4);
        assert!(sender.io.stats().segmentation);
    });
}

#[test]
fn held_trains_start_copies_and_released_ones_end_them() {
    on_both(|mode| {
        let mut sender = Door::local(mode, SMALL);
        let mut receiver = Door::local(mode, SMALL);
        let mut held = Vec::new();
        let size = 20_000;
        for round in 0..100 {
            sender.send(&pattern(size, round), to(receiver.addr()));
            let datagrams = receiver.datagrams();
            assert_eq!(datagrams.stride, size);
            held.push(datagrams);
        }
        let starved = receiver.io.stats().trains_copied_starved;
        assert!((91..=96).contains(&starved), "slots for 4 to 9: {starved}");
        for (round, datagrams) in held.iter().enumerate() {
            assert_eq!(datagrams.bytes, pattern(size, round), "round {round}");
        }
        held.clear();
        for round in 0..100 {
            sender.send(&pattern(size, round), to(receiver.addr()));
            assert_eq!(receiver.datagrams().bytes, pattern(size, round));
        }
        assert_eq!(receiver.io.stats().trains_copied_starved, starved);
    });
}

#[test]
fn more_datagrams_than_slots_are_all_received() {
    on_both(|mode| {
        let mut sender = Door::local(mode, SMALL);
        let mut receiver = Door::local(mode, SMALL);
        receiver.turn(Wait::No);
        let sizes: Vec<usize> = (0..40).map(|i| 100 + 61 * i).collect();
        for &size in &sizes {
            sender.send(&pattern(size, size), to(receiver.addr()));
        }
        for &size in &sizes {
            assert_eq!(receiver.datagrams().bytes, pattern(size, size));
        }
        let stats = receiver.io.stats();
        assert_eq!(stats.slots_exhausted > 0, mode == IoMode::Uring, "{stats:?}");
        // And on it goes afterwards.
        sender.send(b"after", to(receiver.addr()));
        assert_eq!(receiver.datagrams().bytes, b"after"[..]);
        assert_eq!((stats.receive_errors, stats.stray_completions), (0, 0));
    });
}

#[test]
fn ecn_and_source_address_make_the_round() {
    on_both(|mode| {
        let v4 = (IpAddr::from([127, 0, 0, 2]), Ipv4Addr::UNSPECIFIED.into());
        let v6 = (Ipv6Addr::LOCALHOST.into(), Ipv6Addr::UNSPECIFIED.into());
        for (ip, any) in [v4, v6] {
            let mut sender = Door::on(mode, bind_one(SocketAddr::new(any, 0)), SMALL);
            let mut receiver = Door::on(mode, bind_one(SocketAddr::new(any, 0)), SMALL);
            for ecn in 0..4 {
                let target = TransmitTarget {
                    src_ip: Some(ip),
                    ecn: Some(ecn),
                    ..to(SocketAddr::new(ip, receiver.addr().port()))
                };
                sender.send(b"marked", target);
                let datagrams = receiver.datagrams();
                assert_eq!(datagrams.ecn, ecn, "{ip}");
                assert_eq!(datagrams.local_ip, Some(ip));
                assert_eq!(datagrams.remote, SocketAddr::new(ip, sender.addr().port()));
            }
        }
    });
}

#[test]
fn a_dual_stack_socket_speaks_ipv4_both_ways() {
    on_both(|mode| {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let mut dual = Door::on(mode, bind_one(any), SMALL);
        let mut plain = Door::local(mode, SMALL);
        let dual_v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, dual.addr().port()));
        plain.send(&[1; 3000], TransmitTarget { ecn: Some(1), ..to(dual_v4) });
        let datagrams = dual.datagrams();
        assert_eq!(datagrams.remote, plain.addr(), "not v4-mapped");
        assert_eq!(datagrams.local_ip, Some(dual_v4.ip()));
        assert_eq!(datagrams.ecn, 1);

        let target = TransmitTarget {
            src_ip: datagrams.local_ip,
            ecn: Some(2),
            segment_size: Some(1000),
            ..to(datagrams.remote)
        };
        dual.send(&[2; 3500], target);
        let datagrams = plain.datagrams();
        assert_eq!((datagrams.remote, datagrams.ecn), (dual_v4, 2));
        assert_eq!((datagrams.stride, datagrams.bytes.len()), (1000, 3500));
    });
}

#[test]
fn lost_sends_are_counted_and_harmless() {
    on_both(|mode| {
        let mut door = Door::local(mode, SMALL);
        let mut peer = Door::local(mode, SMALL);
        let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, 9));
        door.send(b"wrong family", to(v6));
        let foreign =
            TransmitTarget { src_ip: Some(IpAddr::from([192, 0, 2, 1])), segment_size: Some(100), ..to(peer.addr()) };
        door.send(&[0; 300], foreign);
        door.turn(Wait::No);
        let stats = door.io.stats();
        assert!(stats.transmit_errors.total() >= 2, "{stats:?}");
        assert!(stats.segmentation, "a foreign source address is not its fault");
        door.send(b"still here", to(peer.addr()));
        assert_eq!(peer.datagrams().bytes, b"still here"[..]);
        // All buffers came back.
        let lent: Vec<_> = std::iter::from_fn(|| door.io.transmit_buffer()).collect();
        assert_eq!(lent.len(), usize::from(SMALL.transmit_buffers));
    });
}

#[test]
fn buffers_run_out_and_come_back() {
    on_both(|mode| {
        let mut sender = Door::local(mode, SMALL);
        let mut receiver = Door::local(mode, IoOptions::STANDARD);
        for round in 0..3 {
            let mut lent: Vec<_> = std::iter::from_fn(|| sender.io.transmit_buffer()).collect();
            assert_eq!(lent.len(), usize::from(SMALL.transmit_buffers), "round {round}");
            assert!(sender.io.transmit_buffer().is_none());
            sender.io.return_buffer(lent.pop().expect("eight"));
            for (i, mut buffer) in lent.into_iter().enumerate() {
                assert!(buffer.payload.is_empty());
                assert!(buffer.payload.capacity() >= DATAGRAM_TRAIN_BYTES_MAX);
                buffer.payload.extend_from_slice(&pattern(5000, i));
                sender.io.transmit(buffer, to(receiver.addr()));
            }
            sender.turn(Wait::No);
            for i in 0..7 {
                assert_eq!(receiver.datagrams().bytes, pattern(5000, i), "order is kept");
            }
        }
    });
}

#[test]
fn trains_the_kernel_cannot_cut_are_sent_singly() {
    on_both(|mode| {
        // Without checksums the kernel refuses to cut (EINVAL), as a device without offload does.
        let socket = bind_local();
        option::disable_checksums(socket.as_fd()).expect("an option of every socket");
        let mut sender = Door::on(mode, socket, SMALL);
        let mut receiver = Door::local(mode, IoOptions::STANDARD);
        let target = TransmitTarget { segment_size: Some(1000), ..to(receiver.addr()) };
        for round in 0..2 {
            let sent = pattern(9_500, round);
            sender.send(&sent, target);
            assert!(collect(&mut receiver, sent.len()) == sent, "round {round}");
            assert!(!sender.io.stats().segmentation);
        }
        let stats = sender.io.stats();
        assert_eq!((stats.trains_sent, stats.bytes_sent), (2, 19_000));
        assert_eq!(stats.transmit_errors.total(), 0);
        assert_eq!(receiver.io.stats().datagrams_received, 20);
    });
}

#[test]
fn a_deadline_is_kept_in_one_turn() {
    on_both(|mode| {
        let mut door = Door::local(mode, SMALL);
        for ahead_us in [0, 150, 1_300, 50_000] {
            let deadline = Instant::now() + Duration::from_micros(ahead_us);
            let turns = door.io.stats().turns;
            door.turn(Wait::Until(deadline));
            let late = Instant::now().checked_duration_since(deadline);
            assert!(late.is_some(), "{ahead_us} us: early by {:?}", deadline - Instant::now());
            assert!(late < Some(PATIENCE / 4), "{late:?}");
            assert!(door.inbox.is_empty());
            assert_eq!(door.io.stats().turns, turns + 1);
        }
        let enters = door.io.stats().enters;
        // A ring closed earlier on this thread sends it one signal from its teardown.
        assert!(enters <= 5, "no wake without an event: {enters} enters");
    });
}

#[test]
fn mail_before_the_wait_and_wakes_during_it_end_it() {
    on_both(|mode| {
        let mut door = Door::local(mode, SMALL);
        let (sender, receiver) = mailbox(1, door.io.waker());
        let asked = Cell::new(0);
        let has_mail = || {
            asked.set(asked.get() + 1);
            receiver.has_mail()
        };
        assert_eq!(sender.send(7), Ok(()));
        assert_eq!(sender.send(8), Err(8), "the box is full");
        door.io.turn(Wait::ForEvent, &has_mail, &mut door.inbox).expect("a turn that does not wait");
        assert_eq!((asked.get(), door.inbox.len()), (1, 0));
        assert_eq!(receiver.take(), Some(7));
        // A wake from inside the question comes after the flag was set, as a race would have it.
        let late = || {
            assert_eq!(sender.send(9), Ok(()));
            false
        };
        door.io.turn(Wait::ForEvent, &late, &mut door.inbox).expect("a turn that is woken");
        assert!(matches!(door.inbox.pop_front(), Some(Completion::Woken)));
        assert_eq!(receiver.take(), Some(9));
        assert_eq!(door.io.stats().wakes, 1);
    });
}

#[test]
fn no_mail_is_lost_between_two_shards() {
    const MAILS: u32 = 100_000;
    on_both(|mode| {
        let (hello, greeting) = std::sync::mpsc::channel();
        let mut here = Door::local(mode, SMALL);
        let (to_here, mine) = mailbox(8, here.io.waker());
        let echo = std::thread::spawn(move || {
            let mut there = Door::local(mode, SMALL);
            let (to_there, theirs) = mailbox(8, there.io.waker());
            hello.send(to_there).expect("the other side listens");
            let mut expected = 0;
            while expected < MAILS {
                there.io.turn(Wait::ForEvent, &|| theirs.has_mail(), &mut there.inbox).expect("a turn");
                there.inbox.clear();
                while let Some(mail) = theirs.take() {
                    assert_eq!(mail, expected);
                    expected += 1;
                    to_here.send(mail).expect("room for the window");
                }
            }
        });
        let to_there = greeting.recv().expect("the other side speaks first");
        let window = 4;
        for mail in 0..window {
            to_there.send(mail).expect("room for the window");
        }
        let deadline = Instant::now() + 3 * PATIENCE;
        let mut expected = 0;
        while expected < MAILS {
            here.io.turn(Wait::Until(deadline), &|| mine.has_mail(), &mut here.inbox).expect("a turn");
            here.inbox.clear();
            assert!(Instant::now() < deadline, "stuck at {expected}");
            while let Some(mail) = mine.take() {
                assert_eq!(mail, expected);
                expected += 1;
                if mail + window < MAILS {
                    to_there.send(mail + window).expect("room for the window");
                }
            }
        }
        echo.join().expect("the other side is done as well");
    });
}

fn file_of(bytes: &[u8]) -> Arc<OwnedFd> {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(bytes).expect("room for it");
    Arc::new(file.into())
}

#[test]
fn files_are_read_whole_and_end_where_they_end() {
    on_both(|mode| {
        let mut door = Door::local(mode, SMALL);
        let bytes = pattern(3 << 20, 1);
        let file = file_of(&bytes);
        let end = bytes.len() as u64;
        for (token, offset, len, expected) in [
            (1, 0, 4096, &bytes[..4096]),
            (2, 0, bytes.len(), &bytes[..]),
            (3, 17, 1 << 20, &bytes[17..17 + (1 << 20)]),
            (4, end - 10, 4096, &bytes[bytes.len() - 10..]),
            (5, end, 4096, &[]),
            (6, end + 1_000_000, 4096, &[]),
            (7, 5, 0, &[]),
        ] {
            let read = door.io.read_file(token, Arc::clone(&file), offset, len);
            assert_eq!(read, Ok(()));
            let (told, result) = door.file_read();
            assert_eq!(told, token);
            let result = result.expect("a readable file");
            assert!(result == expected, "token {token}: {} bytes", result.len());
        }
        assert_eq!(door.io.stats().file_reads, 7);
    });
}

#[test]
fn a_directory_is_an_error_and_a_full_queue_says_so() {
    on_both(|mode| {
        let mut door = Door::local(mode, SMALL);
        let folder = File::open("/").expect("the root folder");
        let folder = Arc::new(OwnedFd::from(folder));
        door.io.read_file(1, folder, 0, 100).expect("room");
        let (token, result) = door.file_read();
        let error = result.expect_err("a directory").raw_os_error();
        assert_eq!((token, error), (1, Some(libc::EISDIR)));

        let file = file_of(&pattern(100_000, 3));
        for token in 0..4 {
            door.io.read_file(token, Arc::clone(&file), token * 1000, 500).expect("room for four");
        }
        let fifth = door.io.read_file(4, Arc::clone(&file), 0, 500);
        assert_eq!(fifth, Err(ReadQueueFull));
        let mut tokens: Vec<u64> = (0..4)
            .map(|_| {
                let (token, result) = door.file_read();
                let expected = pattern(500, 3 + token as usize * 1000);
                assert_eq!(result.expect("a readable file"), expected);
                token
            })
            .collect();
        tokens.sort_unstable();
        assert_eq!(tokens, [0, 1, 2, 3]);
        assert_eq!(door.io.read_file(4, file, 0, 500), Ok(()));
    });
}

/// What a turn that does not wait finds of a watched file, whatever else it brings.
fn is_readable(door: &mut Door) -> bool {
    // One turn orders the look, and the next one has its answer.
    (0..2).for_each(|_| door.turn(Wait::No));
    let found = door.inbox.iter().any(|completion| matches!(completion, Completion::Readable));
    door.inbox.clear();
    found
}

/// The ends of an empty pipe that the door watches.
fn watched_pipe(door: &mut Door) -> (Arc<OwnedFd>, OwnedFd) {
    let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
    let reader = Arc::new(reader);
    door.io.watch(Arc::clone(&reader)).expect("a pipe can be watched");
    assert!(!is_readable(door), "it is empty");
    (reader, writer)
}

#[test]
fn a_watched_file_is_told_of_while_it_can_be_read_and_when_it_ends() {
    on_both(|mode| {
        let mut door = Door::local(mode, SMALL);
        let (reader, writer) = watched_pipe(&mut door);
        rustix::io::write(&writer, b"ab").expect("room");
        assert!(matches!(door.next(), Completion::Readable), "a wait ends by it");
        assert!(is_readable(&mut door), "nobody read it");
        rustix::io::read(&reader, &mut [0; 2]).expect("two bytes");
        // A look that was ordered before the read may have its answer still to come.
        is_readable(&mut door);
        assert!(!is_readable(&mut door), "it is empty again");
        drop(writer);
        assert!(matches!(door.next(), Completion::Readable), "its end is told");
        door.io.unwatch().expect("it was watched");
        assert!(!is_readable(&mut door), "nothing is watched");
    });
}

#[test]
fn a_look_that_is_under_way_is_not_told_of_once_the_watch_is_over() {
    on_both(|mode| {
        let mut door = Door::local(mode, SMALL);
        let (reader, writer) = watched_pipe(&mut door);
        door.io.unwatch().expect("it was watched");
        rustix::io::write(&writer, b"a").expect("room");
        assert!(!is_readable(&mut door), "nothing is watched");
        drop(reader); // not before: a pipe that nobody can read takes nothing
    });
}

#[test]
fn a_door_closes_with_operations_in_flight() {
    on_both(|mode| {
        let file = file_of(&pattern(1 << 20, 5));
        for submitted in [true, false] {
            // An address of its own, so that no other test takes the port in between.
            let local = SocketAddr::from(([127, 0, 0, 3], 0));
            let mut door = Door::on(mode, bind_one(local), SMALL);
            let addr = door.addr();
            for token in 0..4 {
                door.io.read_file(token, Arc::clone(&file), 0, 1 << 20).expect("room");
            }
            for _ in 0..SMALL.transmit_buffers {
                let mut buffer = door.io.transmit_buffer().expect("a free buffer");
                buffer.payload.resize(60_000, 1);
                door.io.transmit(buffer, to(addr));
            }
            if submitted {
                door.turn(Wait::No);
            }
            let waker = door.io.waker();
            drop(door);
            waker.wake();
            assert!(UdpSocket::bind(addr).is_ok(), "the socket is closed");
        }
        assert_eq!(Arc::strong_count(&file), 1, "no read holds the file any more");
    });
}

#[test]
fn a_group_is_steered_by_connection_id() {
    on_both(|mode| {
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let shards = NonZeroU16::new(3).expect("not zero");
        let sockets = bind_group(any_port, shards).expect("three sockets");
        let mut group: Vec<_> = sockets.into_iter().map(|socket| Door::on(mode, socket, SMALL)).collect();
        let addr = group[0].addr();
        assert!(group.iter().all(|door| door.addr() == addr));
        let mut sender = Door::on(mode, bind_client(&[addr]).expect("a client"), SMALL);
        for cid in 0..=255_u8 {
            let short = [0x40, cid, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa];
            let long = [0xc0, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, cid, 0xaa];
            for payload in [&short[..], &long, &short[..2]] {
                sender.send(payload, to(addr));
                let owner = &mut group[usize::from(cid) % 3];
                assert_eq!(owner.datagrams().bytes, payload);
            }
        }
        // Too short to carry an id: the first member's.
        sender.send(&[0xc0, 1, 2], to(addr));
        assert_eq!(group[0].datagrams().bytes, [0xc0, 1, 2][..]);
        for (shard, door) in group.iter_mut().enumerate() {
            door.turn(Wait::No);
            assert!(door.inbox.is_empty(), "shard {shard} got another's mail");
        }
    });
}

#[test]
fn a_flood_does_not_overfill_a_turn() {
    on_both(|mode| {
        let options = IoOptions { receive_slots: 256, ..IoOptions::STANDARD };
        let mut receiver = Door::local(mode, options);
        receiver.turn(Wait::No);
        let mut sender = Door::local(mode, IoOptions::STANDARD);
        for i in 0..300 {
            sender.send(&pattern(100 + i, i), to(receiver.addr()));
        }
        let mut received = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while received.len() < 300 {
            receiver.turn(Wait::Until(deadline));
            assert!(Instant::now() < deadline, "{} came", received.len());
            assert!(receiver.inbox.len() <= COMPLETIONS_PER_TURN_MAX);
            received.extend(receiver.inbox.drain(..));
        }
    });
}

#[test]
fn bytes_arrive_in_order_under_load() {
    on_both(|mode| {
        let mut sender = Door::local(mode, SMALL);
        let mut receiver = Door::local(mode, IoOptions::STANDARD);
        let target = TransmitTarget { segment_size: Some(1452), ..to(receiver.addr()) };
        for round in 0..200 {
            let sent = pattern(1452 * 45, round);
            sender.send(&sent, target);
            assert!(collect(&mut receiver, sent.len()) == sent, "round {round}");
        }
        assert_eq!(receiver.io.stats().trains_copied_starved, 0);
        assert_eq!(receiver.io.stats().trains_dropped, 0);
    });
}
