//! What a host tells its owner: no shard waits on a reader, a flood of strangers drowns nothing, and the code that holds
//! now is told in the end.

use crate::event::ServiceEvent;
use crossbeam_channel::Sender;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Refusals that are told one by one in [`REFUSALS_WINDOW`]; of more, only their number. People can read as many, and
/// the queue of events is not filled by who needs no code to be refused.
const REFUSALS_TOLD_MAX: u32 = 10;
/// Time over which refusals are counted.
const REFUSALS_WINDOW: Duration = Duration::from_secs(10);

/// See the module.
pub struct Events {
    sender: Sender<ServiceEvent>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The present code's announcement, while it finds no room.
    announcement: Option<ServiceEvent>,
    /// When refusals began to be counted.
    counted_since: Option<Instant>,
    /// Refusals told since then; `<= REFUSALS_TOLD_MAX`.
    told: u32,
    /// And those that were not.
    untold: u64,
}

impl Events {
    /// Creates the way to the owner; when it is full, most events are dropped.
    pub fn new(sender: Sender<ServiceEvent>) -> Self {
        Self { sender, state: Mutex::default() }
    }

    /// A lock whose holder panicked still guards consistent data: sections count and assign whole values.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the last event goes.
    pub(super) fn sender(&self) -> &Sender<ServiceEvent> {
        &self.sender
    }

    /// Tells the owner; a reader that does not keep up misses events rather than stalling a shard.
    pub(super) fn tell(&self, event: ServiceEvent) {
        self.tell_code(&mut self.state());
        self.try_tell(event);
    }

    fn try_tell(&self, event: ServiceEvent) -> bool {
        let told = self.sender.try_send(event).is_ok();
        if !told {
            tracing::debug!("an event found no room: nobody reads them");
        }
        told
    }

    /// Tells which code holds now, in place of what was announced before; again and again until there is room.
    pub(super) fn announce(&self, announcement: ServiceEvent) {
        let mut state = self.state();
        state.announcement = Some(announcement);
        self.tell_code(&mut state);
    }

    fn tell_code(&self, state: &mut State) {
        if let Some(announcement) = &state.announcement
            && self.try_tell(announcement.clone())
        {
            state.announcement = None;
        }
    }

    /// Tells of a refusal, if not too many came just before.
    pub(super) fn on_refused(&self, now: Instant, address: SocketAddr, reason: String) {
        self.handle_timeout(now);
        let mut state = self.state();
        state.counted_since.get_or_insert(now);
        if state.told == REFUSALS_TOLD_MAX {
            state.untold += 1;
            return;
        }
        state.told += 1;
        drop(state);
        self.try_tell(ServiceEvent::PeerRefused { address, reason });
    }

    /// Tells what waits; called from time to time.
    pub(super) fn handle_timeout(&self, now: Instant) {
        let mut state = self.state();
        self.tell_code(&mut state);
        if state.counted_since.is_none_or(|since| now.saturating_duration_since(since) < REFUSALS_WINDOW) {
            return;
        }
        let message = format!("{} more were refused in the last {} s", state.untold, REFUSALS_WINDOW.as_secs());
        if state.untold == 0 || self.try_tell(ServiceEvent::Warning { message }) {
            (state.counted_since, state.told, state.untold) = (None, 0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Invitation;
    use crossbeam_channel::{Receiver, bounded};

    fn events(room: usize) -> (Events, Receiver<ServiceEvent>) {
        let (sender, receiver) = bounded(room);
        (Events::new(sender), receiver)
    }

    fn code(code: &str) -> ServiceEvent {
        ServiceEvent::WaitingForPeer(Invitation { code: code.into(), link: String::new() })
    }

    fn warning() -> ServiceEvent {
        ServiceEvent::Warning { message: "lost".into() }
    }

    #[test]
    fn the_latest_code_is_told_when_there_is_room_again() {
        let (events, told) = events(2);
        events.tell(warning());
        events.tell(warning());
        events.announce(code("old"));
        events.announce(code("new"));
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [warning(), warning()]);
        events.handle_timeout(Instant::now());
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [code("new")]);
        events.handle_timeout(Instant::now());
        assert_eq!(told.try_iter().count(), 0, "once");
    }

    #[test]
    fn a_code_that_waits_goes_before_what_comes_later() {
        let (events, told) = events(1);
        events.tell(warning());
        events.announce(code("new"));
        assert_eq!(told.try_recv(), Ok(warning()));
        events.tell(warning());
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [code("new")]);
    }

    #[test]
    fn a_flood_of_refusals_is_told_in_few_words() {
        let (events, told) = events(1_000);
        let start = Instant::now();
        let refuse = |at| events.on_refused(at, ([10, 0, 0, 1], 1).into(), "wrong join code".into());
        (0..500).for_each(|_| refuse(start));
        let one_by_one = |told: &[ServiceEvent]| {
            told.iter().filter(|event| matches!(event, ServiceEvent::PeerRefused { .. })).count()
        };
        let heard: Vec<_> = told.try_iter().collect();
        assert_eq!((one_by_one(&heard), heard.len()), (REFUSALS_TOLD_MAX as usize, REFUSALS_TOLD_MAX as usize));
        events.handle_timeout(start + REFUSALS_WINDOW - Duration::from_nanos(1));
        assert_eq!(told.try_iter().count(), 0);
        // The next window begins with the sum of the last.
        refuse(start + REFUSALS_WINDOW);
        let heard: Vec<_> = told.try_iter().collect();
        let sum = ServiceEvent::Warning { message: "490 more were refused in the last 10 s".into() };
        assert_eq!((&heard[0], one_by_one(&heard[1..]), heard.len()), (&sum, 1, 2));
        events.handle_timeout(start + 2 * REFUSALS_WINDOW);
        assert_eq!(told.try_iter().count(), 0, "none were left out");
    }
}
