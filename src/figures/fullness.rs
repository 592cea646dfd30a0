//! A queue whose own limits turn submissions away, as it is told: once, until it has had room for a while.

use std::time::Duration;

use super::Limits;
use crate::event::Moment;
use crate::queue::{Ledger, NoRoom};

/// The end is told after so long: a queue that hovers at its limit has room for a moment again and again. What had no room
/// counts as long, and no longer: it may have been much larger than all others.
const QUIET: Duration = Duration::from_secs(60);
/// What had no room where nobody knows how much that was.
const SOMETHING: NoRoom = NoRoom { times: 0, events: 1, bytes: 1 };

/// What became of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It had no room for a submission.
    Full,
    /// It had room for all since a while.
    Free,
}

/// Whether a queue is full, as it was told.
#[derive(Debug)]
pub(super) struct Fullness {
    refused: u64,
    /// When a submission was found to be refused last.
    refused_at: Option<Moment>,
    /// Whether hardly any room is left since then. What was refused before the start nobody knows.
    hovers: bool,
    /// When it was found full last, where its end is not told yet.
    latest: Option<Moment>,
}

impl Fullness {
    /// That of a queue which begins with `ledger`.
    pub(super) fn new(limits: &Limits, ledger: &Ledger) -> Self {
        let hovers = limits.full(ledger.counted(), ledger.held_bytes, SOMETHING).is_some();
        Self { refused: 0, refused_at: None, hovers, latest: None }
    }

    /// What is to be taken for wanted and without room, of `no_room`, which the queue counted.
    pub(super) fn wanted(&self, now: Moment, no_room: NoRoom) -> NoRoom {
        let is_recent = self.refused_at.is_some_and(|at| now.since(at) < QUIET);
        let NoRoom { times, events, bytes } = no_room;
        match (is_recent || times != self.refused, self.hovers, times) {
            (true, ..) => no_room,
            (_, false, _) => NoRoom { times, ..NoRoom::default() },
            (_, true, 0) => SOMETHING,
            (_, true, _) => NoRoom { times, events: events.min(1), bytes: bytes.min(1) },
        }
    }

    /// Looks at how many submissions were refused for want of room since the start, and at whether it is full now; says what
    /// is to be told.
    pub(super) fn look(&mut self, now: Moment, refused: u64, is_full: bool) -> Option<Turn> {
        let is_news = refused != self.refused;
        if is_news {
            (self.refused, self.refused_at) = (refused, Some(now));
        }
        self.hovers = is_news || self.hovers && is_full;
        let Some(latest) = self.latest else {
            self.latest = is_news.then_some(now);
            return is_news.then_some(Turn::Full);
        };
        if is_news || is_full {
            self.latest = Some(now);
            return None;
        }
        if now.since(latest) < QUIET {
            return None;
        }
        self.latest = None;
        Some(Turn::Free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { max_events: 1_000, max_bytes: 64_000, min_free: 0, dead_max_events: 10 };

    fn at(seconds: u64) -> Moment {
        Moment::from_millis(seconds * 1_000)
    }

    /// That of a queue which begins with so many bytes.
    fn begun(held_bytes: u64) -> Fullness {
        let mut ledger = Ledger::default();
        ledger.held_bytes = held_bytes;
        Fullness::new(&LIMITS, &ledger)
    }

    /// Whether it is full with so many bytes; the look that follows says what is to be told.
    fn look(fullness: &mut Fullness, seconds: u64, held_bytes: u64, no_room: NoRoom) -> (bool, Option<Turn>) {
        let wanted = fullness.wanted(at(seconds), no_room);
        let is_full = LIMITS.full(0, held_bytes, wanted).is_some();
        (is_full, fullness.look(at(seconds), no_room.times, is_full))
    }

    #[test]
    fn a_queue_that_hovers_at_its_limit_is_told_once() {
        let (mut fullness, mut told) = (begun(0), Vec::new());
        for second in (0..7_200).step_by(5) {
            // From the first minute on it has room at every other look; in the second hour nobody asks for any.
            let (refused, is_full) = match second {
                0..60 => (0, false),
                60..3_600 => (second, second % 10 == 0),
                _ => (3_595, second < 4_000),
            };
            told.extend(fullness.look(at(second), refused, is_full).map(|turn| (second, turn)));
        }
        // What is full stays so without anybody who asks; then it takes a minute.
        assert_eq!(told, [(60, Turn::Full), (3_995 + 60, Turn::Free)]);
        assert_eq!(fullness.look(at(7_200), 3_595, true), None, "nobody was turned away");
        assert_eq!(fullness.look(at(7_205), 3_596, false), Some(Turn::Full), "it begins again");
    }

    #[test]
    fn a_large_line_without_room_counts_for_a_minute() {
        let (mut fullness, large) = (begun(0), NoRoom { times: 1, events: 0, bytes: 40_000 });
        assert_eq!(look(&mut fullness, 0, 30_000, NoRoom::default()), (false, None));
        assert_eq!(look(&mut fullness, 5, 30_000, large), (true, Some(Turn::Full)));
        assert_eq!(look(&mut fullness, 64, 30_000, large), (true, None));
        assert_eq!(look(&mut fullness, 65, 30_000, large), (false, None));
        // As long as hardly anything has room it is full all the same, whether anybody asks or not.
        assert_eq!(look(&mut fullness, 70, 63_001, large), (false, None), "nobody was turned away since");
        assert_eq!(look(&mut fullness, 75, 63_001, NoRoom { times: 2, ..large }), (true, None));
        assert_eq!(look(&mut fullness, 500, 63_001, NoRoom { times: 2, ..large }), (true, None));
        assert_eq!(look(&mut fullness, 505, 63_000, NoRoom { times: 2, ..large }), (false, None));
        assert_eq!(look(&mut fullness, 560, 63_000, NoRoom { times: 2, ..large }), (false, Some(Turn::Free)));
    }

    #[test]
    fn a_queue_that_begins_without_room_is_full_and_nothing_is_told_before_somebody_is_turned_away() {
        let none = NoRoom::default();
        for (held_bytes, is_full) in [(63_000, false), (63_001, true)] {
            let mut fullness = begun(held_bytes);
            assert_eq!(look(&mut fullness, 0, held_bytes, none), (is_full, None), "{held_bytes}");
            assert_eq!(look(&mut fullness, 500, 63_001, none), (is_full, None), "{held_bytes}");
        }
        let mut fullness = begun(63_001);
        assert_eq!(look(&mut fullness, 0, 63_000, none), (false, None));
        assert_eq!(look(&mut fullness, 5, 63_001, none), (false, None), "it had room");
        let refused = NoRoom { times: 1, events: 0, bytes: 1_000 };
        assert_eq!(look(&mut fullness, 10, 63_001, refused), (true, Some(Turn::Full)));
    }
}
