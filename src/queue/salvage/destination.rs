//! Where a repair makes the new database, and whether there is room for it.

use std::io;
use std::path::Path;

use super::SalvageError;
use crate::queue::commit_error::{CommitError, is_full};
use crate::queue::error::OpenError;
use crate::queue::folder::construction;
use crate::queue::space::free;

/// The folder that a new database is made in.
#[derive(Clone, Copy)]
pub(super) struct Destination<'f> {
    pub(super) root: &'f Path,
    /// What is known to go into the database, in bytes.
    pub(super) needed: u64,
}

impl Destination<'_> {
    /// Errs where the room is sure to be too little: a start that is tried again and again is not to fill the disk each
    /// time.
    pub(super) fn has_room(self) -> Result<(), SalvageError> {
        match free(self.root) {
            Ok(free) if free.bytes < self.needed => Err(self.full(format!("{} bytes are free", free.bytes))),
            _ => Ok(()),
        }
    }

    fn full(self, message: String) -> SalvageError {
        SalvageError::Full { path: construction(self.root), needed: self.needed, message }
    }

    pub(super) fn failed(self, source: io::Error) -> SalvageError {
        match is_full(&source) {
            true => self.full(source.to_string()),
            false => OpenError::folder(self.root)(source).into(),
        }
    }

    pub(super) fn write_failed(self, error: &CommitError) -> SalvageError {
        match error {
            CommitError::Engine(sled::Error::Io(source)) | CommitError::Sync(source) if is_full(source) => {
                self.full(source.to_string())
            }
            _ => SalvageError::Write { path: construction(self.root), message: error.to_string() },
        }
    }
}
