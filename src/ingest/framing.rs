//! Bytes to lines, with bounded memory.

/// A piece of what a producer wrote.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// A line without its end, not empty.
    Line(Vec<u8>),
    /// A line longer than the limit; it was skipped to its end.
    TooLong,
}

/// Cuts a stream into lines. Holds at most one line and the bytes of one read.
pub(super) struct Framer {
    max_line: usize,
    held: Vec<u8>,
    /// How far `held` was searched for a line's end.
    searched: usize,
    skipping: bool,
}

impl Framer {
    pub(super) fn new(max_line: usize) -> Self {
        Self { max_line, held: Vec::new(), searched: 0, skipping: false }
    }

    /// Takes what was read.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// Whether a line was begun and not ended.
    pub(super) fn begun(&self) -> bool {
        self.skipping || !self.held.is_empty()
    }

    /// The bytes that are held.
    pub(super) fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// The next complete line.
    pub(super) fn next(&mut self) -> Option<Frame> {
        loop {
            let fresh = self.held.get(self.searched..).unwrap_or_default();
            let Some(end) = fresh.iter().position(|byte| *byte == b'\n').map(|at| at + self.searched) else {
                self.searched = self.held.len();
                // One byte more than the limit: a `\r` may yet turn out to belong to the end.
                if self.skipping || self.held.len() > self.max_line.saturating_add(1) {
                    self.skipping = true;
                    self.held = Vec::new();
                    self.searched = 0;
                }
                return None;
            };
            let rest = self.held.split_off(end.saturating_add(1));
            let line = std::mem::replace(&mut self.held, rest);
            self.searched = 0;
            if let Some(frame) = self.frame(line) {
                return Some(frame);
            }
        }
    }

    /// The last line, where the producer shut down without ending it.
    pub(super) fn finish(&mut self) -> Option<Frame> {
        let line = std::mem::take(&mut self.held);
        self.searched = 0;
        self.frame(line)
    }

    fn frame(&mut self, mut line: Vec<u8>) -> Option<Frame> {
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        if std::mem::take(&mut self.skipping) || line.len() > self.max_line {
            return Some(Frame::TooLong);
        }
        (!line.is_empty()).then_some(Frame::Line(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(max_line: usize, pieces: &[&str]) -> Vec<Frame> {
        let mut framer = Framer::new(max_line);
        let mut found = Vec::new();
        for piece in pieces {
            framer.push(piece.as_bytes());
            while let Some(frame) = framer.next() {
                found.push(frame);
            }
            assert!(framer.held_bytes() <= max_line + 1, "memory is bounded");
        }
        found.extend(framer.finish());
        found
    }

    fn line(text: &str) -> Frame {
        Frame::Line(text.as_bytes().to_vec())
    }

    #[test]
    fn lines_are_cut_wherever_the_reads_fall() {
        assert_eq!(frames(9, &["a\nb", "c\r", "\n\n\r\n", "d"]), [line("a"), line("bc"), line("d")]);
        assert_eq!(frames(9, &[""]), []);
    }

    #[test]
    fn a_long_line_is_skipped_to_its_end_and_harms_no_other() {
        assert_eq!(frames(3, &["abc\nabcd\nabc\r\n"]), [line("abc"), Frame::TooLong, line("abc")]);
        assert_eq!(frames(3, &["abcdef", "ghi", "jkl\nx\n"]), [Frame::TooLong, line("x")]);
        assert_eq!(frames(3, &["abcde", "f"]), [Frame::TooLong]);
    }
}
