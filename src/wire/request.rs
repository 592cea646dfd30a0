//! The `DeliveryRequest` that goes to Target: a concatenation of bytes that were finished when the event was stored.

use serde_json::Value;

/// The bytes around the parts of a body.
const FRAME: usize = r#"{"requestId":"",,"notifications":[]}"#.len();

/// The body of one request: the envelope's members, a request id of its own, and the notifications in their order.
///
/// `members` is finished JSON without the outer braces and not empty, each notification a finished JSON object.
#[must_use]
pub fn body<'a>(
    members: &[u8],
    notifications: impl Iterator<Item = &'a [u8]> + Clone,
    request_id: &str,
) -> Vec<u8> {
    let payload: usize = notifications.clone().map(|json| json.len().saturating_add(1)).sum();
    let mut body = Vec::with_capacity(payload + members.len() + request_id.len() + FRAME);
    body.extend_from_slice(b"{\"requestId\":");
    body.extend_from_slice(Value::from(request_id).to_string().as_bytes());
    body.push(b',');
    body.extend_from_slice(members);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_the_stored_bytes_joined() {
        let notifications: [&[u8]; 2] = [br#"{"id":"1"}"#, br#"{"id":"2", "new":1e400}"#];
        let body = body(br#""context":{"channel":"web"}"#, notifications.into_iter(), "r\"1");
        assert_eq!(
            std::str::from_utf8(&body).unwrap(),
            r#"{"requestId":"r\"1","context":{"channel":"web"},"notifications":[{"id":"1"},{"id":"2", "new":1e400}]}"#
        );
    }
}
