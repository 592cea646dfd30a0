//! The database that a repair makes, and the room for it.

use std::io;
use std::path::Path;

use super::SalvageError;
use super::tree::Record;
use crate::queue::batch::Batch;
use crate::queue::engine::{CommitError, Engine, SEGMENT_BYTES, is_full};
use crate::queue::error::OpenError;
use crate::queue::folder::construction;
use crate::queue::space::free_bytes;

/// The room on the disk for a new database.
#[derive(Clone, Copy)]
pub(super) struct Room<'f> {
    pub(super) root: &'f Path,
    /// What is known to go into it, in bytes.
    pub(super) needed: u64,
}

impl Room<'_> {
    /// Errs where it is sure to be too little: a start that is tried again and again is not to fill the disk each time.
    pub(super) fn is_there(self) -> Result<(), SalvageError> {
        match free_bytes(self.root) {
            Ok(free) if free < self.needed => Err(self.full(format!("{free} bytes are free"))),
            _ => Ok(()),
        }
    }

    fn full(self, message: String) -> SalvageError {
        SalvageError::Full { path: construction(self.root), needed: self.needed, message }
    }

    pub(super) fn failed(self, source: io::Error) -> SalvageError {
        match is_full(&source) {
            true => self.full(source.to_string()),
            false => OpenError::Folder { path: self.root.to_owned(), source }.into(),
        }
    }

    fn write_failed(self, error: &CommitError) -> SalvageError {
        match error {
            CommitError::Engine(sled::Error::Io(source)) | CommitError::Sync(source) if is_full(source) => {
                self.full(source.to_string())
            }
            _ => SalvageError::Write { path: construction(self.root), message: error.to_string() },
        }
    }
}

/// The database under construction.
pub(super) struct Copy<'f> {
    engine: Engine,
    batch: Batch,
    bytes: usize,
    room: Room<'f>,
}

impl<'f> Copy<'f> {
    pub(super) fn new(path: &Path, room: Room<'f>) -> Result<Self, SalvageError> {
        let engine = Engine::new_at(path).map_err(|error| room.write_failed(&error))?;
        Ok(Self { engine, batch: Batch::default(), bytes: 0, room })
    }

    pub(super) fn put(&mut self, (key, value): Record) -> Result<(), SalvageError> {
        self.bytes += key.len() + value.len();
        self.batch.insert(key, value);
        if self.bytes > SEGMENT_BYTES {
            self.bytes = 0;
            return self.commit();
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), SalvageError> {
        let written = self.engine.commit(std::mem::take(&mut self.batch));
        written.map_err(|error| self.room.write_failed(&error))
    }

    pub(super) fn close(mut self) -> Result<(), SalvageError> {
        self.commit()
    }
}
