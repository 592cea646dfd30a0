use super::*;

fn plain() -> Defaults {
    Defaults {
        impression_id: false,
        channel: true,
        time_offset: None,
        analytics_logging: false,
        property_token: None,
        environment_id: None,
    }
}

fn parsed(line: &str, defaults: &Defaults) -> Submission {
    Submission::parse(line.as_bytes(), defaults, 1_700_000_000_000)
        .unwrap_or_else(|why| panic!("{line}: {why:?}"))
}

fn members(submission: &Submission) -> &str {
    std::str::from_utf8(&submission.envelope.members).unwrap()
}

fn json(submission: &Submission, position: usize) -> &str {
    std::str::from_utf8(&submission.notifications[position].json).unwrap()
}

#[test]
fn a_full_request_passes_through_byte_for_byte() {
    let line = r#"{"session_id":"s","ref":"r","request":{"requestId":"x","context":{"channel":"web", "new":[1e999]},
        "future":{"a":null},"notifications":[{"id":"n","type":"display","timestamp":1,"odd":0.10,"mbox":{"name":"home","state":"ö"}}]}}"#;
    let read = parsed(line, &plain());
    assert_eq!(read.envelope.session.as_str(), "s");
    assert_eq!(read.reference.as_deref(), Some("r"));
    assert_eq!(read.notifications[0].id.as_str(), "n");
    assert_eq!(
        json(&read, 0),
        r#"{"id":"n","type":"display","timestamp":1,"odd":0.10,"mbox":{"name":"home","state":"ö"}}"#
    );
    assert_eq!(members(&read), r#""context":{"channel":"web","new":[1e999]},"future":{"a":null}"#);
}

#[test]
fn what_is_absent_is_filled_in_once() {
    let defaults = Defaults {
        impression_id: true,
        time_offset: Some(60),
        analytics_logging: true,
        property_token: Some("p".to_owned()),
        environment_id: Some(7),
        ..plain()
    };
    let read = parsed(r#"{"type":"click","mbox":{"name":"a"}}"#, &defaults);
    assert_eq!(
        members(&read),
        r#""context":{"channel":"web","timeOffsetInMinutes":60},"experienceCloud":{"analytics":{"logging":"server_side"}},"property":{"token":"p"},"environmentId":7"#
    );
    let value: serde_json::Value = serde_json::from_str(json(&read, 0)).unwrap();
    assert_eq!(value["id"].as_str(), Some(read.notifications[0].id.as_str()));
    assert_eq!(value["timestamp"], 1_700_000_000_000_u64);
    assert_eq!(value["impressionId"].as_str().map(str::len), Some(36));
    assert_eq!(read.envelope.session.as_str().len(), 36);
    let given = parsed(
        r#"{"type":"click","property":{"token":"own"},"environmentId":8,"context":{"channel":"mobile","timeOffsetInMinutes":-5}}"#,
        &defaults,
    );
    assert!(members(&given).contains(r#""property":{"token":"own"},"environmentId":8"#));
    assert!(members(&given).contains(r#"{"channel":"mobile","timeOffsetInMinutes":-5}"#));
    assert_ne!(given.envelope.owner, read.envelope.owner);
}

#[test]
fn nulls_of_known_members_are_not_sent_on() {
    let read = parsed(
        r#"{"session_id":null,"id":"n","type":"click","timestamp":2,"view":null,"mbox":{"name":"a","state":null,"x":null}}"#,
        &plain(),
    );
    assert_eq!(json(&read, 0), r#"{"id":"n","type":"click","timestamp":2,"mbox":{"name":"a","x":null}}"#);
}

#[test]
fn identity_comes_from_cookie_option_and_request() {
    let read = parsed(
        r#"{"type":"click","session_id":"option","target_cookie":"session#cookie#1800000000|PC#dev.35_0#1800000000","targetLocationHint":"34",
            "customerIds":{"crm":"1","app":{"id":"2","authState":1}},"visitor":{"customerIds":[{"id":"3","integrationCode":"x","authenticatedState":"logged_out"}]}}"#,
        &plain(),
    );
    assert_eq!(read.envelope.session.as_str(), "cookie");
    assert_eq!(read.envelope.cluster.map(|cluster| cluster.to_string()).as_deref(), Some("35"));
    assert_eq!(
        members(&read),
        r#""id":{"customerIds":[{"id":"1","integrationCode":"crm","authenticatedState":"unknown"},{"id":"2","integrationCode":"app","authenticatedState":"authenticated"},{"id":"3","integrationCode":"x","authenticatedState":"logged_out"}],"tntId":"dev.35_0"},"context":{"channel":"web"}"#
    );
    let own = parsed(
        r#"{"type":"click","target_location_hint":"34","target_cookie":"PC#dev#1800000000","visitor":{"tntId":"mine"}}"#,
        &plain(),
    );
    assert!(members(&own).contains(r#""tntId":"mine""#));
    assert_eq!(own.envelope.cluster.map(|cluster| cluster.to_string()).as_deref(), Some("34"));
}

#[test]
fn equal_submissions_share_an_envelope() {
    let line = r#"{"session_id":"s","type":"click","visitor":{"thirdPartyId":"t"}}"#;
    let (first, second) = (parsed(line, &plain()), parsed(line, &plain()));
    assert_eq!(first.envelope, second.envelope);
    assert_ne!(first.notifications[0].id, second.notifications[0].id);
    assert_eq!(first.payload_bytes(), second.payload_bytes());
}

/// A line around one notification in the long form.
fn long(notification: &str) -> String {
    format!(r#"{{"request":{{"notifications":[{notification}]}}}}"#)
}

#[test]
fn bad_lines_are_refused_at_their_path() {
    let n = "request.notifications[0]";
    let at = |rest: &str| format!("{n}{rest}");
    let click = |rest: &str| long(&format!(r#"{{"type":"click",{rest}}}"#));
    let request = |rest: &str| format!(r#"{{"request":{{{rest},"notifications":[{{"type":"click"}}]}}}}"#);
    let text = |len: usize| "x".repeat(len);
    let many = |count: usize| (0..count).map(|i| format!(r#""p{i}":"v""#)).collect::<Vec<_>>().join(",");
    let id = r#"{"id":"1","integrationCode":"c","authenticatedState":"unknown"}"#;
    let fifty_one = vec![id; 51].join(",");
    let cases: Vec<(String, &str, Option<String>)> = vec![
        ("{".into(), "malformed_json", None),
        ("nonsense".into(), "malformed_json", None),
        (r#"{"type":"click"} {}"#.into(), "malformed_json", None),
        (r#"{"type":"click","timestamp":01}"#.into(), "malformed_json", None),
        (format!("{}{}", "[".repeat(65), "]".repeat(65)), "malformed_json", None),
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
        (format!(r#"{{"ref":"{}","type":"click"}}"#, text(129)), "invalid_event", Some("ref".into())),
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
            format!(r#"{{"customer_ids":[{fifty_one}],"type":"click"}}"#),
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
    ];
    assert!(cases.len() >= 60);
    for (line, code, path) in cases {
        let why = Submission::parse(line.as_bytes(), &plain(), 0).expect_err(&line);
        assert_eq!((why.code.as_str(), why.path), (code, path), "{line}");
    }
    let broken = Submission::parse(b"{\"type\":\"\xff\"}", &plain(), 0).expect_err("broken UTF-8");
    assert_eq!(broken.code, Code::MalformedJson);
}

#[test]
fn a_refusal_carries_a_valid_ref() {
    let refused = |line: &str| Submission::parse(line.as_bytes(), &plain(), 0).expect_err(line).reference;
    assert_eq!(refused(r#"{"nonsense":1,"ref":"r"}"#).as_deref(), Some("r"));
    assert_eq!(refused(r#"{"nonsense":1,"ref":7}"#), None);
}
