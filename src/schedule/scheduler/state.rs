//! The state of delivery: in numbers, by host, and whether it is stuck.

use super::{Host, HostState, Moment, Scheduler, UnderWay};
use crate::schedule::HostHealth;

/// How delivery is stuck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stuck {
    /// Every slot, or every one that a host has, was taken for longer than any request may last.
    Slots,
    /// Work is due, and nothing was attempted.
    Due,
    /// The store does not come back from a scan, or does not make a settlement durable.
    Store,
}

/// The state in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Lanes in the index.
    pub lanes: usize,
    /// Events in the index, those under way among them.
    pub indexed: usize,
    /// Buckets with forgotten events.
    pub forgotten_buckets: usize,
    /// Requests under way.
    pub in_flight: usize,
    /// Parked events.
    pub parked: usize,
    /// Hosts with an open breaker.
    pub open_breakers: usize,
    /// Hosts that their answers paused.
    pub paused_hosts: usize,
    /// Pauses that an operator made.
    pub pauses: usize,
    /// Holds that an operator made.
    pub holds: usize,
}

impl Scheduler {
    /// Whether delivery is stuck; ask right after everything due was taken.
    #[must_use]
    pub fn stuck(&self, now: Moment) -> Option<Stuck> {
        let after = self.settings.stuck_after;
        if self.waits_for_room {
            // The store can tell nothing before there is room, whoever starts it anew; and what it knows to be delivered would be
            // sent again then.
            return None;
        }
        if self.owed.is_late(now, after) {
            return Some(Stuck::Store);
        }
        if self.owed.is_full() {
            // The store owes these, and not for too long yet.
            return None;
        }
        // Its events may have waited for the disk.
        let is_old = |one: &UnderWay| now.since(one.began.max(self.room_from)) > self.settings.slot_limit;
        if !self.has_slot() {
            return self.under_way.values().all(is_old).then_some(Stuck::Slots);
        }
        let is_jammed = |(name, host): (&Host, &HostState)| {
            let is_full = host.takes(now) == Some(false) && host.has_room(now).is_none();
            let mut own = self.under_way.values().filter(|one| one.host == *name);
            is_full && !host.queue.is_empty() && own.all(is_old)
        };
        if self.hosts.iter().any(is_jammed) {
            return Some(Stuck::Slots);
        }
        let due = self.hosts.values().any(|host| host.has_room(now).is_some() && !host.queue.is_empty());
        let due = due && !self.all_paused();
        (due && self.rate_from <= now && now.since(self.last_begun) > after).then_some(Stuck::Due)
    }

    /// The state in numbers.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            lanes: self.lanes.len(),
            indexed: self.indexed,
            forgotten_buckets: self.index.marked(),
            in_flight: self.under_way.len(),
            parked: self.parked,
            open_breakers: self.hosts.values().filter(|one| one.is_shut() && one.paused().is_none()).count(),
            paused_hosts: self.hosts.values().filter(|one| one.paused().is_some()).count(),
            pauses: self.controls.pauses.len(),
            holds: self.controls.holds.len(),
        }
    }

    /// What each host does with requests.
    #[must_use]
    pub fn health(&self, now: Moment) -> Vec<(Host, HostHealth)> {
        self.hosts.iter().map(|(name, host)| (*name, host.health(now))).collect()
    }
}
