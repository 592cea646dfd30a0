use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::wire::defaults::Defaults;
use crate::wire::reply::Unavailable;

/// Stores all but sessions called `full` and `lost`.
#[derive(Clone)]
struct Fake;

impl Admission for Fake {
    async fn append(&self, _producer: u64, batch: Vec<Submission>) -> Pending {
        let (sender, receiver) = oneshot::channel();
        let lost = batch.iter().any(|one| one.envelope.session.as_str() == "lost");
        let answers = batch.iter().map(|one| match one.envelope.session.as_str() {
            "full" => Appended::Refused {
                code: Unavailable::QueueFull,
                message: "full".to_owned(),
                retry_after: Duration::from_secs(1),
            },
            _ => Appended::Stored,
        });
        if !lost {
            sender.send(answers.collect()).expect("somebody waits");
        }
        receiver
    }
}

struct Server {
    _folder: TempDir,
    settings: Settings,
    shutdown: CancellationToken,
    running: JoinHandle<()>,
}

fn settings(folder: &TempDir) -> Settings {
    Settings {
        socket: folder.path().join("notify.sock"),
        mode: 0o660,
        allow_users: vec![],
        allow_groups: vec![],
        max_line: 1_000,
        max_connections: 100,
        max_connections_per_user: 100,
        idle_timeout: Duration::from_secs(600),
        line_timeout: Duration::from_secs(30),
        buffer_max_bytes: 32 * 1_024 * 1_024,
    }
}

fn start(change: impl FnOnce(&mut Settings)) -> Server {
    let folder = TempDir::new().unwrap();
    let mut settings = settings(&folder);
    change(&mut settings);
    let defaults = Defaults {
        impression_id: true,
        channel: true,
        time_offset: None,
        analytics_logging: true,
        property_token: None,
        environment_id: None,
    };
    let shutdown = CancellationToken::new();
    let listener = Listener::bind(&settings).unwrap();
    let run = listener.run(settings.clone(), Arc::new(defaults), Fake, || 1, shutdown.clone());
    Server { _folder: folder, settings, shutdown, running: tokio::spawn(run) }
}

impl Server {
    async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.settings.socket).await.unwrap()
    }

    /// Writes `text`, shuts down the writing side, and returns the replies.
    async fn exchange(&self, text: &str) -> Vec<serde_json::Value> {
        let (mut reading, mut writing) = self.connect().await.into_split();
        let mut replies = String::new();
        let (_, read) = tokio::join!(
            async {
                writing.write_all(text.as_bytes()).await.unwrap();
                writing.shutdown().await.unwrap();
            },
            reading.read_to_string(&mut replies)
        );
        read.unwrap();
        replies.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.running.await.unwrap();
    }
}

fn line(session: &str, id: usize) -> String {
    format!("{{\"session_id\":\"{session}\",\"type\":\"click\",\"id\":\"{id}\"}}\n")
}

#[tokio::test]
async fn replies_come_in_the_order_of_the_lines() {
    let server = start(|_| {});
    let mut text = String::new();
    for id in 0..3_000 {
        text.push_str(&line(if id % 5 == 0 { "full" } else { "s" }, id));
        text.push_str("\r\n{bad\n");
    }
    text.push_str(line("s", 3_000).trim_end());
    let replies = server.exchange(&text).await;
    assert_eq!(replies.len(), 6_001);
    for (position, reply) in replies.iter().enumerate() {
        let id = position / 2;
        match (position % 2, id % 5) {
            (1, _) => assert_eq!(reply["error"]["code"], "malformed_json"),
            (_, 0) if id < 3_000 => assert_eq!(reply["error"]["code"], "queue_full"),
            _ => assert_eq!(reply["ids"][0], id.to_string()),
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_long_line_harms_no_other() {
    let server = start(|_| {});
    let replies =
        server.exchange(&format!("{}{}\n{}", line("s", 1), "x".repeat(200_000), line("s", 2))).await;
    assert_eq!(replies.len(), 3);
    assert_eq!(replies[1]["error"]["code"], "line_too_long");
    assert_eq!(replies[2]["status"], "queued");
    server.stop().await;
}

#[tokio::test]
async fn a_lost_commit_closes_without_a_reply() {
    let server = start(|_| {});
    let mut stream = server.connect().await;
    stream.write_all(line("lost", 1).as_bytes()).await.unwrap();
    let mut replies = String::new();
    stream.read_to_string(&mut replies).await.unwrap();
    assert_eq!(replies, "");
    server.stop().await;
}

#[tokio::test]
async fn who_may_not_submit_and_who_is_one_too_many_are_told() {
    let forbidden = start(|settings| settings.allow_users = vec![u32::MAX]);
    let mut reply = String::new();
    forbidden.connect().await.read_to_string(&mut reply).await.unwrap();
    assert!(reply.contains(r#""code":"forbidden""#), "{reply}");
    forbidden.stop().await;

    let server = start(|settings| settings.max_connections_per_user = 1);
    let mut first = server.connect().await;
    first.write_all(line("s", 1).as_bytes()).await.unwrap();
    assert!(first.read_u8().await.is_ok(), "the first connection is served");
    let mut reply = String::new();
    server.connect().await.read_to_string(&mut reply).await.unwrap();
    assert!(reply.contains(r#""code":"too_many_connections""#), "{reply}");
    drop(first);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn idle_connections_and_unfinished_lines_are_closed() {
    let server = start(|_| {});
    for text in ["", "{\"session_id\""] {
        let mut stream = server.connect().await;
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty(), "{text}");
    }
    server.stop().await;
}

#[tokio::test]
async fn at_shutdown_what_has_arrived_is_answered_and_the_stream_ends() {
    let server = start(|_| {});
    let mut stream = server.connect().await;
    stream.write_all(line("s", 1).as_bytes()).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'{');
    stream.write_all(line("s", 2).as_bytes()).await.unwrap();
    let (mut reading, _writing) = stream.into_split();
    server.shutdown.cancel();
    let mut rest = String::new();
    reading.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest.lines().count(), 2, "{rest}");
    server.running.await.unwrap();
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let folder = TempDir::new().unwrap();
    let settings = settings(&folder);
    drop(Listener::bind(&settings).unwrap());
    let live = Listener::bind(&settings).unwrap();
    assert!(matches!(Listener::bind(&settings), Err(BindError::InUse(_))));
    drop(live);
    std::fs::remove_file(&settings.socket).unwrap();
    std::fs::write(&settings.socket, "precious").unwrap();
    assert!(matches!(Listener::bind(&settings), Err(BindError::NoSocket(_))));
    assert_eq!(std::fs::read_to_string(&settings.socket).unwrap(), "precious");
}
