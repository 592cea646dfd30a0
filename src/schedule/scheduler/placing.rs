//! Where a lane waits: for a moment, for its host, or for the end of a hold.

use super::{HostState, Lane, Moment, Place, Scheduler};

impl Scheduler {
    /// Puts a lane where it now has to wait.
    pub(super) fn place(&mut self, now: Moment, lane: Lane) {
        self.unplace(lane);
        let Some(state) = self.lanes.get(&lane) else { return };
        let Some(due) = state.due(&self.settings) else {
            self.lanes.remove(&lane);
            return;
        };
        let lingers = state.failures == 0 && state.parked.is_empty();
        if self.is_held(lane) {
            self.held.insert(lane);
            self.set_place(lane, Place::Held);
            return;
        }
        if due > now {
            self.timers.insert(due, lane, lingers);
            self.set_place(lane, Place::Timer(due));
            return;
        }
        let owner = state.events.front().map(|event| event.owner);
        let host = self.host_of(now, lane);
        let entry = self.hosts.entry(host).or_insert_with(HostState::new);
        entry.queue.push_back(lane);
        if owner.is_some_and(|owner| entry.blames_others(owner)) {
            entry.probe_from(now);
        }
        self.set_place(lane, Place::Ready(host));
    }

    pub(super) fn set_place(&mut self, lane: Lane, place: Place) {
        if let Some(state) = self.lanes.get_mut(&lane) {
            state.place = place;
        }
    }

    /// Takes a lane away from where it waits.
    pub(super) fn unplace(&mut self, lane: Lane) {
        match self.lanes.get(&lane).map(|state| state.place) {
            Some(Place::Timer(due)) => self.timers.remove(due, lane),
            Some(Place::Ready(host)) => {
                if let Some(host) = self.hosts.get_mut(&host) {
                    host.queue.retain(|other| *other != lane);
                }
            }
            Some(Place::Held) => drop(self.held.remove(&lane)),
            Some(Place::Idle | Place::UnderWay) | None => return,
        }
        self.set_place(lane, Place::Idle);
    }

    /// The lane's request, or what it waited for, is over.
    pub(super) fn free(&mut self, now: Moment, lane: Lane) {
        self.set_place(lane, Place::Idle);
        self.place(now, lane);
    }
}
