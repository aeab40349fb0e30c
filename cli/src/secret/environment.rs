//! `WORMHOLE_CODE`: read once, then gone from the environment, so that no child inherits it.
#![allow(unsafe_code)]

use super::hidden::Hidden;

/// The variable that may hold a join code.
pub const VARIABLE: &str = "WORMHOLE_CODE";

/// A code taken from the environment.
#[derive(Debug, Clone, Default)]
pub struct EnvironmentCode(Option<Hidden>);

impl EnvironmentCode {
    /// Takes the variable out of the environment; call it first thing in `main`.
    ///
    /// # Panics
    /// If another thread runs already: changing the environment under it would be unsound.
    pub fn take() -> Self {
        let code = std::env::var_os(VARIABLE).filter(|code| !code.is_empty());
        let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
        assert_eq!(threads, 1, "the environment is changed before any thread is started");
        // SAFETY: `environ` belongs to this process, whose one thread is here: the kernel's list of its
        // threads was counted above (without /proc, `main` calls this before it starts any), and
        // nothing between the count and this call starts one. So nobody reads `environ` meanwhile.
        unsafe { std::env::remove_var(VARIABLE) };
        Self(code.map(Hidden::from))
    }

    /// What the variable held, if it was set and not empty.
    pub fn value(&self) -> Option<&Hidden> {
        self.0.as_ref()
    }
}
