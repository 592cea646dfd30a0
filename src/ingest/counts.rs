//! What came in at the socket since the start, in numbers.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that several tasks count up.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The number now.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts `more`. Nothing else is ordered by it.
    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(super) fn remove(&self, less: u64) {
        self.0.fetch_sub(less, Ordering::Relaxed);
    }
}

/// What came in since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections that are open.
    pub connections: Counter,
    /// Connections that were turned away.
    pub turned_away: Counter,
    /// Lines that were refused for good.
    pub rejected: Counter,
    /// Lines that were refused for now.
    pub unavailable: Counter,
}
