//! How large a journal may get: in bytes, and in what it makes a start read and memory hold.

use std::sync::atomic::{AtomicU64, Ordering};

/// How many segments a full journal has.
const SEGMENTS: u64 = 16;
/// The largest journal, in bytes.
const MAX_BYTES: u64 = 512 * 1_024 * 1_024;
/// The part of `queue.max_bytes` that a journal has at most.
const SHARE: u64 = 8;
/// The smallest segment, in bytes.
const MIN_SEGMENT_BYTES: u64 = 4 * 1_024;
/// The most records of the index before some move on, however small the journal is: about 6 MiB of memory.
const MAX_RECORDS: u64 = 100_000;
/// The most records of the smallest journal.
const LEAST_RECORDS: u64 = 64;
/// A journal may have one record for this many bytes of its limit, but for a small one.
const BYTES_A_RECORD: u64 = 1_024;
/// For each record that a journal may have, this many changes may be in its segments. A start reads them all, and
/// remembers them until it knows which of them count.
const CHANGES_A_RECORD: u64 = 8;

/// How large a journal is to be beside a queue of `max_bytes` (`queue.max_bytes`), in bytes.
#[must_use]
pub fn journal_bytes(max_bytes: u64) -> u64 {
    (max_bytes / SHARE).min(MAX_BYTES)
}

/// The limit of a journal; a reload changes it.
#[derive(Debug)]
pub(super) struct Size(AtomicU64);

impl Default for Size {
    fn default() -> Self {
        Self(AtomicU64::new(MAX_BYTES))
    }
}

impl Size {
    /// From now on it is this many bytes.
    pub(super) fn set(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    /// The most bytes of all segments.
    pub(super) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// The most bytes of a segment.
    pub(super) fn segment_bytes(&self) -> u64 {
        (self.bytes() / SEGMENTS).max(MIN_SEGMENT_BYTES)
    }

    /// The most records before some move on.
    pub(super) fn records(&self) -> usize {
        usize::try_from(self.changes() / CHANGES_A_RECORD).unwrap_or(usize::MAX)
    }

    /// The most changes in all segments before the oldest of them goes.
    fn changes(&self) -> u64 {
        (self.bytes() / BYTES_A_RECORD).clamp(LEAST_RECORDS, MAX_RECORDS) * CHANGES_A_RECORD
    }

    /// How many times as large as it may be a journal of so much is; 0 where it is within its limits.
    pub(super) fn times(&self, bytes: u64, changes: u64, records: usize) -> usize {
        let (most_bytes, most_changes, most_records) = (self.bytes(), self.changes(), self.records());
        if bytes <= most_bytes && changes <= most_changes && records <= most_records {
            return 0;
        }
        let times = usize::try_from((bytes / most_bytes.max(1)).max(changes / most_changes));
        times.unwrap_or(usize::MAX).max(records / most_records).max(1)
    }
}
