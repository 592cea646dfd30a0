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
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::TrialError;

/// How long the listener waits after a failed `accept`.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers until it is dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    taken: Arc<Taken>,
    _stop: DropGuard,
}

/// What it has taken.
#[derive(Default)]
struct Taken {
    requests: AtomicU64,
    events: AtomicU64,
    /// How many events somebody waits for; 0 while nobody does.
    wanted: AtomicU64,
    enough: Notify,
}

impl Taken {
    /// Counts a request. Whoever waits is woken by the last one only: that is processor time that the daemon lacks.
    fn add(&self, events: u64) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let all = self.events.fetch_add(events, Ordering::SeqCst) + events;
        if (1..=all).contains(&self.wanted.load(Ordering::SeqCst)) {
            self.enough.notify_one();
        }
    }
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
        let (taken, stop) = (Arc::<Taken>::default(), CancellationToken::new());
        tokio::spawn(accept(listener, Arc::clone(&taken), stop.clone()));
        Ok(Self { address, taken, _stop: stop.drop_guard() })
    }

    pub(super) fn requests(&self) -> u64 {
        self.taken.requests.load(Ordering::Relaxed)
    }

    /// Waits until it has taken `count` events.
    pub(super) async fn taken(&mut self, count: u64) -> Result<(), TrialError> {
        self.taken.wanted.store(count, Ordering::SeqCst);
        while self.taken.events.load(Ordering::SeqCst) < count {
            self.taken.enough.notified().await;
        }
        self.taken.wanted.store(0, Ordering::SeqCst);
        Ok(())
    }
}

async fn accept(listener: TcpListener, taken: Arc<Taken>, stop: CancellationToken) {
    let connections = TaskTracker::new();
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
        let (taken, stop) = (Arc::clone(&taken), stop.clone());
        connections.spawn(async move {
            let service = service_fn(move |request| serve(request, Arc::clone(&taken)));
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

async fn serve(request: Request<Incoming>, taken: Arc<Taken>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    let Ok(Delivery { notifications }) = serde_json::from_slice(&body) else {
        let mut refusal = Response::new(Full::default());
        *refusal.status_mut() = hyper::StatusCode::BAD_REQUEST;
        return Ok(refusal);
    };
    let count = notifications.len() as u64;
    let answer = Answer { status: 200, client: "acmecorp", notifications };
    let answer = serde_json::to_vec(&answer).unwrap_or_default();
    taken.add(count);
    Ok(Response::new(Full::from(answer)))
}
