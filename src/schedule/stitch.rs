//! Supplemental data ids: which calls of a session Analytics sees as one page view.
//!
//! The first consumer id of a session makes a new id, other consumer ids get the same one, and a consumer id that was
//! used with the current one starts a new one, as Adobe's VisitorId library does it.
//!
//! Guarantees: memory is bounded by `MAX_SESSIONS` sessions of `MAX_CONSUMERS` consumer ids; a session is forgotten
//! `REMEMBERED` after its last use, and earlier, the longest unused first, where there are more.

use std::time::Duration;

use super::Remembered;
use crate::event::{IdHash, Lane, Moment};

/// The most sessions that are remembered.
const MAX_SESSIONS: usize = 100_000;
/// The most consumer ids of one supplemental data id; one more starts a new id.
const MAX_CONSUMERS: usize = 64;
/// How long a session is remembered after its last use.
const REMEMBERED: Duration = Duration::from_secs(30 * 60);

/// The current id of each session.
#[derive(Debug)]
pub struct Stitches(Remembered<Lane, State>);

#[derive(Debug)]
struct State {
    id: String,
    consumers: Vec<IdHash>,
}

impl Default for Stitches {
    fn default() -> Self {
        Self(Remembered::new(MAX_SESSIONS, REMEMBERED))
    }
}

impl Stitches {
    /// The id of a call by `consumer` in the session `lane`: the current one, or `fresh`, which is the current one
    /// then.
    pub fn choose(&mut self, now: Moment, lane: Lane, consumer: IdHash, fresh: &str) -> String {
        let current = self.0.remove(now, &lane);
        let current = current
            .filter(|state| !state.consumers.contains(&consumer) && state.consumers.len() < MAX_CONSUMERS);
        let mut state = current.unwrap_or_else(|| State { id: fresh.to_owned(), consumers: Vec::new() });
        state.consumers.push(consumer);
        let id = state.id.clone();
        self.0.insert(now, lane, state);
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_millis(seconds * 1_000)
    }

    #[test]
    fn ids_follow_the_rule_of_the_visitor_library() {
        let mut stitches = Stitches::default();
        let mut choose = |seconds, lane, consumer, fresh: &str| {
            stitches.choose(at(seconds), Lane(lane), IdHash(consumer), fresh)
        };
        assert_eq!(choose(1, 1, 10, "A"), "A", "the first makes one");
        assert_eq!(choose(2, 1, 11, "B"), "A", "another consumer shares it");
        assert_eq!(choose(2, 2, 10, "C"), "C", "another session has its own");
        assert_eq!(choose(3, 1, 10, "D"), "D", "a consumer that used it starts a new one");
        assert_eq!(choose(4, 1, 11, "E"), "D", "which the others share again");
        assert_eq!(choose(4 + 1_799, 1, 12, "F"), "D", "for half an hour after its last use");
        assert_eq!(choose(4 + 1_799 + 1_800, 1, 13, "G"), "G", "and no longer");
    }

    #[test]
    fn memory_is_bounded() {
        let mut stitches = Stitches::default();
        for lane in 0..MAX_SESSIONS as u128 + 10 {
            stitches.choose(at(1), Lane(lane), IdHash(1), "A");
        }
        assert_eq!(stitches.0.len(), MAX_SESSIONS);
        for consumer in 0..MAX_CONSUMERS as u64 {
            assert_eq!(stitches.choose(at(2), Lane(1 << 100), IdHash(consumer), "B"), "B");
        }
        assert_eq!(stitches.choose(at(2), Lane(1 << 100), IdHash(1_000), "C"), "C");
    }
}
