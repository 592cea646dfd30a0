//! The window: what the index takes in, and what it lets go of again where it is full.

use std::collections::BTreeSet;

use super::super::index::PASS_EVERY;
use super::operate::STOPPED_WAIT;
use super::{
    CLOCK_SLACK, Duration, Entry, Host, HostState, Lane, LaneState, MAX_PARKED, Moment, Notice, Place,
    Scheduler,
};

/// What an event costs in the index, in bytes: itself and its share of lanes and queues.
const EVENT_BYTES: u64 = 256;
/// What a lane costs, in bytes.
const LANE_BYTES: u64 = 384;

/// Due lanes last for long if it takes more seconds than this to send to all of them.
const LONG: u128 = 5;
/// For each request that may be under way this many due lanes are enough.
const LANES_A_SLOT: usize = 4;
/// What is read while the index has at most this many events goes out next, and stays in memory until then.
pub(super) const NEXT_EVENTS: usize = 4_096;

impl Scheduler {
    /// Whether to read nothing new for now: enough is due, and the rest can wait on the disk. Not where what is due
    /// lasts so long that other lanes could go beside it, nor where sessions come again so often that reading on fills
    /// their batches.
    pub(super) fn look_whether_fed(&mut self, now: Moment) -> bool {
        let due = self.due_lanes(now);
        if due < enough(self.settings.concurrency) {
            self.pace.reset();
            return false;
        }
        self.pace.count(now);
        !self.pace.lasts(due, LONG) && !self.revisits.are_frequent() && !self.crowd.is_hogged
    }

    /// The lanes that may go out one after the other from now on; 0 where a host that has requests under way has
    /// nothing due after them, since what it takes may come next.
    fn due_lanes(&self, now: Moment) -> usize {
        let able = self.hosts.values().filter(|host| host.takes(now) == Some(false));
        if able.clone().any(|host| host.in_flight > 0 && host.queue.is_empty()) {
            return 0;
        }
        let due = able.filter(|host| !host.queue.is_empty());
        let alone = due.clone().count() == 1;
        // With a slot to spare a host that has all it may have is no reason to wait, where another one may have the slot.
        let is_taken = |host: &HostState| {
            let is_wide = host.width.has_room(host.in_flight) || !self.settings.edge_routing;
            !is_wide || !alone && host.in_flight >= self.settings.host_concurrency
        };
        let goes = |host: &&HostState| !self.has_slot() || !is_taken(host);
        due.filter(goes).map(|host| host.queue.len()).sum()
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.indexed as u64 * EVENT_BYTES + self.lanes.len() as u64 * LANE_BYTES
    }

    /// What the index leaves of the memory that it may take, in bytes: others may have it meanwhile.
    #[must_use]
    pub fn spare_bytes(&self) -> u64 {
        self.settings.index_max_bytes.saturating_sub(self.used_bytes())
    }

    pub(super) fn is_full(&self) -> bool {
        self.used_bytes() >= self.settings.index_max_bytes
    }

    /// Whether less than an eighth of the index is free.
    pub(super) fn is_tight(&self) -> bool {
        self.used_bytes() > self.goal()
    }

    /// What of the index is taken where an eighth of it is free, in bytes.
    fn goal(&self) -> u64 {
        self.settings.index_max_bytes / 8 * 7
    }

    /// Whether so little is in the index that what was left on the disk for others is wanted.
    pub(super) fn is_hungry(&self) -> bool {
        self.used_bytes() < self.goal() / 2
    }

    pub(super) fn admit_new(&mut self, now: Moment, entry: Entry) {
        if self.index.is_marked(entry.lane) || self.lane_is_full(entry.lane) {
            self.index.forget(now, entry.lane, entry.seq, now);
            return;
        }
        self.admit(now, entry);
    }

    pub(super) fn admit_again(&mut self, now: Moment, entry: Entry) {
        let lane = entry.lane;
        if !self.index.is_marked(lane) {
            return;
        }
        if self.lanes.get(&lane).is_some_and(|state| entry.seq <= state.last) {
            return;
        }
        let held = self.controls.holds(lane, self.settings.own_host(entry.cluster));
        if held {
            self.index.forget(now, lane, entry.seq, now.after(STOPPED_WAIT));
            return;
        }
        let full = self.is_full() || self.lane_is_full(lane);
        if full || self.index.has_skipped(lane) || self.index.waits(now, lane) {
            // No sooner than a second from now: a pass that finds no room is not to be followed by another at once.
            self.index.forget(now, lane, entry.seq, now.after(Duration::from_secs(1)));
            return;
        }
        self.index.note_brought();
        self.admit(now, entry);
    }

    fn admit(&mut self, now: Moment, entry: Entry) {
        if self.is_crowded_out(now, &entry) {
            self.index.forget(now, entry.lane, entry.seq, now.after(PASS_EVERY));
            return;
        }
        if entry.arrived.since(now) > CLOCK_SLACK && self.expiry_from <= now {
            let until = now.after(self.settings.max_age);
            self.delay_expiry(until);
            self.notices.add(Notice::ArrivedInFuture { seq: entry.seq, ahead: entry.arrived.since(now) });
        }
        // Where the clock was set back since, it would linger until that comes to where it was.
        let entry = Entry { arrived: entry.arrived.min(now), ..entry };
        let past = self.pasts.remove(now, &(entry.lane, entry.seq));
        let lane = self.lanes.entry(entry.lane).or_insert_with(LaneState::new);
        lane.flushed = lane.flushed.max(self.flushed);
        let (parked, room) = (lane.parked.len(), self.parked < MAX_PARKED);
        let (bare, has_past) = (lane.events.is_empty(), past.is_some());
        lane.admit(entry, past, room);
        self.parked += lane.parked.len() - parked;
        self.indexed += 1;
        // A lane on a timer may be full now: place it anew unless that is ruled out. A lane that stood in a host's
        // queue only for a parked event may now belong to another host, or be held. All others are looked at when their
        // time comes.
        let moves = match lane.place {
            Place::Idle => true,
            Place::Timer(_) => has_past || !lane.is_due_as_before(&self.settings),
            Place::Ready(_) => bare,
            Place::Held | Place::UnderWay => false,
        };
        if moves {
            self.place(now, entry.lane);
        }
    }

    /// One session takes at most an eighth of the window, and its even share of one that is hogged.
    fn lane_is_full(&self, lane: Lane) -> bool {
        let is_shared = self.crowd.is_hogged && self.is_tight();
        let most = match is_shared {
            true => self.even_share(),
            false => (self.settings.index_max_bytes / EVENT_BYTES / 8).max(self.settings.max_events as u64),
        };
        // It has no more than all together, and at least a batch.
        self.indexed as u64 >= most
            && self.lanes.get(&lane).is_some_and(|state| {
                state.len() as u64 >= most && !(is_shared && state.batch(&self.settings).1)
            })
    }

    /// As many events as each lane may have where an eighth of the index is free.
    fn even_share(&self) -> u64 {
        let lanes = self.lanes.len().max(1) as u64;
        let events = self.goal().saturating_sub(lanes * LANE_BYTES) / EVENT_BYTES;
        (events / lanes).max(1)
    }

    /// Forgets lanes until an eighth of the index is free; says whether there is room. Blocked lanes go, those due last
    /// first. Lanes that linger or wait for a slot stay, but: where one host crowds the index its newest lanes go, and
    /// where a few lanes hog it each loses what it has beyond its share. A full index is asked on every turn of the
    /// flusher, so each lane is looked at once and then gone; hogs are looked for every
    /// [`TRIMS_EVERY`](super::crowd::TRIMS_EVERY).
    pub(super) fn forget_blocked(&mut self, now: Moment) -> bool {
        if self.nothing_goes(now) {
            return false;
        }
        let goal = self.goal();
        while self.used_bytes() > goal
            && let Some((due, lane)) = self.timers.pop_last_backing_off(now)
        {
            self.forget_lane(now, lane, due);
        }
        let stopped_until = now.after(STOPPED_WAIT);
        while self.used_bytes() > goal
            && let Some(lane) = self.held.pop_first()
        {
            self.forget_lane(now, lane, stopped_until);
        }
        let closed: Vec<(Host, Moment)> = self
            .hosts
            .iter()
            .filter_map(|(name, host)| match host.stopped {
                true => Some((*name, stopped_until)),
                false => host.opens().filter(|at| *at > now).map(|at| (*name, at)),
            })
            .collect();
        for (name, until) in closed {
            while self.used_bytes() > goal
                && let Some(lane) = self.hosts.get_mut(&name).and_then(|host| host.queue.pop_back())
            {
                self.forget_lane(now, lane, until);
            }
        }
        let (kept, until) = (enough(self.settings.host_concurrency), now.after(PASS_EVERY));
        while self.used_bytes() > goal
            && let Some(host) = self.crowd.host.and_then(|name| self.hosts.get_mut(&name))
            && host.queue.len() > kept
            && let Some(lane) = host.queue.pop_back()
        {
            self.forget_lane(now, lane, until);
        }
        if self.crowd.begin_trim(now) {
            self.trim_lanes(now);
        }
        !self.is_full()
    }

    /// Forgets what lanes have beyond their even share and their next batch, until an eighth of the index is free.
    fn trim_lanes(&mut self, now: Moment) {
        let (share, goal) = (usize::try_from(self.even_share()).unwrap_or(usize::MAX), self.goal());
        // A parked event that is under way may be younger than what would stay of its lane.
        let parked: BTreeSet<Lane> =
            self.under_way.values().filter(|one| one.parked).map(|one| one.lane).collect();
        let long =
            self.lanes.iter().filter(|(lane, state)| state.events.len() > share && !parked.contains(lane));
        let long: Vec<Lane> = long.map(|(lane, _)| *lane).collect();
        for lane in long {
            if self.used_bytes() <= goal {
                return;
            }
            let settings = &self.settings;
            let gone = self.lanes.get_mut(&lane).map(|state| {
                let batch = state.batch(settings).0;
                state.split_off(share.max(batch))
            });
            if let Some(gone) = gone {
                // No sooner than a second from now, as where there was no room for them.
                self.forget_state(now, lane, gone, now.after(Duration::from_secs(1)));
            }
        }
    }

    /// Forgets a lane that was taken from where it waited, and is not due before `due`.
    fn forget_lane(&mut self, now: Moment, lane: Lane, due: Moment) {
        if let Some(state) = self.lanes.remove(&lane) {
            self.forget_state(now, lane, state, due);
        }
    }

    /// Forgets the events of `state`, which are the last ones of a lane.
    fn forget_state(&mut self, now: Moment, lane: Lane, state: LaneState, due: Moment) {
        let parked = state.parked.iter().map(|one| one.event.seq);
        let events = state.events.iter().map(|one| one.seq);
        let Some(first) = parked.chain(events).min() else { return };
        self.indexed = self.indexed.saturating_sub(state.len());
        self.parked = self.parked.saturating_sub(state.parked.len());
        for (seq, past) in state.into_pasts(now) {
            self.pasts.insert(now, (lane, seq), past);
        }
        self.index.forget(now, lane, first, due);
    }
}

/// How many due lanes are enough where `requests` may be under way.
pub(super) fn enough(requests: usize) -> usize {
    requests.saturating_mul(LANES_A_SLOT)
}
