//! `store check`: what is there, and what is wrong with it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::stored::{Item, Stored, StoredPage};
use super::tree::Record;
use super::{SalvageError, Stopped};
use crate::event::{Account, noun};
use crate::queue::folder::{QUARANTINE, failed_before};
use crate::queue::keys::PageKey;
use crate::queue::ledger::Ledger;

/// The most damaged records that are told one by one.
const MAX_TOLD: usize = 1_000;

/// A record that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// Its key, in hexadecimal digits but for the letter that says what it is.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// The events that it takes along.
    pub events: u64,
}

/// What was found in the folder of a stopped daemon.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    /// The database that counts.
    pub database: PathBuf,
    /// The schema, where it can be read.
    pub schema: Option<u32>,
    /// Whose events these are, where that can be read.
    pub account: Option<Account>,
    /// The durable counters, where they can be read.
    pub ledger: Option<Ledger>,
    /// Events that wait and can be read.
    pub events: u64,
    /// Events that wait in records that cannot be read.
    pub damaged_events: u64,
    /// Dead letters that can be read.
    pub letters: u64,
    /// Records that cannot be read, the first `MAX_TOLD`.
    pub damaged: Vec<Damaged>,
    /// Records that cannot be read, in all.
    pub damaged_records: u64,
    /// Records that a daemon moved aside before; their events are counted as quarantined.
    pub quarantined: u64,
    /// Places of the engine's log that cannot be read, before its end; what a crash left of its last commit is none.
    pub gaps: u64,
    /// Places of the journal that cannot be read; what a power cut left of its last commit is none.
    pub journal_gaps: u64,
    /// Whether the engine's own configuration is damaged.
    pub configuration_damaged: bool,
    /// Whether a daemon left the mark of a failed disk: the next start copies the database.
    pub disk_failed: bool,
    /// Newer databases, without a record.
    pub empty: Vec<PathBuf>,
    /// What was set aside as files: databases that were replaced, snapshots that did not open.
    pub set_aside: Vec<PathBuf>,
}

impl Audit {
    /// What a database in the folder `root` says of itself; its records are not gone through.
    pub(super) fn of(stored: &Stored, root: &Path) -> Result<Self, SalvageError> {
        Ok(Self {
            database: stored.path().to_owned(),
            schema: stored.schema()?,
            account: stored.account()?,
            ledger: stored.ledger()?,
            gaps: stored.gaps(),
            journal_gaps: stored.journal_gaps(),
            configuration_damaged: stored.is_configuration_damaged(),
            disk_failed: failed_before(root),
            ..Self::default()
        })
    }

    /// The events that the counters promise and that are nowhere: positive where some are missing.
    #[must_use]
    pub fn missing(&self) -> i128 {
        let promised = self.ledger.map_or(0, |ledger| i128::from(ledger.balance.pending()));
        let found = i128::from(self.events) + i128::from(self.damaged_events);
        if self.ledger.is_some() { promised - found } else { 0 }
    }

    /// The bytes of all stored records, as the counters say; without them nobody knows.
    pub(super) fn held_bytes(&self) -> u64 {
        self.ledger.map_or(u64::MAX, |ledger| ledger.held_bytes)
    }

    /// Everything that is wrong, in an operator's words; empty where all is well.
    #[must_use]
    pub fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let meta = [
            ("schema", self.schema.is_some()),
            ("target", self.account.is_some()),
            ("ledger", self.ledger.is_some()),
        ];
        for (name, _) in meta.iter().filter(|(_, there)| !there) {
            wrong.push(format!("the record \"{name}\" is damaged or missing: the daemon does not start"));
        }
        if self.configuration_damaged {
            wrong.push("the engine's file \"conf\" is damaged: the daemon may not start".to_owned());
        }
        for (what, gaps) in [("the engine's log", self.gaps), ("the journal", self.journal_gaps)] {
            if gaps > 0 {
                let places = noun(gaps, "place", "places");
                wrong.push(format!(
                    "{what} has {gaps} {places} that cannot be read: a daemon that starts repairs it, as store repair does"
                ));
            }
        }
        if self.damaged_records > 0 {
            let (records, events) = (self.damaged_records, self.damaged_events);
            let (are, wait) = (
                noun(records, "record is", "records are"),
                noun(events, "event that waits", "events that wait"),
            );
            wrong.push(format!("{records} {are} damaged, with {events} {wait}"));
        }
        match self.missing() {
            0 => {}
            missing if missing > 0 => wrong.push(format!("{missing} events that were accepted are missing")),
            surplus => wrong.push(format!(
                "{} more events are there than the account says, settled ones that came back: as many that were accepted may be missing behind them",
                -surplus
            )),
        }
        if let Some(held) = self.ledger.map(|ledger| ledger.dead_held).filter(|held| *held != self.letters) {
            wrong.push(format!("{held} dead letters should be there, and {} can be read", self.letters));
        }
        for path in &self.empty {
            let path = path.display();
            wrong.push(format!(
                "{path} holds no record: the daemon does not start with it; store repair sets it aside"
            ));
        }
        if self.disk_failed {
            wrong
                .push("the disk failed under the last daemon: the next start copies the database".to_owned());
        }
        wrong
    }

    /// Counts an item, and tells of it where it cannot be read; of a large envelope only where it is one of `referred`,
    /// which pages refer to.
    pub(super) fn count(&mut self, item: &Item, referred: &BTreeSet<u64>) {
        match item {
            Item::Page(page) => self.count_page(page),
            Item::Letter { letter: Ok(_), .. } => self.letters += 1,
            Item::Letter { seq, parts, letter: Err(what) } => {
                self.damaged(parts, format!("the dead letter {seq}: {what}"), 0);
            }
            Item::Members { first, parts, damage: Some(what) } if referred.contains(first) => {
                self.damaged(parts, format!("the envelope of event {first}: {what}"), 0);
            }
            Item::Quarantined(_) => self.quarantined += 1,
            Item::Unknown(parts) => self.damaged(parts, "no record of this program".to_owned(), 0),
            Item::Members { .. } | Item::Mark { .. } | Item::Meta { .. } => {}
        }
    }

    fn count_page(&mut self, page: &StoredPage) {
        let events = u64::from(page.left.count_ones());
        let Some(what) = &page.damage else {
            self.events += events;
            return;
        };
        let PageKey { first, count } = page.key;
        let last = first.0.saturating_add(u64::from(count) - 1);
        self.damaged(&page.parts, format!("the page of events {first} to {last}: {what}"), events);
    }

    fn damaged(&mut self, parts: &[Record], what: String, events: u64) {
        self.damaged_records += 1;
        self.damaged_events += events;
        if self.damaged.len() < MAX_TOLD {
            let key = parts.first().map_or(&[][..], |(key, _)| key);
            let tag = key.first().map_or(' ', |tag| char::from(*tag));
            let rest: String = key.iter().skip(1).map(|byte| format!("{byte:02x}")).collect();
            self.damaged.push(Damaged { key: format!("{tag}:{rest}"), what, events });
        }
    }
}

/// Looks at everything in the folder `root`, and changes nothing. Blocks on the disk.
///
/// # Errors
/// [`SalvageError`]: a daemon runs, or there is nothing that can be read.
pub fn check(root: &Path) -> Result<Audit, SalvageError> {
    let stopped = Stopped::open(root)?;
    let stored = &stopped.stored;
    let mut audit =
        Audit { set_aside: set_aside(root), empty: stopped.empty.clone(), ..Audit::of(stored, root)? };
    let mut referred = BTreeSet::new();
    stored.walk(|item| {
        if let Item::Page(page) = &item {
            referred.extend(page.apart);
        }
        audit.count(&item, &referred);
        Ok::<_, SalvageError>(())
    })?;
    Ok(audit)
}

fn set_aside(root: &Path) -> Vec<PathBuf> {
    // Absent where nothing ever was.
    let entries = std::fs::read_dir(root.join(QUARANTINE));
    let mut found: Vec<_> = entries.into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}
