//! What the operator of a history stopped, and what must hold of it: nothing of it is sent that was not begun before.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{Fate, World};
use crate::event::{Host, Lane, Moment, Seq};
use crate::schedule::{Controls, MAX_HOLDS, MAX_PAUSES, Selection};

/// What is stopped, and in which order things were begun and stopped.
#[derive(Default)]
pub(super) struct Stops {
    /// As the queue keeps it over restarts.
    kept: Controls,
    /// How often something was changed.
    changes: u64,
    /// With which change a host was paused, and a selection held.
    pauses: BTreeMap<Option<Host>, u64>,
    holds: BTreeMap<Selection, u64>,
    /// After how many changes the last request of a lane was begun, in this life.
    begun: BTreeMap<Lane, u64>,
    /// Taken out, and not settled yet.
    pub(super) dropped: BTreeSet<Seq>,
}

impl Stops {
    /// The process ends: what is stopped stays so.
    pub(super) fn end_life(&mut self) {
        self.begun.clear();
        self.dropped.clear();
    }
}

impl World {
    /// What a start takes over.
    pub(in crate::delivery::simulation) fn stops(&self) -> &Controls {
        &self.stops.kept
    }

    /// The operator changed something, and now this is stopped.
    pub(in crate::delivery::simulation) fn stops_are(
        &mut self,
        what: &'static str,
        controls: &Controls,
        detail: fmt::Arguments<'_>,
    ) {
        self.note(what, detail);
        let now = self.now();
        let stops = &mut self.stops;
        stops.changes += 1;
        // A pause that was over is a new one.
        stops.pauses.retain(|host, _| {
            let before = stops.kept.pauses.get(host);
            controls.pauses.contains_key(host)
                && before.is_some_and(|pause| pause.until.is_none_or(|end| end > now))
        });
        stops.holds.retain(|what, _| controls.holds.contains_key(what));
        for host in controls.pauses.keys() {
            stops.pauses.entry(*host).or_insert(stops.changes);
        }
        for what in controls.holds.keys() {
            stops.holds.entry(*what).or_insert(stops.changes);
        }
        stops.kept = controls.clone();
    }

    /// A request of these is begun: they are loaded.
    pub(in crate::delivery::simulation) fn begins(&mut self, seqs: &[Seq]) {
        if let Some(first) = seqs.first() {
            let lane = self.stored(*first).entry.lane;
            self.stops.begun.insert(lane, self.stops.changes);
        }
    }

    /// Nothing is sent to a paused host, nor anything that is held, but what was begun before that.
    pub(super) fn check_stops(&self, host: Host, lane: Lane, seqs: &[Seq]) {
        let (stops, now) = (&self.stops, self.now());
        let begun = stops.begun[&lane];
        for paused in [None, Some(host)] {
            let in_force = |pause: &crate::schedule::Pause| pause.until.is_none_or(|end| end > now);
            let in_force = stops.kept.pauses.get(&paused).is_some_and(in_force);
            let since = stops.pauses.get(&paused).filter(|_| in_force);
            assert!(since.is_none_or(|since| begun < *since), "{seqs:?} are sent to {host}, which is paused");
        }
        for seq in seqs {
            let own = self.plan.settings.own_host(self.stored(*seq).entry.cluster);
            for what in [Selection::All, Selection::Lane(lane), Selection::Host(own)] {
                let since = stops.holds.get(&what);
                assert!(since.is_none_or(|since| begun < *since), "{seq} is sent, and {what:?} is held");
            }
        }
    }

    /// The operator lets these be tried at once.
    pub(in crate::delivery::simulation) fn retried(&mut self, what: Selection) {
        self.note("retried", format_args!("{what:?}"));
        for one in &mut self.events {
            // Which lanes a host has is the scheduler's to say.
            if what != Selection::Lane(one.entry.lane) && matches!(what, Selection::Lane(_)) {
                continue;
            }
            one.said.not_before = Moment::ZERO;
        }
    }

    /// Up to `most` events that wait, from one at random on; some of them may be under way.
    pub(in crate::delivery::simulation) fn droppable(&self, random: u64, most: usize) -> Vec<(Lane, Seq)> {
        let skip = random.checked_rem(self.events.len() as u64).unwrap_or(0);
        let rest = self.events.iter().skip(usize::try_from(skip).unwrap());
        let waits = rest.filter(|one| one.fate == Fate::Waits && !one.damaged);
        waits.take(most).map(|one| (one.entry.lane, one.event.seq)).collect()
    }

    /// These were taken out of the scheduler; gives back those that were not settled before.
    pub(in crate::delivery::simulation) fn dropped(&mut self, taken: &[Seq]) -> Vec<Seq> {
        let left: Vec<Seq> = taken.iter().copied().filter(|seq| !self.stored(*seq).given_up).collect();
        self.stops.dropped.extend(&left);
        left
    }

    /// What the scheduler keeps of hosts and stops is within the limits, and as it was told.
    pub(in crate::delivery::simulation) fn check_kept(&self, hosts: usize, controls: &Controls) {
        assert!(hosts <= self.plan.settings.max_hosts + 1, "{hosts} hosts are known");
        assert!(controls.pauses.len() <= MAX_PAUSES + 1 && controls.holds.len() <= MAX_HOLDS, "{controls:?}");
        assert_eq!(controls.holds, self.stops.kept.holds);
        let now = self.now();
        for (host, pause) in &self.stops.kept.pauses {
            let over = pause.until.is_some_and(|end| end <= now);
            assert!(over || controls.pauses.get(host) == Some(pause), "{host:?} is paused: {controls:?}");
        }
    }
}
