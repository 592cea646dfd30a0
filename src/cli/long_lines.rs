//! Exported lines that are longer than a daemon of this configuration takes, since what the daemon filled in stands in
//! them, too. They are printed whole, and told of at once, so that nobody learns of them only when they are to be taken
//! in again.

use super::operate::some;
use crate::event::noun;

pub(super) struct LongLines {
    /// The longest line that a daemon of this configuration takes, in bytes (`ingest.max_line`).
    max_line: u64,
    count: u64,
    /// The longest of all, in bytes.
    longest: u64,
}

impl LongLines {
    pub(super) fn new(max_line: u64) -> Self {
        Self { max_line, count: 0, longest: 0 }
    }

    /// Looks at a line without its end.
    pub(super) fn look(&mut self, line: &str) {
        let bytes = line.len() as u64;
        self.count += u64::from(bytes > self.max_line);
        self.longest = self.longest.max(bytes);
    }

    /// What is to be known of them; nothing where there is none.
    pub(super) fn note(&self) -> Option<String> {
        let Self { max_line, count, longest } = *self;
        let (lines, takes) = (some(count, "line is", "lines are"), noun(count, "it", "them"));
        (count > 0).then(|| {
            format!(
                "{lines} longer than ingest.max_line ({max_line} bytes): a daemon takes {takes} that runs with -o ingest.max_line={longest}B"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_that_are_too_long() {
        let mut lines = LongLines::new(5);
        lines.look("12345");
        assert_eq!(lines.note(), None);
        lines.look("1234567");
        lines.look("123456");
        let note = lines.note().unwrap();
        assert!(note.starts_with("2 lines are longer") && note.ends_with("ingest.max_line=7B"), "{note}");
    }
}
