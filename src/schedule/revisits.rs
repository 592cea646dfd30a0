//! Whether it pays to read far ahead: how often sessions come again.
//!
//! Events of one session go out in one request if they are known together, and each request costs as much as reading
//! many events. So where sessions come again and again it is read as far as the index reaches. Where they hardly do,
//! what is read early is read twice: for the index, and when it goes out.

use std::collections::BTreeMap;

use crate::event::{Entry, Lane, Seq};

/// One session in this many is watched.
const WATCHED: u128 = 16;
/// The most watched sessions; at the limit watching starts afresh.
const MOST: usize = 8_192;
/// A session that comes again after more events than this was not worth waiting for; the index holds about as many.
const FAR: u64 = 131_072;
/// A request costs as much as reading this many events ahead of time.
const REQUEST_COST: u32 = 12;
/// After this many watched events both counts are halved, so that old ones weigh less.
const HALVED_AT: u32 = 1_024;

/// What was seen of some sessions.
#[derive(Debug, Default)]
pub(super) struct Revisits {
    /// The last event of each.
    last: BTreeMap<Lane, Seq>,
    /// Their events, and how often one of an earlier reading could have waited for them.
    events: u32,
    again: u32,
}

impl Revisits {
    /// Takes note of what one reading found.
    pub(super) fn note(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first().map(|entry| entry.seq) else { return };
        for entry in entries.iter().filter(|entry| entry.lane.0.is_multiple_of(WATCHED)) {
            if self.last.len() >= MOST {
                self.last.clear();
            }
            let before = self.last.insert(entry.lane, entry.seq);
            let again = before.is_some_and(|last| last < first && entry.seq.0.saturating_sub(last.0) <= FAR);
            self.again += u32::from(again);
            self.events += 1;
            if self.events >= HALVED_AT {
                self.again /= 2;
                self.events /= 2;
            }
        }
    }

    /// Whether reading on makes more of fewer requests than it costs.
    pub(super) fn are_frequent(&self) -> bool {
        self.again * REQUEST_COST > self.events
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Fingerprint, IdHash, Moment, Owner};

    /// The events of one reading after the other: `each` of a session in a row, of `sessions` in turn.
    fn readings(sessions: u64, each: u64, events: u64) -> Vec<Vec<Entry>> {
        let entry = |number: u64| Entry {
            seq: Seq(number + 1),
            lane: Lane(u128::from(number / each % sessions)),
            envelope: Fingerprint(1),
            id: IdHash(number),
            arrived: Moment::ZERO,
            cluster: None,
            owner: Owner(0),
            visitor: None,
            bytes: 100,
        };
        let entries: Vec<Entry> = (0..events).map(entry).collect();
        entries.chunks(1_000).map(<[Entry]>::to_vec).collect()
    }

    fn frequent(sessions: u64, each: u64, events: u64) -> bool {
        let mut revisits = Revisits::default();
        readings(sessions, each, events).iter().for_each(|reading| revisits.note(reading));
        assert!(revisits.last.len() <= MOST && revisits.events < HALVED_AT);
        revisits.are_frequent()
    }

    #[test]
    fn sessions_that_come_again_are_told_from_those_that_do_not() {
        assert!(frequent(300, 1, 10_000), "each comes again three times a reading");
        assert!(frequent(20_000, 1, 100_000) && frequent(2_000, 5, 100_000));
        assert!(!frequent(1_000_000, 1, 400_000), "none comes again");
        assert!(!frequent(1_000_000, 10, 400_000), "all of a session are together");
        assert!(!frequent(200_000, 1, 500_000), "they come again after more events than the index holds");
        assert!(!frequent(20, 50, 20_000), "few requests would be spared");
        assert!(!Revisits::default().are_frequent());
    }

    #[test]
    fn what_was_long_ago_counts_no_more() {
        let mut revisits = Revisits::default();
        readings(300, 1, 20_000).iter().for_each(|reading| revisits.note(reading));
        assert!(revisits.are_frequent());
        readings(1_000_000, 1, 100_000).iter().skip(1).for_each(|reading| revisits.note(reading));
        assert!(!revisits.are_frequent());
    }
}
