//! Whether a host takes requests, as an operator sees it.

use crate::event::Host;

/// What a host does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// It takes them.
    Closed,
    /// Its breaker is open: one request at a time probes it.
    Open,
    /// Its answers paused it: they say that the configuration is wrong, or refuse everything.
    Paused,
    /// It asked all sessions to wait.
    Busy,
}

impl Gate {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Closed, Self::Open, Self::Paused, Self::Busy];

    /// The name that the metrics use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::Paused => "paused",
            Self::Busy => "busy",
        }
    }
}

/// A host and its gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostGate {
    /// Which.
    pub host: Host,
    /// What it does with requests.
    pub gate: Gate,
}
