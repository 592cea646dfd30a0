//! What `send` reads: lines in groups, and what becomes of each.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};

use serde_json::value::RawValue;

/// The most lines that wait for their replies.
const GROUP_LINES: usize = 256;
/// The longest line that is read, in bytes; no daemon takes a longer one.
const LINE_BYTES: u64 = 64 * 1_024 * 1_024;

/// What is known of a line.
pub(super) enum Outcome {
    /// Nothing: it was not sent, or has no reply.
    Open,
    /// It was refused for now, with this reply.
    Unavailable(String),
    /// It has its last reply.
    Settled(String),
}

pub(super) struct Line {
    pub(super) text: Vec<u8>,
    /// Whether a receipt is waited for once it is stored.
    pub(super) awaits: bool,
    pub(super) outcome: Outcome,
}

impl Line {
    fn of(text: Vec<u8>, receipts: bool) -> Self {
        let (text, awaits) = if receipts { asking(text) } else { (text, false) };
        Self { text, awaits, outcome: Outcome::Open }
    }

    pub(super) fn is_settled(&self) -> bool {
        matches!(self.outcome, Outcome::Settled(_))
    }
}

/// The next lines, each with its end, and with the wish for a receipt where there are to be `receipts`.
pub(super) fn group(input: &mut BufReader<Box<dyn Read>>, receipts: bool) -> io::Result<Vec<Line>> {
    let mut lines = Vec::new();
    while lines.len() < GROUP_LINES {
        let mut line = Vec::new();
        if input.take(LINE_BYTES).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        // The daemon does not answer an empty line.
        if !line.iter().all(|byte| matches!(byte, b'\n' | b'\r')) {
            lines.push(Line::of(line, receipts));
        } else if lines.is_empty() {
            continue;
        }
        // A terminal, or a slow pipe, is not waited for with lines at hand.
        if !input.buffer().contains(&b'\n') {
            break;
        }
    }
    Ok(lines)
}

/// The line with the wish for a receipt, and whether it has the wish then. What it says of that itself stays, but for `null`,
/// which says nothing; what is no JSON object stays as it is.
fn asking(line: Vec<u8>) -> (Vec<u8>, bool) {
    let members: BTreeMap<String, &RawValue> = serde_json::from_slice(&line).unwrap_or_default();
    let (from, to, wish) = match members.get("receipt").map(|raw| raw.get()) {
        // The wish takes its place: a line that says `receipt` twice is refused.
        Some(null @ "null") => {
            let at = null.as_ptr().addr().saturating_sub(line.as_ptr().addr());
            (at, at + null.len(), "true")
        }
        Some(own) => {
            let awaits = own == "true";
            return (line, awaits);
        }
        None if members.is_empty() => return (line, false),
        None => {
            let inside = line.iter().position(|byte| *byte == b'{').map_or(0, |at| at + 1);
            (inside, inside, "\"receipt\":true,")
        }
    };
    match (line.get(..from), line.get(to..)) {
        (Some(before), Some(after)) => ([before, wish.as_bytes(), after].concat(), true),
        _ => (line, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_asks_for_a_receipt_unless_it_says_itself() {
        let cases = [
            (r#"{"a":1}"#, r#"{"receipt":true,"a":1}"#, true),
            (r#" { "a":{"receipt":false}}"#, r#" {"receipt":true, "a":{"receipt":false}}"#, true),
            (r#"{"a":null,"receipt" : null ,"b":"é"}"#, r#"{"a":null,"receipt" : true ,"b":"é"}"#, true),
            (r#"{"\u0072eceipt":null}"#, r#"{"\u0072eceipt":true}"#, true),
            (r#"{"receipt":true}"#, r#"{"receipt":true}"#, true),
            (r#"{"receipt":false}"#, r#"{"receipt":false}"#, false),
            (r#"{"receipt":"null"}"#, r#"{"receipt":"null"}"#, false),
            ("{}", "{}", false),
            ("[1]", "[1]", false),
            (r#"{"a""#, r#"{"a""#, false),
        ];
        for (line, asked, awaits) in cases {
            let (text, found) = asking(line.as_bytes().to_vec());
            assert_eq!((String::from_utf8(text).unwrap().as_str(), found), (asked, awaits), "{line}");
        }
    }
}
