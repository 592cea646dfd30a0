//! How the engine writes numbers, texts and pages.

use std::collections::BTreeMap;

/// Bytes that are read from their beginning; what is not there is `None`.
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(super) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// A number of one to nine bytes.
    pub(super) fn number(&mut self) -> Option<u64> {
        let first = self.byte()?;
        Some(match first {
            0..=240 => u64::from(first),
            241..=248 => 240 + 256 * (u64::from(first) - 241) + u64::from(self.byte()?),
            249 => 2_288 + 256 * u64::from(self.byte()?) + u64::from(self.byte()?),
            _ => {
                let bytes = self.take(usize::from(first) - 247)?;
                bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
            }
        })
    }

    /// Bytes after their length.
    pub(super) fn text(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        self.take(length)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

/// A page that holds records.
#[derive(Clone, Debug)]
pub(super) struct Leaf {
    /// What all its keys begin with; they are kept without it.
    pub(super) prefix: Vec<u8>,
    /// The page whose range begins where this one's ends; 0 for none.
    pub(super) next: u64,
    pub(super) records: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The range of keys of a page: from `low` on, and before `high` where that is not empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KeyRange {
    pub(super) low: Vec<u8>,
    pub(super) high: Vec<u8>,
}

impl KeyRange {
    pub(super) fn has(&self, key: &[u8]) -> bool {
        key >= self.low.as_slice() && (self.high.is_empty() || key < self.high.as_slice())
    }
}

/// The range of a page, and its records where it is no index.
pub(super) fn node(body: &[u8]) -> Option<(KeyRange, Option<Leaf>)> {
    let mut bytes = Bytes(body);
    let (next, _merging_child, _merging) = (bytes.number()?, bytes.number()?, bytes.byte()?);
    let prefix = usize::from(bytes.byte()?);
    let range = KeyRange { low: bytes.text()?.to_vec(), high: bytes.text()?.to_vec() };
    let (kind, count) = (bytes.byte()?, bytes.number()?);
    if kind != 0 {
        return Some((range, None));
    }
    let keys: Vec<&[u8]> = (0..count).map(|_| bytes.text()).collect::<Option<_>>()?;
    let record = |key: &[u8]| Some((key.to_vec(), bytes.text()?.to_vec()));
    let records = keys.into_iter().map(record).collect::<Option<_>>()?;
    let prefix = range.low.get(..prefix)?.to_vec();
    Some((range, Some(Leaf { prefix, next, records })))
}

impl Leaf {
    /// Goes on by a change; one that cannot be read changes nothing.
    pub(super) fn apply(&mut self, link: &[u8]) -> Option<()> {
        let mut bytes = Bytes(link);
        match bytes.byte()? {
            0 => {
                let (key, value) = (bytes.text()?, bytes.text()?);
                self.records.insert(key.to_vec(), value.to_vec());
            }
            1 => {
                self.records.remove(bytes.text()?);
            }
            // Two pages become one: the records of the second are written into the first before.
            _ => {}
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_the_engine_writes_them() {
        for (written, number) in [
            (&[0][..], 0),
            (&[240], 240),
            (&[241, 0], 240),
            (&[248, 255], 2_287),
            (&[249, 0, 0], 2_288),
            (&[249, 255, 255], 67_823),
            (&[250, 1, 2, 3], 0x03_0201),
            (&[255, 1, 0, 0, 0, 0, 0, 0, 128], 1 << 63 | 1),
        ] {
            assert_eq!(Bytes(written).number(), Some(number), "{written:?}");
            assert_eq!(Bytes(&written[..written.len() - 1]).number(), None, "{written:?}");
        }
        assert_eq!(
            node(&[0, 0, 0, 9, 1, b'a', 0, 0, 0]).map(|_| ()),
            None,
            "a prefix longer than the lowest key"
        );
        assert!(node(&[0; 9]).is_some());
    }
}
