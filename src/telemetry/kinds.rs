//! The kinds of log lines that an operator acts on: the field `event`, and the journal's `MESSAGE_ID` for it.
//!
//! `systemd/target-notifyd.catalog` explains each; a test holds the two together. An id is never given to another kind.

/// The kinds, and their ids.
pub const KINDS: [(&str, &str); 9] = [
    ("dead_letter", "a15e7beef0764f06af95b717b8ccda77"),
    ("host_paused", "2f4626ebf4fd48b3b98adf74df16a1d8"),
    ("breaker_opened", "749a0132bd8643c4b355d3e0664461d5"),
    ("storage_full", "319894d1f5bb451ea16716d73bfbd4b7"),
    ("queue_full", "df3b13c90fb54b8994ddbbdaf1bcd462"),
    ("disk_failed", "eeb45203409249fa9a8199dd7ebd105e"),
    ("stuck", "cf66883e0e3c48c4b784a893b3c9def7"),
    ("quarantined", "13df341985a749888551addd79324e50"),
    ("account_mismatch", "8fc14b066fdb4e52b8cef21e03a2be98"),
];

/// The `MESSAGE_ID` of a kind, if it has one.
pub(super) fn message_id(kind: &str) -> Option<&'static str> {
    KINDS.iter().find(|(name, _)| *name == kind).map(|(_, id)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalog_explains_each_kind_once() {
        let catalog = include_str!("../../systemd/target-notifyd.catalog");
        let explained: Vec<&str> = catalog.lines().filter_map(|line| line.strip_prefix("-- ")).collect();
        assert_eq!(explained, KINDS.map(|(_, id)| id));
        let named: Vec<&str> = catalog.lines().filter_map(|line| line.strip_prefix("# ")).skip(1).collect();
        assert_eq!(named, KINDS.map(|(name, _)| name));
    }
}
