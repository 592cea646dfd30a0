//! One request to Target, and what came of it.
//!
//! Guarantees:
//! - an attempt never errs: whatever happens is an [`Outcome`];
//! - no redirect is followed and no cookie kept; an answer is read up to `max_answer` bytes after decompression;
//! - what an operator is told was made printable and cut before.

#[cfg(test)]
mod tests;

use std::error::Error;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use reqwest::header::{CONTENT_TYPE, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};

use super::Edge;
use super::authorities::{Authorities, Further};
use super::clients::Clients;
use super::lookup::Lookup;
use super::proxy::Proxy;
use super::settings::{Settings, TransportError, builder, checked};
use crate::event::{Answer, Failure, Host, Known, Outcome, SessionId};
use crate::wire::response;

/// The path of the Delivery API.
const PATH: &str = "/rest/v1/delivery";

/// Sends requests over pooled connections, several to a host; over HTTP/2 where the server offers it.
#[derive(Clone, Debug)]
pub struct Transport {
    /// A lock: a reload makes others, while the attempts take them.
    made: Arc<RwLock<Made>>,
    lookup: Lookup,
    settings: Settings,
    /// Where requests to the client's own host go, but for their session.
    own: Url,
    /// What of the system's root certificates could not be read when it was made.
    unread: Option<String>,
}

/// The HTTP clients, and of which certificates they were made.
#[derive(Clone, Debug)]
struct Made {
    clients: Arc<Clients>,
    of_the_system: usize,
    fingerprint: u64,
}

impl Made {
    fn new(settings: &Settings, authorities: &Authorities, lookup: &Lookup) -> Result<Self, TransportError> {
        // With fewer, connections would be made and ended all the time while all slots go to one host.
        let made = |share| Ok(builder(settings, authorities, lookup.clone())?.pool_max_idle_per_host(share));
        let clients = Arc::new(Clients::new(settings.concurrency, made)?);
        let &Authorities { of_the_system, fingerprint, .. } = authorities;
        Ok(Self { clients, of_the_system, fingerprint })
    }
}

impl Transport {
    /// A transport by `settings`; connects to nothing yet.
    ///
    /// # Errors
    /// [`TransportError`] names the setting that is wrong.
    pub fn new(settings: Settings) -> Result<Self, TransportError> {
        let own = settings.endpoint.replace("{client}", &settings.client);
        let own = checked("target.endpoint", &own, settings.allow_http)?;
        if let Some(edge) = &settings.edge_endpoint {
            checked("target.edge_endpoint", &edge.replace("{cluster}", "0"), settings.allow_http)?;
        }
        let own = resource(own, &settings);
        let lookup = Lookup::new(settings.connect_timeout);
        let authorities = Authorities::of(&settings)?;
        let made = Arc::new(RwLock::new(Made::new(&settings, &authorities, &lookup)?));
        Ok(Self { made, lookup, settings, own, unread: authorities.unread })
    }

    /// Why some of the system's root certificates could not be read when this was made, where that is so: it goes by
    /// the others.
    #[must_use]
    pub fn unread_authorities(&self) -> Option<TransportError> {
        self.unread.clone().map(TransportError::SystemPart)
    }

    /// Reads the system's root certificates again, and the file of further ones (`target.ca_file`). Where they are others
    /// than before, attempts that begin later go by them, over connections of their own; says whether it is so. Blocks on
    /// the disk.
    ///
    /// # Errors
    /// [`TransportError`]: the file cannot be used, or the system's certificates are gone, or some of them; what was read
    /// before stays in force.
    pub fn read_authorities_again(&self) -> Result<bool, TransportError> {
        let before = self.made();
        // Without those of the system nothing of Target's own would be trusted any more.
        let authorities = Further::of(&self.settings)?.and_of_the_system(before.of_the_system)?;
        if authorities.fingerprint == before.fingerprint {
            return Ok(false);
        }
        let made = Made::new(&self.settings, &authorities, &self.lookup)?;
        *self.made.write().unwrap_or_else(PoisonError::into_inner) = made;
        Ok(true)
    }

    fn made(&self) -> Made {
        // Nothing under this lock panics.
        self.made.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What an operator is told of a request that failed: where no connection was made, with the proxy in between.
    fn unsent(&self, error: &reqwest::Error) -> String {
        match error.url().and_then(|url| self.proxy(url)) {
            Some(proxy) if error.is_connect() => proxy.told(&told(error)),
            _ => told(error),
        }
    }

    /// The proxy that a request to `url` goes through.
    fn proxy(&self, url: &Url) -> Option<&Proxy> {
        self.settings.proxy.as_ref().filter(|proxy| proxy.takes_url(url))
    }

    /// Where a request of the session goes.
    fn url(&self, host: Host, session: &SessionId) -> Result<Url, TransportError> {
        let mut url = match (host, &self.settings.edge_endpoint) {
            (Host::Edge(cluster), Some(edge)) => {
                let edge = edge.replace("{cluster}", cluster.as_str());
                let edge = checked("target.edge_endpoint", &edge, self.settings.allow_http)?;
                resource(edge, &self.settings)
            }
            _ => self.own.clone(),
        };
        url.query_pairs_mut().append_pair("sessionId", session.as_str());
        Ok(url)
    }

    async fn read(&self, mut answer: Response, ids: &[&str]) -> (Outcome, Option<Vec<u8>>) {
        let status = answer.status();
        let retry_after = answer.headers().get(RETRY_AFTER).and_then(|value| wait(value, SystemTime::now()));
        let elsewhere = elsewhere(&answer);
        let body = match status {
            StatusCode::NO_CONTENT => Ok(Vec::new()),
            _ => self.body(&mut answer).await,
        };
        let (mut outcome, body) = outcome(status, retry_after, body, ids);
        if let Some(elsewhere) = elsewhere {
            outcome.detail = response::printable(&format!("sent on to {elsewhere}: {}", outcome.detail));
        }
        (outcome, body)
    }

    /// The decompressed body.
    async fn body(&self, answer: &mut Response) -> Result<Vec<u8>, Unread> {
        let (mut body, limit) = (Vec::new(), self.settings.max_answer);
        loop {
            match answer.chunk().await {
                Ok(None) => return Ok(body),
                Ok(Some(chunk)) if body.len().saturating_add(chunk.len()) > limit => {
                    let why = format!("the answer is over {limit} bytes (delivery.max_answer)");
                    return Err(Unread { why, failure: None, start: body });
                }
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Err(error) => {
                    let failure = broke(&error).then(|| failure(&error));
                    return Err(Unread { why: told(&error), failure, start: body });
                }
            }
        }
    }
}

impl Edge for Transport {
    fn limit(&mut self, max_answer: usize) {
        self.settings.max_answer = max_answer;
    }

    async fn attempt(
        &self,
        host: Host,
        session: &SessionId,
        request_id: &str,
        body: Vec<u8>,
        ids: &[&str],
    ) -> (Outcome, Option<Vec<u8>>) {
        let url = match self.url(host, session) {
            Ok(url) => url,
            Err(error) => return (failed(Failure::Dns, &error.to_string()), None),
        };
        // Without TLS the proxy itself may answer in the place of Target.
        let answering = if url.scheme() == "http" { self.proxy(&url) } else { None };
        let Made { clients, .. } = self.made();
        let client = clients.take(host);
        let sent = client
            .post(url)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header("X-EXC-SDK", env!("CARGO_PKG_NAME"))
            .header("X-EXC-SDK-Version", env!("CARGO_PKG_VERSION"))
            .header("X-Request-Id", request_id)
            .body(body)
            .send()
            .await;
        match sent {
            Ok(answer) => {
                let (mut outcome, body) = self.read(answer, ids).await;
                if let (Some(proxy), &Answer::Status(status)) = (answering, &outcome.answer) {
                    outcome.detail = response::printable(&proxy.told(&outcome.detail));
                    // It says nothing of the events: over TLS no connection is made then.
                    if status == StatusCode::PROXY_AUTHENTICATION_REQUIRED.as_u16() {
                        outcome.answer = Answer::Failed(Failure::Connect);
                    }
                }
                (outcome, body)
            }
            Err(error) => (failed(failure(&error), &self.unsent(&error)), None),
        }
    }
}

/// A body that was not read to its end.
#[derive(Clone, Debug)]
pub(super) struct Unread {
    /// Why.
    pub(super) why: String,
    /// How the way to the host failed, where it did: then the host has not answered.
    pub(super) failure: Option<Failure>,
    /// What was read of it.
    pub(super) start: Vec<u8>,
}

impl Unread {
    /// All that is known of it. Not for a 2xx: what Target says there may name a visitor.
    fn told(&self) -> String {
        match response::start(&self.start).as_str() {
            "" => self.why.clone(),
            start => format!("{}; it begins with {start}", self.why),
        }
    }
}

/// What an answer with `status` and `body`, or why that could not be read, means for the notifications `ids`; with the
/// body where it was understood.
pub(super) fn outcome(
    status: StatusCode,
    retry_after: Option<Duration>,
    body: Result<Vec<u8>, Unread>,
    ids: &[&str],
) -> (Outcome, Option<Vec<u8>>) {
    let outcome = |answer, detail| Outcome { answer, retry_after, edge: None, known: None, detail };
    let said = |words: &str| response::said(status.as_u16(), words);
    if status == StatusCode::NO_CONTENT {
        return (outcome(Answer::Accepted, String::new()), None);
    }
    if !status.is_success() {
        let words = match &body {
            Ok(body) => response::message(body),
            Err(unread) => unread.told(),
        };
        return (outcome(Answer::Status(status.as_u16()), said(&words)), None);
    }
    let body = match body {
        // By its definition it has no body; whatever follows it speaks of something else.
        Ok(_) if status == StatusCode::RESET_CONTENT => {
            return (outcome(Answer::Unreadable, said("it has no body, and so lists nothing")), None);
        }
        // Whatever the success is called, it is the list that counts: something between may have changed the status,
        // and an event that is listed was processed.
        Ok(body) => body,
        Err(Unread { why, failure, .. }) => {
            let answer = failure.map_or(Answer::Unreadable, Answer::Failed);
            return (outcome(answer, said(&why)), None);
        }
    };
    match response::decode(&body) {
        Ok(read) => {
            let flags = response::listed_flags(&read.listed, ids);
            let detail = match flags.iter().all(|listed| *listed) {
                true => String::new(),
                false => said("the answer does not list it"),
            };
            let known = read.tnt_id.map(|tnt_id| Known {
                home: response::tnt_id_cluster(&tnt_id),
                tnt_id: tnt_id.into_boxed_str(),
            });
            (Outcome { edge: read.edge, known, ..outcome(Answer::Listed(flags), detail) }, Some(body))
        }
        Err(error) => {
            // What may be Target's own words may name a visitor: nothing is shown from the first brace on.
            let foreign = body.split(|byte| *byte == b'{').next().unwrap_or_default();
            let words = match response::start(foreign).as_str() {
                "" => error.to_string(),
                start => format!("{error}; it begins with {start}"),
            };
            (outcome(Answer::Unreadable, said(&words)), None)
        }
    }
}

/// The Delivery API at `url`, for the account of `settings`.
fn resource(mut url: Url, settings: &Settings) -> Url {
    let path = format!("{}{PATH}", url.path().trim_end_matches('/'));
    url.set_path(&path);
    url.query_pairs_mut()
        .append_pair("client", &settings.client)
        .append_pair("imsOrgId", &settings.organization);
    url
}

pub(super) fn failed(failure: Failure, detail: &str) -> Outcome {
    let detail = response::printable(detail);
    Outcome { answer: Answer::Failed(failure), retry_after: None, edge: None, known: None, detail }
}

/// `Retry-After`, in seconds or as a date, as a wait from `now`; a date that has passed is no wait. Seconds beyond all
/// counting are the longest wait.
fn wait(value: &HeaderValue, now: SystemTime) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => Some(Duration::MAX),
        Err(_) => Some(httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default()),
    }
}

/// Where a redirect points to, for a person: a page to log in at, perhaps. Its scheme and host alone: the rest may repeat
/// the session.
fn elsewhere(answer: &Response) -> Option<String> {
    let location = answer.headers().get(LOCATION).filter(|_| answer.status().is_redirection())?;
    let url = answer.url().join(location.to_str().ok()?).ok()?;
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    Some(format!("{}://{}{port}", url.scheme(), url.host_str()?))
}

/// An error with its causes, without the URL: that holds the session id.
pub(super) fn told(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&error.to_string());
        cause = error.source();
    }
    if text.is_empty() { "the request failed".to_owned() } else { text }
}

pub(super) fn failure(error: &reqwest::Error) -> Failure {
    let text = told(error);
    if error.is_timeout() {
        Failure::Timeout
    } else if text.contains("dns error") {
        Failure::Dns
    } else if tls_failed(error) || (error.is_connect() && text.contains("tls")) {
        Failure::Tls
    } else if error.is_connect() {
        Failure::Connect
    } else {
        Failure::Reset
    }
}

/// Whether the body of an answer ended with its connection or its time: that has a cause of HTTP, and what is wrong
/// with its compression has none. A connection that is closed in order before the body is whole is one that broke.
fn broke(error: &reqwest::Error) -> bool {
    error.is_timeout() || causes(error).any(|error| error.is::<hyper::Error>())
}

/// Whether TLS itself failed: by its type, since its sentences seldom name it ("received corrupt message").
fn tls_failed(error: &reqwest::Error) -> bool {
    causes(error).any(|error| error.is::<rustls::Error>())
}

fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(error.source(), |&error| within(error))
}

/// The cause of `error`. The source of an I/O error is not what it wraps, but the source of that.
fn within<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}
