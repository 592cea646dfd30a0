//! What the figures lead to: when the queue is drained, and how long an outage still fits.

use super::Figures;
use crate::queue::{self, FILE_FACTOR};

/// What an event is taken to need where none is held to tell, in bytes.
const USUAL_EVENT_BYTES: f64 = 1_024.0;

/// What may be held in the queue, and what it needs free.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most events that wait (`queue.max_events`).
    pub max_events: u64,
    /// The most bytes (`queue.max_bytes`).
    pub max_bytes: u64,
    /// The free bytes of the disk below which nothing is taken in (`queue.min_free`).
    pub min_free: u64,
    /// The most dead letters (`queue.dead_max_events`).
    pub dead_max_events: u64,
}

impl Limits {
    /// The limits that `settings` set.
    pub(crate) fn of(settings: &queue::Settings) -> Self {
        let queue::Settings { max_events, max_bytes, min_free, dead_max_events, .. } = *settings;
        Self { max_events, max_bytes, min_free, dead_max_events }
    }

    /// Whether producers are answered `storage_full` or `queue_full`.
    #[must_use]
    pub fn reached(&self, figures: &Figures) -> bool {
        figures.disk_free_bytes.is_some_and(|free| free < self.min_free)
            || figures.lacks_files()
            || figures.pending >= self.max_events
            || figures.held_bytes >= self.max_bytes
    }
}

/// Seconds until nothing waits, at the rates of the last minute.
pub(super) fn drained(figures: &Figures) -> Option<f64> {
    if figures.pending == 0 {
        return Some(0.0);
    }
    let rate = figures.rate_out.m1 - figures.rate_in.m1;
    (rate > 0.0).then(|| (figures.pending as f64 / rate).ceil())
}

/// Seconds until a limit is reached if nothing goes out, and which limit that is; 0 only where it is reached already,
/// and `None` where nothing comes in.
pub(super) fn fits(figures: &Figures, limits: &Limits) -> (Option<f64>, &'static str) {
    // The larger one: an outage lasts, and what came in a quarter of an hour ago may come again.
    let rate = figures.rate_in.m1.max(figures.rate_in.m15);
    let held = (figures.pending + figures.dead_held) as f64;
    let each = if held > 0.0 { figures.held_bytes as f64 / held } else { USUAL_EVENT_BYTES };
    let events = limits.max_events.saturating_sub(figures.pending) as f64;
    let bytes = limits.max_bytes.saturating_sub(figures.held_bytes) as f64 / each.max(1.0);
    let free = figures.disk_free_bytes.filter(|_| !figures.lacks_files()).unwrap_or(0);
    let disk = free.saturating_sub(limits.min_free) as f64 / (each.max(1.0) * FILE_FACTOR as f64);
    let all = [(events, "events"), (bytes, "bytes"), (disk, "disk")];
    let (left, first) = all.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((0.0, "events"));
    let whole = |seconds: f64| if seconds < 1.0 { seconds } else { seconds.floor() };
    ((rate > 0.0).then(|| whole(left / rate)), first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Rates;
    use crate::queue::MIN_FREE_FILES;

    fn figures(pending: u64, into: f64, out: f64) -> Figures {
        let rates = |rate| Rates { m1: rate, m5: rate, m15: rate };
        Figures {
            pending,
            rate_in: rates(into),
            rate_out: rates(out),
            held_bytes: pending * 100,
            disk_free_bytes: Some(1 << 40),
            ..Figures::default()
        }
    }

    #[test]
    fn the_forecast_is_a_matter_of_rates_and_room() {
        for (pending, into, out, expected) in [
            (0, 5.0, 0.0, Some(0.0)),
            (100, 5.0, 15.0, Some(10.0)),
            (100, 5.0, 5.0, None),
            (100, 0.0, 0.0, None),
        ] {
            assert_eq!(drained(&figures(pending, into, out)), expected, "{pending} {into} {out}");
        }
        let limits = Limits { max_events: 1_000, max_bytes: 50_000, min_free: 1 << 30, dead_max_events: 10 };
        // 100 bytes each: 40,000 bytes are left for 400 events, and 900 more may wait.
        assert_eq!(fits(&figures(100, 4.0, 0.0), &limits), (Some(100.0), "bytes"));
        let limits = Limits { max_bytes: u64::MAX, ..limits };
        assert_eq!(fits(&figures(100, 4.0, 0.0), &limits), (Some(225.0), "events"));
        let full = Figures { disk_free_bytes: Some(1 << 29), ..figures(100, 4.0, 0.0) };
        assert_eq!(fits(&full, &limits), (Some(0.0), "disk"));
        for (files, is_full) in
            [(None, false), (Some(MIN_FREE_FILES), false), (Some(MIN_FREE_FILES - 1), true)]
        {
            let figures = Figures { disk_free_files: files, ..figures(100, 4.0, 0.0) };
            let expected = if is_full { (Some(0.0), "disk") } else { (Some(225.0), "events") };
            assert_eq!((fits(&figures, &limits), limits.reached(&figures)), (expected, is_full), "{files:?}");
        }
        assert_eq!(fits(&figures(100, 0.0, 0.0), &limits).0, None);
        assert_eq!(fits(&figures(999, 4.0, 0.0), &limits), (Some(0.25), "events"));
        assert_eq!(fits(&figures(2_000, 1.0, 0.0), &limits), (Some(0.0), "events"));
    }
}
