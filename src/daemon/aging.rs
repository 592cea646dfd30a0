//! Dead letters that are too old (`queue.dead_max_age`): they are looked for page by page, in passes with rests between them.
//!
//! A letter has the moment at which it was set aside, by the clock of its process; what is deleted is gone for good. Where
//! the wall clock was set meanwhile that moment says nothing, so:
//! - an age counts from when the clock was last seen to be set, at the earliest;
//! - a process begins with a rest: a clock that is wrong at boot is set right by then, which is seen.
//!
//! A clock that was set while no process ran, and stays as it is, cannot be told from time that went by.

use std::time::Duration;

use tracing::{info, warn};

use super::blocking;
use crate::event::{Moment, Seq};
use crate::queue::Store;

/// The most dead letters that a look reads.
const LETTERS_A_LOOK: usize = 1_024;
/// How many passes over the dead letters fit into the time that these are kept.
const PASSES: u32 = 20;
/// The longest rest before and after a pass.
const MAX_REST: Duration = Duration::from_secs(3_600);

/// Where a pass over the dead letters is.
pub(super) struct Aging {
    /// When the process began.
    began: Moment,
    /// Where its next page begins.
    from: Seq,
    /// When that is looked at.
    due: Moment,
}

impl Aging {
    /// Before the first page, which is due a rest after the process `began`.
    pub(super) fn after_rest(began: Moment, max_age: Duration) -> Self {
        Self { began, from: Seq(0), due: began.after(rest(max_age)) }
    }

    /// Goes by another age, from the first page on. A process that has rested since it began does not do so again.
    pub(super) fn go_by(&mut self, max_age: Duration) {
        *self = Self::after_rest(self.began, max_age);
    }

    /// Deletes those of the next page that are older than `max_age`, if it is due; `set` is when the clock was last seen
    /// to be set.
    pub(super) async fn delete_old(
        &mut self,
        store: &Store,
        now: Moment,
        set: Option<Moment>,
        max_age: Duration,
    ) {
        if now < self.due {
            return;
        }
        let (reading, from) = (store.clone(), self.from);
        let Ok(letters) = blocking(move || reading.dead_since(from, LETTERS_A_LOOK)).await else { return };
        match letters.last() {
            Some((last, _)) if letters.len() >= LETTERS_A_LOOK => self.from = last.next(),
            _ => *self = Self { from: Seq(0), due: now.after(rest(max_age)), ..*self },
        }
        let old = letters.iter().filter(|(_, at)| age(now, *at, set) > max_age);
        let old: Vec<Seq> = old.map(|(seq, _)| *seq).collect();
        if !old.is_empty() {
            let count = old.len();
            match store.delete_dead(old).await {
                Ok(count) => info!(
                    event = "letters_aged",
                    count, "dead letters older than queue.dead_max_age were deleted"
                ),
                Err(error) => {
                    warn!(event = "letters_kept", %error, count, "old dead letters could not be deleted")
                }
            }
        }
    }
}

/// How long nothing is looked at before and after a pass.
fn rest(max_age: Duration) -> Duration {
    (max_age / PASSES).min(MAX_REST)
}

/// How old a letter surely is that was set aside `at` then.
fn age(now: Moment, at: Moment, set: Option<Moment>) -> Duration {
    let from = match set {
        // By a clock that was ahead, before it was set.
        Some(set) if at > now => set,
        Some(set) => at.max(set),
        None => at,
    };
    now.since(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_is_no_older_than_the_clock_is_right() {
        let day = |days: u64| Moment::ZERO.after(Duration::from_secs(days * 86_400));
        for (at, set, days) in [
            (90, None, 10),
            (110, None, 0),
            (90, Some(95), 5),
            (97, Some(95), 3),
            (110, Some(95), 5),
            (90, Some(100), 0),
        ] {
            let age = age(day(100), day(at), set.map(day));
            assert_eq!(age, Duration::from_secs(days * 86_400), "{at}, {set:?}");
        }
    }

    #[test]
    fn a_pass_begins_after_a_part_of_the_age_and_an_hour_at_most() {
        let seconds = |max_age| {
            let max_age = Duration::from_secs(max_age);
            Aging::after_rest(Moment::ZERO, max_age).due.since(Moment::ZERO).as_secs()
        };
        assert_eq!([20, 3_600, 86_400 * 365].map(seconds), [1, 180, 3_600]);
    }

    /// Whoever makes room for dead letters by a reload does not wait for that.
    #[test]
    fn another_age_begins_no_other_rest() {
        let began = Moment::ZERO.after(Duration::from_secs(100));
        let mut aging = Aging::after_rest(began, Duration::ZERO);
        aging.from = Seq(7);
        aging.due = began.after(MAX_REST * 9);
        aging.go_by(Duration::from_secs(20));
        assert_eq!((aging.from, aging.due), (Seq(0), began.after(Duration::from_secs(1))));
    }
}
