//! How visitors' ids appear in the log, and to operators.

use std::fmt;

use xxhash_rust::xxh3::Xxh3;

/// The hexadecimal digits of a hash.
const HASH_DIGITS: usize = 12;
/// From so many characters on, a word with a digit is taken for a token or an id.
const OPAQUE_CHARS: usize = 24;

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

    /// What Target said, as it may appear in the log: it may repeat the ids and tokens of a request.
    #[must_use]
    pub fn said<'t>(&self, text: &'t str) -> Said<'t> {
        Said { text, whole: *self == Self::Plain }
    }

    /// Whether `name` looks like a hash.
    #[must_use]
    pub fn is_hash(name: &str) -> bool {
        name.len() == HASH_DIGITS && name.bytes().all(|byte| byte.is_ascii_hexdigit())
    }
}

/// Displayed with "…" in the place of each word that looks like a token or an id, unless those are plain.
#[derive(Clone, Copy, Debug)]
pub struct Said<'t> {
    text: &'t str,
    whole: bool,
}

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.whole {
            return f.write_str(self.text);
        }
        for part in self.text.split_inclusive(|one| !of_word(one)) {
            let (word, rest) = part.split_at(part.trim_end_matches(|one| !of_word(one)).len());
            let opaque = word.len() >= OPAQUE_CHARS && word.bytes().any(|byte| byte.is_ascii_digit());
            f.write_str(if opaque { "…" } else { word })?;
            f.write_str(rest)?;
        }
        Ok(())
    }
}

/// Whether tokens and ids hold such a character. A point ends a word: the names of hosts would be opaque, too.
fn of_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '+' | '/' | '=' | '_' | '-')
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

    #[test]
    fn what_target_said_keeps_its_sentences_and_no_id() {
        let (session, token) = ("0a1b2c3d4e5f60718293a4b5c6d7e8f9", "4q2+zhWFJ3k/cAlhjaT6eZ_9-dIXW==");
        for (said, shown) in [
            (format!("Invalid token [{token}]"), "Invalid token […]"),
            (format!("session {session}: tntId {session}.35_0, again"), "session …: tntId ….35_0, again"),
            (token.to_owned(), "…"),
            (
                "certificate not valid for name \"mboxedge35.tt.omtrdc.net\"; see notifications[0].tokens"
                    .to_owned(),
                "certificate not valid for name \"mboxedge35.tt.omtrdc.net\"; see notifications[0].tokens",
            ),
            (
                "Notification display without a timestamp… 400".to_owned(),
                "Notification display without a timestamp… 400",
            ),
        ] {
            assert_eq!(Identifiers::Hash([1; 16]).said(&said).to_string(), shown);
            assert_eq!(Identifiers::None.said(&said).to_string(), shown);
            assert_eq!(Identifiers::Plain.said(&said).to_string(), said);
        }
    }
}
