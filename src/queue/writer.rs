//! The one thread that commits: it takes what waits, up to a bound, into one atomic batch.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use tracing::error;

use super::commit_error::CommitError;
use super::engine::{Engine, panic_text};
use super::error::Failed;
use super::folder::Folder;
use super::gather::{LastCommit, Waiting};
use super::inbox::{Receiver, Waited};
use super::keys::{self, MARK, meta, numbered};
use super::moving::Removals;
use super::open_page::OpenPage;
use super::pages::{Members, PageState, Pages, mark_value, read_page};
use super::plan::Plan;
use super::reopen::Pause;
use super::space::{Free, Room, Space};
use super::view::View;
use super::{Append, Command, Ledger, Now, Settings, Told};
use crate::event::{Added, Moment, Seq};
use crate::failpoint::reach;
use crate::schedule::Stitches;
use crate::wire::hash;
use crate::wire::reply::{Appended, Unavailable};
use crate::wire::submission::Submission;

/// How often the lock is looked for in the folder at most.
const LOCK_EVERY: Duration = Duration::from_secs(1);
/// When a producer that found no room is told to come back.
const RETRY_AFTER: Duration = Duration::from_secs(1);

pub(super) struct Writer {
    pub(super) engine: Engine,
    pub(super) folder: Folder,
    pub(super) settings: Settings,
    pub(super) space: Space,
    pub(super) ledger: Ledger,
    pub(super) pages: Pages,
    pub(super) stitches: Stitches,
    pub(super) now: Now,
    pub(super) told: Told,
    /// The readers' way to the database.
    pub(super) view: View,
    /// Whether the disk is too full even for removals.
    pub(super) pause: Pause,
    pub(super) last: LastCommit,
    /// When the database was to be made smaller, and could not be.
    pub(super) compacted: Option<Instant>,
    /// How often the time to put a commit off was halved.
    pub(super) halvings: u32,
    /// When the lock was last found in the folder.
    pub(super) locked: Instant,
}

impl Writer {
    /// Commits until it is told to stop, no sender is left, or the disk fails.
    pub(super) fn run(mut self, inbox: &Receiver) {
        let worked = catch_unwind(AssertUnwindSafe(|| self.work(inbox)));
        self.view.end();
        let error = match worked {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(panic) => CommitError::Panic(format!("the writer panicked: {}", panic_text(&*panic))),
        };
        self.engine.abandon();
        let (path, message) = (self.engine.path().to_owned(), error.to_string());
        let failed = match error {
            CommitError::Gone(path) => Failed::Gone(path),
            CommitError::Unlocked(path) => Failed::Unlocked(path),
            CommitError::Denied(message) => Failed::Denied { path, message },
            error if error.disk_full() => Failed::Full { path, message },
            error if error.lacks_descriptors() => Failed::Descriptors { path, message },
            _ => {
                // After a failed sync the system may take pages for clean that never reached the disk: the next start
                // must not build on them. A full disk leaves no such doubt.
                self.folder.mark_failed(&message);
                Failed::Disk { path, message }
            }
        };
        let path = self.engine.path().display();
        error!(event = "disk_failed", %path, error = %failed, "the queue cannot be written: nothing more is acknowledged, and the daemon ends. error says what to do; journalctl -k and df -h show how the disk is");
        self.told.failed.send_replace(Some(failed));
    }

    fn work(&mut self, inbox: &Receiver) -> Result<(), CommitError> {
        let mut waiting = Waiting::new(inbox);
        let mut stop = false;
        while !stop {
            if self.pause.is_on() {
                match self.wait_for_room(&mut waiting)? {
                    true => return Ok(()),
                    false => continue,
                }
            }
            if waiting.commands.is_empty() {
                stop |= waiting.wait(1, None) == Waited::Alone;
            }
            waiting.take_in();
            self.gather(&mut waiting);
            let (mut appends, asked) = waiting.next_commit();
            let mut plan = Plan { batch: self.engine.batch(), ledger: self.ledger, asked, ..Plan::default() };
            stop |= plan.has_stop();
            match self.store(&mut plan, &mut appends) {
                Ok(()) => {
                    self.publish(plan, &mut waiting);
                    // On a disk that is short of room removals need it more. A full one is no error here.
                    if waiting.is_empty() && !stop && !self.space.is_tight() {
                        self.engine.write_ahead()?;
                    }
                }
                Err(error) if error.disk_full() => {
                    waiting.put_back(appends.into_iter().map(Command::Append));
                    // An end that is taken back is asked for again, and no other is.
                    stop &= self.start_over(plan, error, &mut waiting)?;
                }
                Err(error) => return Err(error),
            }
            stop &= waiting.commands.is_empty();
        }
        reach("shutdown", "told");
        Ok(())
    }

    /// Plans a commit and makes it durable.
    fn store(&mut self, plan: &mut Plan, appends: &mut Vec<Append>) -> Result<(), CommitError> {
        self.engine.is_there()?;
        if self.locked.elapsed() >= LOCK_EVERY {
            if !self.folder.is_locked() {
                return Err(CommitError::Unlocked(self.folder.root().to_owned()));
            }
            self.locked = Instant::now();
        }
        if self.space.is_tight() {
            // Nobody else gives back what the queue itself takes of a disk that is short of room, and no longer needs.
            self.engine.give_back(self.space.removals())?;
        }
        let asked = std::mem::take(&mut plan.asked);
        let planned = asked.iter().try_for_each(|command| self.plan(plan, command));
        plan.asked = asked;
        planned?;
        let bytes = appends.iter().flat_map(|one| &one.batch).map(Submission::payload_bytes).sum();
        let room = self.room(bytes, plan.asked.is_empty())?;
        self.plan_appends(plan, std::mem::take(appends), room);
        self.plan_marks(plan)?;
        self.commit(plan)
    }

    /// What a commit that appends `bytes` may do. Where it is to turn producers away and is asked for nothing else, as
    /// the one before it was, there is time to make room.
    fn room(&mut self, bytes: u64, is_idle: bool) -> Result<Room, CommitError> {
        let is_idle = is_idle && self.space.is_short();
        match self.space.room(bytes) {
            Room::RemovalsOnly(free) if is_idle && self.compact(free)? => Ok(self.space.room(bytes)),
            room => Ok(room),
        }
    }

    /// Writes the marks of pages with newly settled events; removes pages that are settled whole, and large envelopes
    /// that no other page uses. The engine, which may reuse their space, hears of it once this commit is durable in the
    /// journal.
    fn plan_marks(&mut self, plan: &mut Plan) -> Result<(), CommitError> {
        let (mut apart, mut unknown) = (Vec::new(), Vec::new());
        for page in plan.touched.values_mut() {
            if page.left() > 0 {
                page.mark.stored = true;
                plan.batch.insert(numbered(MARK, page.key.first), mark_value(page.mark.bits));
                continue;
            }
            for number in 0..parts(page.bytes) {
                plan.batch.remove(page.key.part(number));
            }
            if page.mark.stored {
                plan.batch.remove(numbered(MARK, page.key.first));
            }
            plan.ledger.held_bytes = plan.ledger.held_bytes.saturating_sub(page.bytes);
            plan.removed.insert(page.key.first);
            match page.members {
                Members::Here => {}
                Members::Apart(one) if apart.last() == Some(&one) => {}
                Members::Apart(one) => apart.push(one),
                Members::Unknown => unknown.push(page.key),
            }
        }
        self.plan_envelopes(plan, apart, unknown)
    }

    /// Plans anything but an append.
    fn plan(&mut self, plan: &mut Plan, command: &Command) -> Result<(), CommitError> {
        match command {
            Command::Settle { delivered, burials, .. } => {
                for seq in delivered {
                    if self.settle(plan, *seq)? {
                        plan.ledger.balance.delivered += 1;
                    }
                }
                if !burials.is_empty() {
                    let came_to = self.bury_some(plan, burials)?;
                    plan.buried_of.push(came_to);
                }
            }
            Command::Delete { letters, .. } => {
                let mut count = 0;
                for seq in letters {
                    count += u64::from(self.delete(plan, *seq)?);
                }
                plan.deletions.push(count);
            }
            Command::Requeue { letters, .. } => {
                let requeued = self.requeue(plan, letters)?;
                plan.requeued.push(requeued);
            }
            Command::Put { name, value, .. } => plan.batch.insert(meta(name), value.as_slice()),
            Command::Quarantine(key) if plan.is_long() => plan.put_off.push(*key),
            Command::Quarantine(key) => self.quarantine(plan, *key)?,
            Command::Trim(key) => {
                if !plan.removed.contains(&key.first) {
                    let found = self.page(key.first)?.filter(|page| page.key == *key && page.left() == 0);
                    plan.touched.extend(found.map(|page| (key.first, page)));
                }
            }
            Command::Missing(count) => {
                plan.ledger.balance.quarantined += count;
                plan.ledger.discount(*count);
            }
            Command::Surplus(count) => plan.ledger.count(*count),
            Command::Limits(limits) => {
                self.space.limit(limits.min_free, limits.reserve);
                self.engine.limit_journal(limits.journal_bytes);
                self.settings = Settings { path: self.settings.path.clone(), ..limits.clone() };
            }
            Command::Reopen(opened) if self.view.times_opened() == Some(*opened) => {
                let full = std::io::ErrorKind::StorageFull;
                return Err(CommitError::Engine(sled::Error::Io(full.into())));
            }
            Command::Reopen(_) | Command::Pulse(_) | Command::Append(_) | Command::Stop => {}
        }
        Ok(())
    }

    /// Marks one event as settled; `false` where it is not in the queue, or was settled before.
    pub(super) fn settle(&mut self, plan: &mut Plan, seq: Seq) -> Result<bool, CommitError> {
        let staged = plan.touched.range(..=seq).next_back().map(|(_, page)| *page);
        let staged = staged.filter(|page| page.key.bit(seq) != 0);
        let found = match staged {
            Some(page) => Some(page),
            None => self.page(seq)?,
        };
        let Some(mut page) = found else { return Ok(false) };
        let bit = page.key.bit(seq);
        if page.mark.bits & bit != 0 || plan.removed.contains(&page.key.first) {
            return Ok(false);
        }
        page.mark.bits |= bit;
        plan.ledger.discount(1);
        plan.touched.insert(page.key.first, page);
        plan.settled.push(seq);
        Ok(true)
    }

    /// The page that has `seq`; `None` where it is not in the queue.
    fn page(&self, seq: Seq) -> Result<Option<PageState>, sled::Error> {
        let known = self.pages.of(seq);
        let found =
            known.or_else(|| self.told.kept.lock().unwrap_or_else(PoisonError::into_inner).pages.of(seq));
        match found {
            Some(page) => Ok(Some(page)),
            None => read_page(&self.engine, seq),
        }
    }

    fn plan_appends(&mut self, plan: &mut Plan, appends: Vec<Append>, room: Room) {
        let now = (self.now)();
        let mut page = OpenPage::default();
        for append in appends {
            *plan.lines.entry(append.producer).or_default() += append.batch.len();
            let mut answers = Vec::with_capacity(append.batch.len());
            let mut hooks = append.hooks.into_iter().peekable();
            for (position, submission) in append.batch.into_iter().enumerate() {
                let hook = hooks.next_if(|(of, _)| *of == position);
                let refusal = match (room, append.replier.is_gone()) {
                    // The connection is gone: its lines were never answered, so nobody counts on them.
                    (_, true) => continue,
                    (Room::RemovalsOnly(free), _) => Some(self.storage_full(free)),
                    (Room::Enough, _) => self.full(&plan.ledger, page.bytes(), &submission),
                };
                answers.push(refusal.unwrap_or_else(|| {
                    plan.hooks.extend(hook.map(|(_, hook)| (hook, plan.ledger.next)));
                    // Here, in the order of the queue and after admission: a refused line changes nothing.
                    page.add(plan, stitched(&mut self.stitches, submission, now), now);
                    Appended::Stored
                }));
            }
            plan.stored.push((append.replier, answers));
        }
        page.close(plan);
    }

    /// The refusal of a submission for which the queue has no room; `open` bytes are held beside those of the ledger.
    fn full(&self, ledger: &Ledger, open: u64, submission: &Submission) -> Option<Appended> {
        let (pending, events) = (ledger.balance.pending(), submission.notifications.len() as u64);
        let (held, bytes) = (ledger.held_bytes + open, submission.payload_bytes());
        let Settings { max_events, max_bytes, .. } = self.settings;
        // Even what no empty queue would hold is refused only for now: the limit may be raised, the event is sound.
        let message = if events > max_events {
            format!(
                "it has {events} events, and the whole queue holds at most {max_events} (queue.max_events): raise that, or send less at once"
            )
        } else if bytes > max_bytes {
            format!(
                "it takes {bytes} bytes, and the whole queue holds at most {max_bytes} (queue.max_bytes): raise that, or send less at once"
            )
        } else if pending + events > max_events {
            self.told.counts.refuse(events, 0);
            format!("the queue holds {pending} of at most {max_events} events (queue.max_events)")
        } else if held + bytes > max_bytes {
            self.told.counts.refuse(0, bytes);
            format!("the queue holds {held} of at most {max_bytes} bytes (queue.max_bytes)")
        } else {
            return None;
        };
        Some(Appended::Refused { code: Unavailable::QueueFull, message, retry_after: RETRY_AFTER })
    }

    pub(super) fn storage_full(&self, free: Free) -> Appended {
        let message = self.space.refusal(free);
        Appended::Refused { code: Unavailable::StorageFull, message, retry_after: RETRY_AFTER }
    }

    fn commit(&mut self, plan: &mut Plan) -> Result<(), CommitError> {
        if plan.ledger != self.ledger || plan.asked.iter().any(Command::lasts) {
            plan.batch.insert(meta("ledger"), plan.ledger.encode());
            plan.reach("planned");
            let began = Instant::now();
            let removals = if self.space.is_short() { Removals::Late } else { Removals::Soon };
            let batch = std::mem::take(&mut plan.batch);
            self.engine.commit_with(batch, removals, self.space.room_to_move())?;
            self.last = LastCommit::of(&plan.lines, began.elapsed());
            plan.reach("committed");
            self.told.counts.commit();
            self.pause = Pause::default();
        }
        Ok(())
    }

    /// `plan` is durable: only now anybody is told. What it put off waits again, but for the next start where the queue
    /// ends.
    pub(super) fn publish(&mut self, plan: Plan, waiting: &mut Waiting<'_>) {
        // What a full disk took back comes before all else.
        self.told.counts.find_room();
        if !plan.has_stop() {
            waiting.put_back(plan.put_off.iter().copied().map(Command::Quarantine));
        }
        for page in plan.fresh {
            self.pages.remember(page);
        }
        let mut kept = self.told.kept.lock().unwrap_or_else(PoisonError::into_inner);
        plan.touched.keys().chain(&plan.removed).for_each(|first| kept.pages.change(*first));
        kept.forget(&plan.settled);
        kept.add_stored(plan.recent);
        drop(kept);
        let first = self.ledger.next;
        self.ledger = plan.ledger;
        plan.removed.iter().for_each(|first| self.pages.forget(*first));
        let there = plan.touched.into_values().filter(|page| page.left() > 0);
        there.for_each(|page| self.pages.remember(page));
        // Before anybody can send and settle these events.
        for (hook, first) in plan.hooks {
            hook.0(first);
        }
        // Before the ledger: a scheduler that knows only that one takes these for left out, and reads them from the
        // disk.
        if !plan.entries.is_empty() {
            // A scheduler that does not keep up reads these from the disk.
            let _full =
                self.told.live.try_send(Added { first, next: self.ledger.next, entries: plan.entries });
        }
        self.told.ledger.send_replace(self.ledger);
        for (replier, answers) in plan.stored {
            replier.reply(answers);
        }
        for reason in plan.buried {
            self.told.counts.bury(reason);
        }
        let (mut requeued, mut deletions) = (plan.requeued.into_iter(), plan.deletions.into_iter());
        let mut buried_of = plan.buried_of.into_iter();
        for command in plan.asked {
            // The receiver may be gone.
            let _gone = match command {
                Command::Settle { done, mut burials, .. } => {
                    if !burials.is_empty() {
                        burials.drain(..buried_of.next().unwrap_or_default());
                    }
                    done.send(burials).map_err(drop)
                }
                Command::Put { done, .. } | Command::Pulse(done) => done.send(()),
                Command::Delete { done, .. } => done.send(deletions.next().unwrap_or_default()).map_err(drop),
                Command::Requeue { done, mut letters } => {
                    let (requeued, came_to) = requeued.next().unwrap_or_default();
                    letters.drain(..came_to);
                    done.send((requeued, letters)).map_err(drop)
                }
                _ => Ok(()),
            };
        }
    }
}

impl Command {
    /// Whether it is answered once something is durable, even where that changes no counter.
    pub(super) fn lasts(&self) -> bool {
        matches!(self, Self::Settle { .. } | Self::Delete { .. } | Self::Put { .. })
    }
}

/// The submission with the supplemental data id that is its.
fn stitched(stitches: &mut Stitches, mut submission: Submission, now: Moment) -> Submission {
    if let Some(stitch) = &submission.stitch {
        let (lane, consumer) = (hash::lane(&submission.envelope.session), hash::id_hash_of(&stitch.consumer));
        let id = stitches.choose(now, lane, consumer, &stitch.fresh);
        if id != stitch.fresh {
            submission.set_supplemental_data_id(&id);
        }
    }
    submission
}

/// How many values a record of `bytes` is cut over.
fn parts(bytes: u64) -> u16 {
    u16::try_from(bytes.div_ceil(keys::VALUE_BYTES as u64)).unwrap_or(u16::MAX)
}
