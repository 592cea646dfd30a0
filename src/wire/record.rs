//! The stored records: pages of events, large envelopes and dead letters.
//!
//! Guarantees:
//! - a record that was damaged on the disk is told apart from a whole one ([`Damage`]), and reading it never panics;
//! - the shapes here belong to the disk alone; changing the vocabulary changes no stored byte.
//!
//! ```text
//! record   = version u8 · body (postcard) · CRC32C of all before, u32 little-endian
//! page     = envelopes* · events*          an event names its envelope by position
//! members  = the members of one large envelope
//! dead     = reason · moment · detail · a page of one event
//! ```

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::event::{
    Cluster, DeadReason, Entry, Envelope, Event, EventId, Fingerprint, Moment, Owner, Seq, SessionId, Visitor,
};
use crate::wire::hash;

/// The version of the shapes below.
const VERSION: u8 = 1;
/// The most events of a page: one bit each in its mark of settled events.
pub const PAGE_EVENTS: usize = 64;
/// The most bytes of a page, but for one with a single event: the storage engine writes larger values to files that it
/// never syncs.
pub const PAGE_BYTES: usize = 6_800;
/// An envelope with more bytes than this is stored once for its submission, apart from the pages.
pub const SMALL_ENVELOPE_BYTES: usize = 1_024;

/// What an event takes in a page beside its id and its notification, at most.
const EVENT_OVERHEAD: usize = 24;
/// What an envelope takes in a page beside its session and its members, at most.
const ENVELOPE_OVERHEAD: usize = 64;

/// Why a record cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Damage {
    /// It is shorter than any record.
    #[error("it is cut short")]
    Short,
    /// Another version of the program wrote it.
    #[error("it has the version {0}, which this program does not know")]
    Version(u8),
    /// Its checksum is wrong.
    #[error("its checksum is wrong")]
    Checksum,
    /// Its checksum is right, but it has no known shape.
    #[error("it has no known shape")]
    Shape,
}

/// Where a large envelope lies: with the submission whose first event is `first`, which has `events` events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Apart {
    /// The first sequence number of the submission.
    pub first: u64,
    /// How many events it has.
    pub events: u16,
}

#[derive(Serialize, Deserialize)]
struct PageShape<'a> {
    #[serde(borrow)]
    envelopes: Vec<EnvelopeShape<'a>>,
    #[serde(borrow)]
    events: Vec<EventShape<'a>>,
}

#[derive(Serialize, Deserialize)]
struct EnvelopeShape<'a> {
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
struct EventShape<'a> {
    envelope: u8,
    arrived: u64,
    id: &'a str,
    #[serde(with = "serde_bytes")]
    notification: &'a [u8],
}

#[derive(Serialize, Deserialize)]
struct DeadShape<'a> {
    seq: u64,
    reason: u8,
    at: u64,
    detail: &'a str,
    #[serde(borrow)]
    page: PageShape<'a>,
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
        seal(&self.shape())
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

fn envelope_shape(envelope: &Envelope, apart: Option<Apart>) -> EnvelopeShape<'_> {
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
pub struct Page<'a>(PageShape<'a>);

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
        let event = self.0.events.get(position)?;
        let envelope = self.0.envelopes.get(usize::from(event.envelope))?;
        let members = match envelope.members {
            MembersShape::Here(members) => members,
            MembersShape::Apart(_) => members?,
        };
        Some(Event {
            seq: Seq(first.0.checked_add(u64::try_from(position).ok()?)?),
            id: EventId::new(event.id),
            arrived: Moment::from_micros(event.arrived),
            notification: event.notification.into(),
            envelope: Arc::new(Envelope {
                session: SessionId::new(envelope.session).ok()?,
                cluster: envelope.cluster.and_then(Cluster::parse),
                owner: Owner(envelope.owner),
                visitor: envelope.visitor.map(Visitor),
                members: members.into(),
                fingerprint: Fingerprint(envelope.fingerprint),
            }),
        })
    }
}

/// An event that was set aside, with all that it takes to send it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The event as it was stored.
    pub event: Event,
    /// Why it was set aside.
    pub reason: DeadReason,
    /// What Target or the transport said.
    pub detail: String,
    /// When it was set aside.
    pub at: Moment,
}

/// The record of the members of a large envelope.
#[must_use]
pub fn encode_members(members: &[u8]) -> Vec<u8> {
    seal(&serde_bytes::Bytes::new(members))
}

/// Reads the record of a large envelope.
///
/// # Errors
/// [`Damage`]: it is no whole one.
pub fn decode_members(record: &[u8]) -> Result<&[u8], Damage> {
    open::<&serde_bytes::Bytes>(record).map(|bytes| &**bytes)
}

/// The record of a dead letter.
#[must_use]
pub fn encode_dead(letter: &DeadLetter) -> Vec<u8> {
    let event = &letter.event;
    let page = PageShape {
        envelopes: vec![envelope_shape(&event.envelope, None)],
        events: vec![EventShape {
            envelope: 0,
            arrived: event.arrived.as_micros(),
            id: event.id.as_str(),
            notification: &event.notification,
        }],
    };
    let reason = match letter.reason {
        DeadReason::Refused => 1,
        DeadReason::NotAcknowledged => 2,
        DeadReason::Expired => 3,
        DeadReason::Dropped => 4,
    };
    let detail = &letter.detail;
    seal(&DeadShape { seq: event.seq.0, reason, at: letter.at.as_micros(), detail, page })
}

/// Reads the record of a dead letter.
///
/// # Errors
/// [`Damage`]: it is no whole one.
pub fn decode_dead(record: &[u8]) -> Result<DeadLetter, Damage> {
    let shape: DeadShape<'_> = open(record)?;
    let reason = match shape.reason {
        1 => DeadReason::Refused,
        2 => DeadReason::NotAcknowledged,
        3 => DeadReason::Expired,
        4 => DeadReason::Dropped,
        _ => return Err(Damage::Shape),
    };
    let event = Page(shape.page).event(Seq(shape.seq), 0, None).ok_or(Damage::Shape)?;
    Ok(DeadLetter { event, reason, detail: shape.detail.to_owned(), at: Moment::from_micros(shape.at) })
}

/// Closes a body with its version and checksum.
pub(crate) fn seal(body: &impl Serialize) -> Vec<u8> {
    // Plain data into a vector cannot fail; an empty record would be told as damage when it is read.
    let mut record = postcard::to_extend(body, vec![VERSION]).unwrap_or_default();
    record.extend_from_slice(&crc32c::crc32c(&record).to_le_bytes());
    record
}

/// Opens what [`seal`] closed.
pub(crate) fn open<'a, T: Deserialize<'a>>(record: &'a [u8]) -> Result<T, Damage> {
    let (sealed, checksum) = record.split_last_chunk::<4>().ok_or(Damage::Short)?;
    let (version, body) = sealed.split_first().ok_or(Damage::Short)?;
    if crc32c::crc32c(sealed) != u32::from_le_bytes(*checksum) {
        return Err(Damage::Checksum);
    }
    if *version != VERSION {
        return Err(Damage::Version(*version));
    }
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        _ => Err(Damage::Shape),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn envelope(members: &[u8]) -> Arc<Envelope> {
        let session = SessionId::new("s1").unwrap();
        let cluster = Cluster::parse("35");
        let fingerprint = hash::fingerprint(&session, cluster, Owner(7), members);
        let visitor = Some(Visitor(9));
        Arc::new(Envelope {
            session,
            cluster,
            owner: Owner(7),
            visitor,
            members: members.into(),
            fingerprint,
        })
    }

    fn page(count: u64) -> PageBuilder {
        let mut page = PageBuilder::default();
        for number in 0..count {
            let id = EventId::new(&format!("n{number}"));
            page.push(&envelope(b"m"), None, Moment::from_micros(number), id, b"{}".to_vec().into());
        }
        page
    }

    #[test]
    fn a_page_comes_back_as_it_was() {
        let record = page(3).finish();
        let read = Page::decode(&record).unwrap();
        assert_eq!((read.len(), read.apart()), (3, None));
        let event = read.event(Seq(10), 2, None).unwrap();
        assert_eq!((event.seq, event.id.as_str(), &*event.envelope), (Seq(12), "n2", &*envelope(b"m")));
        let entries: Vec<Entry> = read.entries(Seq(10)).collect();
        assert_eq!(entries[2], hash::entry(&event));
    }

    #[test]
    fn the_last_sequence_numbers_are_read() {
        let record = page(3).finish();
        let read = Page::decode(&record).unwrap();
        let first = Seq(u64::MAX - 1);
        let seqs: Vec<Seq> = read.entries(first).map(|entry| entry.seq).collect();
        assert_eq!(seqs, [first, Seq(u64::MAX)]);
        let events: Vec<_> = (0..3).map(|position| read.event(first, position, None)).collect();
        assert_eq!(events[1].as_ref().unwrap().seq, Seq(u64::MAX));
        assert_eq!(events[2], None);
    }

    #[test]
    fn equal_envelopes_are_stored_once_and_a_large_one_apart() {
        assert_eq!(page(9).envelopes.len(), 1);
        let apart = Some(Apart { first: 10, events: 2 });
        let mut page = PageBuilder::default();
        let large = envelope(&[b'x'; 2_000]);
        page.push(&large, apart, Moment::ZERO, EventId::new("a"), b"{}".to_vec().into());
        let record = page.finish();
        assert!(record.len() < 200);
        let read = Page::decode(&record).unwrap();
        assert_eq!(read.apart(), apart);
        assert_eq!(read.event(Seq(10), 0, None), None);
        let members = encode_members(&large.members);
        let event = read.event(Seq(10), 0, Some(decode_members(&members).unwrap())).unwrap();
        assert_eq!(*event.envelope, *large);
    }

    #[test]
    fn a_page_ends_at_its_limits_but_takes_any_first_event() {
        let page = page(64);
        assert!(!page.fits(&envelope(b"m"), None, &EventId::new("x"), b"{}"));
        let mut page = PageBuilder::default();
        let (id, big) = (EventId::new("x"), vec![b'x'; PAGE_BYTES * 2]);
        assert!(page.fits(&envelope(b"m"), None, &id, &big));
        page.push(&envelope(b"m"), None, Moment::ZERO, id.clone(), big.into());
        assert!(!page.fits(&envelope(b"m"), None, &id, b"{}"));
    }

    #[test]
    fn a_dead_letter_comes_back_as_it_was() {
        let record = page(1).finish();
        let event = Page::decode(&record).unwrap().event(Seq(5), 0, None).unwrap();
        for reason in
            [DeadReason::Refused, DeadReason::NotAcknowledged, DeadReason::Expired, DeadReason::Dropped]
        {
            let letter = DeadLetter {
                event: event.clone(),
                reason,
                detail: "no".to_owned(),
                at: Moment::from_micros(9),
            };
            assert_eq!(decode_dead(&encode_dead(&letter)), Ok(letter));
        }
    }

    #[test]
    fn every_flipped_bit_is_damage() {
        let record = page(2).finish();
        for bit in 0..record.len() * 8 {
            let mut broken = record.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Page::decode(&broken).err(), Some(Damage::Checksum), "bit {bit}");
        }
        for length in 0..record.len() {
            assert!(Page::decode(&record[..length]).is_err(), "{length} bytes");
        }
    }

    proptest! {
        #[test]
        fn no_body_panics(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut record = vec![VERSION];
            record.extend_from_slice(&body);
            record.extend_from_slice(&crc32c::crc32c(&record).to_le_bytes());
            if let Ok(page) = Page::decode(&record) {
                let _all: Vec<_> = page.entries(Seq(u64::MAX - 1)).collect();
                let _one = page.event(Seq(1), 0, None);
            }
            let _letter = decode_dead(&record);
            let _members = decode_members(&record);
        }
    }
}
