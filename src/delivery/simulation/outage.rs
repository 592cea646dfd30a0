//! A long outage: hours of virtual time with Target down while events arrive, then recovery.

use std::pin::pin;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::disk::Disk;
use super::history::{draft, flush, look};
use super::plan::{HOSTS, Plan, Weather};
use super::world::{Command, Shared};
use crate::delivery::Ask;
use crate::event::{Cluster, Failure, Moment};
use crate::extent::extent;
use crate::schedule::Random;

/// How many hours Target is down in `cargo test`, and in full; an event arrives each second.
const HOURS: (u64, u64) = (2, 6);
const SESSIONS: u64 = 300;
/// A fifth of what the backlog of an hour would take, so that the most of it is forgotten and read again.
const INDEX_BYTES_AN_HOUR: u64 = 180_000;
/// How many requests a second are allowed at the recovery.
const RATE: u32 = 100;
/// A probe of each of the three hosts, one a breaker's longest wait, and one more for its beginning.
const MOST_A_MINUTE_WHILE_DOWN: usize = 3 * 7;

fn hours() -> u64 {
    extent(HOURS.0, HOURS.1)
}

fn plan() -> Plan {
    let mut plan = Plan::draw(&mut Random::new(1));
    plan.weather = vec![[Weather::Down(Failure::Connect); HOSTS]];
    plan.lasts = Duration::from_secs(hours() * 3_600);
    plan.timeout = Duration::from_secs(1);
    plan.commit = Duration::from_millis(10);
    (plan.page, plan.live_room, plan.dead_max) = (2_048, 256, u64::MAX);
    (plan.poison, plan.unlisted, plan.crasher, plan.damaged) = (0, 0, 0, 0);
    (plan.busy_session, plan.wrong_owner) = (0, false);
    let settings = &mut plan.settings;
    settings.linger = Duration::from_millis(500);
    (settings.max_events, settings.max_bytes) = (50, 512 * 1_024);
    settings.backoff.initial = Duration::from_secs(1);
    settings.backoff.max = Duration::from_secs(300);
    settings.backoff.multiplier = 2.0;
    (settings.isolate_after, settings.park_after, settings.unlisted_max) = (3, 6, 6);
    (settings.concurrency, settings.host_concurrency, settings.max_hosts) = (64, 32, 32);
    (settings.rate_limit, settings.index_max_bytes) = (RATE, hours() * INDEX_BYTES_AN_HOUR);
    (settings.breaker_failures, settings.default_cluster, settings.edge_routing) = (5, None, true);
    // Shorter than the outage: what waited it out is tried all the same, and delivered.
    settings.max_age = Duration::from_secs(3_600);
    plan
}

/// The events of the outage, one a second, then everything until nothing waits; how long that took.
async fn arrive(shared: &Shared, ask: &mpsc::Sender<Ask>) -> Duration {
    for serial in 1..=hours() * 3_600 {
        sleep(Duration::from_secs(1)).await;
        let session = serial % SESSIONS;
        let cluster = [None, Cluster::parse("35"), Cluster::parse("36")][(session % 3) as usize];
        let draft = draft(serial, &format!("s{session}"), cluster, 0, false);
        shared.world().waiting.push_back(Command::Append(vec![draft]));
        shared.arrived.notify_one();
        if serial % 10 == 0 {
            look(shared, ask).await;
        }
    }
    let healed = tokio::time::Instant::now();
    while shared.world().pending() > 0 || !shared.world().is_idle() {
        look(shared, ask).await;
        let _late = timeout(Duration::from_secs(1), shared.empty.notified()).await;
        assert!(healed.elapsed() < Duration::from_secs(3_600), "still waiting:\n{}", shared.world().left());
    }
    healed.elapsed()
}

/// The most requests of any minute of the log.
fn busiest(log: &[(Moment, usize)]) -> usize {
    let minute = Duration::from_secs(60);
    let behind = |(at, one): (usize, &(Moment, usize))| {
        log.iter().skip(at).take_while(|later| later.0.since(one.0) < minute).count()
    };
    log.iter().enumerate().map(behind).max().unwrap_or(0)
}

#[test]
fn a_long_outage_is_made_up_for_in_order_without_a_storm_and_without_memory() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let (shared, recovery) = runtime.block_on(async {
        // The world checks every request: the order within its session, the slots, the rate, the index.
        let shared = Shared::new(plan(), Random::new(2), false);
        shared.world().log = Some(Vec::new());
        let (ask, asks) = mpsc::channel(4);
        let mut flushing = pin!(flush(&shared, asks, CancellationToken::new()));
        let mut writing = pin!(Disk(shared.clone()).write());
        let recovery = tokio::select! {
            biased;
            ended = &mut flushing => panic!("the flusher ended: {ended:?}"),
            () = &mut writing => panic!("the disk ended"),
            recovery = arrive(&shared, &ask) => recovery,
        };
        (shared.clone(), recovery)
    });
    let mut world = shared.world();
    let (events, balance) = (hours() * 3_600, world.balance());
    assert_eq!((balance.accepted, balance.delivered), (events, events), "{balance:?}");
    let (healed, log) = (world.healed(), world.log.take().unwrap());
    let down = log.iter().position(|(at, _)| *at >= healed).unwrap();
    let (down, up) = log.split_at(down);
    // Until the breakers have opened for as long as they may, they are tried more often.
    let settled = down.iter().position(|(at, _)| at.since(down[0].0) > Duration::from_secs(120)).unwrap();
    let most = busiest(&down[settled..]);
    println!(
        "{events} events in {} hours of outage: {} requests, at most {most} in a minute; then {} requests in {recovery:?}",
        hours(),
        down.len(),
        up.len()
    );
    assert!(most <= MOST_A_MINUTE_WHILE_DOWN, "{most} requests in a minute while Target was down");
    assert!((up.len() as u64) < events / 5, "{} requests for {events} events: no batches", up.len());
    assert!(recovery < Duration::from_secs(600), "{recovery:?}");
}
