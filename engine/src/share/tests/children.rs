//! What can only be seen from outside a process: who dies of SIGBUS and who does not.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::ptr;

use rustix::mm::{MapFlags, ProtFlags, mmap};

use super::*;

/// The exit code of the handler that stands before ours.
const PREVIOUS_SAW_IT: i32 = 42;

fn run(test: &str) -> ExitStatus {
    child(&[], &format!("share::tests::children::{test}")).output().expect("start").status
}

/// Installs our handler, by mapping a file.
fn install() {
    let folder = tempfile::tempdir().expect("folder");
    assert_eq!(content(&file_in(folder.path(), "f", b"x")), b"x");
}

/// Touches a missing page of a mapping that is not in the table.
fn foreign_fault() {
    let file: File = tempfile::tempfile().expect("file");
    // SAFETY: a null hint without MAP_FIXED changes no memory of ours.
    let map = unsafe { mmap(ptr::null_mut(), 4096, ProtFlags::READ, MapFlags::SHARED, &file, 0) };
    let map = map.expect("map").cast::<u8>();
    // SAFETY: mapped for reading for the rest of the process; the file is empty, so the kernel
    // raises SIGBUS here, which is what the test is about. Volatile, so that the load is made.
    let byte = unsafe { map.read_volatile() };
    panic!("the load gave {byte}");
}

#[test]
fn a_foreign_fault_still_kills() {
    if in_child() {
        install();
        foreign_fault();
    }
    assert_eq!(run("a_foreign_fault_still_kills").signal(), Some(libc::SIGBUS));
}

#[test]
fn a_sigbus_sent_by_a_process_still_kills() {
    if in_child() {
        install();
        // SAFETY: sends this thread a signal; no memory is involved.
        unsafe { libc::raise(libc::SIGBUS) };
        panic!("survived");
    }
    assert_eq!(run("a_sigbus_sent_by_a_process_still_kills").signal(), Some(libc::SIGBUS));
}

#[test]
fn the_handler_before_ours_sees_what_is_not_ours() {
    extern "C" fn leave(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
        // SAFETY: ends the process without running anything of it; allowed in a handler.
        unsafe { libc::_exit(PREVIOUS_SAW_IT) }
    }
    if in_child() {
        let leave: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = leave;
        // SAFETY: all zero is a valid sigaction: default action, empty mask, no flags.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = leave as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        // SAFETY: `action` is whole and live, and its handler has the signature that SA_SIGINFO
        // demands.
        let outcome = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) };
        assert_eq!(outcome, 0);
        install();
        survive_truncation();
        foreign_fault();
    }
    assert_eq!(run("the_handler_before_ours_sees_what_is_not_ours").code(), Some(PREVIOUS_SAW_IT));
}

fn survive_truncation() {
    let folder = tempfile::tempdir().expect("folder");
    let file = file_in(folder.path(), "g", &[7; 8192]);
    let mapped = file.map(0, 8192).expect("map");
    std::fs::write(folder.path().join("g"), b"").expect("truncate");
    assert_eq!(mapped.copy_to(0, &mut [1; 8192]), 8192);
    assert!(!mapped.check().is_intact());
}

#[test]
fn a_full_table_refuses_and_recovers() {
    if in_child() {
        let folder = tempfile::tempdir().expect("folder");
        let share = open(folder.path());
        let limit = rustix::process::Rlimit { current: Some(10_000), maximum: None };
        let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        let limit = rustix::process::Rlimit { maximum: hard, ..limit };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).expect("10,000 descriptors");
        let mut held = Vec::new();
        let refused = loop {
            // Openings of one file share one mapping.
            let name = held.len().to_string();
            std::fs::write(folder.path().join(&name), b"bytes").expect("write");
            let file = open_file(&share, name.as_bytes()).expect("open");
            match file.map(0, 5) {
                Ok(mapped) => held.push(mapped),
                Err(error) => break error,
            }
            assert!(held.len() <= 4096, "bounded");
        };
        assert_eq!((refused, held.len()), (FsError::UNMAPPABLE, 4096));
        held.pop();
        assert_eq!(content(&open_file(&share, b"4096").expect("open")), b"bytes");
        return;
    }
    assert!(run("a_full_table_refuses_and_recovers").success());
}
