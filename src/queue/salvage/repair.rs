//! `store repair`: a sound queue of everything that can be read.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::audit::Audit;
use super::destination::Destination;
use super::stored::{Item, Stored};
use super::tree::Record;
use super::{SalvageError, newest_with_records};
use crate::event::{Account, Balance, Seq};
use crate::failpoint::reach;
use crate::queue::commit_error::CommitError;
use crate::queue::error::OpenError;
use crate::queue::folder::{Folder, databases, failed_before};
use crate::queue::keys::{meta, quarantine};
use crate::queue::ledger::Ledger;
use crate::queue::migrations::NEWEST;
use crate::queue::new_database::NewDatabase;
use crate::queue::space::give_reserve_up;
use crate::wire::record::seal;

/// What a repair came to.
#[derive(Clone, Debug)]
pub struct Repaired {
    /// What was found, in the old database.
    pub found: Audit,
    /// The new database.
    pub database: PathBuf,
    /// Where the old one is.
    pub replaced: PathBuf,
    /// Where other databases are that lay beside it.
    pub others: Vec<PathBuf>,
    /// Events that the counters promised and that were nowhere: they are counted as quarantined now.
    pub missing: u64,
    /// Events beyond what the counters said: they are counted as accepted now.
    pub surplus: u64,
    /// The counters of the new database.
    pub ledger: Ledger,
    /// Whether the reserve was given up, because there was no other room for it.
    pub reserve_spent: bool,
}

/// Makes a new database of what can be read in `root`, which takes the place of the old one; where that no longer says
/// whose events these are, they are for `configured`. Blocks on the disk.
///
/// # Errors
/// [`SalvageError`]: the queue is as it was.
pub fn repair(root: &Path, configured: Option<Account>) -> Result<Repaired, SalvageError> {
    // A folder that is not there is not to be made, nor the lock of one without a queue.
    if !root.is_dir() || databases(root).is_ok_and(|found| found.is_empty()) {
        return Err(SalvageError::NoDatabase(root.to_owned()));
    }
    let folder = Folder::lock(root)?;
    let asked = Asked::ByOperator { configured };
    let repaired = match repaired(&folder, &asked) {
        // The daemon makes it again once there is room.
        Err(SalvageError::Full { .. }) if give_reserve_up(root).unwrap_or(false) => {
            let repaired = repaired(&folder, &asked).map_err(SalvageError::without_reserve);
            repaired.map(|repaired| Repaired { reserve_spent: true, ..repaired })
        }
        repaired => repaired,
    };
    let mut repaired = repaired?;
    (repaired.replaced, repaired.others) = put_away(&folder, &repaired.replaced)?;
    Ok(repaired)
}

/// As [`repair`], by the daemon itself: only where the records that the whole queue depends on can be read. The old
/// database is for [`put_away`], once it was told.
pub(in crate::queue) fn repair_itself(folder: &Folder) -> Result<Repaired, SalvageError> {
    repaired(folder, &Asked::ByDaemon)
}

/// Sets a database aside that was replaced, and any that lie beside it; where they lie then. Where a crash came before, the
/// next start does so.
pub(in crate::queue) fn put_away(folder: &Folder, old: &Path) -> Result<(PathBuf, Vec<PathBuf>), OpenError> {
    let failed = OpenError::folder(folder.root());
    let replaced = folder.quarantine(old).map_err(failed)?;
    let others = folder.set_replaced_aside().map_err(failed)?;
    reach("repair", "put_away");
    // The mark goes last: a crash before this only has the new database copied once more.
    if failed_before(folder.root()) {
        folder.clear_failed().map_err(failed)?;
    }
    reach("repair", "cleared");
    Ok((replaced, others))
}

/// What asked for a repair.
enum Asked {
    ByOperator {
        /// Whose events these are, where the queue no longer says so.
        configured: Option<Account>,
    },
    /// Nobody is there to say that a queue without its own records is to be counted anew.
    ByDaemon,
}

fn repaired(folder: &Folder, asked: &Asked) -> Result<Repaired, SalvageError> {
    let root = folder.root();
    let (stored, empty) = newest_with_records(root)?;
    stored.check_schema(root)?;
    let configured = match asked {
        Asked::ByOperator { configured } => configured.clone(),
        // Nor that an older database is to take the place of one without a record.
        Asked::ByDaemon if !empty.is_empty() || stored.ledger()?.is_none() || stored.schema()?.is_none() => {
            return Err(SalvageError::NoLedger(root.to_owned()));
        }
        Asked::ByDaemon => None,
    };
    let account = stored.account()?.or(configured);
    let account = account.ok_or_else(|| SalvageError::NoAccount(root.to_owned()))?;
    let made = make(folder, &stored, &account);
    if made.is_err() {
        // Its room is needed; what cannot be removed is worth nothing, and the next one is made in its place.
        let _unfinished = folder.clear_construction();
    }
    made
}

fn make(folder: &Folder, stored: &Stored, account: &Account) -> Result<Repaired, SalvageError> {
    let mut audit = Audit::of(stored, folder.root())?;
    let to = Destination { root: folder.root(), needed: stored.bytes().min(audit.held_bytes()) };
    to.has_room()?;
    // The old database is wanted there in the end, and what there is no room for had better come to light before the
    // rename.
    folder.make_quarantine().map_err(|error| to.failed(error))?;
    // Written beside the old database, of which not a byte is changed: a crash up to the rename leaves the old queue,
    // and the next repair begins with removing this.
    let path = folder.clear_construction().map_err(|error| to.failed(error))?;
    reach("repair", "begun");
    let unwritten = |error: CommitError| to.write_failed(&error);
    let mut new = NewDatabase::make(&path, u64::MAX).map_err(unwritten)?;
    let mut sums = Sums::default();
    stored.walk(|item| {
        audit.count(&item, &sums.referred);
        sums.take(item, &mut new).map_err(unwritten)
    })?;
    let (ledger, missing, surplus) = sums.ledger(&audit);
    let metas = [
        ("schema", seal(&NEWEST)),
        ("target", seal(&(&account.client, &account.organization))),
        ("ledger", ledger.encode()),
    ];
    metas.iter().try_for_each(|(name, value)| new.add(&meta(name), value)).map_err(unwritten)?;
    // Each of its commits is synced; its files and folders are, once more, before the rename.
    new.finish().map_err(unwritten)?;
    reach("repair", "copied");
    let database = folder.finish(&path).map_err(|error| to.failed(error))?;
    // The rename made the new one count.
    let replaced = stored.path().to_owned();
    let (others, reserve_spent) = (Vec::new(), false);
    Ok(Repaired { found: audit, database, replaced, others, missing, surplus, ledger, reserve_spent })
}

/// What is summed up for the new counters.
#[derive(Default)]
struct Sums {
    next: u64,
    bytes: u64,
    /// The letters that are kept, and nothing else yet.
    balance: Balance,
    /// The pages that are kept, whose marks are too.
    kept: BTreeSet<Seq>,
    /// The large envelopes that pages refer to.
    referred: BTreeSet<u64>,
}

impl Sums {
    fn take(&mut self, item: Item, new: &mut NewDatabase) -> Result<(), CommitError> {
        match item {
            Item::Page(page) => {
                self.next = self.next.max(page.key.next().0);
                if page.damage.is_some() {
                    return aside(page.parts, new);
                }
                self.kept.insert(page.key.first);
                self.referred.extend(page.apart);
                self.keep(page.parts, new)
            }
            Item::Letter { seq, parts, letter } => {
                self.next = self.next.max(seq.next().0);
                match letter {
                    Ok(letter) => *self.balance.set_aside(letter.reason) += 1,
                    Err(_) => return aside(parts, new),
                }
                self.keep(parts, new)
            }
            // Behind the pages in the order of the keys, so that it is known whether one refers to it.
            Item::Members { first, parts, damage } if self.referred.contains(&first) => match damage {
                None => self.keep(parts, new),
                Some(_) => aside(parts, new),
            },
            Item::Mark { first, record } if self.kept.contains(&first) => new.add(&record.0, &record.1),
            // Without their pages nobody would ever remove these.
            Item::Members { .. } | Item::Mark { .. } => Ok(()),
            Item::Meta { name, .. }
                if ["schema", "target", "ledger", "migration"].contains(&name.as_str()) =>
            {
                Ok(())
            }
            Item::Meta { record, .. } | Item::Quarantined(record) => new.add(&record.0, &record.1),
            Item::Unknown(parts) => aside(parts, new),
        }
    }

    fn keep(&mut self, parts: Vec<Record>, new: &mut NewDatabase) -> Result<(), CommitError> {
        for record in parts {
            self.bytes += record.1.len() as u64;
            new.add(&record.0, &record.1)?;
        }
        Ok(())
    }

    /// The counters that balance with what was kept; how many events are missing from the old ones, and beyond them.
    fn ledger(&self, audit: &Audit) -> (Ledger, u64, u64) {
        let (kept, damaged) = (audit.events, audit.damaged_events);
        let (missing, surplus) = match u64::try_from(audit.missing()) {
            Ok(missing) => (missing, 0),
            Err(_) => (0, u64::try_from(-audit.missing()).unwrap_or(u64::MAX)),
        };
        let mut balance = match audit.ledger {
            Some(ledger) => ledger.balance,
            // What was delivered nobody knows any more.
            None => {
                let accepted = kept + damaged + self.balance.dead + self.balance.expired;
                Balance { accepted, ..self.balance }
            }
        };
        balance.accepted += surplus;
        balance.quarantined += damaged + missing;
        let next = audit.ledger.map_or(1, |ledger| ledger.next.0).max(self.next);
        let (held_bytes, dead_held) = (self.bytes, audit.letters);
        let mut ledger = Ledger { next: Seq(next), balance, held_bytes, dead_held, ..Ledger::default() };
        ledger.count(kept);
        (ledger, missing, surplus)
    }
}

/// Keeps a record that cannot be read where no daemon looks for it.
fn aside(parts: Vec<Record>, new: &mut NewDatabase) -> Result<(), CommitError> {
    parts.into_iter().try_for_each(|(key, value)| new.add(&quarantine(&key), &value))
}
