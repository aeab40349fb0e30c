//! A bounded table whose keys carry a generation, so that a stale key finds nothing.

#![forbid(unsafe_code)]

use slab::Slab;

/// Bits of a key that hold the index; the generation stands above them.
const INDEX_BITS: u32 = 32;

/// Up to `capacity` values under keys of 64 bits: index below, generation (never 0) above.
///
/// Generations count insertions in 32 bits: a key comes again after 2^32 insertions at the
/// earliest, far beyond the life of any kernel handle or call.
#[derive(Debug)]
pub(crate) struct Arena<T> {
    slots: Slab<(u32, T)>,
    generation: u32,
    capacity: usize,
}

/// The index part of a key.
pub(crate) fn index(key: u64) -> usize {
    (key & ((1 << INDEX_BITS) - 1)) as usize
}

impl<T> Arena<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        assert!(capacity < 1 << INDEX_BITS, "an index must fit its half of the key");
        Self { slots: Slab::new(), generation: 0, capacity }
    }

    /// Stores a value; hands it back when the table is full.
    pub(crate) fn insert(&mut self, value: T) -> Result<u64, T> {
        if self.is_full() {
            return Err(value);
        }
        self.generation = self.generation.wrapping_add(1).max(1);
        let index = self.slots.insert((self.generation, value));
        Ok(u64::from(self.generation) << INDEX_BITS | index as u64)
    }

    pub(crate) fn remove(&mut self, key: u64) -> Option<T> {
        self.get(key)?;
        Some(self.slots.remove(index(key)).1)
    }

    /// Empties the table in the order of the indexes.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = T> {
        self.slots.drain().map(|(_, value)| value)
    }

    pub(crate) fn get(&self, key: u64) -> Option<&T> {
        match self.slots.get(index(key)) {
            Some((generation, value)) if *generation == generation_of(key) => Some(value),
            _ => None,
        }
    }

    pub(crate) fn get_mut(&mut self, key: u64) -> Option<&mut T> {
        match self.slots.get_mut(index(key)) {
            Some((generation, value)) if *generation == generation_of(key) => Some(value),
            _ => None,
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.slots
            .iter()
            .map(|(index, (generation, value))| (u64::from(*generation) << INDEX_BITS | index as u64, value))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().map(|(_, (_, value))| value)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.slots.len() >= self.capacity
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }
}

fn generation_of(key: u64) -> u32 {
    (key >> INDEX_BITS) as u32
}

#[cfg(test)]
mod tests {
    use super::Arena;

    #[test]
    fn a_stale_key_finds_nothing() {
        let mut arena = Arena::new(1);
        let first = arena.insert('a').unwrap();
        assert_eq!(arena.insert('b'), Err('b'));
        assert_eq!(arena.remove(first), Some('a'));
        let second = arena.insert('c').unwrap();
        assert_eq!(arena.get(first), None);
        assert_eq!(arena.remove(first), None);
        assert_eq!(arena.get(second), Some(&'c'));
        assert_eq!(arena.get(0), None);
    }
}
