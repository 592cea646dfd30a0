//! Files and folders: what lies in one, that it is what belongs there, and that it is on stable storage.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Statx, StatxFlags, statx};

/// The longest configuration of the engine that is read, in bytes: it writes some 60, and reads it whole.
const MAX_CONF_BYTES: u64 = 64 * 1_024;

/// What lies in `folder` under `prefix` and a number, in the order of the numbers.
pub(super) fn numbered_paths(folder: &Path, prefix: &str) -> io::Result<Vec<(u64, PathBuf)>> {
    let found = with_prefix(folder, prefix)?.into_iter();
    // As they are written here: what has other digits is somebody else's.
    let number = |rest: &str| rest.parse::<u64>().ok().filter(|number| number.to_string() == rest);
    let mut found: Vec<_> = found.filter_map(|(rest, path)| Some((number(&rest)?, path))).collect();
    found.sort();
    Ok(found)
}

/// What lies in `folder` under names that begin with `prefix`: the rest of each name, and the path.
pub(super) fn with_prefix(folder: &Path, prefix: &str) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if let Some(rest) = entry.file_name().to_string_lossy().strip_prefix(prefix) {
            found.push((rest.to_owned(), entry.path()));
        }
    }
    Ok(found)
}

/// Errs where something else than a file lies at `path`, or where a link there leads to: who opens a FIFO waits for ever.
pub(super) fn expect_file(path: &Path) -> io::Result<()> {
    let kind = match fs::metadata(path) {
        Ok(found) if !found.is_file() => found.file_type(),
        _ => return Ok(()),
    };
    let is = match () {
        () if kind.is_dir() => "a folder",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    Err(io::Error::other(format!("{} is {is}, and a file belongs there: move it away", path.display())))
}

/// As [`expect_file`], of all files of a database; nor may the engine's configuration be without end. Folders that the
/// queue does not know are left alone.
pub(super) fn expect_files(database: &Path) -> io::Result<()> {
    for entry in fs::read_dir(database)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_known =
            ["db", "conf"].contains(&&*name) || ["journal.", "snap."].iter().any(|one| name.starts_with(one));
        if is_known || !entry.path().is_dir() {
            expect_file(&entry.path())?;
        }
    }
    let conf = database.join("conf");
    let bytes = fs::metadata(&conf).map_or(0, |found| found.len());
    if bytes > MAX_CONF_BYTES {
        let path = conf.display();
        let told = format!(
            "{path} has {bytes} bytes, which the engine never wrote: move it away, and it is made anew"
        );
        return Err(io::Error::other(told));
    }
    Ok(())
}

/// Syncs one file or folder.
pub(super) fn sync(path: &Path) -> io::Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(path)?.sync_all()
}

/// Syncs every file and folder below `path`, and the folder that it lies in.
pub(super) fn sync_tree(path: &Path) -> io::Result<()> {
    sync_below(path)?;
    path.parent().map_or(Ok(()), sync)
}

fn sync_below(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_below(&entry.path())?;
        } else {
            sync(&entry.path())?;
        }
    }
    sync(path)
}

/// Which file it is, by whatever name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: (u32, u32),
    inode: u64,
}

impl Identity {
    /// Only the inode is asked for: asking for times makes some systems keep finer ones, which some file systems write
    /// with every sync.
    const ASKED: StatxFlags = StatxFlags::INO;

    /// The open file's.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        Ok(statx(file, "", AtFlags::EMPTY_PATH, Self::ASKED)?.into())
    }

    /// Whether the file that lies at `path` is this one.
    pub(super) fn is_at(self, path: &Path) -> bool {
        statx(CWD, path, AtFlags::empty(), Self::ASKED).is_ok_and(|there| Self::from(there) == self)
    }
}

impl From<Statx> for Identity {
    fn from(file: Statx) -> Self {
        Self { device: (file.stx_dev_major, file.stx_dev_minor), inode: file.stx_ino }
    }
}
