//! The flusher: drives the scheduler with real time, a store and the transport.
//!
//! Guarantees:
//! - what has no answer stays in the store: stopping, or a crash at any line, loses nothing and settles nothing;
//! - an event is settled in the store after its outcome is known and before anything newer of it is believed;
//! - it never polls: it sleeps until an answer, a scan, a commit, a settlement or the scheduler's next moment.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::ask::{Ask, Manner, Operation};
use super::feed::Feed;
use super::sending::{About, Answered, Sending, Unsent, Watched};
use super::told::Told;
use super::{Counts, notice};
use crate::event::{Added, Burial, Entry, Event, Host, Lane, Moment, Outcome, Seq, SessionId, Visitor};
use crate::schedule::{Reading, Remembered, Scheduler, Settled};
use crate::wire::{Identifiers, receipt};

/// The most events that one scan asks for.
const SCAN_EVENTS: usize = 1_024;

/// What the scheduler's index leaves of its memory is told when it changed by this much, in bytes.
pub(super) const SPARE_STEP: u64 = 1_024 * 1_024;

/// Twice the shortest time between two looks at whether delivery is stuck.
const SHORTEST_LOOK: Duration = Duration::from_millis(20);

/// Where events are kept; the queue, seen from here.
pub trait Backlog: Clone + Send + Sync + 'static {
    /// Why it no longer works.
    type Error: std::fmt::Display + Send;
    /// The unsettled events from `from` on, at least about `max` if there are as many, and where the next scan begins.
    /// `is_next` says that they are what goes out next.
    fn scan(
        &self,
        from: Seq,
        max: usize,
        is_next: bool,
    ) -> impl Future<Output = Result<(Vec<Entry>, Seq), Self::Error>> + Send;
    /// The events `seqs`, each `None` where it cannot be read.
    fn load(&self, seqs: Vec<Seq>) -> impl Future<Output = Result<Vec<Option<Event>>, Self::Error>> + Send;
    /// Whether only this could not be read, and the store works on.
    fn works_on(&self, error: &Self::Error) -> bool;
    /// Whether somebody waits to hear what became of one of these.
    fn watches(&self, seqs: &[Seq]) -> bool;
    /// These cannot be read back.
    fn lost(&self, seqs: &[Seq]);
    /// Settles events; returns once that is durable. `answer` is what settled them, where somebody waits for it.
    fn settle(
        &self,
        delivered: Vec<Seq>,
        buried: Vec<Burial>,
        answer: Option<receipt::Answer>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;
    /// Whether another dead letter may be added.
    fn dead_room(&self) -> bool;
    /// Whether what it is asked for waits for room on the disk.
    fn waits_for_room(&self) -> bool;
    /// From now on `bytes` of memory are to spare for events that were stored lately.
    fn spare(&self, bytes: u64);
}

/// Where requests go; the transport, seen from here.
pub trait Edge: Clone + Send + Sync + 'static {
    /// Sends one request with the notifications `ids`, and says what came of it; with the body where that was read. It
    /// never errs, and ends in bounded time.
    ///
    /// Dropping the future gives the request up; whether Target took it is unknown then.
    fn attempt(
        &self,
        host: Host,
        session: &SessionId,
        request_id: &str,
        body: Vec<u8>,
        ids: &[&str],
    ) -> impl Future<Output = (Outcome, Option<Vec<u8>>)> + Send;

    /// Takes answers of at most `max_answer` bytes from the next attempt on (`delivery.max_answer`).
    fn limit(&mut self, max_answer: usize);
}

/// What the flusher works with.
pub struct Flusher<B, E> {
    /// Where events are kept.
    pub backlog: B,
    /// The way to Target.
    pub edge: E,
    /// What decides.
    pub scheduler: Scheduler,
    /// The clock.
    pub now: Arc<dyn Fn() -> Moment + Send + Sync>,
    /// How ids of visitors are logged.
    pub identifiers: watch::Receiver<Identifiers>,
    /// Where requests are counted.
    pub counts: Arc<Counts>,
    /// Where outcomes are told.
    pub feed: Feed,
    /// How long requests under way are waited for when it is told to stop.
    pub grace: Duration,
    /// How Target knows visitors that bring no `tntId`.
    pub known: KnownVisitors,
}

/// The `tntId`s that answers gave, by session and stored `id` object.
pub type KnownVisitors = Remembered<(Lane, Visitor), Arc<str>>;

/// What happened while the flusher slept.
enum Happened<E> {
    Sent(u64, Box<Result<Answered, Unsent>>),
    Scanned(Result<(Vec<Entry>, Seq), E>),
    Durable(Vec<Seq>, Result<(), E>),
    Added(Added),
    Asked(Ask),
    Tail,
    Woke,
    Stop,
    Over,
}

type Work<E> = FuturesUnordered<BoxFuture<'static, Happened<E>>>;

impl<B: Backlog, E: Edge> Flusher<B, E> {
    /// Delivers until `shutdown`, then waits for the requests under way, at most for the grace.
    ///
    /// `live` tells of commits, `tail` of where the store ends; `asks` come from the operator's side.
    ///
    /// # Errors
    /// The store's, as a text: it no longer works, and what was not settled stays in it.
    pub async fn run(
        mut self,
        live: mpsc::Receiver<Added>,
        tail: watch::Receiver<Seq>,
        mut asks: mpsc::Receiver<Ask>,
        shutdown: CancellationToken,
    ) -> Result<(), String> {
        let ended = self.deliver(live, tail, &mut asks, shutdown).await;
        // Closed and drained, not just dropped: a question sent at this moment would stay unanswered, and its asker,
        // and the daemon's end, would wait for ever.
        asks.close();
        while asks.recv().await.is_some() {}
        ended
    }

    async fn deliver(
        &mut self,
        mut live: mpsc::Receiver<Added>,
        mut tail: watch::Receiver<Seq>,
        asks: &mut mpsc::Receiver<Ask>,
        shutdown: CancellationToken,
    ) -> Result<(), String> {
        let mut work: Work<B::Error> = FuturesUnordered::new();
        let mut stopping: Option<Instant> = None;
        let mut looks = self.looks();
        let (mut stuck, mut spare) = (None, 0);
        // Dropped with every end, which tells what was only counted.
        let mut told = Told::new(self.identifiers.clone());
        self.scheduler.handle_tail(*tail.borrow_and_update());
        loop {
            let now = (self.now)();
            if stopping.is_none() {
                self.plan(now, &work, &mut told);
                self.scheduler.handle_full_disk(now, self.backlog.waits_for_room());
                spare = self.spare(spare);
                let found = self.scheduler.stuck(now);
                notice::stuck(found, stuck, self.scheduler.status());
                stuck = found;
            } else if work.is_empty() {
                return Ok(());
            }
            let wake = stopping.unwrap_or_else(|| self.wake(now, told.due()));
            // Every arm may be dropped: answers stay in `work`, commits in `live`, questions in `asks`, and the tail is
            // read as a whole.
            let happened = tokio::select! {
                biased;
                () = shutdown.cancelled(), if stopping.is_none() => Happened::Stop,
                Some(happened) = work.next(), if !work.is_empty() => happened,
                Some(ask) = asks.recv() => Happened::Asked(ask),
                Some(added) = live.recv(), if stopping.is_none() => Happened::Added(added),
                Ok(()) = tail.changed(), if stopping.is_none() => Happened::Tail,
                _ = looks.tick() => Happened::Woke,
                () = sleep_until(wake) => if stopping.is_some() { Happened::Over } else { Happened::Woke },
            };
            let now = (self.now)();
            match happened {
                Happened::Sent(id, sent) => self.sent(now, id, *sent, &work, &mut told)?,
                Happened::Scanned(scan) => {
                    let (entries, next) = scan.map_err(|error| error.to_string())?;
                    self.scheduler.handle_scan(now, &entries, next);
                }
                Happened::Durable(seqs, done) => {
                    done.map_err(|error| error.to_string())?;
                    self.scheduler.handle_settled(now, &seqs);
                }
                Happened::Added(added) => {
                    self.scheduler.handle_live(now, added.first, added.next, &added.entries);
                }
                Happened::Tail => self.scheduler.handle_tail(*tail.borrow_and_update()),
                Happened::Asked(Ask::Operate(Operation(operation))) => operation(&mut self.scheduler, now),
                // The asker may have given up.
                Happened::Asked(Ask::Pulse(answer)) => drop(answer.send(stuck)),
                Happened::Asked(Ask::Change(manner)) => {
                    self.change(*manner);
                    looks = self.looks();
                }
                Happened::Woke => {}
                Happened::Stop => stopping = Some(Instant::now() + self.grace),
                Happened::Over => {
                    // What was settled lies with the store, which writes it down before it closes.
                    let requests = self.scheduler.status().in_flight;
                    if requests > 0 {
                        warn!(
                            event = "grace_over",
                            requests, "the grace is over: requests without an answer are sent again later"
                        );
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Tells the store how much memory is to spare, unless it is about as much as `before`; how much it was told.
    fn spare(&self, before: u64) -> u64 {
        let spare = self.scheduler.spare_bytes();
        if spare.abs_diff(before) < SPARE_STEP {
            return before;
        }
        self.backlog.spare(spare);
        spare
    }

    /// When to look whether delivery is stuck.
    fn looks(&self) -> Interval {
        let mut looks = interval(self.scheduler.settings().stuck_after.max(SHORTEST_LOOK) / 2);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        looks
    }

    fn change(&mut self, manner: Manner) {
        let Manner { schedule, max_answer } = manner;
        self.scheduler.configure(schedule);
        self.edge.limit(max_answer);
    }

    /// Starts everything that is due.
    fn plan(&mut self, now: Moment, work: &Work<B::Error>, told: &mut Told) {
        while let Some(attempt) = self.scheduler.poll_attempt(now) {
            let (id, lane) = (attempt.id, attempt.lane);
            let sending = Sending {
                backlog: self.backlog.clone(),
                edge: self.edge.clone(),
                identifiers: *self.identifiers.borrow(),
                counts: Arc::clone(&self.counts),
                feed: self.feed.clone(),
            };
            let known = |visitor| (visitor, self.known.get(now, &(lane, visitor)).cloned());
            let asked = match attempt.host {
                Host::Edge(cluster) => Some(cluster),
                Host::Client => None,
            };
            let about = About { lane, asked, visitor: attempt.visitor.map(known) };
            work.push(Box::pin(
                async move { Happened::Sent(id, Box::new(sending.send(attempt, about).await)) },
            ));
        }
        // After that: what is due then waits for slots.
        if let Some(Reading { from, is_next }) = self.scheduler.poll_read(now) {
            let backlog = self.backlog.clone();
            let scan = async move { Happened::Scanned(backlog.scan(from, SCAN_EVENTS, is_next).await) };
            work.push(Box::pin(scan));
        }
        while let Some(notice) = self.scheduler.poll_notice() {
            told.notice(now, &notice);
        }
        told.tell(now);
    }

    /// When to look again: for the scheduler's sake, or because something is to be told.
    fn wake(&self, now: Moment, told: Option<Moment>) -> Instant {
        // A day is far beyond every wait; without any, something else has to happen first.
        let next = self.scheduler.next_wake(now).into_iter().chain(told).min();
        let wait = next.map_or(Duration::from_secs(86_400), |at| at.since(now));
        Instant::now() + wait
    }

    fn sent(
        &mut self,
        now: Moment,
        id: u64,
        sent: Result<Answered, Unsent>,
        work: &Work<B::Error>,
        told: &mut Told,
    ) -> Result<(), String> {
        match sent {
            Ok(answered) => self.judge(now, id, answered, work, told),
            Err(Unsent::Unread { first, detail }) => {
                told.unread(now, first, &detail);
                self.scheduler.handle_unread(now, id, &detail);
            }
            Err(Unsent::Gone(gone)) => {
                self.backlog.lost(&gone);
                self.scheduler.handle_cut(now, id, 0, &gone);
            }
            Err(Unsent::StoreFailed(failure)) => return Err(failure),
        }
        Ok(())
    }

    fn judge(&mut self, now: Moment, id: u64, answered: Answered, work: &Work<B::Error>, told: &mut Told) {
        let Answered { keep, gone, outcome, about, watched, heard } = answered;
        let answer = watched.map(|Watched { session, body }| {
            let before = about.visitor.as_ref().and_then(|(_, tnt_id)| tnt_id.as_deref());
            let tnt_id = outcome.known.as_ref().map(|known| &*known.tnt_id).or(before);
            let (seconds, cluster) = (now.as_millis() / 1_000, outcome.edge.or(about.asked));
            receipt::Answer::new(&session, seconds, cluster, tnt_id.map(str::to_owned), body.as_deref())
        });
        if let (Some((visitor, _)), Some(known)) = (about.visitor, &outcome.known) {
            self.known.insert(now, (about.lane, visitor), known.tnt_id.as_ref().into());
        }
        self.scheduler.handle_cut(now, id, keep, &gone);
        // As it is now: others make room as well, and after a start nobody has said so yet.
        self.scheduler.handle_dead_room(self.backlog.dead_room());
        let settled = self.scheduler.handle_outcome(now, id, &outcome);
        self.backlog.lost(&gone);
        if let Some(heard) = heard {
            self.feed.tell(now, heard, &settled, &outcome);
        }
        told.letters(now, &settled.buried);
        self.settle(settled, answer, work);
    }

    fn settle(&self, settled: Settled, answer: Option<receipt::Answer>, work: &Work<B::Error>) {
        let Settled { delivered, buried } = settled;
        if delivered.is_empty() && buried.is_empty() {
            return;
        }
        let all = delivered.iter().copied().chain(buried.iter().map(|one| one.seq)).collect();
        let backlog = self.backlog.clone();
        work.push(Box::pin(async move {
            Happened::Durable(all, backlog.settle(delivered, buried, answer).await)
        }));
    }
}
