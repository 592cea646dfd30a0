//! What moves out of a full journal into the engine.

use std::path::Path;

use super::batch::Batch;
use super::engine::{CommitError, Open, let_go};
use super::{index, salvage};
use crate::failpoint::reach;

/// How many bytes each commit moves at least out of a full journal into the engine: each time takes a sync.
const MOVE_LEAST: usize = 1_024 * 1_024;
/// How many times its own bytes and changes it moves, so that the journal shrinks to its size.
const MOVE_SHARE: usize = 2;
/// What a commit moves for the number of its changes at most, as [`index::cost`] has it: a page of the engine for each takes
/// longer than the commit itself.
const MOVE_FOR_CHANGES: usize = 4 * MOVE_LEAST;
/// How many times as much it moves at most, where the journal is as many times as large as it may be: removals take few of
/// its bytes and much to move, so that what comes may be more than what goes.
const MOVE_TIMES: usize = 8;

impl Open {
    /// Moves what is left of the oldest segments of a full journal into the engine, so much that it does not grow by `batch`.
    pub(super) fn make_room(&self, path: &Path, batch: &Batch) -> Result<(), CommitError> {
        let bytes = MOVE_LEAST.max(batch.bytes().saturating_mul(MOVE_SHARE));
        let changes = index::cost(0, batch.count()).saturating_mul(MOVE_SHARE).min(MOVE_FOR_CHANGES);
        let times = self.journal.times_full().min(MOVE_TIMES);
        let mut max = bytes.saturating_add(changes).saturating_mul(times);
        let mut given_up = false;
        while max > 0 && self.journal.is_full() {
            let removals = self.journal.next_to_remove();
            if !removals.is_empty() {
                max = max.saturating_sub(removals.iter().map(|key| index::cost(key.len(), 1)).sum());
                let mut batch = sled::Batch::default();
                removals.iter().for_each(|key| batch.remove(key.as_slice()));
                self.apply(batch, &[])?;
                // Only now: who finds nothing in the journal believes the engine.
                self.journal.forget_removals(&removals);
                continue;
            }
            let records = self.journal.next_to_move(max);
            if records.is_empty() {
                self.journal.give_up_oldest()?;
                given_up = true;
                continue;
            }
            let (mut batch, mut keys) = (sled::Batch::default(), Vec::new());
            for (key, found) in records {
                max = max.saturating_sub(index::cost(key.len() + found.bytes(), 1));
                match found.value().map_err(sled::Error::Io)? {
                    Some(value) => {
                        keys.push((key.clone(), value.len()));
                        batch.insert(key, value);
                    }
                    None => batch.remove(key),
                }
            }
            self.journal.lie_below(keys.iter().map(|(key, _)| key));
            self.apply(batch, &keys)?;
        }
        // Until a segment is given up the journal has what moved; and the whole log is looked through for its end. Where it cannot
        // be read now, the journal says what it said before, which is as true.
        if given_up && let Ok(place) = salvage::log_end(path) {
            self.journal.engine_reached(place);
        }
        Ok(())
    }

    /// Has the engine apply a batch, which inserts `keys` with values of so many bytes; returns once that is durable.
    fn apply(&self, batch: sled::Batch, keys: &[(Vec<u8>, usize)]) -> Result<(), CommitError> {
        self.db.apply_batch(batch)?;
        reach("journal", "applied");
        // Before the flush: a first look may complete what the batch has begun, and writes that to the log.
        keys.iter().for_each(|(key, bytes)| self.note(key, *bytes));
        // Each batch is durable before the next one begins, which `salvage/sight.rs` counts on, and before the journal gives up
        // what was in it.
        self.flush()?;
        let_go();
        reach("journal", "moved");
        Ok(())
    }
}
