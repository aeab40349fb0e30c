//! What the tests need from the machine, and getting it where that is possible.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};

/// Programs the tests run, each with its Debian package.
const PROGRAMS: [(&str, &str); 13] = [
    ("fusermount3", "fuse3"),
    ("ip", "iproute2"),
    ("getfattr", "attr"),
    ("sshfs", "sshfs"),
    ("sshd", "openssh-server"),
    ("ssh", "openssh-client"),
    ("scp", "openssh-client"),
    ("iperf3", "iperf3"),
    ("curl", "curl"),
    ("nginx", "nginx"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("taskset", "util-linux"),
];

/// Browsers the report's page can be opened in, any of them.
const BROWSERS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// Packages whose Debian scripts start a service of their own, and the service; the tests need the program alone.
const SERVICES: [(&str, &str); 2] = [("nginx", "nginx"), ("openssh-server", "ssh")];

/// Parts of the Rust toolchain a minimal profile leaves out, by the cargo command each brings.
const COMPONENTS: [(&str, &str); 2] = [("fmt", "rustfmt"), ("clippy", "clippy")];

/// Makes sure every program is there: installs what is missing, or says how to.
///
/// # Errors
/// If something is missing and cannot be installed from here; the message holds the one line to run.
pub fn ensure_present() -> anyhow::Result<()> {
    install_packages(&missing_packages(is_installed))?;
    for (command, component) in COMPONENTS {
        if !has_cargo_command(command) {
            run("rustup", &["component", "add", component])
                .with_context(|| format!("run: rustup component add {component}"))?;
        }
    }
    Ok(())
}

/// Makes sure a browser is there that runs: installs one that this distribution has, or says how to.
///
/// # Errors
/// If there is none and none of the candidates can be installed, or what was installed does not run.
pub fn ensure_browser() -> anyhow::Result<()> {
    if has_browser(runs) {
        return Ok(());
    }
    let candidates = browser_packages(&std::fs::read_to_string("/etc/os-release").unwrap_or_default());
    let mut reasons = Vec::new();
    for package in candidates {
        match install_packages(&[package]) {
            Ok(()) if has_browser(runs) => return Ok(()),
            Ok(()) => reasons.push(format!("{package}: installed, and does not run")),
            Err(error) => reasons.push(format!("{package}: {error:#}")),
        }
    }
    bail!("no browser of {} answers to --version; {}", BROWSERS.join(", "), reasons.join("; "))
}

fn has_browser(runs: impl Fn(&str) -> bool) -> bool {
    BROWSERS.into_iter().any(runs)
}

/// Whether a program does: a file of its name says little, since Ubuntu's `chromium-browser` is a script that asks for a
/// snap.
fn runs(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The packages that bring a browser on a distribution, from its os-release(5), the likeliest first.
fn browser_packages(os_release: &str) -> &'static [&'static str] {
    let id = os_release.lines().find_map(|line| line.strip_prefix("ID=")).unwrap_or_default().trim_matches('"');
    match id {
        "ubuntu" => &["chromium-browser", "chromium"],
        _ => &["chromium", "chromium-browser"],
    }
}

/// Whether cargo knows a command, built in or installed.
pub fn has_cargo_command(name: &str) -> bool {
    Command::new(crate::steps::cargo())
        .args([name, "--version"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn missing_packages(has: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let mut packages: Vec<&str> =
        PROGRAMS.iter().filter(|(program, _)| !has(program)).map(|&(_, package)| package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

fn install_packages(packages: &[&str]) -> anyhow::Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let line = format!("apt-get install --yes {}", packages.join(" "));
    if !is_root() || !is_installed("apt-get") {
        bail!("the tests need more programs; run as root: {line}");
    }
    // A fresh machine has no package lists.
    run("apt-get", &["update", "--quiet"])?;
    let mut arguments = vec!["install", "--yes", "--quiet", "--no-install-recommends"];
    arguments.extend(packages);
    run("apt-get", &arguments).with_context(|| format!("run as root: {line}"))?;
    for (package, service) in SERVICES.into_iter().filter(|(package, _)| packages.contains(package)) {
        println!("{package} may have started the service {service}: systemctl disable --now {service}");
    }
    Ok(())
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let status = Command::new(program)
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot run {program}"))?;
    ensure!(status.success(), "{program} {}: {status}", arguments.join(" "));
    Ok(())
}

/// Whether this process is root, from the owner of its own `/proc` entry.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    Path::new("/proc/self").metadata().is_ok_and(|is| is.uid() == 0)
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(Into::into))
        .any(|directory| directory.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_package_is_named_once() {
        assert!(missing_packages(|_| true).is_empty());
        assert_eq!(
            missing_packages(|program| !matches!(program, "scp" | "ssh" | "ip")),
            ["iproute2", "openssh-client"]
        );
    }

    #[test]
    fn any_browser_will_do_if_it_runs() {
        assert!(has_browser(|program| program == "google-chrome"));
        assert!(!has_browser(|program| program == "firefox"));
        assert!(runs("cargo") && !runs("false") && !runs("no-such-program-anywhere"));
    }

    #[test]
    fn each_distribution_has_its_browser() {
        assert_eq!(browser_packages("PRETTY_NAME=\"x\"\nID=debian\n")[0], "chromium");
        assert_eq!(browser_packages("ID=ubuntu\nID_LIKE=debian\n")[0], "chromium-browser");
        assert_eq!(browser_packages("ID=\"linuxmint\"\nID_LIKE=\"ubuntu debian\"\n")[0], "chromium");
        assert_eq!(browser_packages("")[0], "chromium");
    }

    #[test]
    fn the_servers_the_tests_run_are_asked_for() {
        for (package, _) in SERVICES {
            assert!(missing_packages(|_| false).contains(&package), "{package}");
        }
    }

    #[test]
    fn programs_are_looked_for_in_the_path() {
        assert!(is_installed("sh"));
        assert!(!is_installed("no-such-program-anywhere"));
    }

    #[test]
    fn cargo_knows_its_installed_commands() {
        assert!(has_cargo_command("clippy"));
        assert!(!has_cargo_command("no-such-command-anywhere"));
    }
}
