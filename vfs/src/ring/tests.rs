use rustix::event::{PollFd, PollFlags, Timespec};

use super::slot::Answered;
use super::*;
use crate::errno::Errno;

#[test]
fn an_answer_may_be_owed_longer_than_its_ring_lives() {
    let memory = Memory::map(1, 4096).expect("memory");
    let (returns, answered) = Returns::new(1).expect("a way back");
    let lease = sys::lease_for_test(&memory);
    let (slot, request) = Slot::receive(lease, &returns);
    assert!(request.is_ok(), "zeros are a request of no known kind");
    drop((answered, memory, Arc::clone(&returns)));
    slot.answer([&[1; 4096][..]].into_iter());
}

/// A giver and a sleeper pass one entry to and fro: the first wake that is lost ends it.
#[test]
fn no_answer_is_slept_through() {
    const ROUNDS: usize = 100_000;
    let memory = Memory::map(1, 4096).expect("memory");
    let (returns, answered) = Returns::new(1).expect("a way back");
    let (requests, incoming) = bounded(1);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for slot in incoming {
                Slot::refuse(slot, Errno::EIO);
            }
        });
        let mut lease = sys::lease_for_test(&memory);
        for round in 0..ROUNDS {
            requests.send(Slot::receive(lease, &returns).0).expect("the giver waits");
            lease = loop {
                returns.fall_asleep();
                if let Ok(Answered { lease, .. }) = answered.try_recv() {
                    returns.stay_awake();
                    break lease;
                }
                let patience = Timespec { tv_sec: 20, tv_nsec: 0 };
                let mut events = [PollFd::new(returns.wake(), PollFlags::IN)];
                let woken = rustix::event::poll(&mut events, Some(&patience)).expect("it waits");
                assert_eq!(woken, 1, "round {round}: nobody woke the sleeper");
                // A wake may be of the round before, whose answer was found before it came.
                rustix::io::read(returns.wake(), &mut [0; 8]).expect("a counter");
            };
        }
        drop(requests);
    });
}
