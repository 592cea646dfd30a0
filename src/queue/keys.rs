//! The keys of the one tree. Big-endian numbers, so that their order is the order of admission.
//!
//! ```text
//! e ‖ first seq ‖ count u8 ‖ part u16   a page of `count` events
//! s ‖ first seq                         which events of that page are settled, a bit each
//! v ‖ first seq ‖ part u16              the large envelope of a submission
//! d ‖ seq ‖ part u16                    a dead letter
//! m ‖ name                              a small value that belongs to the whole queue
//! q ‖ the key that it had               a record that could not be read
//! ```
//!
//! A record that is larger than one value may be is cut over consecutive parts. The number of a page's events is in the
//! key, so that a page that cannot be read is still accounted for.

use crate::event::Seq;

/// The tag of pages.
pub(super) const PAGE: u8 = b'e';
/// The tag of marks of settled events.
pub(super) const MARK: u8 = b's';
/// The tag of large envelopes.
pub(super) const MEMBERS: u8 = b'v';
/// The tag of dead letters.
pub(super) const DEAD: u8 = b'd';
/// The tag of values that belong to the whole queue.
pub(super) const META: u8 = b'm';
/// The tag of what could not be read.
pub(super) const QUARANTINE: u8 = b'q';

/// The most bytes of one value: a larger one would be written to a file that the storage engine never syncs.
pub(super) const VALUE_BYTES: usize = 6_900;

/// Where a page lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PageKey {
    pub(super) first: Seq,
    pub(super) count: u8,
}

impl PageKey {
    /// The sequence number behind the page's last.
    pub(super) fn next(self) -> Seq {
        Seq(self.first.0.saturating_add(u64::from(self.count)))
    }

    /// The mark of a page whose events are all settled.
    pub(super) fn full(self) -> u64 {
        u64::MAX.checked_shr(64_u32.saturating_sub(u32::from(self.count))).unwrap_or(0)
    }

    /// The events that a mark does not have, a bit each.
    pub(super) fn left(self, mark: u64) -> u64 {
        self.full() & !mark
    }

    /// The bit of `seq` in the page's mark; 0 where the page does not have it.
    pub(super) fn bit(self, seq: Seq) -> u64 {
        match seq.0.checked_sub(self.first.0) {
            Some(offset) if offset < u64::from(self.count) => 1 << offset,
            _ => 0,
        }
    }

    pub(super) fn part(self, part: u16) -> Vec<u8> {
        let mut key = numbered(PAGE, self.first);
        key.push(self.count);
        key.extend_from_slice(&part.to_be_bytes());
        key
    }

    /// The page and the part that `key` names, if it is a page's.
    pub(super) fn read(key: &[u8]) -> Option<(Self, u16)> {
        let rest = key.strip_prefix(&[PAGE])?;
        let (first, rest) = rest.split_first_chunk::<8>()?;
        let (count, part) = rest.split_first()?;
        let key = Self { first: Seq(u64::from_be_bytes(*first)), count: *count };
        let sound = (1..=64).contains(count);
        sound.then_some((key, u16::from_be_bytes(part.try_into().ok()?)))
    }
}

/// `tag` and a sequence number: the beginning of all keys of that record.
pub(super) fn numbered(tag: u8, seq: Seq) -> Vec<u8> {
    let mut key = Vec::with_capacity(12);
    key.push(tag);
    key.extend_from_slice(&seq.0.to_be_bytes());
    key
}

pub(super) fn part(tag: u8, seq: Seq, part: u16) -> Vec<u8> {
    let mut key = numbered(tag, seq);
    key.extend_from_slice(&part.to_be_bytes());
    key
}

/// The sequence number of a key that begins with `tag`.
pub(super) fn seq_of(tag: u8, key: &[u8]) -> Option<Seq> {
    let rest = key.strip_prefix(&[tag])?;
    rest.first_chunk::<8>().map(|bytes| Seq(u64::from_be_bytes(*bytes)))
}

pub(super) fn meta(name: &str) -> Vec<u8> {
    [&[META], name.as_bytes()].concat()
}

pub(super) fn quarantine(key: &[u8]) -> Vec<u8> {
    [&[QUARANTINE], key].concat()
}

/// The parts of a record, numbered. Their number fits: `ingest.max_line` bounds a record far below 65,536 values.
pub(super) fn cut(record: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    (0..=u16::MAX).zip(record.chunks(VALUE_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_key_comes_back() {
        let key = PageKey { first: Seq(7), count: 64 };
        assert_eq!(PageKey::read(&key.part(3)), Some((key, 3)));
        assert_eq!((key.full(), key.next()), (u64::MAX, Seq(71)));
        let one = PageKey { first: Seq(7), count: 1 };
        assert_eq!((one.full(), one.bit(Seq(7)), one.bit(Seq(8)), one.bit(Seq(6))), (1, 1, 0, 0));
        for bad in [&b""[..], b"e", b"x00000000", &key.part(3)[..11], &[b'e'; 13]] {
            assert_eq!(PageKey::read(bad), None);
        }
    }
}
