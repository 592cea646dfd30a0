//! The `mbox` cookie, read as Adobe's SDKs read it.
//!
//! ```text
//! cookie = part *( "|" part )
//! part   = name "#" value "#" expires *( "#" ignored )      name and value percent-encoded, expires in epoch seconds
//! ```
//! A part with fewer than three fields or without an integer as its third is skipped; of two parts with one name the
//! last counts; a part counts while now, rounded up to a second, is not after `expires`.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::event::SessionId;

/// How long a session's part is valid, in seconds.
const SESSION_S: u64 = 1_860;
/// How long a device's part is valid, in seconds.
const DEVICE_S: u64 = 63_244_800;
/// How long the cookie of the location hint is valid, in seconds.
pub const LOCATION_HINT_S: u64 = 1_860;
/// What is encoded in a part: all that has a meaning in the cookie, and what a cookie cannot hold.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'!')
    .remove(b'*')
    .remove(b'(')
    .remove(b')')
    .remove(b'\'');

/// The cookie's value and how long it is valid, in seconds, as the SDKs write it at `now` seconds since the Unix epoch.
#[must_use]
pub fn write(session: &SessionId, tnt_id: Option<&str>, now: u64) -> (String, u64) {
    let part = |name: &str, value: &str, keep: u64| {
        format!("{name}#{}#{}", utf8_percent_encode(value, ENCODED), now.saturating_add(keep))
    };
    let session = part("session", session.as_str(), SESSION_S);
    match tnt_id {
        Some(tnt_id) => (format!("{session}|{}", part("PC", tnt_id, DEVICE_S)), DEVICE_S),
        None => (session, SESSION_S),
    }
}

/// What a cookie says of a visitor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cookie {
    /// The session, where the part is valid and follows the rules of a session id.
    pub session: Option<SessionId>,
    /// The device id (`tntId`), where the part is valid.
    pub device: Option<String>,
}

impl Cookie {
    /// Reads `text`; what is malformed or has expired by `now_unix_ms` is absent.
    #[must_use]
    pub fn parse(text: &str, now_unix_ms: u64) -> Self {
        let now = i128::from(now_unix_ms.div_ceil(1_000));
        Self {
            session: value(text, "session", now).and_then(|id| SessionId::new(&id).ok()),
            device: value(text, "PC", now).filter(|device| !device.is_empty()),
        }
    }
}

/// The value of the last well-formed part called `name`, unless it has expired.
fn value(text: &str, name: &str, now: i128) -> Option<String> {
    let mut parts = text.split('|').filter_map(part);
    let (_, value, expires) = parts.rfind(|(found, ..)| found == name)?;
    (now <= i128::from(expires)).then_some(value)
}

fn part(text: &str) -> Option<(String, String, i64)> {
    let mut fields = text.split('#');
    let (name, value, expires) = (fields.next()?, fields.next()?, fields.next()?);
    let decoded = |field| percent_decode_str(field).decode_utf8().ok().map(|text| text.into_owned());
    Some((decoded(name)?, decoded(value)?, expires.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    #[test]
    fn cookies_are_read_as_the_sdks_read_them() {
        for (cookie, session, device) in [
            ("session#abc#1700000001|PC#dev.35_0#1800000000", Some("abc"), Some("dev.35_0")),
            ("session#abc#1700000000", Some("abc"), None),
            ("session#abc#1699999999", None, None),
            ("PC#dev#1800000000", None, Some("dev")),
            ("session#a%2Db#1800000000", Some("a-b"), None),
            ("%73ession#abc#1800000000", Some("abc"), None),
            ("session#abc#1800000000#more#fields", Some("abc"), None),
            ("session#abc", None, None),
            ("session#abc#soon|PC#dev#1800000000", None, Some("dev")),
            ("session#one#1800000000|session#two#1800000000", Some("two"), None),
            ("session#one#1800000000|session#two#1", None, None),
            ("session#one#1800000000|session#two#x", Some("one"), None),
            ("session#a/b#1800000000", None, None),
            ("session#%ff#1800000000", None, None),
            ("check#true#1800000000|", None, None),
            ("", None, None),
        ] {
            let read = Cookie::parse(cookie, NOW);
            assert_eq!(read.session.as_ref().map(SessionId::as_str), session, "{cookie}");
            assert_eq!(read.device.as_deref(), device, "{cookie}");
        }
    }

    #[test]
    fn now_is_rounded_up() {
        assert_eq!(Cookie::parse("PC#dev#1700000000", NOW + 1).device, None);
    }
}
