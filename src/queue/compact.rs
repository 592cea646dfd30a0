//! What a mostly empty database takes of a disk that is short of room.
//!
//! The engine's file never shrinks. Where a backlog has filled the disk and is delivered, the file alone may keep
//! producers out, for good. So, while they are turned away, what is left is copied into a new database.
//!
//! Guarantees:
//! - the new database counts by one rename, and holds all that the old one does by then: where a record cannot be read,
//!   or the new one cannot be written or opened, the old one goes on;
//! - the new one says itself which one it holds all of. That one goes once the new one is open and no sync failed, by
//!   the next start where a crash comes before.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::commit_error::CommitError;
use super::engine::{Engine, LOG_SEGMENT_BYTES};
use super::files::sync;
use super::folder::{construction, current};
use super::space::Free;
use super::writer::Writer;
use crate::failpoint::reach;

/// The smallest file that is worth it, in bytes.
const LEAST_BYTES: u64 = 4 * 1_024 * 1_024;
/// How many times as large as what it holds a file is that is worth it.
const TIMES: u64 = 4;
/// The most that is copied, in bytes: nobody is answered meanwhile.
const MOST_BYTES: u64 = 64 * 1_024 * 1_024;
/// What stays free beside the copy, in bytes.
const ROOM: u64 = 4 * LOG_SEGMENT_BYTES as u64;
/// How long after a try that failed the next one comes.
const AGAIN: Duration = Duration::from_secs(600);

impl Writer {
    /// Copies the database into a smaller one where the disk has too little room to append and the file
    /// is mostly empty; meanwhile it may use room below `queue.min_free`. Returns whether the new one is in use.
    pub(super) fn compact(&mut self, free: Free) -> Result<bool, CommitError> {
        let bytes = self.engine.file_bytes()?;
        let has_failed = self.compacted.is_some_and(|at| at.elapsed() < AGAIN);
        // The copy's journal takes as much as it holds, and so does its engine.
        let room = free.bytes.saturating_sub(ROOM) / 2;
        let most = MOST_BYTES.min(bytes / TIMES).min(room);
        // A database has several files.
        if free.lacks_files() || bytes < LEAST_BYTES || self.ledger.held_bytes >= most || has_failed {
            return Ok(false);
        }
        self.compacted = Some(Instant::now());
        let old = self.engine.path().to_owned();
        let (made, records) = match self.copied(most) {
            Ok(copied) => copied,
            Err(error) => {
                told_of(&error, &old);
                // One whose name was not synced counts all the same.
                let current = current(self.folder.root()).map_err(denied_or_failed)?;
                if let Some(made) = current.filter(|made| *made != old) {
                    self.undo(&made)?;
                }
                // Its room is needed; what cannot be removed is worth nothing, and the next one is made in its place.
                let _unfinished = self.folder.clear_construction();
                return Ok(false);
            }
        };
        self.switch_to(&made, &old)?;
        if self.engine.path() == old {
            return Ok(false);
        }
        self.folder.remove_replaced(&made);
        let now_bytes = self.engine.file_bytes()?;
        if now_bytes < bytes / 2 {
            self.compacted = None;
        }
        info!(
            event = "database_compacted", path = %made.display(), records, bytes, now_bytes,
            "the database was mostly empty, on a disk that is short of room: what it held is in a smaller one"
        );
        Ok(true)
    }

    /// Goes on with the database `made`, or with the old one where that does not open.
    fn switch_to(&mut self, made: &Path, old: &Path) -> Result<(), CommitError> {
        // The last handle goes with the readers'.
        self.engine = Engine::closed(old);
        let view = self.view.clone();
        self.engine = view.replace(|| match Engine::open(made, &self.folder) {
            Ok(engine) => Ok(engine),
            Err(error) => {
                told_of(&error.into(), old);
                self.undo(made)?;
                // The old one may need its room, and waits for that without end where the disk is full.
                let _unfinished = self.folder.clear_construction();
                Engine::open(old, &self.folder).map_err(CommitError::from)
            }
        })?;
        reach("compact", "opened");
        self.engine.limit_journal(self.settings.journal_bytes);
        Ok(())
    }

    /// Makes the old database count again, before any commit went to one of them. Where that fails the daemon has to
    /// end: nobody would know which one the next start finds. Where it is denied the disk is sound, and so are both.
    fn undo(&self, made: &Path) -> Result<(), CommitError> {
        let root = self.folder.root();
        fs::rename(made, construction(root)).and_then(|()| sync(root)).map_err(denied_or_failed)
    }

    /// A new database with all that there is, at most about `most` bytes; it is not open.
    fn copied(&self, most: u64) -> Result<(PathBuf, u64), CommitError> {
        let construction = self.folder.clear_construction()?;
        let records = self.engine.copy_whole(&construction, most)?;
        reach("compact", "copied");
        let made = self.folder.finish_replacing(&construction)?;
        reach("compact", "renamed");
        Ok((made, records))
    }
}

/// What the folder answers, which lost nothing where it is another user's.
fn denied_or_failed(error: io::Error) -> CommitError {
    match error.kind() {
        io::ErrorKind::PermissionDenied => CommitError::Denied(error.to_string()),
        _ => CommitError::Sync(error),
    }
}

fn told_of(error: &CommitError, path: &Path) {
    warn!(
        event = "compaction_failed", path = %path.display(), %error,
        "the database is mostly empty, and could not be copied into a smaller one: it stays as it is. See what takes the disk with df -h, and free some; journalctl -k tells of a failing disk"
    );
}
