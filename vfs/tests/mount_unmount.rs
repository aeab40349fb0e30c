//! Every way in which a mount begins and ends, as root.

mod mount_support;

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use mount_support::share::{Content, Server, Share, bytes_of};
use mount_support::{Mounted, Mountpoint, attempt, mount, mount_line, run};
use rustix::io::Errno;
use vfs::session::{MountError, MountOptions, ReadAhead, SessionEnd, Unmounted};
use vfs::unmount::{Lazy, UnmountError, unmount};

/// Far longer than any end takes.
const PATIENCE: Duration = Duration::from_secs(20);

fn mounted() -> Mounted {
    Mounted::new(Share::new().with_file("file", 100_000))
}

#[test]
fn the_mount_table_shows_a_wormhole() {
    let mounted = Mounted::with(Share::new(), |options| {
        "a farm, with\\a comma".clone_into(&mut options.source);
    });
    let line = mount_line(mounted.at.path()).expect("it is mounted");
    let fields: Vec<&str> = line.split(' ').collect();
    assert_eq!(fields[0], "a\\040farm,\\040with\\134a\\040comma");
    assert_eq!(fields[2], "fuse.wormhole");
    for option in ["ro", "nosuid", "nodev", "user_id=0"] {
        assert!(fields[3].split(',').any(|found| found == option), "{option} in {line}");
    }
    assert!(!line.contains("allow_other") && !line.contains("default_permissions"));

    let found = vfs::mounts::wormhole_mounts().expect("a mount table");
    let ours = found.iter().find(|entry| entry.mountpoint == mounted.at.path());
    let ours = ours.expect("it is found");
    assert_eq!(ours.device, mounted.session.report().device);
    assert_eq!(ours.source, "a farm, with\\a comma");
}

#[test]
fn the_readahead_is_raised() {
    let mounted = Mounted::with(Share::new(), |options| options.read_ahead_kb = Some(2048));
    let report = mounted.session.report();
    assert!(matches!(report.read_ahead, ReadAhead::Set { kb: 2048 }), "{report:?}");
    let path = format!("/sys/class/bdi/{}/read_ahead_kb", report.device);
    assert_eq!(std::fs::read_to_string(path).expect("a window").trim(), "2048");
}

#[test]
fn the_readahead_is_left_alone() {
    let mounted = Mounted::with(Share::new(), |options| options.read_ahead_kb = None);
    assert!(matches!(mounted.session.report().read_ahead, ReadAhead::Default));
}

#[test]
fn other_users_are_let_in_only_when_asked() {
    for (allow_other, admitted) in [(true, true), (false, false)] {
        let mounted = Mounted::with(Share::new().with_file("file", 10), |options| {
            options.allow_other = allow_other;
        });
        use std::os::unix::fs::PermissionsExt;
        let mounted_on = mounted.at.path().parent().expect("a parent");
        assert!(mounted_on.metadata().expect("a folder").permissions().mode() & 0o001 != 0);
        let read = std::process::Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "cat"])
            .arg(mounted.at.join("file"))
            .output()
            .expect("setpriv must be installed (package util-linux)");
        assert_eq!(read.status.success(), admitted, "{read:?}");
        let line = mount_line(mounted.at.path()).expect("it is mounted");
        assert_eq!(line.contains("default_permissions"), allow_other);
    }
}

#[test]
fn unmount_ends_the_session_and_may_be_repeated_from_any_thread() {
    let mounted = mounted();
    let file = mounted.at.join("file");
    assert_eq!(std::fs::read(&file).expect("it is served"), bytes_of(100_000));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(mounted.session.unmount().expect("ok"), Unmounted::Clean));
        }
    });
    assert_eq!(mounted.session.wait(), SessionEnd::Unmounted);
    assert_eq!(mounted.session.unmount().expect("nothing to do"), Unmounted::Clean);
    assert_eq!(mount_line(mounted.at.path()), None);
    assert!(!file.exists());
}

#[test]
fn umount_by_somebody_else_ends_the_session() {
    for arguments in [vec!["umount"], vec!["umount", "-l"], vec!["fusermount3", "-u"]] {
        let mounted = mounted();
        let (program, options) = arguments.split_first().expect("a program");
        let mut options: Vec<&OsStr> = options.iter().map(OsStr::new).collect();
        options.push(mounted.at.path().as_os_str());
        run(program, &options);
        assert_eq!(mounted.session.wait_timeout(PATIENCE), Some(SessionEnd::Unmounted));
        assert_eq!(mounted.session.unmount().expect("nothing to do"), Unmounted::Clean);
    }
}

#[test]
fn dropping_the_session_unmounts() {
    let Mounted { session, server, at } = mounted();
    drop(session);
    assert_eq!(mount_line(at.path()), None);
    // The session let go of the backend, so this is the last reference.
    assert_eq!(Arc::strong_count(&server), 1);
}

#[test]
fn a_busy_mount_leaves_the_tree_and_serves_its_last_user() {
    let mounted = mounted();
    let file = File::open(mounted.at.join("file")).expect("it opens");
    let refused = unmount(mounted.at.path(), Lazy::No).expect_err("a file is open");
    assert!(matches!(refused, UnmountError::Busy(_)), "{refused}");
    assert!(mount_line(mounted.at.path()).is_some());

    assert_eq!(mounted.session.unmount().expect("lazily"), Unmounted::StillInUse);
    assert_eq!(mount_line(mounted.at.path()), None);
    assert_eq!(mounted.session.wait_timeout(Duration::ZERO), None);
    let mut bytes = vec![0; 100_000];
    file.read_exact_at(&mut bytes, 0).expect("it is still served");
    assert_eq!(bytes, bytes_of(100_000));

    drop(file);
    assert_eq!(mounted.session.wait_timeout(PATIENCE), Some(SessionEnd::Unmounted));
}

#[test]
fn an_aborted_connection_leaves_no_dead_mount() {
    let mounted = mounted();
    let file = File::open(mounted.at.join("file")).expect("it opens");
    let forced = std::process::Command::new("umount")
        .arg("-f")
        .arg(mounted.at.path())
        .output()
        .expect("umount must be installed");
    assert!(!forced.status.success(), "a file is open: {forced:?}");
    let end = mounted.session.wait_timeout(PATIENCE);
    assert_eq!(end, Some(SessionEnd::Unmounted));
    assert_eq!(mount_line(mounted.at.path()), None);
    file.read_at(&mut [0; 16], 0).expect_err("nobody serves it");
}

#[test]
fn dropping_the_session_frees_a_reader_whose_answer_never_comes() {
    let mut share = Share::new();
    share.add(1, "stuck", 0o644, Content::Stuck);
    let Mounted { session, server, at } = Mounted::new(share);
    let path = at.join("stuck");
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let file = File::open(&path).expect("it opens");
            file.read_at(&mut [0; 4096], 0)
        });
        server.stuck.recv_timeout(PATIENCE).expect("the read arrives");
        drop(session);
        let outcome = reader.join().expect("no panic");
        let errno = outcome.expect_err("nobody answered").raw_os_error();
        let expected = [Errno::NOTCONN, Errno::CONNABORTED, Errno::IO];
        assert!(expected.iter().any(|one| errno == Some(one.raw_os_error())), "{errno:?}");
    });
    assert_eq!(mount_line(at.path()), None);
}

#[test]
fn a_mount_below_another_is_left_alone_until_that_one_goes() {
    let mounted = mounted();
    let path = mounted.at.path().as_os_str();
    run("mount", &["-t", "tmpfs", "tmpfs"].map(OsStr::new).into_iter().chain([path]).collect::<Vec<_>>());
    let refused = mounted.session.unmount();
    let table = mount_line(mounted.at.path()).expect("two mounts");
    run("umount", &[path]);
    assert!(matches!(refused, Err(UnmountError::Covered(_))), "{refused:?}");
    assert!(table.contains("tmpfs"), "{table}");
    assert_eq!(mounted.session.unmount().expect("now it is free"), Unmounted::Clean);
}

#[test]
fn a_mount_on_a_link_and_on_a_folder_that_is_not_empty() {
    let at = Mountpoint::new();
    let (real, link) = (at.join("real"), at.join("link"));
    std::fs::create_dir(&real).expect("a folder");
    std::fs::write(real.join("hidden"), b"x").expect("a file");
    std::os::unix::fs::symlink("real", &link).expect("a link");
    let server = Server::start(Share::new().with_file("file", 10));
    let session = mount(MountOptions::new(&link), &server);
    assert_eq!(session.report().mountpoint, real);
    assert!(real.join("file").exists() && !real.join("hidden").exists());
    unmount(&link, Lazy::No).expect("by the link as well");
    assert_eq!(session.wait_timeout(PATIENCE), Some(SessionEnd::Unmounted));
    assert!(real.join("hidden").exists());
}

#[test]
fn refusals_say_what_is_wrong() {
    let at = Mountpoint::new();
    let server = Server::start(Share::new());
    let attempt = |options| attempt(options, &server);

    let missing = attempt(MountOptions::new(at.join("none"))).expect_err("missing");
    assert!(matches!(missing, MountError::MountpointMissing(_)), "{missing}");
    std::fs::write(at.join("file"), b"x").expect("a file");
    let file = attempt(MountOptions::new(at.join("file"))).expect_err("a file");
    assert!(matches!(file, MountError::NotADirectory(_)), "{file}");
    let below = attempt(MountOptions::new(at.join("file/below"))).expect_err("below a file");
    assert!(matches!(below, MountError::NotADirectory(_)), "{below}");
    let mut options = MountOptions::new(at.path());
    "a\0b".clone_into(&mut options.source);
    assert!(matches!(attempt(options), Err(MountError::Source)));

    let first = attempt(MountOptions::new(at.path())).expect("it mounts");
    let second = attempt(MountOptions::new(at.path())).expect_err("twice");
    assert!(matches!(second, MountError::AlreadyMounted(_)), "{second}");
    assert_eq!(first.unmount().expect("it goes"), Unmounted::Clean);
}
