//! Words for people.

use std::io::{Error, ErrorKind};

/// `one`, where it is one, else `many`.
#[must_use]
pub fn noun<'w>(count: u64, one: &'w str, many: &'w str) -> &'w str {
    if count == 1 { one } else { many }
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
    fn one_alone_is_one() {
        assert_eq!([0, 1, 2].map(|count| noun(count, "event", "events")), ["events", "event", "events"]);
    }
}
