//! Everything that Target, or whatever stands in its place, may answer: what the daemon makes of it, over real sockets.
//!
//! [`Row`] is the verdict table, and what is expected of a case follows from its row. Each case is a session of its own, at
//! home at an edge host of its own, so that no case blames the host of another.

use std::time::{Duration, SystemTime};

use target_notifyd::event::Balance;
use target_notifyd::sandbox::{self, Sandbox};
use tempfile::TempDir;
use tokio::net::TcpSocket;

use crate::edge::{Edge, Step, listing};
use crate::support::{AMPLE, MILLI, Running, dead, display, settings, settings_at, until};

/// The longest wait between two attempts, which is what a `Retry-After` counts up to.
const LONGEST: Duration = Duration::from_secs(1);
/// `target.timeout` of what hangs or drips, which takes it once.
const SHORT: Duration = Duration::from_secs(1);
/// `delivery.max_answer`.
const MAX_ANSWER: usize = 64 * 1_024;

/// The rows of the table of answers, and what it lets follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Row {
    /// 2xx, every `id` listed: the events are removed.
    Listed,
    /// 2xx, an `id` missing: those listed are removed, the others tried again.
    Missing,
    /// 2xx, body not JSON or over our limit: unknown, tried again.
    Unreadable,
    /// 204: all are removed.
    Accepted,
    /// 400: more than one event is split in halves, which are sent at once; one alone becomes a dead letter.
    Invalid,
    /// 413: as 400.
    TooLarge,
    /// 401, 403, 404, 3xx: tried again; many of them pause the host, which the scheduler's tests show.
    Misconfigured,
    /// 420: tried again.
    SessionBusy,
    /// 408, 425, 429, 5xx: tried again, after `Retry-After`.
    NotNow,
    /// Other 4xx: as 400.
    Refused,
    /// Connect, TLS or DNS failure, reset, timeout, also in the body of a 2xx: unknown, tried again. TLS and DNS have tests of
    /// their own.
    Failed,
    /// Any other status, which the table does not name: tried again.
    Unnamed,
}

impl Row {
    const ALL: [Self; 12] = [
        Self::Listed,
        Self::Missing,
        Self::Unreadable,
        Self::Accepted,
        Self::Invalid,
        Self::TooLarge,
        Self::Misconfigured,
        Self::SessionBusy,
        Self::NotNow,
        Self::Refused,
        Self::Failed,
        Self::Unnamed,
    ];

    /// How many notifications each request carries, in order, where the first has `events`, `listed` of them in the answer;
    /// and how many become dead letters.
    fn follows(self, events: usize, listed: usize) -> (Vec<usize>, usize) {
        match self {
            Self::Listed | Self::Accepted => (vec![events], 0),
            Self::Missing => (vec![events, events - listed], 0),
            Self::Invalid | Self::TooLarge | Self::Refused if events == 1 => (vec![1], 1),
            Self::Invalid | Self::TooLarge | Self::Refused => {
                (vec![events, events.div_ceil(2), events / 2], 0)
            }
            Self::Unreadable
            | Self::Misconfigured
            | Self::SessionBusy
            | Self::NotNow
            | Self::Failed
            | Self::Unnamed => (vec![events, events], 0),
        }
    }
}

#[derive(Clone)]
struct Case {
    row: Row,
    name: String,
    step: Step,
    events: usize,
    /// How many of them the answer lists.
    listed: usize,
    /// The least time between the first two requests.
    least: Duration,
}

fn case(row: Row, name: impl Into<String>, step: Step) -> Case {
    Case { row, name: name.into(), step, events: 2, listed: 0, least: Duration::ZERO }
}

fn http(status: &str, headers: &str, body: &str) -> Step {
    Step::Answer(
        format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()).into_bytes(),
    )
}

fn after(text: &str, more: &str) -> Vec<u8> {
    [text.as_bytes(), &listing(more)].concat()
}

fn refused(row: Row, status: u16) -> Case {
    let words = format!("no\u{1b}[31m {status}");
    let step = http(
        &format!("{status} No"),
        "",
        &format!(r#"{{"message":"{}"}}"#, words.replace("\u{1b}", "\\u001b")),
    );
    Case { events: 1, ..case(row, format!("{status}, single"), step) }
}

/// Answers that say what became of the events.
fn processed() -> Vec<Case> {
    let answer = |text: &str| Step::Answer(listing(text));
    // What stands between may call a success as it likes.
    let named = |status: &str, text: &str| {
        let text = String::from_utf8(listing(text)).expect("text").replacen("200 OK", status, 1);
        Step::Answer(text.into_bytes())
    };
    let no_content = Step::Answer(
        b"HTTP/1.1 204 No Content

"
        .to_vec(),
    );
    let hints = "HTTP/1.1 103 Early Hints
link: </x>

";
    vec![
        case(Row::Listed, "200, all listed", answer("{ids}")),
        case(Row::Listed, "201", named("201 Created", "{ids}")),
        case(Row::Listed, "202", named("202 Accepted", "{ids}")),
        case(Row::Listed, "203", named("203 Non-Authoritative Information", "{ids}")),
        case(Row::Listed, "206", named("206 Partial Content", "{ids}")),
        case(Row::Listed, "207", named("207 Multi-Status", "{ids}")),
        case(Row::Listed, "226", named("226 IM Used", "{ids}")),
        case(Row::Listed, "299", named("299 Well", "{ids}")),
        Case { events: 3, listed: 2, ..case(Row::Missing, "200, one missing", answer("{most}")) },
        Case {
            events: 3,
            listed: 2,
            ..case(Row::Missing, "202, one missing", named("202 Accepted", "{most}"))
        },
        case(Row::Missing, "206, none listed", http("206 Partial", "", "{}")),
        case(Row::Missing, "200, none listed", answer("[]")),
        case(Row::Missing, "200, others listed", answer(r#"[{"id":"x"},{"id":7},{}]"#)),
        case(Row::Accepted, "204", no_content),
        case(
            Row::Listed,
            "100 before",
            Step::Answer(after(
                "HTTP/1.1 100 Continue

",
                "{ids}",
            )),
        ),
        case(Row::Listed, "103 before", Step::Answer(after(hints, "{ids}"))),
    ]
}

/// Bodies of a 2xx that cannot be read, or break off: unknown, tried again.
fn unreadable() -> Vec<Case> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    let broken = |text: String| Step::Break(text.into_bytes());
    let gzip = format!("{head}content-encoding: gzip\r\ncontent-length: 5\r\n\r\nhello");
    let large = format!("{{\"notifications\":[],\"x\":\"{}\"}}", "y".repeat(MAX_ANSWER));
    vec![
        case(Row::Unreadable, "200, no JSON", http("200 OK", "", "<html>")),
        case(Row::Unreadable, "200, empty", http("200 OK", "", "")),
        case(
            Row::Failed,
            "200, cut off",
            broken(format!("{head}content-length: 99\r\n\r\n{{\"notifications\":{{ids}}")),
        ),
        case(
            Row::Unreadable,
            "200, length too short",
            broken(format!("{head}content-length: 5\r\n\r\n{{\"notifications\":{{ids}}}}")),
        ),
        case(
            Row::Failed,
            "200, broken chunk",
            broken(format!("{head}transfer-encoding: chunked\r\n\r\nzz\r\n{{}}")),
        ),
        case(
            Row::Failed,
            "200, cut in a chunk",
            broken(format!("{head}transfer-encoding: chunked\r\n\r\nff\r\n{{")),
        ),
        case(Row::Unreadable, "200, no gzip", broken(gzip)),
        case(Row::Unreadable, "200, over the limit", http("200 OK", "", &large)),
        case(
            Row::Unreadable,
            "200, endless",
            Step::Endless(format!("{head}\r\n{{\"x\":\"").into_bytes(), vec![b'y'; 4_096]),
        ),
        case(Row::Unreadable, "202, empty", http("202 Accepted", "", "")),
        case(
            Row::Unreadable,
            "206, cut in the JSON",
            http("206 Partial", "", "{\"notifications\":[{\"id\":\"x\"}"),
        ),
        case(Row::Unnamed, "205", http("205 Reset", "", "")),
    ]
}

/// Refusals of the request, of the account, and of the moment.
fn refusals(trap: &str) -> Vec<Case> {
    let status = |code: u16| http(&format!("{code} No"), "", r#"{"message":"no"}"#);
    let mut cases = vec![];
    for (row, codes) in [
        (Row::Invalid, &[400][..]),
        (Row::TooLarge, &[413]),
        (Row::Refused, &[402, 405, 409, 410, 422, 431, 451, 499]),
    ] {
        for code in codes {
            cases.push(refused(row, *code));
            cases.push(Case { events: 4, ..case(row, format!("{code}, several"), status(*code)) });
        }
    }
    for (row, codes) in [
        (Row::Misconfigured, &[401, 403, 404][..]),
        (Row::SessionBusy, &[420]),
        (Row::NotNow, &[408, 425, 429, 500, 501, 502, 503, 504, 599]),
        (Row::Unnamed, &[600, 999]),
    ] {
        cases.extend(codes.iter().map(|code| case(row, code.to_string(), status(*code))));
    }
    for code in [300, 301, 302, 303, 304, 307, 308] {
        let step = http(&format!("{code} Elsewhere"), &format!("location: {trap}\r\n"), "");
        cases.push(case(Row::Misconfigured, code.to_string(), step));
    }
    let switch = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n";
    cases.push(case(Row::Unnamed, "101", Step::Answer(switch.to_vec())));
    cases
}

/// `Retry-After` in every form; it binds up to the longest wait.
fn retry_after() -> Vec<Case> {
    let date = |at: SystemTime| httpdate::fmt_http_date(at);
    let (past, future) = (SystemTime::UNIX_EPOCH, SystemTime::now() + Duration::from_secs(86_400));
    let mut cases = vec![];
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
            cases.push(Case { least, ..case(Row::NotNow, format!("{code}, Retry-After {value:?}"), step) });
        }
    }
    cases
}

/// No answer, or no HTTP.
fn failures() -> Vec<Case> {
    let broken = |text: &str| Step::Break(text.as_bytes().to_vec());
    let headers =
        b"x-more: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n".to_vec();
    let line = b"HTTP/1.1 200 OK\r\n".to_vec();
    vec![
        case(Row::Failed, "closed without an answer", broken("")),
        case(Row::Failed, "reset before the request was read", Step::ResetBefore),
        case(Row::Failed, "reset after the request was read", Step::ResetAfter),
        case(Row::Failed, "cut in the headers", broken("HTTP/1.1 200 OK\r\ncontent-le")),
        case(Row::Failed, "no HTTP", broken("SSH-2.0-OpenSSH_9.9\r\n")),
        case(Row::Failed, "binary", Step::Break(vec![0, 255, 13, 10, 22, 3, 1])),
        case(Row::Failed, "HTTP/0.9", broken("{\"notifications\":{ids}}")),
        case(Row::Failed, "a status of letters", broken("HTTP/1.1 abc OK\r\n\r\n")),
        case(Row::Failed, "a status of 99", broken("HTTP/1.1 99 Low\r\n\r\n")),
        case(
            Row::Failed,
            "two lengths",
            broken("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}"),
        ),
        case(Row::Failed, "a negative length", broken("HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\n{}")),
        case(Row::Failed, "endless headers", Step::Endless(line.clone(), headers)),
        case(
            Row::Failed,
            "an endless header",
            Step::Endless([&line[..], b"x: "].concat(), vec![b'y'; 4_096]),
        ),
    ]
}

/// What lasts longer than it may.
fn waits() -> Vec<Case> {
    let hundreds = Step::Endless(vec![], b"HTTP/1.1 100 Continue\r\n\r\n".to_vec());
    let body = [&listing("{ids}")[..], &[b' '; 1_000]].concat();
    vec![
        case(Row::Failed, "hangs", Step::Hang),
        case(Row::Failed, "endless 100s", hundreds),
        case(Row::Failed, "drips in the headers", Step::Drip(after("HTTP/1.1 200 OK\r\n", "{ids}"))),
        case(Row::Failed, "drips in the body", Step::Drip(body)),
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

/// Holds a daemon to the table: `exactly`, or with more requests than it names.
async fn hold(cases: &[Case], timeout: Duration, exactly: bool) {
    let (folder, edge) = (TempDir::new().expect("a folder"), Edge::default());
    let (address, serving) = edge.listen().await;
    let mut settings = settings_at(&folder, format!("http://{address}"));
    (settings.transport.timeout, settings.transport.max_answer) = (timeout, MAX_ANSWER);
    settings.schedule.max_hosts = 500;
    settings.schedule.concurrency = 500;
    settings.schedule.backoff.max = LONGEST;
    // So short that a wait which was not asked for is seldom taken for one that was.
    settings.schedule.backoff.initial = MILLI;
    let running = Running::start(settings.clone()).await;
    let mut lines = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        edge.script(&session(number), vec![case.step.clone()]);
        lines.push(submission(number, case.events));
    }
    lines.extend((0..200).map(|number| display(&format!("good{number}"), "1")));
    let all = cases.iter().map(|case| case.events as u64).sum::<u64>() + 200;
    let buried: usize = cases.iter().map(|case| case.row.follows(case.events, case.listed).1).sum();
    let replies = running.submit(lines).await;
    assert!(replies.iter().all(|reply| reply["status"] == "queued"), "{replies:?}");
    let (balance, dead_letters) = (running.settled(all).await, buried as u64);
    assert_eq!(
        balance,
        Balance { accepted: all, delivered: all - dead_letters, dead: dead_letters, ..Balance::default() }
    );
    running.stop().await;

    let mut wrong = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let asked = edge.asked(&session(number));
        let sizes: Vec<usize> = asked.iter().map(|one| one.ids.len()).collect();
        let listed = edge.listed(&session(number));
        let (mut requests, dead) = case.row.follows(case.events, case.listed);
        if matches!(case.step, Step::ResetBefore) {
            // Nobody read what it carried.
            requests[0] = 0;
        }
        let as_named = if exactly { sizes == requests } else { sizes.starts_with(&requests) };
        // A 204 lists nothing.
        let once =
            !exactly || case.row == Row::Accepted || dead > 0 || listed.iter().all(|count| *count == 1);
        let waited = asked.get(1).is_none_or(|second| second.at - asked[0].at >= case.least);
        let home = asked.iter().all(|one| one.path.starts_with(&format!("/edge{}/", 100 + number)));
        if !as_named || !once || !waited || !home {
            wrong.push(format!(
                "{:?}, {}: {sizes:?}, not {requests:?}; listed {listed:?}, waited: {waited}, home: {home}",
                case.row, case.name
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!((0..200).all(|number| !exactly || edge.listed(&format!("good{number}")) == [1]));
    assert_eq!(edge.changed(), 0);
    for (_, reason, detail) in dead(&settings).await {
        assert!(
            reason == "refused" && detail.starts_with("HTTP 4") && detail.contains(": no [31m 4"),
            "{reason}: {detail:?}"
        );
    }
    serving.abort();
}

fn answered(trap: &str) -> Vec<Case> {
    [processed(), unreadable(), refusals(trap), retry_after(), failures()].into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_answer_has_the_consequence_that_the_table_names() {
    let trap = Edge::default();
    let (address, trapping) = trap.listen().await;
    hold(&answered(&format!("http://{address}/")), AMPLE, true).await;
    assert!(trap.asked("").is_empty(), "a redirect was followed");
    trapping.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_or_drips_is_given_up_and_tried_again() {
    // With a timeout so short a machine that stalls makes more requests of it, and never fewer.
    hold(&waits(), SHORT, false).await;
}

#[test]
fn each_row_of_the_table_is_tried() {
    let cases = [answered("http://127.0.0.1:1/"), waits()].concat();
    for row in Row::ALL {
        assert!(cases.iter().any(|case| case.row == row), "{row:?} has no case");
    }
    let mut names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "two cases have one name: {names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_hangs_holds_up_no_other() {
    let (folder, edge) = (TempDir::new().expect("a folder"), Edge::default());
    let (address, serving) = edge.listen().await;
    let mut settings = settings_at(&folder, format!("http://{address}"));
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
    until(|| (0..hanging).all(|number| !edge.asked(&format!("hang{number}")).is_empty())).await;
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
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_answers_break_off_is_left_alone() {
    let (folder, broken, own) = (TempDir::new().expect("a folder"), Edge::default(), Edge::default());
    let ((edges, breaking), (address, serving)) = (broken.listen().await, own.listen().await);
    let mut settings = settings_at(&folder, format!("http://{address}"));
    settings.transport.edge_endpoint = Some(format!("http://{edges}/edge{{cluster}}"));
    settings.schedule.backoff.initial = MILLI;
    // Longer than the test: it is not probed again.
    let hour = Duration::from_secs(3_600);
    (settings.schedule.breaker_open, settings.schedule.breaker_max) = (hour, hour);
    let running = Running::start(settings).await;
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n";
    let cut = Step::Break(format!("{head}{{\"notifications\":{{ids}}").into_bytes());
    for number in 0..20 {
        broken.script(&format!("s{number}"), vec![cut.clone(); 50]);
    }
    running.submit((0..20).map(|number| display(&format!("s{number}"), "1")).collect()).await;
    assert_eq!(running.settled(20).await.delivered, 20);
    running.stop().await;
    // The client's own host took over, long before the other one was done with its script.
    assert!((0..20).all(|number| own.listed(&format!("s{number}")) == [1]));
    breaking.abort();
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_is_tried_again_until_somebody_listens() {
    let (folder, edge) = (TempDir::new().expect("a folder"), Edge::default());
    // Who is bound and does not listen refuses, and nobody else may have the port.
    let unheard = TcpSocket::new_v4().expect("a socket");
    unheard.bind(([127, 0, 0, 1], 0).into()).expect("a port");
    let address = unheard.local_addr().expect("an address");
    let sandbox = Sandbox::start(sandbox::Settings::default()).expect("the sandbox listens");
    let mut settings = settings(&folder, &sandbox);
    // The client's own host refuses; an edge host serves all the while.
    settings.transport.endpoint = format!("http://{address}");
    let running = Running::start(settings).await;
    let own = (0..50).map(|number| format!(r#"{{"session_id":"s{number}","type":"click","id":"1"}}"#));
    running.submit(own.collect()).await;
    running.submit((0..50).map(|number| display(&format!("good{number}"), "1")).collect()).await;
    assert_eq!(running.until(|balance| balance.delivered >= 50).await.pending(), 50);
    let serving = edge.accept(unheard.listen(1_024).expect("it listens"));
    assert_eq!(running.settled(100).await.delivered, 100);
    running.stop().await;
    assert!((0..50).all(|number| edge.listed(&format!("s{number}")) == [1]));
    serving.abort();
    sandbox.stop().await;
}
