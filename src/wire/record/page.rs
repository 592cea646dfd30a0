//! Pages of events: how they are filled, and how they are read.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Damage, open, seal_of};
use crate::event::{
    Cluster, Entry, Envelope, Event, EventId, Fingerprint, Moment, Owner, Seq, SessionId, Visitor,
};
use crate::wire::hash;

/// The most events of a page: one bit each in its mark of settled events.
pub const PAGE_EVENTS: usize = 64;
/// The most bytes of a page, but for one with a single event: the storage engine writes larger values to files that it
/// never syncs.
pub(super) const PAGE_BYTES: usize = 6_800;
/// What an event takes in a page beside its id and its notification, at most.
const EVENT_OVERHEAD: usize = 24;
/// What an envelope takes in a page beside its session and its members, at most.
const ENVELOPE_OVERHEAD: usize = 64;

/// Where a large envelope lies: with the submission whose first event is `first`, which has `events` events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Apart {
    /// The first sequence number of the submission.
    pub first: u64,
    /// How many events it has.
    pub events: u16,
}

#[derive(Serialize, Deserialize)]
pub(super) struct PageShape<'a> {
    #[serde(borrow)]
    pub(super) envelopes: Vec<EnvelopeShape<'a>>,
    #[serde(borrow)]
    pub(super) events: Vec<EventShape<'a>>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct EnvelopeShape<'a> {
    session: &'a str,
    cluster: Option<&'a str>,
    owner: u32,
    visitor: Option<u64>,
    fingerprint: u128,
    #[serde(borrow)]
    members: MembersShape<'a>,
}

#[derive(Serialize, Deserialize)]
enum MembersShape<'a> {
    Here(#[serde(borrow, with = "serde_bytes")] &'a [u8]),
    Apart(Apart),
}

#[derive(Serialize, Deserialize)]
pub(super) struct EventShape<'a> {
    pub(super) envelope: u8,
    pub(super) arrived: u64,
    pub(super) id: &'a str,
    #[serde(with = "serde_bytes")]
    pub(super) notification: &'a [u8],
}

/// A page that is being filled.
#[derive(Debug, Default)]
pub struct PageBuilder {
    envelopes: Vec<(Arc<Envelope>, Option<Apart>)>,
    events: Vec<(u8, Moment, EventId, Box<[u8]>)>,
    bytes: usize,
}

impl PageBuilder {
    /// How many events it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// How many bytes it has, at most.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether one more event fits; the first always does.
    #[must_use]
    pub fn fits(
        &self,
        envelope: &Arc<Envelope>,
        apart: Option<Apart>,
        id: &EventId,
        notification: &[u8],
    ) -> bool {
        if self.is_empty() {
            return true;
        }
        let shared = match self.position(envelope, apart) {
            Some(_) => 0,
            None => envelope_bytes(envelope, apart),
        };
        let added = id.as_str().len() + notification.len() + EVENT_OVERHEAD + shared;
        self.len() < PAGE_EVENTS && self.bytes + added <= PAGE_BYTES
    }

    /// Adds an event; `apart` says where the members of its envelope lie, if not here.
    pub fn push(
        &mut self,
        envelope: &Arc<Envelope>,
        apart: Option<Apart>,
        arrived: Moment,
        id: EventId,
        notification: Box<[u8]>,
    ) {
        let position = self.position(envelope, apart).unwrap_or_else(|| {
            self.bytes += envelope_bytes(envelope, apart);
            self.envelopes.push((Arc::clone(envelope), apart));
            self.envelopes.len() - 1
        });
        self.bytes += id.as_str().len() + notification.len() + EVENT_OVERHEAD;
        // `fits` keeps a page at 64 events, so that it has at most 64 envelopes.
        self.events.push((u8::try_from(position).unwrap_or(u8::MAX), arrived, id, notification));
    }

    /// The finished record.
    #[must_use]
    pub fn finish(&self) -> Vec<u8> {
        seal_of(&self.shape(), self.bytes)
    }

    /// Its events, the first of which has the number `first`.
    pub fn into_events(self, first: Seq) -> impl Iterator<Item = Event> {
        let Self { envelopes, events, .. } = self;
        (first.0..=u64::MAX).zip(events).filter_map(move |(seq, (envelope, arrived, id, notification))| {
            let (envelope, _) = envelopes.get(usize::from(envelope))?;
            Some(Event { seq: Seq(seq), id, arrived, notification, envelope: Arc::clone(envelope) })
        })
    }

    fn shape(&self) -> PageShape<'_> {
        let envelopes =
            self.envelopes.iter().map(|(envelope, apart)| envelope_shape(envelope, *apart)).collect();
        let events = self.events.iter().map(|(envelope, arrived, id, notification)| EventShape {
            envelope: *envelope,
            arrived: arrived.as_micros(),
            id: id.as_str(),
            notification,
        });
        PageShape { envelopes, events: events.collect() }
    }

    fn position(&self, envelope: &Arc<Envelope>, apart: Option<Apart>) -> Option<usize> {
        self.envelopes.iter().position(|(other, place)| {
            *place == apart
                && (Arc::ptr_eq(other, envelope)
                    || (other.fingerprint == envelope.fingerprint && other == envelope))
        })
    }
}

fn envelope_bytes(envelope: &Envelope, apart: Option<Apart>) -> usize {
    let members = if apart.is_some() { 0 } else { envelope.members.len() };
    envelope.session.as_str().len() + members + ENVELOPE_OVERHEAD
}

pub(super) fn envelope_shape(envelope: &Envelope, apart: Option<Apart>) -> EnvelopeShape<'_> {
    EnvelopeShape {
        session: envelope.session.as_str(),
        cluster: envelope.cluster.as_ref().map(Cluster::as_str),
        owner: envelope.owner.0,
        visitor: envelope.visitor.map(|visitor| visitor.0),
        fingerprint: envelope.fingerprint.0,
        members: apart.map_or(MembersShape::Here(&envelope.members), MembersShape::Apart),
    }
}

/// A page that was read.
pub struct Page<'a>(pub(super) PageShape<'a>);

impl<'a> Page<'a> {
    /// Reads a record.
    ///
    /// # Errors
    /// [`Damage`]: it is no whole page.
    pub fn decode(record: &'a [u8]) -> Result<Self, Damage> {
        let shape: PageShape<'a> = open(record)?;
        let envelopes = shape.envelopes.len();
        let sound = shape.events.iter().all(|event| usize::from(event.envelope) < envelopes)
            && shape.envelopes.iter().all(|envelope| SessionId::check(envelope.session).is_ok());
        if sound { Ok(Self(shape)) } else { Err(Damage::Shape) }
    }

    /// How many events it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.events.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.events.is_empty()
    }

    /// Where the large envelope lies that it refers to.
    #[must_use]
    pub fn apart(&self) -> Option<Apart> {
        self.0.envelopes.iter().find_map(|envelope| match envelope.members {
            MembersShape::Apart(apart) => Some(apart),
            MembersShape::Here(_) => None,
        })
    }

    /// The session of the event at `position`.
    #[must_use]
    pub fn session(&self, position: usize) -> Option<&'a str> {
        let event = self.0.events.get(position)?;
        self.0.envelopes.get(usize::from(event.envelope)).map(|envelope| envelope.session)
    }

    /// What the scheduler has to know of each event, the first of which is `first`.
    pub fn entries(&self, first: Seq) -> impl Iterator<Item = Entry> {
        let lanes: Vec<_> = self.0.envelopes.iter().map(|envelope| hash::lane_of(envelope.session)).collect();
        // The range ends at the last number there is, and with it the zip: a damaged key may name it.
        self.0.events.iter().zip(first.0..=u64::MAX).filter_map(move |(event, seq)| {
            let position = usize::from(event.envelope);
            let envelope = self.0.envelopes.get(position)?;
            Some(Entry {
                seq: Seq(seq),
                lane: *lanes.get(position)?,
                envelope: Fingerprint(envelope.fingerprint),
                id: hash::id_hash_of(event.id),
                arrived: Moment::from_micros(event.arrived),
                cluster: envelope.cluster.and_then(Cluster::parse),
                owner: Owner(envelope.owner),
                visitor: envelope.visitor.map(Visitor),
                bytes: u32::try_from(event.notification.len()).unwrap_or(u32::MAX),
            })
        })
    }

    /// The event at `position` of a page whose first is `first`; `members` are those of the large envelope, where the
    /// page has one. `None` where there is no such event, or no such members.
    #[must_use]
    pub fn event(&self, first: Seq, position: usize, members: Option<&[u8]>) -> Option<Event> {
        let seq = Seq(first.0.checked_add(u64::try_from(position).ok()?)?);
        self.events(first, [seq], members).next().flatten()
    }

    /// Those of the events `seqs` of a page whose first is `first`; `members` are those of the large envelope, where the page
    /// has one. `None` where there is no such event, or no such members.
    pub fn events(
        &self,
        first: Seq,
        seqs: impl IntoIterator<Item = Seq>,
        members: Option<&[u8]>,
    ) -> impl Iterator<Item = Option<Event>> {
        let mut envelopes: Vec<Option<Arc<Envelope>>> = vec![None; self.0.envelopes.len()];
        seqs.into_iter().map(move |seq| {
            let event = self.0.events.get(usize::try_from(seq.0.checked_sub(first.0)?).ok()?)?;
            let position = usize::from(event.envelope);
            let known = envelopes.get_mut(position)?;
            let envelope = match known {
                Some(envelope) => Arc::clone(envelope),
                None => Arc::clone(known.insert(Arc::new(self.envelope(position, members)?))),
            };
            Some(Event {
                seq,
                id: EventId::new(event.id),
                arrived: Moment::from_micros(event.arrived),
                notification: event.notification.into(),
                envelope,
            })
        })
    }

    fn envelope(&self, position: usize, members: Option<&[u8]>) -> Option<Envelope> {
        let envelope = self.0.envelopes.get(position)?;
        let members = match envelope.members {
            MembersShape::Here(members) => members,
            MembersShape::Apart(_) => members?,
        };
        Some(Envelope {
            session: SessionId::new(envelope.session).ok()?,
            cluster: envelope.cluster.and_then(Cluster::parse),
            owner: Owner(envelope.owner),
            visitor: envelope.visitor.map(Visitor),
            members: members.into(),
            fingerprint: Fingerprint(envelope.fingerprint),
        })
    }
}
