//! Pure decisions about delivery: no clock, no socket, no disk, no JSON. Time and randomness are arguments.

mod backoff;
mod verdict;

pub use self::backoff::{Backoff, Random};
pub use self::verdict::{Verdict, verdict};
