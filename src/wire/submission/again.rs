//! Stored events as a line that a producer can submit again.
//!
//! Guarantee: a line that is told as [`Fidelity::Exact`] was parsed again here, and stands for the very same events: the
//! same envelope and the same notifications, byte for byte.

use super::json::{Path, object, push_member, read};
use super::{Submission, request};
use crate::event::{Envelope, Event};
use crate::wire::defaults::Defaults;

/// What is filled in where a line is only held against what it was made from: nothing.
const NOTHING: Defaults = Defaults {
    impression_id: false,
    channel: false,
    time_zone: None,
    analytics_logging: false,
    property_token: None,
    environment_id: None,
};

/// A line made of stored events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Again {
    /// One JSON object, without a line's end.
    pub line: String,
    /// Whether submitting it gives the same events.
    pub fidelity: Fidelity,
}

/// What a line is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fidelity {
    /// It stands for the same events, byte for byte.
    Exact,
    /// The protocol's limits refuse it: what the daemon filled in counts, too.
    Refused(String),
    /// It is taken, but not as the same events; no event that this program stored is known to do so.
    Changed,
}

/// The line of `events`, which share the envelope of the first and are not more than
/// [`MAX_NOTIFICATIONS`](super::MAX_NOTIFICATIONS).
#[must_use]
pub fn again(events: &[Event]) -> Again {
    let Some(first) = events.first() else {
        return Again { line: String::new(), fidelity: Fidelity::Refused("there is no event".to_owned()) };
    };
    let line = long(&first.envelope, events);
    let fidelity = fidelity(&line, events);
    if fidelity == Fidelity::Exact {
        return Again { line, fidelity };
    }
    // The long form nests deeper than the short one: what came in the short form at the limit fits that form alone.
    if let ([one], Fidelity::Refused(_)) = (events, &fidelity)
        && let Some(line) = short(one)
        && self::fidelity(&line, events) == Fidelity::Exact
    {
        return Again { line, fidelity: Fidelity::Exact };
    }
    Again { line, fidelity }
}

fn fidelity(line: &str, events: &[Event]) -> Fidelity {
    let parsed = match Submission::parse(line.as_bytes(), &NOTHING, 0) {
        Ok(parsed) => parsed,
        Err(rejection) => {
            let path = rejection.path.filter(|path| !path.is_empty());
            let path = path.map_or(String::new(), |path| format!("{path}: "));
            return Fidelity::Refused(format!("{path}{}", rejection.message));
        }
    };
    let same = parsed.notifications.len() == events.len()
        && events.iter().zip(&parsed.notifications).all(|(event, read)| {
            event.envelope == parsed.envelope && event.id == read.id && event.notification == read.json
        });
    if same { Fidelity::Exact } else { Fidelity::Changed }
}

/// The options that name the session and the cluster, without the closing brace.
fn options(envelope: &Envelope) -> String {
    let mut line = String::from("{");
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    push_member(&mut line, "session_id", &quoted(envelope.session.as_str()));
    if let Some(cluster) = envelope.cluster {
        push_member(&mut line, "target_location_hint", &quoted(cluster.as_str()));
    }
    line
}

fn long(envelope: &Envelope, events: &[Event]) -> String {
    let mut line = options(envelope);
    line.push_str(",\"request\":{");
    line.push_str(&String::from_utf8_lossy(&envelope.members));
    if !envelope.members.is_empty() {
        line.push(',');
    }
    line.push_str("\"notifications\":[");
    for (position, event) in events.iter().enumerate() {
        if position > 0 {
            line.push(',');
        }
        line.push_str(&String::from_utf8_lossy(&event.notification));
    }
    line.push_str("]}}");
    line
}

/// The short form; `None` where the event has a member that it does not take.
fn short(event: &Event) -> Option<String> {
    let mut line = options(&event.envelope);
    let members = format!("{{{}}}", std::str::from_utf8(&event.envelope.members).ok()?);
    let members = read(members.as_bytes()).ok()?;
    for (name, value) in object(members.root(), &Path::Root).ok()?.0 {
        let written = request::SHORT.iter().find(|(_, api)| *api == name).map(|(written, _)| *written)?;
        push_member(&mut line, written, value.get());
    }
    let notification = std::str::from_utf8(&event.notification).ok()?;
    line.push(',');
    line.push_str(notification.strip_prefix('{')?);
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Moment, Seq};

    /// What is stored of a line.
    fn stored(line: &str) -> Vec<Event> {
        let defaults = Defaults {
            impression_id: true,
            channel: true,
            time_zone: Some(jiff::tz::TimeZone::fixed(jiff::tz::offset(1))),
            analytics_logging: true,
            property_token: Some("p\"q".to_owned()),
            environment_id: Some(-7),
        };
        let Submission { envelope, notifications, .. } =
            Submission::parse(line.as_bytes(), &defaults, 1_700_000_000_000).unwrap();
        let event = |(seq, one): (u64, super::super::Notification)| Event {
            seq: Seq(seq),
            id: one.id,
            arrived: Moment::ZERO,
            notification: one.json,
            envelope: envelope.clone(),
        };
        (1..).zip(notifications).map(event).collect()
    }

    #[test]
    fn what_was_stored_comes_back_byte_for_byte() {
        for line in [
            r#"{"type":"click"}"#,
            r#"{"type":"display","session_id":"a\"b","visitor":{"thirdPartyId":"t","new":null},"parameters":{"p":"ü\u0000"}}"#,
            r#"{"target_cookie":"PC#dev.35_0#9999999999|session#s1#9999999999","type":"click","id":"1"}"#,
            r#"{"target_location_hint":"38","consumer_id":"c","customer_ids":{"crm":{"id":"x","authState":1}},"request":{"id":{"customerIds":[]},"notifications":[{"type":"click"},{"type":"click","id":"x","new":{"a" : [1 , 2]}}]}}"#,
            r#"{"request":{"trace":{"authorizationToken":"t"},"qaMode":null,"new":1e400,"property":{"token":"own","x":1},"environmentId":-0,"notifications":[{"type":"click","id":"x","tokens":null},{"type":"click","id":"x"}]}}"#,
        ] {
            let events = stored(line);
            let again = again(&events);
            assert_eq!(again.fidelity, Fidelity::Exact, "{line}\n{}", again.line);
            assert!(!again.line.contains('\n'));
        }
    }

    #[test]
    fn what_nests_as_deep_as_the_short_form_may_comes_back_in_the_short_form() {
        let deep = format!("{}{}", "[".repeat(62), "]".repeat(62));
        let events =
            stored(&format!(r#"{{"type":"click","context":{{"new":{deep}}},"visitor":{{"new":1}}}}"#));
        let again = again(&events);
        assert_eq!(again.fidelity, Fidelity::Exact);
        assert!(again.line.contains("\"visitor\"") && !again.line.contains("\"request\""));
    }

    #[test]
    fn what_the_limits_refuse_is_told() {
        // 64 KiB of members, and what is filled in comes on top.
        let members = "x".repeat(super::super::MAX_MEMBERS_BYTES - 12);
        let events =
            stored(&format!(r#"{{"request":{{"new":"{members}","notifications":[{{"type":"click"}}]}}}}"#));
        assert!(matches!(again(&events).fidelity, Fidelity::Refused(why) if why.contains("at most 65536")));
        assert!(matches!(again(&[]).fidelity, Fidelity::Refused(_)));
    }
}
