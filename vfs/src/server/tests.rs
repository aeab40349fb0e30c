//! What happens where the kernel takes no ring: everything comes by the device.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::*;
use crate::handle::HandlePublisher;
use crate::session::attach;
use crate::session::tests::{OneFile, switch};
use crate::unmount::{Lazy, unmount};

fn mounted(folder: &Path, payload_bytes: usize) -> (Server, Result<usize, RingUnavailable>) {
    let resolved = attach::prepare(folder).expect("a folder");
    let device = attach::attach(&resolved, "test", false).expect("a mount");
    let backend = OneFile::new(false);
    let edge = Edge { backend: Arc::clone(&backend), handles: HandlePublisher::new(1).table() };
    let (server, intake, ring) = Server::start_with(device, &edge, 64, Some(Ok(())), payload_bytes).expect("it serves");
    std::thread::spawn(move || intake.run(backend));
    (server, ring.expect("one was wished for"))
}

fn check(folder: &Path, server: Server) {
    let file = File::open(folder.join("file")).expect("it opens");
    let mut bytes = [0; 8192];
    file.read_exact_at(&mut bytes, 0).expect("it is served");
    assert_eq!(bytes, [1; 8192]);
    assert_eq!(std::fs::metadata(folder.join("file")).expect("attributes").len(), 8192);
    assert!(std::fs::metadata(folder.join("none")).is_err());
    assert!(std::fs::write(folder.join("new"), b"x").is_err());
    drop(file);
    unmount(folder, Lazy::No).expect("nobody uses it");
    server.run().expect("it ends with the mount");
}

#[test]
fn a_kernel_that_does_not_offer_a_ring_is_served_by_the_device() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let _switch = switch::off();
    let (server, ring) = mounted(folder.path(), REQUEST_BYTES_MAX as usize);
    assert!(matches!(ring, Err(RingUnavailable::Refused(None))), "{ring:?}");
    check(folder.path(), server);
}

#[test]
fn a_kernel_that_refuses_an_entry_is_served_by_the_device() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let switch = switch::on();
    // The kernel wants a payload for the longest request.
    let (server, ring) = mounted(folder.path(), 4096);
    match ring {
        Err(RingUnavailable::Refused(Some(error))) => assert_eq!(error.raw_os_error(), Some(libc::EINVAL)),
        Err(RingUnavailable::Refused(None)) => assert!(switch.is_none()),
        other => panic!("{other:?}"),
    }
    check(folder.path(), server);
}
