//! An edge that follows a script: for each session what is done with its requests, one after the other; beyond its script
//! a request is answered as Target does. It speaks HTTP/1 over whatever stream it is given.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// What is done with a request. In texts `{ids}` stands for the list of all its notifications, `{most}` for that without
/// the last.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// The text, and the connection goes on.
    Answer(Vec<u8>),
    /// The text, then the end of the connection.
    Break(Vec<u8>),
    /// The connection is reset before the body was read.
    ResetBefore,
    /// The connection is reset after the request was read whole.
    ResetAfter,
    /// Nothing, for as long as the daemon keeps the connection.
    Hang,
    /// The text, a byte at a time.
    Drip(Vec<u8>),
    /// The text, then the second text over and over, for as long as the daemon reads.
    Endless(Vec<u8>, Vec<u8>),
}

/// A request that was read, or the beginning of one.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) at: Instant,
    /// The ids of its notifications; empty where the body was not read.
    pub(crate) ids: Vec<String>,
}

#[derive(Debug, Default)]
struct State {
    scripts: HashMap<String, VecDeque<Step>>,
    asked: BTreeMap<String, Vec<Asked>>,
    /// The bytes of each notification, by session and id, and how often it was listed.
    notifications: BTreeMap<(String, String), (String, u64)>,
    /// Notifications that came again with other bytes.
    changed: u64,
}

/// The edge; dropping it leaves its connections to the runtime.
#[derive(Clone, Debug, Default)]
pub(crate) struct Edge(Arc<Mutex<State>>);

/// A 200 that lists everything.
pub(crate) fn listing(list: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{{\"status\":200,\"notifications\":{list}}}"
    )
    .into_bytes()
}

impl Edge {
    /// Serves a new port of the loopback interface.
    pub(crate) async fn listen(&self) -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        (listener.local_addr().expect("an address"), self.accept(listener))
    }

    pub(crate) fn accept(&self, listener: TcpListener) -> JoinHandle<()> {
        let edge = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let edge = edge.clone();
                tokio::spawn(async move {
                    let end = edge.serve(stream).await;
                    if let (stream, End::Reset) = end {
                        stream.set_zero_linger().expect("a socket of TCP");
                    }
                });
            }
        })
    }

    pub(crate) fn script(&self, session: &str, steps: Vec<Step>) {
        self.state().scripts.insert(session.to_owned(), steps.into());
    }

    pub(crate) fn asked(&self, session: &str) -> Vec<Asked> {
        self.state().asked.get(session).cloned().unwrap_or_default()
    }

    /// How often each notification of a session was listed.
    pub(crate) fn listed(&self, session: &str) -> Vec<u64> {
        let state = self.state();
        let own = state.notifications.iter().filter(|((of, _), _)| of == session);
        own.map(|(_, (_, listed))| *listed).collect()
    }

    /// How many notifications came again with other bytes than at first.
    pub(crate) fn changed(&self) -> u64 {
        self.state().changed
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves one connection to its end.
    pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> (S, End) {
        let mut stream = BufReader::new(stream);
        loop {
            let Some(head) = head(&mut stream).await else { return (stream.into_inner(), End::Close) };
            let end = self.request(&mut stream, &head).await;
            if end != End::Open {
                return (stream.into_inner(), end);
            }
        }
    }

    async fn request<S>(&self, stream: &mut BufReader<S>, head: &str) -> End
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let session = target.rsplit_once("sessionId=").map(|(_, id)| id.to_owned()).unwrap_or_default();
        let step = self.state().scripts.get_mut(&session).and_then(VecDeque::pop_front);
        if matches!(step, Some(Step::ResetBefore)) {
            self.note(&session, &target, &[]);
            return End::Reset;
        }
        let length =
            head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        if stream.read_exact(&mut body).await.is_err() {
            return End::Close;
        }
        let body: Value = serde_json::from_slice(&body).expect("a body is JSON");
        let notifications = body["notifications"].as_array().expect("notifications").clone();
        self.note(&session, &target, &notifications);
        let (text, repeated, end) = match step {
            None => (listing("{ids}"), None, End::Open),
            Some(Step::Answer(text)) => (text, None, End::Open),
            Some(Step::Break(text)) => (text, None, End::Close),
            Some(Step::ResetBefore | Step::ResetAfter) => return End::Reset,
            Some(Step::Hang) => (Vec::new(), None, End::Hang),
            Some(Step::Drip(text)) => return drip(stream, &fill(&text, &notifications)).await,
            Some(Step::Endless(text, more)) => (text, Some(more), End::Hang),
        };
        let lists = |part: &str| String::from_utf8_lossy(&text).contains(part);
        let listed = match (lists("{ids}"), lists("{most}")) {
            _ if end != End::Open => 0,
            (true, _) => notifications.len(),
            (false, true) => notifications.len() - 1,
            (false, false) => 0,
        };
        // Before it is written: whoever reads the answer may look at once.
        for one in &notifications[..listed] {
            let key = (session.clone(), one["id"].as_str().expect("an id").to_owned());
            self.state().notifications.get_mut(&key).expect("it was noted").1 += 1;
        }
        if stream.write_all(&fill(&text, &notifications)).await.is_err() {
            return End::Close;
        }
        if let Some(more) = repeated {
            while stream.write_all(&more).await.is_ok() {}
            return End::Close;
        }
        if end == End::Hang {
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            return End::Close;
        }
        end
    }

    fn note(&self, session: &str, target: &str, notifications: &[Value]) {
        let mut guard = self.state();
        let state = &mut *guard;
        let mut ids = Vec::new();
        for one in notifications {
            let id = one["id"].as_str().expect("an id").to_owned();
            let bytes = one.to_string();
            let first = state.notifications.entry((session.to_owned(), id.clone()));
            let first = first.or_insert_with(|| (bytes.clone(), 0));
            state.changed += u64::from(first.0 != bytes);
            ids.push(id);
        }
        let path = target.split('?').next().unwrap_or_default().to_owned();
        state.asked.entry(session.to_owned()).or_default().push(Asked { path, at: Instant::now(), ids });
    }
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Open,
    Close,
    Reset,
    Hang,
}

/// The head of a request, without the empty line.
async fn head<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> Option<String> {
    let mut head = String::new();
    loop {
        let before = head.len();
        let read = stream.read_line(&mut head).await.ok()?;
        if read == 0 {
            return None;
        }
        if head[before..].trim_end().is_empty() {
            return Some(head);
        }
    }
}

/// The text with its lists, and where it has none of its own the length of its body.
fn fill(text: &[u8], notifications: &[Value]) -> Vec<u8> {
    let Ok(plain) = std::str::from_utf8(text) else { return text.to_vec() };
    let list = |of: &[Value]| {
        let ids: Vec<Value> = of.iter().map(|one| serde_json::json!({ "id": one["id"] })).collect();
        Value::from(ids).to_string()
    };
    let most = &notifications[..notifications.len().saturating_sub(1)];
    let filled = plain.replace("{ids}", &list(notifications)).replace("{most}", &list(most));
    let Some((head, body)) = filled.split_once("\r\n\r\n{") else { return filled.into_bytes() };
    if head.to_lowercase().contains("content-length") || head.to_lowercase().contains("transfer-encoding") {
        return filled.into_bytes();
    }
    format!("{head}\r\ncontent-length: {}\r\n\r\n{{{body}", body.len() + 1).into_bytes()
}

async fn drip<S: AsyncWrite + Unpin>(stream: &mut S, text: &[u8]) -> End {
    for byte in text {
        if stream.write_all(&[*byte]).await.is_err() || stream.flush().await.is_err() {
            return End::Close;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    End::Close
}
