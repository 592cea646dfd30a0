//! Requests that are answered while nothing is delivered.
//!
//! A gate that has a page of its own for every request, or a host that is busy without end, opens no breaker, pauses nothing
//! and sets nothing aside: without this nobody would hear of it.

use std::time::Duration;

use crate::delivery::Kind;
use crate::event::Moment;

/// It is told after so long.
const AFTER: Duration = Duration::from_secs(60);
/// Fewer answers are those of an event or two that wait for their turn.
const FEWEST_ANSWERS: u64 = 5;

/// What was answered since the last delivery.
#[derive(Debug)]
pub(super) struct Fruitless {
    /// When the first answer was counted, and what was counted before it.
    from: Moment,
    delivered: u64,
    answers: u64,
    told: bool,
}

impl Fruitless {
    /// From `now` on, with so many events delivered and nothing answered yet.
    pub(super) fn new(now: Moment, delivered: u64) -> Self {
        Self { from: now, delivered, answers: 0, told: false }
    }

    /// Looks at the events `delivered` and the `answers` that delivered nothing, counted since the start; says of how many it
    /// is to be told, which is once until something is delivered.
    pub(super) fn look(&mut self, now: Moment, delivered: u64, answers: u64) -> Option<u64> {
        if delivered != self.delivered {
            *self = Self { from: now, delivered, answers, told: false };
        } else if answers == self.answers {
            self.from = now;
        }
        let count = answers.saturating_sub(self.answers);
        let is_due = !self.told && count >= FEWEST_ANSWERS && now.since(self.from) >= AFTER;
        self.told |= is_due;
        is_due.then_some(count)
    }

    /// Whether it was told, and is so still.
    pub(super) fn lasts(&self) -> bool {
        self.told
    }
}

/// How many of `requests` had answers that deliver nothing and that nothing else tells of.
pub(super) fn answers(requests: impl Iterator<Item = (Kind, u64)>) -> u64 {
    let counts = |kind: &Kind| matches!(kind, Kind::Unreadable | Kind::Partial | Kind::Busy);
    requests.filter(|(kind, _)| counts(kind)).map(|(_, count)| count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_of_answers_without_a_delivery_is_told_once() {
        let at = |seconds: u64| Moment::from_millis(seconds * 1_000);
        // Answered at once, and still it takes its time.
        let mut fruitless = Fruitless::new(at(500), 7);
        assert_eq!(
            [505, 559, 560].map(|second| fruitless.look(at(second), 7, second)),
            [None, None, Some(560)]
        );
        // Idle, then a few that wait for their turn.
        let mut fruitless = Fruitless::new(at(0), 7);
        for (second, answers) in [(0, 0), (1_000, 0), (1_005, 4), (2_000, 4)] {
            assert_eq!(fruitless.look(at(second), 7, answers), None, "{second}");
        }
        assert_eq!(fruitless.look(at(2_005), 7, 9), Some(9));
        assert_eq!((fruitless.look(at(3_000), 7, 99), fruitless.lasts()), (None, true));
        // It is over, and begins again.
        for (second, answers) in [(3_005, 100), (3_010, 100), (3_015, 110), (3_069, 120)] {
            assert_eq!(fruitless.look(at(second), 8, answers), None, "{second}");
            assert!(!fruitless.lasts());
        }
        assert_eq!(fruitless.look(at(3_070), 8, 130), Some(30));
        // A requeue takes nothing off what was delivered; where it grows all the time nothing is told.
        for second in 4_000..5_000 {
            assert_eq!(fruitless.look(at(second), second, second), None);
        }
    }

    #[test]
    fn what_a_breaker_a_pause_or_a_dead_letter_tells_is_not_counted() {
        assert_eq!(answers(Kind::ALL.into_iter().map(|kind| (kind, 1))), 3);
    }
}
