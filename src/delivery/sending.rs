//! One request: its events loaded, those that go together sent, and what came of it.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::debug;
use uuid::Uuid;

use super::flusher::{Backlog, Edge};
use super::{Counts, Feed, feed};
use crate::event::{Cluster, Event, Lane, Outcome, Seq, SessionId, Visitor};
use crate::schedule::Attempt;
use crate::wire::{Identifiers, request};

/// What it takes to send a request.
pub(super) struct Sending<B, E> {
    pub(super) backlog: B,
    pub(super) edge: E,
    pub(super) identifiers: Identifiers,
    pub(super) counts: Arc<Counts>,
    pub(super) feed: Feed,
}

/// The answer to an attempt that somebody waits for.
pub(super) struct Watched {
    pub(super) session: SessionId,
    pub(super) body: Option<Vec<u8>>,
}

/// Whom an attempt is about.
#[derive(Clone)]
pub(super) struct About {
    pub(super) lane: Lane,
    /// The cluster that is asked.
    pub(super) asked: Option<Cluster>,
    /// The visitor, where the stored events bring no `tntId`, and the one that Target gave.
    pub(super) visitor: Option<(Visitor, Option<Arc<str>>)>,
}

/// What came of a request that went out.
pub(super) struct Answered {
    /// It went out with its first `keep` readable events.
    pub(super) keep: usize,
    /// These cannot be read.
    pub(super) gone: Vec<Seq>,
    pub(super) outcome: Outcome,
    pub(super) about: About,
    pub(super) watched: Option<Watched>,
    pub(super) heard: Option<feed::Request>,
}

/// Why an attempt did not go out.
pub(super) enum Unsent {
    /// The disk did not give its events; perhaps it does another time.
    Unread { first: Option<Seq>, detail: String },
    /// None of them can be read.
    Gone(Vec<Seq>),
    /// The store no longer works.
    StoreFailed(String),
}

impl<B: Backlog, E: Edge> Sending<B, E> {
    /// Loads the events of an attempt, and sends those that go together.
    pub(super) async fn send(&self, attempt: Attempt, mut about: About) -> Result<Answered, Unsent> {
        let Attempt { seqs, host, .. } = attempt;
        let watches = self.backlog.watches(&seqs);
        let (mut events, gone) = self.load(seqs).await?;
        let Some(first) = events.first() else { return Err(Unsent::Gone(gone)) };
        let envelope = Arc::clone(&first.envelope);
        // Equal fingerprints brought them together; what decides is that the envelopes are equal to the byte.
        let keep = events.iter().take_while(|event| event.envelope == envelope).count();
        events.truncate(keep);
        let request_id = Uuid::new_v4().to_string();
        // The visitor is that of the first event, which may be one that cannot be read: then the answer is about another
        // one.
        about.visitor = about.visitor.filter(|(visitor, _)| envelope.visitor == Some(*visitor));
        let tnt_id = about.visitor.as_ref().and_then(|(_, tnt_id)| tnt_id.as_deref());
        let notifications = events.iter().map(|event| &*event.notification);
        let body = request::body(&envelope.members, tnt_id, notifications, &request_id);
        let ids: Vec<&str> = events.iter().map(|event| event.id.as_str()).collect();
        let began = Instant::now();
        let (outcome, body) = self.edge.attempt(host, &envelope.session, &request_id, body, &ids).await;
        let took = began.elapsed();
        self.counts.add(&outcome.answer, took);
        debug!(
            event = "request", request = %request_id, session = %self.identifiers.show(envelope.session.as_str()), %host, events = keep,
            answer = ?outcome.answer, detail = %self.identifiers.said(&outcome.detail),
            "a request was answered"
        );
        let watched = watches.then(|| Watched { session: envelope.session.clone(), body });
        let heard = self.feed.is_heard().then(|| feed::Request {
            session: envelope.session.clone(),
            host,
            events: events.iter().map(|event| (event.seq, event.id.clone())).collect(),
            took,
        });
        Ok(Answered { keep, gone, outcome, about, watched, heard })
    }

    /// The events that can be read, and the numbers of those that are gone.
    async fn load(&self, seqs: Vec<Seq>) -> Result<(Vec<Event>, Vec<Seq>), Unsent> {
        let loaded = match self.backlog.load(seqs.clone()).await {
            Ok(loaded) => loaded,
            Err(error) if self.backlog.works_on(&error) => {
                return Err(Unsent::Unread { first: seqs.first().copied(), detail: error.to_string() });
            }
            Err(error) => return Err(Unsent::StoreFailed(error.to_string())),
        };
        let (mut events, mut gone) = (Vec::new(), Vec::new());
        for (seq, event) in seqs.into_iter().zip(loaded) {
            match event {
                Some(event) => events.push(event),
                None => gone.push(seq),
            }
        }
        Ok((events, gone))
    }
}
