//! What one commit does, until it is durable.

use std::collections::{BTreeMap, BTreeSet};

use super::batch::Batch;
use super::keys::PageKey;
use super::pages::PageState;
use super::{Command, Ledger, OnStored, Requeued};
use crate::event::{DeadReason, Entry, Event, Seq};
use crate::failpoint::reach;
use crate::wire::reply::{Appended, Replier};

/// A commit of as many bytes makes no more letters, nor events of letters, and sets no more pages aside: each takes as much
/// as the event, and an operator, or a scan, names any number of them at once.
const COMMIT_COPIED_BYTES: usize = 4 * 1_024 * 1_024;

/// What one commit is made of; nothing of it counts before it is durable.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) batch: Batch,
    pub(super) ledger: Ledger,
    pub(super) touched: BTreeMap<Seq, PageState>,
    pub(super) fresh: Vec<PageState>,
    pub(super) entries: Vec<Entry>,
    pub(super) recent: Vec<Event>,
    pub(super) stored: Vec<(Box<dyn Replier>, Vec<Appended>)>,
    pub(super) hooks: Vec<(OnStored, Seq)>,
    /// How many lines of which connection it answers.
    pub(super) lines: BTreeMap<u64, usize>,
    /// What it does for others than producers; kept, since it may have to be planned anew.
    pub(super) asked: Vec<Command>,
    /// How many of its burials each settlement among them came to, but for those that have none.
    pub(super) buried_of: Vec<usize>,
    /// What became of each requeue among them, and how many letters it came to.
    pub(super) requeued: Vec<(Requeued, usize)>,
    /// How many letters each deletion among them found.
    pub(super) deletions: Vec<u64>,
    /// Pages that cannot be read, and that it had no room for.
    pub(super) put_off: Vec<PageKey>,
    /// Pages that it removes, by their first events.
    pub(super) removed: BTreeSet<Seq>,
    /// Large envelopes that go with them, by the first events of their submissions.
    pub(super) envelopes: BTreeSet<Seq>,
    /// Events that it settles.
    pub(super) settled: Vec<Seq>,
    pub(super) buried: Vec<DeadReason>,
    /// Dead letters that it removes.
    pub(super) deleted: BTreeSet<Seq>,
}

impl Plan {
    /// Whether it has no more room for letters, for events that were letters, nor for pages that cannot be read.
    pub(super) fn is_long(&self) -> bool {
        self.batch.bytes() >= COMMIT_COPIED_BYTES
    }

    /// Whether the end of the queue was asked for with it.
    pub(super) fn has_stop(&self) -> bool {
        self.asked.iter().any(|command| matches!(command, Command::Stop))
    }

    /// A failpoint for each kind of work that it does.
    pub(super) fn reach(&self, when: &str) {
        let kinds = [
            ("append", !self.entries.is_empty()),
            ("settle", !self.touched.is_empty()),
            ("removal", !self.removed.is_empty()),
            ("bury", !self.buried.is_empty()),
            ("requeue", self.requeued.iter().any(|(one, _)| one.moved > 0)),
            ("quarantine", self.asked.iter().any(|one| matches!(one, Command::Quarantine(_)))),
        ];
        kinds.iter().filter(|(_, done)| *done).for_each(|(what, _)| reach(what, when));
    }
}
