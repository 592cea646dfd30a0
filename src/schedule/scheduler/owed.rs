//! What the store owes: what a reading finds, and that what was settled is durably so.

use std::collections::BTreeSet;

use super::{Duration, Moment, Seq};

/// The most events whose settlement the store may owe: while it owes as many, nothing is sent. A crash sends them
/// again, and memory does not grow where the disk is slower than Target. The answers to what is under way then go
/// beyond.
pub(in crate::schedule) const MAX_SETTLING: usize = 8_192;

#[derive(Debug, Default)]
pub(super) struct Owed {
    /// Settled, but not durably so: a reading may still show them.
    settling: BTreeSet<Seq>,
    /// Since when settlements are owed, and none became durable.
    settling_from: Option<Moment>,
    /// Durably settled, or found gone, during the reading under way, which may still show them.
    settled: BTreeSet<Seq>,
    /// Since when a reading is under way.
    reading_from: Option<Moment>,
}

impl Owed {
    pub(super) fn begin_reading(&mut self, now: Moment) {
        self.reading_from = Some(now);
    }

    /// The reading under way came back; how long it took.
    pub(super) fn end_reading(&mut self, now: Moment) -> Duration {
        self.settled.clear();
        self.reading_from.take().map_or(Duration::ZERO, |from| now.since(from))
    }

    /// These were settled.
    pub(super) fn begin_settling(&mut self, now: Moment, seqs: impl Iterator<Item = Seq>) {
        self.settling.extend(seqs);
        if !self.settling.is_empty() {
            self.settling_from.get_or_insert(now);
        }
    }

    /// These settlements are durable.
    pub(super) fn end_settling(&mut self, now: Moment, seqs: &[Seq]) {
        for seq in seqs {
            if self.settling.remove(seq) && self.reading_from.is_some() {
                self.settled.insert(*seq);
            }
        }
        self.settling_from = (!self.settling.is_empty()).then_some(now);
    }

    /// What is owed has all its time from now on.
    pub(super) fn begin_anew(&mut self, now: Moment) {
        [&mut self.settling_from, &mut self.reading_from].into_iter().flatten().for_each(|from| *from = now);
    }

    /// These cannot be read: they are in quarantine now, and the reading under way may be from before.
    pub(super) fn note_gone(&mut self, seqs: &[Seq]) {
        if self.reading_from.is_some() {
            self.settled.extend(seqs);
        }
    }

    pub(super) fn is_settling(&self, seq: Seq) -> bool {
        self.settling.contains(&seq)
    }

    /// Whether what the reading under way shows of an event is out of date: it was settled, or is gone.
    pub(super) fn is_over(&self, seq: Seq) -> bool {
        self.settling.contains(&seq) || self.settled.contains(&seq)
    }

    /// The lowest that is not durably settled.
    pub(super) fn first_settling(&self) -> Option<Seq> {
        self.settling.first().copied()
    }

    /// Whether [`MAX_SETTLING`] is reached.
    pub(super) fn is_full(&self) -> bool {
        self.settling.len() >= MAX_SETTLING
    }

    /// Whether a reading, or any settlement, is owed for longer than `after`.
    pub(super) fn is_late(&self, now: Moment, after: Duration) -> bool {
        [self.reading_from, self.settling_from].into_iter().flatten().any(|from| now.since(from) > after)
    }
}
