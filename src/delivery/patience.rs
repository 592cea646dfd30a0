//! Reads of files whose disk may never answer, as one of a network may.
//!
//! Guarantees:
//! - nobody waits for one longer than the limit;
//! - where one was given up, none begins until that has ended: it keeps a thread, and however often somebody asks, it is the
//!   only one.

use std::io::{self, ErrorKind};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// What `top -H` and the like show.
const NAME: &str = "certificates";

/// Who reads them, one after the other.
pub(super) struct Patience {
    limit: Duration,
    /// A lock: it belongs to all of the process, and whoever reads keeps the others from it meanwhile.
    given_up: Mutex<Option<GivenUp>>,
}

/// A read that still waits for its disk, or has ended since.
struct GivenUp {
    what: String,
    thread: JoinHandle<()>,
}

impl Patience {
    pub(super) const fn new(limit: Duration) -> Self {
        Self { limit, given_up: Mutex::new(None) }
    }

    /// What `read` has read of `what`; where the system gives no thread for it, however long it takes.
    ///
    /// # Errors
    /// Its own, or that the disk does not answer: its own or that of what was read before.
    pub(super) fn read<T: Send + 'static>(
        &self,
        what: &str,
        read: impl Fn() -> io::Result<T> + Clone + Send + 'static,
    ) -> io::Result<T> {
        // Nothing under this lock panics.
        let mut given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(earlier) = given_up.take_if(|earlier| earlier.thread.is_finished()) {
            join(earlier.thread)?;
        }
        if let Some(earlier) = &*given_up {
            return Err(self.silent(&earlier.what));
        }
        let (tell, told) = mpsc::sync_channel(1);
        let reads = read.clone();
        // Nobody hears what comes too late.
        let spawned = Builder::new().name(NAME.to_owned()).spawn(move || drop(tell.send(reads())));
        let Ok(thread) = spawned else { return read() };
        match told.recv_timeout(self.limit) {
            Ok(read) => join(thread).and(read),
            Err(RecvTimeoutError::Disconnected) => Err(join(thread).err().unwrap_or(ErrorKind::Other.into())),
            Err(RecvTimeoutError::Timeout) => {
                *given_up = Some(GivenUp { what: what.to_owned(), thread });
                Err(self.silent(what))
            }
        }
    }

    fn silent(&self, what: &str) -> io::Error {
        let limit = humantime::format_duration(self.limit);
        io::Error::new(ErrorKind::TimedOut, format!("the disk of {what} does not answer within {limit}"))
    }
}

/// Not left to itself: glibc reads the memory of a thread that it lets go of, which is gone where the thread ends in that moment.
fn join(thread: JoinHandle<()>) -> io::Result<()> {
    thread.join().map_err(|_| io::Error::other("reading panicked, please report it"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_a_disk_answers_is_passed_on() {
        let patience = Patience::new(Duration::from_secs(600));
        assert_eq!(patience.read("a", || Ok(7)).unwrap(), 7);
        let error = patience.read("a", || Err::<(), _>(ErrorKind::NotFound.into())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let error = patience.read("a", || -> io::Result<()> { panic!("a bug") }).unwrap_err();
        assert_eq!(error.to_string(), "reading panicked, please report it");
    }

    #[test]
    fn a_disk_that_does_not_answer_keeps_one_thread_until_it_does() {
        let patience = Patience::new(Duration::from_millis(20));
        let disk = Arc::new(Mutex::new(()));
        let answers = disk.lock().unwrap();
        let asked = Arc::clone(&disk);
        let silent = patience.read("/mnt/a", move || {
            drop(asked.lock());
            Ok(())
        });
        assert_eq!(silent.unwrap_err().to_string(), "the disk of /mnt/a does not answer within 20ms");
        for _ in 0..3 {
            let begun = patience.read("/mnt/b", || -> io::Result<()> { panic!("it begins") });
            assert_eq!(begun.unwrap_err().to_string(), "the disk of /mnt/a does not answer within 20ms");
        }
        drop(answers);
        // The other thread needs a moment for its end, and a busy machine may take longer than the limit for a read.
        while patience.read("/mnt/b", || Ok(())).is_err() {
            std::thread::yield_now();
        }
    }
}
