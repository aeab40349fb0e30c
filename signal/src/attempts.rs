//! How many guesses a host's join code stands, and how fast they may come.
//!
//! ```text
//!   try_begin ──▶ Attempt ── try_judge ──▶ Guess ──▶ on_failed ──▶ Continue | BackOff | Rotate
//!                    │                       └─────▶ on_succeeded
//!                    └─▶ on_abandoned, or its deadline: no guess was made
//! ```
//!
//! An attempt begins before the host answers with its share and becomes a guess when the client's
//! proof is about to be checked. Attempts under way count against what is left of the code, so that
//! no crowd of parallel attempts gets more than [`FAILURES_MAX`] guesses at one code.
//!
//! Each source of attempts has a few at once, so that one machine that falls silent again and again keeps
//! nobody else out.
//!
//! Holds no code and reads no clock. One value serves one host.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Wrong guesses that one code stands before it is replaced.
///
/// Ten guesses at 44 bits succeed with probability 6e-13, at a chosen code of three list words (33
/// bits) with 1e-9; a person who mistypes ten times in the life of a code is rare.
pub const FAILURES_MAX: u32 = 10;

/// Wrong guesses in a row that cost no waiting: people mistype, then correct themselves.
pub const FAILURES_FREE: u32 = 2;

/// Wait after the first failure beyond [`FAILURES_FREE`]; it doubles with each one that follows.
pub const BACK_OFF_FIRST: Duration = Duration::from_secs(2);

/// Longest wait: an honest person who comes while somebody guesses loses a minute, no more.
pub const BACK_OFF_MAX: Duration = Duration::from_secs(60);

/// Attempts under way at once; each holds a few hundred bytes and one connection.
pub const OPEN_ATTEMPTS_MAX: usize = 8;

/// Attempts of one [`Source`] under way at once: a person's second try, or two machines behind one address.
pub const OPEN_ATTEMPTS_PER_SOURCE_MAX: usize = 2;

/// Time from the host's share to the client's proof: one round trip, on the worst link.
pub const ATTEMPT_DEADLINE: Duration = Duration::from_secs(10);

const _: () = assert!(FAILURES_FREE < FAILURES_MAX);
const _: () = assert!(OPEN_ATTEMPTS_MAX <= FAILURES_MAX as usize);
const _: () = assert!(OPEN_ATTEMPTS_PER_SOURCE_MAX < OPEN_ATTEMPTS_MAX);

/// Where somebody comes from, as far as it costs something to come from elsewhere: an IPv4 address, or the
/// first 64 bits of an IPv6 address, whose others each machine chooses (RFC 4291 §2.5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(IpAddr);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
            ip @ IpAddr::V4(_) => ip,
        })
    }
}

/// An attempt under way. Hand it back to [`Attempts`]; one that is lost frees its slot by deadline.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "judge it or abandon it"]
pub struct Attempt(u64);

/// An attempt whose proof is being checked. Only its outcome ends it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "report whether it failed or succeeded"]
pub struct Guess(());

/// Counts the guesses at one host's code.
///
/// Ask: `poll_timeout`, `failures`. Feed: `on_*`, `handle_timeout`. Order: `try_*`. `now` never goes
/// back.
#[derive(Debug)]
pub struct Attempts {
    /// Wrong guesses at this code, or at the one before while none was made; `<= FAILURES_MAX`.
    failures: u32,
    /// Wrong guesses at this code since the last right one; decides on waiting only.
    failures_in_row: u32,
    /// Guesses whose outcome is awaited; `failures + judging + open.len() <= FAILURES_MAX`.
    judging: u32,
    /// No attempt begins before this.
    closed_until: Option<Instant>,
    /// Attempts under way in order of their deadlines; `len <= OPEN_ATTEMPTS_MAX`, and of one source
    /// `<= OPEN_ATTEMPTS_PER_SOURCE_MAX`.
    open: Vec<Open>,
    next_id: u64,
}

/// An attempt under way, on our side.
#[derive(Debug)]
struct Open {
    id: u64,
    deadline: Instant,
    source: Source,
}

impl Default for Attempts {
    fn default() -> Self {
        Self::new()
    }
}

impl Attempts {
    /// Starts counting for a new code.
    pub fn new() -> Self {
        Self {
            failures: 0,
            failures_in_row: 0,
            judging: 0,
            closed_until: None,
            open: Vec::with_capacity(OPEN_ATTEMPTS_MAX),
            next_id: 0,
        }
    }

    /// Wrong guesses at the present code.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// When to call [`Attempts::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.open.first().map(|open| open.deadline)
    }

    /// Frees the slots of attempts whose deadline has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.open.retain(|open| now < open.deadline);
        self.check_invariants();
    }

    /// Opens an attempt of a client at `source`; call this before answering its share.
    ///
    /// # Errors
    /// A [`Refusal`] that says how long to wait; tell the client and hang up.
    pub fn try_begin(&mut self, now: Instant, source: Source) -> Result<Attempt, Refusal> {
        self.handle_timeout(now);
        if let Some(until) = self.closed_until.filter(|&until| now < until) {
            return Err(Refusal { retry_after: until - now, cause: RefusalCause::BackOff });
        }
        let crowded = |cause, deadline: Option<Instant>| {
            Err(Refusal { retry_after: deadline.map_or(ATTEMPT_DEADLINE, |deadline| deadline - now), cause })
        };
        let beside = || self.open.iter().filter(|open| open.source == source);
        if beside().count() >= OPEN_ATTEMPTS_PER_SOURCE_MAX {
            return crowded(RefusalCause::SourceCrowded, beside().next().map(|open| open.deadline));
        }
        let under_way = self.judging + self.open.len() as u32;
        if under_way >= OPEN_ATTEMPTS_MAX as u32 {
            return crowded(RefusalCause::Crowded, self.poll_timeout());
        }
        if self.failures + under_way >= FAILURES_MAX {
            return crowded(RefusalCause::LastGuesses, self.poll_timeout());
        }
        let id = self.next_id;
        self.next_id += 1;
        self.open.push(Open { id, deadline: now + ATTEMPT_DEADLINE, source });
        self.check_invariants();
        Ok(Attempt(id))
    }

    /// Turns an attempt into a guess; call this right before checking the client's proof.
    ///
    /// # Errors
    /// [`Expired`] when its deadline has passed or the code was replaced: do not check the proof.
    pub fn try_judge(&mut self, now: Instant, attempt: Attempt) -> Result<Guess, Expired> {
        self.handle_timeout(now);
        let slot = self.open.iter().position(|open| open.id == attempt.0).ok_or(Expired)?;
        self.open.remove(slot);
        self.judging += 1;
        self.check_invariants();
        Ok(Guess(()))
    }

    /// Notes that a client left before sending its proof. Nothing was guessed.
    pub fn on_abandoned(&mut self, attempt: Attempt) {
        self.open.retain(|open| open.id != attempt.0);
        self.check_invariants();
    }

    /// Notes a right proof. The waiting is over; past failures still count against the code.
    pub fn on_succeeded(&mut self, guess: Guess) {
        let Guess(()) = guess;
        self.judging -= 1;
        self.failures_in_row = 0;
        self.closed_until = None;
        self.check_invariants();
    }

    /// Notes a wrong proof and says what the host must do about it.
    pub fn on_failed(&mut self, now: Instant, guess: Guess) -> Verdict {
        let Guess(()) = guess;
        self.judging -= 1;
        self.failures += 1;
        self.failures_in_row = self.failures_in_row.saturating_add(1);
        let verdict = if self.failures >= FAILURES_MAX {
            // A fresh code is worth as much as the old one was; the wait keeps rotation itself slow.
            self.on_replaced();
            self.closed_until = Some(now + BACK_OFF_MAX);
            Verdict::Rotate
        } else if let Some(wait) = back_off(self.failures_in_row) {
            self.closed_until = Some(now + wait);
            Verdict::BackOff(wait)
        } else {
            Verdict::Continue
        };
        self.check_invariants();
        verdict
    }

    /// Notes that the code was replaced for another reason than [`Verdict::Rotate`], by its owner
    /// say. Attempts at the old code expire; a wait that is running stays.
    pub fn on_replaced(&mut self) {
        self.failures = 0;
        // Slips at the new code cost as little as at the first one.
        self.failures_in_row = 0;
        self.open.clear();
        self.check_invariants();
    }

    /// Panics if an inequality noted on a field does not hold; that would be a bug here.
    fn check_invariants(&self) {
        debug_assert!(self.open.len() <= OPEN_ATTEMPTS_MAX);
        debug_assert!(self.open.is_sorted_by_key(|open| open.deadline));
        debug_assert!(self.failures + self.judging + self.open.len() as u32 <= FAILURES_MAX);
    }
}

/// How long to wait after so many failures in a row.
fn back_off(failures_in_row: u32) -> Option<Duration> {
    let doublings = failures_in_row.checked_sub(FAILURES_FREE + 1)?;
    let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
    Some(BACK_OFF_FIRST.saturating_mul(factor).min(BACK_OFF_MAX))
}

/// What a host does after a wrong guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a spent code must be replaced"]
pub enum Verdict {
    /// Nothing; the next attempt may begin at once.
    Continue,
    /// Nothing; attempts are refused for this long.
    BackOff(Duration),
    /// Replaces the code before anything else: it has stood [`FAILURES_MAX`] guesses. Attempts under
    /// way have expired, and attempts are refused for [`BACK_OFF_MAX`].
    Rotate,
}

/// An attempt may not begin now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{cause}; try again in {} s", retry_after.as_secs_f32().ceil())]
pub struct Refusal {
    /// When another attempt is worth while.
    pub retry_after: Duration,
    /// What stands in the way.
    pub cause: RefusalCause,
}

/// What stands in the way of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusalCause {
    /// Too many wrong codes in a row.
    #[error("too many wrong join codes were tried on this host")]
    BackOff,
    /// [`OPEN_ATTEMPTS_MAX`] attempts are under way.
    #[error("too many machines are joining this host at once")]
    Crowded,
    /// [`OPEN_ATTEMPTS_PER_SOURCE_MAX`] attempts of this source are under way.
    #[error("this address is joining this host already")]
    SourceCrowded,
    /// The attempts under way could use up the code, should all of them fail.
    #[error("the join code of this host is nearly used up by wrong guesses")]
    LastGuesses,
}

/// The attempt came to its deadline, or the code was replaced meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the join attempt took too long, or the host changed its code")]
pub struct Expired;

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "an Instant has no other origin; only sums of it are used")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// One of some machines.
    fn source(number: u8) -> Source {
        IpAddr::from([10, 0, 0, number]).into()
    }

    fn fail(attempts: &mut Attempts, now: Instant) -> Verdict {
        let attempt = attempts.try_begin(now, source(0)).unwrap();
        let guess = attempts.try_judge(now, attempt).unwrap();
        attempts.on_failed(now, guess)
    }

    fn succeed(attempts: &mut Attempts, now: Instant) {
        let attempt = attempts.try_begin(now, source(0)).unwrap();
        let guess = attempts.try_judge(now, attempt).unwrap();
        attempts.on_succeeded(guess);
    }

    #[test]
    fn one_slip_costs_nothing() {
        let start = Instant::now();
        let mut attempts = Attempts::new();
        assert_eq!(fail(&mut attempts, start), Verdict::Continue);
        succeed(&mut attempts, start + 2 * SECOND);
    }

    #[test]
    fn waiting_doubles_to_its_bound_and_the_tenth_failure_rotates() {
        let mut now = Instant::now();
        let mut attempts = Attempts::new();
        let mut verdicts = Vec::new();
        for _ in 0..FAILURES_MAX {
            let verdict = fail(&mut attempts, now);
            if let Verdict::BackOff(wait) = verdict {
                let early = attempts.try_begin(now + wait - Duration::from_nanos(1), source(0)).unwrap_err();
                assert_eq!(early.cause, RefusalCause::BackOff);
                assert_eq!(early.retry_after, Duration::from_nanos(1));
                now += wait;
            }
            verdicts.push(verdict);
        }
        let wait = |seconds| Verdict::BackOff(Duration::from_secs(seconds));
        assert_eq!(verdicts[..2], [Verdict::Continue; 2]);
        assert_eq!(verdicts[2..9], [2, 4, 8, 16, 32, 60, 60].map(wait));
        assert_eq!(verdicts[9], Verdict::Rotate);
        assert_eq!(attempts.failures(), 0);
        assert_eq!(attempts.try_begin(now, source(0)).unwrap_err().retry_after, BACK_OFF_MAX);
        now += BACK_OFF_MAX;
        // Slips at the new code cost nothing again.
        for _ in 0..FAILURES_FREE {
            assert_eq!(fail(&mut attempts, now), Verdict::Continue);
        }
        assert_eq!(fail(&mut attempts, now), Verdict::BackOff(BACK_OFF_FIRST));
        succeed(&mut attempts, now + BACK_OFF_FIRST);
    }

    #[test]
    fn one_source_keeps_nobody_else_out() {
        let start = Instant::now();
        let mut attempts = Attempts::new();
        let silent: Vec<Attempt> =
            (0..OPEN_ATTEMPTS_PER_SOURCE_MAX).map(|_| attempts.try_begin(start, source(1)).unwrap()).collect();
        let refusal = attempts.try_begin(start + SECOND, source(1)).unwrap_err();
        assert_eq!(refusal.cause, RefusalCause::SourceCrowded);
        assert_eq!(refusal.retry_after, ATTEMPT_DEADLINE - SECOND);
        succeed(&mut attempts, start + SECOND);
        silent.into_iter().for_each(|attempt| attempts.on_abandoned(attempt));
        assert!(attempts.try_begin(start + SECOND, source(1)).is_ok());
    }

    #[test]
    fn a_source_is_an_address_or_the_network_half_of_one() {
        let source = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        assert_ne!(source("10.0.0.1"), source("10.0.0.2"));
        assert_eq!(source("10.0.0.1"), source("::ffff:10.0.0.1"));
        assert_eq!(source("2001:db8:0:1::1"), source("2001:db8:0:1:ffff::2"));
        assert_ne!(source("2001:db8:0:1::1"), source("2001:db8:0:2::1"));
    }

    #[test]
    fn success_ends_the_waiting_but_not_the_count() {
        let start = Instant::now();
        let mut attempts = Attempts::new();
        for round in 0..FAILURES_MAX - 1 {
            assert_eq!(fail(&mut attempts, start), Verdict::Continue, "{round}");
            succeed(&mut attempts, start);
        }
        assert_eq!(attempts.failures(), FAILURES_MAX - 1);
        assert_eq!(fail(&mut attempts, start), Verdict::Rotate);
    }

    #[test]
    fn slots_come_back_by_abandoning_and_by_deadline() {
        let start = Instant::now();
        let mut attempts = Attempts::new();
        let mut open: Vec<Attempt> =
            (0..OPEN_ATTEMPTS_MAX as u8).map(|n| attempts.try_begin(start, source(n)).unwrap()).collect();
        let refusal = attempts.try_begin(start + SECOND, source(99)).unwrap_err();
        assert_eq!(refusal.cause, RefusalCause::Crowded);
        assert_eq!(refusal.retry_after, ATTEMPT_DEADLINE - SECOND);

        attempts.on_abandoned(open.pop().unwrap());
        let late = attempts.try_begin(start + SECOND, source(0)).unwrap();
        assert_eq!(attempts.poll_timeout(), Some(start + ATTEMPT_DEADLINE));
        attempts.handle_timeout(start + ATTEMPT_DEADLINE);
        assert_eq!(attempts.poll_timeout(), Some(start + SECOND + ATTEMPT_DEADLINE));
        assert_eq!(attempts.try_judge(start + ATTEMPT_DEADLINE, open.pop().unwrap()), Err(Expired));
        let guess = attempts.try_judge(start + ATTEMPT_DEADLINE, late).unwrap();
        attempts.on_succeeded(guess);
        assert_eq!(attempts.failures(), 0);
    }

    #[test]
    fn a_crowd_gets_no_more_guesses_than_one() {
        let mut now = Instant::now();
        let mut attempts = Attempts::new();
        for _ in 0..FAILURES_MAX - 1 {
            if let Verdict::BackOff(wait) = fail(&mut attempts, now) {
                now += wait;
            }
        }
        let last = attempts.try_begin(now, source(0)).unwrap();
        assert_eq!(attempts.try_begin(now, source(0)).unwrap_err().cause, RefusalCause::LastGuesses);
        let guess = attempts.try_judge(now, last).unwrap();
        assert_eq!(attempts.try_begin(now, source(0)).unwrap_err().cause, RefusalCause::LastGuesses);
        assert_eq!(attempts.on_failed(now, guess), Verdict::Rotate);
    }

    #[test]
    fn attempts_at_an_old_code_expire() {
        let start = Instant::now();
        let mut attempts = Attempts::new();
        let old = attempts.try_begin(start, source(0)).unwrap();
        assert_eq!(fail(&mut attempts, start), Verdict::Continue);
        attempts.on_replaced();
        assert_eq!((attempts.failures(), attempts.failures_in_row), (0, 0));
        assert_eq!(attempts.try_judge(start, old), Err(Expired));
    }

    #[test]
    fn a_refusal_reads_well() {
        let refusal = Refusal { retry_after: Duration::from_millis(1500), cause: RefusalCause::BackOff };
        let text = "too many wrong join codes were tried on this host; try again in 2 s";
        assert_eq!(refusal.to_string(), text);
    }

    proptest! {
        /// Whatever order things come in, no code is guessed at more than FAILURES_MAX times, and a
        /// host that nobody bothers for BACK_OFF_MAX always lets the next one in.
        #[test]
        fn guesses_per_code_are_bounded(moves in prop::collection::vec((0..6_u8, 0..90_u64), 0..300)) {
            let mut now = Instant::now();
            let mut attempts = Attempts::new();
            let mut open = Vec::new();
            let mut wrong = 0;
            for (step, pause) in moves {
                match step {
                    0 | 1 => open.extend(attempts.try_begin(now, source(pause as u8))),
                    2 | 3 => {
                        let judged = open.pop().map(|attempt| attempts.try_judge(now, attempt));
                        if let Some(Ok(guess)) = judged {
                            wrong += 1;
                            prop_assert!(wrong <= FAILURES_MAX);
                            if attempts.on_failed(now, guess) == Verdict::Rotate {
                                wrong = 0;
                            }
                        }
                    }
                    4 => {
                        if let Some(attempt) = open.pop() {
                            attempts.on_abandoned(attempt);
                        }
                    }
                    _ => now += Duration::from_millis(pause * 500),
                }
                prop_assert_eq!(attempts.failures(), wrong);
            }
            now += BACK_OFF_MAX.max(ATTEMPT_DEADLINE);
            prop_assert!(attempts.try_begin(now, source(0)).is_ok());
        }
    }
}
