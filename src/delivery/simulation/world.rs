//! The truth of one history: what is on the disk, what Target said, and what must hold, checked at every step.
//!
//! Checked at each request: its events wait, and are sent as they were stored; one session, one envelope, one visitor,
//! no id twice, no more events and bytes than a batch may have; one request of its session at a time, and of all no
//! more at a time and a second than the settings say; no older event of its session waits, but such as fail by
//! themselves; no `Retry-After` is passed over, but by a retry; no host of it is paused, and nothing of it is held. At
//! each settlement: Target said so, in this life, or the operator, and nobody settled it before. At each commit: the
//! account balances.

mod requests;
mod stops;
mod storage;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;
use xxhash_rust::xxh3::Xxh3;

use self::stops::Stops;
use super::plan::{Fault, Plan};
use crate::delivery::flusher::SPARE_STEP;
use crate::event::{
    Added, Balance, Burial, Entry, Envelope, Event, EventId, Host, Lane, Moment, Seq, Visitor,
};
use crate::schedule::{Random, Status};

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
    Settle { delivered: Vec<Seq>, buried: Vec<Burial>, done: oneshot::Sender<Result<(), String>> },
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
    /// The most events that one commit added.
    largest_commit: u64,
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
    stops: Stops,
    /// Whether dead letters had no room at a time in this life.
    no_room: bool,
    /// What the index left of its memory, as it was told.
    pub(super) spare: u64,
    pub(super) counts: Counts,
    digest: Xxh3,
    loud: bool,
    /// When requests began and what they had; kept where somebody asks for it.
    pub(super) log: Option<Vec<(Moment, usize)>>,
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
            largest_commit: 0,
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
            stops: Stops::default(),
            no_room: false,
            spare: 0,
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

    fn stored(&self, seq: Seq) -> &Stored {
        &self.events[usize::try_from(seq.0 - 1).unwrap()]
    }

    fn stored_mut(&mut self, seq: Seq) -> &mut Stored {
        &mut self.events[usize::try_from(seq.0 - 1).unwrap()]
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
        let more = (self.plan.page.min(2_048) + self.largest_commit) * (256 + 384);
        assert!(used <= settings.index_max_bytes + more, "{used} bytes in the index: {status:?}");
        let spare = settings.index_max_bytes.saturating_sub(used);
        assert!(self.spare.abs_diff(spare) < SPARE_STEP, "{spare} bytes to spare, {} were told", self.spare);
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
