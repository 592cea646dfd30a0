//! The records of a database, put together from the messages of its log.
//!
//! Guarantees:
//! - of a log that is whole, these are the records that the engine has;
//! - of a log that ends in a commit which the engine gave up in its middle, these are the records before that commit,
//!   all or nothing of which counts; the engine would take the part that is there;
//! - of a damaged one, each record has a value that it once had: the last that can be read. Where two pages claim a
//!   key, since a message that took it from one of them is lost, the page that was written last has it.
//!
//! A crash during a page split leaves an orphan page with old records, which the engine copies on for ever, so it may
//! be written last. It loses every key that a linked page claims.
//!
//! In memory are a place for each message that counts, and one page of records at a time for each kind of them.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::rc::Rc;

use super::bytes::{KeyRange, Leaf, node};
use super::log::{BehindEnd, Kind, Log, Message, Place};

/// A key and what it holds.
pub(super) type Record = (Vec<u8>, Vec<u8>);

/// The messages that make up a page: the last that says what it is, and its changes since.
struct Chain {
    base: Place,
    links: Vec<Place>,
}

/// A page that holds records.
struct Page {
    id: u64,
    range: KeyRange,
    /// Whether the page before it, or the beginning of all keys, leads to it.
    led_to: bool,
    chain: Chain,
    /// The highest end of a range up to this page in the order; empty is beyond all.
    max_high: Vec<u8>,
    /// Pages that also claim keys of its range, and have them in its place.
    rivals: Vec<usize>,
}

/// The records of a page, in the order of their keys.
type Records = Rc<Vec<Record>>;

/// All records of a database.
pub(super) struct Tree {
    log: Log,
    /// The places of the log, before its end, that cannot be read.
    pub(super) gaps: u64,
    /// In the order of their ranges.
    pages: Vec<Page>,
    /// The page that was read last, for each first byte of the keys that were asked for.
    read: RefCell<HashMap<u8, (usize, Records)>>,
}

impl Tree {
    /// Reads what is where. Where a commit may be torn that nobody was told of, it counts whole or not at all: then the
    /// place is given that the log surely reached. Blocks on the disk.
    pub(super) fn open(database: &Path, behind_end: BehindEnd, sure: Option<u64>) -> io::Result<Self> {
        let log = Log::open_or_empty(database, behind_end)?;
        let end = sure.map_or(Ok(u64::MAX), |sure| log.whole_up_to(sure))?;
        let (chains, gaps) = chains(&log, end)?;
        let mut pages = leaves(&log, chains)?;
        pages.sort_by(|a, b| (&a.range, a.chain.base.lsn).cmp(&(&b.range, b.chain.base.lsn)));
        let mut max_high: Option<Vec<u8>> = None;
        for page in &mut pages {
            if let Some(before) =
                max_high.filter(|before| before.is_empty() || !reaches(&page.max_high, before))
            {
                page.max_high = before;
            }
            max_high = Some(page.max_high.clone());
        }
        find_rivals(&mut pages);
        Ok(Self { log, gaps, pages, read: RefCell::default() })
    }

    /// Whether there is a page that nothing leads to.
    #[cfg(test)]
    pub(super) fn has_unknown(&self) -> bool {
        self.pages.iter().any(|page| !page.led_to)
    }

    /// What the pages and their changes take in the log.
    pub(super) fn bytes(&self) -> u64 {
        let chains = self.pages.iter().map(|page| &page.chain);
        let places = chains.flat_map(|chain| std::iter::once(&chain.base).chain(&chain.links));
        places.map(|place| place.bytes()).sum()
    }

    /// The records from `key` on, in the order of their keys.
    pub(super) fn from(&self, key: Vec<u8>) -> From<'_> {
        let next = self.pages.partition_point(|page| !reaches(&page.max_high, &key));
        From { tree: self, key, next, open: Vec::new() }
    }

    /// The records of a page that are its own.
    fn records(&self, number: usize, tag: u8) -> io::Result<Records> {
        if let Some((read, records)) = self.read.borrow().get(&tag)
            && *read == number
        {
            return Ok(Rc::clone(records));
        }
        let records = Rc::new(self.read_page(number)?);
        self.read.borrow_mut().insert(tag, (number, Rc::clone(&records)));
        Ok(records)
    }

    fn read_page(&self, number: usize) -> io::Result<Vec<Record>> {
        let Some(page) = self.pages.get(number) else { return Ok(Vec::new()) };
        let Some((_, Some(mut leaf))) = node(&self.log.body(page.chain.base)?) else {
            return Ok(Vec::new());
        };
        for link in &page.chain.links {
            let _unreadable = leaf.apply(&self.log.body(*link)?);
        }
        let Leaf { prefix, records, .. } = leaf;
        let whole = records.into_iter().map(|(key, value)| ([prefix.as_slice(), &key].concat(), value));
        let claimed = |key: &[u8]| {
            let mut rivals = page.rivals.iter().filter_map(|rival| self.pages.get(*rival));
            rivals.any(|rival| rival.range.has(key))
        };
        Ok(whole.filter(|(key, _)| !claimed(key)).collect())
    }
}

/// The messages that count of each page, up to the place `end`; in how many places of the log there was something else.
fn chains(log: &Log, end: u64) -> io::Result<(HashMap<u64, Chain>, u64)> {
    let mut chains = HashMap::new();
    // Where a batch was given up: what followed it.
    let mut given_up: Option<Vec<Message>> = None;
    let gaps = log.messages(|message| match (message.kind, &mut given_up) {
        _ if message.place.lsn >= end => {}
        (Kind::Aborted, None) => given_up = Some(Vec::new()),
        // The engine went on from there, with what there was.
        (Kind::Batch, Some(_)) => {
            given_up.take().into_iter().flatten().for_each(|one| apply(&mut chains, one));
        }
        (_, Some(behind)) => behind.push(message),
        (_, None) => apply(&mut chains, message),
    })?;
    Ok((chains, gaps))
}

/// The pages that hold records, in no order, and which of them another one leads to.
fn leaves(log: &Log, chains: HashMap<u64, Chain>) -> io::Result<Vec<Page>> {
    let (mut pages, mut leads) = (Vec::with_capacity(chains.len()), HashSet::new());
    for (id, chain) in chains {
        if let Some((range, Some(leaf))) = node(&log.body(chain.base)?) {
            leads.insert((leaf.next, range.high.clone()));
            let max_high = range.high.clone();
            pages.push(Page { id, max_high, range, led_to: false, chain, rivals: Vec::new() });
        }
    }
    for page in &mut pages {
        page.led_to = page.range.low.is_empty() || leads.contains(&(page.id, page.range.low.clone()));
    }
    Ok(pages)
}

/// What a message makes of its page.
fn apply(chains: &mut HashMap<u64, Chain>, message: Message) {
    match message.kind {
        Kind::Node => {
            chains.insert(message.page, Chain { base: message.place, links: Vec::new() });
        }
        Kind::Link => {
            // Without a base its keys are not known.
            if let Some(chain) = chains.get_mut(&message.page) {
                chain.links.push(message.place);
            }
        }
        Kind::Free => {
            chains.remove(&message.page);
        }
        Kind::Batch | Kind::Cap | Kind::Other | Kind::Canceled | Kind::Aborted => {}
    }
}

/// The records from a key on.
pub(super) struct From<'t> {
    tree: &'t Tree,
    key: Vec<u8>,
    /// The next page to open.
    next: usize,
    /// Pages that were begun, and how far; more than one only where their ranges overlap.
    open: Vec<(Records, usize)>,
}

impl Iterator for From<'_> {
    type Item = io::Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.open.retain(|(records, at)| *at < records.len());
            let heads = self.open.iter().enumerate();
            let least = heads.min_by_key(|(_, (records, at))| records.get(*at).map(|(key, _)| key));
            let least = least.and_then(|(place, (records, at))| Some((place, records.get(*at)?.clone())));
            match (self.tree.pages.get(self.next), least) {
                (Some(page), least) if least.as_ref().is_none_or(|(_, (key, _))| page.range.low <= *key) => {
                    let number = self.next;
                    self.next += 1;
                    if !reaches(&page.range.high, &self.key) {
                        continue;
                    }
                    let tag = self.key.first().copied().unwrap_or(0);
                    match self.tree.records(number, tag) {
                        Ok(records) => {
                            let at = records.partition_point(|(key, _)| *key < self.key);
                            self.open.push((records, at));
                        }
                        Err(error) => return Some(Err(error)),
                    }
                }
                (_, Some((place, record))) => {
                    if let Some((_, at)) = self.open.get_mut(place) {
                        *at += 1;
                    }
                    return Some(Ok(record));
                }
                (_, None) => return None,
            }
        }
    }
}

/// Whether a range up to `high` has keys from `key` on.
fn reaches(high: &[u8], key: &[u8]) -> bool {
    high.is_empty() || high > key
}

/// Tells each page the later ones that claim a part of its range; `pages` are in the order of their ranges.
fn find_rivals(pages: &mut [Page]) {
    let rank = |page: &Page| (page.led_to, page.chain.base.lsn);
    let mut found = Vec::new();
    for (number, page) in pages.iter().enumerate() {
        let high = &page.range.high;
        let behind = pages.iter().enumerate().skip(number + 1);
        for (other, rival) in behind.take_while(|(_, rival)| high.is_empty() || rival.range.low < *high) {
            match rank(rival) > rank(page) {
                true => found.push((number, other)),
                false => found.push((other, number)),
            }
        }
    }
    for (number, rival) in found {
        if let Some(page) = pages.get_mut(number) {
            page.rivals.push(rival);
        }
    }
}
