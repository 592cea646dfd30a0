//! An event as it is stored, and the little of it that the scheduler has to know.

use std::sync::Arc;

use super::{Cluster, EventId, Fingerprint, IdHash, Lane, Moment, Owner, Seq, SessionId, Visitor};

/// All that the events of one submission share: the session, the routing hint, and the `DeliveryRequest`
/// without its notifications.
///
/// Two events may share a request only where their envelopes are equal to the byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The session that the events belong to.
    pub session: SessionId,
    /// The cluster that the request itself names: the location hint in its `tntId`, else the submission's
    /// `target_location_hint`.
    pub cluster: Option<Cluster>,
    /// The property token and environment that the request is sent under, as a hash.
    pub owner: Owner,
    /// Its visitor, where the request brings no `tntId`.
    pub visitor: Option<Visitor>,
    /// The members of the `DeliveryRequest` but for `notifications` and `requestId`, as finished JSON without the
    /// outer braces: `"id":{…},"context":{…}`. Never empty, since `context` is always there.
    pub members: Box<[u8]>,
    /// A fingerprint over all fields above.
    pub fingerprint: Fingerprint,
}

/// One stored event: a notification and what it is sent with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its place in the queue.
    pub seq: Seq,
    /// The notification's `id`.
    pub id: EventId,
    /// When it was accepted.
    pub arrived: Moment,
    /// The notification as a finished JSON object; a retry sends these very bytes.
    pub notification: Box<[u8]>,
    /// What it shares with the events of its submission.
    pub envelope: Arc<Envelope>,
}

/// What the scheduler knows of an event; everything else stays on disk until it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the queue.
    pub seq: Seq,
    /// The lane of its session.
    pub lane: Lane,
    /// The fingerprint of its envelope.
    pub envelope: Fingerprint,
    /// The hash of its notification id: a batch never has the same id twice.
    pub id: IdHash,
    /// When it was accepted.
    pub arrived: Moment,
    /// The cluster that the stored event names, if any.
    pub cluster: Option<Cluster>,
    /// The property token and environment that it is sent under.
    pub owner: Owner,
    /// Its visitor, where it brings no `tntId`.
    pub visitor: Option<Visitor>,
    /// The bytes of its notification as JSON.
    pub bytes: u32,
}

/// What one commit added to the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    /// The first sequence number.
    pub first: Seq,
    /// The sequence number behind the last.
    pub next: Seq,
    /// The events, in their order.
    pub entries: Vec<Entry>,
}
