//! The lines of the admin socket: what may be asked, and what is answered. `docs/admin-protocol.md` explains them; the
//! names are stable, and members may be added.

mod answer;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::answer::{
    Advice, Ages, Answer, Done, Event, Hold, HostLine, Lane, Letter, Outcome, Pause, Status,
};

use crate::wire::object::object;

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
        #[serde(default, rename = "where", deserialize_with = "object")]
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
        #[serde(rename = "where", deserialize_with = "object")]
        which: Which,
        /// Only count.
        #[serde(default)]
        dry_run: bool,
    },
    /// Delete dead letters for good.
    DeadDelete {
        /// Which.
        #[serde(rename = "where", deserialize_with = "object")]
        which: Which,
        /// Only count.
        #[serde(default)]
        dry_run: bool,
    },
    /// Dead letters as submissions.
    DeadExport {
        /// Which.
        #[serde(default, rename = "where", deserialize_with = "object")]
        which: Which,
    },
    /// Send nothing to a host, or to any.
    Pause {
        /// `client`, or the digits of an edge cluster, also as `edge 35`; absent: all hosts.
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

impl Which {
    /// Whether it says which letters a change is for: those that something narrows down to, or all.
    ///
    /// # Errors
    /// It does not; what is to be said.
    pub fn meant(&self) -> Result<(), &'static str> {
        let narrowed = Self { all: false, ..self.clone() } != Self::default();
        match (narrowed, self.all) {
            (true, false) | (false, true) => Ok(()),
            (true, true) => Err("all letters, or those that a filter or number names: not both"),
            (false, false) => {
                Err("say which dead letters: by number, by a filter, or all of them with --all")
            }
        }
    }
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
            r#"{"op":"dead_list","where":[]}"#,
            r#"{"op":"dead_export","where":[[5]]}"#,
            r#"{"op":"dead_requeue","where":[[5]]}"#,
            r#"{"op":"dead_delete","where":[[],null,null,null,null,null,true]}"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
