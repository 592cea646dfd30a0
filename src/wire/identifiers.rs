//! How visitors' ids appear in the log, and to operators.

use xxhash_rust::xxh3::Xxh3;

/// The hexadecimal digits of a hash.
const HASH_DIGITS: usize = 12;

/// How visitors' ids appear in the log, and to operators (`log.identifiers`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identifiers {
    /// As a keyed hash of twelve hexadecimal digits: equal ids look equal. It is there to correlate lines; who has the key
    /// can try ids out.
    Hash([u8; 16]),
    /// As they are.
    Plain,
    /// Not at all.
    None,
}

impl Identifiers {
    /// `text` as it is to appear.
    #[must_use]
    pub fn show(&self, text: &str) -> String {
        match self {
            Self::Hash(key) => {
                let mut hash = Xxh3::new();
                hash.update(key);
                hash.update(text.as_bytes());
                format!("{:0HASH_DIGITS$x}", hash.digest() >> (64 - 4 * HASH_DIGITS))
            }
            Self::Plain => text.to_owned(),
            Self::None => "-".to_owned(),
        }
    }

    /// Whether `name` looks like a hash.
    #[must_use]
    pub fn is_hash(name: &str) -> bool {
        name.len() == HASH_DIGITS && name.bytes().all(|byte| byte.is_ascii_hexdigit())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_depends_on_the_key_and_shows_nothing_of_the_id() {
        let shown = Identifiers::Hash([1; 16]).show("visitor");
        assert!(shown.len() == 12 && Identifiers::is_hash(&shown), "{shown}");
        assert_eq!(shown, Identifiers::Hash([1; 16]).show("visitor"));
        assert_ne!(shown, Identifiers::Hash([2; 16]).show("visitor"));
        assert_ne!(shown, Identifiers::Hash([1; 16]).show("visitos"));
        assert_eq!(
            (Identifiers::Plain.show("v"), Identifiers::None.show("v")),
            ("v".to_owned(), "-".to_owned())
        );
    }
}
