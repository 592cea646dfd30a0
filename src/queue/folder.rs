//! The queue's folder on the disk: which database is the current one, the lock, and what must be synced.
//!
//! ```text
//! lock            held by the one instance that uses the queue
//! events.N        a database, with its journal (`journal.M`) and the engine's files; the highest N counts. A file
//!                 `replaces` in it has the number of another one, all of which it holds
//! events.new      a database under construction; worth nothing until it is renamed
//! reserve         blocks that are given up when the disk is full
//! failed          a sync failed: the next start copies every readable record into a new database
//! quarantine/     what was set aside: snapshots that would not open, databases that were replaced
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tracing::{error, warn};

use super::error::OpenError;
use super::files::{Identity, expect_file, numbered_paths, sync, sync_tree};
use crate::failpoint::reach;

/// The file that is locked by what uses the queue.
pub(super) const LOCK: &str = "lock";
/// The mode of a folder that is made here: events are read by nobody else, nor is the lock taken, whatever the umask.
const MODE: u32 = 0o700;
/// The bit that lets every user in.
const ENTERED_BY_OTHERS: u32 = 0o001;
/// The mark of a failed disk.
const FAILED: &str = "failed";
/// The file of a database that has the number of another one, all of which it holds.
const REPLACES: &str = "replaces";
/// The folder of what was set aside.
pub(super) const QUARANTINE: &str = "quarantine";

/// Whether a daemon left the mark of a failed disk in the queue's folder `root`: the next start copies the database.
#[must_use]
pub fn failed_before(root: &Path) -> bool {
    root.join(FAILED).exists()
}

/// Whether every user of the machine can enter the queue's folder `root`, and so read the files in it, which are made
/// by the umask.
#[must_use]
pub fn exposed(root: &Path) -> bool {
    let entered =
        |folder: &Path| fs::metadata(folder).is_ok_and(|found| found.mode() & ENTERED_BY_OTHERS != 0);
    root.canonicalize().is_ok_and(|root| root.ancestors().all(entered))
}

/// The folder, locked for as long as this lives.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    _lock: Flock<File>,
    is_lock: Identity,
}

impl Folder {
    /// Makes the folder where it is absent, and locks it.
    pub(super) fn lock(root: &Path) -> Result<Self, OpenError> {
        let failed = OpenError::folder(root);
        make(root).map_err(failed)?;
        let path = root.join(LOCK);
        expect_file(&path).map_err(failed)?;
        let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = opened.map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied if path.is_file() => {
                OpenError::Denied { path, message: error.to_string() }
            }
            _ => failed(error),
        })?;
        let is_lock = Identity::of(&file).map_err(failed)?;
        let lock = locked(file, FlockArg::LockExclusiveNonblock, root)?;
        Ok(Self { root: root.to_owned(), _lock: lock, is_lock })
    }

    /// Whether the lock is still the one in the folder: another instance could take any other.
    pub(super) fn is_locked(&self) -> bool {
        self.is_lock.is_at(&self.root.join(LOCK))
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Where the next database is made. What lies there already was never finished, and is removed.
    pub(super) fn clear_construction(&self) -> io::Result<PathBuf> {
        let path = construction(&self.root);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(path),
        }
    }

    /// Makes the constructed database the current one.
    pub(super) fn finish(&self, constructed: &Path) -> io::Result<PathBuf> {
        let last = self.last_number()?;
        let path = self.root.join(format!("events.{}", last + 1));
        // Everything below is synced before the rename, and the rename after it: a power cut leaves the old state
        // or the new one, never a database with files that are not there.
        sync_tree(constructed)?;
        reach("create", "built");
        fs::rename(constructed, &path)?;
        reach("create", "renamed");
        sync(&self.root)?;
        reach("create", "synced");
        Ok(path)
    }

    /// As [`Folder::finish`], of a database that holds all of the current one, and says so.
    pub(super) fn finish_replacing(&self, constructed: &Path) -> io::Result<PathBuf> {
        fs::write(constructed.join(REPLACES), self.last_number()?.to_string())?;
        self.finish(constructed)
    }

    /// Removes the database that `current` holds all of, as it says itself. It has to be open, which syncs its name.
    /// Where a sync failed the old one is not removed, but set aside as any other.
    pub(super) fn remove_replaced(&self, current: &Path) {
        let removed = || -> io::Result<()> {
            let mark = current.join(REPLACES);
            let text = match fs::read(&mark) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                read => read?,
            };
            let number: Option<u64> = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
            let databases = databases(&self.root)?;
            let old = databases.iter().find(|(found, path)| Some(*found) == number && path != current);
            if let Some((_, path)) = old.filter(|_| !failed_before(&self.root)) {
                fs::remove_dir_all(path)?;
                sync(&self.root)?;
                reach("compact", "removed");
            }
            fs::remove_file(&mark)?;
            sync(current)
        };
        if let Err(error) = removed() {
            let path = self.root.display();
            warn!(event = "replaced_kept", %error, %path, "a database that was replaced by a smaller one cannot be removed: the next start sets it aside. Check the disk: journalctl -k");
        }
    }

    /// Moves databases that were replaced into quarantine; where they lie then. Nothing is deleted.
    pub(super) fn set_replaced_aside(&self) -> io::Result<Vec<PathBuf>> {
        let mut replaced = databases(&self.root)?;
        replaced.pop();
        replaced.iter().map(|(_, path)| self.quarantine(path)).collect()
    }

    /// Moves `path` into quarantine under a name that is free there.
    pub(super) fn quarantine(&self, path: &Path) -> io::Result<PathBuf> {
        let folder = self.make_quarantine()?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut target = folder.join(&name);
        let mut number = 1_u32;
        while target.exists() {
            target = folder.join(format!("{name}.{number}"));
            number += 1;
        }
        fs::rename(path, &target)?;
        reach("aside", "renamed");
        sync(&folder)?;
        sync(&self.root)?;
        reach("aside", "synced");
        Ok(target)
    }

    /// The folder of what is set aside, made where it is absent.
    pub(super) fn make_quarantine(&self) -> io::Result<PathBuf> {
        let folder = self.root.join(QUARANTINE);
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// Leaves the mark that a sync or a write failed; as the disk is failing, this may fail too.
    pub(super) fn mark_failed(&self, why: &str) {
        if let Err(error) = self.try_mark_failed(why) {
            let path = self.root.display();
            error!(event = "mark_unwritten", %error, %path, "the mark of the failed disk could not be written. Check the disk with journalctl -k, and start with a copy of queue.path on another one");
        }
    }

    fn try_mark_failed(&self, why: &str) -> io::Result<()> {
        let path = self.root.join(FAILED);
        expect_file(&path)?;
        let mut file = File::create(path)?;
        writeln!(file, "{why}")?;
        file.sync_all()?;
        sync(&self.root)
    }

    pub(super) fn clear_failed(&self) -> io::Result<()> {
        fs::remove_file(self.root.join(FAILED))?;
        sync(&self.root)
    }

    /// The number of the current database; 0 where there is none.
    fn last_number(&self) -> io::Result<u64> {
        Ok(databases(&self.root)?.last().map_or(0, |(number, _)| *number))
    }
}

/// Makes the folder where it is absent; one that is there stays as it is, and so do the folders above it.
fn make(root: &Path) -> io::Result<()> {
    if root.exists() {
        return Ok(());
    }
    if let Some(parent) = root.parent() {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(MODE).create(root) {
        // Another instance made it in between: the lock decides.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && root.is_dir() => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // What exists is the link alone.
            let told = |target: PathBuf| {
                io::Error::other(format!("it is a link to {}, which is not there", target.display()))
            };
            return Err(fs::read_link(root).map_or(error, told));
        }
        made => made?,
    }
    // A umask can take more away from it than from others.
    fs::set_permissions(root, Permissions::from_mode(MODE))?;
    root.parent().map_or(Ok(()), sync)
}

/// Where the next database of the folder `root` is made.
pub(super) fn construction(root: &Path) -> PathBuf {
    root.join("events.new")
}

/// The database that counts in the folder `root`, if there is one.
pub(super) fn current(root: &Path) -> io::Result<Option<PathBuf>> {
    Ok(databases(root)?.pop().map(|(_, path)| path))
}

/// The databases in the folder `root`, in the order of their numbers.
pub(super) fn databases(root: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    numbered_paths(root, "events.")
}

/// Locks the open lock file of the folder `root`, without waiting for it.
pub(super) fn locked(file: File, how: FlockArg, root: &Path) -> Result<Flock<File>, OpenError> {
    Flock::lock(file, how).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => OpenError::InUse(root.to_owned()),
        errno => OpenError::folder(root)(errno.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_folder_that_is_made_is_for_its_owner_alone_and_one_that_is_there_stays() {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("above").join("queue");
        drop(Folder::lock(&root).unwrap());
        assert_eq!(mode(&root), MODE);
        // By the umask, as ever.
        assert_ne!(mode(&base.path().join("above")) & 0o500, 0);

        fs::set_permissions(&root, Permissions::from_mode(0o750)).unwrap();
        drop(Folder::lock(&root).unwrap());
        assert_eq!(mode(&root), 0o750);
        // What is no folder is told, and not replaced.
        let file = base.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(Folder::lock(&file), Err(OpenError::Folder { .. })));
        assert!(matches!(Folder::lock(&file.join("queue")), Err(OpenError::Folder { .. })));
        let link = base.path().join("link");
        std::os::unix::fs::symlink(base.path().join("absent"), &link).unwrap();
        let told = Folder::lock(&link).unwrap_err().to_string();
        assert!(told.contains("it is a link to ") && told.contains("absent, which is not there"), "{told}");
    }

    #[test]
    fn a_folder_is_exposed_where_every_user_can_come_to_it() {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("queue");
        drop(Folder::lock(&root).unwrap());
        for (above, own, is_exposed) in
            [(0o700, 0o755, false), (0o711, 0o755, true), (0o755, 0o711, true), (0o755, 0o750, false)]
        {
            fs::set_permissions(base.path(), Permissions::from_mode(above)).unwrap();
            fs::set_permissions(&root, Permissions::from_mode(own)).unwrap();
            assert_eq!(exposed(&root), is_exposed, "{above:o} {own:o}");
        }
        assert!(!exposed(&base.path().join("absent")));
    }
}
