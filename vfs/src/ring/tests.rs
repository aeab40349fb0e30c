//! What happens where the kernel takes no ring: everything comes by the device, to our own reader.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::slot::Answered;
use super::*;
use crate::errno::Errno;
use crate::handle::HandlePublisher;
use crate::session::attach;
use crate::session::tests::{OneFile, switch};
use crate::unmount::{Lazy, unmount};

fn mounted(folder: &Path, payload_bytes: usize) -> Started {
    let resolved = attach::prepare(folder).expect("a folder");
    let device = attach::attach(&resolved, "test", false).expect("a mount");
    let edge = Edge { backend: OneFile::new(false), handles: HandlePublisher::new(1).table() };
    OwnSession::start_with(device, &edge, InitSettings { max_background: 64 }, payload_bytes).expect("it serves")
}

fn check(folder: &Path, session: OwnSession) {
    let file = File::open(folder.join("file")).expect("it opens");
    let mut bytes = [0; 8192];
    file.read_exact_at(&mut bytes, 0).expect("it is served");
    assert_eq!(bytes, [1; 8192]);
    assert_eq!(std::fs::metadata(folder.join("file")).expect("attributes").len(), 8192);
    assert!(std::fs::metadata(folder.join("none")).is_err());
    assert!(std::fs::write(folder.join("new"), b"x").is_err());
    drop(file);
    unmount(folder, Lazy::No).expect("nobody uses it");
    session.run().expect("it ends with the mount");
}

#[test]
fn a_kernel_that_does_not_offer_a_ring_is_served_by_the_device() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let _switch = switch::off();
    let (session, ring) = mounted(folder.path(), REQUEST_BYTES_MAX as usize);
    assert!(matches!(ring, Err(RingUnavailable::Refused(None))), "{ring:?}");
    check(folder.path(), session);
}

#[test]
fn a_kernel_that_refuses_an_entry_is_served_by_the_device() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let switch = switch::on();
    // The kernel wants a payload for the longest request.
    let (session, ring) = mounted(folder.path(), 4096);
    match ring {
        Err(RingUnavailable::Refused(Some(error))) => assert_eq!(error.raw_os_error(), Some(libc::EINVAL)),
        Err(RingUnavailable::Refused(None)) => assert!(switch.is_none()),
        other => panic!("{other:?}"),
    }
    check(folder.path(), session);
}

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
