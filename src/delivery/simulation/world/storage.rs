//! The disk of a history: what is durable, and what the flusher may settle.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::{Command, Draft, Fate, SaidOf, Stored, World, settles};
use crate::delivery::simulation::plan::{below, one_in};
use crate::event::{Added, Balance, Burial, DeadReason, Entry, Event, Moment, Seq};
use crate::wire::hash;

impl World {
    pub(in crate::delivery::simulation) fn tail_seq(&self) -> Seq {
        Seq(self.events.len() as u64 + 1)
    }

    pub(in crate::delivery::simulation) fn balance(&self) -> Balance {
        self.balance
    }

    pub(in crate::delivery::simulation) fn pending(&self) -> u64 {
        self.balance.pending()
    }

    pub(in crate::delivery::simulation) fn dead_room(&self) -> bool {
        self.dead_held < self.plan.dead_max
    }

    /// The operator deletes dead letters, or raises their limit.
    pub(in crate::delivery::simulation) fn make_dead_room(&mut self, for_ever: bool) {
        self.dead_held = 0;
        if for_ever {
            self.plan.dead_max = u64::MAX;
        }
    }

    pub(in crate::delivery::simulation) fn delay_expiry(&mut self, until: Moment) {
        self.no_expiry = (self.no_expiry.0.max(until), self.now());
    }

    /// Takes a part of what waits into a commit; how long that lasts, or `None` where nothing waits.
    pub(in crate::delivery::simulation) fn begin_commit(&mut self) -> Option<Duration> {
        if self.waiting.is_empty() {
            return None;
        }
        let count = 1 + below(&mut self.random, self.waiting.len() as u64);
        self.writing = self.waiting.drain(..usize::try_from(count).unwrap()).collect();
        self.seen_early = one_in(&mut self.random, 2);
        let most = self.plan.commit;
        Some(self.random.up_to(most))
    }

    /// The commit is durable, and everybody hears of it; `false` where the disk failed instead.
    pub(in crate::delivery::simulation) fn end_commit(&mut self) -> bool {
        let first = self.tail_seq();
        if self.failing {
            return false;
        }
        for done in self.apply() {
            // The asker may be gone.
            let _gone = done.send(Ok(()));
        }
        let next = self.tail_seq();
        self.largest_commit = self.largest_commit.max(next.0 - first.0);
        if next > first {
            let entries = self.events[usize::try_from(first.0 - 1).unwrap()..].iter().map(|one| one.entry);
            let added = Added { first, next, entries: entries.collect() };
            let heard = self.live.as_ref().is_some_and(|live| live.try_send(added).is_ok());
            if let Some(tail) = self.tail.as_ref().filter(|_| !heard) {
                tail.send_replace(next);
            }
        }
        true
    }

    /// Makes the commit under way durable.
    fn apply(&mut self) -> Vec<oneshot::Sender<Result<(), String>>> {
        let mut all = Vec::new();
        for command in std::mem::take(&mut self.writing) {
            match command {
                Command::Append(drafts) => drafts.into_iter().for_each(|draft| self.store(draft)),
                Command::Settle { delivered, buried, done } => {
                    self.note("settled", format_args!("{delivered:?} {buried:?}"));
                    for seq in delivered {
                        self.balance.delivered += u64::from(self.finish(seq));
                    }
                    for one in buried {
                        let counter = match one.reason {
                            DeadReason::Expired => &mut self.balance.expired,
                            _ => &mut self.balance.dead,
                        };
                        *counter += 1;
                        self.dead_held += 1;
                        let finished = self.finish(one.seq);
                        assert!(finished, "{one:?} was final before");
                    }
                    all.push(done);
                }
            }
        }
        // Of many events the count would take longer than all else.
        if self.log.is_none() {
            let waits = self.events.iter().filter(|one| one.fate == Fate::Waits).count() as u64;
            assert!(self.pending() == waits, "{:?}, and {waits} wait", self.balance);
        }
        all
    }

    fn finish(&mut self, seq: Seq) -> bool {
        let stored = self.stored_mut(seq);
        std::mem::replace(&mut stored.fate, Fate::Final) == Fate::Waits
    }

    fn store(&mut self, draft: Draft) {
        let Draft { serial, id, notification, envelope, fault, damaged } = draft;
        let event = Event { seq: self.tail_seq(), id, arrived: self.now(), notification, envelope };
        let entry = hash::entry(&event);
        self.balance.accepted += 1;
        self.by_serial.insert(serial, event.seq);
        self.open.entry(entry.lane).or_default().insert(event.seq);
        self.note("stored", format_args!("{} n {serial} {fault:?}", event.seq));
        let (fate, said) = (Fate::Waits, SaidOf::default());
        self.events.push(Stored { event, entry, fault, damaged, fate, given_up: false, said });
    }

    /// The process starts.
    pub(in crate::delivery::simulation) fn begin_life(
        &mut self,
        live: mpsc::Sender<Added>,
        tail: watch::Sender<Seq>,
    ) {
        self.live = Some(live);
        self.tail = Some(tail);
        self.note("start", format_args!("{} wait", self.pending()));
    }

    /// The process ends. In order, all that the writer was asked for is durable; else the commit under way is, or is
    /// not, and the rest never was.
    pub(in crate::delivery::simulation) fn end_life(&mut self, orderly: bool) {
        assert!(self.in_flight.is_empty(), "a request outlives its flusher");
        if orderly || one_in(&mut self.random, 2) {
            self.apply();
        }
        self.writing.clear();
        if orderly {
            self.writing = self.waiting.drain(..).collect();
            self.apply();
        }
        self.waiting.clear();
        self.failing = false;
        self.begun.clear();
        self.no_expiry = (Moment::ZERO, Moment::ZERO);
        self.no_room = false;
        self.spare = 0;
        self.stops.end_life();
        self.open.clear();
        for one in &mut self.events {
            one.said = SaidOf::default();
            one.given_up = one.fate != Fate::Waits;
            if !one.given_up {
                self.open.entry(one.entry.lane).or_default().insert(one.event.seq);
            }
        }
    }

    pub(in crate::delivery::simulation) fn scan(&self, from: Seq, max: usize) -> (Vec<Entry>, Seq) {
        let max = max.min(usize::try_from(self.plan.page).unwrap());
        let early: BTreeSet<Seq> =
            self.writing.iter().filter(|_| self.seen_early).flat_map(settles).collect();
        let skip = usize::try_from(from.0.saturating_sub(1)).unwrap();
        let mut found = Vec::new();
        for one in self.events.iter().skip(skip) {
            if found.len() >= max {
                return (found, one.event.seq);
            }
            if one.fate == Fate::Waits && !early.contains(&one.event.seq) {
                found.push(one.entry);
            }
        }
        (found, self.tail_seq().max(from))
    }

    /// The events; one that is damaged is moved to quarantine, as the queue does.
    pub(in crate::delivery::simulation) fn load(&mut self, seqs: &[Seq]) -> Vec<Option<Event>> {
        let mut found = Vec::with_capacity(seqs.len());
        for seq in seqs {
            if self.stored(*seq).damaged && self.finish(*seq) {
                self.balance.quarantined += 1;
                self.close(*seq);
                self.note("quarantined", format_args!("{seq}"));
            }
            let stored = self.stored(*seq);
            found.push((stored.fate == Fate::Waits).then(|| stored.event.clone()));
        }
        found
    }

    pub(in crate::delivery::simulation) fn told_lost(&mut self, seqs: &[Seq]) {
        for seq in seqs {
            assert!(self.stored(*seq).damaged, "{seq} is told lost, and can be read");
            self.give_up(*seq);
        }
    }

    fn give_up(&mut self, seq: Seq) {
        let stored = self.stored_mut(seq);
        assert!(!stored.given_up, "{seq} is settled twice");
        stored.given_up = true;
        self.close(seq);
    }

    fn close(&mut self, seq: Seq) {
        let lane = self.stored(seq).entry.lane;
        if let Some(open) = self.open.get_mut(&lane) {
            open.remove(&seq);
        }
    }

    /// Somebody settles these: Target must have said so, and nobody before.
    pub(in crate::delivery::simulation) fn check_settlement(&mut self, delivered: &[Seq], buried: &[Burial]) {
        for seq in delivered {
            assert!(self.stored(*seq).said.processed, "{seq} is settled, and Target never said so");
            self.give_up(*seq);
        }
        for one in buried {
            let said = self.stored(one.seq).said.clone();
            assert!(!said.processed, "{one:?} was delivered");
            let given = match one.reason {
                DeadReason::Refused => said.refused_alone.as_ref() == Some(&one.detail),
                DeadReason::NotAcknowledged => said.unlisted >= self.plan.settings.unlisted_max,
                DeadReason::Expired => {
                    let (until, told) = self.no_expiry;
                    said.failed_old && (self.now() >= until || self.now() == told)
                }
                DeadReason::Dropped => self.stops.dropped.remove(&one.seq),
            };
            assert!(given, "{one:?} has a reason that Target did not give: {said:?}");
            // Room for dropped events was looked for before that.
            let room = self.dead_room() || one.reason == DeadReason::Dropped;
            assert!(room, "{one:?} has no room among the dead letters");
            self.note(one.reason.as_str(), format_args!("{}", one.seq));
            self.give_up(one.seq);
        }
    }
}
