//! The form of the journal.
//!
//! ```text
//! journal = commit*
//! commit  = change* end                       all with the number of the commit
//! frame   = crc32c u32 · commit u64 · kind u8 · length of the key u32 · length of the value u32 · key · value
//! end     = a frame without a key, whose value is the count u32 of the changes before it · reached u64
//! reached = the place that the engine's log surely reached; absent in the ends of an older program
//! ```
//!
//! All numbers are little-endian; the checksum is of everything behind it. The numbers of commits grow by one, so that
//! a frame says by itself which commit it belongs to, wherever it is found.

/// The bytes before a frame's key.
const HEADER: usize = 21;
/// What the end of a commit takes.
pub(super) const END_BYTES: usize = HEADER + 12;
/// The largest key and value together that are taken for such: far more than the queue writes.
const MAX_RECORD_BYTES: usize = 1_024 * 1_024;

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The key gets the value.
    Insert = 1,
    /// The key is no more.
    Remove = 2,
    /// The commit is whole.
    End = 3,
}

/// A frame, as it lies in some bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) kind: Kind,
    pub(super) commit: u64,
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    /// Where the frame begins.
    pub(super) start: usize,
    /// Where the frame ends; its value ends there.
    pub(super) end: usize,
}

/// What the end of a commit says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// How many changes come before it.
    pub(super) count: u32,
    /// The place that the engine's log surely reached, all of it on stable storage; 0 where nothing is known.
    pub(super) reached: u64,
}

impl Frame<'_> {
    /// What this end of a commit says.
    pub(super) fn end_of_commit(&self) -> Option<End> {
        let (count, rest) = self.value.split_first_chunk().filter(|_| self.kind == Kind::End)?;
        let reached = if rest.is_empty() { 0 } else { u64::from_le_bytes(rest.try_into().ok()?) };
        Some(End { count: u32::from_le_bytes(*count), reached })
    }
}

/// Adds the end of a commit, as [`put`] does.
pub(super) fn put_end(into: &mut Vec<u8>, end: End) {
    let value = [end.count.to_le_bytes().as_slice(), &end.reached.to_le_bytes()].concat();
    put(into, Kind::End, &[], &value);
}

/// Adds a frame without its checksum and its number.
pub(super) fn put(into: &mut Vec<u8>, kind: Kind, key: &[u8], value: &[u8]) {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
    into.reserve(HEADER + key.len() + value.len());
    into.extend_from_slice(&[0; 12]);
    into.push(kind as u8);
    into.extend_from_slice(&length(key));
    into.extend_from_slice(&length(value));
    into.extend_from_slice(key);
    into.extend_from_slice(value);
}

/// Gives the frames that were [`put`] their number and their checksums.
pub(super) fn seal(frames: &mut [u8], commit: u64) {
    let mut at = 0;
    while let Some((_, end)) = lengths(frames, at) {
        let Some((sum, rest)) = frames.get_mut(at..end).and_then(|frame| frame.split_first_chunk_mut::<4>())
        else {
            return;
        };
        if let Some(number) = rest.first_chunk_mut::<8>() {
            *number = commit.to_le_bytes();
        }
        *sum = crc32c::crc32c(rest).to_le_bytes();
        at = end;
    }
}

/// The frame that begins at `at`, if a sound one does.
pub(super) fn read(bytes: &[u8], at: usize) -> Option<Frame<'_>> {
    let frame = unchecked(bytes, at)?;
    let (sum, rest) = bytes.get(at..frame.end)?.split_first_chunk::<4>()?;
    (crc32c::crc32c(rest) == u32::from_le_bytes(*sum)).then_some(frame)
}

/// What begins at `at`, where it was [`put`] there.
pub(super) fn unchecked(bytes: &[u8], at: usize) -> Option<Frame<'_>> {
    // Most bytes are passed over by these, where a frame is looked for behind damage.
    let kind = match *bytes.get(at.checked_add(12)?)? {
        1 => Kind::Insert,
        2 => Kind::Remove,
        3 => Kind::End,
        _ => return None,
    };
    let (key_bytes, end) = lengths(bytes, at)?;
    let commit = u64::from_le_bytes(*bytes.get(at + 4..)?.first_chunk::<8>()?);
    let (key, value) = bytes.get(at + HEADER..end)?.split_at_checked(key_bytes)?;
    Some(Frame { kind, commit, key, value, start: at, end })
}

/// How long the key of the frame at `at` is, and where the frame ends, where that is among the bytes.
fn lengths(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let header = bytes.get(at..at.checked_add(HEADER)?)?;
    let number = |from| {
        let bytes: [u8; 4] = header.get(from..from + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let (key, value) = (number(13)?, number(17)?);
    let record = key.checked_add(value).filter(|bytes| *bytes <= MAX_RECORD_BYTES)?;
    let end = at + HEADER + record;
    (end <= bytes.len()).then_some((key, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_and_no_flipped_bit_is_taken_for_one() {
        let mut frames = Vec::new();
        put(&mut frames, Kind::Insert, b"key", b"value");
        put(&mut frames, Kind::Remove, b"gone", b"");
        put_end(&mut frames, End { count: 2, reached: 77 });
        // As an older program wrote it.
        put(&mut frames, Kind::End, b"", &3_u32.to_le_bytes());
        assert!(read(&frames, 0).is_none(), "not sealed");
        seal(&mut frames, 7);
        let (mut at, mut seen) = (0, Vec::new());
        while let Some(frame) = read(&frames, at) {
            assert_eq!(frame.commit, 7);
            seen.push((frame.kind, frame.key.to_vec(), frame.value.to_vec(), frame.end_of_commit()));
            at = frame.end;
        }
        assert_eq!(at, frames.len());
        let value = [2_u32.to_le_bytes().as_slice(), &77_u64.to_le_bytes()].concat();
        assert_eq!(
            seen,
            [
                (Kind::Insert, b"key".to_vec(), b"value".to_vec(), None),
                (Kind::Remove, b"gone".to_vec(), Vec::new(), None),
                (Kind::End, Vec::new(), value, Some(End { count: 2, reached: 77 })),
                (Kind::End, Vec::new(), 3_u32.to_le_bytes().to_vec(), Some(End { count: 3, reached: 0 })),
            ]
        );
        let first = HEADER + 8;
        for bit in 0..first * 8 {
            let mut damaged = frames.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&damaged, 0).is_none(), "bit {bit}");
        }
        assert!((0..frames.len()).all(|length| read(&frames[..length.min(first - 1)], 0).is_none()));
        assert!(read(&[0; 64], 0).is_none() && read(&[u8::MAX; 64], 0).is_none());
        assert!(read(&frames, usize::MAX).is_none());
    }
}
