//! sled 0.34.7, and only as it was measured to be safe.
//!
//! Guarantees:
//! - [`Engine::commit`] returns only once the batch is on stable storage, in the journal. What moves from there into
//!   sled is durable before the journal gives it up: sled's own writes do not sync on Linux, so `synced.rs` does it in
//!   their place;
//! - after every open all files and folders are synced once, since sled creates some of them without a sync;
//! - a database that does not open, or panics while it opens, is opened again without its snapshots, which replays the
//!   whole log; nothing is ever deleted;
//! - before an open that would give up, and write over, something that can be read behind damage, it refuses, with
//!   nothing changed: see `salvage/sight.rs`;
//! - where the disk failed meanwhile, the mark is left that has everything copied into a new database: the system may
//!   take pages for clean that never reached the disk, and a second sync of them succeeds;
//! - a full disk is no failed disk: the engine is useless from then on, but opened again it holds what was committed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sled::Db;
use tracing::warn;

use super::batch::Batch;
use super::commit_error::CommitError;
use super::error::OpenError;
use super::files::{Identity, expect_files, sync_tree};
use super::folder::{Folder, failed_before};
use super::index::{Found, Value};
use super::journal::Journal;
use super::merged::{Merged, Record};
use super::moving::Removals;
use super::nudge::Nudge;
use super::replay::{Replay, replay};
use super::salvage::{self, Known};
use super::slack::with_slack;
use super::{keys, snapshots, synced};
use crate::event::noun;
use crate::failpoint::reach;

/// What sled keeps in memory of the pages that it read, in bytes.
const CACHE_BYTES: u64 = 4 * 1_024 * 1_024;
/// The unit in which sled's log grows; it wants the same at every open.
pub const LOG_SEGMENT_BYTES: usize = 512 * 1_024;
/// A value from this size on, in bytes, has a page of the engine nearly to itself.
const LARGE_BYTES: usize = 1_024;
/// How often the page of such a value is read again after it was written, see [`Open::note`].
pub(super) const NOTES_OF_WRITTEN: usize = 3;
/// The same after it was read.
pub(super) const NOTES_OF_READ: usize = 2;
/// How long an open waits for the lock of a database that this process has just closed.
const LOCK_WAIT: Duration = Duration::from_secs(60);

/// The open database: the engine's one tree, covered by the journal.
#[derive(Clone, Debug)]
pub(super) struct Engine {
    /// Absent while it is opened again.
    open: Option<Arc<Open>>,
    path: PathBuf,
}

/// What is held of an open database.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) db: Db,
    pub(super) journal: Journal,
    /// The engine's log. Kept, since a sync error is told once for each handle, and a handle opened after the error
    /// would never hear of it.
    pub(super) log: File,
    is_log: Identity,
    nudge: Nudge,
}

impl Engine {
    /// Opens the database at `path`, if need be without its snapshots.
    pub(super) fn open(path: &Path, folder: &Folder) -> Result<Self, OpenError> {
        let failed = OpenError::folder(path);
        expect_files(path).map_err(failed)?;
        snapshots::remove_unfinished(path).map_err(failed)?;
        if failed_before(folder.root()) {
            // A snapshot made since may speak of parts of the log that never reached the disk: the log alone counts.
            snapshots::set_aside(path, folder).map_err(|error| error.at_open(path))?;
        }
        let first = match open(path) {
            Ok(engine) => return Ok(engine),
            Err(first) => first,
        };
        // Its snapshots are as good as before, and of a damaged log, or a foreign one, nothing was written.
        let is_sound = first.disk_full() || first.denied() || first.lacks_descriptors();
        if is_sound || matches!(first, CommitError::Damaged(_)) {
            return Err(first.at_open(path));
        }
        // Before the second try, which may succeed without a trace of what the first one lost.
        first.mark_failed(folder);
        warn!(event = "snapshots_set_aside", path = %path.display(), error = %first, "the database did not open; trying again without its snapshots");
        snapshots::set_aside(path, folder).and_then(|()| open(path)).map_err(|error| {
            // A quarantine of another user's is no failed disk.
            if !error.denied() {
                error.mark_failed(folder);
            }
            error.at_open(path)
        })
    }

    /// Opens or makes a database at `path`, without any care for what a crash may have left there.
    pub(super) fn new_at(path: &Path) -> Result<Self, CommitError> {
        open(path)
    }

    /// The place of a database that is opened again.
    pub(super) fn closed(path: &Path) -> Self {
        Self { open: None, path: path.to_owned() }
    }

    /// Keeps the engine from writing what it has in memory when its last handle goes: a batch that failed half-way,
    /// since a page could not be read, would reach the disk by half.
    pub(super) fn abandon(&self) {
        // The tests of a failed disk open it again in the same process, and their engine is sound.
        if let Some(open) = self.open.as_ref().filter(|_| !cfg!(test)) {
            Box::leak(Box::new(Arc::clone(open)));
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn opened(&self) -> Result<&Open, sled::Error> {
        let closed =
            || sled::Error::Io(io::Error::new(io::ErrorKind::NotConnected, "the database is closed"));
        self.open.as_deref().ok_or_else(closed)
    }

    /// Gives back what the journal takes of a disk that is short of room, and no longer needs. With [`Removals::Late`]
    /// that needs no room itself.
    pub(super) fn give_back(&self, removals: Removals) -> Result<(), CommitError> {
        self.opened()?.give_back(&self.path, removals)
    }

    /// How large the engine's file is.
    pub(super) fn file_bytes(&self) -> Result<u64, CommitError> {
        Ok(self.opened()?.log.metadata()?.len())
    }

    /// How large the journal may get, in bytes.
    pub(super) fn limit_journal(&self, bytes: u64) {
        if let Some(open) = &self.open {
            open.journal.limit(bytes);
        }
    }

    /// An empty batch for the next commit.
    pub(super) fn batch(&self) -> Batch {
        self.open.as_ref().map(|open| open.journal.batch()).unwrap_or_default()
    }

    /// Writes `batch`, and returns once it is on stable storage.
    pub(super) fn commit(&self, batch: Batch) -> Result<(), CommitError> {
        self.commit_with(batch, Removals::Soon, usize::MAX)
    }

    /// As [`Engine::commit`]; `removals` is about those of earlier commits, and `room` about what moves, as in
    /// [`Open::make_room`].
    pub(super) fn commit_with(
        &self,
        batch: Batch,
        removals: Removals,
        room: usize,
    ) -> Result<(), CommitError> {
        let open = self.opened()?;
        // Before the commit: where this fails, nothing of the commit was written.
        open.make_room(&self.path, &batch, removals, room)?;
        #[cfg(test)]
        super::tests::model::disk_fails(&self.path, false)?;
        open.journal.commit(batch)?;
        #[cfg(test)]
        super::tests::model::disk_fails(&self.path, true)?;
        #[cfg(test)]
        super::tests::model::meet_full_disk(&self.path)?;
        Ok(())
    }

    /// Has the journal prepared for the next commits, so that they take less time.
    pub(super) fn write_ahead(&self) -> Result<(), CommitError> {
        Ok(self.opened()?.journal.write_ahead()?)
    }

    /// Errs where the files that are written are no longer the database's, or nobody may look: nobody would find what
    /// was written to them.
    pub(super) fn is_there(&self) -> Result<(), CommitError> {
        let (open, log) = (self.opened()?, self.path.join("db"));
        if open.is_log.is_at(&log) && open.journal.is_there() {
            return Ok(());
        }
        Err(match log.metadata() {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                CommitError::Denied(error.to_string())
            }
            _ => CommitError::Gone(self.path.clone()),
        })
    }

    pub(super) fn value(&self, key: &[u8]) -> Result<Option<Value>, sled::Error> {
        let open = self.opened()?;
        let (found, is_below) = open.journal.look(key);
        match found {
            Some(found) => found.value().map_err(sled::Error::Io),
            // What leaves the journal meanwhile was in the engine before.
            None if is_below => {
                let value = open.db.get(key)?;
                open.note(key, value.as_ref().map_or(0, |value| value.len()), NOTES_OF_READ);
                Ok(value.map(Value::Engine))
            }
            None => Ok(None),
        }
    }

    /// Whether there is a value, which a reader has just looked at: the engine's cache is not told once more.
    pub(super) fn has(&self, key: &[u8]) -> Result<bool, sled::Error> {
        let open = self.opened()?;
        match open.journal.look(key) {
            (Some(found), _) => Ok(!matches!(found, Found::Removed)),
            // As above.
            (None, is_below) => Ok(is_below && open.db.contains_key(key)?),
        }
    }

    /// The records from `key` on, in the order of their keys.
    pub(super) fn from(&self, key: Vec<u8>) -> impl Iterator<Item = Result<Record, sled::Error>> {
        self.merged(key, None)
    }

    /// The records whose keys begin with `prefix`, in the order of their keys.
    pub(super) fn parts(&self, prefix: &[u8]) -> impl Iterator<Item = Result<Record, sled::Error>> {
        self.merged(prefix.to_vec(), behind(prefix))
    }

    fn merged(
        &self,
        from: Vec<u8>,
        before: Option<Vec<u8>>,
    ) -> impl Iterator<Item = Result<Record, sled::Error>> {
        let (merged, closed) = match self.opened() {
            Ok(open) => (Some(Merged::new(open, from, before)), None),
            Err(closed) => (None, Some(Err(closed))),
        };
        merged.into_iter().flatten().chain(closed)
    }

    /// The parts of a record whose keys begin with `prefix`, joined; `None` where there is none.
    pub(super) fn joined(&self, prefix: &[u8]) -> Result<Option<Vec<u8>>, sled::Error> {
        let mut record = None;
        for part in self.parts(prefix) {
            let (_, value) = part?;
            record.get_or_insert_with(Vec::new).extend_from_slice(&value);
        }
        Ok(record)
    }

    pub(super) fn meta(&self, name: &str) -> Result<Option<Value>, sled::Error> {
        self.value(&keys::meta(name))
    }
}

impl Open {
    /// Tells the engine's cache of `times` accesses to the page of a value of `bytes`, if it is large. The cache is
    /// trimmed only when one of its 256 access lists has 64 entries: where each page is accessed once or twice up to
    /// 100 MiB stay, however small the cache is set.
    pub(super) fn note(&self, key: &[u8], bytes: usize, times: usize) {
        if bytes >= LARGE_BYTES {
            // A reader of the value hears of errors.
            (0..times).for_each(|_| drop(self.db.get(key)));
        }
    }

    /// Returns once all that the engine was given is on stable storage.
    pub(super) fn flush(&self) -> Result<(), CommitError> {
        // The flush writes, and syncs each part of the log that it writes.
        self.nudge.flush(&self.db)?;
        if !synced::in_effect() {
            self.log.sync_data()?;
        }
        Ok(())
    }
}

/// Makes a database at `path` with the records `values`, and closes it.
pub(super) fn create(path: &Path, values: &[(Vec<u8>, Vec<u8>)]) -> Result<(), OpenError> {
    let failed = |error: CommitError| error.at_open(path);
    let engine = open(path).map_err(failed)?;
    let mut batch = Batch::default();
    for (key, value) in values {
        batch.insert(key.as_slice(), value.as_slice());
    }
    engine.commit(batch).map_err(failed)?;
    // The engine starts its threads when it writes for the first time: here that is when it is closed.
    with_slack(|| drop(engine));
    Ok(())
}

fn open(path: &Path) -> Result<Engine, CommitError> {
    // In one pass: an I/O error has to come out before sled looks, since what it cannot read it takes for absent. A new
    // database has no folder yet.
    let journal = if path.exists() { replay(path).map_err(sled::Error::Io)? } else { Replay::default() };
    let known = Known { durable: journal.reached, ..snapshots::known(path)? };
    if let [Some(loss)] = salvage::would_lose(path, [known])? {
        return Err(CommitError::Damaged(loss.to_string()));
    }
    if journal.gaps > 0 {
        let (gaps, places) = (journal.gaps, noun(journal.gaps, "place", "places"));
        return Err(CommitError::Damaged(format!("{gaps} {places} of the journal cannot be read")));
    }
    snapshots::expect_sizes(path)?;
    let db = open_sled(path)?;
    reach("open", "opened");
    sync_tree(path)?;
    reach("open", "synced");
    let log = File::open(path.join("db"))?;
    let journal = Journal::open(path, journal, tops(&db))?;
    let is_log = Identity::of(&log)?;
    let open = Open { db, journal, log, is_log, nudge: Nudge::default() };
    Ok(Engine { open: Some(Arc::new(open)), path: path.to_owned() })
}

fn open_sled(path: &Path) -> Result<Db, CommitError> {
    let until = Instant::now() + LOCK_WAIT;
    loop {
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(CACHE_BYTES)
            .segment_size(LOG_SEGMENT_BYTES)
            .flush_every_ms(None);
        // sled panics on some damage where it should err.
        match with_slack(|| catch_unwind(AssertUnwindSafe(|| config.open()))) {
            Ok(Ok(db)) => return Ok(db),
            Ok(Err(sled::Error::Io(error)))
                if error.to_string().contains("WouldBlock") && Instant::now() < until =>
            {
                // The threads of a database that was just dropped hold its lock for some milliseconds, and tell nobody
                // when they let go.
                std::thread::park_timeout(Duration::from_millis(10));
            }
            Ok(Err(error)) => return Err(error.into()),
            Err(panic) => return Err(CommitError::Panic(panic_text(&*panic).to_owned())),
        }
    }
}

/// Makes the engine free pages it replaced. It keeps them with the replacing thread until that has some dozens and has
/// used the engine a hundred times more; large pages are many MiB by then.
pub(super) fn let_go() {
    // What was replaced is free once all threads were seen twice to be done with what they look at.
    for _ in 0..3 {
        crossbeam_epoch::pin().flush();
    }
}

/// The first key behind all that begin with `prefix`; `None` where there is none.
fn behind(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut behind = prefix.to_vec();
    while let Some(last) = behind.pop() {
        if let Some(next) = last.checked_add(1) {
            behind.push(next);
            return Some(behind);
        }
    }
    None
}

/// The greatest key for each first byte; `None` where that cannot be read.
fn tops(db: &Db) -> Option<BTreeMap<u8, Vec<u8>>> {
    let mut tops = BTreeMap::new();
    let mut last = db.last().ok()?;
    while let Some((key, _)) = last {
        let tag = *key.first()?;
        tops.insert(tag, key.to_vec());
        last = db.range::<&[u8], _>(..&[tag][..]).next_back().transpose().ok()?;
    }
    Some(tops)
}

/// What a panic said.
pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}
