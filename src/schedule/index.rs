//! What of the queue is in memory: the cursor over it, and the marks of what was forgotten.
//!
//! Guarantees:
//! - memory is bounded: a window of events, a table of fixed size for the marks, [`REMEMBERED_WAITS`] waits;
//! - a forgotten event is found again: a mark never lies behind it, and only a whole pass from the mark takes it away;
//! - within a lane nothing is admitted before an older event: the cursor admits nothing of a marked bucket, and a pass
//!   that skipped an event of a lane skips all its later ones.

use std::collections::BTreeMap;
use std::time::Duration;

use super::control::Selection;
use crate::event::{Lane, Moment, Seq};

/// The buckets that lanes are forgotten into.
const BUCKETS: usize = 65_536;
/// While anything is forgotten a pass starts at least this often.
pub(super) const PASS_EVERY: Duration = Duration::from_secs(10);
/// After a pass the next one waits as long as the last one read, so that new events are read too; where a host crowds
/// the index, this many times as long, since it may find that host's lanes only.
const CROWD_RESTS: u32 = 3;
/// The longest such wait.
const MAX_REST: Duration = Duration::from_secs(120);
/// How long after a pass that ended early the next one starts, at least.
const CUT_WAIT: Duration = Duration::from_secs(1);
/// The most forgotten lanes whose wait is remembered exactly; others come back with the next pass.
const REMEMBERED_WAITS: usize = 65_536;
/// The slots of the table of lanes that a pass skipped: with ten million of them one lane in four shares one.
const SKIPPED_SLOTS: usize = 1 << 25;

/// One reading of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// The cursor: everything is new.
    Cursor,
    /// A pass over what was forgotten.
    Pass,
}

#[derive(Debug)]
pub(super) struct Index {
    /// Where the cursor stands.
    pub(super) cursor: Seq,
    /// What is known to be there.
    pub(super) tail: Seq,
    /// The reading under way.
    pub(super) reading: Option<Reader>,
    /// The lowest forgotten number of each bucket, where it has one.
    marks: BTreeMap<usize, Seq>,
    /// When forgotten lanes may be due.
    waits: BTreeMap<Lane, Moment>,
    pass: Option<Pass>,
    next_pass: Moment,
    /// When the last pass ended.
    pass_ended: Moment,
    /// How long the readings of the pass under way took, or of the last one.
    pass_took: Duration,
    /// How many times as long none starts after the last one.
    rests: u32,
    /// What was seen since the pass under way, or the last one, began.
    seen: Seen,
    /// From now on a pass is a whole one.
    whole_from: Moment,
    passes: u64,
}

/// What was seen during a pass.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// It brought something back.
    brought: bool,
    /// Something crowded the index.
    crowd: bool,
}

#[derive(Debug)]
struct Pass {
    at: Seq,
    end: Seq,
    salt: u64,
    /// Lanes of which an event was skipped. A lane that shares a slot with one is skipped too, in this pass only: the
    /// salt changes.
    skipped: Slots,
    marks: BTreeMap<usize, Seq>,
}

/// Some of [`SKIPPED_SLOTS`], 64 in a word: nothing where there are none, and 4 MiB otherwise.
#[derive(Debug, Default)]
struct Slots(Vec<u64>);

impl Slots {
    fn insert(&mut self, slot: usize) {
        if self.0.is_empty() {
            self.0 = vec![0; SKIPPED_SLOTS / 64];
        }
        if let Some(word) = self.0.get_mut(slot / 64) {
            *word |= 1 << (slot % 64);
        }
    }

    fn contains(&self, slot: usize) -> bool {
        self.0.get(slot / 64).is_some_and(|word| word & 1 << (slot % 64) != 0)
    }
}

impl Index {
    pub(super) fn new() -> Self {
        Self {
            cursor: Seq(1),
            tail: Seq(1),
            reading: None,
            marks: BTreeMap::new(),
            waits: BTreeMap::new(),
            pass: None,
            next_pass: Moment::ZERO,
            pass_ended: Moment::ZERO,
            pass_took: Duration::ZERO,
            rests: 1,
            seen: Seen::default(),
            whole_from: Moment::ZERO,
            passes: 0,
        }
    }

    /// What to read next, as far as there is `room`; nothing new where what is known `is_enough`.
    pub(super) fn next(&mut self, now: Moment, room: bool, is_enough: bool) -> Option<(Reader, Seq)> {
        if self.reading.is_some() || !room {
            return None;
        }
        if self.pass.is_none()
            && self.starts_at() <= now
            && let Some(lowest) = self.marks.values().min().copied()
        {
            self.passes += 1;
            let salt = self.passes.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let (skipped, marks) = (Slots::default(), BTreeMap::new());
            self.pass = Some(Pass { at: lowest, end: self.cursor, salt, skipped, marks });
            self.pass_took = Duration::ZERO;
            self.seen = Seen::default();
        }
        let found = match &self.pass {
            // By turns, so that neither a long pass nor a long backlog holds the other up.
            Some(pass) if self.cursor >= self.tail || pass.at <= self.cursor => Some((Reader::Pass, pass.at)),
            _ => (self.cursor < self.tail && !is_enough).then_some((Reader::Cursor, self.cursor)),
        };
        self.reading = found.map(|(reader, _)| reader);
        found
    }

    /// When the next pass may start, if anything is forgotten.
    pub(super) fn wakes(&self) -> Option<Moment> {
        let idle = self.pass.is_none() && self.reading.is_none();
        (!self.marks.is_empty() && idle).then_some(self.starts_at())
    }

    fn starts_at(&self) -> Moment {
        let rest = (self.pass_took * self.rests).min(MAX_REST);
        self.next_pass.max(self.pass_ended.after(rest))
    }

    /// Something crowds the index.
    pub(super) fn note_crowd(&mut self) {
        self.seen.crowd = true;
    }

    /// A reading of a pass took `took`. After the last one the next pass waits, longer where something crowded the
    /// index.
    pub(super) fn rest(&mut self, now: Moment, took: Duration) {
        self.pass_took += took;
        if self.pass.is_none() {
            self.pass_ended = now;
            self.rests = if self.seen.crowd { CROWD_RESTS } else { 1 };
        }
    }

    /// The index is nearly empty, so that a crowd no longer delays the next pass. That starts at once if the cursor is
    /// at the tail and the last pass brought something back.
    pub(super) fn rest_less(&mut self) {
        self.rests = u32::from(!self.seen.brought || self.cursor < self.tail);
    }

    /// The lowest number that may wait on the disk only, if there is one.
    pub(super) fn lowest(&self) -> Option<Seq> {
        let unread = (self.cursor < self.tail).then_some(self.cursor);
        let marks = self.marks.values().chain(self.pass.iter().flat_map(|pass| pass.marks.values())).min();
        [unread, marks.copied()].into_iter().flatten().min()
    }

    /// Whether all that waits is in memory.
    pub(super) fn is_whole(&self) -> bool {
        self.lowest().is_none() && self.pass.is_none()
    }

    /// A pass may find what it left before: it starts as soon as it can.
    pub(super) fn hurry(&mut self, now: Moment) {
        self.next_pass = self.next_pass.min(now);
        self.pass_took = Duration::ZERO;
    }

    /// Forgotten lanes that are meant wait no longer.
    pub(super) fn retry(&mut self, now: Moment, what: Selection) {
        match what {
            Selection::Lane(lane) => drop(self.waits.remove(&lane)),
            Selection::All => self.waits.clear(),
            // Of what was forgotten nobody knows the host.
            Selection::Host(_) => return,
        }
        self.hurry(now);
    }

    pub(super) fn is_marked(&self, lane: Lane) -> bool {
        self.marks.contains_key(&bucket(lane))
    }

    pub(super) fn marked(&self) -> usize {
        self.marks.len()
    }

    /// Forgets the events of a lane from `first` on; it may be due at `due`, but no sooner than it was said to be
    /// before.
    pub(super) fn forget(&mut self, now: Moment, lane: Lane, first: Seq, due: Moment) {
        let due = self.waits.get(&lane).map_or(due, |before| due.max(*before));
        if self.marks.is_empty() {
            self.next_pass = now.after(PASS_EVERY);
        }
        self.next_pass = self.next_pass.min(due.max(now));
        if due > now && (self.waits.len() < REMEMBERED_WAITS || self.waits.contains_key(&lane)) {
            self.waits.insert(lane, due);
        }
        lower(&mut self.marks, lane, first);
        if let Some(pass) = &mut self.pass {
            lower(&mut pass.marks, lane, first);
            pass.skipped.insert(slot(pass.salt, lane));
        }
    }

    /// A forgotten lane is not due before `until`.
    pub(super) fn delay(&mut self, lane: Lane, until: Moment) {
        if self.waits.len() < REMEMBERED_WAITS || self.waits.contains_key(&lane) {
            let due = self.waits.entry(lane).or_insert(until);
            *due = until.max(*due);
        }
    }

    /// Whether a forgotten lane still waits.
    pub(super) fn waits(&mut self, now: Moment, lane: Lane) -> bool {
        match self.waits.get(&lane) {
            Some(until) if *until > now => true,
            Some(_) => {
                self.waits.remove(&lane);
                false
            }
            None => false,
        }
    }

    /// Whether the pass under way has skipped an event of the lane.
    pub(super) fn has_skipped(&self, lane: Lane) -> bool {
        self.pass.as_ref().is_some_and(|pass| pass.skipped.contains(slot(pass.salt, lane)))
    }

    /// Where the pass under way ends.
    pub(super) fn pass_end(&self) -> Option<Seq> {
        self.pass.as_ref().map(|pass| pass.end)
    }

    /// An event that was forgotten came back.
    pub(super) fn note_brought(&mut self) {
        self.seen.brought = true;
    }

    /// The index is nearly full again: the pass under way ends here, unless a whole one is due, and what is behind
    /// stays marked. With a long backlog each pass would read all of it to fill the index once.
    pub(super) fn cut(&mut self, now: Moment) {
        if now >= self.whole_from {
            return;
        }
        let Some(pass) = self.pass.take() else { return };
        let mut marks = pass.marks;
        for (bucket, mark) in &self.marks {
            // What it had read of the bucket is admitted, or marked by the pass.
            let behind = (*mark).max(pass.at);
            let mark = marks.entry(*bucket).or_insert(behind);
            *mark = (*mark).min(behind);
        }
        self.marks = marks;
        self.next_pass = now.after(CUT_WAIT);
    }

    /// A reading came back, up to `next`.
    pub(super) fn read(&mut self, now: Moment, reader: Reader, next: Seq) {
        self.reading = None;
        match (reader, &mut self.pass) {
            (Reader::Cursor, _) => self.cursor = self.cursor.max(next),
            (Reader::Pass, Some(pass)) if next < pass.end => pass.at = next,
            (Reader::Pass, _) => {
                if let Some(pass) = self.pass.take() {
                    self.whole_from = now.after((self.pass_took * CROWD_RESTS).min(MAX_REST));
                    self.marks = pass.marks;
                    self.next_pass = now.after(PASS_EVERY);
                    let earliest = self.waits.values().filter(|due| **due > now).min();
                    self.next_pass = earliest.map_or(self.next_pass, |due| self.next_pass.min(*due));
                    if self.marks.is_empty() {
                        self.waits.clear();
                    }
                }
            }
        }
    }
}

fn lower(marks: &mut BTreeMap<usize, Seq>, lane: Lane, seq: Seq) {
    let mark = marks.entry(bucket(lane)).or_insert(seq);
    *mark = (*mark).min(seq);
}

fn bucket(lane: Lane) -> usize {
    usize::try_from(lane.0 % BUCKETS as u128).unwrap_or(0)
}

fn slot(salt: u64, lane: Lane) -> usize {
    let mixed = (lane.0 >> 64) as u64 ^ (lane.0 as u64).rotate_left(32) ^ salt;
    usize::try_from(mixed.wrapping_mul(0xff51_afd7_ed55_8ccd) >> 39).unwrap_or(0) % SKIPPED_SLOTS
}
