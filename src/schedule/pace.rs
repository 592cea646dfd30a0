//! How fast requests go out while enough is due.

use std::time::Duration;

use crate::event::Moment;

/// How long is counted.
const COUNTED_FOR: Duration = Duration::from_secs(1);
/// What is due lasts for long if that is as many times what went out meanwhile.
const LONG: u128 = 5;

/// The requests that began since enough was due.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When the count began.
    from: Option<Moment>,
    begun: u32,
    /// How many began in [`COUNTED_FOR`] before that.
    last: Option<u128>,
}

impl Pace {
    /// A request began.
    pub(super) fn begins(&mut self) {
        self.begun = self.begun.saturating_add(1);
    }

    /// Not enough is due: how fast it goes out says nothing.
    pub(super) fn rests(&mut self) {
        *self = Self::default();
    }

    /// Whether what is `due` will last for long. That shows once it was counted.
    pub(super) fn is_slow(&mut self, now: Moment, due: usize) -> bool {
        let counted = now.since(*self.from.get_or_insert(now));
        if counted >= COUNTED_FOR {
            let last = u128::from(self.begun) * COUNTED_FOR.as_millis() / counted.as_millis().max(1);
            *self = Self { from: Some(now), begun: 0, last: Some(last) };
        }
        self.last.is_some_and(|last| due as u128 > last.max(u128::from(self.begun)) * LONG)
    }

    /// When it may show.
    pub(super) fn shows_at(&self) -> Option<Moment> {
        self.from.map(|from| from.after(COUNTED_FOR))
    }
}
