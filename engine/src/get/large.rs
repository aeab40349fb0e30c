//! One large file on its way: pieces asked for ahead, written and hashed in order, compared with the host's hash.
//!
//! ```text
//!   part file of n bytes ── host's hash of [0, n) equal? ──▶ go on at n, else begin at 0
//!   Read … Read (in flight, any order) ──▶ written and hashed in order ──▶ host's hash of all equal? ──▶ done
//! ```

use super::Item;
use super::local::{Local, errno_of};
use crate::client::{Answer, Ask, CallError, FileKey};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

/// Bytes of one read: large enough that a round trip is nothing beside it.
const READ_BYTES: u64 = 2 << 20;
/// Reads in flight for all large files together: 16 MiB, the bandwidth-delay product of 10 Gbit/s x 13 ms.
pub(super) const READS_MAX: usize = 8;
/// Bytes written, then hashed, at once: half of a small second-level cache.
const STEP_BYTES: usize = 128 << 10;
/// Bytes hashed at once while an earlier run's part is checked.
const CHECK_BYTES: usize = 1 << 20;

/// What an ask was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The host's hash of the part that is there.
    CheckPart,
    /// The host's hash of all.
    CheckAll,
    /// A piece at this offset.
    Piece(u64),
}

/// What follows from an answer.
pub(super) enum LargeStep {
    Wait,
    /// So many bytes more are in place.
    Written(u64),
    /// So many bytes were in place from an earlier run.
    Resumed(u64),
    Done,
    /// The file changed on the host: begin anew.
    Changed,
    /// The host does not give it; without an error it answered something else.
    Failed(Option<CallError>),
}

pub(super) struct LargeFile {
    key: u64,
    item: Item,
    file: FileKey,
    part: File,
    hasher: blake3::Hasher,
    /// Bytes an earlier run left, while the host is asked about them.
    checking: Option<u64>,
    asked: BTreeMap<u64, Role>,
    /// Pieces that came before their turn; bounded by `READS_MAX`.
    early: BTreeMap<u64, Vec<u8>>,
    /// Buffers of pieces that are written, to be given back.
    spent: Vec<Vec<u8>>,
    ask_next: u64,
    write_next: u64,
    counted: u64,
    hash_asked: bool,
    host_hash: Option<[u8; 32]>,
}

impl LargeFile {
    pub(super) fn new(key: u64, item: Item, file: FileKey, local: &mut Local) -> Result<Self, (Item, Errno)> {
        let part = match local.open_large(&item.target) {
            Ok(part) => part,
            Err(errno) => return Err((item, errno)),
        };
        let size = item.attr.size;
        let left = part.metadata().map_or(0, |metadata| metadata.len());
        let mut large = Self {
            key,
            item,
            file,
            part,
            hasher: blake3::Hasher::new(),
            checking: None,
            asked: BTreeMap::new(),
            early: BTreeMap::new(),
            spent: Vec::new(),
            ask_next: 0,
            write_next: 0,
            counted: 0,
            hash_asked: false,
            host_hash: None,
        };
        if (1..=size).contains(&left) && large.hash_part(left).is_ok() {
            large.checking = Some(left);
        } else if let Err(error) = large.part.set_len(0) {
            return Err((large.item, errno_of(&error)));
        }
        Ok(large)
    }

    pub(super) fn key(&self) -> u64 {
        self.key
    }

    pub(super) fn file(&self) -> FileKey {
        self.file
    }

    pub(super) fn item(&self) -> &Item {
        &self.item
    }

    pub(super) fn into_item(self) -> Item {
        self.item
    }

    /// Bytes of this file that were counted as done.
    pub(super) fn counted(&self) -> u64 {
        self.counted
    }

    fn hash_part(&mut self, length: u64) -> std::io::Result<()> {
        let mut left = length;
        let mut buffer = vec![0; CHECK_BYTES];
        let mut reader = &self.part;
        while left > 0 {
            let step = usize::try_from(left).unwrap_or(CHECK_BYTES).min(CHECK_BYTES);
            reader.read_exact(&mut buffer[..step])?;
            self.hasher.update(&buffer[..step]);
            left -= step as u64;
        }
        Ok(())
    }

    /// The next thing to ask, with at most `reads_max` pieces in flight or waiting for their turn.
    pub(super) fn poll_ask(&mut self, reads_max: usize) -> Option<(Ask, Role)> {
        if let Some(length) = self.checking {
            let unasked = self.asked.is_empty();
            return unasked.then_some((Ask::Hash { file: self.file, offset: 0, length }, Role::CheckPart));
        }
        // First of all, so that the host hashes while it sends.
        if !self.hash_asked {
            self.hash_asked = true;
            return Some((Ask::Hash { file: self.file, offset: 0, length: self.item.attr.size }, Role::CheckAll));
        }
        let pieces = self.asked.values().filter(|role| matches!(role, Role::Piece(_))).count() + self.early.len();
        if self.ask_next >= self.item.attr.size || pieces >= reads_max {
            return None;
        }
        let offset = self.ask_next;
        let length = READ_BYTES.min(self.item.attr.size - offset);
        self.ask_next += length;
        Some((Ask::Read { file: self.file, offset, length }, Role::Piece(offset)))
    }

    pub(super) fn on_asked(&mut self, tag: u64, role: Role) {
        self.asked.insert(tag, role);
    }

    /// Takes an answer in.
    ///
    /// # Errors
    /// When the part file cannot be written.
    pub(super) fn handle_answer(
        &mut self,
        tag: u64,
        result: Result<(Answer, Vec<u8>), CallError>,
    ) -> Result<LargeStep, Errno> {
        let Some(role) = self.asked.remove(&tag) else { return Ok(LargeStep::Wait) };
        let (answer, data) = match result {
            Ok(answer) => answer,
            // ENODATA: truncated while the host hashed it.
            Err(CallError::Stale | CallError::Errno(libc::ENODATA)) => return Ok(LargeStep::Changed),
            Err(error) => return Ok(LargeStep::Failed(Some(error))),
        };
        match (role, answer) {
            (Role::CheckPart, Answer::Hash { hash, length }) => self.on_part_checked(hash, length),
            (Role::CheckAll, Answer::Hash { hash, length }) => {
                if length != self.item.attr.size {
                    return Ok(LargeStep::Changed);
                }
                self.host_hash = Some(hash);
                Ok(self.finished())
            }
            (Role::Piece(offset), Answer::Read { version, .. }) => {
                let wanted = READ_BYTES.min(self.item.attr.size - offset);
                if version != self.item.attr.version || data.len() as u64 != wanted {
                    return Ok(LargeStep::Changed);
                }
                self.early.insert(offset, data);
                self.write_ready()
            }
            _ => Ok(LargeStep::Failed(None)),
        }
    }

    /// A buffer that is not needed any more.
    pub(super) fn pop_spent(&mut self) -> Option<Vec<u8>> {
        self.spent.pop()
    }

    fn on_part_checked(&mut self, hash: [u8; 32], length: u64) -> Result<LargeStep, Errno> {
        let left = self.checking.take().expect("a check of the part was asked for");
        if length == left && hash == *self.hasher.finalize().as_bytes() {
            self.ask_next = left;
            self.write_next = left;
            self.counted = left;
            return Ok(LargeStep::Resumed(left));
        }
        self.hasher.reset();
        self.part.set_len(0).map_err(|error| errno_of(&error))?;
        Ok(LargeStep::Wait)
    }

    fn write_ready(&mut self) -> Result<LargeStep, Errno> {
        let before = self.write_next;
        while let Some(data) = self.early.remove(&self.write_next) {
            // In steps that stay in the core's cache from the copy to the hash.
            for step in data.chunks(STEP_BYTES) {
                self.part.write_all_at(step, self.write_next).map_err(|error| errno_of(&error))?;
                self.hasher.update(step);
                self.write_next += step.len() as u64;
            }
            self.spent.push(data);
        }
        let written = self.write_next - before;
        self.counted += written;
        match self.finished() {
            LargeStep::Wait => Ok(LargeStep::Written(written)),
            end => Ok(end),
        }
    }

    fn finished(&self) -> LargeStep {
        match self.host_hash {
            Some(hash) if self.write_next == self.item.attr.size => {
                if hash == *self.hasher.finalize().as_bytes() {
                    LargeStep::Done
                } else {
                    LargeStep::Changed
                }
            }
            _ => LargeStep::Wait,
        }
    }
}
