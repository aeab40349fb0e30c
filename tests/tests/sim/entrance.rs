//! Who comes in, who does not, and what the host does about guessing and crowds.

use engine::ServiceEvent;
use engine::client::{Ask, ClientError};
use engine::trust::peers::PEERS_MAX;
use std::time::Duration;
use tests::sim::{Entry, World, seeds};
use transport::wire::Refusal;

/// Seeds of each scenario here.
const SEEDS: u64 = 60;

/// Adds a client that is refused; returns why.
fn refusal(world: &mut World, entry: &Entry) -> (Refusal, Duration) {
    let client = world.add_client(entry);
    match outcome(world, client) {
        Some(ClientError::Refused(reason, retry_after)) => (reason, retry_after),
        other => panic!("the client is refused, but: {other:?}"),
    }
}

/// Why a client failed, or `None` when it came in.
fn outcome(world: &mut World, client: usize) -> Option<ClientError> {
    world.run_until("a welcome or a refusal", |world| {
        world.clients[client].is_ready() || world.clients[client].failed.is_some()
    });
    world.clients[client].failed.clone().map(|(_, error)| error)
}

fn count(events: &[ServiceEvent], of: impl Fn(&ServiceEvent) -> bool) -> usize {
    events.iter().filter(|event| of(event)).count()
}

#[test]
fn guessing_is_slowed_and_then_the_code_is_replaced() {
    seeds("guessing_is_slowed_and_then_the_code_is_replaced", SEEDS, |seed| {
        let mut world = World::quiet(seed);
        let enrolled = World::new_identity();
        let inside = world.add_client_as(&enrolled, &Entry::Key);
        world.join(inside);
        let code = world.host.code();
        let mut wrong = 0;
        let mut waited = Duration::ZERO;
        while *world.host.code().reveal() == *code.reveal() {
            let (reason, retry_after) = refusal(&mut world, &Entry::WrongCode);
            match reason {
                Refusal::WrongCode => wrong += 1,
                Refusal::TooManyAttempts => {
                    assert!(wrong >= 3, "seed {seed}: a slip or two cost nothing");
                    assert!(retry_after > Duration::ZERO);
                    // The right code does not help now either, or guessing in parallel would.
                    if world.rng.chance(0.3) {
                        assert_eq!(refusal(&mut world, &Entry::Code).0, Refusal::TooManyAttempts);
                    }
                    waited += retry_after;
                    world.run_for(retry_after);
                }
                other => panic!("seed {seed}: {other:?}"),
            }
        }
        assert_eq!(wrong, 10, "seed {seed}: guesses that one code stands");
        assert!(waited > Duration::from_secs(60), "seed {seed}: {waited:?}");
        let events = world.host.events();
        assert!(count(&events, |e| matches!(e, ServiceEvent::PeerRefused { .. })) > 10);
        assert_eq!(count(&events, |e| matches!(e, ServiceEvent::WaitingForPeer { .. })), 1, "the owner is told");
        // Who is known comes in all the while, and who has the new code does when the waiting is over.
        let again = world.add_client_as(&World::new_identity(), &Entry::Key);
        assert_eq!(outcome(&mut world, again), None);
        world.run_for(Duration::from_secs(61));
        let new = world.add_client(&Entry::Code);
        assert_eq!(outcome(&mut world, new), None);
        let old = world.add_client_with(&World::new_identity(), Some(code), Vec::new());
        assert_eq!(outcome(&mut world, old), Some(ClientError::Refused(Refusal::WrongCode, Duration::ZERO)));
        world.check_file(inside, "odd");
    });
}

#[test]
fn strangers_without_a_code_are_told_so() {
    seeds("strangers_without_a_code_are_told_so", SEEDS, |seed| {
        let mut world = World::drawn(seed);
        let host = world.host.key();
        let unknowing = world.add_client_with(&World::new_identity(), None, Vec::new());
        assert_eq!(outcome(&mut world, unknowing), Some(ClientError::UnknownHost));
        let unknown = world.add_client_with(&World::new_identity(), None, vec![host]);
        assert_eq!(outcome(&mut world, unknown), Some(ClientError::NotEnrolled));
    });
}

#[test]
fn a_revoked_device_leaves_and_stays_out() {
    seeds("a_revoked_device_leaves_and_stays_out", SEEDS, |seed| {
        let mut world = World::quiet(seed);
        let (revoked, other) = (World::new_identity(), World::new_identity());
        let entry = if seed % 2 == 0 { Entry::Code } else { Entry::Key };
        let client = world.add_client_as(&revoked, &entry);
        world.join(client);
        let beside = world.add_client_as(&other, &Entry::Code);
        world.join(beside);
        let call = world.ask(client, Ask::List { path: "".into(), cursor: 0, entries_max: 5 });
        world.host.events();
        let now = world.now();
        world.host.revoke(now, &world.folder, revoked.public());
        let why = Some(ClientError::Refused(Refusal::Revoked, Duration::ZERO));
        world.run_until("the end", |world| world.clients[client].failed.is_some());
        assert_eq!(outcome(&mut world, client), why, "seed {seed}");
        assert!(world.clients[client].is_done(call), "every call ends");
        assert!(world.age() < Duration::from_secs(2), "at once");
        world.run_for(Duration::from_secs(5));
        let gone = count(&world.host.events(), |e| matches!(e, ServiceEvent::PeerDisconnected { .. }));
        assert_eq!((gone, world.host.connections()), (1, 1), "the host lets go of it, too");

        let (host, code) = (world.host.key(), world.host.code());
        for trusted in [vec![host], Vec::new()] {
            let back = world.add_client_with(&revoked, Some(code.clone()), trusted);
            assert_eq!(outcome(&mut world, back), why, "seed {seed}: the right code does not help");
        }
        world.check_file(beside, "odd");
    });
}

#[test]
fn a_full_list_takes_nobody_in_unlisted() {
    seeds("a_full_list_takes_nobody_in_unlisted", 2, |seed| {
        let mut world = World::quiet(seed);
        let known = world.add_client(&Entry::Key);
        world.join(known);
        let path = world.folder.state().join("peers.json");
        let mut list: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let peers = list["peers"].as_array_mut().expect("a list");
        for number in peers.len()..PEERS_MAX {
            let mut peer = peers[0].clone();
            peer["key"] = format!("{:064x}", number + 1).into();
            peers.push(peer);
        }
        std::fs::write(&path, list.to_string()).unwrap();
        let (reason, retry_after) = refusal(&mut world, &Entry::Code);
        assert_eq!(reason, Refusal::Full, "seed {seed}");
        assert!(retry_after > Duration::ZERO);
        let refused =
            |e: &ServiceEvent| matches!(e, ServiceEvent::PeerRefused { reason, .. } if reason.contains("peers forget"));
        assert_eq!(count(&world.host.events(), refused), 1, "the owner is told what to do");
        world.check_file(known, "odd");
        // With one forgotten there is room again.
        list["peers"].as_array_mut().expect("a list").pop();
        std::fs::write(&path, list.to_string()).unwrap();
        let late = world.add_client(&Entry::Code);
        assert_eq!(outcome(&mut world, late), None);
    });
}

#[test]
fn half_open_handshakes_and_garbage_keep_nobody_out() {
    seeds("half_open_handshakes_and_garbage_keep_nobody_out", 6, |seed| {
        let mut world = World::quiet(seed);
        let client = world.add_client(&Entry::Key);
        world.join(client);
        let identity = World::new_identity();
        for n in 0..200 {
            world.add_raw(&identity, true);
            for _ in 0..5 {
                let length = 1 + world.rng.below(1_500) as usize;
                let mut garbage: Vec<u8> = (0..length).map(|_| world.rng.bits() as u8).collect();
                // Half of it looks like QUIC: a long header of version 1, or a short one.
                match world.rng.below(4) {
                    0 => garbage.splice(..garbage.len().min(5), [0xc3, 0, 0, 0, 1]).for_each(drop),
                    1 => garbage[0] = 0x40 | (garbage[0] & 0x3f),
                    _ => {}
                }
                world.send_garbage(&garbage);
            }
            if n % 20 == 0 {
                world.check_file(client, "one");
            }
        }
        world.check_every_file(client);
        let late = world.add_client(&Entry::Code);
        world.join(late);
        world.check_file(late, "odd");
        assert_eq!(world.clients[client].losses.len(), 0);
        // The half-open ones are forgotten in time.
        world.run_for(Duration::from_secs(20));
        assert_eq!(world.host.connections(), 2);
    });
}
