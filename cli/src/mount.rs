//! `wormhole mount`, `unmount`, and the guard that removes the mount of a process that was killed.

use std::ffi::{OsStr, OsString};
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use engine::{IoMode, MountOptions, RemoteOptions, ServiceEvent};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use signal::JoinCode;
use zeroize::Zeroizing;

use crate::args::{Fuse, Io, MountArguments};
use crate::daemon;
use crate::exit::{Exit, Failure};
use crate::log::{self, Log};
use crate::output::{self, Events, Output};
use crate::quote;
use crate::remote::{self, Context, Destination};
use crate::secret::{self, hidden::Hidden};
use crate::settings;
use crate::signals::Interrupts;

/// What a mount may take beyond its attempts to connect: starting threads, mounting, an unhurried disk.
const START_MARGIN: Duration = Duration::from_secs(15);

/// Bytes of one MiB.
const MIB: u64 = 1 << 20;

/// Runs `mount`: in this process with `--foreground`, otherwise in a second one.
///
/// # Errors
/// What keeps the folder from being mounted.
pub fn run(context: &Context<'_>, arguments: &MountArguments) -> Result<Exit, Failure> {
    let target = remote::parse(&arguments.target)?;
    if !target.subpath.is_root() {
        return Err(Failure::usage("a path inside the share cannot be mounted; name the share only"));
    }
    context.settings.refuse(settings::CACHE_DIR)?;
    let mountpoint = existing_folder(&arguments.mountpoint)?;
    let Destination { addresses, code, io, timeout } = Destination::new(context, target.target, &arguments.remote)?;
    let memory = arguments.memory;
    let setting = |key| context.settings.number(key);
    let plan = Plan {
        addresses,
        code: None,
        io: io.into(),
        timeout_s: timeout.as_secs(),
        mountpoint: mountpoint.into_os_string().into_vec(),
        allow_other: arguments.allow_other,
        ram_cache_mb: memory.ram_cache_mb.or_else(|| setting("ram_cache_mb")).expect("the setting has a default"),
        read_ahead_kb: memory.read_ahead_kb.or_else(|| setting("read_ahead_kb")),
        fuse: arguments.fuse.unwrap_or_else(|| match context.settings.text("fuse") {
            Some("device") => Fuse::Device,
            Some("uring") => Fuse::Uring,
            _ => Fuse::Auto,
        }),
        log: None,
    };
    secret::with_code(
        code,
        |why| secret::prompt(context.output, context.interrupts, why),
        |code| {
            let mut plan = plan.clone();
            plan.code = code.map(|code| Hidden::from(code.reveal().as_str()));
            if arguments.foreground {
                let mut printed = Events::new(context.output);
                serve(&plan, context.interrupts, &mut |event| {
                    print_event(context.output, &mut printed, &output::event_value(event));
                    true
                })
            } else {
                launch(context, &plan)
            }
        },
    )?;
    Ok(Exit::Ok)
}

/// Runs the hidden `mount-daemon`: the second process of a mount.
///
/// # Errors
/// What the parent was told already, for the log.
pub fn run_daemon(interrupts: &Interrupts) -> Result<Exit, Failure> {
    let mut is_ready = false;
    let outcome = daemon::detach().and_then(|()| daemon::read_handover::<Plan>(io::stdin().lock())).and_then(|plan| {
        plan.start_log()?;
        serve(&plan, interrupts, &mut |event| {
            log_event(event);
            if is_ready {
                return true;
            }
            // An `Error` reaches the parent with its kind, at the end.
            if matches!(event, ServiceEvent::Error { .. }) {
                return true;
            }
            let is_heard = daemon::report(&output::event_value(event));
            is_ready = matches!(event, ServiceEvent::MountReady { .. });
            // Without a parent that waited, nobody knows of this mount.
            is_heard && (!is_ready || daemon::close_report().is_ok())
        })
    });
    if let (Err(failure), false) = (&outcome, is_ready) {
        // A parent that is gone does not ask.
        daemon::report(&output::error_event(failure));
    }
    outcome.map(|()| Exit::Ok)
}

/// Runs `unmount`.
///
/// # Errors
/// What the engine reports, such as that nothing is mounted there.
pub fn unmount(output: &Output, mountpoint: &Path) -> Result<Exit, Failure> {
    let mountpoint = absolute(mountpoint)?;
    engine::unmount(&mountpoint)?;
    output.event("Unmounted", json!({"mountpoint": mountpoint.to_string_lossy()}))?;
    output.say(&format!("Unmounted {}", shown(&mountpoint)));
    Ok(Exit::Ok)
}

/// Runs the hidden `mount-guard`.
///
/// # Errors
/// What the engine reports.
pub fn guard(mountpoint: &Path) -> Result<Exit, Failure> {
    engine::run_mount_guard(mountpoint)?;
    Ok(Exit::Ok)
}

/// A process that outlives this one long enough to remove its mount.
///
/// It sleeps until its stdin ends, which the kernel sees to however this process dies.
#[derive(Debug)]
pub struct Guard(Child);

impl Guard {
    /// Starts the guard of `mountpoint`, before anything is mounted there.
    ///
    /// # Errors
    /// When no process can be started.
    pub fn start(mountpoint: &Path) -> Result<Self, Failure> {
        daemon::this_program(&["mount-guard"])
            .arg("--")
            .arg(mountpoint)
            // Ctrl-C in the terminal concerns the mount, which ends in order, and not its guard.
            .process_group(0)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map(Self)
            .map_err(|error| Failure::io("cannot start the mount's guard", &error))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // With nothing mounted it ends at once; it is reaped so that none is left behind.
        let _ = self.0.wait();
    }
}

/// All that a mount must know, as it is handed to the second process.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Plan {
    addresses: Vec<SocketAddr>,
    code: Option<Hidden>,
    io: PlannedIo,
    timeout_s: u64,
    /// Bytes, since a path need not be text.
    mountpoint: Vec<u8>,
    allow_other: bool,
    ram_cache_mb: u32,
    read_ahead_kb: Option<u32>,
    fuse: Fuse,
    /// Where and how much to log; a mount in the foreground does so on stderr.
    log: Option<PlannedLog>,
}

/// The log of a mount in the background.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct PlannedLog {
    /// Bytes, as the mountpoint's.
    path: Vec<u8>,
    level: String,
}

impl PlannedLog {
    fn path(&self) -> PathBuf {
        OsString::from_vec(self.path.clone()).into()
    }
}

/// [`Io`] in a handover.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum PlannedIo {
    Auto,
    Uring,
    Poll,
}

impl From<Io> for PlannedIo {
    fn from(io: Io) -> Self {
        match io {
            Io::Auto => Self::Auto,
            Io::Uring => Self::Uring,
            Io::Poll => Self::Poll,
        }
    }
}

impl From<PlannedIo> for IoMode {
    fn from(io: PlannedIo) -> Self {
        match io {
            PlannedIo::Auto => Self::Auto,
            PlannedIo::Uring => Self::Uring,
            PlannedIo::Poll => Self::Poll,
        }
    }
}

impl Plan {
    fn mountpoint(&self) -> PathBuf {
        OsString::from_vec(self.mountpoint.clone()).into()
    }

    fn options(&self) -> Result<MountOptions, Failure> {
        let code = self.code.as_ref().and_then(Hidden::text).map(JoinCode::parse);
        let code = code.transpose().map_err(|error| Failure::usage(error.to_string()))?;
        Ok(MountOptions {
            remote: RemoteOptions {
                addresses: self.addresses.clone(),
                code,
                io: self.io.into(),
                state_dir: engine::trust::state_dir()?,
                timeout: Duration::from_secs(self.timeout_s),
            },
            mountpoint: self.mountpoint(),
            allow_other: self.allow_other,
            ram_cache_bytes: u64::from(self.ram_cache_mb) * MIB,
            read_ahead_kb: self.read_ahead_kb,
            fuse: self.fuse.into(),
            runtime_dir: engine::trust::runtime_dir()?,
            log: self.log.as_ref().map(PlannedLog::path),
        })
    }

    /// Sends the log of this process where the plan says.
    fn start_log(&self) -> Result<(), Failure> {
        let Some(log) = &self.log else { return Ok(()) };
        let level = log.level.parse().map_err(|_| Failure::usage("there is no such log level"))?;
        output::log_to(Log::of_stderr(log.path())?, level);
        Ok(())
    }

    /// How long the mount may take until it is ready.
    fn start_timeout(&self) -> Duration {
        let attempts = u32::try_from(self.addresses.len()).expect("addresses are bounded");
        Duration::from_secs(self.timeout_s) * attempts + START_MARGIN
    }
}

/// Mounts and stays until unmounted; `on_event` returns false to end the mount.
fn serve(plan: &Plan, interrupts: &Interrupts, on_event: &mut dyn FnMut(&ServiceEvent) -> bool) -> Result<(), Failure> {
    let options = plan.options()?;
    let _guard = Guard::start(&options.mountpoint)?;
    let (handle, events) = engine::start_mount(options)?;
    let shutdown = handle.shutdown_handle();
    let on_signal = shutdown.clone();
    interrupts.arm(move || on_signal.shutdown());
    let mut was_ready = false;
    let mut stop_reason = String::from("it was never mounted");
    for event in &events {
        was_ready |= matches!(event, ServiceEvent::MountReady { .. });
        let is_read = on_event(&event);
        if let ServiceEvent::Stopped { reason } = event {
            stop_reason = reason;
            break;
        }
        if !is_read {
            shutdown.shutdown();
        }
    }
    handle.wait()?;
    if was_ready { Ok(()) } else { Err(output::stopped(&stop_reason)) }
}

fn launch(context: &Context<'_>, plan: &Plan) -> Result<(), Failure> {
    let log_path = log::path(&engine::trust::state_dir()?, &plan.mountpoint());
    let log = PlannedLog { path: log_path.clone().into_os_string().into_vec(), level: context.log_level.to_string() };
    let plan = Plan { log: Some(log), ..plan.clone() };
    let mut command = daemon::this_program(&["mount-daemon"]);
    command.stderr(log::open(&log_path)?);
    let handover = Zeroizing::new(serde_json::to_vec(&plan).expect("a plan is numbers and text"));
    let mut printed = Events::new(context.output);
    daemon::launch(command, &handover, plan.start_timeout(), &log_path, Some(context.interrupts), &mut |event| {
        print_event(context.output, &mut printed, event);
    })?;
    context.output.say(&format!("It logs to {}", shown(&log_path)));
    Ok(())
}

/// Prints an event of a mount, which may come from another process.
fn print_event(output: &Output, printed: &mut Events<'_>, event: &Value) {
    printed.print(event);
    let data = &event["data"];
    let text = |key: &str| quote::text(data[key].as_str().unwrap_or_default());
    match event["type"].as_str().unwrap_or_default() {
        "MountReady" => output.say(&format!(
            "Mounted {} of {} at {}",
            output.bold(&text("share")),
            text("host"),
            output.bold(&text("mountpoint"))
        )),
        "HostLost" => output.say(&format!("The host is gone ({}); waiting for it", text("reason"))),
        "HostBack" => output.say("The host is back"),
        "Warning" | "Error" => output.say(&text("message")),
        "Stopped" => output.say(&format!("Unmounted: {}", text("reason"))),
        _ => {}
    }
}

fn log_event(event: &ServiceEvent) {
    match event {
        ServiceEvent::HostLost { reason } => tracing::warn!(%reason, "the host is gone"),
        ServiceEvent::HostBack { address } => tracing::warn!(%address, "the host is back"),
        ServiceEvent::Warning { message } => tracing::warn!("{message}"),
        ServiceEvent::Error { message } => tracing::error!("{message}"),
        ServiceEvent::Stopped { reason } => tracing::info!(%reason, "unmounted"),
        other => tracing::info!(event = %output::event_value(other), "mount"),
    }
}

/// The absolute path of a folder to mount on.
fn existing_folder(path: &Path) -> Result<PathBuf, Failure> {
    let named = shown(path);
    let resolved = path.canonicalize().and_then(|resolved| {
        let metadata = resolved.metadata()?;
        Ok((resolved, metadata.is_dir()))
    });
    match resolved {
        Ok((resolved, true)) => Ok(resolved),
        Ok((_, false)) => Err(Failure::usage(format!("{named} is not a folder"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Failure::new(
            Exit::NotFound,
            format!("the folder {named} is not there; make it with: mkdir -p {named}"),
        )),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOTCONN.raw_os_error()) => {
            Err(Failure::failed(format!("a dead mount lies on {named}; remove it with: wormhole unmount {named}")))
        }
        Err(error) => Err(Failure::io(format!("cannot mount on {named}"), &error)),
    }
}

/// The absolute path of a mountpoint without touching what is mounted there, which may be dead.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    let failed = |error| Failure::io(shown(path), &error);
    let Some(name) = path.file_name() else {
        return path.canonicalize().map_err(failed);
    };
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let resolved = parent.canonicalize().map_err(failed)?.join(name);
    // A link to a mountpoint is followed; reading a link does not enter the mount.
    match resolved.read_link() {
        Ok(_) => resolved.canonicalize().map_err(failed),
        Err(_) => Ok(resolved),
    }
}

fn shown(path: &Path) -> String {
    quote::name(OsStr::as_bytes(path.as_os_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountpoints_are_checked_before_anything_starts() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        assert_eq!(existing_folder(dir.path()).unwrap(), real);
        let missing = existing_folder(&dir.path().join("no")).unwrap_err();
        assert_eq!(missing.exit, Exit::NotFound);
        assert!(missing.message.contains("mkdir -p"), "{}", missing.message);
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(existing_folder(&file).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn what_is_unmounted_need_not_be_entered() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        assert_eq!(absolute(&dir.path().join("gone/")).unwrap(), real.join("gone"));
        std::os::unix::fs::symlink(&real, dir.path().join("link")).unwrap();
        assert_eq!(absolute(&dir.path().join("link")).unwrap(), real);
        assert!(absolute(Path::new("/")).is_ok());
        assert!(absolute(&dir.path().join("no/such")).is_err());
    }

    #[test]
    fn a_plan_survives_the_handover() {
        let plan = Plan {
            addresses: vec!["10.0.0.1:4433".parse().unwrap()],
            code: Some("1-a-b-c".into()),
            io: PlannedIo::Poll,
            timeout_s: 10,
            mountpoint: b"/mnt/\xff".to_vec(),
            allow_other: true,
            ram_cache_mb: 7,
            read_ahead_kb: None,
            fuse: Fuse::Uring,
            log: Some(PlannedLog { path: b"/s/\xff.log".to_vec(), level: "debug".into() }),
        };
        assert!(!format!("{plan:?}").contains("a-b-c"));
        let bytes = serde_json::to_vec(&plan).unwrap();
        assert!(bytes.len() < daemon::HANDOVER_BYTES_MAX);
        let again: Plan = daemon::read_handover(bytes.as_slice()).unwrap();
        assert_eq!(again.mountpoint().as_os_str().as_bytes(), b"/mnt/\xff");
        assert_eq!((&again.addresses, &again.code), (&plan.addresses, &plan.code));
        assert_eq!(again.log.as_ref().unwrap().path().as_os_str().as_bytes(), b"/s/\xff.log");
        assert_eq!(again.log.as_ref().unwrap().level, "debug");
        assert_eq!(again.start_timeout(), Duration::from_secs(25));
        assert_eq!(IoMode::from(again.io), IoMode::Poll);
        assert_eq!(again.fuse, Fuse::Uring);
    }
}
