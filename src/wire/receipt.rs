//! Receipts: what became of a submission, as the SDKs would have returned it.
//!
//! Guarantees:
//! - a receipt has this submission's notifications only, and no more of an answer than [`MAX_FRAME_BYTES`] beside them;
//! - it is one line, however the answer was laid out.

use std::collections::HashMap;

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::cookie;
use super::object::Object;
use crate::event::{Cluster, EventId, SessionId};

/// The most bytes of an answer beside its notifications; of a longer one only the status is kept.
pub const MAX_FRAME_BYTES: usize = 16 * 1_024;

/// An answer that settled events, as far as a receipt needs it.
#[derive(Debug)]
pub struct Answer {
    session: SessionId,
    /// When it came, in seconds since the Unix epoch.
    at: u64,
    /// Its members but for the notifications.
    frame: Vec<(String, Box<RawValue>)>,
    notifications: HashMap<String, Box<RawValue>>,
    tnt_id: Option<String>,
    cluster: Option<Cluster>,
}

#[derive(Deserialize)]
struct Identified {
    id: String,
}

impl Answer {
    /// The answer `body`, which came at `at` seconds, to a request of `session`, whose later requests go to `cluster`, about the
    /// visitor `tnt_id`. Without a body it is a 204.
    #[must_use]
    pub fn new(
        session: &SessionId,
        at: u64,
        cluster: Option<Cluster>,
        tnt_id: Option<String>,
        body: Option<&[u8]>,
    ) -> Self {
        let members: HashMap<String, Box<RawValue>> =
            body.and_then(|body| serde_json::from_slice(body).ok()).unwrap_or_default();
        let listed: Vec<Box<RawValue>> = members
            .get("notifications")
            .and_then(|list| serde_json::from_str(list.get()).ok())
            .unwrap_or_default();
        let named = |one: Box<RawValue>| {
            let Object(Identified { id }) = serde_json::from_str(one.get()).ok()?;
            Some((id, one))
        };
        let mut frame: Vec<_> = members.into_iter().filter(|(name, _)| name != "notifications").collect();
        frame.sort_by(|(a, _), (b, _)| a.cmp(b));
        if bytes(&frame) > MAX_FRAME_BYTES {
            frame.retain(|(name, value)| name == "status" && value.get().len() < 16);
        }
        if frame.is_empty() {
            let status = if body.is_none() { "204" } else { "200" };
            frame.extend(RawValue::from_string(status.to_owned()).ok().map(|raw| ("status".to_owned(), raw)));
        }
        Self {
            session: session.clone(),
            at,
            frame,
            notifications: listed.into_iter().filter_map(named).collect(),
            tnt_id,
            cluster,
        }
    }

    /// What it says of the notification `id`.
    #[must_use]
    pub fn notification(&self, id: &str) -> Option<&RawValue> {
        self.notifications.get(id).map(Box::as_ref)
    }

    /// What it keeps in memory beside its notifications, in bytes.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        bytes(&self.frame)
    }

    /// The same without its notifications.
    #[must_use]
    pub fn without_notifications(&self) -> Self {
        Self {
            session: self.session.clone(),
            at: self.at,
            frame: self.frame.clone(),
            notifications: HashMap::new(),
            tnt_id: self.tnt_id.clone(),
            cluster: self.cluster,
        }
    }
}

/// What members of an answer take in memory, in bytes.
fn bytes(members: &[(String, Box<RawValue>)]) -> usize {
    members.iter().map(|(name, value)| name.len() + value.get().len()).sum()
}

/// An event that was set aside, in a receipt.
#[derive(Clone, Debug, Serialize)]
pub struct Dead {
    /// The notification's id.
    pub id: String,
    /// Why: a [`DeadReason`](crate::event::DeadReason), or `quarantined`.
    pub reason: &'static str,
    /// What Target said.
    pub detail: String,
}

#[derive(Serialize)]
struct Line<'a> {
    status: &'static str,
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    reference: Option<&'a str>,
    ids: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dead: Option<&'a [Dead]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<Response<'a>>,
}

/// The SDKs' `TargetDeliveryResponse`.
#[derive(Serialize)]
struct Response<'a> {
    response: DeliveryResponse<'a>,
    target_cookie: Cookie,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_location_hint_cookie: Option<Cookie>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    trace: Vec<Box<RawValue>>,
    meta: Meta,
}

struct DeliveryResponse<'a> {
    frame: &'a [(String, Box<RawValue>)],
    notifications: Vec<&'a RawValue>,
}

impl Serialize for DeliveryResponse<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in self.frame {
            map.serialize_entry(name, value)?;
        }
        if !self.notifications.is_empty() {
            map.serialize_entry("notifications", &self.notifications)?;
        }
        map.end()
    }
}

/// A cookie for the producer to set.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Cookie {
    name: &'static str,
    value: String,
    max_age: u64,
}

#[derive(Default, Serialize)]
struct Meta {
    decisioning_method: ServerSide,
    remote_mboxes: [(); 0],
    remote_views: [(); 0],
}

#[derive(Default, Serialize)]
enum ServerSide {
    #[default]
    #[serde(rename = "server-side")]
    ServerSide,
}

/// The receipt of a submission whose events were all delivered, without its line end. `answer` is the last one, absent
/// where there is no room for it; `notifications` are this submission's of all answers, in its order.
#[must_use]
pub fn delivered(
    reference: Option<&str>,
    ids: &[EventId],
    answer: Option<&Answer>,
    notifications: &[Option<Box<RawValue>>],
) -> String {
    let response = answer.map(|answer| {
        let notifications: Vec<&RawValue> = notifications.iter().flatten().map(Box::as_ref).collect();
        let trace = notifications.iter().filter_map(|one| trace(one)).collect();
        Response {
            response: DeliveryResponse { frame: &answer.frame, notifications },
            target_cookie: target_cookie(answer),
            target_location_hint_cookie: answer.cluster.map(|cluster| Cookie {
                name: "mboxEdgeCluster",
                value: cluster.as_str().to_owned(),
                max_age: cookie::LOCATION_HINT_S,
            }),
            trace,
            meta: Meta::default(),
        }
    });
    let ids = ids.iter().map(EventId::as_str).collect();
    line(&Line { status: "delivered", reference, ids, dead: None, response })
}

/// The receipt of a submission of which `dead` was set aside, without its line end; `ids` are those delivered.
#[must_use]
pub fn dead(reference: Option<&str>, ids: &[&EventId], dead: &[Dead]) -> String {
    let ids = ids.iter().map(|id| id.as_str()).collect();
    line(&Line { status: "dead", reference, ids, dead: Some(dead), response: None })
}

fn line(receipt: &Line<'_>) -> String {
    // Everything in it is text, numbers, and JSON that was read as such. That JSON is passed through as Target wrote it, and
    // a line's end between its values would end the receipt; inside a text JSON allows none.
    serde_json::to_string(receipt).unwrap_or_default().replace(['\n', '\r'], " ")
}

fn trace(notification: &RawValue) -> Option<Box<RawValue>> {
    #[derive(Deserialize)]
    struct Traced {
        trace: Option<Box<RawValue>>,
    }
    let Traced { trace } = serde_json::from_str(notification.get()).ok()?;
    trace.filter(|trace| trace.get() != "null")
}

fn target_cookie(answer: &Answer) -> Cookie {
    let (value, max_age) = cookie::write(&answer.session, answer.tnt_id.as_deref(), answer.at);
    Cookie { name: "mbox", value, max_age }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_among_the_notifications_is_none() {
        let session = SessionId::new("s").unwrap();
        let body = br#"{"notifications":[["a"],{"id":"b"}]}"#;
        let answer = Answer::new(&session, 1, None, None, Some(body));
        assert_eq!(["a", "b"].map(|id| answer.notification(id).is_some()), [false, true]);
    }

    #[test]
    fn receipts_read_as_the_protocol_says() {
        let session = SessionId::new("s#1").unwrap();
        let body = br#"{"status":200,"requestId":"r","client":"acme","id":{"tntId":"v|1.35_0"},"edgeHost":"mboxedge34.tt.omtrdc.net",
            "notifications":[{"id":"a","trace":{"x":1}},{"id":"other"},{"id":"b"}]}"#;
        let (cluster, tnt_id) = (Cluster::parse("34"), Some("v|1.35_0".to_owned()));
        let answer = Answer::new(&session, 1_000, cluster, tnt_id, Some(body));
        let ids = [EventId::new("a"), EventId::new("b")];
        let own: Vec<_> =
            ids.iter().map(|id| answer.notification(id.as_str()).map(ToOwned::to_owned)).collect();
        assert_eq!(
            delivered(Some("r1"), &ids, Some(&answer), &own),
            concat!(
                r#"{"status":"delivered","ref":"r1","ids":["a","b"],"response":{"response":{"client":"acme","#,
                r#""edgeHost":"mboxedge34.tt.omtrdc.net","id":{"tntId":"v|1.35_0"},"requestId":"r","status":200,"#,
                r#""notifications":[{"id":"a","trace":{"x":1}},{"id":"b"}]},"#,
                r#""target_cookie":{"name":"mbox","value":"session#s%231#2860|PC#v%7C1.35_0#63245800","maxAge":63244800},"#,
                r#""target_location_hint_cookie":{"name":"mboxEdgeCluster","value":"34","maxAge":1860},"trace":[{"x":1}],"#,
                r#""meta":{"decisioning_method":"server-side","remote_mboxes":[],"remote_views":[]}}}"#,
            )
        );
        let beacon = Answer::new(&session, 1_000, None, None, None);
        let told = delivered(None, &ids[..1], Some(&beacon), &[None]);
        assert!(told.contains(r#""response":{"response":{"status":204},"target_cookie""#), "{told}");
        assert!(told.contains(r#""value":"session#s%231#2860","maxAge":1860}"#), "{told}");
        let one = Dead { id: "b".to_owned(), reason: "refused", detail: "bad".to_owned() };
        assert_eq!(
            dead(None, &[&ids[0]], &[one]),
            r#"{"status":"dead","ids":["a"],"dead":[{"id":"b","reason":"refused","detail":"bad"}]}"#
        );
    }

    #[test]
    fn an_answer_of_many_lines_makes_a_receipt_of_one() {
        let session = SessionId::new("s").unwrap();
        let body = "{\r\n \"status\": 200,\n \"id\": {\n  \"tntId\": \"v\"\n },\n \"notifications\": [\n  {\n   \"id\": \"a\\n\",\n   \
                    \"trace\": {\r\n    \"x\": 1\n   }\n  }\n ]\n}";
        let answer = Answer::new(&session, 1, None, None, Some(body.as_bytes()));
        let own = [answer.notification("a\n").map(ToOwned::to_owned)];
        let receipt = delivered(None, &[EventId::new("a\n")], Some(&answer), &own);
        assert!(!receipt.contains(['\n', '\r']), "{receipt}");
        let read: serde_json::Value = serde_json::from_str(&receipt).unwrap();
        assert_eq!(read["response"]["response"], serde_json::from_str::<serde_json::Value>(body).unwrap());
        assert_eq!(read["response"]["trace"][0]["x"], 1);
    }

    #[test]
    fn a_large_or_broken_answer_is_cut_down() {
        let session = SessionId::new("s").unwrap();
        let long =
            format!(r#"{{"status":200,"new":"{}","notifications":[{{"id":"a"}}]}}"#, "x".repeat(20_000));
        for (body, listed) in [(long.as_bytes(), true), (b"nonsense", false), (b"[]", false)] {
            let answer = Answer::new(&session, 1, None, None, Some(body));
            assert!(answer.frame_bytes() < 20);
            assert_eq!(answer.notification("a").is_some(), listed);
            assert!(
                delivered(None, &[], Some(&answer), &[]).contains(r#""response":{"response":{"status":200}"#)
            );
        }
    }
}
