//! What the queue counts since it was opened, beside what is durable.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::event::DeadReason;

/// The numbers; nothing else is ordered by them.
#[derive(Debug, Default)]
pub struct Counts {
    buried: [AtomicU64; DeadReason::ALL.len()],
    surplus: AtomicU64,
    commits: AtomicU64,
    no_room: AtomicU64,
    wanted_events: AtomicU64,
    wanted_bytes: AtomicU64,
    /// The full disk was met, and what was asked for since then was not done yet.
    waits_for_room: AtomicBool,
}

/// The submissions that the queue's own limits had no room for, but for those that no empty queue would hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoRoom {
    /// How many there were since the queue was opened.
    pub times: u64,
    /// The events of the latest, where `queue.max_events` had no room for them; 0 else.
    pub events: u64,
    /// Its bytes, where `queue.max_bytes` had none; 0 else.
    pub bytes: u64,
}

impl Counts {
    /// How many events were set aside since the queue was opened, by reason.
    pub fn buried(&self) -> impl Iterator<Item = (DeadReason, u64)> {
        DeadReason::ALL.into_iter().zip(self.buried.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// How many events the first scan found beyond what the durable counters promised: 0, or an error.
    #[must_use]
    pub fn surplus(&self) -> u64 {
        self.surplus.load(Ordering::Relaxed)
    }

    /// How many commits were made since the queue was opened, each with a sync of its own.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Whether what is asked for waits for room on the disk: nothing is wrong then that a restart would mend.
    #[must_use]
    pub fn waits_for_room(&self) -> bool {
        self.waits_for_room.load(Ordering::Relaxed)
    }

    /// Counts a commit that is on stable storage.
    pub(super) fn commit(&self) {
        self.commits.fetch_add(1, Ordering::Relaxed);
    }

    /// The full disk was met; whether that is news.
    pub(super) fn meet_full_disk(&self) -> bool {
        !self.waits_for_room.swap(true, Ordering::Relaxed)
    }

    /// Nothing waits for room any more.
    pub(super) fn find_room(&self) {
        self.waits_for_room.store(false, Ordering::Relaxed);
    }

    /// What the limits had no room for.
    #[must_use]
    pub fn no_room(&self) -> NoRoom {
        let value = |count: &AtomicU64| count.load(Ordering::Relaxed);
        NoRoom {
            times: value(&self.no_room),
            events: value(&self.wanted_events),
            bytes: value(&self.wanted_bytes),
        }
    }

    /// Counts a submission whose `events`, or else whose `bytes`, had no room; the other one is 0.
    pub(super) fn refuse(&self, events: u64, bytes: u64) {
        self.wanted_events.store(events, Ordering::Relaxed);
        self.wanted_bytes.store(bytes, Ordering::Relaxed);
        self.no_room.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an event that is durably set aside.
    pub(super) fn bury(&self, reason: DeadReason) {
        if let Some(count) =
            DeadReason::ALL.iter().position(|one| *one == reason).and_then(|at| self.buried.get(at))
        {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn find_surplus(&self, events: u64) {
        self.surplus.store(events, Ordering::Relaxed);
    }
}
