//! What the journal holds, by key: it covers what the engine has.

mod key;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::{Bound, Deref};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use sled::IVec;

use self::key::Key;
use super::frame::{Frame, Kind};

/// How many records move into the engine at once: few enough for the pages that they change to stay in the engine's
/// cache. The engine changes pages in no particular order, and frees nothing that it reads or replaces before it is
/// done with all of them.
const MOVED_AT_ONCE: usize = 256;
/// What moving a record costs beside its bytes, in bytes: the engine reads a page for it and writes what changes. It
/// counts for what is moved at a time, and not for the size of the journal.
const RECORD_COST: usize = 1_024;

/// What a removal takes in the journal, in bytes, but for the longest keys.
const REMOVAL_BYTES: usize = 64;

/// The bounds of a range of keys.
pub(super) type Bounds<'k> = (Bound<&'k [u8]>, Bound<&'k [u8]>);

/// The newest change of each key that the journal has one of. Memory grows with the journal, by about 60 bytes a
/// record.
#[derive(Debug, Default)]
pub(super) struct Index {
    records: BTreeMap<Key, Slot>,
    /// What of them each segment has.
    left: BTreeMap<u64, Left>,
    files: BTreeMap<u64, Arc<File>>,
    /// The greatest key that the engine has, by the first byte; `None` where that is not known. A key beyond it is only
    /// here, so that nothing has to be remembered of it once it is removed.
    tops: Option<BTreeMap<u8, Vec<u8>>>,
    /// How often records left the index for the engine.
    epoch: u64,
}

/// A change, and the segment of the journal that has it. There are many of them, so it has no room for more.
#[derive(Clone, Copy, Debug)]
struct Slot {
    segment: u64,
    /// Where the value begins there.
    at: u32,
    /// How long it is, or [`REMOVED`].
    bytes: u32,
}

/// The length of what is no more; no value is as long.
const REMOVED: u32 = u32::MAX;

impl Slot {
    fn is_removal(self) -> bool {
        self.bytes == REMOVED
    }
}

/// What counts of a segment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Left {
    pub(super) records: usize,
    /// How many of them are removals.
    removals: usize,
    /// What it costs to move the others, as [`cost`] has it.
    pub(super) values_cost: usize,
}

impl Left {
    /// What one record is of it.
    fn of(key: &[u8], slot: Slot) -> Self {
        if slot.is_removal() {
            return Self { records: 1, removals: 1, values_cost: 0 };
        }
        let bytes = usize::try_from(slot.bytes).unwrap_or(usize::MAX).saturating_add(key.len());
        Self { records: 1, removals: 0, values_cost: cost(bytes, 1) }
    }

    /// What it costs to write them again, in bytes: more than they take.
    pub(super) fn cost(self) -> usize {
        self.values_cost.saturating_add(REMOVAL_BYTES.saturating_mul(self.removals))
    }

    fn add(&mut self, one: Self) {
        self.records += one.records;
        self.removals += one.removals;
        self.values_cost = self.values_cost.saturating_add(one.values_cost);
    }

    fn take(&mut self, one: Self) {
        self.records -= one.records;
        self.removals -= one.removals;
        self.values_cost = self.values_cost.saturating_sub(one.values_cost);
    }
}

/// What was found for a key.
#[derive(Clone, Debug)]
pub(super) enum Found {
    /// It was removed, whatever the engine says.
    Removed,
    /// Its value, as the engine has it.
    Value(IVec),
    /// Where its value lies.
    Place {
        /// The segment.
        file: Arc<File>,
        /// From here on.
        at: u64,
        /// Its length.
        bytes: usize,
    },
}

/// What it costs to move `records` records of `bytes` together, in bytes.
pub(super) fn cost(bytes: usize, records: u32) -> usize {
    bytes.saturating_add(RECORD_COST.saturating_mul(usize::try_from(records).unwrap_or(usize::MAX)))
}

impl Found {
    /// How long the value is.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Removed => 0,
            Self::Value(value) => value.len(),
            Self::Place { bytes, .. } => *bytes,
        }
    }

    /// The value; `None` where the key was removed.
    pub(super) fn value(self) -> io::Result<Option<Value>> {
        match self {
            Self::Removed => Ok(None),
            Self::Value(value) => Ok(Some(Value::Engine(value))),
            Self::Place { file, at, bytes } => {
                let mut value = vec![0; bytes];
                file.read_exact_at(&mut value, at)?;
                Ok(Some(Value::Read(value)))
            }
        }
    }
}

/// A value as it was found, so that none is copied for being looked at.
#[derive(Debug)]
pub(super) enum Value {
    /// What the engine has.
    Engine(IVec),
    /// What was read.
    Read(Vec<u8>),
}

impl Value {
    /// Adds what stands behind it.
    pub(super) fn extend(&mut self, more: &[u8]) {
        match self {
            Self::Engine(value) => *self = Self::Read([value, more].concat()),
            Self::Read(value) => value.extend_from_slice(more),
        }
    }
}

impl Deref for Value {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Engine(value) => value,
            Self::Read(value) => value,
        }
    }
}

impl Index {
    /// What the engine has: what is only here and was removed need not be remembered any more.
    pub(super) fn set_tops(&mut self, tops: Option<BTreeMap<u8, Vec<u8>>>) {
        self.tops = tops;
        let mut records = std::mem::take(&mut self.records);
        records.retain(|key, slot| !slot.is_removal() || self.is_below(key.bytes()));
        self.left.clear();
        for (key, slot) in &records {
            self.left.entry(slot.segment).or_default().add(Left::of(key.bytes(), *slot));
        }
        self.records = records;
    }

    pub(super) fn add_file(&mut self, segment: u64, file: Arc<File>) {
        self.files.insert(segment, file);
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Goes on by a change; `from` is where the bytes begin in the segment that `frame` was read of.
    pub(super) fn apply(&mut self, segment: u64, from: u64, frame: Frame<'_>) {
        let slot = match frame.kind {
            Kind::End => return,
            Kind::Remove if self.is_below(frame.key) => Slot { segment, at: 0, bytes: REMOVED },
            Kind::Remove => {
                self.drop_record(frame.key);
                return;
            }
            Kind::Insert => {
                let at = from + (frame.end - frame.value.len()) as u64;
                // A segment is far shorter, and so is a frame. What lies beyond would be read from where it is not, and
                // its checksum would tell.
                let [at, bytes] =
                    [at, frame.value.len() as u64].map(|it| u32::try_from(it).unwrap_or(REMOVED - 1));
                Slot { segment, at, bytes }
            }
        };
        self.left.entry(segment).or_default().add(Left::of(frame.key, slot));
        match self.records.get_mut(frame.key) {
            Some(known) => {
                let before = std::mem::replace(known, slot);
                self.discount(frame.key, before);
            }
            None => drop(self.records.insert(Key::of(frame.key), slot)),
        }
    }

    fn drop_record(&mut self, key: &[u8]) {
        if let Some(gone) = self.records.remove(key) {
            self.discount(key, gone);
        }
    }

    /// The record of `key` is no longer this one.
    fn discount(&mut self, key: &[u8], gone: Slot) {
        if let Some(left) = self.left.get_mut(&gone.segment) {
            left.take(Left::of(key, gone));
        }
    }

    /// Whether the engine may have the key.
    pub(super) fn is_below(&self, key: &[u8]) -> bool {
        let Some(tops) = &self.tops else { return true };
        let Some(tag) = key.first() else { return true };
        tops.get(tag).is_some_and(|top| key <= top.as_slice())
    }

    /// The engine has this key now.
    pub(super) fn lies_below(&mut self, key: &[u8]) {
        if let (Some(tops), Some(tag)) = (&mut self.tops, key.first()) {
            let top = tops.entry(*tag).or_default();
            if key > top.as_slice() {
                *top = key.to_vec();
            }
        }
    }

    pub(super) fn find(&self, key: &[u8]) -> Option<Found> {
        self.found(*self.records.get(key)?)
    }

    /// How many records it has.
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// How many removals it has.
    pub(super) fn removals(&self) -> usize {
        self.left.values().map(|left| left.removals).sum()
    }

    /// What counts of a segment.
    pub(super) fn left(&self, segment: u64) -> Left {
        self.left.get(&segment).copied().unwrap_or_default()
    }

    /// The keys of a range that are removals, each with its segment, [`MOVED_AT_ONCE`] at most.
    pub(super) fn removals_within(&self, bounds: Bounds<'_>) -> Vec<(Vec<u8>, u64)> {
        let records = self.records.range::<[u8], _>(bounds).filter(|(_, slot)| slot.is_removal());
        records.take(MOVED_AT_ONCE).map(|(key, slot)| (key.bytes().to_vec(), slot.segment)).collect()
    }

    /// The engine has made these removals.
    pub(super) fn forget_removals<'k>(&mut self, keys: impl Iterator<Item = &'k [u8]>) {
        for key in keys {
            if self.records.get(key).is_some_and(|slot| slot.is_removal()) {
                self.drop_record(key);
            }
        }
        self.epoch += 1;
    }

    /// The first `count` keys of a range, and what was found for them.
    pub(super) fn within(&self, bounds: Bounds<'_>, count: usize) -> Vec<(Vec<u8>, Found)> {
        let records = self.records.range::<[u8], _>(bounds).take(count);
        records.filter_map(|(key, slot)| Some((key.bytes().to_vec(), self.found(*slot)?))).collect()
    }

    /// All keys from `key` on, and what was found for them.
    pub(super) fn all_from(&self, key: Vec<u8>) -> impl Iterator<Item = (Vec<u8>, Found)> {
        self.records
            .range::<[u8], _>((Bound::Included(&*key), Bound::Unbounded))
            .filter_map(|(key, slot)| Some((key.bytes().to_vec(), self.found(*slot)?)))
    }

    /// The last key up to `end`, and what was found for it.
    pub(super) fn last_to(&self, end: Bound<&[u8]>) -> Option<(Vec<u8>, Found)> {
        let (key, slot) = self.records.range::<[u8], _>((Bound::Unbounded, end)).next_back()?;
        Some((key.bytes().to_vec(), self.found(*slot)?))
    }

    /// The records of a segment behind the key `behind`, until they cost `max` bytes, or are [`MOVED_AT_ONCE`].
    pub(super) fn of_segment(&self, segment: u64, behind: &[u8], max: usize) -> Vec<(Vec<u8>, Found)> {
        let (mut spent, mut records) = (0, Vec::new());
        for (key, slot) in self.records.range::<[u8], _>((Bound::Excluded(behind), Bound::Unbounded)) {
            if slot.segment != segment {
                continue;
            }
            if spent >= max || records.len() >= MOVED_AT_ONCE {
                break;
            }
            if let Some(found) = self.found(*slot) {
                spent += cost(key.bytes().len() + found.bytes(), 1);
                records.push((key.bytes().to_vec(), found));
            }
        }
        records
    }

    /// The engine has all of a segment.
    pub(super) fn forget(&mut self, segment: u64) {
        // A segment of which nothing counts is found by that alone, however many records there are.
        if self.left.remove(&segment).is_some_and(|left| left.records > 0) {
            self.records.retain(|_, slot| slot.segment != segment);
        }
        self.files.remove(&segment);
        self.epoch += 1;
    }

    fn found(&self, slot: Slot) -> Option<Found> {
        if slot.is_removal() {
            return Some(Found::Removed);
        }
        let file = Arc::clone(self.files.get(&slot.segment)?);
        Some(Found::Place { file, at: slot.at.into(), bytes: usize::try_from(slot.bytes).ok()? })
    }
}
