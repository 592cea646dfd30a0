//! The scheduler: stored events in, due batches out, outcomes in, what is settled out.
//!
//! Guarantees:
//! - a lane has at most one request under way, and its events go out in their order; a parked event holds nothing back;
//! - waiting for a breaker, a pause, a slot or the rate costs no attempt;
//! - nothing is set aside by a probe, and nothing is set aside for its age without a failed attempt;
//! - memory is bounded at any backlog (`index.rs`), and a window of blocked lanes hides no other.

mod breakers;
mod crowd;
mod hosts;
mod judging;
mod learned;
mod listing;
mod operate;
pub(super) mod owed;
mod placing;
mod state;
mod timers;
mod window;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::control::Controls;
use super::host::{Gate, HostState, Row, Why};
use super::index::{Index, Reader};
use super::lane::{LaneState, Parked, Past, Place, Waiting};
use super::notice::{Cause, Notice, Notices};
use super::pace::Pace;
use super::revisits::Revisits;
use super::{Random, Remembered, Settings, Verdict, verdict};
use crate::event::{
    Answer, Burial, Cluster, DeadReason, Entry, Failure, Host, Lane, Moment, Outcome, Owner, Seq, Visitor,
};

use self::crowd::Crowd;
use self::judging::Judging;
use self::learned::Learned;
pub use self::learned::{LEARNED_FOR, MAX_LEARNED};
pub use self::listing::{Counted, Extent, Hindrance, HostView, LaneView, LastError, Standing};
use self::listing::{ERRORS_FOR, MAX_ERRORS};
use self::owed::Owed;
pub use self::state::{Status, Stuck};
use self::timers::Timers;
use self::window::NEXT_EVENTS;

/// The most events that are parked at a time.
pub const MAX_PARKED: usize = 10_000;
/// An arrival so far in the future tells that the clock was set back since.
pub const CLOCK_SLACK: Duration = Duration::from_secs(3_600);

/// The most forgotten events of which it is remembered how their attempts went: those forgotten last.
const MAX_PASTS: usize = 32_768;
/// How long it is, however seldom they are tried.
const PAST_KEPT_FOR: Duration = Duration::from_secs(24 * 3_600);

/// A request that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Its name in `handle_cut` and `handle_outcome`.
    pub id: u64,
    /// Its lane.
    pub lane: Lane,
    /// Its events, in their order.
    pub seqs: Vec<Seq>,
    /// Whom they are about, where they bring no `tntId`.
    pub visitor: Option<Visitor>,
    /// Where it goes.
    pub host: Host,
}

/// What an outcome settles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// These are processed.
    pub delivered: Vec<Seq>,
    /// These are set aside.
    pub buried: Vec<Burial>,
}

/// A reading of the store that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Where it begins.
    pub from: Seq,
    /// Whether what it finds is what goes out next.
    pub is_next: bool,
}

struct UnderWay {
    lane: Lane,
    events: Vec<Waiting>,
    host: Host,
    probe: bool,
    parked: bool,
    began: Moment,
    /// How many its host had answered by then.
    answered: u64,
    /// How many of its host's were under way then, itself among them.
    beside: usize,
}

/// Decides what is sent when, and what an outcome means. It knows no clock: the moment is an argument.
pub struct Scheduler {
    settings: Settings,
    random: Random,
    index: Index,
    lanes: BTreeMap<Lane, LaneState>,
    timers: Timers,
    /// Lanes that an operator holds back: they may be forgotten.
    held: BTreeSet<Lane>,
    hosts: BTreeMap<Host, HostState>,
    turn: Host,
    /// What would be set aside in a row on all hosts together: a Target that refuses everything may do so on many edge
    /// hosts, each with too few lanes to trip a fuse of its own.
    burials: Row,
    under_way: BTreeMap<u64, UnderWay>,
    next_id: u64,
    indexed: usize,
    parked: usize,
    /// How the attempts of forgotten events went.
    pasts: Remembered<(Lane, Seq), Past>,
    /// What the store owes.
    owed: Owed,
    /// What answers said of where requests go.
    learned: Learned,
    /// What an operator stopped.
    controls: Controls,
    /// What the last failure of a lane said.
    errors: Remembered<Lane, String>,
    dead_room: bool,
    waits_for_room: bool,
    /// When there was room again for what had waited for some.
    room_from: Moment,
    expiry_from: Moment,
    rate_from: Moment,
    last_begun: Moment,
    pace: Pace,
    crowd: Crowd,
    revisits: Revisits,
    /// The events up to this one wait for no more to come, those on the disk among them.
    flushed: Seq,
    /// When it was last asked for an attempt.
    last_seen: Moment,
    notices: Notices,
}

impl Scheduler {
    /// A scheduler that knows of no event yet. The same `seed` and the same calls give the same history.
    #[must_use]
    pub fn new(settings: Settings, seed: u64) -> Self {
        Self {
            settings,
            random: Random::new(seed),
            index: Index::new(),
            lanes: BTreeMap::new(),
            timers: Timers::default(),
            held: BTreeSet::new(),
            hosts: BTreeMap::from([(Host::Client, HostState::new())]),
            turn: Host::Client,
            burials: Row::default(),
            under_way: BTreeMap::new(),
            next_id: 1,
            indexed: 0,
            parked: 0,
            pasts: Remembered::new(MAX_PASTS, PAST_KEPT_FOR),
            owed: Owed::default(),
            learned: Learned::new(),
            controls: Controls::default(),
            errors: Remembered::new(MAX_ERRORS, ERRORS_FOR),
            dead_room: true,
            waits_for_room: false,
            room_from: Moment::ZERO,
            expiry_from: Moment::ZERO,
            rate_from: Moment::ZERO,
            last_begun: Moment::ZERO,
            pace: Pace::default(),
            crowd: Crowd::default(),
            revisits: Revisits::default(),
            flushed: Seq(0),
            last_seen: Moment::ZERO,
            notices: Notices::default(),
        }
    }

    /// Changes the settings; what waits keeps the moments that it was given.
    pub fn configure(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// More is on disk, up to `tail`.
    pub fn handle_tail(&mut self, tail: Seq) {
        self.index.tail = self.index.tail.max(tail);
    }

    /// Where a scan of the store is to begin, if one is wanted; one is under way at a time. Asked once everything that
    /// is due and has a slot was taken: what is due then is what waits.
    pub fn poll_read(&mut self, now: Moment) -> Option<Reading> {
        self.look_for_crowd(now);
        if self.crowd.is_any() {
            self.index.note_crowd();
        }
        let is_fed = self.look_whether_fed(now);
        if self.is_hungry() {
            self.index.rest_less();
        }
        let room = !self.is_full() || !is_fed && self.forget_blocked(now);
        let (reader, from) = self.index.next(now, room, is_fed)?;
        self.owed.begin_reading(now);
        Some(Reading { from, is_next: reader == Reader::Cursor && self.indexed <= NEXT_EVENTS })
    }

    /// A scan came back: the unsettled events from where it began up to `next`.
    pub fn handle_scan(&mut self, now: Moment, entries: &[Entry], next: Seq) {
        let Some(reader) = self.index.reading else { return };
        let end = self.index.pass_end();
        for entry in entries {
            if self.owed.is_over(entry.seq) {
                continue;
            }
            match reader {
                Reader::Cursor => self.admit_new(now, *entry),
                Reader::Pass if end.is_some_and(|end| entry.seq < end) => self.admit_again(now, *entry),
                Reader::Pass => {}
            }
        }
        let took = self.owed.end_reading(now);
        self.index.read(now, reader, next);
        if reader == Reader::Pass {
            if self.is_tight() {
                self.index.cut(now);
            }
            self.index.rest(now, took);
        }
        if reader == Reader::Cursor {
            self.revisits.note(entries);
        }
    }

    /// A commit added events; they are taken directly where the cursor stands at the first.
    pub fn handle_live(&mut self, now: Moment, first: Seq, next: Seq, entries: &[Entry]) {
        self.handle_tail(next);
        let reading = self.index.reading == Some(Reader::Cursor);
        if self.index.cursor != first || reading || self.is_full() {
            return;
        }
        for entry in entries {
            self.admit_new(now, *entry);
        }
        self.index.cursor = next;
    }

    /// These settlements are durable.
    pub fn handle_settled(&mut self, now: Moment, seqs: &[Seq]) {
        self.owed.end_settling(now, seqs);
    }

    /// The next request that is due, if there is one and a slot for it.
    pub fn poll_attempt(&mut self, now: Moment) -> Option<Attempt> {
        self.last_seen = now;
        self.end_pauses(now);
        while let Some(lane) = self.timers.pop_due(now) {
            self.free(now, lane);
        }
        if !self.has_slot() || self.rate_from > now || self.all_paused() {
            return None;
        }
        loop {
            let (host, probe) = self.next_host(now)?;
            let lane = self.next_lane(host, probe)?;
            // A lane that the settings made wait since it was queued waits elsewhere now; behind it others are due.
            if let Some(attempt) = self.begin(now, lane, host, probe) {
                return Some(attempt);
            }
        }
    }

    /// The flusher found that only the first `keep` events of an attempt go together, after those in `gone`, which
    /// cannot be read, were taken out. With `keep` 0 the attempt is over.
    pub fn handle_cut(&mut self, now: Moment, id: u64, keep: usize, gone: &[Seq]) {
        self.owed.note_gone(gone);
        let Some(attempt) = self.under_way.get_mut(&id) else { return };
        let before = attempt.events.len();
        attempt.events.retain(|event| !gone.contains(&event.seq));
        self.indexed = self.indexed.saturating_sub(before - attempt.events.len());
        let rest = attempt.events.split_off(keep.min(attempt.events.len()));
        let lane = attempt.lane;
        if let Some(state) = self.lanes.get_mut(&lane) {
            state.put_back(rest);
            if let Some(first) = state.events.front_mut() {
                first.boundary = true;
            }
        }
        if keep == 0
            && let Some(attempt) = self.under_way.remove(&id)
        {
            self.release(&attempt);
            self.free(now, lane);
        }
    }

    /// The events of an attempt could not be read from the disk: nothing was sent, and its host is not to blame.
    pub fn handle_unread(&mut self, now: Moment, id: u64, detail: &str) {
        let Some(mut attempt) = self.under_way.remove(&id) else { return };
        self.release(&attempt);
        let lane = attempt.lane;
        self.note_error(now, lane, true, detail);
        let events = std::mem::take(&mut attempt.events);
        let (answer, detail) = (Answer::Unreadable, detail.to_owned());
        let outcome = Outcome { answer, retry_after: None, edge: None, known: None, detail };
        let mut on = self.judging(now, &attempt, &outcome);
        self.judge_unread(&mut on, events);
        self.lanes.insert(lane, on.lane);
        self.free(now, lane);
    }

    /// What came of an attempt.
    pub fn handle_outcome(&mut self, now: Moment, id: u64, outcome: &Outcome) -> Settled {
        let Some(mut attempt) = self.under_way.remove(&id) else { return Settled::default() };
        self.release(&attempt);
        let visitor = attempt.events.first().and_then(|event| event.visitor);
        self.learned.note(now, attempt.lane, visitor, outcome);
        let (lane, judged) = (attempt.lane, verdict(&outcome.answer, attempt.events.len()));
        self.judge_host(now, &attempt, judged, outcome);
        self.note_error(now, lane, judged != Verdict::Delivered, &outcome.detail);
        let events = std::mem::take(&mut attempt.events);
        let mut on = self.judging(now, &attempt, outcome);
        self.judge(&mut on, events, judged);
        let Judging { lane: state, settled, .. } = on;
        self.lanes.insert(lane, state);
        self.indexed = self.indexed.saturating_sub(settled.delivered.len() + settled.buried.len());
        let buried = settled.buried.iter().map(|one| one.seq);
        self.owed.begin_settling(now, settled.delivered.iter().copied().chain(buried));
        self.free(now, lane);
        settled
    }

    fn judging<'a>(&mut self, now: Moment, attempt: &'a UnderWay, outcome: &'a Outcome) -> Judging<'a> {
        let lane = self.lanes.remove(&attempt.lane).unwrap_or_else(LaneState::new);
        Judging { now, attempt, outcome, lane, settled: Settled::default() }
    }

    /// Whether dead letters may be added; where not, what would become one is parked.
    pub fn handle_dead_room(&mut self, room: bool) {
        self.dead_room = room;
    }

    /// Whether what the store owes waits for room on the disk. It has all its time again once there is some.
    pub fn handle_full_disk(&mut self, now: Moment, waits: bool) {
        if std::mem::replace(&mut self.waits_for_room, waits) && !waits {
            self.owed.begin_anew(now);
            self.room_from = now;
        }
    }

    /// Nothing expires before `until`: the clock cannot be trusted.
    pub fn delay_expiry(&mut self, until: Moment) {
        self.expiry_from = self.expiry_from.max(until);
    }

    /// The next thing that an operator should hear of.
    pub fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.take()
    }

    /// When `poll_attempt` or `poll_read` may have something new, if nothing else happens before; asked right after
    /// both had nothing at `now`.
    #[must_use]
    pub fn next_wake(&self, now: Moment) -> Option<Moment> {
        let timer = self.timers.first().map(|(at, _)| at);
        let waiting = self.hosts.values().filter(|host| !host.queue.is_empty());
        let opens = waiting.filter_map(HostState::opens).map(|at| at.max(self.rate_from));
        // A host that could take more by now has as many requests as it may: an answer makes room, not time.
        let host = opens.filter(|at| self.has_slot() && *at > now && !self.all_paused()).min();
        // Without room nothing is read; what makes room is an outcome, or a timer.
        let room = !self.is_full();
        let pass = self.index.wakes().filter(|_| room);
        let unread = self.index.cursor < self.index.tail && self.index.reading.is_none();
        let read = self.pace.shows_at().filter(|at| room && unread && *at > now);
        // Whether something hogs a full index shows by itself.
        let hog = self.crowd.shows_at().filter(|at| !room && *at > now);
        [timer, host, pass, read, hog, self.controls.next_end()].into_iter().flatten().min()
    }

    /// Whether one more request may be under way. What was answered counts until it is settled.
    fn has_slot(&self) -> bool {
        self.under_way.len() < self.settings.concurrency && !self.owed.is_full()
    }

    fn begin(&mut self, now: Moment, lane: Lane, host: Host, probe: bool) -> Option<Attempt> {
        let has_parked = self.lanes.get(&lane).is_some_and(|state| !state.parked.is_empty());
        if has_parked && self.host_of(now, lane) != host {
            // It was queued for a parked event, and a batch has become due since, or the other way round.
            self.free(now, lane);
            return None;
        }
        let fuse = self.hosts.get(&host).and_then(HostState::paused) == Some(Cause::Fuse);
        let state = self.lanes.get_mut(&lane)?;
        let from_lane = state.batch_due(&self.settings).is_some_and(|due| due <= now);
        let mut events = Vec::new();
        if from_lane {
            let (count, _) = state.batch(&self.settings);
            let count = if fuse && probe { 1 } else { count };
            events.extend(state.events.drain(..count));
        } else if let Some(position) = state.parked.iter().position(|one| one.not_before <= now) {
            events.push(state.parked.remove(position).event);
        }
        if events.is_empty() {
            self.free(now, lane);
            return None;
        }
        state.place = Place::UnderWay;
        self.last_begun = now;
        self.pace.note_begun(1);
        self.crowd.note_begun(events.len());
        if self.settings.rate_limit > 0 {
            let share = Duration::from_secs(1) / self.settings.rate_limit;
            self.rate_from = self.rate_from.max(now).after(share);
        }
        let (mut answered, mut beside) = (0, 0);
        if let Some(host) = self.hosts.get_mut(&host) {
            host.in_flight += 1;
            (answered, beside) = (host.width.answered(), host.in_flight);
            host.probing |= probe;
            host.pace.note_begun(events.len());
        }
        let id = self.next_id;
        self.next_id += 1;
        let seqs = events.iter().map(|event| event.seq).collect();
        let visitor = events.first().and_then(|event| event.visitor);
        let parked = !from_lane;
        let under_way = UnderWay { lane, events, host, probe, parked, began: now, answered, beside };
        self.under_way.insert(id, under_way);
        if probe {
            // One tries it out; the others that came since that was due do not wait for it.
            self.fall_back(now, host);
        }
        Some(Attempt { id, lane, seqs, visitor, host })
    }

    /// A request is over: its host may take another, and a parked event that was in it is parked no longer.
    fn release(&mut self, attempt: &UnderWay) {
        self.parked = self.parked.saturating_sub(usize::from(attempt.parked));
        if let Some(host) = self.hosts.get_mut(&attempt.host) {
            host.in_flight = host.in_flight.saturating_sub(1);
            host.probing &= !attempt.probe;
            host.width.note_over(attempt.began);
        }
    }
}
