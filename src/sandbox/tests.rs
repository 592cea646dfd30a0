mod faults;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::event::{Cluster, Host};

const PATH: &str = "/rest/v1/delivery?client=acme&imsOrgId=1%40AdobeOrg&sessionId=s1";

fn start() -> Sandbox {
    Sandbox::start(Settings { seed: 7, ..Settings::default() }).expect("a free port")
}

fn with(faults: Faults) -> Sandbox {
    let sandbox = start();
    sandbox.faults(faults);
    sandbox
}

fn notification(id: &str) -> Value {
    let impression = format!("i-{id}");
    let mbox = json!({ "name": "m" });
    json!({ "id": id, "type": "display", "timestamp": 1, "impressionId": impression, "mbox": mbox })
}

fn request(ids: &[&str]) -> Value {
    let notifications: Vec<Value> = ids.iter().map(|id| notification(id)).collect();
    json!({ "requestId": "r1", "context": { "channel": "web" }, "notifications": notifications })
}

fn with_member(mut value: Value, name: &str, member: Value) -> Value {
    value[name] = member;
    value
}

/// What came back before the connection was closed: the status, the header and the body.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("the body is JSON")
    }

    fn listed(&self) -> Vec<String> {
        let json = self.json();
        let listed = json["notifications"].as_array().expect("a list");
        listed.iter().map(|one| one["id"].as_str().expect("an id").to_owned()).collect()
    }
}

async fn connect(sandbox: &Sandbox) -> TcpStream {
    TcpStream::connect(sandbox.address()).await.expect("somebody listens")
}

/// Sends one request on a connection of its own; `None` where it was closed without an answer.
async fn send(sandbox: &Sandbox, method: &str, path: &str, body: &[u8]) -> Option<Answer> {
    let mut stream = connect(sandbox).await;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: target\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    // A fault may close the connection while we write.
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(body).await;
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    let text = String::from_utf8(bytes).expect("an answer is text");
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Some(Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() })
}

async fn post(sandbox: &Sandbox, body: &Value) -> Option<Answer> {
    send(sandbox, "POST", PATH, body.to_string().as_bytes()).await
}

async fn answer(sandbox: &Sandbox, body: &Value) -> Answer {
    post(sandbox, body).await.expect("an answer")
}

#[tokio::test]
async fn a_good_request_is_taken_and_listed() {
    let sandbox = start();
    let body = with_member(request(&["1", "2"]), "id", json!({ "thirdPartyId": "t" }));
    let answer = answer(&sandbox, &body).await;
    let json = answer.json();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.listed(), ["1", "2"]);
    assert_eq!(
        (&json["client"], &json["requestId"], &json["status"]),
        (&json!("acme"), &json!("r1"), &json!(200))
    );
    let home = mark::home("s1");
    assert_eq!(json["edgeHost"], format!("mboxedge{home}.tt.omtrdc.net"));
    assert_eq!(json["id"]["thirdPartyId"], "t");
    let tnt_id = json["id"]["tntId"].as_str().expect("a tntId is made up");
    assert!(tnt_id.len() == 37 && tnt_id.ends_with(&format!(".{home}_0")), "{tnt_id}");

    let ledger = sandbox.ledger();
    let records: Vec<Record<'_>> = ledger.records().collect();
    assert_eq!(
        records[1],
        Record {
            order: 1,
            session: "s1",
            id: "2",
            impression: Some(Mark::of_impression("i-2")),
            request: Mark::of_request(&body.to_string()).expect("an object"),
            host: Host::Client,
            times: 1,
        }
    );
    let totals = ledger.totals();
    assert_eq!((totals.requests, totals.takings, totals.impressions, totals.most_at_once), (1, 2, 2, 1));
    assert_eq!((totals.largest_request, totals.connections, totals.answers[&200]), (2, 1, 1));
    assert!(totals.first_taken.is_some() && totals.first_taken <= totals.last_taken);
    sandbox.stop().await;
}

#[tokio::test]
async fn a_repeated_notification_makes_no_new_impression_and_keeps_its_place() {
    let sandbox = start();
    for ids in [&["1"][..], &["2", "1"], &["3"]] {
        answer(&sandbox, &request(ids)).await;
    }
    answer(&sandbox, &with_member(request(&["3"]), "environmentId", json!(5))).await;
    let ledger = sandbox.ledger();
    assert_eq!(ledger.records().map(|record| record.id).collect::<Vec<_>>(), ["1", "2", "3"]);
    let times: Vec<u32> = ledger.records().map(|record| record.times).collect();
    assert_eq!(times, [2, 1, 2]);
    let totals = ledger.totals();
    assert_eq!((totals.takings, totals.repeated, totals.changed, totals.impressions), (5, 2, 1, 3));
    sandbox.stop().await;
}

#[tokio::test]
async fn a_tnt_id_that_was_made_up_is_known_again() {
    let sandbox = start();
    let body = request(&["1"]);
    let made_up = answer(&sandbox, &body).await.json()["id"].clone();
    let second = answer(&sandbox, &with_member(request(&["2"]), "id", made_up.clone())).await;
    assert_eq!(second.json()["id"], made_up);
    let given = with_member(request(&["3"]), "id", json!({ "tntId": "abc.35_0" }));
    assert_eq!(answer(&sandbox, &given).await.json()["id"]["tntId"], "abc.35_0");
    let marks: Vec<Mark> = sandbox.ledger().records().map(|record| record.request).collect();
    assert_eq!(Some(marks[0]), Mark::of_request(&body.to_string()));
    assert_eq!(marks[1], marks[0], "what was submitted had no tntId");
    assert_eq!(Some(marks[2]), Mark::of_request(&given.to_string()));
    assert_ne!(marks[2], marks[0]);
    sandbox.stop().await;
}

#[tokio::test]
async fn beyond_its_bound_the_ledger_only_counts() {
    let settings = Settings { max_records: 2, ..Settings::default() };
    let sandbox = Sandbox::start(settings).expect("a free port");
    answer(&sandbox, &request(&["1", "2", "3"])).await;
    answer(&sandbox, &request(&["1", "3"])).await;
    let ledger = sandbox.ledger();
    assert_eq!(ledger.records().count(), 2);
    assert_eq!((ledger.totals().takings, ledger.totals().repeated, ledger.totals().unrecorded), (5, 1, 2));
    sandbox.stop().await;
}

#[tokio::test]
async fn an_edge_host_is_a_path_prefix() {
    let sandbox = start();
    let body = request(&["1"]).to_string();
    for (path, status) in [
        (format!("/edge35{PATH}"), 200),
        (format!("/edge{PATH}"), 404),
        (format!("/edge12345{PATH}"), 404),
        ("/".to_owned(), 404),
        ("/rest/v2/delivery".to_owned(), 404),
    ] {
        let answer = send(&sandbox, "POST", &path, body.as_bytes()).await.expect("an answer");
        assert_eq!(answer.status, status, "{path}");
    }
    let get = send(&sandbox, "GET", PATH, b"").await.expect("an answer");
    assert!(get.status == 405 && get.head.contains("allow: post"), "{get:?}");
    let edge = Host::Edge(Cluster::parse("35").expect("digits"));
    assert_eq!(sandbox.totals().hosts, [(edge, 1)].into());
    assert_eq!(sandbox.ledger().records().next().map(|record| record.host), Some(edge));
    sandbox.stop().await;
}

#[tokio::test]
async fn the_query_is_checked() {
    let sandbox = start();
    let body = request(&["1"]).to_string();
    let long = "s".repeat(129);
    for (query, says) in [
        ("", "client is missing"),
        ("client=a&sessionId=s", "imsOrgId is missing"),
        ("client=a&imsOrgId=&sessionId=s", "imsOrgId is missing"),
        ("client=a&imsOrgId=o", "sessionId is missing"),
        ("client=a&imsOrgId=o&sessionId=a+b", "sessionId must be printable"),
        ("client=a&imsOrgId=o&sessionId=a%2Fb", "sessionId must be printable"),
        (&format!("client=a&imsOrgId=o&sessionId={long}"), "at most 128"),
    ] {
        let path = format!("/rest/v1/delivery?{query}");
        let answer = send(&sandbox, "POST", &path, body.as_bytes()).await.expect("an answer");
        assert!(answer.status == 400 && answer.body.contains(says), "{query}: {answer:?}");
    }
    assert_eq!((sandbox.totals().refused, sandbox.totals().takings), (7, 0));
    sandbox.stop().await;
}

#[tokio::test]
async fn one_bad_notification_refuses_the_whole_request() {
    let sandbox = start();
    let good = request(&["1", "2"]);
    let bad = |name: &str, member: Value| {
        let mut request = good.clone();
        request["notifications"][1][name] = member;
        request
    };
    for (body, says) in [
        (json!([]), "not a JSON object"),
        (with_member(good.clone(), "context", Value::Null), "context is missing"),
        (with_member(good.clone(), "context", json!({})), "channel"),
        (with_member(good.clone(), "context", json!({ "channel": "tv" })), "tv"),
        (with_member(good.clone(), "context", json!(["web", null])), "context: invalid type"),
        (with_member(good.clone(), "property", json!(["token"])), "property: invalid type"),
        (with_member(good.clone(), "notifications", json!([["1", "click", 1]])), "notifications: invalid"),
        (bad("mbox", json!(["name"])), "notifications: invalid type"),
        (bad("view", json!(["name", "key"])), "notifications: invalid type"),
        (with_member(good.clone(), "notifications", json!([])), "at least one"),
        (bad("id", json!("1")), "notification id 1 is not unique"),
        (bad("id", json!("é".repeat(201))), "at most 200"),
        (bad("type", json!("view")), "view"),
        (bad("timestamp", json!(1.5)), "notifications"),
        (bad("timestamp", json!("1")), "notifications"),
        (bad("view", json!({ "key": "k" })), "both mbox and view"),
        (bad("mbox", json!({ "name": "" })), "mbox.name"),
        (bad("mbox", json!({ "name": "m".repeat(251) })), "mbox.name"),
        (bad("impressionId", json!("i".repeat(129))), "impressionId"),
        (bad("tokens", json!(["fine", "POISON x"])), "invalid token \"POISON x\" in notification 2"),
    ] {
        let answer = answer(&sandbox, &body).await;
        let message = answer.json()["message"].as_str().expect("a message").to_owned();
        assert!(answer.status == 400 && message.contains(says), "{says}: {answer:?}");
        assert_eq!(answer.json()["status"], 400);
    }
    let totals = sandbox.totals();
    assert_eq!((totals.refused, totals.takings), (totals.requests, 0));
    assert_eq!(answer(&sandbox, &bad("id", json!("é".repeat(200)))).await.status, 200);
    sandbox.stop().await;
}

#[tokio::test]
async fn a_beacon_is_answered_without_a_body() {
    let sandbox = with(Faults { omit: 1_000, ..Faults::default() });
    let body = with_member(request(&["1"]), "context", json!({ "channel": "web", "beacon": true }));
    let answer = answer(&sandbox, &body).await;
    assert!(answer.status == 204 && answer.body.is_empty(), "{answer:?}");
    assert_eq!(sandbox.totals().takings, 1);
    sandbox.stop().await;
}

#[tokio::test]
async fn a_body_over_60_mb_is_too_large() {
    let sandbox = start();
    let body = vec![b' '; 60 * 1_024 * 1_024 + 1];
    assert_eq!(send(&sandbox, "POST", PATH, &body).await.expect("an answer").status, 413);
    sandbox.stop().await;
}

#[tokio::test]
async fn the_101st_request_of_a_session_at_once_is_too_many() {
    let sandbox = start();
    let mut open = Vec::new();
    for _ in 0..100 {
        let mut stream = connect(&sandbox).await;
        let head =
            format!("POST {PATH} HTTP/1.1\r\nhost: t\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("written");
        // The server asks for the body once it has counted the request.
        let mut asked = [0; 12];
        stream.read_exact(&mut asked).await.expect("an interim answer");
        assert_eq!(&asked, b"HTTP/1.1 100");
        open.push(stream);
    }
    let answer = answer(&sandbox, &request(&["1"])).await;
    assert_eq!(answer.status, 420);
    assert!(answer.body.contains("Too many requests with same session ID"), "{answer:?}");
    assert_eq!(sandbox.totals().most_at_once, 101);
    sandbox.stop().await;
}

#[tokio::test]
async fn a_connection_serves_many_requests() {
    let sandbox = start();
    let mut stream = connect(&sandbox).await;
    let body = request(&["1"]).to_string();
    for _ in 0..3 {
        let head = format!("POST {PATH} HTTP/1.1\r\nhost: t\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(head.as_bytes()).await.expect("written");
        let mut answer = Vec::new();
        while !answer.ends_with(b"]}") {
            answer.push(stream.read_u8().await.expect("an answer"));
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 "));
    }
    assert_eq!((sandbox.totals().connections, sandbox.totals().repeated), (1, 2));
    sandbox.stop().await;
}

/// Writes the shortest conversation in HTTP/2 by hand, for want of a client: the preface, empty settings, and
/// a ping.
#[tokio::test]
async fn http_2_is_spoken_without_tls() {
    let sandbox = start();
    let mut stream = connect(&sandbox).await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("written");
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.expect("written");
    stream.write_all(&[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]).await.expect("written");
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.expect("a frame");
        let mut payload = vec![0; usize::from(head[1]) * 256 + usize::from(head[2])];
        stream.read_exact(&mut payload).await.expect("a payload");
        if head[3] == 6 && head[4] == 1 {
            assert_eq!(payload, [1, 2, 3, 4, 5, 6, 7, 8]);
            break;
        }
    }
    sandbox.stop().await;
}
