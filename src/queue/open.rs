//! Opening the queue: in which order a start brings a folder, whatever state a crash left it in, to a queue that works.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use std::{io, thread};

use tokio::sync::{Semaphore, mpsc, watch};
use tracing::{error, info, warn};

use super::batch::Batch;
use super::commit_error::CommitError;
use super::engine::{Engine, create};
use super::error::OpenError;
use super::folder::{Folder, current, exposed, failed_before};
use super::gather::LastCommit;
use super::inbox::inbox;
use super::keys::{PAGE, PageKey, meta, numbered};
use super::migrations::{self, Change, Record, Records, newest, steps};
use super::moving::Removals;
use super::pages::Pages;
use super::reopen::Pause;
use super::salvage::{SalvageError, put_away, repair_itself};
use super::scan::Count;
use super::space::{Probe, Space, expect_reserve, free};
use super::store::Store;
use super::view::View;
use super::writer::Writer;
use super::{Appender, Ledger, MAX_LIVE_COMMITS, MAX_WAITING_BYTES, Now, Queue, Settings, Told};
use crate::event::{Account, Seq};
use crate::failpoint::reach;
use crate::schedule::Stitches;
use crate::wire::record::{open as unseal, seal};

impl Queue {
    /// Opens the queue for `account`, or makes a new one. Blocks on the disk.
    ///
    /// # Errors
    /// [`OpenError`] says what the operator has to do; no event that can be read was touched then.
    pub fn open(settings: Settings, account: &Account, now: Now) -> Result<Self, OpenError> {
        let asked = std::env::var_os("TARGET_NOTIFYD_REHEARSAL").is_some();
        Self::open_with(settings, account, now, free, cfg!(debug_assertions) && asked)
    }

    /// Opens the queue as [`Queue::open`] does, with the rehearsal of a migration (see `migrations/rehearsal.rs`).
    ///
    /// # Errors
    /// As of [`Queue::open`].
    #[cfg(debug_assertions)]
    pub fn rehearse(settings: Settings, account: &Account, now: Now) -> Result<Self, OpenError> {
        Self::open_with(settings, account, now, free, true)
    }

    pub(super) fn open_with(
        settings: Settings,
        account: &Account,
        now: Now,
        probe: Probe,
        rehearse: bool,
    ) -> Result<Self, OpenError> {
        let folder = Folder::lock(&settings.path)?;
        if exposed(folder.root()) {
            let path = folder.root().display();
            // It stays as it is: a group, or a backup of another user, may have been let in with intent.
            warn!(event = "queue_exposed", %path, "every user of this machine can enter the queue's folder: its events can be read, and its lock be taken; chmod 0700 makes it the daemon's own, or set another queue.path");
        }
        let failed = OpenError::folder(&settings.path);
        // No room would ever show for it: producers would be turned away for good.
        expect_reserve(&settings.path).map_err(failed)?;
        let mut space = Space::new(&settings.path, settings.min_free, settings.reserve, probe);
        // Before the engine opens: on a full disk it cannot, without the reserve's room.
        space.room(0);
        // What was never finished takes room; what cannot be removed is worth nothing.
        let _unfinished = folder.clear_construction();
        let path = match current(folder.root()).map_err(failed)? {
            Some(path) => path,
            None => make(&folder, account, rehearse)?,
        };
        let mut engine = open_or_mend(&path, &folder, &mut space)?;
        // A database without these is no queue, nor may a copy of it take its place: the one beside it may be the one that
        // is wanted.
        required::<u32>(&engine, "schema")?;
        ledger(&engine)?;
        folder.remove_replaced(engine.path());
        // Before this start may replace it itself.
        let replaced = folder.set_replaced_aside().map_err(failed)?;
        // Whether an earlier start left the mark, or this open did.
        if failed_before(folder.root()) {
            engine = rebuild(&folder, &mut space, engine)?;
            folder.set_replaced_aside().map_err(failed)?;
        }
        migrate(&engine, &folder, rehearse)?;
        let ledger = ledger(&engine)?;
        for path in replaced {
            let quarantined = ledger.balance.quarantined;
            error!(
                event = "database_replaced", path = %path.display(), quarantined,
                "an earlier start put a new database in the place of a damaged one, and ended before it said so; the old one lies in quarantine, and quarantined is what this queue ever lost. Check the disk: journalctl -k"
            );
        }
        stamp(&engine, &folder, &settings, account, &ledger)?;
        engine.limit_journal(settings.journal_bytes);
        Self::start(Parts { folder, settings, space, engine, ledger, now }).map_err(OpenError::Thread)
    }

    fn start(parts: Parts) -> io::Result<Self> {
        let Parts { folder, settings, space, engine, ledger, now } = parts;
        let (commands, asked) = inbox();
        let (live, taken) = mpsc::channel(MAX_LIVE_COMMITS);
        let (ledgers, failed) = (watch::Sender::new(ledger), watch::Sender::new(None));
        let told = Told { ledger: ledgers, failed, live, kept: Arc::default(), counts: Arc::default() };
        let count = Count { reached: Seq(0), end: ledger.next, seen: 0, promised: ledger.balance.pending() };
        let store = Store {
            view: View::new(engine.clone()),
            commands: commands.clone(),
            ledger: told.ledger.subscribe(),
            failed: told.failed.subscribe(),
            kept: Arc::clone(&told.kept),
            count: Arc::new(Mutex::new(Some(count))),
            dead_max_events: Arc::new(AtomicU64::new(settings.dead_max_events)),
            counts: Arc::clone(&told.counts),
        };
        if ledger.next <= Seq(1) {
            // Nobody scans a new queue before it has an event, which is no part of this account.
            store.counted(ledger.next, 0);
        }
        let kib = usize::try_from(MAX_WAITING_BYTES / 1_024).unwrap_or(usize::MAX);
        let appender = Appender { commands, room: Arc::new(Semaphore::new(kib)) };
        let (pages, stitches) = (Pages::default(), Stitches::default());
        let (view, pause) = (store.view.clone(), Pause::default());
        let writer = Writer {
            engine,
            view,
            folder,
            settings,
            space,
            ledger,
            pages,
            stitches,
            now,
            told,
            last: LastCommit::default(),
            compacted: None,
            halvings: 0,
            locked: Instant::now(),
            pause,
        };
        let thread = thread::Builder::new().name("queue-writer".to_owned());
        let writer = thread.spawn(move || writer.run(&asked))?;
        Ok(Self { store, appender, live: taken, writer })
    }
}

struct Parts {
    folder: Folder,
    settings: Settings,
    space: Space,
    engine: Engine,
    ledger: Ledger,
    now: Now,
}

/// Makes the first database under another name, so that a power cut in the middle leaves nothing that looks like one.
fn make(folder: &Folder, account: &Account, rehearse: bool) -> Result<PathBuf, OpenError> {
    let failed = OpenError::folder(folder.root());
    let path = folder.clear_construction().map_err(failed)?;
    let values = [
        (meta("schema"), seal(&newest(rehearse))),
        (meta("ledger"), Ledger::new().encode()),
        (meta("target"), seal(&(&account.client, &account.organization))),
    ];
    create(&path, &values)?;
    let made = folder.finish(&path).map_err(failed)?;
    info!(event = "queue_made", path = %folder.root().display(), "a new queue was made");
    Ok(made)
}

/// Copies what can be read after a failed sync: the system may show records that never reached the disk, and the copy
/// writes them anew.
fn rebuild(folder: &Folder, space: &mut Space, engine: Engine) -> Result<Engine, OpenError> {
    let failed = OpenError::folder(folder.root());
    warn!(event = "database_copying", path = %engine.path().display(), "the disk failed before: what can be read is copied into a new database. Check the disk: journalctl -k");
    let (construction, records) = with_reserve(space, || copied(folder, &engine))?;
    drop(engine);
    reach("copy", "copied");
    let made = folder.finish(&construction).map_err(failed)?;
    // The rename makes the copy count. The mark goes only once the copy is open and no sync of it failed: a crash
    // before that only copies once more.
    reach("copy", "renamed");
    let engine = with_reserve(space, || Engine::new_at(&made).map_err(|error| error.at_open(&made)))?;
    folder.clear_failed().map_err(failed)?;
    reach("copy", "cleared");
    info!(event = "database_copied", records, path = %made.display(), "the database was copied");
    Ok(engine)
}

/// A copy that nobody knows of yet, and how many records it has.
fn copied(folder: &Folder, engine: &Engine) -> Result<(PathBuf, u64), OpenError> {
    let construction = folder.clear_construction().map_err(OpenError::folder(folder.root()))?;
    let records = engine.copy_to(&construction).map_err(|error| {
        // Its room is needed; what cannot be removed is worth nothing, and the next one is made in its place.
        let _unfinished = folder.clear_construction();
        error.at_open(&construction)
    })?;
    Ok((construction, records))
}

fn open_or_mend(path: &Path, folder: &Folder, space: &mut Space) -> Result<Engine, OpenError> {
    match with_reserve(space, || Engine::open(path, folder)) {
        Err(OpenError::Damaged { path, message }) => mend(folder, space, &path, message),
        opened => opened,
    }
}

/// Makes a new database of everything that can be read, where the engine would write over some of it.
fn mend(folder: &Folder, space: &mut Space, path: &Path, message: String) -> Result<Engine, OpenError> {
    warn!(event = "database_repairing", path = %path.display(), damage = %message, "the log of the database is damaged: what can be read is copied into a new database. Check the disk: journalctl -k");
    let repaired = match repair_itself(folder) {
        Err(SalvageError::Full { .. }) if space.fill() => repair_itself(folder),
        repaired => repaired,
    };
    let path = path.to_owned();
    let repaired = repaired.map_err(|error| match error {
        SalvageError::Full { needed, message: full, .. } => {
            let message = format!("its log is damaged ({message}), and what can be read takes at least {needed} bytes in a new one: {full}");
            OpenError::Full { path, message }
        }
        error => OpenError::Damaged { path, message: format!("{message}; it could not be repaired: {error}") },
    })?;
    error!(
        event = "database_repaired", path = %repaired.database.display(), replaced = %repaired.replaced.display(),
        kept = repaired.found.events, quarantined = repaired.found.damaged_events + repaired.missing,
        surplus = repaired.surplus,
        "the log of the database was damaged: what could be read is kept, the rest is counted as quarantined, but for as many as the surplus hides; the old database goes to quarantine. Check the disk: journalctl -k"
    );
    // Told before: the start after a crash between the two tells of it once more, instead of nobody.
    put_away(folder, &repaired.replaced)?;
    with_reserve(space, || Engine::open(&repaired.database, folder))
}

/// What takes room of which nobody knows before how much: where the disk has none, once more without the reserve.
fn with_reserve<T>(space: &mut Space, act: impl Fn() -> Result<T, OpenError>) -> Result<T, OpenError> {
    match act() {
        Err(OpenError::Full { .. }) if space.fill() => act(),
        acted => acted,
    }
}

fn migrate(engine: &Engine, folder: &Folder, rehearse: bool) -> Result<(), OpenError> {
    let schema: u32 = required(engine, "schema")?;
    let known = newest(rehearse);
    if schema > known {
        return Err(OpenError::Newer { path: folder.root().to_owned(), found: schema, known });
    }
    let broken = |error: CommitError| {
        error.mark_failed(folder);
        unusable(engine, "migration", error)
    };
    let place = engine.meta("migration").map_err(|error| broken(error.into()))?.map(|place| place.to_vec());
    migrations::run(engine, steps(rehearse), schema, place).map_err(broken)
}

impl Records for Engine {
    type Error = CommitError;

    fn behind(&self, key: Option<&[u8]>, count: usize) -> Result<Vec<Record>, CommitError> {
        // The first key behind another one is that key with a zero byte.
        let from = key.map(|key| [key, &[0]].concat()).unwrap_or_default();
        let records = self.from(from).take(count);
        records
            .map(|record| record.map(|(key, value)| (key.to_vec(), value.to_vec())).map_err(Into::into))
            .collect()
    }

    fn commit(&self, changes: Vec<Change>, schema: u32, place: Option<&[u8]>) -> Result<(), CommitError> {
        let mut batch = Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        batch.insert(meta("schema"), seal(&schema));
        match place {
            Some(place) => batch.insert(meta("migration"), place),
            None => batch.remove(meta("migration")),
        }
        Self::commit(self, batch)
    }
}

pub(super) fn ledger(engine: &Engine) -> Result<Ledger, OpenError> {
    let unread = |error: sled::Error| unusable(engine, "ledger", error.into());
    let value = engine.meta("ledger").map_err(unread)?;
    let value = value.ok_or_else(|| damaged(engine, "ledger", "it is not there".to_owned()))?;
    let mut ledger = Ledger::decode(&value).map_err(|error| damaged(engine, "ledger", error.to_string()))?;
    // Never reuse a number, whatever the counters say.
    let end = [numbered(PAGE, Seq(u64::MAX)), vec![u8::MAX; 3]].concat();
    let last = engine.last_in(&[PAGE][..]..=&*end).map_err(unread)?;
    if let Some((page, _)) = last.and_then(|(key, _)| PageKey::read(&key)) {
        ledger.next = ledger.next.max(page.next());
    }
    Ok(ledger)
}

/// Holds the account against the one that the queue was made for.
fn stamp(
    engine: &Engine,
    folder: &Folder,
    settings: &Settings,
    account: &Account,
    ledger: &Ledger,
) -> Result<(), OpenError> {
    let (client, organization): (String, String) = required(engine, "target")?;
    let stamped = Account { client, organization };
    if stamped == *account {
        return Ok(());
    }
    let (pending, dead) = (ledger.balance.pending(), ledger.dead_held);
    if pending + dead > 0 && !settings.adopt {
        let (path, configured) = (settings.path.clone(), Box::new(account.clone()));
        let stamped = Box::new(stamped);
        return Err(OpenError::OtherAccount { path, stamped, configured, pending, dead });
    }
    let mut batch = Batch::default();
    batch.insert(meta("target"), seal(&(&account.client, &account.organization)));
    engine.commit_with(batch, Removals::Late, 0).map_err(|error| {
        error.mark_failed(folder);
        unusable(engine, "target", error)
    })?;
    warn!(
        event = "queue_adopted", from = %stamped.client, to = %account.client, pending, dead,
        "the queue was taken over by another account"
    );
    Ok(())
}

fn required<T: serde::de::DeserializeOwned>(engine: &Engine, name: &str) -> Result<T, OpenError> {
    let value = engine.meta(name).map_err(|error| unusable(engine, name, error.into()))?;
    let value = value.ok_or_else(|| damaged(engine, name, "it is not there".to_owned()))?;
    unseal(&value).map_err(|error| damaged(engine, name, error.to_string()))
}

/// Why a record can be neither read nor written: the disk, or what is damaged in the engine.
fn unusable(engine: &Engine, name: &str, error: CommitError) -> OpenError {
    match error {
        CommitError::Engine(sled::Error::Io(_)) | CommitError::Sync(_) => error.at_open(engine.path()),
        error => damaged(engine, name, error.to_string()),
    }
}

fn damaged(engine: &Engine, name: &str, message: String) -> OpenError {
    OpenError::Meta { path: engine.path().to_owned(), name: name.to_owned(), message }
}
