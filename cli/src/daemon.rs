//! Starts this program a second time, in the background, and waits until it says that it is ready.
//!
//! A fork would carry one thread of many into the child, so the child is a fresh process. What it must
//! know comes on its stdin, never in its arguments or environment; what it has to say until it is ready
//! goes out on its stdout, in the lines that `--json` prints:
//!
//! ```text
//!   parent ── handover, end of file ──▶ child's stdin
//!          ◀── {"type":"Warning",…} … {"type":"MountReady" | "Error",…} ── child's stdout
//! ```

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::Value;

use crate::exit::{Exit, Failure};
use crate::signals::{Interrupts, exit_interrupted};

/// Largest handover in bytes; it fits a pipe (pipe(7), capacity 64 KiB), so that writing it cannot block.
pub const HANDOVER_BYTES_MAX: usize = 32 << 10;

/// Most bytes that the child may say before it is ready; a few lines are expected.
const REPORT_BYTES_MAX: usize = 256 << 10;

/// The command that runs this program again with `arguments`.
///
/// It starts with `/proc/self/exe`: the program that runs now, even if its file was replaced.
pub fn this_program(arguments: &[&str]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("wormhole").args(arguments);
    command
}

/// Starts `command`, hands it `handover`, and returns once it reported `MountReady`.
///
/// `on_event` sees each line the child says, the last included, except an `Error`; nothing that becomes of it there ends
/// the child. While waiting, a signal ends the child and this process.
///
/// # Errors
/// The child's own failure; or that it ended without a word, or was not ready within `timeout` and
/// was killed.
pub fn launch(
    mut command: Command,
    handover: &[u8],
    timeout: Duration,
    log: &Path,
    interrupts: Option<&Interrupts>,
    on_event: &mut dyn FnMut(&Value),
) -> Result<(), Failure> {
    assert!(handover.len() <= HANDOVER_BYTES_MAX, "a handover fits a pipe");
    let deadline = Instant::now() + timeout;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| Failure::io("cannot start the background process", &error))?;
    let pid = Pid::from_child(&child);
    if let Some(interrupts) = interrupts {
        interrupts.arm(move || {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::TERM);
            exit_interrupted();
        });
    }
    let outcome =
        hand_over(&mut child, handover).and_then(|stdout| await_ready(stdout, deadline, on_event)).map_err(|error| {
            match error {
                AwaitError::Reported(failure) => failure,
                AwaitError::TimedOut => Failure::failed(format!(
                    "the mount was not ready within {} s and was given up; see {}",
                    timeout.as_secs(),
                    log.display()
                )),
                AwaitError::Silent => {
                    Failure::failed(format!("the background process ended without a word; see {}", log.display()))
                }
                AwaitError::Io(error) => Failure::io("cannot talk to the background process", &error),
            }
        });
    if outcome.is_err() {
        // Ended or not, it is reaped; its mount guard unmounts what it may have mounted.
        let _ = child.kill();
        let _ = child.wait();
    }
    if let Some(interrupts) = interrupts {
        interrupts.disarm();
    }
    outcome
}

/// The child's part: leaves the terminal and the folder it was started in.
///
/// # Errors
/// When the session cannot be made.
pub fn detach() -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::io("cannot leave the terminal", &error);
    rustix::process::setsid().map_err(|error| failed(error.into()))?;
    std::env::set_current_dir("/").map_err(failed)
}

/// The child's part: reads what the parent handed over.
///
/// # Errors
/// When it is missing, too long, or makes no sense, as when a person runs the hidden command.
pub fn read_handover<T: for<'de> Deserialize<'de>>(source: impl Read) -> Result<T, Failure> {
    let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(HANDOVER_BYTES_MAX + 1));
    source
        .take(HANDOVER_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::io("cannot read the parameters", &error))?;
    if bytes.len() > HANDOVER_BYTES_MAX {
        return Err(Failure::usage("the parameters are too long"));
    }
    // The error would repeat part of what may be a code.
    serde_json::from_slice(&bytes).map_err(|_| Failure::usage("this command is started by `wormhole mount` alone"))
}

/// The child's part: says one line; `false` when the parent is gone.
pub fn report(event: &Value) -> bool {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{event}").and_then(|()| stdout.flush()).is_ok()
}

/// The child's part: lets go of stdin and stdout, so that the parent's pipes close.
///
/// # Errors
/// When /dev/null cannot be opened.
pub fn close_report() -> Result<(), Failure> {
    let close = || {
        let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        Ok(())
    };
    close().map_err(|error: io::Error| Failure::io("cannot open /dev/null", &error))
}

enum AwaitError {
    Reported(Failure),
    TimedOut,
    Silent,
    Io(io::Error),
}

fn hand_over(child: &mut Child, handover: &[u8]) -> Result<ChildStdout, AwaitError> {
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    let stdout = child.stdout.take().expect("stdout is a pipe");
    match stdin.write_all(handover) {
        // A child that reads nothing may still say why it ended.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(AwaitError::Io(error)),
        _ => Ok(stdout),
    }
}

fn await_ready(mut stdout: ChildStdout, deadline: Instant, on_event: &mut dyn FnMut(&Value)) -> Result<(), AwaitError> {
    let mut said = Vec::new();
    let mut line_start = 0;
    loop {
        while let Some(length) = said[line_start..].iter().position(|&byte| byte == b'\n') {
            let line = &said[line_start..line_start + length];
            line_start += length + 1;
            let Ok(event) = serde_json::from_slice::<Value>(line) else {
                continue;
            };
            if event["type"] == "Error" {
                return Err(AwaitError::Reported(reported(&event["data"])));
            }
            on_event(&event);
            if event["type"] == "MountReady" {
                return Ok(());
            }
        }
        if said.len() > REPORT_BYTES_MAX {
            return Err(AwaitError::Io(io::ErrorKind::InvalidData.into()));
        }
        wait_readable(&stdout, deadline)?;
        let mut piece = [0; 4096];
        match stdout.read(&mut piece) {
            Ok(0) => return Err(AwaitError::Silent),
            Ok(count) => said.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(AwaitError::Io(error)),
        }
    }
}

fn wait_readable(stdout: &ChildStdout, deadline: Instant) -> Result<(), AwaitError> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(AwaitError::TimedOut);
        }
        let left = Timespec::try_from(left).map_err(|_| AwaitError::TimedOut)?;
        let mut waited = [PollFd::new(stdout, PollFlags::IN)];
        match rustix::event::poll(&mut waited, Some(&left)) {
            Ok(0) => return Err(AwaitError::TimedOut),
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(AwaitError::Io(error.into())),
        }
    }
}

/// The failure in the data of an `Error` event.
fn reported(data: &Value) -> Failure {
    let exit = Exit::deserialize(&data["kind"]).unwrap_or(Exit::Failed);
    let message = data["message"].as_str().unwrap_or("the mount failed");
    Failure { wants_code: data["wants_code"] == true, ..Failure::new(exit, message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a child written as a shell script makes of a launch: the outcome and the events seen.
    fn launch_script(script: &str, timeout_ms: u64) -> (Result<(), Failure>, Vec<Value>) {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stderr(Stdio::null());
        let mut events = Vec::new();
        let outcome = launch(
            command,
            b"{\"secret\":7}",
            Duration::from_millis(timeout_ms),
            Path::new("/the.log"),
            None,
            &mut |event| events.push(event.clone()),
        );
        (outcome, events)
    }

    #[test]
    fn a_ready_child_is_left_running_with_what_it_was_handed() {
        let dir = tempfile::tempdir().unwrap();
        let go_on = dir.path().join("go-on");
        let script = format!(
            r#"handover=$(cat)
            mkfifo '{0}'
            echo '{{"type":"Warning","data":{{"message":"w"}}}}'
            echo "{{\"type\":\"MountReady\",\"data\":$handover}}"
            exec >/dev/null
            cat '{0}'"#,
            go_on.display()
        );
        let (outcome, events) = launch_script(&script, 30_000);
        assert_eq!(outcome, Ok(()));
        assert_eq!(events.len(), 2);
        assert_eq!(events[1]["data"]["secret"], 7);
        // Opening blocks until the child, which is therefore alive, opens its end.
        OpenOptions::new().write(true).open(go_on).unwrap();
    }

    #[test]
    fn a_childs_failure_is_the_parents() {
        let script = r#"cat >/dev/null; echo '{"type":"Error","data":{"message":"wrong code","kind":"Refused"}}'"#;
        let (outcome, events) = launch_script(script, 30_000);
        assert_eq!(outcome, Err(Failure::new(Exit::Refused, "wrong code")));
        assert_eq!(events, [] as [Value; 0]);
        let unknown = Failure { wants_code: true, ..Failure::new(Exit::Refused, "unknown device") };
        let script = format!("cat >/dev/null; echo '{}'", crate::output::error_event(&unknown));
        assert_eq!(launch_script(&script, 30_000).0, Err(unknown));
    }

    #[test]
    fn a_silent_end_and_a_hang_are_told_apart() {
        for (script, timeout_ms, part) in [
            ("exit 7", 30_000, "without a word"),
            ("cat >/dev/null; echo noise; exit 0", 30_000, "without a word"),
            ("exec sleep 600", 100, "not ready"),
        ] {
            let failure = launch_script(script, timeout_ms).0.unwrap_err();
            assert_eq!(failure.exit, Exit::Failed);
            assert!(failure.message.contains(part), "{}", failure.message);
            assert!(failure.message.contains("/the.log"), "{}", failure.message);
        }
    }

    #[test]
    fn a_handover_is_bounded_and_never_repeated() {
        let secret = b"{\"code\":\"7-hunter2".as_slice();
        let failure = read_handover::<Value>(secret).unwrap_err();
        assert!(!failure.message.contains("hunter2"));
        let long = vec![b' '; HANDOVER_BYTES_MAX + 1];
        assert!(read_handover::<Value>(long.as_slice()).is_err());
        assert_eq!(read_handover::<Value>(b"{\"a\":1}".as_slice()).unwrap()["a"], 1);
    }
}
