//! Producers: such that wait for each reply, and such that do not.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::runtime::Builder;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{TrialError, system};
use crate::schedule::Random;

/// The most lines that one write carries.
const LINES_A_WRITE: usize = 64;
/// How often a producer with a rate writes what is due.
const TICK: Duration = Duration::from_millis(4);
/// The bytes that such a producer keeps while the socket takes none; what is due then, it writes later.
const MAX_UNTAKEN: usize = 1_024 * 1_024;

/// The lines of one producer: no two of all producers have the same id.
pub(super) struct Lines {
    producer: u64,
    next: u64,
    bytes: usize,
    sessions: u64,
    random: Random,
}

impl Lines {
    /// Lines of `bytes`, each of one of `sessions` drawn at random.
    pub(super) fn new(producer: u64, sessions: u64, bytes: usize) -> Self {
        Self { producer, next: 0, bytes, sessions: sessions.max(1), random: Random::new(producer) }
    }

    /// Adds the next line of any session.
    pub(super) fn push(&mut self, text: &mut Vec<u8>) {
        let session = self.random.bits() % self.sessions;
        self.push_of(session, text);
    }

    /// Adds the next line of `session`.
    pub(super) fn push_of(&mut self, session: u64, text: &mut Vec<u8>) {
        let (producer, number) = (self.producer, self.next);
        self.next += 1;
        let at = text.len();
        // Into a buffer nothing fails.
        let _written = write!(
            text,
            r#"{{"session_id":"session-{session}","type":"display","id":"{producer}-{number}","impressionId":"{producer}-{number}","timestamp":1700000000000,"visitor":{{"tntId":"visitor-{session}.35_0"}},"tokens":["kb2UkhM3AR8lZJyXJZBeG2qipfsIHvVzTQxHolz2IpSC"],"mbox":{{"name":"home","state":""#
        );
        let end = b"\"}}\n";
        text.resize(text.len().max((at + self.bytes + 1).saturating_sub(end.len())), b'x');
        text.extend_from_slice(end);
    }
}

/// What producers saw.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) events: u64,
    pub(super) time: Duration,
    /// From each line's writing to its reply, in order of length.
    pub(super) waits: Vec<Duration>,
}

impl Seen {
    /// The wait that `share` of all lines did not exceed.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a position in a list that is in memory"
    )]
    pub(super) fn percentile(&self, share: f64) -> Duration {
        let place = (self.waits.len() as f64 * share) as usize;
        self.waits.get(place.min(self.waits.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    async fn join(tasks: JoinSet<Result<Self, TrialError>>) -> Result<Self, TrialError> {
        let mut all = Self::default();
        for seen in tasks.join_all().await {
            let seen = seen?;
            all.events += seen.events;
            all.time = all.time.max(seen.time);
            all.waits.extend(seen.waits);
        }
        all.waits.sort_unstable();
        Ok(all)
    }
}

fn no_answer(error: io::Error) -> TrialError {
    system("the daemon does not answer")(error)
}

async fn reply(reading: &mut BufReader<OwnedReadHalf>, text: &mut String) -> Result<(), TrialError> {
    text.clear();
    reading.read_line(text).await.map_err(no_answer)?;
    if text.starts_with(r#"{"status":"queued""#) { Ok(()) } else { Err(TrialError::Refused(text.clone())) }
}

type Connection = (BufReader<OwnedReadHalf>, OwnedWriteHalf);

async fn connect(socket: &Path) -> Result<Connection, TrialError> {
    let (reading, writing) = UnixStream::connect(socket).await.map_err(no_answer)?.into_split();
    Ok((BufReader::with_capacity(64 * 1_024, reading), writing))
}

/// Runs producers in one thread, where none of them wakes another thread: that would be processor time that the daemon lacks.
async fn in_one_thread<F: Future<Output = Result<Seen, TrialError>>>(
    producers: impl FnOnce() -> F + Send + 'static,
) -> Result<Seen, TrialError> {
    let run = || Builder::new_current_thread().enable_all().build().map_err(no_answer)?.block_on(producers());
    tokio::task::spawn_blocking(run).await.map_err(|panic| no_answer(panic.into()))?
}

/// Producers, and what all of them write.
#[derive(Clone, Copy)]
pub(super) struct Load {
    pub(super) producers: u64,
    /// How many sessions their lines are of.
    pub(super) sessions: u64,
    /// How long a line is.
    pub(super) bytes: usize,
}

impl Load {
    /// Each writes a line when it has the reply to the last one, for `time`.
    pub(super) async fn waiting(self, socket: &Path, time: Duration) -> Result<Seen, TrialError> {
        self.each(socket, move |producer, connection| wait_for_each(connection, self.lines(producer), time))
            .await
    }

    /// Each keeps up to `window` lines without a reply, until they wrote `events` together. `in_a_row` is how many events in
    /// a row a session has; 0 draws the session of each line at random.
    pub(super) async fn pipelined(
        self,
        socket: &Path,
        window: usize,
        events: u64,
        in_a_row: u64,
    ) -> Result<Seen, TrialError> {
        let producers = self.producers;
        self.each(socket, move |producer, connection| {
            let most = events / producers + u64::from(producer < events % producers);
            let session = move |number: u64| Some(number.checked_div(in_a_row)? * producers + producer);
            pipeline(connection, self.lines(producer), window, most, session)
        })
        .await
    }

    /// Together they write `rate` lines a second for `time`, whether replies come or not: one after the other, each once
    /// within [`TICK`].
    pub(super) async fn paced(self, socket: &Path, rate: f64, time: Duration) -> Result<Seen, TrialError> {
        let socket = socket.to_owned();
        in_one_thread(move || async move {
            let began = Instant::now();
            let (mut tasks, mut paces) = (JoinSet::new(), Vec::new());
            #[expect(clippy::cast_precision_loss, reason = "a handful of producers")]
            let share = rate / self.producers as f64;
            for producer in 0..self.producers {
                let (reading, writing) = connect(&socket).await?;
                let (sent, sendings) = mpsc::channel();
                tasks.spawn(timed(reading, sendings, began));
                let lines = self.lines(producer);
                paces.push(Pace { lines, writing, sent, share, written: 0.0, text: Vec::new() });
            }
            // Another thread: the runtime's timers have no finer step than a millisecond.
            tokio::task::spawn_blocking(move || write_in_turn(paces, began, time))
                .await
                .map_err(|panic| no_answer(panic.into()))?
                .map_err(no_answer)?;
            Seen::join(tasks).await
        })
        .await
    }

    /// Runs `one` for each producer, by its number and on a connection of its own.
    async fn each<F: Future<Output = Result<Seen, TrialError>> + Send + 'static>(
        self,
        socket: &Path,
        one: impl Fn(u64, Connection) -> F + Send + 'static,
    ) -> Result<Seen, TrialError> {
        let socket = socket.to_owned();
        in_one_thread(move || async move {
            let mut tasks = JoinSet::new();
            for producer in 0..self.producers {
                tasks.spawn(one(producer, connect(&socket).await?));
            }
            Seen::join(tasks).await
        })
        .await
    }

    fn lines(self, producer: u64) -> Lines {
        Lines::new(producer, self.sessions, self.bytes)
    }
}

async fn wait_for_each(
    (mut reading, mut writing): Connection,
    mut lines: Lines,
    time: Duration,
) -> Result<Seen, TrialError> {
    let (mut seen, mut text, mut answer) = (Seen::default(), Vec::new(), String::new());
    let began = Instant::now();
    while began.elapsed() < time {
        text.clear();
        lines.push(&mut text);
        let written = Instant::now();
        writing.write_all(&text).await.map_err(no_answer)?;
        reply(&mut reading, &mut answer).await?;
        seen.waits.push(written.elapsed());
        seen.events += 1;
    }
    Ok(Seen { time: began.elapsed(), ..seen })
}

/// Writes `most` lines; `session` says which session each of them is of, `None` is any.
async fn pipeline(
    (mut reading, mut writing): Connection,
    mut lines: Lines,
    window: usize,
    most: u64,
    session: impl Fn(u64) -> Option<u64>,
) -> Result<Seen, TrialError> {
    let room = Semaphore::new(window);
    let began = Instant::now();
    let writes = async {
        let (mut text, mut written) = (Vec::new(), 0);
        while written < most {
            // The semaphore is never closed.
            let Ok(first) = room.acquire().await else { break };
            first.forget();
            let more = room.available_permits().min(LINES_A_WRITE - 1);
            let more = u64::try_from(more).unwrap_or(0).min(most - written - 1);
            if let Some(rest) = u32::try_from(more).ok().and_then(|more| room.try_acquire_many(more).ok()) {
                rest.forget();
            }
            text.clear();
            for number in written..=written + more {
                match session(number) {
                    Some(session) => lines.push_of(session, &mut text),
                    None => lines.push(&mut text),
                }
            }
            written += more + 1;
            writing.write_all(&text).await.map_err(no_answer)?;
        }
        writing.shutdown().await.map_err(no_answer)?;
        Ok::<_, TrialError>(written)
    };
    let reads = async {
        let (mut answer, mut replies) = (String::new(), 0_u64);
        while !reading.fill_buf().await.map_err(no_answer)?.is_empty() {
            reply(&mut reading, &mut answer).await?;
            replies += 1;
            room.add_permits(1);
        }
        Ok::<_, TrialError>((replies, began.elapsed()))
    };
    let (_written, (events, time)) = tokio::try_join!(writes, reads)?;
    Ok(Seen { events, time, waits: Vec::new() })
}

/// A producer with a rate.
struct Pace {
    lines: Lines,
    writing: OwnedWriteHalf,
    /// When it wrote how many lines.
    sent: mpsc::Sender<(Instant, u64)>,
    /// Lines a second.
    share: f64,
    written: f64,
    /// What the socket has not taken yet.
    text: Vec<u8>,
}

impl Pace {
    /// Adds the lines that are due since `began`.
    fn add_due(&mut self, began: Instant) {
        let mut count = 0_u64;
        let due = began.elapsed().as_secs_f64() * self.share;
        while self.written < due && self.text.len() < MAX_UNTAKEN {
            self.lines.push(&mut self.text);
            self.written += 1.0;
            count += 1;
        }
        // From their writing on, as for the other producers. The reader ends after the writer.
        let _sent = self.sent.send((Instant::now(), count));
    }

    /// Writes what the socket takes.
    fn write(&mut self) -> io::Result<()> {
        if self.text.is_empty() {
            return Ok(());
        }
        match self.writing.try_write(&self.text) {
            Ok(taken) => drop(self.text.drain(..taken)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Lets each of `paces` write in its turn for `time`, and then until all is written.
fn write_in_turn(mut paces: Vec<Pace>, began: Instant, time: Duration) -> io::Result<()> {
    let step = TICK / u32::try_from(paces.len().max(1)).unwrap_or(u32::MAX);
    let mut turn = began;
    while began.elapsed() < time {
        for pace in &mut paces {
            turn += step;
            std::thread::sleep(turn.saturating_duration_since(Instant::now()));
            pace.add_due(began);
            pace.write()?;
        }
    }
    while paces.iter().any(|pace| !pace.text.is_empty()) {
        std::thread::sleep(TICK);
        paces.iter_mut().try_for_each(Pace::write)?;
    }
    Ok(())
}

/// Reads the replies to what was sent, until the daemon closes.
async fn timed(
    mut reading: BufReader<OwnedReadHalf>,
    sendings: mpsc::Receiver<(Instant, u64)>,
    began: Instant,
) -> Result<Seen, TrialError> {
    let (mut answer, mut waits) = (String::new(), Vec::new());
    let mut open: VecDeque<(Instant, u64)> = VecDeque::new();
    while !reading.fill_buf().await.map_err(no_answer)?.is_empty() {
        reply(&mut reading, &mut answer).await?;
        open.extend(sendings.try_iter());
        while open.front().is_some_and(|(_, left)| *left == 0) {
            open.pop_front();
        }
        if let Some((at, left)) = open.front_mut() {
            waits.push(at.elapsed());
            *left -= 1;
        }
    }
    Ok(Seen { events: waits.len() as u64, time: began.elapsed(), waits })
}
