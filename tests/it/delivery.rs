//! The whole way in one process: real sockets, the real queue, and the stand-in for Target.

use std::collections::BTreeMap;
use std::time::Duration;

use target_notifyd::event::Balance;
use target_notifyd::sandbox::{self, Faults, Sandbox};
use tempfile::TempDir;

use crate::support::{Running, display, settings, taken};

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_event_is_delivered_once_and_in_order_through_faults_and_a_restart() {
    let (folder, sandbox) = (TempDir::new().expect("a folder"), Sandbox::start(sandbox::Settings::default()));
    let sandbox = sandbox.expect("the sandbox listens");
    sandbox.faults(Faults {
        error_500: 50,
        busy_503: 50,
        hang: 20,
        reset_before: 50,
        reset_after: 50,
        cut: 50,
        ..Faults::default()
    });
    let (sessions, each) = (200, 20);
    let mut settings = settings(&folder, &sandbox);
    // What hangs takes it once. A machine that stalls makes more requests of it, and the sandbox may still be at work on one
    // that was given up when the next is there: how many there are at once is asserted where nothing hangs.
    settings.transport.timeout = Duration::from_secs(1);
    // An event that fails so often by chance or by a stall would be overtaken, as it should be.
    settings.schedule.park_after = 1_000;
    let mut running = Running::start(settings.clone()).await;
    for half in 0..2 {
        let lines = |connection: usize| {
            let events = (0..each / 2).flat_map(move |number| {
                let own = (0..sessions).filter(move |session| session % 4 == connection);
                own.map(move |session| {
                    display(&format!("s{session}"), &format!("{}", half * each / 2 + number))
                })
            });
            events.collect::<Vec<_>>()
        };
        let replies = tokio::join!(
            running.submit(lines(0)),
            running.submit(lines(1)),
            running.submit(lines(2)),
            running.submit(lines(3)),
        );
        for replies in [replies.0, replies.1, replies.2, replies.3] {
            assert_eq!(replies.len(), sessions * each / 8);
            assert!(replies.iter().all(|reply| reply["status"] == "queued"), "{replies:?}");
        }
        if half == 0 {
            running.stop().await;
            running = Running::start(settings.clone()).await;
        }
    }
    taken(&sandbox, (sessions * each) as u64).await;
    running.settled((sessions * each) as u64).await;
    let balance = running.stop().await;
    let all = (sessions * each) as u64;
    assert_eq!(balance, Balance { accepted: all, delivered: all, ..Balance::default() });
    let (ledger, totals) = (sandbox.ledger(), sandbox.totals());
    assert_eq!((totals.impressions, totals.changed, totals.unmarked), (all, 0, 0));
    let mut order: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for record in ledger.records() {
        order.entry(record.session).or_default().push(record.id.parse().expect("ids are numbers"));
    }
    assert_eq!(order.len(), sessions);
    for (session, ids) in order {
        assert!(ids.is_sorted(), "the events of {session} were taken in the order {ids:?}");
    }
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_ids_are_delivered_and_a_poisoned_event_becomes_a_dead_letter() {
    let (folder, sandbox) = (TempDir::new().expect("a folder"), Sandbox::start(sandbox::Settings::default()));
    let sandbox = sandbox.expect("the sandbox listens");
    let running = Running::start(settings(&folder, &sandbox)).await;
    let poisoned = display("s1", "bad").replace("\"t\"", "\"POISON\"");
    let lines = vec![display("s1", "1"), display("s1", "1"), poisoned, "{".to_owned(), display("s1", "2")];
    let replies = running.submit(lines).await;
    let statuses: Vec<_> = replies.iter().map(|reply| reply["status"].as_str().unwrap_or_default()).collect();
    assert_eq!(statuses, ["queued", "queued", "queued", "rejected", "queued"]);
    running.settled(4).await;
    let balance = running.stop().await;
    assert_eq!(balance, Balance { accepted: 4, delivered: 3, dead: 1, ..Balance::default() });
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shell_producer_prints_replies_and_tells_by_its_exit_code() {
    let (folder, sandbox) = (TempDir::new().expect("a folder"), Sandbox::start(sandbox::Settings::default()));
    let sandbox = sandbox.expect("the sandbox listens");
    let lines = folder.path().join("lines");
    let send = |timeout: &str| {
        std::process::Command::new(env!("CARGO_BIN_EXE_target-notifyd"))
            .args(["send", "--timeout"])
            .args(timeout.split(' '))
            .arg("-o")
            .arg(format!("ingest.socket={}", folder.path().join("notify.sock").display()))
            .arg(&lines)
            .output()
            .expect("send runs")
    };
    let events: Vec<String> = (0..600).map(|id| display("s1", &id.to_string())).collect();
    std::fs::write(&lines, events.join("\n\n")).expect("a file");
    assert_eq!(send("0s").status.code(), Some(69));
    let running = Running::start(settings(&folder, &sandbox)).await;
    let sent = send("60s");
    assert_eq!((sent.status.code(), sent.stdout.split(|byte| *byte == b'\n').count()), (Some(0), 601));
    std::fs::write(&lines, "{}\n").expect("a file");
    let refused = send("60s");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stdout).contains("rejected"));
    taken(&sandbox, 600).await;
    // With receipts: of lines that ask by themselves or do not, and a dead letter is a refusal.
    let poisoned = display("s2", "bad").replace("\"t\"", "\"POISON\"");
    for (lines_of, code, statuses) in [
        (
            vec![
                display("s1", "a"),
                display("s1", "b").replace("{\"session_id\"", "{\"receipt\":true,\"session_id\""),
            ],
            0,
            ["queued", "delivered"],
        ),
        (vec![poisoned, display("s2", "good")], 1, ["dead", "delivered"]),
    ] {
        std::fs::write(&lines, lines_of.join("\n")).expect("a file");
        let sent = send("60s --receipts");
        let printed = String::from_utf8_lossy(&sent.stdout).into_owned();
        assert_eq!((sent.status.code(), printed.lines().count()), (Some(code), 4), "{printed}");
        for status in statuses {
            assert!(printed.contains(&format!("\"status\":\"{status}\"")), "{printed}");
        }
    }
    assert_eq!(running.stop().await.accepted, 604);
    sandbox.stop().await;
}
