use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::authorities::authorities;
use super::super::settings::LONGEST_IDLE;
use super::*;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
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
    let head = read_request(&mut stream).await.unwrap();
    (stream, head)
}

async fn read_request(stream: &mut TcpStream) -> io::Result<String> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n{}") {
        request.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8(request).unwrap())
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
        head.starts_with("POST /rest/v1/delivery?client=acme+corp&imsOrgId=0DD9%40AdobeOrg&sessionId=s%231 "),
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
        (http("202 Accepted", "", r#"{"notifications":[{"id":"b"}]}"#), Answer::Listed(vec![false, true])),
        (
            http("206 Partial", "", r#"{"notifications":[{"id":"a"},{"id":"b"}]}"#),
            Answer::Listed(vec![true; 2]),
        ),
        (http("201 Created", "", "{}"), Answer::Listed(vec![false; 2])),
        (http("202 Accepted", "", ""), Answer::Unreadable),
        (http("205 Reset", "", ""), Answer::Unreadable),
        ("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"noti".to_owned(), Answer::Failed(Failure::Reset)),
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
    assert_eq!((busy.retry_after, busy.detail.as_str()), (Some(Duration::from_secs(7)), "HTTP 503: later"));
    for (location, told) in [
        ("http://me:s3cret@login.example:81/?s#1", "sent on to http://login.example:81: HTTP 302"),
        ("//login.example/", "sent on to http://login.example: HTTP 302"),
        ("http://[", "HTTP 302"),
        ("mailto:me", "HTTP 302"),
    ] {
        let (_, sent_on) = exchange(http("302 Found", &format!("location: {location}\r\n"), "")).await;
        assert_eq!((sent_on.answer, sent_on.detail.as_str()), (Answer::Status(302), told));
    }
    for (first, detail) in [("a", ""), ("c", "HTTP 200: the answer does not list it")] {
        let body = format!(r#"{{"notifications":[{{"id":"{first}"}},{{"id":"b"}}]}}"#);
        assert_eq!(exchange(http("200 OK", "", &body)).await.1.detail, detail);
    }
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
    // A socket that is bound and does not listen refuses; one that listens and accepts nothing is silent.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let endpoint = format!("http://{}", socket.local_addr().unwrap());
    assert_eq!(send(settings(endpoint.clone())).await.answer, Answer::Failed(Failure::Connect));
    let _silent = socket.listen(1).unwrap();
    let slow = Settings { timeout: Duration::from_millis(50), ..settings(endpoint) };
    assert_eq!(send(slow).await.answer, Answer::Failed(Failure::Timeout));
}

/// A transport through a proxy that answers one request with `answer`; the request's first line, and the outcome.
async fn proxied(endpoint: &str, answer: &str) -> (String, Outcome) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(head).unwrap().lines().next().unwrap_or_default().to_owned()
    };
    let proxy = Some(Proxy::set(format!("http://{address}")));
    let settings = Settings { proxy, allow_http: true, ..settings(endpoint.to_owned()) };
    let (line, mut outcome) = tokio::join!(serve, send(settings));
    outcome.detail = outcome.detail.replace(&address.to_string(), "PROXY");
    (line, outcome)
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named_with_what_to_do() {
    let locked = "it wants a user and a password: http://USER:PASSWORD@HOST:PORT";
    for (status, answer, detail) in [
        ("407 Locked", Answer::Failed(Failure::Connect), format!("HTTP 407: who are you; {locked}")),
        ("403 Forbidden", Answer::Status(403), "HTTP 403: who are you".to_owned()),
        ("502 Bad", Answer::Status(502), "HTTP 502: who are you".to_owned()),
    ] {
        let (line, outcome) = proxied("http://acme.invalid", &http(status, "", "who are you")).await;
        assert!(line.starts_with("POST http://acme.invalid/"), "{line}");
        let detail = format!("through the proxy PROXY of target.proxy: {detail}");
        assert_eq!((outcome.answer, outcome.detail), (answer, detail));
    }
    for (status, told) in [
        ("407 Locked", locked),
        ("403 Forbidden", "it refused to connect, or could not: its own log says why"),
    ] {
        let (line, outcome) = proxied("https://acme.invalid", &http(status, "", "")).await;
        assert_eq!(line, "CONNECT acme.invalid:443 HTTP/1.1");
        assert_eq!(outcome.answer, Answer::Failed(Failure::Connect));
        let detail = outcome.detail;
        assert!(
            detail.starts_with("through the proxy PROXY of target.proxy: ") && detail.ends_with(told),
            "{detail}"
        );
    }
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

/// Answers every request with a 204 and keeps its connection; the number of the connection that had the last one.
async fn keeping() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let last = Arc::new(AtomicUsize::new(0));
    let noting = Arc::clone(&last);
    tokio::spawn(async move {
        for number in 1.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let noting = Arc::clone(&noting);
            tokio::spawn(async move {
                while read_request(&mut stream).await.is_ok() {
                    noting.store(number, Ordering::Relaxed);
                    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
                }
            });
        }
    });
    (endpoint, last)
}

#[tokio::test]
async fn a_connection_that_was_idle_for_long_carries_no_more_requests() {
    let (endpoint, last) = keeping().await;
    let (transport, session) = (Transport::new(settings(endpoint)).unwrap(), SessionId::new("s").unwrap());
    let connection = async || {
        let sent = transport.attempt(Host::Client, &session, "r", b"{}".to_vec(), &["a"]).await.0;
        assert_eq!(sent.answer, Answer::Accepted);
        last.load(Ordering::Relaxed)
    };
    let mut kept = connection().await;
    // It is kept a moment after its answer.
    for tries in 0.. {
        assert!(tries < 1_000, "no connection is kept");
        let before = std::mem::replace(&mut kept, connection().await);
        if kept == before {
            break;
        }
    }
    tokio::time::pause();
    tokio::time::advance(LONGEST_IDLE + Duration::from_secs(1)).await;
    tokio::time::resume();
    assert_ne!(connection().await, kept);
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
    let block =
        |text: &str| format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n").into_bytes();
    for none in [&b""[..], b"\n", b"no certificate", b"\xff\x00"] {
        let error = made(none).unwrap_err();
        assert!(matches!(&error, TransportError::Certificates { path: named, .. } if *named == path));
        assert!(error.to_string().contains("holds no certificate"), "{error}");
    }
    for bad in [block("%%%%"), block("AAAA"), block(""), b"-----BEGIN CERTIFICATE-----\nAAAA\n".to_vec()] {
        let error = made(&bad).unwrap_err();
        assert!(error.to_string().contains("holds a certificate that cannot be used ("), "{error}");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
    assert!(matches!(authorities(&folder.path().join("none")), Err(TransportError::CaFile { .. })));
}

#[test]
fn a_client_that_cannot_be_made_says_why() {
    let refused = reqwest::Client::builder().user_agent("two\nlines").build().unwrap_err();
    let told = TransportError::from(refused).to_string();
    assert_eq!(told, "the HTTP client cannot be made: failed to parse header value");
}

#[test]
fn a_file_of_authorities_that_may_have_no_end_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let (pipe, long) = (folder.path().join("pipe"), folder.path().join("long"));
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    std::fs::File::create(&long).unwrap().set_len(5 * 1_024 * 1_024).unwrap();
    for (path, why) in [
        (&*pipe, "it is no regular file"),
        (folder.path(), "it is no regular file"),
        (Path::new("/dev/zero"), "it is no regular file"),
        (&*long, "it is over 4194304 bytes"),
    ] {
        let error = authorities(path).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains(&path.display().to_string()), "{error}");
    }
}

#[test]
fn a_file_of_authorities_is_read_again_and_a_bad_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    let write = |text: &str| std::fs::write(&path, text).unwrap();
    let authority = || rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap().cert.pem();
    write(&authority());
    let ca_file = Some(path.clone());
    let transport = Transport::new(Settings { ca_file, ..settings("https://a.example".to_owned()) }).unwrap();
    let at_first = transport.made().clients;
    assert!(!transport.read_authorities_again().unwrap());
    for bad in ["", "no certificate"] {
        write(bad);
        transport.read_authorities_again().unwrap_err();
    }
    assert!(Arc::ptr_eq(&transport.made().clients, &at_first));
    write(&authority());
    assert!(transport.clone().read_authorities_again().unwrap());
    assert!(!Arc::ptr_eq(&transport.made().clients, &at_first));
    assert!(!transport.read_authorities_again().unwrap());
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
