//! The lines that a producer reads, and who is told what they are to say.

use std::time::Duration;

use serde::Serialize;
use tokio::sync::oneshot;

use crate::event::{EventId, SessionId};

/// Whoever asked for a batch of submissions to be stored.
pub trait Replier: std::fmt::Debug + Send {
    /// Whether nobody waits for the answer any more.
    fn is_gone(&self) -> bool;

    /// Says what became of the batch: one answer for each submission in its order. It does not block. A replier that is dropped
    /// instead tells that the commit was lost: nobody knows what is stored.
    fn reply(self: Box<Self>, answers: Vec<Appended>);
}

/// Whoever holds the receiver waits; where the commit was lost the receiver errs.
impl Replier for oneshot::Sender<Vec<Appended>> {
    fn is_gone(&self) -> bool {
        self.is_closed()
    }

    fn reply(self: Box<Self>, answers: Vec<Appended>) {
        // Who waited may have given up.
        drop(self.send(answers));
    }
}

/// What became of one submission that was handed to the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appended {
    /// Its events are on stable storage.
    Stored,
    /// Nothing of it was handed to the storage engine; the producer tries again.
    Refused {
        /// Why.
        code: Unavailable,
        /// What happened, for a person.
        message: String,
        /// When to try again.
        retry_after: Duration,
    },
}

/// Why a line is refused for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// It is not JSON, or not UTF-8.
    MalformedJson,
    /// It is longer than `ingest.max_line`.
    LineTooLong,
    /// It has a field that the protocol does not know.
    UnknownField,
    /// The producer's user may not submit.
    Forbidden,
    /// Anything else.
    InvalidEvent,
}

impl Code {
    /// The code as it stands in the reply.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MalformedJson => "malformed_json",
            Self::LineTooLong => "line_too_long",
            Self::UnknownField => "unknown_field",
            Self::Forbidden => "forbidden",
            Self::InvalidEvent => "invalid_event",
        }
    }
}

/// Why a line is refused for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unavailable {
    /// `queue.max_bytes` or `queue.max_events` is reached.
    QueueFull,
    /// The disk has too little free space.
    StorageFull,
    /// The storage engine failed.
    StorageError,
    /// The daemon is ending.
    ShuttingDown,
    /// `ingest.max_connections` or its share for one user is reached.
    TooManyConnections,
}

impl Unavailable {
    /// The code as it stands in the reply.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::StorageFull => "storage_full",
            Self::StorageError => "storage_error",
            Self::ShuttingDown => "shutting_down",
            Self::TooManyConnections => "too_many_connections",
        }
    }
}

/// A line that is refused for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Why.
    pub code: Code,
    /// What is wrong, for a person.
    pub message: String,
    /// Where, as the producer wrote the line.
    pub path: Option<String>,
    /// The line's `ref`, where it had a valid one.
    pub reference: Option<String>,
}

#[derive(Serialize)]
struct Refused<'a> {
    status: &'static str,
    error: Error<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    reference: Option<&'a str>,
}

#[derive(Serialize)]
struct Error<'a> {
    code: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
}

/// Appends the reply to a stored line, without its line end.
pub fn push_queued(
    out: &mut String,
    ids: &[EventId],
    session: &SessionId,
    reference: Option<&str>,
    receipt_refused: bool,
) {
    out.push_str(r#"{"status":"queued","ids":["#);
    for (position, id) in ids.iter().enumerate() {
        if position > 0 {
            out.push(',');
        }
        push_text(out, id.as_str());
    }
    out.push_str(r#"],"session_id":"#);
    push_text(out, session.as_str());
    if let Some(reference) = reference {
        out.push_str(r#","ref":"#);
        push_text(out, reference);
    }
    if receipt_refused {
        out.push_str(r#","receipt":false"#);
    }
    out.push('}');
}

/// The reply to a line that is refused for good, without its line end.
#[must_use]
pub fn rejected(rejection: &Rejection) -> String {
    let path = rejection.path.as_deref();
    line(&Refused {
        status: "rejected",
        error: Error { code: rejection.code.as_str(), message: &rejection.message, path },
        retry_after_ms: None,
        reference: rejection.reference.as_deref(),
    })
}

/// The reply to a line that is refused for now, without its line end.
#[must_use]
pub fn unavailable(
    code: Unavailable,
    message: &str,
    reference: Option<&str>,
    retry_after: Duration,
) -> String {
    line(&Refused {
        status: "unavailable",
        error: Error { code: code.as_str(), message, path: None },
        retry_after_ms: Some(u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX)),
        reference,
    })
}

/// Appends `text` as a JSON string.
fn push_text(out: &mut String, text: &str) {
    if text.bytes().any(|byte| byte < b' ' || matches!(byte, b'"' | b'\\')) {
        out.push_str(&serde_json::Value::from(text).to_string());
        return;
    }
    out.push('"');
    out.push_str(text);
    out.push('"');
}

fn line(reply: &impl Serialize) -> String {
    // Strings and integers always have a JSON form; were that ever untrue, no reply means "outcome unknown".
    serde_json::to_string(reply).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_read_as_the_protocol_says() {
        let session = SessionId::new("s1").unwrap();
        let ids = [EventId::new("a"), EventId::new("\"b\"")];
        let mut told = String::new();
        push_queued(&mut told, &ids, &session, None, false);
        assert_eq!(told, r#"{"status":"queued","ids":["a","\"b\""],"session_id":"s1"}"#);
        told.clear();
        push_queued(&mut told, &ids[..1], &session, Some("\u{1f}r"), true);
        assert_eq!(
            told,
            r#"{"status":"queued","ids":["a"],"session_id":"s1","ref":"\u001fr","receipt":false}"#
        );
        let rejection = Rejection {
            code: Code::InvalidEvent,
            message: "must be an integer".to_owned(),
            path: Some("request.notifications[1].timestamp".to_owned()),
            reference: None,
        };
        assert_eq!(
            rejected(&rejection),
            r#"{"status":"rejected","error":{"code":"invalid_event","message":"must be an integer","path":"request.notifications[1].timestamp"}}"#
        );
        assert_eq!(
            unavailable(Unavailable::QueueFull, "full", Some("r"), Duration::from_secs(1)),
            r#"{"status":"unavailable","error":{"code":"queue_full","message":"full"},"retry_after_ms":1000,"ref":"r"}"#
        );
    }
}
