//! Whole histories of delivery: the real scheduler and flusher over a fake disk and a fake Target, in virtual time.
//!
//! A history is drawn from a number: settings, faults, crashes, stops, what an operator does. Everything in it happens
//! on one thread in one order, so that the same number gives the same history; a failure prints the command that
//! replays it. See `world.rs` for what must hold at every step.

mod disk;
mod history;
mod operator;
mod outage;
mod plan;
mod target;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::history::{Story, flush};
use self::plan::Plan;
use self::world::{Counts, Shared};
use super::Ask;
use crate::extent::{extent, seed};
use crate::schedule::Random;

/// How many threads run histories.
const THREADS: u64 = 2;

/// After how many histories a long run says how far it is.
const TOLD_EVERY: u64 = 10_000;

/// What must have happened somewhere in the histories, or they show less than they say.
const MUST_HAPPEN: [&str; 29] = [
    "200, all listed",
    "200, some missing",
    "200, unreadable",
    "204",
    "400",
    "413",
    "401, 403, 404, 3xx",
    "420",
    "408, 425, 429",
    "5xx",
    "other 4xx",
    "no answer",
    "settled",
    "stored",
    "refused",
    "not_acknowledged",
    "expired",
    "quarantined",
    "passed over a parked event",
    "crash",
    "stop",
    "the disk fails",
    "paused",
    "resumed",
    "held",
    "released",
    "retried",
    "flushed",
    "dropped",
];

/// Histories that failed once, by seed and number, before they had an operator: they are gone through again without
/// one, as long as histories are drawn as they are.
const FAILED_ONCE: [(u64, u64); 11] = [
    (1, 629),
    (2, 1_227),
    (2, 1_564),
    (3, 125),
    (3, 1_522),
    (3, 1_873),
    (100, 12_587),
    (100, 23_681),
    (100, 26_303),
    (100, 46_758),
    (100, 65_164),
];

/// Where the random numbers of a history begin.
fn seed_of(seed: u64, history: u64) -> u64 {
    Random::new(Random::new(seed).bits() ^ history).bits()
}

fn told(history: u64) -> String {
    format!(
        "history {history} failed; this replays it:\nTARGET_NOTIFYD_SEED={} TARGET_NOTIFYD_HISTORY={history} \
         cargo test --locked --lib delivery::simulation::histories -- --exact --nocapture",
        seed()
    )
}

/// Runs one history; says how it is replayed where it fails.
fn tell(history: u64, loud: bool) -> Story {
    catch_unwind(AssertUnwindSafe(|| history::run(seed_of(seed(), history), true, loud))).unwrap_or_else(
        |panic| {
            eprintln!("{}", told(history));
            std::panic::resume_unwind(panic)
        },
    )
}

#[test]
fn histories() {
    if let Ok(number) = std::env::var("TARGET_NOTIFYD_HISTORY") {
        let story = tell(number.parse().unwrap(), true);
        println!("history {number} ended: digest {:016x}", story.digest);
        return;
    }
    let count = extent(2_000, 100_000);
    let next = AtomicU64::new(0);
    let work = || {
        let mut counts = Counts::new();
        loop {
            let history = next.fetch_add(1, Ordering::Relaxed);
            if history >= count {
                return counts;
            }
            if history > 0 && history.is_multiple_of(TOLD_EVERY) {
                println!("{history} of {count} histories were begun");
            }
            for (what, times) in tell(history, false).counts {
                *counts.entry(what).or_default() += times;
            }
        }
    };
    let mut all = Counts::new();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            let counts = thread.join().unwrap_or_else(|panic| {
                next.store(count, Ordering::Relaxed);
                std::panic::resume_unwind(panic)
            });
            for (what, times) in counts {
                *all.entry(what).or_default() += times;
            }
        }
    });
    println!("{count} histories from seed {}: {all:#?}", seed());
    for what in MUST_HAPPEN {
        assert!(all.contains_key(what), "\"{what}\" never happened in {count} histories");
    }
}

/// What another thread is about to ask as the flusher ends: its place in the channel is taken, and it is not there yet.
#[test]
fn who_asks_as_the_flusher_ends_does_not_wait_for_ever() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut random = Random::new(1);
        let shared = Shared::new(Plan::draw(&mut random), random, false);
        let (ask, asks) = mpsc::channel(1);
        let (place, stop) = (ask.reserve().await.unwrap(), CancellationToken::new());
        stop.cancel();
        let (answer, status) = oneshot::channel();
        let asking = async {
            ask.closed().await;
            place.send(Ask::Pulse(answer));
            timeout(Duration::from_secs(3_600), status).await.expect("it is told")
        };
        let (ended, told) = tokio::join!(flush(&shared, asks, stop), asking);
        assert!(ended.is_ok() && told.is_err(), "{ended:?}, {told:?}");
    });
}

#[test]
fn histories_that_failed_once() {
    for (seed, history) in FAILED_ONCE {
        let story = history::run(seed_of(seed, history), false, false);
        assert!(story.counts.contains_key("settled"), "history {history} of seed {seed} settled nothing");
    }
}

#[test]
fn a_history_is_the_same_when_it_is_replayed() {
    let digests = || {
        (0..40).map(|history| history::run(seed_of(seed(), history), true, false).digest).collect::<Vec<_>>()
    };
    let here = digests();
    let there = std::thread::spawn(digests).join().unwrap();
    assert_eq!(here, there);
    assert_ne!(here[0], here[1]);
}
