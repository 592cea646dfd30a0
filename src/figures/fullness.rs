//! A queue whose own limits turn submissions away, as it is told: once, until it has had room for a while.

use std::time::Duration;

use crate::event::Moment;

/// The end is told after so long: a queue that hovers at its limit has room for a moment again and again.
const QUIET: Duration = Duration::from_secs(60);

/// What became of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It had no room for a submission.
    Full,
    /// It had room for all since a while.
    Free,
}

/// Whether a queue is full, as it was told.
#[derive(Debug, Default)]
pub(super) struct Fullness {
    refused: u64,
    /// When it was found full last, where its end is not told yet.
    latest: Option<Moment>,
}

impl Fullness {
    /// Looks at how many submissions were refused for want of room since the start, and at whether it is full now; says what
    /// is to be told.
    pub(super) fn look(&mut self, now: Moment, refused: u64, is_full: bool) -> Option<Turn> {
        let Some(latest) = self.latest else {
            let is_news = refused != self.refused;
            (self.refused, self.latest) = (refused, is_news.then_some(now));
            return is_news.then_some(Turn::Full);
        };
        if refused != self.refused || is_full {
            (self.refused, self.latest) = (refused, Some(now));
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

    #[test]
    fn a_queue_that_hovers_at_its_limit_is_told_once() {
        let at = |seconds: u64| Moment::from_millis(seconds * 1_000);
        let mut fullness = Fullness::default();
        let mut told = Vec::new();
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
}
