//! The queue of a stopped daemon: what is there, and a sound queue made of it.
//!
//! Guarantees:
//! - looking ([`check`], [`Stopped::events`], [`Stopped::letters`]) changes nothing: the engine is not started, its log
//!   is read;
//! - no event is invented: each was stored once, whole, with a right checksum. One that was settled may come back where
//!   the record that says so is lost, and is sent again with its id;
//! - [`repair()`] changes the folder by one rename: a crash leaves the old queue or the new one. The old database is
//!   kept in quarantine;
//! - a running daemon holds the lock, so that neither a look nor a repair runs beside it.

mod audit;
mod bytes;
mod destination;
mod log;
mod repair;
mod sight;
mod stored;
#[cfg(test)]
mod tests;
mod tree;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use thiserror::Error;

pub use self::audit::{Audit, Damaged, check};
pub use self::repair::{Repaired, repair};
pub(super) use self::repair::{put_away, repair_itself};
pub(super) use self::sight::{Known, log_end, would_lose};
use self::stored::{Item, Stored};
use super::error::OpenError;
use super::{files, folder};
use crate::event::Event;
use crate::wire::record::DeadLetter;

/// Why the folder of a stopped daemon cannot be worked on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SalvageError {
    /// It is in use, or cannot be locked, or a newer program wrote it.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is nothing to read.
    #[error("there is no queue in {}: no events.N; is it queue.path of this configuration?", .0.display())]
    NoDatabase(PathBuf),
    /// It cannot be read.
    #[error("{} cannot be read: {source}; try again as root, on a copy, or on another disk", path.display())]
    Read {
        /// The database.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// An older program wrote it.
    #[error(
        "the queue {} has schema {found}, and this program repairs schema {known} only: start the daemon once, which brings it up to date, or use the program that wrote it",
        path.display()
    )]
    Older {
        /// The queue's folder.
        path: PathBuf,
        /// The schema of the database.
        found: u32,
        /// The schema that is known here.
        known: u32,
    },
    /// Nobody knows whose events these are.
    #[error(
        "the queue {} no longer says whose events it holds: set target.client and target.organization_id to the account that it was used with",
        .0.display()
    )]
    NoAccount(PathBuf),
    /// The records that the account stands in cannot be read, and nobody asked for new ones.
    #[error("the queue {} has lost its own counters: target-notifyd store repair counts anew", .0.display())]
    NoLedger(PathBuf),
    /// The new database cannot be written.
    #[error("the new database {} cannot be written: {message}; the queue is as it was. Check the disk and its room: df -h", path.display())]
    Write {
        /// The new database.
        path: PathBuf,
        /// What was answered.
        message: String,
    },
    /// The disk has no room for the new database.
    #[error(
        "the new database {} takes at least {needed} bytes, and there is no room for it: {message}; the queue is as it was. See what takes the disk with df -h, free some, and try again",
        path.display()
    )]
    Full {
        /// The new database.
        path: PathBuf,
        /// What is known to go into it.
        needed: u64,
        /// What was answered.
        message: String,
    },
}

impl SalvageError {
    /// Says of a disk without room that the reserve was given up for nothing.
    fn without_reserve(self) -> Self {
        match self {
            Self::Full { path, needed, message } => {
                let message = format!("{message}, even without the reserve, which was given up");
                Self::Full { path, needed, message }
            }
            error => error,
        }
    }
}

/// The queue of a stopped daemon, open for reading.
pub struct Stopped {
    stored: Stored,
    /// Newer databases, without a record.
    empty: Vec<PathBuf>,
    /// Keeps a daemon from starting meanwhile; absent where none ever ran here.
    _lock: Option<Flock<File>>,
}

impl Stopped {
    /// Locks `root` and reads what is where in its current database. Blocks on the disk.
    ///
    /// # Errors
    /// [`SalvageError`]: a daemon runs, or there is nothing that can be read.
    pub fn open(root: &Path) -> Result<Self, SalvageError> {
        let lock = lock(root)?;
        let (stored, empty) = newest_with_records(root)?;
        stored.check_schema(root)?;
        Ok(Self { stored, empty, _lock: lock })
    }

    /// Hands on every event that waits and can be read, in its order; how many there were.
    ///
    /// # Errors
    /// [`SalvageError`]: the disk cannot be read; or that of `visit`.
    pub fn events<E: From<SalvageError>>(
        &self,
        mut visit: impl FnMut(Event) -> Result<(), E>,
    ) -> Result<u64, E> {
        let mut count = 0;
        self.stored.walk(|item| {
            if let Item::Page(page) = item {
                for event in page.events() {
                    visit(event)?;
                    count += 1;
                }
            }
            Ok::<_, E>(())
        })?;
        Ok(count)
    }

    /// Hands on every dead letter that can be read, oldest first; how many there were.
    ///
    /// # Errors
    /// As in [`Stopped::events`].
    pub fn letters<E: From<SalvageError>>(
        &self,
        mut visit: impl FnMut(DeadLetter) -> Result<(), E>,
    ) -> Result<u64, E> {
        let mut count = 0;
        self.stored.walk(|item| {
            if let Item::Letter { letter: Ok(letter), .. } = item {
                visit(letter)?;
                count += 1;
            }
            Ok::<_, E>(())
        })?;
        Ok(count)
    }
}

/// The newest database in `root` that has any record, and the newer ones without: a copy that was broken off, or what a
/// start made in its place.
fn newest_with_records(root: &Path) -> Result<(Stored, Vec<PathBuf>), SalvageError> {
    let databases = folder::databases(root).map_err(OpenError::folder(root))?;
    let (mut empty, mut last) = (Vec::new(), None);
    for (_, path) in databases.into_iter().rev() {
        let stored = Stored::open(&path, folder::failed_before(root))?;
        if !stored.is_empty()? {
            return Ok((stored, empty));
        }
        last.get_or_insert(stored);
        empty.push(path);
    }
    Ok((last.ok_or_else(|| SalvageError::NoDatabase(root.to_owned()))?, Vec::new()))
}

/// Locks `root` as a reader, without making anything.
fn lock(root: &Path) -> Result<Option<Flock<File>>, OpenError> {
    let failed = OpenError::folder(root);
    let path = root.join(folder::LOCK);
    files::expect_file(&path).map_err(failed)?;
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound && root.is_dir() => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    folder::locked(file, FlockArg::LockSharedNonblock, root).map(Some)
}
