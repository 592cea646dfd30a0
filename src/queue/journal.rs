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

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::batch::Batch;
use super::engine::is_full;
use super::folder::{Identity, sync};
use super::frame;
use super::index::{Found, Index, Left};
use super::keys::{META, PAGE};
use super::replay::Replay;
use crate::failpoint::reach;

/// The name of a segment, but for its number.
pub(super) const SEGMENT_PREFIX: &str = "journal.";
/// How many segments a full journal has.
const SEGMENTS: u64 = 16;
/// The largest journal, in bytes.
const MAX_BYTES: u64 = 512 * 1_024 * 1_024;
/// The part of `queue.max_bytes` that a journal has at most.
const SHARE: u64 = 8;
/// The smallest segment, in bytes.
const MIN_SEGMENT_BYTES: u64 = 4 * 1_024;
/// The longest segment, in bytes: one gets longer than its share where the disk takes no more files. What a file has
/// beyond that nobody wrote.
pub(super) const MAX_SEGMENT_BYTES: u64 = 256 * 1_024 * 1_024;
/// A segment of more bytes than this is followed by another one on a disk that is short of room.
const LARGE_SEGMENT_BYTES: u64 = 256 * 1_024;
/// The most memory that is kept for the next commit, in bytes: as much as most commits take.
const MAX_SPARE_BYTES: usize = 4 * 1_024 * 1_024;
/// How many times as large as what is written again of it a segment is at least.
const LEAST_WON: u64 = 4;
/// Zeros are written this far ahead of small commits. A commit that overwrites them changes neither the file's length
/// nor its blocks, so the sync writes its own bytes only, in half the time.
const AHEAD_BYTES: u64 = 128 * 1_024;
/// Zeros are written for this many commits where [`AHEAD_BYTES`] would not be enough: the commit that also syncs the
/// zeros takes the longer, the more there are.
const AHEAD_COMMITS: u64 = 8;
/// The largest commit that zeros are written for, in bytes: those of larger ones cost more than they save.
const AHEAD_COMMIT_BYTES: u64 = 128 * 1_024;
/// What the zeros are written from.
static ZEROS: [u8; 64 * 1_024] = [0; 64 * 1_024];
/// The most changes that a segment begins a commit with.
const SEGMENT_CHANGES: u32 = 16_384;
/// The most records of the index before some move on, however small the journal is: about 6 MiB of memory.
const MAX_RECORDS: u64 = 100_000;
/// A journal may have one record for this many bytes of its limit, but for a small one.
const BYTES_A_RECORD: u64 = 1_024;
/// For each record that a journal may have, this many changes may be in its segments. A start reads them all, and
/// remembers them until it knows which of them count.
const CHANGES_A_RECORD: u64 = 8;
/// The engine makes removals only while this many wait: neighbours merge together, and their pages are still in its
/// cache.
const ENOUGH_REMOVALS: usize = 1_024;
/// The most records of the smallest journal.
const LEAST_RECORDS: u64 = 64;

/// How large a journal is to be beside a queue of `max_bytes` (`queue.max_bytes`), in bytes.
#[must_use]
pub fn journal_bytes(max_bytes: u64) -> u64 {
    (max_bytes / SHARE).min(MAX_BYTES)
}

/// The open journal of a database.
#[derive(Debug)]
pub(super) struct Journal {
    folder: PathBuf,
    /// The last segment that was there when it was opened.
    opened: u64,
    limit: AtomicU64,
    /// A lock, because readers come beside the one thread that commits.
    index: RwLock<Index>,
    /// Only that thread takes it.
    tail: Mutex<Tail>,
}

/// Where the journal is written, and where it ends.
#[derive(Debug)]
struct Tail {
    /// By their numbers; the last one is written.
    segments: BTreeMap<u64, Segment>,
    file: Arc<File>,
    is_file: Identity,
    /// Where the zeros end that were written ahead, or what is left of a commit that failed.
    ahead: u64,
    /// The last commit.
    commit: u64,
    /// The last commit that keeps records of older segments.
    kept: u64,
    /// How many changes the last segment got from this process.
    changes: u32,
    /// Whether the next commit begins a segment, however small the last one is.
    begins: bool,
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

/// What a segment has of whole commits.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Segment {
    /// How long it is.
    pub(super) bytes: u64,
    pub(super) changes: u64,
    /// Whether it has records of older segments, as far as this process knows.
    keeps: bool,
}

/// Why a commit is not durable.
#[derive(Debug)]
pub(super) enum JournalError {
    /// It was not written.
    Write(io::Error),
    /// It was not synced.
    Sync(io::Error),
}

/// The file of a segment.
fn segment_path(database: &Path, number: u64) -> PathBuf {
    database.join(format!("{SEGMENT_PREFIX}{number}"))
}

impl Journal {
    /// Goes on from what was read of the journal of `database`, or makes a new one. All of it has to be synced before;
    /// `tops` as in [`Index`].
    pub(super) fn open(
        database: &Path,
        replay: Replay,
        tops: Option<BTreeMap<u8, Vec<u8>>>,
    ) -> Result<Self, JournalError> {
        let Replay { mut index, mut segments, commit, reached, .. } = replay;
        index.set_tops(tops);
        let number = segments.last_key_value().map_or(1, |(number, _)| *number);
        let path = segment_path(database, number);
        let file = File::options().create(true).truncate(false).read(true).write(true).open(path);
        let file = Arc::new(file.map_err(JournalError::Write)?);
        let Segment { bytes: end, .. } = *segments.entry(number).or_default();
        // What a commit left behind that was never whole goes before anything is written: the next commit has its
        // number.
        let there = file.metadata().map_err(JournalError::Write)?.len();
        if there > end {
            file.set_len(end).map_err(JournalError::Write)?;
        }
        file.sync_all().and_then(|()| sync(database)).map_err(JournalError::Sync)?;
        index.add_file(number, Arc::clone(&file));
        Ok(Self {
            folder: database.to_owned(),
            opened: number,
            limit: AtomicU64::new(MAX_BYTES),
            index: RwLock::new(index),
            tail: Mutex::new(Tail {
                segments,
                is_file: Identity::of(&file).map_err(JournalError::Write)?,
                file,
                ahead: 0,
                commit,
                // What the last commit before the start was, and what the engine did after it, nobody knows any more.
                kept: commit,
                changes: 0,
                begins: false,
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
        self.limit.store(bytes, Ordering::Relaxed);
    }

    /// Makes a batch durable; no reader sees it before that.
    pub(super) fn commit(&self, batch: Batch) -> Result<(), JournalError> {
        let mut tail = self.tail();
        let bytes = batch.bytes() as u64;
        let (mut number, mut at) = tail.last();
        let is_long = at + bytes > self.segment_bytes() || tail.changes >= SEGMENT_CHANGES;
        if at > 0 && (is_long || tail.begins) {
            match self.begin(&mut tail, number + 1) {
                Ok(()) => {
                    (number, at) = (number + 1, 0);
                    reach("journal", "begun");
                }
                // Where the disk takes no more files, the one that there is may have room for a removal.
                Err(JournalError::Write(error)) if is_full(&error) && at + bytes <= MAX_SEGMENT_BYTES => {}
                Err(error) => return Err(error),
            }
        }
        if bytes > MAX_SEGMENT_BYTES {
            return Err(JournalError::Write(io::ErrorKind::FileTooLarge.into()));
        }
        let commit = tail.commit + 1;
        // The first commit of a segment, or after a start, may be the only one.
        let is_first = tail.changes == 0;
        let changes = batch.count();
        tail.changes = tail.changes.saturating_add(changes);
        let frames = batch.sealed(commit, tail.reached);
        // This order is the promise: write, sync. Only then anybody may see it, or be told.
        reach("commit", "begun");
        if let Err(error) = tail.file.write_all_at(&frames, at) {
            // A part of it may be there, which goes before a segment follows.
            tail.ahead = tail.ahead.max(at + frames.len() as u64);
            return Err(JournalError::Write(error));
        }
        if !is_first && bytes <= AHEAD_COMMIT_BYTES {
            let bytes = frames.len() as u64;
            let ahead = AHEAD_BYTES.max(AHEAD_COMMITS * bytes);
            tail.write_ahead(at + bytes, ahead, self.segment_bytes()).map_err(JournalError::Write)?;
        }
        reach("commit", "written");
        tail.file.sync_data().map_err(JournalError::Sync)?;
        reach("commit", "synced");
        tail.commit = commit;
        let segment = tail.segments.entry(number).or_default();
        segment.bytes = at + frames.len() as u64;
        segment.changes += u64::from(changes);
        drop(tail);
        let (mut index, mut from) = (self.index_mut(), 0);
        while let Some(frame) = frame::unchecked(&frames, from) {
            index.apply(number, at, frame);
            from = frame.end;
        }
        drop(index);
        if frames.capacity() <= MAX_SPARE_BYTES {
            self.tail().spare = frames;
        }
        Ok(())
    }

    /// An empty batch.
    pub(super) fn batch(&self) -> Batch {
        let mut frames = std::mem::take(&mut self.tail().spare);
        frames.clear();
        Batch::within(frames)
    }

    /// Begins a segment. Its name is durable before a commit in it is, and before that the zeros behind the one before
    /// it are gone: a segment that others follow has commits up to its end, or is damaged.
    fn begin(&self, tail: &mut Tail, number: u64) -> Result<(), JournalError> {
        let (_, end) = tail.last();
        if tail.ahead > end {
            tail.file.set_len(end).map_err(JournalError::Write)?;
            tail.ahead = end;
            reach("journal", "cut");
            // With all that the file is: not every system counts a shorter length to its data.
            tail.file.sync_all().map_err(JournalError::Sync)?;
        }
        let path = segment_path(&self.folder, number);
        let file = File::options().create_new(true).read(true).write(true).open(path);
        let file = Arc::new(file.map_err(JournalError::Write)?);
        sync(&self.folder).map_err(JournalError::Sync)?;
        self.index_mut().add_file(number, Arc::clone(&file));
        tail.segments.insert(number, Segment::default());
        tail.changes = 0;
        tail.begins = false;
        tail.is_file = Identity::of(&file).map_err(JournalError::Write)?;
        tail.file = file;
        tail.ahead = 0;
        Ok(())
    }

    /// What counts of the oldest segment, where it is not the last one.
    pub(super) fn left_of_oldest(&self) -> Option<Left> {
        let tail = self.tail();
        let (oldest, _) = tail.segments.first_key_value().filter(|_| tail.segments.len() > 1)?;
        Some(self.index().left(*oldest))
    }

    /// Has the next commit begin a segment, where the only one is large: so that it can be given up once nothing counts
    /// of it.
    pub(super) fn begin_next(&self) {
        let mut tail = self.tail();
        tail.begins |= tail.segments.len() == 1 && tail.bytes() > LARGE_SEGMENT_BYTES;
    }

    /// Whether it is larger than it may be, and has more than one segment.
    pub(super) fn is_full(&self) -> bool {
        self.times_full() > 0
    }

    /// How many times as large as it may be it is; 0 where it is not full.
    pub(super) fn times_full(&self) -> usize {
        let tail = self.tail();
        let bytes = tail.bytes();
        let changes: u64 = tail.segments.values().map(|one| one.changes).sum();
        let most_changes = self.most_changes();
        let (records, most) = (self.index().len(), self.limit.load(Ordering::Relaxed));
        let most_records = self.most_records();
        if tail.segments.len() < 2 || bytes <= most && changes <= most_changes && records <= most_records {
            return 0;
        }
        let times = usize::try_from((bytes / most.max(1)).max(changes / most_changes)).unwrap_or(usize::MAX);
        times.max(records / most_records).max(1)
    }

    /// The most records before some move on.
    fn most_records(&self) -> usize {
        usize::try_from(self.most_changes() / CHANGES_A_RECORD).unwrap_or(usize::MAX)
    }

    /// The most changes in its segments before the oldest of them goes.
    fn most_changes(&self) -> u64 {
        let records = self.limit.load(Ordering::Relaxed) / BYTES_A_RECORD;
        records.clamp(LEAST_RECORDS, MAX_RECORDS) * CHANGES_A_RECORD
    }

    /// The next keys for the engine to remove, where there are [`ENOUGH_REMOVALS`], else none; and whether it may have
    /// removed them before the journal was opened.
    pub(super) fn next_to_remove(&self) -> Vec<(Vec<u8>, bool)> {
        let (mut tail, index) = (self.tail(), self.index());
        if index.removals() < ENOUGH_REMOVALS {
            return Vec::new();
        }
        // Pages before their marks: without its mark a page that comes back from a damaged journal would be sent again.
        let pages = (Bound::Excluded(tail.removed.as_slice()), Bound::Excluded([PAGE + 1].as_slice()));
        let mut keys = index.removals_within(pages);
        if keys.is_empty() {
            // Without a page before, there is none.
            let behind = if tail.removed.is_empty() { Bound::Included([PAGE + 1]) } else { Bound::Unbounded };
            keys = index.removals_within((behind.as_ref().map(<[u8; 1]>::as_slice), Bound::Unbounded));
        }
        let last = keys.last().filter(|(key, _)| key.first() == Some(&PAGE));
        tail.removed = last.map(|(key, _)| key.clone()).unwrap_or_default();
        keys.into_iter().map(|(key, segment)| (key, segment <= self.opened)).collect()
    }

    /// The engine has made these removals, on stable storage. The journal keeps them until it gives their segments up,
    /// where they change nothing any more.
    pub(super) fn forget_removals<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) {
        self.index_mut().forget_removals(keys);
    }

    /// The next records of the oldest segment for the engine, about `max` bytes; empty where it has them all.
    pub(super) fn next_to_move(&self, max: usize) -> Vec<(Vec<u8>, Found)> {
        let mut tail = self.tail();
        let Some((oldest, _)) = tail.segments.first_key_value() else { return Vec::new() };
        let records = self.index().of_segment(*oldest, &tail.moved, max);
        if let Some((last, _)) = records.last() {
            tail.moved = last.clone();
        }
        records
    }

    /// Whether the rest of the oldest segment may be written again at the journal's end, at a tenth of the cost of the
    /// way into the engine and back: where there is room, because most changes no longer count. Never twice, or it
    /// would go round for ever.
    pub(super) fn may_keep(&self) -> bool {
        let tail = self.tail();
        let oldest = tail.segments.values().next().copied().unwrap_or_default();
        let there_is_room = tail.bytes() + oldest.bytes <= self.limit.load(Ordering::Relaxed);
        there_is_room && !oldest.keeps && self.index().len() <= self.most_records()
    }

    /// Writes records of the oldest segment once more.
    pub(super) fn keep(&self, records: Batch) -> Result<(), JournalError> {
        self.commit(records)?;
        let mut tail = self.tail();
        tail.kept = tail.commit;
        if let Some(mut last) = tail.segments.last_entry() {
            last.get_mut().keeps = true;
        }
        Ok(())
    }

    /// What counts of the oldest segment, where writing it again costs less than `max` bytes ([`Left::cost`]), and is
    /// little beside the segment, so that it does not go round for ever; else nothing. Of many removals it is only some.
    pub(super) fn rest_of_oldest(&self, max: usize) -> Vec<(Vec<u8>, Found)> {
        let (tail, index) = (self.tail(), self.index());
        let Some((oldest, segment)) = tail.segments.first_key_value() else { return Vec::new() };
        let cost = index.left(*oldest).cost();
        match cost < max && cost as u64 * LEAST_WON <= segment.bytes {
            true => index.of_segment(*oldest, &[], usize::MAX),
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
        let tail = self.tail();
        tail.kept > 0 && tail.kept == tail.commit
    }

    /// Whether another commit has to follow before a segment may go: after one that keeps records, or since the last
    /// one does not say how far the engine's log reaches.
    pub(super) fn needs_commit(&self) -> bool {
        self.has_just_kept() || self.tail().untold
    }

    /// The engine has these now, or is about to.
    pub(super) fn lie_below(&self, keys: impl Iterator<Item = impl AsRef<[u8]>>) {
        let mut index = self.index_mut();
        keys.for_each(|key| index.lies_below(key.as_ref()));
    }

    /// The engine's log is on stable storage up to this place: the next commit says so.
    pub(super) fn engine_reached(&self, place: u64) {
        let mut tail = self.tail();
        tail.reached = tail.reached.max(place);
        tail.untold = false;
    }

    /// The engine's log is about to grow.
    pub(super) fn engine_grows(&self) {
        self.tail().untold = true;
    }

    /// Gives the oldest segment up: the engine, or a newer segment, has all of it that counts on stable storage.
    pub(super) fn give_up_oldest(&self) -> Result<(), JournalError> {
        let mut tail = self.tail();
        let Some((oldest, _)) = tail.segments.pop_first() else { return Ok(()) };
        tail.moved.clear();
        drop(tail);
        self.index_mut().forget(oldest);
        fs::remove_file(segment_path(&self.folder, oldest)).map_err(JournalError::Write)?;
        reach("journal", "removed");
        // A segment that came back without those behind it would bring back what they removed.
        sync(&self.folder).map_err(JournalError::Sync)?;
        reach("journal", "synced");
        Ok(())
    }

    /// Whether the file that is written is still the one in the folder.
    pub(super) fn is_there(&self) -> bool {
        let tail = self.tail();
        let (number, _) = tail.last();
        tail.is_file.is_at(&segment_path(&self.folder, number))
    }

    /// What it has of a key, and whether the engine may have it; both of the same moment.
    pub(super) fn look(&self, key: &[u8]) -> (Option<Found>, bool) {
        let index = self.index();
        (index.find(key), index.is_below(key))
    }

    /// Has what follows written to this file; gives back the one that it was.
    #[cfg(test)]
    pub(super) fn write_to(&self, file: Arc<File>) -> Arc<File> {
        std::mem::replace(&mut self.tail().file, file)
    }

    pub(super) fn index(&self) -> RwLockReadGuard<'_, Index> {
        // Nothing is changed under this lock but by whole records.
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn segment_bytes(&self) -> u64 {
        (self.limit.load(Ordering::Relaxed) / SEGMENTS).max(MIN_SEGMENT_BYTES)
    }
}

impl Tail {
    /// Writes `ahead` bytes of zeros behind a commit that ends at `end`, where there are none any more. A full disk has
    /// no room for them, and the commit needs none of them.
    fn write_ahead(&mut self, end: u64, ahead: u64, segment_bytes: u64) -> io::Result<()> {
        if end <= self.ahead {
            return Ok(());
        }
        let until = (end + ahead).min(segment_bytes);
        self.ahead = end;
        while self.ahead < until {
            let count = usize::try_from(until - self.ahead).unwrap_or(usize::MAX).min(ZEROS.len());
            match self.file.write_at(ZEROS.get(..count).unwrap_or_default(), self.ahead) {
                Ok(0) => break,
                Ok(written) => self.ahead += written as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_full(&error) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// How long the segments are together.
    fn bytes(&self) -> u64 {
        self.segments.values().map(|one| one.bytes).sum()
    }

    /// The segment that is written, and where it ends.
    fn last(&self) -> (u64, u64) {
        self.segments.last_key_value().map_or((1, 0), |(number, segment)| (*number, segment.bytes))
    }
}
