//! The reading side: what waits to be delivered, and what became of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{oneshot, watch};
use tracing::{error, info};

use super::engine::{Engine, met_full_disk, said};
use super::error::Failed;
use super::inbox::Sender;
use super::keys::{DEAD, MEMBERS, PageKey, numbered, seq_of};
use super::pages::{Members, PageState, mark_of_page, page_record, walk};
use super::recent::{Kept, MAX_RECENT_BYTES, kept_bytes};
use super::view::View;
use super::{Command, Counts, Ledger, Requeued, Settings};
use crate::event::{Burial, Entry, Event, Moment, Seq};
use crate::wire::record::{DeadLetter, PAGE_EVENTS, Page, decode_dead, decode_members};

/// The most dead letters that one commit makes events again.
const REQUEUED_AT_ONCE: usize = 256;

/// What one scan found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// The events that are not settled, in their order.
    pub entries: Vec<Entry>,
    /// Where the next scan goes on.
    pub next: Seq,
}

/// What one scan keeps in memory of that which goes out next, in bytes, but for a last page that goes beyond: what is
/// behind it is read when it goes out. What the scan before has kept may still be there.
const MAX_NEXT_BYTES: usize = MAX_RECENT_BYTES / 2;

/// The most events for which a scan has room from the start; what wants more gets it as they come.
const SCAN_ROOM: usize = 1_024;

/// How many events a scan of `max` has room for from the start: what it finds goes beyond by less than a page.
fn room(max: usize) -> usize {
    max.min(SCAN_ROOM) + PAGE_EVENTS
}

/// What a scan read of that which goes out next.
#[derive(Default)]
struct Next {
    events: Vec<Event>,
    bytes: usize,
    pages: Vec<PageState>,
}

/// Reads the queue, and tells the writer what is settled.
#[derive(Clone, Debug)]
pub struct Store {
    pub(super) view: View,
    pub(super) commands: Sender,
    pub(super) ledger: watch::Receiver<Ledger>,
    pub(super) failed: watch::Receiver<Option<Failed>>,
    pub(super) kept: Arc<Mutex<Kept>>,
    pub(super) count: Arc<Mutex<Option<Count>>>,
    pub(super) dead_max_events: Arc<AtomicU64>,
    pub(super) counts: Arc<Counts>,
}

/// The comparison of what is there with what the counters promise. The first scan passes every page before an event of
/// it can be settled, so what it counts is what was there when the queue was opened.
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
        let mut guard = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(count) = &mut *guard else { return };
        if first < count.end && first >= count.reached {
            count.seen += left;
            count.reached = first.next();
        }
        if first < count.end {
            return;
        }
        let (seen, promised) = (count.seen, count.promised);
        *guard = None;
        drop(guard);
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

    /// Those of the events `seqs` that were stored, or read, so lately that they are still in memory, and only once:
    /// they are not kept any longer. Does not block.
    #[must_use]
    pub fn take_recent(&self, seqs: &[Seq]) -> Vec<Option<Event>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        seqs.iter().map(|seq| kept.take(*seq)).collect()
    }

    /// From now on what was stored last may hold as many bytes of memory; at least [`MAX_RECENT_BYTES`], though.
    pub fn spare(&self, bytes: u64) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.spare(usize::try_from(bytes).unwrap_or(usize::MAX));
    }

    /// The events `seqs`, each `None` where it cannot be read: then it is moved to quarantine with its page. Blocks on
    /// the disk.
    ///
    /// # Errors
    /// [`Failed`]: the engine cannot read.
    pub fn load(&self, seqs: &[Seq]) -> Result<Vec<Option<Event>>, Failed> {
        let (events, unreadable) = self.read(|engine| {
            let (mut events, mut unreadable, mut rest) = (Vec::with_capacity(seqs.len()), Vec::new(), seqs);
            while let Some(first) = rest.first() {
                let read = read_events(engine, *first, rest)?;
                unreadable.extend(read.unreadable);
                rest = rest.get(read.events.len()..).unwrap_or_default();
                events.extend(read.events);
            }
            Ok((events, unreadable))
        })?;
        for page in unreadable {
            self.commands.send(Command::Quarantine(page));
        }
        Ok(events)
    }

    /// Settles events: returns once that is durable. What is not in the queue, or settled before, is passed over.
    ///
    /// # Errors
    /// [`Failed`]: nobody knows whether it is durable; the queue is no longer written.
    pub async fn settle(&self, delivered: Vec<Seq>, burials: Vec<Burial>) -> Result<(), Failed> {
        let (done, waiting) = oneshot::channel();
        self.ask(Command::Settle { delivered, burials, done }, waiting).await
    }

    /// Removes dead letters for good; returns how many, once that is durable. What is none is passed over.
    ///
    /// # Errors
    /// [`Failed`] as in [`Store::settle`].
    pub async fn delete_dead(&self, letters: Vec<Seq>) -> Result<u64, Failed> {
        let (done, waiting) = oneshot::channel();
        self.ask(Command::Delete { letters, done }, waiting).await
    }

    /// Makes dead letters events again: each takes a new place at the end of the queue, with its id, its bytes and its
    /// envelope as they were, and its age from now on. Returns once that is durable. What is no dead letter, or cannot
    /// be read, is passed over; at a limit of the queue it ends, and says which.
    ///
    /// # Errors
    /// [`Failed`] as in [`Store::settle`].
    pub async fn requeue(&self, letters: &[Seq]) -> Result<Requeued, Failed> {
        let mut all = Requeued::default();
        for letters in letters.chunks(REQUEUED_AT_ONCE) {
            let (done, waiting) = oneshot::channel();
            let requeued = self.ask(Command::Requeue { letters: letters.to_vec(), done }, waiting).await?;
            all.moved += requeued.moved;
            if requeued.refusal.is_some() {
                all.refusal = requeued.refusal;
                break;
            }
        }
        Ok(all)
    }

    /// Goes by the limits of `settings` from the next commit on; the folder stays what it is.
    pub fn limit(&self, settings: Settings) {
        self.dead_max_events.store(settings.dead_max_events, Ordering::Relaxed);
        self.commands.send(Command::Limits(settings));
    }

    /// Returns once the writer has gone through its loop, with whatever commit was under way or waiting.
    ///
    /// # Errors
    /// [`Failed`] as in [`Store::settle`].
    pub async fn pulse(&self) -> Result<(), Failed> {
        let (done, waiting) = oneshot::channel();
        self.ask(Command::Pulse(done), waiting).await
    }

    /// Keeps a small value under `name`; returns once it is durable.
    ///
    /// # Errors
    /// [`Failed`] as in [`Store::settle`].
    pub async fn put_meta(&self, name: &str, value: Vec<u8>) -> Result<(), Failed> {
        let (done, waiting) = oneshot::channel();
        self.ask(Command::Put { name: name.to_owned(), value, done }, waiting).await
    }

    async fn ask<T>(&self, command: Command, waiting: oneshot::Receiver<T>) -> Result<T, Failed> {
        self.commands.send(command);
        match waiting.await {
            Ok(answer) => Ok(answer),
            Err(_) => Err(self.ended().await.unwrap_or(Failed::Closed)),
        }
    }

    /// Why the writer ended: it drops what it was asked for, and says why only after that. `None` where it ended in
    /// order.
    async fn ended(&self) -> Option<Failed> {
        let mut failed = self.failed.clone();
        failed.wait_for(Option::is_some).await.ok()?.clone()
    }

    /// What is kept under `name`.
    ///
    /// # Errors
    /// [`Failed`]: the engine cannot read.
    pub fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, Failed> {
        self.read(|engine| Ok(engine.meta(name)?.map(|value| value.to_vec())))
    }

    /// Up to `max` dead letters from `from` on; those that cannot be read are passed over. Blocks on the disk.
    ///
    /// # Errors
    /// [`Failed`]: the engine cannot read.
    pub fn dead(&self, from: Seq, max: usize) -> Result<Vec<DeadLetter>, Failed> {
        self.read(|engine| dead_in(engine, from, max))
    }

    /// The sequence number behind the last durable event.
    #[must_use]
    pub fn tail(&self) -> Seq {
        self.ledger().next
    }

    /// The counters as of the last commit.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        *self.ledger.borrow()
    }

    /// Tells of every change of the counters.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Ledger> {
        self.ledger.clone()
    }

    /// What was counted since the queue was opened.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The oldest event that waits, if `from` is not behind it: its number, and when it arrived. Blocks on the disk.
    ///
    /// # Errors
    /// [`Failed`]: the engine cannot read.
    pub fn oldest(&self, from: Seq) -> Result<Option<(Seq, Moment)>, Failed> {
        // Not by a scan, which has pages removed that an earlier version left, and tells of those that cannot be read.
        let found = self.survey(from, Seq(u64::MAX), 1)?.found;
        Ok(found.first().map(|one| (one.entry.seq, one.entry.arrived)))
    }

    /// Whether another dead letter may be held.
    #[must_use]
    pub fn dead_room(&self) -> bool {
        self.ledger().dead_held < self.dead_max_events.load(Ordering::Relaxed)
    }

    /// Why the queue is no longer written, if it is not.
    #[must_use]
    pub fn failure(&self) -> Option<Failed> {
        self.failed.borrow().clone()
    }

    /// Waits until the queue is no longer written because of a failure; for ever where it is closed in order.
    pub async fn failed(&self) -> Failed {
        match self.ended().await {
            Some(failure) => failure,
            None => std::future::pending().await,
        }
    }

    /// One read of the database. Where the engine met the full disk it errs from then on, for readers too: the writer
    /// is asked to open it again, and the read is made anew.
    pub(super) fn read<T>(&self, read: impl Fn(&Engine) -> Result<T, sled::Error>) -> Result<T, Failed> {
        loop {
            let opened = self.view.times_opened();
            let error = match self.view.read(&read) {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let Some(opened) = opened.filter(|_| met_full_disk(&error)) else {
                return Err(self.broken(&error));
            };
            self.commands.send(Command::Reopen(opened));
            if !self.view.wait_past(opened) {
                return Err(self.broken(&error));
            }
        }
    }

    fn broken(&self, error: &sled::Error) -> Failed {
        let (path, message) = (self.view.read(|engine| engine.path().to_owned()), said(error));
        self.failure().unwrap_or(match error {
            // The engine works on, and may read it the next time.
            sled::Error::Io(_) => Failed::Unread { path, message },
            _ => Failed::Disk { path, message },
        })
    }
}

/// Up to `max` dead letters from `from` on.
fn dead_in(engine: &Engine, from: Seq, max: usize) -> Result<Vec<DeadLetter>, sled::Error> {
    let mut letters = Vec::new();
    let mut open: Option<(Seq, Vec<u8>)> = None;
    let close = |open: Option<(Seq, Vec<u8>)>, letters: &mut Vec<DeadLetter>| {
        letters.extend(open.and_then(|(_, record)| decode_dead(&record).ok()));
    };
    for record in engine.from(numbered(DEAD, from)) {
        let (key, value) = record?;
        let Some(seq) = seq_of(DEAD, &key) else { break };
        match &mut open {
            Some((same, parts)) if *same == seq => parts.extend_from_slice(&value),
            _ => close(open.replace((seq, value.to_vec())), &mut letters),
        }
        if letters.len() >= max {
            return Ok(letters);
        }
    }
    close(open, &mut letters);
    Ok(letters)
}

/// What was read of one page.
pub(super) struct Read {
    /// The events, each `None` where it is not there, or cannot be read.
    pub(super) events: Vec<Option<Event>>,
    /// The page, where it or the envelope that it refers to is damaged.
    pub(super) unreadable: Option<PageKey>,
}

/// Reads `first` and those of the `seqs` behind it that lie in the same page, at least one.
pub(super) fn read_events(engine: &Engine, first: Seq, seqs: &[Seq]) -> Result<Read, sled::Error> {
    let none = |unreadable| Ok(Read { events: vec![None], unreadable });
    let Some((key, record)) = page_record(engine, first)? else { return none(None) };
    let Ok(page) = Page::decode(&record) else { return none(Some(key)) };
    let here = seqs.iter().take_while(|seq| key.bit(**seq) != 0);
    let events = events_of(engine, &page, key, here.copied())?;
    let unreadable = events.iter().any(Option::is_none).then_some(key);
    Ok(Read { events, unreadable })
}

/// The events `seqs` of a page, each `None` where it or its envelope is damaged.
fn events_of(
    engine: &Engine,
    page: &Page<'_>,
    key: PageKey,
    seqs: impl Iterator<Item = Seq>,
) -> Result<Vec<Option<Event>>, sled::Error> {
    let stored = match page.apart() {
        Some(apart) => engine.joined(&numbered(MEMBERS, Seq(apart.first)))?,
        None => None,
    };
    let members = stored.as_deref().and_then(|record| decode_members(record).ok());
    Ok(page.events(key.first, seqs, members).collect())
}
