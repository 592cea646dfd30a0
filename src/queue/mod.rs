//! The durable queue: events in, in order; events out, by what became of them.
//!
//! Guarantees:
//! - a submission is answered [`Appended::Stored`] only once its events are on stable storage, whole or not at all;
//! - a settled event is never shown again once [`Store::settle`] has returned, not even after a crash; one whose
//!   settlement was under way may be;
//! - an event that is set aside becomes a dead letter in the very commit that settles it;
//! - nothing is thrown away to make room: at a limit the producer is told to come back;
//! - `accepted = delivered + dead + expired + quarantined + pending` holds over crashes: the counters lie in the same
//!   commit as what they count, and the first scan compares them with what is there.
//!
//! One blocking thread makes all commits, answers what was asked of it, and owns what is written; readers see nothing
//! that is not yet durable. See `keys.rs` for the layout.

mod alone;
mod batch;
mod commit_error;
mod compact;
mod copy;
mod counts;
mod engine;
mod envelopes;
mod error;
mod files;
mod folder;
mod frame;
mod gather;
mod inbox;
mod index;
mod journal;
mod keys;
mod ledger;
mod letters;
mod merged;
#[path = "../../migrations/mod.rs"]
mod migrations;
mod moving;
mod new_database;
mod nudge;
mod open;
mod open_page;
mod pages;
mod plan;
mod quarantine;
mod recent;
mod reopen;
mod replay;
pub mod salvage;
mod scan;
mod slack;
mod snapshots;
mod space;
mod store;
mod survey;
mod synced;
#[cfg(test)]
mod tests;
mod view;
mod writer;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

pub use self::alone::engine_alone;
pub use self::counts::{Counts, NoRoom};
pub use self::engine::LOG_SEGMENT_BYTES;
pub use self::error::{Failed, OpenError};
pub use self::folder::{exposed, failed_before};
pub use self::journal::journal_bytes;
pub use self::ledger::Ledger;
use self::recent::Kept;
pub use self::scan::Scan;
pub use self::space::{
    FILE_FACTOR, Free, MIN_FREE_FILES, expect_reserve, free, reserve_bytes, too_few_files, used_bytes,
};
pub use self::store::Store;
pub use self::survey::{Sighting, Survey};
use crate::event::{Added, Burial, Moment, Seq};
#[cfg(doc)]
use crate::wire::reply::Appended;
use crate::wire::reply::Replier;
use crate::wire::submission::Submission;

/// What submissions that wait for their commit may hold together, in bytes.
pub const MAX_WAITING_BYTES: u64 = 16 * 1_024 * 1_024;
/// The most commits whose entries wait for the scheduler; beyond these it reads them from the disk.
pub const MAX_LIVE_COMMITS: usize = 32;

/// How the queue behaves (`[queue]` in the configuration).
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its folder.
    pub path: PathBuf,
    /// The most bytes of stored records.
    pub max_bytes: u64,
    /// The most events that wait to be delivered.
    pub max_events: u64,
    /// The free bytes of the disk below which nothing is appended.
    pub min_free: u64,
    /// The bytes kept for removals on a full disk.
    pub reserve: u64,
    /// The most dead letters held.
    pub dead_max_events: u64,
    /// How large the journal before the engine may get, in bytes; see [`journal_bytes`].
    pub journal_bytes: u64,
    /// Whether a queue of another account is taken over.
    pub adopt: bool,
}

/// What became of dead letters that were to be events again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requeued {
    /// How many are events again.
    pub moved: u64,
    /// Why the others are not, where there was no room for them.
    pub refusal: Option<String>,
}

/// The clock that the queue stamps arrivals with.
pub type Now = Arc<dyn Fn() -> Moment + Send + Sync>;

/// The open queue, and the thread that writes it.
#[derive(Debug)]
pub struct Queue {
    store: Store,
    appender: Appender,
    /// What each commit adds.
    live: mpsc::Receiver<Added>,
    writer: std::thread::JoinHandle<()>,
}

/// Hands submissions to the writer.
#[derive(Clone, Debug)]
pub struct Appender {
    commands: inbox::Sender,
    /// [`MAX_WAITING_BYTES`], in KiB.
    room: Arc<Semaphore>,
}

/// What the writer is asked for.
#[derive(Debug)]
enum Command {
    Append(Append),
    /// The answer has the burials that are left for another commit.
    Settle {
        delivered: Vec<Seq>,
        burials: Vec<Burial>,
        done: oneshot::Sender<Vec<Burial>>,
    },
    /// Removes dead letters.
    Delete {
        letters: Vec<Seq>,
        done: oneshot::Sender<u64>,
    },
    /// Makes dead letters events again; the answer has those that are left for another commit.
    Requeue {
        letters: Vec<Seq>,
        done: oneshot::Sender<(Requeued, Vec<Seq>)>,
    },
    Put {
        name: String,
        value: Vec<u8>,
        done: oneshot::Sender<()>,
    },
    /// A page could not be read.
    Quarantine(keys::PageKey),
    /// All events of a page are settled, and it is still there: an earlier version removed it in a commit of its own,
    /// and was ended before that.
    Trim(keys::PageKey),
    /// This many events that the counters promise are not there.
    Missing(u64),
    /// This many more events are there than the counters promise.
    Surplus(u64),
    /// Go by other limits; the folder stays.
    Limits(Settings),
    /// A reader met the full disk in the database that was opened again this often.
    Reopen(u64),
    /// Say so once the commit that this is planned with is over: the writer makes progress.
    Pulse(oneshot::Sender<()>),
    Stop,
}

/// Called on the writer's thread with a submission's first sequence number once it is stored, before anybody else hears
/// of it; dropped where it is not stored.
pub struct OnStored(pub Box<dyn FnOnce(Seq) + Send>);

impl std::fmt::Debug for OnStored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnStored")
    }
}

#[derive(Debug)]
struct Append {
    producer: u64,
    batch: Vec<Submission>,
    /// By the position in the batch.
    hooks: Vec<(usize, OnStored)>,
    replier: Box<dyn Replier>,
    /// Held until the commit is planned.
    _room: Option<OwnedSemaphorePermit>,
}

/// What the writer tells the readers.
#[derive(Debug)]
struct Told {
    ledger: watch::Sender<Ledger>,
    failed: watch::Sender<Option<Failed>>,
    live: mpsc::Sender<Added>,
    kept: Arc<Mutex<Kept>>,
    counts: Arc<Counts>,
}

impl Appender {
    /// Hands a batch of the connection `producer` to the writer, with hooks by the position in it; waits while
    /// [`MAX_WAITING_BYTES`] are waiting. `replier` hears of it on the writer's thread, once the commit is
    /// over, or there is no room for it.
    pub async fn append(
        &self,
        producer: u64,
        batch: Vec<Submission>,
        hooks: Vec<(usize, OnStored)>,
        replier: Box<dyn Replier>,
    ) {
        let bytes: u64 = batch.iter().map(Submission::payload_bytes).sum();
        let share = bytes.min(MAX_WAITING_BYTES).div_ceil(1_024);
        let room =
            Arc::clone(&self.room).acquire_many_owned(u32::try_from(share).unwrap_or(u32::MAX)).await.ok();
        // A writer that is gone drops the replier, which is how that hears of a lost commit.
        self.commands.send(Command::Append(Append { producer, batch, hooks, replier, _room: room }));
    }
}

impl Queue {
    /// The way in.
    #[must_use]
    pub fn appender(&self) -> Appender {
        self.appender.clone()
    }

    /// The way out.
    #[must_use]
    pub fn store(&self) -> Store {
        self.store.clone()
    }

    /// What each commit adds, for the first who asks; others hear of nothing. Commits that are not taken in time are left
    /// out.
    pub fn live(&mut self) -> mpsc::Receiver<Added> {
        std::mem::replace(&mut self.live, mpsc::channel(1).1)
    }

    /// Commits what waits and closes the database; everything that is handed on later is lost.
    pub async fn shutdown(self) -> Result<(), Failed> {
        let Self { store, appender, writer, .. } = self;
        appender.commands.send(Command::Stop);
        drop(appender);
        // The join is blocking, and short: the last commit.
        let _joined = tokio::task::spawn_blocking(|| writer.join()).await;
        store.failure().map_or(Ok(()), Err)
    }
}
