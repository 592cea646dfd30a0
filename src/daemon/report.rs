//! The summary line, the samples of its rates, and what is looked after at its pace: the clock, and dead letters that are too old.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::Settings;
use super::aging::Aging;
use crate::delivery::Ask;
use crate::event::{Balance, Clock, Moment};
use crate::figures::{Meter, SAMPLE_EVERY};
use crate::queue::{Failed, Ledger, Store};
use crate::schedule::CLOCK_SLACK;

/// The name under which the queue keeps when the wall clock was last seen to be set, by how it was set then.
const CLOCK_SET: &str = "clock-set";
/// The name under which an older program kept the moment before which nothing expires: that one, and `queue.max_age`.
const EXPIRY_FROM: &str = "expiry-from";
/// How often that is noted again: what is stored meanwhile seems as old to the next process as the note.
const NOTE_EVERY: Duration = Duration::from_secs(3_600);
/// How often the clock and the dead letters are looked after at least, however seldom the summary is told.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The task that reports.
pub(super) struct Reporter {
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) meter: Meter,
    pub(super) pace: watch::Receiver<Pace>,
    /// When the clock was last seen to be set: ages count from there at the earliest.
    pub(super) set: Option<Moment>,
}

/// What the reporter goes by; it may change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    interval: Duration,
    max_age: Duration,
    dead_max_age: Duration,
}

impl Pace {
    /// The pace that `settings` ask for.
    pub(super) fn of(settings: &Settings) -> Self {
        Self {
            interval: settings.summary_interval,
            max_age: settings.schedule.max_age,
            dead_max_age: settings.dead_max_age,
        }
    }
}

/// When an earlier process last saw the clock set, by the clock as it was then. An older program kept when `max_age` was
/// over after that.
pub(super) fn clock_set(store: &Store, max_age: Duration) -> Result<Option<Moment>, Failed> {
    let kept = |name| -> Result<Option<Moment>, Failed> {
        let bytes: Option<[u8; 8]> = store.meta(name)?.and_then(|bytes| bytes.try_into().ok());
        Ok(bytes.map(|bytes| Moment::from_micros(u64::from_be_bytes(bytes))))
    };
    let older =
        kept(EXPIRY_FROM)?.map(|until| Moment::ZERO.after(until.since(Moment::ZERO).saturating_sub(max_age)));
    Ok(kept(CLOCK_SET)?.max(older))
}

impl Reporter {
    /// Reports until `until`.
    pub(super) async fn run(mut self, until: CancellationToken) {
        let mut pace = *self.pace.borrow_and_update();
        let (mut ticks, mut looks) = (begun(pace.interval).await, begun(pace.interval.min(LOOK_EVERY)).await);
        let mut samples = begun(SAMPLE_EVERY).await;
        let now = self.clock.now();
        if self.set.is_some_and(|set| set > now) {
            // It was set back since, while nobody saw it.
            self.set = Some(now);
            self.keep_set().await;
        }
        let (mut noted, mut aging) = (None, Aging::after_rest(now, pace.dead_max_age));
        loop {
            // Ticks that are dropped come again, late at most.
            tokio::select! {
                () = until.cancelled() => {
                    // The next process starts from the clock as it is now.
                    match noted {
                        Some(_) => self.keep_set().await,
                        None => self.look_at_clock(&mut noted, pace.max_age).await,
                    }
                    return;
                }
                _ = samples.tick() => {
                    if let Some(answers) = self.meter.sample() {
                        warn!(
                            event = "nothing_delivered", answers,
                            "requests are answered, and for a minute nothing was delivered; all is kept. See what is answered: target-notifyd tail --outcome retry"
                        );
                    }
                }
                Ok(()) = self.pace.changed() => {
                    let before = pace;
                    pace = *self.pace.borrow_and_update();
                    if pace.dead_max_age != before.dead_max_age {
                        aging.go_by(pace.dead_max_age);
                    }
                    if pace.interval != before.interval {
                        ticks = begun(pace.interval).await;
                        looks = begun(pace.interval.min(LOOK_EVERY)).await;
                    }
                }
                _ = ticks.tick() => self.summary().await,
                _ = looks.tick() => {
                    self.look_at_clock(&mut noted, pace.max_age).await;
                    if !pace.dead_max_age.is_zero() {
                        aging.delete_old(&self.store, self.clock.now(), self.set, pace.dead_max_age).await;
                    }
                }
            }
        }
    }

    async fn summary(&self) {
        let figures = self.meter.figures().await;
        info!(
            event = "summary",
            accepted = figures.accepted,
            delivered = figures.delivered,
            dead = figures.dead,
            expired = figures.expired,
            quarantined = figures.quarantined,
            pending = figures.pending,
            oldest_s = figures.oldest_s,
            in_1m = figures.rate_in.m1,
            in_5m = figures.rate_in.m5,
            in_15m = figures.rate_in.m15,
            out_1m = figures.rate_out.m1,
            out_5m = figures.rate_out.m5,
            out_15m = figures.rate_out.m15,
            latency_p50_ms = figures.latency_p50_ms,
            latency_p99_ms = figures.latency_p99_ms,
            commits = figures.commits,
            held_bytes = figures.held_bytes,
            disk_used_bytes = figures.disk_used_bytes,
            disk_free_bytes = figures.disk_free_bytes,
            disk_free_files = figures.disk_free_files,
            dead_held = figures.dead_held,
            surplus = figures.surplus,
            lanes = figures.lanes,
            in_flight = figures.in_flight,
            parked = figures.parked,
            open_breakers = figures.open_breakers,
            paused_hosts = figures.paused_hosts,
            pauses = figures.pauses,
            holds = figures.holds,
            connections = figures.connections,
            turned_away = figures.turned_away,
            rejected = figures.rejected,
            unavailable = figures.unavailable,
            drained_s = figures.drained_s,
            fits_s = figures.fits_s,
            full_first = figures.full_first,
            uptime_s = figures.uptime_s,
            "summary"
        );
        balances(&self.store.ledger());
        // Where none may be held at all there is no room to make; what is parked for that has its own line.
        if !self.store.dead_room() && figures.dead_held > 0 {
            warn!(
                event = "dead_letters_full",
                held = figures.dead_held,
                "queue.dead_max_events is reached: what should be set aside is parked. Make room: target-notifyd dead export > letters.jsonl && target-notifyd dead delete --all"
            );
        }
    }

    /// Looks whether the wall clock was set: what is stored seems older then, or younger, to the next process. It is told
    /// once; `noted` is when it was noted last.
    async fn look_at_clock(&mut self, noted: &mut Option<Moment>, max_age: Duration) {
        let (now, step) = (self.clock.now(), self.clock.step());
        match *noted {
            None if step > CLOCK_SLACK => self.distrust_clock(now, step, max_age).await,
            Some(at) if now.since(at) >= NOTE_EVERY => self.keep_set().await,
            _ => return,
        }
        *noted = Some(now);
    }

    async fn distrust_clock(&mut self, now: Moment, step: Duration, max_age: Duration) {
        warn!(
            event = "clock_stepped", step = ?step,
            "the clock was set by more than an hour: nothing expires for queue.max_age, and no dead letter is too old for queue.dead_max_age. Check the time service: timedatectl"
        );
        self.set = Some(now);
        let until = now.after(max_age);
        let _ended = Ask::operate(self.meter.asks(), move |scheduler, _| scheduler.delay_expiry(until)).await;
        self.keep_set().await;
    }

    /// Notes that the clock was set, by the wall clock as it is now, which is what the next process starts from.
    async fn keep_set(&self) {
        let now = Moment::from_millis(self.clock.wall_ms());
        if let Err(error) = self.store.put_meta(CLOCK_SET, now.as_micros().to_be_bytes().to_vec()).await {
            warn!(event = "clock_step_unkept", %error, "the step of the clock could not be noted for the next start: events may expire, and dead letters be deleted, early after it; raise queue.max_age and queue.dead_max_age before");
        }
    }
}

/// An interval whose first tick is over.
async fn begun(period: Duration) -> Interval {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    ticks
}

/// Logs the account at the end.
pub(super) fn ended(ledger: &Ledger) {
    let Balance { accepted, delivered, dead, expired, quarantined } = ledger.balance;
    info!(
        event = "stopped",
        accepted,
        delivered,
        dead,
        expired,
        quarantined,
        pending = ledger.counted(),
        "the daemon has ended"
    );
    balances(ledger);
}

/// Holds the account to its identity: accepted = delivered + dead + expired + quarantined + pending.
fn balances(ledger: &Ledger) {
    let imbalance = ledger.imbalance();
    if imbalance != 0 {
        error!(
            event = "account_imbalance",
            imbalance,
            "the account of the queue does not balance: events are missing from it, or counted twice. They are delivered as they are found; please report it with the lines before and target-notifyd status --json"
        );
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::daemon::stage::Stage;

    fn reporter(stage: &Stage, clock: Clock, set: Option<Moment>) -> Reporter {
        let hour = Duration::from_secs(3_600);
        let pace = Pace { interval: 24 * hour, max_age: 48 * hour, dead_max_age: Duration::ZERO };
        let (store, meter) = (stage.queue.store(), stage.meter(clock, mpsc::channel(1).0));
        Reporter { store, clock, meter, pace: watch::channel(pace).1, set }
    }

    /// Runs a reporter to its end; what the queue then knows of the clock.
    async fn reported(stage: &Stage, clock: Clock, set: Option<Moment>) -> Option<Moment> {
        let ended = CancellationToken::new();
        ended.cancel();
        reporter(stage, clock, set).run(ended).await;
        clock_set(&stage.queue.store(), Duration::ZERO).unwrap()
    }

    #[tokio::test]
    async fn a_clock_that_was_set_is_noted_again_each_hour() {
        let stage = Stage::new();
        let clock = Clock::start();
        let mut reporter = reporter(&stage, clock, None);
        for (minutes, is_noted) in [(59, false), (60, true)] {
            let before = clock.now().since(Moment::ZERO) - Duration::from_secs(minutes * 60);
            reporter.look_at_clock(&mut Some(Moment::ZERO.after(before)), Duration::ZERO).await;
            let set = clock_set(&stage.queue.store(), Duration::ZERO).unwrap();
            assert_eq!(set.is_some(), is_noted, "{minutes}");
        }
        drop(reporter);
        stage.queue.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn a_clock_that_was_set_is_noted_at_the_end_at_the_latest() {
        let stage = Stage::new();
        let hour = Duration::from_secs(3_600);
        for (set_on, is_noted) in [(hour / 2, false), (8 * 24 * hour, true)] {
            let clock = Clock::behind(set_on);
            let set = reported(&stage, clock, None).await;
            let wall = Moment::from_millis(clock.wall_ms());
            assert_eq!(set.is_some_and(|set| wall.since(set) < hour), is_noted, "{set_on:?}: {set:?}");
        }
        stage.queue.shutdown().await.unwrap();
    }

    /// It kept the moment before which nothing expires.
    #[tokio::test]
    async fn what_an_older_program_noted_of_the_clock_is_read() {
        let stage = Stage::new();
        let (store, day) = (stage.queue.store(), Duration::from_secs(86_400));
        let noted = |days: u32| Moment::ZERO.after(day * days);
        let bytes = |at: Moment| at.as_micros().to_be_bytes().to_vec();
        store.put_meta("expiry-from", bytes(noted(100))).await.unwrap();
        assert_eq!(clock_set(&store, 2 * day).unwrap(), Some(noted(98)));
        assert_eq!(clock_set(&store, 200 * day).unwrap(), Some(Moment::ZERO));
        for (later, set) in [(97, 98), (99, 99)] {
            store.put_meta(CLOCK_SET, bytes(noted(later))).await.unwrap();
            assert_eq!(clock_set(&store, 2 * day).unwrap(), Some(noted(set)));
        }
        drop(store);
        stage.queue.shutdown().await.unwrap();
    }

    /// What was noted lies ahead then, and would hold for as long as the clock was wrong.
    #[tokio::test]
    async fn a_clock_that_was_set_back_between_two_processes_is_noted_anew() {
        let stage = Stage::new();
        let (clock, day) = (Clock::start(), Duration::from_secs(86_400));
        assert_eq!(reported(&stage, clock, Some(clock.now())).await, None, "the same is known");
        let set = reported(&stage, clock, Some(clock.now().after(day))).await;
        assert!(set.is_some_and(|set| set <= Moment::from_millis(clock.wall_ms())), "{set:?}");
        stage.queue.shutdown().await.unwrap();
    }
}
