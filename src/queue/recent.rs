//! The events that were stored, or read, last, kept in memory: what goes out soon after is not read from the disk for that.
//!
//! Guarantees:
//! - only what is on stable storage is here, and it is what the disk holds, byte for byte;
//! - what is settled is not here any more, but for what was being read meanwhile;
//! - memory is bounded, by [`MAX_RECENT_BYTES`] for each of both; beyond it the first ones go, and are read from the disk like
//!   all others.

use std::collections::VecDeque;

use super::pages::FoundPages;
use crate::event::{Event, Seq};

/// What the events kept here may hold together, in bytes.
pub const MAX_RECENT_BYTES: usize = 4 * 1_024 * 1_024;

/// What an event takes beside its notification and its envelope, or did take: its place stays until all before it are gone.
const PLACE_BYTES: usize = 192;

/// So many numbers in a row may be left out; what comes behind more begins anew.
const MAX_GAP: usize = 4_096;

/// The events that were stored last, and those that were read last for what goes out next, with their pages.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) stored: Recent,
    pub(super) read: Recent,
    pub(super) pages: FoundPages,
}

impl Kept {
    /// Takes an event out, if it is here: who needs it a second time reads it from the disk.
    pub(super) fn take(&mut self, seq: Seq) -> Option<Event> {
        // Of both: what was stored lately may have been read, too.
        let read = self.read.take(seq);
        self.stored.take(seq).or(read)
    }

    /// Events that are settled, whoever did it, are wanted by nobody any more.
    pub(super) fn forget(&mut self, settled: &[Seq]) {
        settled.iter().for_each(|seq| drop(self.take(*seq)));
    }
}

/// Consecutive events; those that were taken out leave their places empty.
#[derive(Debug, Default)]
pub(super) struct Recent {
    first: Seq,
    places: VecDeque<Option<Event>>,
    bytes: usize,
}

impl Recent {
    /// Keeps events that follow those that it was given last: between them there may be some that are not wanted.
    pub(super) fn add(&mut self, events: Vec<Event>) {
        for event in events {
            let gap = self.at(event.seq).and_then(|at| at.checked_sub(self.places.len()));
            match gap.filter(|gap| *gap <= MAX_GAP) {
                Some(gap) => {
                    self.bytes += gap * PLACE_BYTES;
                    self.places.extend(std::iter::repeat_n(None, gap));
                }
                None => *self = Self { first: event.seq, ..Self::default() },
            }
            self.bytes += kept_bytes(&event);
            self.places.push_back(Some(event));
            self.trim();
        }
    }

    fn trim(&mut self) {
        while self.bytes > MAX_RECENT_BYTES || self.places.front().is_some_and(Option::is_none) {
            let Some(place) = self.places.pop_front() else { break };
            self.bytes = self.bytes.saturating_sub(place.as_ref().map_or(PLACE_BYTES, kept_bytes));
            self.first = self.first.next();
        }
    }

    fn take(&mut self, seq: Seq) -> Option<Event> {
        let at = self.at(seq)?;
        let event = self.places.get_mut(at)?.take()?;
        self.bytes = self.bytes.saturating_sub(payload(&event));
        Some(event)
    }

    fn at(&self, seq: Seq) -> Option<usize> {
        usize::try_from(seq.0.checked_sub(self.first.0)?).ok()
    }
}

/// What an event takes here, in bytes.
pub(super) fn kept_bytes(event: &Event) -> usize {
    PLACE_BYTES + payload(event)
}

fn payload(event: &Event) -> usize {
    event.notification.len() + event.envelope.members.len()
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
        Event { seq: Seq(seq), id, arrived: crate::event::Moment::ZERO, notification, envelope }
    }

    #[test]
    fn an_event_is_there_once_and_the_oldest_go_first() {
        let mut recent = Recent::default();
        recent.add((5..8).map(event).collect());
        assert_eq!(recent.take(Seq(6)), Some(event(6)));
        assert_eq!((recent.take(Seq(6)), recent.take(Seq(4)), recent.take(Seq(8))), (None, None, None));
        recent.add(vec![event(8)]);
        assert_eq!((recent.take(Seq(5)), recent.take(Seq(8))), (Some(event(5)), Some(event(8))));
        let each = PLACE_BYTES + payload(&event(1));
        let most = (MAX_RECENT_BYTES / each) as u64;
        recent.add((9..=9 + most).map(event).collect());
        assert!(recent.bytes <= MAX_RECENT_BYTES && recent.places.len() as u64 <= most);
        assert_eq!((recent.take(Seq(7)), recent.take(Seq(9 + most))), (None, Some(event(9 + most))));
    }

    #[test]
    fn an_event_that_was_stored_and_read_is_handed_out_once() {
        let mut kept = Kept::default();
        kept.stored.add((1..4).map(event).collect());
        kept.read.add((2..6).map(event).collect());
        let taken = [1, 2, 5, 2, 9].map(|seq| kept.take(Seq(seq)).map(|event| event.seq.0));
        assert_eq!(taken, [Some(1), Some(2), Some(5), None, None]);
        kept.forget(&[Seq(3), Seq(4)]);
        assert_eq!((kept.take(Seq(3)), kept.take(Seq(4))), (None, None));
    }

    #[test]
    fn a_gap_is_left_and_what_does_not_follow_begins_anew() {
        let mut recent = Recent::default();
        recent.add(vec![event(1), event(4)]);
        recent.add(vec![event(7)]);
        assert_eq!(
            (recent.take(Seq(3)), recent.take(Seq(4)), recent.places.len()),
            (None, Some(event(4)), 7)
        );
        for other in [6, 8 + MAX_GAP as u64 + 1] {
            recent.add(vec![event(other)]);
            assert_eq!((recent.take(Seq(7)), recent.take(Seq(other))), (None, Some(event(other))));
            assert_eq!(recent.places.len(), 1);
            recent.add(vec![event(7)]);
        }
    }
}
