//! What has to do with the time of day: whether the clock was set, which the next process has to know, and dead letters that
//! are too old. What the queue is asked for that waits for room on a full disk, perhaps for long, and nothing else does.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::aging::Aging;
use super::report::{Pace, begun};
use crate::delivery::Ask;
use crate::event::{Clock, Moment};
use crate::queue::{Failed, Store};
use crate::schedule::CLOCK_SLACK;

/// The name under which the queue keeps when the wall clock was last seen to be set, by how it was set then.
const CLOCK_SET: &str = "clock-set";
/// The name under which an older program kept the moment before which nothing expires: that one, and `queue.max_age`.
const EXPIRY_FROM: &str = "expiry-from";
/// How often that is noted again: what is stored meanwhile seems as old to the next process as the note.
const NOTE_EVERY: Duration = Duration::from_secs(3_600);
/// How often the clock and the dead letters are looked after at least, however seldom the summary is told.
const LOOK_EVERY: Duration = Duration::from_secs(5);

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

/// The task that looks after the clock and the letters.
pub(super) struct Timekeeper {
    pub(super) store: Store,
    pub(super) clock: Clock,
    /// The way to ask the flusher.
    pub(super) asks: mpsc::Sender<Ask>,
    pub(super) pace: watch::Receiver<Pace>,
    /// When the clock was last seen to be set: ages count from there at the earliest.
    pub(super) set: Option<Moment>,
}

impl Timekeeper {
    /// Looks after them until `until`.
    pub(super) async fn run(mut self, until: CancellationToken) {
        let mut pace = *self.pace.borrow_and_update();
        let mut looks = begun(pace.interval.min(LOOK_EVERY)).await;
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
                Ok(()) = self.pace.changed() => {
                    let before = pace;
                    pace = *self.pace.borrow_and_update();
                    if pace.dead_max_age != before.dead_max_age {
                        aging.go_by(pace.dead_max_age);
                    }
                    if pace.interval != before.interval {
                        looks = begun(pace.interval.min(LOOK_EVERY)).await;
                    }
                }
                _ = looks.tick() => {
                    self.look_at_clock(&mut noted, pace.max_age).await;
                    if !pace.dead_max_age.is_zero() {
                        aging.delete_old(&self.store, self.clock.now(), self.set, pace.dead_max_age).await;
                    }
                }
            }
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
        let _ended = Ask::operate(&self.asks, move |scheduler, _| scheduler.delay_expiry(until)).await;
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

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::sync::Arc;

    use super::*;
    use crate::daemon::report::Reporter;
    use crate::daemon::stage::Stage;

    fn timekeeper(stage: &Stage, clock: Clock, set: Option<Moment>) -> Timekeeper {
        let hour = Duration::from_secs(3_600);
        let pace = Pace { interval: 24 * hour, max_age: 48 * hour, dead_max_age: Duration::ZERO };
        let (store, asks) = (stage.queue.store(), mpsc::channel(1).0);
        Timekeeper { store, clock, asks, pace: watch::channel(pace).1, set }
    }

    /// Runs one to its end; what the queue then knows of the clock.
    async fn kept(stage: &Stage, clock: Clock, set: Option<Moment>) -> Option<Moment> {
        let ended = CancellationToken::new();
        ended.cancel();
        timekeeper(stage, clock, set).run(ended).await;
        clock_set(&stage.queue.store(), Duration::ZERO).unwrap()
    }

    /// As where the disk has no room for any commit.
    #[tokio::test(start_paused = true)]
    async fn a_note_that_waits_for_the_queue_holds_up_no_summary() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let writer = Arc::new(File::create(&log).unwrap());
        // While there is one alone, the thread that comes to a line first decides for all whether it is told: perhaps
        // another test's, which has none.
        let _another = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new());
        let subscriber = tracing_subscriber::fmt().json().with_writer(writer).finish();
        let _logged = tracing::subscriber::set_default(subscriber);

        let (stage, clock) = (Stage::new(), Clock::behind(Duration::from_secs(86_400)));
        let release = stage.keep_busy().await;
        let (timekeeper, stopped) = (timekeeper(&stage, clock, None), CancellationToken::new());
        let every = Duration::from_secs(60);
        let pace = watch::channel(Pace { interval: every, ..*timekeeper.pace.borrow() }).1;
        let (store, meter) = (stage.queue.store(), stage.meter(clock, mpsc::channel(1).0));
        let reporter = Reporter { store, meter, pace };
        let reporting = tokio::spawn(reporter.run(stopped.clone()));
        let keeping = tokio::spawn(timekeeper.run(stopped.clone()));
        tokio::time::sleep(every * 9).await;
        let said = fs::read_to_string(&log).unwrap();
        assert!(said.contains("clock_stepped") && said.matches("\"summary\"").count() > 2, "{said}");
        assert_eq!(clock_set(&stage.queue.store(), Duration::ZERO).unwrap(), None);

        release.send(()).unwrap();
        stopped.cancel();
        reporting.await.unwrap();
        keeping.await.unwrap();
        assert!(clock_set(&stage.queue.store(), Duration::ZERO).unwrap().is_some());
        stage.queue.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn a_clock_that_was_set_is_noted_again_each_hour() {
        let stage = Stage::new();
        let clock = Clock::start();
        let mut timekeeper = timekeeper(&stage, clock, None);
        for (minutes, is_noted) in [(59, false), (60, true)] {
            let before = clock.now().since(Moment::ZERO) - Duration::from_secs(minutes * 60);
            timekeeper.look_at_clock(&mut Some(Moment::ZERO.after(before)), Duration::ZERO).await;
            let set = clock_set(&stage.queue.store(), Duration::ZERO).unwrap();
            assert_eq!(set.is_some(), is_noted, "{minutes}");
        }
        drop(timekeeper);
        stage.queue.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn a_clock_that_was_set_is_noted_at_the_end_at_the_latest() {
        let stage = Stage::new();
        let hour = Duration::from_secs(3_600);
        for (set_on, is_noted) in [(hour / 2, false), (8 * 24 * hour, true)] {
            let clock = Clock::behind(set_on);
            let set = kept(&stage, clock, None).await;
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
        assert_eq!(kept(&stage, clock, Some(clock.now())).await, None, "the same is known");
        let set = kept(&stage, clock, Some(clock.now().after(day))).await;
        assert!(set.is_some_and(|set| set <= Moment::from_millis(clock.wall_ms())), "{set:?}");
        stage.queue.shutdown().await.unwrap();
    }
}
