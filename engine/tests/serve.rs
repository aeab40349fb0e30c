//! A real host and a real client over loopback, both backends: entrance, listing, attributes, reading.

use engine::{
    ErrorKind, HostHandle, HostOptions, IoMode, Receiver, Remote, RemoteKind, RemoteOptions, ServiceEvent, start_host,
};
use std::fs;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// Within this anything that is waited for must have happened: a busy machine's time, not the host's.
const PATIENCE: Duration = Duration::from_secs(30);

struct Lab {
    folder: TempDir,
    state: TempDir,
    host: HostHandle,
    events: Receiver<ServiceEvent>,
    io: IoMode,
}

fn host(
    folder: &Path,
    state: &Path,
    io: IoMode,
    shards: u16,
    bind: SocketAddr,
) -> (HostHandle, Receiver<ServiceEvent>) {
    start_host(HostOptions {
        path: folder.to_owned(),
        bind,
        name: Some("stuff".into()),
        code: None,
        shards: NonZeroU16::new(shards),
        io,
        state_dir: state.join("host"),
        runtime_dir: state.join("run"),
    })
    .expect("the host starts")
}

impl Lab {
    fn new(io: IoMode) -> Self {
        let (folder, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(folder.path().join("small"), b"hello").unwrap();
        fs::write(folder.path().join("large"), vec![7; 5 << 20]).unwrap();
        fs::create_dir(folder.path().join("dir")).unwrap();
        std::os::unix::fs::symlink("../small", folder.path().join("dir/link")).unwrap();
        let (host, events) = host(folder.path(), state.path(), io, 2, ([127, 0, 0, 1], 0).into());
        Self { folder, state, host, events, io }
    }

    /// Waits until the host tells such an event.
    fn wait_for(&self, what: &str, is_it: impl Fn(&ServiceEvent) -> bool) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while !is_it(&self.events.recv_deadline(deadline).unwrap_or_else(|_| panic!("waited in vain for {what}"))) {}
    }

    fn options(&self, code: Option<&str>) -> RemoteOptions {
        RemoteOptions {
            addresses: vec![self.host.address()],
            code: code.map(|code| signal::JoinCode::parse(code).unwrap()),
            io: self.io,
            state_dir: self.state.path().join("client"),
            timeout: Duration::from_secs(5),
        }
    }
}

fn on_both_backends(test: impl Fn(Lab)) {
    for io in [IoMode::Uring, IoMode::Poll] {
        test(Lab::new(io));
    }
}

#[test]
fn a_code_lets_a_device_in_and_its_key_does_so_later() {
    on_both_backends(|lab| {
        let code = lab.host.code();
        let remote = Remote::connect(lab.options(Some(&code))).expect("the right code opens");
        assert_eq!(remote.share_name(), "stuff");
        drop(remote);
        Remote::connect(lab.options(None)).expect("an enrolled device needs no code");
        let stale = Remote::connect(lab.options(Some("1-wrong-wrong-wrong-wrong")));
        stale.expect("an enrolled device uses its key even with a stale code");
    });
}

#[test]
fn another_host_at_a_known_address_needs_its_code() {
    on_both_backends(|lab| {
        let code = lab.host.code();
        drop(Remote::connect(lab.options(Some(&code))).expect("the right code opens"));
        let (mut options, address) = (lab.options(None), lab.host.address());
        drop(lab.host);
        let (folder, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (other, _events) = host(folder.path(), state.path(), lab.io, 1, address);
        let refused = Remote::connect(options.clone()).err().expect("another key is not trusted");
        assert_eq!(refused.kind, ErrorKind::CodeWanted);
        assert!(refused.to_string().contains("another host answers at"), "{refused}");
        options.code = Some(signal::JoinCode::parse(&other.code()).unwrap());
        drop(Remote::connect(options.clone()).expect("its code opens"));
        options.code = None;
        Remote::connect(options).expect("it is the one that is known there now");
    });
}

#[test]
fn strangers_learn_nothing() {
    on_both_backends(|lab| {
        let refused = |code| Remote::connect(lab.options(code)).err().expect("refused");
        assert_eq!(refused(None).kind, ErrorKind::CodeWanted);
        let wrong = refused(Some("1-abandon-ability-able-about"));
        assert_eq!(wrong.kind, ErrorKind::Refused);
        assert!(wrong.to_string().contains("wrong join code"), "{wrong}");
        let told = lab.events.try_iter().any(|event| matches!(event, ServiceEvent::PeerRefused { .. }));
        assert!(told, "the owner hears of the wrong guess");
        let code = lab.host.code();
        Remote::connect(lab.options(Some(&code))).expect("the right code still opens");
    });
}

#[test]
fn a_revocation_that_nobody_told_of_is_noticed() {
    on_both_backends(|lab| {
        let code = lab.host.code();
        let remote = Remote::connect(lab.options(Some(&code))).unwrap();
        let state = lab.state.path().join("host");
        let device = engine::trust::list_peers(&state).unwrap().remove(0);
        // As another process does that sees another runtime folder, and so not the control socket.
        engine::trust::revoke_peer(&state, &device.fingerprint).unwrap();
        lab.wait_for("the device to be dropped", |event| matches!(event, ServiceEvent::PeerDisconnected { .. }));
        drop(remote);
        let refused = Remote::connect(lab.options(Some(&code))).err().expect("refused");
        assert_eq!(refused.kind, ErrorKind::Refused);
    });
}

#[test]
fn addresses_of_both_families_are_tried_whichever_comes_first() {
    let lab = Lab::new(IoMode::Auto);
    let (folder, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (sixth, _events) = host(folder.path(), state.path(), IoMode::Auto, 1, "[::1]:0".parse().unwrap());
    let nobody = |ip: &str| std::net::UdpSocket::bind((ip, 0)).expect("a free port");
    let (dead_v4, dead_v6) = (nobody("127.0.0.1"), nobody("::1"));
    let SocketAddr::V4(v4) = lab.host.address() else { panic!("the lab's host is on IPv4") };
    let mapped = SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port());
    std::thread::scope(|scope| {
        for (addresses, code) in [
            (vec![dead_v6.local_addr().unwrap(), v4.into()], lab.host.code()),
            (vec![dead_v4.local_addr().unwrap(), sixth.address()], sixth.code()),
            (vec![mapped], lab.host.code()),
        ] {
            let state = tempfile::tempdir().unwrap();
            let options = RemoteOptions { state_dir: state.path().to_owned(), ..lab.options(Some(&code)) };
            scope.spawn(move || {
                let joined = Remote::connect(RemoteOptions { addresses: addresses.clone(), ..options });
                joined.unwrap_or_else(|error| panic!("{addresses:?}: {error}"));
                drop(state);
            });
        }
    });
}

#[test]
fn files_are_listed_and_read() {
    on_both_backends(|lab| {
        let code = lab.host.code();
        let remote = Remote::connect(lab.options(Some(&code))).unwrap();
        let mut names: Vec<_> = remote.list(b"").unwrap();
        names.sort_by(|a, b| a.0.cmp(&b.0));
        let names: Vec<_> = names.iter().map(|(name, attr)| (&name[..], attr.kind, attr.size)).collect();
        assert_eq!(names[0].0, b"dir");
        assert_eq!(names[1], (&b"large"[..], RemoteKind::File, 5 << 20));
        assert_eq!(names[2], (&b"small"[..], RemoteKind::File, 5));
        assert_eq!(remote.readlink(b"dir/link").unwrap(), b"../small");
        assert_eq!(remote.read_and_discard(b"large").unwrap(), 5 << 20);
        fs::write(lab.folder.path().join("empty"), b"").unwrap();
        assert_eq!(remote.read_and_discard(b"empty").unwrap(), 0);
        assert_eq!(remote.attr(b"nothing").unwrap_err().kind, ErrorKind::NotFound);
        assert_eq!(remote.attr(b"../etc").unwrap_err().kind, ErrorKind::NotFound);
        fs::write(lab.folder.path().join("later"), b"x").unwrap();
        assert_eq!(remote.attr(b"later").unwrap().size, 1);
    });
}

#[test]
fn nobody_there_is_a_network_error() {
    let lab = Lab::new(IoMode::Auto);
    let mut options = lab.options(Some("1-a-b-c-d"));
    let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    options.addresses = vec![free.local_addr().unwrap()];
    options.timeout = Duration::from_millis(300);
    let error = Remote::connect(options).err().expect("nobody answers");
    assert_eq!(error.kind, ErrorKind::Network);
}
