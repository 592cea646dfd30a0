//! The reading side: what waits to be delivered, and what became of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{oneshot, watch};

use super::commit_error::{met_full_disk, said};
use super::engine::Engine;
use super::error::Failed;
use super::inbox::Sender;
use super::keys::{DEAD, MEMBERS, PageKey, numbered, seq_of};
use super::pages::page_record;
use super::recent::{Kept, kept_bytes};
use super::scan::Count;
use super::view::View;
use super::{Command, Counts, Ledger, Requeued, Settings};
use crate::event::{Burial, Event, Moment, Seq, SessionId};
use crate::wire::record::{DeadLetter, Page, decode_dead, decode_members};

/// The most dead letters that one commit makes events again.
const REQUEUED_AT_ONCE: usize = 256;

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

impl Store {
    /// Those of the events `seqs` that were stored, or read, so lately that they are still in memory, and only once:
    /// they are not kept any longer. Does not block.
    #[must_use]
    pub fn take_recent(&self, seqs: &[Seq]) -> Vec<Option<Event>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        seqs.iter().map(|seq| kept.take(*seq)).collect()
    }

    /// From now on the events that were stored last may hold this many bytes of memory, or `MAX_RECENT_BYTES` where
    /// that is more.
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
        self.load_some(seqs, usize::MAX)
    }

    /// As [`Store::load`], for the first of `seqs`: no more once they have `max_bytes` together, and at least one.
    ///
    /// # Errors
    /// [`Failed`]: the engine cannot read.
    pub fn load_some(&self, seqs: &[Seq], max_bytes: usize) -> Result<Vec<Option<Event>>, Failed> {
        let (events, unreadable) = self.read(|engine| {
            let (mut events, mut unreadable, mut rest) = (Vec::with_capacity(seqs.len()), Vec::new(), seqs);
            let mut bytes = 0;
            while let Some(first) = rest.first()
                && bytes < max_bytes
            {
                let read = read_events(engine, *first, rest)?;
                unreadable.extend(read.unreadable);
                rest = rest.get(read.events.len()..).unwrap_or_default();
                bytes += read.events.iter().flatten().map(kept_bytes).sum::<usize>();
                events.extend(read.events);
            }
            Ok((events, unreadable))
        })?;
        for page in unreadable {
            // Where an operator looks ahead of the first scan, that one comes to it, and counts it only once.
            let is_passed = self.count().as_ref().is_none_or(|count| page.first < count.reached);
            if is_passed {
                self.commands.send(Command::Quarantine(page));
            }
        }
        Ok(events)
    }

    /// The sessions of the events `seqs`, each `None` where it cannot be read. Blocks on the disk.
    ///
    /// # Errors
    /// [`Failed`]: the engine cannot read.
    pub fn sessions(&self, seqs: &[Seq]) -> Result<Vec<Option<SessionId>>, Failed> {
        self.read(|engine| seqs.iter().map(|seq| session_of(engine, *seq)).collect())
    }

    /// Settles events: returns once that is durable. What is not in the queue, or settled before, is passed over.
    ///
    /// # Errors
    /// [`Failed`]: nobody knows whether it is durable; the queue is no longer written.
    pub async fn settle(&self, mut delivered: Vec<Seq>, mut burials: Vec<Burial>) -> Result<(), Failed> {
        loop {
            let (done, waiting) = oneshot::channel();
            let delivered = std::mem::take(&mut delivered);
            burials = self.ask(Command::Settle { delivered, burials, done }, waiting).await?;
            if burials.is_empty() {
                return Ok(());
            }
        }
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
            let mut letters = letters.to_vec();
            while !letters.is_empty() {
                let (done, waiting) = oneshot::channel();
                let (requeued, left) = self.ask(Command::Requeue { letters, done }, waiting).await?;
                all.moved += requeued.moved;
                if requeued.refusal.is_some() {
                    return Ok(Requeued { refusal: requeued.refusal, ..all });
                }
                letters = left;
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

    /// Keeps a small value under `name`: asked for at once, and with what was asked for before and after it in that order,
    /// however long it waits for room, also where nobody waits for it; done once it is durable.
    ///
    /// # Errors
    /// [`Failed`] as in [`Store::settle`].
    pub fn put_meta(&self, name: &str, value: Vec<u8>) -> impl Future<Output = Result<(), Failed>> + use<> {
        let (done, waiting) = oneshot::channel();
        self.commands.send(Command::Put { name: name.to_owned(), value, done });
        let store = self.clone();
        async move { store.answered(waiting).await }
    }

    async fn ask<T>(&self, command: Command, waiting: oneshot::Receiver<T>) -> Result<T, Failed> {
        self.commands.send(command);
        self.answered(waiting).await
    }

    async fn answered<T>(&self, waiting: oneshot::Receiver<T>) -> Result<T, Failed> {
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
        self.dead_page(from, max, usize::MAX)
    }

    /// As [`Store::dead`], and no more once these have `max_bytes` together; the first is there whatever it has, so that
    /// none is behind an empty page.
    ///
    /// # Errors
    /// [`Failed`]: the engine cannot read.
    pub fn dead_page(&self, from: Seq, max: usize, max_bytes: usize) -> Result<Vec<DeadLetter>, Failed> {
        self.read(|engine| dead_in(engine, from, max, max_bytes, |letter| letter))
    }

    /// When those letters that [`Store::dead`] gives were set aside.
    ///
    /// # Errors
    /// [`Failed`]: the engine cannot read.
    pub fn dead_since(&self, from: Seq, max: usize) -> Result<Vec<(Seq, Moment)>, Failed> {
        self.read(|engine| dead_in(engine, from, max, usize::MAX, |letter| (letter.event.seq, letter.at)))
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

    /// Whether a read would wait, perhaps for long: the full disk keeps the database from being opened again.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.view.is_away()
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

/// What `keep` keeps of up to `max` dead letters from `from` on, and of no more once they have `max_bytes`.
fn dead_in<T>(
    engine: &Engine,
    from: Seq,
    max: usize,
    max_bytes: usize,
    keep: impl Fn(DeadLetter) -> T,
) -> Result<Vec<T>, sled::Error> {
    let (mut letters, mut bytes) = (Vec::new(), 0);
    let mut close = |open: Option<(Seq, Vec<u8>)>| {
        if let Some((_, record)) = open
            && let Ok(letter) = decode_dead(&record)
        {
            bytes += record.len();
            letters.push(keep(letter));
        }
        letters.len() >= max || bytes >= max_bytes
    };
    let mut open: Option<(Seq, Vec<u8>)> = None;
    for record in engine.from(numbered(DEAD, from)) {
        let (key, value) = record?;
        let Some(seq) = seq_of(DEAD, &key) else { break };
        match &mut open {
            Some((same, parts)) if *same == seq => parts.extend_from_slice(&value),
            _ => {
                if close(open.replace((seq, value.to_vec()))) {
                    return Ok(letters);
                }
            }
        }
    }
    close(open);
    Ok(letters)
}

/// What was read of one page.
pub(super) struct Read {
    /// The events, each `None` where it is not there, or cannot be read.
    pub(super) events: Vec<Option<Event>>,
    /// The page, where it or the envelope that it refers to is damaged.
    pub(super) unreadable: Option<PageKey>,
}

fn session_of(engine: &Engine, seq: Seq) -> Result<Option<SessionId>, sled::Error> {
    let Some((key, record)) = page_record(engine, seq)? else { return Ok(None) };
    let position = usize::try_from(seq.0 - key.first.0).unwrap_or(usize::MAX);
    let session = Page::decode(&record).ok().and_then(|page| page.session(position));
    Ok(session.and_then(|text| SessionId::new(text).ok()))
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
pub(super) fn events_of(
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
