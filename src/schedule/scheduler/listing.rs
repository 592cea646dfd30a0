//! What the scheduler knows, for an operator to see. Every list is bounded by its asker.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Cause, Gate, Host, HostState, Lane, LaneState, Moment, Place, Scheduler, Seq, Waiting, Why};
use crate::schedule::Ages;
use crate::schedule::host::Trouble;

/// The most lanes whose last error is kept; of those beyond, the ones that failed longest ago have none.
pub(super) const MAX_ERRORS: usize = 4_096;
/// How long the last error of a lane is kept.
pub(super) const ERRORS_FOR: Duration = Duration::from_secs(86_400);
/// The most bytes that are kept of an error.
const ERROR_BYTES: usize = 256;

/// What the last failure of a lane said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastError {
    /// When.
    pub at: Moment,
    /// What.
    pub text: String,
}

/// Why a lane waits, if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its batch may grow until then.
    Collecting(Moment),
    /// It goes out with the next slot.
    Due,
    /// Its request is under way.
    UnderWay,
    /// It failed, and is tried again then.
    BackingOff(Moment),
    /// Its events fail by themselves, and are tried again then.
    Parked(Moment),
    /// An operator holds it.
    Held,
    /// Its host, which this is, takes nothing.
    Hindered(Host, Hindrance),
}

/// Why a host takes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hindrance {
    /// It failed, and is probed then.
    Breaker(Moment),
    /// Its answers paused it; it is probed then.
    Paused(Cause, Moment),
    /// It asked to wait until then.
    Busy(Moment),
    /// An operator paused it.
    Stopped,
    /// An operator paused all hosts.
    AllStopped,
}

/// One lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneView {
    /// Which.
    pub lane: Lane,
    /// Its oldest event.
    pub first: Seq,
    /// When that arrived.
    pub arrived: Moment,
    /// Its own host: the one that the stored event and the configuration alone give.
    pub host: Host,
    /// Its events in memory, those under way among them.
    pub count: usize,
    /// Its parked events.
    pub parked: usize,
    /// Failures in a row.
    pub failures: u32,
    /// Why it waits.
    pub standing: Standing,
    /// Its last error, while that is kept.
    pub error: Option<LastError>,
}

/// One host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostView {
    /// Which.
    pub host: Host,
    /// Lanes with due work.
    pub waiting: usize,
    /// Requests under way.
    pub in_flight: usize,
    /// The most under way, where that is fewer than the settings allow since it timed out.
    pub at_most: Option<usize>,
    /// Why it takes nothing, if so.
    pub hindrance: Option<Hindrance>,
    /// Since when it fails or is paused by its answers, and what the last one said.
    pub trouble: Option<Trouble>,
}

/// How much of the queue is in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Events in memory.
    pub indexed: usize,
    /// Lanes in memory.
    pub lanes: usize,
    /// The lowest number that may not be settled; the tail where nothing waits.
    pub lowest: Seq,
    /// Whether all that waits is in memory.
    pub whole: bool,
}

/// How many events in memory are meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Events, those under way among them.
    pub events: usize,
    /// Lanes.
    pub lanes: usize,
}

impl Scheduler {
    /// How much of the queue is in memory.
    #[must_use]
    pub fn extent(&self) -> Extent {
        let lanes = self.lanes.values().filter_map(LaneState::first).map(|event| event.seq);
        let under_way = self.under_way.values().flat_map(|one| &one.events).map(|one| one.seq);
        let settling = self.owed.first_settling();
        let all = lanes.chain(under_way).chain(settling).chain(self.index.lowest());
        let lowest = all.min().unwrap_or(self.index.tail);
        Extent { indexed: self.indexed, lanes: self.lanes.len(), lowest, whole: self.index.is_whole() }
    }

    /// The `max` lanes with the oldest events, the oldest first.
    #[must_use]
    pub fn oldest_lanes(&self, now: Moment, max: usize) -> Vec<LaneView> {
        let under_way = self.events_under_way();
        let mut found: Vec<(Seq, Lane)> = self
            .lanes
            .keys()
            .filter_map(|lane| Some((self.oldest_of(*lane, &under_way)?.seq, *lane)))
            .collect();
        if found.len() > max {
            found.select_nth_unstable(max);
            found.truncate(max);
        }
        found.sort_unstable();
        found.iter().filter_map(|(_, lane)| self.view(now, *lane, &under_way)).collect()
    }

    /// What is known of one lane, if it is in memory.
    #[must_use]
    pub fn lane_view(&self, now: Moment, lane: Lane) -> Option<LaneView> {
        self.view(now, lane, &self.events_under_way())
    }

    /// The ages of all events in memory.
    #[must_use]
    pub fn ages(&self, now: Moment) -> Ages {
        let mut ages = Ages::default();
        let under_way = self.under_way.values().flat_map(|one| &one.events);
        let waiting = self.lanes.values().flat_map(LaneState::all);
        for event in waiting.chain(under_way) {
            ages.add(self.settings.own_host(event.cluster), now.since(event.arrived));
        }
        ages
    }

    /// Every host that is known.
    #[must_use]
    pub fn host_views(&self) -> Vec<HostView> {
        let view = |(host, state): (&Host, &HostState)| HostView {
            host: *host,
            waiting: state.queue.len(),
            in_flight: state.in_flight,
            at_most: state.width.most(),
            hindrance: self.hindrance(state),
            trouble: state.trouble.clone(),
        };
        self.hosts.iter().map(view).collect()
    }

    /// How much is in memory of what is `meant`, by its lane and its own host.
    #[must_use]
    pub fn count(&self, meant: impl Fn(Lane, Host) -> bool) -> Counted {
        let mut counted = Counted::default();
        let under_way = self.events_under_way();
        for (lane, state) in &self.lanes {
            let going = under_way.get(lane).copied().unwrap_or_default();
            let is_meant = |event: &&Waiting| meant(*lane, self.settings.own_host(event.cluster));
            let events = state.all().chain(going).filter(is_meant).count();
            counted.events += events;
            counted.lanes += usize::from(events > 0);
        }
        counted
    }

    /// Keeps what a failed attempt said, and forgets it where one succeeded.
    pub(super) fn note_error(&mut self, now: Moment, lane: Lane, failed: bool, text: &str) {
        if !failed {
            self.errors.remove(now, &lane);
            return;
        }
        let (kept, _) = text.split_at(text.floor_char_boundary(ERROR_BYTES));
        self.errors.insert(now, lane, kept.to_owned());
    }

    fn events_under_way(&self) -> BTreeMap<Lane, &[Waiting]> {
        let some = self.under_way.values().filter(|one| !one.events.is_empty());
        some.map(|one| (one.lane, &*one.events)).collect()
    }

    fn oldest_of<'s>(&'s self, lane: Lane, under_way: &BTreeMap<Lane, &'s [Waiting]>) -> Option<&'s Waiting> {
        let waiting = self.lanes.get(&lane).and_then(LaneState::first);
        let going = under_way.get(&lane).and_then(|events| events.first());
        [waiting, going].into_iter().flatten().min_by_key(|event| event.seq)
    }

    fn view(&self, now: Moment, lane: Lane, under_way: &BTreeMap<Lane, &[Waiting]>) -> Option<LaneView> {
        let state = self.lanes.get(&lane)?;
        let oldest = self.oldest_of(lane, under_way)?;
        let going = under_way.get(&lane).map_or(0, |events| events.len());
        Some(LaneView {
            lane,
            first: oldest.seq,
            arrived: oldest.arrived,
            host: self.settings.own_host(oldest.cluster),
            count: state.len() + going,
            parked: state.parked.len(),
            failures: state.failures,
            standing: self.standing(state),
            error: self
                .errors
                .get_with_time(now, &lane)
                .map(|(text, at)| LastError { at, text: text.clone() }),
        })
    }

    fn standing(&self, state: &LaneState) -> Standing {
        match state.place {
            Place::UnderWay => Standing::UnderWay,
            Place::Held => Standing::Held,
            Place::Timer(at) if state.events.is_empty() => Standing::Parked(at),
            Place::Timer(at) if state.not_before >= at => Standing::BackingOff(at),
            Place::Timer(at) => Standing::Collecting(at),
            Place::Idle => Standing::Due,
            Place::Ready(host) => match self.hosts.get(&host).and_then(|state| self.hindrance(state)) {
                Some(hindrance) => Standing::Hindered(host, hindrance),
                None => Standing::Due,
            },
        }
    }

    fn hindrance(&self, host: &HostState) -> Option<Hindrance> {
        if self.all_paused() {
            return Some(Hindrance::AllStopped);
        }
        if host.stopped {
            return Some(Hindrance::Stopped);
        }
        match host.gate {
            Gate::Open => host.is_asking(self.last_seen).then_some(Hindrance::Busy(host.asked_until)),
            Gate::Shut { until, why: Why::Breaker, .. } => {
                Some(Hindrance::Breaker(until.max(host.asked_until)))
            }
            Gate::Shut { until, why: Why::Pause(cause), .. } => {
                Some(Hindrance::Paused(cause, until.max(host.asked_until)))
            }
        }
    }
}
