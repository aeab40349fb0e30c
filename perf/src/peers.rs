//! The rivals: which programs they are, whether this machine has them, and how to get them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

/// A tool a user would pick instead of Wormhole.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The name its figures carry.
    pub name: &'static str,
    /// What it is measured as.
    pub role: &'static str,
    /// Where it comes from.
    pub source: Source,
}

/// Where a peer comes from.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    /// Linked into this program.
    BuiltIn,
    /// Programs of the machine, all needed, each with its Debian package.
    Programs(&'static [(&'static str, &'static str)]),
}

/// The server and the clients of SSH.
const SSH: [(&str, &str); 2] = [("ssh", "openssh-client"), ("sshd", "openssh-server")];

/// Every peer the suites know.
pub const PEERS: [Peer; 13] = [
    Peer { name: "s2n-quic", role: "QUIC on tokio, one stream, LAN windows", source: Source::BuiltIn },
    Peer { name: "quinn", role: "QUIC on tokio, one stream, stock settings with LAN windows", source: Source::BuiltIn },
    Peer { name: "quinn-ack-frequency", role: "the same with the ACK frequency extension", source: Source::BuiltIn },
    Peer {
        name: "quinn-trains",
        role: "the same on jumbo links, with datagrams small enough for GSO",
        source: Source::BuiltIn,
    },
    Peer {
        name: "https",
        role: "nginx to curl over TCP, TLS 1.3 with AES-128-GCM",
        source: Source::Programs(&[("nginx", "nginx"), ("curl", "curl")]),
    },
    Peer {
        name: "http",
        role: "nginx to curl over TCP in clear, sendfile",
        source: Source::Programs(&[("nginx", "nginx"), ("curl", "curl")]),
    },
    Peer {
        name: "iperf3",
        role: "TCP in clear, one connection: what the kernel can do",
        source: Source::Programs(&[("iperf3", "iperf3")]),
    },
    Peer {
        name: "sshfs",
        role: "FUSE mount over SFTP, aes128-gcm",
        source: Source::Programs(&[("sshfs", "sshfs"), SSH[0], SSH[1]]),
    },
    Peer {
        name: "rclone-http",
        role: "FUSE mount over HTTP in clear, from nginx",
        source: Source::Programs(&[("rclone", "rclone"), ("fusermount3", "fuse3"), ("nginx", "nginx")]),
    },
    Peer {
        name: "rclone-sftp",
        role: "FUSE mount, or copy, over SFTP, aes128-gcm",
        source: Source::Programs(&[("rclone", "rclone"), ("fusermount3", "fuse3"), SSH[0], SSH[1]]),
    },
    Peer {
        name: "scp",
        role: "copy over SSH (SFTP since OpenSSH 9), aes128-gcm",
        source: Source::Programs(&[("scp", "openssh-client"), SSH[1]]),
    },
    Peer {
        name: "rsync",
        role: "copy over SSH, aes128-gcm",
        source: Source::Programs(&[("rsync", "rsync"), SSH[0], SSH[1]]),
    },
    Peer { name: "local", role: "the same file or folder without a network, in clear", source: Source::BuiltIn },
];

/// The peer of that name.
///
/// # Panics
/// If there is none: names are written in this crate.
pub fn peer(name: &str) -> &'static Peer {
    PEERS.iter().find(|peer| peer.name == name).expect("a suite names a peer of the table")
}

/// Peers in clear that reports without `in_clear` of their own name and this release no longer has.
const FORMER_IN_CLEAR: [&str; 1] = ["rclone"];

/// Whether that peer moves its bytes unencrypted: not what a user would pick instead, but what the machine can do.
pub fn is_in_clear(name: &str) -> bool {
    FORMER_IN_CLEAR.contains(&name) || PEERS.iter().any(|peer| peer.name == name && peer.role.contains("in clear"))
}

impl Peer {
    /// The Debian packages whose programs are missing here; empty if the peer can run.
    pub fn missing_packages(&self) -> Vec<&'static str> {
        missing(self.source, |program| find_program(program).is_some())
    }
}

fn missing(source: Source, has: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let Source::Programs(programs) = source else {
        return Vec::new();
    };
    let mut packages: Vec<_> =
        programs.iter().filter(|(program, _)| !has(program)).map(|&(_, package)| package).collect();
    packages.dedup();
    packages
}

/// Looks a program up in `PATH` and in the system directories a plain user's `PATH` leaves out.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata().is_ok_and(|is| is.is_file() && is.permissions().mode() & 0o111 != 0)
}

/// Lists the peers, one line each.
pub fn list() -> String {
    let line = |peer: &Peer| {
        let missing = peer.missing_packages();
        let state = match peer.source {
            Source::BuiltIn => "built in".to_owned(),
            Source::Programs(_) if missing.is_empty() => "found".to_owned(),
            Source::Programs(_) => format!("not found (Debian: {})", missing.join(" ")),
        };
        format!("{:<20} {:<32} {}\n", peer.name, state, peer.role)
    };
    PEERS.iter().map(line).collect()
}

/// Packages whose Debian scripts start a service of their own; the suites start servers of their own and need none.
const SERVICES: [(&str, &str); 2] = [("nginx", "nginx"), ("openssh-server", "ssh")];

/// What whoever installs `packages` should know of the services they start.
fn service_warning(packages: &[&str]) -> Option<String> {
    let started: Vec<&str> =
        SERVICES.into_iter().filter(|(package, _)| packages.contains(package)).map(|(_, service)| service).collect();
    let services = started.join(" ");
    (!started.is_empty()).then(|| {
        format!(
            "Debian's packages start these services, which the suites do not need: {services}\n\
             To stop them: systemctl disable --now {services}"
        )
    })
}

/// Brings apt's lists up to date and installs the packages of all missing peers; says which of them start services.
///
/// # Errors
/// If this is not root on a machine with apt, or apt fails.
pub fn install() -> anyhow::Result<()> {
    let mut packages: Vec<_> = PEERS.iter().flat_map(Peer::missing_packages).collect();
    packages.sort_unstable();
    packages.dedup();
    if packages.is_empty() {
        println!("nothing to install");
        return Ok(());
    }
    ensure!(
        rustix::process::geteuid().is_root() && find_program("apt-get").is_some(),
        "needs root and apt; run: apt-get install {}",
        packages.join(" ")
    );
    if let Some(warning) = service_warning(&packages) {
        println!("{warning}");
    }
    // A fresh machine has no package lists, and an old one those of packages that are gone.
    apt_get(&["update"])?;
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(&packages);
    apt_get(&arguments)
}

fn apt_get(arguments: &[&str]) -> anyhow::Result<()> {
    let status = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .status()
        .context("cannot run apt-get")?;
    ensure!(status.success(), "apt-get {}: {status}", arguments.join(" "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_named_only_for_what_is_missing() {
        let ssh = peer("sshfs").source;
        assert!(missing(ssh, |_| true).is_empty());
        assert_eq!(missing(ssh, |program| program != "sshd"), ["openssh-server"]);
        assert_eq!(missing(ssh, |_| false), ["sshfs", "openssh-client", "openssh-server"]);
        assert!(missing(Source::BuiltIn, |_| false).is_empty());
    }

    #[test]
    fn programs_are_found_by_name_only_if_they_can_run() {
        assert!(find_program("sh").is_some());
        assert!(find_program("no-such-program-anywhere").is_none());
        assert!(!is_executable(Path::new("/proc/version")));
        assert!(!is_executable(Path::new("/")));
    }

    #[test]
    fn peers_in_clear_say_so_in_their_role() {
        let clear: Vec<_> = PEERS.iter().map(|peer| peer.name).filter(|name| is_in_clear(name)).collect();
        assert_eq!(clear, ["http", "iperf3", "rclone-http", "local"]);
        assert!(is_in_clear("rclone") && !is_in_clear("a peer of another release"));
    }

    #[test]
    fn services_that_an_installation_starts_are_named() {
        assert_eq!(service_warning(&["rclone", "sshfs"]), None);
        assert!(service_warning(&["openssh-client", "nginx"]).unwrap().ends_with("--now nginx"));
        assert!(service_warning(&["nginx", "openssh-server"]).unwrap().ends_with("--now nginx ssh"));
    }

    #[test]
    fn the_list_has_every_peer() {
        let list = list();
        assert_eq!(list.lines().count(), PEERS.len());
        for peer in PEERS {
            assert!(list.contains(peer.name));
        }
    }
}
