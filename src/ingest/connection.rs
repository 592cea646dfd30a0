//! One producer's connection, a task: it reads and hands batches on, and writes what is owed where nobody else did.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use rustix::io::ioctl_fionread;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::control::Rules;
use super::framing::{Frame, Framer};
use super::outbox::{End, Outbox, Place, reads_no_more};
use super::slip::{Owed, Receipt, Slip};
use super::{
    Admission, Control, Counts, LINGER_AT_SHUTDOWN, MAX_BATCH_BYTES, MAX_BATCH_LINES, MAX_REPLY_BYTES,
    MAX_WAITING_BATCHES, SHORT_LINE_BYTES,
};
use crate::event::EventId;
use crate::wire::reply::{self, Code, Rejection};
use crate::wire::submission::Submission;

/// The bytes of one read.
const READ_BYTES: usize = 64 * 1_024;

/// What an event of a submission that waits for its receipt takes in memory beside its id, in bytes.
const SLIP_BYTES_PER_EVENT: usize = 128;

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

/// Serves `stream`, the connection `producer` of `user`, until it ends.
pub(super) async fn serve<A, C>(stream: UnixStream, user: u32, producer: u64, shared: Arc<Shared<A, C>>)
where
    A: Admission,
    C: Fn() -> u64 + Send + Sync + 'static,
{
    let (reading, writing) = stream.into_split();
    let rules = shared.control.rules();
    let (receipts, due) = mpsc::channel(rules.settings.max_receipts.max(1));
    let outbox = Arc::new(Outbox::new(writing, Arc::clone(&shared.counts)));
    let reader = Reader {
        stream: reading,
        framer: Framer::new(rules.settings.max_line),
        intake: Intake {
            shared: &shared,
            producer,
            user,
            rules,
            permit: None,
            room: Arc::new(Semaphore::new(MAX_WAITING_BATCHES)),
            replies: Arc::new(Semaphore::new(MAX_REPLY_BYTES)),
            handed: 0,
            outbox: Arc::clone(&outbox),
            receipts,
        },
    };
    let mut reads = std::pin::pin!(reader.run());
    let mut finished = None;
    let idle = || shared.control.rules().settings.idle_timeout;
    let mut answers = std::pin::pin!(outbox.run(due, &shared.shutdown, idle));
    let whole = loop {
        // Dropping the reading half loses only lines that have no reply yet, and only where the connection is lost.
        tokio::select! {
            whole = &mut answers => break whole,
            stream = &mut reads, if finished.is_none() => finished = Some(stream),
        }
    };
    if whole
        && let Some(stream) = finished
        && shared.shutdown.is_cancelled()
    {
        discard(stream).await;
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
    stream: OwnedReadHalf,
    framer: Framer,
    intake: Intake<'s, A, C>,
}

/// What becomes of the lines.
struct Intake<'s, A, C> {
    shared: &'s Shared<A, C>,
    producer: u64,
    user: u32,
    /// What the last read goes by.
    rules: Arc<Rules>,
    /// The share of `buffer_max_bytes` that a long line holds.
    permit: Option<OwnedSemaphorePermit>,
    /// What is left of [`MAX_WAITING_BATCHES`].
    room: Arc<Semaphore>,
    /// What is left of [`MAX_REPLY_BYTES`].
    replies: Arc<Semaphore>,
    /// How many batches were handed on.
    handed: u64,
    outbox: Arc<Outbox>,
    receipts: mpsc::Sender<Receipt>,
}

impl<A: Admission, C: Fn() -> u64> Reader<'_, A, C> {
    /// Reads until end of file, a timeout or shutdown; what was complete by then is handed on. Gives the stream back.
    async fn run(mut self) -> OwnedReadHalf {
        let end = self.read().await;
        self.intake.outbox.end(end);
        self.stream
    }

    async fn read(&mut self) -> End {
        let Self { stream, framer, intake } = self;
        let mut bytes = vec![0_u8; READ_BYTES];
        let mut line_began: Option<Instant> = None;
        // When it last read, or owed something, as far as it has asked.
        let mut busy = Instant::now();
        loop {
            let settings = &intake.rules.settings;
            let deadline = match line_began {
                Some(began) => began + settings.line_timeout,
                None => busy + settings.idle_timeout,
            };
            // A read that is dropped has taken nothing; the sleeping deadline is made anew.
            let count = tokio::select! {
                biased;
                () = intake.shared.shutdown.cancelled() => {
                    self.take_arrived(&mut bytes).await;
                    return End::Cut;
                }
                read = timeout_at(deadline, stream.read(&mut bytes)) => match read {
                    Ok(Ok(count)) => count,
                    // All that it sent was read by now: the end of file of a peer that left replies unread.
                    Ok(Err(error)) if reads_no_more(&error) => 0,
                    Ok(Err(_)) => return End::Cut,
                    Err(_) => {
                        let later = intake.outbox.last_busy().filter(|later| *later > busy);
                        let Some(later) = later.filter(|_| line_began.is_none()) else { return End::Cut };
                        busy = later;
                        continue;
                    }
                },
            };
            if count == 0 {
                framer.finish();
                intake.hand_on(framer).await;
                return End::File;
            }
            intake.rules = intake.shared.control.rules();
            framer.limit(intake.rules.settings.max_line);
            framer.push(bytes.get(..count).unwrap_or_default());
            if intake.hand_on(framer).await {
                // What is begun now is another line than before.
                line_began = None;
            }
            line_began = framer.begun().then(|| line_began.unwrap_or_else(Instant::now));
            if !framer.begun() {
                intake.permit = None;
            } else if framer.held_bytes() > SHORT_LINE_BYTES && intake.permit.is_none() {
                let settings = &intake.rules.settings;
                let share = u32::try_from(settings.max_line.min(settings.buffer_max_bytes).div_ceil(1_024));
                let pool = Arc::clone(&intake.rules.long_lines);
                intake.permit = pool.acquire_many_owned(share.unwrap_or(u32::MAX)).await.ok();
                line_began = Some(Instant::now());
            }
            busy = Instant::now();
        }
    }

    /// Takes what the kernel already holds, so that every complete line that has arrived gets its reply; what comes later is
    /// too late, however fast the producer goes on.
    async fn take_arrived(&mut self, bytes: &mut [u8]) {
        let stream: &UnixStream = self.stream.as_ref();
        let (socket, arrived) = (stream.as_raw_fd(), ioctl_fionread(stream).unwrap_or(0));
        let mut left = usize::try_from(arrived).unwrap_or(usize::MAX);
        // Not by way of the runtime, which knows only what it has heard of so far.
        while left > 0 {
            let most = bytes.len().min(left);
            let read = recv(socket, bytes.get_mut(..most).unwrap_or_default(), MsgFlags::MSG_DONTWAIT);
            let Ok(count @ 1..) = read else { return };
            left -= count;
            self.framer.push(bytes.get(..count).unwrap_or_default());
            self.intake.hand_on(&mut self.framer).await;
        }
        let next = recv(socket, &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT);
        if matches!(next, Ok(0) | Err(Errno::ECONNRESET)) {
            self.framer.finish();
            self.intake.hand_on(&mut self.framer).await;
        }
    }
}

impl<A: Admission, C: Fn() -> u64> Intake<'_, A, C> {
    /// Parses the complete lines and hands them on, in batches; whether there were any.
    async fn hand_on(&mut self, framer: &mut Framer) -> bool {
        let (mut handed, mut more) = (false, framer.has_line());
        while more {
            // The place is taken first: with no room for replies nothing more is stored.
            let room = Arc::clone(&self.room).acquire_owned().await.ok();
            let (mut places, mut submissions, mut slips) = (Vec::new(), Vec::new(), Vec::new());
            let mut bytes = 0;
            while places.len() < MAX_BATCH_LINES
                && bytes < MAX_BATCH_BYTES
                && let Some(frame) = framer.next()
            {
                bytes += frame.bytes();
                places.push(self.place(frame, &mut submissions, &mut slips));
            }
            // Before what waits below: where no line is left a large buffer is given back.
            more = framer.has_line();
            if !places.is_empty() {
                handed = true;
                self.append(places, room, submissions, slips).await;
            }
        }
        handed
    }

    /// Has a batch stored, and its replies written in its `places`.
    async fn append(
        &mut self,
        places: Vec<Place>,
        room: Option<OwnedSemaphorePermit>,
        submissions: Vec<Submission>,
        slips: Vec<(usize, Slip)>,
    ) {
        let bytes = places.iter().map(Place::bytes).sum::<usize>();
        let share = u32::try_from(bytes.min(MAX_REPLY_BYTES)).unwrap_or(u32::MAX);
        // A peer that takes no replies waits here: it has room for no more of them.
        let share = Arc::clone(&self.replies).acquire_many_owned(share).await.ok();
        self.handed += 1;
        // A long line is the first of its batch, and its share belongs to it until its reply is written.
        let shares = room.into_iter().chain(share).chain(self.permit.take()).collect();
        if let Some(asker) = self.outbox.push(places, bytes, shares) {
            self.shared.admission.append(self.producer, submissions, slips, asker).await;
        }
    }

    fn place(
        &self,
        frame: Frame<'_>,
        submissions: &mut Vec<Submission>,
        slips: &mut Vec<(usize, Slip)>,
    ) -> Place {
        let Frame::Line(line) = frame else {
            let message =
                format!("the line is longer than {} bytes (ingest.max_line)", self.rules.settings.max_line);
            let rejection = Rejection { code: Code::LineTooLong, message, path: None, reference: None };
            return self.reject(&rejection);
        };
        match Submission::parse(line, &self.rules.defaults, (self.shared.wall_ms)()) {
            Ok(submission) => {
                let ids: Vec<EventId> = submission.notifications.iter().map(|one| one.id.clone()).collect();
                let (session, reference) =
                    (submission.envelope.session.clone(), submission.reference.clone());
                let slip = match submission.receipt {
                    true => self.slip(&ids, reference.as_ref()),
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
    fn slip(&self, ids: &[EventId], reference: Option<&String>) -> Option<Slip> {
        let bytes: usize = ids.iter().map(|id| id.as_str().len() + SLIP_BYTES_PER_EVENT).sum();
        let share = u32::try_from(bytes.div_ceil(1_024)).ok()?;
        let share = Arc::clone(&self.shared.slips).try_acquire_many_owned(share).ok()?;
        let place = self.receipts.clone().try_reserve_owned().ok()?;
        Some(Slip {
            reference: reference.cloned(),
            ids: ids.to_vec(),
            batch: self.handed,
            place,
            share,
            owed: Owed::new(&self.outbox.owed),
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
