//! Receipts: what became of a submission, on the connection that it came by.

use serde_json::{Value, json};
use target_notifyd::sandbox::{self, Faults, Sandbox};
use tempfile::TempDir;

use crate::edge::{Edge, Step};
use crate::support::{Running, settings, settings_at};

fn stage() -> (TempDir, Sandbox) {
    let sandbox = Sandbox::start(sandbox::Settings::default()).expect("the sandbox listens");
    (TempDir::new().expect("a folder"), sandbox)
}

fn line(session: &str, reference: &str, ids: &[&str], token: &str) -> String {
    let event = |id: &&str| json!({ "id": id, "type": "display", "mbox": { "name": "home", "state": "s" }, "tokens": [token] });
    let events: Vec<Value> = ids.iter().map(event).collect();
    json!({ "session_id": session, "ref": reference, "receipt": true, "request": { "notifications": events } })
        .to_string()
}

/// The receipts among the lines, by their `ref`.
fn receipt<'l>(lines: &'l [Value], reference: &str) -> &'l Value {
    let own: Vec<&Value> =
        lines.iter().filter(|line| line["ref"] == reference && line["status"] != "queued").collect();
    assert_eq!(own.len(), 1, "one receipt of {reference} in {lines:?}");
    own[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_tell_what_became_of_each_submission_and_of_no_other() {
    let (folder, sandbox) = stage();
    // What is retried is told once, and in the end.
    sandbox.faults(Faults { error_500: 200, cut: 200, omit: 200, ..Faults::default() });
    let running = Running::start(settings(&folder, &sandbox)).await;
    let mut lines = vec![
        line("s1", "first", &["a", "b"], "t"),
        line("s1", "second", &["c", "a"], "t"),
        line("s1", "poisoned", &["d"], "POISON"),
        line("s2", "twice", &["x", "x"], "t"),
    ];
    // Without the wish there is none.
    lines.push(line("s3", "quiet", &["q"], "t").replace("\"receipt\":true", "\"receipt\":false"));
    let told = running.submit(lines).await;
    assert_eq!(told.len(), 5 + 4, "{told:?}");
    for (reference, ids) in
        [("first", json!(["a", "b"])), ("second", json!(["c", "a"])), ("twice", json!(["x", "x"]))]
    {
        let receipt = receipt(&told, reference);
        assert_eq!((&receipt["status"], &receipt["ids"]), (&json!("delivered"), &ids), "{receipt}");
        let response = &receipt["response"];
        let listed: Vec<&Value> = response["response"]["notifications"]
            .as_array()
            .expect("notifications")
            .iter()
            .map(|one| &one["id"])
            .collect();
        assert_eq!(json!(listed), ids, "only its own: {receipt}");
        assert_eq!(response["response"]["status"], 200);
        assert_eq!(response["target_cookie"]["name"], "mbox");
        let session = if reference == "twice" { "session#s2#" } else { "session#s1#" };
        let cookie = response["target_cookie"]["value"].as_str().expect("a text");
        assert!(cookie.starts_with(session) && cookie.contains("|PC#"), "{cookie}");
        assert_eq!(response["target_location_hint_cookie"]["name"], "mboxEdgeCluster");
        assert_eq!(response["meta"]["decisioning_method"], "server-side");
    }
    let dead = receipt(&told, "poisoned");
    assert_eq!((&dead["status"], &dead["ids"]), (&json!("dead"), &json!([])), "{dead}");
    assert_eq!((&dead["dead"][0]["id"], &dead["dead"][0]["reason"]), (&json!("d"), &json!("refused")));
    assert!(dead["dead"][0]["detail"].as_str().is_some_and(|detail| detail.contains("POISON")), "{dead}");
    running.stop().await;
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_has_nothing_that_an_answer_says_twice() {
    let (folder, edge) = (TempDir::new().expect("a folder"), Edge::default());
    let (address, serving) = edge.listen().await;
    let running = Running::start(settings_at(&folder, format!("http://{address}"))).await;
    for (session, twice) in [("once", false), ("twice", true)] {
        let members = |number| {
            format!(r#""id":{{"tntId":"visitor{number}"}},"edgeHost":"mboxedge3{number}.tt.omtrdc.net""#)
        };
        let more = if twice { format!(",{}", members(2)) } else { String::new() };
        let body = format!(r#"{{"status":200,{}{more},"notifications":{{ids}}}}"#, members(1));
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{body}");
        edge.script(session, vec![Step::Answer(answer.into_bytes())]);
        let told = running.submit(vec![line(session, "r", &["a"], "t")]).await;
        let response = &receipt(&told, "r")["response"];
        let visitor =
            response["target_cookie"]["value"].as_str().is_some_and(|value| value.contains("visitor"));
        let host = !response["target_location_hint_cookie"].is_null();
        assert_eq!((visitor, host), (!twice, !twice), "{response}");
    }
    running.stop().await;
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_204_a_receipt_says_so() {
    let (folder, sandbox) = stage();
    let running = Running::start(settings(&folder, &sandbox)).await;
    let beacon = line("s1", "r", &["a"], "t")
        .replace("\"notifications\"", "\"context\":{\"beacon\":true},\"notifications\"");
    let told = running.submit(vec![beacon]).await;
    assert_eq!(told[1]["response"]["response"], json!({ "status": 204 }), "{told:?}");
    running.stop().await;
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_gone_or_deaf_holds_up_nothing() {
    use tokio::io::AsyncWriteExt;
    let (folder, sandbox) = stage();
    let running = Running::start(settings(&folder, &sandbox)).await;
    let mut gone = tokio::net::UnixStream::connect(&running.socket).await.expect("the daemon listens");
    gone.write_all((line("gone", "r", &["a"], "t") + "\n").as_bytes()).await.expect("the daemon reads");
    running.until(|balance| balance.accepted == 1).await;
    drop(gone);
    let mut deaf = tokio::net::UnixStream::connect(&running.socket).await.expect("the daemon listens");
    let lines: Vec<String> = (0..2_000).map(|id| line("deaf", "r", &[&id.to_string()], "t") + "\n").collect();
    let text = lines.concat();
    // Replies and receipts are more than the socket holds, and nobody reads them.
    let (_, writes) = tokio::join!(
        running.until(|balance| balance.accepted > 100),
        deaf.write_all(&text.as_bytes()[..40_000])
    );
    writes.expect("the daemon reads");
    let told = running.submit(vec![line("other", "r", &["a"], "t")]).await;
    assert_eq!((told.len(), &told[1]["status"]), (2, &json!("delivered")));
    drop(deaf);
    let balance = running.stop().await;
    assert!(balance.accepted > 100);
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_limit_a_line_is_stored_without_a_receipt() {
    let (folder, sandbox) = stage();
    let mut settings = settings(&folder, &sandbox);
    settings.ingest.max_receipts = 2;
    sandbox.faults(Faults { busy_session: Some("s1".to_owned()), ..Faults::default() });
    let running = Running::start(settings).await;
    let lines: Vec<String> = (0..3).map(|id| line("s1", &id.to_string(), &[&id.to_string()], "t")).collect();
    let submitted = running.submit(lines);
    let healed = async {
        running.until(|balance| balance.accepted == 3).await;
        sandbox.faults(Faults::default());
    };
    let (told, ()) = tokio::join!(submitted, healed);
    assert_eq!(told.len(), 5, "{told:?}");
    assert_eq!((&told[1]["receipt"], &told[2]["receipt"]), (&Value::Null, &json!(false)));
    assert_eq!(running.settled(3).await.delivered, 3);
    running.stop().await;
    sandbox.stop().await;
}
