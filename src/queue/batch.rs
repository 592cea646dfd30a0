//! What one commit writes, in the form in which it is written.

use super::frame::{self, End, Kind};

/// Changes that become durable together; of two that concern the same key, the later one counts.
#[derive(Debug, Default)]
pub(super) struct Batch {
    frames: Vec<u8>,
    count: u32,
}

impl Batch {
    /// An empty one, in memory that was used before.
    pub(super) fn within(frames: Vec<u8>) -> Self {
        Self { frames, count: 0 }
    }

    /// The key gets this value.
    pub(super) fn insert(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.add(Kind::Insert, key.as_ref(), value.as_ref());
    }

    /// The key is no more.
    pub(super) fn remove(&mut self, key: impl AsRef<[u8]>) {
        self.add(Kind::Remove, key.as_ref(), &[]);
    }

    fn add(&mut self, kind: Kind, key: &[u8], value: &[u8]) {
        frame::put(&mut self.frames, kind, key, value);
        self.count += 1;
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    pub(super) fn bytes(&self) -> usize {
        self.frames.len()
    }

    /// How long its frames are together with the one that ends them.
    pub(super) fn sealed_bytes(&self) -> u64 {
        (self.frames.len() + frame::END_BYTES) as u64
    }

    /// The frames of the commit `number`, with the one that ends it; `reached` as in [`End`].
    pub(super) fn sealed(mut self, number: u64, reached: u64) -> Vec<u8> {
        frame::put_end(&mut self.frames, End { count: self.count, reached });
        frame::seal(&mut self.frames, number);
        self.frames
    }
}
