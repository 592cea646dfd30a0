//! The figures of a running daemon: what the summary line, the status and the metrics show, from one place.
//!
//! Guarantees:
//! - totals are the durable counters, and a rate is a difference of two of them over the time between: nothing drifts, and
//!   nothing becomes negative;
//! - memory is bounded: [`MAX_SAMPLES`] samples, taken every [`SAMPLE_EVERY`];
//! - to ask costs a question to the flusher and a short look at the disk beside the runtime, at any backlog.

mod forecast;
mod fruitless;
mod fullness;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

pub use self::forecast::Limits;
use self::fruitless::Fruitless;
use self::fullness::Fullness;
pub(crate) use self::fullness::Turn;
use crate::delivery::{self, Ask, Latency};
use crate::event::{Balance, Clock, Host, Moment, Seq};
use crate::ingest;
use crate::queue::{self, Failed, Free, Ledger, NoRoom, Store};
use crate::schedule::{HostHealth, Scheduler, Status};

/// How often a sample is taken.
pub const SAMPLE_EVERY: Duration = Duration::from_secs(5);
/// The most samples that are kept: a little more than a quarter of an hour.
pub const MAX_SAMPLES: usize = 184;
/// Over what the latency's quantiles are taken.
const LATENCY_WINDOW: Duration = Duration::from_secs(5 * 60);

/// The daemon in figures, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Seconds since the daemon was started.
    pub uptime_s: f64,
    /// Events whose submission was answered `queued`, over the life of the queue.
    pub accepted: u64,
    /// Events that Target acknowledged, over the life of the queue.
    pub delivered: u64,
    /// Events set aside for any reason but age, but for those that were requeued.
    pub dead: u64,
    /// Events set aside because of their age, but for those that were requeued.
    pub expired: u64,
    /// Events that could not be read back from the disk.
    pub quarantined: u64,
    /// Events that wait: `accepted = delivered + dead + expired + quarantined + pending`.
    pub pending: u64,
    /// Events that the first scan found beyond what the counters promised: 0, or an error.
    pub surplus: u64,
    /// Commits since the start, each with a sync of its own.
    pub commits: u64,
    /// Bytes of all stored records.
    pub held_bytes: u64,
    /// Dead letters that are held now.
    pub dead_held: u64,
    /// What the queue's own limits have no room for; `fits_s` and the state tell it elsewhere.
    #[serde(skip)]
    pub no_room: NoRoom,
    /// Seconds since the oldest event that waits arrived; `None` where none waits, or the disk cannot tell.
    pub oldest_s: Option<f64>,
    /// Events accepted a second.
    pub rate_in: Rates,
    /// Events a second that left the queue: delivered, or set aside.
    pub rate_out: Rates,
    /// Milliseconds within which half of the requests of the last five minutes ended; `None` where there was none.
    pub latency_p50_ms: Option<f64>,
    /// Milliseconds within which 99 of 100 of them ended.
    pub latency_p99_ms: Option<f64>,
    /// Bytes that the queue's folder takes on the disk; `None` where it cannot be read.
    pub disk_used_bytes: Option<u64>,
    /// Bytes that may still be written on that disk; `None` where the system does not tell.
    pub disk_free_bytes: Option<u64>,
    /// Files that may still be made on it; `None` where it does not count them, or the system does not tell.
    pub disk_free_files: Option<u64>,
    /// Sessions in the index.
    pub lanes: usize,
    /// Requests under way.
    pub in_flight: usize,
    /// Parked events.
    pub parked: usize,
    /// Hosts with an open breaker.
    pub open_breakers: usize,
    /// Hosts that their answers paused.
    pub paused_hosts: usize,
    /// Pauses that an operator made.
    pub pauses: usize,
    /// Holds that an operator made.
    pub holds: usize,
    /// Connections of producers.
    pub connections: u64,
    /// Connections that were turned away since the start.
    pub turned_away: u64,
    /// Lines refused for good since the start.
    pub rejected: u64,
    /// Lines refused for now since the start.
    pub unavailable: u64,
    /// Seconds until nothing waits, at the rates of the last minute; `None` where more comes in than goes out.
    pub drained_s: Option<f64>,
    /// Seconds of an outage that still fit, at the larger of the rates in; 0 only where a limit is reached, and `None`
    /// where nothing comes in.
    pub fits_s: Option<f64>,
    /// What would be full first: `events`, `bytes` or `disk`.
    pub full_first: String,
}

impl Figures {
    /// Whether the disk has room for so few more files that nothing is taken in, however many bytes are free.
    #[must_use]
    pub fn lacks_files(&self) -> bool {
        queue::too_few_files(self.disk_free_files)
    }
}

/// Events a second over three windows; over the time since the start where that is shorter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Over the last minute.
    pub m1: f64,
    /// Over the last five minutes.
    pub m5: f64,
    /// Over the last quarter of an hour.
    pub m15: f64,
}

/// What was counted up to a moment.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    at: Moment,
    accepted: u64,
    left: u64,
    latency: Latency,
}

/// The samples, oldest first; never empty.
#[derive(Debug)]
struct Samples(VecDeque<Sample>);

/// Reads the figures; its clones read the same.
#[derive(Clone, Debug)]
pub struct Meter {
    store: Store,
    folder: PathBuf,
    clock: Clock,
    came: Arc<ingest::Counts>,
    went: Arc<delivery::Counts>,
    asks: mpsc::Sender<Ask>,
    began: Moment,
    /// A lock, because one task samples, another reloads, and all read; it is held for a look.
    state: Arc<Mutex<State>>,
}

/// What changes of a meter.
#[derive(Debug)]
struct State {
    samples: Samples,
    fruitless: Fruitless,
    fullness: Fullness,
    /// What may be held; a reload changes it.
    limits: Limits,
}

/// What a meter reads.
pub(crate) struct Sources {
    /// The queue.
    pub(crate) store: Store,
    /// Its folder.
    pub(crate) folder: PathBuf,
    /// What may be held in it.
    pub(crate) limits: Limits,
    /// The clock.
    pub(crate) clock: Clock,
    /// What comes in.
    pub(crate) came: Arc<ingest::Counts>,
    /// What goes out.
    pub(crate) went: Arc<delivery::Counts>,
    /// The flusher.
    pub(crate) asks: mpsc::Sender<Ask>,
}

impl Meter {
    pub(crate) fn new(sources: Sources) -> Self {
        let Sources { store, folder, limits, clock, came, went, asks } = sources;
        let (began, ledger) = (clock.now(), store.ledger());
        let state = State {
            samples: Samples(VecDeque::from([sample(began, &ledger, went.latency())])),
            fruitless: Fruitless::new(began, ledger.balance.delivered),
            fullness: Fullness::new(&limits, &ledger),
            limits,
        };
        Self { store, folder, clock, came, went, asks, began, state: Arc::new(Mutex::new(state)) }
    }

    /// The queue's folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What may be held in the queue.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.state().limits
    }

    /// Goes by other limits.
    pub(crate) fn limit(&self, limits: Limits) {
        self.state().limits = limits;
    }

    /// Takes a sample. One task does, every [`SAMPLE_EVERY`]. Says how many requests were answered while nothing was
    /// delivered, where that is to be told.
    pub(crate) fn sample(&self) -> Option<u64> {
        let (now, ledger) = (self.clock.now(), self.store.ledger());
        let answers = fruitless::answers(self.went.requests());
        let mut state = self.state();
        state.samples.add(sample(now, &ledger, self.went.latency()));
        state.fruitless.look(now, ledger.balance.delivered, answers)
    }

    /// Whether the queue's own limits turn submissions away, or do so no more, where that is to be told. The task that
    /// samples asks.
    pub(crate) fn turn(&self) -> Option<Turn> {
        let (now, ledger, no_room) = (self.clock.now(), self.store.ledger(), self.store.counts().no_room());
        let mut state = self.state();
        let wanted = state.fullness.wanted(now, no_room);
        let is_full = state.limits.full(ledger.counted(), ledger.held_bytes, wanted).is_some();
        state.fullness.look(now, no_room.times, is_full)
    }

    /// Whether requests are answered while nothing is delivered, for so long that it was told.
    #[must_use]
    pub fn is_fruitless(&self) -> bool {
        self.state().fruitless.lasts()
    }

    /// The figures now.
    pub async fn figures(&self) -> Figures {
        let (status, lowest) = self.scheduled().await;
        let Disk { oldest, used, free } = self.disk(lowest).await;
        let ledger = self.store.ledger();
        // It may have been delivered since it was looked for.
        let oldest = oldest.filter(|_| ledger.counted() > 0);
        let Balance { accepted, delivered, dead, expired, quarantined } = ledger.balance;
        let now = sample(self.clock.now(), &ledger, self.went.latency());
        let state = self.state();
        let (rate_in, rate_out, latency) = state.samples.until(&now);
        let no_room = state.fullness.wanted(now.at, self.store.counts().no_room());
        drop(state);
        let Status { lanes, in_flight, parked, open_breakers, paused_hosts, pauses, holds, .. } = status;
        let mut figures = Figures {
            uptime_s: rounded(now.at.since(self.began).as_secs_f64()),
            accepted,
            delivered,
            dead,
            expired,
            quarantined,
            pending: ledger.counted(),
            surplus: self.store.counts().surplus(),
            commits: self.store.counts().commits(),
            held_bytes: ledger.held_bytes,
            dead_held: ledger.dead_held,
            no_room,
            oldest_s: oldest.map(|arrived| rounded(now.at.since(arrived).as_secs_f64())),
            rate_in,
            rate_out,
            latency_p50_ms: latency.quantile_ms(0.5).map(rounded),
            latency_p99_ms: latency.quantile_ms(0.99).map(rounded),
            disk_used_bytes: used,
            disk_free_bytes: free.map(|free| free.bytes),
            disk_free_files: free.and_then(|free| free.files),
            lanes,
            in_flight,
            parked,
            open_breakers,
            paused_hosts,
            pauses,
            holds,
            connections: self.came.connections.value(),
            turned_away: self.came.turned_away.value(),
            rejected: self.came.rejected.value(),
            unavailable: self.came.unavailable.value(),
            ..Figures::default()
        };
        let (fits_s, first) = forecast::fits(&figures, &self.limits());
        figures.drained_s = forecast::drained(&figures);
        (figures.fits_s, figures.full_first) = (fits_s, first.to_owned());
        figures
    }

    /// What each host does with requests.
    pub async fn hosts(&self) -> Vec<(Host, HostHealth)> {
        Ask::operate(&self.asks, |scheduler, now| scheduler.health(now)).await.unwrap_or_default()
    }

    /// What goes out, in numbers.
    #[must_use]
    pub fn delivery(&self) -> &delivery::Counts {
        &self.went
    }

    /// What the queue counted since it was opened.
    #[must_use]
    pub fn queue(&self) -> &queue::Counts {
        self.store.counts()
    }

    /// The way to ask the flusher.
    pub(crate) fn asks(&self) -> &mpsc::Sender<Ask> {
        &self.asks
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is whole at each line where a panic could strike.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the scheduler has to tell, and the lowest number that may wait.
    async fn scheduled(&self) -> (Status, Option<Seq>) {
        let tell = |scheduler: &mut Scheduler, _| (scheduler.status(), Some(scheduler.extent().lowest));
        // A flusher that has ended has nothing to tell.
        Ask::operate(&self.asks, tell).await.unwrap_or_default()
    }

    /// `lowest` is where the look for the oldest event begins: from further ahead it would read all that was settled since and
    /// still lies in the engine.
    async fn disk(&self, lowest: Option<Seq>) -> Disk {
        let (store, folder) = (self.store.clone(), self.folder.clone());
        let look = move || {
            // Whoever asks hears how full the disk is rather than waits for room on it.
            let lowest = lowest.filter(|_| !store.is_away());
            let oldest = lowest.map(|lowest| store.oldest(lowest)).transpose()?.flatten();
            let (used, free) = (queue::used_bytes(&folder).ok(), queue::free(&folder).ok());
            Ok(Disk { oldest: oldest.map(|(_, arrived)| arrived), used, free })
        };
        // A queue that cannot be read has told so elsewhere, as an error.
        tokio::task::spawn_blocking(look).await.unwrap_or(Err(Failed::Closed)).unwrap_or_default()
    }
}

/// What the disk tells.
#[derive(Default)]
struct Disk {
    oldest: Option<Moment>,
    used: Option<u64>,
    free: Option<Free>,
}

fn sample(at: Moment, ledger: &Ledger, latency: Latency) -> Sample {
    let (accepted, pending) = (ledger.balance.accepted, ledger.balance.pending());
    Sample { at, accepted, left: accepted.saturating_sub(pending), latency }
}

impl Samples {
    fn add(&mut self, sample: Sample) {
        self.0.push_back(sample);
        if self.0.len() > MAX_SAMPLES {
            self.0.pop_front();
        }
    }

    /// The rates in and out until `now`, and the latencies of the last minutes.
    fn until(&self, now: &Sample) -> (Rates, Rates, Latency) {
        let rates = |total: fn(&Sample) -> u64| {
            let over = |minutes: u64| {
                let from = self.before(now, Duration::from_secs(minutes * 60));
                let seconds = now.at.since(from.at).as_secs_f64();
                // A requeue takes letters off what left the queue.
                let events = total(now).saturating_sub(total(&from)) as f64;
                if seconds > 0.0 { rounded(events / seconds) } else { 0.0 }
            };
            Rates { m1: over(1), m5: over(5), m15: over(15) }
        };
        let latency = now.latency.since(&self.before(now, LATENCY_WINDOW).latency);
        (rates(|sample| sample.accepted), rates(|sample| sample.left), latency)
    }

    /// The last sample that is `window` before `now`, or the first.
    fn before(&self, now: &Sample, window: Duration) -> Sample {
        let old = |sample: &&Sample| now.at.since(sample.at) >= window;
        let found = self.0.iter().take_while(old).last().or_else(|| self.0.front());
        found.copied().unwrap_or(*now)
    }
}

/// To thousandths: more says nothing, and makes a line hard to read.
fn rounded(number: f64) -> f64 {
    (number * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, accepted: u64, left: u64) -> Sample {
        Sample { at: Moment::from_millis(seconds * 1_000), accepted, left, latency: Latency::default() }
    }

    #[test]
    fn rates_are_differences_over_their_windows() {
        let mut samples = Samples(VecDeque::from([at(0, 1_000, 0)]));
        let (into, out, _) = samples.until(&at(0, 1_000, 0));
        assert_eq!((into, out), (Rates::default(), Rates::default()));
        // Shorter than every window: over what there is.
        let (into, _, _) = samples.until(&at(10, 1_050, 0));
        assert_eq!(into, Rates { m1: 5.0, m5: 5.0, m15: 5.0 });
        // Ten a second for 14 minutes, then nothing in, and a hundred a second out.
        for second in (5..=840).step_by(5) {
            samples.add(at(second, 1_000 + second * 10, 0));
        }
        for second in (845..=900).step_by(5) {
            samples.add(at(second, 9_400, (second - 840) * 100));
        }
        let (into, out, _) = samples.until(&at(900, 9_400, 6_000));
        assert_eq!(
            (into, out),
            (Rates { m1: 0.0, m5: 8.0, m15: 9.333 }, Rates { m1: 100.0, m5: 20.0, m15: 6.667 })
        );
        // A requeue never makes a rate negative.
        let (_, out, _) = samples.until(&at(905, 9_400, 0));
        assert_eq!(out.m1, 0.0);
    }

    #[test]
    fn samples_are_bounded_and_hold_the_longest_window() {
        let mut samples = Samples(VecDeque::from([at(0, 0, 0)]));
        for number in 1..10_000 {
            samples.add(at(number * SAMPLE_EVERY.as_secs(), number, 0));
        }
        assert_eq!(samples.0.len(), MAX_SAMPLES);
        assert!(SAMPLE_EVERY * (u32::try_from(MAX_SAMPLES).unwrap() - 2) > Duration::from_secs(15 * 60));
    }
}
