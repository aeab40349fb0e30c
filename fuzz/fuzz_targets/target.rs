//! A TARGET from the command line: never a panic, and what is accepted reads back as itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use signal::RemotePath;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(path) = RemotePath::parse(bytes) {
        let again = RemotePath::parse(&path.reveal()).expect("what we print we read");
        assert_eq!(*again.reveal(), *path.reveal());
    }
});
