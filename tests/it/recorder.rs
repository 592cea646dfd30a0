//! A server that writes down the requests that it gets, word for word, and acknowledges every notification.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The path before the query.
    pub(crate) path: String,
    /// The query, decoded.
    pub(crate) query: BTreeMap<String, String>,
    /// The headers, by their names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    /// The body.
    pub(crate) body: Value,
}

pub(crate) struct Recorder {
    pub(crate) endpoint: String,
    requests: Arc<Mutex<Vec<Request>>>,
    task: JoinHandle<()>,
}

impl Recorder {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let requests = Arc::<Mutex<Vec<Request>>>::default();
        let all = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&all)));
            }
        });
        Self { endpoint, requests, task }
    }

    /// The requests of a session, in their order.
    pub(crate) fn of(&self, session: &str) -> Vec<Request> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.iter().filter(|request| request.query["sessionId"] == session).cloned().collect()
    }

    pub(crate) fn stop(self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, all: Arc<Mutex<Vec<Request>>>) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            head.push(byte);
        }
        let head = String::from_utf8(head).expect("a head is text");
        let mut lines = head.lines();
        let target = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a request line").to_owned();
        let headers: BTreeMap<String, String> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let mut body = vec![0; headers["content-length"].parse().expect("a length")];
        stream.read_exact(&mut body).await.expect("a body");
        let body: Value = serde_json::from_slice(&body).expect("a body is JSON");
        let (path, query) = target.split_once('?').expect("a query");
        let decoded = |text: &str| {
            let text = text.replace('+', " ");
            percent_encoding::percent_decode_str(&text).decode_utf8().expect("text").into_owned()
        };
        let query: BTreeMap<String, String> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (decoded(name), decoded(value)))
            .collect();
        let answer = answer(&body).to_string();
        all.lock().unwrap_or_else(PoisonError::into_inner).push(Request {
            path: path.to_owned(),
            query,
            headers,
            body,
        });
        let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
        stream.write_all(text.as_bytes()).await.expect("the daemon reads");
    }
}

/// As Target answers: a visitor without a `tntId` gets one, with his home in it.
fn answer(body: &Value) -> Value {
    let listed: Vec<Value> = body["notifications"]
        .as_array()
        .expect("notifications")
        .iter()
        .map(|one| json!({ "id": one["id"] }))
        .collect();
    let tnt_id = body["id"]["tntId"].as_str().unwrap_or("made.28_0");
    json!({
        "status": 200, "requestId": body["requestId"], "client": "acme", "id": { "tntId": tnt_id },
        "edgeHost": "mboxedge28.tt.omtrdc.net", "notifications": listed,
    })
}
