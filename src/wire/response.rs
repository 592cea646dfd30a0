//! What Target answers, as far as it is believed.
//!
//! Guarantee: nothing of an answer reaches a person, a route or a later request before it was checked: `edgeHost`
//! counts only in the form `mboxedge` + 1–4 digits + `.`, a `tntId` only by the rules of our own input, and messages
//! are cut and made printable. What is no object with an `id` among the notifications counts for nothing, and takes nothing
//! from those beside it.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use thiserror::Error;

use super::object::Object;
use crate::event::{Cluster, is_unseen};

/// The most bytes of Adobe's words that are shown or stored.
pub const MAX_MESSAGE_BYTES: usize = 1_024;
/// The most bytes of a body's start that are shown where nothing was understood of it.
const MAX_START_BYTES: usize = 200;
/// The most UTF-16 units of a `tntId`.
const MAX_TNT_ID_UNITS: usize = 128;

/// What a 2xx says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// The ids of the notifications that were processed.
    pub listed: Vec<String>,
    /// The cluster that later requests of the session should go to.
    pub edge: Option<Cluster>,
    /// The visitor's `tntId`, perhaps a new one.
    pub tnt_id: Option<String>,
}

/// Why a body is no `DeliveryResponse`.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ResponseError {
    /// It is not JSON of the documented shape, or was cut off.
    #[error("the answer is not a DeliveryResponse: {0}")]
    Json(#[from] serde_json::Error),
}

/// The members that count, each as it was written: what is wrong with one takes nothing from the others.
#[derive(Default)]
struct Members<'a> {
    notifications: Option<Option<Vec<&'a RawValue>>>,
    edge_host: Once<'a>,
    id: Once<'a>,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum Name {
    Notifications,
    EdgeHost,
    Id,
    #[serde(other)]
    Other,
}

/// A member that is believed where it is there once: of two nobody knows which is meant.
#[derive(Default)]
struct Once<'a> {
    value: Option<&'a RawValue>,
    again: bool,
}

impl<'a> Once<'a> {
    fn add(&mut self, value: &'a RawValue) {
        self.again = self.value.replace(value).is_some();
    }

    fn read<T: Deserialize<'a>>(&self) -> Option<T> {
        let value = self.value.filter(|_| !self.again)?;
        serde_json::from_str(value.get()).ok()
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members = Members::default();
        while let Some(name) = map.next_key()? {
            match name {
                Name::Notifications => {
                    if members.notifications.replace(map.next_value()?).is_some() {
                        return Err(A::Error::duplicate_field("notifications"));
                    }
                }
                Name::EdgeHost => members.edge_host.add(map.next_value()?),
                Name::Id => members.id.add(map.next_value()?),
                Name::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(members)
    }
}

#[derive(Deserialize)]
struct Notification<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VisitorId {
    #[serde(default)]
    tnt_id: Option<String>,
}

/// The id that an entry of `notifications` lists, if it does.
///
/// The other entries were processed, whatever stands between them: an answer that was given up for one of them would have
/// all sent again. An object that names its id twice is no such entry: nobody knows which it lists, so nothing of that
/// answer is believed.
fn listed(entry: &RawValue) -> Result<Option<String>, serde_json::Error> {
    if !entry.get().starts_with('{') {
        return Ok(None);
    }
    let Notification { id } = serde_json::from_str(entry.get())?;
    Ok(id.and_then(|id| serde_json::from_str(id.get()).ok()))
}

/// Reads the body of a 2xx.
///
/// # Errors
/// [`ResponseError`] where nobody can know what was processed.
pub fn decode(body: &[u8]) -> Result<Delivered, ResponseError> {
    // An id has no bytes that are no text, and where others do it says nothing of the ids.
    let text = String::from_utf8_lossy(body);
    let Members { notifications, edge_host, id } = serde_json::from_str(&text)?;
    let entries = notifications.flatten().unwrap_or_default();
    let listed = entries.into_iter().filter_map(|entry| listed(entry).transpose());
    let listed = listed.collect::<Result<_, _>>()?;
    let edge = edge_host.read::<String>().and_then(|host| edge_cluster(&host));
    let tnt_id = id.read::<Object<VisitorId>>().and_then(|Object(id)| id.tnt_id).filter(|id| is_tnt_id(id));
    Ok(Delivered { listed, edge, tnt_id })
}

/// Whether each of `ids` is among `listed`; the ids of one request differ, so each is looked up by itself.
#[must_use]
pub fn listed_flags(listed: &[String], ids: &[&str]) -> Vec<bool> {
    let mut all: Option<HashSet<&str>> = None;
    let is_listed = |(place, id): (usize, &&str)| {
        // Most answers list them in the order in which they were sent.
        listed.get(place).is_some_and(|there| there == id)
            || all.get_or_insert_with(|| listed.iter().map(String::as_str).collect()).contains(id)
    };
    ids.iter().enumerate().map(is_listed).collect()
}

/// What to tell a person about a refusal: Adobe's `message` where the body has one, else the start of the body; at
/// most [`MAX_MESSAGE_BYTES`], without control characters.
#[must_use]
pub fn message(body: &[u8]) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let told = parsed.as_ref().and_then(|value| value.get("message")).and_then(serde_json::Value::as_str);
    match told {
        Some(told) => printable(told),
        None => {
            // Four bytes more than are shown, so that a character at the limit is whole.
            let start = body.get(..MAX_MESSAGE_BYTES.saturating_add(4)).unwrap_or(body);
            printable(&String::from_utf8_lossy(start))
        }
    }
}

/// How a body begins, for a person; empty where there is none.
#[must_use]
pub fn start(body: &[u8]) -> String {
    match body.get(..MAX_START_BYTES) {
        None => printable(&String::from_utf8_lossy(body)),
        Some(start) => format!("{}…", printable(&String::from_utf8_lossy(start))),
    }
}

/// What to tell a person of an answer with a status: the status, and its `words` where there are any. A status alone says much,
/// and many servers that stand between say nothing else.
#[must_use]
pub fn said(status: u16, words: &str) -> String {
    match words.trim() {
        "" => format!("HTTP {status}"),
        words => printable(&format!("HTTP {status}: {words}")),
    }
}

/// `text` with what a terminal does not show as it stands as spaces, cut to [`MAX_MESSAGE_BYTES`] at a character's end.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len().min(MAX_MESSAGE_BYTES));
    for character in text.chars() {
        if shown.len() + character.len_utf8() > MAX_MESSAGE_BYTES {
            break;
        }
        shown.push(if is_unseen(character) { ' ' } else { character });
    }
    shown.trim().to_owned()
}

/// The cluster of an `edgeHost` such as `mboxedge35.tt.omtrdc.net`.
#[must_use]
pub fn edge_cluster(host: &str) -> Option<Cluster> {
    let (digits, _) = host.strip_prefix("mboxedge")?.split_once('.')?;
    Cluster::parse(digits)
}

/// Whether `text` may be a `tntId`: not empty, at most 128 UTF-16 units, no control characters, and no `.` but the one
/// before the location hint.
#[must_use]
pub fn is_tnt_id(text: &str) -> bool {
    // A text has no more UTF-16 units than bytes.
    let is_short = text.len() <= MAX_TNT_ID_UNITS || text.encode_utf16().count() <= MAX_TNT_ID_UNITS;
    let has_sound_dot = || !text.contains('.') || tnt_id_cluster(text).is_some();
    !text.is_empty() && is_short && has_sound_dot() && !text.chars().any(char::is_control)
}

/// The cluster of the location hint inside a `tntId`: `35` of `abc.35_0`.
#[must_use]
pub fn tnt_id_cluster(tnt_id: &str) -> Option<Cluster> {
    let (_, hint) = tnt_id.split_once('.')?;
    let (cluster, node) = hint.split_once('_')?;
    let digits = !node.is_empty() && node.bytes().all(|byte| byte.is_ascii_digit());
    if digits { Cluster::parse(cluster) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_documented_answer_is_read() {
        let body = br#"{"status":200,"requestId":"r","id":{"tntId":"abc.35_0"},"client":"acmecorp",
            "edgeHost":"mboxedge35.tt.omtrdc.net","notifications":[{"id":"a"},{"id":"b"}]}"#;
        let read = decode(body).unwrap();
        assert_eq!(read.listed, ["a", "b"]);
        assert_eq!(read.edge, Cluster::parse("35"));
        assert_eq!(read.tnt_id.as_deref(), Some("abc.35_0"));
    }

    #[test]
    fn what_breaks_our_rules_is_not_believed() {
        for body in [
            r#"{"edgeHost":"evil.example","id":{"tntId":"a.b.c"}}"#,
            r#"{"edgeHost":"mboxedge12345.tt.omtrdc.net","id":{"tntId":""}}"#,
            r#"{"edgeHost":"mboxedge.tt.omtrdc.net","id":{"tntId":7}}"#,
            r#"{"edgeHost":["mboxedge35."],"id":"abc","notifications":null}"#,
            "{}",
        ] {
            assert_eq!(decode(body.as_bytes()).unwrap(), Delivered::default(), "{body}");
        }
    }

    #[test]
    fn what_is_no_entry_takes_nothing_from_those_beside_it() {
        let body =
            br#"{"notifications":[null,"a",{"id":"b"},7,-7,1.5,true,["c",{"id":"d"}],{},{"id":7},{"id":null},
            {"id":{"id":"e"}},{"x":"f"},{"x":[{"id":"g"}],"id":"h"}]}"#;
        assert_eq!(decode(body).unwrap().listed, ["b", "h"]);
    }

    #[test]
    fn what_is_odd_beside_the_list_takes_nothing_from_it() {
        let deep = format!("{}{}", "[".repeat(1_000), "]".repeat(1_000));
        for odd in [
            r#""edgeHost":"mboxedge35.","edgeHost":"mboxedge36.""#,
            r#""edgeHost":null,"edgeHost":"mboxedge36.""#,
            r#""id":{"tntId":"a"},"id":{"tntId":"b"}"#,
            r#""edgeHost":"mboxedge35.\ud800""#,
            r#""id":{"tntId":"a","thirdPartyId":1e400,"tntId":"b"}"#,
            r#""id":{"thirdPartyId":"\ud83d"}"#,
            r#""client":"\ud800","x":1e400"#,
            r#""notifications":null,"status":1,"status":2"#,
            &format!(r#""id":{deep},"edgeHost":{deep},"x":{deep}"#),
        ] {
            let list = r#"[{"id":"a"},{"id":1e400},{"id":"\ud800"},1e400,{"x":1e400,"y":"\ud800","id":"b"}]"#;
            let body = match odd.starts_with(r#""notifications""#) {
                true => format!(r#"{{{}}}"#, odd.replacen("null", list, 1)),
                false => format!(r#"{{{odd},"notifications":{list}}}"#),
            };
            let Delivered { listed, edge, tnt_id } = decode(body.as_bytes()).unwrap();
            assert_eq!((listed, edge, tnt_id), (vec!["a".to_owned(), "b".to_owned()], None, None), "{odd}");
        }
        let body =
            b"{\"client\":\"\xff\xfe\",\"id\":\"\xff\",\"notifications\":[{\"id\":\"\xff\"},{\"id\":\"a\"}]}";
        assert_eq!(decode(body).unwrap().listed, ["\u{fffd}", "a"]);
    }

    #[test]
    fn a_body_that_is_no_answer_is_an_error() {
        for body in [
            "",
            "{",
            "[]x",
            "[]",
            r#"[[{"id":"a"}]]"#,
            r#"[[{"id":"a"}],"mboxedge35.tt.omtrdc.net",{"tntId":"abc.35_0"}]"#,
            "null",
            r#"{"notifications":[{"id":"a"}"#,
            r#"{"notifications":7}"#,
            r#"{"notifications":"a"}"#,
            r#"{"notifications":{"id":"a"}}"#,
            r#"{"notifications":[{"id":"a"},{"id":"b","id":"c"}]}"#,
            r#"{"notifications":[{"id":"a"}],"notifications":[]}"#,
            r#"{"notifications":[{"id":"a"},nul]}"#,
            r#"{"notifications":[{"id":"a"},["b"}]}"#,
        ] {
            assert!(decode(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn every_id_of_a_request_is_looked_up() {
        let listed = ["b".to_owned(), "x".to_owned(), "a".to_owned()];
        assert_eq!(listed_flags(&listed, &["a", "b", "c"]), [true, true, false]);
        assert_eq!(listed_flags(&listed, &["b", "x", "a"]), [true, true, true]);
        assert_eq!(listed_flags(&listed, &["b", "c", "x", "a"]), [true, false, true, true]);
        assert_eq!(listed_flags(&[], &["a"]), [false]);
    }

    #[test]
    fn messages_are_cut_and_printable() {
        assert_eq!(message(br#"{"status":400,"message":"bad\u001b[31m\u202etoken\n"}"#), "bad [31m token");
        assert_eq!(message(b"<html>\r\nno\xff"), "<html>  no\u{fffd}");
        assert_eq!(message(&[b'a'; 5_000]).len(), MAX_MESSAGE_BYTES);
        assert!(message("ä".repeat(5_000).as_bytes()).len() <= MAX_MESSAGE_BYTES);
    }

    #[test]
    fn a_status_is_told_with_words_and_without() {
        assert_eq!(said(503, ""), "HTTP 503");
        assert_eq!(said(302, " "), "HTTP 302");
        assert_eq!(said(400, "bad\ttoken"), "HTTP 400: bad token");
        assert_eq!(said(400, &"a".repeat(5_000)).len(), MAX_MESSAGE_BYTES);
    }

    #[test]
    fn the_start_of_a_body_is_short_and_printable() {
        assert_eq!(start(b""), "");
        assert_eq!(start(b"<p>\x1b[31m\n"), "<p> [31m");
        assert_eq!(start(&[b'a'; 5_000]), format!("{}…", "a".repeat(MAX_START_BYTES)));
    }

    #[test]
    fn a_location_hint_is_one_dot_and_two_numbers() {
        assert_eq!(tnt_id_cluster("abc.35_0"), Cluster::parse("35"));
        for (id, sound) in
            [("abc", true), ("abc.35_0", true), ("abc.35", false), ("a.b", false), ("abc.", false)]
        {
            assert_eq!(is_tnt_id(id), sound, "{id}");
        }
        for none in ["abc", "abc.35", "abc.35_", "abc._0", "abc.35_x", "abc.12345_0", "a.b.35_0"] {
            assert_eq!(tnt_id_cluster(none), None, "{none}");
        }
    }
}
