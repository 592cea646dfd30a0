//! The pulse: what the service manager hears while the daemon runs and ends.
//!
//! Guarantees:
//! - the watchdog is fed by progress alone: a question goes through the queue's writer and through the flusher, and only
//!   when both have come back, and delivery is not stuck, is the manager told that the daemon is alive;
//! - the start is extended while the queue opens, up to [`LONGEST_OPENING`];
//! - the end is extended while the daemon drains, up to the grace and [`MARGIN`]; then the manager's own limit holds.

use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::delivery::Ask;
use crate::figures::{Figures, Meter};
use crate::queue::Store;
use crate::service::Manager;

/// How often the manager is told how it goes.
const SHOWN_EVERY: Duration = Duration::from_secs(5);
/// How long the manager is asked to wait each time.
const EXTENSION: Duration = Duration::from_secs(15);
/// How long the queue may open: a disk that failed is copied then, and a new schema written.
const LONGEST_OPENING: Duration = Duration::from_secs(3_600);
/// What answering producers and the last commit may take beside the grace.
const MARGIN: Duration = Duration::from_secs(60);

/// Waits for the opening of the queue in `folder`, and asks `manager` for the time that it takes.
pub(super) async fn opened<T>(manager: &Manager, folder: &Path, opening: impl Future<Output = T>) -> T {
    let mut opening = pin!(opening);
    let until = Instant::now() + LONGEST_OPENING;
    let mut ticks = interval(SHOWN_EVERY);
    let status = format!("opens the queue in {}", folder.display());
    loop {
        // A tick that is dropped is one that is not needed any more; the opening is polled on.
        tokio::select! {
            done = &mut opening => return done,
            _ = ticks.tick(), if Instant::now() < until => {
                manager.extend(EXTENSION);
                manager.status(&status);
            }
        }
    }
}

/// The task that keeps the service manager told.
pub(super) struct Pulse {
    pub(super) manager: Manager,
    pub(super) store: Store,
    pub(super) meter: Meter,
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
        match self.meter.asks().send(Ask::Pulse(answer)).await {
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
            let pending = self.store.ledger().counted();
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
    use crate::daemon::stage::Stage;
    use crate::event::Clock;
    use crate::schedule::Stuck;
    use futures_util::FutureExt;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn the_daemon_is_alive_while_writer_and_flusher_answer_and_delivery_is_not_stuck() {
        let stage = Stage::new();
        let (asks, mut asked) = mpsc::channel(1);
        let pulse = Pulse {
            manager: Manager::default(),
            store: stage.queue.store(),
            meter: stage.meter(Clock::start(), asks),
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
        let mut waiting = pin!(pulse.is_alive());
        let _question = tokio::select! {
            alive = &mut waiting => panic!("nobody answered, and it is {alive}"),
            question = asked.recv() => question.expect("it asks"),
        };
        assert_eq!(waiting.now_or_never(), None);
        // It ends in order before the queue does.
        drop(asked);
        assert!(pulse.is_alive().await);
        stage.queue.shutdown().await.unwrap();
        assert!(!pulse.is_alive().await, "the writer has ended");
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_opening_asks_for_more_time_up_to_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let address = folder.path().join("manager");
        let heard = std::os::unix::net::UnixDatagram::bind(&address).unwrap();
        heard.set_nonblocking(true).unwrap();
        let manager = Manager::at(address.into_os_string(), None).unwrap();
        let messages = || {
            let mut texts = Vec::new();
            let mut bytes = [0; 256];
            while let Ok(count) = heard.recv(&mut bytes) {
                texts.push(String::from_utf8_lossy(&bytes[..count]).into_owned());
            }
            texts
        };
        let mut opening = pin!(opened(&manager, Path::new("/q"), std::future::pending::<()>()));
        let mut extended = 0;
        for _ in 0..2 * LONGEST_OPENING.as_secs() / SHOWN_EVERY.as_secs() {
            assert!(tokio::time::timeout(SHOWN_EVERY, &mut opening).await.is_err());
            let told = messages();
            extended += told.iter().filter(|text| *text == "EXTEND_TIMEOUT_USEC=15000000\n").count();
            assert!(
                told.is_empty() || told.contains(&"STATUS=opens the queue in /q\n".to_owned()),
                "{told:?}"
            );
        }
        let longest = (LONGEST_OPENING.as_secs() / SHOWN_EVERY.as_secs()) as usize;
        assert!((longest - 1..=longest + 1).contains(&extended), "{extended}");
        assert_eq!(opened(&manager, Path::new("/q"), async { 7 }).await, 7);
    }

    #[test]
    fn the_line_says_what_is_pending() {
        let mut figures = Figures::default();
        assert_eq!(line(&figures), "0 pending; 0.0 delivered a second");
        (figures.pending, figures.oldest_s, figures.rate_out.m1) = (5, Some(62.9), 2.04);
        assert_eq!(line(&figures), "5 pending, the oldest for 1m 2s; 2.0 delivered a second");
    }
}
