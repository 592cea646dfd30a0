//! What an edge, a session or an event does to the others: nothing.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use target_notifyd::daemon::Settings;
use target_notifyd::event::{Balance, Cluster, Host};
use target_notifyd::sandbox::{self, Faults, Sandbox};
use tempfile::TempDir;

use crate::process::LIMIT;
use crate::support::{Running, dead, display, settings, until};

/// For so long a machine may do something else.
const STALL: Duration = Duration::from_secs(30);

/// A sandbox, and the settings of a daemon.
fn stage() -> (TempDir, Sandbox, Settings) {
    let folder = TempDir::new().expect("a folder");
    let sandbox = Sandbox::start(sandbox::Settings::default()).expect("the sandbox listens");
    let settings = settings(&folder, &sandbox);
    (folder, sandbox, settings)
}

/// A submission of several events, with the tokens that `token` gives.
fn many(session: &str, count: usize, token: impl Fn(usize) -> &'static str) -> String {
    let events = (0..count).map(|number| {
        format!(
            r#"{{"id":"{session}-{number}","type":"display","mbox":{{"name":"home","state":"s"}},"tokens":["{}"]}}"#,
            token(number)
        )
    });
    let events = events.collect::<Vec<_>>().join(",");
    format!(
        r#"{{"session_id":"{session}","target_location_hint":"35","request":{{"notifications":[{events}]}}}}"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn one_poisoned_event_in_fifty_becomes_a_dead_letter_alone_and_cheaply() {
    let (_folder, sandbox, settings) = stage();
    let running = Running::start(settings.clone()).await;
    let (sessions, each) = (100, 50);
    let bad = |session: usize| session * 7 % each;
    let lines = (0..sessions).map(|session| {
        many(&format!("s{session}"), each, move |number| if number == bad(session) { "POISON" } else { "t" })
    });
    running.submit(lines.collect()).await;
    let all = (sessions * each) as u64;
    let balance = running.settled(all).await;
    assert_eq!(
        balance,
        Balance { accepted: all, delivered: all - 100, dead: sessions as u64, ..Balance::default() }
    );
    running.stop().await;
    // A batch of fifty is refused; from then on two requests a level lead to the guilty one.
    let most = (2.0 * (each as f64).log2() + 2.0) * sessions as f64;
    let extra = sandbox.totals().requests as f64 - sessions as f64;
    assert!(extra <= most, "{extra} extra requests, {most} are allowed");
    let letters = dead(&settings).await;
    let ids: BTreeSet<String> = letters.iter().map(|(id, ..)| id.clone()).collect();
    assert_eq!(ids, (0..sessions).map(|session| format!("s{session}-{}", bad(session))).collect());
    assert!(letters.iter().all(|(_, reason, detail)| reason == "refused" && detail.contains("POISON")));
    sandbox.stop().await;
}

async fn outage(lanes: usize, open: Duration, max: Duration, probes: u64) {
    let (_folder, sandbox, mut settings) = stage();
    (settings.schedule.breaker_open, settings.schedule.breaker_max) = (open, max);
    // One host: each has a breaker of its own.
    settings.schedule.edge_routing = false;
    sandbox.faults(Faults { down: true, ..Faults::default() });
    let running = Running::start(settings).await;
    running.submit((0..lanes).map(|lane| display(&format!("s{lane}"), "1")).collect()).await;
    // The breaker opens with the first failures; what was under way with them comes in, too.
    let opened = async {
        loop {
            let figures = running.meter.figures().await;
            if figures.open_breakers == 1 && figures.in_flight == 0 {
                return;
            }
        }
    };
    tokio::time::timeout(LIMIT, opened).await.expect("the breaker opens, and nothing is under way");
    // In this order: a probe that comes between them is one more that is waited for.
    let (began, first) = (Instant::now(), sandbox.totals().connections);
    until(|| sandbox.totals().connections >= first + probes).await;
    // The waits double from `open` to `max`: the first two are the breaker's opening and its first probes.
    let (mut least, mut wait) = (Duration::ZERO, open);
    for _ in 0..probes.saturating_sub(2) {
        least += wait;
        wait = (wait * 2).min(max);
    }
    assert!(began.elapsed() >= least, "{probes} attempts in {:?}", began.elapsed());
    sandbox.faults(Faults::default());
    let healed = Instant::now();
    let balance = running.settled(lanes as u64).await;
    assert_eq!(balance.delivered, lanes as u64);
    let first = sandbox.totals().first_taken.expect("something was taken").duration_since(healed);
    assert!(first <= max + STALL, "the first was delivered after {first:?}");
    running.stop().await;
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_probed_seldom_and_ends_quickly() {
    outage(5_000, Duration::from_millis(200), Duration::from_secs(1), 5).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute: .ci/full runs it"]
async fn an_outage_of_a_minute_is_probed_seldom_and_ends_quickly() {
    // 2, 4, 8, 10, 10, 10, 10 s
    outage(5_000, Duration::from_secs(2), Duration::from_secs(10), 9).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_session_and_a_dead_cluster_hold_up_nobody_else() {
    let (_folder, sandbox, settings) = stage();
    let down = Cluster::parse("36").expect("a cluster");
    sandbox.faults(Faults {
        busy_session: Some("busy".to_owned()),
        down_clusters: vec![down],
        ..Faults::default()
    });
    let running = Running::start(settings).await;
    let mut lines = vec![display("busy", "1"), display("busy", "2")];
    for number in 0..200 {
        lines.push(display(&format!("s{number}"), "1"));
        lines.push(display(&format!("d{number}"), "1").replace(".35_0", ".36_0"));
    }
    running.submit(lines).await;
    let balance = running.until(|balance| balance.accepted == 402 && balance.pending() == 2).await;
    assert_eq!(balance.delivered, 400);
    let ledger = sandbox.ledger();
    let hosts = |prefix: char| -> BTreeSet<Host> {
        ledger
            .records()
            .filter(|record| record.session.starts_with(prefix))
            .map(|record| record.host)
            .collect()
    };
    assert_eq!(hosts('d'), BTreeSet::from([Host::Client]));
    assert_eq!(hosts('s'), BTreeSet::from([Host::Edge(Cluster::parse("35").expect("a cluster"))]));
    sandbox.faults(Faults::default());
    assert_eq!(running.settled(402).await.delivered, 402);
    running.stop().await;
    sandbox.stop().await;
}

async fn fuse(faults: Faults, edge_routing: bool) {
    let (_folder, sandbox, mut settings) = stage();
    settings.schedule.edge_routing = edge_routing;
    settings.schedule.unlisted_max = 2;
    sandbox.faults(faults);
    let running = Running::start(settings).await;
    running
        .submit(
            (0..40)
                .map(|session| {
                    many(&format!("s{session}"), 10, |_| "t").replace(r#""target_location_hint":"35","#, "")
                })
                .collect(),
        )
        .await;
    let refused = |dead: u64| running.until(move |balance| balance.dead >= dead);
    refused(90).await;
    // The fuse trips at a hundred; its probes set nothing aside.
    let requests = sandbox.totals().requests;
    until(|| sandbox.totals().requests >= requests + 20).await;
    assert!(refused(0).await.dead <= 100);
    sandbox.faults(Faults::default());
    let balance = running.settled(400).await;
    // An answer of before that arrives behind the first delivery stands at the beginning of a row of its own: what it
    // leaves out is set aside. Where each lane has a host of its own, each may have one under way.
    let late = if edge_routing { 200 } else { 0 };
    assert!(balance.dead <= 100 + late && balance.delivered == 400 - balance.dead, "{balance:?}");
    running.stop().await;
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_refuses_everything_trips_the_fuse() {
    fuse(Faults { refuse_all: Some(400), ..Faults::default() }, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_lists_nothing_trips_the_fuse() {
    fuse(Faults { list_none: true, ..Faults::default() }, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fuse_trips_too_where_each_session_has_an_edge_host_of_its_own() {
    fuse(Faults { list_none: true, ..Faults::default() }, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_property_token_pauses_nobody_else() {
    let (_folder, sandbox, settings) = stage();
    sandbox.faults(Faults { forbid_token: Some("wrong".to_owned()), ..Faults::default() });
    let running = Running::start(settings).await;
    let wrong = |number: usize| {
        display(&format!("w{number}"), "1").replace(r#""type""#, r#""property":{"token":"wrong"},"type""#)
    };
    let mut lines: Vec<String> = (0..20).map(wrong).collect();
    lines.extend((0..200).map(|number| display(&format!("s{number}"), "1")));
    running.submit(lines).await;
    let balance = running.until(|balance| balance.accepted == 220 && balance.pending() == 20).await;
    assert_eq!(balance.delivered, 200);
    sandbox.faults(Faults::default());
    assert_eq!(running.settled(220).await.delivered, 220);
    running.stop().await;
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_fails_by_itself_is_parked_holds_nothing_back_and_dies_of_age() {
    let (_folder, sandbox, mut settings) = stage();
    sandbox.faults(Faults { fail_token: Some("FAIL".to_owned()), ..Faults::default() });
    let running = Running::start(settings.clone()).await;
    // At home where the others are: a host that serves nobody else may be to blame itself.
    let session = many("f", 10, |number| if number == 3 { "FAIL" } else { "t" })
        .replace(r#""request":{"#, r#""request":{"id":{"tntId":"f.35_0"},"#);
    running.submit(vec![session]).await;
    // Its host has to serve others in between: only then the event is to blame.
    let (mut accepted, limit) = (10, Instant::now() + LIMIT);
    while running.until(|balance| balance.accepted == accepted).await.pending() > 1 {
        assert!(Instant::now() < limit, "more than the one waits");
        // With a receipt: the next look comes after it was delivered.
        let other = display(&format!("s{accepted}"), "1").replace(r#""type""#, r#""receipt":true,"type""#);
        assert_eq!(running.submit(vec![other]).await[1]["status"], "delivered");
        accepted += 1;
    }
    running.stop().await;
    // Parked or not is not stored: it is tried again, and now it is too old.
    settings.schedule.max_age = Duration::ZERO;
    let running = Running::start(settings.clone()).await;
    let balance = running.settled(accepted).await;
    assert_eq!((balance.expired, balance.delivered), (1, accepted - 1));
    running.stop().await;
    let letters = dead(&settings).await;
    assert_eq!((letters.len(), letters[0].0.as_str(), letters[0].1.as_str()), (1, "f-3", "expired"));
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_deleted_when_they_are_too_old_and_only_then() {
    let (_folder, sandbox, mut settings) = stage();
    settings.summary_interval = Duration::from_millis(10);
    let poisoned = || many("s", 3, |number| if number == 1 { "POISON" } else { "t" });
    let running = Running::start(settings.clone()).await;
    running.submit(vec![poisoned()]).await;
    running.settled(3).await;
    running.stop().await;
    assert_eq!(dead(&settings).await.len(), 1);
    settings.dead_max_age = Duration::from_millis(1);
    let running = Running::start(settings.clone()).await;
    running.ledger.clone().wait_for(|ledger| ledger.dead_held == 0).await.expect("the daemon runs");
    let balance = running.stop().await;
    assert_eq!((balance.dead, balance.delivered), (1, 2));
    assert!(dead(&settings).await.is_empty());
    sandbox.stop().await;
}
