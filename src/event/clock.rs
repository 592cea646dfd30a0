//! The clock of a process.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::Moment;

/// Tells moments that never step: the wall clock of the start, advanced by the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    wall: Moment,
    start: Instant,
}

impl Clock {
    /// Starts from the wall clock.
    #[must_use]
    pub fn start() -> Self {
        Self { wall: Moment::from_micros(wall_micros()), start: Instant::now() }
    }

    /// One that the wall clock has been set on from, by this much.
    #[cfg(test)]
    pub(crate) fn behind(by: Duration) -> Self {
        let Self { wall, start } = Self::start();
        Self { wall: Moment::ZERO.after(wall.since(Moment::ZERO).saturating_sub(by)), start }
    }

    /// The present moment.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.wall.after(self.start.elapsed())
    }

    /// How far the wall clock has been set away from where it would be by itself.
    #[must_use]
    pub fn step(&self) -> Duration {
        Duration::from_micros(wall_micros().abs_diff(self.now().as_micros()))
    }

    /// The wall clock in milliseconds since the Unix epoch, as it is set now.
    #[must_use]
    pub fn wall_ms(&self) -> u64 {
        wall_micros() / 1_000
    }
}

fn wall_micros() -> u64 {
    // A clock before 1970 counts as 1970.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
