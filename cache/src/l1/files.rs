//! Which slots carry chunks of which file, so that a file can be removed without a search.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::collections::hash_map::Entry;

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Links {
    file: u64,
    next: u32,
    previous: u32,
}

/// A doubly linked list of slots for each file. Bounded by the slots: a file without any is forgotten.
#[derive(Debug)]
pub(super) struct Files {
    heads: HashMap<u64, u32>,
    links: Box<[Links]>,
}

impl Files {
    /// Creates empty lists for slots below `slots`.
    pub(super) fn new(slots: u32) -> Self {
        let links = Links { file: 0, next: NONE, previous: NONE };
        Self { heads: HashMap::new(), links: vec![links; slots as usize].into_boxed_slice() }
    }

    /// Adds a slot to a file's list; it is in none yet.
    pub(super) fn add(&mut self, slot: u32, file: u64) {
        let next = self.heads.insert(file, slot).unwrap_or(NONE);
        self.links[slot as usize] = Links { file, next, previous: NONE };
        if next != NONE {
            self.links[next as usize].previous = slot;
        }
    }

    /// Takes a slot out of the list it is in.
    pub(super) fn remove(&mut self, slot: u32) {
        let Links { file, next, previous } = self.links[slot as usize];
        if next != NONE {
            self.links[next as usize].previous = previous;
        }
        if previous != NONE {
            self.links[previous as usize].next = next;
        } else if let Entry::Occupied(mut head) = self.heads.entry(file) {
            debug_assert_eq!(*head.get(), slot);
            if next == NONE {
                head.remove();
            } else {
                head.insert(next);
            }
        }
    }

    /// Returns some slot of a file.
    pub(super) fn any_of(&self, file: u64) -> Option<u32> {
        self.heads.get(&file).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_leave_from_head_middle_and_end() {
        for leave in [[0, 1, 2], [1, 0, 2], [2, 1, 0], [1, 2, 0]] {
            let mut files = Files::new(4);
            for slot in 0..3 {
                files.add(slot, 9);
            }
            files.add(3, 8);
            for (gone, slot) in leave.into_iter().enumerate() {
                files.remove(slot);
                let mut left = Vec::new();
                let mut next = files.any_of(9).unwrap_or(NONE);
                while next != NONE {
                    left.push(next);
                    next = files.links[next as usize].next;
                }
                left.sort_unstable();
                let mut expected = leave[gone + 1..].to_vec();
                expected.sort_unstable();
                assert_eq!(left, expected);
            }
            assert_eq!((files.any_of(9), files.any_of(8)), (None, Some(3)));
            assert_eq!(files.heads.len(), 1, "an empty file is forgotten");
        }
    }
}
