//! Pure decisions about delivery: no clock, no socket, no disk, no JSON. Time and randomness are arguments.

mod backoff;
mod host;
mod index;
mod lane;
mod notice;
mod remembered;
mod scheduler;
mod settings;
mod stitch;
#[cfg(test)]
mod tests;
mod verdict;

pub use self::backoff::{Backoff, Random};
pub use self::notice::{Cause, Notice};
pub use self::remembered::Remembered;
pub use self::scheduler::{
    Attempt, Buried, CLOCK_SLACK, LEARNED_FOR, MAX_LEARNED, MAX_PARKED, Scheduler, Settled, Status, Stuck,
};
pub use self::settings::Settings;
pub use self::stitch::Stitches;
pub use self::verdict::{Verdict, verdict};
