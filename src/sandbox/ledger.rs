//! What the sandbox took, written down for tests.
//!
//! Two takings are of the same notification where session, id and impression id are equal. A remembered
//! notification costs about 100 bytes and its id, so 2 million fit into a quarter of a gigabyte. Equality is
//! judged by 64-bit hashes: among 2 million notifications, the odds of one false match are one in ten
//! million.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use xxhash_rust::xxh3::Xxh3;

use super::check::Delivery;
use super::mark::Mark;
use crate::event::Host;

/// What was counted. A *taking* is one notification taken by one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections that were accepted.
    pub connections: u64,
    /// Delivery requests that came in, whatever became of them.
    pub requests: u64,
    /// Requests that broke a rule of the API (400), but not those of [`Faults::refuse_all`](super::Faults).
    pub refused: u64,
    /// Answers by status; requests that were reset or hang have none.
    pub answers: BTreeMap<u16, u64>,
    /// Requests by the host that was asked.
    pub hosts: BTreeMap<Host, u64>,
    /// The most notifications in one request.
    pub largest_request: usize,
    /// The most requests of one session that were worked on at once. A request that hangs is not worked on.
    ///
    /// A client that gives a request up while the sandbox reads or delays it, and sends the next at once, may
    /// be counted twice, as it may be at Target.
    pub most_at_once: usize,
    /// Takings, those of notifications that had been taken before included.
    pub takings: u64,
    /// Takings of a remembered notification that had been taken before.
    pub repeated: u64,
    /// Those of them whose request had another mark than at the first taking.
    pub changed: u64,
    /// Different impression ids among the remembered notifications.
    pub impressions: u64,
    /// Takings of a notification without an impression id: each counts at Target.
    pub unmarked: u64,
    /// Takings that were not remembered, because [`Settings::max_records`](super::Settings) notifications
    /// were.
    pub unrecorded: u64,
    /// When the first notification was taken.
    pub first_taken: Option<Instant>,
    /// When the last notification was taken.
    pub last_taken: Option<Instant>,
}

/// One notification that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its place in the order of first takings, from 0.
    pub order: usize,
    /// The session of the request.
    pub session: &'a str,
    /// The notification's id.
    pub id: &'a str,
    /// The mark of its impression id, or of the request's where it had none.
    pub impression: Option<Mark>,
    /// The mark of the request of the first taking, see [`Mark::of_request`]; without a `tntId` that the
    /// sandbox itself had made up.
    pub request: Mark,
    /// The host that the first request asked.
    pub host: Host,
    /// How often it was taken.
    pub times: u32,
}

/// All that was written down up to one moment.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    totals: Totals,
    rows: Vec<Row>,
    /// The ids of the rows, one after the other: a string of its own each would double the memory.
    ids: String,
    sessions: Vec<Arc<str>>,
}

#[derive(Clone, Debug)]
struct Row {
    /// Where the id ends in `ids`; it starts where that of the row before ends.
    id_end: usize,
    request: Mark,
    impression: Option<Mark>,
    session: u32,
    times: u32,
    host: Host,
}

impl Ledger {
    /// The counts.
    #[must_use]
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The notifications in the order of their first takings.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        self.rows.iter().enumerate().scan(0, |id_start, (order, row)| {
            let start = std::mem::replace(id_start, row.id_end);
            let session = usize::try_from(row.session).ok().and_then(|session| self.sessions.get(session));
            Some(Record {
                order,
                session: session.map_or("", |session| session),
                id: self.ids.get(start..row.id_end).unwrap_or_default(),
                impression: row.impression,
                request: row.request,
                host: row.host,
                times: row.times,
            })
        })
    }
}

/// A ledger with what is needed to write it.
#[derive(Debug)]
pub(super) struct Book {
    ledger: Ledger,
    max_records: usize,
    /// The row of each notification, by the hash of what makes it the same.
    known: HashMap<u64, u32>,
    impressions: HashSet<Mark>,
    sessions: HashMap<Arc<str>, u32>,
    /// The requests of each session that are worked on now.
    open: HashMap<Arc<str>, usize>,
}

impl Book {
    pub(super) fn new(max_records: usize) -> Self {
        Self {
            ledger: Ledger::default(),
            // Rows are numbered in 32 bits.
            max_records: max_records.min(usize::try_from(u32::MAX).unwrap_or(usize::MAX)),
            known: HashMap::new(),
            impressions: HashSet::new(),
            sessions: HashMap::new(),
            open: HashMap::new(),
        }
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(super) fn connected(&mut self) {
        self.ledger.totals.connections += 1;
    }

    pub(super) fn asked(&mut self, host: Host) {
        self.ledger.totals.requests += 1;
        *self.ledger.totals.hosts.entry(host).or_default() += 1;
    }

    pub(super) fn refused(&mut self) {
        self.ledger.totals.refused += 1;
    }

    pub(super) fn answered(&mut self, status: u16) {
        *self.ledger.totals.answers.entry(status).or_default() += 1;
    }

    /// Opens a request of a session; how many it has now.
    pub(super) fn open(&mut self, session: &Arc<str>) -> usize {
        let open = self.open.entry(Arc::clone(session)).or_default();
        *open += 1;
        self.ledger.totals.most_at_once = self.ledger.totals.most_at_once.max(*open);
        *open
    }

    /// Closes what [`Book::open`] opened.
    pub(super) fn close(&mut self, session: &Arc<str>) {
        if let Entry::Occupied(mut open) = self.open.entry(Arc::clone(session)) {
            *open.get_mut() -= 1;
            if *open.get() == 0 {
                open.remove();
            }
        }
    }

    /// Takes the notifications of a request that are not among `omitted`.
    pub(super) fn take(
        &mut self,
        session: &Arc<str>,
        host: Host,
        delivery: &Delivery,
        omitted: &HashSet<&str>,
    ) {
        let now = Instant::now();
        let totals = &mut self.ledger.totals;
        totals.largest_request = totals.largest_request.max(delivery.notifications.len());
        for notification in &delivery.notifications {
            if omitted.contains(notification.id.as_str()) {
                continue;
            }
            self.ledger.totals.takings += 1;
            self.ledger.totals.first_taken.get_or_insert(now);
            self.ledger.totals.last_taken = Some(now);
            self.record(session, host, delivery.mark, &notification.id, notification.impression);
        }
    }

    fn record(&mut self, session: &Arc<str>, host: Host, request: Mark, id: &str, impression: Option<Mark>) {
        let Ledger { totals, rows, ids, sessions } = &mut self.ledger;
        if impression.is_none() {
            totals.unmarked += 1;
        }
        let key = key(session, id, impression);
        if let Some(row) = self.known.get(&key) {
            totals.repeated += 1;
            if let Some(row) = usize::try_from(*row).ok().and_then(|row| rows.get_mut(row)) {
                row.times = row.times.saturating_add(1);
                if row.request != request {
                    totals.changed += 1;
                }
            }
            return;
        }
        if rows.len() >= self.max_records {
            totals.unrecorded += 1;
            return;
        }
        let number = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let session = *self.sessions.entry(Arc::clone(session)).or_insert_with(|| {
            sessions.push(Arc::clone(session));
            number(sessions.len() - 1)
        });
        self.known.insert(key, number(rows.len()));
        if impression.is_some_and(|impression| self.impressions.insert(impression)) {
            totals.impressions += 1;
        }
        ids.push_str(id);
        rows.push(Row { id_end: ids.len(), request, impression, session, times: 1, host });
    }
}

/// The hash of what makes a notification the same.
fn key(session: &str, id: &str, impression: Option<Mark>) -> u64 {
    let mut hash = Xxh3::new();
    // A session id has no space, so that no two pairs are joined alike.
    hash.update(session.as_bytes());
    hash.update(b" ");
    hash.update(&impression.map_or([0; 8], |mark| mark.0.to_be_bytes()));
    hash.update(id.as_bytes());
    hash.digest()
}
