//! How many requests a host works at side by side.
//!
//! Where a host, or the line to it, needs longer than `target.timeout` for all that is under way, most of that is given up. It
//! arrives all the same and takes the place of what would be in time; one probe that comes through by itself then lets as
//! many go again. So a host whose breaker a timeout opened begins with few, and answers let there be more, as TCP finds
//! what a line carries: one more for each answer up to half of what was too many, then one more for each full round.
//!
//! Where as many were answered as were under way while one hung, that one is to blame, and not their number.

use crate::event::Moment;

/// How many it begins with, at most: a few that hang leave room for others.
const BEGINS_WITH: usize = 4;
/// Fewer side by side are not too many: the backoff of their lanes spreads them, and a quiet host that was down is as wide
/// as before.
const A_CROWD: usize = 2 * BEGINS_WITH;

/// The width of one host: what bounds its requests beside the settings.
#[derive(Debug, Default)]
pub(super) struct Width {
    /// The most under way; `None` while it does not bind.
    most: Option<usize>,
    /// Up to this many each answer adds one.
    quickly_to: usize,
    /// All answers.
    answered: u64,
    /// Those of them since it grew last.
    since_grown: usize,
    /// When it narrowed last.
    narrowed: Moment,
    /// Requests that were under way then and still are: they do not count.
    earlier: usize,
}

impl Width {
    /// The most requests under way, while that binds.
    pub(super) fn most(&self) -> Option<usize> {
        self.most
    }

    /// Whether one more may be under way beside `in_flight`.
    pub(super) fn has_room(&self, in_flight: usize) -> bool {
        self.most.is_none_or(|most| in_flight.saturating_sub(self.earlier) < most)
    }

    /// All answers so far, to be told to [`Self::narrow`] of a request that begins now.
    pub(super) fn answered(&self) -> u64 {
        self.answered
    }

    /// A timeout opened the breaker. Its request began after `answered` answers, with `beside` under way; `in_flight` are
    /// still.
    pub(super) fn narrow(&mut self, now: Moment, answered: u64, in_flight: usize, beside: usize) {
        // Those that were given up with it are no longer under way.
        let under_way = beside.max(in_flight.saturating_add(1));
        let is_crowd = under_way >= self.most.map_or(A_CROWD, |most| most.min(A_CROWD));
        if !is_crowd || self.answered.saturating_sub(answered) >= under_way as u64 {
            return;
        }
        let too_many = self.most.unwrap_or(usize::MAX).min(under_way);
        self.quickly_to = (too_many / 2).max(1);
        self.most = Some(self.quickly_to.min(BEGINS_WITH));
        (self.since_grown, self.narrowed, self.earlier) = (0, now, in_flight);
    }

    /// An answer came; beyond `limit` the settings bind.
    pub(super) fn note_answered(&mut self, limit: usize) {
        self.answered += 1;
        let Some(most) = self.most else { return };
        self.since_grown += 1;
        if most < self.quickly_to || self.since_grown >= most {
            self.since_grown = 0;
            self.most = Some(most + 1).filter(|most| *most < limit);
        }
    }

    /// A request that began then is over.
    pub(super) fn note_over(&mut self, began: Moment) {
        if began <= self.narrowed {
            self.earlier = self.earlier.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_begins_with_few_and_grows_slower_near_what_was_too_many() {
        let mut width = Width::default();
        assert!(width.has_room(1_000));
        width.narrow(Moment::ZERO, 0, 59, 64);
        let mut answers_for_each = Vec::new();
        while let Some(most) = width.most() {
            let answers = (1..).find(|_| {
                width.note_answered(64);
                width.most() != Some(most)
            });
            answers_for_each.push((most, answers.unwrap()));
        }
        let expected: Vec<(usize, usize)> =
            (4..64).map(|most| (most, if most < 32 { 1 } else { most })).collect();
        assert_eq!(answers_for_each, expected);
        assert!(width.has_room(1_000), "the settings bind again");
    }

    #[test]
    fn what_was_under_way_before_takes_nobodys_place() {
        let mut width = Width::default();
        let narrowed = Moment::from_millis(5);
        width.narrow(narrowed, 0, 10, 15);
        assert!(width.has_room(13) && !width.has_room(14));
        width.note_over(narrowed.after(Duration::from_millis(1)));
        assert!(width.has_room(13));
        width.note_over(narrowed);
        assert!(width.has_room(12) && !width.has_room(13));
    }

    #[test]
    fn one_that_hung_while_others_were_answered_says_nothing_of_their_number() {
        for (answers, narrows) in [(14, true), (15, false)] {
            let mut width = Width::default();
            let before = width.answered();
            (0..answers).for_each(|_| width.note_answered(64));
            width.narrow(Moment::ZERO, before, 10, 15);
            assert_eq!(width.most().is_some(), narrows, "{answers}");
        }
    }

    #[test]
    fn it_never_shuts() {
        let mut width = Width::default();
        width.narrow(Moment::ZERO, 0, 63, 64);
        for expected in [2, 1, 1] {
            let most = width.most().unwrap();
            width.narrow(Moment::ZERO, width.answered(), 0, most);
            assert_eq!(width.most(), Some(expected));
            assert!(width.has_room(0) && !width.has_room(expected));
        }
    }

    #[test]
    fn a_few_side_by_side_are_not_too_many() {
        for (beside, narrows) in [(A_CROWD - 1, false), (A_CROWD, true)] {
            let mut width = Width::default();
            width.narrow(Moment::ZERO, 0, 0, beside);
            assert_eq!(width.most().is_some(), narrows, "{beside}");
        }
    }
}
