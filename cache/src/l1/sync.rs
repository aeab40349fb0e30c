//! The atomics that the slot and table protocol stands on; a model checker takes their place in its tests.
#![forbid(unsafe_code)]

pub(super) use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
