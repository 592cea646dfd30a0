use std::sync::Arc;

use proptest::prelude::*;

use super::page::PAGE_BYTES;
use super::*;
use crate::event::{Cluster, Entry, Envelope, EventId, Owner, SessionId, Visitor};
use crate::wire::hash;

fn envelope(members: &[u8]) -> Arc<Envelope> {
    let session = SessionId::new("s1").unwrap();
    let cluster = Cluster::parse("35");
    let fingerprint = hash::fingerprint(&session, cluster, Owner(7), members);
    let visitor = Some(Visitor(9));
    Arc::new(Envelope { session, cluster, owner: Owner(7), visitor, members: members.into(), fingerprint })
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
    assert_eq!(open::<PageShape<'_>>(&page(9).finish()).unwrap().envelopes.len(), 1);
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
    for reason in [DeadReason::Refused, DeadReason::NotAcknowledged, DeadReason::Expired, DeadReason::Dropped]
    {
        let letter =
            DeadLetter { event: event.clone(), reason, detail: "no".to_owned(), at: Moment::from_micros(9) };
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
