//! The lines of the admin socket: what may be asked, and what is answered. The README's "Admin protocol" explains them; the
//! names are stable, and members may be added.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::daemon::figures::Figures;

/// The version of these lines. A request may name it as `v`, and is refused where the daemon speaks another one.
pub const VERSION: u64 = 1;

/// Why a line is no request.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Unreadable {
    /// Another version.
    #[error(
        "version {0} of the admin protocol is asked for, and this daemon speaks {VERSION}: use the same release for both"
    )]
    Version(serde_json::Value),
    /// Anything else.
    #[error("{0}")]
    Malformed(#[from] serde_json::Error),
}

impl Unreadable {
    /// The code of the answer.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Version(_) => "version",
            Self::Malformed(_) => "malformed",
        }
    }
}

/// A request: one line, one JSON object with an `op`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// The state of the daemon.
    Status {},
    /// The lanes, oldest first.
    Queue {
        /// The most lanes that are answered.
        #[serde(default = "default_lanes")]
        limit: usize,
        /// Read the whole queue on the disk, for exact counts.
        #[serde(default)]
        scan: bool,
    },
    /// The events of a session.
    QueueShow {
        /// The session by its id, or by the hash that the logs show.
        session: String,
        /// The most events that are answered.
        #[serde(default = "default_events")]
        limit: usize,
    },
    /// Hold events back.
    QueueHold {
        /// Which.
        of: Of,
        /// Only count.
        #[serde(default)]
        dry_run: bool,
    },
    /// End holds.
    QueueRelease {
        /// Which.
        of: Of,
        /// Only count.
        #[serde(default)]
        dry_run: bool,
    },
    /// Try what backs off at once.
    QueueRetry {
        /// Which.
        of: Of,
        /// Only count.
        #[serde(default)]
        dry_run: bool,
    },
    /// Set events aside as dead letters.
    QueueDrop {
        /// Which.
        of: Of,
        /// Why; it becomes the letters' detail.
        reason: String,
        /// Only count.
        #[serde(default)]
        dry_run: bool,
    },
    /// Dead letters, oldest first.
    DeadList {
        /// Which.
        #[serde(default, rename = "where")]
        which: Which,
        /// The most that are answered.
        #[serde(default = "default_events")]
        limit: usize,
    },
    /// One dead letter whole.
    DeadShow {
        /// Its number.
        seq: u64,
    },
    /// Make dead letters events again.
    DeadRequeue {
        /// Which.
        #[serde(rename = "where")]
        which: Which,
        /// Only count.
        #[serde(default)]
        dry_run: bool,
    },
    /// Delete dead letters for good.
    DeadDelete {
        /// Which.
        #[serde(rename = "where")]
        which: Which,
        /// Only count.
        #[serde(default)]
        dry_run: bool,
    },
    /// Dead letters as submissions.
    DeadExport {
        /// Which.
        #[serde(default, rename = "where")]
        which: Which,
    },
    /// Send nothing to a host, or to any.
    Pause {
        /// `client`, or the digits of an edge cluster; absent: all hosts.
        #[serde(default)]
        host: Option<String>,
        /// For how many milliseconds; absent: until it is resumed.
        #[serde(default)]
        for_ms: Option<u64>,
        /// Why.
        reason: String,
    },
    /// End pauses, those that answers made too.
    Resume {
        /// As for `pause`.
        #[serde(default)]
        host: Option<String>,
    },
    /// Send what lingers.
    Flush {
        /// Answer only once all that waits now is settled.
        #[serde(default)]
        wait: bool,
    },
    /// Outcomes as they happen.
    Tail {
        /// Of this session alone.
        #[serde(default)]
        session: Option<String>,
        /// Of these alone: `delivered`, `dead`, `retry`.
        #[serde(default)]
        outcomes: Vec<String>,
        /// End after so many.
        #[serde(default)]
        limit: Option<u64>,
    },
}

impl Request {
    /// Reads a line.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn read(line: &[u8]) -> Result<Self, Unreadable> {
        let mut line: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(line)?;
        match line.remove("v") {
            Some(version) if version != VERSION => Err(Unreadable::Version(version)),
            _ => Ok(serde_json::from_value(line.into())?),
        }
    }

    /// The line, with the version and without its end.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = serde_json::to_value(self).unwrap_or_default();
        if let Some(members) = line.as_object_mut() {
            members.insert("v".to_owned(), VERSION.into());
        }
        line.to_string()
    }
}

fn default_lanes() -> usize {
    20
}

fn default_events() -> usize {
    100
}

/// Events that a command is about: `{"session":"…"}`, `{"host":"35"}` or `"all"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Of {
    /// Those of a session, by its id or its hash.
    Session(String),
    /// Those of a host.
    Host(String),
    /// All.
    All,
}

/// Dead letters that a command is about; each member narrows it down.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Which {
    /// By their numbers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub seqs: Vec<u64>,
    /// `refused`, `not_acknowledged`, `expired` or `dropped`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The host that the stored event and the configuration alone give.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The session by its id or its hash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Set aside at least so many milliseconds ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub older_than_ms: Option<u64>,
    /// Set aside at most so many milliseconds ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newer_than_ms: Option<u64>,
    /// All; needed where nothing narrows down what is deleted or requeued.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

/// An answer: one line. Every request is answered by lines of its kind, and then `done` or `error`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Answer {
    /// The state of the daemon.
    Status(Box<Status>),
    /// A row of the table of ages.
    Ages(Ages),
    /// A session with events that wait.
    Lane(Lane),
    /// An event that waits.
    Event(Event),
    /// A dead letter.
    Letter(Letter),
    /// A submission that `send` takes.
    Submission {
        /// The dead letter's number.
        seq: u64,
        /// The line.
        line: String,
        /// Why `send` would not bring the same event back; such a line is for reading only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        refused: Option<String>,
    },
    /// `tail` listens: what happens from now on is told.
    Listening {},
    /// What became of events of one request.
    Outcome(Outcome),
    /// So many outcomes were not told, because they were not read in time.
    Missed {
        /// How many.
        count: u64,
    },
    /// `flush` with `wait` still waits.
    Waiting {
        /// Events in the queue.
        pending: u64,
    },
    /// The end of an answer.
    Done(Done),
    /// The request is refused.
    Error {
        /// `malformed`, `version`, `forbidden`, `not_found`, `limit`, `ambiguous`, `storage_error`, `shutting_down` or
        /// `too_many_connections`.
        code: String,
        /// What is wrong, and what to do.
        message: String,
    },
}

/// The state of the daemon.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// `running`; `paused`: an operator paused all hosts; `full`: producers are refused for want of room; `stuck`.
    pub state: String,
    /// The daemon's version.
    pub version: String,
    /// The version of this protocol.
    pub protocol: u64,
    /// The client code.
    pub client: String,
    /// All figures.
    #[serde(flatten)]
    pub figures: Figures,
    /// The hosts.
    pub hosts: Vec<HostLine>,
    /// The pauses of the operator.
    pub paused: Vec<Pause>,
    /// The holds of the operator.
    pub held: Vec<Hold>,
    /// What may be done, the most urgent first.
    pub advice: Vec<Advice>,
}

/// Something to be done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Advice {
    /// What is the matter.
    pub about: String,
    /// The command to run.
    pub run: String,
}

/// A host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostLine {
    /// `client` or `edge NN`.
    pub host: String,
    /// `open`, `breaker`, `paused: …`, `busy` or `paused by an operator`.
    pub state: String,
    /// Seconds since it fails, or is paused by its answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_s: Option<f64>,
    /// What its last failure said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Seconds until it is probed, or asked again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_s: Option<f64>,
    /// Sessions with due work.
    pub waiting: usize,
    /// Requests under way.
    pub in_flight: usize,
}

/// A pause that an operator made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pause {
    /// The host, or `all`.
    pub host: String,
    /// Why.
    pub reason: String,
    /// Seconds since it was made.
    pub since_s: f64,
    /// Seconds until it ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_s: Option<f64>,
}

/// A hold that an operator made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hold {
    /// `all`, `host NAME`, or `session NAME` as `log.identifiers` shows it; a session without events in memory is not named.
    pub of: String,
    /// Seconds since it was made.
    pub since_s: f64,
}

/// A row of the table of ages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ages {
    /// The host that the stored events and the configuration alone give; `TOTAL` in the first row.
    pub host: String,
    /// All.
    pub total: u64,
    /// How many are younger than each of `minutes`, and not younger than the one before; the last are older than all.
    pub counts: Vec<u64>,
    /// The bounds.
    pub minutes: Vec<u64>,
}

/// A session with events that wait.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lane {
    /// The session, as `log.identifiers` shows it.
    pub session: String,
    /// The host that the stored event and the configuration alone give.
    pub host: String,
    /// Its events: those in memory, or with `scan` all.
    pub events: u64,
    /// Of these, those that fail by themselves.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub parked: u64,
    /// Seconds since the oldest arrived.
    pub age_s: f64,
    /// The number of the oldest.
    pub first: u64,
    /// `collecting`, `due`, `under_way`, `backing_off`, `parked`, `held`, `paused`, `breaker`, `busy` or `on_disk`.
    pub state: String,
    /// Why, in words, where there is more to say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub because: String,
    /// Seconds until it is looked at again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_s: Option<f64>,
    /// Failures in a row.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failures: u64,
    /// What the last failure said, while that is remembered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Seconds since then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_s: Option<f64>,
}

/// An event that waits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its number.
    pub seq: u64,
    /// The notification's id.
    pub id: String,
    /// Seconds since it arrived.
    pub age_s: f64,
    /// The host that it and the configuration alone give.
    pub host: String,
    /// The notification, as it is sent.
    pub notification: serde_json::Value,
}

/// A dead letter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Letter {
    /// Its number.
    pub seq: u64,
    /// The notification's id.
    pub id: String,
    /// The session, as `log.identifiers` shows it.
    pub session: String,
    /// The host that the event and the configuration alone give.
    pub host: String,
    /// Why it was set aside.
    pub reason: String,
    /// What Target, the transport or the operator said.
    pub detail: String,
    /// Seconds since it was set aside.
    pub age_s: f64,
    /// Seconds between its arrival and that.
    pub waited_s: f64,
    /// What it was sent with; only where it is shown whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<serde_json::Value>,
}

/// What became of events of one request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// `delivered`, `dead` or `retry`.
    pub outcome: String,
    /// The session, as `log.identifiers` shows it.
    pub session: String,
    /// The host that was asked.
    pub host: String,
    /// What was answered: a status, `listed`, `accepted`, `unreadable`, or how it failed.
    pub answer: String,
    /// How long the request took, in milliseconds.
    pub took_ms: f64,
    /// The events' numbers.
    pub seqs: Vec<u64>,
    /// The notifications' ids.
    pub ids: Vec<String>,
    /// What Target or the transport said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// The end of an answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Done {
    /// Events or dead letters that the command was about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Sessions that it was about, where they were counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u64>,
    /// Events or dead letters that were not shown, or not touched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_out: Option<u64>,
    /// Whether anything was changed.
    pub changed: bool,
    /// Whether the command only counted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// What else is to be known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_read_as_the_readme_says() {
        let read = |line: &str| Request::read(line.as_bytes());
        assert_eq!(read(r#"{"op":"queue"}"#).unwrap(), Request::Queue { limit: 20, scan: false });
        let of = Of::Session("s".to_owned());
        let hold = r#"{"op":"queue_hold","of":{"session":"s"}}"#;
        assert_eq!(read(hold).unwrap(), Request::QueueHold { of, dry_run: false });
        let all = r#"{"op":"queue_retry","of":"all","dry_run":true}"#;
        let all_events = Request::QueueRetry { of: Of::All, dry_run: true };
        assert_eq!(read(all).unwrap(), all_events);
        assert_eq!(read(&all_events.line()).unwrap(), all_events);
        assert_eq!(read(r#"{"op":"status","v":1}"#).unwrap(), Request::Status {});
        assert_eq!(read(r#"{"op":"status","v":2}"#).unwrap_err().code(), "version");
        for wrong in [
            "{}",
            "[]",
            r#"{"op":"nothing"}"#,
            r#"{"op":"status","more":1}"#,
            r#"{"op":"queue_hold"}"#,
            r#"{"op":"dead_list","where":{"reson":"refused"}}"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
