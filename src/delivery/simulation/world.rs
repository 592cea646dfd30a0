//! The truth of one history: what is on the disk, what Target said, and what must hold, checked at every step.
//!
//! Checked at each request: its events wait, and are sent as they were stored; one session, one envelope, one visitor, no id
//! twice, at most so many events and bytes; one request of its session and so many in all at a time, so many a second; no
//! older event of its session waits, but such as fail by themselves; no `Retry-After` is passed over. At each settlement:
//! Target said so, in this life, and nobody settled it before. At each commit: the account balances.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;
use xxhash_rust::xxh3::Xxh3;

use super::plan::{Fault, Plan, below, one_in};
use crate::delivery::Added;
use crate::event::{
    Answer, Balance, DeadReason, Entry, Envelope, Event, EventId, Host, Lane, Moment, Outcome, Seq,
    SessionId, Visitor,
};
use crate::schedule::{Buried, Random, Status};
use crate::wire::hash;

/// What the wall clock says at the start.
const START: Moment = Moment::from_micros(1_700_000_000_000_000);
/// So often may the flusher look at the clock before time goes on.
const MOST_TURNS: u64 = 200_000;

/// The world, shared by the disk, Target and what drives them: all on one thread.
#[derive(Clone)]
pub(super) struct Shared(Arc<Inner>);

pub(super) struct Inner {
    world: Mutex<World>,
    /// The writer has something to do.
    pub(super) arrived: Notify,
    /// Nothing waits any more.
    pub(super) empty: Notify,
}

impl std::ops::Deref for Shared {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Inner {
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        // After a failed check the rest is only taken down.
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    pub(super) fn new(plan: Plan, random: Random, loud: bool) -> Self {
        let world = Mutex::new(World::new(plan, random, loud));
        Self(Arc::new(Inner { world, arrived: Notify::new(), empty: Notify::new() }))
    }
}

/// An event before it has a place in the queue.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) serial: u64,
    pub(super) id: EventId,
    pub(super) notification: Box<[u8]>,
    pub(super) envelope: Arc<Envelope>,
    pub(super) fault: Fault,
    pub(super) damaged: bool,
}

/// What the writer is asked for.
pub(super) enum Command {
    Append(Vec<Draft>),
    Settle { delivered: Vec<Seq>, buried: Vec<Buried>, done: oneshot::Sender<Result<(), String>> },
}

/// What the disk says of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Waits,
    Final,
}

struct Stored {
    event: Event,
    entry: Entry,
    fault: Fault,
    damaged: bool,
    fate: Fate,
    /// Whether the flusher of this life gave it up: it was settled, or cannot be read.
    given_up: bool,
    said: SaidOf,
}

/// What Target said of an event in this life.
#[derive(Clone, Debug, Default)]
struct SaidOf {
    processed: bool,
    unlisted: u32,
    refused_alone: Option<String>,
    failed_alone: u32,
    failed_old: bool,
    not_before: Moment,
}

/// How often what happened; a history in numbers.
pub(super) type Counts = BTreeMap<&'static str, u64>;

pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) random: Random,
    start: Instant,
    last_look: (Instant, u64),
    events: Vec<Stored>,
    by_serial: BTreeMap<u64, Seq>,
    /// What waits of each lane, and was not given up.
    open: BTreeMap<Lane, BTreeSet<Seq>>,
    pub(super) waiting: VecDeque<Command>,
    /// The commit under way, and whether readers see its settlements already.
    writing: Vec<Command>,
    seen_early: bool,
    pub(super) failing: bool,
    live: Option<mpsc::Sender<Added>>,
    tail: Option<watch::Sender<Seq>>,
    balance: Balance,
    dead_held: u64,
    in_flight: BTreeMap<u64, (Host, Lane)>,
    tokens: u64,
    begun: VecDeque<Moment>,
    told: BTreeSet<(Lane, Visitor, String)>,
    /// Before when nothing expires, and when the flusher was told so.
    no_expiry: (Moment, Moment),
    /// Whether dead letters had no room at a time in this life.
    no_room: bool,
    pub(super) counts: Counts,
    digest: Xxh3,
    loud: bool,
    /// When requests began and what they had; kept where somebody asks for it.
    pub(super) log: Option<Vec<(Moment, usize)>>,
}

#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
    #[serde(borrow)]
    context: &'a RawValue,
    #[serde(borrow)]
    notifications: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Marked {
    n: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Known {
    tnt_id: Option<String>,
}

impl World {
    fn new(plan: Plan, random: Random, loud: bool) -> Self {
        let start = Instant::now();
        Self {
            plan,
            random,
            start,
            last_look: (start, 0),
            events: Vec::new(),
            by_serial: BTreeMap::new(),
            open: BTreeMap::new(),
            waiting: VecDeque::new(),
            writing: Vec::new(),
            seen_early: false,
            failing: false,
            live: None,
            tail: None,
            balance: Balance::default(),
            dead_held: 0,
            in_flight: BTreeMap::new(),
            tokens: 0,
            begun: VecDeque::new(),
            told: BTreeSet::new(),
            no_expiry: (Moment::ZERO, Moment::ZERO),
            no_room: false,
            counts: Counts::new(),
            digest: Xxh3::new(),
            loud,
            log: None,
        }
    }

    pub(super) fn since_start(&self) -> Duration {
        self.start.elapsed()
    }

    pub(super) fn now(&self) -> Moment {
        START.after(self.since_start())
    }

    pub(super) fn healed(&self) -> Moment {
        START.after(self.plan.lasts)
    }

    /// The clock of the flusher, which must not spin.
    pub(super) fn look(&mut self) -> Moment {
        let now = Instant::now();
        let count = if self.last_look.0 == now { self.last_look.1 + 1 } else { 0 };
        self.last_look = (now, count);
        assert!(count < MOST_TURNS, "the flusher turns without end at {:?}", self.since_start());
        self.now()
    }

    /// Takes down what happens; where a history is replayed, it is printed.
    pub(super) fn note(&mut self, what: &'static str, detail: fmt::Arguments<'_>) {
        *self.counts.entry(what).or_default() += 1;
        let line = format!("{:>12.3?} {what}: {detail}", self.since_start());
        self.digest.update(line.as_bytes());
        if self.loud {
            println!("{line}");
        }
    }

    pub(super) fn digest(&self) -> u64 {
        self.digest.digest()
    }

    // The disk.

    pub(super) fn tail_seq(&self) -> Seq {
        Seq(self.events.len() as u64 + 1)
    }

    fn stored(&self, seq: Seq) -> &Stored {
        &self.events[usize::try_from(seq.0 - 1).unwrap()]
    }

    fn stored_mut(&mut self, seq: Seq) -> &mut Stored {
        &mut self.events[usize::try_from(seq.0 - 1).unwrap()]
    }

    pub(super) fn balance(&self) -> Balance {
        self.balance
    }

    pub(super) fn pending(&self) -> u64 {
        self.balance.pending()
    }

    pub(super) fn dead_room(&self) -> bool {
        self.dead_held < self.plan.dead_max
    }

    /// The operator deletes dead letters, or raises their limit.
    pub(super) fn make_dead_room(&mut self, for_ever: bool) {
        self.dead_held = 0;
        if for_ever {
            self.plan.dead_max = u64::MAX;
        }
    }

    pub(super) fn delay_expiry(&mut self, until: Moment) {
        self.no_expiry = (self.no_expiry.0.max(until), self.now());
    }

    /// Takes a part of what waits into a commit; how long that lasts, or `None` where nothing waits.
    pub(super) fn begin_commit(&mut self) -> Option<Duration> {
        if self.waiting.is_empty() {
            return None;
        }
        let count = 1 + below(&mut self.random, self.waiting.len() as u64);
        self.writing = self.waiting.drain(..usize::try_from(count).unwrap()).collect();
        self.seen_early = one_in(&mut self.random, 2);
        let most = self.plan.commit;
        Some(self.random.up_to(most))
    }

    /// The commit is durable, and everybody hears of it; `false` where the disk failed instead.
    pub(super) fn end_commit(&mut self) -> bool {
        let first = self.tail_seq();
        if self.failing {
            return false;
        }
        for done in self.apply() {
            // Who asked may be gone.
            let _gone = done.send(Ok(()));
        }
        let next = self.tail_seq();
        if next > first {
            let entries = self.events[usize::try_from(first.0 - 1).unwrap()..].iter().map(|one| one.entry);
            let added = Added { first, next, entries: entries.collect() };
            let heard = self.live.as_ref().is_some_and(|live| live.try_send(added).is_ok());
            if let Some(tail) = self.tail.as_ref().filter(|_| !heard) {
                tail.send_replace(next);
            }
        }
        true
    }

    /// Makes the commit under way durable.
    fn apply(&mut self) -> Vec<oneshot::Sender<Result<(), String>>> {
        let mut all = Vec::new();
        for command in std::mem::take(&mut self.writing) {
            match command {
                Command::Append(drafts) => drafts.into_iter().for_each(|draft| self.store(draft)),
                Command::Settle { delivered, buried, done } => {
                    self.note("settled", format_args!("{delivered:?} {buried:?}"));
                    for seq in delivered {
                        self.balance.delivered += u64::from(self.finish(seq));
                    }
                    for one in buried {
                        let counter = match one.reason {
                            DeadReason::Expired => &mut self.balance.expired,
                            _ => &mut self.balance.dead,
                        };
                        *counter += 1;
                        self.dead_held += 1;
                        let finished = self.finish(one.seq);
                        assert!(finished, "{one:?} was final before");
                    }
                    all.push(done);
                }
            }
        }
        // Of many events the count would take longer than all else.
        if self.log.is_none() {
            let waits = self.events.iter().filter(|one| one.fate == Fate::Waits).count() as u64;
            assert!(self.pending() == waits, "{:?}, and {waits} wait", self.balance);
        }
        all
    }

    fn finish(&mut self, seq: Seq) -> bool {
        let stored = self.stored_mut(seq);
        std::mem::replace(&mut stored.fate, Fate::Final) == Fate::Waits
    }

    fn store(&mut self, draft: Draft) {
        let Draft { serial, id, notification, envelope, fault, damaged } = draft;
        let event = Event { seq: self.tail_seq(), id, arrived: self.now(), notification, envelope };
        let entry = hash::entry(&event);
        self.balance.accepted += 1;
        self.by_serial.insert(serial, event.seq);
        self.open.entry(entry.lane).or_default().insert(event.seq);
        self.note("stored", format_args!("{} n {serial} {fault:?}", event.seq));
        let (fate, said) = (Fate::Waits, SaidOf::default());
        self.events.push(Stored { event, entry, fault, damaged, fate, given_up: false, said });
    }

    /// The process starts.
    pub(super) fn begin_life(&mut self, live: mpsc::Sender<Added>, tail: watch::Sender<Seq>) {
        self.live = Some(live);
        self.tail = Some(tail);
        self.note("start", format_args!("{} wait", self.pending()));
    }

    /// The process ends. In order, all that the writer was asked for is durable; else the commit under way is, or is not, and
    /// the rest never was.
    pub(super) fn end_life(&mut self, orderly: bool) {
        assert!(self.in_flight.is_empty(), "a request outlives its flusher");
        if orderly || one_in(&mut self.random, 2) {
            self.apply();
        }
        self.writing.clear();
        if orderly {
            self.writing = self.waiting.drain(..).collect();
            self.apply();
        }
        self.waiting.clear();
        self.failing = false;
        self.begun.clear();
        self.no_expiry = (Moment::ZERO, Moment::ZERO);
        self.no_room = false;
        self.open.clear();
        for one in &mut self.events {
            one.said = SaidOf::default();
            one.given_up = one.fate != Fate::Waits;
            if !one.given_up {
                self.open.entry(one.entry.lane).or_default().insert(one.event.seq);
            }
        }
    }

    pub(super) fn scan(&self, from: Seq, max: usize) -> (Vec<Entry>, Seq) {
        let max = max.min(usize::try_from(self.plan.page).unwrap());
        let early: BTreeSet<Seq> =
            self.writing.iter().filter(|_| self.seen_early).flat_map(settles).collect();
        let skip = usize::try_from(from.0.saturating_sub(1)).unwrap();
        let mut found = Vec::new();
        for one in self.events.iter().skip(skip) {
            if found.len() >= max {
                return (found, one.event.seq);
            }
            if one.fate == Fate::Waits && !early.contains(&one.event.seq) {
                found.push(one.entry);
            }
        }
        (found, self.tail_seq().max(from))
    }

    /// The events; one that is damaged is moved to quarantine, as the queue does.
    pub(super) fn load(&mut self, seqs: &[Seq]) -> Vec<Option<Event>> {
        let mut found = Vec::with_capacity(seqs.len());
        for seq in seqs {
            if self.stored(*seq).damaged && self.finish(*seq) {
                self.balance.quarantined += 1;
                self.close(*seq);
                self.note("quarantined", format_args!("{seq}"));
            }
            let stored = self.stored(*seq);
            found.push((stored.fate == Fate::Waits).then(|| stored.event.clone()));
        }
        found
    }

    pub(super) fn told_lost(&mut self, seqs: &[Seq]) {
        for seq in seqs {
            assert!(self.stored(*seq).damaged, "{seq} is told lost, and can be read");
            self.give_up(*seq);
        }
    }

    fn give_up(&mut self, seq: Seq) {
        let stored = self.stored_mut(seq);
        assert!(!stored.given_up, "{seq} is settled twice");
        stored.given_up = true;
        self.close(seq);
    }

    fn close(&mut self, seq: Seq) {
        let lane = self.stored(seq).entry.lane;
        if let Some(open) = self.open.get_mut(&lane) {
            open.remove(&seq);
        }
    }

    /// Somebody settles these: Target must have said so, and nobody before.
    pub(super) fn check_settlement(&mut self, delivered: &[Seq], buried: &[Buried]) {
        for seq in delivered {
            assert!(self.stored(*seq).said.processed, "{seq} is settled, and Target never said so");
            self.give_up(*seq);
        }
        for one in buried {
            let said = self.stored(one.seq).said.clone();
            assert!(!said.processed, "{one:?} was delivered");
            let given = match one.reason {
                DeadReason::Refused => said.refused_alone.as_ref() == Some(&one.detail),
                DeadReason::NotAcknowledged => said.unlisted >= self.plan.settings.unlisted_max,
                DeadReason::Expired => {
                    let (until, told) = self.no_expiry;
                    said.failed_old && (self.now() >= until || self.now() == told)
                }
                DeadReason::Dropped => false,
            };
            assert!(given, "{one:?} has a reason that Target did not give: {said:?}");
            assert!(self.dead_room(), "{one:?} has no room among the dead letters");
            self.note(one.reason.as_str(), format_args!("{}", one.seq));
            self.give_up(one.seq);
        }
    }

    // Target.

    /// A request comes in: everything that must hold of it does. Returns its name, and its events.
    pub(super) fn check_request(
        &mut self,
        host: Host,
        session: &SessionId,
        body: &[u8],
        ids: &[&str],
    ) -> (u64, Vec<Seq>) {
        let request: Request<'_> = serde_json::from_slice(body).unwrap();
        let mark = |one: &&RawValue| serde_json::from_str::<Marked>(one.get()).unwrap().n;
        let seqs: Vec<Seq> = request.notifications.iter().map(|one| self.by_serial[&mark(one)]).collect();
        self.note("request", format_args!("{host} {session} {seqs:?}"));
        assert_eq!(seqs.len(), ids.len());
        let lane = hash::lane(session);
        let now = self.now();
        for ((seq, sent), id) in seqs.iter().zip(&request.notifications).zip(ids) {
            let stored = self.stored(*seq);
            assert!(stored.fate == Fate::Waits && !stored.given_up, "{seq} is sent after it was settled");
            assert_eq!(
                sent.get().as_bytes(),
                &*stored.event.notification,
                "{seq} is sent otherwise than stored"
            );
            assert_eq!((stored.entry.lane, stored.event.id.as_str()), (lane, *id), "{seq}");
            assert!(
                stored.said.not_before <= now,
                "{seq} is sent before Retry-After is over: {:?}",
                stored.said
            );
            let context = format!(r#""context":{}"#, request.context.get());
            let members = std::str::from_utf8(&stored.event.envelope.members).unwrap();
            assert!(members.ends_with(&context), "{seq} is sent with another envelope: {members}");
        }
        self.check_visitor(&seqs, request.id.get());
        self.check_limits(host, lane, &seqs);
        self.check_order(lane, &seqs);
        self.tokens += 1;
        self.in_flight.insert(self.tokens, (host, lane));
        if let Some(log) = &mut self.log {
            log.push((now, seqs.len()));
        }
        (self.tokens, seqs)
    }

    /// The request has the stored `id`, or the one that an answer gave for it.
    fn check_visitor(&self, seqs: &[Seq], sent: &str) {
        let event = &self.stored(seqs[0]).event;
        let members = std::str::from_utf8(&event.envelope.members).unwrap();
        if members.starts_with(&format!(r#""id":{sent},"#)) {
            return;
        }
        let visitor = event.envelope.visitor.expect("a tntId was put in beside the stored one");
        let known: Known = serde_json::from_str(sent).unwrap();
        let told = (hash::lane(&event.envelope.session), visitor, known.tnt_id.unwrap());
        assert!(self.told.contains(&told), "{seqs:?} are sent for somebody else: {sent}");
    }

    fn check_limits(&mut self, host: Host, lane: Lane, seqs: &[Seq]) {
        let now = self.now();
        let settings = &self.plan.settings;
        assert!(self.in_flight.len() < settings.concurrency, "more requests than slots");
        assert!(self.in_flight.values().all(|(_, other)| *other != lane), "two requests of a session");
        assert!(!seqs.is_empty() && seqs.len() <= settings.max_events, "{} events", seqs.len());
        let bytes: u64 = seqs.iter().map(|seq| u64::from(self.stored(*seq).entry.bytes)).sum();
        assert!(seqs.len() == 1 || bytes <= settings.max_bytes, "{bytes} bytes");
        let ids: BTreeSet<&EventId> = seqs.iter().map(|seq| &self.stored(*seq).event.id).collect();
        assert_eq!(ids.len(), seqs.len(), "an id twice");
        let edges: BTreeSet<Host> = self.in_flight.values().map(|(host, _)| *host).chain([host]).collect();
        assert!(edges.iter().filter(|one| **one != Host::Client).count() <= settings.max_hosts, "{edges:?}");
        assert!(settings.edge_routing || host == Host::Client, "{host}");
        if settings.rate_limit > 0 {
            let most = settings.rate_limit as usize;
            while self.begun.front().is_some_and(|at| now.since(*at) >= Duration::from_secs(1)) {
                self.begun.pop_front();
            }
            self.begun.push_back(now);
            // The timer is as fine as a millisecond.
            assert!(self.begun.len() <= most + 1, "{} requests within a second", self.begun.len());
        }
    }

    fn check_order(&mut self, lane: Lane, seqs: &[Seq]) {
        assert!(seqs.windows(2).all(|two| two[0] < two[1]), "{seqs:?}");
        let last = *seqs.last().unwrap();
        let older = self.open.get(&lane).into_iter().flat_map(|open| open.range(..last)).copied();
        let passed: Vec<Seq> = older.filter(|seq| !seqs.contains(seq)).collect();
        for seq in passed {
            let said = &self.stored(seq).said;
            let parked = self.may_be_parked(said);
            assert!(parked, "{seqs:?} pass over {seq}: {said:?}");
            self.note("passed over a parked event", format_args!("{seq}"));
        }
    }

    /// Whether an event failed by itself as often as it takes to be parked, or found no room among the dead letters.
    fn may_be_parked(&self, said: &SaidOf) -> bool {
        let settings = &self.plan.settings;
        let unburied =
            said.refused_alone.is_some() || said.failed_old || said.unlisted >= settings.unlisted_max;
        said.failed_alone >= settings.park_after || (self.no_room && unburied)
    }

    pub(super) fn over(&mut self, token: u64) {
        self.in_flight.remove(&token);
    }

    /// An answer, or its absence, reaches the flusher.
    pub(super) fn answered(&mut self, host: Host, seqs: &[Seq], outcome: &Outcome) {
        self.note(
            kind(outcome),
            format_args!("{host} {seqs:?} {:?} {:?}", outcome.answer, outcome.retry_after),
        );
        self.no_room |= !self.dead_room();
        let (now, alone) = (self.now(), seqs.len() == 1);
        let (max_age, most) = (self.plan.settings.max_age, self.plan.settings.backoff.max);
        let not_before = now.after(outcome.retry_after.unwrap_or_default().min(most));
        for (position, seq) in seqs.iter().enumerate() {
            let stored = self.stored_mut(*seq);
            let old = now.since(stored.event.arrived) > max_age;
            let said = &mut stored.said;
            match &outcome.answer {
                Answer::Accepted => said.processed = true,
                Answer::Listed(flags) if flags[position] => said.processed = true,
                Answer::Listed(_) => {
                    said.unlisted += 1;
                    said.failed_old |= old;
                }
                Answer::Status(400 | 402 | 405 | 410 | 413 | 414 | 422 | 451) => {
                    if alone {
                        said.refused_alone = Some(outcome.detail.clone());
                    }
                }
                answer => {
                    let quiet = matches!(answer, Answer::Unreadable | Answer::Status(408 | 420 | 425 | 429));
                    said.failed_alone += u32::from(alone && !quiet);
                    said.failed_old |= old;
                    said.not_before = not_before;
                }
            }
        }
    }

    /// An answer gives these events' visitor a `tntId`.
    pub(super) fn tells(&mut self, seqs: &[Seq], tnt_id: &str) {
        let envelope = &self.stored(seqs[0]).event.envelope;
        if let Some(visitor) = envelope.visitor {
            self.told.insert((hash::lane(&envelope.session), visitor, tnt_id.to_owned()));
        }
    }

    pub(super) fn faults(&self, seqs: &[Seq]) -> Vec<Fault> {
        seqs.iter().map(|seq| self.stored(*seq).fault).collect()
    }

    pub(super) fn is_busy_session(&self, seqs: &[Seq]) -> bool {
        let lane = self.stored(seqs[0]).entry.lane.0 as u64;
        self.plan.busy_session > 0 && (lane >> 7).is_multiple_of(self.plan.busy_session)
    }

    pub(super) fn is_wrong_owner(&self, seqs: &[Seq]) -> bool {
        self.plan.wrong_owner && self.stored(seqs[0]).event.envelope.owner.0 == 2
    }

    /// Whether nothing waits to be written, nor is being written.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.writing.is_empty()
    }

    /// Whether a settlement waits to become durable.
    pub(super) fn settles(&self) -> bool {
        self.writing.iter().chain(&self.waiting).any(|command| matches!(command, Command::Settle { .. }))
    }

    /// The flusher's own numbers are within their limits.
    pub(super) fn check_status(&self, status: &Status) {
        let settings = &self.plan.settings;
        let used = status.indexed as u64 * 256 + status.lanes as u64 * 384;
        // A scan and a commit under way may bring more, once each.
        let more = (self.plan.page.min(2_048) + 64) * (256 + 384);
        assert!(used <= settings.index_max_bytes + more, "{used} bytes in the index: {status:?}");
        assert!(status.in_flight <= settings.concurrency, "{status:?}");
        assert!(status.parked <= crate::schedule::MAX_PARKED, "{status:?}");
    }

    /// What still waits, for a person.
    pub(super) fn left(&self) -> String {
        let left = self.events.iter().filter(|one| one.fate == Fate::Waits).take(10);
        let shown = left.map(|one| {
            format!("{} of {} {:?} {:?}", one.event.seq, one.event.envelope.session, one.fault, one.said)
        });
        shown.collect::<Vec<_>>().join("\n")
    }
}

fn settles(command: &Command) -> Vec<Seq> {
    match command {
        Command::Append(_) => Vec::new(),
        Command::Settle { delivered, buried, .. } => {
            delivered.iter().copied().chain(buried.iter().map(|one| one.seq)).collect()
        }
    }
}

/// The row of the table that an outcome belongs to.
fn kind(outcome: &Outcome) -> &'static str {
    match &outcome.answer {
        Answer::Listed(flags) if flags.iter().all(|flag| *flag) => "200, all listed",
        Answer::Listed(_) => "200, some missing",
        Answer::Unreadable => "200, unreadable",
        Answer::Accepted => "204",
        Answer::Status(400) => "400",
        Answer::Status(413) => "413",
        Answer::Status(401 | 403 | 404 | 300..=399) => "401, 403, 404, 3xx",
        Answer::Status(420) => "420",
        Answer::Status(408 | 425 | 429) => "408, 425, 429",
        Answer::Status(500..) => "5xx",
        Answer::Status(_) => "other 4xx",
        Answer::Failed(_) => "no answer",
    }
}
