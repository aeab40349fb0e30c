//! What a mount cannot do without: the FUSE device and, for an ordinary user, `fusermount3`.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use super::{Finding, Surroundings};

/// The line that installs FUSE on Debian and Ubuntu.
const INSTALL: &str = "sudo apt-get install fuse3";

/// Pages of 4 KiB in one FUSE request that large reads want: 1 MiB, the kernel's default limit
/// (Documentation/admin-guide/sysctl/fs.rst, `max_pages_limit`).
const PAGES_WANTED: u64 = 256;

/// Set-user-id bit of a file's mode, inode(7).
const MODE_SETUID: u32 = 0o4000;

/// Execute bits of a file's mode, inode(7).
const MODE_EXECUTE: u32 = 0o111;

/// Examines all that concerns FUSE, what a mount needs first.
pub fn examine(surroundings: &Surroundings<'_>) -> Vec<Finding> {
    let mut findings = requirements(surroundings);
    findings.push(allow_other(surroundings));
    findings.push(over_io_uring(surroundings));
    findings.extend(pages_limit(surroundings));
    findings
}

/// Examines only what a mount cannot do without.
pub fn requirements(surroundings: &Surroundings<'_>) -> Vec<Finding> {
    vec![device(surroundings), helper(surroundings)]
}

fn device(surroundings: &Surroundings<'_>) -> Finding {
    let name = "FUSE device";
    match fs::metadata(surroundings.path("/dev/fuse")) {
        Ok(metadata) if metadata.file_type().is_char_device() => Finding::ok(name, "/dev/fuse is there"),
        Ok(_) => Finding::fail(
            name,
            "/dev/fuse is not a character device",
            "sudo rm /dev/fuse && sudo mknod -m 666 /dev/fuse c 10 229",
        ),
        Err(_) => Finding::fail(
            name,
            "/dev/fuse is missing, so nothing can be mounted",
            format!(
                "{INSTALL} && sudo modprobe fuse; in a container, pass it in with --device /dev/fuse --cap-add SYS_ADMIN"
            ),
        ),
    }
}

fn helper(surroundings: &Surroundings<'_>) -> Finding {
    let name = "fusermount3";
    let is_root = surroundings.uid == 0;
    let found = surroundings.program_dirs.iter().find_map(|dir| {
        let path: PathBuf = dir.join("fusermount3");
        let metadata = fs::metadata(surroundings.path(&path)).ok()?;
        (metadata.is_file() && metadata.mode() & MODE_EXECUTE != 0).then(|| (path, metadata.mode()))
    });
    match found {
        Some((path, mode)) if is_root || mode & MODE_SETUID != 0 => {
            Finding::ok(name, format!("{} is there", path.display()))
        }
        Some((path, _)) => Finding::fail(
            name,
            format!("{} is not set-user-id root, so an ordinary user cannot mount", path.display()),
            format!("sudo chmod u+s {}", path.display()),
        ),
        None if is_root => {
            Finding::warn(name, "fusermount3 is missing; root mounts without it, ordinary users cannot", INSTALL)
        }
        None => Finding::fail(name, "fusermount3 is missing, so an ordinary user cannot mount", INSTALL),
    }
}

fn allow_other(surroundings: &Surroundings<'_>) -> Finding {
    let name = "mount --allow-other";
    let allowed = surroundings.read("/etc/fuse.conf").is_some_and(|text| {
        text.lines().any(|line| line.split('#').next().unwrap_or_default().trim() == "user_allow_other")
    });
    match (surroundings.uid, allowed) {
        (0, _) => Finding::ok(name, "root may let other users into a mount"),
        (_, true) => Finding::ok(name, "/etc/fuse.conf holds user_allow_other"),
        (_, false) => Finding::warn(
            name,
            "an ordinary user cannot let other users into a mount",
            "echo user_allow_other | sudo tee -a /etc/fuse.conf",
        ),
    }
}

/// Never a complaint: a mount does without, unless it is told otherwise (docs/design/0012-fuse-over-io-uring.md).
fn over_io_uring(surroundings: &Surroundings<'_>) -> Finding {
    let name = "FUSE over io_uring";
    match surroundings.read("/sys/module/fuse/parameters/enable_uring").as_deref() {
        Some("Y" | "1") => Finding::ok(name, "fuse.enable_uring is on; wormhole mount --fuse uring uses it"),
        Some(_) => Finding::ok(
            name,
            "fuse.enable_uring is off, as by default; it is optional, and only wormhole mount --fuse uring would use \
             it: echo 1 | sudo tee /sys/module/fuse/parameters/enable_uring",
        ),
        None => Finding::ok(
            name,
            "this kernel's FUSE has no io_uring (Linux 6.14 and newer have it); it is optional, and mounts use \
             /dev/fuse",
        ),
    }
}

fn pages_limit(surroundings: &Surroundings<'_>) -> Option<Finding> {
    let name = "FUSE request size";
    // Kernels before 6.13 have no such file and a fixed limit of the same size.
    let pages = surroundings.read_number("/proc/sys/fs/fuse/max_pages_limit")?;
    Some(if pages >= PAGES_WANTED {
        Finding::ok(name, format!("up to {pages} pages in one request"))
    } else {
        Finding::warn(
            name,
            format!("at most {pages} pages in one request, which slows large reads"),
            format!("sudo sysctl -w fs.fuse.max_pages_limit={PAGES_WANTED}"),
        )
    })
}
