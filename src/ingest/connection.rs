//! One producer's connection: a reading half that hands batches on, and a writing half that answers them in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::framing::{Frame, Framer};
use super::{
    Admission, Counts, LINGER_AT_SHUTDOWN, MAX_BATCH_LINES, MAX_WAITING_BATCHES, Pending, SHORT_LINE_BYTES,
    Settings, WRITE_STALL,
};
use crate::event::{EventId, SessionId};
use crate::wire::defaults::Defaults;
use crate::wire::reply::{self, Appended, Code, Rejection};
use crate::wire::submission::Submission;

/// The bytes of one read.
const READ_BYTES: usize = 64 * 1_024;

/// How long a read at shutdown may take to see bytes that have arrived before it.
const ARRIVAL_WAIT: Duration = Duration::from_millis(10);
/// The most reads at shutdown: a producer that never stops writing is cut off after these.
const MAX_LAST_READS: usize = 64;

/// What every connection shares.
pub(super) struct Shared<A, C> {
    pub(super) settings: Settings,
    pub(super) defaults: Arc<Defaults>,
    pub(super) admission: A,
    pub(super) wall_ms: C,
    /// `buffer_max_bytes`, in KiB.
    pub(super) long_lines: Arc<Semaphore>,
    pub(super) shutdown: CancellationToken,
    pub(super) counts: Arc<Counts>,
}

/// A line's place in the order of replies.
enum Place {
    /// Answered already.
    Answered(String),
    /// Answered by the next [`Appended`] of the batch.
    Waiting { ids: Vec<EventId>, session: SessionId, reference: Option<String> },
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

struct Batch {
    places: Vec<Place>,
    pending: Option<Pending>,
}

/// Serves `stream`, the connection `producer` of `user`, until it ends.
pub(super) async fn serve<A, C>(stream: UnixStream, user: u32, producer: u64, shared: Arc<Shared<A, C>>)
where
    A: Admission,
    C: Fn() -> u64 + Send + Sync + 'static,
{
    let (reading, writing) = stream.into_split();
    let (batches, waiting) = mpsc::channel(MAX_WAITING_BATCHES);
    let owed = AtomicUsize::new(0);
    let mut reader = Reader {
        shared: &shared,
        producer,
        user,
        stream: reading,
        framer: Framer::new(shared.settings.max_line),
        permit: None,
    };
    let mut writer = Writer { stream: writing, owed: &owed, counts: &shared.counts };
    let reads = async {
        reader.run(batches, &owed).await;
        reader
    };
    let mut reads = std::pin::pin!(reads);
    let mut finished = None;
    let mut answers = std::pin::pin!(writer.run(waiting));
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
    /// The share of `buffer_max_bytes` that a long line holds.
    permit: Option<OwnedSemaphorePermit>,
}

impl<A: Admission, C: Fn() -> u64> Reader<'_, A, C> {
    /// Reads until end of file, a timeout or shutdown; what was complete by then is handed on.
    async fn run(&mut self, batches: mpsc::Sender<Batch>, owed: &AtomicUsize) {
        let mut bytes = vec![0_u8; READ_BYTES];
        let mut line_began: Option<Instant> = None;
        loop {
            let settings = &self.shared.settings;
            let deadline = match line_began {
                Some(began) => began + settings.line_timeout,
                None => Instant::now() + settings.idle_timeout,
            };
            // A read that is dropped has taken nothing; the sleeping deadline is made anew.
            let count = tokio::select! {
                read = timeout_at(deadline, self.stream.read(&mut bytes)) => match read {
                    Ok(Ok(count)) => count,
                    Ok(Err(_)) => return,
                    Err(_) if line_began.is_none() && owed.load(Ordering::Relaxed) > 0 => continue,
                    Err(_) => return,
                },
                () = self.shared.shutdown.cancelled() => {
                    self.take_arrived(&mut bytes, &batches, owed).await;
                    return;
                }
            };
            if count == 0 {
                if let Some(frame) = self.framer.finish() {
                    let _gone = self.hand_on(vec![frame], &batches, owed).await;
                }
                return;
            }
            self.framer.push(bytes.get(..count).unwrap_or_default());
            match self.hand_on_complete(&batches, owed).await {
                Handed::None => {}
                // What is begun now is another line than before.
                Handed::Lines => line_began = None,
                Handed::Gone => return,
            }
            line_began = self.framer.begun().then(|| line_began.unwrap_or_else(Instant::now));
            if !self.framer.begun() {
                self.permit = None;
            } else if self.framer.held_bytes() > SHORT_LINE_BYTES && self.permit.is_none() {
                let share = u32::try_from(settings.max_line.min(settings.buffer_max_bytes).div_ceil(1_024));
                let pool = Arc::clone(&self.shared.long_lines);
                self.permit = pool.acquire_many_owned(share.unwrap_or(u32::MAX)).await.ok();
                line_began = Some(Instant::now());
            }
        }
    }

    /// Takes what the kernel already holds, so that every complete line that has arrived gets its reply.
    async fn take_arrived(&mut self, bytes: &mut [u8], batches: &mpsc::Sender<Batch>, owed: &AtomicUsize) {
        // A read that waits, not `try_read`: the latter knows only what the runtime has heard of so far.
        for _ in 0..MAX_LAST_READS {
            let Ok(Ok(count @ 1..)) = timeout(ARRIVAL_WAIT, self.stream.read(bytes)).await else { return };
            self.framer.push(bytes.get(..count).unwrap_or_default());
            if self.hand_on_complete(batches, owed).await == Handed::Gone {
                return;
            }
        }
    }

    async fn hand_on_complete(&mut self, batches: &mpsc::Sender<Batch>, owed: &AtomicUsize) -> Handed {
        let mut handed = Handed::None;
        loop {
            let mut frames = Vec::new();
            while frames.len() < MAX_BATCH_LINES
                && let Some(frame) = self.framer.next()
            {
                frames.push(frame);
            }
            if frames.is_empty() {
                return handed;
            }
            handed = Handed::Lines;
            // A long line gives its share back as soon as it is complete.
            self.permit = None;
            if !self.hand_on(frames, batches, owed).await {
                return Handed::Gone;
            }
        }
    }

    /// Parses lines and hands them on; `false` where nobody writes replies any more.
    async fn hand_on(&self, frames: Vec<Frame>, batches: &mpsc::Sender<Batch>, owed: &AtomicUsize) -> bool {
        // The place is taken first: with no room for replies nothing more is stored.
        let Ok(room) = batches.reserve().await else { return false };
        let mut submissions = Vec::new();
        let places = frames.into_iter().map(|frame| self.place(frame, &mut submissions)).collect();
        let pending = match submissions.is_empty() {
            true => None,
            false => Some(self.shared.admission.append(self.producer, submissions).await),
        };
        owed.fetch_add(1, Ordering::Relaxed);
        room.send(Batch { places, pending });
        true
    }

    fn place(&self, frame: Frame, submissions: &mut Vec<Submission>) -> Place {
        let Frame::Line(line) = frame else {
            let message =
                format!("the line is longer than {} bytes (ingest.max_line)", self.shared.settings.max_line);
            let rejection = Rejection { code: Code::LineTooLong, message, path: None, reference: None };
            return self.reject(&rejection);
        };
        match Submission::parse(&line, &self.shared.defaults, (self.shared.wall_ms)()) {
            Ok(submission) => {
                let place = Place::Waiting {
                    ids: submission.notifications.iter().map(|one| one.id.clone()).collect(),
                    session: submission.envelope.session.clone(),
                    reference: submission.reference.clone(),
                };
                submissions.push(submission);
                place
            }
            Err(rejection) => self.reject(&rejection),
        }
    }

    fn reject(&self, rejection: &Rejection) -> Place {
        self.shared.counts.rejected.add(1);
        debug!(
            code = rejection.code.as_str(), path = rejection.path.as_deref().unwrap_or(""), error = %rejection.message,
            producer = self.producer, user = self.user,
            "a line was refused; its producer was told why"
        );
        Place::Answered(reply::rejected(rejection))
    }
}

struct Writer<'o> {
    stream: OwnedWriteHalf,
    owed: &'o AtomicUsize,
    counts: &'o Counts,
}

impl Writer<'_> {
    /// Answers batches in their order; `true` once all is written and our side is shut down, `false` where the
    /// connection has to close at once.
    async fn run(&mut self, mut batches: mpsc::Receiver<Batch>) -> bool {
        while let Some(batch) = batches.recv().await {
            let Some(text) = answer(batch, self.counts).await else { return false };
            if !self.write(text.as_bytes()).await {
                return false;
            }
            self.owed.fetch_sub(1, Ordering::Relaxed);
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
async fn answer(batch: Batch, counts: &Counts) -> Option<String> {
    let appended = match batch.pending {
        Some(pending) => pending.await.ok()?,
        None => Vec::new(),
    };
    let mut appended = appended.into_iter();
    let mut text = String::new();
    for place in batch.places {
        match place {
            Place::Answered(line) => text.push_str(&line),
            Place::Waiting { ids, session, reference } => match appended.next()? {
                Appended::Stored => {
                    text.push_str(&reply::queued(&ids, &session, reference.as_deref(), false))
                }
                Appended::Refused { code, message, retry_after } => {
                    counts.unavailable.add(1);
                    text.push_str(&reply::unavailable(code, &message, reference.as_deref(), retry_after));
                }
            },
        }
        text.push('\n');
    }
    Some(text)
}
