//! The events that were stored, or read, last, kept in memory: what goes out soon after is not read from the disk for
//! that.
//!
//! Guarantees:
//! - only what is on stable storage is here, and it is what the disk holds, byte for byte;
//! - what is settled is not here any more, but for what was being read meanwhile;
//! - memory is bounded: what was read, by [`MAX_RECENT_BYTES`]; what was stored, by as much or by what the scheduler's
//!   index left of its memory when it last said so, whichever is more. What has no room is read from the disk like all
//!   others.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::time::Duration;
use std::vec::IntoIter;

use super::pages::FoundPages;
use crate::event::{Event, Moment, Seq};

/// What the events that were read last may hold together, in bytes; and those that were stored last, where nothing is
/// to spare.
pub(super) const MAX_RECENT_BYTES: usize = 4 * 1_024 * 1_024;

/// What an event takes beside its notification and its envelope, in bytes.
const EVENT_BYTES: usize = 256;
/// What its place takes, in bytes, until all events of its run are gone.
const PLACE_BYTES: usize = size_of::<Option<Event>>();
/// The most events of a run.
const RUN_EVENTS: usize = 64;
/// The most bytes of a run, but for a last event that goes beyond.
const RUN_BYTES: usize = 64 * 1_024;

/// How long an event that was stored keeps its place while newer ones want it: most events have gone out by then. Until
/// then it is the newer ones that get no place, since they go out later.
const KEPT_FOR: Duration = Duration::from_secs(10);

/// The events that were stored last, and those that were read last for what goes out next, with their pages.
#[derive(Debug, Default)]
pub(super) struct Kept {
    stored: Recent,
    read: Recent,
    /// What the index leaves of its memory, in bytes.
    spare: usize,
    pub(super) pages: FoundPages,
}

impl Kept {
    /// Keeps what was just stored, as far as there is room.
    pub(super) fn add_stored(&mut self, events: Vec<Event>) {
        let most = self.most_stored();
        self.stored.add(events, most, KEPT_FOR);
    }

    /// Keeps what was just read; the first ones go for that.
    pub(super) fn add_read(&mut self, events: Vec<Event>) {
        self.read.add(events, MAX_RECENT_BYTES, Duration::ZERO);
    }

    /// From now on `bytes` are to spare; what was stored last is given up for that, since it goes out last.
    pub(super) fn spare(&mut self, bytes: usize) {
        self.spare = bytes;
        self.stored.trim(self.most_stored());
    }

    fn most_stored(&self) -> usize {
        self.spare.max(MAX_RECENT_BYTES)
    }

    /// Takes an event out, if it is here: where it is needed a second time it is read from the disk.
    pub(super) fn take(&mut self, seq: Seq) -> Option<Event> {
        // Of both: what was stored lately may also have been read.
        let read = self.read.take(seq);
        self.stored.take(seq).or(read)
    }

    /// Settled events are needed no more.
    pub(super) fn forget(&mut self, settled: &[Seq]) {
        settled.iter().for_each(|seq| drop(self.take(*seq)));
    }

    #[cfg(test)]
    pub(super) fn forget_read(&mut self) {
        self.read = Recent::default();
    }
}

/// Events by their runs, of which no two overlap: each is found by the first of its run, and goes when all of it were
/// taken.
#[derive(Debug, Default)]
struct Recent {
    runs: BTreeMap<Seq, Run>,
    bytes: usize,
}

/// Consecutive events; those that were taken out leave their places empty.
#[derive(Debug)]
struct Run {
    places: Vec<Option<Event>>,
    left: usize,
    bytes: usize,
    /// When its first event arrived.
    arrived: Moment,
}

impl Run {
    /// The next run of `events`, by its first event.
    fn cut(events: &mut Peekable<IntoIter<Event>>) -> Option<(Seq, Self)> {
        let first = events.next()?;
        let (seq, arrived) = (first.seq, first.arrived);
        let (mut bytes, mut next) = (PLACE_BYTES + kept_bytes(&first), seq.next());
        let mut places = Vec::with_capacity(RUN_EVENTS.min(1 + events.len()));
        places.push(Some(first));
        while places.len() < RUN_EVENTS
            && bytes < RUN_BYTES
            && let Some(event) = events.next_if(|event| event.seq == next)
        {
            bytes += PLACE_BYTES + kept_bytes(&event);
            next = next.next();
            places.push(Some(event));
        }
        // It may have come to an end early, and stays as it is.
        places.shrink_to_fit();
        Some((seq, Self { left: places.len(), places, bytes, arrived }))
    }
}

impl Recent {
    /// Keeps events as far as they have room in `most`; the first ones go for them that arrived `kept_for` before.
    fn add(&mut self, events: Vec<Event>, most: usize, kept_for: Duration) {
        let mut events = events.into_iter().peekable();
        while let Some((first, run)) = Run::cut(&mut events) {
            let after = self.bytes + run.bytes;
            if after <= most || self.make_room(after - most, run.arrived, kept_for) {
                self.bytes += run.bytes;
                let before = self.runs.insert(first, run);
                self.bytes -= before.map_or(0, |run| run.bytes);
            }
        }
    }

    /// Gives up the first runs, as long as they arrived `kept_for` before `now`, until `wanted` bytes are free.
    fn make_room(&mut self, wanted: usize, now: Moment, kept_for: Duration) -> bool {
        let Some(goal) = self.bytes.checked_sub(wanted) else { return false };
        while self.bytes > goal {
            let Some(first) = self.runs.first_entry() else { break };
            if now.since(first.get().arrived) < kept_for {
                break;
            }
            self.bytes -= first.remove().bytes;
        }
        self.bytes <= goal
    }

    fn trim(&mut self, most: usize) {
        while self.bytes > most
            && let Some((_, last)) = self.runs.pop_last()
        {
            self.bytes -= last.bytes;
        }
    }

    fn take(&mut self, seq: Seq) -> Option<Event> {
        let (first, run) = self.runs.range_mut(..=seq).next_back()?;
        let at = usize::try_from(seq.0 - first.0).ok()?;
        let event = run.places.get_mut(at)?.take()?;
        let bytes = kept_bytes(&event);
        (run.left, run.bytes, self.bytes) = (run.left - 1, run.bytes - bytes, self.bytes - bytes);
        if run.left == 0 {
            let first = *first;
            self.bytes -= self.runs.remove(&first).map_or(0, |run| run.bytes);
        }
        Some(event)
    }
}

/// What an event takes here beside its place, in bytes.
pub(super) fn kept_bytes(event: &Event) -> usize {
    EVENT_BYTES + event.notification.len() + event.envelope.members.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::defaults::Defaults;
    use crate::wire::submission::Submission;
    use std::sync::Arc;

    fn event(seq: u64) -> Event {
        let line = br#"{"session_id":"s","type":"click","id":"x"}"#;
        let read = Submission::parse(line, &Defaults::default(), 0).unwrap();
        let one = read.notifications.into_iter().next().unwrap();
        let (id, notification, envelope) = (one.id, one.json, Arc::clone(&read.envelope));
        Event { seq: Seq(seq), id, arrived: Moment::ZERO, notification, envelope }
    }

    /// How many runs of these events, all of [`RUN_EVENTS`], have room in [`MAX_RECENT_BYTES`].
    fn most() -> u64 {
        let run = RUN_EVENTS * (PLACE_BYTES + kept_bytes(&event(1)));
        (MAX_RECENT_BYTES / run) as u64
    }

    /// The events of the runs from `first` up to `last`.
    fn runs(first: u64, last: u64) -> Vec<Event> {
        let each = RUN_EVENTS as u64;
        (first * each..(last + 1) * each).map(event).collect()
    }

    /// Of which runs events are there, up to `last`; of each all or none.
    fn taken(kept: &mut Kept, last: u64) -> Vec<u64> {
        let each = RUN_EVENTS as u64;
        let mut there =
            |run| (run * each..(run + 1) * each).filter(|seq| kept.take(Seq(*seq)).is_some()).count();
        (0..=last)
            .filter(|run| {
                let count = there(*run);
                assert!(count == 0 || count == RUN_EVENTS, "{count} of run {run}");
                count > 0
            })
            .collect()
    }

    #[test]
    fn of_what_was_read_the_first_goes_first() {
        let mut kept = Kept::default();
        kept.add_read(runs(0, most() + 1));
        assert!(kept.read.bytes <= MAX_RECENT_BYTES);
        assert_eq!(taken(&mut kept, most() + 9), (2..most() + 2).collect::<Vec<_>>());
        assert_eq!((kept.read.bytes, kept.read.runs.len()), (0, 0), "what was taken leaves nothing");
    }

    #[test]
    fn an_event_is_there_once() {
        let mut kept = Kept::default();
        for _ in 0..2 {
            kept.add_read((1..4).chain(6..9).map(event).collect());
        }
        assert_eq!((kept.take(Seq(7)), kept.take(Seq(7)), kept.take(Seq(5))), (Some(event(7)), None, None));
        assert_eq!((kept.take(Seq(0)), kept.take(Seq(9))), (None, None));
        assert!([1, 2, 3, 6, 8].map(Seq).into_iter().all(|seq| kept.take(seq).is_some()));
        assert_eq!((kept.read.bytes, kept.read.runs.len()), (0, 0));
    }

    #[test]
    fn of_what_was_stored_the_first_stays_until_it_is_old() {
        let mut kept = Kept::default();
        kept.add_stored(runs(0, most() + 1));
        assert_eq!(taken(&mut kept, most() + 9), (0..most()).collect::<Vec<_>>());
        let at = |millis: u64| move |event| Event { arrived: Moment::from_millis(millis), ..event };
        kept.add_stored(runs(0, most() - 1).into_iter().map(at(1)).collect());
        kept.add_stored(runs(most(), most()).into_iter().map(at(10_000)).collect());
        kept.add_stored(runs(most() + 1, most() + 2).into_iter().map(at(10_001)).collect());
        let there: Vec<u64> = (2..most()).chain([most() + 1, most() + 2]).collect();
        assert_eq!(taken(&mut kept, most() + 9), there);
    }

    #[test]
    fn what_the_index_leaves_is_for_what_was_stored() {
        let mut kept = Kept::default();
        kept.spare(2 * MAX_RECENT_BYTES);
        kept.add_stored(runs(0, 2 * most() - 1));
        kept.add_read(runs(0, 2 * most() - 1));
        assert_eq!((kept.read.runs.len() as u64, kept.stored.runs.len() as u64), (most(), 2 * most()));
        // It is taken back: those that go out last are given up.
        kept.spare(0);
        assert!(kept.stored.bytes <= MAX_RECENT_BYTES);
        kept.forget_read();
        assert_eq!(taken(&mut kept, 3 * most()), (0..most()).collect::<Vec<_>>());
    }

    #[test]
    fn what_has_no_room_alone_is_not_kept() {
        let mut kept = Kept::default();
        let large = |seq| Event { notification: vec![b'x'; RUN_BYTES].into(), ..event(seq) };
        kept.add_stored(vec![large(1), large(2)]);
        assert_eq!(kept.stored.runs.len(), 2, "a run ends with an event that is as large");
        let huge = Event { notification: vec![b'x'; MAX_RECENT_BYTES].into(), ..event(20_000) };
        kept.add_stored(vec![huge.clone()]);
        kept.add_read(vec![event(7)]);
        kept.add_read(vec![huge]);
        assert_eq!([1, 2, 7, 20_000].map(|seq| kept.take(Seq(seq)).is_some()), [true, true, true, false]);
    }

    #[test]
    fn what_has_gaps_takes_no_more_than_it_is_counted_with() {
        let mut kept = Kept::default();
        kept.add_read((1..100).step_by(2).map(event).collect());
        assert_eq!(kept.read.runs.len(), 50);
        assert!(kept.read.runs.values().all(|run| run.places.capacity() == 1));
    }

    #[test]
    fn an_event_that_was_stored_and_read_is_handed_out_once() {
        let mut kept = Kept::default();
        kept.add_stored((1..4).map(event).collect());
        kept.add_read((2..6).map(event).collect());
        let taken = [1, 2, 5, 2, 9].map(|seq| kept.take(Seq(seq)).map(|event| event.seq.0));
        assert_eq!(taken, [Some(1), Some(2), Some(5), None, None]);
        kept.forget(&[Seq(3), Seq(4)]);
        assert_eq!((kept.take(Seq(3)), kept.take(Seq(4))), (None, None));
    }
}
