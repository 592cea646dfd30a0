//! The engine's log, read without the engine, and without changing a byte of it.
//!
//! ```text
//! log     = segment*                       each LOG_SEGMENT_BYTES long, in any order
//! segment = crc u32 ^ ~0 · lsn u64 ^ ~(1 << 63) · stable lsn u64 · message*
//! message = crc u32 · kind u8 · length · number of the segment · page id · body
//! lsn     = number of the segment * LOG_SEGMENT_BYTES + offset in it
//! ```
//!
//! The engine gives a log up at the first message that it cannot read, and with it everything behind; here the next
//! message is looked for, byte by byte. A message counts where its checksum is right and it names its segment, so that
//! what an older use of the segment left behind it is passed over.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use super::bytes::Bytes;
use crate::queue::engine::LOG_SEGMENT_BYTES;

/// The bytes of a segment's header.
pub(super) const SEGMENT_HEADER: usize = 20;
/// The engine expects no message where fewer bytes of a segment than this are left.
pub(super) const LEAST_ROOM: usize = 32;
/// How many threads read a log that is gone through; each has up to three segments in memory.
const READERS: usize = 2;
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
    /// A batch begins, whose body says where it ends.
    Batch,
    /// Nothing more comes in this segment.
    Cap,
    /// Nothing that matters for records: what the engine keeps for itself.
    Other,
    /// Nothing at all.
    Canceled,
    /// A batch that was given up: what follows, up to the next batch, is a part of it.
    Aborted,
}

/// A message, and where its body lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message {
    pub(super) kind: Kind,
    pub(super) page: u64,
    pub(super) place: Place,
    /// The place behind it.
    end: u64,
    /// Whether the message before it in the segment ends where this one begins.
    pub(super) joins: bool,
}

/// Where a segment lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogSegment {
    pub(super) at: u64,
    /// Whether its header can be read: without it the engine does not know of it.
    pub(super) headed: bool,
}

/// The segments of a log by their numbers, and the highest place that one of them says was on stable storage.
pub(super) type Segments = (BTreeMap<u64, LogSegment>, u64);

/// Where the body of a message lies, and when it was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) lsn: u64,
    at: u64,
    bytes: usize,
}

impl Place {
    /// The body, out of the bytes of a segment that lies `at` there.
    pub(super) fn body(self, segment: &[u8], at: u64) -> Option<&[u8]> {
        let from = usize::try_from(self.at.checked_sub(at)?).ok()?;
        segment.get(from..from.checked_add(self.bytes)?)
    }

    pub(super) fn bytes(self) -> u64 {
        self.bytes as u64
    }

    /// Where the next message begins.
    pub(super) fn end(self, segment: &[u8], at: u64) -> usize {
        let from = usize::try_from(self.at.saturating_sub(at)).unwrap_or(usize::MAX);
        from.saturating_add(self.bytes).min(segment.len())
    }
}

/// The open log.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    behind_end: BehindEnd,
}

/// What becomes of segments behind the log's end whose header the engine took away when it recovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BehindEnd {
    /// They are passed over: the engine went on without them, and uses their numbers again.
    Dropped,
    /// They count: the engine recovered nothing that a queue could go on with.
    Kept,
}

impl Log {
    pub(super) fn open(database: &Path, behind_end: BehindEnd) -> io::Result<Self> {
        Ok(Self { file: File::open(database.join("db"))?, behind_end })
    }

    /// As [`Log::open`], where one that is not there is an empty one.
    pub(super) fn open_or_empty(database: &Path, behind_end: BehindEnd) -> io::Result<Self> {
        match Self::open(database, behind_end) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Self { file: File::open("/dev/null")?, behind_end })
            }
            opened => opened,
        }
    }

    /// Goes through all messages in the order in which they were written; in how many places there was something else
    /// between two of them.
    pub(super) fn messages(&self, mut visit: impl FnMut(Message)) -> io::Result<u64> {
        let mut gaps = 0;
        self.each(&self.segments()?.0, |number, segment, bytes| {
            walk(bytes, number, segment.at, |message| {
                gaps += u64::from(!message.joins);
                visit(message);
            });
        })?;
        Ok(gaps)
    }

    /// The place up to which the log holds whole batches only, as the engine sees it; what lies below `sure` was on
    /// stable storage once.
    pub(super) fn whole_up_to(&self, sure: u64) -> io::Result<u64> {
        let sure = self.segments()?.1.saturating_add(1).max(sure);
        let (mut at, mut batch, mut cut, mut failed) = (0, None, None, None);
        self.messages(|message| {
            if cut.is_some() {
                return;
            }
            if let Some((_, end)) = batch
                && at > end
            {
                batch = None;
            }
            if at >= sure && !follows(at, &message) {
                cut = Some(at);
                return;
            }
            if message.kind == Kind::Batch {
                match self.body(message.place) {
                    Ok(body) => {
                        let end = body.first_chunk().map_or(0, |end| u64::from_le_bytes(*end));
                        batch = Some((message.place.lsn, end)).filter(|_| end >= sure);
                    }
                    Err(error) => failed = Some(error),
                }
            }
            at = message.end;
        })?;
        let torn = batch.filter(|(_, end)| at <= *end).map(|(from, _)| from);
        failed.map_or(Ok(torn.or(cut).unwrap_or(u64::MAX)), Err)
    }

    /// Where it ends: behind the messages of the last segment that join each other.
    pub(super) fn end(&self) -> io::Result<u64> {
        let (mut last, mut header) = (None, [0; SEGMENT_HEADER]);
        for at in (0..self.file.metadata()?.len()).step_by(LOG_SEGMENT_BYTES) {
            let whole = self.read_up_to(at, &mut header)? == SEGMENT_HEADER;
            let number = read_header(&header).filter(|_| whole).map(|(number, _)| number);
            last = last.max(number.map(|number| (number, at)));
        }
        let Some((number, at)) = last else { return Ok(0) };
        let mut bytes = Vec::new();
        self.read_segment(at, &mut bytes)?;
        let (mut end, mut joins) = (number.saturating_mul(LOG_SEGMENT_BYTES as u64), true);
        walk(&bytes, number, at, |message| {
            joins &= message.joins;
            end = if joins { message.end } else { end };
        });
        Ok(end)
    }

    /// The body of a message.
    pub(super) fn body(&self, place: Place) -> io::Result<Vec<u8>> {
        let mut body = vec![0; place.bytes];
        self.file.read_exact_at(&mut body, place.at)?;
        Ok(body)
    }

    /// Where each segment lies, by its number.
    pub(super) fn segments(&self) -> io::Result<Segments> {
        let (mut found, mut headless, mut stable) = (BTreeMap::new(), Vec::new(), 0);
        let mut bytes = Vec::new();
        let length = self.file.metadata()?.len();
        for at in (0..length).step_by(LOG_SEGMENT_BYTES) {
            let mut header = [0; SEGMENT_HEADER];
            let whole = self.read_up_to(at, &mut header)? == SEGMENT_HEADER;
            match read_header(&header).filter(|_| whole) {
                Some((number, up_to)) => {
                    found.insert(number, LogSegment { at, headed: true });
                    stable = stable.max(up_to);
                }
                None => headless.push(at),
            }
        }
        let last = found.last_key_value().map(|(number, _)| *number);
        for at in headless {
            self.read_segment(at, &mut bytes)?;
            let first = (0..bytes.len()).find_map(|offset| message(&bytes, offset, None));
            let counts =
                |number: u64| self.behind_end == BehindEnd::Kept || last.is_none_or(|last| number <= last);
            if let Some(found_in) = first.filter(|one| counts(one.segment)) {
                found.entry(found_in.segment).or_insert(LogSegment { at, headed: false });
            }
        }
        Ok((found, stable))
    }

    /// Shows each of `segments` in its order, with its bytes as far as the file reaches. Of a log in the system's
    /// memory most of the time goes into copying, so it is read in [`READERS`] threads, where the system has any to
    /// give.
    pub(super) fn each(
        &self,
        segments: &BTreeMap<u64, LogSegment>,
        show: impl FnMut(u64, LogSegment, &[u8]),
    ) -> io::Result<()> {
        self.each_by(|_| thread::Builder::new().name("log-reader".to_owned()), segments, show)
    }

    /// As [`Log::each`], with the threads that `reader` describes by their numbers.
    pub(super) fn each_by(
        &self,
        reader: impl Fn(usize) -> thread::Builder,
        segments: &BTreeMap<u64, LogSegment>,
        mut show: impl FnMut(u64, LogSegment, &[u8]),
    ) -> io::Result<()> {
        thread::scope(|scope| {
            let started: io::Result<Vec<_>> = (0..READERS)
                .map(|lane| {
                    let (filled, full) = mpsc::sync_channel(1);
                    let (emptied, empty) = mpsc::channel();
                    let own = segments.values().skip(lane).step_by(READERS);
                    reader(lane).spawn_scoped(scope, move || self.read_into(own, &filled, &empty))?;
                    Ok((full, emptied))
                })
                .collect();
            let Ok(lanes) = started else {
                // No error of the disk. Those that did start end: nobody takes what they read.
                let mut bytes = Vec::new();
                return segments.iter().try_for_each(|(number, segment)| {
                    self.read_segment(segment.at, &mut bytes)?;
                    show(*number, *segment, &bytes);
                    Ok(())
                });
            };
            for ((number, segment), (full, emptied)) in segments.iter().zip(lanes.iter().cycle()) {
                // It ends early only by a panic, which the scope hands on.
                let bytes = full.recv().map_err(io::Error::other)??;
                show(*number, *segment, &bytes);
                // A reader that has read all takes none back.
                let _done = emptied.send(bytes);
            }
            Ok(())
        })
    }

    /// Hands the bytes of `segments` on, one after the other, until nobody takes them; in memory that came back, where
    /// there is some.
    fn read_into<'s>(
        &self,
        segments: impl Iterator<Item = &'s LogSegment>,
        filled: &mpsc::SyncSender<io::Result<Vec<u8>>>,
        empty: &mpsc::Receiver<Vec<u8>>,
    ) {
        for segment in segments {
            let mut bytes = empty.try_recv().unwrap_or_default();
            let read = self.read_segment(segment.at, &mut bytes).map(|()| bytes);
            if filled.send(read).is_err() {
                return;
            }
        }
    }

    /// Reads the segment that lies `at` there, as far as the file reaches.
    pub(super) fn read_segment(&self, at: u64, into: &mut Vec<u8>) -> io::Result<()> {
        into.resize(LOG_SEGMENT_BYTES, 0);
        let read = self.read_up_to(at, into)?;
        into.truncate(read);
        Ok(())
    }

    /// Fills `into` as far as the file reaches; how far that was.
    fn read_up_to(&self, at: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut read = 0;
        while let Some(rest) = into.get_mut(read..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, at + read as u64) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }
}

/// Whether a message is the next one behind the place `at`, at which another one ended.
fn follows(at: u64, message: &Message) -> bool {
    let segment = LOG_SEGMENT_BYTES as u64;
    let next = at.next_multiple_of(segment);
    let begins = next + SEGMENT_HEADER as u64;
    message.joins
        && (message.place.lsn / segment == at / segment && !at.is_multiple_of(segment)
            || message.place.lsn == begins && next - at < LEAST_ROOM as u64)
}

/// Goes through the messages of the segment `number`, whose `bytes` lie `at` there.
pub(super) fn walk(bytes: &[u8], number: u64, at: u64, mut visit: impl FnMut(Message)) {
    let (mut offset, mut behind) = (SEGMENT_HEADER, SEGMENT_HEADER);
    while offset < bytes.len() {
        match message(bytes, offset, Some(number)) {
            Some(found) => {
                let lsn = number.saturating_mul(LOG_SEGMENT_BYTES as u64).saturating_add(offset as u64);
                let place = Place { lsn, at: at + found.body as u64, bytes: found.bytes };
                let joins = offset == behind;
                offset = found.body + found.bytes;
                let end = number.saturating_mul(LOG_SEGMENT_BYTES as u64).saturating_add(offset as u64);
                visit(Message { kind: found.kind, page: found.page, place, end, joins });
                behind = offset;
            }
            None => offset += 1,
        }
    }
}

/// The number in a segment's header, and up to where it says that the log was on stable storage, where it is whole.
fn read_header(header: &[u8; SEGMENT_HEADER]) -> Option<(u64, u64)> {
    let (crc, rest) = header.split_first_chunk::<4>()?;
    let (lsn, stable) = rest.split_first_chunk::<8>()?;
    let (lsn, stable) = (lsn_of(*lsn), lsn_of(*stable.first_chunk::<8>()?));
    let sound = crc32fast::hash(rest) == u32::from_le_bytes(*crc) ^ u32::MAX;
    // The first segments of a database say that nothing was, with a negative number.
    let stable = if i64::try_from(stable).is_ok() { stable } else { 0 };
    (sound && lsn.is_multiple_of(LOG_SEGMENT_BYTES as u64))
        .then_some((lsn / LOG_SEGMENT_BYTES as u64, stable))
}

fn lsn_of(bytes: [u8; 8]) -> u64 {
    u64::from_le_bytes(bytes) ^ (u64::MAX >> 1)
}

/// A message as it lies in the bytes of a segment.
struct Parsed {
    kind: Kind,
    page: u64,
    segment: u64,
    body: usize,
    bytes: usize,
}

/// The message that begins at `offset`, if one does; of the segment `number`, if that is known.
fn message(segment: &[u8], offset: usize, number: Option<u64>) -> Option<Parsed> {
    let whole = segment.get(offset..)?;
    // The rest is looked at only where there is a known kind: most bytes are passed over by this.
    let kind = match *whole.get(4)? {
        8 => Kind::Node,
        10 => Kind::Link,
        4 => Kind::Free,
        3 => Kind::Batch,
        2 => Kind::Cap,
        1 => Kind::Canceled,
        5..=11 => Kind::Other,
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
    let kind = if kind == Kind::Canceled && page > MAX_PAGE_ID { Kind::Aborted } else { kind };
    let header = whole.get(4..whole.len() - rest.0.len())?;
    let mut crc = crc32fast::Hasher::new();
    crc.update(rest.0.get(..bytes)?);
    crc.update(header);
    let stored = u32::from_le_bytes(*whole.first_chunk::<4>()?);
    let sound = crc.finalize() ^ u32::MAX == stored;
    sound.then(|| Parsed { kind, page, segment: named, body: offset + 4 + header.len(), bytes })
}
