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

/// The name under which the queue keeps the moment before which nothing expires.
const EXPIRY_FROM: &str = "expiry-from";
/// How often the clock and the dead letters are looked after at least, however seldom the summary is told.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The task that reports.
pub(super) struct Reporter {
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) meter: Meter,
    pub(super) pace: watch::Receiver<Pace>,
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

/// Before when nothing may expire, where an earlier process saw the clock step.
pub(super) fn expiry_from(store: &Store) -> Result<Option<Moment>, Failed> {
    let kept: Option<[u8; 8]> = store.meta(EXPIRY_FROM)?.and_then(|bytes| bytes.try_into().ok());
    Ok(kept.map(|bytes| Moment::from_micros(u64::from_be_bytes(bytes))))
}

impl Reporter {
    /// Reports until `until`.
    pub(super) async fn run(mut self, until: CancellationToken) {
        let mut pace = *self.pace.borrow_and_update();
        let (mut ticks, mut looks) = (begun(pace.interval).await, begun(pace.interval.min(LOOK_EVERY)).await);
        let mut samples = begun(SAMPLE_EVERY).await;
        let (mut stepped, mut aging) = (false, Aging::default());
        loop {
            // Ticks that are dropped come again, late at most.
            tokio::select! {
                () = until.cancelled() => {
                    // The next process starts from the clock as it is now.
                    self.look_at_clock(&mut stepped, pace.max_age).await;
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
                    let before = pace.interval;
                    pace = *self.pace.borrow_and_update();
                    aging = Aging::default();
                    if pace.interval != before {
                        ticks = begun(pace.interval).await;
                        looks = begun(pace.interval.min(LOOK_EVERY)).await;
                    }
                }
                _ = ticks.tick() => self.summary().await,
                _ = looks.tick() => {
                    self.look_at_clock(&mut stepped, pace.max_age).await;
                    if !pace.dead_max_age.is_zero() {
                        aging.delete_old(&self.store, self.clock.now(), pace.dead_max_age).await;
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

    /// Looks whether the wall clock was set, which is noted once.
    async fn look_at_clock(&self, stepped: &mut bool, max_age: Duration) {
        if !*stepped && self.clock.step() > CLOCK_SLACK {
            *stepped = true;
            self.distrust_clock(max_age).await;
        }
    }

    /// The wall clock was set: the age of what is stored cannot be told after a restart.
    async fn distrust_clock(&self, max_age: Duration) {
        let step = self.clock.step();
        warn!(
            event = "clock_stepped", step = ?step,
            "the clock was set by more than an hour: nothing expires for queue.max_age. Check the time service: timedatectl"
        );
        let until = self.clock.now().after(max_age);
        // By the wall clock as it is now, which is what the next process starts from.
        let kept = Moment::from_millis(self.clock.wall_ms()).after(max_age);
        let _ended = Ask::operate(self.meter.asks(), move |scheduler, _| scheduler.delay_expiry(until)).await;
        if let Err(error) = self.store.put_meta(EXPIRY_FROM, kept.as_micros().to_be_bytes().to_vec()).await {
            warn!(event = "clock_step_unkept", %error, "the step of the clock could not be noted for the next start: events may expire early after it; raise queue.max_age before");
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

    #[tokio::test]
    async fn a_clock_that_was_set_is_noted_at_the_end_at_the_latest() {
        let stage = Stage::new();
        let hour = Duration::from_secs(3_600);
        let pace = Pace { interval: 24 * hour, max_age: 48 * hour, dead_max_age: Duration::ZERO };
        let ended = CancellationToken::new();
        ended.cancel();
        for (set_on, is_noted) in [(hour / 2, false), (8 * 24 * hour, true)] {
            let clock = Clock::behind(set_on);
            let (store, meter) = (stage.queue.store(), stage.meter(clock, mpsc::channel(1).0));
            let (_pace, paces) = watch::channel(pace);
            Reporter { store, clock, meter, pace: paces }.run(ended.clone()).await;
            let until = expiry_from(&stage.queue.store()).unwrap();
            let expected = Moment::from_millis(clock.wall_ms()).after(47 * hour);
            assert_eq!(until.is_some_and(|until| until > expected), is_noted, "{set_on:?}: {until:?}");
        }
        stage.queue.shutdown().await.unwrap();
    }
}
