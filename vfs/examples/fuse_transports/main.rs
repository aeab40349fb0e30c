//! Measures what the way of the kernel's requests costs: by `/dev/fuse`, or through io_uring.
//!
//! ```text
//!   fuse_transports compare inline|shard ROUNDS      two mounts of a share in memory, as root, with enable_uring on
//!   fuse_transports mounts DEVICE RING ROUNDS        two mounts that are there, each with a `file` of 64 MiB or more
//! ```
//!
//! `inline` answers in the thread that took the request, as a mount does with what it has in memory; `shard` in
//! another, as it does with the rest. Times to live are 0 there, so that each call of a program is a request. Both mounts
//! do the same short work in turn, so that a busy machine is busy for both; printed are the medians and, over the
//! rounds, the median and the quartiles of ring to device. docs/design/0012-fuse-over-io-uring.md has the figures.

mod compare;
mod memory;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use vfs::session::FuseTransport;
use vfs::unmount::{Lazy, unmount};

/// Size of the large file in memory, in MiB: twice what one case reads.
const FILE_MIB: usize = 128;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["compare", place @ ("inline" | "shard"), rounds] => {
            let mounts = ["device", "ring"].map(|transport| Mount::start(transport, place));
            compare::run(mounts[0].path(), mounts[1].path(), true, number(rounds));
        }
        ["mounts", device, ring, rounds] => {
            compare::run(Path::new(device), Path::new(ring), false, number(rounds));
        }
        ["serve", transport, place, mountpoint] => {
            let transport = if transport == "ring" { FuseTransport::Ring } else { FuseTransport::Device };
            memory::serve(transport, place == "inline", Path::new(mountpoint), FILE_MIB);
        }
        _ => panic!("usage: fuse_transports compare inline|shard ROUNDS, or mounts DEVICE RING ROUNDS"),
    }
}

fn number(text: &str) -> usize {
    text.parse().ok().filter(|&number| number > 0).expect("a number of rounds")
}

/// A share in memory, mounted by a process of its own.
struct Mount {
    server: Child,
    folder: tempfile::TempDir,
}

impl Mount {
    fn start(transport: &str, place: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let program: PathBuf = std::env::current_exe().expect("a path to this program");
        let mut server = Command::new(program)
            .args(["serve", transport, place])
            .arg(folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let said = BufReader::new(server.stdout.take().expect("it is piped")).lines().next();
        assert!(matches!(said, Some(Ok(line)) if line == "MOUNTED"), "the {transport} did not mount");
        Self { server, folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // The server ends with its mount.
        if unmount(self.folder.path(), Lazy::Yes).is_ok() {
            let _ended = self.server.wait();
        }
    }
}
