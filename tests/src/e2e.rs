//! End-to-end tests' common ground: the real `wormhole` program on two machines made of network namespaces.
//!
//! Never reaches into the program: what a test knows of it came through the file system, the exit code, the printed
//! lines and `/proc`. Never sleeps to wait: [`wait::until`] polls a condition up to a deadline. Everything a test
//! starts (namespaces, processes, mounts, directories) ends with its [`Pair`], also while unwinding.
//!
//! ```text
//!   test ── Pair ─┬─ perf::lab::Lab    two namespaces, a veth, homes of their own
//!                 ├─ host()            `wormhole host SHARE`, its events, its join code
//!                 ├─ mount()           `wormhole mount`, and the processes it left in the background
//!                 └─ client()          any other command at the client's end
//! ```
//!
//! Read [`pair`], then [`run`]; [`tree`] and [`snapshot`] make and compare trees, [`load`] keeps readers busy.

pub mod load;
pub mod pair;
pub mod run;
pub mod snapshot;
pub mod tree;
pub mod wait;

pub use pair::{Io, Mount, Pair};
pub use run::{Finished, Running};

/// Runs each named test on both I/O backends, as `NAME::uring` and `NAME::poll`.
#[macro_export]
macro_rules! on_both_backends {
    ($($test:ident),+ $(,)?) => {$(
        mod $test {
            #[test]
            fn uring() {
                super::$test($crate::e2e::Io::Uring);
            }

            #[test]
            fn poll() {
                super::$test($crate::e2e::Io::Poll);
            }
        }
    )+};
}
