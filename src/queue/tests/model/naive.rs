//! What the queue should be: maps and counters, without a thought for disks and commits.

use std::time::Duration;

use super::*;
use crate::event::{Entry, Event};
use crate::wire::hash;
use crate::wire::record::DeadLetter;

/// The most events that wait.
pub(super) const MAX_EVENTS: u64 = 400;

#[derive(Default)]
pub(super) struct Naive {
    /// Every event that ever was, by its number.
    pub(super) events: BTreeMap<u64, Event>,
    pub(super) waiting: BTreeSet<u64>,
    pub(super) settled: BTreeSet<u64>,
    pub(super) letters: BTreeMap<u64, DeadLetter>,
    pub(super) damaged_letters: BTreeSet<u64>,
    pub(super) balance: Balance,
    pub(super) next: u64,
    pub(super) now: Moment,
    /// Whether the disk has room for appends.
    pub(super) room: bool,
    /// Those of this opening that were not read yet.
    pub(super) recent: BTreeSet<u64>,
    /// What was set aside since it was opened.
    pub(super) buried: Vec<DeadReason>,
    /// Events beyond what the counters promised when it was opened.
    pub(super) surplus: u64,
    /// Something was quarantined while there was a surplus: the account does not balance, by whatever amount.
    pub(super) blurred: bool,
    /// What the commits since the last look added.
    pub(super) told: Vec<Entry>,
    /// Values in quarantine.
    pub(super) set_aside: usize,
    /// The bytes of records that somebody took away.
    pub(super) stolen: u64,
}

/// Why something is not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum No {
    Room,
    Place,
}

impl Naive {
    pub(super) fn new() -> Self {
        Self { next: 1, room: true, ..Self::default() }
    }

    fn no(&self, events: u64) -> Option<No> {
        match () {
            () if !self.room => Some(No::Room),
            () if self.balance.pending() + events > MAX_EVENTS => Some(No::Place),
            () => None,
        }
    }

    fn add(&mut self, event: Event) {
        let event = Event { seq: Seq(self.next), arrived: self.now, ..event };
        self.told.push(hash::entry(&event));
        self.waiting.insert(self.next);
        self.recent.insert(self.next);
        self.events.insert(self.next, event);
        self.next += 1;
    }

    /// Whether there is no place for a submission; it is added where there is.
    pub(super) fn append(&mut self, submission: &Submission) -> Option<No> {
        let no = self.no(submission.notifications.len() as u64);
        if no.is_none() {
            for one in submission.notifications.clone() {
                let (id, notification, envelope) = (one.id, one.json, Arc::clone(&submission.envelope));
                self.add(Event { seq: Seq(0), id, arrived: self.now, notification, envelope });
                self.balance.accepted += 1;
            }
        }
        no
    }

    fn settle(&mut self, seq: u64) -> bool {
        let waited = self.waiting.remove(&seq);
        if waited {
            self.settled.insert(seq);
            self.recent.remove(&seq);
        }
        waited
    }

    pub(super) fn deliver(&mut self, seqs: &[u64]) {
        for seq in seqs {
            self.balance.delivered += u64::from(self.settle(*seq));
        }
    }

    pub(super) fn bury(&mut self, burials: &[Burial]) {
        for Burial { seq, reason, detail } in burials {
            let (seq, reason) = (seq.0, *reason);
            if !self.settle(seq) {
                continue;
            }
            *self.counter(reason) += 1;
            self.buried.push(reason);
            self.damaged_letters.remove(&seq);
            let event = self.events[&seq].clone();
            self.letters.insert(seq, DeadLetter { event, reason, detail: detail.clone(), at: self.now });
        }
    }

    fn counter(&mut self, reason: DeadReason) -> &mut u64 {
        match reason {
            DeadReason::Expired => &mut self.balance.expired,
            _ => &mut self.balance.dead,
        }
    }

    /// What waits for this long, or longer.
    pub(super) fn old(&self, millis: u64) -> Vec<u64> {
        let old = |seq: &u64| self.now.since(self.events[seq].arrived) >= Duration::from_millis(millis);
        self.waiting.iter().copied().filter(old).collect()
    }

    /// The letters that are held, of which no event is in the queue: one whose mark is lost is there twice.
    pub(super) fn held(&self) -> BTreeSet<u64> {
        let held = self.letters.keys().chain(&self.damaged_letters).copied();
        held.filter(|seq| !self.waiting.contains(seq)).collect()
    }

    /// At most `most` of the letters `seqs` are events again; how many are, and why not the others.
    pub(super) fn requeue(&mut self, seqs: &[u64], most: u64) -> (u64, Option<No>) {
        let mut moved = 0;
        for seq in seqs {
            let Some(letter) = self.letters.get(seq).cloned() else { continue };
            let no = if moved == most { Some(No::Room) } else { self.no(1) };
            if no.is_some() {
                return (moved, no);
            }
            self.letters.remove(seq);
            *self.counter(letter.reason) -= 1;
            self.add(letter.event);
            moved += 1;
        }
        (moved, None)
    }

    pub(super) fn delete(&mut self, seqs: &[u64]) {
        for seq in seqs {
            self.letters.remove(seq);
            self.damaged_letters.remove(seq);
        }
    }

    /// It was opened: what is there is held against what was promised.
    pub(super) fn open(&mut self) {
        let (there, promised) = (self.waiting.len() as u64, self.balance.pending());
        self.balance.quarantined += promised.saturating_sub(there);
        self.surplus = there.saturating_sub(promised);
        self.blurred = false;
        self.recent.clear();
        self.buried.clear();
        self.told.clear();
    }

    /// Whether these are its counters, but for those of what was found in a database that was `repaired`.
    pub(super) fn counts(&self, ledger: &Ledger, repaired: bool) -> bool {
        let durable = |of: &Balance| (of.delivered, of.dead, of.expired);
        let letters = self.letters.len() + if repaired { 0 } else { self.damaged_letters.len() };
        (ledger.next.0, ledger.dead_held) == (self.next, letters as u64)
            && durable(&ledger.balance) == durable(&self.balance)
    }

    /// It was made anew of what could be read.
    pub(super) fn repaired(&mut self, set_aside: usize) {
        self.balance.accepted += std::mem::take(&mut self.surplus);
        self.damaged_letters.clear();
        self.set_aside = set_aside;
        self.stolen = 0;
    }

    /// Those of `seqs` that wait were in a page that is set aside.
    pub(super) fn quarantine(&mut self, seqs: std::ops::Range<u64>) {
        self.blurred |= self.surplus > 0;
        for seq in seqs {
            self.balance.quarantined += u64::from(self.waiting.remove(&seq));
        }
    }

    /// By how much the account does not balance.
    pub(super) fn imbalance(&self) -> i128 {
        let Balance { accepted, delivered, dead, expired, quarantined } = self.balance;
        let gone = i128::from(delivered + dead + expired + quarantined);
        i128::from(accepted) - gone - self.waiting.len() as i128
    }

    pub(super) fn entries(&self) -> Vec<Entry> {
        self.waiting.iter().map(|seq| hash::entry(&self.events[seq])).collect()
    }

    /// Takes events out of the memory.
    pub(super) fn take_recent(&mut self, seqs: &[u64]) -> Vec<Option<Event>> {
        seqs.iter().map(|seq| self.recent.take(seq).map(|seq| self.events[&seq].clone())).collect()
    }
}
