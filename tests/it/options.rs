//! What the SDKs' options become: host, query, headers and body of the request, and the receipt.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::recorder::{Recorder, Request};
use crate::support::{Running, settings_at};

/// One set of options, and what is to come of it.
struct Case {
    name: &'static str,
    options: Value,
    /// Where it goes: "" is the client's own host, else the edge cluster.
    cluster: &'static str,
    /// What the body has beside or instead of what every body has.
    body: Value,
    /// What the notifications have beside or instead of what each has.
    notifications: Vec<Value>,
    /// The session, where that is not the option's.
    session: Option<&'static str>,
}

fn case(name: &'static str, options: Value) -> Case {
    let notifications = match options["request"]["notifications"].as_array() {
        Some(all) => all.clone(),
        None => vec![json!({})],
    };
    Case { name, options, cluster: "", body: json!({}), notifications, session: None }
}

impl Case {
    fn cluster(mut self, cluster: &'static str) -> Self {
        self.cluster = cluster;
        self
    }
    fn body(mut self, body: Value) -> Self {
        self.body = body;
        self
    }
    fn notification(mut self, notification: Value) -> Self {
        self.notifications = vec![notification];
        self
    }
    fn session(mut self, session: &'static str) -> Self {
        self.session = Some(session);
        self
    }
}

/// `first` with the members of `second` in it; `null` takes one away.
fn merged(first: &Value, second: &Value) -> Value {
    match (first, second) {
        (Value::Object(first), Value::Object(second)) => {
            let mut all = first.clone();
            for (name, value) in second {
                match value {
                    Value::Null => drop(all.remove(name)),
                    value => {
                        let old = all.get(name).cloned().unwrap_or(Value::Null);
                        all.insert(name.clone(), merged(&old, value));
                    }
                }
            }
            Value::Object(all)
        }
        (_, second) => second.clone(),
    }
}

/// Whether `found` is as expected; `<uuid>`, `<now>` and `<sdid>` stand for what is made here.
fn same(expected: &Value, found: &Value) -> bool {
    match (expected, found) {
        (Value::String(mark), found) if mark == "<uuid>" => {
            found.as_str().is_some_and(|text| uuid::Uuid::parse_str(text).is_ok())
        }
        (Value::String(mark), found) if mark == "<now>" => {
            found.as_u64().is_some_and(|now| now > 1_700_000_000_000)
        }
        (Value::String(mark), found) if mark == "<sdid>" => found.as_str().is_some_and(|id| id.len() == 33),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter().all(|(name, value)| b.get(name).is_some_and(|other| same(value, other)))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (a, b) => a == b,
    }
}

/// A notification around what a case is about.
fn shown(more: Value) -> Value {
    merged(
        &json!({ "id": "n", "type": "display", "timestamp": 1_700_000_000_001_u64, "impressionId": "i" }),
        &more,
    )
}

/// Options around notifications and other members of the request.
fn request(notifications: &[Value], more: Value) -> Value {
    json!({ "request": merged(&json!({ "notifications": notifications }), &more) })
}

fn one(more: Value) -> Value {
    request(&[shown(json!({}))], more)
}

fn with(options: Value, more: Value) -> Value {
    merged(&options, &more)
}

const LATER: &str = "4000000000";

#[rustfmt::skip]
fn cases() -> Vec<Case> {
    let plain = || one(json!({}));
    let customer = |id: &str, state: &str| json!({ "id": id, "integrationCode": "crm", "authenticatedState": state });
    let ids = |list: Value| json!({ "id": { "customerIds": list } });
    let cookie = |text: String| with(plain(), json!({ "target_cookie": text }));
    let notes = |name, more: Value| case(name, request(&[shown(more)], json!({})));
    vec![
        // The documentation's own example: prefetched, and product1 was shown.
        case("the page's example", with(request(&[shown(json!({ "mbox": { "name": "product1", "state": "J+W1Fq18hxliDDJonTPfV0S" }, "tokens": ["t0FRvoWosOqHmYL5G18QCZNWHtnQtQrJfmRrQugEa2q"] }))], json!({})), json!({ "consumer_id": "example" }))).body(json!({ "experienceCloud": { "analytics": { "supplementalDataId": "<sdid>" } } })),
        // Cookies.
        case("a cookie with a session", cookie(format!("session#cookie1#{LATER}"))).session("cookie1"),
        case("a cookie with both parts", cookie(format!("session#cookie2#{LATER}|PC#dev2.35_0#{LATER}"))).session("cookie2").cluster("35").body(json!({ "id": { "tntId": "dev2.35_0" } })),
        case("a cookie with a device", cookie(format!("PC#dev3#{LATER}"))).body(json!({ "id": { "tntId": "dev3" } })),
        case("an expired session part", cookie(format!("session#gone#1000|PC#dev4#{LATER}"))).body(json!({ "id": { "tntId": "dev4" } })),
        case("an expired device part", cookie(format!("session#cookie5#{LATER}|PC#dev5#1000"))).session("cookie5"),
        case("malformed parts", cookie(format!("nonsense|session#x|#|PC#dev#soon|session#cookie6#{LATER}"))).session("cookie6"),
        case("a cookie that is encoded", cookie(format!("session#cookie%237#{LATER}"))).session("cookie#7"),
        case("a later part of one name", cookie(format!("session#cookie8a#{LATER}|session#cookie8#{LATER}"))).session("cookie8"),
        case("a cookie's further fields", cookie(format!("session#cookie9#{LATER}#more"))).session("cookie9"),
        case("a cookie's session that breaks the rules", with(cookie(format!("session#a/b#{LATER}")), json!({ "session_id": "option10" }))).session("option10"),
        case("a cookie beside the option", with(cookie(format!("session#cookie11#{LATER}")), json!({ "session_id": "option11" }))).session("cookie11"),
        case("a cookie's device beside the request's", with(one(json!({ "id": { "tntId": "own12" } })), json!({ "target_cookie": format!("PC#dev12#{LATER}") }))).body(json!({ "id": { "tntId": "own12" } })),
        case("an empty cookie", cookie(String::new())),
        case("the cookie in camel case", with(plain(), json!({ "targetCookie": format!("session#cookie14#{LATER}") }))).session("cookie14"),
        // Sessions.
        case("a session", with(plain(), json!({ "session_id": "option15" }))).session("option15"),
        case("a session in camel case", with(plain(), json!({ "sessionId": "option16" }))).session("option16"),
        case("a session with what a query has to encode", with(plain(), json!({ "session_id": "a&b=c#d%e+f" }))).session("a&b=c#d%e+f"),
        case("no session", plain()),
        // Hints.
        case("a hint in the tntId", one(json!({ "id": { "tntId": "abc.34_1" } }))).cluster("34").body(json!({ "id": { "tntId": "abc.34_1" } })),
        case("a hint in the option", with(plain(), json!({ "target_location_hint": "31" }))).cluster("31"),
        case("a hint in camel case", with(plain(), json!({ "targetLocationHint": "32" }))).cluster("32"),
        case("a hint in both", with(one(json!({ "id": { "tntId": "abc.34_2" } })), json!({ "target_location_hint": "31" }))).cluster("34").body(json!({ "id": { "tntId": "abc.34_2" } })),
        case("a tntId without a hint beside the option", with(one(json!({ "id": { "tntId": "abc" } })), json!({ "target_location_hint": "31" }))).cluster("31").body(json!({ "id": { "tntId": "abc" } })),
        case("a hint in none", one(json!({ "id": { "tntId": "abcd" } }))).body(json!({ "id": { "tntId": "abcd" } })),
        // Visitors.
        case("a third party id", one(json!({ "id": { "thirdPartyId": "t" } }))).body(json!({ "id": { "thirdPartyId": "t" } })),
        case("a marketing cloud id", one(json!({ "id": { "marketingCloudVisitorId": "0123" } }))).body(json!({ "id": { "marketingCloudVisitorId": "0123" } })),
        // Customer ids.
        case("customer ids of the option", with(plain(), json!({ "customer_ids": [customer("1", "authenticated")] }))).body(ids(json!([customer("1", "authenticated")]))),
        case("customer ids in camel case", with(plain(), json!({ "customerIds": [customer("1", "logged_out")] }))).body(ids(json!([customer("1", "logged_out")]))),
        case("customer ids before the request's own", with(one(ids(json!([customer("2", "unknown")]))), json!({ "customer_ids": [customer("1", "authenticated")] }))).body(ids(json!([customer("1", "authenticated"), customer("2", "unknown")]))),
        case("the request's own customer ids", one(ids(json!([customer("2", "unknown")])))).body(ids(json!([customer("2", "unknown")]))),
        case("the VisitorId form, a text", with(plain(), json!({ "customer_ids": { "crm": "1" } }))).body(ids(json!([customer("1", "unknown")]))),
        case("the VisitorId form, state 0", with(plain(), json!({ "customer_ids": { "crm": { "id": "1", "authState": 0 } } }))).body(ids(json!([customer("1", "unknown")]))),
        case("the VisitorId form, state 1", with(plain(), json!({ "customer_ids": { "crm": { "id": "1", "authState": 1 } } }))).body(ids(json!([customer("1", "authenticated")]))),
        case("the VisitorId form, state 2", with(plain(), json!({ "customer_ids": { "crm": { "id": "1", "authState": 2 } } }))).body(ids(json!([customer("1", "logged_out")]))),
        case("the VisitorId form, no state", with(plain(), json!({ "customer_ids": { "crm": { "id": "1" } } }))).body(ids(json!([customer("1", "unknown")]))),
        // Notifications.
        notes("a display of an mbox", json!({ "mbox": { "name": "home", "state": "s" }, "tokens": ["a", "b"] })),
        notes("a click on an mbox", json!({ "type": "click", "mbox": { "name": "home" }, "tokens": ["a"] })),
        notes("a view", json!({ "view": { "name": "checkout", "key": "k", "state": "s" } })),
        notes("a page load", json!({ "pageLoad": { "state": "s" } })),
        notes("an order", json!({ "order": { "id": "o", "total": 12.5, "purchasedProductIds": ["p1", "p2"] } })),
        notes("a product", json!({ "product": { "id": "p", "categoryId": "c" } })),
        notes("parameters", json!({ "parameters": { "a": "1", "b": "ü" }, "profileParameters": { "c": "2" } })),
        notes("an address", json!({ "address": { "url": "https://example.com/?a=b", "referringUrl": "https://example.org" } })),
        notes("Unicode", json!({ "mbox": { "name": "häuschen 🏠", "state": "…" } })),
        notes("a member that the API may add", json!({ "future": { "deep": [1, 2.5, {}] } })),
        case("several notifications", request(&[shown(json!({ "id": "1" })), shown(json!({ "id": "2" })), shown(json!({ "id": "3" }))], json!({}))),
        case("what a notification leaves out", request(&[json!({ "type": "click" })], json!({}))).notification(json!({ "type": "click", "id": "<uuid>", "timestamp": "<now>", "impressionId": "<uuid>" })),
        case("an impression id of the request", request(&[json!({ "type": "click", "id": "n", "timestamp": 5 })], json!({ "impressionId": "r" }))).body(json!({ "impressionId": "r" })),
        // The short form.
        case("the short form", json!({ "type": "display", "id": "n", "timestamp": 5, "impressionId": "i", "mbox": { "name": "home" }, "visitor": { "tntId": "short.33_0" } })).cluster("33").body(json!({ "id": { "tntId": "short.33_0" } })).notification(json!({ "type": "display", "id": "n", "timestamp": 5, "impressionId": "i", "mbox": { "name": "home" } })),
        case("the short form's other members", json!({ "type": "click", "id": "n", "timestamp": 5, "impressionId": "i", "context": { "channel": "mobile" }, "environmentId": 9, "property": { "token": "own" }, "experienceCloud": { "audienceManager": { "locationHint": 9, "blob": "b" } } })).body(json!({ "context": { "channel": "mobile" }, "environmentId": 9, "property": { "token": "own" }, "experienceCloud": { "audienceManager": { "locationHint": 9, "blob": "b" } } })).notification(json!({ "type": "click", "id": "n", "timestamp": 5, "impressionId": "i" })),
        // Property and environment.
        case("a property of the request", one(json!({ "property": { "token": "own" } }))).body(json!({ "property": { "token": "own" } })),
        case("an environment of the request, which the SDKs overwrite", one(json!({ "environmentId": 3 }))).body(json!({ "environmentId": 3 })),
        // Context and analytics.
        case("a mobile channel", one(json!({ "context": { "channel": "mobile", "mobilePlatform": { "deviceType": "phone" } } }))).body(json!({ "context": { "channel": "mobile", "mobilePlatform": { "deviceType": "phone" } } })),
        case("a time offset, which the SDKs overwrite", one(json!({ "context": { "timeOffsetInMinutes": -300 } }))).body(json!({ "context": { "timeOffsetInMinutes": -300 } })),
        case("logging on the client's side", one(json!({ "experienceCloud": { "analytics": { "logging": "client_side" } } }))).body(json!({ "experienceCloud": { "analytics": { "logging": "client_side" } } })),
        case("a tracking server", one(json!({ "experienceCloud": { "analytics": { "trackingServer": "t" } } }))).body(json!({ "experienceCloud": { "analytics": { "trackingServer": "t" } } })),
        case("a supplemental data id beside a consumer id", with(one(json!({ "experienceCloud": { "analytics": { "supplementalDataId": "0123456789ABCDEF-0123456789ABCDEF" } } })), json!({ "consumer_id": "c" }))).body(json!({ "experienceCloud": { "analytics": { "supplementalDataId": "0123456789ABCDEF-0123456789ABCDEF" } } })),
        case("a consumer id in camel case", with(plain(), json!({ "consumerId": "c" }))).body(json!({ "experienceCloud": { "analytics": { "supplementalDataId": "<sdid>" } } })),
        case("a trace, quality assurance, and a request id of its own", one(json!({ "trace": { "authorizationToken": "t" }, "qaMode": { "token": "q" }, "requestId": "mine" }))).body(json!({ "trace": { "authorizationToken": "t" }, "qaMode": { "token": "q" } })),
        case("members that are null", with(one(json!({ "preview": { "token": "p" } })), json!({ "consumer_id": "" , "ref": "" }))).body(json!({ "preview": { "token": "p" } })),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn options_become_the_requests_and_answers_of_the_sdks() {
    let (folder, recorder) = (TempDir::new().expect("a folder"), Recorder::start().await);
    let mut settings = settings_at(&folder, recorder.endpoint.clone());
    let zone = jiff::tz::TimeZone::fixed(jiff::tz::offset(2));
    (settings.defaults.time_zone, settings.defaults.environment_id) = (Some(zone), Some(7));
    settings.defaults.property_token = Some("configured".to_owned());
    let running = Running::start(settings).await;
    let mut cases = cases();
    assert!(cases.len() >= 60, "{}", cases.len());
    for case in &mut cases {
        if case.name == "members that are null" {
            case.options["consumer_id"] = Value::Null;
        }
        case.options["receipt"] = Value::Bool(true);
        case.options["ref"] = Value::from(case.name);
    }
    let told = running.submit(cases.iter().map(|case| case.options.to_string()).collect()).await;
    for case in &cases {
        let own: Vec<&Value> = told.iter().filter(|line| line["ref"] == case.name).collect();
        assert_eq!(own.len(), 2, "{}: {own:?}", case.name);
        assert_eq!(own[0]["status"], "queued", "{}: {own:?}", case.name);
        let session = own[0]["session_id"].as_str().expect("a session");
        match case.session {
            Some(expected) => assert_eq!(session, expected, "{}", case.name),
            None => assert!(uuid::Uuid::parse_str(session).is_ok(), "{}: {session}", case.name),
        }
        let requests = recorder.of(session);
        assert_eq!(requests.len(), 1, "{}: {requests:?}", case.name);
        check_request(case, session, &requests[0]);
        check_receipt(case, session, own[0], own[1], &requests[0]);
    }
    running.stop().await;
    recorder.stop();
}

fn check_request(case: &Case, session: &str, request: &Request) {
    let path = match case.cluster {
        "" => "/rest/v1/delivery".to_owned(),
        cluster => format!("/edge{cluster}/rest/v1/delivery"),
    };
    assert_eq!(request.path, path, "{}", case.name);
    let query: Vec<(&str, &str)> =
        request.query.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        query,
        [("client", "acme"), ("imsOrgId", "0DD9@AdobeOrg"), ("sessionId", session)],
        "{}",
        case.name
    );
    let headers = &request.headers;
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(
        (headers["x-exc-sdk"].as_str(), headers["x-exc-sdk-version"].as_str()),
        ("target-notifyd", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(Value::from(headers["x-request-id"].as_str()), request.body["requestId"], "{}", case.name);
    let every = json!({
        "requestId": "<uuid>",
        "context": { "channel": "web", "timeOffsetInMinutes": 120 },
        "experienceCloud": { "analytics": { "logging": "server_side" } },
        "property": { "token": "configured" },
        "environmentId": 7,
    });
    let expected = merged(&merged(&every, &case.body), &json!({ "notifications": case.notifications }));
    assert!(same(&expected, &request.body), "{}:\n{expected}\n{}", case.name, request.body);
}

fn check_receipt(case: &Case, session: &str, reply: &Value, receipt: &Value, request: &Request) {
    let name = case.name;
    assert_eq!((&receipt["status"], &receipt["ids"]), (&json!("delivered"), &reply["ids"]), "{name}");
    let response = &receipt["response"];
    let listed: Vec<Value> =
        reply["ids"].as_array().expect("ids").iter().map(|id| json!({ "id": id })).collect();
    let tnt_id = request.body["id"]["tntId"].as_str().unwrap_or("made.28_0");
    let expected = json!({
        "status": 200, "requestId": request.body["requestId"], "client": "acme", "id": { "tntId": tnt_id },
        "edgeHost": "mboxedge28.tt.omtrdc.net", "notifications": listed,
    });
    assert_eq!(response["response"], expected, "{name}");
    let cookie = response["target_cookie"]["value"].as_str().expect("a text");
    let encoded =
        percent_encoding::utf8_percent_encode(session, percent_encoding::NON_ALPHANUMERIC).to_string();
    let parts: Vec<Vec<&str>> = cookie.split('|').map(|part| part.split('#').collect()).collect();
    let number = |text: &str| text.parse::<u64>().expect("a number");
    assert_eq!(parts.len(), 2, "{name}: {cookie}");
    assert_eq!((parts[0][0], parts[1][0], parts[1][1]), ("session", "PC", tnt_id), "{name}: {cookie}");
    assert_eq!(parts[0][1].replace('-', "%2D"), encoded, "{name}: {cookie}");
    assert_eq!(number(parts[1][2]) - number(parts[0][2]), 63_244_800 - 1_860, "{name}: {cookie}");
    assert_eq!(response["target_cookie"]["maxAge"], 63_244_800);
    let hint = json!({ "name": "mboxEdgeCluster", "value": "28", "maxAge": 1_860 });
    assert_eq!(response["target_location_hint_cookie"], hint, "{name}");
    let meta = json!({ "decisioning_method": "server-side", "remote_mboxes": [], "remote_views": [] });
    assert_eq!(response["meta"], meta, "{name}");
    assert!(
        ["analytics_details", "trace", "response_tokens"].iter().all(|empty| response.get(empty).is_none())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_target_says_of_a_visitor_comes_back_into_his_next_request() {
    let (folder, recorder) = (TempDir::new().expect("a folder"), Recorder::start().await);
    let running = Running::start(settings_at(&folder, recorder.endpoint.clone())).await;
    let call = |visitor: Value, more: Value| {
        let one =
            json!({ "session_id": "s", "type": "click", "id": "n", "receipt": true, "visitor": visitor });
        merged(&one, &more).to_string()
    };
    let nobody = || json!({});
    // One after the other: each waits for the receipt of the one before.
    for line in [
        call(json!({ "thirdPartyId": "t" }), nobody()),
        call(json!({ "thirdPartyId": "t" }), nobody()),
        call(json!({ "thirdPartyId": "other" }), json!({ "target_location_hint": "31" })),
        call(json!({ "thirdPartyId": "t" }), json!({ "customer_ids": { "crm": "1" } })),
        call(json!({ "tntId": "own.35_0" }), nobody()),
        call(
            json!({ "thirdPartyId": "t" }),
            json!({ "target_location_hint": "31", "context": { "userAgent": "x" } }),
        ),
    ] {
        assert_eq!(running.submit(vec![line]).await[1]["status"], "delivered");
    }
    let requests = recorder.of("s");
    let seen: Vec<(&str, Option<&str>)> = requests
        .iter()
        .map(|one| (one.path.trim_end_matches("/rest/v1/delivery"), one.body["id"]["tntId"].as_str()))
        .collect();
    assert_eq!(
        seen,
        [
            // Nothing is known.
            ("", None),
            // The same visitor: with the tntId that was made, at his home.
            ("/edge28", Some("made.28_0")),
            // Another one of the session: by his hint, and nothing is known of him.
            ("/edge31", None),
            // Other customer ids: by the session's last edge host.
            ("/edge28", None),
            // His own tntId stays.
            ("/edge35", Some("own.35_0")),
            // The option's hint goes before what was learned of the visitor; he is known whatever else the request has.
            ("/edge31", Some("made.28_0")),
        ]
    );
    running.stop().await;
    recorder.stop();
}
