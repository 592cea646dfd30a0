//! Whether a host takes requests, as an operator sees it.

/// What a host does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostHealth {
    /// It takes them.
    Serving,
    /// Its breaker is open: one request at a time probes it.
    BreakerOpen,
    /// Its answers paused it: they say that the configuration is wrong, or refuse everything.
    Paused,
    /// It asked all sessions to wait.
    Busy,
}

impl HostHealth {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Serving, Self::BreakerOpen, Self::Paused, Self::Busy];

    /// The name that the metrics use: the state of its breaker.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "closed",
            Self::BreakerOpen => "open",
            Self::Paused => "paused",
            Self::Busy => "busy",
        }
    }
}
