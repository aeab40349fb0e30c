//! Who owns what while the kernel holds it.
//!
//! ```text
//!   user_data = generation (32 bits) | index (32 bits)
//!
//!   insert ──▶ held ──(last completion)──▶ remove ──▶ free, generation + 1
//! ```
//!
//! Buffer, descriptor and context of an operation live in the table from push to the last
//! completion. Cancelling frees nothing; only that completion does. A completion whose generation
//! is gone finds nothing, so a late one can never be taken for its slot's next tenant.

/// Names one operation in flight; travels through the kernel as `user_data`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpKey(u64);

impl OpKey {
    fn new(index: usize, generation: u32) -> Self {
        Self(u64::from(generation) << 32 | index as u64)
    }

    /// Reads a key back from a completion.
    pub(crate) fn from_user_data(user_data: u64) -> Self {
        Self(user_data)
    }

    /// Returns the key as the kernel carries it.
    pub(crate) fn user_data(self) -> u64 {
        self.0
    }

    fn index(self) -> usize {
        (self.0 & u64::from(u32::MAX)) as usize
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// A table of fixed size: its slots never move, so addresses inside them hold.
#[derive(Debug)]
pub(crate) struct OpTable<T> {
    slots: Box<[Slot<T>]>,
    free: Vec<usize>,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    op: Option<T>,
}

impl<T> OpTable<T> {
    /// Makes room for `capacity` operations at once.
    pub(crate) fn new(capacity: usize) -> Self {
        let slots = (0..capacity).map(|_| Slot { generation: 0, op: None });
        Self { slots: slots.collect(), free: (0..capacity).rev().collect() }
    }

    /// Takes ownership of `op`, or gives it back when the table is full.
    pub(crate) fn insert(&mut self, op: T) -> Result<OpKey, T> {
        let Some(index) = self.free.pop() else {
            return Err(op);
        };
        let slot = &mut self.slots[index];
        slot.op = Some(op);
        Ok(OpKey::new(index, slot.generation))
    }

    /// Returns the operation `key` names, if it is still in flight.
    pub(crate) fn op_mut(&mut self, key: OpKey) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.index())?;
        if slot.generation != key.generation() {
            return None;
        }
        slot.op.as_mut()
    }

    /// Hands the operation out after its last completion.
    pub(crate) fn remove(&mut self, key: OpKey) -> Option<T> {
        self.op_mut(key)?;
        let slot = &mut self.slots[key.index()];
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.index());
        slot.op.take()
    }

    /// Returns how many operations are in flight.
    pub(crate) fn live(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_table_gives_the_operation_back() {
        let mut table = OpTable::new(1);
        let key = table.insert("a").expect("room");
        assert_eq!(table.insert("b"), Err("b"));
        assert_eq!(table.remove(key), Some("a"));
        assert!(table.insert("b").is_ok());
    }

    #[test]
    fn a_late_completion_never_meets_the_next_tenant() {
        let mut table = OpTable::new(1);
        let first = table.insert("a").expect("room");
        assert_eq!(table.remove(first), Some("a"));
        let second = table.insert("b").expect("room");
        assert_eq!(table.remove(first), None);
        assert_eq!(table.op_mut(second), Some(&mut "b"));
        assert_eq!(table.live(), 1);
        let unknown = OpKey::from_user_data(u64::MAX);
        assert_eq!(table.remove(unknown), None);
    }
}
