//! Mounting as an ordinary user, through `fusermount3`.
//!
//! Each test starts this program again as user 65534 in a mount namespace of its own, in which
//! `/dev/fuse` is open to everybody, as udev makes it on a usual machine, and `/etc/fuse.conf` is empty.

mod mount_support;

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mount_support::share::{Server, Share, bytes_of};
use mount_support::{attempt, mount, mount_line, play, role, run, switch_on, this_program};
use vfs::session::{FuseSession, MountError, MountOptions, ReadAhead, SessionEnd, Unmounted};
use vfs::unmount::{Lazy, UnmountError, unmount};

const PATIENCE: Duration = Duration::from_secs(20);

/// `$1` is a folder to work in; the rest is the program to run as the user.
const AS_USER: &str = r#"
set -e
folder=$1
shift
mount -t tmpfs -o mode=755 tmpfs "$folder/system"
mknod -m 666 "$folder/system/fuse" c 10 229
: > "$folder/system/fuse.conf"
mount --bind "$folder/system/fuse" /dev/fuse
mount --bind "$folder/system/fuse.conf" /etc/fuse.conf
exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@"
"#;

/// In the test: runs `body` again as the user and returns. In that second run: runs `body`.
fn as_user(test: &str, body: impl FnOnce(&Path)) {
    if let Some((_, mountpoint)) = role() {
        assert_eq!(rustix::process::getuid().as_raw(), 65534);
        return body(&mountpoint);
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    run("chmod", &[OsStr::new("755"), folder.path().as_os_str()]);
    std::fs::create_dir(folder.path().join("system")).expect("a folder");
    let mountpoint = folder.path().join("mnt");
    std::fs::create_dir(&mountpoint).expect("a folder");
    std::os::unix::fs::chown(&mountpoint, Some(65534), Some(65534)).expect("we are root");
    // The build folder may be closed to other users.
    let program = folder.path().join("program");
    std::fs::copy(this_program(), &program).expect("a copy");

    let played = play(&program, test, "user", &mountpoint);
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c", AS_USER, "sh"])
        .arg(folder.path())
        .arg(&program)
        .args(played.get_args());
    for (key, value) in played.get_envs() {
        command.env(key, value.expect("only set"));
    }
    let _switch = switch_on(); // which the user could not
    let output = command.output().expect("unshare must be installed (package util-linux)");
    assert!(
        output.status.success(),
        "as the user:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

fn served(mountpoint: &Path) -> (FuseSession, Arc<Server>) {
    let server = Server::start(Share::new().with_file("file", 3_000_000));
    let mut options = MountOptions::new(mountpoint);
    "a farm, with\\a comma".clone_into(&mut options.source);
    (mount(options, &server), server)
}

#[test]
fn a_user_mounts_reads_and_unmounts() {
    as_user("a_user_mounts_reads_and_unmounts", |mountpoint| {
        let (session, _server) = served(mountpoint);
        let line = mount_line(mountpoint).expect("it is mounted");
        assert!(line.starts_with("a\\040farm,\\040with\\134a\\040comma "), "{line}");
        assert!(line.contains(" fuse.wormhole ro,nosuid,nodev"), "{line}");
        assert!(line.contains("user_id=65534"), "{line}");
        let bytes = std::fs::read(mountpoint.join("file")).expect("it is served");
        assert!(bytes == bytes_of(3_000_000));
        let report = session.report();
        assert!(matches!(report.read_ahead, ReadAhead::NotPermitted { .. }), "{report:?}");

        assert_eq!(session.unmount().expect("it goes"), Unmounted::Clean);
        assert_eq!(session.wait(), SessionEnd::Unmounted);
        assert_eq!(mount_line(mountpoint), None);
    });
}

#[test]
fn a_users_fusermount3_ends_the_session() {
    as_user("a_users_fusermount3_ends_the_session", |mountpoint| {
        let (session, _server) = served(mountpoint);
        run("fusermount3", &[OsStr::new("-u"), mountpoint.as_os_str()]);
        assert_eq!(session.wait_timeout(PATIENCE), Some(SessionEnd::Unmounted));
    });
}

#[test]
fn a_users_busy_mount_leaves_the_tree_and_serves_its_last_user() {
    let test = "a_users_busy_mount_leaves_the_tree_and_serves_its_last_user";
    as_user(test, |mountpoint| {
        let (session, _server) = served(mountpoint);
        let file = File::open(mountpoint.join("file")).expect("it opens");
        let refused = unmount(mountpoint, Lazy::No).expect_err("a file is open");
        assert!(matches!(refused, UnmountError::Busy(_)), "{refused}");
        assert_eq!(session.unmount().expect("lazily"), Unmounted::StillInUse);
        assert_eq!(mount_line(mountpoint), None);
        drop(file);
        assert_eq!(session.wait_timeout(PATIENCE), Some(SessionEnd::Unmounted));
    });
}

#[test]
fn a_user_who_drops_the_session_leaves_nothing_mounted() {
    as_user("a_user_who_drops_the_session_leaves_nothing_mounted", |mountpoint| {
        let (session, server) = served(mountpoint);
        drop(session);
        assert_eq!(mount_line(mountpoint), None);
        // The thread that took its requests is told of the end before it lets go of the server.
        let deadline = Instant::now() + PATIENCE;
        while Arc::strong_count(&server) > 1 {
            assert!(Instant::now() < deadline, "somebody keeps the server");
            std::thread::yield_now();
        }
    });
}

#[test]
fn a_user_is_told_what_is_not_permitted() {
    as_user("a_user_is_told_what_is_not_permitted", |mountpoint| {
        let server = Server::start(Share::new());
        let attempt = |options| attempt(options, &server);
        let mut options = MountOptions::new(mountpoint);
        options.allow_other = true;
        let refused = attempt(options).expect_err("fuse.conf is empty");
        assert!(matches!(refused, MountError::AllowOtherRefused), "{refused}");

        let refused = attempt(MountOptions::new("/etc")).expect_err("not the user's folder");
        assert!(matches!(refused, MountError::PermissionDenied(_)), "{refused}");
        assert_eq!(mount_line(mountpoint), None);
    });
}
