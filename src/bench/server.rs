//! A server that does as little as it can: it lists the ids of what it gets.

use std::borrow::Cow;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::TrialError;

/// How long the listener waits after a failed `accept`.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers until it is dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    requests: Arc<AtomicU64>,
    events: watch::Receiver<u64>,
    _stop: DropGuard,
}

#[derive(Deserialize)]
struct Delivery<'a> {
    #[serde(borrow)]
    notifications: Vec<Notification<'a>>,
}

#[derive(Serialize, Deserialize)]
struct Notification<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
}

#[derive(Serialize)]
struct Answer<'a> {
    status: u16,
    client: &'static str,
    notifications: Vec<Notification<'a>>,
}

impl Server {
    pub(super) async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (stop, requests) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
        let (taken, events) = watch::channel(0);
        tokio::spawn(accept(listener, Arc::clone(&requests), taken, stop.clone()));
        Ok(Self { address, requests, events, _stop: stop.drop_guard() })
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Waits until it has taken `count` events.
    pub(super) async fn taken(&mut self, count: u64) -> Result<(), TrialError> {
        // The sender lives as long as the server.
        let _ended = self.events.wait_for(|taken| *taken >= count).await;
        Ok(())
    }
}

async fn accept(
    listener: TcpListener,
    requests: Arc<AtomicU64>,
    taken: watch::Sender<u64>,
    stop: CancellationToken,
) {
    let connections = TaskTracker::new();
    let taken = Arc::new(taken);
    loop {
        // A connection that is not accepted goes with the listener.
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Without it small answers wait for the client's acknowledgements.
        let _slower = stream.set_nodelay(true);
        let (requests, taken, stop) = (Arc::clone(&requests), Arc::clone(&taken), stop.clone());
        connections.spawn(async move {
            let service =
                service_fn(move |request| serve(request, Arc::clone(&requests), Arc::clone(&taken)));
            let builder = auto::Builder::new(TokioExecutor::new());
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            // A client that goes away has its own counts.
            tokio::select! {
                () = stop.cancelled() => {}
                _ended = connection => {}
            }
        });
    }
    connections.close();
    connections.wait().await;
}

async fn serve(
    request: Request<Incoming>,
    requests: Arc<AtomicU64>,
    taken: Arc<watch::Sender<u64>>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    let Ok(Delivery { notifications }) = serde_json::from_slice(&body) else {
        let mut refusal = Response::new(Full::default());
        *refusal.status_mut() = hyper::StatusCode::BAD_REQUEST;
        return Ok(refusal);
    };
    let count = notifications.len() as u64;
    let answer = Answer { status: 200, client: "acmecorp", notifications };
    let answer = serde_json::to_vec(&answer).unwrap_or_default();
    requests.fetch_add(1, Ordering::Relaxed);
    taken.send_modify(|taken| *taken += count);
    Ok(Response::new(Full::from(answer)))
}
