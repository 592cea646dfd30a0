//! HTTP/2 as servers break it: streams refused or reset, connections told to go away, cut or silent.
//!
//! The frames are made by hand, so that they can be wrong.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use target_notifyd::event::Balance;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::authority::{Authority, Validity};
use crate::support::{AMPLE, Running, display, settings_over_tls};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `:status: 200`, of HPACK's static table.
const STATUS_200: u8 = 0x88;

/// What is done with a request.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Resets the stream with this code.
    Reset(u32),
    /// Says a status, a part of a body, and resets the stream.
    ResetInBody,
    /// Says that nothing was worked on, with this code, and closes.
    GoAway(u32),
    /// Closes without a word.
    Close,
    /// Writes what is no frame.
    Garbage,
    /// A header block that never ends.
    EndlessHeaders,
    /// A body without an end.
    EndlessBody,
    /// A header block that cannot be decoded.
    BadHeaders,
    /// Says nothing more, not even to a ping, and keeps the connection open.
    Silent,
}

/// How often each id was listed, and the faults that are still to strike.
type Seen = Arc<Mutex<(BTreeMap<String, u64>, VecDeque<Fault>)>>;

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

async fn read<S: AsyncRead + Unpin>(from: &mut S) -> Option<Frame> {
    let mut head = [0; 9];
    from.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length as usize];
    from.read_exact(&mut payload).await.ok()?;
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
    Some(Frame { kind: head[3], flags: head[4], stream, payload })
}

async fn write<S>(to: &mut S, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Option<()>
where
    S: AsyncWrite + Unpin,
{
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    to.write_all(&bytes).await.ok()?;
    to.flush().await.ok()
}

/// Serves one connection to its end.
async fn serve<S>(mut stream: S, seen: Seen) -> Option<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.ok()?;
    write(&mut stream, SETTINGS, 0, 0, &[]).await?;
    let mut bodies: HashMap<u32, Vec<u8>> = HashMap::new();
    loop {
        let frame = read(&mut stream).await?;
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => write(&mut stream, SETTINGS, ACK, 0, &[]).await?,
            PING if frame.flags & ACK == 0 => write(&mut stream, PING, ACK, 0, &frame.payload).await?,
            DATA => {
                let body = bodies.entry(frame.stream).or_default();
                body.extend_from_slice(&frame.payload);
                if frame.flags & END_STREAM != 0 {
                    let body = bodies.remove(&frame.stream).unwrap_or_default();
                    let fault = seen.lock().unwrap_or_else(PoisonError::into_inner).1.pop_front();
                    match fault {
                        Some(fault) => strike(&mut stream, fault, frame.stream).await?,
                        None => answer(&mut stream, frame.stream, &body, &seen).await?,
                    }
                }
            }
            _ => {}
        }
    }
}

async fn answer<S: AsyncWrite + Unpin>(to: &mut S, stream: u32, body: &[u8], seen: &Seen) -> Option<()> {
    let body: Value = serde_json::from_slice(body).expect("a body is JSON");
    let ids: Vec<&str> = body["notifications"]
        .as_array()
        .expect("notifications")
        .iter()
        .map(|one| one["id"].as_str().expect("an id"))
        .collect();
    let listed: Vec<Value> = ids.iter().map(|id| json!({ "id": id })).collect();
    for id in ids {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen.0.entry(id.to_owned()).or_default() += 1;
    }
    let text = json!({ "status": 200, "notifications": listed }).to_string();
    write(to, HEADERS, END_HEADERS, stream, &[STATUS_200]).await?;
    write(to, DATA, END_STREAM, stream, text.as_bytes()).await
}

/// Does what the fault says; `None` where the connection is over.
async fn strike<S: AsyncRead + AsyncWrite + Unpin>(to: &mut S, fault: Fault, stream: u32) -> Option<()> {
    match fault {
        Fault::Reset(code) => write(to, RST_STREAM, 0, stream, &code.to_be_bytes()).await,
        Fault::ResetInBody => {
            write(to, HEADERS, END_HEADERS, stream, &[STATUS_200]).await?;
            write(to, DATA, 0, stream, b"{\"notifications\":[").await?;
            write(to, RST_STREAM, 0, stream, &2_u32.to_be_bytes()).await
        }
        Fault::GoAway(code) => {
            write(to, GOAWAY, 0, 0, &[&[0; 4][..], &code.to_be_bytes()].concat()).await?;
            None
        }
        Fault::Close => None,
        Fault::Garbage => {
            to.write_all(&[0xff; 64]).await.ok()?;
            to.flush().await.ok()?;
            unanswered(to).await
        }
        Fault::EndlessHeaders => {
            write(to, HEADERS, 0, stream, &[STATUS_200]).await?;
            // A literal without indexing: the name "x", and a value of a hundred bytes.
            let header = [&[0, 1, b'x', 100][..], &[b'y'; 100]].concat();
            loop {
                write(to, CONTINUATION, 0, stream, &header.repeat(100)).await?;
            }
        }
        Fault::EndlessBody => {
            write(to, HEADERS, END_HEADERS, stream, &[STATUS_200]).await?;
            // As far as the daemon's window goes, and beyond.
            for _ in 0..1_000 {
                write(to, DATA, 0, stream, &[b' '; 16_000]).await?;
            }
            None
        }
        Fault::BadHeaders => {
            write(to, HEADERS, END_HEADERS, stream, &[0xff; 16]).await?;
            unanswered(to).await
        }
        Fault::Silent => unanswered(to).await,
    }
}

/// Answers nothing more on the connection: what it listed there, the daemon might not read.
async fn unanswered<S: AsyncRead + Unpin>(from: &mut S) -> Option<()> {
    let _ = from.read_to_end(&mut Vec::new()).await;
    None
}

/// The faults strike one request each, in their order; then all is well. How often each event was listed.
async fn deliver(faults: Vec<Fault>, timeout: Duration) -> BTreeMap<String, u64> {
    let (folder, authority) = (TempDir::new().expect("a folder"), Authority::new("Ours"));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let acceptor = authority.server("127.0.0.1", Validity::Now, &["h2"]);
    let seen = Arc::new(Mutex::new((BTreeMap::new(), VecDeque::from(faults))));
    let noting = Arc::clone(&seen);
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, seen) = (acceptor.clone(), Arc::clone(&noting));
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    serve(stream, seen).await;
                }
            });
        }
    });
    let mut settings = settings_over_tls(&folder, format!("https://{address}"), authority.file(&folder));
    (settings.transport.timeout, settings.transport.connect_timeout) = (timeout, timeout);
    let running = Running::start(settings).await;
    running
        .submit((0..20).map(|number| display(&format!("s{number}"), &format!("e{number}"))).collect())
        .await;
    let balance = running.settled(20).await;
    assert_eq!(balance, Balance { accepted: 20, delivered: 20, ..Balance::default() });
    running.stop().await;
    let (listed, left) = seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert!(left.is_empty(), "{left:?} did not strike");
    serving.abort();
    listed
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_reset_and_connections_that_go_away_lose_nothing() {
    let mut faults: Vec<Fault> = vec![];
    for code in [0, 1, 2, 3, 5, 7, 8, 11, 13, 99] {
        faults.extend([Fault::Reset(code), Fault::GoAway(code)]);
    }
    faults.extend([
        Fault::ResetInBody,
        Fault::Close,
        Fault::Garbage,
        Fault::BadHeaders,
        Fault::EndlessHeaders,
        Fault::EndlessBody,
    ]);
    let listed = deliver(faults, AMPLE).await;
    assert!(listed.len() == 20 && listed.values().all(|count| *count == 1), "{listed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_fell_silent_is_given_up_for_a_new_one() {
    // With a timeout so short a machine that stalls has events listed more than once, and none not at all.
    let listed = deliver(vec![Fault::Silent, Fault::Silent], Duration::from_secs(2)).await;
    assert_eq!(listed.len(), 20, "{listed:?}");
}
