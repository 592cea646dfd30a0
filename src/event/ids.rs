//! Names of things: events, sessions, lanes and envelopes.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// The sequence number of an event in the queue: its place in the order of admission, from 1, never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

impl Seq {
    /// The sequence number behind this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A Target session id: 1 to 128 characters of ASCII 0x21–0x7E without `?` and `/`.
///
/// The rule is the Delivery API's for the query parameter `sessionId`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(Arc<str>);

/// Why a text is no session id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidSessionId {
    /// It has no characters.
    #[error("must not be empty")]
    Empty,
    /// It has more than 128 characters.
    #[error("must have at most 128 characters")]
    TooLong,
    /// It has a character outside ASCII 0x21–0x7E, or `?`, or `/`.
    #[error("must be printable ASCII without space, '?' and '/'")]
    Character,
}

impl SessionId {
    /// The most characters that Target takes.
    pub const MAX_CHARS: usize = 128;

    /// Checks `text` by the Delivery API's rule.
    ///
    /// # Errors
    /// [`InvalidSessionId`] names the rule that `text` breaks.
    pub fn new(text: &str) -> Result<Self, InvalidSessionId> {
        Self::check(text)?;
        Ok(Self(text.into()))
    }

    /// Checks `text` by the Delivery API's rule, and keeps nothing of it.
    ///
    /// # Errors
    /// [`InvalidSessionId`] names the rule that `text` breaks.
    pub fn check(text: &str) -> Result<(), InvalidSessionId> {
        if text.is_empty() {
            return Err(InvalidSessionId::Empty);
        }
        if !text.bytes().all(|byte| (0x21..=0x7e).contains(&byte) && byte != b'?' && byte != b'/') {
            return Err(InvalidSessionId::Character);
        }
        if text.len() > Self::MAX_CHARS {
            return Err(InvalidSessionId::TooLong);
        }
        Ok(())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A notification's `id` as the producer gave it or as we made it; at most 200 UTF-16 units.
///
/// Ids are not unique across events: Adobe's own examples use `1`. Only [`Seq`] names one event.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(Arc<str>);

impl EventId {
    /// The most UTF-16 units that Target takes.
    pub const MAX_UNITS: usize = 200;

    /// Takes `text` as it is; the codec that read it has checked its length.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The lane of a session: a 128-bit hash of its session id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane(pub u128);

/// A 128-bit fingerprint of an envelope. Equal fingerprints are a strong hint, not a proof: the bytes are
/// compared when a request is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub u128);

/// A 64-bit hash of an [`EventId`]. A collision only ends a batch early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdHash(pub u64);

/// A hash of a stored `id` object that brings no `tntId`: whom Target's own `tntId` stands for, within a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Visitor(pub u64);

/// A hash of the property token and environment that an event is sent under: whom a 401 or 403 is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(pub u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_id_follows_the_api() {
        for good in ["a", "0123-abcdef", "x#y|z%", &"s".repeat(128)] {
            assert!(SessionId::new(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("", InvalidSessionId::Empty),
            ("a b", InvalidSessionId::Character),
            ("a?b", InvalidSessionId::Character),
            ("a/b", InvalidSessionId::Character),
            ("ä", InvalidSessionId::Character),
            ("a\u{7f}", InvalidSessionId::Character),
            (&"s".repeat(129), InvalidSessionId::TooLong),
        ] {
            assert_eq!(SessionId::new(bad), Err(why), "{bad}");
        }
    }
}
