//! What an unknown key may have been meant to be.

use super::reader::Key;
use super::sections::keys;

/// A key that is less like an unknown one than this was not meant by it.
const LIKE: f64 = 0.5;

/// The known key that is nearest to `unknown`: by its full name, or by its name in another section; `None` where nothing is like it.
pub(super) fn nearest(unknown: &str) -> Option<&'static Key> {
    let unknown = unknown.to_ascii_lowercase();
    let (section, name) = unknown.rsplit_once('.').unwrap_or(("", &unknown));
    let likeness = |key: &Key| {
        let named = strsim::normalized_damerau_levenshtein(name, key.name);
        let full = match section == key.section && named < LIKE {
            // A section that is right makes no name like another.
            true => 0.0,
            false => strsim::normalized_damerau_levenshtein(&unknown, key.full),
        };
        // Below 1, so that the same name in the right section is nearer.
        let elsewhere = 0.9 * named;
        // A key that was begun and not ended is that key.
        let begun = if key.full.starts_with(&unknown) { 0.95 } else { 0.0 };
        full.max(elsewhere).max(begun)
    };
    let (likeness, key) =
        keys().map(|key| (likeness(key), key)).max_by(|(one, _), (other, _)| one.total_cmp(other))?;
    (likeness >= LIKE).then_some(key)
}

/// The section that `name` is.
pub(super) fn is_section(name: &str) -> bool {
    keys().any(|key| key.section == name)
}

/// The known key of this full name.
pub(super) fn known(full: &str) -> Option<&'static Key> {
    keys().find(|key| key.full == full)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_the_one_that_was_meant() {
        for (unknown, meant) in [
            ("batch.lingr", "batch.linger"),
            ("btach.linger", "batch.linger"),
            ("linger", "batch.linger"),
            ("delivery.linger", "batch.linger"),
            ("target.organisation_id", "target.organization_id"),
            ("target.org", "target.organization_id"),
            ("ingest.max_connection", "ingest.max_connections"),
            ("ADMIN.MODE", "admin.mode"),
            ("log.lvl", "log.level"),
        ] {
            assert_eq!(nearest(unknown).map(|key| key.full), Some(meant), "{unknown}");
        }
        for nothing in ["nope", "x", "something.else", "batch.foo", "ingest.colour"] {
            assert_eq!(nearest(nothing).map(|key| key.full), None, "{nothing}");
        }
    }
}
