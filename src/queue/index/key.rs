//! The keys of the index, in as little memory as the usual ones take.

use std::borrow::Borrow;
use std::cmp::Ordering;

/// Keys of at most this many bytes lie in the index itself: those of pages have 12, those of marks 9.
const SHORT_BYTES: usize = 14;

/// A key, in the order of its bytes.
#[derive(Clone, Debug)]
pub(super) enum Key {
    /// Its length, and its bytes.
    Short(u8, [u8; SHORT_BYTES]),
    /// By one pointer: that to a slice alone is as large as a whole key is to be.
    Long(Box<Box<[u8]>>),
}

impl Key {
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut short = [0; SHORT_BYTES];
        match (short.get_mut(..bytes.len()), u8::try_from(bytes.len())) {
            (Some(room), Ok(length)) => {
                room.copy_from_slice(bytes);
                Self::Short(length, short)
            }
            _ => Self::Long(Box::new(bytes.into())),
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Short(length, bytes) => bytes.get(..usize::from(*length)).unwrap_or(bytes),
            Self::Long(bytes) => bytes,
        }
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.bytes()
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.bytes().cmp(other.bytes())
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Key {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_small_and_have_the_order_of_their_bytes() {
        assert_eq!(size_of::<Key>(), 16);
        let texts = ["", "a", "a\0", "aaaaaaaaaaaaaa", "aaaaaaaaaaaaaaa", "aaaaaaaaaaaaaab", "ab", "b"];
        let keys = texts.map(|text| Key::of(text.as_bytes()));
        assert!(keys.iter().zip(texts).all(|(key, text)| key.bytes() == text.as_bytes()));
        assert!(keys.is_sorted_by(|one, next| one < next));
        assert!(matches!((&keys[3], &keys[4]), (Key::Short(14, _), Key::Long(_))));
    }
}
