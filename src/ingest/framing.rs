//! Bytes to lines, with bounded memory, in time that grows with the bytes alone.

/// What is kept of the buffer of an ended line, in bytes; a larger one is given back.
const KEPT_BYTES: usize = 8 * 1_024;

/// A piece of what a producer wrote.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'h> {
    /// A line without its end, not empty.
    Line(&'h [u8]),
    /// A line longer than the limit; it was skipped to its end.
    TooLong,
}

impl Frame<'_> {
    /// The bytes of the line that it holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Line(line) => line.len(),
            Self::TooLong => 0,
        }
    }
}

/// Cuts a stream into lines. Holds at most one line and the bytes of one read.
#[derive(Debug)]
pub struct Framer {
    max_line: usize,
    held: Vec<u8>,
    /// Where in `held` the next line begins: what is before it was taken, and is removed once no line is left. Removing each
    /// line by itself would move all that follows once a line.
    start: usize,
    /// How far `held` was searched for a line's end.
    searched: usize,
    skipping: bool,
}

impl Framer {
    /// For lines of at most `max_line` bytes without their ends.
    #[must_use]
    pub fn new(max_line: usize) -> Self {
        Self { max_line, held: Vec::new(), start: 0, searched: 0, skipping: false }
    }

    /// Changes the limit; a line that is being skipped stays skipped.
    pub fn limit(&mut self, max_line: usize) {
        self.max_line = max_line;
    }

    /// Takes what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        let all = self.held.len().saturating_add(bytes.len());
        if all > self.held.capacity() && all > KEPT_BYTES {
            // Not doubled: what a long line may hold is counted by its bytes.
            let most = self.max_line.saturating_add(2).max(all);
            self.held.reserve_exact(most.min(all.saturating_mul(2)).saturating_sub(self.held.len()));
        }
        self.held.extend_from_slice(bytes);
    }

    /// Whether a line was begun and not ended.
    #[must_use]
    pub fn begun(&self) -> bool {
        self.skipping || self.held_bytes() > 0
    }

    /// The bytes that are held.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held.len().saturating_sub(self.start)
    }

    /// Whether a line is complete; it may be an empty one, which [`Framer::next`] passes over.
    pub fn has_line(&mut self) -> bool {
        self.end().is_some()
    }

    /// The next complete line.
    #[expect(clippy::should_implement_trait, reason = "more lines may come after the last one")]
    pub fn next(&mut self) -> Option<Frame<'_>> {
        let line = loop {
            let end = self.end()?;
            let line = self.start..self.without_return(end);
            self.start = end.saturating_add(1);
            self.searched = self.start;
            if std::mem::take(&mut self.skipping) || line.len() > self.max_line {
                return Some(Frame::TooLong);
            }
            if !line.is_empty() {
                break line;
            }
        };
        self.held.get(line).map(Frame::Line)
    }

    /// The producer shut down: a line that it began is over.
    pub fn finish(&mut self) {
        if self.begun() {
            self.push(b"\n");
        }
    }

    /// Where the first line ends, if it does.
    fn end(&mut self) -> Option<usize> {
        let fresh = self.held.get(self.searched..).unwrap_or_default();
        if let Some(at) = memchr::memchr(b'\n', fresh) {
            self.searched += at;
            return Some(self.searched);
        }
        self.searched = self.held.len();
        // One byte more than the limit: a `\r` may yet turn out to belong to the end.
        if self.skipping || self.held_bytes() > self.max_line.saturating_add(1) {
            self.skipping = true;
            self.start = self.held.len();
        }
        self.compact();
        None
    }

    /// `end`, but for a `\r` before it.
    fn without_return(&self, end: usize) -> usize {
        let line = self.held.get(self.start..end).unwrap_or_default();
        end - usize::from(line.ends_with(b"\r"))
    }

    /// Removes what was taken, and gives a large buffer back that is no longer needed.
    fn compact(&mut self) {
        self.held.drain(..self.start);
        self.searched = self.searched.saturating_sub(self.start);
        self.start = 0;
        if self.held.len() <= KEPT_BYTES && self.held.capacity() > KEPT_BYTES {
            self.held.shrink_to(KEPT_BYTES);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines, or `None` for one that is too long.
    fn frames(max_line: usize, pieces: &[&str]) -> Vec<Option<String>> {
        let mut framer = Framer::new(max_line);
        let mut found = Vec::new();
        let mut take = |framer: &mut Framer| {
            while let Some(frame) = framer.next() {
                found.push(match frame {
                    Frame::Line(line) => Some(String::from_utf8(line.to_vec()).unwrap()),
                    Frame::TooLong => None,
                });
            }
            assert!(!framer.has_line());
        };
        for piece in pieces {
            framer.push(piece.as_bytes());
            take(&mut framer);
            assert!(framer.held_bytes() <= max_line + 1, "memory is bounded");
        }
        framer.finish();
        take(&mut framer);
        assert!(!framer.begun());
        found
    }

    fn line(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn lines_are_cut_wherever_the_reads_fall() {
        assert_eq!(frames(9, &["a\nb", "c\r", "\n\n\r\n", "d"]), [line("a"), line("bc"), line("d")]);
        assert_eq!(frames(9, &[""]), []);
    }

    #[test]
    fn a_long_line_is_skipped_to_its_end_and_harms_no_other() {
        assert_eq!(frames(3, &["abc\nabcd\nabc\r\n"]), [line("abc"), None, line("abc")]);
        assert_eq!(frames(3, &["abcdef", "ghi", "jkl\nx\n"]), [None, line("x")]);
        assert_eq!(frames(3, &["abcde", "f"]), [None]);
    }

    #[test]
    fn many_short_lines_cost_no_more_than_their_bytes() {
        // Moving the rest once a line, a million empty lines would move 500 GB.
        let mut framer = Framer::new(9);
        framer.push(&[b'\n'; 1 << 20]);
        assert_eq!(framer.next(), None);
        assert_eq!(framer.held_bytes(), 0);
        framer.push("ab\n".repeat(1 << 18).as_bytes());
        assert!((0..1 << 18).all(|_| framer.next() == Some(Frame::Line(b"ab"))));
        assert_eq!(framer.next(), None);
        assert!(!framer.begun());
    }

    #[test]
    fn a_large_buffer_is_given_back() {
        let mut framer = Framer::new(1 << 20);
        for ending in ["\n", "\nx"] {
            framer.push("y".repeat((1 << 20) - framer.held_bytes()).as_bytes());
            assert_eq!(framer.next(), None);
            framer.push(ending.as_bytes());
            assert!(matches!(framer.next(), Some(Frame::Line(line)) if line.len() == 1 << 20));
            assert_eq!(framer.next(), None);
            assert!(framer.held.capacity() <= KEPT_BYTES);
        }
    }
}
