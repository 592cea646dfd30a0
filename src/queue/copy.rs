//! The copy of a database whose disk failed: every record that can be read, written anew.
//!
//! Guarantees:
//! - an I/O error ends the copy: what cannot be read now may be there all the same, and no smaller database takes its
//!   place;
//! - what was read and is damaged is passed over and told; the scan of the queue counts the events that were in it, and
//!   the old database is kept in quarantine.

use std::ops::Bound;
use std::path::Path;

use tracing::error;

use super::batch::Batch;
use super::commit_error::CommitError;
use super::engine::Engine;
use super::new_database::NewDatabase;

/// How many sequence numbers a stretch that cannot be read is passed over by: as many as a page may have. It grows the
/// longer the stretch is.
const STRIDE: u64 = 64;
/// How many records of the journal are copied in one commit.
const AT_ONCE: usize = 64;

impl Engine {
    /// Copies every record that can be read into a new database at `path`, which is synced but not renamed yet.
    pub(super) fn copy_to(&self, path: &Path) -> Result<u64, CommitError> {
        let mut copy = NewDatabase::make(path, u64::MAX)?;
        let mut damaged = false;
        let mut from = Some(Vec::new());
        while let Some(key) = from.take() {
            let Some((last, damage)) = self.copy_from(key, &mut copy)? else { break };
            from = self.behind_damage(&last)?;
            damaged = true;
            error!(
                event = "copy_damaged", path = %self.path().display(), error = %damage,
                "a part of the database is damaged, and is not copied: its events are counted as quarantined. The old database lies in quarantine. Check the disk: journalctl -k"
            );
        }
        let (copy, records) = copy.finish()?;
        if damaged {
            self.copy_journal_to(&copy)?;
        }
        Ok(records)
    }

    /// Copies the records from `key` on. Where damage ends that, the last key before it, and what the engine says of
    /// it.
    fn copy_from(
        &self,
        key: Vec<u8>,
        copy: &mut NewDatabase,
    ) -> Result<Option<(Vec<u8>, sled::Error)>, CommitError> {
        let mut last = key.clone();
        for record in self.from(key) {
            let (key, value) = match record {
                Err(damage @ sled::Error::Corruption { .. }) => return Ok(Some((last, damage))),
                record => record?,
            };
            copy.add(&key, &value)?;
            last = key.to_vec();
        }
        Ok(None)
    }

    /// Copies every record into a new database at `path`, as long as that writes no more than `max` bytes and a last
    /// batch.
    pub(super) fn copy_whole(&self, path: &Path, max: u64) -> Result<u64, CommitError> {
        let mut copy = NewDatabase::make(path, max)?;
        for record in self.from(Vec::new()) {
            let (key, value) = record?;
            copy.add(&key, &value)?;
        }
        Ok(copy.finish()?.1)
    }

    /// Copies what the journal has, some of which lies beside what was passed over in the engine.
    fn copy_journal_to(&self, copy: &Self) -> Result<(), CommitError> {
        let journal = &self.opened()?.journal;
        let mut from = Bound::Included(Vec::new());
        loop {
            let records =
                journal.index().within((from.as_ref().map(Vec::as_slice), Bound::Unbounded), AT_ONCE);
            let Some((last, _)) = records.last() else { return Ok(()) };
            from = Bound::Excluded(last.clone());
            let mut batch = Batch::default();
            for (key, found) in records {
                match found.value().map_err(sled::Error::Io)? {
                    Some(value) => batch.insert(key, &*value),
                    None => batch.remove(key),
                }
            }
            copy.commit(batch)?;
        }
    }

    /// The first key that a record can be read from behind the damage that follows `last`; `None` where there is none.
    fn behind_damage(&self, last: &[u8]) -> Result<Option<Vec<u8>>, CommitError> {
        let tag = last.first().copied().unwrap_or(0);
        let number = last.get(1..9).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes);
        let mut stride = STRIDE;
        let strides = std::iter::from_fn(|| {
            stride += stride / 16;
            Some(stride)
        });
        let further = strides.scan(number, |at, stride| {
            *at = at.checked_add(stride)?;
            Some([&[tag][..], &at.to_be_bytes()].concat())
        });
        let tags = (tag.saturating_add(1)..=u8::MAX).map(|tag| vec![tag]);
        for key in further.chain(tags) {
            match self.from(key.clone()).next() {
                Some(Err(sled::Error::Corruption { .. })) => {}
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(_)) => return Ok(Some(key)),
                None => return Ok(None),
            }
        }
        Ok(None)
    }
}
