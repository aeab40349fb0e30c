//! The tree against a host in memory: no kernel, no network, an invented clock.

mod bounds;
mod host;
mod listings;
mod model;
mod names;
mod opens;
mod rig;
