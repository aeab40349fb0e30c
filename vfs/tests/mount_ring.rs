//! Every test of a mount once more, with requests through io_uring.
//!
//! `mount_support` knows this program by its name. Where the kernel has no FUSE over io_uring, or it cannot be
//! switched on, each test says so and checks the fall-back to the device instead.

#![allow(clippy::duplicate_mod, reason = "each file is a test program of its own, too, with what supports it")]

#[path = "mount_guard.rs"]
mod guard;
#[path = "mount_read.rs"]
mod read;
#[path = "mount_unmount.rs"]
mod unmount;
#[path = "mount_user.rs"]
mod user;
