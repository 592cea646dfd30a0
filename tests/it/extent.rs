//! How much the tests of the promises do: a bounded part in `cargo test`, all of it in `.ci/full`.

/// What random histories are drawn from: `TARGET_NOTIFYD_SEED`, by default 1.
pub(crate) fn seed() -> u64 {
    number("TARGET_NOTIFYD_SEED").unwrap_or(1)
}

/// How many histories, images or kills a test does: `all` where `TARGET_NOTIFYD_FULL` is 1, else `part`.
pub(crate) fn extent(part: u64, all: u64) -> u64 {
    if number("TARGET_NOTIFYD_FULL") == Some(1) { all } else { part }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}
