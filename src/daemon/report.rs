//! The summary line, and the samples of its rates.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::Settings;
use crate::event::Balance;
use crate::figures::{Meter, SAMPLE_EVERY, Turn};
use crate::queue::{Ledger, NoRoom, Store};

/// The task that reports.
pub(super) struct Reporter {
    pub(super) store: Store,
    pub(super) meter: Meter,
    pub(super) pace: watch::Receiver<Pace>,
}

/// What the reporter and the timekeeper go by; it may change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) interval: Duration,
    pub(super) max_age: Duration,
    pub(super) dead_max_age: Duration,
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

impl Reporter {
    /// Reports until `until`.
    pub(super) async fn run(mut self, until: CancellationToken) {
        let mut interval = self.pace.borrow_and_update().interval;
        let (mut ticks, mut samples) = (begun(interval).await, begun(SAMPLE_EVERY).await);
        loop {
            // Ticks that are dropped come again, late at most.
            tokio::select! {
                () = until.cancelled() => return,
                _ = samples.tick() => {
                    self.room();
                    if let Some(answers) = self.meter.sample() {
                        warn!(
                            event = "nothing_delivered", answers,
                            "requests are answered, and for a minute nothing was delivered; all is kept. See what is answered: target-notifyd tail --outcome retry"
                        );
                    }
                }
                Ok(()) = self.pace.changed() => {
                    let before = std::mem::replace(&mut interval, self.pace.borrow_and_update().interval);
                    if interval != before {
                        ticks = begun(interval).await;
                    }
                }
                _ = ticks.tick() => self.summary().await,
            }
        }
    }

    /// Tells that the queue is full by its own limits, or has room again.
    fn room(&self) {
        let Some(turn) = self.meter.turn() else { return };
        let (ledger, limits) = (self.store.ledger(), self.meter.limits());
        let (pending, held_bytes, dead_held) = (ledger.counted(), ledger.held_bytes, ledger.dead_held);
        match turn {
            Turn::Full => {
                let (max_events, max_bytes) = (limits.max_events, limits.max_bytes);
                let limit = match self.store.counts().no_room() {
                    NoRoom { events: 0, .. } => "queue.max_bytes",
                    _ => "queue.max_events",
                };
                error!(
                    event = "queue_full",
                    limit,
                    max_events,
                    max_bytes,
                    pending,
                    held_bytes,
                    dead_held,
                    "the queue is full by queue.max_bytes or queue.max_events: producers are answered queue_full; delivery goes on. target-notifyd status shows what to do; raise the limit where the disk has room, and systemctl reload target-notifyd"
                );
            }
            Turn::Free => {
                info!(
                    event = "queue_free",
                    pending,
                    held_bytes,
                    dead_held,
                    "the queue has had room for a minute: events are taken in"
                );
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
                "queue.dead_max_events is reached: what should be set aside is parked. Make room: target-notifyd dead export --numbers numbers > letters.jsonl && xargs -r -n 5000 target-notifyd dead delete < numbers"
            );
        }
    }
}

/// An interval whose first tick is over.
pub(super) async fn begun(period: Duration) -> Interval {
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
