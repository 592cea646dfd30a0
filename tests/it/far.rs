//! A server that is far away: what is written arrives some time later. It takes all that it gets.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use target_notifyd::daemon::Settings;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::authority::{Authority, Validity};
use crate::support::settings_over_tls;

/// The bytes of one read on the way.
const READ_BYTES: usize = 64 * 1_024;
/// The most reads that are on the way at a time.
const MAX_READS: usize = 1_024;

/// What a server is like.
#[derive(Clone, Debug)]
pub(crate) struct Manner {
    /// The protocol that it speaks, as TLS names it.
    pub(crate) protocol: &'static str,
    /// How much it takes unread over HTTP/2, of a stream and of a connection, in bytes.
    pub(crate) window: u32,
    /// How long a byte is on the way, to it or from it.
    pub(crate) way: Duration,
    /// It answers nothing before so many connections brought a request.
    pub(crate) connections: usize,
}

/// What has arrived.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arrived {
    pub(crate) requests: u64,
    pub(crate) events: u64,
    /// Those that brought a request.
    pub(crate) connections: usize,
    /// When the first request came, and the last.
    pub(crate) times: Option<(Instant, Instant)>,
}

/// Serves until it is dropped.
pub(crate) struct Far {
    pub(crate) endpoint: String,
    pub(crate) arrived: watch::Receiver<Arrived>,
    _tasks: JoinSet<()>,
}

impl Far {
    /// Listens with a certificate of `authority`.
    pub(crate) async fn start(authority: &Authority, manner: Manner) -> Self {
        let acceptor = authority.server("localhost", Validity::Now, &[manner.protocol]);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("https://localhost:{}", listener.local_addr().expect("an address").port());
        let (arrives, arrived) = watch::channel(Arrived::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, acceptor, manner, Arc::new(arrives)));
        Self { endpoint, arrived, _tasks: tasks }
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    manner: Manner,
    arrives: Arc<watch::Sender<Arrived>>,
) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, acceptor.clone(), manner.clone(), Arc::clone(&arrives)));
    }
}

/// Serves one connection to its end.
async fn serve(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    manner: Manner,
    arrives: Arc<watch::Sender<Arrived>>,
) {
    // Without it small writes wait for acknowledgements.
    stream.set_nodelay(true).expect("a connection");
    let Ok(stream) = acceptor.accept(distant(stream, manner.way)).await else { return };
    let is_known = Arc::new(AtomicBool::new(false));
    let (window, connections) = (manner.window, manner.connections);
    let service = service_fn(move |request| {
        let (arrives, is_known) = (Arc::clone(&arrives), Arc::clone(&is_known));
        async move { answer(request, &arrives, &is_known, connections).await }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http2().initial_stream_window_size(window).initial_connection_window_size(window);
    // Who closed has its own counts.
    let _ended = builder.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    request: Request<Incoming>,
    arrives: &watch::Sender<Arrived>,
    is_known: &AtomicBool,
    connections: usize,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    let body: Value = serde_json::from_slice(&body).expect("a body is JSON");
    let events = body["notifications"].as_array().expect("a request has notifications");
    let ids: Vec<Value> = events.iter().map(|event| json!({"id": event["id"]})).collect();
    let now = Instant::now();
    arrives.send_modify(|arrived| {
        arrived.requests += 1;
        arrived.events += ids.len() as u64;
        arrived.connections += usize::from(!is_known.swap(true, Ordering::Relaxed));
        arrived.times = Some((arrived.times.map_or(now, |(first, _)| first), now));
    });
    let mut arrived = arrives.subscribe();
    arrived.wait_for(|arrived| arrived.connections >= connections).await.expect("the server is there");
    Ok(Response::new(Full::from(json!({"status": 200, "notifications": ids}).to_string())))
}

/// The other end of `stream`, which is `way` away.
fn distant(stream: TcpStream, way: Duration) -> DuplexStream {
    let (here, there) = duplex(READ_BYTES);
    let ((reading, writing), (from, to)) = (stream.into_split(), tokio::io::split(there));
    tokio::spawn(carry(reading, to, way));
    tokio::spawn(carry(from, writing, way));
    here
}

/// Carries bytes over to their end, each of them for `way`.
async fn carry<R, W>(mut from: R, mut to: W, way: Duration)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (sets_out, mut under_way) = mpsc::channel(MAX_READS);
    let reads = async move {
        let mut bytes = vec![0; READ_BYTES];
        while let Ok(count @ 1..) = from.read(&mut bytes).await {
            let arrives = tokio::time::Instant::now() + way;
            if sets_out.send((arrives, bytes[..count].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let writes = async move {
        while let Some((arrives, bytes)) = under_way.recv().await {
            tokio::time::sleep_until(arrives).await;
            to.write_all(&bytes).await?;
        }
        to.shutdown().await
    };
    // Either end may go; then the other one sees the end, too.
    let (_read, _written): ((), io::Result<()>) = tokio::join!(reads, writes);
}

/// Settings for a daemon that sends to `far`.
pub(crate) fn settings(folder: &TempDir, authority: &Authority, far: &Far) -> Settings {
    settings_over_tls(folder, far.endpoint.clone(), authority.file(folder))
}
