//! The engine's log, read without the engine, and without changing a byte of it.
//!
//! ```text
//! log     = segment*                       each SEGMENT_BYTES long, in any order
//! segment = crc u32 ^ ~0 · lsn u64 ^ ~(1 << 63) · stable lsn u64 · message*
//! message = crc u32 · kind u8 · length · number of the segment · page id · body
//! lsn     = number of the segment * SEGMENT_BYTES + offset in it
//! ```
//!
//! The engine gives a log up at the first message that it cannot read, and with it everything behind; here the next message
//! is looked for, byte by byte. A message counts where its checksum is right and it names its segment, so that what an older
//! use of the segment left behind it is passed over.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::bytes::Bytes;
use crate::queue::engine::SEGMENT_BYTES;

/// The bytes of a segment's header.
const SEGMENT_HEADER: usize = 20;
/// The largest page id that the engine gives.
const MAX_PAGE_ID: u64 = 1 << 37;

/// What a message says of its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It is this now.
    Node,
    /// It changes.
    Link,
    /// It is no more.
    Free,
    /// Nothing that matters for records.
    Other,
}

/// A message, and where its body lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message {
    pub(super) kind: Kind,
    pub(super) page: u64,
    pub(super) place: Place,
}

/// Where the body of a message lies, and when it was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) lsn: u64,
    at: u64,
    bytes: usize,
}

/// The open log.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    tail: Tail,
}

/// What becomes of segments behind the log's end whose header the engine took away when it recovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// They are passed over: the engine went on without them, and uses their numbers again.
    Dropped,
    /// They count: the engine recovered nothing that a queue could go on with.
    Kept,
}

impl Log {
    pub(super) fn open(database: &Path, tail: Tail) -> io::Result<Self> {
        Ok(Self { file: File::open(database.join("db"))?, tail })
    }

    /// Goes through all messages in the order in which they were written; in how many places there was something else between
    /// two of them.
    pub(super) fn messages(&self, mut visit: impl FnMut(Message)) -> io::Result<u64> {
        let (mut segment, mut gaps) = (Vec::new(), 0);
        for (number, at) in self.segments()? {
            self.read_segment(at, &mut segment)?;
            let (mut offset, mut behind) = (SEGMENT_HEADER, SEGMENT_HEADER);
            while offset < segment.len() {
                match message(&segment, offset, Some(number)) {
                    Some(found) => {
                        let lsn = number.saturating_mul(SEGMENT_BYTES as u64).saturating_add(offset as u64);
                        let place = Place { lsn, at: at + found.body as u64, bytes: found.bytes };
                        visit(Message { kind: found.kind, page: found.page, place });
                        gaps += u64::from(offset > behind);
                        offset = found.body + found.bytes;
                        behind = offset;
                    }
                    None => offset += 1,
                }
            }
        }
        Ok(gaps)
    }

    /// The body of a message.
    pub(super) fn body(&self, place: Place) -> io::Result<Vec<u8>> {
        let mut body = vec![0; place.bytes];
        self.file.read_exact_at(&mut body, place.at)?;
        Ok(body)
    }

    /// Where each segment lies, by its number.
    fn segments(&self) -> io::Result<BTreeMap<u64, u64>> {
        let (mut found, mut headless) = (BTreeMap::new(), Vec::new());
        let mut segment = Vec::new();
        let length = self.file.metadata()?.len();
        for at in (0..length).step_by(SEGMENT_BYTES) {
            let mut header = [0; SEGMENT_HEADER];
            let whole = self.file.read_exact_at(&mut header, at).is_ok();
            match number_of(&header).filter(|_| whole) {
                Some(number) => {
                    found.insert(number, at);
                }
                None => headless.push(at),
            }
        }
        let last = found.last_key_value().map(|(number, _)| *number);
        for at in headless {
            self.read_segment(at, &mut segment)?;
            let first = (0..segment.len()).find_map(|offset| message(&segment, offset, None));
            let counts = |number: u64| self.tail == Tail::Kept || last.is_none_or(|last| number <= last);
            if let Some(found_in) = first.filter(|one| counts(one.segment)) {
                found.entry(found_in.segment).or_insert(at);
            }
        }
        Ok(found)
    }

    fn read_segment(&self, at: u64, into: &mut Vec<u8>) -> io::Result<()> {
        into.resize(SEGMENT_BYTES, 0);
        let mut read = 0;
        while let Some(rest) = into.get_mut(read..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, at + read as u64)? {
                0 => break,
                more => read += more,
            }
        }
        into.truncate(read);
        Ok(())
    }
}

/// The number in a segment's header, where that is whole.
fn number_of(header: &[u8; SEGMENT_HEADER]) -> Option<u64> {
    let (crc, rest) = header.split_first_chunk::<4>()?;
    let lsn = u64::from_le_bytes(*rest.first_chunk::<8>()?) ^ (u64::MAX >> 1);
    let sound = crc32fast::hash(rest) == u32::from_le_bytes(*crc) ^ u32::MAX;
    (sound && lsn.is_multiple_of(SEGMENT_BYTES as u64)).then_some(lsn / SEGMENT_BYTES as u64)
}

/// A message inside a segment.
struct Found {
    kind: Kind,
    page: u64,
    segment: u64,
    body: usize,
    bytes: usize,
}

/// The message that begins at `offset`, if one does; of the segment `number`, if that is known.
fn message(segment: &[u8], offset: usize, number: Option<u64>) -> Option<Found> {
    let whole = segment.get(offset..)?;
    // The rest is looked at only where there is a known kind: most bytes are passed over by this.
    let kind = match *whole.get(4)? {
        8 => Kind::Node,
        10 => Kind::Link,
        4 => Kind::Free,
        1..=11 => Kind::Other,
        _ => return None,
    };
    let mut rest = Bytes(whole.get(5..)?);
    let (bytes, named, page) = (usize::try_from(rest.number()?).ok()?, rest.number()?, rest.number()?);
    if number.is_some_and(|number| number != named) || bytes > rest.0.len() {
        return None;
    }
    // The manifest of a batch has a page id of its own, beyond all others.
    if number.is_none() && page > MAX_PAGE_ID {
        return None;
    }
    let header = whole.get(4..whole.len() - rest.0.len())?;
    let mut crc = crc32fast::Hasher::new();
    crc.update(rest.0.get(..bytes)?);
    crc.update(header);
    let stored = u32::from_le_bytes(*whole.first_chunk::<4>()?);
    let sound = crc.finalize() ^ u32::MAX == stored;
    sound.then(|| Found { kind, page, segment: named, body: offset + 4 + header.len(), bytes })
}
