use super::*;

fn plain() -> Defaults {
    Defaults { channel: true, ..Defaults::default() }
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
        time_zone: Some(jiff::tz::TimeZone::fixed(jiff::tz::offset(1))),
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
fn the_time_offset_is_that_of_the_moment() {
    let zone = jiff::tz::TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
    let defaults = Defaults { time_zone: Some(zone), ..plain() };
    // Summer time began on 31 March 2024 at 01:00 UTC.
    for (now, minutes) in [(1_711_846_799_999, 60), (1_711_846_800_000, 120)] {
        let read = Submission::parse(br#"{"type":"click"}"#, &defaults, now).unwrap();
        assert!(members(&read).contains(&format!("\"timeOffsetInMinutes\":{minutes}")), "{}", members(&read));
    }
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
fn null_counts_as_absent_beside_another_spelling_and_beside_a_request() {
    let spelt = |first: &str, second: &str| {
        let line = format!(r#"{{"session_id":{first},"sessionId":{second},"type":"click"}}"#);
        parsed(&line, &plain()).envelope.session.as_str().to_owned()
    };
    assert_eq!((spelt("null", "\"b\"").as_str(), spelt("\"a\"", "null").as_str()), ("b", "a"));
    let beside = |name: &str| {
        let line = format!(r#"{{"{name}":null,"request":{{"notifications":[{{"type":"click"}}]}}}}"#);
        Submission::parse(line.as_bytes(), &plain(), 0).map(drop).map_err(|why| (why.code, why.path))
    };
    for name in ["visitor", "context", "mbox", "timestamp"] {
        assert_eq!(beside(name), Ok(()), "{name}");
    }
    assert_eq!(beside("vistor"), Err((Code::UnknownField, Some("vistor".to_owned()))));
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

#[test]
fn a_bad_line_is_refused_at_its_path() {
    // The whole table is sent over a socket in tests/it/bad_lines.rs.
    let line = r#"{"request":{"notifications":[{"type":"click","mbox":{"name":" "}}]}}"#;
    let why = Submission::parse(line.as_bytes(), &plain(), 0).expect_err(line);
    assert_eq!(
        (why.code, why.path.as_deref()),
        (Code::InvalidEvent, Some("request.notifications[0].mbox.name"))
    );
    let marked = Submission::parse("\u{feff}{}".as_bytes(), &plain(), 0).expect_err("a mark");
    assert_eq!(
        (marked.code, marked.message.as_str()),
        (Code::MalformedJson, "the line begins with a byte order mark: write UTF-8 without one")
    );
    let broken = Submission::parse(b"{\"type\":\"\xff\"}", &plain(), 0).expect_err("broken UTF-8");
    assert_eq!(broken.code, Code::MalformedJson);
}

#[test]
fn names_as_in_python_are_told_where_no_table_has_them_and_others_are_kept() {
    for (members, path) in [
        (r#""context":{"a_b":[{"web_gl_renderer":1}]}"#, "context.a_b[0].web_gl_renderer"),
        (r#""context":{"cross_domain":null}"#, "context.cross_domain"),
    ] {
        let line = format!(r#"{{"type":"click",{members}}}"#);
        let why = Submission::parse(line.as_bytes(), &plain(), 0).expect_err(&line);
        assert_eq!(why.path.as_deref(), Some(path));
    }
    let kept = r#"{"channel":"web","a_b":{"c_d":1,"c_d":2,"\ud800_":3},"new":"mobile_platform"}"#;
    let read = parsed(
        &format!(r#"{{"type":"click","context":{kept},"parameters":{{"device_type":"phone"}}}}"#),
        &plain(),
    );
    assert!(members(&read).contains(kept), "{}", members(&read));
}

#[test]
fn a_refusal_says_what_is_wrong() {
    let ids = vec![r#"{"id":"1","integrationCode":"c","authenticatedState":"unknown"}"#; 50].join(",");
    let cases = [
        (format!(r#""customer_ids":[{ids},{ids}]"#), "has 100 customer ids, at most 50 are taken"),
        (
            format!(r#""customer_ids":{{"crm":"1"}},"visitor":{{"customerIds":[{ids}]}}"#),
            "makes 51 customer ids with those of visitor, at most 50 are taken",
        ),
        (
            r#""customer_ids":{"crm":5}"#.to_owned(),
            "must be an id, which is a string, or an object of an id and its authState",
        ),
        (r#""order":{"total":1e400}"#.to_owned(), "is too large: no number of 64 bits holds it"),
        (r#""order":{"total":-1e400}"#.to_owned(), "must be a number of at least 0"),
        (
            r#""timestamp":1796034187.519"#.to_owned(),
            "must be an integer of at least 0 within 64 bits, in ms since 1970, such as 1796034187519",
        ),
        (
            r#""page_load":{}"#.to_owned(),
            "'page_load' is no field of a submission; the Delivery API spells it 'pageLoad'",
        ),
        (
            r#""environment_id":1"#.to_owned(),
            "'environment_id' is no field of a submission; the Delivery API spells it 'environmentId'",
        ),
        (r#""page":{}"#.to_owned(), "'page' is no field of a submission"),
    ];
    for (members, message) in cases {
        let line = format!(r#"{{"type":"click",{members}}}"#);
        let why = Submission::parse(line.as_bytes(), &plain(), 0).expect_err(&line);
        assert_eq!(why.message, message, "{line}");
    }
}

#[test]
fn both_forms_take_as_many_bytes_beside_the_notification() {
    let context = |bytes: usize| format!(r#"{{"new":"{}"}}"#, "x".repeat(bytes));
    let taken = |line: String| Submission::parse(line.as_bytes(), &plain(), 0).is_ok();
    // `"context":` and a comma, and what stands around the text.
    let most = MAX_MEMBERS_BYTES - r#""context":{"new":""},"#.len();
    for (bytes, fits) in [(most, true), (most + 1, false)] {
        let context = context(bytes);
        let long = format!(r#"{{"request":{{"context":{context},"notifications":[{{"type":"click"}}]}}}}"#);
        assert_eq!(taken(long), fits, "{bytes}");
        assert_eq!(taken(format!(r#"{{"context":{context},"type":"click"}}"#)), fits, "{bytes}");
    }
}

#[test]
fn a_refusal_carries_a_valid_ref() {
    let refused = |line: &str| Submission::parse(line.as_bytes(), &plain(), 0).expect_err(line).reference;
    assert_eq!(refused(r#"{"nonsense":1,"ref":"r"}"#).as_deref(), Some("r"));
    assert_eq!(refused(r#"{"nonsense":1,"ref":7}"#), None);
    assert_eq!(refused(r#"{"ref":"r","type":"click","type":"click"}"#).as_deref(), Some("r"));
    assert_eq!(refused(r#"{"\ud800":1,"\u0072ef":"r","type":"click"}"#).as_deref(), Some("r"));
    assert_eq!(refused(r#"[{"ref":"r"}]"#), None);
}

#[test]
fn a_consumer_id_makes_room_for_a_supplemental_data_id_and_a_given_one_is_kept() {
    let placed = |line: &str, defaults: &Defaults| {
        let mut read = parsed(line, defaults);
        let before = read.envelope.fingerprint;
        let fresh = read.stitch.as_ref().map(|stitch| stitch.fresh.clone());
        assert!(fresh.as_ref().is_none_or(|fresh| members(&read).contains(fresh.as_str())));
        read.set_supplemental_data_id("0123456789ABCDEF-0123456789ABCDEF");
        assert_eq!(read.envelope.fingerprint == before, fresh.is_none());
        members(&read).to_owned()
    };
    let id = r#""supplementalDataId":"0123456789ABCDEF-0123456789ABCDEF""#;
    let line = r#"{"consumer_id":"c","type":"click","experienceCloud":{"analytics":{"trackingServer":"t"}}}"#;
    assert_eq!(
        placed(line, &plain()),
        format!(
            r#""experienceCloud":{{"analytics":{{"trackingServer":"t",{id}}}}},"context":{{"channel":"web"}}"#
        )
    );
    assert!(placed(r#"{"consumerId":"c","type":"click"}"#, &plain()).contains(id));
    assert!(!placed(r#"{"type":"click"}"#, &plain()).contains("supplementalDataId"));
    let own = r#"{"consumer_id":"c","type":"click","experienceCloud":{"analytics":{"supplementalDataId":"AAAAAAAAAAAAAAAA-AAAAAAAAAAAAAAAA"}}}"#;
    assert!(placed(own, &plain()).contains("AAAAAAAAAAAAAAAA-AAAAAAAAAAAAAAAA"));
}

#[test]
fn a_list_is_taken_for_no_object() {
    let notification = |member: &str| format!(r#"{{"request":{{"notifications":[{member}]}}}}"#);
    let beside = |members: &str| format!(r#"{{"type":"click",{members}}}"#);
    let lists = [
        "[]".to_owned(),
        r#"[{"notifications":[{"type":"click"}]}]"#.to_owned(),
        r#"{"request":[[{"type":"click"}]]}"#.to_owned(),
        notification(r#"["1","click",1]"#),
        notification(r#"{"type":"click","mbox":["name"]}"#),
        notification(r#"{"type":"click","view":["name","key"]}"#),
        notification(r#"{"type":"click","pageLoad":["state"]}"#),
        notification(r#"{"type":"click","order":["id",1]}"#),
        notification(r#"{"type":"click","product":["id"]}"#),
        notification(r#"{"type":"click","parameters":["a"]}"#),
        beside(r#""context":["web"]"#),
        beside(r#""property":["token"]"#),
        beside(r#""visitor":["tntId"]"#),
        beside(r#""experienceCloud":[["server_side"]]"#),
        beside(r#""experienceCloud":{"analytics":["server_side"]}"#),
        beside(r#""experienceCloud":{"audienceManager":[1,"b"]}"#),
        beside(r#""customer_ids":[["id","code","unknown"]]"#),
        beside(r#""customer_ids":{"code":["id",0]}"#),
    ];
    for line in lists {
        let read = Submission::parse(line.as_bytes(), &Defaults::default(), 1);
        assert!(read.is_err(), "{line}");
    }
}

/// The members that a rule names, and those within them.
fn named(rule: &schema::Rule, found: &mut Vec<&'static str>) {
    use schema::Rule;
    let table = match rule {
        Rule::Object(table) => table,
        Rule::Context => schema::CONTEXT,
        Rule::Array { each, .. } => return named(each, found),
        _ => return,
    };
    for member in table {
        found.push(member.name);
        named(&member.rule, found);
    }
}

#[test]
fn the_page_of_the_protocol_names_every_member_and_every_code() {
    use crate::event::DeadReason;
    use crate::wire::reply::Unavailable;
    const PAGE: &str = include_str!("../../../docs/protocol.md");
    let words: std::collections::BTreeSet<&str> =
        PAGE.split(|letter: char| !letter.is_alphanumeric() && letter != '_').collect();
    let mut names = vec![
        "request",
        "session_id",
        "sessionId",
        "target_cookie",
        "targetCookie",
        "consumer_id",
        "consumerId",
    ];
    names.extend([
        "target_location_hint",
        "targetLocationHint",
        "customer_ids",
        "customerIds",
        "authState",
        "ref",
        "receipt",
    ]);
    names.extend(request::SHORT.map(|(written, _)| written));
    for table in [schema::REQUEST, schema::NOTIFICATION] {
        named(&schema::Rule::Object(table), &mut names);
    }
    names.extend(
        [Code::MalformedJson, Code::LineTooLong, Code::UnknownField, Code::Forbidden, Code::InvalidEvent]
            .map(Code::as_str),
    );
    names.extend(
        [
            Unavailable::QueueFull,
            Unavailable::StorageFull,
            Unavailable::StorageError,
            Unavailable::ShuttingDown,
        ]
        .map(Unavailable::as_str),
    );
    names.extend([Unavailable::TooManyConnections.as_str(), "quarantined"]);
    names.extend(
        [DeadReason::Refused, DeadReason::NotAcknowledged, DeadReason::Expired, DeadReason::Dropped]
            .map(DeadReason::as_str),
    );
    assert!(names.len() > 70, "the members were found");
    for name in names {
        assert!(words.contains(name), "docs/protocol.md lacks {name}");
    }
}
