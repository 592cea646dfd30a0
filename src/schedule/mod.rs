//! Pure decisions about delivery: no clock, no socket, no disk, no JSON. Time and randomness are arguments.

mod ages;
mod backoff;
mod control;
mod health;
mod host;
mod index;
mod lane;
mod notice;
mod pace;
mod remembered;
mod revisits;
mod scheduler;
mod settings;
mod stitch;
#[cfg(test)]
mod tests;
mod verdict;
mod width;

pub use self::ages::{AGE_MINUTES, Ages};
pub use self::backoff::{Backoff, Random};
pub use self::control::{
    Changed, Controls, MAX_HOLDS, MAX_PAUSES, MAX_REASON_BYTES, Pause, Selection, cut_reason,
};
pub use self::health::HostHealth;
pub use self::host::Trouble;
pub use self::notice::{Cause, Notice};
pub use self::remembered::Remembered;
pub use self::scheduler::{
    Attempt, CLOCK_SLACK, Counted, Extent, Hindrance, HostView, LEARNED_FOR, LaneView, LastError,
    MAX_LEARNED, MAX_PARKED, Reading, Scheduler, Settled, Standing, Status, Stuck,
};
pub use self::settings::Settings;
pub use self::stitch::Stitches;
pub use self::verdict::{Verdict, verdict};
