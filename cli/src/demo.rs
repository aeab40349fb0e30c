//! `wormhole demo`: host, mount, read, verify and copy in one process, in temporary folders.
//!
//! ```text
//!   source ─▶ host (127.0.0.1) ─▶ mount ─▶ readers ─▶ same bytes?
//!      └──────── tree.rs            └────▶ get ─────▶ same bytes?
//! ```
//!
//! Exit 0 says that every byte matched. Nothing is left behind, on failure neither.

mod tree;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use engine::{
    FuseTransport, GetOptions, HostHandle, HostOptions, IoMode, MountHandle, MountOptions, Receiver, Remote,
    RemoteOptions, ServiceEvent,
};
use serde_json::json;
use signal::JoinCode;

use self::tree::Tree;
use crate::args::{DemoArguments, IoFlags};
use crate::doctor;
use crate::exit::{Exit, Failure};
use crate::mount::Guard;
use crate::output::Output;
use crate::quote;
use crate::remote::Context;

/// Bytes of one MiB.
const MIB: u64 = 1 << 20;

/// What the small files and the file systems' own records take at most, in bytes.
const SMALL_BYTES_MAX: u64 = 64 * MIB;

/// Bound on every call to the host; it is in this process.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Bound on waiting for the mount, for a machine that is busy with other work.
const MOUNT_TIMEOUT: Duration = Duration::from_secs(30);

/// Memory of the mount's cache.
const RAM_CACHE_BYTES: u64 = 256 * MIB;

/// Runs `demo`.
///
/// # Errors
/// What is missing on this machine, what failed, or which file differed; exit 130 after a signal.
pub fn run(context: &Context<'_>, arguments: DemoArguments) -> Result<Exit, Failure> {
    doctor::require_fuse()?;
    let large_bytes = u64::from(arguments.size_mb) * MIB;
    let cancel = Arc::new(AtomicBool::new(false));
    let on_signal = Arc::clone(&cancel);
    context.interrupts.arm(move || on_signal.store(true, Ordering::Relaxed));
    let temp = tempfile::Builder::new()
        .prefix("wormhole-demo-")
        .tempdir()
        .map_err(|error| Failure::io("cannot make a temporary folder", &error))?;
    let outcome = require_room(temp.path(), large_bytes).and_then(|()| {
        Demo { output: context.output, io: context.io(IoFlags { io: None }).into(), root: temp.path(), cancel: &cancel }
            .run(large_bytes)
    });
    let outcome = match outcome {
        Err(_) if cancel.load(Ordering::Relaxed) => Err(Failure::new(Exit::Interrupted, "interrupted")),
        other => other,
    };
    let removed = remove(temp);
    outcome.and(removed).map(|()| Exit::Ok)
}

/// One run of the demo below `root`.
struct Demo<'a> {
    output: &'a Output,
    io: IoMode,
    root: &'a Path,
    cancel: &'a AtomicBool,
}

impl Demo<'_> {
    fn run(&self, large_bytes: u64) -> Result<(), Failure> {
        let source = self.root.join("source");
        let mountpoint = self.root.join("mnt");
        fs::create_dir(&mountpoint).map_err(|error| Failure::io("cannot make the mountpoint", &error))?;
        let began = Instant::now();
        let tree = Tree::create(&source, large_bytes, self.cancel)?;
        self.step("made", &tree, began)?;

        let (host, address, code) = self.host(&source)?;
        let began = Instant::now();
        let mount = self.mount(address, &code, &mountpoint)?;
        let mount_us = elapsed_us(began);
        self.output.event("DemoStep", json!({"step": "mounted", "elapsed_us": mount_us}))?;
        self.output.say(&format!("mounted in {mount_us} us over {address}"));

        let began = Instant::now();
        tree.verify_small(&mountpoint, self.cancel)?;
        self.output.event(
            "DemoStep",
            json!({"step": "read_small", "files": tree.small_files(), "elapsed_us": elapsed_us(began)}),
        )?;
        self.output.say(&format!(
            "read {} small files through the mount in {:.2?}: all equal",
            tree.small_files(),
            began.elapsed()
        ));

        let began = Instant::now();
        tree.verify_large(&mountpoint, self.cancel)?;
        self.rate("read_large", "read the large file through the mount", large_bytes, began)?;
        mount.stop()?;

        let began = Instant::now();
        let copy = self.root.join("copy");
        self.get(address, &code, &copy)?;
        self.rate("get", "copied everything with get", tree.bytes(), began)?;
        tree.verify_small(&copy, self.cancel)?;
        tree.verify_large(&copy, self.cancel)?;
        host.stop()?;

        self.output.event("DemoFinished", json!({"files": tree.files(), "bytes": tree.bytes()}))?;
        self.output.line(&format!(
            "demo: {} files, {} bytes, through the mount and with get: every byte matched",
            tree.files(),
            tree.bytes()
        ))
    }

    fn host(&self, source: &Path) -> Result<(Service<HostHandle>, SocketAddr, JoinCode), Failure> {
        let (handle, events) = engine::start_host(HostOptions {
            path: source.to_owned(),
            bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            name: Some("demo".into()),
            code: None,
            shards: None,
            io: self.io,
            state_dir: self.root.join("host-state"),
            runtime_dir: self.root.join("host-run"),
        })?;
        let code = JoinCode::parse(&handle.code());
        let address = handle.address();
        let host = Service::new(handle, events, None);
        let code = code.map_err(|error| Failure::failed(format!("the host's code: {error}")))?;
        Ok((host, address, code))
    }

    fn mount(&self, address: SocketAddr, code: &JoinCode, mountpoint: &Path) -> Result<Service<MountHandle>, Failure> {
        let guard = Guard::start(mountpoint)?;
        let (handle, events) = engine::start_mount(MountOptions {
            remote: self.remote("client-state", address, code),
            mountpoint: mountpoint.to_owned(),
            allow_other: false,
            ram_cache_bytes: RAM_CACHE_BYTES,
            read_ahead_kb: None,
            fuse: FuseTransport::Auto,
            runtime_dir: self.root.join("client-run"),
            log: None,
        })?;
        let mut mount = Service::new(handle, events, Some(guard));
        let deadline = Instant::now() + MOUNT_TIMEOUT;
        loop {
            match mount.events.recv_deadline(deadline) {
                Ok(ServiceEvent::MountReady { .. }) => return Ok(mount),
                Ok(_) => {}
                Err(error) if error.is_timeout() => {
                    return Err(Failure::failed("the mount was not ready in time"));
                }
                Err(_) => {
                    mount.finish()?;
                    return Err(Failure::failed("the mount ended before it was ready"));
                }
            }
        }
    }

    fn get(&self, address: SocketAddr, code: &JoinCode, copy: &Path) -> Result<(), Failure> {
        let remote = Remote::connect(self.remote("client-state", address, code))?;
        let options = GetOptions { source: Vec::new(), target: copy.to_owned() };
        let summary = engine::get(&remote, options, &mut |_| {}, self.cancel)?;
        match summary.skipped.first() {
            Some(name) => Err(Failure::failed(format!("get skipped {}", quote::text(name)))),
            None => Ok(()),
        }
    }

    fn remote(&self, state: &str, address: SocketAddr, code: &JoinCode) -> RemoteOptions {
        RemoteOptions {
            addresses: vec![address],
            code: Some(code.clone()),
            io: self.io,
            state_dir: self.root.join(state),
            timeout: TIMEOUT,
        }
    }

    fn step(&self, step: &str, tree: &Tree, began: Instant) -> Result<(), Failure> {
        self.output.event(
            "DemoStep",
            json!({"step": step, "files": tree.files(), "bytes": tree.bytes(), "elapsed_us": elapsed_us(began)}),
        )?;
        self.output.say(&format!(
            "{step} {} files, {} bytes, below {}",
            tree.files(),
            tree.bytes(),
            self.root.display()
        ));
        Ok(())
    }

    fn rate(&self, step: &str, what: &str, bytes: u64, began: Instant) -> Result<(), Failure> {
        let elapsed = began.elapsed();
        self.output.event("DemoStep", json!({"step": step, "bytes": bytes, "elapsed_us": elapsed_us(began)}))?;
        self.output.say(&format!(
            "{what}: {bytes} bytes in {elapsed:.2?}, {:.2} GB/s",
            bytes as f64 / elapsed.as_secs_f64() / 1e9
        ));
        Ok(())
    }
}

/// A running host or mount that is stopped however the demo ends.
struct Service<H: End> {
    handle: Option<H>,
    events: Receiver<ServiceEvent>,
    /// Dropped after the mount has ended.
    _guard: Option<Guard>,
}

/// Ending, and waiting for the end; what cannot be ended is not waited for.
trait End {
    fn end(self) -> Result<(), engine::EngineError>;
}

impl End for HostHandle {
    fn end(self) -> Result<(), engine::EngineError> {
        self.shutdown();
        self.wait()
    }
}

impl End for MountHandle {
    fn end(self) -> Result<(), engine::EngineError> {
        self.unmount()?;
        self.wait()
    }
}

impl<H: End> Service<H> {
    fn new(handle: H, events: Receiver<ServiceEvent>, guard: Option<Guard>) -> Self {
        Self { handle: Some(handle), events, _guard: guard }
    }

    fn stop(mut self) -> Result<(), Failure> {
        self.finish()
    }

    fn finish(&mut self) -> Result<(), Failure> {
        let Some(handle) = self.handle.take() else {
            return Ok(());
        };
        handle.end().map_err(Failure::from)
    }
}

impl<H: End> Drop for Service<H> {
    fn drop(&mut self) {
        // The demo fails for another reason already; this one would hide it.
        let _ = self.finish();
    }
}

/// Refuses to begin what would fill the disk: source and copy, and the small files.
fn require_room(folder: &Path, large_bytes: u64) -> Result<(), Failure> {
    let what = || format!("cannot tell how much room {} has", folder.display());
    let stat = rustix::fs::statvfs(folder).map_err(|error| Failure::io(what(), &error.into()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let needed = 2 * large_bytes + SMALL_BYTES_MAX;
    if free >= needed {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "{} has {} MiB free and the demo needs {}; give a smaller --size-mb, or another folder in TMPDIR",
        folder.display(),
        free / MIB,
        needed / MIB
    )))
}

/// Removes the temporary folder, unless something is still mounted in it, which comes first.
fn remove(temp: tempfile::TempDir) -> Result<(), Failure> {
    let mountpoint = temp.path().join("mnt");
    if is_mounted(&mountpoint)
        && let Err(error) = engine::unmount(&mountpoint)
    {
        let kept = temp.keep();
        return Err(Failure::failed(format!(
            "cannot unmount {} ({error}); unmount and remove it by hand",
            kept.join("mnt").display()
        )));
    }
    temp.close().map_err(|error| Failure::io("cannot remove the temporary folder", &error))
}

/// Whether `path`, a name without white space, is in the list of mounts.
fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().filter_map(|line| line.split(' ').nth(1)).any(|mounted| Path::new(mounted) == path)
}

fn elapsed_us(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX)
}
