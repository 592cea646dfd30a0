//! The journal, read at a start.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::files::numbered_paths;
use super::frame::{self, End, Frame};
use super::index::Index;
use super::journal::{MAX_SEGMENT_BYTES, SEGMENT_PREFIX, Segment};

/// No commit has this number or a higher one.
const MAX_COMMIT: u64 = 1 << 62;

/// What a journal holds.
#[derive(Debug, Default)]
pub(super) struct Replay {
    pub(super) index: Index,
    /// By their numbers.
    pub(super) segments: BTreeMap<u64, Segment>,
    pub(super) commit: u64,
    /// The place that the engine's log surely reached, all of it on stable storage; 0 where nothing is known.
    pub(super) reached: u64,
    /// The places that cannot be read.
    pub(super) gaps: u64,
}

/// A commit that is being read.
#[derive(Default)]
struct Group {
    commit: u64,
    /// Where its frames begin.
    frames: Vec<usize>,
}

/// Reads the journal of `database`, and changes nothing.
pub(super) fn replay(database: &Path) -> io::Result<Replay> {
    let mut replay = Replay::default();
    let segments = numbered_paths(database, SEGMENT_PREFIX)?;
    let last = segments.last().map(|(number, _)| *number);
    for (number, path) in segments {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut bytes = vec![0; usize::try_from(length.min(MAX_SEGMENT_BYTES)).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, 0)?;
        replay.index.add_file(number, Arc::new(file));
        replay.read_segment(number, &bytes, last == Some(number));
        // None is written so long.
        replay.gaps += u64::from(length > MAX_SEGMENT_BYTES);
    }
    Ok(replay)
}

impl Replay {
    /// How long its segments are together.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.bytes).sum()
    }

    fn read_segment(&mut self, number: u64, bytes: &[u8], is_last: bool) {
        let (mut group, mut at, mut behind, mut sound) = (Group::default(), 0, 0, 0);
        // Places that cannot be read: up to the last whole commit, and since.
        let (mut gaps, mut since) = (0, 0);
        while at < bytes.len() {
            // Numbers only grow: a smaller one is what is left of something else.
            let is_next = |frame: &Frame<'_>| frame.commit > self.commit && frame.commit < MAX_COMMIT;
            let Some(frame) = frame::read(bytes, at).filter(is_next) else {
                at += 1;
                continue;
            };
            since += u64::from(at != behind);
            if frame.commit != group.commit {
                // A commit is written when the one before it is durable: what is missing of that was there.
                let skipped = self.commit > 0 && frame.commit > group.commit.max(self.commit) + 1;
                if skipped || !group.frames.is_empty() {
                    gaps += std::mem::take(&mut since).max(1);
                }
                sound = self.apply(number, bytes, &mut group).unwrap_or(sound);
                group.commit = frame.commit;
            }
            (at, behind) = (frame.end, frame.end);
            match frame.end_of_commit() {
                Some(End { count, reached }) if usize::try_from(count) == Ok(group.frames.len()) => {
                    self.reached = self.reached.max(reached);
                    gaps += std::mem::take(&mut since);
                    self.apply(number, bytes, &mut group);
                    self.commit = frame.commit;
                    sound = frame.end;
                }
                Some(_) => {}
                None => group.frames.push(frame.start),
            }
        }
        // Power may have failed in the middle of the last commit of all: nobody was told that it is durable. Any other
        // was.
        if !is_last {
            gaps += since.max(u64::from(behind < bytes.len() || !group.frames.is_empty()));
            self.apply(number, bytes, &mut group);
            sound = bytes.len();
        }
        self.segments.entry(number).or_default().bytes = sound as u64;
        self.gaps += gaps;
    }

    /// Goes on by what was read of a commit; where that ends.
    fn apply(&mut self, number: u64, bytes: &[u8], group: &mut Group) -> Option<usize> {
        let mut end = None;
        for frame in
            std::mem::take(&mut group.frames).into_iter().filter_map(|at| frame::unchecked(bytes, at))
        {
            self.index.apply(number, 0, frame);
            self.segments.entry(number).or_default().changes += 1;
            self.commit = self.commit.max(frame.commit);
            end = Some(frame.end);
        }
        end
    }
}
