//! The records of a database by what they are, and whether they can be read.

use std::cmp::Ordering;
use std::io;
use std::path::{Path, PathBuf};

use super::SalvageError;
use super::log::BehindEnd;
use super::sight::{Known, would_lose};
use super::tree::{Record, Tree};
use crate::event::{Account, Event, Seq};
use crate::queue::error::OpenError;
use crate::queue::files::expect_files;
use crate::queue::keys::{DEAD, MARK, MEMBERS, META, PAGE, PageKey, QUARANTINE, meta, numbered, seq_of};
use crate::queue::ledger::Ledger;
use crate::queue::migrations::NEWEST;
use crate::queue::pages::read_mark;
use crate::queue::replay::{Replay, replay};
use crate::queue::snapshots::known;
use crate::wire::record::{DeadLetter, Page, decode_dead, decode_members, open as unseal};

/// All records of a database: those of the engine, and those of the journal, which cover them.
pub(super) struct Stored {
    tree: Tree,
    /// Whether the engine would give up something behind what cannot be read of its log, or did so. Else a crash left
    /// that, and nothing is wrong.
    is_log_damaged: bool,
    journal: Replay,
    path: PathBuf,
}

/// One record, with the parts that it was cut into.
pub(super) enum Item {
    Page(StoredPage),
    Letter {
        seq: Seq,
        parts: Vec<Record>,
        letter: Result<DeadLetter, String>,
    },
    Members {
        first: u64,
        parts: Vec<Record>,
        damage: Option<String>,
    },
    Mark {
        first: Seq,
        record: Record,
    },
    Meta {
        name: String,
        record: Record,
    },
    Quarantined(Record),
    /// Nothing that this program writes.
    Unknown(Vec<Record>),
}

/// A page, and what else it takes to read its events.
pub(super) struct StoredPage {
    pub(super) key: PageKey,
    pub(super) parts: Vec<Record>,
    record: Vec<u8>,
    /// The events that are not settled, a bit each.
    pub(super) left: u64,
    /// Where its large envelope lies.
    pub(super) apart: Option<u64>,
    members: Option<Vec<u8>>,
    /// Why its events cannot be read.
    pub(super) damage: Option<String>,
}

impl StoredPage {
    /// The events that wait, as far as they can be read.
    pub(super) fn events(&self) -> Vec<Event> {
        let members = self.members.as_deref().and_then(|record| decode_members(record).ok());
        let Ok(page) = Page::decode(&self.record) else { return Vec::new() };
        let waits = |position: &usize| {
            let seq = self.key.first.0.checked_add(*position as u64);
            seq.is_some_and(|seq| self.left & self.key.bit(Seq(seq)) != 0)
        };
        (0..page.len())
            .filter(waits)
            .filter_map(|position| page.event(self.key.first, position, members))
            .collect()
    }
}

impl Stored {
    /// Reads what is where; where the disk `failed`, the commit that met it counts whole or not at all.
    pub(super) fn open(database: &Path, failed: bool) -> Result<Self, SalvageError> {
        let unread = |source| SalvageError::Read { path: database.to_owned(), source };
        expect_files(database).map_err(unread)?;
        let journal = replay(database).map_err(unread)?;
        let known = Known { durable: journal.reached, ..known(database).map_err(unread)? };
        let sure = failed.then_some(known.reached.max(known.durable));
        let tree = |behind_end| Tree::open(database, behind_end, sure).map_err(unread);
        let [without_snapshots, loss] = would_lose(database, [Known::default(), known]).map_err(unread)?;
        let is_log_damaged = loss.is_some();
        let stored = |tree| Self { tree, is_log_damaged, journal, path: database.to_owned() };
        // The engine would drop what can be read, and never did: it does not open such a log.
        if is_log_damaged || without_snapshots.is_some() {
            return Ok(stored(tree(BehindEnd::Kept)?));
        }
        let mut stored = stored(tree(BehindEnd::Dropped)?);
        // Written once, it is in the engine for good as soon as it has moved there; the counters are always in the
        // journal.
        if stored.schema()?.is_some() {
            return Ok(stored);
        }
        // No daemon went on from here, but one may have tried to start: the engine gave up what is behind the damage
        // then.
        let dropped = std::mem::replace(&mut stored.tree, tree(BehindEnd::Kept)?);
        match stored.schema()? {
            Some(_) => stored.is_log_damaged = true,
            None => stored.tree = dropped,
        }
        Ok(stored)
    }

    fn failed(&self, source: io::Error) -> SalvageError {
        SalvageError::Read { path: self.path.clone(), source }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it has no record at all.
    pub(super) fn is_empty(&self) -> Result<bool, SalvageError> {
        Ok(self.from(Vec::new()).next().transpose().map_err(|error| self.failed(error))?.is_none())
    }

    /// The places of the engine's log, before its end, that cannot be read, where it is damaged: one at least, since it may
    /// seem to end where the damage is.
    pub(super) fn gaps(&self) -> u64 {
        if self.is_log_damaged { self.tree.gaps.max(1) } else { 0 }
    }

    /// The bytes of the pages with records, and of their changes, and of the journal.
    pub(super) fn bytes(&self) -> u64 {
        self.tree.bytes().saturating_add(self.journal.bytes())
    }

    /// The places of the journal that cannot be read.
    pub(super) fn journal_gaps(&self) -> u64 {
        self.journal.gaps
    }

    /// The records from `key` on, in the order of their keys.
    fn from(&self, key: Vec<u8>) -> impl Iterator<Item = io::Result<Record>> {
        let mut covering = self.journal.index.all_from(key.clone()).peekable();
        let mut engine = self.tree.from(key).peekable();
        std::iter::from_fn(move || {
            loop {
                let first = covering.peek().map(|(key, _)| key.as_slice());
                let order = match (engine.peek(), first) {
                    (Some(Ok((key, _))), Some(first)) => key.as_slice().cmp(first),
                    (Some(_), _) => Ordering::Less,
                    (None, _) => Ordering::Greater,
                };
                match order {
                    Ordering::Less => return engine.next(),
                    Ordering::Equal => drop(engine.next()),
                    Ordering::Greater => {}
                }
                let (key, found) = covering.next()?;
                match found.value() {
                    Ok(None) => {}
                    Ok(Some(value)) => return Some(Ok((key, value.to_vec()))),
                    Err(error) => return Some(Err(error)),
                }
            }
        })
    }

    /// The parts of a record whose keys begin with `prefix`, joined; `None` where there is none.
    pub(super) fn joined(&self, prefix: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut joined = None;
        for record in self.from(prefix.to_vec()) {
            let (key, value) = record?;
            if !key.starts_with(prefix) {
                break;
            }
            joined.get_or_insert_with(Vec::new).extend_from_slice(&value);
        }
        Ok(joined)
    }

    /// Whether the engine's own configuration is damaged; one that is absent it makes anew.
    pub(super) fn is_configuration_damaged(&self) -> bool {
        let conf = std::fs::read(self.path.join("conf")).unwrap_or_default();
        // Up to eight bytes count as absent.
        let sum = conf.split_last_chunk::<4>().filter(|_| conf.len() > 8);
        sum.is_some_and(|(text, sum)| crc32fast::hash(text) != u32::from_le_bytes(*sum))
    }

    /// What is kept under `name`.
    pub(super) fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, SalvageError> {
        let key = meta(name);
        let first = self.from(key.clone()).next().transpose().map_err(|error| self.failed(error))?;
        Ok(first.filter(|(found, _)| *found == key).map(|(_, value)| value))
    }

    /// The schema, where it can be read.
    pub(super) fn schema(&self) -> Result<Option<u32>, SalvageError> {
        Ok(self.meta("schema")?.and_then(|value| unseal(&value).ok()))
    }

    /// Refuses a schema that this program cannot read the records of; one that is lost was the newest, or a record
    /// would be damaged.
    pub(super) fn check_schema(&self, root: &Path) -> Result<(), SalvageError> {
        let path = root.to_owned();
        match self.schema()? {
            Some(found) if found > NEWEST => Err(OpenError::Newer { path, found, known: NEWEST }.into()),
            Some(found) if found < NEWEST => Err(SalvageError::Older { path, found, known: NEWEST }),
            _ => Ok(()),
        }
    }

    /// Whose events these are, where that can be read.
    pub(super) fn account(&self) -> Result<Option<Account>, SalvageError> {
        let value = self.meta("target")?;
        let names: Option<(String, String)> = value.and_then(|value| unseal(&value).ok());
        Ok(names.map(|(client, organization)| Account { client, organization }))
    }

    /// The durable counters, where they can be read.
    pub(super) fn ledger(&self) -> Result<Option<Ledger>, SalvageError> {
        Ok(self.meta("ledger")?.and_then(|value| Ledger::decode(&value).ok()))
    }

    /// Goes through everything, in the order of the keys.
    pub(super) fn walk<E: From<SalvageError>>(
        &self,
        mut visit: impl FnMut(Item) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut open: Vec<Record> = Vec::new();
        for record in self.from(Vec::new()) {
            let record = record.map_err(|error| self.failed(error))?;
            let same = open.first().is_some_and(|(first, _)| name(first) == name(&record.0));
            if !same && !open.is_empty() {
                visit(self.item(std::mem::take(&mut open))?)?;
            }
            open.push(record);
        }
        if open.is_empty() { Ok(()) } else { visit(self.item(open)?) }
    }

    fn item(&self, parts: Vec<Record>) -> Result<Item, SalvageError> {
        let Some((key, value)) = parts.first() else { return Ok(Item::Unknown(parts)) };
        let whole = || parts.iter().flat_map(|(_, value)| value).copied().collect::<Vec<u8>>();
        let tag = key.first().copied();
        Ok(match (tag, tag.and_then(|tag| seq_of(tag, key))) {
            (Some(PAGE), _) => match PageKey::read(key) {
                Some((page, _)) => Item::Page(self.page(page, whole(), parts)?),
                None => Item::Unknown(parts),
            },
            (Some(DEAD), Some(seq)) => Item::Letter { seq, letter: letter(seq, &whole()), parts },
            (Some(MEMBERS), Some(first)) => {
                let damage = decode_members(&whole()).err().map(|damage| damage.to_string());
                Item::Members { first: first.0, parts, damage }
            }
            (Some(MARK), Some(first)) => Item::Mark { first, record: (key.clone(), value.clone()) },
            (Some(META), _) => {
                let name = String::from_utf8_lossy(key.get(1..).unwrap_or_default()).into_owned();
                Item::Meta { name, record: (key.clone(), value.clone()) }
            }
            (Some(QUARANTINE), _) => Item::Quarantined((key.clone(), value.clone())),
            _ => Item::Unknown(parts),
        })
    }

    fn page(&self, key: PageKey, record: Vec<u8>, parts: Vec<Record>) -> Result<StoredPage, SalvageError> {
        let mark = self.joined(&numbered(MARK, key.first)).map_err(|error| self.failed(error))?;
        // As the queue does: an event that is sent twice is better than one lost.
        let settled = mark.and_then(|mark| read_mark(&mark)).unwrap_or(0);
        let left = key.left(settled);
        let mut page =
            StoredPage { key, parts, record: Vec::new(), left, apart: None, members: None, damage: None };
        match Page::decode(&record) {
            Ok(read) if read.len() == usize::from(key.count) => {
                page.apart = read.apart().map(|apart| apart.first)
            }
            Ok(read) => {
                page.damage = Some(format!("it has {} events, and its key says {}", read.len(), key.count));
            }
            Err(damage) => page.damage = Some(damage.to_string()),
        }
        page.record = record;
        if let Some(first) = page.apart {
            page.members = self.joined(&numbered(MEMBERS, Seq(first))).map_err(|error| self.failed(error))?;
            page.damage = match page.members.as_deref().map(decode_members) {
                Some(Ok(_)) => None,
                Some(Err(damage)) => Some(format!("the envelope of its events is damaged: {damage}")),
                None => Some("the envelope of its events is missing".to_owned()),
            };
        }
        Ok(page)
    }
}

/// The dead letter of the event `seq`, out of its whole record; what is wrong where it cannot be read.
fn letter(seq: Seq, record: &[u8]) -> Result<DeadLetter, String> {
    let letter = decode_dead(record).map_err(|damage| damage.to_string())?;
    match letter.event.seq == seq {
        true => Ok(letter),
        false => Err("it is the letter of another event".to_owned()),
    }
}

/// What the keys of one record have in common.
fn name(key: &[u8]) -> &[u8] {
    let length = match key.first().copied() {
        Some(PAGE) => 10,
        Some(DEAD | MEMBERS) => 9,
        _ => key.len(),
    };
    key.get(..length).unwrap_or(key)
}
