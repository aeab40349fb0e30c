//! A host and a mount that nobody uses cost next to nothing.

use std::time::Duration;

use perf::cpu_time::of_process;
use tests::e2e::wait::pass;
use tests::e2e::{Io, Pair};
use tests::on_both_backends;

on_both_backends!(an_idle_pair_uses_less_than_a_hundredth_of_a_core);

/// How long nothing is asked of them.
const INTERVAL: Duration = Duration::from_secs(3);

fn an_idle_pair_uses_less_than_a_hundredth_of_a_core(io: Io) {
    let mut pair = Pair::hosting(io);
    std::fs::write(pair.share().join("file"), "hello").unwrap();
    let mount = pair.mount("mnt");
    assert_eq!(std::fs::read(mount.point.join("file")).unwrap(), b"hello");
    let processes: Vec<u32> = mount.processes.iter().copied().chain([pair.host().id()]).collect();
    assert_eq!(processes.len(), 3, "the host, the daemon and its guard");
    let readings = || processes.iter().map(|&process| of_process(process)).collect::<Vec<_>>();
    let before = readings();
    pass(INTERVAL);
    let spent: Duration = readings().into_iter().zip(before).map(|(now, before)| now.since(before).time).sum();
    assert!(spent < INTERVAL / 100, "{spent:?} of CPU time in {INTERVAL:?} without work");
}
