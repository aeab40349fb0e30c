//! Whole-system tests, and what they are built of.
//!
//! # The simulator
//!
//! [`sim`] joins a real host core and real client cores by a network that is a data structure and a clock that is a
//! number. No socket, no sleep, no thread: minutes of bad weather pass in milliseconds, and a failure has a seed.
//!
//! ```text
//!   cargo test -p tests --test sim                      # every scenario, its usual number of seeds
//!   SIM_SEEDS=10000 cargo test -p tests --test sim      # at least that many seeds of each
//!   SIM_SEED=1234 cargo test -p tests --test sim SCENARIO -- --nocapture    # one seed again
//! ```
//!
//! A failure prints the last line with its own seed and scenario filled in. What a seed decides: the weather, every
//! datagram's fate, delays of disks and workers, and what the scenario draws. What it does not: TLS keys, connection ids
//! and the PAKE's shares are random in each run, as they must be. Fates are drawn by count and length alone, never by
//! content, so that a seed meets the same network whatever the keys are.
//!
//! # End to end
//!
//! [`e2e`] runs the real program over two network namespaces and a real FUSE mount, as root; it is built first
//! (`cargo build --release -p cli`, which `cargo xtask test` does).

pub mod e2e;
pub mod sim;
