//! Wakes a flush that sled forgot.
//!
//! Where the write of a buffer fails that was sealed while a batch still held it, sled 0.34.7 keeps the error and tells
//! nobody: a thread that waits for that buffer waits for ever. Any later flush finds the error, and wakes all.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use sled::Db;

/// How long a flush takes before another one looks after it; the next ones wait twice as long each.
const PATIENCE: Duration = Duration::from_secs(1);

/// The watch over the flushes of one database. A lock, because the watching thread looks at what another one does.
#[derive(Clone, Debug, Default)]
pub(super) struct Nudge(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// The flush under way.
    flush: Option<Flush>,
    /// Whether the watching thread is there: it ends when it saw no flush for a while.
    watched: bool,
    used: bool,
}

#[derive(Debug)]
struct Flush {
    db: Db,
    wait: Duration,
    until: Instant,
}

fn named() -> thread::Builder {
    thread::Builder::new().name("queue-nudge".to_owned())
}

impl Nudge {
    /// Flushes `db`, and sees to it that this ends.
    pub(super) fn flush(&self, db: &Db) -> Result<(), sled::Error> {
        let mut state = self.lock();
        state.flush = Some(Flush { db: db.clone(), wait: PATIENCE, until: Instant::now() + PATIENCE });
        state.used = true;
        if !state.watched {
            let watch = self.clone();
            // Where the system has no thread for it, the flush is not watched.
            state.watched = named().spawn(move || watch.run()).is_ok();
        }
        drop(state);
        let flushed = db.flush();
        self.lock().flush = None;
        flushed.map(drop)
    }

    fn run(&self) {
        loop {
            thread::park_timeout(PATIENCE);
            let mut state = self.lock();
            if !std::mem::take(&mut state.used) && state.flush.is_none() {
                state.watched = false;
                return;
            }
            let Some(flush) = state.flush.as_mut().filter(|flush| flush.until <= Instant::now()) else {
                continue;
            };
            flush.wait *= 2;
            flush.until += flush.wait;
            let db = flush.db.clone();
            // In a thread of its own: where there is no error yet, it waits too, and a later one wakes it.
            let _spawned = named().spawn(move || drop(db.flush()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is whole at each line where a panic could strike.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
