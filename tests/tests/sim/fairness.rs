//! Clients side by side get their share.

use engine::client::Ask;
use std::time::Duration;
use tests::sim::{Entry, Folder, LARGE_BYTES, Weather, World, WorldOptions, seeds};

/// Seeds of each scenario here.
const SEEDS: u64 = 40;

#[test]
fn two_readers_both_get_on() {
    seeds("two_readers_both_get_on", SEEDS, |seed| {
        let down = Weather { bytes_per_second: Some(8 << 20), latency: Duration::from_millis(1), ..Weather::CALM };
        let mut world = World::new(WorldOptions { seed, weather: [Weather::lan(), down] });
        let clients = [world.add_client(&Entry::Key), world.add_client(&Entry::Key)];
        let files = clients.map(|client| {
            world.join(client);
            world.open(client, "large", 0).0
        });
        let calls =
            [0, 1].map(|n| world.ask(clients[n], Ask::Read { file: files[n], offset: 0, length: LARGE_BYTES as u64 }));
        let mut first = None;
        world.run_until("the first to finish", |world| {
            first = (0..2).find(|&n| world.clients[clients[n]].is_done(calls[n]));
            first.is_some()
        });
        let behind = 1 - first.expect("one is done");
        let come = world.clients[clients[behind]].heard(calls[behind]).data.len();
        assert!(come > LARGE_BYTES / 5, "seed {seed}: the other one has {come} bytes");
        for n in 0..2 {
            assert!(world.answer(clients[n], calls[n]).1 == Folder::expected("large"));
        }
    });
}

#[test]
fn a_small_ask_does_not_wait_behind_a_large_read() {
    seeds("a_small_ask_does_not_wait_behind_a_large_read", SEEDS, |seed| {
        let down = Weather { bytes_per_second: Some(2 << 20), latency: Duration::from_millis(1), ..Weather::CALM };
        let mut world = World::new(WorldOptions { seed, weather: [Weather::lan(), down] });
        let (reader, asker) = (world.add_client(&Entry::Key), world.add_client(&Entry::Key));
        world.join(reader);
        world.join(asker);
        let file = world.open(reader, "large", 0).0;
        let call = world.ask(reader, Ask::Read { file, offset: 0, length: LARGE_BYTES as u64 });
        while !world.clients[reader].is_done(call) {
            let asked = world.age();
            world.check_file(asker, "one");
            let waited = world.age() - asked;
            // Three round trips of 100 ms of queue, and what is lost where the queue ends.
            assert!(waited < Duration::from_secs(3), "seed {seed}: {waited:?}");
        }
    });
}
