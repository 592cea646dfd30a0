//! How fast requests, or events, go out: of all hosts together, and of each.

use std::time::Duration;

use crate::event::Moment;

/// How long is counted.
const COUNTED_FOR: Duration = Duration::from_secs(1);

/// What began since it is counted.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When the count began.
    from: Option<Moment>,
    begun: u32,
    /// How many began in [`COUNTED_FOR`] before that; the mean of this and what it was before, since answers come in bursts where
    /// each takes its time.
    last: Option<u128>,
}

impl Pace {
    /// So many requests, or events, began.
    pub(super) fn begins(&mut self, count: usize) {
        self.begun = self.begun.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
    }

    /// Not enough is due, or nothing may go out: how fast it does says nothing.
    pub(super) fn rests(&mut self) {
        *self = Self::default();
    }

    /// Whether what is `due` will last for longer than `seconds`. That shows once it was counted.
    pub(super) fn lasts(&mut self, now: Moment, due: usize, seconds: u128) -> bool {
        let Some(from) = self.from else {
            *self = Self { from: Some(now), ..Self::default() };
            return false;
        };
        let counted = now.since(from);
        if counted >= COUNTED_FOR {
            let last = u128::from(self.begun) * COUNTED_FOR.as_millis() / counted.as_millis().max(1);
            let last = self.last.map_or(last, |before| before.midpoint(last));
            *self = Self { from: Some(now), begun: 0, last: Some(last) };
        }
        self.last.is_some_and(|last| due as u128 > last.max(u128::from(self.begun / 2)) * seconds)
    }

    /// When it may show.
    pub(super) fn shows_at(&self) -> Option<Moment> {
        self.from.map(|from| from.after(COUNTED_FOR))
    }
}
