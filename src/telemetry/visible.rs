//! Text from outside, made harmless for a terminal and a log line.

use std::fmt::{self, Write};

use crate::event::is_unseen;

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
