//! A receipt's place on its producer's connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::event::EventId;

/// A receipt that is owed. Dropping it gives the place back, and the producer gets none.
#[derive(Debug)]
pub struct Slip {
    /// The producer's `ref`.
    pub reference: Option<String>,
    /// The ids of the submission's events, in their order.
    pub ids: Vec<EventId>,
    pub(super) batch: u64,
    pub(super) place: mpsc::OwnedPermit<Receipt>,
    /// Its share of what all receipts may hold, in KiB.
    pub(super) share: OwnedSemaphorePermit,
    pub(super) owed: Owed,
}

/// A receipt on its way.
#[derive(Debug)]
pub(super) struct Receipt {
    /// The batch of its line: the reply to that one goes first.
    pub(super) batch: u64,
    pub(super) text: String,
    /// What it holds until it is written.
    pub(super) share: OwnedSemaphorePermit,
    pub(super) owed: Owed,
}

/// One of the things that a connection owes, until it is dropped.
#[derive(Debug)]
pub(super) struct Owed(Arc<AtomicUsize>);

impl Owed {
    /// One more of those that `all` counts.
    pub(super) fn new(all: &Arc<AtomicUsize>) -> Self {
        all.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(all))
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Slip {
    /// Whether a receipt of `bytes` may be held until its producer takes it; enlarges the share where it has to.
    pub fn fits(&mut self, bytes: usize) -> bool {
        let more = bytes.div_ceil(1_024).saturating_sub(self.share.num_permits());
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        let all = Arc::clone(self.share.semaphore());
        let Ok(more) = all.try_acquire_many_owned(more) else { return false };
        self.share.merge(more);
        true
    }

    /// Sends the receipt, a line without its end. Where the connection is gone, nobody reads it.
    pub fn send(self, text: String) {
        let Self { batch, place, share, owed, .. } = self;
        drop(place.send(Receipt { batch, text, share, owed }));
    }
}
