//! The queue as its neighbours see it: the ingest's door into it, and the shelf from which the flusher takes.

use std::io;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tracing::error;

use super::desk::Desk;
use super::readers::Readers;
use crate::delivery::Backlog;
use crate::event::{Burial, Entry, Event, Seq};
use crate::ingest::{Admission, Slip};
use crate::queue::{Appender, Failed, OnStored, Store};
use crate::wire::receipt;
use crate::wire::reply::Replier;
use crate::wire::submission::Submission;

/// How long a scan waits that the disk gave nothing for, each time; what is behind such a place cannot be delivered, so it
/// ends after that.
const SCAN_WAITS: [Duration; 5] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

/// The queue as the ingest sees it.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) appender: Appender,
    pub(super) desk: Desk,
}

impl Admission for Door {
    async fn append(
        &self,
        producer: u64,
        batch: Vec<Submission>,
        slips: Vec<(usize, Slip)>,
        replier: Box<dyn Replier>,
    ) {
        let hook = |(position, slip)| {
            let desk = self.desk.clone();
            (position, OnStored(Box::new(move |first| desk.lay(first, slip))))
        };
        self.appender.append(producer, batch, slips.into_iter().map(hook).collect(), replier).await;
    }
}

/// The queue as the flusher sees it.
#[derive(Clone)]
pub(super) struct Shelf {
    store: Store,
    desk: Desk,
    readers: Readers,
}

impl Shelf {
    pub(super) fn new(store: Store, desk: Desk) -> io::Result<Self> {
        Ok(Self { store, desk, readers: Readers::start()? })
    }

    /// Sets events aside at an operator's request.
    pub(super) fn bury(self, buried: Vec<Burial>) -> BoxFuture<'static, Result<(), Failed>> {
        Box::pin(async move { self.settle(Vec::new(), buried, None).await })
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T, Failed> {
        self.readers.read(self.store.clone(), read).await
    }
}

impl Backlog for Shelf {
    type Error = Failed;

    async fn scan(&self, from: Seq, max: usize, is_next: bool) -> Result<(Vec<Entry>, Seq), Failed> {
        let scan = patiently(|| {
            self.read(move |store| if is_next { store.scan_next(from, max) } else { store.scan(from, max) })
        });
        let scan = scan.await?;
        Ok((scan.entries, scan.next))
    }

    async fn load(&self, seqs: Vec<Seq>) -> Result<Vec<Option<Event>>, Failed> {
        let mut events = self.store.take_recent(&seqs);
        let absent = |(_, event): &(_, &Option<Event>)| event.is_none();
        let rest: Vec<Seq> = seqs.iter().copied().zip(&events).filter(absent).map(|(seq, _)| seq).collect();
        if !rest.is_empty() {
            let read = self.read(move |store| store.load(&rest)).await?;
            let places = events.iter_mut().filter(|event| event.is_none());
            places.zip(read).for_each(|(place, event)| *place = event);
        }
        Ok(events)
    }

    fn works_on(&self, error: &Failed) -> bool {
        matches!(error, Failed::Unread { .. })
    }

    fn watches(&self, seqs: &[Seq]) -> bool {
        self.desk.watches(seqs)
    }

    fn lost(&self, seqs: &[Seq]) {
        self.desk.lost(seqs);
    }

    async fn settle(
        &self,
        delivered: Vec<Seq>,
        buried: Vec<Burial>,
        answer: Option<receipt::Answer>,
    ) -> Result<(), Failed> {
        self.store.settle(delivered.clone(), buried.clone()).await?;
        // After that is durable: a receipt says what stays so.
        self.desk.settled(&delivered, &buried, answer.as_ref());
        Ok(())
    }

    fn dead_room(&self) -> bool {
        self.store.dead_room()
    }

    fn waits_for_room(&self) -> bool {
        self.store.counts().waits_for_room()
    }

    fn spare(&self, bytes: u64) {
        self.store.spare(bytes);
    }
}

/// Scans until the disk gives something, or gave nothing for all of [`SCAN_WAITS`].
async fn patiently<T, F: Future<Output = Result<T, Failed>>>(scan: impl Fn() -> F) -> Result<T, Failed> {
    let mut waits = SCAN_WAITS.into_iter();
    loop {
        match (scan().await, waits.next()) {
            (Err(error @ Failed::Unread { .. }), Some(wait)) => {
                error!(event = "scan_unread", %error, "the queue cannot be read on: it is tried again, and the daemon ends if that does not help. Check the disk: journalctl -k");
                tokio::time::sleep(wait).await;
            }
            (scanned, _) => return scanned,
        }
    }
}

/// Reads the disk beside the runtime.
pub(super) async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, Failed> + Send + 'static,
) -> Result<T, Failed> {
    tokio::task::spawn_blocking(read).await.unwrap_or(Err(Failed::Closed))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_scan_is_tried_again_for_some_seconds_and_then_ends_the_daemon() {
        let unread = || Failed::Unread { path: "queue".into(), message: "input/output error".to_owned() };
        for bad in [0, 1, 5, 6] {
            let (tries, began) = (Cell::new(0), Instant::now());
            let scan = || {
                tries.set(tries.get() + 1);
                std::future::ready(if tries.get() > bad { Ok(()) } else { Err(unread()) })
            };
            let scanned = patiently(scan).await;
            assert_eq!(scanned, if bad == 6 { Err(unread()) } else { Ok(()) });
            assert_eq!(tries.get(), (bad + 1).min(6));
            let waited = Duration::from_millis([0, 250, 0, 0, 0, 7_750, 7_750][bad]);
            assert_eq!(began.elapsed(), waited, "{bad}");
        }
        let closed = patiently(|| std::future::ready(Err::<(), _>(Failed::Closed))).await;
        assert_eq!(closed, Err(Failed::Closed), "nothing else is waited for");
    }
}
