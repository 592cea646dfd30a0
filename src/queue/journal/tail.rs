//! Where the journal is written: its last segment, and the zeros ahead of it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{JournalError, SEGMENT_PREFIX};
use crate::failpoint::reach;
use crate::queue::batch::Batch;
use crate::queue::commit_error::is_full;
use crate::queue::files::{Identity, sync};

/// The longest segment, in bytes: one gets longer than its share where the disk takes no more files. What a file has
/// beyond that nobody wrote.
pub(in crate::queue) const MAX_SEGMENT_BYTES: u64 = 256 * 1_024 * 1_024;
/// The most changes that a segment begins a commit with.
const SEGMENT_CHANGES: u32 = 16_384;
/// Zeros are written this far ahead of small commits. A commit that overwrites them changes neither the file's length
/// nor its blocks, so the sync writes its own bytes only, in half the time.
const AHEAD_BYTES: u64 = 128 * 1_024;
/// Zeros are written for this many commits where [`AHEAD_BYTES`] would not be enough: the commit that also syncs the
/// zeros takes the longer, the more there are.
const AHEAD_COMMITS: u64 = 8;
/// With zeros for fewer commits than this, more are written as soon as nobody waits.
const AHEAD_LEAST: u64 = 4;
/// The largest commit that zeros are written for, in bytes: those of larger ones cost more than they save.
const AHEAD_COMMIT_BYTES: u64 = 128 * 1_024;
/// What the zeros are written from.
static ZEROS: [u8; 64 * 1_024] = [0; 64 * 1_024];

/// What a segment has of whole commits.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::queue) struct Segment {
    /// How long it is.
    pub(in crate::queue) bytes: u64,
    pub(in crate::queue) changes: u64,
    /// Whether it has records of older segments, as far as this process knows.
    pub(super) keeps: bool,
}

/// The segments of a journal, the last of which is written.
#[derive(Debug)]
pub(super) struct Tail {
    /// The folder of the database.
    folder: PathBuf,
    /// By their numbers.
    pub(super) segments: BTreeMap<u64, Segment>,
    file: Arc<File>,
    is_file: Identity,
    /// Where the zeros end that were written ahead, or what is left of a commit that failed.
    ahead: u64,
    /// The last commit.
    pub(super) commit: u64,
    /// How many changes the last segment got from this process.
    changes: u32,
    /// Whether the next commit begins a segment, however small the last one is.
    pub(super) begins: bool,
    /// How long the last commit is, where others like it may follow that zeros are written for; else 0.
    like_it: u64,
}

/// A commit that is durable.
pub(super) struct Written {
    /// The segment that has it, and where it begins there.
    pub(super) segment: u64,
    pub(super) at: u64,
    pub(super) frames: Vec<u8>,
}

impl Tail {
    /// Goes on behind the last of `segments`, which are those of `database`, and the last `commit`.
    pub(super) fn open(
        database: &Path,
        mut segments: BTreeMap<u64, Segment>,
        commit: u64,
    ) -> Result<Self, JournalError> {
        let number = segments.last_key_value().map_or(1, |(number, _)| *number);
        let path = segment_path(database, number);
        let file = File::options().create(true).truncate(false).read(true).write(true).open(path);
        let file = file.map_err(JournalError::Write)?;
        let Segment { bytes: end, .. } = *segments.entry(number).or_default();
        // What a commit left behind that was never whole goes before anything is written: the next commit has its
        // number.
        let there = file.metadata().map_err(JournalError::Write)?.len();
        if there > end {
            file.set_len(end).map_err(JournalError::Write)?;
        }
        file.sync_all().and_then(|()| sync(database)).map_err(JournalError::Sync)?;
        Ok(Self {
            folder: database.to_owned(),
            segments,
            is_file: Identity::of(&file).map_err(JournalError::Write)?,
            file: Arc::new(file),
            ahead: 0,
            commit,
            changes: 0,
            begins: false,
            like_it: 0,
        })
    }

    /// The segment that is written, and where it ends.
    pub(super) fn last(&self) -> (u64, u64) {
        self.segments.last_key_value().map_or((1, 0), |(number, segment)| (*number, segment.bytes))
    }

    /// The oldest segment, by its number.
    pub(super) fn oldest(&self) -> Option<(u64, Segment)> {
        self.segments.first_key_value().map(|(number, segment)| (*number, *segment))
    }

    /// The file that is written.
    pub(super) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Has what follows written to this file; gives back the one that it was.
    #[cfg(test)]
    pub(super) fn write_to(&mut self, file: Arc<File>) -> Arc<File> {
        std::mem::replace(&mut self.file, file)
    }

    /// How long the segments are together.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.values().map(|one| one.bytes).sum()
    }

    /// How many changes they have together.
    pub(super) fn changes(&self) -> u64 {
        self.segments.values().map(|one| one.changes).sum()
    }

    /// Whether the file that is written is still the one in the folder.
    pub(super) fn is_there(&self) -> bool {
        let (number, _) = self.last();
        self.is_file.is_at(&segment_path(&self.folder, number))
    }

    /// Begins another segment where one of `segment_bytes` has no room for a commit of `bytes`; `true` where it did.
    pub(super) fn make_room(&mut self, bytes: u64, segment_bytes: u64) -> Result<bool, JournalError> {
        let (number, at) = self.last();
        let is_long = at + bytes > segment_bytes || self.changes >= SEGMENT_CHANGES;
        if at == 0 || !(is_long || self.begins) {
            return Ok(false);
        }
        match self.begin(number + 1) {
            Ok(()) => {
                reach("journal", "begun");
                Ok(true)
            }
            // Where the disk takes no more files, the one that there is may have room for a removal.
            Err(JournalError::Write(error)) if is_full(&error) && at + bytes <= MAX_SEGMENT_BYTES => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Begins a segment. Its name is durable before a commit in it is, and before that the zeros behind the one before
    /// it are gone: a segment that others follow has commits up to its end, or is damaged.
    fn begin(&mut self, number: u64) -> Result<(), JournalError> {
        let (_, end) = self.last();
        if self.ahead > end {
            self.file.set_len(end).map_err(JournalError::Write)?;
            self.ahead = end;
            reach("journal", "cut");
            // With all that the file is: not every system counts a shorter length to its data.
            self.file.sync_all().map_err(JournalError::Sync)?;
        }
        let path = segment_path(&self.folder, number);
        let file = File::options().create_new(true).read(true).write(true).open(path);
        let file = file.map_err(JournalError::of_name)?;
        sync(&self.folder).map_err(JournalError::Sync)?;
        self.is_file = Identity::of(&file).map_err(JournalError::Write)?;
        self.file = Arc::new(file);
        self.segments.insert(number, Segment::default());
        self.changes = 0;
        self.begins = false;
        self.ahead = 0;
        Ok(())
    }

    /// Makes a batch durable behind the last commit; `reached` as in [`End`](crate::queue::frame::End).
    pub(super) fn write(
        &mut self,
        batch: Batch,
        reached: u64,
        segment_bytes: u64,
    ) -> Result<Written, JournalError> {
        let (number, at) = self.last();
        let (commit, changes) = (self.commit + 1, batch.count());
        if batch.sealed_bytes() > MAX_SEGMENT_BYTES {
            return Err(JournalError::Write(io::ErrorKind::FileTooLarge.into()));
        }
        // The first commit of a segment, or after a start, may be the only one.
        let wants_zeros = self.changes > 0 && batch.bytes() as u64 <= AHEAD_COMMIT_BYTES;
        self.changes = self.changes.saturating_add(changes);
        let frames = batch.sealed(commit, reached);
        let end = at + frames.len() as u64;
        // This order is the promise: write, sync. Only then anybody may see it, or be told.
        reach("commit", "begun");
        if let Err(error) = self.file.write_all_at(&frames, at) {
            // A part of it may be there, which goes before a segment follows.
            self.ahead = self.ahead.max(end);
            return Err(JournalError::Write(error));
        }
        self.like_it = if wants_zeros { frames.len() as u64 } else { 0 };
        if wants_zeros && end > self.ahead {
            self.write_zeros(end, segment_bytes)?;
        }
        reach("commit", "written");
        self.file.sync_data().map_err(JournalError::Sync)?;
        reach("commit", "synced");
        self.commit = commit;
        let segment = self.segments.entry(number).or_default();
        segment.bytes = end;
        segment.changes += u64::from(changes);
        Ok(Written { segment: number, at, frames })
    }

    /// Removes a segment.
    pub(super) fn remove(&mut self, number: u64) -> Result<(), JournalError> {
        self.segments.remove(&number);
        fs::remove_file(segment_path(&self.folder, number)).map_err(JournalError::of_name)?;
        reach("journal", "removed");
        // A segment that came back without those behind it would bring back what they removed.
        sync(&self.folder).map_err(JournalError::Sync)?;
        reach("journal", "synced");
        Ok(())
    }

    /// Makes zeros durable where there are too few for the commits that may follow. Whoever commits does so while nobody
    /// waits, so that no commit has to.
    pub(super) fn write_ahead(&mut self, segment_bytes: u64) -> Result<(), JournalError> {
        let (_, end) = self.last();
        let least = (end + AHEAD_LEAST * self.like_it).min(segment_bytes);
        if self.like_it == 0 || self.ahead >= least {
            return Ok(());
        }
        self.write_zeros(end, segment_bytes)?;
        if self.like_it == 0 {
            return Ok(());
        }
        reach("journal", "ahead");
        self.file.sync_data().map_err(JournalError::Sync)
    }

    /// Writes zeros behind a commit that ends at `end`, from where there are none any more. A full disk has no room for
    /// them, and no commit needs them.
    fn write_zeros(&mut self, end: u64, segment_bytes: u64) -> Result<(), JournalError> {
        let until = (end + AHEAD_BYTES.max(AHEAD_COMMITS * self.like_it)).min(segment_bytes);
        self.ahead = self.ahead.max(end);
        while self.ahead < until {
            let count = usize::try_from(until - self.ahead).unwrap_or(usize::MAX).min(ZEROS.len());
            match self.file.write_at(ZEROS.get(..count).unwrap_or_default(), self.ahead) {
                Ok(0) => break,
                Ok(written) => self.ahead += written as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_full(&error) => {
                    // Not again before the next commit.
                    self.like_it = 0;
                    break;
                }
                Err(error) => return Err(JournalError::Write(error)),
            }
        }
        Ok(())
    }
}

/// The file of a segment.
fn segment_path(database: &Path, number: u64) -> PathBuf {
    database.join(format!("{SEGMENT_PREFIX}{number}"))
}
