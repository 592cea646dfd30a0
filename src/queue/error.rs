//! What can go wrong with the queue, in the operator's words.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::commit_error::lacks_descriptors;
use crate::event::{Account, noun, unwritable};

/// Why the queue cannot be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has it open.
    #[error("the queue {} is in use by another instance: stop it, or set another queue.path", .0.display())]
    InUse(PathBuf),
    /// The folder cannot be made, read or written.
    #[error(
        "the queue's folder {} cannot be used: {source}; {}",
        path.display(), unwritable(source, "check that it exists and belongs to this user")
    )]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Something in the folder is another user's.
    #[error("{} cannot be opened: {message}; all that lies in the queue's folder must belong to this user: ls -l shows whose it is, and chown -R changes that", path.display())]
    Denied {
        /// The file, or the database's folder.
        path: PathBuf,
        /// The system's answer.
        message: String,
    },
    /// The storage engine does not open the database, not even without its snapshots.
    #[error(
        "the database {} cannot be opened: {message}; nothing that can be read was written over. See \"the queue does not open\" in docs/runbook.md",
        path.display()
    )]
    Engine {
        /// The database's folder.
        path: PathBuf,
        /// What the engine said.
        message: String,
    },
    /// The engine would write over what can be read, and it could not be copied either.
    #[error(
        "the log of the database {} is damaged: {message}. Nothing was changed: see \"the queue does not open\" in docs/runbook.md",
        path.display()
    )]
    Damaged {
        /// The database's folder.
        path: PathBuf,
        /// Where, and why it was not repaired.
        message: String,
    },
    /// The disk is full, even without the reserve.
    #[error(
        "the database {} cannot be opened, because its disk is full: {message}. Nothing was lost: see what takes the space with df -h, free some, and start again",
        path.display()
    )]
    Full {
        /// The database's folder.
        path: PathBuf,
        /// What the engine said.
        message: String,
    },
    /// This process, or the machine, may have no more files open.
    #[error(
        "the database {} cannot be opened: {message}. Nothing was lost: raise the limit of open files (LimitNOFILE= of the service, ulimit -n), and start again",
        path.display()
    )]
    Descriptors {
        /// The database's folder.
        path: PathBuf,
        /// The system's answer.
        message: String,
    },
    /// A record that the whole queue depends on is damaged.
    #[error(
        "the record \"{name}\" of the database {} is damaged: {message}; nothing that can be read was written over. See \"the queue does not open\" in docs/runbook.md",
        path.display()
    )]
    Meta {
        /// The database's folder.
        path: PathBuf,
        /// The record's name.
        name: String,
        /// What is wrong.
        message: String,
    },
    /// A newer program wrote the database.
    #[error(
        "the queue {} has schema {found}, and this program knows schemas up to {known}: start the newer program",
        path.display()
    )]
    Newer {
        /// The queue's folder.
        path: PathBuf,
        /// The schema of the database.
        found: u32,
        /// The newest schema that is known here.
        known: u32,
    },
    /// There may be no more threads.
    #[error(
        "the thread that writes the queue cannot be started: {0}. Check the limits: ulimit -a, and TasksMax= of the service"
    )]
    Thread(io::Error),
    /// The queue holds events for another account.
    #[error(
        "the queue {} holds {pending} {} to deliver and {dead} {} for client \"{}\" of organization \"{}\", but the configuration names client \"{}\" of organization \"{}\": correct target.client and target.organization_id, or send them to the new account with run --adopt-queue",
        path.display(), noun(*pending, "event", "events"), noun(*dead, "dead letter", "dead letters"),
        stamped.client, stamped.organization, configured.client, configured.organization
    )]
    OtherAccount {
        /// The queue's folder.
        path: PathBuf,
        /// Whose events it holds.
        stamped: Box<Account>,
        /// The account that is configured.
        configured: Box<Account>,
        /// Events that wait.
        pending: u64,
        /// Dead letters held.
        dead: u64,
    },
}

impl OpenError {
    /// Says of an answer of the system that the folder `path` cannot be used because of it.
    pub(super) fn folder(path: &Path) -> impl Fn(io::Error) -> Self + Copy {
        move |source| match lacks_descriptors(&source) {
            true => Self::Descriptors { path: path.to_owned(), message: source.to_string() },
            false => Self::Folder { path: path.to_owned(), source },
        }
    }
}

/// Why the queue stopped working.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failed {
    /// A sync or a write failed; what was not acknowledged may or may not be stored.
    #[error(
        "the disk under {} failed: {message}; nothing more was acknowledged. The next start copies what can be read into a new database",
        path.display()
    )]
    Disk {
        /// The database's folder.
        path: PathBuf,
        /// What was answered.
        message: String,
    },
    /// The disk is full, and the database could not be opened again, or what was delivered could not be written down.
    #[error(
        "the disk under {} is full: {message}. Nothing that was acknowledged is lost; what was delivered last may be sent again. See what takes the space with df -h, free some, and start again",
        path.display()
    )]
    Full {
        /// The database's folder.
        path: PathBuf,
        /// What was answered.
        message: String,
    },
    /// A part of it cannot be read; the rest can.
    #[error(
        "a part of the database {} cannot be read: {message}. Nothing was changed: check the disk with journalctl -k, and start again; see \"a part of the disk cannot be read\" in docs/runbook.md",
        path.display()
    )]
    Unread {
        /// The database's folder.
        path: PathBuf,
        /// What was answered.
        message: String,
    },
    /// The folder is not there any more.
    #[error(
        "the database {} was removed or moved away under the daemon: nothing more was acknowledged. Bring it back to where it was, whole, and start again; without it the next start makes an empty queue",
        .0.display()
    )]
    Gone(PathBuf),
    /// Its lock is not there any more.
    #[error(
        "the lock of the queue {} was removed or replaced under the daemon: nothing more was acknowledged. End what else uses the queue, a store repair or another instance, and start again",
        .0.display()
    )]
    Unlocked(PathBuf),
    /// This process, or the machine, may have no more files open.
    #[error(
        "the database {} cannot be written: {message}. Nothing that was acknowledged is lost; what was delivered last may be sent again. Raise the limit of open files (LimitNOFILE= of the service, ulimit -n), and start again",
        path.display()
    )]
    Descriptors {
        /// The database's folder.
        path: PathBuf,
        /// The system's answer.
        message: String,
    },
    /// The folder, or something in it, became another user's: what was to be made, removed or looked for there is denied,
    /// or the database was to be opened again after the disk was full.
    #[error(
        "the database {} cannot be written: {message}. Nothing that was acknowledged is lost; what was delivered last may be sent again. All that lies in the queue's folder must belong to this user: ls -l shows whose it is, and chown -R changes that; start again then",
        path.display()
    )]
    Denied {
        /// The database's folder.
        path: PathBuf,
        /// The system's answer.
        message: String,
    },
    /// The queue was closed while somebody still asked it for something.
    #[error("the queue is closed")]
    Closed,
}
