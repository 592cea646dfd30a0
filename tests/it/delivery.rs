//! The whole way in one process: real sockets, the real queue, and the stand-in for Target.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use target_notifyd::daemon::{self, DaemonError, Settings};
use target_notifyd::event::{Account, Balance};
use target_notifyd::sandbox::{Faults, Sandbox};
use target_notifyd::schedule::Backoff;
use target_notifyd::wire::defaults::Defaults;
use target_notifyd::{delivery, ingest, queue, sandbox, schedule};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const MILLI: Duration = Duration::from_millis(1);

fn settings(folder: &TempDir, sandbox: &Sandbox) -> Settings {
    let endpoint = format!("http://{}", sandbox.address());
    Settings {
        account: Account { client: "acme".to_owned(), organization: "0DD9@AdobeOrg".to_owned() },
        ingest: ingest::Settings {
            socket: folder.path().join("notify.sock"),
            mode: 0o660,
            allow_users: vec![],
            allow_groups: vec![],
            max_line: 1 << 20,
            max_connections: 1_024,
            max_connections_per_user: 512,
            idle_timeout: Duration::from_secs(600),
            line_timeout: Duration::from_secs(30),
            buffer_max_bytes: 32 << 20,
        },
        defaults: Defaults {
            impression_id: true,
            channel: true,
            time_offset: None,
            analytics_logging: true,
            property_token: None,
            environment_id: None,
        },
        queue: queue::Settings {
            path: folder.path().join("queue"),
            max_bytes: 2 << 30,
            max_events: 10_000_000,
            min_free: 0,
            reserve: 0,
            dead_max_events: 100_000,
            adopt: false,
        },
        transport: delivery::Settings {
            client: "acme".to_owned(),
            organization: "0DD9@AdobeOrg".to_owned(),
            edge_endpoint: Some(format!("{endpoint}/edge{{cluster}}")),
            endpoint,
            timeout: 300 * MILLI,
            connect_timeout: 300 * MILLI,
            ca_file: None,
            proxy: None,
            allow_http: false,
            max_answer: 1 << 20,
        },
        schedule: schedule::Settings {
            linger: 20 * MILLI,
            max_events: 50,
            max_bytes: 512 << 10,
            backoff: Backoff { initial: 10 * MILLI, max: 200 * MILLI, multiplier: 2.0 },
            isolate_after: 3,
            park_after: 6,
            unlisted_max: 100,
            concurrency: 64,
            host_concurrency: 32,
            max_hosts: 32,
            rate_limit: 0,
            breaker_failures: 5,
            breaker_open: 20 * MILLI,
            breaker_max: 100 * MILLI,
            max_age: Duration::from_secs(7 * 86_400),
            index_max_bytes: 48 << 20,
            default_cluster: None,
            edge_routing: true,
        },
        grace: Duration::from_secs(20),
        summary_interval: Duration::from_secs(60),
        shown: Arc::new(str::to_owned),
    }
}

struct Running {
    shutdown: CancellationToken,
    daemon: JoinHandle<Result<Balance, DaemonError>>,
    socket: std::path::PathBuf,
}

impl Running {
    fn start(settings: Settings) -> Self {
        let (shutdown, socket) = (CancellationToken::new(), settings.ingest.socket.clone());
        let daemon = tokio::spawn(daemon::run(settings, shutdown.clone()));
        Self { shutdown, daemon, socket }
    }

    /// Sends lines over one connection, and gives the replies back in their order.
    async fn submit(&self, lines: Vec<String>) -> Vec<serde_json::Value> {
        let stream = loop {
            // The daemon is starting: the socket appears with it.
            match UnixStream::connect(&self.socket).await {
                Ok(stream) => break stream,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let (reading, mut writing) = stream.into_split();
        let writes = async {
            writing.write_all((lines.join("\n") + "\n").as_bytes()).await.expect("the daemon reads");
            writing.shutdown().await.expect("the daemon is there");
        };
        let reads = async {
            let (mut replies, mut lines) = (Vec::new(), BufReader::new(reading).lines());
            while let Some(line) = lines.next_line().await.expect("the daemon writes") {
                replies.push(serde_json::from_str(&line).expect("a reply is JSON"));
            }
            replies
        };
        tokio::join!(writes, reads).1
    }

    async fn stop(self) -> Balance {
        self.shutdown.cancel();
        self.daemon.await.expect("the daemon does not panic").expect("the daemon ends in order")
    }
}

fn display(session: &str, id: &str) -> String {
    format!(
        r#"{{"session_id":"{session}","type":"display","id":"{id}","mbox":{{"name":"home","state":"s"}},"tokens":["t"],"visitor":{{"tntId":"{session}.35_0"}}}}"#
    )
}

/// Waits until the sandbox has taken `count` different impressions.
async fn taken(sandbox: &Sandbox, count: u64) {
    while sandbox.totals().impressions < count {
        tokio::task::yield_now().await;
    }
}

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
    let mut running = Running::start(settings(&folder, &sandbox));
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
            running = Running::start(settings(&folder, &sandbox));
        }
    }
    taken(&sandbox, (sessions * each) as u64).await;
    // What was taken may still wait for an answer that says so.
    sandbox.faults(Faults::default());
    let mut balance = running.stop().await;
    while balance.pending() > 0 {
        let again = Running::start(settings(&folder, &sandbox));
        again.submit(vec![]).await;
        balance = again.stop().await;
    }
    let all = (sessions * each) as u64;
    assert_eq!(balance, Balance { accepted: all, delivered: all, ..Balance::default() });
    let (ledger, totals) = (sandbox.ledger(), sandbox.totals());
    assert_eq!((totals.impressions, totals.changed, totals.unmarked), (all, 0, 0));
    assert!(totals.most_at_once <= 1, "{} requests of one session at once", totals.most_at_once);
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
    let running = Running::start(settings(&folder, &sandbox));
    let poisoned = display("s1", "bad").replace("\"t\"", "\"POISON\"");
    let lines = vec![display("s1", "1"), display("s1", "1"), poisoned, "{".to_owned(), display("s1", "2")];
    let replies = running.submit(lines).await;
    let statuses: Vec<_> = replies.iter().map(|reply| reply["status"].as_str().unwrap_or_default()).collect();
    assert_eq!(statuses, ["queued", "queued", "queued", "rejected", "queued"]);
    taken(&sandbox, 3).await;
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
            .args(["send", "--timeout", timeout, "-o"])
            .arg(format!("ingest.socket={}", folder.path().join("notify.sock").display()))
            .arg(&lines)
            .output()
            .expect("send runs")
    };
    let events: Vec<String> = (0..600).map(|id| display("s1", &id.to_string())).collect();
    std::fs::write(&lines, events.join("\n\n")).expect("a file");
    assert_eq!(send("0s").status.code(), Some(69));
    let running = Running::start(settings(&folder, &sandbox));
    let sent = send("60s");
    assert_eq!((sent.status.code(), sent.stdout.split(|byte| *byte == b'\n').count()), (Some(0), 601));
    std::fs::write(&lines, "{}\n").expect("a file");
    let refused = send("60s");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stdout).contains("rejected"));
    taken(&sandbox, 600).await;
    assert_eq!(running.stop().await.accepted, 600);
    sandbox.stop().await;
}
