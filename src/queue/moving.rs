//! What leaves the oldest segments of a full journal: it moves into the engine, or to the journal's end.

use std::path::Path;

use super::batch::Batch;
use super::commit_error::{CommitError, is_full};
use super::engine::{NOTES_OF_WRITTEN, Open, let_go};
use super::index::Found;
use super::journal::JournalError;
use super::keys::META;
use super::{index, salvage};
use crate::failpoint::reach;

/// How many bytes each commit moves at least out of a full journal into the engine: each time takes a sync.
const MOVE_LEAST: usize = 1_024 * 1_024;
/// How many times its own bytes and changes a commit moves, so that the journal shrinks to its size.
const MOVE_SHARE: usize = 2;
/// The most that a commit moves for its number of changes ([`index::cost`]): an engine page for each takes longer than
/// the commit.
const MOVE_FOR_CHANGES: usize = 4 * MOVE_LEAST;
/// How many times as much it moves at most where the journal is larger than it may be. Removals are small in the
/// journal and costly to move: with less, more could come than goes.
const MOVE_TIMES: usize = 8;
/// On a disk short of room a segment is given up only if moving its values costs less than this ([`index::cost`]);
/// otherwise the engine takes more room than is won.
const LITTLE: usize = 64 * 1_024;
/// What it costs to see that the engine has made a removal already.
const MADE_COST: usize = 64;

/// When the engine makes the removals that the journal has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removals {
    /// As soon as there are enough of them: what they remove was read lately, and is in the engine's cache still.
    Soon,
    /// Not before the journal is full: the disk may have no room for them.
    Late,
}

impl Open {
    /// Has the engine make removals, and moves what is left of the oldest segments of a full journal: enough that it
    /// does not grow by `batch`. On a disk that is short of room the engine gets what costs `room` at most ([`index::cost`]),
    /// and the journal may stay as large as it is: nobody appends to it then.
    pub(super) fn make_room(
        &self,
        path: &Path,
        batch: &Batch,
        removals: Removals,
        room: usize,
    ) -> Result<(), CommitError> {
        let bytes = MOVE_LEAST.max(batch.bytes().saturating_mul(MOVE_SHARE));
        let changes = index::cost(0, batch.count()).saturating_mul(MOVE_SHARE).min(MOVE_FOR_CHANGES);
        let times = self.journal.times_full().clamp(1, MOVE_TIMES);
        let least = bytes.saturating_add(changes);
        let is_short = removals == Removals::Late;
        // Where events are taken in there is room for the least, but perhaps not for many times as much.
        let room = if is_short { room } else { room.max(least) };
        let mut max = least.saturating_mul(times).min(room);
        let mut given_up = false;
        while max > 0 && (removals == Removals::Soon || self.journal.is_full()) {
            let keys = self.journal.next_to_remove();
            if !keys.is_empty() {
                max = max.saturating_sub(self.remove(&keys)?);
                continue;
            }
            if !self.journal.is_full() || (is_short && !self.journal.oldest_fits(room)) {
                break;
            }
            let records = self.journal.next_to_move(max);
            if records.is_empty() {
                if self.journal.has_just_kept() {
                    break;
                }
                self.journal.give_up_oldest()?;
                given_up = true;
                continue;
            }
            max = max.saturating_sub(self.move_on(records, removals)?);
        }
        if given_up {
            // The segments went behind a commit that came before: what moved is durable. The next ones go by what is
            // told now.
            self.tell_end(path)?;
        }
        Ok(())
    }

    /// Gives back what the oldest segments take of a disk that is short of room, however small the journal is: those of
    /// which little counts any more. That moves into the engine, and where removals wait, to the journal's end.
    pub(super) fn give_back(&self, path: &Path, removals: Removals) -> Result<(), CommitError> {
        if removals == Removals::Late {
            while let Some(left) = self.journal.left_of_oldest() {
                // In this order: what counts is on stable storage at the end, and so is another commit behind it, before
                // its segment goes. A crash in between leaves it twice, not a loss.
                let goes_on = if left.records > 0 { self.keep_rest()? } else { self.give_up(path)? };
                if !goes_on {
                    break;
                }
            }
            self.journal.begin_next();
            return Ok(());
        }
        let mut max = MOVE_FOR_CHANGES;
        while max > 0 && self.journal.left_of_oldest().is_some_and(|left| left.values_cost < LITTLE) {
            let records = self.journal.next_to_move(max);
            if !records.is_empty() {
                max = max.saturating_sub(self.move_on(records, Removals::Late)?);
            } else if !self.give_up(path)? {
                break;
            }
        }
        self.journal.begin_next();
        Ok(())
    }

    /// Writes what counts of the oldest segment once more, at the journal's end. `false` where it is too much, or the
    /// full disk has no room for it.
    fn keep_rest(&self) -> Result<bool, CommitError> {
        let mut rest = Batch::default();
        for (key, found) in self.journal.rest_of_oldest(LITTLE) {
            match found.value().map_err(sled::Error::Io)? {
                Some(value) => rest.insert(key, &*value),
                None => rest.remove(key),
            }
        }
        if rest.count() == 0 {
            return Ok(false);
        }
        match self.journal.keep(rest) {
            Err(JournalError::Write(error)) if is_full(&error) => return Ok(false),
            kept => kept?,
        }
        reach("journal", "kept");
        Ok(true)
    }

    /// Gives the oldest segment up where no other commit may follow for long: while producers are turned away. `false`
    /// where the commit that has to come before finds no room on the full disk, or nothing to tell: then the segment
    /// stays.
    fn give_up(&self, path: &Path) -> Result<bool, CommitError> {
        if self.journal.needs_commit() {
            if !self.tell_end(path)? {
                return Ok(false);
            }
            match self.journal.commit(Batch::default()) {
                Err(JournalError::Write(error)) if is_full(&error) => {
                    // It told nobody, and the next try has to.
                    self.journal.engine_grows();
                    return Ok(false);
                }
                done => done?,
            }
        }
        self.journal.give_up_oldest()?;
        Ok(true)
    }

    /// Has the next commit say how far the engine's log reaches: until a segment is given up the journal has what
    /// moved. `false` where that cannot be read now: then the journal says what it said before, which is as true.
    fn tell_end(&self, path: &Path) -> Result<bool, CommitError> {
        // The whole log is looked through for its end.
        let Ok(place) = salvage::log_end(path) else { return Ok(false) };
        // What was read may be in the system's memory only: the engine also writes for its readers.
        self.log.sync_data()?;
        self.journal.engine_reached(place);
        Ok(true)
    }

    /// Has the engine remove `keys`, each with whether it may have done so before the start; what that costs.
    fn remove(&self, keys: &[(Vec<u8>, bool)]) -> Result<usize, CommitError> {
        let (mut cost, mut batch, mut removes) = (0, sled::Batch::default(), false);
        for (key, is_made) in keys {
            // A start reads those again that were made. What is not there is durably so: each batch is, before this
            // looks.
            if *is_made && !self.db.contains_key(key)? {
                cost += MADE_COST;
                continue;
            }
            cost += index::cost(key.len(), 1);
            batch.remove(key.as_slice());
            removes = true;
        }
        if removes {
            self.apply(batch, &[])?;
        }
        // Only now: a reader that finds nothing in the journal believes the engine.
        self.journal.forget_removals(keys.iter().map(|(key, _)| key.as_slice()));
        Ok(cost)
    }

    /// Moves records of the oldest segment; what that costs.
    fn move_on(&self, records: Vec<(Vec<u8>, Found)>, removals: Removals) -> Result<usize, CommitError> {
        // On a disk that is short of room the engine may have some, and the journal's end has none.
        let stays = removals == Removals::Soon && self.journal.may_keep();
        let (mut cost, mut kept) = (0, Batch::default());
        let (mut batch, mut keys, mut removes) = (sled::Batch::default(), Vec::new(), false);
        for (key, found) in self.journal.metas_to_move().into_iter().chain(records) {
            cost += index::cost(key.len() + found.bytes(), 1);
            match found.value().map_err(sled::Error::Io)? {
                // What belongs to the whole queue is in the engine whenever anything is.
                Some(value) if stays && key.first() != Some(&META) => kept.insert(key, &*value),
                Some(value) => {
                    keys.push((key.clone(), value.len()));
                    batch.insert(key, &*value);
                }
                None => {
                    removes = true;
                    batch.remove(key);
                }
            }
        }
        // Both are durable before their segment goes.
        if kept.count() > 0 {
            self.journal.keep(kept)?;
        }
        if removes || !keys.is_empty() {
            self.journal.lie_below(keys.iter().map(|(key, _)| key));
            self.apply(batch, &keys)?;
        }
        Ok(cost)
    }

    /// Has the engine apply a batch, which inserts `keys`, each with the length of its value; returns once that is
    /// durable.
    fn apply(&self, batch: sled::Batch, keys: &[(Vec<u8>, usize)]) -> Result<(), CommitError> {
        self.journal.engine_grows();
        self.db.apply_batch(batch)?;
        reach("journal", "applied");
        // Before the flush: a first look may complete what the batch has begun, and writes that to the log.
        keys.iter().for_each(|(key, bytes)| self.note(key, *bytes, NOTES_OF_WRITTEN));
        // Each batch is durable before the next one begins, which `salvage/sight.rs` counts on, and before the journal
        // gives up what was in it.
        self.flush()?;
        let_go();
        reach("journal", "moved");
        Ok(())
    }
}
