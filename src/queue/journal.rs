//! The journal: where a commit becomes durable, before the engine hears of it.
//!
//! Most events are settled within seconds. In the journal they cost one sequential write; the engine would write and
//! sort each several times for nothing. So the newest changes stay here, up to a limit. Removals go to the engine once
//! there are enough of them; when the journal is full, what still counts of the oldest segment follows. Where most
//! changes no longer count, that rest is written again at the journal's end instead.
//!
//! Guarantees:
//! - a commit is durable when [`Journal::commit`] returns, whole or not at all;
//! - segments leave oldest first, and only when all in them that counts is on stable storage in the engine or a newer
//!   segment. So after any crash the queue is the engine with the journal applied in order; applying a removal twice
//!   changes nothing;
//! - each commit records how far the engine's log was on stable storage: damage below that is damage, not the torn end
//!   of a crash;
//! - a damaged journal is repaired as a damaged log of the engine is, with everything that can be read. Only commits at
//!   the very end whose own end cannot be read are left out: they look as if power had failed while they were written.
//!
//! Here is what leaves it, and when; `journal/tail.rs` writes it, and `journal/size.rs` says how large it may get.

mod size;
mod tail;

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use self::size::Size;
pub use self::size::journal_bytes;
pub(super) use self::tail::{MAX_SEGMENT_BYTES, Segment};
use self::tail::{Tail, Written};
use super::batch::Batch;
use super::frame;
use super::index::{Found, Index, Left};
use super::keys::{META, PAGE};
use super::replay::Replay;

/// The name of a segment, but for its number.
pub(super) const SEGMENT_PREFIX: &str = "journal.";
/// A segment of more bytes than this is followed by another one on a disk that is short of room.
const LARGE_SEGMENT_BYTES: u64 = 256 * 1_024;
/// The most memory that is kept for the next commit, in bytes: as much as most commits take.
const MAX_SPARE_BYTES: usize = 4 * 1_024 * 1_024;
/// How many times as large as what is written again of it a segment is at least.
const LEAST_WON: u64 = 4;
/// The engine makes removals only while this many wait: neighbours merge together, and their pages are still in its
/// cache.
const ENOUGH_REMOVALS: usize = 1_024;

/// The open journal of a database.
#[derive(Debug)]
pub(super) struct Journal {
    /// The last segment that was there when it was opened.
    opened: u64,
    size: Size,
    /// A lock, because readers come beside the one thread that commits.
    index: RwLock<Index>,
    /// Only that thread takes it.
    state: Mutex<State>,
}

/// What the thread that commits goes by.
#[derive(Debug)]
struct State {
    tail: Tail,
    /// The last commit that keeps records of older segments.
    kept: u64,
    /// The last key of the oldest segment that the engine was given.
    moved: Vec<u8>,
    /// The last key that the engine was told to remove before its segment was the oldest.
    removed: Vec<u8>,
    /// The place that the engine's log surely reached.
    reached: u64,
    /// Whether the engine's log may reach further than that.
    untold: bool,
    /// Memory for the next commit: what is mapped anew for each one costs more than filling it.
    spare: Vec<u8>,
}

/// Why a commit is not durable.
#[derive(Debug)]
pub(super) enum JournalError {
    /// It was not written.
    Write(io::Error),
    /// It was not synced.
    Sync(io::Error),
    /// A segment may not be made or removed: nothing was changed.
    Denied(io::Error),
}

impl JournalError {
    /// Of a segment that was not made or removed.
    fn of_name(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::Denied(error),
            _ => Self::Write(error),
        }
    }
}

impl Journal {
    /// Goes on from what was read of the journal of `database`, or makes a new one. All of it has to be synced before;
    /// `tops` as in [`Index`].
    pub(super) fn open(
        database: &Path,
        replay: Replay,
        tops: Option<BTreeMap<u8, Vec<u8>>>,
    ) -> Result<Self, JournalError> {
        let Replay { mut index, segments, commit, reached, .. } = replay;
        index.set_tops(tops);
        let tail = Tail::open(database, segments, commit)?;
        let (opened, _) = tail.last();
        index.add_file(opened, tail.file());
        Ok(Self {
            opened,
            size: Size::default(),
            index: RwLock::new(index),
            state: Mutex::new(State {
                tail,
                // What the last commit before the start was, and what the engine did after it, nobody knows any more.
                kept: commit,
                moved: Vec::new(),
                removed: Vec::new(),
                reached,
                untold: true,
                spare: Vec::new(),
            }),
        })
    }

    /// How large it may get, in bytes.
    pub(super) fn limit(&self, bytes: u64) {
        self.size.set(bytes);
    }

    /// Makes a batch durable; no reader sees it before that.
    pub(super) fn commit(&self, batch: Batch) -> Result<(), JournalError> {
        let mut state = self.state();
        let segment_bytes = self.size.segment_bytes();
        if state.tail.make_room(batch.sealed_bytes(), segment_bytes)? {
            let (number, _) = state.tail.last();
            self.index_mut().add_file(number, state.tail.file());
        }
        let reached = state.reached;
        let Written { segment, at, frames } = state.tail.write(batch, reached, segment_bytes)?;
        drop(state);
        let (mut index, mut from) = (self.index_mut(), 0);
        while let Some(frame) = frame::unchecked(&frames, from) {
            index.apply(segment, at, frame);
            from = frame.end;
        }
        drop(index);
        if frames.capacity() <= MAX_SPARE_BYTES {
            self.state().spare = frames;
        }
        Ok(())
    }

    /// Prepares the file for the next commits, where that is due; what is durable stays as it is.
    pub(super) fn write_ahead(&self) -> Result<(), JournalError> {
        self.state().tail.write_ahead(self.size.segment_bytes())
    }

    /// An empty batch.
    pub(super) fn batch(&self) -> Batch {
        let mut frames = std::mem::take(&mut self.state().spare);
        frames.clear();
        Batch::within(frames)
    }

    /// What counts of the oldest segment, where it is not the last one.
    pub(super) fn left_of_oldest(&self) -> Option<Left> {
        let state = self.state();
        let (oldest, _) = state.tail.oldest().filter(|_| state.tail.segments.len() > 1)?;
        Some(self.index().left(oldest))
    }

    /// Has the next commit begin a segment, where the only one is large: so that it can be given up once nothing counts
    /// of it.
    pub(super) fn begin_next(&self) {
        let tail = &mut self.state().tail;
        tail.begins |= tail.segments.len() == 1 && tail.bytes() > LARGE_SEGMENT_BYTES;
    }

    /// Whether it is larger than it may be, and has more than one segment.
    pub(super) fn is_full(&self) -> bool {
        self.times_full() > 0
    }

    /// How many times as large as it may be it is; 0 where it is not full.
    pub(super) fn times_full(&self) -> usize {
        let state = self.state();
        match state.tail.segments.len() {
            0 | 1 => 0,
            _ => self.size.times(state.tail.bytes(), state.tail.changes(), self.index().len()),
        }
    }

    /// The next keys for the engine to remove, where there are [`ENOUGH_REMOVALS`], else none; and whether it may have
    /// removed them before the journal was opened.
    pub(super) fn next_to_remove(&self) -> Vec<(Vec<u8>, bool)> {
        let (mut state, index) = (self.state(), self.index());
        if index.removals() < ENOUGH_REMOVALS {
            return Vec::new();
        }
        // Pages before their marks: without its mark a page that comes back from a damaged journal would be sent again.
        let pages = (Bound::Excluded(state.removed.as_slice()), Bound::Excluded([PAGE + 1].as_slice()));
        let mut keys = index.removals_within(pages);
        if keys.is_empty() {
            // Without a page before, there is none.
            let behind =
                if state.removed.is_empty() { Bound::Included([PAGE + 1]) } else { Bound::Unbounded };
            keys = index.removals_within((behind.as_ref().map(<[u8; 1]>::as_slice), Bound::Unbounded));
        }
        let last = keys.last().filter(|(key, _)| key.first() == Some(&PAGE));
        state.removed = last.map(|(key, _)| key.clone()).unwrap_or_default();
        keys.into_iter().map(|(key, segment)| (key, segment <= self.opened)).collect()
    }

    /// The engine has made these removals, on stable storage. The journal keeps them until it gives their segments up,
    /// where they change nothing any more.
    pub(super) fn forget_removals<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) {
        self.index_mut().forget_removals(keys);
    }

    /// Whether an engine that has this much room can be given the oldest segment, or has a part of it: no part gives
    /// anything back before the whole does.
    pub(super) fn oldest_fits(&self, room: usize) -> bool {
        let state = self.state();
        let oldest = state.tail.oldest().map(|(number, _)| number).unwrap_or_default();
        !state.moved.is_empty() || self.index().left(oldest).values_cost <= room
    }

    /// The next records of the oldest segment for the engine, about `max` bytes; empty where it has them all.
    pub(super) fn next_to_move(&self, max: usize) -> Vec<(Vec<u8>, Found)> {
        let mut state = self.state();
        let Some((oldest, _)) = state.tail.oldest() else { return Vec::new() };
        let records = self.index().of_segment(oldest, &state.moved, max);
        if let Some((last, _)) = records.last() {
            state.moved = last.clone();
        }
        records
    }

    /// Whether the rest of the oldest segment may be written again at the journal's end, at a tenth of the cost of the
    /// way into the engine and back: where there is room, because most changes no longer count. Never twice, or it
    /// would go round for ever.
    pub(super) fn may_keep(&self) -> bool {
        let tail = &self.state().tail;
        let oldest = tail.oldest().map(|(_, segment)| segment).unwrap_or_default();
        let there_is_room = tail.bytes() + oldest.bytes <= self.size.bytes();
        there_is_room && !oldest.keeps && self.index().len() <= self.size.records()
    }

    /// Writes records of the oldest segment once more.
    pub(super) fn keep(&self, records: Batch) -> Result<(), JournalError> {
        self.commit(records)?;
        let mut state = self.state();
        state.kept = state.tail.commit;
        if let Some(mut last) = state.tail.segments.last_entry() {
            last.get_mut().keeps = true;
        }
        Ok(())
    }

    /// What counts of the oldest segment, where writing it again costs less than `max` bytes ([`Left::cost`]), and is
    /// little beside the segment, so that it does not go round for ever; else nothing. Where there are many removals,
    /// it is only the first of them.
    pub(super) fn rest_of_oldest(&self, max: usize) -> Vec<(Vec<u8>, Found)> {
        let (state, index) = (self.state(), self.index());
        let Some((oldest, segment)) = state.tail.oldest() else { return Vec::new() };
        let cost = index.left(oldest).cost();
        match cost < max && cost as u64 * LEAST_WON <= segment.bytes {
            true => index.of_segment(oldest, &[], usize::MAX),
            false => Vec::new(),
        }
    }

    /// What belongs to the whole queue, where the engine has nothing of it: it gets that before anything else, wherever
    /// it lies.
    pub(super) fn metas_to_move(&self) -> Vec<(Vec<u8>, Found)> {
        let index = self.index();
        match index.is_below(&[META]) {
            true => Vec::new(),
            false => index.within((Bound::Included(&[META]), Bound::Excluded(&[META + 1])), usize::MAX),
        }
    }

    /// Whether the last commit of all keeps records of older segments, or may do so. Damage could make it look torn by
    /// a crash, so that it were left out: the older segments stay until another commit follows.
    pub(super) fn has_just_kept(&self) -> bool {
        let state = self.state();
        state.kept > 0 && state.kept == state.tail.commit
    }

    /// Whether another commit has to follow before a segment may go: after one that keeps records, or since the last
    /// one does not say how far the engine's log reaches.
    pub(super) fn needs_commit(&self) -> bool {
        self.has_just_kept() || self.state().untold
    }

    /// The engine has these now, or is about to.
    pub(super) fn lie_below(&self, keys: impl Iterator<Item = impl AsRef<[u8]>>) {
        let mut index = self.index_mut();
        keys.for_each(|key| index.lies_below(key.as_ref()));
    }

    /// The engine's log is on stable storage up to this place: the next commit says so.
    pub(super) fn engine_reached(&self, place: u64) {
        let mut state = self.state();
        state.reached = state.reached.max(place);
        state.untold = false;
    }

    /// The engine's log is about to grow.
    pub(super) fn engine_grows(&self) {
        self.state().untold = true;
    }

    /// Gives the oldest segment up: the engine, or a newer segment, has all of it that counts on stable storage.
    pub(super) fn give_up_oldest(&self) -> Result<(), JournalError> {
        let mut state = self.state();
        let Some((oldest, _)) = state.tail.oldest() else { return Ok(()) };
        state.moved.clear();
        self.index_mut().forget(oldest);
        state.tail.remove(oldest)
    }

    /// Whether the file that is written is still the one in the folder.
    pub(super) fn is_there(&self) -> bool {
        self.state().tail.is_there()
    }

    /// What it has of a key, and whether the engine may have it; both of the same moment.
    pub(super) fn look(&self, key: &[u8]) -> (Option<Found>, bool) {
        let index = self.index();
        (index.find(key), index.is_below(key))
    }

    /// Has what follows written to this file; gives back the one that it was.
    #[cfg(test)]
    pub(super) fn write_to(&self, file: std::sync::Arc<std::fs::File>) -> std::sync::Arc<std::fs::File> {
        self.state().tail.write_to(file)
    }

    pub(super) fn index(&self) -> RwLockReadGuard<'_, Index> {
        // Nothing is changed under this lock but by whole records.
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
