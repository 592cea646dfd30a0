//! Dead letters that are too old (`queue.dead_max_age`): they are looked for page by page, in passes with rests between them.

use std::time::Duration;

use tracing::{info, warn};

use super::blocking;
use crate::event::{Moment, Seq};
use crate::queue::Store;

/// The most dead letters that a look reads.
const LETTERS_A_LOOK: usize = 1_024;
/// How many passes over the dead letters fit into the time that these are kept.
const PASSES: u32 = 20;
/// The longest rest after a pass.
const MAX_REST: Duration = Duration::from_secs(3_600);

/// Where a pass over the dead letters is.
#[derive(Default)]
pub(super) struct Aging {
    /// Where its next page begins.
    from: Seq,
    /// When that is looked at.
    due: Moment,
}

impl Aging {
    /// Deletes those of the next page that are older than `max_age`, if it is due.
    pub(super) async fn delete_old(&mut self, store: &Store, now: Moment, max_age: Duration) {
        if now < self.due {
            return;
        }
        let (reading, from) = (store.clone(), self.from);
        let Ok(letters) = blocking(move || reading.dead_since(from, LETTERS_A_LOOK)).await else { return };
        match letters.last() {
            Some((last, _)) if letters.len() >= LETTERS_A_LOOK => self.from = last.next(),
            _ => *self = Self { from: Seq(0), due: now.after((max_age / PASSES).min(MAX_REST)) },
        }
        let old = letters.iter().filter(|(_, at)| now.since(*at) > max_age);
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
