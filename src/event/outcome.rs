//! What came of an attempt, and why an event was set aside.

use std::fmt;
use std::time::Duration;

use super::{Cluster, Seq};

/// What came of one request, as far as decisions depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What was answered, or how the request failed.
    pub answer: Answer,
    /// `Retry-After`, already turned into a wait from now.
    pub retry_after: Option<Duration>,
    /// The cluster of the answer's `edgeHost`, where that was a valid one.
    pub edge: Option<Cluster>,
    /// The `tntId` of the answer, where that was a valid one.
    pub known: Option<Known>,
    /// What to tell a person: the status with Adobe's message, or the transport's error; at most 1 KiB, without control
    /// characters.
    pub detail: String,
}

/// How Target knows a visitor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The `tntId`.
    pub tnt_id: Box<str>,
    /// The cluster that its location hint names.
    pub home: Option<Cluster>,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A 2xx with a readable body: for each event of the attempt, in its order, whether the body lists its id.
    Listed(Vec<bool>),
    /// 204: accepted without a body.
    Accepted,
    /// A 2xx whose body was not JSON, or over the limit, and a 205: nobody knows what was processed.
    Unreadable,
    /// Any other status.
    Status(u16),
    /// No answer, or a 2xx whose body broke off.
    Failed(Failure),
}

/// How a request failed without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failure {
    /// The name did not resolve.
    Dns,
    /// No connection could be made.
    Connect,
    /// The TLS handshake failed.
    Tls,
    /// The connection ended before the answer did.
    Reset,
    /// No answer in time.
    Timeout,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
        })
    }
}

/// An event that is to be set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Burial {
    /// Which one.
    pub seq: Seq,
    /// Why.
    pub reason: DeadReason,
    /// What Target or the transport said.
    pub detail: String,
}

/// Why an event became a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeadReason {
    /// Target refused it for good.
    Refused,
    /// `retry.unlisted_max` answers in a row left its id out.
    NotAcknowledged,
    /// It was older than `queue.max_age` when an attempt failed.
    Expired,
    /// An operator dropped it.
    Dropped,
}

impl DeadReason {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Refused, Self::NotAcknowledged, Self::Expired, Self::Dropped];

    /// The reason with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == name)
    }

    /// The name that receipts, logs and the dead-letter list use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::NotAcknowledged => "not_acknowledged",
            Self::Expired => "expired",
            Self::Dropped => "dropped",
        }
    }
}

impl fmt::Display for DeadReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
