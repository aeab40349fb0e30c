//! `fuse.enable_uring`, switched while a test mounts.

#![allow(dead_code)] // each test program uses its part

use std::fs::File;

const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";

/// The switch stays as it was set for as long as this lives; one process and thread has it at a time, or none would know what to
/// put back.
#[derive(Debug)]
pub struct Switch {
    before: String,
    _lock: File,
}

/// Switches it on; `None` where that cannot be: the kernel has none, or we are not root.
pub fn on() -> Option<Switch> {
    set("Y")
}

/// Switches it off, and keeps others from switching it on.
pub fn off() -> Option<Switch> {
    set("N")
}

fn set(value: &str) -> Option<Switch> {
    let lock = File::create(std::env::temp_dir().join("vfs-test-enable-uring.lock")).ok()?;
    lock.lock().ok()?;
    let before = std::fs::read_to_string(SWITCH).ok()?;
    std::fs::write(SWITCH, value).ok()?;
    Some(Switch { before, _lock: lock })
}

/// Whether a mount made now would be offered requests through io_uring.
pub fn is_on() -> bool {
    std::fs::read_to_string(SWITCH).is_ok_and(|text| text.trim() == "Y")
}

impl Drop for Switch {
    fn drop(&mut self) {
        std::fs::write(SWITCH, self.before.trim()).expect("it could be written before");
    }
}
