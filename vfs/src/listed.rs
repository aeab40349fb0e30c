//! Entries just listed, so that the lookups which follow a plain readdir need no host.
//!
//! `ls -l` lists names, then asks for each. What the page said holds for the entry's time to live,
//! counted from when the page came. Bounded and oldest first out: memory stays constant.

#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::attr::Attr;

/// Entries remembered: a directory of 10,000 entries fits whole, for about 4 MiB.
pub const LISTED_ENTRIES_MAX: usize = 16_384;

type Key = (u64, Arc<[u8]>);

#[derive(Debug, Default)]
pub(crate) struct Listed {
    entries: HashMap<Key, (Instant, Attr)>,
    /// In order of arrival; a key listed again stands here again, told apart by its time.
    order: VecDeque<(Instant, Key)>,
}

impl Listed {
    /// Remembers what a page that came at `listed_at` said of a name.
    pub(crate) fn insert(&mut self, parent: u64, name: &[u8], attr: Attr, listed_at: Instant) {
        let key = (parent, Arc::from(name));
        let known = self.entries.insert(Key::clone(&key), (listed_at, attr));
        if known.is_none_or(|(at, _)| at != listed_at) {
            self.order.push_back((listed_at, key));
        }
        while self.order.len() > LISTED_ENTRIES_MAX {
            self.drop_oldest();
        }
    }

    /// What is known of a name and since when, if that is within `ttl`.
    pub(crate) fn find(&mut self, now: Instant, ttl: Duration, parent: u64, name: &[u8]) -> Option<(Instant, Attr)> {
        while let Some((at, _)) = self.order.front()
            && now.saturating_duration_since(*at) >= ttl
        {
            self.drop_oldest();
        }
        if self.entries.is_empty() {
            return None;
        }
        let found = *self.entries.get(&(parent, Arc::from(name)))?;
        (now.saturating_duration_since(found.0) < ttl).then_some(found)
    }

    /// Forgets a name: something newer is known.
    pub(crate) fn remove(&mut self, parent: u64, name: &[u8]) {
        if !self.entries.is_empty() {
            self.entries.remove(&(parent, Arc::from(name)));
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((at, key)) = self.order.pop_front()
            && self.entries.get(&key).is_some_and(|entry| entry.0 == at)
        {
            self.entries.remove(&key);
        }
    }

    pub(crate) fn check_invariants(&self) {
        assert!(self.entries.len() <= self.order.len());
        assert!(self.order.len() <= LISTED_ENTRIES_MAX);
    }
}
