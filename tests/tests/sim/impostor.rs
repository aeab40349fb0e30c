//! Machines that answer where the host was to be: what they learn, and what becomes of the device.

use engine::client::ClientError;
use std::time::Duration;
use tests::sim::{Manner, World, seeds};
use transport::wire::Refusal;

/// Seeds of each scenario here.
const SEEDS: u64 = 60;
/// Guesses that one try may give away, whoever answers.
const PROOFS_MAX: u32 = 2;

/// Waits until a client is in, or has failed; says why.
fn outcome(world: &mut World, client: usize) -> Option<ClientError> {
    world.run_until("a welcome or a failure", |world| {
        world.clients[client].is_ready() || world.clients[client].failed.is_some()
    });
    world.clients[client].failed.clone().map(|(_, error)| error)
}

fn proofs(world: &World) -> u32 {
    world.impostors.iter().map(|impostor| impostor.proofs).sum()
}

#[test]
fn a_false_host_gets_two_guesses_at_most() {
    seeds("a_false_host_gets_two_guesses_at_most", SEEDS, |seed| {
        for (manner, why, guesses) in [
            (Manner::HangUp, ClientError::WrongHost, PROOFS_MAX),
            (Manner::Bluff, ClientError::WrongHost, 1),
            (Manner::Refuse, ClientError::Refused(Refusal::WrongCode, Duration::ZERO), 1),
        ] {
            let mut world = World::quiet(seed);
            let impostor = world.add_impostor(manner);
            let (address, code) = (world.impostors[impostor].address(), world.host.code());
            let client = world.add_client_at(&World::new_identity(), vec![address], Some(code), Vec::new(), &[]);
            assert_eq!(outcome(&mut world, client), Some(why), "seed {seed}: {manner:?}");
            assert_eq!(proofs(&world), guesses, "seed {seed}: {manner:?}");
            world.run_for(Duration::from_secs(60));
            assert_eq!(proofs(&world), guesses, "seed {seed}: {manner:?}, later");
        }
    });
}

#[test]
fn the_right_host_is_found_behind_a_wrong_one() {
    seeds("the_right_host_is_found_behind_a_wrong_one", SEEDS, |seed| {
        for manner in [Manner::HangUp, Manner::Bluff, Manner::Refuse, Manner::Welcome, Manner::Foreign] {
            let mut world = World::quiet(seed);
            let impostor = world.add_impostor(manner);
            let addresses = vec![world.impostors[impostor].address(), world.host_address()];
            let code = world.host.code();
            let client = world.add_client_at(&World::new_identity(), addresses, Some(code), Vec::new(), &[]);
            assert_eq!(outcome(&mut world, client), None, "seed {seed}: {manner:?}");
            assert!(proofs(&world) <= 1, "seed {seed}: {manner:?}");
            world.check_file(client, "odd");
        }
        // Without a code: the host that knows the device is behind one that nobody knows.
        let mut world = World::quiet(seed);
        let impostor = world.add_impostor(Manner::Welcome);
        let addresses = vec![world.impostors[impostor].address(), world.host_address()];
        let identity = World::new_identity();
        world.host.enrol(&world.folder, identity.public(), "device");
        let host = world.host.key();
        let client = world.add_client_at(&identity, addresses, None, vec![host], &[]);
        assert_eq!(outcome(&mut world, client), None, "seed {seed}");
        world.check_file(client, "odd");
    });
}

#[test]
fn one_host_at_two_addresses_gets_one_guess() {
    seeds("one_host_at_two_addresses_gets_one_guess", SEEDS, |seed| {
        let mut world = World::quiet(seed);
        let impostor = world.add_impostor(Manner::Refuse);
        let second = world.add_alias(impostor);
        let addresses = vec![world.impostors[impostor].address(), second];
        let code = world.host.code();
        let client = world.add_client_at(&World::new_identity(), addresses, Some(code), Vec::new(), &[]);
        let why = ClientError::Refused(Refusal::WrongCode, Duration::ZERO);
        assert_eq!(outcome(&mut world, client), Some(why), "seed {seed}");
        assert_eq!(proofs(&world), 1, "seed {seed}");
    });
}

#[test]
fn of_several_refusals_the_most_helpful_is_told() {
    seeds("of_several_refusals_the_most_helpful_is_told", SEEDS, |seed| {
        let wrong_code = ClientError::Refused(Refusal::WrongCode, Duration::ZERO);
        for (manners, why) in [
            ([Manner::Refuse, Manner::Foreign], wrong_code.clone()),
            ([Manner::Foreign, Manner::Refuse], wrong_code.clone()),
            ([Manner::Bluff, Manner::Refuse], wrong_code.clone()),
            ([Manner::Foreign, Manner::Bluff], ClientError::WrongHost),
        ] {
            let mut world = World::quiet(seed);
            let mut addresses = Vec::new();
            for manner in manners {
                let impostor = world.add_impostor(manner);
                addresses.push(world.impostors[impostor].address());
            }
            let code = world.host.code();
            let client = world.add_client_at(&World::new_identity(), addresses, Some(code), Vec::new(), &[]);
            assert_eq!(outcome(&mut world, client), Some(why), "seed {seed}: {manners:?}");
            assert!(world.age() < Duration::from_secs(5), "seed {seed}: {:?}", world.age());
        }
    });
}

#[test]
fn a_host_trusted_elsewhere_does_not_stand_in_for_the_one_that_is_meant() {
    seeds("a_host_trusted_elsewhere_does_not_stand_in_for_the_one_that_is_meant", SEEDS, |seed| {
        let wrong_code = ClientError::Refused(Refusal::WrongCode, Duration::ZERO);
        let mut world = World::quiet(seed);
        let impostor = world.add_impostor(Manner::Welcome);
        let (address, other) = (world.impostors[impostor].address(), world.impostors[impostor].key());
        let (host, code) = (world.host.key(), world.host.code());
        let enter = |world: &mut World, code, known_at: &[_]| {
            let client = world.add_client_at(&World::new_identity(), vec![address], code, vec![host, other], known_at);
            outcome(world, client)
        };
        // The host was met there: its key is the only one that will do, and any other must prove the code.
        assert_eq!(enter(&mut world, None, &[(address, host)]), Some(ClientError::OtherHost(address)));
        assert_eq!(proofs(&world), 0, "seed {seed}");
        assert_eq!(enter(&mut world, Some(code.clone()), &[(address, host)]), Some(wrong_code.clone()));
        // Nobody was met there: the code says who is meant.
        assert_eq!(enter(&mut world, Some(code.clone()), &[]), Some(wrong_code));
        assert_eq!(proofs(&world), 2, "seed {seed}");
        // It was met there itself: its key is enough, beside whatever code.
        assert_eq!(enter(&mut world, Some(code), &[(address, other)]), None);
        // No code and no memory of the address: a host that moved there.
        assert_eq!(enter(&mut world, None, &[]), None);
        assert_eq!(proofs(&world), 2, "seed {seed}");
    });
}

#[test]
fn a_host_that_was_set_up_anew_comes_back_with_its_code() {
    seeds("a_host_that_was_set_up_anew_comes_back_with_its_code", SEEDS, |seed| {
        let mut world = World::drawn(seed);
        let (address, code, before) = (world.host_address(), world.host.code(), World::new_identity().public());
        let known = [(address, before)];
        let client = world.add_client_at(&World::new_identity(), vec![address], Some(code), vec![before], &known);
        assert_eq!(outcome(&mut world, client), None, "seed {seed}");
        assert!(world.clients[client].welcomes[0].1.enrolled, "seed {seed}");
    });
}

#[test]
fn a_host_that_is_put_right_is_found_again_however_long_it_took() {
    seeds("a_host_that_is_put_right_is_found_again_however_long_it_took", SEEDS, |seed| {
        for manner in [Manner::Foreign, Manner::Babble] {
            let mut world = World::quiet(seed);
            let impostor = world.add_impostor(Manner::Welcome);
            let (address, key) = (world.impostors[impostor].address(), world.impostors[impostor].key());
            let client = world.add_client_at(&World::new_identity(), vec![address], None, vec![key], &[]);
            assert_eq!(outcome(&mut world, client), None, "seed {seed}");
            world.impostors[impostor].manner = manner;
            let now = world.now();
            world.impostors[impostor].hang_up(now);
            let span = Duration::from_secs(1 + world.rng.below(60));
            world.run_for(span);
            let told = &world.clients[client];
            assert_eq!((told.losses.len(), told.failed.clone()), (1, None), "seed {seed}: {manner:?}");
            world.impostors[impostor].manner = Manner::Welcome;
            world.run_for(Duration::from_secs(3));
            assert!(world.clients[client].is_ready(), "seed {seed}: {manner:?} for {span:?}");
        }
    });
}
