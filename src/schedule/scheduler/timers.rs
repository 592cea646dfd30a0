//! Lanes that wait for a moment.

use std::collections::BTreeSet;

use super::{Lane, Moment};

/// A lane is in one of the two at most.
#[derive(Debug, Default)]
pub(super) struct Timers {
    /// Those that wait for more of their batch.
    lingering: BTreeSet<(Moment, Lane)>,
    /// Those that wait after a failure: they may be forgotten.
    backing_off: BTreeSet<(Moment, Lane)>,
}

impl Timers {
    pub(super) fn first(&self) -> Option<(Moment, Lane)> {
        [self.lingering.first(), self.backing_off.first()].into_iter().flatten().min().copied()
    }

    pub(super) fn insert(&mut self, due: Moment, lane: Lane, lingers: bool) {
        let lanes = match lingers {
            true => &mut self.lingering,
            false => &mut self.backing_off,
        };
        lanes.insert((due, lane));
    }

    pub(super) fn remove(&mut self, due: Moment, lane: Lane) {
        if !self.lingering.remove(&(due, lane)) {
            self.backing_off.remove(&(due, lane));
        }
    }

    pub(super) fn remove_all(&mut self, lanes: &BTreeSet<Lane>) {
        self.lingering.retain(|(_, lane)| !lanes.contains(lane));
        self.backing_off.retain(|(_, lane)| !lanes.contains(lane));
    }

    /// Takes out the first lane that is due by `now`.
    pub(super) fn pop_due(&mut self, now: Moment) -> Option<Lane> {
        let (due, lane) = self.first().filter(|(due, _)| *due <= now)?;
        self.remove(due, lane);
        Some(lane)
    }

    /// Takes out the lane that backs off the longest, and is not due yet.
    pub(super) fn pop_last_backing_off(&mut self, now: Moment) -> Option<(Moment, Lane)> {
        self.backing_off.last().filter(|(due, _)| *due > now)?;
        self.backing_off.pop_last()
    }
}
