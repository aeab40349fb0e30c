//! The control socket of a running service: what it is doing, and "read your trust store again".
//!
//! One Unix socket a service, `RUNTIME/KIND-PID.sock`, in a folder that only its owner may enter. It
//! never carries file contents, join codes or keys, and never reaches another user: the kernel names
//! the caller (`SO_PEERCRED`, unix(7)) before a byte is read.
//!
//! ```text
//!   client ── "status\n" | "reload\n" ──▶ service
//!          ◀── {"ok": VALUE} | {"error": TEXT} \n
//! ```
//!
//! Read [`StatusServer`], then [`query_all`].

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longest request in bytes, its newline included; the longest command has six letters.
const REQUEST_BYTES_MAX: usize = 64;

/// Longest answer that a client reads: a report of some thousand peers fits.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Time for one exchange, both ends: the other process is on this machine and answers from memory.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(2);

/// Pause after a caller could not be accepted.
const ACCEPT_PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// Services of one kind that one process may run at once; tests run a few.
const SERVICES_PER_PROCESS_MAX: u32 = 64;

/// Sockets that one query visits; a user with more services than this sees the first ones.
const SOCKETS_PER_QUERY_MAX: usize = 1024;

/// What kind of service answers at a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceKind {
    /// A host that serves a folder.
    Host,
    /// A mount of somebody's folder.
    Mount,
}

impl ServiceKind {
    const ALL: [Self; 2] = [Self::Host, Self::Mount];

    /// The word that begins the socket's file name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Mount => "mount",
        }
    }
}

impl fmt::Display for ServiceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Says what the service is doing, as a JSON object; called on the socket's thread.
pub type ReportFn = Box<dyn Fn() -> Value + Send + Sync>;

/// Makes the service read its trust store again; called on the socket's thread.
pub type ReloadFn = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Answers at one control socket until dropped.
///
/// Costs one thread that sleeps in poll(2) between requests. Dropping it removes the socket, after
/// the request in hand, which is bounded, has been answered.
#[derive(Debug)]
pub struct StatusServer {
    path: PathBuf,
    /// Closed on drop; the thread sees the hang-up.
    stop: Option<io::PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl StatusServer {
    /// Opens `RUNTIME/KIND-PID.sock` and answers there with `report` and `reload`.
    ///
    /// Creates `runtime_dir` for its owner alone where it is missing; one that is there is left as it is. A second service of this kind in
    /// this process gets `KIND-PID-2.sock`, and so on.
    ///
    /// # Errors
    /// A [`StatusError`]; the service can run without a control socket, so callers may merely warn.
    pub fn start(
        runtime_dir: &Path,
        kind: ServiceKind,
        report: ReportFn,
        reload: ReloadFn,
    ) -> Result<Self, StatusError> {
        prepare_directory(runtime_dir)?;
        let (listener, path) = listen(runtime_dir, kind)?;
        let (stopped, stop) = io::pipe().map_err(StatusError::Thread)?;
        let answers = Answers { report, reload };
        let thread = std::thread::Builder::new()
            .name("status".into())
            .spawn(move || serve(&listener, &stopped, &answers))
            .map_err(|error| {
                remove_quietly(&path);
                StatusError::Thread(error)
            })?;
        Ok(Self { path, stop: Some(stop), thread: Some(thread) })
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for StatusServer {
    fn drop(&mut self) {
        remove_quietly(&self.path);
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in a callback was reported by the panic hook; there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

/// What one running service said of itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Which kind of service.
    pub kind: ServiceKind,
    /// Its process.
    pub pid: u32,
    /// What it reported.
    pub report: Value,
}

/// Asks every service of this user that has a socket in `runtime_dir`, in order of kind and process.
///
/// Sockets whose process is gone are removed; services that answer too late or not at all are left
/// out. A missing folder means that nothing runs.
///
/// # Errors
/// [`StatusError::Directory`] when the folder cannot be listed.
pub fn query_all(runtime_dir: &Path) -> Result<Vec<Report>, StatusError> {
    let mut reports = Vec::new();
    for socket in sockets(runtime_dir)? {
        match ask(&socket.path, Command::Status) {
            Ok(report) => reports.push(Report { kind: socket.kind, pid: socket.pid, report }),
            Err(error) => socket.on_failure(&error),
        }
    }
    Ok(reports)
}

/// Tells every running service of `kind` to read its trust store again; returns how many did.
///
/// # Errors
/// [`StatusError::Directory`] when the folder cannot be listed, [`StatusError::Reload`] when a running
/// service could not do it, after all have been told.
pub fn reload_all(runtime_dir: &Path, kind: ServiceKind) -> Result<usize, StatusError> {
    let mut count = 0;
    let mut failure = None;
    for socket in sockets(runtime_dir)? {
        if socket.kind != kind {
            continue;
        }
        match ask(&socket.path, Command::Reload) {
            Ok(_) => count += 1,
            Err(error) if error.is_dead() => socket.on_failure(&error),
            Err(error) => {
                failure = Some(StatusError::Reload { kind, pid: socket.pid, reason: error.to_string() });
            }
        }
    }
    failure.map_or(Ok(count), Err)
}

/// Why a control socket could not be opened or asked.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The folder of sockets cannot be made, entered or listed.
    #[error("cannot use the folder of control sockets {}", path.display())]
    Directory {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The folder of sockets belongs to another user, who could read or replace what is in it.
    #[error("the folder of control sockets {} belongs to another user", path.display())]
    ForeignDirectory {
        /// The folder.
        path: PathBuf,
    },
    /// The folder of sockets was there before, and others may enter it. It is not ours to close: it may be somebody's
    /// home.
    #[error("other users can enter {} (mode {mode:04o}): run chmod 700 on it, or name another folder in WORMHOLE_RUNTIME_DIR", path.display())]
    OpenDirectory {
        /// The folder.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The socket cannot be bound; a path above 107 bytes is a common cause (unix(7)).
    #[error("cannot open the control socket {}", path.display())]
    Bind {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// This process already runs as many services of the kind as are counted.
    #[error("this process already has {SERVICES_PER_PROCESS_MAX} services of one kind")]
    TooMany,
    /// The thread that answers, or its pipe, cannot be made.
    #[error("cannot start the thread of the control socket")]
    Thread(#[source] io::Error),
    /// A running service did not read its trust store again.
    #[error("the {kind} with process id {pid} did not take the change ({reason}); restart it")]
    Reload {
        /// Which kind of service.
        kind: ServiceKind,
        /// Its process.
        pid: u32,
        /// What it said.
        reason: String,
    },
}

/// The closed set of requests.
#[derive(Debug, Clone, Copy)]
enum Command {
    Status,
    Reload,
}

impl Command {
    const fn line(self) -> &'static str {
        match self {
            Self::Status => "status\n",
            Self::Reload => "reload\n",
        }
    }

    fn parse(line: &[u8]) -> Option<Self> {
        [Self::Status, Self::Reload].into_iter().find(|command| command.line().as_bytes() == line)
    }
}

/// One answer on the wire.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Ok(Value),
    Error(String),
}

struct Answers {
    report: ReportFn,
    reload: ReloadFn,
}

impl Answers {
    fn answer(&self, request: &[u8]) -> Answer {
        match Command::parse(request) {
            Some(Command::Status) => Answer::Ok((self.report)()),
            Some(Command::Reload) => match (self.reload)() {
                Ok(()) => Answer::Ok(Value::Null),
                Err(reason) => Answer::Error(reason),
            },
            None => Answer::Error("unknown command".into()),
        }
    }
}

/// Makes sure that `path` is a folder that only this user may enter: creates it so, or finds it so.
fn prepare_directory(path: &Path) -> Result<(), StatusError> {
    let failed = |source| StatusError::Directory { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    let metadata = fs::metadata(path).map_err(failed)?;
    if metadata.uid() != geteuid().as_raw() {
        return Err(StatusError::ForeignDirectory { path: path.to_owned() });
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(StatusError::OpenDirectory { path: path.to_owned(), mode: metadata.mode() & 0o7777 });
    }
    Ok(())
}

/// Binds the first free name of this kind and process.
fn listen(runtime_dir: &Path, kind: ServiceKind) -> Result<(UnixListener, PathBuf), StatusError> {
    // Two services starting at once in this process would share the early name below.
    static STARTING: Mutex<()> = Mutex::new(());
    let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    let pid = std::process::id();
    for number in 1..=SERVICES_PER_PROCESS_MAX {
        let name = match number {
            1 => format!("{kind}-{pid}.sock"),
            _ => format!("{kind}-{pid}-{number}.sock"),
        };
        let path = runtime_dir.join(name);
        let failed = |source| StatusError::Bind { path: path.clone(), source };
        // Bound and listening under a name that no query visits, then linked to its own: a query never
        // sees a socket that does not listen yet, which it would take for a dead one.
        let early = path.with_extension("new");
        remove_quietly(&early);
        let listener = UnixListener::bind(&early).map_err(failed)?;
        let linked = fs::set_permissions(&early, Permissions::from_mode(0o600))
            .and_then(|()| link_or_replace_dead(&early, &path));
        remove_quietly(&early);
        match linked {
            Ok(()) => return Ok((listener, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Err(StatusError::TooMany)
}

/// Links `early` to `path`, which may be a socket left by a dead process of the same number.
fn link_or_replace_dead(early: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(early, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if UnixStream::connect(path).is_err_and(|error| is_dead(&error)) {
                fs::remove_file(path)?;
                fs::hard_link(early, path)
            } else {
                Err(error)
            }
        }
        other => other,
    }
}

fn serve(listener: &UnixListener, stopped: &io::PipeReader, answers: &Answers) {
    loop {
        let mut waited = [
            PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(stopped.as_fd(), PollFlags::IN),
        ];
        match rustix::event::poll(&mut waited, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
        if !waited[1].revents().is_empty() {
            return;
        }
        if waited[0].revents().is_empty() {
            continue;
        }
        match listener.accept() {
            // A caller that hangs up before it is answered concerns nobody else.
            Ok((stream, _)) => drop(attend(&stream, answers)),
            // Such as EMFILE: the caller still waits in the queue, and poll would say so at once, for ever.
            Err(_) => {
                let stop = PollFd::from_borrowed_fd(stopped.as_fd(), PollFlags::IN);
                // However it ends, what follows is another look at both.
                let _ = rustix::event::poll(&mut [stop], Some(&ACCEPT_PAUSE));
            }
        }
    }
}

/// Answers one caller, if it is this user or root.
fn attend(stream: &UnixStream, answers: &Answers) -> io::Result<()> {
    let caller = rustix::net::sockopt::socket_peercred(stream)?.uid;
    if caller != geteuid() && !caller.is_root() {
        return Ok(());
    }
    let deadline = Instant::now() + EXCHANGE_TIMEOUT;
    let request = read_line(stream, REQUEST_BYTES_MAX, deadline)?;
    let mut line = serde_json::to_vec(&answers.answer(&request))?;
    line.push(b'\n');
    stream.set_write_timeout(Some(EXCHANGE_TIMEOUT))?;
    let mut stream = stream;
    stream.write_all(&line)
}

/// Reads up to and with a newline, at most `bytes_max` bytes, until `deadline`.
fn read_line(mut stream: &UnixStream, bytes_max: usize, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut piece = [0; 4096];
    while !line.ends_with(b"\n") {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let count = match stream.read(&mut piece) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        line.extend_from_slice(&piece[..count]);
        if line.len() > bytes_max {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(line)
}

/// A file whose name says that a service answers there.
struct Socket {
    path: PathBuf,
    kind: ServiceKind,
    pid: u32,
}

impl Socket {
    fn parse(path: PathBuf) -> Option<Self> {
        let name = path.file_name().and_then(OsStr::to_str)?;
        let mut parts = name.strip_suffix(".sock")?.split('-');
        let kind_name = parts.next()?;
        let kind = ServiceKind::ALL.into_iter().find(|kind| kind.as_str() == kind_name)?;
        let pid = parts.next()?.parse().ok()?;
        if let Some(number) = parts.next() {
            number.parse::<u32>().ok()?;
        }
        parts.next().is_none().then_some(Self { path, kind, pid })
    }

    fn on_failure(&self, error: &AskError) {
        if error.is_dead() {
            remove_quietly(&self.path);
        }
    }
}

fn sockets(runtime_dir: &Path) -> Result<Vec<Socket>, StatusError> {
    let failed = |source| StatusError::Directory { path: runtime_dir.to_owned(), source };
    let entries = match fs::read_dir(runtime_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut sockets = Vec::new();
    for entry in entries {
        sockets.extend(Socket::parse(entry.map_err(failed)?.path()));
        if sockets.len() == SOCKETS_PER_QUERY_MAX {
            break;
        }
    }
    sockets.sort_by(|a, b| (a.kind, a.pid, &a.path).cmp(&(b.kind, b.pid, &b.path)));
    Ok(sockets)
}

#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("its answer makes no sense")]
    Answer(#[from] serde_json::Error),
    #[error("{0}")]
    Refused(String),
}

impl AskError {
    fn is_dead(&self) -> bool {
        matches!(self, Self::Io(error) if is_dead(error))
    }
}

/// Whether a connect failed because nobody listens: connect(2), `ECONNREFUSED`.
fn is_dead(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionRefused
}

fn ask(path: &Path, command: Command) -> Result<Value, AskError> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_write_timeout(Some(EXCHANGE_TIMEOUT))?;
    stream.write_all(command.line().as_bytes())?;
    let deadline = Instant::now() + EXCHANGE_TIMEOUT;
    let line = read_line(&stream, ANSWER_BYTES_MAX, deadline)?;
    match serde_json::from_slice(&line)? {
        Answer::Ok(value) => Ok(value),
        Answer::Error(reason) => Err(AskError::Refused(reason)),
    }
}

/// Removes a socket file that may be gone already.
fn remove_quietly(path: &Path) {
    let _ = fs::remove_file(path);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use serde_json::json;

    use super::*;

    fn start(dir: &Path, kind: ServiceKind, reload: ReloadFn) -> StatusServer {
        StatusServer::start(dir, kind, Box::new(|| json!({"path": "/srv"})), reload).unwrap()
    }

    /// A folder that only its owner may enter.
    fn private_dir() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
        dir
    }

    fn no_reload() -> ReloadFn {
        Box::new(|| Err("not here".into()))
    }

    #[test]
    fn services_report_and_vanish_with_their_owner() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("run");
        assert_eq!(query_all(&dir).unwrap(), []);
        let mount = start(&dir, ServiceKind::Mount, no_reload());
        let host = start(&dir, ServiceKind::Host, no_reload());
        let second = start(&dir, ServiceKind::Host, no_reload());
        let pid = std::process::id();
        let names = query_all(&dir).unwrap();
        let expected = |kind| Report { kind, pid, report: json!({"path": "/srv"}) };
        assert_eq!(names, [ServiceKind::Host, ServiceKind::Host, ServiceKind::Mount].map(expected));
        assert_eq!(host.path(), dir.join(format!("host-{pid}.sock")));
        assert_eq!(second.path(), dir.join(format!("host-{pid}-2.sock")));
        for (path, mode) in [(dir.as_path(), 0o700), (mount.path(), 0o600)] {
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, mode);
        }
        drop((mount, host, second));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    }

    #[test]
    fn dead_sockets_are_removed_and_other_files_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let dead = dir.path().join("host-1.sock");
        drop(UnixListener::bind(&dead).unwrap());
        let other = dir.path().join("host-x.sock");
        fs::write(&other, "").unwrap();
        assert_eq!(query_all(dir.path()).unwrap(), []);
        assert!(!dead.exists());
        assert!(other.exists());
    }

    #[test]
    fn a_socket_left_by_a_process_of_the_same_number_is_replaced() {
        let dir = private_dir();
        let left = dir.path().join(format!("host-{}.sock", std::process::id()));
        drop(UnixListener::bind(&left).unwrap());
        let server = start(dir.path(), ServiceKind::Host, no_reload());
        assert_eq!(server.path(), left);
        assert_eq!(query_all(dir.path()).unwrap().len(), 1);
    }

    #[test]
    fn reload_reaches_hosts_alone_and_failures_are_told() {
        let dir = private_dir();
        let reloads = Arc::new(AtomicU32::new(0));
        let seen = Arc::clone(&reloads);
        let host = start(
            dir.path(),
            ServiceKind::Host,
            Box::new(move || {
                seen.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }),
        );
        let _mount = start(dir.path(), ServiceKind::Mount, no_reload());
        assert_eq!(reload_all(dir.path(), ServiceKind::Host).unwrap(), 1);
        assert_eq!(reloads.load(Ordering::Relaxed), 1);
        drop(host);
        assert_eq!(reload_all(dir.path(), ServiceKind::Host).unwrap(), 0);
        let error = reload_all(dir.path(), ServiceKind::Mount).unwrap_err();
        assert!(error.to_string().contains("not here"), "{error}");
    }

    #[test]
    fn a_request_is_bounded_and_the_server_goes_on() {
        let dir = private_dir();
        let server = start(dir.path(), ServiceKind::Host, no_reload());
        for request in [&b"nonsense\n"[..], &[b'x'; REQUEST_BYTES_MAX + 1]] {
            let mut stream = UnixStream::connect(server.path()).unwrap();
            stream.write_all(request).unwrap();
            let mut answer = String::new();
            // A server that hangs up on unread bytes resets the connection.
            let read = stream.read_to_string(&mut answer);
            assert!(read.is_err() || answer.is_empty() || answer.contains("unknown command"));
        }
        assert_eq!(query_all(dir.path()).unwrap().len(), 1);
    }

    #[test]
    fn a_failing_accept_costs_no_spinning() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("host-1.sock");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        // A listener whose socket is shut down is readable for ever, and each accept fails.
        rustix::net::shutdown(&listener, rustix::net::Shutdown::Both).unwrap();
        let (stopped, stop) = io::pipe().unwrap();
        let answers = Answers { report: Box::new(|| json!({})), reload: no_reload() };
        let thread = std::thread::spawn(move || {
            serve(&listener, &stopped, &answers);
            rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime)
        });
        let begun_at = Instant::now();
        while begun_at.elapsed() < 3 * Duration::from_millis(200) {
            std::thread::park_timeout(Duration::from_millis(50));
        }
        drop(stop);
        let used = thread.join().unwrap();
        let used = Duration::new(used.tv_sec.unsigned_abs(), u32::try_from(used.tv_nsec).unwrap());
        assert!(used < Duration::from_millis(100), "{used:?} of processor time in 0.6 s");
    }

    #[test]
    fn a_folder_that_others_may_enter_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        for mode in [0o755, 0o710, 0o1777] {
            fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
            let report: ReportFn = Box::new(|| json!({}));
            let refused = StatusServer::start(dir.path(), ServiceKind::Host, report, no_reload()).unwrap_err();
            assert!(matches!(refused, StatusError::OpenDirectory { mode: found, .. } if found == mode), "{refused:?}");
            assert!(refused.to_string().contains("chmod 700") && refused.to_string().contains("WORMHOLE_RUNTIME_DIR"));
            assert_eq!(fs::metadata(dir.path()).unwrap().mode() & 0o7777, mode);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        }
        fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
        drop(start(dir.path(), ServiceKind::Host, no_reload()));
    }
}
