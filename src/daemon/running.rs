//! The daemon under way: its parts, and the order in which they end.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::info;

use super::aside::Aside;
use super::reload::{Reach, Reload};
use super::{DaemonError, report};
use crate::queue::{Failed, Ledger, Queue, Store};

/// How long the end waits for those who serve, and then for those beside the delivery. On a full disk what one of them
/// asked of the queue waits for room, perhaps for ever, and the end of the queue answers it.
const LONGEST_WAIT: Duration = Duration::from_secs(20);

/// The parts of a daemon under way.
pub(super) struct Running {
    pub(super) queue: Queue,
    pub(super) store: Store,
    pub(super) reach: Reach,
    pub(super) reloads: mpsc::Receiver<Reload>,
    /// Those who serve producers and operators; they end with `closing`.
    pub(super) serving: JoinSet<()>,
    pub(super) closing: CancellationToken,
    /// It ends with `stopped`, and so do those beside it.
    pub(super) delivering: Aside,
    pub(super) beside: JoinSet<()>,
    pub(super) stopped: CancellationToken,
    /// What the service manager is told, until all else is `over`.
    pub(super) pulse: JoinHandle<()>,
    pub(super) over: DropGuard,
}

/// Why a daemon ends.
pub(super) enum End {
    /// It was told to.
    Told,
    /// Delivery ended by itself.
    Delivery(Result<(), String>),
    /// The disk failed.
    Disk(Failed),
}

impl Running {
    /// Puts new settings in force until there is a reason to end.
    pub(super) async fn watch(&mut self) -> End {
        loop {
            // Dropping these arms only stops waiting: reloads stay in their channel, and the tasks are joined at the end.
            tokio::select! {
                () = self.closing.cancelled() => return End::Told,
                failed = self.store.failed() => return End::Disk(failed),
                flushed = self.delivering.ended() => return End::Delivery(flushed),
                Some(Reload { settings, done }) = self.reloads.recv() => {
                    self.reach.apply(settings).await;
                    let _told = done.send(());
                }
            }
        }
    }

    /// Answers producers, waits for requests under way, then closes the queue; its account.
    ///
    /// # Errors
    /// [`DaemonError`]: what is stored stays stored.
    pub(super) async fn end(self, why: End) -> Result<Ledger, DaemonError> {
        let Self {
            queue, store, reach, serving, closing, mut delivering, beside, stopped, pulse, over, ..
        } = self;
        info!(
            event = "stopping",
            "the daemon ends: producers are answered, and requests under way are waited for"
        );
        closing.cancel();
        joined(serving).await?;
        stopped.cancel();
        let flushed = match why {
            End::Told => delivering.ended().await,
            End::Delivery(flushed) => flushed,
            End::Disk(failed) => {
                delivering.give_up().await;
                return Err(failed.into());
            }
        };
        joined(beside).await?;
        let ledger = store.watch();
        // They would keep the queue's files open.
        drop((store, reach));
        let closed = queue.shutdown().await;
        drop(over);
        pulse.await?;
        closed?;
        flushed.map_err(DaemonError::Delivery)?;
        let ledger = *ledger.borrow();
        report::ended(&ledger);
        Ok(ledger)
    }
}

/// Waits for the end of all `tasks`, at most for [`LONGEST_WAIT`].
async fn joined(mut tasks: JoinSet<()>) -> Result<(), JoinError> {
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            ended?;
        }
        Ok(())
    };
    timeout(LONGEST_WAIT, all).await.unwrap_or(Ok(()))
}
