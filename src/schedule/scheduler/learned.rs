//! What answers said of where requests go: kept as long as the SDKs keep their cookies.

use super::{Cluster, Duration, Lane, Moment, Outcome, Visitor};
use crate::schedule::Remembered;

/// How long what an answer said is remembered, as the SDKs' cookies are.
pub const LEARNED_FOR: Duration = Duration::from_secs(31 * 60);
/// The most sessions, and the most visitors, of which something is remembered.
pub const MAX_LEARNED: usize = 100_000;

#[derive(Debug)]
pub(super) struct Learned {
    /// The clusters that answers named for sessions.
    edges: Remembered<Lane, Cluster>,
    /// The clusters that the `tntId`s of visitors name.
    homes: Remembered<(Lane, Visitor), Cluster>,
}

impl Learned {
    pub(super) fn new() -> Self {
        Self {
            edges: Remembered::new(MAX_LEARNED, LEARNED_FOR),
            homes: Remembered::new(MAX_LEARNED, LEARNED_FOR),
        }
    }

    /// Takes in what came of a request of `lane` that was about `visitor`.
    pub(super) fn note(&mut self, now: Moment, lane: Lane, visitor: Option<Visitor>, outcome: &Outcome) {
        if let Some(edge) = outcome.edge {
            self.edges.insert(now, lane, edge);
        }
        if let (Some(visitor), Some(known)) = (visitor, &outcome.known)
            && let Some(home) = known.home
        {
            self.homes.insert(now, (lane, visitor), home);
        }
    }

    /// The cluster of an event about `visitor` that names `named`: what it names itself comes first, then the home that an
    /// answer gave its visitor, and what an answer said of its session last.
    pub(super) fn cluster(
        &self,
        now: Moment,
        lane: Lane,
        visitor: Option<Visitor>,
        named: Option<Cluster>,
    ) -> Option<Cluster> {
        let home = || visitor.and_then(|visitor| self.homes.get(now, &(lane, visitor)).copied());
        named.or_else(home).or_else(|| self.edges.get(now, &lane).copied())
    }
}
