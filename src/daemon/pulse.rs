//! The pulse: what the service manager hears while the daemon runs and ends.
//!
//! Guarantees:
//! - the watchdog is fed by progress alone: a question goes through the queue's writer and through the flusher, and only
//!   when both have come back, and delivery is not stuck, is the manager told that the daemon is alive;
//! - the end is extended while the daemon drains, up to the grace and [`MARGIN`]; then the manager's own limit holds.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::figures::{Figures, Meter};
use crate::delivery::Ask;
use crate::queue::Store;
use crate::service::Manager;

/// How often the manager is told how it goes.
const SHOWN_EVERY: Duration = Duration::from_secs(5);
/// How long the manager is asked to wait each time.
const EXTENSION: Duration = Duration::from_secs(15);
/// What answering producers and the last commit may take beside the grace.
const MARGIN: Duration = Duration::from_secs(60);

/// The task that keeps the service manager told.
pub(super) struct Pulse {
    pub(super) manager: Manager,
    pub(super) store: Store,
    pub(super) meter: Meter,
    pub(super) asks: mpsc::Sender<Ask>,
    pub(super) grace: Duration,
}

impl Pulse {
    /// Tells until `ended`; from `closing` on, of the end.
    pub(super) async fn run(self, closing: CancellationToken, ended: CancellationToken) {
        if !self.manager.is_there() {
            return;
        }
        let work = async { tokio::join!(self.feed(), self.show(closing)) };
        // What is dropped at the end is a question and a line.
        tokio::select! {
            () = ended.cancelled() => {}
            _ = work => {}
        }
    }

    /// Feeds the watchdog.
    async fn feed(&self) {
        let Some(limit) = self.manager.watchdog() else { return };
        // A third: the question may wait for one long commit, and the next still comes in time.
        let mut beats = interval(limit / 3);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beats.tick().await;
            if self.is_alive().await {
                self.manager.alive();
            }
        }
    }

    async fn is_alive(&self) -> bool {
        if self.store.pulse().await.is_err() {
            return false;
        }
        let (answer, stuck) = oneshot::channel();
        match self.asks.send(Ask::Pulse(answer)).await {
            Ok(()) => stuck.await == Ok(None),
            // The flusher ends before the queue does.
            Err(_) => true,
        }
    }

    /// Keeps the status line current, and extends the end.
    async fn show(&self, closing: CancellationToken) {
        let mut ticks = interval(SHOWN_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // A tick that is dropped is a line less.
            tokio::select! {
                () = closing.cancelled() => break,
                _ = ticks.tick() => {}
            }
            let figures = self.meter.figures().await;
            self.manager.status(&line(&figures));
        }
        self.manager.stopping(EXTENSION);
        let until = Instant::now() + self.grace + MARGIN;
        ticks.reset_immediately();
        while Instant::now() < until {
            ticks.tick().await;
            self.manager.extend(EXTENSION);
            let pending = self.store.ledger().counted;
            self.manager
                .status(&format!("ends: waits for requests under way; {pending} pending, which stay queued"));
        }
    }
}

/// How it goes: what is pending, since when, and how much leaves the queue a second.
fn line(figures: &Figures) -> String {
    let age = figures.oldest_s.map(|age| Duration::from_secs(age as u64));
    let age = age.map(|age| format!(", the oldest for {}", humantime::format_duration(age)));
    let Figures { pending, rate_out, .. } = figures;
    format!("{pending} pending{}; {:.1} delivered a second", age.unwrap_or_default(), rate_out.m1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::figures::Sources;
    use crate::event::{Account, Clock, Moment};
    use crate::queue::{self, Queue};
    use crate::schedule::Stuck;
    use std::sync::Arc;

    fn queue(folder: &tempfile::TempDir) -> Queue {
        let settings = queue::Settings {
            path: folder.path().join("queue"),
            max_bytes: 1 << 20,
            max_events: 10,
            min_free: 0,
            reserve: 0,
            dead_max_events: 10,
            adopt: false,
        };
        let account = Account { client: "acme".to_owned(), organization: "0DD9@AdobeOrg".to_owned() };
        Queue::open(settings, &account, Arc::new(|| Moment::ZERO)).unwrap()
    }

    #[tokio::test]
    async fn the_daemon_is_alive_while_writer_and_flusher_answer_and_delivery_is_not_stuck() {
        let folder = tempfile::tempdir().unwrap();
        let queue = queue(&folder);
        let (asks, mut asked) = mpsc::channel(1);
        let pulse = Pulse {
            manager: Manager::default(),
            store: queue.store(),
            meter: Meter::new(Sources {
                store: queue.store(),
                folder: folder.path().to_owned(),
                clock: Clock::start(),
                came: Arc::default(),
                went: Arc::default(),
                asks: asks.clone(),
            }),
            asks,
            grace: Duration::ZERO,
        };
        for (stuck, alive) in [(None, true), (Some(Stuck::Due), false), (Some(Stuck::Slots), false)] {
            let answer = async {
                let Some(Ask::Pulse(answer)) = asked.recv().await else { panic!("it asks") };
                answer.send(stuck).unwrap();
            };
            assert_eq!(tokio::join!(pulse.is_alive(), answer).0, alive, "{stuck:?}");
        }
        // A flusher that takes the question and does not answer is none that makes progress.
        let (told, question) = tokio::join!(
            async {
                tokio::select! { alive = pulse.is_alive() => Some(alive), () = tokio::time::sleep(Duration::from_millis(100)) => None }
            },
            asked.recv(),
        );
        assert!(told.is_none() && question.is_some());
        // It ends in order before the queue does.
        drop(asked);
        assert!(pulse.is_alive().await);
        queue.shutdown().await.unwrap();
        assert!(!pulse.is_alive().await, "the writer has ended");
    }

    #[test]
    fn the_line_says_what_is_pending() {
        let mut figures = Figures::default();
        assert_eq!(line(&figures), "0 pending; 0.0 delivered a second");
        (figures.pending, figures.oldest_s, figures.rate_out.m1) = (5, Some(62.9), 2.04);
        assert_eq!(line(&figures), "5 pending, the oldest for 1m 2s; 2.0 delivered a second");
    }
}
