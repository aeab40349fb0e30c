//! What `SIGKILL` leaves: a dead mount, which the guard removes, or the next mount.

mod mount_support;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use mount_support::share::{Server, Share, bytes_of};
use mount_support::{Mounted, Mountpoint, Part, mount, mount_line, play, role, this_program};
use vfs::guard::{GuardOutcome, run_guard};
use vfs::mounts::{Liveness, probe};
use vfs::session::{MountOptions, Unmounted};

/// Says that it has mounted; then serves until it is killed.
fn serve(mountpoint: &Path) {
    let server = Server::start(Share::new().with_file("file", 5000));
    let session = mount(MountOptions::new(mountpoint), &server);
    println!("MOUNTED");
    session.wait();
}

#[test]
fn a_killed_daemon_with_a_guard_leaves_nothing_mounted() {
    const TEST: &str = "a_killed_daemon_with_a_guard_leaves_nothing_mounted";
    match role() {
        Some((role, mountpoint)) if role == "guard" => {
            println!("GUARD {:?}", run_guard(&mountpoint, std::io::stdin()));
            std::process::exit(0); // before the test harness prints to a pipe that has closed
        }
        Some((_, mountpoint)) => {
            // The pipe's writing end lives in this process alone, as long as it lives.
            let mut guard =
                play(&this_program(), TEST, "guard", &mountpoint).stdin(Stdio::piped()).spawn().expect("a guard");
            let pipe = guard.stdin.take();
            serve(&mountpoint);
            drop(pipe);
            guard.wait().expect("it is ours to reap");
            return;
        }
        None => {}
    }
    let at = Mountpoint::new();
    let mut daemon = Part::start(play(&this_program(), TEST, "daemon", at.path()));
    daemon.await_line("MOUNTED");
    assert_eq!(std::fs::read(at.join("file")).expect("it is served"), bytes_of(5000));
    daemon.kill();
    // The guard inherited the daemon's standard output.
    let said = daemon.await_line("GUARD");
    assert!(said.contains("Ok(Unmounted)"), "{said}");
    assert_eq!(mount_line(at.path()), None);
    assert!(!at.join("file").exists());
}

#[test]
fn a_killed_daemon_without_a_guard_leaves_a_dead_mount_that_the_next_one_removes() {
    const TEST: &str = "a_killed_daemon_without_a_guard_leaves_a_dead_mount_that_the_next_one_removes";
    if let Some((_, mountpoint)) = role() {
        return serve(&mountpoint);
    }
    let at = Mountpoint::new();
    let mut daemon = Part::start(play(&this_program(), TEST, "daemon", at.path()));
    daemon.await_line("MOUNTED");
    assert_eq!(probe(at.path(), Duration::from_secs(20)).expect("it answers"), Liveness::Alive);
    daemon.kill();
    assert_eq!(probe(at.path(), Duration::from_secs(20)).expect("a mount"), Liveness::Dead);

    let server = Server::start(Share::new().with_file("other", 10));
    let session = mount(MountOptions::new(at.path()), &server);
    assert!(at.join("other").exists());
    assert_eq!(session.unmount().expect("it goes"), Unmounted::Clean);
    assert_eq!(mount_line(at.path()), None, "the dead one is gone too");
}

#[test]
fn a_guard_finds_nothing_to_do_after_a_clean_end() {
    let at = Mountpoint::new();
    let outcome = run_guard(at.path(), std::io::empty()).expect("it looks");
    assert_eq!(outcome, GuardOutcome::NothingMounted);
}

#[test]
fn a_guard_leaves_a_live_mount_alone_until_it_goes() {
    let mounted = Mounted::new(Share::new().with_file("file", 10));
    let path = mounted.at.path();
    std::thread::scope(|scope| {
        let guard = scope.spawn(|| run_guard(path, std::io::empty()));
        assert!(mounted.at.join("file").exists());
        assert_eq!(mounted.session.unmount().expect("it goes"), Unmounted::Clean);
        let outcome = guard.join().expect("no panic").expect("it looks");
        assert_eq!(outcome, GuardOutcome::NothingMounted);
    });
}
