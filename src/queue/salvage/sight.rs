//! What the engine would give up if it opened a log, found out before it does, since it writes over that.
//!
//! The engine replays its log up to the first message behind the last place known to be stable that it cannot read; it
//! makes that the new end, and zeroes what is behind; without the segment of that stable place it zeroes everything. In
//! the segments before, it passes over the rest of a segment behind a message that it cannot read, and over a whole
//! segment without its header. All of this but the second is also what a crash leaves:
//!
//! - a crash tears the log inside **one** commit, since each is durable before the next begins. So a gap is damage
//!   where it lies below a place called stable by a header or snapshot, inside a batch that another follows, or before
//!   two batches;
//! - what an open frees, or truncates, is gone at once, also between the place that a header calls stable and the end.
//!   The engine then begins at the snapshot of that open; one that replays the log alone takes it for a tear, whatever
//!   is behind. So no tear lies below the place that a snapshot says the log reached, also where the snapshot is not
//!   used;
//! - nor does one lie below the place that the journal says was on stable storage: what moved into the engine up to
//!   there was given up by the journal;
//! - a crash also tears a segment that is used again, in which nothing counts any more: a segment before the end is
//!   damaged only where a message that the engine passes over is among those that make up a page now.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use super::log::{BehindEnd, Kind, LEAST_ROOM, Log, LogSegment, Message, SEGMENT_HEADER, walk};
use crate::queue::engine::LOG_SEGMENT_BYTES;

/// What can be read and would be given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::queue) enum Loss {
    /// The end of the log, behind a place in it.
    Tail { lsn: u64, messages: u64 },
    /// Parts of segments before it, with pages of the database that are in use.
    Inside { pages: u64 },
    /// Nothing is lost, but the commit at the end would count by half: the engine gave it up because it could not read
    /// a page.
    Half { lsn: u64 },
    /// Its end is missing: a snapshot points to pages behind it, or the engine would skip the batch that begins before
    /// it.
    Short { end: u64, reached: u64 },
}

impl std::fmt::Display for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tail { lsn, messages } => {
                write!(f, "it cannot be read at {lsn}, and behind that are {messages} messages which can")
            }
            Self::Inside { pages } => {
                write!(f, "places in it cannot be read, and behind them are parts of {pages} pages which can")
            }
            Self::Half { lsn } => write!(f, "it ends in a commit that was given up in its middle, at {lsn}"),
            Self::Short { end, reached } => write!(f, "it ends at {end}, and reached to {reached} once"),
        }
    }
}

/// What the snapshots of a database, and its journal, tell of its log.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::queue) struct Known {
    /// The place that the engine begins to replay at: the end of the newest snapshot; 0 where it has none, and replays
    /// all.
    pub(in crate::queue) recovered: u64,
    /// The place that the log reached once, by the snapshots that there are or were.
    pub(in crate::queue) reached: u64,
    /// The place up to which all of it was on stable storage once, by the journal.
    pub(in crate::queue) durable: u64,
}

/// Where the log of `database` ends now.
pub(in crate::queue) fn log_end(database: &Path) -> io::Result<u64> {
    Log::open(database, BehindEnd::Dropped)?.end()
}

/// Reads the whole log of `database` once, so that an I/O error comes out, and says for each of `known` what the engine
/// would give up of it. In memory is a flag for each page, and each of `known`.
pub(in crate::queue) fn would_lose<const N: usize>(
    database: &Path,
    known: [Known; N],
) -> io::Result<[Option<Loss>; N]> {
    let log = match Log::open(database, BehindEnd::Kept) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(known.map(|_| None)),
        opened => opened?,
    };
    let (segments, stable) = log.segments()?;
    let mut sights = known.map(|known| Sight::new(known, stable));
    log.each(&segments, |number, segment, bytes| {
        sights.iter_mut().for_each(|sight| sight.look(number, segment, bytes));
    })?;
    Ok(sights.map(Sight::loss))
}

#[derive(Default)]
struct Sight {
    /// Up to here the log was on stable storage once, by its headers, any snapshot or the journal.
    stable: u64,
    /// A snapshot says so.
    recovered: u64,
    /// The journal says so.
    durable: u64,
    /// The segment that the end of the log is looked for from.
    tail: u64,
    /// The next segment of the tail, as long as nothing is missing.
    expected: u64,
    /// Where the engine stops.
    tear: Option<u64>,
    /// The end of the last batch that it sees.
    batch_end: u64,
    /// Whether that segment is there: without it the engine sees no end, and drops all that it would replay.
    is_tail_there: bool,
    /// Messages that it would replay, if no snapshot held what they say.
    replayed: u64,
    /// Where a batch was given up that others would see a part of, if there is none behind it; and whether that is so.
    given_up: Option<(u64, bool)>,
    /// Messages behind the tear.
    behind: u64,
    /// Batches there in segments with a header, and the most in one without: of those, some may be from before a crash.
    batches: u64,
    most_headless: u64,
    /// Whether a part of what makes up a page now is passed over.
    pages: HashMap<u64, bool>,
}

impl Sight {
    /// Of a log whose headers call it stable up to `stable`.
    fn new(Known { recovered, reached, durable }: Known, stable: u64) -> Self {
        let stable = stable.max(recovered);
        let tail = stable / LOG_SEGMENT_BYTES as u64;
        let all_stable = stable.max(reached).max(durable);
        Self { stable: all_stable, recovered, durable, tail, expected: tail, ..Self::default() }
    }

    fn look(&mut self, number: u64, segment: LogSegment, bytes: &[u8]) {
        let first = number.saturating_mul(LOG_SEGMENT_BYTES as u64);
        let is_tail = number >= self.tail;
        self.is_tail_there |= number == self.tail && segment.headed;
        let is_replayed = number >= self.recovered / LOG_SEGMENT_BYTES as u64;
        if is_tail && self.tear.is_none() && (number != self.expected || !segment.headed) {
            self.tear = Some(self.expected.saturating_mul(LOG_SEGMENT_BYTES as u64));
        }
        let (mut seen, mut capped, mut end, mut headless) = (segment.headed, false, SEGMENT_HEADER, 0);
        walk(bytes, number, segment.at, |message| {
            seen &= message.joins && !capped;
            if seen {
                end = message.place.end(bytes, segment.at);
                capped = message.kind == Kind::Cap;
            } else if is_tail && self.tear.is_none() {
                self.tear = Some(first.saturating_add(end as u64));
            }
            self.replayed += u64::from(is_replayed);
            if self.tear.is_some() {
                self.behind += 1;
                match message.kind {
                    Kind::Batch if segment.headed => self.batches += 1,
                    Kind::Batch => headless += 1,
                    _ => {}
                }
                return;
            }
            if is_tail && message.kind == Kind::Batch {
                let body = message.place.body(bytes, segment.at).and_then(|body| body.first_chunk());
                self.batch_end = body.map_or(0, |body| u64::from_le_bytes(*body));
            }
            self.give_up(message);
            self.keep(message, seen);
        });
        self.most_headless = self.most_headless.max(headless);
        // Nothing is missing where another one had no room.
        let is_whole = capped || end + LEAST_ROOM > LOG_SEGMENT_BYTES;
        if is_tail && self.tear.is_none() {
            match is_whole {
                true => self.expected = number + 1,
                false => self.tear = Some(first.saturating_add(end as u64)),
            }
        }
    }

    /// What a message before the tear makes of a batch that was given up.
    fn give_up(&mut self, message: Message) {
        match message.kind {
            Kind::Aborted => self.given_up = self.given_up.or(Some((message.place.lsn, false))),
            Kind::Batch => self.given_up = None,
            Kind::Node | Kind::Link | Kind::Free => {
                self.given_up = self.given_up.map(|(lsn, _)| (lsn, true));
            }
            Kind::Cap | Kind::Other | Kind::Canceled => {}
        }
    }

    /// What a message before the tear makes of its page.
    fn keep(&mut self, message: Message, seen: bool) {
        match message.kind {
            Kind::Node | Kind::Free | Kind::Other => {
                self.pages.insert(message.page, !seen);
            }
            // Without a base it says nothing.
            Kind::Link => {
                if let Some(hidden) = self.pages.get_mut(&message.page) {
                    *hidden |= !seen;
                }
            }
            Kind::Batch | Kind::Cap | Kind::Canceled | Kind::Aborted => {}
        }
    }

    fn loss(self) -> Option<Loss> {
        if !self.is_tail_there && self.replayed > 0 {
            return Some(Loss::Tail { lsn: self.stable, messages: self.replayed });
        }
        if let Some(lsn) = self.tear.filter(|_| self.behind > 0) {
            let batches = self.batches.max(self.most_headless);
            if lsn < self.stable || batches >= 2 || (batches == 1 && lsn <= self.batch_end) {
                return Some(Loss::Tail { lsn, messages: self.behind });
            }
        }
        // Where a snapshot reaches beyond it, the engine has taken it in already.
        if let Some((lsn, true)) = self.given_up.filter(|(lsn, _)| *lsn >= self.recovered) {
            return Some(Loss::Half { lsn });
        }
        let end = self.tear.unwrap_or(self.expected.saturating_mul(LOG_SEGMENT_BYTES as u64));
        let reached = self.recovered.max(self.durable);
        if end < reached {
            return Some(Loss::Short { end, reached });
        }
        let pages = self.pages.values().filter(|hidden| **hidden).count() as u64;
        (pages > 0).then_some(Loss::Inside { pages })
    }
}
