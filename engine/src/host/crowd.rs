//! Connections of strangers before the entrance: so many, and so many from one place, that devices which are known
//! always find room beside them.

use signal::Source;
use std::collections::BTreeMap;

/// Connections of one shard whose device is neither known nor inside yet: an eighth of what its node holds.
pub const STRANGERS_MAX: usize = 512;
/// Such connections from one source: a room full of machines behind one router that join at once.
pub const STRANGERS_PER_SOURCE_MAX: usize = 64;

const _: () = assert!(STRANGERS_MAX * 8 <= transport::CONNECTIONS_MAX);

/// See the module. One shard's.
#[derive(Default)]
pub(super) struct Crowd {
    /// No entry is 0; the sum is `count`.
    sources: BTreeMap<Source, usize>,
    count: usize,
}

impl Crowd {
    /// Takes in one more, unless there are too many.
    pub(super) fn try_join(&mut self, source: Source) -> bool {
        let here = self.sources.get(&source).copied().unwrap_or(0);
        if self.count >= STRANGERS_MAX || here >= STRANGERS_PER_SOURCE_MAX {
            return false;
        }
        self.sources.insert(source, here + 1);
        self.count += 1;
        true
    }

    /// Lets one go that was taken in: it came inside or left.
    pub(super) fn leave(&mut self, source: Source) {
        let here = self.sources.get_mut(&source).expect("whoever leaves has joined");
        *here -= 1;
        if *here == 0 {
            self.sources.remove(&source);
        }
        self.count -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn source(number: usize) -> Source {
        let [.., high, low] = number.to_be_bytes();
        IpAddr::from([10, 0, high, low]).into()
    }

    #[test]
    fn one_source_has_its_part_and_all_have_theirs() {
        let mut crowd = Crowd::default();
        assert!((0..STRANGERS_PER_SOURCE_MAX).all(|_| crowd.try_join(source(0))));
        assert!(!crowd.try_join(source(0)));
        assert!((STRANGERS_PER_SOURCE_MAX..STRANGERS_MAX).all(|n| crowd.try_join(source(n))));
        assert!(!crowd.try_join(source(9_999)));
        crowd.leave(source(0));
        assert!(crowd.try_join(source(0)));
        (STRANGERS_PER_SOURCE_MAX..STRANGERS_MAX).for_each(|n| crowd.leave(source(n)));
        (0..STRANGERS_PER_SOURCE_MAX).for_each(|_| crowd.leave(source(0)));
        assert!(crowd.sources.is_empty() && crowd.count == 0);
    }
}
