//! The runtime of the commands that need one.

use std::io;
use std::sync::Mutex;
use std::thread::{Builder, available_parallelism, scope};

use tokio::runtime::Runtime;

/// How many threads have to be had beside the runtime's own: the queue is opened in one, and the storage engine needs some.
/// Those that come later tell themselves where they are not given.
const MORE_THREADS: usize = 8;

/// Makes the runtime, once it is certain that there may be so many threads: where the system gives none it panics, and where it
/// gives too few it waits for them for ever.
///
/// # Errors
/// The system's.
pub(super) fn runtime() -> io::Result<Runtime> {
    try_threads(available_parallelism().map_or(1, usize::from) + MORE_THREADS)?;
    Runtime::new()
}

/// Leaves the threads of a runtime to the end of the process, in which all that had to end in order has. What may still last
/// is a look-up of a name that was given up: the system takes half a minute and more for one, and no end has to wait for that.
/// Nor are the others told to end: glibc reads the memory of a thread that it lets go of, which is gone where the thread ends
/// in that moment.
pub(super) fn leave(runtime: Runtime) {
    Box::leak(Box::new(runtime));
}

/// Starts so many threads for a trial, all there at once.
fn try_threads(count: usize) -> io::Result<()> {
    let gate = Mutex::new(());
    scope(|scope| {
        let shut = gate.lock();
        let mut threads = Vec::with_capacity(count);
        let mut tried = Ok(());
        while threads.len() < count && tried.is_ok() {
            match Builder::new().spawn_scoped(scope, || drop(gate.lock())) {
                Ok(thread) => threads.push(thread),
                Err(error) => tried = Err(error),
            }
        }
        drop(shut);
        // Not left to the scope, which lets go of them.
        threads.into_iter().for_each(|thread| drop(thread.join()));
        tried
    })
}
