//! One producer's connection: a reading half that hands batches on, and a writing half that answers them in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::control::Rules;
use super::framing::{Frame, Framer};
use super::slip::{Receipt, Slip};
use super::{
    Admission, Control, Counts, LINGER_AT_SHUTDOWN, MAX_BATCH_BYTES, MAX_BATCH_LINES, MAX_REPLY_BYTES,
    MAX_WAITING_BATCHES, Pending, SHORT_LINE_BYTES, WRITE_STALL,
};
use crate::event::{EventId, SessionId};
use crate::wire::reply::{self, Appended, Code, Rejection};
use crate::wire::submission::Submission;

/// The bytes of one read.
const READ_BYTES: usize = 64 * 1_024;

/// What a reply that waits takes in memory beside its texts, in bytes.
const PLACE_BYTES: usize = 160;
/// What an event of a reply that waits takes in memory beside its id, in bytes.
const PLACE_BYTES_PER_EVENT: usize = 48;
/// What an event of a submission that waits for its receipt takes in memory beside its id, in bytes.
const SLIP_BYTES_PER_EVENT: usize = 128;
/// How long a read at shutdown may take to see bytes that have arrived before it.
const ARRIVAL_WAIT: Duration = Duration::from_millis(10);
/// The most reads at shutdown: a producer that never stops writing is cut off after these.
const MAX_LAST_READS: usize = 64;

/// What every connection shares.
pub(super) struct Shared<A, C> {
    pub(super) control: Control,
    pub(super) admission: A,
    pub(super) wall_ms: C,
    /// [`MAX_SLIP_BYTES`](super::MAX_SLIP_BYTES), in KiB.
    pub(super) slips: Arc<Semaphore>,
    pub(super) shutdown: CancellationToken,
    pub(super) counts: Arc<Counts>,
}

/// A line's place in the order of replies.
enum Place {
    /// Answered already.
    Answered(String),
    /// Answered by the next [`Appended`] of the batch.
    Waiting { ids: Vec<EventId>, session: SessionId, reference: Option<String>, no_receipt: bool },
}

/// What was handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handed {
    /// No line is complete.
    None,
    /// At least one line.
    Lines,
    /// Nothing: nobody writes replies any more.
    Gone,
}

impl Place {
    /// About what it takes in memory, in bytes.
    fn bytes(&self) -> usize {
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

struct Batch {
    places: Vec<Place>,
    pending: Option<Pending>,
    /// Of [`MAX_REPLY_BYTES`], and for a long line of `buffer_max_bytes`, until the replies are written.
    shares: Vec<OwnedSemaphorePermit>,
}

/// What is to be written, and what it holds of limits until it is.
struct Text {
    lines: String,
    shares: Vec<OwnedSemaphorePermit>,
}

impl Text {
    fn push(&mut self, receipt: Receipt) {
        self.lines.push_str(&receipt.text);
        self.lines.push('\n');
        self.shares.push(receipt.share);
    }
}

/// Serves `stream`, the connection `producer` of `user`, until it ends.
pub(super) async fn serve<A, C>(stream: UnixStream, user: u32, producer: u64, shared: Arc<Shared<A, C>>)
where
    A: Admission,
    C: Fn() -> u64 + Send + Sync + 'static,
{
    let (reading, writing) = stream.into_split();
    let (batches, waiting) = mpsc::channel(MAX_WAITING_BATCHES);
    let rules = shared.control.rules();
    let (receipts, due) = mpsc::channel(rules.settings.max_receipts.max(1));
    let owed = Arc::new(AtomicUsize::new(0));
    let mut reader = Reader {
        shared: &shared,
        producer,
        user,
        stream: reading,
        framer: Framer::new(rules.settings.max_line),
        rules,
        permit: None,
        replies: Arc::new(Semaphore::new(MAX_REPLY_BYTES)),
        handed: 0,
        owed: Arc::clone(&owed),
    };
    let mut writer = Writer { stream: writing, shared: &*shared, owed: &owed };
    let reads = async {
        reader.run(Out { batches, receipts }).await;
        reader
    };
    let mut reads = std::pin::pin!(reads);
    let mut finished = None;
    let mut answers = std::pin::pin!(writer.run(waiting, due));
    let whole = loop {
        // Dropping the reading half loses only lines that have no reply yet, and only where the connection is lost.
        tokio::select! {
            whole = &mut answers => break whole,
            reader = &mut reads, if finished.is_none() => finished = Some(reader),
        }
    };
    if whole
        && let Some(reader) = finished
        && shared.shutdown.is_cancelled()
    {
        discard(reader.stream).await;
    }
}

/// Reads on after our side was shut down, so that a producer in the middle of a write gets no reset.
async fn discard(mut stream: OwnedReadHalf) {
    let mut sink = vec![0_u8; READ_BYTES];
    let until = Instant::now() + LINGER_AT_SHUTDOWN;
    while let Ok(Ok(count)) = timeout_at(until, stream.read(&mut sink)).await {
        if count == 0 {
            return;
        }
    }
}

struct Reader<'s, A, C> {
    shared: &'s Shared<A, C>,
    producer: u64,
    user: u32,
    stream: OwnedReadHalf,
    framer: Framer,
    /// What the last read goes by.
    rules: Arc<Rules>,
    /// The share of `buffer_max_bytes` that a long line holds.
    permit: Option<OwnedSemaphorePermit>,
    /// What is left of [`MAX_REPLY_BYTES`].
    replies: Arc<Semaphore>,
    /// How many batches were handed on.
    handed: u64,
    owed: Arc<AtomicUsize>,
}

/// The ways from the reading half to the writing half; they end with it.
struct Out {
    batches: mpsc::Sender<Batch>,
    receipts: mpsc::Sender<Receipt>,
}

impl<A: Admission, C: Fn() -> u64> Reader<'_, A, C> {
    /// Reads until end of file, a timeout or shutdown; what was complete by then is handed on.
    async fn run(&mut self, out: Out) {
        let mut bytes = vec![0_u8; READ_BYTES];
        let mut line_began: Option<Instant> = None;
        loop {
            let settings = &self.rules.settings;
            let deadline = match line_began {
                Some(began) => began + settings.line_timeout,
                None => Instant::now() + settings.idle_timeout,
            };
            // A read that is dropped has taken nothing; the sleeping deadline is made anew.
            let count = tokio::select! {
                read = timeout_at(deadline, self.stream.read(&mut bytes)) => match read {
                    Ok(Ok(count)) => count,
                    Ok(Err(_)) => return,
                    Err(_) if line_began.is_none() && self.owed.load(Ordering::Relaxed) > 0 => continue,
                    Err(_) => return,
                },
                () = self.shared.shutdown.cancelled() => {
                    self.take_arrived(&mut bytes, &out).await;
                    return;
                }
            };
            if count == 0 {
                if let Some(frame) = self.framer.finish() {
                    let _gone = self.hand_on(vec![frame], &out).await;
                }
                return;
            }
            self.rules = self.shared.control.rules();
            self.framer.limit(self.rules.settings.max_line);
            self.framer.push(bytes.get(..count).unwrap_or_default());
            match self.hand_on_complete(&out).await {
                Handed::None => {}
                // What is begun now is another line than before.
                Handed::Lines => line_began = None,
                Handed::Gone => return,
            }
            line_began = self.framer.begun().then(|| line_began.unwrap_or_else(Instant::now));
            if !self.framer.begun() {
                self.permit = None;
            } else if self.framer.held_bytes() > SHORT_LINE_BYTES && self.permit.is_none() {
                let settings = &self.rules.settings;
                let share = u32::try_from(settings.max_line.min(settings.buffer_max_bytes).div_ceil(1_024));
                let pool = Arc::clone(&self.rules.long_lines);
                self.permit = pool.acquire_many_owned(share.unwrap_or(u32::MAX)).await.ok();
                line_began = Some(Instant::now());
            }
        }
    }

    /// Takes what the kernel already holds, so that every complete line that has arrived gets its reply.
    async fn take_arrived(&mut self, bytes: &mut [u8], out: &Out) {
        // A read that waits, not `try_read`: the latter knows only what the runtime has heard of so far.
        for _ in 0..MAX_LAST_READS {
            let Ok(Ok(count @ 1..)) = timeout(ARRIVAL_WAIT, self.stream.read(bytes)).await else { return };
            self.framer.push(bytes.get(..count).unwrap_or_default());
            if self.hand_on_complete(out).await == Handed::Gone {
                return;
            }
        }
    }

    async fn hand_on_complete(&mut self, out: &Out) -> Handed {
        let mut handed = Handed::None;
        loop {
            let (mut frames, mut bytes) = (Vec::new(), 0);
            while frames.len() < MAX_BATCH_LINES
                && bytes < MAX_BATCH_BYTES
                && let Some(frame) = self.framer.next()
            {
                bytes += frame.bytes();
                frames.push(frame);
            }
            if frames.is_empty() {
                return handed;
            }
            handed = Handed::Lines;
            if !self.hand_on(frames, out).await {
                return Handed::Gone;
            }
        }
    }

    /// Parses lines and hands them on; `false` where nobody writes replies any more.
    async fn hand_on(&mut self, frames: Vec<Frame>, out: &Out) -> bool {
        // The place is taken first: with no room for replies nothing more is stored.
        let Ok(room) = out.batches.reserve().await else { return false };
        let (mut submissions, mut slips) = (Vec::new(), Vec::new());
        let places: Vec<Place> = frames
            .into_iter()
            .map(|frame| self.place(frame, &out.receipts, &mut submissions, &mut slips))
            .collect();
        let bytes = places.iter().map(Place::bytes).sum::<usize>().min(MAX_REPLY_BYTES);
        let share = u32::try_from(bytes).unwrap_or(u32::MAX);
        // A peer that takes no replies waits here: it has room for no more of them.
        let share = Arc::clone(&self.replies).acquire_many_owned(share).await.ok();
        let pending = match submissions.is_empty() {
            true => None,
            false => Some(self.shared.admission.append(self.producer, submissions, slips).await),
        };
        self.handed += 1;
        self.owed.fetch_add(1, Ordering::Relaxed);
        // A long line is the first of its batch, and its share belongs to it until its reply is written.
        let shares = share.into_iter().chain(self.permit.take()).collect();
        room.send(Batch { places, pending, shares });
        true
    }

    fn place(
        &self,
        frame: Frame,
        receipts: &mpsc::Sender<Receipt>,
        submissions: &mut Vec<Submission>,
        slips: &mut Vec<(usize, Slip)>,
    ) -> Place {
        let Frame::Line(line) = frame else {
            let message =
                format!("the line is longer than {} bytes (ingest.max_line)", self.rules.settings.max_line);
            let rejection = Rejection { code: Code::LineTooLong, message, path: None, reference: None };
            return self.reject(&rejection);
        };
        match Submission::parse(&line, &self.rules.defaults, (self.shared.wall_ms)()) {
            Ok(submission) => {
                let ids: Vec<EventId> = submission.notifications.iter().map(|one| one.id.clone()).collect();
                let (session, reference) =
                    (submission.envelope.session.clone(), submission.reference.clone());
                let slip = match submission.receipt {
                    true => self.slip(receipts, &ids, &session, reference.as_ref()),
                    false => None,
                };
                let no_receipt = submission.receipt && slip.is_none();
                slips.extend(slip.map(|slip| (submissions.len(), slip)));
                submissions.push(submission);
                Place::Waiting { ids, session, reference, no_receipt }
            }
            Err(rejection) => self.reject(&rejection),
        }
    }

    /// The place for a receipt, if the connection and all of them together have one left.
    fn slip(
        &self,
        receipts: &mpsc::Sender<Receipt>,
        ids: &[EventId],
        session: &SessionId,
        reference: Option<&String>,
    ) -> Option<Slip> {
        let bytes: usize = ids.iter().map(|id| id.as_str().len() + SLIP_BYTES_PER_EVENT).sum();
        let share = u32::try_from(bytes.div_ceil(1_024)).ok()?;
        let share = Arc::clone(&self.shared.slips).try_acquire_many_owned(share).ok()?;
        let place = receipts.clone().try_reserve_owned().ok()?;
        self.owed.fetch_add(1, Ordering::Relaxed);
        Some(Slip {
            reference: reference.cloned(),
            ids: ids.to_vec(),
            session: session.clone(),
            batch: self.handed,
            place: Some(place),
            share,
            owed: Arc::clone(&self.owed),
        })
    }

    fn reject(&self, rejection: &Rejection) -> Place {
        self.shared.counts.rejected.add(1);
        debug!(
            event = "line_refused", code = rejection.code.as_str(), path = rejection.path.as_deref().unwrap_or(""), error = %rejection.message,
            producer = self.producer, user = self.user,
            "a line was refused; its producer was told why"
        );
        Place::Answered(reply::rejected(rejection))
    }
}

struct Writer<'s, A, C> {
    stream: OwnedWriteHalf,
    shared: &'s Shared<A, C>,
    owed: &'s AtomicUsize,
}

impl<A, C> Writer<'_, A, C> {
    /// Answers batches in their order, and writes receipts after the replies to their own lines; `true` once all is
    /// written and our side is shut down, `false` where the connection has to close at once.
    async fn run(&mut self, mut batches: mpsc::Receiver<Batch>, mut due: mpsc::Receiver<Receipt>) -> bool {
        let (mut answered, mut early) = (0, Vec::new());
        let (mut more, mut owed) = (true, true);
        let mut until = Instant::now();
        while more || owed {
            // Both channels keep what is not taken; the wait for receipts after the last reply has a fixed end.
            let text = tokio::select! {
                biased;
                batch = batches.recv(), if more => match batch {
                    Some(batch) => {
                        let Some(mut text) = answer(batch, &self.shared.counts).await else { return false };
                        answered += 1;
                        self.owed.fetch_sub(1, Ordering::Relaxed);
                        let (now, later): (Vec<_>, Vec<_>) =
                            early.into_iter().partition(|receipt: &Receipt| receipt.batch < answered);
                        early = later;
                        now.into_iter().for_each(|receipt| text.push(receipt));
                        text
                    }
                    None => {
                        more = false;
                        until = Instant::now() + self.shared.control.rules().settings.idle_timeout;
                        continue;
                    }
                },
                receipt = due.recv(), if owed => match receipt {
                    Some(receipt) if receipt.batch < answered => {
                        let mut text = Text { lines: String::new(), shares: Vec::new() };
                        text.push(receipt);
                        text
                    }
                    Some(receipt) => {
                        early.push(receipt);
                        continue;
                    }
                    None => {
                        owed = false;
                        continue;
                    }
                },
                () = sleep_until(until), if !more => break,
                () = self.shared.shutdown.cancelled(), if !more => break,
            };
            if !self.write(text.lines.as_bytes()).await {
                return false;
            }
        }
        self.stream.shutdown().await.is_ok()
    }

    async fn write(&mut self, mut left: &[u8]) -> bool {
        while !left.is_empty() {
            match timeout(WRITE_STALL, self.stream.write(left)).await {
                Ok(Ok(count @ 1..)) => left = left.get(count..).unwrap_or_default(),
                _ => return false,
            }
        }
        true
    }
}

/// The replies of a batch; `None` where its commit was lost.
async fn answer(batch: Batch, counts: &Counts) -> Option<Text> {
    let appended = match batch.pending {
        Some(pending) => pending.await.ok()?,
        None => Vec::new(),
    };
    let mut appended = appended.into_iter();
    let mut text = String::new();
    for place in batch.places {
        match place {
            Place::Answered(line) => text.push_str(&line),
            Place::Waiting { ids, session, reference, no_receipt } => match appended.next()? {
                Appended::Stored => {
                    text.push_str(&reply::queued(&ids, &session, reference.as_deref(), no_receipt))
                }
                Appended::Refused { code, message, retry_after } => {
                    counts.unavailable.add(1);
                    text.push_str(&reply::unavailable(code, &message, reference.as_deref(), retry_after));
                }
            },
        }
        text.push('\n');
    }
    Some(Text { lines: text, shares: batch.shares })
}
