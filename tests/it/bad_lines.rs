//! Every rule of a line, broken once: the code and the path of the refusal, and that it harms no other line.

use target_notifyd::sandbox::{self, Sandbox};
use tempfile::TempDir;

use crate::support::{Running, display, settings};

/// A line that is refused, the code, and the path.
type Case = (Vec<u8>, &'static str, Option<String>);

/// A line around one notification in the long form.
fn long(notification: &str) -> Vec<u8> {
    format!(r#"{{"request":{{"notifications":[{notification}]}}}}"#).into_bytes()
}

fn cases() -> Vec<Case> {
    let n = "request.notifications[0]";
    let at = |rest: &str| format!("{n}{rest}");
    let click = |rest: &str| long(&format!(r#"{{"type":"click",{rest}}}"#));
    let request =
        |rest: &str| format!(r#"{{"request":{{{rest},"notifications":[{{"type":"click"}}]}}}}"#).into_bytes();
    let text = |len: usize| "x".repeat(len);
    let many = |count: usize| (0..count).map(|i| format!(r#""p{i}":"v""#)).collect::<Vec<_>>().join(",");
    let id = r#"{"id":"1","integrationCode":"c","authenticatedState":"unknown"}"#;
    let fifty_one = vec![id; 51].join(",");
    vec![
        ("{".into(), "malformed_json", None),
        ("nonsense".into(), "malformed_json", None),
        (r#"{"type":"click"} {}"#.into(), "malformed_json", None),
        (r#"{"type":"click","timestamp":01}"#.into(), "malformed_json", None),
        (format!("{}{}", "[".repeat(65), "]".repeat(65)).into(), "malformed_json", None),
        ("[]".into(), "invalid_event", Some(String::new())),
        ("7".into(), "invalid_event", Some(String::new())),
        ("{}".into(), "invalid_event", Some("request".into())),
        (r#"{"request":null}"#.into(), "invalid_event", Some("request".into())),
        (r#"{"request":[]}"#.into(), "invalid_event", Some("request".into())),
        (r#"{"sesion_id":"s","type":"click"}"#.into(), "unknown_field", Some("sesion_id".into())),
        (r#"{"request":{},"mbox":{}}"#.into(), "unknown_field", Some("mbox".into())),
        (
            r#"{"session_id":"a","sessionId":"b","type":"click"}"#.into(),
            "invalid_event",
            Some("sessionId".into()),
        ),
        (r#"{"session_id":"a","session_id":"b"}"#.into(), "invalid_event", Some("session_id".into())),
        (r#"{"session_id":7,"type":"click"}"#.into(), "invalid_event", Some("session_id".into())),
        (r#"{"session_id":"a b","type":"click"}"#.into(), "invalid_event", Some("session_id".into())),
        (r#"{"session_id":"a/b","type":"click"}"#.into(), "invalid_event", Some("session_id".into())),
        (r#"{"session_id":"","type":"click"}"#.into(), "invalid_event", Some("session_id".into())),
        (r#"{"target_cookie":7,"type":"click"}"#.into(), "invalid_event", Some("target_cookie".into())),
        (
            r#"{"target_location_hint":"12345","type":"click"}"#.into(),
            "invalid_event",
            Some("target_location_hint".into()),
        ),
        (
            r#"{"targetLocationHint":35,"type":"click"}"#.into(),
            "invalid_event",
            Some("targetLocationHint".into()),
        ),
        (r#"{"consumer_id":"","type":"click"}"#.into(), "invalid_event", Some("consumer_id".into())),
        (r#"{"receipt":"yes","type":"click"}"#.into(), "invalid_event", Some("receipt".into())),
        (format!(r#"{{"ref":"{}","type":"click"}}"#, text(129)).into(), "invalid_event", Some("ref".into())),
        (r#"{"customer_ids":"x","type":"click"}"#.into(), "invalid_event", Some("customer_ids".into())),
        (
            r#"{"customer_ids":[{"id":"1"}],"type":"click"}"#.into(),
            "invalid_event",
            Some("customer_ids[0].integrationCode".into()),
        ),
        (
            r#"{"customer_ids":[{"id":7}],"type":"click"}"#.into(),
            "invalid_event",
            Some("customer_ids[0].id".into()),
        ),
        (
            r#"{"customer_ids":{"a":{"id":"1","authState":3}},"type":"click"}"#.into(),
            "invalid_event",
            Some("customer_ids.a.authState".into()),
        ),
        (
            r#"{"customer_ids":{"a":{}},"type":"click"}"#.into(),
            "invalid_event",
            Some("customer_ids.a.id".into()),
        ),
        (
            format!(r#"{{"customer_ids":[{fifty_one}],"type":"click"}}"#).into(),
            "invalid_event",
            Some("customer_ids".into()),
        ),
        (r#"{"request":{}}"#.into(), "invalid_event", Some("request.notifications".into())),
        (r#"{"request":{"telemetry":{}}}"#.into(), "invalid_event", Some("request.notifications".into())),
        (r#"{"request":{"notifications":[]}}"#.into(), "invalid_event", Some("request.notifications".into())),
        (r#"{"request":{"notifications":{}}}"#.into(), "invalid_event", Some("request.notifications".into())),
        (long("7"), "invalid_event", Some(at(""))),
        (request(r#""execute":{}"#), "invalid_event", Some("request.execute".into())),
        (request(r#""prefetch":{}"#), "invalid_event", Some("request.prefetch".into())),
        (request(r#""context":7"#), "invalid_event", Some("request.context".into())),
        (request(r#""context":{"channel":"tv"}"#), "invalid_event", Some("request.context.channel".into())),
        (request(r#""context":{"beacon":1}"#), "invalid_event", Some("request.context.beacon".into())),
        (
            request(r#""context":{"user_agent":"x"}"#),
            "invalid_event",
            Some("request.context.user_agent".into()),
        ),
        (
            request(r#""context":{"mobile_platform":{}}"#),
            "invalid_event",
            Some("request.context.mobile_platform".into()),
        ),
        (
            request(r#""context":{"address":{"referring_url":"x"}}"#),
            "invalid_event",
            Some("request.context.address.referring_url".into()),
        ),
        (
            request(r#""qaMode":{"preview_indexes":[]}"#),
            "invalid_event",
            Some("request.qaMode.preview_indexes".into()),
        ),
        (
            request(r#""preview":[{"activity_index":1}]"#),
            "invalid_event",
            Some("request.preview[0].activity_index".into()),
        ),
        (request(r#""environment_id":1"#), "invalid_event", Some("request.environment_id".into())),
        (
            request(r#""environmentId":9223372036854775808"#),
            "invalid_event",
            Some("request.environmentId".into()),
        ),
        (request(r#""property":{"token":7}"#), "invalid_event", Some("request.property.token".into())),
        (request(r#""trace":{}"#), "invalid_event", Some("request.trace.authorizationToken".into())),
        (request(r#""id":{"tntId":"a.b.c"}"#), "invalid_event", Some("request.id.tntId".into())),
        (request(r#""id":{"tnt_id":"a"}"#), "invalid_event", Some("request.id.tnt_id".into())),
        (
            request(r#""id":{"customerIds":[null]}"#),
            "invalid_event",
            Some("request.id.customerIds[0]".into()),
        ),
        (
            request(r#""experienceCloud":{"analytics":{"logging":"both"}}"#),
            "invalid_event",
            Some("request.experienceCloud.analytics.logging".into()),
        ),
        (
            request(r#""experienceCloud":{"analytics":{"supplementalDataId":"0"}}"#),
            "invalid_event",
            Some("request.experienceCloud.analytics.supplementalDataId".into()),
        ),
        (
            request(r#""experienceCloud":{"audienceManager":{"locationHint":0}}"#),
            "invalid_event",
            Some("request.experienceCloud.audienceManager.locationHint".into()),
        ),
        (request(&format!(r#""future":"{}""#, text(70_000))), "invalid_event", Some("request".into())),
        (long("{}"), "invalid_event", Some(at(".type"))),
        (long(r#"{"type":"view"}"#), "invalid_event", Some(at(".type"))),
        (click(&format!(r#""id":"{}""#, text(201))), "invalid_event", Some(at(".id"))),
        (click(r#""timestamp":-1"#), "invalid_event", Some(at(".timestamp"))),
        (click(r#""timestamp":1.0"#), "invalid_event", Some(at(".timestamp"))),
        (click(r#""timestamp":"1""#), "invalid_event", Some(at(".timestamp"))),
        (click(r#""timestamp":99999999999999999999"#), "invalid_event", Some(at(".timestamp"))),
        (click(&format!(r#""impressionId":"{}""#, text(129))), "invalid_event", Some(at(".impressionId"))),
        (click(r#""tokens":"t""#), "invalid_event", Some(at(".tokens"))),
        (click(r#""tokens":[7]"#), "invalid_event", Some(at(".tokens[0]"))),
        (click(r#""mbox":{"name":" "}"#), "invalid_event", Some(at(".mbox.name"))),
        (click(r#""mbox":{}"#), "invalid_event", Some(at(".mbox.name"))),
        (click(r#""mbox":{"name":"a"},"view":{"name":"b"}"#), "invalid_event", Some(at(".view"))),
        (click(&format!(r#""view":{{"key":"{}"}}"#, text(513))), "invalid_event", Some(at(".view.key"))),
        (click(r#""page_load":{}"#), "invalid_event", Some(at(".page_load"))),
        (click(r#""parameters":{"profile.x":"1"}"#), "invalid_event", Some(at(".parameters.profile.x"))),
        (click(r#""parameters":{"orderId":"1"}"#), "invalid_event", Some(at(".parameters.orderId"))),
        (click(r#""parameters":{"a":7}"#), "invalid_event", Some(at(".parameters.a"))),
        (click(&format!(r#""parameters":{{{}}}"#, many(51))), "invalid_event", Some(at(".parameters"))),
        (click(r#""order":{"total":-1}"#), "invalid_event", Some(at(".order.total"))),
        (
            click(r#""order":{"purchasedProductIds":[7]}"#),
            "invalid_event",
            Some(at(".order.purchasedProductIds[0]")),
        ),
        (click(r#""product":{"id":""}"#), "invalid_event", Some(at(".product.id"))),
        (r#"{"type":"click","mbox":{"name":""}}"#.into(), "invalid_event", Some("mbox.name".into())),
        (r#"{"mbox":{"name":"a"}}"#.into(), "invalid_event", Some("type".into())),
        (r#"{"type":"click","visitor":{"tntId":7}}"#.into(), "invalid_event", Some("visitor.tntId".into())),
        (b"{\"type\":\"\xff\"}".to_vec(), "malformed_json", None),
        (b"\x00\x01\x02".to_vec(), "malformed_json", None),
        (vec![b'x'; 10 << 20], "line_too_long", None),
        (r#"{"type":"click","type":"click"}"#.into(), "invalid_event", Some("type".into())),
        (click(r#""mbox":{"name":"a","name":"b"}"#), "invalid_event", Some(at(".mbox.name"))),
        (
            request(r#""context":{"channel":"web"},"context":{}"#),
            "invalid_event",
            Some("request.context".into()),
        ),
        (click(&format!(r#""mbox":{{"name":"{}"}}"#, text(251))), "invalid_event", Some(at(".mbox.name"))),
        (click(&format!(r#""view":{{"name":"{}"}}"#, text(129))), "invalid_event", Some(at(".view.name"))),
        (click(&format!(r#""order":{{"id":"{}"}}"#, text(251))), "invalid_event", Some(at(".order.id"))),
        (
            click(&format!(r#""product":{{"categoryId":"{}"}}"#, text(129))),
            "invalid_event",
            Some(at(".product.categoryId")),
        ),
        (
            format!(r#"{{"session_id":"{}","type":"click"}}"#, text(129)).into(),
            "invalid_event",
            Some("session_id".into()),
        ),
        (
            format!(
                r#"{{"request":{{"notifications":[{}]}}}}"#,
                vec![r#"{"type":"click"}"#; 1_001].join(",")
            )
            .into(),
            "invalid_event",
            Some("request.notifications".into()),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_lines_between_good_ones_are_refused_at_their_path_and_harm_none() {
    let (folder, sandbox) = (TempDir::new().expect("a folder"), Sandbox::start(sandbox::Settings::default()));
    let sandbox = sandbox.expect("the sandbox listens");
    let running = Running::start(settings(&folder, &sandbox)).await;
    let cases = cases();
    assert!(cases.len() >= 60);
    let mut lines = vec![display("good", "first").into_bytes()];
    for (number, (line, ..)) in cases.iter().enumerate() {
        lines.push(line.clone());
        lines.push(display("good", &number.to_string()).into_bytes());
    }
    let replies = running.submit(lines).await;
    assert_eq!(replies.len(), cases.len() * 2 + 1);
    for (number, reply) in replies.iter().enumerate() {
        if number % 2 == 0 {
            assert_eq!(reply["status"], "queued", "{reply}");
            continue;
        }
        let (line, code, path) = &cases[number / 2];
        let line = String::from_utf8_lossy(&line[..line.len().min(200)]);
        assert_eq!(reply["status"], "rejected", "{line}: {reply}");
        assert_eq!(reply["error"]["code"], *code, "{line}: {reply}");
        assert_eq!(reply["error"]["path"].as_str(), path.as_deref(), "{line}: {reply}");
        assert!(reply["error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{line}: {reply}");
    }
    let good = cases.len() as u64 + 1;
    assert_eq!(running.settled(good).await.delivered, good);
    running.stop().await;
    sandbox.stop().await;
}
