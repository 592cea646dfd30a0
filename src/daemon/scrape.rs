//! The endpoint of the metrics: one path over HTTP/1.1, for Prometheus.
//!
//! Guarantees:
//! - nothing but `GET /metrics` is answered with more than a sentence, and nothing that is asked changes anything;
//! - bounded: [`MAX_CONNECTIONS`] at a time, each for one request of at most [`MAX_HEAD_BYTES`] and [`MAX_TIME`]. Whoever
//!   comes while all are taken waits in the system's queue.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::metrics;
use crate::figures::Meter;
use crate::ingest::Failures;

/// The most connections at a time.
pub const MAX_CONNECTIONS: usize = 16;
/// The most bytes of a request's head.
pub const MAX_HEAD_BYTES: usize = 16 * 1_024;
/// How long a connection may take, from its beginning to the end of the answer.
pub const MAX_TIME: Duration = Duration::from_secs(10);

/// The address cannot be listened on.
#[derive(Debug, Error)]
#[error(
    "admin.metrics_listen = \"{address}\" cannot be listened on: {source}; choose a free address of this host"
)]
pub struct ListenError {
    /// The address, as it is configured.
    pub address: String,
    /// The system's answer.
    pub source: io::Error,
}

/// Listens on `address`, which is `HOST:PORT`.
///
/// # Errors
/// [`ListenError`]: it is no address of this host, or another has it.
pub fn listen(address: &str) -> Result<StdListener, ListenError> {
    StdListener::bind(address).map_err(|source| ListenError { address: address.to_owned(), source })
}

/// The listening endpoint.
#[derive(Debug)]
pub(super) struct Scraped(TcpListener);

impl Scraped {
    /// Listens on `address`, which is `HOST:PORT`.
    pub(super) fn bind(address: &str) -> Result<Self, ListenError> {
        let socket = listen(address)?;
        let made = socket.set_nonblocking(true).and_then(|()| TcpListener::from_std(socket));
        made.map(Self).map_err(|source| ListenError { address: address.to_owned(), source })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Answers until `until`; then connections are cut off, which costs a scrape at most.
    pub(super) async fn run(self, meter: Meter, until: CancellationToken) {
        if let Ok(address) = self.address() {
            info!(event = "metrics_served", %address, "metrics are served");
        }
        let (mut connections, mut failures) = (JoinSet::new(), Failures::of("admin.metrics_listen"));
        loop {
            // Each arm may be dropped: a connection stays in the system's queue, and one that ended in the set.
            tokio::select! {
                () = until.cancelled() => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                (stream, _) = failures.outlast(|| self.0.accept()), if connections.len() < MAX_CONNECTIONS => {
                    connections.spawn(serve(stream, meter.clone()));
                }
            }
        }
        // Joined, so that none keeps the queue's files open.
        connections.shutdown().await;
    }
}

async fn serve(stream: TcpStream, meter: Meter) {
    let service = service_fn(|request| {
        let meter = meter.clone();
        async move { Ok::<_, Infallible>(answer(&request, &meter).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(MAX_TIME)
        .max_buf_size(MAX_HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // What goes wrong is the scraper's, and it sees it: no answer, or none in time.
    let _ended = tokio::time::timeout(MAX_TIME, connection).await;
}

async fn answer(request: &Request<Incoming>, meter: &Meter) -> Response<Full<Bytes>> {
    if request.uri().path() != "/metrics" {
        return told(StatusCode::NOT_FOUND, "the metrics are at /metrics\n");
    }
    if request.method() != Method::GET {
        let mut refusal = told(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered\n");
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return refusal;
    }
    match metrics::text(meter).await {
        Ok(text) => {
            let mut answer = Response::new(Full::from(text));
            answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(metrics::CONTENT_TYPE));
            answer
        }
        Err(_) => told(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written\n"),
    }
}

fn told(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}
