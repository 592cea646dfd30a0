//! The scan of what waits, for the scheduler; the first one also holds the account against what is there.

use std::sync::{MutexGuard, PoisonError};

use tracing::{error, info};

use super::engine::Engine;
use super::error::Failed;
use super::keys::PageKey;
use super::pages::{Members, PageState, mark_of_page, walk};
use super::recent::{MAX_RECENT_BYTES, kept_bytes};
use super::store::events_of;
use super::{Command, Store};
use crate::event::{Entry, Event, Seq};
use crate::wire::record::{PAGE_EVENTS, Page};

/// The most bytes that one scan keeps in memory of what goes out next, but for a last page that goes beyond; what lies
/// behind is read when it goes out. Half, since what the scan before has kept may still be there.
const MAX_NEXT_BYTES: usize = MAX_RECENT_BYTES / 2;

/// How many pages the comparison with the counters goes through at once, beside the scans: the database may be opened
/// again in between.
const COMPARED_AT_ONCE: usize = 1_024;

/// The most events for which a scan has room from the start; what wants more gets it as they come.
const SCAN_ROOM: usize = 1_024;

/// What one scan found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// The events that are not settled, in their order.
    pub entries: Vec<Entry>,
    /// Where the next scan goes on.
    pub next: Seq,
}

/// What a scan read of that which goes out next.
#[derive(Default)]
struct Next {
    events: Vec<Event>,
    bytes: usize,
    pages: Vec<PageState>,
}

/// The comparison of what is there with what the counters promise. The first scan, or [`Store::compare_some`], passes
/// every page before an event of it can be settled, so what is counted is what was there when the queue was opened.
#[derive(Debug)]
pub(super) struct Count {
    pub(super) reached: Seq,
    pub(super) end: Seq,
    pub(super) seen: u64,
    pub(super) promised: u64,
}

impl Store {
    /// The unsettled events from `from` on, until a page ends with at least `max` found. Blocks on the disk.
    ///
    /// # Errors
    /// [`Failed`]: the engine cannot read.
    pub fn scan(&self, from: Seq, max: usize) -> Result<Scan, Failed> {
        self.read(|engine| self.scan_in(engine, from, max, None))
    }

    /// As [`Store::scan`], for what goes out next: the last of these events stay in memory for [`Store::take_recent`].
    ///
    /// # Errors
    /// [`Failed`]: the engine cannot read.
    pub fn scan_next(&self, from: Seq, max: usize) -> Result<Scan, Failed> {
        let (scan, Next { events, pages, .. }) = self.read(|engine| {
            let mut next = Next { events: Vec::with_capacity(room(max)), ..Next::default() };
            let scan = self.scan_in(engine, from, max, Some(&mut next))?;
            Ok((scan, next))
        })?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.add_read(events);
        kept.pages.add(pages);
        Ok(scan)
    }

    fn scan_in(
        &self,
        engine: &Engine,
        from: Seq,
        max: usize,
        mut next: Option<&mut Next>,
    ) -> Result<Scan, sled::Error> {
        // What is behind the tail may be applied, but not durable yet.
        let tail = self.tail();
        let mut scan = Scan { entries: Vec::with_capacity(room(max)), next: from };
        let more = walk(engine, from, tail, |page, record| {
            self.page(engine, page, record, from, &mut scan, next.as_deref_mut())?;
            Ok(scan.entries.len() >= max)
        })?;
        if let Some(next) = more {
            return Ok(Scan { next, ..scan });
        }
        self.counted(tail, 0);
        Ok(Scan { next: tail.max(from), ..scan })
    }

    fn page(
        &self,
        engine: &Engine,
        key: PageKey,
        record: &[u8],
        from: Seq,
        scan: &mut Scan,
        next: Option<&mut Next>,
    ) -> Result<(), sled::Error> {
        let found = mark_of_page(engine, key)?;
        let left = found.map_or(0, |mark| key.left(mark.bits));
        match Page::decode(record) {
            Ok(page) if page.len() == usize::from(key.count) => {
                let open =
                    page.entries(key.first).filter(|one| left & key.bit(one.seq) != 0 && one.seq >= from);
                let before = scan.entries.len();
                scan.entries.extend(open);
                if let Some(next) = next.filter(|next| next.bytes < MAX_NEXT_BYTES) {
                    let seqs = scan.entries.iter().skip(before).map(|one| one.seq);
                    // What cannot be read now is read when it goes out, and holds up nothing else until then.
                    let events = events_of(engine, &page, key, seqs).unwrap_or_default();
                    next.bytes += events.iter().flatten().map(kept_bytes).sum::<usize>();
                    next.events.extend(events.into_iter().flatten());
                    let bytes = record.len() as u64;
                    let page = found.map(|mark| PageState { key, mark, bytes, members: Members::of(&page) });
                    next.pages.extend(page);
                }
            }
            _ => {
                // The writer says how many events that is; a queue that is closing does so at its next start.
                self.commands.send(Command::Quarantine(key));
            }
        }
        if left == 0 && found.is_some() {
            self.commands.send(Command::Trim(key));
        }
        self.counted(key.first, u64::from(left.count_ones()));
        Ok(())
    }

    /// Counts a page that begins at `first` with `left` unsettled events, if the first scan has not passed it yet.
    pub(super) fn counted(&self, first: Seq, left: u64) {
        let mut guard = self.count();
        let Some(count) = &mut *guard else { return };
        if first < count.end {
            if first >= count.reached {
                count.seen += left;
                count.reached = first.next();
            }
            return;
        }
        let (seen, promised) = (count.seen, count.promised);
        *guard = None;
        drop(guard);
        self.compare(seen, promised);
    }

    /// Goes on with the comparison with the counters, where the first scan has not come to its end; whether there is more
    /// to do. What is set aside before that, without a scan that found it, would be taken for lost. Blocks on the disk.
    ///
    /// # Errors
    /// [`Failed`]: the engine cannot read.
    pub fn compare_some(&self) -> Result<bool, Failed> {
        let place = |count: &Count| (count.reached, count.end);
        let Some((from, end)) = self.count().as_ref().map(place) else { return Ok(false) };
        let more = self.read(|engine| {
            let mut pages = 0;
            walk(engine, from, end, |page, _| {
                let left = mark_of_page(engine, page)?.map_or(0, |mark| page.left(mark.bits));
                self.counted(page.first, u64::from(left.count_ones()));
                pages += 1;
                Ok(pages >= COMPARED_AT_ONCE)
            })
        })?;
        if more.is_none() {
            self.counted(end, 0);
        }
        Ok(more.is_some())
    }

    pub(super) fn count(&self) -> MutexGuard<'_, Option<Count>> {
        // Every change is whole at each line where a panic could strike.
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whether as many events wait as the counters promised, and has the writer correct these.
    fn compare(&self, seen: u64, promised: u64) {
        match promised.checked_sub(seen) {
            Some(0) => info!(event = "account_balanced", pending = seen, "the account of the queue balances"),
            Some(missing) => {
                error!(
                    event = "quarantined",
                    missing,
                    "events that were accepted are not in the queue: they are counted as quarantined. Check the disk: journalctl -k"
                );
                self.commands.send(Command::Missing(missing));
            }
            None => {
                let surplus = seen - promised;
                self.counts.find_surplus(surplus);
                error!(
                    event = "account_surplus",
                    surplus,
                    "the queue holds more events than its counters say: they are delivered. Settled ones came back, and as many that were accepted may be missing behind them. Please report it with target-notifyd status --json"
                );
                self.commands.send(Command::Surplus(surplus));
            }
        }
    }
}

/// How many events a scan of `max` has room for from the start: what it finds goes beyond by less than a page.
fn room(max: usize) -> usize {
    max.min(SCAN_ROOM) + PAGE_EVENTS
}
