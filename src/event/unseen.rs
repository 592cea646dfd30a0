//! What a terminal does not show as it stands.

/// Whether a terminal obeys `character`, shows nothing for it, or shows what follows elsewhere: control characters, those that
/// change the direction of writing, those without width, and the ends of lines and paragraphs of Unicode.
#[must_use]
pub fn is_unseen(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_and_spaces_are_seen_and_what_turns_them_round_is_not() {
        assert!("a ä\u{a0}漢🙂\u{2026}".chars().all(|one| !is_unseen(one)));
        assert!("\n\u{1b}\u{9b}\u{200b}\u{200f}\u{2028}\u{202e}\u{2066}\u{feff}".chars().all(is_unseen));
    }
}
