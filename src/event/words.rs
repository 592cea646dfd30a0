//! Words for people.

/// `one`, where it is one, else `many`.
#[must_use]
pub fn noun<'w>(count: u64, one: &'w str, many: &'w str) -> &'w str {
    if count == 1 { one } else { many }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_alone_is_one() {
        assert_eq!([0, 1, 2].map(|count| noun(count, "event", "events")), ["events", "event", "events"]);
    }
}
