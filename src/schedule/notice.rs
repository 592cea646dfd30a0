//! What an operator should hear of; the flusher logs it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::event::{Host, Seq};

/// The most notices that wait to be taken.
pub(super) const WAITING_NOTICES: usize = 1_000;

/// Why a host is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It says that the configuration, or a producer, is wrong.
    Misconfigured,
    /// It refuses everything: that is not the events' fault.
    Fuse,
}

/// A change that an operator should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A host fails: its lanes wait, and one probes it.
    BreakerOpened {
        /// Which.
        host: Host,
        /// Until the probe.
        wait: Duration,
        /// What the last failure said.
        detail: String,
    },
    /// A host takes requests again, after a breaker or a pause.
    HostServes {
        /// Which.
        host: Host,
        /// The most requests under way at first, where that is fewer than the settings allow since it timed out.
        at_most: Option<usize>,
    },
    /// A host is paused until a probe succeeds.
    HostPaused {
        /// Which.
        host: Host,
        /// Why.
        cause: Cause,
        /// What the last answer said.
        detail: String,
    },
    /// A host asked for a wait that binds all its lanes.
    HostBusy {
        /// Which.
        host: Host,
        /// How long.
        wait: Duration,
    },
    /// An event fails by itself and no longer holds its session back.
    Parked {
        /// Which.
        seq: Seq,
        /// What the last answer said.
        detail: String,
    },
    /// An event should be parked, but as many as may be are.
    ParkedFull {
        /// Which.
        seq: Seq,
    },
    /// Notices beyond the limit were not kept.
    LeftOut {
        /// How many.
        count: u64,
    },
    /// An event lies in the future: the clock was set back, and nothing expires for `queue.max_age`.
    ArrivedInFuture {
        /// Which.
        seq: Seq,
        /// How far.
        ahead: Duration,
    },
    /// A pause that an operator made is over.
    PauseOver {
        /// Of which host; `None` of all.
        host: Option<Host>,
    },
    /// An event should be set aside, but as many dead letters as may be are held: it is parked.
    DeadLettersFull {
        /// Which.
        seq: Seq,
    },
}

/// Notices that wait; beyond the limit they are counted only.
#[derive(Debug, Default)]
pub(super) struct Notices {
    waiting: VecDeque<Notice>,
    dropped: u64,
}

impl Notices {
    pub(super) fn add(&mut self, notice: Notice) {
        if self.waiting.len() < WAITING_NOTICES {
            self.waiting.push_back(notice);
        } else {
            self.dropped += 1;
        }
    }

    pub(super) fn take(&mut self) -> Option<Notice> {
        let left_out = (self.waiting.is_empty() && self.dropped > 0)
            .then(|| Notice::LeftOut { count: std::mem::take(&mut self.dropped) });
        self.waiting.pop_front().or(left_out)
    }
}
