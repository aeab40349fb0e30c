//! A program running in the lab: started, waited for with a limit, measured, and killed when dropped.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::cpu_time::{self, CpuTime};

/// How often a program's output or sockets are asked for the sign that it is ready.
const READY_INTERVAL: Duration = Duration::from_millis(5);

/// How long a program may take from SIGTERM to its end before it is killed.
const TERMINATE_LIMIT: Duration = Duration::from_secs(10);

/// A started program with its output in two files; dropping it kills and reaps it.
pub struct Process {
    label: String,
    child: Child,
    // Signals go through this descriptor: it means this process for ever, while its number may be given to another.
    pidfd: Arc<OwnedFd>,
    started: Instant,
    output: PathBuf,
    errors: PathBuf,
    is_reaped: bool,
}

/// How a program ended well.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// From just before the start to the exit.
    pub elapsed: Duration,
    /// User and system time of its whole life, and of the children it reaped.
    pub cpu: CpuTime,
}

/// The kinds of socket a server may be awaited on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketKind {
    /// A TCP socket that listens.
    Tcp,
    /// A UDP socket that is bound.
    Udp,
}

impl Process {
    /// Starts `command` with no input and with its output in `directory`, in files named after `label` and `sequence`.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub(crate) fn start(command: &mut Command, label: &str, directory: &Path, sequence: u64) -> anyhow::Result<Self> {
        let output = directory.join(format!("{sequence:04}-{label}.out"));
        let errors = directory.join(format!("{sequence:04}-{label}.err"));
        let started = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(File::create(&output)?)
            .stderr(File::create(&errors)?)
            .spawn()
            .with_context(|| format!("cannot start {label}"))?;
        let opened = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .context("a process id out of range")
            .and_then(|pid| Ok(pidfd_open(pid, PidfdFlags::empty())?));
        match opened {
            Ok(pidfd) => Ok(Self {
                label: label.to_owned(),
                child,
                pidfd: Arc::new(pidfd),
                started,
                output,
                errors,
                is_reaped: false,
            }),
            Err(error) => {
                // Not yet reaped, so the number is still this child's.
                child.kill()?;
                child.wait()?;
                Err(error)
            }
        }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The name it was started under, for messages.
    pub fn label(&self) -> &str {
        &self.label
    }

    pub(crate) fn pidfd(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.pidfd)
    }

    /// Whether it has exited, reaped or not.
    pub fn has_ended(&self) -> bool {
        self.is_reaped || exited_within(&self.pidfd, Duration::ZERO)
    }

    /// Everything it has written to its standard output so far.
    ///
    /// # Errors
    /// If the file cannot be read or is not UTF-8.
    pub fn output(&self) -> std::io::Result<String> {
        fs::read_to_string(&self.output)
    }

    /// The last line of its standard error, or a phrase that there is none.
    pub fn last_words(&self) -> String {
        fs::read_to_string(&self.errors)
            .ok()
            .and_then(|text| text.lines().rev().find(|line| !line.trim().is_empty()).map(str::to_owned))
            .unwrap_or_else(|| "it said nothing".to_owned())
    }

    /// Waits for the program to end by itself and reaps it.
    ///
    /// # Errors
    /// If it runs past `limit` (it is killed then) or ends with another status than success.
    pub fn wait(&mut self, limit: Duration) -> anyhow::Result<Ended> {
        if !exited_within(&self.pidfd, limit) {
            self.kill();
            bail!("{} did not end within {limit:?}", self.label);
        }
        let elapsed = self.started.elapsed();
        // Ended but not reaped: its accounts are final and still readable.
        let cpu = cpu_time::of_process(self.id()).since(cpu_time::Reading::default());
        let status = self.child.wait()?;
        self.is_reaped = true;
        if !status.success() {
            bail!("{}: {status}: {}", self.label, self.last_words());
        }
        Ok(Ended { elapsed, cpu })
    }

    /// Asks the program to end (SIGTERM), waits, and kills it if it takes too long.
    ///
    /// # Errors
    /// If it had to be killed.
    pub fn terminate(mut self) -> anyhow::Result<()> {
        self.signal(Signal::TERM);
        if exited_within(&self.pidfd, TERMINATE_LIMIT) {
            return Ok(());
        }
        self.kill();
        Err(anyhow!("{} ignored SIGTERM for {TERMINATE_LIMIT:?}", self.label))
    }

    /// Kills the program at once (SIGKILL) and reaps it.
    pub fn kill(&mut self) {
        if self.is_reaped {
            return;
        }
        self.signal(Signal::KILL);
        // `wait` fails only if somebody else reaped the child, and then there is nothing left to do.
        self.is_reaped = self.child.wait().is_ok();
    }

    /// Waits until a line of the program's output satisfies `pick`, and returns what it picked.
    ///
    /// # Errors
    /// If the program ends first or `limit` passes.
    pub fn wait_line<T>(&mut self, limit: Duration, mut pick: impl FnMut(&str) -> Option<T>) -> anyhow::Result<T> {
        self.wait_ready(limit, |process| {
            // A line without its newline may still be growing.
            let text = process.output().ok()?;
            let whole = &text[..text.rfind('\n')? + 1];
            whole.lines().find_map(&mut pick)
        })
    }

    /// Waits until the program's network namespace has a socket of `kind` on `port`.
    ///
    /// # Errors
    /// If the program ends first or `limit` passes.
    pub fn wait_socket(&mut self, kind: SocketKind, port: u16, limit: Duration) -> anyhow::Result<()> {
        self.wait_ready(limit, |process| {
            let table = match kind {
                SocketKind::Tcp => "tcp",
                SocketKind::Udp => "udp",
            };
            // The second one is absent on a machine without IPv6.
            let tables =
                ["", "6"].map(|suffix| fs::read_to_string(format!("/proc/{}/net/{table}{suffix}", process.id())));
            let mut lines = tables.iter().flatten().flat_map(|text| text.lines().skip(1));
            lines.any(|line| is_socket(line, kind, port)).then_some(())
        })
    }

    fn wait_ready<T>(&mut self, limit: Duration, mut ready: impl FnMut(&Self) -> Option<T>) -> anyhow::Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            // Asked before `ready`, so that what a program wrote just before its end still counts.
            let ended = self.has_ended();
            if let Some(found) = ready(self) {
                return Ok(found);
            }
            if ended {
                bail!("{} ended before it was ready: {}", self.label, self.last_words());
            }
            if Instant::now() >= deadline {
                bail!("{} was not ready within {limit:?}: {}", self.label, self.last_words());
            }
            sleep(READY_INTERVAL);
        }
    }

    fn signal(&self, signal: Signal) {
        // Fails only if the process has ended, which is what every caller wants.
        let _ended = pidfd_send_signal(&*self.pidfd, signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until the process behind `pidfd` has exited; false if `limit` passed first.
pub(crate) fn exited_within(pidfd: &OwnedFd, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).ok();
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], timeout.as_ref()) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Whether a line of `/proc/net/tcp` or `/proc/net/udp` is a server's socket on `port`.
fn is_socket(line: &str, kind: SocketKind, port: u16) -> bool {
    let mut fields = line.split_whitespace().skip(1);
    let local_port = fields
        .next()
        .and_then(|address| address.rsplit_once(':'))
        .and_then(|(_, digits)| u16::from_str_radix(digits, 16).ok());
    let state = fields.nth(1);
    // `include/net/tcp_states.h`: 0A is TCP_LISTEN, 07 is what an unconnected UDP socket shows.
    let wanted = match kind {
        SocketKind::Tcp => "0A",
        SocketKind::Udp => "07",
    };
    local_port == Some(port) && state == Some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_listening_socket_on_the_port_counts() {
        let listening = "   0: 0100007F:1151 00000000:0000 0A 00000000:00000000 00:00000000 0 0 0 1 1";
        let connected = "   1: 0100007F:1151 0100007F:D3F2 01 00000000:00000000 00:00000000 0 0 0 1 1";
        assert!(is_socket(listening, SocketKind::Tcp, 4433));
        assert!(!is_socket(listening, SocketKind::Tcp, 4434));
        assert!(!is_socket(listening, SocketKind::Udp, 4433));
        assert!(!is_socket(connected, SocketKind::Tcp, 4433));
        assert!(!is_socket("", SocketKind::Tcp, 0));
    }
}
