//! The full disk, met by the engine itself: its error is there for good, so the database is opened again in the
//! process.
//!
//! Guarantees:
//! - what was committed before is there, and is looked for: the counters in the opened database are either those before
//!   the commit that failed or those of it, since a commit is written whole or not at all;
//! - a submission of that commit is answered `storage_full`, unless the commit turns out to be whole; where the full
//!   disk keeps the database from opening, nobody knows, and its connection is closed instead of left to wait;
//! - what was settled in it is settled again: the requests for that go on waiting;
//! - nothing is appended until there is room for certain, and where there is none even for removals, these wait.

use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::commit_error::CommitError;
use super::engine::Engine;
use super::error::OpenError;
use super::gather::Waiting;
use super::inbox::Waited;
use super::moving::Removals;
use super::open::ledger;
use super::plan::Plan;
use super::writer::Writer;
use super::{Command, Ledger};
use crate::failpoint::reach;
use crate::wire::reply::Appended;

/// How long a database is left alone that the full disk keeps from opening.
const OPEN_EVERY: Duration = Duration::from_millis(500);
/// How long removals wait that found no room, at first and at most; twice as long each time.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(8));

/// When removals are tried again that found no room.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pause {
    until: Option<Instant>,
    wait: Duration,
}

impl Default for Pause {
    fn default() -> Self {
        Self { until: None, wait: PAUSES.0 }
    }
}

impl Pause {
    pub(super) fn is_on(&self) -> bool {
        self.until.is_some()
    }

    fn begin(&mut self) {
        self.until = Some(Instant::now() + self.wait);
        self.wait = (self.wait * 2).min(PAUSES.1);
    }
}

impl Writer {
    /// Opens the database again after `error`, and goes on with `plan` where the commit left it: done, which is `true`, or
    /// to be done again.
    pub(super) fn start_over(
        &mut self,
        mut plan: Plan,
        error: CommitError,
        waiting: &mut Waiting<'_>,
    ) -> Result<bool, CommitError> {
        let path = self.engine.path().to_owned();
        // It is tried again until there is room.
        let is_news = self.told.counts.meet_full_disk();
        if is_news {
            warn!(
                event = "disk_full", path = %path.display(), %error,
                "the disk is full under the database: it is opened again. See what takes the room with df -h and df -i, and free some"
            );
        }
        let freed = self.space.fill();
        self.open_again(error, &mut plan, waiting)?;
        let found = ledger(&self.engine)?;
        if is_news {
            info!(event = "queue_reopened", path = %path.display(), "the database is open again: it goes on with removals");
        }
        if is_same(&found, &self.ledger) {
            self.take_back(plan, waiting);
            if !freed {
                // Nothing has changed: the next try would fail at once.
                self.pause.begin();
            }
            Ok(false)
        } else if is_same(&found, &plan.ledger) {
            // It was written whole before the engine met the full disk, and opening synced it.
            self.publish(plan, waiting);
            Ok(true)
        } else {
            Err(CommitError::Lost)
        }
    }

    fn open_again(
        &mut self,
        full: CommitError,
        plan: &mut Plan,
        waiting: &mut Waiting<'_>,
    ) -> Result<(), CommitError> {
        let (path, view) = (self.engine.path().to_owned(), self.view.clone());
        // The last handle goes with the readers': only then the engine gives its lock up.
        self.engine = Engine::closed(&path);
        reach("reopen", "closed");
        self.engine = view.replace(|| self.open_with_room(&path, full, plan, waiting))?;
        reach("reopen", "opened");
        self.engine.limit_journal(self.settings.journal_bytes);
        self.engine.give_back(Removals::Late)?;
        Ok(())
    }

    /// Opens the database at `path` as soon as the disk has room for that.
    fn open_with_room(
        &self,
        path: &Path,
        full: CommitError,
        plan: &mut Plan,
        waiting: &mut Waiting<'_>,
    ) -> Result<Engine, CommitError> {
        loop {
            match Engine::open(path, &self.folder) {
                Err(OpenError::Full { .. }) => {}
                opened => return Ok(opened?),
            }
            // Another start would fare no better: here producers are answered meanwhile. Those of the commit are told
            // that nobody knows, which may last.
            plan.stored.clear();
            self.refuse(waiting);
            // It may have been asked for with the very commit that failed.
            if plan.has_stop() || waiting.has_stop() {
                return Err(full);
            }
            thread::park_timeout(OPEN_EVERY);
        }
    }

    /// Undoes a plan of which nothing was written; what was asked for is planned again.
    fn take_back(&mut self, plan: Plan, waiting: &mut Waiting<'_>) {
        let refusal = self.storage_full(self.space.free());
        for (replier, mut answers) in plan.stored {
            answers.iter_mut().filter(|one| **one == Appended::Stored).for_each(|one| *one = refusal.clone());
            replier.reply(answers);
        }
        waiting.put_back(plan.asked.into_iter());
    }

    /// Waits for the end of the pause, and says whether the queue ends before that.
    pub(super) fn wait_for_room(&mut self, waiting: &mut Waiting<'_>) -> Result<bool, CommitError> {
        // An end that was taken back was tried a moment ago.
        let is_tried = waiting.has_stop();
        self.refuse(waiting);
        if !is_tried {
            let waited = match waiting.has_stop() {
                // Once more before the end: what is not noted then is sent again, and there may be room by now.
                true => Waited::TimedOut,
                false => waiting.wait(1, Some(self.pause.until.unwrap_or_else(Instant::now))),
            };
            match waited {
                Waited::Enough => return Ok(false),
                Waited::TimedOut => {
                    self.pause.until = None;
                    return Ok(false);
                }
                Waited::Alone => {}
            }
        }
        // What nobody waits for can wait for the next start.
        let is_waited_for = |command: &Command| match command {
            Command::Put { done, .. } => !done.is_closed(),
            Command::Requeue { .. } => true,
            command => command.lasts(),
        };
        match waiting.commands.iter().any(is_waited_for) {
            true => Err(CommitError::Engine(sled::Error::Io(io::ErrorKind::StorageFull.into()))),
            false => Ok(true),
        }
    }

    /// Answers what was asked for by now and needs no room, and tells producers that there is none.
    fn refuse(&self, waiting: &mut Waiting<'_>) {
        waiting.take_in();
        let refusal = self.storage_full(self.space.free());
        for command in std::mem::take(&mut waiting.commands) {
            match command {
                Command::Append(append) => {
                    append.replier.reply(vec![refusal.clone(); append.batch.len()]);
                }
                Command::Pulse(done) => drop(done.send(())),
                other => waiting.commands.push_back(other),
            }
        }
    }
}

/// Whether what is durable of two ledgers is the same.
fn is_same(one: &Ledger, other: &Ledger) -> bool {
    Ledger { counted: 0, ..*one } == Ledger { counted: 0, ..*other }
}
