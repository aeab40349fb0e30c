//! Everything arrives as it is, whatever the network does to it.

use engine::client::{Answer, Ask};
use tests::sim::{Entry, Folder, Weather, World, WorldOptions, seeds};

/// Seeds of a join and a tour of the folder, the large file left out: some 10 ms each.
const TOURS: u64 = 1_500;
/// Seeds of 3 MiB through bad weather.
const TRANSFERS: u64 = 100;

#[test]
fn a_tour_in_any_weather() {
    seeds("a_tour_in_any_weather", TOURS, |seed| {
        let mut world = World::drawn(seed);
        let entry = if seed % 2 == 0 { Entry::Code } else { Entry::Key };
        let client = world.add_client(&entry);
        world.join(client);
        let welcome = &world.clients[client].welcomes[0].1;
        assert_eq!((&*welcome.host, &*welcome.share, welcome.again), ("host", "share", false));
        assert_eq!(welcome.enrolled, matches!(entry, Entry::Code));

        let mut names: Vec<_> = world.list(client, "").into_iter().map(|(name, _)| name).collect();
        names.sort();
        assert_eq!(names, ["dir", "empty", "even", "holes", "large", "leak", "odd", "one", "up"]);
        for (path, size) in Folder::FILES {
            let call = world.ask(client, Ask::Attr { path: path.into() });
            let (Ok(Answer::Attr(attr)), _) = world.answer(client, call) else { panic!("{path} is there") };
            assert_eq!(attr.size, size as u64);
            if path != "large" {
                world.check_file(client, path);
            }
        }
    });
}

#[test]
fn three_mebibytes_in_any_weather() {
    seeds("three_mebibytes_in_any_weather", TRANSFERS, |seed| {
        let mut world = World::drawn(seed);
        let client = world.add_client(&Entry::Key);
        world.join(client);
        world.check_file(client, "large");
    });
}

#[test]
fn a_seed_meets_the_same_network_twice() {
    seeds("a_seed_meets_the_same_network_twice", 20, |seed| {
        let run = || {
            let mut world = World::drawn(seed);
            let client = world.add_client(&Entry::Code);
            world.join(client);
            world.check_file(client, "holes");
            (world.age(), world.net.carried(), world.net.trace())
        };
        assert_eq!(run(), run());
    });
}

#[test]
fn another_seed_meets_another_network() {
    let trace = |seed| {
        let weather = Weather { loss: 0.1, ..Weather::lan() };
        let mut world = World::new(WorldOptions { seed, weather: [weather.clone(), weather] });
        let client = world.add_client(&Entry::Key);
        world.join(client);
        world.check_file(client, "holes");
        world.net.trace()
    };
    assert_ne!(trace(1), trace(2));
}
