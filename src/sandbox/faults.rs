//! What the sandbox does wrong on purpose.

use std::time::Duration;

use crate::event::{Cluster, Host};
use crate::schedule::Random;

/// What goes wrong; the default is nothing.
///
/// The six rates from `error_500` to `cut` are drawn together, so that at most one of them strikes a request:
/// where they sum to more than 1000, the later ones are crowded out.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Per mille of requests that are answered 500; nothing is taken.
    pub error_500: u16,
    /// Per mille of requests that are answered 503; nothing is taken.
    pub busy_503: u16,
    /// The seconds of `Retry-After` in every 429 and 503; without it these have no such header.
    pub retry_after_s: Option<u64>,
    /// Per mille of requests that are never answered; nothing is taken.
    pub hang: u16,
    /// Per mille of requests whose connection is closed before anything is taken.
    pub reset_before: u16,
    /// Per mille of requests that are taken, and whose connection is then closed without an answer.
    pub reset_after: u16,
    /// Per mille of requests that are taken, and whose answer then breaks off in its body.
    pub cut: u16,
    /// Per mille of notifications that are neither taken nor listed; not with a beacon, whose answer lists
    /// nothing.
    pub omit: u16,
    /// How long each answer takes.
    pub latency: Duration,
    /// Every connection is closed at once, an open one at its next request.
    pub down: bool,
    /// The clusters whose hosts close the connection at each request.
    pub down_clusters: Vec<Cluster>,
    /// Every request is answered with this status; nothing is taken. What is no final HTTP
    /// status counts as 500.
    pub refuse_all: Option<u16>,
    /// No notification is taken or listed; not with a beacon.
    pub list_none: bool,
    /// Requests with this `property.token` are answered 403.
    pub forbid_token: Option<String>,
    /// Requests with a notification that has this among its `tokens` are answered 503.
    pub fail_token: Option<String>,
    /// Requests of this session are answered 420.
    pub busy_session: Option<String>,
}

/// What the dice say of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    Serve,
    Error,
    Busy,
    Hang,
    ResetBefore,
    ResetAfter,
    Cut,
}

impl Faults {
    /// Draws what becomes of one request; every request costs one draw, whatever the rates are.
    pub(super) fn plan(&self, random: &mut Random) -> Plan {
        let drawn = random.bits() % 1_000;
        let mut bound = 0;
        for (rate, plan) in [
            (self.error_500, Plan::Error),
            (self.busy_503, Plan::Busy),
            (self.hang, Plan::Hang),
            (self.reset_before, Plan::ResetBefore),
            (self.reset_after, Plan::ResetAfter),
            (self.cut, Plan::Cut),
        ] {
            bound += u64::from(rate);
            if drawn < bound {
                return plan;
            }
        }
        Plan::Serve
    }

    /// Whether this notification is left out.
    pub(super) fn omits(&self, random: &mut Random) -> bool {
        self.list_none || (self.omit > 0 && random.bits() % 1_000 < u64::from(self.omit))
    }

    /// Whether `host` is out of service.
    pub(super) fn is_down(&self, host: Host) -> bool {
        self.down || matches!(host, Host::Edge(cluster) if self.down_clusters.contains(&cluster))
    }
}
