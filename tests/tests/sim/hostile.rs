//! A client that speaks the protocol as it pleases: refused cleanly, while a good one is served.

use engine::ServiceEvent;
use engine::host::crowd::{STRANGERS_MAX, STRANGERS_PER_SOURCE_MAX};
use engine::host::quota::SESSIONS_PER_KEY_MAX;
use engine::host::{HASHES_PER_SESSION_MAX, OWNED_BYTES_MAX};
use std::time::Duration;
use tests::sim::{Entry, OPEN_FILES_MAX, OUTSIDE, World, seeds};
use transport::wire::{
    Control, Kind, Message, PATH_BYTES_MAX, REQUEST_BYTES_MAX, Refusal, Request, Response, code, encode,
};
use transport::{CloseReason, StreamId};

/// Seeds of each scenario here.
const SEEDS: u64 = 20;
/// Streams a client may have open at once.
const AT_ONCE: usize = transport::tuning::STREAMS_MAX as usize;

/// A world with a good client inside and a stranger whose handshake is done.
struct Scene {
    world: World,
    good: usize,
    bad: usize,
    control: StreamId,
}

impl Scene {
    /// The stranger has not said a word.
    fn outside(seed: u64) -> Self {
        let mut world = World::quiet(seed);
        let good = world.add_client(&Entry::Key);
        world.join(good);
        let (bad, control) = stranger(&mut world, &World::new_identity());
        Self { world, good, bad, control }
    }

    /// The stranger's key is enrolled, and it was let in.
    fn inside(seed: u64) -> Self {
        let mut world = World::quiet(seed);
        let good = world.add_client(&Entry::Key);
        world.join(good);
        let identity = World::new_identity();
        world.host.enrol(&world.folder, identity.public(), "bad");
        let (bad, control) = stranger(&mut world, &identity);
        world.raws[bad].write(control, encode(&hello(false)), false);
        world.run_until("a welcome", |world| world.raws[bad].stream(control).message::<Control>().is_some());
        let welcome = world.raws[bad].stream(control).message();
        assert!(matches!(welcome, Some(Control::Welcome { .. })), "{welcome:?}");
        Self { world, good, bad, control }
    }

    /// Sends bytes on a stream of their own; returns it.
    fn send(&mut self, bytes: Vec<u8>) -> StreamId {
        let bad = self.bad;
        let mut opened = None;
        self.world.run_until("a stream", |world| {
            opened = world.raws[bad].open();
            opened.is_some()
        });
        let stream = opened.expect("a stream was opened");
        self.world.raws[bad].write(stream, bytes, true);
        stream
    }

    /// Sends a request; returns the answer.
    fn ask(&mut self, request: &Request) -> Response {
        let bad = self.bad;
        let stream = self.send(frame(request));
        self.world.run_until("an answer", |world| {
            assert_eq!(world.raws[bad].closed, None, "{request:?}");
            world.raws[bad].stream(stream).is_over()
        });
        let told = self.world.raws[bad].stream(stream);
        assert_eq!(told.reset, None, "{request:?}");
        let answer = told.message().expect("an answer is a message");
        self.world.check_nothing_leaked();
        self.world.raws[bad].forget(stream);
        answer
    }

    /// The host closes the stranger's connection with this code, having told nothing but what is known.
    fn ends_with_code(mut self, code: u32) {
        let bad = self.bad;
        self.world.run_until("the end", |world| world.raws[bad].closed.is_some());
        let closed = self.world.raws[bad].closed.clone().expect("it is closed");
        assert_eq!(closed.reason, CloseReason::Peer(code.into()), "{closed:?}");
        self.goes_on();
    }

    /// The good client is served as ever.
    fn goes_on(mut self) {
        self.world.check_nothing_leaked();
        self.world.check_file(self.good, "odd");
        self.world.check_file(self.good, "holes");
        assert_eq!(self.world.clients[self.good].losses.len(), 0);
    }
}

fn stranger(world: &mut World, identity: &transport::Identity) -> (usize, StreamId) {
    let bad = world.add_raw(identity, false);
    world.run_until("a handshake", |world| world.raws[bad].is_connected());
    let control = world.raws[bad].open().expect("a fresh connection allows streams");
    (bad, control)
}

fn hello(prove: bool) -> Control {
    Control::Hello { version_min: 1, version_max: 1, capabilities: 0, prove, device: "bad".into() }
}

/// A frame around any body, whatever its kind.
fn framed(kind: u16, reserved: u16, length: usize, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(length).expect("a test's frame");
    [&length.to_le_bytes()[..], &kind.to_le_bytes(), &reserved.to_le_bytes(), body].concat()
}

/// A message without the checks of a well-behaved sender.
fn frame(message: &impl Message) -> Vec<u8> {
    let body = message.encode_body();
    framed(message.kind(), 0, body.len(), &body)
}

#[test]
fn nothing_is_told_before_the_welcome() {
    seeds("nothing_is_told_before_the_welcome", SEEDS, |seed| {
        let requests = [
            Request::Attr { path: Vec::new() },
            Request::List { path: Vec::new(), cursor: 0, entries_max: 10 },
            Request::Open { path: b"one".to_vec(), inline_max: 10, hash: true },
            Request::Read { handle: 1, offset: 0, length: 10 },
            Request::StatFs,
        ];
        for greeted in [false, true] {
            for request in &requests {
                let mut scene = Scene::outside(seed);
                // The control stream is there, with a hello that is answered by a challenge, or with half of one.
                let words = encode(&hello(true));
                let words = if greeted { words } else { words.slice(..5) };
                let (bad, control) = (scene.bad, scene.control);
                scene.world.raws[bad].write(control, words, false);
                scene.world.run_for(Duration::from_millis(10));
                let stream = scene.send(frame(request));
                scene.world.run_for(Duration::from_secs(1));
                assert!(scene.world.raws[bad].stream(stream).bytes.is_empty(), "{request:?}");
                scene.ends_with_code(code::PROTOCOL);
            }
        }
    });
}

#[test]
fn words_out_of_turn_end_the_conversation() {
    seeds("words_out_of_turn_end_the_conversation", SEEDS, |seed| {
        let outside: Vec<Vec<u8>> = vec![
            frame(&Control::ClientShare { share: [9; 33] }),
            frame(&Control::ClientConfirm { mac: [9; 32] }),
            frame(&Control::HostConfirm { mac: [9; 32] }),
            frame(&Control::Close { handle: 1 }),
            [frame(&hello(true)), frame(&hello(true))].concat(),
            [frame(&hello(true)), frame(&Control::ClientConfirm { mac: [9; 32] })].concat(),
            [frame(&hello(true)), frame(&Control::ClientShare { share: [0xff; 33] })].concat(),
            framed(10, 0, 0, &[]),
            framed(1, 1, 0, &[]),
            framed(1, 0, REQUEST_BYTES_MAX + 1, &[]),
            framed(1, 0, u32::MAX as usize, &[]),
            framed(1, 0, 4, &[1, 2, 3, 4]),
            vec![0xff; 100],
        ];
        for words in outside {
            let mut scene = Scene::outside(seed);
            let (bad, control) = (scene.bad, scene.control);
            scene.world.raws[bad].write(control, words, false);
            scene.ends_with_code(code::PROTOCOL);
        }
        for words in [frame(&hello(false)), frame(&Control::ClientShare { share: [9; 33] }), framed(99, 0, 0, &[])] {
            let mut scene = Scene::inside(seed);
            let (bad, control) = (scene.bad, scene.control);
            scene.world.raws[bad].write(control, words, false);
            scene.ends_with_code(code::PROTOCOL);
        }
        // Versions nobody speaks are refused by word.
        let mut scene = Scene::outside(seed);
        let (bad, control) = (scene.bad, scene.control);
        let new = Control::Hello { version_min: 9, version_max: 10, capabilities: 0, prove: true, device: "x".into() };
        scene.world.raws[bad].write(control, frame(&new), false);
        scene.world.run_until("a refusal", |world| !world.raws[bad].stream(control).messages::<Control>().is_empty());
        let told = scene.world.raws[bad].stream(control).messages();
        assert!(matches!(told[..], [Control::Refused { reason: Refusal::Version, .. }]), "{told:?}");
        let refused_at = scene.world.age();
        scene.world.run_until("the end", |world| world.raws[bad].closed.is_some());
        assert!(scene.world.age() - refused_at < Duration::from_secs(1), "seed {seed}: nobody stays to be refused");
        scene.ends_with_code(code::REFUSED);
    });
}

#[test]
fn who_dallies_at_the_entrance_is_closed() {
    seeds("who_dallies_at_the_entrance_is_closed", SEEDS, |seed| {
        let mut scene = Scene::outside(seed);
        let (bad, control) = (scene.bad, scene.control);
        scene.world.raws[bad].write(control, frame(&hello(true)), false);
        // A word now and then keeps the connection alive, but not the patience.
        for _ in 0..4 {
            scene.world.run_for(Duration::from_secs(5));
            scene.world.raws[bad].write(control, framed(5, 0, 32, &[])[..1].to_vec(), false);
        }
        scene.ends_with_code(code::REFUSED);
    });
}

#[test]
fn no_path_leads_outside() {
    seeds("no_path_leads_outside", SEEDS, |seed| {
        let mut scene = Scene::inside(seed);
        let paths: Vec<Vec<u8>> = vec![
            b"../outside".to_vec(),
            b"..".to_vec(),
            b"/etc/passwd".to_vec(),
            b"//etc/passwd".to_vec(),
            b"dir/../../outside".to_vec(),
            b"dir/../one".to_vec(),
            b"./one".to_vec(),
            b"dir/./inner".to_vec(),
            b"dir//inner".to_vec(),
            b"dir/".to_vec(),
            b"one\0".to_vec(),
            b"one\0/../../outside".to_vec(),
            b"up/outside".to_vec(),
            b"up/../outside".to_vec(),
            b"leak/x".to_vec(),
            b"one/x".to_vec(),
            vec![b'n'; 256],
            [b"dir/".to_vec(), vec![b'n'; 300]].concat(),
            b"a/".repeat(PATH_BYTES_MAX / 2 - 1),
            vec![b'/'; PATH_BYTES_MAX],
            vec![0xff; 200],
        ];
        for path in paths {
            let shown = String::from_utf8_lossy(&path[..path.len().min(40)]).into_owned();
            for request in [
                Request::Attr { path: path.clone() },
                Request::List { path: path.clone(), cursor: 0, entries_max: 10 },
                Request::Readlink { path: path.clone() },
                Request::Open { path: path.clone(), inline_max: 65_536, hash: true },
            ] {
                let answer = scene.ask(&request);
                assert!(matches!(answer, Response::Error { errno } if errno > 0), "{shown}: {answer:?}");
            }
        }
        // Symlinks are seen and never followed.
        for path in ["leak", "up"] {
            let path = path.as_bytes().to_vec();
            let Response::Attr { attr } = scene.ask(&Request::Attr { path: path.clone() }) else {
                panic!("it is there")
            };
            assert_eq!(attr.kind, Kind::Symlink);
            let opened = scene.ask(&Request::Open { path: path.clone(), inline_max: 100, hash: false });
            assert!(matches!(opened, Response::Error { errno: libc::ELOOP }), "{opened:?}");
            let listed = scene.ask(&Request::List { path, cursor: 0, entries_max: 10 });
            assert!(matches!(listed, Response::Error { .. }), "{listed:?}");
        }
        // The line that must not come out does lie where these paths would have led.
        assert_eq!(std::fs::read(scene.world.folder.share().join("leak")).unwrap(), OUTSIDE);
        scene.goes_on();
    });
}

#[test]
fn handles_are_ones_own() {
    seeds("handles_are_ones_own", SEEDS, |seed| {
        let mut scene = Scene::inside(seed);
        let (file, _, _) = scene.world.open(scene.good, "large", 0);
        for handle in [0, 1, 2, u64::MAX] {
            for request in
                [Request::Read { handle, offset: 0, length: 100 }, Request::Hash { handle, offset: 0, length: 100 }]
            {
                let answer = scene.ask(&request);
                assert!(matches!(answer, Response::Error { errno: libc::EBADF }), "{handle}: {answer:?}");
            }
        }
        // Closing what is not ours closes nothing, the good client's least of all.
        let (bad, control) = (scene.bad, scene.control);
        for handle in [0, 1, 2, u64::MAX] {
            scene.world.raws[bad].write(control, frame(&Control::Close { handle }), false);
        }
        scene.world.run_for(Duration::from_millis(50));
        assert_eq!(scene.world.raws[bad].closed, None);
        assert_eq!(scene.world.read(scene.good, file, 0, 100).len(), 100);

        // Offsets and lengths at the edges of what a number holds.
        let opened = scene.ask(&Request::Open { path: b"even".to_vec(), inline_max: 0, hash: false });
        let Response::Opened { handle, .. } = opened else { panic!("{opened:?}") };
        for (offset, length, comes) in
            [(u64::MAX, u64::MAX, 0), (65_536, u64::MAX, 0), (65_535, u64::MAX, 1), (0, u64::MAX, 65_536), (5, 0, 0)]
        {
            let answer = scene.ask(&Request::Read { handle, offset, length });
            assert!(matches!(answer, Response::Data { data, .. } if data == comes), "{offset}+{length}: {answer:?}");
            let answer = scene.ask(&Request::Hash { handle, offset, length });
            assert!(
                matches!(answer, Response::Hash { length, .. } if length == comes),
                "{offset}+{length}: {answer:?}"
            );
        }
        let page = scene.ask(&Request::List { path: Vec::new(), cursor: u64::MAX, entries_max: u32::MAX });
        assert!(matches!(page, Response::Page { .. } | Response::Error { .. }), "{page:?}");
        scene.goes_on();
    });
}

#[test]
fn malformed_requests_end_the_conversation_and_unknown_ones_their_stream() {
    seeds("malformed_requests_end_the_conversation_and_unknown_ones_their_stream", SEEDS, |seed| {
        let long = Request::Attr { path: vec![b'p'; PATH_BYTES_MAX + 1] };
        let stat = Request::StatFs.encode_body();
        for bytes in [
            frame(&long),
            framed(32, 0, REQUEST_BYTES_MAX + 1, &[]),
            framed(32, 0, u32::MAX as usize, &[7; 100]),
            framed(32, 9, 0, &[]),
            framed(32, 0, 0, &[]),
            framed(32, 0, stat.len(), &stat),
            framed(35, 0, 64, &[0xff; 64]),
        ] {
            let mut scene = Scene::inside(seed);
            scene.send(bytes);
            scene.ends_with_code(code::PROTOCOL);
        }
        let mut scene = Scene::inside(seed);
        for kind in [0, 1, 31, 39, 64, 71, u16::MAX] {
            let stream = scene.send(framed(kind, 0, 3, &[1, 2, 3]));
            let bad = scene.bad;
            scene.world.run_until("a reset", |world| world.raws[bad].stream(stream).is_over());
            let told = scene.world.raws[bad].stream(stream);
            assert_eq!((told.reset, told.bytes.len()), (Some(code::UNSUPPORTED.into()), 0), "kind {kind}");
        }
        // Half a request, and bytes behind a whole one.
        scene.send(frame(&Request::StatFs)[..5].to_vec());
        let stream = scene.send([frame(&Request::StatFs), vec![7; 100_000]].concat());
        let bad = scene.bad;
        scene.world.run_until("an answer", |world| world.raws[bad].stream(stream).is_over());
        assert!(matches!(scene.world.raws[bad].stream(stream).message(), Some(Response::StatFs { .. })));
        assert!(matches!(scene.ask(&Request::StatFs), Response::StatFs { .. }));
        scene.goes_on();
    });
}

#[test]
fn ten_thousand_streams_are_answered_or_given_up() {
    seeds("ten_thousand_streams_are_answered_or_given_up", 2, |seed| {
        let mut scene = Scene::inside(seed);
        let (bad, good) = (scene.bad, scene.good);
        let mut sent = 0;
        while sent < 10_000 {
            let mut streams = Vec::new();
            while let Some(stream) = scene.world.raws[bad].open() {
                streams.push(stream);
            }
            assert!(streams.len() <= AT_ONCE);
            for &stream in &streams {
                let path = b"one".to_vec();
                let request = match scene.world.rng.below(4) {
                    0 => Request::Attr { path },
                    1 => Request::Open { path: b"large".to_vec(), inline_max: 1_000, hash: false },
                    2 => Request::List { path: Vec::new(), cursor: 0, entries_max: 100 },
                    _ => Request::StatFs,
                };
                scene.world.raws[bad].write(stream, frame(&request), true);
            }
            sent += streams.len();
            if scene.world.rng.chance(0.3) {
                let wait = Duration::from_micros(scene.world.rng.below(2_000));
                scene.world.run_for(wait);
                streams.iter().for_each(|&stream| scene.world.raws[bad].abandon(stream));
                scene.world.run_for(Duration::from_millis(20));
                continue;
            }
            scene.world.run_until("all answers", |world| {
                streams.iter().all(|&stream| world.raws[bad].stream(stream).is_over())
            });
            streams.iter().for_each(|&stream| scene.world.raws[bad].forget(stream));
        }
        assert_eq!(scene.world.raws[bad].closed, None);
        scene.world.check_file(good, "even");
        scene.goes_on();
    });
}

#[test]
fn hashes_are_bounded_and_end_with_their_streams() {
    seeds("hashes_are_bounded_and_end_with_their_streams", SEEDS, |seed| {
        let mut scene = Scene::inside(seed);
        let (bad, good) = (scene.bad, scene.good);
        let opened = scene.ask(&Request::Open { path: b"large".to_vec(), inline_max: 0, hash: false });
        let Response::Opened { handle, .. } = opened else { panic!("{opened:?}") };
        let request = frame(&Request::Hash { handle, offset: 0, length: u64::MAX });
        let errors = |scene: &Scene, streams: &[StreamId]| {
            let answer = |&stream| scene.world.raws[bad].stream(stream).message().expect("an answer");
            streams.iter().filter(|stream| matches!(answer(stream), Response::Error { errno: libc::EAGAIN })).count()
        };
        // All at once: some are too many, by word.
        let streams: Vec<_> = (0..3 * HASHES_PER_SESSION_MAX).map(|_| scene.send(request.clone())).collect();
        scene
            .world
            .run_until("all answers", |world| streams.iter().all(|&stream| world.raws[bad].stream(stream).is_over()));
        assert!(errors(&scene, &streams) > 0, "seed {seed}");
        assert!(errors(&scene, &streams) <= 2 * HASHES_PER_SESSION_MAX, "seed {seed}");
        // Given up as soon as they are asked for: most never begin, and they take nobody's room.
        for _ in 0..20 {
            let streams: Vec<_> = (0..HASHES_PER_SESSION_MAX).map(|_| scene.send(request.clone())).collect();
            scene.world.run_for(Duration::from_micros(300));
            streams.iter().for_each(|&stream| scene.world.raws[bad].abandon(stream));
        }
        scene.world.check_file(good, "even");
        scene.world.run_for(Duration::from_secs(1));
        assert!(scene.world.host.jobs_cancelled() > 0, "seed {seed}");
        let answer = scene.ask(&Request::Hash { handle, offset: 0, length: 100 });
        assert!(matches!(answer, Response::Hash { length: 100, .. }), "seed {seed}: {answer:?}");
        scene.goes_on();
    });
}

#[test]
fn a_greedy_device_takes_half_of_the_open_files_and_no_more() {
    seeds("a_greedy_device_takes_half_of_the_open_files_and_no_more", 3, |seed| {
        let mut scene = Scene::inside(seed);
        let good = scene.good;
        let open = Request::Open { path: b"large".to_vec(), inline_max: 0, hash: false };
        let mut handles = Vec::new();
        let refused = loop {
            match scene.ask(&open) {
                Response::Opened { handle, .. } => handles.push(handle),
                other => break other,
            }
        };
        assert!(matches!(refused, Response::Error { errno: libc::EMFILE }), "seed {seed}: {refused:?}");
        assert_eq!(handles.len(), OPEN_FILES_MAX / 2, "seed {seed}");
        // Names are looked up all the same, and others open what they like.
        assert!(matches!(scene.ask(&Request::Attr { path: b"one".to_vec() }), Response::Attr { .. }));
        for _ in 0..50 {
            scene.world.open(good, "large", 0);
        }
        // What is closed is room again, for this device too.
        let control = scene.control;
        for handle in handles {
            scene.world.raws[scene.bad].write(control, encode(&Control::Close { handle }), false);
        }
        scene.world.run_for(Duration::from_secs(1));
        assert!(matches!(scene.ask(&open), Response::Opened { .. }), "seed {seed}");
        scene.goes_on();
    });
}

#[test]
fn an_open_that_is_given_up_leaves_no_file_open() {
    seeds("an_open_that_is_given_up_leaves_no_file_open", 5, |seed| {
        let mut scene = Scene::inside(seed);
        let (bad, control) = (scene.bad, scene.control);
        let open = Request::Open { path: b"large".to_vec(), inline_max: 0, hash: false };
        let mut given_up = 0;
        for _ in 0..3 * OPEN_FILES_MAX {
            let stream = scene.send(frame(&open));
            let wait = Duration::from_micros(scene.world.rng.below(1_000));
            scene.world.run_for(wait);
            let told = scene.world.raws[bad].stream(stream).clone();
            if !told.is_over() {
                scene.world.raws[bad].abandon(stream);
                given_up += 1;
                continue;
            }
            let answer = told.message();
            let Some(Response::Opened { handle, .. }) = answer else { panic!("seed {seed}: {answer:?}") };
            scene.world.raws[bad].write(control, encode(&Control::Close { handle }), false);
            scene.world.raws[bad].forget(stream);
        }
        assert!(given_up > OPEN_FILES_MAX / 2, "seed {seed}: {given_up}");
        scene.world.run_for(Duration::from_secs(1));
        // There is as much room as at the start, and what was told stays open.
        let handles: Vec<_> = std::iter::from_fn(|| match scene.ask(&open) {
            Response::Opened { handle, .. } => Some(handle),
            _ => None,
        })
        .collect();
        assert_eq!(handles.len(), OPEN_FILES_MAX / 2, "seed {seed}");
        let read = Request::Read { handle: handles[0], offset: 0, length: 1 };
        assert!(matches!(scene.ask(&read), Response::Data { data: 1, .. }), "seed {seed}");
        scene.goes_on();
    });
}

#[test]
fn a_device_has_so_many_sessions_and_no_more() {
    seeds("a_device_has_so_many_sessions_and_no_more", 5, |seed| {
        let mut world = World::quiet(seed);
        let good = world.add_client(&Entry::Key);
        world.join(good);
        let identity = World::new_identity();
        world.host.enrol(&world.folder, identity.public(), "bad");
        let said = |world: &mut World| {
            let (bad, control) = stranger(world, &identity);
            world.raws[bad].write(control, encode(&hello(false)), false);
            world.run_until("a word", |world| world.raws[bad].stream(control).message::<Control>().is_some());
            (bad, world.raws[bad].stream(control).message::<Control>().expect("a word"))
        };
        let mut inside = Vec::new();
        for _ in 0..SESSIONS_PER_KEY_MAX {
            let (bad, word) = said(&mut world);
            assert!(matches!(word, Control::Welcome { .. }), "seed {seed}: {word:?}");
            inside.push(bad);
        }
        let (_, word) = said(&mut world);
        let Control::Refused { reason: Refusal::Full, retry_after_ms: 1.. } = word else { panic!("{word:?}") };
        let told = world.host.events();
        let mut reasons = told.iter().filter_map(|event| match event {
            ServiceEvent::PeerRefused { reason, .. } => Some(reason),
            _ => None,
        });
        assert!(reasons.next_back().expect("the owner hears of it").contains("connections already"), "{told:?}");
        let now = world.now();
        world.raws[inside[0]].close(now);
        world.run_for(Duration::from_secs(1));
        let (_, word) = said(&mut world);
        assert!(matches!(word, Control::Welcome { .. }), "seed {seed}: {word:?}");
        world.check_file(good, "odd");
    });
}

#[test]
fn answers_that_nobody_takes_wait_in_bounded_memory() {
    seeds("answers_that_nobody_takes_wait_in_bounded_memory", 2, |seed| {
        /// Bytes a stream has on the heap where the client's room is used up.
        const PIECE: usize = 32 << 10;
        let mut scene = Scene::inside(seed);
        let bad = scene.bad;
        // Holes are in no cache: they come by way of the ring.
        let holes = std::fs::File::create(scene.world.folder.share().join("sparse")).unwrap();
        holes.set_len((AT_ONCE as u64) << 20).unwrap();
        let opened = scene.ask(&Request::Open { path: b"sparse".to_vec(), inline_max: 0, hash: false });
        let Response::Opened { handle, .. } = opened else { panic!("{opened:?}") };
        // What the host sends is lost, so it may soon send no more.
        let from = scene.world.age();
        scene.world.net.weather()[1].partitions.push((from, from + Duration::from_secs(3)));
        let mut streams = Vec::new();
        while let Some(stream) = scene.world.raws[bad].open() {
            let offset = (streams.len() as u64) << 20;
            let request = match streams.len() % 8 {
                7 => Request::List { path: Vec::new(), cursor: 0, entries_max: u32::MAX },
                _ => Request::Read { handle, offset, length: 1 << 20 },
            };
            scene.world.raws[bad].write(stream, frame(&request), true);
            streams.push(stream);
        }
        assert!(streams.len() > AT_ONCE / 2);
        let mut most = 0;
        for _ in 0..2_000 {
            scene.world.run_for(Duration::from_millis(1));
            most = most.max(scene.world.host.owned_bytes_max());
        }
        assert!(most > OWNED_BYTES_MAX / 2, "seed {seed}: {most}");
        assert!(most <= OWNED_BYTES_MAX + AT_ONCE * PIECE, "seed {seed}: {most}");
        // The last ones had the least room; they come whole, though others are never read to their end.
        let (others, last) = streams.split_at(streams.len() - 10);
        others.iter().for_each(|&stream| scene.world.raws[bad].abandon(stream));
        scene
            .world
            .run_until("what is left", |world| last.iter().all(|&stream| world.raws[bad].stream(stream).is_over()));
        for &stream in last {
            let told = scene.world.raws[bad].stream(stream);
            assert_eq!(told.reset, None, "seed {seed}");
            match told.message().expect("an answer") {
                Response::Data { data, .. } => assert!(told.bytes.ends_with(&vec![0; 1 << 20]) && data == 1 << 20),
                Response::Page { entries, .. } => assert!(!entries.is_empty()),
                other => panic!("seed {seed}: {other:?}"),
            }
        }
        assert_eq!(scene.world.host.owned_bytes_max(), 0, "seed {seed}: nothing waits any more");
        let good = scene.good;
        scene.world.check_file(good, "odd");
    });
}

#[test]
fn silent_strangers_of_one_address_keep_nobody_out() {
    seeds("silent_strangers_of_one_address_keep_nobody_out", SEEDS, |seed| {
        let mut world = World::quiet(seed);
        let (first, control) = stranger(&mut world, &World::new_identity());
        let mut silent = vec![(first, control)];
        for _ in 0..10 {
            let bad = world.add_raw_beside(&World::new_identity(), first);
            world.run_until("a handshake", |world| world.raws[bad].is_connected());
            let control = world.raws[bad].open().expect("a fresh connection allows streams");
            silent.push((bad, control));
        }
        let mut challenged = 0;
        for (bad, control) in silent {
            world.raws[bad].write(control, encode(&hello(true)), false);
            world.run_until("a word", |world| world.raws[bad].stream(control).message::<Control>().is_some());
            match world.raws[bad].stream(control).message() {
                Some(Control::Challenge { .. }) => challenged += 1,
                Some(Control::Refused { reason: Refusal::Full, retry_after_ms: 1.. }) => {}
                other => panic!("seed {seed}: {other:?}"),
            }
        }
        assert_eq!(challenged, 2, "seed {seed}");
        let good = world.add_client(&Entry::Code);
        world.join(good);
        world.check_file(good, "odd");
    });
}

#[test]
fn who_breaks_the_protocol_holds_no_place_at_the_entrance() {
    seeds("who_breaks_the_protocol_holds_no_place_at_the_entrance", SEEDS, |seed| {
        let mut world = World::quiet(seed);
        for _ in 0..8 {
            let (bad, control) = stranger(&mut world, &World::new_identity());
            let words = [frame(&hello(true)), frame(&Control::ClientConfirm { mac: [9; 32] })].concat();
            world.raws[bad].write(control, words, false);
            world.run_until("the end", |world| world.raws[bad].closed.is_some());
        }
        let good = world.add_client(&Entry::Code);
        world.join(good);
    });
}

#[test]
fn a_crowd_of_strangers_leaves_room_for_others() {
    seeds("a_crowd_of_strangers_leaves_room_for_others", 1, |seed| {
        let mut world = World::quiet(seed);
        let identity = World::new_identity();
        let come = |world: &mut World, beside: Option<usize>| {
            let bad = match beside {
                Some(other) => world.add_raw_beside(&identity, other),
                None => world.add_raw(&identity, false),
            };
            world.run_until("a handshake", |world| world.raws[bad].is_connected());
            world.run_for(Duration::from_millis(10));
            (bad, world.raws[bad].closed.is_none())
        };
        let (first, _) = come(&mut world, None);
        let stay = |stays: &[(usize, bool)]| stays.iter().filter(|(_, stays)| *stays).count();
        let beside: Vec<_> = (0..STRANGERS_PER_SOURCE_MAX + 5).map(|_| come(&mut world, Some(first))).collect();
        assert_eq!(stay(&beside), STRANGERS_PER_SOURCE_MAX - 1, "seed {seed}");
        let elsewhere = world.add_client(&Entry::Code);
        world.join(elsewhere);
        // They come faster than they are closed for being slow.
        let all: Vec<_> = (0..STRANGERS_MAX).map(|_| come(&mut world, None)).collect();
        assert!(world.age() < Duration::from_secs(15), "seed {seed}: {:?}", world.age());
        assert_eq!(stay(&all), STRANGERS_MAX - STRANGERS_PER_SOURCE_MAX, "seed {seed}");
        let (last, _) = all[all.len() - 1];
        let closed = world.raws[last].closed.clone().expect("it is one too many");
        assert_eq!(closed.reason, CloseReason::Peer(code::REFUSED.into()), "{closed:?}");
        let known = world.add_client(&Entry::Key);
        world.join(known);
        world.check_file(known, "odd");
        // Whoever is patient comes in when those have been sent away.
        world.run_for(Duration::from_secs(16));
        let late = world.add_client(&Entry::Code);
        world.join(late);
        assert_eq!(world.clients[elsewhere].losses.len(), 0);
    });
}
