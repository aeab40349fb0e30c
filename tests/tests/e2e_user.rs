//! An ordinary user mounts, reads and unmounts, without root and with `fusermount3`.

use std::env;
use std::fs;
use std::os::unix::fs::chown;

use perf::lab::End;
use tests::e2e::load::content;
use tests::e2e::run::wormhole;
use tests::e2e::wait::{self, SOON};
use tests::e2e::{Io, Pair};
use tests::on_both_backends;

on_both_backends!(an_ordinary_user_mounts_reads_and_unmounts);

/// The user that every system has and that owns nothing; fusermount3 wants a name in the table of users.
const USER: u32 = 65_534;

/// As root, in a mount namespace of its own: makes `/dev/fuse` open to everybody, as udev does on a usual machine, and
/// becomes the user.
const BECOME_USER: &str = r#"
mount -t tmpfs -o mode=755 tmpfs system
mknod -m 666 system/fuse c 10 229
: > system/fuse.conf
mount --bind system/fuse /dev/fuse
if [ -e /etc/fuse.conf ]; then mount --bind system/fuse.conf /etc/fuse.conf; fi
exec setpriv --reuid=65534 --regid=65534 --clear-groups sh -euc "$1"
"#;

/// As the user: both ways to unmount, and a copy of what was read for the test to compare.
const MOUNT_AND_READ: &str = r#"
run() { ./wormhole "$@" --io "$IO" --timeout-s 3; }
run mount "$TARGET" mnt
test "$(stat -c %u:%g mnt/file)" = 65534:65534
cp mnt/file copy
for id in $(pgrep -U 65534 wormhole); do
    if tr '\0' ' ' </proc/$id/environ | grep -q "$WORMHOLE_CODE"; then echo "the code stays in $id" >&2; exit 9; fi
done
./wormhole unmount mnt
test -z "$(ls -A mnt)"
run mount "$TARGET" mnt
ls mnt | grep -qx file
fusermount3 -u mnt
test -z "$(ls -A mnt)"
"#;

fn an_ordinary_user_mounts_reads_and_unmounts(io: Io) {
    let pair = Pair::hosting(io);
    let expected = content("user", 3 << 20);
    fs::write(pair.share().join("file"), &expected).unwrap();
    // Outside the lab's directory, which only root may enter; the build folder may be closed to users too.
    let home = tempfile::Builder::new().prefix("wh-user-").tempdir_in(env::temp_dir()).unwrap();
    for folder in ["", "mnt", "run"] {
        let folder = home.path().join(folder);
        fs::create_dir_all(&folder).unwrap();
        chown(&folder, Some(USER), Some(USER)).unwrap();
    }
    fs::create_dir(home.path().join("system")).unwrap();
    fs::copy(wormhole(), home.path().join("wormhole")).unwrap();

    let mut command = pair.lab().command(End::Client, None, "unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-euc", BECOME_USER, "sh", MOUNT_AND_READ])
        .env("TARGET", pair.target())
        .env("IO", io.word())
        .env("WORMHOLE_CODE", pair.code())
        .env("HOME", home.path())
        .env("XDG_RUNTIME_DIR", home.path().join("run"))
        .current_dir(home.path());
    for (variable, folder) in [("XDG_CONFIG_HOME", "c"), ("XDG_CACHE_HOME", "k"), ("XDG_STATE_HOME", "s")] {
        command.env(variable, home.path().join(folder));
    }
    pair.run(&mut command).expect(0);
    assert!(fs::read(home.path().join("copy")).unwrap() == expected);
    wait::until("no process", SOON, || pair.processes(End::Client).is_empty().then_some(()));
}
