//! Figures as people read them.

use std::time::Duration;

use bytesize::ByteSize;

use crate::event::{count, noun};

/// Seconds as a duration of its two largest units, such as `3h 20m`; below ten seconds to tenths.
pub(super) fn span(seconds: f64) -> String {
    if seconds < 9.95 {
        return format!("{:.1}s", seconds.max(0.0));
    }
    // A float that is too large for the integer becomes the largest one.
    let whole = Duration::from_secs((seconds.round() as u64).min(100 * 365 * 86_400));
    let text = humantime::format_duration(whole).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// Milliseconds; from a second on as [`span`] tells them.
pub(super) fn milliseconds(ms: f64) -> String {
    if ms < 999.95 { format!("{ms:.1} ms") } else { span(ms / 1_000.0) }
}

/// Bytes in the largest unit that fits.
pub(in crate::cli) fn bytes(number: u64) -> String {
    ByteSize(number).display().iec().to_string()
}

/// `one`, or as many with `many`.
pub(in crate::cli) fn some(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), noun(number, one, many))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        for (seconds, expected) in [
            (0.0, "0.0s"),
            (-1.0, "0.0s"),
            (4.26, "4.3s"),
            (75.0, "1m 15s"),
            (12_345.6, "3h 25m"),
            (200_000.0, "2days 7h"),
        ] {
            assert_eq!(span(seconds), expected);
        }
        for (ms, expected) in [(8.04, "8.0 ms"), (999.96, "1.0s"), (10_002.0, "10s")] {
            assert_eq!(milliseconds(ms), expected);
        }
        assert!(span(f64::INFINITY).contains("years"));
    }
}
