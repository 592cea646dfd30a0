//! Text from outside, made harmless for a terminal and a log line: text for people, and JSON for programs.

use std::fmt::{self, Write};

use super::is_unseen;

/// Shows a text with what a terminal does not show as it stands made visible: `\n` as `\n`, an escape as `\u{1b}`.
#[derive(Clone, Copy, Debug)]
pub struct Visible<'a>(pub &'a str);

impl fmt::Display for Visible<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match is_unseen(character) {
                true => write!(f, "{}", character.escape_default())?,
                false => f.write_char(character)?,
            }
        }
        Ok(())
    }
}

/// Shows a line of JSON that means the same, with what a terminal does not show as it stands escaped as JSON does it: an escape
/// as `\u001b`.
#[derive(Clone, Copy, Debug)]
pub struct VisibleJson<'a>(pub &'a str);

impl fmt::Display for VisibleJson<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                // Of these JSON has none but as white space between its tokens.
                '\t' | '\n' | '\r' => f.write_char(' ')?,
                // All of them have four digits.
                unseen if is_unseen(unseen) => write!(f, "\\u{:04x}", u32::from(unseen))?,
                seen => f.write_char(seen)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn json_means_the_same_and_has_nothing_unseen() {
        let json = "{\"a\":\t\"\\n\u{7f}\u{9b}\u{202e}\u{feff}ä🙂\"\r}";
        let shown = VisibleJson(json).to_string();
        assert!(!shown.chars().any(is_unseen) && shown.contains("\\u009b\\u202e\\ufeffä🙂"), "{shown}");
        let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(read(&shown), read(json));
    }
}
