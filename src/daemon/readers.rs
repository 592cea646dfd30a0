//! The threads that read the queue for the flusher.
//!
//! Threads of its own, and a fixed number of them, since memory grows with their number: each keeps the pages that it reads as
//! long as its read takes. The runtime makes as many as are asked for.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::{io, thread};

use tokio::sync::oneshot;

use crate::queue::{Failed, Store};

/// How many read at once: enough for a disk that takes its time for each read.
const READERS: usize = 16;

type Read = Box<dyn FnOnce() + Send>;

/// Reads the queue beside the runtime. What waits is bounded by who asks: a scan, and the requests under way.
#[derive(Clone, Debug)]
pub(super) struct Readers {
    reads: Sender<Read>,
}

impl Readers {
    /// Starts the threads; they end with the last clone.
    pub(super) fn start() -> io::Result<Self> {
        let (reads, waiting) = channel();
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..READERS {
            let waiting = Arc::clone(&waiting);
            thread::Builder::new().name("queue-reader".to_owned()).spawn(move || serve(&waiting))?;
        }
        Ok(Self { reads })
    }

    /// What `read` reads of `store`.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        store: Store,
        read: impl FnOnce(&Store) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T, Failed> {
        let (answer, result) = oneshot::channel();
        let read = move || {
            // Who asked may have given up.
            let _gone = answer.send(read(&store));
        };
        self.reads.send(Box::new(read)).map_err(|_| Failed::Closed)?;
        result.await.unwrap_or(Err(Failed::Closed))
    }
}

fn serve(waiting: &Mutex<Receiver<Read>>) {
    loop {
        // One waits for the next read, the others for that one.
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(read) = next else { return };
        // Who asked is told that there is no answer; the thread is there for the next one.
        let _panicked = catch_unwind(AssertUnwindSafe(read));
    }
}
