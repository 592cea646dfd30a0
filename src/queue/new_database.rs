//! A new database that is being filled, where nobody looks before it is whole.

use std::path::Path;

use super::batch::Batch;
use super::commit_error::CommitError;
use super::engine::{Engine, LOG_SEGMENT_BYTES};

/// The database, and what is written next.
pub(super) struct NewDatabase {
    engine: Engine,
    batch: Batch,
    records: u64,
    /// The bytes that were written.
    written: u64,
    /// The most bytes that are, but for a last batch.
    max: u64,
}

impl NewDatabase {
    pub(super) fn make(path: &Path, max: u64) -> Result<Self, CommitError> {
        Ok(Self { engine: Engine::new_at(path)?, batch: Batch::default(), records: 0, written: 0, max })
    }

    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), CommitError> {
        self.records += 1;
        self.batch.insert(key, value);
        if self.batch.bytes() <= LOG_SEGMENT_BYTES {
            return Ok(());
        }
        self.written += self.batch.bytes() as u64;
        if self.written > self.max {
            return Err(CommitError::Large(self.max));
        }
        self.engine.commit(std::mem::take(&mut self.batch))
    }

    /// Writes what is left; the database, and how many records were added.
    pub(super) fn finish(self) -> Result<(Engine, u64), CommitError> {
        self.engine.commit(self.batch)?;
        Ok((self.engine, self.records))
    }
}
