//! What bare loops do on this machine with the same bytes.

use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;

use super::load::Lines;
use super::{TrialError, rate, system};
use crate::{delivery, queue};

/// A reply as long as the daemon's.
const STORED: &[u8] = b"{\"status\":\"queued\",\"ids\":[\"0-1000000\"],\"session_id\":\"session-1000000\"}\n";

/// Where the clients post.
const RESOURCE: &str = "/rest/v1/delivery?client=acmecorp&sessionId=bare";

/// What a loop did that appends and syncs.
pub(super) struct Appended {
    /// Records a second.
    pub(super) rate: f64,
    /// The median time of an append with its sync.
    pub(super) sync: Duration,
}

/// Appends `group` records of `bytes` to a file and syncs it, again and again for `time`.
pub(super) async fn append(
    folder: &Path,
    bytes: usize,
    group: usize,
    time: Duration,
) -> Result<Appended, TrialError> {
    let path = folder.join("append");
    let appended = tokio::task::spawn_blocking(move || {
        let mut file = File::create(&path)?;
        let records = vec![b'x'; bytes * group];
        let (mut count, mut times) = (0, Vec::new());
        let began = Instant::now();
        while began.elapsed() < time {
            let one = Instant::now();
            file.write_all(&records)?;
            file.sync_data()?;
            times.push(one.elapsed());
            count += group as u64;
        }
        let rate = rate(count, began.elapsed());
        times.sort_unstable();
        std::fs::remove_file(&path)?;
        Ok(Appended { rate, sync: times.get(times.len() / 2).copied().unwrap_or_default() })
    });
    appended.await?.map_err(system("a file cannot be appended to"))
}

/// Records a second that the storage engine takes alone, safely used, with `group` records of `bytes` a commit.
pub(super) async fn engine(
    folder: &Path,
    bytes: usize,
    group: usize,
    time: Duration,
) -> Result<f64, TrialError> {
    let path = folder.join("engine");
    let appended = tokio::task::spawn_blocking(move || {
        let began = Instant::now();
        let count = queue::engine_alone(&path, bytes, group, time)?;
        let rate = rate(count, began.elapsed());
        std::fs::remove_dir_all(&path)?;
        Ok(rate)
    });
    appended.await?.map_err(system("the engine alone cannot be measured"))
}

/// A socket behind which each line is answered at once and nothing is done with it; it goes with this.
pub(super) struct Socket {
    pub(super) path: PathBuf,
    _accepts: JoinSet<()>,
}

impl Socket {
    pub(super) fn listen(folder: &Path) -> Result<Self, TrialError> {
        let path = folder.join("alone.sock");
        let listener = UnixListener::bind(&path).map_err(system("a socket cannot be made"))?;
        let mut accepts = JoinSet::new();
        accepts.spawn(async move {
            let mut connections = JoinSet::new();
            // An error ends it, which the load sees.
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(answer(stream));
            }
        });
        Ok(Self { path, _accepts: accepts })
    }
}

/// Answers each line as the daemon answers one that is stored.
async fn answer(stream: UnixStream) -> io::Result<()> {
    let (mut reading, mut writing) = stream.into_split();
    let (mut bytes, mut replies) = (vec![0; 64 * 1_024], Vec::new());
    loop {
        let count = reading.read(&mut bytes).await?;
        let read = bytes.get(..count).filter(|read| !read.is_empty());
        let Some(read) = read else { return Ok(()) };
        replies.clear();
        for _ in memchr::memchr_iter(b'\n', read) {
            replies.extend_from_slice(STORED);
        }
        writing.write_all(&replies).await?;
    }
}

/// Lines a second that one thread parses to JSON values, without doing anything with them.
pub(super) async fn parse(bytes: usize, time: Duration) -> Result<f64, TrialError> {
    let (mut lines, mut texts) = (Lines::new(0, 2_000, bytes), Vec::new());
    for _ in 0..1_000 {
        let mut text = Vec::new();
        lines.push(&mut text);
        texts.push(text);
    }
    let parsed = tokio::task::spawn_blocking(move || {
        let (mut count, began) = (0, Instant::now());
        while began.elapsed() < time {
            for text in &texts {
                let value: serde_json::Value = serde_json::from_slice(text).unwrap_or_default();
                count += u64::from(std::hint::black_box(value).is_object());
            }
        }
        rate(count, began.elapsed())
    });
    Ok(parsed.await?)
}

/// A body of `events` events of `bytes`, for clients to post.
pub(super) fn body(bytes: usize, events: usize) -> String {
    let one =
        |number: usize| format!(r#"{{"id":"bare-{number}","x":"{}"}}"#, "x".repeat(bytes.saturating_sub(30)));
    let notifications = (0..events).map(one).collect::<Vec<_>>().join(",");
    format!(r#"{{"context":{{"channel":"web"}},"notifications":[{notifications}]}}"#)
}

/// Requests a second of the HTTP library's client alone, which neither stores nor schedules nor settles anything:
/// `connections` at a time post `body`.
pub(super) async fn library(
    address: SocketAddr,
    body: &str,
    connections: usize,
    time: Duration,
) -> Result<f64, TrialError> {
    let (url, began) = (format!("http://{address}{RESOURCE}"), Instant::now());
    let answers = delivery::client_alone(&url, body, connections, time).await;
    Ok(rate(answers.map_err(system("the HTTP library's request failed"))?, began.elapsed()))
}

/// Requests a second of bare HTTP clients on `connections` that post `body`.
pub(super) async fn http(
    address: SocketAddr,
    body: &str,
    connections: usize,
    time: Duration,
) -> Result<f64, TrialError> {
    let failed = |error| system("the bare client's request failed")(error);
    let request = format!(
        "POST {RESOURCE} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut tasks: JoinSet<Result<(u64, Duration), TrialError>> = JoinSet::new();
    for _ in 0..connections {
        let request = request.clone();
        let mut stream = BufReader::new(TcpStream::connect(address).await.map_err(failed)?);
        stream.get_ref().set_nodelay(true).map_err(failed)?;
        tasks.spawn(async move {
            let (mut count, began) = (0, Instant::now());
            let (mut line, mut answer) = (String::new(), Vec::new());
            while began.elapsed() < time {
                stream.get_mut().write_all(request.as_bytes()).await.map_err(failed)?;
                line.clear();
                stream.read_line(&mut line).await.map_err(failed)?;
                if !line.starts_with("HTTP/1.1 200 ") {
                    return Err(TrialError::Refused(line));
                }
                let mut length = 0;
                loop {
                    line.clear();
                    stream.read_line(&mut line).await.map_err(failed)?;
                    if let Some(text) = line.strip_prefix("content-length: ") {
                        length = text.trim().parse().unwrap_or(0);
                    }
                    if line == "\r\n" || line.is_empty() {
                        break;
                    }
                }
                answer.resize(length, 0);
                stream.read_exact(&mut answer).await.map_err(failed)?;
                count += 1;
            }
            Ok((count, began.elapsed()))
        });
    }
    let (mut all, mut longest) = (0, Duration::ZERO);
    for one in tasks.join_all().await {
        let (count, time) = one?;
        all += count;
        longest = longest.max(time);
    }
    Ok(rate(all, longest))
}
