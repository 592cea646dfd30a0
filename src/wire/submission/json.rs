//! JSON objects as ordered members over the producer's own bytes.
//!
//! Guarantees: no recursion deeper than [`MAX_DEPTH`]; a member's value is the very text that the producer wrote.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use memchr::memchr;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::wire::reply::Code;

/// The deepest nesting of objects and arrays in a line.
pub(crate) const MAX_DEPTH: usize = 64;

/// So many keys of an object are compared with each other; where there are more, they are hashed.
const FEW_MEMBERS: usize = 24;

/// What some editors and spreadsheets write before a text.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// What is wrong with a line, and where.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) code: Code,
    pub(crate) path: Option<String>,
    pub(crate) message: String,
}

/// Where in a line a value stands, as the producer wrote it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Path<'p> {
    Root,
    Key(&'p Path<'p>, &'p str),
    Index(&'p Path<'p>, usize),
}

impl Path<'_> {
    pub(crate) fn key<'p>(&'p self, name: &'p str) -> Path<'p> {
        Path::Key(self, name)
    }

    pub(crate) fn index(&self, position: usize) -> Path<'_> {
        Path::Index(self, position)
    }

    /// An `invalid_event` here.
    pub(crate) fn invalid(&self, message: impl Into<String>) -> Fault {
        Fault { code: Code::InvalidEvent, path: Some(self.to_string()), message: message.into() }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Key(Path::Root, name) => f.write_str(name),
            Path::Key(parent, name) => write!(f, "{parent}.{name}"),
            Path::Index(parent, position) => write!(f, "{parent}[{position}]"),
        }
    }
}

/// The members of an object in their order, nulls included.
pub(crate) struct Members<'a>(pub(crate) Vec<(Cow<'a, str>, &'a RawValue)>);

/// Parses `line` as one JSON value, no deeper than [`MAX_DEPTH`].
pub(crate) fn value(line: &[u8]) -> Result<&RawValue, Fault> {
    serde_json::from_str(shallow(line)?).map_err(|error| match line.starts_with(BYTE_ORDER_MARK) {
        true => malformed("the line begins with a byte order mark: write UTF-8 without one".to_owned()),
        false => malformed(format!("the line is not JSON: {error}")),
    })
}

/// The members of `line`, which is one JSON object, no deeper than [`MAX_DEPTH`].
pub(crate) fn line(line: &[u8]) -> Result<Members<'_>, Fault> {
    let mut reader = serde_json::Deserializer::from_str(shallow(line)?);
    let read = reader.deserialize_map(Collect).and_then(|members| reader.end().map(|()| members));
    if let Ok(members) = read {
        return unique(members, &Path::Root);
    }
    // Read as any value, so that the fault is told as what it is.
    let root = value(line)?;
    if root.get().starts_with('{') {
        return object(root, &Path::Root);
    }
    let message = "a submission is a JSON object".to_owned();
    Err(Fault { code: Code::InvalidEvent, path: Some(String::new()), message })
}

fn malformed(message: String) -> Fault {
    Fault { code: Code::MalformedJson, path: None, message }
}

/// The text of a line that nests no deeper than [`MAX_DEPTH`].
fn shallow(line: &[u8]) -> Result<&str, Fault> {
    let text = std::str::from_utf8(line)
        .map_err(|error| malformed(format!("the line is not UTF-8 from byte {} on", error.valid_up_to())))?;
    if depth(line) > MAX_DEPTH {
        return Err(malformed(format!("the line nests deeper than {MAX_DEPTH}")));
    }
    Ok(text)
}

/// The deepest nesting of brackets outside of strings, or less than [`MAX_DEPTH`] where there are not that many.
fn depth(line: &[u8]) -> usize {
    let opening = memchr::memchr2_iter(b'{', b'[', line).take(MAX_DEPTH + 1).count();
    if opening <= MAX_DEPTH {
        return opening;
    }
    let (mut deepest, mut now, mut inside, mut escaped) = (0_usize, 0_usize, false, false);
    for byte in line {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if inside => escaped = true,
            b'"' => inside = !inside,
            b'{' | b'[' if !inside => {
                now = now.saturating_add(1);
                deepest = deepest.max(now);
            }
            b'}' | b']' if !inside => now = now.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Whether `raw` is the literal `null`.
pub(crate) fn is_null(raw: &RawValue) -> bool {
    raw.get() == "null"
}

/// The text of a JSON string.
pub(crate) fn text<'a>(raw: &'a RawValue, path: &Path<'_>) -> Result<Cow<'a, str>, Fault> {
    if !raw.get().starts_with('"') {
        return Err(path.invalid("must be a string"));
    }
    unquoted(raw.get()).map_err(|error| path.invalid(format!("is not a valid string: {error}")))
}

/// The text of a JSON string that was read as one before.
pub(crate) fn unquoted(json: &str) -> Result<Cow<'_, str>, serde_json::Error> {
    match json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        // Without an escape it is what stands between the quotes: that it is sound was seen when the line was read.
        Some(plain) if memchr(b'\\', plain.as_bytes()).is_none() => Ok(Cow::Borrowed(plain)),
        _ => serde_json::from_str(json).map(Cow::Owned),
    }
}

/// The elements of the JSON array that `text` is.
pub(crate) fn array<'a>(text: &'a str, path: &Path<'_>) -> Result<Vec<&'a RawValue>, Fault> {
    if !text.starts_with('[') {
        return Err(path.invalid("must be an array"));
    }
    serde_json::from_str(text).map_err(|error| path.invalid(format!("is not a valid array: {error}")))
}

/// The members of a JSON object; a key that stands there twice is a fault at that key.
pub(crate) fn object<'a>(raw: &'a RawValue, path: &Path<'_>) -> Result<Members<'a>, Fault> {
    if !raw.get().starts_with('{') {
        return Err(path.invalid("must be an object"));
    }
    let mut reader = serde_json::Deserializer::from_str(raw.get());
    let members = reader
        .deserialize_map(Collect)
        .map_err(|error| path.invalid(format!("is not a valid object: {error}")))?;
    unique(members, path)
}

/// The members of the object that `text` is, whatever is wrong with it: keys may stand twice, and those that are no sound
/// strings are left out.
pub(crate) fn loose(text: &str) -> Vec<(Cow<'_, str>, &RawValue)> {
    serde_json::Deserializer::from_str(text).deserialize_map(Loose).unwrap_or_default()
}

fn unique<'a>(members: Members<'a>, path: &Path<'_>) -> Result<Members<'a>, Fault> {
    match twice(&members.0) {
        Some(name) => Err(path.key(name).invalid("stands twice in one object")),
        None => Ok(members),
    }
}

/// The first key that stood there before.
fn twice<'m>(members: &'m [(Cow<'_, str>, &RawValue)]) -> Option<&'m str> {
    if members.len() > FEW_MEMBERS {
        let mut seen = HashSet::with_capacity(members.len());
        return members.iter().map(|(name, _)| name.as_ref()).find(|name| !seen.insert(*name));
    }
    // Comparing each with each is quicker than hashing, while they are few.
    let mut before = members.iter().enumerate();
    let found = before.find(|(at, (name, _))| members.iter().take(*at).any(|(other, _)| other == name));
    found.map(|(_, (name, _))| name.as_ref())
}

/// Room for the members of a usual line.
const EXPECTED_MEMBERS: usize = 12;

struct Collect;

impl<'de> Visitor<'de> for Collect {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::with_capacity(EXPECTED_MEMBERS);
        while let Some(name) = map.next_key::<Name<'de>>()? {
            members.push((name.0, map.next_value::<&'de RawValue>()?));
        }
        Ok(Members(members))
    }
}

struct Loose;

impl<'de> Visitor<'de> for Loose {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some((name, value)) = map.next_entry::<&'de RawValue, &'de RawValue>()? {
            members.extend(unquoted(name.get()).ok().map(|name| (name, value)));
        }
        Ok(members)
    }
}

/// A key, borrowed from the line unless it has escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// Appends `"name":value` to a list of members, with a comma where it is not the first; `name` has nothing to escape.
pub(crate) fn push_member(out: &mut String, name: &str, value: &str) {
    if !out.is_empty() && !out.ends_with('{') {
        out.push(',');
    }
    out.push('"');
    out.push_str(name);
    out.push_str("\":");
    out.push_str(value);
}

/// `name` as it stands between the quotes.
pub(crate) fn escaped(name: &str) -> String {
    let quoted = serde_json::Value::from(name).to_string();
    let plain = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    plain.map(str::to_owned).unwrap_or_default()
}
