//! The kernel's table of mounts, whose paths anybody chooses: never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for entry in vfs::mounts::parse_mountinfo(bytes) {
        let _ = entry.is_wormhole();
    }
});
