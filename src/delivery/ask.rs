//! What the flusher, which owns the scheduler, is asked from outside.

use tokio::sync::{mpsc, oneshot};

use crate::event::Moment;
use crate::schedule::{self, Scheduler, Stuck};

/// What the flusher is asked from outside.
#[derive(Debug)]
pub enum Ask {
    /// Do something with the scheduler.
    Operate(Operation),
    /// Whether delivery is stuck; that it is answered at all says that the flusher makes progress.
    Pulse(oneshot::Sender<Option<Stuck>>),
    /// Deliver in another manner from now on; what is under way goes on as it began.
    Change(Box<Manner>),
}

impl Ask {
    /// Has the flusher do something with the scheduler, at one moment; `None` where the flusher has ended.
    pub async fn operate<T: Send + 'static>(
        asks: &mpsc::Sender<Self>,
        operation: impl FnOnce(&mut Scheduler, Moment) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, result) = oneshot::channel();
        let operation = move |scheduler: &mut Scheduler, now: Moment| {
            // The asker may have given up.
            let _gone = answer.send(operation(scheduler, now));
        };
        asks.send(Self::Operate(Operation(Box::new(operation)))).await.ok()?;
        result.await.ok()
    }
}

/// Something that is done once, by the owner of the scheduler.
type Change = Box<dyn FnOnce(&mut Scheduler, Moment) + Send>;

/// What an operator wants of the scheduler, which the flusher owns.
pub struct Operation(pub Change);

impl std::fmt::Debug for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Operation")
    }
}

/// What of the flusher may change while it runs.
#[derive(Debug)]
pub struct Manner {
    /// Batches, retries, limits.
    pub schedule: schedule::Settings,
    /// The most bytes of an answer (`delivery.max_answer`).
    pub max_answer: usize,
}
