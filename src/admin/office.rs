//! What the operator's requests are answered from, and the ways to those who own it.

use futures_util::future::BoxFuture;
use thiserror::Error;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use crate::delivery::{Ask, Feed};
use crate::event::{Account, Burial, Clock, Moment, SessionId};
use crate::figures::Meter;
use crate::queue::{Failed, Store};
use crate::schedule::Scheduler;
use crate::wire::Identifiers;

/// Why a request is refused.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The daemon ends.
    #[error("the daemon is ending")]
    ShuttingDown,
    /// The queue does not work any more.
    #[error(transparent)]
    Disk(#[from] Failed),
    /// Anything else.
    #[error("{message}")]
    Other {
        /// The code.
        code: &'static str,
        /// What is wrong, and what to do.
        message: String,
    },
}

impl Refusal {
    pub(super) fn of(code: &'static str, message: impl Into<String>) -> Self {
        Self::Other { code, message: message.into() }
    }

    /// The code of the answer.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::ShuttingDown => "shutting_down",
            Self::Disk(_) => "storage_error",
            Self::Other { code, .. } => code,
        }
    }
}

/// Sets events aside; returns once that is durable.
pub type Bury = Box<dyn Fn(Vec<Burial>) -> BoxFuture<'static, Result<(), Failed>> + Send + Sync>;

/// What all requests are answered from.
pub struct Office {
    /// The queue.
    pub store: Store,
    /// Sets events aside, and tells those who wait for their receipts.
    pub bury: Bury,
    /// The figures, and the way to the flusher.
    pub meter: Meter,
    /// The clock.
    pub clock: Clock,
    /// How ids of visitors are shown.
    pub identifiers: watch::Receiver<Identifiers>,
    /// Outcomes as they happen.
    pub feed: Feed,
    /// The account.
    pub account: Account,
    /// The ids of the sessions that are held, the last hold's first. Locked while a pause or a hold is changed and written: two
    /// changes at once must not write each other's past. A lock, because the change itself belongs to the flusher and its
    /// record to the queue.
    pub held: Mutex<Vec<SessionId>>,
    /// Cancelled when the daemon ends: what is answered page by page ends with the page.
    pub closing: CancellationToken,
}

impl Office {
    /// Does something with the scheduler, which the flusher owns.
    pub(super) async fn operate<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&mut Scheduler, Moment) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        Ask::operate(self.meter.asks(), operation).await.ok_or(Refusal::ShuttingDown)
    }

    /// Reads the disk beside the runtime.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T, Refusal> {
        if self.closing.is_cancelled() {
            return Err(Refusal::ShuttingDown);
        }
        let store = self.store.clone();
        let read = tokio::task::spawn_blocking(move || read(&store)).await;
        Ok(read.map_err(|_| Refusal::ShuttingDown)??)
    }

    /// Whether `name` stands for `session`: its id, or the hash that the logs show.
    pub(super) fn is(&self, session: &str, name: &str) -> bool {
        name == session || (Identifiers::is_hash(name) && self.show(session) == name)
    }

    /// A session as it may be shown.
    pub(super) fn show(&self, session: &str) -> String {
        self.identifiers.borrow().show(session)
    }
}
