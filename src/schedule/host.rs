//! One host: whether it takes requests, and what its answers say of it as a whole.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::health::HostHealth;
use super::notice::Cause;
use super::pace::Pace;
use super::width::Width;
use crate::event::{Lane, Moment, Owner};

/// How many answers tell whether a host is busy as a whole.
const RECENT_ANSWERS: usize = 20;
/// How many lanes must agree before a host is blamed.
pub(super) const LANES_TO_BLAME: usize = 3;
/// How many answers in a row that blame the configuration pause a host.
const MISCONFIGURED_ROW: u32 = 5;
/// More events in a row than this that would be set aside trip the fuse.
const FUSE_EVENTS: u32 = 100;
/// If they are of this many lanes.
const FUSE_LANES: usize = 10;
/// A second pause for the same cause within this time is reported only if its first probe fails: beside a producer with
/// a wrong token, others' successes end the pause again and again.
const TOLD_AGAIN: Duration = Duration::from_secs(600);
/// The most owners remembered as refused.
const REFUSED_OWNERS: usize = 1_024;

/// Whether a host takes requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// All, once it does not ask all to wait.
    Open,
    /// None before `until`, nor while it asks all to wait, then one probe at a time. `wait` is the last wait of a
    /// breaker.
    Shut { until: Moment, wait: Duration, why: Why },
}

/// Why a gate is shut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Breaker,
    Pause(Cause),
}

/// Why a host takes no requests, for an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Since when.
    pub since: Moment,
    /// What its last failure said.
    pub detail: String,
}

#[derive(Debug)]
pub(super) struct HostState {
    /// Lanes with due work, in their order.
    pub(super) queue: VecDeque<Lane>,
    pub(super) in_flight: usize,
    pub(super) gate: Gate,
    /// Since when it takes no requests, and what its last failure said; kept while its gate is shut.
    pub(super) trouble: Option<Trouble>,
    /// The last pause by its answers that was told.
    told: Option<(Cause, Moment)>,
    /// Before this no request is sent, whatever its gate is: it asked for that.
    pub(super) asked_until: Moment,
    /// Until then no probe jumps the queue.
    hastens_from: Moment,
    /// Whether the pause is not told.
    is_untold: bool,
    /// Whether an operator paused it.
    pub(super) stopped: bool,
    /// How fast its events go out, where it may be that its lanes crowd the index.
    pub(super) pace: Pace,
    /// How many requests it works at side by side, where that is fewer than the settings allow.
    pub(super) width: Width,
    /// The probe under way.
    pub(super) probing: bool,
    /// The session whose probe failed last: it does not wait for this host before it was tried elsewhere.
    pub(super) gave_up: Option<Lane>,
    /// How many probes there were: pauses take turns between the two ends of the queue.
    pub(super) probes: u64,
    /// Requests answered with a 2xx.
    pub(super) served: u64,
    /// The owners whose requests were refused since the last 2xx.
    pub(super) refused: BTreeSet<Owner>,
    failures: Row,
    misconfigured: Row,
    burials: Row,
    recent: VecDeque<(bool, Lane)>,
}

/// Things of one kind in a row, and the first lanes that they came from.
#[derive(Debug, Default)]
pub(super) struct Row {
    count: u32,
    lanes: BTreeSet<Lane>,
}

impl Row {
    /// Counts an event that would be set aside; says whether those in a row, and their lanes, are enough to trip the
    /// fuse.
    pub(super) fn count_burial(&mut self, lane: Lane) -> bool {
        self.add(lane);
        self.count > FUSE_EVENTS && self.lanes.len() >= FUSE_LANES
    }

    fn add(&mut self, lane: Lane) {
        self.count = self.count.saturating_add(1);
        if self.lanes.len() < FUSE_LANES {
            self.lanes.insert(lane);
        }
    }

    pub(super) fn end(&mut self) {
        self.count = 0;
        self.lanes.clear();
    }
}

impl HostState {
    pub(super) fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            in_flight: 0,
            gate: Gate::Open,
            trouble: None,
            told: None,
            asked_until: Moment::ZERO,
            hastens_from: Moment::ZERO,
            is_untold: false,
            stopped: false,
            pace: Pace::default(),
            width: Width::default(),
            probing: false,
            gave_up: None,
            probes: 0,
            served: 0,
            refused: BTreeSet::new(),
            failures: Row::default(),
            misconfigured: Row::default(),
            burials: Row::default(),
            recent: VecDeque::new(),
        }
    }

    /// Whether a request may go out now, and whether it is a probe.
    pub(super) fn takes(&self, now: Moment) -> Option<bool> {
        if self.stopped {
            return None;
        }
        match self.gate {
            _ if self.is_asking(now) => None,
            Gate::Open => Some(false),
            Gate::Shut { until, .. } => (until <= now && !self.probing).then_some(true),
        }
    }

    /// As [`Self::takes`], and whether its width has room for it. A probe goes out alone, whatever is under way.
    pub(super) fn has_room(&self, now: Moment) -> Option<bool> {
        self.takes(now).filter(|probe| *probe || self.width.has_room(self.in_flight))
    }

    /// Whether it asks all to wait.
    pub(super) fn is_asking(&self, now: Moment) -> bool {
        self.asked_until > now
    }

    /// It asked all to wait `until` then, and no later answer shortens that; says whether that is to be told.
    pub(super) fn note_wait(&mut self, now: Moment, until: Moment) -> bool {
        let is_told = self.is_shut() || self.is_asking(now);
        self.asked_until = until.max(self.asked_until);
        !is_told
    }

    /// When it may take a request at the earliest; `None` while a probe is under way, or an operator paused it.
    pub(super) fn opens(&self) -> Option<Moment> {
        if self.stopped {
            return None;
        }
        match self.gate {
            Gate::Open => Some(self.asked_until),
            Gate::Shut { until, .. } => (!self.probing).then_some(until.max(self.asked_until)),
        }
    }

    /// What an operator sees of it.
    pub(super) fn health(&self, now: Moment) -> HostHealth {
        match self.gate {
            Gate::Shut { why: Why::Breaker, .. } => HostHealth::BreakerOpen,
            Gate::Shut { why: Why::Pause(_), .. } => HostHealth::Paused,
            Gate::Open if self.is_asking(now) => HostHealth::Busy,
            Gate::Open => HostHealth::Serving,
        }
    }

    /// Whether `lane` goes to the client's own host instead: this one is shut or paused, and the lane may not probe it
    /// now.
    pub(super) fn turns_away(&self, now: Moment, lane: Lane) -> bool {
        (self.is_shut() || self.stopped) && (self.takes(now).is_none() || self.gave_up == Some(lane))
    }

    pub(super) fn is_shut(&self) -> bool {
        matches!(self.gate, Gate::Shut { .. })
    }

    /// Takes no requests from `now` on, but for probes from `until` on. `detail` is what the last answer said.
    pub(super) fn shut(&mut self, now: Moment, until: Moment, wait: Duration, why: Why, detail: &str) {
        self.gate = Gate::Shut { until, wait, why };
        self.trouble = Some(Trouble { since: now, detail: detail.to_owned() });
    }

    /// It is paused for `cause`; says whether that is to be told as it begins.
    pub(super) fn note_pause(&mut self, now: Moment, cause: Cause) -> bool {
        let lately = |(told, at): &(Cause, Moment)| *told == cause && now.since(*at) < TOLD_AGAIN;
        self.is_untold = self.told.as_ref().is_some_and(lately);
        if !self.is_untold {
            self.told = Some((cause, now));
        }
        !self.is_untold
    }

    /// The probe of its pause failed; says whether the pause is to be told now.
    pub(super) fn note_failed_probe(&mut self, now: Moment, cause: Cause) -> bool {
        self.told = Some((cause, now));
        std::mem::take(&mut self.is_untold)
    }

    /// Takes requests again; says whether that is to be told, since it was told that it took none.
    pub(super) fn reopen(&mut self) -> bool {
        self.open();
        !std::mem::take(&mut self.is_untold)
    }

    /// The probe of `lane` failed: the next one is sent at `until`.
    pub(super) fn stay_shut(&mut self, lane: Lane, until: Moment, wait: Duration, why: Why, detail: &str) {
        self.gate = Gate::Shut { until, wait, why };
        self.gave_up = Some(lane);
        if let Some(trouble) = &mut self.trouble {
            detail.clone_into(&mut trouble.detail);
        }
    }

    /// Takes requests again.
    pub(super) fn open(&mut self) {
        self.gate = Gate::Open;
        self.gave_up = None;
        self.trouble = None;
    }

    /// Ends the pause that its answers made, and counts from nothing; says whether it was paused.
    pub(super) fn resume(&mut self) -> bool {
        if self.paused().is_none() {
            return false;
        }
        self.open();
        (self.told, self.is_untold) = (None, false);
        self.burials.end();
        self.misconfigured.end();
        self.refused.clear();
        true
    }

    pub(super) fn paused(&self) -> Option<Cause> {
        match self.gate {
            Gate::Shut { why: Why::Pause(cause), .. } => Some(cause),
            _ => None,
        }
    }

    /// Counts a failure of the host; says whether its breaker is to open.
    pub(super) fn count_failure(&mut self, lane: Lane, limit: u32) -> bool {
        self.failures.add(lane);
        self.failures.count >= limit && self.blamed(&self.failures)
    }

    /// An answer came: whatever it says, the host is there.
    pub(super) fn note_answered(&mut self) {
        self.failures.end();
    }

    /// A 2xx came.
    pub(super) fn note_served(&mut self) {
        self.served += 1;
        self.misconfigured.end();
        self.refused.clear();
    }

    /// Remembers that an answer blamed the configuration for an event of `owner`.
    pub(super) fn note_refused(&mut self, owner: Owner) {
        if self.refused.len() < REFUSED_OWNERS {
            self.refused.insert(owner);
        }
    }

    /// Whether an event of `owner` may be sound though the answers paused the host: they blame others. It is probed at
    /// once.
    pub(super) fn blames_others(&self, owner: Owner) -> bool {
        let is_known = self.refused.len() >= REFUSED_OWNERS || self.refused.contains(&owner);
        self.paused() == Some(Cause::Misconfigured) && !is_known
    }

    /// A probe failed without an answer, which says nothing of any owner: until `from` no probe jumps the queue.
    pub(super) fn hasten_none_before(&mut self, from: Moment) {
        self.hastens_from = from;
    }

    /// Lets a probe go out from `now` on, or as soon as may be.
    pub(super) fn probe_from(&mut self, now: Moment) {
        if let Gate::Shut { until, .. } = &mut self.gate {
            *until = now.max(self.hastens_from).min(*until);
        }
    }

    /// An event was delivered: the fuse counts from nothing.
    pub(super) fn note_delivered(&mut self) {
        self.burials.end();
    }

    /// Counts an answer that blames the configuration; says whether the host is to be paused.
    pub(super) fn count_misconfigured(&mut self, lane: Lane, owner: Owner) -> bool {
        self.misconfigured.add(lane);
        self.note_refused(owner);
        self.misconfigured.count >= MISCONFIGURED_ROW && self.blamed(&self.misconfigured)
    }

    /// Counts an event that would be set aside; says whether that trips the fuse.
    pub(super) fn count_burial(&mut self, lane: Lane) -> bool {
        self.burials.count_burial(lane)
    }

    /// Counts an answer; says whether the host as a whole is busy.
    pub(super) fn count_answer(&mut self, lane: Lane, busy: bool) -> bool {
        self.recent.push_back((busy, lane));
        if self.recent.len() > RECENT_ANSWERS {
            self.recent.pop_front();
        }
        let all = self.recent.iter().filter(|(busy, _)| *busy);
        let lanes: BTreeSet<Lane> = all.clone().map(|(_, lane)| *lane).collect();
        busy && all.count() * 2 >= RECENT_ANSWERS && lanes.len() >= LANES_TO_BLAME
    }

    /// Several lanes agree, or nobody else has anything due.
    fn blamed(&self, row: &Row) -> bool {
        row.lanes.len() >= LANES_TO_BLAME || (self.queue.is_empty() && self.in_flight == 0)
    }
}
