//! The storage engine by itself, for the benchmark: what the queue's own work is held against.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::engine::Engine;
use super::keys::VALUE_BYTES;

/// Makes a database at `path` and commits `group` records of `bytes` at a time for `time`, packed into values as large
/// as the queue's pages under keys in their order, each commit synced as the queue syncs it; how many records that
/// were.
///
/// # Errors
/// The engine's, as I/O errors.
pub fn engine_alone(path: &Path, bytes: usize, group: usize, time: Duration) -> io::Result<u64> {
    let engine = Engine::new_at(path).map_err(io::Error::other)?;
    let open = engine.opened().map_err(io::Error::other)?;
    let a_value = (VALUE_BYTES / bytes.max(1)).max(1);
    let (mut records, mut key) = (0, 0_u64);
    let began = Instant::now();
    while began.elapsed() < time {
        let (mut batch, mut left) = (sled::Batch::default(), group);
        while left > 0 {
            let packed = left.min(a_value);
            key += 1;
            batch.insert(&key.to_be_bytes(), vec![b'x'; packed * bytes]);
            left -= packed;
        }
        open.db.apply_batch(batch).map_err(io::Error::other)?;
        open.flush().map_err(io::Error::other)?;
        records += group as u64;
    }
    Ok(records)
}
