//! Outcomes as they happen, for all that listen. No listener is waited for: a slow one is told how many it missed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;

use crate::event::{Answer, EventId, Host, Moment, Outcome, Seq, SessionId};
use crate::schedule::Settled;

/// The most outcomes that are kept for a slow listener.
const KEPT_OUTCOMES: usize = 1_024;

/// What became of events of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// They are delivered.
    Delivered,
    /// They are set aside.
    Dead,
    /// They are tried again.
    Retry,
}

/// An outcome: the events of one request that one thing became of.
#[derive(Clone, Debug)]
pub struct Heard {
    /// When.
    pub at: Moment,
    /// Their session.
    pub session: SessionId,
    /// The host that was asked.
    pub host: Host,
    /// What became of them.
    pub fate: Fate,
    /// They themselves, and their notifications' ids.
    pub events: Vec<(Seq, EventId)>,
    /// What was answered.
    pub answer: Answer,
    /// What Target or the transport said.
    pub detail: String,
    /// How long the request took.
    pub took: Duration,
}

/// What a request was about, kept while somebody listens.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) session: SessionId,
    pub(super) host: Host,
    pub(super) events: Vec<(Seq, EventId)>,
    pub(super) took: Duration,
}

/// Where outcomes are told.
#[derive(Clone, Debug)]
pub struct Feed(broadcast::Sender<Arc<Heard>>);

impl Default for Feed {
    fn default() -> Self {
        Self(broadcast::channel(KEPT_OUTCOMES).0)
    }
}

impl Feed {
    /// Hears every outcome from now on; [`broadcast::error::RecvError::Lagged`] tells how many were missed.
    #[must_use]
    pub fn listen(&self) -> broadcast::Receiver<Arc<Heard>> {
        self.0.subscribe()
    }

    /// Whether anybody listens; where not, nothing is kept.
    pub(super) fn is_heard(&self) -> bool {
        self.0.receiver_count() > 0
    }

    pub(super) fn tell(&self, at: Moment, request: Request, settled: &Settled, outcome: &Outcome) {
        let Request { session, host, events, took } = request;
        let delivered: BTreeSet<Seq> = settled.delivered.iter().copied().collect();
        let dead: BTreeSet<Seq> = settled.buried.iter().map(|one| one.seq).collect();
        let fate_of = |seq: &Seq| match (delivered.contains(seq), dead.contains(seq)) {
            (true, _) => Fate::Delivered,
            (_, true) => Fate::Dead,
            _ => Fate::Retry,
        };
        for fate in [Fate::Delivered, Fate::Dead, Fate::Retry] {
            let events: Vec<_> = events.iter().filter(|(seq, _)| fate_of(seq) == fate).cloned().collect();
            if events.is_empty() {
                continue;
            }
            let (session, answer) = (session.clone(), outcome.answer.clone());
            // Of an answer that leaves out others, too.
            let detail = if fate == Fate::Delivered { String::new() } else { outcome.detail.clone() };
            // The last listener may just have gone.
            let _gone =
                self.0.send(Arc::new(Heard { at, session, host, fate, events, answer, detail, took }));
        }
    }
}
