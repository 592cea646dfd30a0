//! How fast requests, or events, go out: of all hosts together, and of each.

use std::time::Duration;

use crate::event::Moment;

/// The length of one count.
const COUNTED_FOR: Duration = Duration::from_secs(1);
/// The mean of this many counts can be relied on: answers come in bursts where each takes its time.
const COUNTS: u32 = 4;

/// Counts what begins in each [`COUNTED_FOR`].
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When the count began.
    from: Option<Moment>,
    begun: u32,
    /// How many began in [`COUNTED_FOR`] before that.
    last: Option<u128>,
    /// The mean of the counts before that, the later ones weighing more.
    mean: u128,
    /// How many counts there were, up to [`COUNTS`].
    counts: u32,
}

impl Pace {
    /// `count` requests, or events, began.
    pub(super) fn note_begun(&mut self, count: usize) {
        self.begun = self.begun.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
    }

    /// Starts afresh: too little was due, or nothing could be sent, so the pace says nothing.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Whether what is `due` will last for longer than `seconds`. That shows once it was counted.
    pub(super) fn lasts(&self, due: usize, seconds: u128) -> bool {
        self.last.is_some_and(|last| due as u128 > last.max(u128::from(self.begun)) * seconds)
    }

    /// The same by the mean, which shows later.
    pub(super) fn lasts_surely(&self, due: usize, seconds: u128) -> bool {
        let mean = self.mean.max(u128::from(self.begun / COUNTS));
        self.counts >= COUNTS && due as u128 > mean * seconds
    }

    /// Ends a count whose time is over; the first call begins one.
    pub(super) fn count(&mut self, now: Moment) {
        let Some(from) = self.from else {
            *self = Self { from: Some(now), ..Self::default() };
            return;
        };
        let counted = now.since(from);
        if counted < COUNTED_FOR {
            return;
        }
        let last = u128::from(self.begun) * COUNTED_FOR.as_millis() / counted.as_millis().max(1);
        self.counts = COUNTS.min(self.counts + 1);
        let before = u128::from(self.counts - 1);
        self.mean = (self.mean * before + last) / u128::from(self.counts);
        (self.from, self.begun, self.last) = (Some(now), 0, Some(last));
    }

    /// When the count under way ends, and may show that something lasts.
    pub(super) fn shows_at(&self) -> Option<Moment> {
        self.from.map(|from| from.after(COUNTED_FOR))
    }
}
