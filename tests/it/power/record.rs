//! What the interposed library wrote down: each step of a program on its disk, and what it told its producers.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::damage::Damage;

/// The kind of what the test writes into the record itself.
const DAMAGE: u8 = b'D';

/// One step.
#[derive(Debug)]
pub(crate) enum Step {
    /// A process began; the folder has this inode.
    Start { inode: u64, root: String },
    /// A file was made.
    Create { inode: u64, path: String },
    /// A folder was made.
    Folder { inode: u64, path: String },
    /// A file or folder got another name.
    Rename { from: String, to: String },
    /// A name was removed.
    Remove { path: String },
    /// Bytes were written.
    Write { inode: u64, at: u64, bytes: Vec<u8> },
    /// A file got this length.
    Length { inode: u64, length: u64 },
    /// `fsync`.
    Sync { inode: u64 },
    /// `fdatasync`.
    DataSync { inode: u64 },
    /// A call was made to fail.
    Fault { inode: u64, operation: String },
    /// The disk gives other bytes back than were written, from now on.
    Damage { inode: u64, at: u64, bytes: Vec<u8> },
    /// Nothing that touches the disk.
    Talk,
}

/// A whole record.
pub(crate) struct Record {
    pub(crate) steps: Vec<Step>,
    /// The ids in replies that say they are stored, by the step after which that is known.
    pub(crate) acknowledged: BTreeMap<String, usize>,
    /// The ids in answers of Target.
    pub(crate) answered: BTreeMap<String, usize>,
    /// The ids in receipts.
    pub(crate) receipts: BTreeMap<String, usize>,
}

impl Record {
    pub(crate) fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).expect("the record can be read");
        let mut record = Self {
            steps: Vec::new(),
            acknowledged: BTreeMap::new(),
            answered: BTreeMap::new(),
            receipts: BTreeMap::new(),
        };
        let mut talks = Talks::default();
        let mut rest = bytes.as_slice();
        // What a process that was killed had begun to write ends the record of that process only at its very end.
        while rest.len() >= 25 {
            let number = |at: usize| u64::from_ne_bytes(rest[at..at + 8].try_into().expect("8 bytes"));
            let length =
                |at: usize| u32::from_ne_bytes(rest[at..at + 4].try_into().expect("4 bytes")) as usize;
            let (kind, inode, extent, first, second) =
                (rest[0], number(1), number(9), length(17), length(21));
            let (a, b) = (&rest[25..25 + first], &rest[25 + first..25 + first + second]);
            rest = &rest[25 + first + second..];
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("paths are text");
            let at = record.steps.len();
            record.steps.push(match kind {
                b'P' => Step::Start { inode, root: text(a) },
                b'c' => Step::Create { inode, path: text(a) },
                b'm' => Step::Folder { inode, path: text(a) },
                b'r' => Step::Rename { from: text(a), to: text(b) },
                b'u' => Step::Remove { path: text(a) },
                b'w' => Step::Write { inode, at: extent, bytes: a.to_vec() },
                b't' => Step::Length { inode, length: extent },
                b's' => Step::Sync { inode },
                b'd' => Step::DataSync { inode },
                DAMAGE => Step::Damage { inode, at: extent, bytes: a.to_vec() },
                b'!' => Step::Fault { inode, operation: text(a) },
                b'A' => {
                    talks.replies.remove(&inode);
                    Step::Talk
                }
                b'R' => {
                    talks.reply(inode, a, at, &mut record.acknowledged, &mut record.receipts);
                    Step::Talk
                }
                b'I' => {
                    talks.answer(inode, a, at, &mut record.answered);
                    Step::Talk
                }
                other => panic!("the record has a {other}"),
            });
        }
        record
    }
}

/// Strikes a file of a program that does not run, and adds that to its record.
pub(crate) fn strike(log: &Path, damage: &Damage) {
    damage.strike();
    let inode = std::fs::metadata(&damage.file).expect("a file").ino();
    let length = u32::try_from(damage.zeros).expect("a length");
    let mut step = vec![DAMAGE];
    step.extend_from_slice(&inode.to_ne_bytes());
    step.extend_from_slice(&damage.at.to_ne_bytes());
    step.extend_from_slice(&length.to_ne_bytes());
    step.extend_from_slice(&0_u32.to_ne_bytes());
    step.resize(step.len() + damage.zeros, 0);
    let mut log = File::options().append(true).open(log).expect("a record");
    log.write_all(&step).expect("the record can be written");
}

/// What is known of lines and answers that are not whole yet, by the connection.
#[derive(Default)]
struct Talks {
    replies: BTreeMap<u64, Vec<u8>>,
    answers: BTreeMap<u64, Vec<u8>>,
}

type Known = BTreeMap<String, usize>;

impl Talks {
    fn reply(&mut self, on: u64, bytes: &[u8], at: usize, acknowledged: &mut Known, receipts: &mut Known) {
        let open = self.replies.entry(on).or_default();
        open.extend_from_slice(bytes);
        while let Some(end) = open.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = open.drain(..=end).collect();
            let line: serde_json::Value = serde_json::from_slice(&line).expect("a reply is JSON");
            let ids = line["ids"].as_array().into_iter().flatten();
            let known = match line["status"].as_str() {
                Some("queued") => &mut *acknowledged,
                Some("delivered") => &mut *receipts,
                _ => continue,
            };
            for id in ids {
                known.entry(id.as_str().expect("an id is text").to_owned()).or_insert(at);
            }
        }
    }

    /// Ids begin with `e` and go on in digits: everything like that in an answer is one that it lists.
    fn answer(&mut self, on: u64, bytes: &[u8], at: usize, answered: &mut Known) {
        const BEFORE: &[u8] = br#""id":"e"#;
        let open = self.answers.entry(on).or_default();
        open.extend_from_slice(bytes);
        let mut from = 0;
        while let Some(found) = open[from..].windows(BEFORE.len()).position(|part| part == BEFORE) {
            let start = from + found + BEFORE.len() - 1;
            let Some(length) = open[start..].iter().position(|byte| *byte == b'"') else { break };
            let id = String::from_utf8_lossy(&open[start..start + length]).into_owned();
            answered.entry(id).or_insert(at);
            from = start + length;
        }
        // A part of an id at the end waits for the rest of it.
        let keep = open.len().saturating_sub(32).max(from);
        open.drain(..keep);
    }
}
