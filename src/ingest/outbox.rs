//! What one connection is owed: its replies, in the order of its lines.
//!
//! Guarantees:
//! - replies are written in the order of the batches, each once; a receipt is written behind the reply to its own line;
//! - one at a time writes: the thread that answers a batch, where that is short and everything before it is written, or the
//!   connection's task. So a producer that waits for its reply has it without another thread having to wake up;
//! - that thread never waits for a producer: what the socket does not take at once is left to the task;
//! - a batch that is dropped without an answer has the connection closed, once what comes before it is written;
//! - a peer that reads no more is deaf: what it is owed is discarded, and its lines are stored as those of any other.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use nix::sys::socket::{Shutdown, shutdown};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::slip::Receipt;
use super::{Counts, WRITE_STALL, WRITE_STALL_AT_SHUTDOWN};
use crate::event::{EventId, SessionId};
use crate::wire::reply::{self, Appended, Replier};

/// What a reply that waits takes in memory beside its texts, in bytes.
const PLACE_BYTES: usize = 160;
/// What an event of a reply that waits takes in memory beside its id, in bytes.
const PLACE_BYTES_PER_EVENT: usize = 48;
/// The most that the places of a batch take in memory, in bytes, whose replies are written by the thread that answers it: all
/// others wait for that thread.
const PROMPT_BYTES: usize = 8 * 1_024;

/// A line's place in the order of replies.
#[derive(Debug)]
pub(super) enum Place {
    /// Answered already.
    Answered(String),
    /// Answered by the next [`Appended`] of the batch.
    Waiting { ids: Vec<EventId>, session: SessionId, reference: Option<String>, no_receipt: bool },
}

impl Place {
    /// Whether it takes an answer.
    fn waits(&self) -> bool {
        matches!(self, Self::Waiting { .. })
    }

    /// About what it takes in memory, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let texts = match self {
            Self::Answered(line) => line.len(),
            Self::Waiting { ids, session, reference, .. } => {
                let ids: usize = ids.iter().map(|id| id.as_str().len() + PLACE_BYTES_PER_EVENT).sum();
                ids + session.as_str().len() + reference.as_ref().map_or(0, String::len)
            }
        };
        PLACE_BYTES + texts
    }
}

/// The replies of one connection.
#[derive(Debug)]
pub(super) struct Outbox {
    stream: OwnedWriteHalf,
    state: Mutex<State>,
    /// There is something for the task to do.
    wake: Notify,
    counts: Arc<Counts>,
    /// How much the connection owes: batches, and receipts.
    pub(super) owed: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct State {
    /// The batches that are not written, the first of them with the number `answered`.
    batches: VecDeque<Batch>,
    /// How many were written, or are being written.
    answered: u64,
    /// What the socket did not take at once.
    left: Option<Text>,
    /// Whether the task is writing.
    writing: bool,
    /// When something was written the last time.
    wrote: Option<Instant>,
    /// Whether the task has receipts that wait for a reply.
    receipts: bool,
    /// Set once no more batches come.
    end: Option<End>,
    /// Whether the peer reads no more: what is to be written is discarded.
    deaf: bool,
}

#[derive(Debug)]
struct Batch {
    places: Vec<Place>,
    /// About what they take in memory.
    bytes: usize,
    fate: Fate,
    /// What it holds of limits, until its replies are written.
    shares: Vec<OwnedSemaphorePermit>,
}

#[derive(Debug)]
enum Fate {
    Open,
    Answered(Vec<Appended>),
    /// Its commit was lost, or its answers are not those to its lines: nobody knows what is stored.
    Lost,
}

/// What is to be written, and what it holds of limits until it is.
#[derive(Debug, Default)]
struct Text {
    lines: String,
    /// How much of it is written, in bytes.
    written: usize,
    shares: Vec<OwnedSemaphorePermit>,
}

/// What the task does next.
enum Turn {
    Write(Text),
    Wait,
    /// All is answered, and no more comes but receipts, where they are waited for.
    Done {
        waits: bool,
    },
    /// A commit was lost: the connection closes without a reply.
    Lost,
}

/// What became of a text.
enum Written {
    Whole,
    /// The peer reads no more; it may have sent lines nevertheless.
    Deaf,
    /// The peer took no byte for too long, or the socket failed.
    Stalled,
}

/// How the reading ended; no more batches come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With the end of file: the peer waits for all that it is owed.
    File,
    /// By the daemon: replies are written, and receipts that are there by then.
    Cut,
}

/// Answers one batch of a connection; dropped without an answer, it closes the connection.
#[derive(Debug)]
pub(super) struct Asker {
    outbox: Weak<Outbox>,
    number: u64,
    told: bool,
}

impl Replier for Asker {
    fn is_gone(&self) -> bool {
        self.outbox.strong_count() == 0
    }

    fn reply(mut self: Box<Self>, answers: Vec<Appended>) {
        self.told = true;
        if let Some(outbox) = self.outbox.upgrade() {
            outbox.answer(self.number, Fate::Answered(answers));
        }
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        if !self.told
            && let Some(outbox) = self.outbox.upgrade()
        {
            outbox.answer(self.number, Fate::Lost);
        }
    }
}

impl Outbox {
    pub(super) fn new(stream: OwnedWriteHalf, counts: Arc<Counts>) -> Self {
        let (wake, owed) = (Notify::new(), Arc::default());
        Self { stream, state: Mutex::default(), wake, counts, owed }
    }

    /// Takes the places of a batch, which take about `bytes` in memory; who answers those that wait, if any does. `shares` is
    /// what it holds of limits.
    pub(super) fn push(
        self: &Arc<Self>,
        places: Vec<Place>,
        bytes: usize,
        shares: Vec<OwnedSemaphorePermit>,
    ) -> Option<Box<Asker>> {
        let waits = places.iter().any(Place::waits);
        self.owed.fetch_add(1, Ordering::Relaxed);
        let fate = if waits { Fate::Open } else { Fate::Answered(Vec::new()) };
        let mut state = self.state();
        state.batches.push_back(Batch { places, bytes, fate, shares });
        let number = state.answered + state.batches.len() as u64 - 1;
        drop(state);
        if !waits {
            self.wake.notify_one();
            return None;
        }
        Some(Box::new(Asker { outbox: Arc::downgrade(self), number, told: false }))
    }

    /// No more batches come.
    pub(super) fn end(&self, end: End) {
        self.state().end = Some(end);
        self.wake.notify_one();
    }

    /// When it last owed something: now, where it does.
    pub(super) fn last_busy(&self) -> Option<Instant> {
        let state = self.state();
        let is_busy = state.writing || state.left.is_some() || self.owed.load(Ordering::Relaxed) > 0;
        if is_busy { Some(Instant::now()) } else { state.wrote }
    }

    fn answer(&self, number: u64, fate: Fate) {
        let mut state = self.state();
        let at = number.checked_sub(state.answered).and_then(|at| usize::try_from(at).ok());
        let Some(batch) = at.and_then(|at| state.batches.get_mut(at)) else { return };
        let waiting = batch.places.iter().filter(|place| place.waits()).count();
        batch.fate = match fate {
            Fate::Answered(answers) if answers.len() != waiting => Fate::Lost,
            fate => fate,
        };
        let is_short = batch.bytes <= PROMPT_BYTES;
        let is_next = at == Some(0) && state.left.is_none() && !state.writing && !state.receipts;
        let is_done = is_short && is_next && self.write_at_once(&mut state);
        drop(state);
        if !is_done {
            self.wake.notify_one();
        }
    }

    /// Writes the replies of the first batch as far as the socket takes them; whether the task has nothing left to do.
    fn write_at_once(&self, state: &mut State) -> bool {
        let (mut text, Some(batch)) = (Text::default(), self.take(state)) else { return false };
        self.add(batch, &mut text);
        state.wrote = Some(Instant::now());
        let written =
            if state.deaf { Ok(text.lines.len()) } else { self.stream.try_write(text.lines.as_bytes()) };
        match written {
            Ok(written) if written == text.lines.len() => match state.batches.front() {
                Some(next) => matches!(next.fate, Fate::Open),
                None => state.end.is_none(),
            },
            // The task hears of an error when it goes on.
            written => {
                text.written = written.unwrap_or(0);
                state.left = Some(text);
                false
            }
        }
    }

    /// Takes the first batch, where it is answered.
    fn take(&self, state: &mut State) -> Option<Batch> {
        let batch = state.batches.pop_front_if(|batch| matches!(batch.fate, Fate::Answered(_)))?;
        state.answered += 1;
        self.owed.fetch_sub(1, Ordering::Relaxed);
        Some(batch)
    }

    /// Adds the replies of a batch that is answered.
    fn add(&self, batch: Batch, text: &mut Text) {
        let Fate::Answered(answers) = batch.fate else { return };
        let (mut answers, lines) = (answers.into_iter(), &mut text.lines);
        // More than the replies are long, and what is counted for them all the time.
        lines.reserve(batch.bytes);
        for place in batch.places {
            match place {
                Place::Answered(line) => lines.push_str(&line),
                Place::Waiting { ids, session, reference, no_receipt } => match answers.next() {
                    // There are as many answers as lines that wait.
                    None => return,
                    Some(Appended::Stored) => {
                        reply::push_queued(lines, &ids, &session, reference.as_deref(), no_receipt);
                    }
                    Some(Appended::Refused { code, message, retry_after }) => {
                        self.counts.unavailable.add(1);
                        let reference = reference.as_deref();
                        lines.push_str(&reply::unavailable(code, &message, reference, retry_after));
                    }
                },
            }
            lines.push('\n');
        }
        text.shares.extend(batch.shares);
    }

    /// What the task does next; those of the `receipts` that may be written are taken out.
    fn turn(&self, receipts: &mut Vec<Receipt>) -> Turn {
        let mut state = self.state();
        if state.writing {
            state.wrote = Some(Instant::now());
        }
        let mut text = state.left.take().unwrap_or_default();
        // One at a time: what it holds of limits is free once it is written.
        let batch = self.take(&mut state);
        let (now, later): (Vec<_>, _) =
            receipts.drain(..).partition(|receipt| receipt.batch < state.answered);
        *receipts = later;
        state.receipts = !receipts.is_empty();
        state.writing = !text.lines.is_empty() || batch.is_some() || !now.is_empty();
        if !state.writing {
            return match state.batches.front() {
                Some(Batch { fate: Fate::Lost, .. }) => Turn::Lost,
                None => match state.end {
                    Some(end) => Turn::Done { waits: end == End::File && !state.deaf },
                    None => Turn::Wait,
                },
                Some(_) => Turn::Wait,
            };
        }
        drop(state);
        if let Some(batch) = batch {
            self.add(batch, &mut text);
        }
        for Receipt { text: line, share, owed, .. } in now {
            text.lines.push_str(&line);
            text.lines.push('\n');
            text.shares.push(share);
            // It is busy with it from here on.
            drop(owed);
        }
        Turn::Write(text)
    }

    /// Answers batches in their order, and writes receipts after the replies to their own lines; `true` once all is
    /// written, or discarded, and our side is shut down, `false` where the connection has to close at once. `idle` is how long
    /// receipts are waited for after the last reply.
    pub(super) async fn run(
        &self,
        mut due: mpsc::Receiver<Receipt>,
        shutdown: &CancellationToken,
        idle: impl Fn() -> Duration,
    ) -> bool {
        let (mut receipts, mut owed, mut until) = (Vec::new(), true, None);
        loop {
            match self.turn(&mut receipts) {
                Turn::Write(text) => match self.write(&text, shutdown).await {
                    Written::Whole => continue,
                    Written::Deaf => {
                        self.state().deaf = true;
                        continue;
                    }
                    Written::Stalled => return false,
                },
                Turn::Lost => return false,
                Turn::Done { .. } if !owed => break,
                Turn::Done { waits: false } => until = Some(Instant::now()),
                Turn::Done { waits: true } => until = until.or_else(|| Some(Instant::now() + idle())),
                Turn::Wait => {}
            }
            // The channel keeps what is not taken; the wait for receipts after the last reply has a fixed end. What is due goes
            // before every end.
            tokio::select! {
                biased;
                () = self.wake.notified() => {}
                receipt = due.recv(), if owed => match receipt {
                    Some(receipt) => receipts.push(receipt),
                    None => owed = false,
                },
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => break,
                () = shutdown.cancelled(), if until.is_some() => break,
            }
        }
        self.shut_down()
    }

    async fn write(&self, text: &Text, shutdown: &CancellationToken) -> Written {
        let mut left = text.lines.as_bytes().get(text.written..).unwrap_or_default();
        if self.state().deaf {
            return Written::Deaf;
        }
        while !left.is_empty() {
            // Writing that is dropped has written nothing.
            let written = tokio::select! {
                biased;
                written = self.write_some(left) => written,
                () = stall(shutdown) => return Written::Stalled,
            };
            match written {
                Ok(count @ 1..) => left = left.get(count..).unwrap_or_default(),
                Err(error) if reads_no_more(&error) => return Written::Deaf,
                _ => return Written::Stalled,
            }
        }
        Written::Whole
    }

    async fn write_some(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            self.stream.writable().await?;
            match self.stream.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return written,
            }
        }
    }

    fn shut_down(&self) -> bool {
        let stream: &UnixStream = self.stream.as_ref();
        shutdown(stream.as_raw_fd(), Shutdown::Write).is_ok()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whoever panics in here ends the daemon, or its own connection.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns once the peer had enough time to take a byte.
async fn stall(shutdown: &CancellationToken) {
    tokio::select! {
        () = sleep(WRITE_STALL) => {}
        () = shutdown.cancelled() => sleep(WRITE_STALL_AT_SHUTDOWN).await,
    }
}

/// Whether an error says that the peer closed, or shut down its reading side.
pub(super) fn reads_no_more(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}
