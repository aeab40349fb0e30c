//! Files that change under a read: an error, or the bytes of one file, never others.

use engine::client::{Answer, Ask, CallError};
use std::fs::{self, OpenOptions};
use std::time::Duration;
use tests::sim::{Entry, Folder, LARGE_BYTES, Weather, World, WorldOptions, seeds};

/// Seeds of each scenario here.
const SEEDS: u64 = 150;

/// A world in the middle of reading `large`, and whether `odd` is read beside it.
fn reading(seed: u64) -> (World, usize, engine::client::FileKey, engine::client::CallId) {
    let down = Weather { bytes_per_second: Some(6 << 20), latency: Duration::from_millis(2), ..Weather::CALM };
    let mut world = World::new(WorldOptions { seed, weather: [Weather::lan(), down] });
    let client = world.add_client(&Entry::Key);
    world.join(client);
    let (file, _, _) = world.open(client, "large", 0);
    let call = world.ask(client, Ask::Read { file, offset: 0, length: LARGE_BYTES as u64 });
    let wait = Duration::from_micros(world.rng.below(400_000));
    world.run_for(wait);
    (world, client, file, call)
}

#[test]
fn a_truncated_file_is_stale_and_never_wrong() {
    seeds("a_truncated_file_is_stale_and_never_wrong", SEEDS, |seed| {
        let (mut world, client, file, call) = reading(seed);
        let length = world.rng.below(LARGE_BYTES as u64);
        OpenOptions::new().write(true).open(world.folder.share().join("large")).unwrap().set_len(length).unwrap();
        let beside = world.ask(client, Ask::Open { path: "odd".into(), inline_max: 64 << 10, hash: true });
        world.run_until("the end of the read", |world| world.clients[client].is_done(call));
        let heard = world.clients[client].heard(call).clone();
        let expected = Folder::expected("large");
        assert!(expected.starts_with(&heard.data), "seed {seed}: what came before the end is the file's");
        match heard.done.expect("it is over").1 {
            // All had left before the file was cut, or the request came to the host behind the cut.
            Ok(Answer::Read { size, .. }) => {
                assert!(size == LARGE_BYTES as u64 || size == length, "seed {seed}: {size}");
                assert_eq!(heard.data.len() as u64, size, "seed {seed}");
            }
            Err(CallError::Stale | CallError::Errno(_)) => {}
            other => panic!("seed {seed}: {other:?}"),
        }
        let (result, bytes) = world.answer(client, beside);
        let Ok(Answer::Opened { file: odd, .. }) = result else {
            panic!("seed {seed}: others are not touched: {result:?}")
        };
        assert!(bytes.is_empty(), "a file that is larger comes along in no part");
        assert!(world.read(client, odd, 1, 9_000) == Folder::expected("odd")[1..9_001]);
        let size = LARGE_BYTES as u64;
        assert!(world.read(client, file, 0, size) == expected[..usize::try_from(length).unwrap()], "what is left");
    });
}

#[test]
fn a_replaced_or_deleted_file_is_read_to_its_end() {
    seeds("a_replaced_or_deleted_file_is_read_to_its_end", SEEDS, |seed| {
        let (mut world, client, file, call) = reading(seed);
        let path = world.folder.share().join("large");
        if seed % 2 == 0 {
            fs::remove_file(&path).unwrap();
        } else {
            fs::write(path.with_extension("new"), b"another").unwrap();
            fs::rename(path.with_extension("new"), &path).unwrap();
        }
        let (result, bytes) = world.answer(client, call);
        assert!(matches!(result, Ok(Answer::Read { .. })), "seed {seed}: {result:?}");
        assert!(bytes == Folder::expected("large"), "seed {seed}: the file that was opened");
        assert!(world.read(client, file, 5, 10) == Folder::expected("large")[5..15]);
        let call = world.ask(client, Ask::Open { path: "large".into(), inline_max: 100, hash: false });
        match world.answer(client, call) {
            (Ok(Answer::Opened { .. }), bytes) => assert_eq!((seed % 2, &bytes[..]), (1, &b"another"[..])),
            (result, _) => assert_eq!((seed % 2, result), (0, Err(CallError::Errno(libc::ENOENT)))),
        }
        world.check_file(client, "odd");
    });
}

#[test]
fn reads_given_up_make_room_for_others() {
    seeds("reads_given_up_make_room_for_others", 10, |seed| {
        let mut world = World::quiet(seed);
        let client = world.add_client(&Entry::Key);
        world.join(client);
        let (file, _, _) = world.open(client, "large", 0);
        // Half as many again as the streams a client may have open at once.
        for _ in 0..12 {
            let read = |offset| Ask::Read { file, offset, length: 200_000 };
            let calls: Vec<_> = (0..32).map(|n| world.ask(client, read(n * 1_000))).collect();
            let wait = Duration::from_micros(world.rng.below(3_000));
            world.run_for(wait);
            for call in calls {
                world.clients[client].cancel(call);
            }
        }
        world.check_file(client, "even");
        assert_eq!(world.clients[client].losses.len(), 0);
    });
}
