//! What the writer remembers of pages, so that settling an event needs no read in the usual case.

use std::collections::BTreeMap;

use super::engine::Engine;
use super::index::Value;
use super::keys::{self, PAGE, PageKey, numbered};
use crate::event::Seq;
use crate::wire::record::{Apart, PAGE_EVENTS, Page};

/// The most pages remembered; others are read again.
const REMEMBERED_PAGES: usize = 16_384;

/// The most pages kept that scans found: those that were found last.
const FOUND_PAGES: usize = 4_096;

/// Which events of a page are settled.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mark {
    /// A bit for each that is.
    pub(super) bits: u64,
    /// Whether a record says so, or is damaged. An absent one says that none is.
    pub(super) stored: bool,
}

/// What is known of a page.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageState {
    pub(super) key: PageKey,
    pub(super) mark: Mark,
    /// The bytes of its values.
    pub(super) bytes: u64,
    pub(super) members: Members,
}

/// Where the large envelope lies that a page refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Members {
    /// It refers to none.
    Here,
    /// Beside it.
    Apart(Apart),
    /// The page cannot be read, and so does not say.
    Unknown,
}

impl Members {
    pub(super) fn of(page: &Page<'_>) -> Self {
        page.apart().map_or(Self::Here, Self::Apart)
    }
}

#[derive(Debug, Default)]
pub(super) struct Pages(BTreeMap<Seq, PageState>);

impl PageState {
    /// The events that are not settled, a bit each.
    pub(super) fn left(&self) -> u64 {
        self.key.left(self.mark.bits)
    }
}

impl Pages {
    pub(super) fn remember(&mut self, page: PageState) {
        self.0.insert(page.key.first, page);
        if self.0.len() > REMEMBERED_PAGES {
            // The end that is farther from where work is going on: new pages come at the end, settled ones mostly from
            // the beginning.
            match self.0.last_key_value().is_some_and(|(last, _)| *last == page.key.first) {
                true => self.0.pop_first(),
                false => self.0.pop_last(),
            };
        }
    }

    pub(super) fn forget(&mut self, first: Seq) {
        self.0.remove(&first);
    }

    /// The page that has `seq`, if it is remembered.
    pub(super) fn of(&self, seq: Seq) -> Option<PageState> {
        let (_, page) = self.0.range(..=seq).next_back()?;
        (page.key.bit(seq) != 0).then_some(*page)
    }
}

/// What scans found of pages whose events go out next: settling these need not read them once more.
///
/// Guarantee: no commit changed a page that is here since it was read. The writer says what each commit changed, and
/// what is added later is believed only where it lies behind all of that.
#[derive(Debug, Default)]
pub(super) struct FoundPages {
    pages: Pages,
    /// The last page in the order of the queue that any commit changed.
    changed: Seq,
}

impl FoundPages {
    /// Keeps pages as they were read, but for those that may have changed since.
    pub(super) fn add(&mut self, pages: Vec<PageState>) {
        let Pages(known) = &mut self.pages;
        known.extend(
            pages.into_iter().map(|page| (page.key.first, page)).filter(|(first, _)| *first > self.changed),
        );
        while known.len() > FOUND_PAGES {
            known.pop_first();
        }
    }

    /// The page that has `seq`, if it was found lately and is as it was.
    pub(super) fn of(&self, seq: Seq) -> Option<PageState> {
        self.pages.of(seq)
    }

    /// A commit changed or removed the page that begins at `first`.
    pub(super) fn change(&mut self, first: Seq) {
        self.pages.forget(first);
        self.changed = self.changed.max(first);
    }
}

/// Reads the page that has `seq`; `None` where it is not in the queue.
pub(super) fn read_page(engine: &Engine, seq: Seq) -> Result<Option<PageState>, sled::Error> {
    let Some((key, record)) = page_record(engine, seq)? else { return Ok(None) };
    let members = Page::decode(&record).map_or(Members::Unknown, |page| Members::of(&page));
    let mark = mark(engine, key)?;
    Ok(Some(PageState { key, mark, bytes: record.len() as u64, members }))
}

/// The key of the page that has `seq`.
pub(super) fn page_of(engine: &Engine, seq: Seq) -> Result<Option<PageKey>, sled::Error> {
    Ok(page_at(engine, seq)?.map(|(key, _)| key))
}

/// The page that has `seq`: its key and its record.
pub(super) fn page_record(engine: &Engine, seq: Seq) -> Result<Option<(PageKey, Value)>, sled::Error> {
    let Some((key, value)) = page_at(engine, seq)? else { return Ok(None) };
    let record = match value {
        Some(value) => Some(value),
        None => engine.joined(&numbered(PAGE, key.first))?.map(Value::Read),
    };
    Ok(record.map(|record| (key, record)))
}

/// The key of the page that has `seq`, and its record where that is one value.
fn page_at(engine: &Engine, seq: Seq) -> Result<Option<(PageKey, Option<Value>)>, sled::Error> {
    // No page that begins before this reaches to it. Without it the look would walk over all that were removed lately.
    let first = numbered(PAGE, Seq(seq.0.saturating_sub(PAGE_EVENTS as u64 - 1)));
    let end = [numbered(PAGE, seq), vec![u8::MAX; 3]].concat();
    let Some((name, value)) = engine.last_in(&*first..=&*end)? else { return Ok(None) };
    let Some((key, part)) = PageKey::read(&name).filter(|(key, _)| key.bit(seq) != 0) else {
        return Ok(None);
    };
    Ok(Some((key, (part == 0).then_some(value))))
}

/// Goes through the pages from the one that has `from` on, as far as they begin before `end`, each with its whole
/// record. Where `visit` has enough it says so, and the number to go on from is given back, but for the last page.
pub(super) fn walk(
    engine: &Engine,
    from: Seq,
    end: Seq,
    mut visit: impl FnMut(PageKey, &[u8]) -> Result<bool, sled::Error>,
) -> Result<Option<Seq>, sled::Error> {
    let start = page_of(engine, from)?;
    let mut open: Option<(PageKey, Value)> = None;
    for record in engine.from(numbered(PAGE, start.map_or(from, |page| page.first))) {
        let (name, value) = record?;
        let Some((key, _)) = PageKey::read(&name).filter(|(key, _)| key.first < end) else { break };
        match &mut open {
            Some((same, parts)) if *same == key => parts.extend(&value),
            _ => {
                if let Some((page, record)) = open.replace((key, value))
                    && visit(page, &record)?
                {
                    return Ok(Some(page.next()));
                }
            }
        }
    }
    if let Some((page, record)) = open {
        visit(page, &record)?;
    }
    Ok(None)
}

/// The mark of a page that an iterator came to; `None` where it was removed meanwhile.
pub(super) fn mark_of_page(engine: &Engine, key: PageKey) -> Result<Option<Mark>, sled::Error> {
    let mark = mark(engine, key)?;
    // A page goes with its mark, in the commit that settles its last event. The mark was read before this, so where the
    // page is still there, the mark was. Of a damaged one any part may be what is left.
    let there = mark.stored || engine.has(&key.part(0))? || {
        let prefix = numbered(PAGE, key.first);
        engine.parts(&prefix).next().transpose()?.is_some()
    };
    Ok(there.then_some(mark))
}

/// The mark of a page. One that is damaged says that none is settled: an event that is sent twice is better than one
/// lost.
pub(super) fn mark(engine: &Engine, key: PageKey) -> Result<Mark, sled::Error> {
    let Some(value) = engine.value(&numbered(keys::MARK, key.first))? else { return Ok(Mark::default()) };
    let bits = read_mark(&value);
    if bits.is_none() {
        tracing::warn!(event = "page_mark_damaged", page = %key.first, "the mark of a page is damaged: its events are sent again. Check the disk: journalctl -k");
    }
    Ok(Mark { bits: bits.unwrap_or(0), stored: true })
}

/// Reads a mark; `None` where it is damaged.
pub(super) fn read_mark(value: &[u8]) -> Option<u64> {
    let (bits, checksum) = value.split_first_chunk::<8>()?;
    let sound = checksum == crc32c::crc32c(bits).to_le_bytes();
    sound.then(|| u64::from_le_bytes(*bits))
}

pub(super) fn mark_value(mark: u64) -> Vec<u8> {
    let bits = mark.to_le_bytes();
    [&bits[..], &crc32c::crc32c(&bits).to_le_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(first: u64) -> PageState {
        let key = PageKey { first: Seq(first), count: 10 };
        PageState { key, mark: Mark { bits: 1, stored: true }, bytes: 100, members: Members::Here }
    }

    fn there(pages: &FoundPages, seq: u64) -> Option<u64> {
        pages.of(Seq(seq)).map(|page| page.key.first.0)
    }

    #[test]
    fn a_page_that_was_found_is_believed_until_it_changes() {
        let mut pages = FoundPages::default();
        pages.add(vec![page(1), page(11), page(31)]);
        assert_eq!(
            [5, 20, 25, 40, 41].map(|seq| there(&pages, seq)),
            [Some(1), Some(11), None, Some(31), None]
        );
        pages.change(Seq(11));
        assert_eq!([5, 20, 40].map(|seq| there(&pages, seq)), [Some(1), None, Some(31)]);
        // A scan that began before may have read it as it was then, and so may one that read any page before it.
        pages.add(vec![page(1), page(11), page(21)]);
        assert_eq!([5, 20, 30].map(|seq| there(&pages, seq)), [Some(1), None, Some(21)]);
        pages.change(Seq(1));
        pages.add(vec![page(1)]);
        assert_eq!(there(&pages, 5), None);
    }

    #[test]
    fn no_more_pages_are_kept_than_may_be() {
        let mut pages = FoundPages::default();
        let all = (0..FOUND_PAGES as u64 + 3).map(|number| page(1 + 10 * number));
        pages.add(all.collect());
        assert_eq!(pages.pages.0.len(), FOUND_PAGES);
        assert_eq!(
            [1, 25, 31].map(|seq| there(&pages, seq)),
            [None, None, Some(31)],
            "the last ones are kept"
        );
    }
}
