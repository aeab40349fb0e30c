//! L1: chunks in memory, bounded in bytes, wait-free to find, never copied.
//!
//! Many readers, one writer. A hit hands out the frame itself, held by a count on its slot; nothing is locked,
//! allocated or reclaimed on that path. The writer, one shard thread, owns eviction and insertion.
//!
//! ```text
//!   L1Reader (any thread)                       L1Writer (one shard)
//!      │ lookup                                    │ allocate, insert
//!      ▼                                           ▼
//!   ┌─────────────────── Index ───────────────────────┐    Slabs   who owns which MiB
//!   │  Table: tag | slot  ──▶  Slots: state, key, len │    S3Fifo  who gives way
//!   └──────────────────────────────┬──────────────────┘
//!                                  ▼ one slot, one frame
//!        Arena  │ 64 KiB × 16 │ 1 MiB │ 1 MiB │ 64 KiB × 16 │ free │ …      one mapping, never moved
//!                                  ▲
//!   Frame, FrameMut ── a pin on a slot; the last one dropped sends it back to the writer
//! ```
//!
//! Read `slot` (the protocol's heart, with its states and orderings), `table`, `index` (how the two meet), then
//! `policy` (S3-FIFO), `slab` and `writer`. `unsafe` stands in `arena` and `frame` only.
//!
//! **Invariant:** the bytes of all frames never exceed the budget: they are carved from one arena of that size.
//! **Invariant:** a [`Frame`]'s bytes do not change while it is held, whatever becomes of its chunk.
//!
//! `slot`, `table` and `index` take their atomics from `sync`; for tests they are compiled again over those of two model
//! checkers: `loomed` tries every interleaving and every reordering of small cases, `shuttled` samples larger ones.

mod arena;
mod frame;
mod index;
mod key;
mod policy;
mod reader;
mod slab;
mod slot;
mod sync;
mod table;
mod writer;

#[cfg(test)]
mod loomed;
#[cfg(test)]
mod shuttled;
#[cfg(test)]
mod tests;

pub use frame::{Frame, FrameMut};
pub use key::{ChunkKey, FrameClass};
pub use reader::{L1Reader, L1Stats};
pub use writer::{BYTES_MAX, BYTES_MIN, L1Config, L1Error, L1Writer, l1};
