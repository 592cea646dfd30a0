//! The engine's snapshots of a database: how far its log had come once.

use std::path::{Path, PathBuf};
use std::{fs, io};

use super::commit_error::CommitError;
use super::files::with_prefix;
use super::folder::Folder;
use super::salvage::{self, Known};

/// How many times as long as the log a snapshot is at most. It has a place for each page, of which the log has a message.
const TIMES_THE_LOG: u64 = 8;
/// How many bytes it may have beyond that.
const BEYOND: u64 = 1_024 * 1_024;

/// Errs where a snapshot is longer than any of such a log: the engine reads it whole, whatever memory there is.
pub(super) fn expect_sizes(path: &Path) -> Result<(), CommitError> {
    let log = fs::metadata(path.join("db")).map_or(0, |log| log.len());
    for (_, snapshot) in all(path)? {
        let bytes = fs::metadata(&snapshot)?.len();
        if bytes > log.saturating_mul(TIMES_THE_LOG).saturating_add(BEYOND) {
            return Err(CommitError::Snapshot { path: snapshot, bytes });
        }
    }
    Ok(())
}

/// Removes a snapshot that was being written when the power failed: it makes every open fail.
pub(super) fn remove_unfinished(path: &Path) -> io::Result<()> {
    for (name, snapshot) in all(path)? {
        if name.ends_with(".generating") {
            fs::remove_file(&snapshot)?;
        }
    }
    Ok(())
}

/// Moves the snapshots of a database into quarantine, so that the engine replays the whole log. Not where the engine
/// would then not find the end of the log: what an open frees is gone from the log at once, and only the snapshot that
/// this open made says that nothing is missing there.
pub(super) fn set_aside(path: &Path, folder: &Folder) -> Result<(), CommitError> {
    let known = Known { recovered: 0, ..known(path)? };
    if let [Some(loss)] = salvage::would_lose(path, [known])? {
        return Err(CommitError::Damaged(loss.to_string()));
    }
    for (_, snapshot) in all(path)? {
        folder.quarantine(&snapshot)?;
    }
    Ok(())
}

/// What the snapshots of a database tell of its log, by their names.
pub(super) fn known(path: &Path) -> io::Result<Known> {
    let found = all(path)?;
    let places = found.iter().filter_map(|(place, _)| u64::from_str_radix(place, 16).ok());
    let recovered = places.max().unwrap_or(0);
    Ok(Known { recovered, reached: recovered, durable: 0 })
}

/// The snapshots of a database: what follows `snap.` in their names, and their paths.
fn all(path: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    // A database that is made now has no folder yet.
    if path.exists() { with_prefix(path, "snap.") } else { Ok(Vec::new()) }
}
