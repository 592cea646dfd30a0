//! The `DeliveryRequest` that goes to Target: a concatenation of bytes that were finished when the event was stored.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// The bytes around the parts of a body.
const FRAME: usize = r#"{"requestId":"",,"notifications":[]}"#.len();

/// The body of one request: the envelope's members, a request id of its own, and the notifications in their order.
///
/// `tnt_id` is put into the `id` object, which must have none. `members` is finished JSON without the outer braces and not empty, each notification a finished JSON object.
#[must_use]
pub fn body<'a>(
    members: &[u8],
    tnt_id: Option<&str>,
    notifications: impl Iterator<Item = &'a [u8]> + Clone,
    request_id: &str,
) -> Vec<u8> {
    let members = tnt_id.map_or(Cow::Borrowed(members), |tnt_id| with_tnt_id(members, tnt_id));
    let payload: usize = notifications.clone().map(|json| json.len().saturating_add(1)).sum();
    let mut body = Vec::with_capacity(payload + members.len() + request_id.len() + FRAME);
    body.extend_from_slice(b"{\"requestId\":");
    body.extend_from_slice(Value::from(request_id).to_string().as_bytes());
    body.push(b',');
    body.extend_from_slice(&members);
    body.extend_from_slice(b",\"notifications\":[");
    for (position, json) in notifications.enumerate() {
        if position > 0 {
            body.push(b',');
        }
        body.extend_from_slice(json);
    }
    body.extend_from_slice(b"]}");
    body
}

/// `members` with `tnt_id` in their `id` object, which is made where there is none.
fn with_tnt_id<'m>(members: &'m [u8], tnt_id: &str) -> Cow<'m, [u8]> {
    #[derive(Deserialize)]
    struct Visitor<'a> {
        #[serde(borrow)]
        id: Option<&'a RawValue>,
    }
    let Ok(text) = std::str::from_utf8(members) else { return Cow::Borrowed(members) };
    let (whole, given) = (format!("{{{text}}}"), Value::from(tnt_id));
    let Ok(Visitor { id }) = serde_json::from_str(&whole) else { return Cow::Borrowed(members) };
    let joined = match id.and_then(|id| Some((id, id.get().strip_prefix('{')?.trim_start()))) {
        None => format!(r#""id":{{"tntId":{given}}},{text}"#),
        Some((id, rest)) => {
            // The raw value is a part of `whole`, so that its place is the distance of their beginnings.
            let at = id.get().as_ptr() as usize - whole.as_ptr() as usize - 1;
            let (before, after) = (text.get(..at), text.get(at + 1..));
            let comma = if rest.starts_with('}') { "" } else { "," };
            format!(r#"{}{{"tntId":{given}{comma}{}"#, before.unwrap_or_default(), after.unwrap_or_default())
        }
    };
    Cow::Owned(joined.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_the_stored_bytes_joined() {
        let notifications: [&[u8]; 2] = [br#"{"id":"1"}"#, br#"{"id":"2", "new":1e400}"#];
        let body = body(br#""context":{"channel":"web"}"#, None, notifications.into_iter(), "r\"1");
        assert_eq!(
            std::str::from_utf8(&body).unwrap(),
            r#"{"requestId":"r\"1","context":{"channel":"web"},"notifications":[{"id":"1"},{"id":"2", "new":1e400}]}"#
        );
    }

    #[test]
    fn a_tnt_id_that_was_learned_is_put_into_the_id_object() {
        let body = |members: &str| {
            let body = body(members.as_bytes(), Some("a\"b.35_0"), std::iter::empty(), "r");
            String::from_utf8(body).unwrap()
        };
        for (members, expected) in [
            (
                r#""context":{}"#,
                r#"{"requestId":"r","id":{"tntId":"a\"b.35_0"},"context":{},"notifications":[]}"#,
            ),
            (
                r#""context":{"id":7},"id":{ },"x":1"#,
                r#"{"requestId":"r","context":{"id":7},"id":{"tntId":"a\"b.35_0" },"x":1,"notifications":[]}"#,
            ),
            (
                r#""id":{"thirdPartyId":"t"},"context":{}"#,
                r#"{"requestId":"r","id":{"tntId":"a\"b.35_0","thirdPartyId":"t"},"context":{},"notifications":[]}"#,
            ),
        ] {
            assert_eq!(body(members), expected);
        }
    }
}
