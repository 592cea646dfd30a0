mod end;

use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use nix::sys::socket::{Shutdown, shutdown};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::wire::defaults::Defaults;
use crate::wire::reply::{Appended, Unavailable};

/// Stores all but sessions called `full` and `lost`, and counts what it stores. The receipts of sessions called `later` come
/// after [`LATER`].
#[derive(Clone, Default)]
struct Fake(Arc<AtomicUsize>);

const LATER: Duration = Duration::from_secs(590);

impl Admission for Fake {
    async fn append(
        &self,
        _producer: u64,
        batch: Vec<Submission>,
        slips: Vec<(usize, Slip)>,
        replier: Box<dyn Replier>,
    ) {
        for (position, slip) in slips {
            if batch[position].envelope.session.as_str() == "later" {
                tokio::spawn(async move {
                    tokio::time::sleep(LATER).await;
                    slip.send(format!("receipt {position}"));
                });
            } else {
                slip.send(format!("receipt {position}"));
            }
        }
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
            assert!(!replier.is_gone());
            let answers: Vec<Appended> = answers.collect();
            self.0
                .fetch_add(answers.iter().filter(|one| **one == Appended::Stored).count(), Ordering::Relaxed);
            replier.reply(answers);
        }
    }
}

struct Server {
    _folder: TempDir,
    settings: Settings,
    shutdown: CancellationToken,
    counts: Arc<Counts>,
    queue: Fake,
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
        max_receipts: 3,
    }
}

fn start(change: impl FnOnce(&mut Settings)) -> Server {
    let folder = TempDir::new().unwrap();
    let mut settings = settings(&folder);
    change(&mut settings);
    let defaults =
        Defaults { impression_id: true, channel: true, analytics_logging: true, ..Defaults::default() };
    let shutdown = CancellationToken::new();
    let listener = Listener::bind(Control::new(settings.clone(), Arc::new(defaults))).unwrap();
    let counts = listener.counts();
    let queue = Fake::default();
    let run = listener.run(queue.clone(), || 1, shutdown.clone());
    Server { _folder: folder, settings, shutdown, counts, queue, running: tokio::spawn(run) }
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

    /// Waits until `count` submissions are stored.
    async fn stored(&self, count: usize) {
        for _ in 0..10_000 {
            if self.queue.0.load(Ordering::Relaxed) >= count {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(self.queue.0.load(Ordering::Relaxed), count);
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.running.await.unwrap();
    }
}

fn line(session: &str, id: usize) -> String {
    format!("{{\"session_id\":\"{session}\",\"type\":\"click\",\"id\":\"{id}\"}}\n")
}

fn receipt_asked(line: &str) -> String {
    line.replace('}', ",\"receipt\":true}")
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
    assert!(reply.contains("(ingest.max_connections_per_user)"), "{reply}");
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

#[tokio::test(start_paused = true)]
async fn a_connection_is_idle_from_its_last_receipt_on() {
    let server = start(|_| {});
    let mut stream = server.connect().await;
    let began = Instant::now();
    stream.write_all(receipt_asked(&line("later", 1)).as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text.lines().last(), Some("receipt 0"), "{text}");
    let idle = began.elapsed() - LATER;
    assert!(idle.abs_diff(server.settings.idle_timeout) < Duration::from_secs(1), "{idle:?}");
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_unfinished_line_closes_whatever_receipts_are_owed() {
    let server = start(|_| {});
    let mut stream = server.connect().await;
    let began = Instant::now();
    let lines = receipt_asked(&(line("s", 1) + &line("later", 2)));
    stream.write_all((lines + "{\"session_id\"").as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(began.elapsed().abs_diff(server.settings.line_timeout) < Duration::from_secs(1));
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() == 3 && lines[0].contains("queued") && lines[1].contains("queued"), "{text}");
    assert_eq!(lines[2], "receipt 0");
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_producer_that_always_has_a_line_begun_is_not_closed() {
    let server = start(|_| {});
    let mut stream = server.connect().await;
    let (first, rest) = ("{\"session_id\"", ":\"s\",\"type\":\"click\"}\n");
    stream.write_all(first.as_bytes()).await.unwrap();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(20)).await;
        stream.write_all(format!("{rest}{first}").as_bytes()).await.unwrap();
        let mut reply = vec![0; 1_000];
        let count = stream.read(&mut reply).await.unwrap();
        assert!(String::from_utf8_lossy(&reply[..count]).contains("queued"));
    }
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn long_lines_wait_for_their_share_of_the_buffer() {
    // Room for one long line at a time.
    let server = start(|settings| {
        (settings.max_line, settings.buffer_max_bytes) = (200_000, 200_000);
    });
    let long = line("s", 1).replace("}", &format!(",\"new\":\"{}\"}}", "x".repeat(150_000)));
    let (begun, end) = long.split_at(100_000);
    let (mut holder, mut waiter) = (server.connect().await, server.connect().await);
    holder.write_all(begun.as_bytes()).await.unwrap();
    // The holder has its share once the daemon took the most of its line in.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (mut reading, mut writing) = waiter.split();
    let mut byte = [0];
    tokio::select! {
        // The whole line fits the socket's buffers, so that what is missing is the daemon's reading.
        read = async { writing.write_all(long.as_bytes()).await.unwrap(); reading.read(&mut byte).await } => {
            panic!("the line was taken beside the other: {read:?}");
        }
        () = tokio::time::sleep(Duration::from_secs(10)) => {}
    }
    holder.write_all(end.as_bytes()).await.unwrap();
    assert_eq!(holder.read(&mut byte).await.unwrap(), 1);
    drop(holder);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_no_reply_is_closed_and_holds_up_nobody() {
    let server = start(|_| {});
    let mut deaf = server.connect().await;
    let text = line("s", 1).repeat(1_000);
    let stuck = async {
        // Replies fill the socket, then the daemon stops reading, and then it closes.
        while deaf.write_all(text.as_bytes()).await.is_ok() {}
    };
    stuck.await;
    assert_eq!(server.exchange(&line("s", 2)).await.len(), 1);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_arrives_is_stored_whether_its_replies_are_read_or_not() {
    let server = start(|_| {});
    let mut leaves = server.connect().await;
    let last = line("s", 1);
    leaves.write_all((line("s", 1).repeat(3_000) + last.trim_end()).as_bytes()).await.unwrap();
    drop(leaves);
    server.stored(3_001).await;
    let mut deaf = server.connect().await;
    shutdown(deaf.as_raw_fd(), Shutdown::Read).unwrap();
    for id in 1..=10 {
        deaf.write_all(line("s", id).as_bytes()).await.unwrap();
        server.stored(3_001 + id).await;
    }
    drop(deaf);
    server.stop().await;
}

#[tokio::test]
async fn receipts_follow_their_own_replies_and_beyond_the_limit_a_line_goes_without() {
    let server = start(|_| {});
    let asking = |id| receipt_asked(&line("s", id));
    let (mut reading, mut writing) = server.connect().await.into_split();
    // The four lines of one batch: the stand-in sends their receipts before it answers the batch.
    writing.write_all((asking(1) + &asking(2) + &asking(3) + &asking(4)).as_bytes()).await.unwrap();
    writing.shutdown().await.unwrap();
    let mut text = String::new();
    reading.read_to_string(&mut text).await.unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 7, "{text}");
    for (place, reply) in lines[..4].iter().enumerate() {
        assert!(reply.contains("queued"), "{text}");
        assert_eq!(reply.contains("\"receipt\":false"), place == 3, "{text}");
    }
    assert_eq!(lines[4..], ["receipt 0", "receipt 1", "receipt 2"]);
    server.stop().await;
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let folder = TempDir::new().unwrap();
    let settings = settings(&folder);
    let bind = || Listener::bind(Control::new(settings.clone(), Arc::default()));
    drop(bind().unwrap());
    let live = bind().unwrap();
    let obstacle = || match bind() {
        Err(BindError::Taken { obstacle, .. }) => obstacle,
        other => panic!("{other:?}"),
    };
    assert_eq!(obstacle(), Obstacle::Served);
    drop(live);
    std::fs::remove_file(&settings.socket).unwrap();
    let datagrams = std::os::unix::net::UnixDatagram::bind(&settings.socket).unwrap();
    assert_eq!(obstacle(), Obstacle::OtherKind);
    drop(datagrams);
    std::fs::remove_file(&settings.socket).unwrap();
    std::fs::write(&settings.socket, "precious").unwrap();
    assert_eq!(obstacle(), Obstacle::NoSocket);
    assert_eq!(std::fs::read_to_string(&settings.socket).unwrap(), "precious");
}

/// How a producer gets on who reads no reply: the lines that the daemon has read, and the replies to them in the kernel.
async fn unread(line: &str, taken: impl Fn() -> usize, stream: &mut UnixStream) -> (usize, usize) {
    let text = line.repeat(100);
    let (mut read, mut write) = stream.split();
    // The clock stands still while anybody has work: a second passes once the daemon reads no more.
    while tokio::time::timeout(Duration::from_secs(1), write.write_all(text.as_bytes())).await.is_ok() {}
    let taken = taken();
    let (mut bytes, mut replies) = (vec![0; 1 << 20], 0);
    // Nobody writes more meanwhile: this runtime has one thread.
    while let Ok(count @ 1..) =
        tokio::task::unconstrained(read.read(&mut bytes)).now_or_never().unwrap_or(Ok(0))
    {
        replies += bytes[..count].iter().filter(|byte| **byte == b'\n').count();
    }
    (taken, replies)
}

#[tokio::test(start_paused = true)]
async fn replies_that_nobody_reads_hold_a_bounded_memory() {
    // As long as it may be with its message in the reply.
    let line = format!("{{\"ref\":\"{}\"}}\n", "r".repeat(100));
    let server = start(|_| {});
    let reply = server.exchange(&line).await[0].to_string();
    let mut stream = server.connect().await;
    let counts = Arc::clone(&server.counts);
    let before = counts.rejected.value();
    let taken = || usize::try_from(counts.rejected.value() - before).unwrap();
    let (taken, in_kernel) = unread(&line, taken, &mut stream).await;
    let held = (taken - in_kernel) * reply.len();
    // What is made from one read waits for its place.
    let most = MAX_REPLY_BYTES + MAX_BATCH_LINES * reply.len();
    assert!(held <= most, "{held} bytes of replies are held, over {most}");
    assert!(held > MAX_REPLY_BYTES / 4, "only {held} bytes are held: the limit was not met");
    drop(stream);
    server.stop().await;
}
