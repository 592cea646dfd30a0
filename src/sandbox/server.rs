//! The way of a request: from the listener through faults and checks to its answer.

use std::collections::HashSet;
use std::fmt;
use std::future::{Future, pending};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::Settings;
use super::answer::{Content, Delivered, Listed, no_content, refusal};
use super::check::{Delivery, Query, check};
use super::faults::{Faults, Plan};
use super::ledger::Book;
use super::mark::home;
use crate::event::{Cluster, Host};
use crate::schedule::Random;

/// The path of the Delivery API, below nothing or `/edge{cluster}`.
const PATH: &str = "/rest/v1/delivery";
/// The largest body of a request; beyond it Target answers 413.
const MAX_BODY: usize = 60 * 1_024 * 1_024;
/// How far a body that is too large is read and thrown away: a client that still writes would often lose the
/// answer to the reset that an early close makes.
const MAX_DRAIN: usize = 4 * MAX_BODY;
/// The most requests of one session at once.
const MAX_AT_ONCE: usize = 100;
/// How long the listener waits after a failed `accept`, such as one for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a connection is closed without an answer.
#[derive(Debug, Error)]
enum Dropped {
    /// A fault.
    #[error("the connection is closed on purpose")]
    OnPurpose,
    /// The client went away, or wrote no HTTP.
    #[error("the body of the request did not arrive: {0}")]
    Body(#[from] hyper::Error),
}

/// What the connections share.
pub(super) struct State {
    seed: u64,
    faults: Mutex<Arc<Faults>>,
    random: Mutex<Random>,
    book: Mutex<Book>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("seed", &self.seed)
            .field("faults", &self.faults)
            .finish_non_exhaustive()
    }
}

impl State {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            seed: settings.seed,
            faults: Mutex::default(),
            random: Mutex::new(Random::new(settings.seed)),
            book: Mutex::new(Book::new(settings.max_records)),
        }
    }

    pub(super) fn set_faults(&self, faults: Faults) {
        *lock(&self.faults) = Arc::new(faults);
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.book)
    }
}

/// A lock outlives a panic of its holder: every change under it is whole or a mere count.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes connections until `shutdown`.
pub(super) async fn accept(
    listener: TcpListener,
    state: Arc<State>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
) {
    while let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await {
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        state.book().connected();
        if lock(&state.faults).down {
            continue;
        }
        let streams = Streams { tasks: tasks.clone(), shutdown: shutdown.clone() };
        streams.execute(connection(stream, Arc::clone(&state), streams.clone()));
    }
}

async fn connection(stream: TcpStream, state: Arc<State>, streams: Streams) {
    // Without this, answers in two writes would wait for the client's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| serve(Arc::clone(&state), request));
    // Its errors are those made on purpose and those of clients that went away.
    let _ = auto::Builder::new(streams).serve_connection(TokioIo::new(stream), service).await;
}

/// Runs the tasks of connections and of HTTP/2 streams, so that `stop` ends and awaits all of them.
#[derive(Clone)]
struct Streams {
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, future: F) {
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            let _ = shutdown.run_until_cancelled(future).await;
        });
    }
}

/// A request of a session that is worked on; dropping it is its end, even where the client goes away.
struct Open<'a> {
    state: &'a State,
    session: Arc<str>,
    at_once: usize,
}

impl<'a> Open<'a> {
    fn new(state: &'a State, session: &str) -> Self {
        let session = Arc::from(session);
        let at_once = state.book().open(&session);
        Self { state, session, at_once }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.state.book().close(&self.session);
    }
}

async fn serve(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Content>, Dropped> {
    let response = match route(request.uri().path()) {
        None => refusal(404, "no such resource", None),
        Some(_) if request.method() != Method::POST => refusal(405, "only POST is allowed", None),
        Some(host) => deliver(&state, host, request).await?,
    };
    state.book().answered(response.status().as_u16());
    Ok(response)
}

fn route(path: &str) -> Option<Host> {
    match path.strip_suffix(PATH)? {
        "" => Some(Host::Client),
        prefix => prefix.strip_prefix("/edge").and_then(Cluster::parse).map(Host::Edge),
    }
}

async fn deliver(
    state: &State,
    host: Host,
    request: Request<Incoming>,
) -> Result<Response<Content>, Dropped> {
    let faults = Arc::clone(&lock(&state.faults));
    let plan = faults.plan(&mut lock(&state.random));
    state.book().asked(host);
    if faults.is_down(host) || plan == Plan::ResetBefore {
        return Err(Dropped::OnPurpose);
    }
    let (head, incoming) = request.into_parts();
    let query = Query::read(head.uri.query().unwrap_or_default());
    // Counted before the body is read: a request is at work from its first byte on.
    let open = query.as_ref().ok().map(|query| Open::new(state, query.session.as_str()));
    // Read even where the answer is certain, for the reason of `MAX_DRAIN`.
    let body = read(incoming).await?;
    if !faults.latency.is_zero() {
        tokio::time::sleep(faults.latency).await;
    }
    if let Some(status) = faults.refuse_all {
        return Ok(refusal(status, "every request is refused", faults.retry_after_s));
    }
    let Some(body) = body else { return Ok(refusal(413, "the request is too large", None)) };
    let (query, open) = match (query, open) {
        (Ok(query), Some(open)) => (query, open),
        (query, _) => {
            state.book().refused();
            let message = query.err().map(|error| error.to_string()).unwrap_or_default();
            return Ok(refusal(400, &message, None));
        }
    };
    let busy = faults.busy_session.as_deref() == Some(query.session.as_str());
    if busy || open.at_once > MAX_AT_ONCE {
        return Ok(refusal(420, "Too many requests with same session ID", None));
    }
    match plan {
        Plan::Error => return Ok(refusal(500, "internal server error", None)),
        Plan::Busy => return Ok(refusal(503, "service unavailable", faults.retry_after_s)),
        Plan::Hang => {
            // Closed first: when the client gives up, its next request may be here before we see that this
            // one ended.
            drop(open);
            return pending().await;
        }
        Plan::Serve | Plan::ResetBefore | Plan::ResetAfter | Plan::Cut => {}
    }
    let delivery = match check(&query.session, &body, state.seed) {
        Ok(delivery) => delivery,
        Err(invalid) => {
            state.book().refused();
            return Ok(refusal(400, &invalid.to_string(), None));
        }
    };
    drop(body);
    if faults.forbid_token.is_some() && faults.forbid_token == delivery.property {
        return Ok(refusal(403, "the property token is not allowed", None));
    }
    let fails = |token: &String| Some(token) == faults.fail_token.as_ref();
    if delivery.notifications.iter().any(|notification| notification.tokens.iter().any(fails)) {
        return Ok(refusal(503, "service unavailable", faults.retry_after_s));
    }
    take(state, &faults, plan, host, &query, &open.session, &delivery)
}

/// Takes the notifications and says so, or not.
fn take(
    state: &State,
    faults: &Faults,
    plan: Plan,
    host: Host,
    query: &Query,
    session: &Arc<str>,
    delivery: &Delivery,
) -> Result<Response<Content>, Dropped> {
    let mut omitted = HashSet::new();
    if !delivery.beacon {
        let mut random = lock(&state.random);
        let ids = delivery.notifications.iter().map(|notification| notification.id.as_str());
        omitted.extend(ids.filter(|_| faults.omits(&mut random)));
    }
    state.book().take(session, host, delivery, &omitted);
    if plan == Plan::ResetAfter {
        return Err(Dropped::OnPurpose);
    }
    if delivery.beacon {
        // There is no body that could be cut off.
        return if plan == Plan::Cut { Err(Dropped::OnPurpose) } else { Ok(no_content()) };
    }
    let made_up = Uuid::new_v4().to_string();
    let ids = delivery.notifications.iter().map(|notification| notification.id.as_str());
    let answer = Delivered {
        status: 200,
        request_id: delivery.request_id.as_deref().unwrap_or(&made_up),
        client: &query.client,
        id: &delivery.id,
        edge_host: format!("mboxedge{}.tt.omtrdc.net", home(query.session.as_str())),
        notifications: ids.filter(|id| !omitted.contains(id)).map(|id| Listed { id }).collect(),
    };
    Ok(answer.respond(plan == Plan::Cut))
}

/// The body of a request, `None` where it is too large.
async fn read(mut incoming: Incoming) -> Result<Option<Bytes>, hyper::Error> {
    let mut body = Vec::new();
    let mut length = 0_usize;
    while length <= MAX_DRAIN
        && let Some(frame) = incoming.frame().await
    {
        let Ok(data) = frame?.into_data() else { continue };
        length = length.saturating_add(data.len());
        if length <= MAX_BODY {
            body.extend_from_slice(&data);
        } else {
            body = Vec::new();
        }
    }
    Ok((length <= MAX_BODY).then(|| Bytes::from(body)))
}
