//! Paths that narrow, break and heal; hosts that crash and come back.

use engine::client::{Answer, Ask, CallError};
use std::time::Duration;
use tests::sim::{CALL_TIMEOUT, Entry, Folder, LARGE_BYTES, Weather, World, WorldOptions, seeds};
use transport::tuning::{IDLE_TIMEOUT, KEEP_ALIVE};

/// Seeds of each scenario here: a few 10 ms each.
const SEEDS: u64 = 120;
/// What a client may need beyond its bound to say so: it looks again at a call of a host that is there every second.
const BOUND_SLACK: Duration = Duration::from_secs(2);
/// Slow enough that a transfer of 3 MiB is under way for half a second at least, so that it can be disturbed.
const SLOW_BYTES_PER_SECOND: u64 = 6 << 20;

/// A quiet network on which the large file takes a while.
fn slow(seed: u64) -> World {
    let down = Weather { bytes_per_second: Some(SLOW_BYTES_PER_SECOND), ..Weather::lan() };
    World::new(WorldOptions { seed, weather: [Weather::lan(), down] })
}

#[test]
fn a_black_hole_for_long_datagrams_is_found_and_avoided() {
    seeds("a_black_hole_for_long_datagrams_is_found_and_avoided", SEEDS, |seed| {
        let mut world = World::quiet(seed);
        for weather in world.net.weather() {
            weather.black_hole = Some((1_300, Duration::ZERO));
        }
        let client = world.add_client(&Entry::Key);
        world.join(client);
        world.check_file(client, "large");
        assert!(world.clients[client].mtu().unwrap() <= 1_300);
        assert!(world.age() < Duration::from_secs(5), "seed {seed}: {:?}", world.age());
    });
}

#[test]
fn a_black_hole_that_opens_in_a_transfer_does_not_end_it() {
    seeds("a_black_hole_that_opens_in_a_transfer_does_not_end_it", SEEDS, |seed| {
        let mut world = slow(seed);
        let client = world.add_client(&Entry::Key);
        world.join(client);
        // Time to find out that jumbo frames pass.
        world.run_for(Duration::from_secs(1));
        assert!(world.clients[client].mtu().unwrap() > 1_300);
        let (file, _, _) = world.open(client, "large", 0);
        let call = world.ask(client, Ask::Read { file, offset: 0, length: LARGE_BYTES as u64 });
        let wait = Duration::from_millis(world.rng.below(400));
        world.run_for(wait);
        assert!(!world.clients[client].is_done(call), "the transfer is under way");
        let opens = world.age();
        for weather in world.net.weather() {
            weather.black_hole = Some((1_300, opens));
        }
        let (result, bytes) = world.answer(client, call);
        assert!(matches!(result, Ok(Answer::Read { .. })), "seed {seed}: {result:?}");
        assert!(bytes == Folder::expected("large"));
    });
}

#[test]
fn a_short_partition_is_sat_out() {
    seeds("a_short_partition_is_sat_out", SEEDS, |seed| {
        let mut world = slow(seed);
        let client = world.add_client(&Entry::Key);
        world.join(client);
        let (file, _, _) = world.open(client, "large", 0);
        let from = world.age() + Duration::from_millis(world.rng.below(400));
        let to = from + Duration::from_millis(500 + world.rng.below(5_000));
        for weather in world.net.weather() {
            weather.partitions.push((from, to));
        }
        let call = world.ask(client, Ask::Read { file, offset: 0, length: LARGE_BYTES as u64 });
        let (result, bytes) = world.answer(client, call);
        assert!(matches!(result, Ok(Answer::Read { .. })), "seed {seed}: {result:?}");
        assert!(bytes == Folder::expected("large"));
        let client = &world.clients[client];
        assert_eq!((client.losses.len(), client.welcomes.len()), (0, 1), "the connection lives on");
    });
}

#[test]
fn a_long_partition_ends_calls_within_their_bound_and_heals() {
    seeds("a_long_partition_ends_calls_within_their_bound_and_heals", SEEDS, |seed| {
        let mut world = slow(seed);
        let client = world.add_client(&Entry::Key);
        world.join(client);
        let (file, _, _) = world.open(client, "large", 0);
        let reading = world.ask(client, Ask::Read { file, offset: 0, length: LARGE_BYTES as u64 });
        let wait = Duration::from_millis(world.rng.below(300));
        world.run_for(wait);
        let (from, length) = (world.age(), Duration::from_millis(25_000 + world.rng.below(10_000)));
        for weather in world.net.weather() {
            weather.partitions.push((from, from + length));
        }
        // Calls of every moment of the partition.
        let mut calls = vec![reading];
        for _ in 0..10 {
            calls.push(world.ask(client, Ask::Attr { path: "one".into() }));
            let wait = Duration::from_millis(world.rng.below(1_200));
            world.run_for(wait);
            calls.push(world.ask(client, Ask::Read { file, offset: 7, length: 100 }));
        }
        for call in calls {
            world.run_until("the end of a call", |world| world.clients[client].is_done(call));
            let heard = world.clients[client].heard(call).clone();
            let (done_at, result) = heard.done.expect("it is over");
            assert!(
                matches!(result, Err(CallError::TimedOut | CallError::HostDown)),
                "seed {seed}: {result:?} at {:?}, partition from {from:?}",
                world.age_at(done_at)
            );
            let since = world.age_at(heard.asked_at).max(from);
            let waited = world.age_at(done_at) - since;
            assert!(waited <= CALL_TIMEOUT + BOUND_SLACK, "seed {seed}: the call waited {waited:?}");
        }
        assert_eq!(world.clients[client].losses.len(), 1);
        // Once the host has been known to be away for as long as a call may take, a call fails at once.
        let known = from + IDLE_TIMEOUT + KEEP_ALIVE + CALL_TIMEOUT;
        world.run_for(known.saturating_sub(world.age()));
        let call = world.ask(client, Ask::StatFs);
        assert!(world.clients[client].is_done(call));
        assert_eq!(world.clients[client].take(call).0, Err(CallError::HostDown));

        world.run_until("the way back", |world| world.clients[client].is_ready());
        let back = world.age() - (from + length);
        assert!(back < Duration::from_secs(6), "seed {seed}: found again after {back:?}");
        let welcome = &world.clients[client].welcomes.last().expect("one at least").1;
        assert!(welcome.again && !welcome.enrolled);
        assert!(world.read(client, file, 0, LARGE_BYTES as u64) == Folder::expected("large"), "the open file goes on");
    });
}

#[test]
fn a_restarted_host_is_found_and_the_read_goes_on() {
    seeds("a_restarted_host_is_found_and_the_read_goes_on", SEEDS, |seed| {
        let mut world = slow(seed);
        let entry = if seed % 2 == 0 { Entry::Code } else { Entry::Key };
        let client = world.add_client(&entry);
        world.join(client);
        let (file, _, _) = world.open(client, "large", 0);
        let (small, _, _) = world.open(client, "odd", 64 << 10);
        let call = world.ask(client, Ask::Read { file, offset: 0, length: LARGE_BYTES as u64 });
        let wait = Duration::from_millis(5 + world.rng.below(300));
        world.run_for(wait);
        assert!(!world.clients[client].is_done(call), "the transfer is under way");
        world.host.crash();
        let away = Duration::from_millis(world.rng.below(5_000));
        world.run_for(away);
        world.host.restart(&world.folder);
        let (result, bytes) = world.answer(client, call);
        assert!(matches!(result, Ok(Answer::Read { .. })), "seed {seed}: {result:?} after {away:?}");
        assert!(bytes == Folder::expected("large"));
        assert!(world.read(client, small, 1, 1 << 20) == Folder::expected("odd")[1..]);
        let client = &world.clients[client];
        assert_eq!((client.losses.len(), client.welcomes.len()), (1, 2));
        assert!(client.welcomes[1].1.again && !client.welcomes[1].1.enrolled, "the key is enough");
    });
}

#[test]
fn a_file_replaced_while_the_host_was_away_is_stale() {
    seeds("a_file_replaced_while_the_host_was_away_is_stale", SEEDS, |seed| {
        let mut world = World::quiet(seed);
        let client = world.add_client(&Entry::Key);
        world.join(client);
        let (file, _, _) = world.open(client, "large", 0);
        let (emptied, _, _) = world.open(client, "even", 0);
        world.host.crash();
        let path = world.folder.share().join("large");
        std::fs::write(path.with_extension("new"), b"another file").unwrap();
        std::fs::rename(path.with_extension("new"), path).unwrap();
        std::fs::write(world.folder.share().join("even"), b"").unwrap();
        world.host.restart(&world.folder);
        let call = world.ask(client, Ask::Read { file, offset: 0, length: 12 });
        assert_eq!(world.answer(client, call).0, Err(CallError::Stale));
        // The same file, empty now: that is no reason to ask for ever.
        let asked = world.age();
        assert_eq!(world.read(client, emptied, 0, 10), b"");
        assert!(world.age() - asked < Duration::from_secs(1), "answered, not given up");
        world.check_file(client, "odd");
    });
}
