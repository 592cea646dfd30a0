//! The engine's snapshots of a database: how far its log had come once.

use std::path::{Path, PathBuf};
use std::{fs, io};

use super::commit_error::CommitError;
use super::files::with_prefix;
use super::folder::Folder;
use super::salvage::{self, Known};

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
    // A database that is made now has no folder yet.
    let found = if path.exists() { all(path)? } else { Vec::new() };
    let places = found.iter().filter_map(|(place, _)| u64::from_str_radix(place, 16).ok());
    let recovered = places.max().unwrap_or(0);
    Ok(Known { recovered, reached: recovered, durable: 0 })
}

/// The snapshots of a database: what follows `snap.` in their names, and their paths.
fn all(path: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    with_prefix(path, "snap.")
}
