//! What the tests of the whole way share: a daemon in this process, and a producer.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use target_notifyd::config::IdentifierForm;
use target_notifyd::daemon::{Daemon, DaemonError, Settings};
use target_notifyd::event::{Account, Balance, Moment, Seq};
use target_notifyd::figures::Meter;
use target_notifyd::queue::{Ledger, Queue};
use target_notifyd::sandbox::Sandbox;
use target_notifyd::wire::defaults::Defaults;
use target_notifyd::wire::reply::Appended;
use target_notifyd::wire::submission::Submission;
use target_notifyd::{admin, delivery, ingest, queue};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::UnixStream;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::paths::schedule_settings;

pub(crate) const MILLI: Duration = Duration::from_millis(1);
/// `target.timeout` and `target.connect_timeout` where nothing is to reach them, however slow the machine is.
pub(crate) const AMPLE: Duration = Duration::from_secs(120);
/// No wait of a healthy daemon is as long.
const LIMIT: Duration = Duration::from_secs(180);

pub(crate) fn account() -> Account {
    Account { client: "acme".to_owned(), organization: "0DD9@AdobeOrg".to_owned() }
}

/// What becomes of a batch; `None` where its commit was lost.
pub(crate) async fn append(queue: &Queue, batch: Vec<Submission>) -> Option<Vec<Appended>> {
    let (sender, answers) = oneshot::channel();
    queue.appender().append(0, batch, vec![], Box::new(sender)).await;
    answers.await.ok()
}

/// What is filled in by default, but for what depends on the machine.
pub(crate) fn defaults() -> Defaults {
    Defaults { impression_id: true, channel: true, analytics_logging: true, ..Defaults::default() }
}

/// A queue in `path` with room for everything.
pub(crate) fn queue_settings(path: &Path) -> queue::Settings {
    queue::Settings {
        path: path.to_owned(),
        max_bytes: 2 << 30,
        max_events: 10_000_000,
        min_free: 0,
        reserve: 0,
        dead_max_events: 100_000,
        journal_bytes: 512 << 10,
        adopt: false,
    }
}

pub(crate) fn settings(folder: &TempDir, sandbox: &Sandbox) -> Settings {
    settings_at(folder, format!("http://{}", sandbox.address()))
}

/// For a daemon that sends to `endpoint`, where all edge hosts are, too.
pub(crate) fn settings_at(folder: &TempDir, endpoint: String) -> Settings {
    Settings {
        account: account(),
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
            max_receipts: 10_000,
        },
        defaults: defaults(),
        queue: queue_settings(&folder.path().join("queue")),
        transport: delivery::Settings {
            client: "acme".to_owned(),
            organization: "0DD9@AdobeOrg".to_owned(),
            edge_endpoint: Some(format!("{endpoint}/edge{{cluster}}")),
            endpoint,
            timeout: AMPLE,
            connect_timeout: AMPLE,
            ca_file: None,
            proxy: None,
            allow_http: false,
            max_answer: 1 << 20,
            concurrency: 64,
        },
        schedule: schedule_settings(),
        grace: Duration::from_secs(20),
        summary_interval: Duration::from_secs(60),
        identifiers: IdentifierForm::Plain,
        dead_max_age: Duration::ZERO,
        admin: admin::Settings { socket: folder.path().join("admin.sock"), mode: 0o600 },
        metrics_listen: None,
    }
}

/// For a daemon that sends to `endpoint` alone, over TLS.
pub(crate) fn settings_over_tls(folder: &TempDir, endpoint: String, ca_file: PathBuf) -> Settings {
    let mut settings = settings_at(folder, endpoint);
    settings.transport.edge_endpoint = None;
    settings.schedule.edge_routing = false;
    settings.transport.ca_file = Some(ca_file);
    settings
}

pub(crate) struct Running {
    pub(crate) shutdown: CancellationToken,
    pub(crate) daemon: JoinHandle<Result<Ledger, DaemonError>>,
    pub(crate) socket: PathBuf,
    pub(crate) ledger: watch::Receiver<Ledger>,
    pub(crate) meter: Meter,
}

impl Running {
    pub(crate) async fn start(settings: Settings) -> Self {
        let socket = settings.ingest.socket.clone();
        Self::of(Daemon::open(settings).await.expect("the daemon opens"), socket)
    }

    /// Runs a daemon that is open.
    pub(crate) fn of(daemon: Daemon, socket: PathBuf) -> Self {
        let shutdown = CancellationToken::new();
        let (ledger, meter) = (daemon.ledger(), daemon.meter());
        Self { daemon: tokio::spawn(daemon.run(shutdown.clone())), shutdown, socket, ledger, meter }
    }

    /// Waits until the account is as `wanted`.
    pub(crate) async fn until(&self, wanted: impl Fn(&Balance) -> bool) -> Balance {
        let mut ledger = self.ledger.clone();
        let reached = ledger.wait_for(|ledger| wanted(&ledger.balance));
        match tokio::time::timeout(LIMIT, reached).await {
            Ok(ledger) => ledger.expect("the daemon runs").balance,
            Err(_) => panic!("not within {LIMIT:?}: {:?}", self.ledger.borrow().balance),
        }
    }

    /// Waits until nothing is pending, and so much was accepted.
    pub(crate) async fn settled(&self, accepted: u64) -> Balance {
        self.until(|balance| balance.accepted >= accepted && balance.pending() == 0).await
    }

    /// Sends lines over one connection, and gives the replies back in their order.
    pub(crate) async fn submit(&self, lines: Vec<impl AsRef<[u8]>>) -> Vec<serde_json::Value> {
        let stream = UnixStream::connect(&self.socket).await.expect("the daemon listens");
        let (reading, writing) = stream.into_split();
        let mut writing = BufWriter::new(writing);
        let writes = async {
            for line in &lines {
                writing.write_all(line.as_ref()).await.expect("the daemon reads");
                writing.write_all(b"\n").await.expect("the daemon reads");
            }
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

    /// Ends the daemon in order; its account has to balance then.
    pub(crate) async fn stop(self) -> Balance {
        // It would keep the queue's files open.
        drop(self.meter);
        self.shutdown.cancel();
        let ledger = self.daemon.await.expect("the daemon does not panic").expect("the daemon ends in order");
        assert_eq!(ledger.imbalance(), 0, "the account does not balance: {ledger:?}");
        ledger.balance
    }
}

pub(crate) fn display(session: &str, id: &str) -> String {
    format!(
        r#"{{"session_id":"{session}","type":"display","id":"{id}","mbox":{{"name":"home","state":"s"}},"tokens":["t"],"visitor":{{"tntId":"{session}.35_0"}}}}"#
    )
}

/// Waits until it `is_so`.
pub(crate) async fn until(is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, waiting).await.expect("it comes in time");
}

/// Waits until the sandbox has taken `count` different impressions.
pub(crate) async fn taken(sandbox: &Sandbox, count: u64) {
    until(|| sandbox.totals().impressions >= count).await;
}

/// How many of these events the sandbox has not taken.
pub(crate) fn missing<'i>(sandbox: &Sandbox, ids: impl IntoIterator<Item = &'i String>) -> usize {
    let ledger = sandbox.ledger();
    let taken: BTreeSet<&str> = ledger.records().map(|record| record.id).collect();
    ids.into_iter().filter(|id| !taken.contains(id.as_str())).count()
}

/// Waits until the sandbox has taken all of these events.
pub(crate) fn arrive<'i>(sandbox: &Sandbox, ids: impl IntoIterator<Item = &'i String> + Clone) {
    let until = Instant::now() + LIMIT;
    loop {
        let missing = missing(sandbox, ids.clone());
        if missing == 0 {
            return;
        }
        assert!(Instant::now() < until, "{missing} of {} never arrived", ids.into_iter().count());
        std::thread::sleep(5 * MILLI);
    }
}

/// What a daemon that has ended set aside: the id, the reason and the detail of each.
pub(crate) async fn dead(settings: &Settings) -> Vec<(String, String, String)> {
    let (queue, account) = (settings.queue.clone(), settings.account.clone());
    let read = tokio::task::spawn_blocking(move || {
        let queue = Queue::open(queue, &account, Arc::new(|| Moment::ZERO)).expect("the queue opens");
        (queue.store().dead(Seq(0), 100_000).expect("dead letters can be read"), queue)
    });
    let (letters, queue) = read.await.expect("no panic");
    queue.shutdown().await.expect("the queue closes");
    let told = |letter: target_notifyd::wire::record::DeadLetter| {
        (letter.event.id.as_str().to_owned(), letter.reason.to_string(), letter.detail)
    };
    letters.into_iter().map(told).collect()
}
