//! A JSON text read once: where each of its values and keys begins and ends, in the order in which they begin.
//!
//! Guarantees: what `serde_json` passes over as a value becomes a tree, and nothing else, but for what nests deeper than
//! [`MAX_DEPTH`] or takes more than 4 GiB; a value's text is the very one that was read; a tree takes 16 bytes for each value
//! and each key, and while it grows as much again.

#[cfg(test)]
mod tests;

use std::borrow::Cow;

/// The deepest nesting of objects and arrays in a text.
pub(crate) const MAX_DEPTH: usize = 64;

/// Room for the values and keys of a usual line.
const EXPECTED_PLACES: usize = 48;
/// So many bytes of a string are looked at in steps of eight, before the steps become [`WIDE`].
const FIRST: usize = 48;
/// The bytes of a wide step.
const WIDE: usize = 32;

/// The values and keys of one text.
pub(crate) struct Tree<'a> {
    text: &'a str,
    places: Vec<Place>,
}

/// Where a value or a key stands.
#[derive(Clone, Copy, Default)]
struct Place {
    from: u32,
    to: u32,
    /// How many places it takes with all that is within it.
    places: u32,
    kind: Kind,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Kind {
    /// A string without escapes.
    Plain,
    /// A string with escapes.
    Escaped,
    Object,
    Array,
    Null,
    /// A number, `true` or `false`.
    #[default]
    Other,
}

impl<'a> Tree<'a> {
    /// Reads one value with nothing but white space around it; `None` where `text` is none, nests deeper than [`MAX_DEPTH`], or is
    /// longer than 4 GiB.
    pub(crate) fn read(text: &'a str) -> Option<Self> {
        u32::try_from(text.len()).ok()?;
        let mut reader =
            Reader { bytes: text.as_bytes(), at: 0, places: Vec::with_capacity(EXPECTED_PLACES) };
        reader.value(MAX_DEPTH)?;
        match reader.next() {
            None => Some(Self { text, places: reader.places }),
            Some(_) => None,
        }
    }

    /// The value that the whole text is.
    pub(crate) fn root(&self) -> Json<'_> {
        Json { tree: self, at: 0 }
    }
}

/// A value of a tree, or a key.
#[derive(Clone, Copy)]
pub(crate) struct Json<'t> {
    tree: &'t Tree<'t>,
    /// Where its place is among those of the tree.
    at: usize,
}

impl<'t> Json<'t> {
    fn place(self) -> Place {
        self.tree.places.get(self.at).copied().unwrap_or_default()
    }

    /// Its text as it was read.
    pub(crate) fn get(self) -> &'t str {
        let Place { from, to, .. } = self.place();
        self.tree.text.get(from as usize..to as usize).unwrap_or_default()
    }

    pub(crate) fn is_null(self) -> bool {
        self.place().kind == Kind::Null
    }

    /// What it says as a string; `None` where it is none.
    ///
    /// # Errors
    /// An escape stands for no character.
    pub(crate) fn string(self) -> Option<Result<Cow<'t, str>, serde_json::Error>> {
        let Place { from, to, kind, .. } = self.place();
        match kind {
            Kind::Plain => {
                let within = from as usize + 1..(to as usize).checked_sub(1)?;
                self.tree.text.get(within).map(|plain| Ok(Cow::Borrowed(plain)))
            }
            Kind::Escaped => Some(serde_json::from_str(self.get()).map(Cow::Owned)),
            _ => None,
        }
    }

    /// Its elements; `None` where it is no array.
    pub(crate) fn elements(self) -> Option<Within<'t>> {
        self.within(Kind::Array)
    }

    /// Its keys, each with its value; `None` where it is no object.
    pub(crate) fn members(self) -> Option<impl Iterator<Item = (Json<'t>, Json<'t>)>> {
        let mut within = self.within(Kind::Object)?;
        Some(std::iter::from_fn(move || Some((within.next()?, within.next()?))))
    }

    fn within(self, kind: Kind) -> Option<Within<'t>> {
        let place = self.place();
        let behind = self.at + place.places as usize;
        (place.kind == kind).then_some(Within { tree: self.tree, at: self.at + 1, behind })
    }
}

/// The elements of an array, or by turns the keys and the values of an object.
#[derive(Clone)]
pub(crate) struct Within<'t> {
    tree: &'t Tree<'t>,
    at: usize,
    behind: usize,
}

impl<'t> Iterator for Within<'t> {
    type Item = Json<'t>;

    fn next(&mut self) -> Option<Json<'t>> {
        if self.at >= self.behind {
            return None;
        }
        let next = Json { tree: self.tree, at: self.at };
        self.at += next.place().places.max(1) as usize;
        Some(next)
    }
}

/// Reads by the grammar of RFC 8259. Each function stands behind what it read, or has found a fault: `None`.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    places: Vec<Place>,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// The next byte that is no white space, not taken.
    fn next(&mut self) -> Option<u8> {
        while let b' ' | b'\n' | b'\t' | b'\r' = self.peek()? {
            self.at += 1;
        }
        self.peek()
    }

    /// One value, within which so many more may nest.
    fn value(&mut self, depth: usize) -> Option<()> {
        let first = self.next()?;
        let (from, place) = (u32::try_from(self.at).ok()?, self.places.len());
        self.places.push(Place { from, to: from, places: 1, kind: Kind::Other });
        let kind = match first {
            b'"' => self.string()?,
            b'{' => self.list(b'}', Kind::Object, depth.checked_sub(1)?, Self::member)?,
            b'[' => self.list(b']', Kind::Array, depth.checked_sub(1)?, Self::value)?,
            b't' => self.literal(b"true", Kind::Other)?,
            b'f' => self.literal(b"false", Kind::Other)?,
            b'n' => self.literal(b"null", Kind::Null)?,
            _ => self.number()?,
        };
        let (to, places) = (u32::try_from(self.at).ok()?, u32::try_from(self.places.len() - place).ok()?);
        *self.places.get_mut(place)? = Place { from, to, places, kind };
        Some(())
    }

    /// What stands between brackets, parted by commas.
    fn list(
        &mut self,
        end: u8,
        kind: Kind,
        depth: usize,
        one: impl Fn(&mut Self, usize) -> Option<()>,
    ) -> Option<Kind> {
        self.at += 1;
        if self.next()? == end {
            self.at += 1;
            return Some(kind);
        }
        loop {
            one(self, depth)?;
            let behind = self.next()?;
            self.at += 1;
            match behind {
                b',' => {}
                behind => return (behind == end).then_some(kind),
            }
        }
    }

    fn member(&mut self, depth: usize) -> Option<()> {
        if self.next()? != b'"' {
            return None;
        }
        let from = u32::try_from(self.at).ok()?;
        let kind = self.string()?;
        self.places.push(Place { from, to: u32::try_from(self.at).ok()?, places: 1, kind });
        if self.next()? != b':' {
            return None;
        }
        self.at += 1;
        self.value(depth)
    }

    /// A string, from its quote on.
    fn string(&mut self) -> Option<Kind> {
        self.at += 1;
        let mut kind = Kind::Plain;
        loop {
            self.at += unremarkable(self.bytes.get(self.at..)?);
            let byte = self.peek()?;
            self.at += 1;
            match byte {
                b'"' => return Some(kind),
                b'\\' => self.escape()?,
                _ => return None,
            }
            kind = Kind::Escaped;
        }
    }

    /// What stands behind a backslash.
    fn escape(&mut self) -> Option<()> {
        let kind = self.peek()?;
        self.at += 1;
        match kind {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(()),
            b'u' => {
                let digits = self.bytes.get(self.at..self.at + 4)?;
                self.at += 4;
                digits.iter().all(u8::is_ascii_hexdigit).then_some(())
            }
            _ => None,
        }
    }

    fn literal(&mut self, text: &[u8], kind: Kind) -> Option<Kind> {
        self.bytes.get(self.at..)?.starts_with(text).then(|| {
            self.at += text.len();
            kind
        })
    }

    fn number(&mut self) -> Option<Kind> {
        if self.peek()? == b'-' {
            self.at += 1;
        }
        if self.peek()? == b'0' {
            self.at += 1
        } else {
            self.digits()?
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let b'+' | b'-' = self.peek()? {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(Kind::Other)
    }

    /// At least one digit.
    fn digits(&mut self) -> Option<()> {
        let digits = self.bytes.get(self.at..)?.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += digits;
        (digits > 0).then_some(())
    }
}

/// How many bytes from the first on are no quote, no backslash and no control character.
fn unremarkable(bytes: &[u8]) -> usize {
    // Most strings are short.
    let (few, many) = bytes.split_at(bytes.len().min(FIRST));
    let passed = unremarkable_of_few(few);
    if passed < few.len() {
        return passed;
    }
    let plain = |byte: &u8| (*byte >= 0x20) & (*byte != b'"') & (*byte != b'\\');
    // Without a way out in between, it is done with vectors.
    let all_plain = |chunk: &&[u8; WIDE]| chunk.iter().fold(true, |all, byte| all & plain(byte));
    let (chunks, _) = many.as_chunks::<WIDE>();
    let wide = WIDE * chunks.iter().take_while(all_plain).count();
    passed + wide + unremarkable_of_few(many.get(wide..).unwrap_or_default())
}

/// The same, eight bytes at a time.
fn unremarkable_of_few(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    let (chunks, rest) = bytes.as_chunks::<8>();
    for (at, chunk) in chunks.iter().enumerate() {
        let chunk = u64::from_le_bytes(*chunk);
        // The highest bit of each byte that is less than so much, and maybe of some behind the first such.
        let less = |chunk: u64, than: u64| chunk.wrapping_sub(ONES * than) & !chunk & HIGH;
        let equal = |byte: u8| less(chunk ^ (ONES * u64::from(byte)), 1);
        let found = less(chunk, 0x20) | equal(b'"') | equal(b'\\');
        if found != 0 {
            return 8 * at + (found.trailing_zeros() / 8) as usize;
        }
    }
    let plain = |byte: &&u8| !matches!(byte, b'"' | b'\\' | 0..0x20);
    bytes.len() - rest.len() + rest.iter().take_while(plain).count()
}
