//! Whole calls on real folders; parts are tested at the foot of their files.

mod children;
mod containment;
mod kinds;
mod mapped;
mod pages;

use std::path::Path;
use std::process::Command;

use super::{Blocking, FsError, OpenFile, RelPath, Share};

/// Set in a test that runs again in a process of its own.
const CHILD: &str = "WORMHOLE_SHARE_TEST_CHILD";

fn open(folder: &Path) -> Share {
    Share::open(folder).expect("a temporary folder can be shared")
}

fn path(bytes: &[u8]) -> RelPath {
    RelPath::parse(bytes).expect("a plain path")
}

fn open_file(share: &Share, name: &[u8]) -> Result<OpenFile, FsError> {
    share.open_file(&path(name), Blocking::Allowed)
}

fn file_in(folder: &Path, name: &str, bytes: &[u8]) -> OpenFile {
    std::fs::write(folder.join(name), bytes).expect("write");
    open_file(&open(folder), name.as_bytes()).expect("open")
}

/// The first bytes of a file by way of a map, as a shard takes them.
fn content(file: &OpenFile) -> Vec<u8> {
    let mapped = file.map(0, usize::MAX).expect("map");
    let check = mapped.check();
    let bytes = mapped.as_ref().to_vec();
    assert!(check.is_intact());
    bytes
}

fn in_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Runs a test's half for a child in a mount namespace of its own, where it may mount what it likes.
fn run_with_own_mounts(test: &str) {
    let prefix: &[&str] = match rustix::process::getuid().is_root() {
        true => &["unshare", "--mount"],
        false => &["unshare", "--user", "--map-root-user", "--mount"],
    };
    let output = child(prefix, test).output().expect("unshare of util-linux");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The command that runs one test, and its child's half, in a new process started through `prefix`.
fn child(prefix: &[&str], test: &str) -> Command {
    let program = std::env::current_exe().expect("own path");
    let mut words = prefix.iter().map(Into::into).chain([program.into_os_string()]);
    let mut command = Command::new(words.next().expect("the program at least"));
    command.args(words).args([test, "--exact", "--nocapture"]).env(CHILD, "1");
    command
}
