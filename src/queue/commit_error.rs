//! Why something is not on stable storage, and what follows from that.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use thiserror::Error;

use super::error::OpenError;
use super::folder::Folder;
use super::journal::JournalError;

/// Why a database or a commit is not on stable storage.
#[derive(Debug, Error)]
pub(super) enum CommitError {
    #[error("{}", said(.0))]
    Engine(#[from] sled::Error),
    #[error("the database could not be synced: {0}")]
    Sync(#[from] io::Error),
    #[error("the log is damaged: {0}")]
    Damaged(String),
    #[error("{} has {bytes} bytes, which the engine never wrote", path.display())]
    Snapshot { path: PathBuf, bytes: u64 },
    #[error("the engine panicked: {0}")]
    Panic(String),
    #[error("the database {} was removed or moved away under the daemon", .0.display())]
    Gone(PathBuf),
    #[error("the lock of {} was removed or replaced under the daemon", .0.display())]
    Unlocked(PathBuf),
    #[error(transparent)]
    Open(Box<OpenError>),
    #[error("it cannot be opened again: {0}")]
    Full(String),
    #[error("it cannot be opened again: {0}")]
    Descriptors(String),
    #[error("a file of it is denied: {0}")]
    Denied(String),
    #[error("it holds more than {0} bytes")]
    Large(u64),
    #[error("the database was opened again after the disk was full, and does not hold what it held")]
    Lost,
}

impl CommitError {
    /// Whether the engine met a full disk, or a quota, as it wrote: the system has lost nothing that it took before. A
    /// sync that met it does not count: what the system had no room for is gone then, as after any other failed sync.
    pub(super) fn disk_full(&self) -> bool {
        match self {
            Self::Engine(error) => met_full_disk(error),
            Self::Full(_) => true,
            _ => false,
        }
    }

    /// Whether a file of it is another user's.
    pub(super) fn denied(&self) -> bool {
        match self {
            Self::Engine(sled::Error::Io(error)) | Self::Sync(error) => {
                error.kind() == io::ErrorKind::PermissionDenied
            }
            Self::Denied(_) => true,
            _ => false,
        }
    }

    /// Whether no more files may be open: nothing is wrong with the disk then.
    pub(super) fn lacks_descriptors(&self) -> bool {
        match self {
            Self::Engine(sled::Error::Io(error)) | Self::Sync(error) => lacks_descriptors(error),
            Self::Descriptors(_) => true,
            _ => false,
        }
    }

    /// Leaves the mark of a failed disk where the system may take pages for clean that never reached the disk.
    pub(super) fn mark_failed(&self, folder: &Folder) {
        let input_or_output = matches!(self, Self::Engine(sled::Error::Io(_)) | Self::Sync(_));
        if input_or_output && !self.disk_full() && !self.lacks_descriptors() {
            folder.mark_failed(&self.to_string());
        }
    }

    /// What that means for a start.
    pub(super) fn at_open(&self, path: &Path) -> OpenError {
        let (path, message) = (path.to_owned(), self.to_string());
        match self {
            Self::Damaged(message) => OpenError::Damaged { path, message: message.clone() },
            _ if self.disk_full() => OpenError::Full { path, message },
            _ if self.denied() => OpenError::Denied { path, message },
            _ if self.lacks_descriptors() => OpenError::Descriptors { path, message },
            _ => OpenError::Engine { path, message },
        }
    }
}

/// What the engine says, in an operator's words.
pub(super) fn said(error: &sled::Error) -> String {
    match error {
        sled::Error::Io(error) => format!("the database could not be written or read: {error}"),
        sled::Error::Corruption { .. } => "a part of it that was read is damaged".to_owned(),
        other => format!("the engine failed: {other}"),
    }
}

/// Whether the engine met a full disk.
pub(super) fn met_full_disk(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if is_full(error))
}

/// Whether there is no room on the disk, or the quota is used up.
pub(super) fn is_full(error: &io::Error) -> bool {
    [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded].contains(&error.kind())
}

/// Whether this process, or the machine, may have no more files open.
pub(super) fn lacks_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EMFILE | Errno::ENFILE))
}

impl From<OpenError> for CommitError {
    /// Of a database that was open before.
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Full { message, .. } => Self::Full(message),
            OpenError::Descriptors { message, .. } => Self::Descriptors(message),
            OpenError::Denied { message, .. } => Self::Denied(message),
            OpenError::Folder { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Self::Denied(source.to_string())
            }
            error => Self::Open(Box::new(error)),
        }
    }
}

impl From<JournalError> for CommitError {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Write(error) => Self::Engine(sled::Error::Io(error)),
            JournalError::Sync(error) => Self::Sync(error),
            JournalError::Denied(error) => Self::Denied(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answers of the system leave the mark of a failed disk only where one may be behind them.
    #[test]
    fn what_a_database_met_is_the_same_when_it_is_opened_again() {
        let path = Path::new("events.1");
        let met = |error: Errno| CommitError::Engine(sled::Error::Io(error.into()));
        for (error, is_full, lacks_files, denied) in [
            (Errno::ENOSPC, true, false, false),
            (Errno::EDQUOT, true, false, false),
            (Errno::EMFILE, false, true, false),
            (Errno::ENFILE, false, true, false),
            (Errno::EACCES, false, false, true),
            (Errno::EIO, false, false, false),
        ] {
            let again = CommitError::from(met(error).at_open(path));
            for met in [met(error), again] {
                let is = (met.disk_full(), met.lacks_descriptors(), met.denied());
                assert_eq!(is, (is_full, lacks_files, denied), "{met:?}");
            }
        }
        // What was to be written is gone, whatever the answer.
        let write = CommitError::from(JournalError::Write(Errno::EACCES.into()));
        assert!(!matches!(write, CommitError::Denied(_)), "{write:?}");
        for (error, denied) in [(Errno::EACCES, true), (Errno::EIO, false)] {
            let again = CommitError::from(OpenError::folder(path)(error.into()));
            assert_eq!(again.denied(), denied, "{again:?}");
        }
    }
}
