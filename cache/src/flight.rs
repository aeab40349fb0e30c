//! Single flight: many readers of one missing chunk, one fetch.
//!
//! A flight opens with its first waiter (the leader, who fetches) and closes with [`Flights::complete`]. Between the
//! two, readers of the same chunk join it; those whose bytes have already arrived may leave early through
//! [`Flights::retain_waiters`]. A pure table: it fetches nothing and wakes nobody.
//!
//! ```text
//!   join ─▶ Leader ── fetch … bytes arrive ──▶ complete ─▶ all waiters left, oldest first
//!   join ─▶ Follower ────────┘ retain_waiters: those already served leave here
//! ```
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// The most flights open at once in one table.
///
/// 4,096 small chunks are 256 MiB on the way, twice the bandwidth-delay product of 10 Gb/s over 100 ms: more flights
/// would not make the path fuller, only the queue longer.
pub const FLIGHTS_MAX: usize = 4096;

/// The most waiters on one flight, its leader included.
///
/// 256 is one waiter for each 4 KiB page of a 1 MiB chunk: the most that one file, read page by page, can ask for.
pub const WAITERS_PER_FLIGHT_MAX: usize = 256;

/// What a waiter became by joining.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// Opened the flight: the caller must fetch the chunk and then call [`Flights::complete`].
    Leader,
    /// Joined a flight that somebody else leads: nothing to fetch.
    Follower,
}

/// Why a waiter could not join; both mean "too much at once" and ask for back-pressure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlightError {
    /// [`FLIGHTS_MAX`] other chunks are already on their way.
    #[error("{FLIGHTS_MAX} chunks are already being fetched")]
    TooManyFlights,
    /// [`WAITERS_PER_FLIGHT_MAX`] readers already wait for this chunk.
    #[error("{WAITERS_PER_FLIGHT_MAX} readers already wait for this chunk")]
    TooManyWaiters,
}

/// The chunks on their way and who waits for each.
///
/// Keys are ordered, so that whatever walks the table does so in the same order in every run.
#[derive(Debug)]
pub struct Flights<K, W> {
    /// Invariant: `open.len() <= FLIGHTS_MAX`, each value's length `<= WAITERS_PER_FLIGHT_MAX`. A value may be empty:
    /// everybody left early, the fetch is still running.
    open: BTreeMap<K, Vec<W>>,
}

impl<K, W> Default for Flights<K, W> {
    fn default() -> Self {
        Self { open: BTreeMap::new() }
    }
}

impl<K: Ord, W> Flights<K, W> {
    /// Creates a table with nothing on its way.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Joins the flight of `key`, opening it where there is none.
    ///
    /// Cost: O(log flights).
    ///
    /// # Errors
    /// The waiter comes back with the reason when a bound is reached; the table is unchanged.
    pub fn join(&mut self, key: K, waiter: W) -> Result<Joined, (FlightError, W)> {
        let flights = self.open.len();
        match self.open.entry(key) {
            Entry::Occupied(flight) if flight.get().len() >= WAITERS_PER_FLIGHT_MAX => {
                Err((FlightError::TooManyWaiters, waiter))
            }
            Entry::Occupied(mut flight) => {
                flight.get_mut().push(waiter);
                Ok(Joined::Follower)
            }
            Entry::Vacant(_) if flights >= FLIGHTS_MAX => Err((FlightError::TooManyFlights, waiter)),
            Entry::Vacant(vacant) => {
                vacant.insert(vec![waiter]);
                Ok(Joined::Leader)
            }
        }
    }

    /// Opens the flight of a chunk that nobody waits for yet: fetched ahead of its readers.
    ///
    /// Returns false where it is open already. Cost: O(log flights).
    ///
    /// # Errors
    /// [`FlightError::TooManyFlights`].
    pub fn lead(&mut self, key: K) -> Result<bool, FlightError> {
        if self.open.contains_key(&key) {
            return Ok(false);
        }
        if self.open.len() >= FLIGHTS_MAX {
            return Err(FlightError::TooManyFlights);
        }
        self.open.insert(key, Vec::new());
        Ok(true)
    }

    /// Closes the flight of `key`, whether it succeeded or failed; returns its remaining waiters, oldest first.
    ///
    /// Empty where no such flight is open or everybody left early.
    #[must_use = "the waiters still have to be answered"]
    pub fn complete(&mut self, key: &K) -> Vec<W> {
        self.open.remove(key).unwrap_or_default()
    }

    /// Closes every flight, in key order: what to do when the peer is gone.
    #[must_use = "the waiters still have to be answered"]
    pub fn complete_all(&mut self) -> impl Iterator<Item = (K, Vec<W>)> + use<K, W> {
        std::mem::take(&mut self.open).into_iter()
    }

    /// Keeps the waiters of `key` for which `keep` says so, oldest first; the others are dropped.
    ///
    /// For early replies: `keep` answers the waiters whose bytes have arrived and returns false for them. The flight
    /// stays open even with nobody left, since its fetch is still running.
    pub fn retain_waiters(&mut self, key: &K, keep: impl FnMut(&mut W) -> bool) {
        if let Some(waiters) = self.open.get_mut(key) {
            waiters.retain_mut(keep);
        }
    }

    /// Lists the waiters of `key`, oldest first; empty where no such flight is open.
    #[must_use]
    pub fn waiters(&self, key: &K) -> &[W] {
        self.open.get(key).map_or(&[], Vec::as_slice)
    }

    /// Tells whether `key` is on its way.
    #[must_use]
    pub fn is_open(&self, key: &K) -> bool {
        self.open.contains_key(key)
    }

    /// Counts the open flights.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Tells whether nothing is on its way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn first_leads_and_others_follow_until_completion() {
        let mut flights = Flights::new();
        assert_eq!(flights.join(7, 'a'), Ok(Joined::Leader));
        assert_eq!(flights.join(7, 'b'), Ok(Joined::Follower));
        assert_eq!(flights.join(8, 'c'), Ok(Joined::Leader));
        assert_eq!(flights.waiters(&7), ['a', 'b']);
        assert_eq!(flights.complete(&7), ['a', 'b']);
        assert_eq!(flights.complete(&7), []);
        assert_eq!(flights.join(7, 'd'), Ok(Joined::Leader), "a closed flight opens anew");
    }

    #[test]
    fn a_flight_everybody_left_stays_open() {
        let mut flights = Flights::new();
        assert_eq!(flights.join("chunk", 4096), Ok(Joined::Leader));
        assert_eq!(flights.join("chunk", 8192), Ok(Joined::Follower));
        let mut served = Vec::new();
        flights.retain_waiters(&"chunk", |end| {
            let arrived = *end <= 4096;
            if arrived {
                served.push(*end);
            }
            !arrived
        });
        assert_eq!((served.as_slice(), flights.waiters(&"chunk")), ([4096].as_slice(), [8192].as_slice()));
        flights.retain_waiters(&"chunk", |_| false);
        assert!(flights.is_open(&"chunk"));
        assert_eq!(flights.join("chunk", 1), Ok(Joined::Follower), "the fetch is still running");
    }

    #[test]
    fn waiters_are_bounded_on_both_sides_of_the_limit() {
        let mut flights = Flights::new();
        for waiter in 0..WAITERS_PER_FLIGHT_MAX {
            assert!(flights.join(1, waiter).is_ok());
        }
        let refused = flights.join(1, WAITERS_PER_FLIGHT_MAX);
        assert_eq!(refused, Err((FlightError::TooManyWaiters, WAITERS_PER_FLIGHT_MAX)));
        assert_eq!(flights.complete(&1).len(), WAITERS_PER_FLIGHT_MAX);
    }

    #[test]
    fn flights_are_bounded_but_open_ones_can_still_be_joined() {
        let mut flights = Flights::new();
        for key in 0..FLIGHTS_MAX {
            assert_eq!(flights.join(key, ()), Ok(Joined::Leader));
        }
        assert_eq!(flights.join(FLIGHTS_MAX, ()), Err((FlightError::TooManyFlights, ())));
        assert_eq!(flights.join(0, ()), Ok(Joined::Follower));
        assert!(!flights.is_open(&FLIGHTS_MAX), "a refusal leaves nothing behind");
        assert_eq!(flights.complete(&0).len(), 2);
        assert_eq!(flights.join(FLIGHTS_MAX, ()), Ok(Joined::Leader));
    }

    #[test]
    fn complete_all_walks_in_key_order_and_empties_the_table() {
        let mut flights = Flights::new();
        for key in [3, 1, 2] {
            assert!(flights.join(key, key * 10).is_ok());
        }
        let all: Vec<_> = flights.complete_all().collect();
        assert_eq!(all, [(1, vec![10]), (2, vec![20]), (3, vec![30])]);
        assert!(flights.is_empty());
    }

    #[derive(Clone, Debug)]
    enum Op {
        Join(u8, u32),
        Complete(u8),
        KeepOdd(u8),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            6 => (0..6_u8, any::<u32>()).prop_map(|(key, waiter)| Op::Join(key, waiter)),
            1 => (0..6_u8).prop_map(Op::Complete),
            1 => (0..6_u8).prop_map(Op::KeepOdd),
        ]
    }

    proptest! {
        #[test]
        fn every_waiter_is_answered_exactly_once_and_in_order(ops in prop::collection::vec(op(), 0..400)) {
            let mut flights = Flights::new();
            let mut model: HashMap<u8, Vec<u32>> = HashMap::new();
            for op in ops {
                match op {
                    Op::Join(key, waiter) => {
                        let expected = match model.get(&key) {
                            None => Ok(Joined::Leader),
                            Some(list) if list.len() < WAITERS_PER_FLIGHT_MAX => Ok(Joined::Follower),
                            Some(_) => Err((FlightError::TooManyWaiters, waiter)),
                        };
                        if expected.is_ok() {
                            model.entry(key).or_default().push(waiter);
                        }
                        prop_assert_eq!(flights.join(key, waiter), expected);
                    }
                    Op::Complete(key) => {
                        prop_assert_eq!(flights.complete(&key), model.remove(&key).unwrap_or_default());
                    }
                    Op::KeepOdd(key) => {
                        flights.retain_waiters(&key, |waiter| *waiter % 2 == 1);
                        if let Some(list) = model.get_mut(&key) {
                            list.retain(|waiter| waiter % 2 == 1);
                        }
                    }
                }
                prop_assert_eq!(flights.len(), model.len());
            }
        }
    }
}
