//! An nginx of the lab's own: the share over HTTP in clear and over HTTPS, as a web server would hand it out.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::lab::{End, Lab};
use crate::peers::find_program;
use crate::process::{Process, SocketKind};

/// The port of HTTP in the host's namespace.
pub const PORT: u16 = 8080;

/// The port of HTTPS there.
pub const TLS_PORT: u16 = 8443;

/// The name in the certificate.
const SERVER_NAME: &str = "peer";

/// The cipher: the one every measured peer uses.
const CIPHER: &str = "TLS_AES_128_GCM_SHA256";

/// How long nginx may take to listen.
const START_LIMIT: Duration = Duration::from_secs(10);

/// The two ways to ask it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// In clear.
    Http,
    /// TLS 1.3 with AES-128-GCM.
    Https,
}

/// A running nginx.
pub struct WebServer {
    /// The one process that serves.
    pub process: Process,
    certificate: PathBuf,
}

impl WebServer {
    /// Makes a certificate, starts nginx on `share` in the host's namespace and waits until it listens.
    ///
    /// # Errors
    /// If nginx is missing or ends.
    pub fn start(lab: &Lab, share: &Path, core: Option<usize>) -> anyhow::Result<Self> {
        let directory = lab.directory().join("web");
        fs::DirBuilder::new().mode(0o700).create(&directory)?;
        let made = rcgen::generate_simple_self_signed([SERVER_NAME.to_owned()])?;
        let certificate = directory.join("certificate.pem");
        fs::write(&certificate, made.cert.pem())?;
        fs::write(directory.join("key.pem"), made.signing_key.serialize_pem())?;
        let configuration = directory.join("nginx.conf");
        fs::write(&configuration, nginx_conf(&directory, share))?;
        let program = find_program("nginx").context("no nginx")?;
        let mut command = lab.command(End::Host, core, program);
        command.arg("-p").arg(&directory).arg("-c").arg(&configuration).args(["-e", "stderr"]);
        let mut process = lab.spawn("nginx", &mut command)?;
        process.wait_socket(SocketKind::Tcp, TLS_PORT, START_LIMIT)?;
        Ok(Self { process, certificate })
    }

    /// Where a client in the lab finds the share in clear.
    pub fn url(lab: &Lab) -> String {
        format!("http://{}", lab.socket(End::Host, PORT))
    }

    /// A curl at the client's end that fetches `name` to `destination` and ends by printing what
    /// [`transfer_of_curl`] reads.
    pub fn curl(&self, lab: &Lab, core: Option<usize>, scheme: Scheme, name: &str, destination: &Path) -> Command {
        let mut command = lab.command(End::Client, core, "curl");
        command
            .args(["--silent", "--show-error", "--fail", "--http1.1"])
            .args(["--write-out", "%{size_download} %{time_pretransfer} %{time_total}"])
            .arg("--output")
            .arg(destination);
        match scheme {
            Scheme::Http => command.arg(format!("{}/{name}", Self::url(lab))),
            Scheme::Https => command
                .args(["--tlsv1.3", "--tls13-ciphers", CIPHER, "--cacert"])
                .arg(&self.certificate)
                .args(["--resolve", &format!("{SERVER_NAME}:{TLS_PORT}:{}", End::Host.address())])
                .arg(format!("https://{SERVER_NAME}:{TLS_PORT}/{name}")),
        };
        command
    }
}

/// One process, so that its core and its CPU time are the server's; everything else as nginx's manual has it for files.
fn nginx_conf(directory: &Path, share: &Path) -> String {
    let address = End::Host.address();
    let share = share.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("    {kind}_temp_path {}/{kind};\n", directory.display()))
        .concat();
    format!(
        "daemon off;\n\
         master_process off;\n\
         pid {directory}/pid;\n\
         events {{ worker_connections 256; }}\n\
         http {{\n\
         {temporary}    access_log off;\n    \
             sendfile on;\n    \
             tcp_nopush on;\n    \
             keepalive_requests 10000000;\n    \
             default_type application/octet-stream;\n    \
             server {{\n        \
                 listen {address}:{PORT};\n        \
                 listen {address}:{TLS_PORT} ssl;\n        \
                 ssl_certificate certificate.pem;\n        \
                 ssl_certificate_key key.pem;\n        \
                 ssl_protocols TLSv1.3;\n        \
                 ssl_conf_command Ciphersuites {CIPHER};\n        \
                 root {share};\n        \
                 autoindex on;\n    \
             }}\n\
         }}\n",
        directory = directory.display(),
    )
}

/// Bytes, and the time from the request to the last byte, from what curl was told to print.
///
/// # Errors
/// If it is not three numbers.
pub fn transfer_of_curl(line: &str) -> anyhow::Result<(u64, Duration)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [bytes, before, total] = fields[..] else {
        anyhow::bail!("curl ended with {line:?}");
    };
    let (before, total): (f64, f64) = (before.parse()?, total.parse()?);
    ensure!(total >= before, "curl ended with {line:?}");
    Ok((bytes.parse()?, Duration::try_from_secs_f64(total - before)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_of_curl_starts_at_the_request() {
        assert_eq!(transfer_of_curl("1000 0.25 0.75").unwrap(), (1000, Duration::from_millis(500)));
        for nonsense in ["", "1000 0.25", "1000 0.75 0.25", "x 0 1", "1 2 3 4"] {
            assert!(transfer_of_curl(nonsense).is_err(), "{nonsense}");
        }
    }

    #[test]
    fn nginx_hands_out_the_share_both_ways() {
        // Both are prerequisites of the gate: without them this test fails and says what is missing.
        assert_eq!(crate::peers::peer("https").missing_packages(), [""; 0]);
        let lab = Lab::up(1500).unwrap();
        let share = lab.directory().join("share");
        fs::create_dir(&share).unwrap();
        fs::write(share.join("file"), b"some bytes").unwrap();
        let server = WebServer::start(&lab, &share, None).unwrap();
        let copy = lab.directory().join("copy");
        for scheme in [Scheme::Http, Scheme::Https] {
            let mut curl = lab.spawn("curl", &mut server.curl(&lab, None, scheme, "file", &copy)).unwrap();
            curl.wait(Duration::from_secs(30)).unwrap();
            assert_eq!(transfer_of_curl(&curl.output().unwrap()).unwrap().0, 10, "{scheme:?}");
            assert_eq!(fs::read(&copy).unwrap(), b"some bytes");
        }
    }
}
