//! Free space on the disk: when nothing more is taken in, and the reserve that keeps removals possible.
//!
//! The storage engine does not survive a full disk well, so the disk is never let run full: below `min_free` nothing
//! more is appended; where even removals lack room, the reserve is given up for them. It is made again before anything
//! is appended. A disk may also have room for no more files, however many bytes are free.

#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::posix_fallocate;
use nix::sys::statvfs::statvfs;
use tracing::{error, info, warn};

use super::engine::LOG_SEGMENT_BYTES;
use super::files::{expect_file, sync};
use super::moving::Removals;

/// The most files of the queue's folder that are looked at to tell what it takes.
const MAX_FILES: usize = 10_000;
/// The database's files take up to so many times the payload.
pub const FILE_FACTOR: u64 = 3;

/// What must be free for the engine to make removals on a disk that is short of room, in bytes: more than it takes for
/// a batch.
const REMOVAL_ROOM: u64 = 8 * LOG_SEGMENT_BYTES as u64;

/// With less than this free even removals lack room, in bytes: the engine opens a segment ahead, and the journal has what they
/// write.
const LEAST_ROOM: u64 = 2 * LOG_SEGMENT_BYTES as u64;

/// The fewest files that must be free for anything to be appended: the next segment of the journal is one, and the engine
/// makes some as it opens.
pub const MIN_FREE_FILES: u64 = 8;

/// The file that holds the reserve.
const RESERVE: &str = "reserve";

/// Whether room for so many more files is too little for anything to be appended; a file system that counts none has enough.
#[must_use]
pub fn too_few_files(free: Option<u64>) -> bool {
    free.is_some_and(|files| files < MIN_FREE_FILES)
}

/// Tells what is free on the file system that a path lies on; a test puts its own in.
pub(super) type Probe = fn(&Path) -> io::Result<Free>;

/// What this user may still put on a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Free {
    /// How many bytes.
    pub bytes: u64,
    /// How many files; `None` where it does not count them.
    pub files: Option<u64>,
}

impl Free {
    /// So much, in any number of files.
    pub(super) fn of_bytes(bytes: u64) -> Self {
        Self { bytes, files: None }
    }

    /// Whether it is files that there are too few of.
    pub(super) fn lacks_files(self) -> bool {
        too_few_files(self.files)
    }
}

/// What a commit may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// Append and remove.
    Enough,
    /// Only remove; this much is free.
    RemovalsOnly(Free),
}

#[derive(Debug)]
pub(super) struct Space {
    root: PathBuf,
    min_free: u64,
    reserve: u64,
    held: bool,
    short: bool,
    /// What was free at the last look.
    last_free: Free,
    /// What had to be free then for what was to be appended, in bytes.
    needed: u64,
    /// Whether the engine met the full disk, and no room has shown for certain since.
    full: bool,
    told: Told,
    probe: Probe,
}

/// What every commit meets again while it lasts: how it was told last, until it is over.
#[derive(Debug, Default)]
struct Told {
    /// The free space is unknown.
    unknown: Option<io::ErrorKind>,
    /// The reserve cannot be made.
    unmade: Option<io::ErrorKind>,
    /// It cannot be given up.
    stuck: Option<io::ErrorKind>,
}

/// Whether `error` is to be told, which is so once for each kind in a row; `before` is how it was told last.
fn is_news(before: &mut Option<io::ErrorKind>, error: &io::Error) -> bool {
    before.replace(error.kind()) != Some(error.kind())
}

impl Space {
    /// The space of the folder `root`, with the reserve that a process before this one left there.
    pub(super) fn new(root: &Path, min_free: u64, reserve: u64, probe: Probe) -> Self {
        let mut space = Self {
            root: root.to_owned(),
            min_free,
            reserve: reserve_bytes(root),
            held: true,
            short: false,
            last_free: Free::of_bytes(0),
            needed: 0,
            full: false,
            told: Told::default(),
            probe,
        };
        space.limit(min_free, reserve);
        space
    }

    /// Goes by other limits. A larger reserve is made once there is room, and until then nothing is appended; what a
    /// smaller one no longer needs is free at once.
    pub(super) fn limit(&mut self, min_free: u64, reserve: u64) {
        self.min_free = min_free;
        // Whoever changes them is told whether that helped.
        self.told.unmade = None;
        // It may be smaller than it was to be, where there was no room for more.
        let there = reserve_bytes(&self.root);
        if reserve < there {
            let path = self.root.join(RESERVE);
            let shrunk = match reserve {
                0 => fs::remove_file(&path),
                _ => File::options().write(true).open(&path).and_then(|file| {
                    file.set_len(reserve)?;
                    file.sync_all()
                }),
            };
            if let Err(error) = shrunk.and_then(|()| sync(&self.root)) {
                warn!(event = "reserve_kept", %error, path = %path.display(), "the reserve cannot be made smaller");
            }
        }
        self.held = reserve <= there && !self.full;
        self.reserve = reserve;
    }

    /// Whether there is something to give up: the reserve, or a smaller one, where there was no room yet for what it is
    /// to be.
    fn has_reserve(&self) -> bool {
        if self.held { self.reserve > 0 } else { reserve_bytes(&self.root) > 0 }
    }

    /// What a commit of `bytes` may do; gives the reserve up, or makes it again, as there is room.
    pub(super) fn room(&mut self, bytes: u64) -> Room {
        // The journal takes a batch, and moves about twice as much into the engine, which opens a segment ahead. Where
        // it moves more, and meets the full disk, the database is opened again with the reserve.
        let needed = bytes.saturating_mul(3).saturating_add(LOG_SEGMENT_BYTES as u64);
        self.needed = needed;
        let free = match (self.probe)(&self.root) {
            Ok(free) => free,
            Err(error) => {
                self.last_free = Free::of_bytes(0);
                if is_news(&mut self.told.unknown, &error) {
                    warn!(event = "free_unknown", %error, path = %self.root.display(), "the free space is unknown; nothing is taken in. Check the file system: df -h, journalctl -k");
                }
                return Room::RemovalsOnly(self.last_free);
            }
        };
        (self.last_free, self.told.unknown) = (free, None);
        // What is appended gets none of the reserve: it is refused where it has no room.
        let is_spent = free.bytes < LEAST_ROOM || free.files == Some(0);
        let takes_more = |least: u64| free.bytes >= needed.max(least) && !free.lacks_files();
        if is_spent && self.has_reserve() {
            self.give_up();
        } else if !self.held && takes_more(self.least()) {
            self.make();
        }
        let enough = self.held && takes_more(self.least());
        if self.short == enough {
            self.short = !enough;
            self.report(free);
        }
        if enough { Room::Enough } else { Room::RemovalsOnly(free) }
    }

    /// What must be free for anything to be appended, in bytes; more where the reserve has to be made first, which is given
    /// up with less than [`LEAST_ROOM`].
    fn least(&self) -> u64 {
        match self.held {
            true => self.min_free,
            false => self.min_free.max(LEAST_ROOM).saturating_add(self.reserve),
        }
    }

    /// Why nothing was appended after the last look, where this is free.
    pub(super) fn refusal(&self, free: Free) -> String {
        let (Free { bytes, files }, min_free) = (free, self.min_free);
        let needed = self.needed.max(self.least());
        match files.filter(|_| free.lacks_files()) {
            Some(files) => {
                format!("the disk has room for {files} more files, and {MIN_FREE_FILES} must stay free")
            }
            None if bytes < min_free => {
                format!("the disk has {bytes} bytes free, and {min_free} must stay free (queue.min_free)")
            }
            None if bytes < needed => {
                format!("the disk has {bytes} bytes free, and {needed} must be free for this")
            }
            None => {
                format!("the disk has {bytes} bytes free, and no room all the same: a quota may be used up")
            }
        }
    }

    /// Whether the last look found too little room to append.
    pub(super) fn is_short(&self) -> bool {
        self.short
    }

    /// Whether little more is free than has to be. It begins long before nothing is appended, and ends long after that:
    /// otherwise producers would be turned away each time that some room was used up.
    pub(super) fn is_tight(&self) -> bool {
        self.short || self.last_free.bytes < self.min_free.saturating_add(self.reserve).saturating_mul(2)
    }

    /// When the engine may make removals, so that the journal gives back what it no longer needs: while too little is
    /// free to append, there may be enough for that.
    pub(super) fn removals(&self) -> Removals {
        if self.full || self.last_free.bytes < REMOVAL_ROOM { Removals::Late } else { Removals::Soon }
    }

    /// What may move into the engine, by what it costs there ([`cost`](super::index::cost)): it writes up to twice that,
    /// and removals keep their room.
    pub(super) fn room_to_move(&self) -> usize {
        let room = self.last_free.bytes.saturating_sub(REMOVAL_ROOM) / 2;
        if self.full { 0 } else { usize::try_from(room).unwrap_or(usize::MAX) }
    }

    /// The engine met the full disk, whatever the free space says: nothing is appended until there is room for certain.
    /// Says whether the reserve was given up for that.
    pub(super) fn fill(&mut self) -> bool {
        let freed = self.has_reserve() && self.give_up();
        (self.held, self.full) = (false, true);
        if !self.short {
            self.short = true;
            self.report(self.free());
        }
        freed
    }

    /// What is free, no byte where that is unknown.
    pub(super) fn free(&self) -> Free {
        (self.probe)(&self.root).unwrap_or(Free::of_bytes(0))
    }

    fn report(&self, Free { bytes: free_bytes, files: free_files }: Free) {
        let (path, min_free_bytes) = (self.root.display(), self.min_free);
        if self.short {
            error!(
                event = "storage_full", %path, free_bytes, min_free_bytes, free_files,
                "the disk has too little free space, or too few free files: producers are answered storage_full; delivery goes on. See what takes it with df -h and df -i, and free some, or lower queue.min_free; target-notifyd status shows how long the queue takes to drain"
            );
        } else {
            info!(event = "storage_free", %path, free_bytes, free_files, "the disk has room again: events are taken in");
        }
    }

    /// Gives the reserve up; `false` where it is not there, or cannot be.
    fn give_up(&mut self) -> bool {
        self.held = false;
        match give_reserve_up(&self.root) {
            Ok(true) => {
                self.told.stuck = None;
                warn!(event = "reserve_spent", path = %self.root.display(), "the disk is full: the reserve was given up for removals. See what takes it with df -h and df -i, and free some");
                true
            }
            Ok(false) => false,
            Err(error) => {
                if is_news(&mut self.told.stuck, &error) {
                    error!(event = "reserve_stuck", %error, path = %self.root.display(), "the disk is full, and the reserve cannot be given up. See what takes it with df -h and df -i, and free some; the daemon goes on by itself");
                }
                false
            }
        }
    }

    fn make(&mut self) {
        let path = self.root.join(RESERVE);
        // What goes beyond the reserve is a trial of the room, since a quota shows in no other way.
        let size = i64::try_from(self.reserve.max(LOG_SEGMENT_BYTES as u64)).unwrap_or(i64::MAX);
        let made = expect_file(&path).and_then(|()| File::create(&path)).and_then(|file| {
            posix_fallocate(file.as_fd(), 0, size)?;
            file.set_len(self.reserve)?;
            file.sync_all()?;
            if self.reserve == 0 { fs::remove_file(&path) } else { Ok(()) }
        });
        match made.and_then(|()| sync(&self.root)) {
            Ok(()) => (self.held, self.full, self.told) = (true, false, Told::default()),
            Err(error) => {
                if is_news(&mut self.told.unmade, &error) {
                    warn!(event = "reserve_failed", %error, path = %path.display(), "the reserve cannot be made. See what takes the disk with df -h, and free some, or lower queue.reserve");
                }
                // A part of it would only take room away; whether it goes is told by the next attempt.
                let _gone = fs::remove_file(&path);
            }
        }
    }
}

/// What this user may still put on the file system of `path`.
///
/// # Errors
/// The system's, where it cannot tell.
pub fn free(path: &Path) -> io::Result<Free> {
    let stat = statvfs(path)?;
    Ok(Free {
        bytes: stat.blocks_available().saturating_mul(stat.fragment_size()),
        files: (stat.files() > 0).then(|| stat.files_available()),
    })
}

/// Errs where something else than a file lies in the place of the reserve.
///
/// # Errors
/// What lies there.
pub fn expect_reserve(root: &Path) -> io::Result<()> {
    expect_file(&root.join(RESERVE))
}

/// Gives up the reserve in the queue's folder `root`; whether there was one.
pub(super) fn give_reserve_up(root: &Path) -> io::Result<bool> {
    match fs::remove_file(root.join(RESERVE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        removed => removed.and_then(|()| sync(root)).map(|()| true),
    }
}

/// The bytes of the reserve in the queue's folder `root`; none where it has none.
#[must_use]
pub fn reserve_bytes(root: &Path) -> u64 {
    fs::metadata(root.join(RESERVE)).map_or(0, |found| if found.is_file() { found.len() } else { 0 })
}

/// The bytes that the queue's folder takes on the disk, the reserve and the quarantine among them. What disappears
/// meanwhile counts as nothing; after `MAX_FILES` it is enough.
///
/// # Errors
/// The system's, where the folder cannot be read.
pub fn used_bytes(path: &Path) -> io::Result<u64> {
    let (mut folders, mut used, mut files) = (vec![path.to_owned()], 0_u64, 0_usize);
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(error) if folder != path && error.kind() == io::ErrorKind::NotFound => continue,
            read => read?,
        };
        for entry in entries {
            // Of a link its own size: it may lead anywhere.
            let Ok(found) = entry.and_then(|entry| Ok((fs::symlink_metadata(entry.path())?, entry.path())))
            else {
                continue;
            };
            let (about, path) = found;
            used = used.saturating_add(about.blocks().saturating_mul(512));
            files += 1;
            if files >= MAX_FILES {
                return Ok(used);
            }
            if about.is_dir() {
                folders.push(path);
            }
        }
    }
    Ok(used)
}
