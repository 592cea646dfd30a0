//! One session's events in their order, and how the next batch is cut from them.

use std::collections::VecDeque;

use super::Settings;
use crate::event::{Cluster, Entry, Fingerprint, Host, IdHash, Moment, Owner, Seq, Visitor};

/// An event that waits: what its entry said, but for its lane, which has it.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) seq: Seq,
    pub(super) envelope: Fingerprint,
    pub(super) id: IdHash,
    pub(super) arrived: Moment,
    pub(super) cluster: Option<Cluster>,
    pub(super) owner: Owner,
    pub(super) visitor: Option<Visitor>,
    pub(super) bytes: u32,
    /// How often in a row an answer left it out.
    pub(super) unlisted: u32,
    /// How often it failed alone, while its host served others.
    pub(super) alone: u32,
    /// Whether a batch may not reach from the event before over to this one.
    pub(super) boundary: bool,
}

impl Waiting {
    pub(super) fn new(entry: Entry) -> Self {
        let Entry { seq, lane: _, envelope, id, arrived, cluster, owner, visitor, bytes } = entry;
        let (unlisted, alone, boundary) = (0, 0, false);
        Self { seq, envelope, id, arrived, cluster, owner, visitor, bytes, unlisted, alone, boundary }
    }
}

/// An event that fails by itself: it is tried alone, and holds nothing back.
#[derive(Clone, Debug)]
pub(super) struct Parked {
    pub(super) event: Waiting,
    pub(super) not_before: Moment,
}

/// How the attempts of an event went before it was forgotten.
#[derive(Debug)]
pub(super) struct Past {
    unlisted: u32,
    alone: u32,
    boundary: bool,
    /// Since when it may be tried again, where it was parked.
    parked: Option<Moment>,
    /// What its lane stood at, where the event was the first of it.
    standing: Option<Standing>,
}

impl Past {
    /// When its lane may be tried again, where the event was the first of it.
    pub(super) fn waits_until(&self) -> Option<Moment> {
        self.standing.map(|standing| standing.not_before)
    }

    /// It may be tried at once.
    pub(super) fn hurry(&mut self, now: Moment) {
        self.parked = self.parked.map(|_| now);
        if let Some(standing) = &mut self.standing {
            standing.not_before = Moment::ZERO;
        }
    }
}

/// How the requests of a lane went.
#[derive(Clone, Copy, Debug)]
struct Standing {
    failures: u32,
    not_before: Moment,
    strikes: u32,
    served: u64,
}

/// Where a lane is waiting; at most at one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nowhere: it has no work.
    Idle,
    /// For a moment.
    Timer(Moment),
    /// For an operator to release it.
    Held,
    /// In the queue of a host.
    Ready(Host),
    /// For the answer to its one request.
    UnderWay,
}

#[derive(Debug)]
pub(super) struct LaneState {
    pub(super) events: VecDeque<Waiting>,
    pub(super) parked: Vec<Parked>,
    pub(super) place: Place,
    /// Failures in a row, for the backoff.
    pub(super) failures: u32,
    pub(super) not_before: Moment,
    /// Failures in a row with other requests of the host served in between.
    pub(super) strikes: u32,
    /// How many requests the host had served at the last strike.
    pub(super) served: u64,
    /// The highest sequence number that was admitted.
    pub(super) last: Seq,
    /// The events up to this one wait for no more to come.
    pub(super) flushed: Seq,
    /// Whether no batch reaches from its last event over to the next that comes.
    pub(super) closed: bool,
}

impl LaneState {
    pub(super) fn new() -> Self {
        Self {
            events: VecDeque::new(),
            parked: Vec::new(),
            place: Place::Idle,
            failures: 0,
            not_before: Moment::ZERO,
            strikes: 0,
            served: 0,
            last: Seq(0),
            flushed: Seq(0),
            closed: false,
        }
    }

    /// How many events the next batch has, and whether it could still grow.
    pub(super) fn batch(&self, settings: &Settings) -> (usize, bool) {
        let Some(first) = self.events.front() else { return (0, grows(settings, 0, 0)) };
        let (mut bytes, mut count) = (0, 0);
        for event in &self.events {
            // A batch is short: looking through it is quicker than a set.
            if !takes_in(settings, first, count, bytes, event)
                || self.events.iter().take(count).any(|before| before.id == event.id)
            {
                return (count, false);
            }
            bytes += u64::from(event.bytes);
            count += 1;
        }
        (count, grows(settings, count, bytes))
    }

    /// Whether its next batch is due at the same moment as before its last event, which was just added: the batch takes
    /// that event in and may grow on, or had ended before it. `false` where only a closer look could tell.
    pub(super) fn is_due_as_before(&self, settings: &Settings) -> bool {
        let (Some(first), Some(last)) = (self.events.front(), self.events.back()) else { return false };
        let before = self.events.len() - 1;
        // First what needs no look at the others: there may be many.
        if before == 0 || before + 1 >= settings.max_events || first.seq <= self.flushed {
            return false;
        }
        let mut bytes = 0;
        for event in self.events.iter().take(before) {
            if event.id == last.id {
                return false;
            }
            bytes += u64::from(event.bytes);
        }
        takes_in(settings, first, before, bytes, last)
            && grows(settings, before + 1, bytes + u64::from(last.bytes))
    }

    /// When the lane has something to send; `None` where it has nothing.
    pub(super) fn due(&self, settings: &Settings) -> Option<Moment> {
        let parked = self.parked.iter().map(|one| one.not_before).min();
        [self.batch_due(settings), parked].into_iter().flatten().min()
    }

    /// The first event of the request that is due, or will be: a parked one goes where no batch is due.
    pub(super) fn next(&self, now: Moment, settings: &Settings) -> Option<&Waiting> {
        let front = self.events.front();
        if self.parked.is_empty() || self.batch_due(settings).is_some_and(|due| due <= now) {
            return front;
        }
        let due = self.parked.iter().find(|one| one.not_before <= now).map(|one| &one.event);
        due.or(front).or_else(|| self.parked.first().map(|one| &one.event))
    }

    /// When its next batch is due, not counting parked events.
    pub(super) fn batch_due(&self, settings: &Settings) -> Option<Moment> {
        let first = self.events.front()?;
        let (_, grows) = self.batch(settings);
        let lingers = grows && first.seq > self.flushed;
        let full = if lingers { first.arrived.after(settings.linger) } else { Moment::ZERO };
        Some(full.max(self.not_before))
    }

    /// Puts the events of an attempt back in front.
    pub(super) fn put_back(&mut self, events: Vec<Waiting>) {
        for event in events.into_iter().rev() {
            self.events.push_front(event);
        }
    }

    /// Puts a refused batch back so that it is sent in halves, at once. Both its ends are marked too, so that a half
    /// never grows over what was refused.
    pub(super) fn put_back_in_halves(&mut self, mut events: Vec<Waiting>) {
        match self.events.front_mut() {
            Some(next) => next.boundary = true,
            None => self.closed = true,
        }
        self.flushed = events.last().map_or(self.flushed, |last| last.seq.max(self.flushed));
        let middle = events.len() / 2;
        for (position, event) in events.iter_mut().enumerate() {
            event.boundary |= position == 0 || position == middle;
        }
        self.put_back(events);
    }

    /// Its events, those that are parked last.
    pub(super) fn all(&self) -> impl Iterator<Item = &Waiting> {
        self.events.iter().chain(self.parked.iter().map(|one| &one.event))
    }

    /// Its oldest event.
    pub(super) fn first(&self) -> Option<&Waiting> {
        let parked = self.parked.iter().map(|one| &one.event);
        self.events.front().into_iter().chain(parked).min_by_key(|event| event.seq)
    }

    /// Takes an event in behind those that it has; where it was forgotten, with its `past`. One that was parked is so
    /// again if there is `room`.
    pub(super) fn admit(&mut self, entry: Entry, past: Option<Past>, room: bool) {
        self.last = entry.seq;
        let mut event = Waiting::new(entry);
        event.boundary = std::mem::take(&mut self.closed);
        let Some(past) = past else {
            self.events.push_back(event);
            return;
        };
        (event.unlisted, event.alone) = (past.unlisted, past.alone);
        event.boundary |= past.boundary;
        if let Some(not_before) = past.parked.filter(|_| room) {
            self.parked.push(Parked { event, not_before });
            return;
        }
        if let Some(standing) = past.standing.filter(|_| self.events.is_empty()) {
            (self.failures, self.not_before) = (standing.failures, standing.not_before);
            (self.strikes, self.served) = (standing.strikes, standing.served);
        }
        self.events.push_back(event);
    }

    /// Takes away the events behind the first `keep`, as if they had not been admitted; those that are parked stay, and
    /// what is older than one of these.
    pub(super) fn split_off(&mut self, keep: usize) -> Self {
        let newest = self.parked.iter().map(|one| one.event.seq).max().unwrap_or_default();
        let keep = keep.max(self.events.partition_point(|event| event.seq < newest));
        let events = self.events.split_off(keep.min(self.events.len()));
        self.events.shrink_to_fit();
        if let Some(first) = events.front() {
            self.last = Seq(first.seq.0.saturating_sub(1));
        }
        Self { events, ..Self::new() }
    }

    /// What is worth remembering of its events when it is forgotten: without it, an event that is forgotten at each
    /// wait would be tried for ever, and at once.
    pub(super) fn into_pasts(self, now: Moment) -> impl Iterator<Item = (Seq, Past)> {
        let tried = self.failures > 0 || self.strikes > 0 || self.not_before > now;
        let standing = tried.then_some(Standing {
            failures: self.failures,
            not_before: self.not_before,
            strikes: self.strikes,
            served: self.served,
        });
        let parked = self.parked.into_iter().map(|one| (one.event, Some(one.not_before), None));
        let first = std::iter::once(standing).chain(std::iter::repeat(None));
        let events = self.events.into_iter().zip(first).map(|(event, standing)| (event, None, standing));
        parked.chain(events).filter_map(|(event, parked, standing)| {
            let Waiting { seq, unlisted, alone, boundary, .. } = event;
            let worth = unlisted > 0 || alone > 0 || boundary || parked.is_some() || standing.is_some();
            worth.then_some((seq, Past { unlisted, alone, boundary, parked, standing }))
        })
    }

    pub(super) fn len(&self) -> usize {
        self.events.len() + self.parked.len()
    }
}

/// Whether a batch of `count` events from `first` on, of `bytes` together, takes in `event`, which comes next and repeats
/// no id; the first always fits.
fn takes_in(settings: &Settings, first: &Waiting, count: usize, bytes: u64, event: &Waiting) -> bool {
    count == 0
        || count < settings.max_events
            && bytes + u64::from(event.bytes) <= settings.max_bytes
            && !event.boundary
            && event.envelope == first.envelope
}

/// Whether a batch of `count` events, of `bytes` together, could take one more.
fn grows(settings: &Settings, count: usize, bytes: u64) -> bool {
    count < settings.max_events && bytes < settings.max_bytes
}

#[cfg(test)]
mod tests {
    use super::super::Random;
    use super::super::tests::sim::settings;
    use super::*;

    fn waiting(random: &mut Random, seq: u64) -> Waiting {
        let mut of = |most| random.bits() % most;
        Waiting {
            seq: Seq(seq),
            envelope: Fingerprint(u128::from(of(20) / 19)),
            id: IdHash(of(40)),
            arrived: Moment::from_millis(seq),
            cluster: None,
            owner: Owner(0),
            visitor: None,
            bytes: u32::try_from(of(100)).unwrap(),
            unlisted: 0,
            alone: 0,
            boundary: of(30) == 0,
        }
    }

    #[test]
    fn what_an_event_leaves_as_it_was_is_due_when_it_was() {
        let settings = Settings { max_events: 8, max_bytes: 300, ..settings() };
        let mut random = Random::new(7);
        let (mut as_before, mut looked_at) = (0, 0);
        for round in 0..2_000_u64 {
            let mut lane = LaneState::new();
            lane.flushed = Seq(random.bits() % 4);
            lane.not_before = Moment::from_millis(random.bits() % 60);
            for seq in 1..=1 + round % 12 {
                let before = lane.due(&settings);
                lane.events.push_back(waiting(&mut random, seq));
                match lane.is_due_as_before(&settings) {
                    true => {
                        assert_eq!(lane.due(&settings), before, "{lane:?}");
                        as_before += 1;
                    }
                    false => looked_at += 1,
                }
            }
        }
        assert!(as_before > 1_000 && looked_at > 1_000, "{as_before} {looked_at}");
    }
}
