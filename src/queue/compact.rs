//! What a mostly empty database takes of a disk that is short of room.
//!
//! The engine's file never shrinks. Where a backlog has filled the disk and is delivered, the file alone may keep producers out, for
//! good. So, while they are turned away, what is left is copied into a new database.
//!
//! Guarantees:
//! - the new database counts by one rename, and holds all that the old one does by then: where a record cannot be read, or the
//!   new one cannot be written, everything stays as it was;
//! - the old one goes once the new one is open, or with the next start, where a crash comes before.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::engine::{CommitError, Engine, SEGMENT_BYTES};
use super::writer::Writer;
use crate::failpoint::reach;

/// The smallest file that is worth it, in bytes.
const LEAST_BYTES: u64 = 4 * 1_024 * 1_024;
/// How many times as large as what it holds a file is that is worth it.
const TIMES: u64 = 4;
/// What stays free beside the copy, in bytes.
const ROOM: u64 = 4 * SEGMENT_BYTES as u64;
/// How long after a try that failed the next one comes.
const AGAIN: Duration = Duration::from_secs(600);

impl Writer {
    /// Copies what the database holds into a new one, where there is too little room to append, and its file is mostly empty.
    pub(super) fn compact(&mut self) -> Result<(), CommitError> {
        let bytes = self.engine.file_bytes()?;
        // The copy's journal takes as much as it holds, and its engine, too.
        let most = (bytes / TIMES).min(self.space.free().saturating_sub(ROOM) / 2);
        let has_failed = self.compacted.is_some_and(|at| at.elapsed() < AGAIN);
        if bytes < LEAST_BYTES || self.ledger.held_bytes >= most || has_failed {
            return Ok(());
        }
        self.compacted = Some(Instant::now());
        let construction = self.folder.construction()?;
        let old = self.engine.path().to_owned();
        let records = match self.engine.copy_whole(&construction, most) {
            Ok(records) => records,
            Err(error) => {
                warn!(
                    event = "compaction_failed", path = %old.display(), %error,
                    "the database is mostly empty, and could not be copied into a smaller one: it stays as it is. See what takes the disk with df -h, and free some"
                );
                let _unfinished = self.folder.construction();
                return Ok(());
            }
        };
        reach("compact", "copied");
        self.folder.begin_replacing()?;
        reach("compact", "begun");
        // The last handle goes with the readers'.
        self.engine = Engine::closed(&old);
        let view = self.view.clone();
        self.engine = view.replace(|| {
            let made = self.folder.finish(&construction)?;
            reach("compact", "renamed");
            Engine::open(&made, &self.folder).map_err(|error| CommitError::Open(Box::new(error)))
        })?;
        reach("compact", "opened");
        self.folder.end_replacing()?;
        self.engine.limit_journal(self.settings.journal_bytes);
        self.compacted = None;
        info!(
            event = "database_compacted", path = %self.engine.path().display(), records, bytes, now_bytes = self.engine.file_bytes()?,
            "the database was mostly empty, on a disk that is short of room: what it held is in a smaller one"
        );
        Ok(())
    }
}
