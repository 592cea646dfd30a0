//! What the flusher hears of commits: what each added, then where the store ends.

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::event::{Added, Seq};
use crate::queue::{Ledger, MAX_LIVE_COMMITS, Queue};

/// The task that tells the flusher.
pub(super) struct Teller {
    live: mpsc::Receiver<Added>,
    ledger: watch::Receiver<Ledger>,
    added: mpsc::Sender<Added>,
    tail: watch::Sender<Seq>,
}

impl Teller {
    /// For the commits of `queue`; with what it will tell of each, and of where the store ends.
    pub(super) fn new(queue: &mut Queue) -> (Self, mpsc::Receiver<Added>, watch::Receiver<Seq>) {
        let (added, heard) = mpsc::channel(MAX_LIVE_COMMITS);
        let store = queue.store();
        let (tail, tails) = watch::channel(store.tail());
        (Self { live: queue.live(), ledger: store.watch(), added, tail }, heard, tails)
    }

    /// Tells until `until`.
    pub(super) async fn run(self, until: CancellationToken) {
        let Self { mut live, mut ledger, added, tail } = self;
        let mut told = Seq(0);
        loop {
            // Each arm may be dropped: commits stay in the channel, and the ledger is read as a whole.
            tokio::select! {
                biased;
                () = until.cancelled() => return,
                Some(commit) = live.recv() => {
                    let next = commit.next;
                    if added.try_send(commit).is_ok() {
                        told = next;
                    }
                }
                Ok(()) = ledger.changed() => {}
            }
            // What was left out on the way is read from the disk.
            let next = ledger.borrow_and_update().next;
            if live.is_empty() && next > told {
                tail.send_replace(next);
                told = next;
            }
        }
    }
}
