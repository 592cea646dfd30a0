//! Names of hosts, and numbers as they are answered.

use std::time::Duration;

use super::office::Refusal;
use crate::event::{Host, NoHost};

/// Reads the name of a host.
pub(super) fn host(text: &str) -> Result<Host, Refusal> {
    text.parse().map_err(|error: NoHost| Refusal::of("malformed", error.to_string()))
}

/// How many stay stopped, and where they are listed; nothing where none does.
pub(super) fn still_in_force(count: usize, one: &str, many: &str) -> String {
    match count {
        0 => String::new(),
        1 => format!("1 other {one} is still in force: target-notifyd status lists it"),
        count => format!("{count} other {many} are still in force: target-notifyd status lists them"),
    }
}

/// Seconds, to thousandths.
pub(super) fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_still_in_force_is_told_in_its_number() {
        assert_eq!(still_in_force(0, "pause", "pauses"), "");
        assert!(still_in_force(1, "pause", "pauses").starts_with("1 other pause is still in force"));
        assert!(still_in_force(2, "hold", "holds").starts_with("2 other holds are still in force"));
    }
}
