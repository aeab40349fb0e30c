//! An sshd of the lab's own, with throw-away keys, for sshfs, rclone, scp and rsync. The machine's own keys and settings stay out.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::lab::{End, Lab};
use crate::peers::find_program;
use crate::process::{Process, SocketKind};

/// The port it listens on in the host's namespace.
pub const PORT: u16 = 2222;

/// The cipher of every SSH peer: the one nearest to what QUIC uses here.
const CIPHER: &str = "aes128-gcm@openssh.com";

/// How long sshd may take to listen.
const START_LIMIT: Duration = Duration::from_secs(10);

/// A running sshd and what a client needs to reach it.
pub struct SshServer {
    /// The listening program; its sessions are its children.
    pub process: Process,
    directory: PathBuf,
}

impl SshServer {
    /// Makes keys, starts sshd in the host's namespace and waits until it listens.
    ///
    /// # Errors
    /// If a program is missing or sshd ends.
    pub fn start(lab: &Lab) -> anyhow::Result<Self> {
        let directory = lab.directory().join("ssh");
        fs::DirBuilder::new().mode(0o700).create(&directory)?;
        let host_key = make_key(&directory.join("host_key"))?;
        let user_key = make_key(&directory.join("user_key"))?;
        fs::write(directory.join("authorized_keys"), user_key)?;
        let address = End::Host.address();
        fs::write(directory.join("known_hosts"), format!("[{address}]:{PORT} {host_key}"))?;
        let configuration = directory.join("sshd_config");
        fs::write(&configuration, sshd_config(&directory))?;
        // Compiled into sshd as its empty directory; absent until the service has run once.
        fs::create_dir_all("/run/sshd")?;
        // sshd re-executes itself and insists on its absolute path.
        let program = find_program("sshd").context("no sshd")?;
        let mut command = lab.command(End::Host, None, program);
        command.args(["-D", "-e", "-f"]).arg(&configuration);
        let mut process = lab.spawn("sshd", &mut command)?;
        process.wait_socket(SocketKind::Tcp, PORT, START_LIMIT)?;
        Ok(Self { process, directory })
    }

    /// The options every client takes, each to stand behind a `-o`.
    pub fn client_options(&self) -> Vec<String> {
        let path = |name: &str| self.directory.join(name).display().to_string();
        vec![
            format!("Port={PORT}"),
            format!("IdentityFile={}", path("user_key")),
            format!("UserKnownHostsFile={}", path("known_hosts")),
            format!("Ciphers={CIPHER}"),
            "IdentitiesOnly=yes".into(),
            "StrictHostKeyChecking=yes".into(),
            "BatchMode=yes".into(),
        ]
    }

    /// `program` at the client's end, with these options.
    pub fn client(&self, lab: &Lab, program: &str) -> Command {
        let mut command = lab.command(End::Client, None, program);
        for option in self.client_options() {
            command.args(["-o", &option]);
        }
        command
    }

    /// What an rclone takes to reach the server as the remote `:sftp:`.
    pub fn rclone_options(&self) -> Vec<String> {
        let path = |name: &str| self.directory.join(name).display().to_string();
        vec![
            format!("--sftp-host={}", End::Host.address()),
            format!("--sftp-port={PORT}"),
            "--sftp-user=root".into(),
            format!("--sftp-key-file={}", path("user_key")),
            format!("--sftp-known-hosts-file={}", path("known_hosts")),
        ]
    }

    /// The command an rsync runs instead of `ssh`.
    pub fn shell(&self) -> String {
        let options: Vec<String> = self.client_options().iter().map(|option| format!("-o {option}")).collect();
        format!("ssh {}", options.join(" "))
    }

    /// How a client names `path` on the server.
    pub fn remote(&self, path: &Path) -> String {
        format!("root@{}:{}", End::Host.address(), path.display())
    }
}

fn sshd_config(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        "Port {PORT}\n\
         ListenAddress {}\n\
         HostKey {directory}/host_key\n\
         AuthorizedKeysFile {directory}/authorized_keys\n\
         StrictModes no\n\
         PermitRootLogin prohibit-password\n\
         PasswordAuthentication no\n\
         KbdInteractiveAuthentication no\n\
         UsePAM no\n\
         PidFile none\n\
         Ciphers {CIPHER}\n\
         Subsystem sftp internal-sftp\n",
        End::Host.address()
    )
}

/// Makes an Ed25519 key pair at `path`; returns the public line.
fn make_key(path: &Path) -> anyhow::Result<String> {
    let output = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"])
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .context("cannot run ssh-keygen")?;
    ensure!(output.status.success(), "ssh-keygen: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(fs::read_to_string(path.with_extension("pub"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ssh_server_admits_its_own_key() {
        // Prerequisites of the gate: without them this test fails and says what is missing.
        assert_eq!(crate::peers::peer("scp").missing_packages(), [""; 0]);
        let lab = Lab::up(1500).unwrap();
        let server = SshServer::start(&lab).unwrap();
        let source = lab.directory().join("source");
        let copy = lab.directory().join("copy");
        fs::write(&source, b"some bytes").unwrap();
        let mut scp = server.client(&lab, "scp");
        scp.arg("-q").arg(server.remote(&source)).arg(&copy);
        let mut process = lab.spawn("scp", &mut scp).unwrap();
        process.wait(Duration::from_secs(30)).unwrap();
        assert_eq!(fs::read(&copy).unwrap(), b"some bytes");
    }
}
