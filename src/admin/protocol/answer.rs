//! What is answered: one line, one JSON object with a `type`.

use serde::{Deserialize, Serialize};

use crate::figures::Figures;

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
        /// The hosts that take nothing now, or only a probe.
        #[serde(default)]
        hosts: Vec<HostLine>,
        /// That a pause or a hold keeps events back, if one does.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        note: String,
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
    /// The most under way, where that is fewer than `delivery.concurrency` since it timed out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<usize>,
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
    /// What was answered: a status, `listed`, `unlisted`, `accepted`, `unreadable`, or how it failed.
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
    /// Numbers that were named, and of which there is no dead letter.
    #[serde(skip_serializing_if = "is_zero")]
    pub missing: u64,
    /// Whether anything was changed.
    pub changed: bool,
    /// Whether the command only counted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Whether what was changed is in force and not stored yet.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unstored: bool,
    /// What else is to be known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}
