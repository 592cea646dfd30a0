//! What the figures lead to: when the queue is drained, and how long an outage still fits.

use super::Figures;
use crate::queue::{self, FILE_FACTOR, NoRoom};

/// What an event is taken to need where none is held to tell, in bytes.
const USUAL_EVENT_BYTES: f64 = 1_024.0;
/// A limit that had no room for a submission is reached until more than one part in so many of it is free: a queue that
/// hovers at its limit is full all the while.
const HOVERS: u64 = 64;

/// The names of the limits that are the queue's own.
const EVENTS: &str = "events";
const BYTES: &str = "bytes";

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
            || self.full(figures.pending, figures.held_bytes, figures.no_room).is_some()
    }

    /// Which of the queue's own limits is reached: as good as never to the byte, so the latest submission that it had no
    /// room for counts until there is room for such a one.
    pub(super) fn full(&self, pending: u64, held_bytes: u64, no_room: NoRoom) -> Option<&'static str> {
        let is_full = |held: u64, wanted: u64, most: u64| {
            // A limit that was lowered since may be too low for it at all, and does not count as reached for that.
            let has_no_room = (1..=most).contains(&wanted);
            held >= most || has_no_room && held.saturating_add(wanted.max(most / HOVERS)) > most
        };
        let limits = [
            (EVENTS, is_full(pending, no_room.events, self.max_events)),
            (BYTES, is_full(held_bytes, no_room.bytes, self.max_bytes)),
        ];
        limits.into_iter().find_map(|(name, is_full)| is_full.then_some(name))
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

/// Seconds until a limit is reached if nothing goes out, to thousandths, and which limit that is; 0 only where it is reached
/// already, and `None` where nothing comes in.
pub(super) fn fits(figures: &Figures, limits: &Limits) -> (Option<f64>, &'static str) {
    // The larger one: an outage lasts, and what came in a quarter of an hour ago may come again.
    let rate = figures.rate_in.m1.max(figures.rate_in.m15);
    let held = (figures.pending + figures.dead_held) as f64;
    let each = if held > 0.0 { figures.held_bytes as f64 / held } else { USUAL_EVENT_BYTES };
    let events = limits.max_events.saturating_sub(figures.pending) as f64;
    let bytes = limits.max_bytes.saturating_sub(figures.held_bytes) as f64 / each.max(1.0);
    let free = figures.disk_free_bytes.filter(|_| !figures.lacks_files()).unwrap_or(0);
    let disk = free.saturating_sub(limits.min_free) as f64 / (each.max(1.0) * FILE_FACTOR as f64);
    let full = limits.full(figures.pending, figures.held_bytes, figures.no_room);
    let room = |left, name| (if full == Some(name) { 0.0 } else { left }, name);
    let all = [room(events, EVENTS), room(bytes, BYTES), (disk, "disk")];
    let (left, first) = all.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((0.0, EVENTS));
    let short =
        |seconds: f64| if seconds < 1.0 { (seconds * 1_000.0).ceil() / 1_000.0 } else { seconds.floor() };
    let seconds = if left > 0.0 { (rate > 0.0).then(|| short(left / rate)) } else { Some(0.0) };
    (seconds, first)
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
        assert_eq!(
            fits(&figures(999, 3_000.0, 0.0), &limits),
            (Some(0.001), "events"),
            "to thousandths, and not 0"
        );
    }

    #[test]
    fn a_limit_is_reached_from_a_submission_without_room_until_there_is_room_for_it() {
        let limits = Limits { max_events: 1_000, max_bytes: 64_000, min_free: 0, dead_max_events: 10 };
        let (events, bytes) =
            (|events| NoRoom { times: 1, events, bytes: 0 }, |bytes| NoRoom { times: 1, events: 0, bytes });
        for (pending, held_bytes, no_room, full) in [
            (999, 63_999, NoRoom::default(), None),
            (1_000, 0, NoRoom::default(), Some(EVENTS)),
            (0, 64_000, NoRoom::default(), Some(BYTES)),
            (990, 0, events(50), Some(EVENTS)),
            (951, 0, events(50), Some(EVENTS)),
            (950, 0, events(50), None),
            (0, 63_500, bytes(600), Some(BYTES)),
            // It hovers: one such submission has room, and a few more may have.
            (0, 63_001, bytes(600), Some(BYTES)),
            (0, 63_000, bytes(600), None),
            (0, 34_001, bytes(30_000), Some(BYTES)),
            (0, 34_000, bytes(30_000), None),
            // Of the other limit nothing is known.
            (999, 0, bytes(600), None),
            // The limit was lowered.
            (0, 0, bytes(64_001), None),
        ] {
            assert_eq!(limits.full(pending, held_bytes, no_room), full, "{pending} {held_bytes} {no_room:?}");
            // Whether anything comes in or not.
            let figures = Figures {
                pending,
                held_bytes,
                no_room,
                disk_free_bytes: Some(1 << 40),
                ..Figures::default()
            };
            assert_eq!(limits.reached(&figures), full.is_some());
            assert_eq!(fits(&figures, &limits).0, full.map(|_| 0.0));
        }
    }
}
