//! The database as readers see it: one that the writer may open again beside them.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, TryLockError};
use std::time::Duration;

use super::engine::{Engine, let_go};

/// How long a reader waits for the writer to open the database again, after it met the full disk itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// The shared database. Locks, because readers must be out of it before it can be opened again: each holds it for one
/// read.
#[derive(Clone, Debug)]
pub(super) struct View(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    engine: RwLock<Engine>,
    /// How often the database was opened again; `None` once nobody will open it again.
    opened: Mutex<Option<u64>>,
    again: Condvar,
}

impl View {
    pub(super) fn new(engine: Engine) -> Self {
        Self(Arc::new(Shared {
            engine: RwLock::new(engine),
            opened: Mutex::new(Some(0)),
            again: Condvar::new(),
        }))
    }

    /// One read; nobody opens the database again meanwhile.
    pub(super) fn read<T>(&self, read: impl FnOnce(&Engine) -> T) -> T {
        // Nothing is changed under this lock but as a whole.
        let read = read(&self.0.engine.read().unwrap_or_else(PoisonError::into_inner));
        let_go();
        read
    }

    /// Whether a read would wait for the writer, which opens the database again.
    pub(super) fn is_away(&self) -> bool {
        self.0.engine.try_read().is_err_and(|error| matches!(error, TryLockError::WouldBlock))
    }

    /// Takes the database away from the readers, and gives them the one that `open` gives. They wait meanwhile.
    pub(super) fn replace<E>(&self, open: impl FnOnce() -> Result<Engine, E>) -> Result<Engine, E> {
        let mut engine = self.0.engine.write().unwrap_or_else(PoisonError::into_inner);
        *engine = Engine::closed(engine.path());
        let opened = open()?;
        *engine = opened.clone();
        drop(engine);
        if let Some(opened) = &mut *self.opened() {
            *opened += 1;
        }
        self.0.again.notify_all();
        Ok(opened)
    }

    /// Nobody opens the database again.
    pub(super) fn end(&self) {
        *self.opened() = None;
        self.0.again.notify_all();
    }

    /// How often the database was opened again so far; `None` once nobody will open it again.
    pub(super) fn times_opened(&self) -> Option<u64> {
        *self.opened()
    }

    /// Waits until the database was opened again more often than `before`; whether it was.
    pub(super) fn wait_past(&self, before: u64) -> bool {
        let waits = |opened: &mut Option<u64>| opened.is_some_and(|opened| opened <= before);
        let waited = self.0.again.wait_timeout_while(self.opened(), PATIENCE, waits);
        waited.is_ok_and(|(opened, timeout)| opened.is_some() && !timeout.timed_out())
    }

    fn opened(&self) -> MutexGuard<'_, Option<u64>> {
        self.0.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn whoever_would_wait_for_the_database_can_tell() {
        let view = View::new(Engine::closed(Path::new("events.1")));
        assert!(!view.is_away());
        assert!(!view.read(|_| view.is_away()), "other readers are no reason to wait");
        assert!(view.replace(|| if view.is_away() { Err(()) } else { panic!("it is away") }).is_err());
        assert!(!view.is_away());
    }
}
