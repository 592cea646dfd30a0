//! What an operator has stopped: pauses of hosts, and holds of events. Plain data; the queue keeps it over restarts.

use std::collections::BTreeMap;

use crate::event::{Host, Lane, Moment};

/// The most hosts that are paused at a time; a pause of all hosts together always finds room.
pub const MAX_PAUSES: usize = 15;
/// The most holds in force at a time.
pub const MAX_HOLDS: usize = 128;
/// The most bytes of the reason of a pause; a longer one is cut.
pub const MAX_REASON_BYTES: usize = 128;

/// Events that an operator means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selection {
    /// Those of one session.
    Lane(Lane),
    /// Those that the stored event and the configuration alone send to this host, whatever answers said since.
    Host(Host),
    /// All.
    All,
}

/// A pause: nothing is sent to a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Why, in the operator's words.
    pub reason: String,
    /// Since when.
    pub since: Moment,
    /// When it ends by itself, if it does.
    pub until: Option<Moment>,
}

/// All that is stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Controls {
    /// The pauses by host; `None` is all hosts together.
    pub pauses: BTreeMap<Option<Host>, Pause>,
    /// The holds, and since when.
    pub holds: BTreeMap<Selection, Moment>,
}

/// Whether a change was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// It was made.
    Yes,
    /// It was so before.
    Not,
    /// As many as may be are in force.
    Full,
}

impl Controls {
    /// Whether an event of `lane`, whose own host is `host`, is held.
    #[must_use]
    pub fn holds(&self, lane: Lane, host: Host) -> bool {
        if self.holds.is_empty() {
            return false;
        }
        [Selection::All, Selection::Lane(lane), Selection::Host(host)]
            .iter()
            .any(|one| self.holds.contains_key(one))
    }

    /// When the next pause ends by itself.
    #[must_use]
    pub fn next_end(&self) -> Option<Moment> {
        self.pauses.values().filter_map(|pause| pause.until).min()
    }
}

/// `reason`, cut to [`MAX_REASON_BYTES`] at a character's end.
#[must_use]
pub fn cut_reason(reason: &str) -> String {
    let (kept, _) = reason.split_at(reason.floor_char_boundary(MAX_REASON_BYTES));
    kept.to_owned()
}
