//! The metrics over real sockets: what is told, and what a scraper cannot do.

use std::net::SocketAddr;
use std::time::Duration;

use target_notifyd::daemon::scrape::{MAX_CONNECTIONS, MAX_HEAD_BYTES};
use target_notifyd::daemon::{Daemon, metrics};
use target_notifyd::sandbox::{self, Sandbox};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Running, settings};

/// Far beyond what an answer takes, so that only a hang fails.
const LIMIT: Duration = Duration::from_secs(60);

async fn started(folder: &TempDir, sandbox: &Sandbox) -> (Running, SocketAddr) {
    let mut settings = settings(folder, sandbox);
    settings.metrics_listen = Some("127.0.0.1:0".to_owned());
    let socket = settings.ingest.socket.clone();
    let daemon = Daemon::open(settings).await.expect("the daemon opens");
    let address = daemon.metrics_address().expect("metrics are served");
    (Running::of(daemon, socket), address)
}

/// What the endpoint answers to `head`.
async fn asked(address: SocketAddr, head: &str) -> String {
    let answer = async {
        let mut stream = TcpStream::connect(address).await.expect("the endpoint listens");
        stream.write_all(head.as_bytes()).await.expect("the endpoint reads");
        let mut answer = Vec::new();
        // A refused head may end in a reset, after the answer.
        let _ended = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).expect("text")
    };
    tokio::time::timeout(LIMIT, answer).await.expect("an answer in time")
}

async fn scraped(address: SocketAddr) -> String {
    asked(address, "GET /metrics HTTP/1.1\r\nhost: here\r\n\r\n").await
}

fn event(session: &str) -> String {
    format!(r#"{{"session_id":"{session}","type":"click","mbox":{{"name":"home"}},"tokens":["t"]}}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrape_tells_the_account() {
    let (folder, sandbox) = (TempDir::new().expect("a folder"), Sandbox::start(sandbox::Settings::default()));
    let sandbox = sandbox.expect("the sandbox listens");
    let (running, address) = started(&folder, &sandbox).await;
    running.submit(vec![event("a"), event("b"), "{".to_owned()]).await;
    running.settled(2).await;
    let text = scraped(address).await;
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    for line in [
        "target_notifyd_events_accepted_total 2",
        "target_notifyd_events_delivered_total 2",
        "target_notifyd_events_pending 0.0",
        "target_notifyd_events_dead 0.0",
        "target_notifyd_oldest_age_seconds 0.0",
        "target_notifyd_lines_refused_total{status=\"rejected\"} 1",
        "target_notifyd_breaker_state{host=\"client\",state=\"closed\"} 1",
        "target_notifyd_delivery_seconds_count 2",
        "target_notifyd_delivery_seconds_bucket{le=\"+Inf\"} 2",
    ] {
        assert!(text.lines().any(|one| one == line), "{line} misses in\n{text}");
    }
    for metric in metrics::all() {
        let head = format!("# TYPE {} {}", metric.name.trim_end_matches("_total"), metric.kind);
        let full = format!("# TYPE {} {}", metric.name, metric.kind);
        assert!(text.lines().any(|line| line == head || line == full), "{} misses in\n{text}", metric.name);
    }
    running.stop().await;
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_scraper_slows_nothing() {
    let (folder, sandbox) = (TempDir::new().expect("a folder"), Sandbox::start(sandbox::Settings::default()));
    let sandbox = sandbox.expect("the sandbox listens");
    let (running, address) = started(&folder, &sandbox).await;
    let refused = [
        ("POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n".to_owned(), "HTTP/1.1 405 "),
        ("GET /../etc/passwd HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(), "HTTP/1.1 404 "),
        (format!("GET /metrics HTTP/1.1\r\na: {}", "x".repeat(2 * MAX_HEAD_BYTES)), "HTTP/1.1 431 "),
        ("\0\u{1}\r\n\r\n".to_owned(), "HTTP/1.1 400 "),
    ];
    for (head, answer) in refused {
        let told = asked(address, &head).await;
        assert!(told.starts_with(answer), "{answer}: {told:?}");
    }
    // More than are served at a time, which say nothing, or begin and never end.
    let mut silent = Vec::new();
    for number in 0..2 * MAX_CONNECTIONS {
        let mut stream = TcpStream::connect(address).await.expect("the endpoint listens");
        if number % 2 == 0 {
            stream.write_all(b"GET /metr").await.expect("the system takes it");
        }
        silent.push(stream);
    }
    running.submit(vec![event("a"); 20]).await;
    running.settled(20).await;
    drop(silent);
    assert!(scraped(address).await.contains("target_notifyd_events_delivered_total 20\n"));
    // The end of the daemon does not wait for those that hang.
    let _hangs = TcpStream::connect(address).await.expect("the endpoint listens");
    running.stop().await;
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_taken_is_named() {
    let (folder, sandbox) = (TempDir::new().expect("a folder"), Sandbox::start(sandbox::Settings::default()));
    let sandbox = sandbox.expect("the sandbox listens");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let mut settings = settings(&folder, &sandbox);
    settings.metrics_listen = Some(address.clone());
    let error = Daemon::open(settings).await.err().expect("it is taken").to_string();
    assert!(error.contains(&format!("admin.metrics_listen = \"{address}\"")), "{error}");
    sandbox.stop().await;
}
