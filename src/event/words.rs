//! Words for people.

use std::io::{Error, ErrorKind};

/// `one`, where it is one, else `many`.
#[must_use]
pub fn noun<'w>(count: u64, one: &'w str, many: &'w str) -> &'w str {
    if count == 1 { one } else { many }
}

/// A count with its thousands set apart.
#[must_use]
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// What to do about a folder in which nothing can be made: `usual`, or what a service manager wants where it is read-only.
#[must_use]
pub fn unwritable<'w>(error: &Error, usual: &'w str) -> &'w str {
    match error.kind() {
        ErrorKind::ReadOnlyFilesystem => {
            "under systemd the unit has to name it: ReadWritePaths=, see queue.conf among the examples"
        }
        _ => usual,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_only_is_for_the_unit_to_name() {
        let usual = |kind| unwritable(&Error::from(kind), "usual") == "usual";
        assert!(usual(ErrorKind::PermissionDenied) && !usual(ErrorKind::ReadOnlyFilesystem));
    }

    #[test]
    fn thousands_are_set_apart() {
        for (number, expected) in [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345_678, "12,345,678")] {
            assert_eq!(count(number), expected);
        }
    }

    #[test]
    fn one_alone_is_one() {
        assert_eq!([0, 1, 2].map(|count| noun(count, "event", "events")), ["events", "event", "events"]);
    }
}
