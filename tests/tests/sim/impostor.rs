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
            let client = world.add_client_at(&World::new_identity(), vec![address], Some(code), Vec::new());
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
            let client = world.add_client_at(&World::new_identity(), addresses, Some(code), Vec::new());
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
        let client = world.add_client_at(&identity, addresses, None, vec![host]);
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
        let client = world.add_client_at(&World::new_identity(), addresses, Some(code), Vec::new());
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
            let client = world.add_client_at(&World::new_identity(), addresses, Some(code), Vec::new());
            assert_eq!(outcome(&mut world, client), Some(why), "seed {seed}: {manners:?}");
            assert!(world.age() < Duration::from_secs(5), "seed {seed}: {:?}", world.age());
        }
    });
}
