//! What the demonstration's producers send.

use serde_json::{Value, json};

use crate::sandbox::POISON;

/// One session in so many has an event with a broken token.
const POISONED_EVERY: u32 = 100;
/// The first of the edge clusters that visitors are at home at.
const EDGES: u32 = 35;

/// A line, and the id of its one event; `None` where the line is to be refused.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) id: Option<String>,
}

/// What Target answered to the prefetch of a page with two mboxes, cut down to what a notification needs.
fn prefetched() -> Value {
    json!({
        "id": { "tntId": "c4a3c6b0d2f84b0f8b5f6d3a7e91c2d5.35_0" },
        "prefetch": { "mboxes": [
            { "index": 0, "name": "home",
              "options": [{ "type": "html", "content": "<b>Welcome back</b>", "eventToken": "kb2UkhM3AR8lZJyXJZBeG2qipfsIHvVzTQxHolz2IpSC" }],
              "state": "TtWE1Hb4JyFmIoDJJyQ8lY2Fo8J2jPTpQWJsVzHz0" },
            { "index": 1, "name": "product1",
              "options": [{ "type": "html", "content": "<b>Summer offer</b>", "eventToken": "t0FRvoWosOqHmYL5G18QCZNWHtnQtQrJfmRrQugEa2q" }],
              "state": "J+W1Fq18hxliDDJonTPfV0S+mzxapAO3d14M43EsM9f12A6QaqL+E3XKkRFlmq9U" }
        ]}
    })
}

/// The example of Adobe's documentation: `product1` was shown, so its `state` and `eventToken` go back. And a line with a
/// mistake, to see what that is answered.
#[expect(clippy::indexing_slicing, reason = "a JSON value that has no such member gives null")]
pub(super) fn example(now_ms: u64) -> Vec<Line> {
    let answer = prefetched();
    let mboxes = answer["prefetch"]["mboxes"].as_array().into_iter().flatten();
    let mut lines: Vec<Line> = mboxes
        .filter(|mbox| mbox["name"] == "product1")
        .map(|mbox| {
            let id = "SummerOfferNotification";
            let notification = json!({
                "id": id, "impressionId": "demo-product1", "type": "display", "timestamp": now_ms,
                "mbox": { "name": mbox["name"], "state": mbox["state"] },
                "tokens": [mbox["options"][0]["eventToken"]],
            });
            let request = json!({ "id": answer["id"], "notifications": [notification] });
            let line = json!({ "session_id": "demo-example", "request": request });
            Line { text: line.to_string(), id: Some(id.to_owned()) }
        })
        .collect();
    lines.push(Line { text: json!({ "session_id": "demo-example", "type": "shown" }).to_string(), id: None });
    lines
}

/// Page view after page view of many sessions, dealt out to so many producers; a session has one producer.
pub(super) fn sessions(sessions: u32, events: u32, producers: usize) -> Vec<Vec<Line>> {
    let mut dealt = vec![Vec::new(); producers];
    for number in 0..events {
        for (session, lines) in (0..sessions).zip((0..producers).cycle()) {
            if let Some(lines) = dealt.get_mut(lines) {
                lines.push(event(session, number));
            }
        }
    }
    dealt
}

fn event(session: u32, number: u32) -> Line {
    let (name, id) = (format!("demo-{session}"), format!("demo-{session}-{number}"));
    let poisoned = number == 1 && session.is_multiple_of(POISONED_EVERY);
    let token = format!("{}token-{number}", if poisoned { POISON } else { "" });
    let line = json!({
        "session_id": name,
        "visitor": { "tntId": format!("{name}.{}_0", EDGES + session % 4) },
        "customer_ids": [{ "id": format!("customer-{session}"), "integrationCode": "crm", "authenticatedState": "authenticated" }],
        "type": if number.is_multiple_of(2) { "display" } else { "click" },
        "id": id, "impressionId": id,
        "mbox": { "name": "home", "state": format!("state-{number}") },
        "tokens": [token],
    });
    Line { text: line.to_string(), id: Some(id) }
}
