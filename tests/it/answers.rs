//! Everything that Target, or whatever stands in its place, may answer: what the daemon makes of it, over real sockets.
//!
//! Each row is a session of its own, at home at an edge host of its own, so that no row blames the host of another.

use std::time::{Duration, SystemTime};

use target_notifyd::event::Balance;
use target_notifyd::sandbox::{self, Sandbox};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::edge::{Edge, Step, listing};
use crate::support::{MILLI, Running, dead, display, settings};

/// The longest wait between two attempts, which is what a `Retry-After` counts up to.
const LONGEST: Duration = Duration::from_secs(1);
/// `target.timeout`: what hangs or drips takes it once.
const TIMEOUT: Duration = Duration::from_secs(8);
/// `delivery.max_answer`.
const MAX_ANSWER: usize = 64 * 1_024;

struct Row {
    name: String,
    steps: Vec<Step>,
    /// How many notifications each request carries, in order; 0 where its body was not read.
    requests: Vec<usize>,
    /// How many of them become dead letters.
    dead: usize,
    /// The least time between the first two requests.
    least: Duration,
}

fn row(name: impl Into<String>, step: Step, requests: &[usize]) -> Row {
    let name = name.into();
    Row { name, steps: vec![step], requests: requests.to_vec(), dead: 0, least: Duration::ZERO }
}

fn http(status: &str, headers: &str, body: &str) -> Step {
    Step::Answer(
        format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()).into_bytes(),
    )
}

fn after(text: &str, more: &str) -> Vec<u8> {
    [text.as_bytes(), &listing(more)].concat()
}

fn refused(status: u16) -> Row {
    let words = format!("no\u{1b}[31m {status}");
    let step = http(
        &format!("{status} No"),
        "",
        &format!(r#"{{"message":"{}"}}"#, words.replace("\u{1b}", "\\u001b")),
    );
    Row { dead: 1, ..row(format!("{status}, single"), step, &[1]) }
}

/// Answers that say what became of the events.
fn processed() -> Vec<Row> {
    let answer = |text: &str| Step::Answer(listing(text));
    vec![
        row("200, all listed", answer("{ids}"), &[2]),
        row("200, one missing", answer("{most}"), &[3, 1]),
        row("200, none listed", answer("[]"), &[2, 2]),
        row("200, others listed", answer(r#"[{"id":"x"},{"id":7},{}]"#), &[2, 2]),
        row("204", Step::Answer(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()), &[2]),
        row("100 before", Step::Answer(after("HTTP/1.1 100 Continue\r\n\r\n", "{ids}")), &[2]),
        row(
            "103 before",
            Step::Answer(after("HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n", "{ids}")),
            &[2],
        ),
    ]
}

/// Answers to a 200 that cannot be read: unknown, tried again.
fn unreadable() -> Vec<Row> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    let broken = |text: String| Step::Break(text.into_bytes());
    let gzip = format!("{head}content-encoding: gzip\r\ncontent-length: 5\r\n\r\nhello");
    let large = format!("{{\"notifications\":[],\"x\":\"{}\"}}", "y".repeat(MAX_ANSWER));
    vec![
        row("200, no JSON", http("200 OK", "", "<html>"), &[2, 2]),
        row("200, empty", http("200 OK", "", ""), &[2, 2]),
        row(
            "200, cut off",
            broken(format!("{head}content-length: 99\r\n\r\n{{\"notifications\":{{ids}}")),
            &[2, 2],
        ),
        row(
            "200, length too short",
            broken(format!("{head}content-length: 5\r\n\r\n{{\"notifications\":{{ids}}}}")),
            &[2, 2],
        ),
        row(
            "200, broken chunk",
            broken(format!("{head}transfer-encoding: chunked\r\n\r\nzz\r\n{{}}")),
            &[2, 2],
        ),
        row(
            "200, cut in a chunk",
            broken(format!("{head}transfer-encoding: chunked\r\n\r\nff\r\n{{")),
            &[2, 2],
        ),
        row("200, no gzip", broken(gzip), &[2, 2]),
        row("200, over the limit", http("200 OK", "", &large), &[2, 2]),
        row(
            "200, endless",
            Step::Endless(format!("{head}\r\n{{\"x\":\"").into_bytes(), vec![b'y'; 4_096]),
            &[2, 2],
        ),
        row("202", http("202 Accepted", "", "{}"), &[2, 2]),
        row("206", http("206 Partial", "", "{}"), &[2, 2]),
    ]
}

/// Refusals of the request, of the account, and of the moment.
fn refusals(trap: &str) -> Vec<Row> {
    let status = |code: u16| http(&format!("{code} No"), "", r#"{"message":"no"}"#);
    let mut rows = vec![];
    for code in [400, 413, 402, 405, 409, 410, 422, 431, 451, 499] {
        rows.push(refused(code));
        rows.push(row(format!("{code}, several"), status(code), &[4, 2, 2]));
    }
    for code in [401, 403, 404, 420, 408, 425, 429, 500, 501, 502, 503, 504, 599, 600, 999] {
        rows.push(row(code.to_string(), status(code), &[2, 2]));
    }
    for code in [300, 301, 302, 303, 304, 307, 308] {
        let step = http(&format!("{code} Elsewhere"), &format!("location: {trap}\r\n"), "");
        rows.push(row(code.to_string(), step, &[2, 2]));
    }
    rows.push(row(
        "101",
        Step::Answer(
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n".to_vec(),
        ),
        &[2, 2],
    ));
    rows
}

/// `Retry-After` in every form; it binds up to the longest wait.
fn retry_after() -> Vec<Row> {
    let date = |at: SystemTime| httpdate::fmt_http_date(at);
    let (past, future) = (SystemTime::UNIX_EPOCH, SystemTime::now() + Duration::from_secs(86_400));
    let mut rows = vec![];
    for code in [429, 503] {
        for (value, binds) in [
            ("1".to_owned(), true),
            ("86400".to_owned(), true),
            ("99999999999999999999999999".to_owned(), true),
            (date(future), true),
            (date(past), false),
            ("soon".to_owned(), false),
            ("-1".to_owned(), false),
            ("1.5".to_owned(), false),
            ("\u{e4}".to_owned(), false),
            (String::new(), false),
        ] {
            let step = http(&format!("{code} Busy"), &format!("retry-after: {value}\r\n"), "");
            let least = if binds { LONGEST } else { Duration::ZERO };
            rows.push(Row { least, ..row(format!("{code}, Retry-After {value:?}"), step, &[2, 2]) });
        }
    }
    rows
}

/// No answer, or no HTTP.
fn failures() -> Vec<Row> {
    let broken = |text: &str| Step::Break(text.as_bytes().to_vec());
    let headers =
        b"x-more: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n".to_vec();
    let line = b"HTTP/1.1 200 OK\r\n".to_vec();
    vec![
        row("closed without an answer", broken(""), &[2, 2]),
        row("reset before the request was read", Step::ResetBefore, &[0, 2]),
        row("reset after the request was read", Step::ResetAfter, &[2, 2]),
        row("hangs", Step::Hang, &[2, 2]),
        row("cut in the headers", broken("HTTP/1.1 200 OK\r\ncontent-le"), &[2, 2]),
        row("no HTTP", broken("SSH-2.0-OpenSSH_9.9\r\n"), &[2, 2]),
        row("binary", Step::Break(vec![0, 255, 13, 10, 22, 3, 1]), &[2, 2]),
        row("HTTP/0.9", broken("{\"notifications\":{ids}}"), &[2, 2]),
        row("a status of letters", broken("HTTP/1.1 abc OK\r\n\r\n"), &[2, 2]),
        row("a status of 99", broken("HTTP/1.1 99 Low\r\n\r\n"), &[2, 2]),
        row(
            "two lengths",
            broken("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}"),
            &[2, 2],
        ),
        row("a negative length", broken("HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\n{}"), &[2, 2]),
        row("endless headers", Step::Endless(line.clone(), headers), &[2, 2]),
        row("an endless header", Step::Endless([&line[..], b"x: "].concat(), vec![b'y'; 4_096]), &[2, 2]),
        row("endless 100s", Step::Endless(vec![], b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()), &[2, 2]),
        row("a byte at a time, in the headers", Step::Drip(after("HTTP/1.1 200 OK\r\n", "{ids}")), &[2, 2]),
        row(
            "a byte at a time, in the body",
            Step::Drip([&listing("{ids}")[..], &[b' '; 1_000]].concat()),
            &[2, 2],
        ),
    ]
}

fn session(number: usize) -> String {
    format!("row{number}")
}

/// A row's events, as one submission of a visitor whose home is a cluster of the row's own.
fn submission(number: usize, events: usize) -> String {
    let events: Vec<String> = (0..events)
        .map(|event| format!(r#"{{"id":"{number}-{event}","type":"display","mbox":{{"name":"m","state":"s"}},"tokens":["t"]}}"#))
        .collect();
    format!(
        r#"{{"session_id":"{}","request":{{"id":{{"tntId":"v.{}_0"}},"notifications":[{}]}}}}"#,
        session(number),
        100 + number,
        events.join(",")
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn each_answer_has_the_consequence_that_the_table_names() {
    let (folder, edge) = (TempDir::new().expect("a folder"), Edge::default());
    let (address, serving) = edge.listen().await;
    let trap = Edge::default();
    let (trap_address, trapping) = trap.listen().await;
    let rows: Vec<Row> =
        [processed(), unreadable(), refusals(&format!("http://{trap_address}/")), retry_after(), failures()]
            .into_iter()
            .flatten()
            .collect();

    let sandbox = Sandbox::start(sandbox::Settings::default()).expect("the sandbox listens");
    let mut settings = settings(&folder, &sandbox);
    settings.transport.endpoint = format!("http://{address}");
    settings.transport.edge_endpoint = Some(format!("http://{address}/edge{{cluster}}"));
    (settings.transport.timeout, settings.transport.max_answer) = (TIMEOUT, MAX_ANSWER);
    settings.schedule.max_hosts = 500;
    settings.schedule.concurrency = 500;
    settings.schedule.backoff.max = LONGEST;
    // So long that a wait which was not asked for is seldom taken for one that was.
    settings.schedule.backoff.initial = MILLI;
    let running = Running::start(settings.clone()).await;
    let mut lines = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        edge.script(&session(number), row.steps.clone());
        let events = row.requests.iter().copied().max().expect("a row has requests");
        lines.push(submission(number, events));
    }
    lines.extend((0..200).map(|number| display(&format!("good{number}"), "1")));
    let events: usize = rows.iter().filter_map(|row| row.requests.iter().max()).sum();
    let (all, buried) = ((events + 200) as u64, rows.iter().map(|row| row.dead).sum::<usize>() as u64);
    let replies = running.submit(lines).await;
    assert!(replies.iter().all(|reply| reply["status"] == "queued"), "{replies:?}");
    let balance = running.settled(all).await;
    assert_eq!(
        balance,
        Balance { accepted: all, delivered: all - buried, dead: buried, ..Balance::default() }
    );
    running.stop().await;

    let mut wrong = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        let asked = edge.asked(&session(number));
        let sizes: Vec<usize> = asked.iter().map(|one| one.ids.len()).collect();
        let listed = edge.listed(&session(number));
        // A 204 lists nothing.
        let once = row.name == "204" || row.dead > 0 || listed.iter().all(|count| *count == 1);
        let waited = asked.get(1).is_none_or(|second| second.at - asked[0].at >= row.least);
        let home = asked.iter().all(|one| one.path.starts_with(&format!("/edge{}/", 100 + number)));
        if sizes != row.requests || !once || !waited || !home {
            wrong.push(format!(
                "{}: {sizes:?}, not {:?}; listed {listed:?}, waited: {waited}, home: {home}",
                row.name, row.requests
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!((0..200).all(|number| edge.listed(&format!("good{number}")) == [1]));
    assert_eq!(
        (edge.changed(), trap.asked("").len()),
        (0, 0),
        "no notification changes, no redirect is followed"
    );
    for (_, reason, detail) in dead(&settings).await {
        assert!(reason == "refused" && detail.starts_with("no [31m 4"), "{reason}: {detail:?}");
    }
    serving.abort();
    trapping.abort();
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_hangs_holds_up_no_other() {
    let (folder, edge) = (TempDir::new().expect("a folder"), Edge::default());
    let (address, serving) = edge.listen().await;
    let sandbox = Sandbox::start(sandbox::Settings::default()).expect("the sandbox listens");
    let mut settings = settings(&folder, &sandbox);
    settings.transport.endpoint = format!("http://{address}");
    settings.transport.edge_endpoint = Some(format!("http://{address}/edge{{cluster}}"));
    // It hangs for the whole test.
    settings.transport.timeout = Duration::from_secs(3_600);
    settings.grace = Duration::ZERO;
    let running = Running::start(settings.clone()).await;
    let hanging = settings.schedule.host_concurrency;
    let mut lines = Vec::new();
    for number in 0..hanging {
        edge.script(&format!("hang{number}"), vec![Step::Hang]);
        lines.push(display(&format!("hang{number}"), "1"));
    }
    running.submit(lines).await;
    while (0..hanging).any(|number| edge.asked(&format!("hang{number}")).is_empty()) {
        tokio::task::yield_now().await;
    }
    let good = (0..500).map(|number| display(&format!("good{number}"), "1").replace(".35_0", ".36_0"));
    running.submit(good.collect()).await;
    let balance = running.until(|balance| balance.delivered == 500).await;
    assert_eq!(balance.pending(), hanging as u64);
    // What hangs when the grace is over has no answer: it is sent again, and counts once.
    assert_eq!(running.stop().await.pending(), hanging as u64);
    let running = Running::start(settings).await;
    assert_eq!(running.settled(500 + hanging as u64).await.delivered, 500 + hanging as u64);
    running.stop().await;
    assert!((0..hanging).all(|number| edge.listed(&format!("hang{number}")) == [1]));
    assert_eq!(edge.changed(), 0);
    serving.abort();
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_is_tried_again_until_somebody_listens() {
    let (folder, edge) = (TempDir::new().expect("a folder"), Edge::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let sandbox = Sandbox::start(sandbox::Settings::default()).expect("the sandbox listens");
    let mut settings = settings(&folder, &sandbox);
    // The client's own host refuses; an edge host serves all the while.
    settings.transport.endpoint = format!("http://{address}");
    let running = Running::start(settings).await;
    let own = (0..50).map(|number| format!(r#"{{"session_id":"s{number}","type":"click","id":"1"}}"#));
    running.submit(own.collect()).await;
    running.submit((0..50).map(|number| display(&format!("good{number}"), "1")).collect()).await;
    assert_eq!(running.until(|balance| balance.delivered >= 50).await.pending(), 50);
    let serving = edge.accept(TcpListener::bind(address).await.expect("the port is free"));
    assert_eq!(running.settled(100).await.delivered, 100);
    running.stop().await;
    assert!((0..50).all(|number| edge.listed(&format!("s{number}")) == [1]));
    serving.abort();
    sandbox.stop().await;
}
