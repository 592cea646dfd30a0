//! What an operator changes: pauses, holds, retries, flushes, and events that are taken out.
//!
//! None of it is a verdict: a request under way ends as it would have, and nothing here settles an event.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Host, Lane, Moment, Notice, Place, Scheduler, Seq, Settings};
use crate::schedule::control::{Changed, Controls, MAX_HOLDS, MAX_PAUSES, Pause, Selection};

/// How long a lane that an operator holds back is left alone once it was forgotten; a release looks at once.
pub(super) const STOPPED_WAIT: Duration = Duration::from_secs(10);

impl Scheduler {
    /// What is stopped.
    #[must_use]
    pub fn controls(&self) -> &Controls {
        &self.controls
    }

    /// Takes over what an earlier process was told to stop.
    pub fn restore(&mut self, now: Moment, controls: Controls) {
        self.controls = controls;
        for (host, state) in &mut self.hosts {
            state.stopped = self.controls.pauses.contains_key(&Some(*host));
        }
        self.end_pauses(now);
        self.refile(now, Selection::All);
    }

    /// Sends nothing to `host`, or to any, until the pause ends. A second pause replaces the first. The sessions of an
    /// edge host go to the client's own host meanwhile, as they do where its breaker is open. A host of which nothing
    /// is known stays so: pauses take no place among `max_hosts`.
    pub fn pause_host(&mut self, now: Moment, host: Option<Host>, pause: Pause) -> Changed {
        let others = self.controls.pauses.keys().filter(|other| other.is_some() && **other != host).count();
        if host.is_some() && others >= MAX_PAUSES {
            return Changed::Full;
        }
        self.controls.pauses.insert(host, pause);
        if let Some(host) = host {
            if let Some(state) = self.hosts.get_mut(&host) {
                state.stopped = true;
            }
            self.leave(now, host);
        }
        Changed::Yes
    }

    /// Ends the pause of `host`, or all pauses: those of the operator, and those that the hosts' answers made. The fuse
    /// counts from nothing.
    pub fn resume_host(&mut self, now: Moment, host: Option<Host>) -> Changed {
        let ends = |one: &Host| host.is_none() || host == Some(*one);
        let before = self.controls.pauses.len();
        self.controls.pauses.retain(|one, _| match one {
            None => host.is_some(),
            Some(one) => !ends(one),
        });
        let mut changed = self.controls.pauses.len() < before;
        for (name, state) in self.hosts.iter_mut().filter(|(name, _)| ends(name)) {
            state.stopped = false;
            if state.resume() {
                changed = true;
                let at_most = state.width.most();
                self.notices.add(Notice::HostServes { host: *name, at_most });
            }
        }
        if changed {
            self.burials.end();
            self.index.hurry(now);
            self.fall_back_all(now);
            self.come_back(now);
        }
        if changed { Changed::Yes } else { Changed::Not }
    }

    /// Ends the pauses whose time is over.
    pub(super) fn end_pauses(&mut self, now: Moment) {
        if self.controls.next_end().is_none_or(|end| end > now) {
            return;
        }
        let over = |pause: &Pause| pause.until.is_some_and(|until| until <= now);
        let ended = self.controls.pauses.iter().filter(|(_, pause)| over(pause));
        let ended: Vec<Option<Host>> = ended.map(|(host, _)| *host).collect();
        for host in ended {
            self.controls.pauses.remove(&host);
            if let Some(state) = host.and_then(|host| self.hosts.get_mut(&host)) {
                state.stopped = false;
            }
            self.notices.add(Notice::PauseOver { host });
        }
        self.index.hurry(now);
        self.fall_back_all(now);
        self.come_back(now);
    }

    /// Whether nothing is sent at all.
    pub(super) fn all_paused(&self) -> bool {
        self.controls.pauses.contains_key(&None)
    }

    /// Holds events back, those that arrive later too, until they are released.
    pub fn hold(&mut self, now: Moment, what: Selection) -> Changed {
        if self.controls.holds.contains_key(&what) {
            return Changed::Not;
        }
        if self.controls.holds.len() >= MAX_HOLDS {
            return Changed::Full;
        }
        self.controls.holds.insert(what, now);
        self.refile(now, what);
        Changed::Yes
    }

    /// Ends a hold; [`Selection::All`] ends all holds. What another hold holds stays held.
    pub fn release_held(&mut self, now: Moment, what: Selection) -> Changed {
        let before = self.controls.holds.len();
        match what {
            Selection::All => self.controls.holds.clear(),
            one => drop(self.controls.holds.remove(&one)),
        }
        if self.controls.holds.len() == before {
            return Changed::Not;
        }
        self.refile(now, what);
        self.index.hurry(now);
        Changed::Yes
    }

    /// Lets lanes that back off, and parked events, be tried at once; breakers, pauses and holds stay. Of lanes that
    /// were forgotten, one that is named, or all, are looked at again at once.
    pub fn retry(&mut self, now: Moment, what: Selection) {
        let lanes = self.lanes_of(what);
        for lane in &lanes {
            let Some(state) = self.lanes.get_mut(lane) else { continue };
            state.not_before = Moment::ZERO;
            for parked in &mut state.parked {
                parked.not_before = now;
            }
        }
        self.index.retry(now, what);
        for ((lane, _), past) in self.pasts.iter_mut() {
            // Of what was forgotten nobody knows the host.
            if matches!(what, Selection::All) || what == Selection::Lane(*lane) {
                past.hurry(now);
            }
        }
        self.refile_lanes(now, &lanes);
    }

    /// Lets every batch that waits for more go as it is.
    pub fn flush(&mut self, now: Moment) {
        self.flushed = Seq(self.index.tail.0.saturating_sub(1));
        let mut lingering = BTreeSet::new();
        for (lane, state) in &mut self.lanes {
            if state.flushed < state.last {
                lingering.insert(*lane);
            }
            state.flushed = self.flushed.max(state.last);
        }
        self.refile_lanes(now, &lingering);
    }

    /// Takes events out that are to be set aside: gives back those that nobody is sending or settling. They count as
    /// being settled from now on, and the caller settles them.
    pub fn take_out(&mut self, now: Moment, events: &[(Lane, Seq)]) -> Vec<(Lane, Seq)> {
        let taken = self.droppable(events);
        self.owed.begin_settling(now, taken.iter().map(|(_, seq)| *seq));
        for event in &taken {
            // A forgotten session's backoff lies with its first event, and outlives it.
            let until = self.pasts.remove(now, event).and_then(|past| past.waits_until());
            if let Some(until) = until.filter(|until| *until > now) {
                self.index.delay(event.0, until);
            }
        }
        let lanes: BTreeSet<Lane> = taken.iter().map(|(lane, _)| *lane).collect();
        for lane in &lanes {
            let Some(state) = self.lanes.get_mut(lane) else { continue };
            let (before, parked) = (state.len(), state.parked.len());
            state.events.retain(|one| !self.owed.is_settling(one.seq));
            state.parked.retain(|one| !self.owed.is_settling(one.event.seq));
            self.indexed = self.indexed.saturating_sub(before - state.len());
            self.parked = self.parked.saturating_sub(parked - state.parked.len());
        }
        self.refile_lanes(now, &lanes);
        taken
    }

    /// Those of `events` that nobody is sending or settling.
    #[must_use]
    pub fn droppable(&self, events: &[(Lane, Seq)]) -> Vec<(Lane, Seq)> {
        let busy: BTreeSet<Seq> =
            self.under_way.values().flat_map(|one| &one.events).map(|one| one.seq).collect();
        // What is behind the tail that is known here may still be handed over directly.
        let free = |seq: &Seq| *seq < self.index.tail && !busy.contains(seq) && !self.owed.is_settling(*seq);
        events.iter().filter(|(_, seq)| free(seq)).copied().collect()
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn is_held(&self, lane: Lane) -> bool {
        !self.controls.holds.is_empty() && self.heads(lane).any(|host| self.controls.holds(lane, host))
    }

    /// The own hosts of what a lane may send next: its first event that is not parked, which passes over those that
    /// are, and these.
    fn heads(&self, lane: Lane) -> impl Iterator<Item = Host> {
        let state = self.lanes.get(&lane);
        let front = state.and_then(|state| state.events.front());
        let parked = state.into_iter().flat_map(|state| &state.parked).map(|one| &one.event);
        front.into_iter().chain(parked).map(|event| self.settings.own_host(event.cluster))
    }

    pub(super) fn lanes_of(&self, what: Selection) -> BTreeSet<Lane> {
        match what {
            Selection::Lane(lane) => self.lanes.contains_key(&lane).then_some(lane).into_iter().collect(),
            Selection::All => self.lanes.keys().copied().collect(),
            Selection::Host(host) => {
                self.lanes.keys().copied().filter(|lane| self.heads(*lane).any(|one| one == host)).collect()
            }
        }
    }

    /// Puts those lanes anew where they have to wait that a change is about.
    fn refile(&mut self, now: Moment, what: Selection) {
        let lanes = self.lanes_of(what);
        self.refile_lanes(now, &lanes);
    }

    pub(super) fn refile_lanes(&mut self, now: Moment, lanes: &BTreeSet<Lane>) {
        // In one pass over each queue: taking lanes out one by one would cost a pass each.
        for host in self.hosts.values_mut() {
            host.queue.retain(|lane| !lanes.contains(lane));
        }
        self.timers.remove_all(lanes);
        self.held.retain(|lane| !lanes.contains(lane));
        let mut by_age = Vec::with_capacity(lanes.len());
        for lane in lanes {
            if let Some(state) = self.lanes.get_mut(lane).filter(|state| state.place != Place::UnderWay) {
                state.place = Place::Idle;
                by_age.push((state.first().map(|event| event.seq), *lane));
            }
        }
        // The oldest first, as they would have come.
        by_age.sort_unstable();
        for (_, lane) in by_age {
            self.place(now, lane);
        }
    }
}

impl Selection {
    /// Whether an event of `lane`, whose own host is `host`, is meant.
    #[must_use]
    pub fn has(self, lane: Lane, host: Host) -> bool {
        match self {
            Self::Lane(one) => one == lane,
            Self::Host(one) => one == host,
            Self::All => true,
        }
    }
}
