//! One request to Target, and what came of it.
//!
//! Guarantees:
//! - an attempt never errs: whatever happens is an [`Outcome`];
//! - no redirect is followed and no cookie kept; an answer is read up to `max_answer` bytes after decompression;
//! - what an operator is told was made printable and cut before.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};

use super::Edge;
use super::clients::Clients;
use super::lookup::Lookup;
use super::proxy::Proxy;
use super::settings::{Settings, TransportError, builder, checked};
use crate::event::{Answer, Failure, Host, Known, Outcome, SessionId};
use crate::wire::response;

/// The path of the Delivery API.
const PATH: &str = "/rest/v1/delivery";

/// Sends requests over pooled connections; over HTTP/2 where the server offers it, with several to a host then, too.
#[derive(Clone, Debug)]
pub struct Transport {
    clients: Arc<Clients>,
    settings: Settings,
    /// Where requests to the client's own host go, but for their session.
    own: Url,
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
        // With fewer, connections would be made and ended all the time while all slots go to one host.
        let made = |share| Ok(builder(&settings, lookup.clone())?.pool_max_idle_per_host(share));
        let clients = Arc::new(Clients::new(settings.concurrency, made)?);
        Ok(Self { clients, settings, own })
    }

    /// What an operator is told of a request that failed: where no connection was made, what proxy was in between, too.
    fn unsent(&self, error: &reqwest::Error) -> String {
        let takes = |proxy: &&Proxy| error.url().is_some_and(|url| proxy.takes_url(url));
        match self.settings.proxy.as_ref().filter(takes) {
            Some(proxy) if error.is_connect() => format!("through the proxy {proxy}: {}", told(error)),
            _ => told(error),
        }
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
        let body = match status {
            StatusCode::NO_CONTENT => Ok(Vec::new()),
            _ => self.body(&mut answer).await,
        };
        outcome(status, retry_after, body, ids)
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
        let client = self.clients.take(host);
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
            Ok(answer) => self.read(answer, ids).await,
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

/// What an answer with `status` and `body`, or why that could not be read, means for the notifications `ids`; with the body
/// where it was understood.
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
        // Whatever the success is called, it is the list that counts: something between may have changed the status, and
        // an event that is listed was processed.
        Ok(body) => body,
        Err(Unread { why, failure, .. }) => {
            let answer = failure.map_or(Answer::Unreadable, Answer::Failed);
            return (outcome(answer, said(&why)), None);
        }
    };
    match response::decode(&body) {
        Ok(read) => {
            let answer = Answer::Listed(response::listed_flags(&read.listed, ids));
            let known = read.tnt_id.map(|tnt_id| Known {
                home: response::tnt_id_cluster(&tnt_id),
                tnt_id: tnt_id.into_boxed_str(),
            });
            (Outcome { edge: read.edge, known, ..outcome(answer, String::new()) }, Some(body))
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
    } else if tls_failed(error) || text.contains("tls") {
        Failure::Tls
    } else if error.is_connect() {
        Failure::Connect
    } else {
        Failure::Reset
    }
}

/// Whether the body of an answer ended with its connection or its time: that has a cause of HTTP, and what is wrong with its
/// compression has none. A connection that is closed in order before the body is whole is one that broke.
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

#[cfg(test)]
mod tests {
    use super::super::settings::authorities;
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpSocket, TcpStream};

    fn settings(endpoint: String) -> Settings {
        Settings {
            client: "acme corp".to_owned(),
            organization: "0DD9@AdobeOrg".to_owned(),
            endpoint,
            edge_endpoint: None,
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(30),
            ca_file: None,
            proxy: None,
            allow_http: false,
            max_answer: 1_000,
            concurrency: 4,
        }
    }

    async fn send(settings: Settings) -> Outcome {
        let transport = Transport::new(settings).unwrap();
        let session = SessionId::new("s#1").unwrap();
        transport.attempt(Host::Client, &session, "r", b"{}".to_vec(), &["a", "b"]).await.0
    }

    /// The next connection, once its request was read, and the request's head.
    async fn asked(listener: &TcpListener) -> (TcpStream, String) {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n{}") {
            request.push(stream.read_u8().await.unwrap());
        }
        (stream, String::from_utf8(request).unwrap())
    }

    /// Answers one request with `answer` as it is and closes; returns the request's head and the outcome.
    async fn exchange(answer: String) -> (String, Outcome) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let serve = async {
            let (mut stream, head) = asked(&listener).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
            head
        };
        tokio::join!(serve, send(settings(endpoint)))
    }

    fn http(status: &str, headers: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn a_request_has_the_documented_query_and_headers() {
        let (head, outcome) = exchange(http(
            "200 OK",
            "",
            r#"{"edgeHost":"mboxedge35.tt.omtrdc.net","notifications":[{"id":"b"}]}"#,
        ))
        .await;
        assert!(
            head.starts_with(
                "POST /rest/v1/delivery?client=acme+corp&imsOrgId=0DD9%40AdobeOrg&sessionId=s%231 "
            ),
            "{head}"
        );
        let head = head.to_lowercase();
        assert!(head.contains("x-exc-sdk: target-notifyd") && head.contains("x-request-id: r"), "{head}");
        assert_eq!(outcome.answer, Answer::Listed(vec![false, true]));
        assert_eq!(outcome.edge, crate::event::Cluster::parse("35"));
    }

    #[tokio::test]
    async fn every_answer_has_its_outcome() {
        let huge = format!("{{\"x\":\"{}\"}}", "y".repeat(2_000));
        for (answer, expected) in [
            ("HTTP/1.1 204 No Content\r\n\r\n".to_owned(), Answer::Accepted),
            (http("200 OK", "", "<html>"), Answer::Unreadable),
            (http("200 OK", "", &huge), Answer::Unreadable),
            (
                http("202 Accepted", "", r#"{"notifications":[{"id":"b"}]}"#),
                Answer::Listed(vec![false, true]),
            ),
            (
                http("206 Partial", "", r#"{"notifications":[{"id":"a"},{"id":"b"}]}"#),
                Answer::Listed(vec![true; 2]),
            ),
            (http("201 Created", "", "{}"), Answer::Listed(vec![false; 2])),
            (http("202 Accepted", "", ""), Answer::Unreadable),
            (http("205 Reset", "", ""), Answer::Unreadable),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"noti".to_owned(),
                Answer::Failed(Failure::Reset),
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\n{\"noti".to_owned(),
                Answer::Failed(Failure::Reset),
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 99\r\n\r\n\u{1f}".to_owned(),
                Answer::Failed(Failure::Reset),
            ),
            (http("200 OK", "content-encoding: gzip\r\n", "plain"), Answer::Unreadable),
            (http("302 Found", "location: http://127.0.0.1:1/\r\n", ""), Answer::Status(302)),
            (http("400 Bad Request", "", r#"{"message":"no"}"#), Answer::Status(400)),
            (http("420 Enhance", "", ""), Answer::Status(420)),
            (String::new(), Answer::Failed(Failure::Reset)),
        ] {
            assert_eq!(exchange(answer.clone()).await.1.answer, expected, "{answer}");
        }
        let (_, busy) = exchange(http("503 Busy", "retry-after: 7\r\n", r#"{"message":"later\n"}"#)).await;
        assert_eq!(
            (busy.retry_after, busy.detail.as_str()),
            (Some(Duration::from_secs(7)), "HTTP 503: later")
        );
        for status in [302, 400, 403, 503] {
            let (_, silent) = exchange(http(&format!("{status} Silent"), "", "")).await;
            assert_eq!(silent.detail, format!("HTTP {status}"));
        }
    }

    #[tokio::test]
    async fn who_answers_in_the_place_of_target_is_shown_and_no_visitor_is() {
        for (body, shown) in [
            ("<html>\x1b[1m captive portal", Some("; it begins with <html> [1m captive portal")),
            ("", None),
            (" {\"id\":{\"tntId\":\"visitor\"}", None),
            ("\u{feff}{\"id\":{\"tntId\":\"visitor\"}", None),
        ] {
            let (_, outcome) = exchange(http("200 OK", "", body)).await;
            assert_eq!(outcome.answer, Answer::Unreadable);
            let (detail, ends) = (outcome.detail, shown.unwrap_or_default());
            assert!(detail.starts_with("HTTP 200: the answer is not") && detail.ends_with(ends), "{detail}");
            assert_eq!(detail.contains("begins"), shown.is_some(), "{detail}");
            assert!(!detail.contains("visitor"), "{detail}");
        }
    }

    #[tokio::test]
    async fn a_body_that_hangs_or_is_reset_is_a_failure_of_its_host() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let begun = b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{";
        let hanging = async {
            let (mut stream, _) = asked(&listener).await;
            stream.write_all(begun).await.unwrap();
            stream.read_to_end(&mut Vec::new()).await.unwrap();
        };
        let short = Settings { timeout: Duration::from_millis(500), ..settings(endpoint.clone()) };
        let (_, outcome) = tokio::join!(hanging, send(short));
        assert_eq!(outcome.answer, Answer::Failed(Failure::Timeout));
        let resetting = async {
            let (mut stream, _) = asked(&listener).await;
            stream.write_all(begun).await.unwrap();
            stream.set_zero_linger().unwrap();
        };
        let (_, outcome) = tokio::join!(resetting, send(settings(endpoint)));
        assert_eq!(outcome.answer, Answer::Failed(Failure::Reset));
    }

    #[tokio::test]
    async fn a_status_counts_whatever_becomes_of_its_body() {
        let cut = "HTTP/1.1 400 Bad\r\ncontent-length: 99\r\n\r\n{\"message\":\"tok";
        let huge = http("400 Bad", "", &"y".repeat(2_000));
        let packed = http("400 Bad", "content-encoding: gzip\r\n", "plain");
        for (answer, told) in [
            (cut.to_owned(), "it begins with {\"message\":\"tok"),
            (huge, "the answer is over 1000 bytes (delivery.max_answer)"),
            (packed, "gzip"),
        ] {
            let (_, outcome) = exchange(answer).await;
            assert_eq!(outcome.answer, Answer::Status(400));
            let detail = outcome.detail;
            assert!(detail.starts_with("HTTP 400: ") && detail.contains(told), "{detail}");
        }
    }

    #[tokio::test]
    async fn no_answer_is_an_outcome_too() {
        // Who is bound and does not listen refuses; who listens and accepts nothing is silent.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let endpoint = format!("http://{}", socket.local_addr().unwrap());
        assert_eq!(send(settings(endpoint.clone())).await.answer, Answer::Failed(Failure::Connect));
        let _silent = socket.listen(1).unwrap();
        let slow = Settings { timeout: Duration::from_millis(50), ..settings(endpoint) };
        assert_eq!(send(slow).await.answer, Answer::Failed(Failure::Timeout));
    }

    #[tokio::test]
    async fn a_proxy_that_is_not_reached_is_named() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let proxy = Proxy::environment("HTTPS_PROXY".to_owned(), address.clone(), String::new());
        let proxied = Settings { proxy: Some(proxy), ..settings("https://acme.invalid".to_owned()) };
        let outcome = send(proxied).await;
        assert_eq!(outcome.answer, Answer::Failed(Failure::Connect));
        let expected = format!("through the proxy {address} of HTTPS_PROXY: ");
        assert!(outcome.detail.starts_with(&expected), "{}", outcome.detail);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (text, expected) in [
            ("120", Some(120)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("18446744073709551615", Some(u64::MAX)),
            ("soon", None),
            ("", None),
            ("-1", None),
            ("1.5", None),
        ] {
            let value = HeaderValue::from_static(text);
            assert_eq!(wait(&value, now), expected.map(Duration::from_secs), "{text}");
        }
        let beyond = HeaderValue::from_static("99999999999999999999999");
        assert_eq!(wait(&beyond, now), Some(Duration::MAX));
    }

    #[test]
    fn a_file_without_a_certificate_is_told_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let made = |text: &[u8]| {
            std::fs::write(&path, text).unwrap();
            let ca_file = Some(path.clone());
            Transport::new(Settings { ca_file, ..settings("https://a.example".to_owned()) })
        };
        let block = |text: &str| {
            format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n").into_bytes()
        };
        for none in [&b""[..], b"\n", b"no certificate", b"\xff\x00"] {
            let error = made(none).unwrap_err();
            assert!(matches!(&error, TransportError::Certificates { path: named, .. } if *named == path));
            assert!(error.to_string().contains("holds no certificate"), "{error}");
        }
        for bad in [block("%%%%"), block("AAAA"), block(""), b"-----BEGIN CERTIFICATE-----\nAAAA\n".to_vec()]
        {
            let error = made(&bad).unwrap_err();
            assert!(error.to_string().contains("holds a certificate that cannot be used ("), "{error}");
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        }
        assert!(matches!(authorities(&folder.path().join("none")), Err(TransportError::CaFile { .. })));
    }

    #[test]
    fn clear_text_goes_to_loopback_only() {
        for good in ["https://{client}.example", "http://localhost:1", "http://[::1]:1", "http://127.0.0.2"] {
            let settings = Settings { client: "a".to_owned(), ..settings(good.to_owned()) };
            assert!(Transport::new(settings).is_ok(), "{good}");
        }
        let open = Transport::new(settings("http://example.com".to_owned()));
        assert!(matches!(open, Err(TransportError::Unencrypted { key: "target.endpoint", .. })));
        let none = Transport::new(settings("ftp://example.com".to_owned()));
        assert!(matches!(none, Err(TransportError::Url { .. })));
    }
}
