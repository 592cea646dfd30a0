//! What a line's values say, and what is wrong with them.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use memchr::memchr;
use serde::de::IgnoredAny;

use super::tree::{Json, MAX_DEPTH, Tree, Within};
use crate::wire::reply::Code;

/// So many keys of an object are compared with each other; where there are more, they are hashed.
const FEW_MEMBERS: usize = 24;

/// Room for the members of a usual object.
const EXPECTED_MEMBERS: usize = 12;

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

/// The members of an object in their order, nulls included; no key stands there twice.
pub(crate) struct Members<'t>(pub(crate) Vec<(Cow<'t, str>, Json<'t>)>);

/// Reads `line` as one JSON value.
pub(crate) fn read(line: &[u8]) -> Result<Tree<'_>, Fault> {
    let text = std::str::from_utf8(line)
        .map_err(|error| malformed(format!("the line is not UTF-8 from byte {} on", error.valid_up_to())))?;
    Tree::read(text).ok_or_else(|| no_json(text))
}

/// Why `text` became no tree.
fn no_json(text: &str) -> Fault {
    if depth(text) > MAX_DEPTH {
        return malformed(format!("the line nests deeper than {MAX_DEPTH}"));
    }
    if text.as_bytes().starts_with(BYTE_ORDER_MARK) {
        return malformed("the line begins with a byte order mark: write UTF-8 without one".to_owned());
    }
    match serde_json::from_str::<IgnoredAny>(text) {
        Err(error) => malformed(format!("the line is not JSON: {error}")),
        Ok(_) => malformed("the line is not JSON".to_owned()),
    }
}

fn malformed(message: String) -> Fault {
    Fault { code: Code::MalformedJson, path: None, message }
}

/// The deepest nesting of brackets outside of strings.
fn depth(text: &str) -> usize {
    let (mut deepest, mut now, mut inside, mut escaped) = (0_usize, 0_usize, false, false);
    for byte in text.bytes() {
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

/// The text of a JSON string.
pub(crate) fn text<'t>(json: Json<'t>, path: &Path<'_>) -> Result<Cow<'t, str>, Fault> {
    let text = json.string().ok_or_else(|| path.invalid("must be a string"))?;
    text.map_err(|error| path.invalid(format!("is not a valid string: {error}")))
}

/// The text of a JSON string that was read as one before.
pub(crate) fn unquoted(json: &str) -> Result<Cow<'_, str>, serde_json::Error> {
    match json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        // As in `Json::string`: that it is sound was seen when the line was read.
        Some(plain) if memchr(b'\\', plain.as_bytes()).is_none() => Ok(Cow::Borrowed(plain)),
        _ => serde_json::from_str(json).map(Cow::Owned),
    }
}

/// The elements of a JSON array.
pub(crate) fn elements<'t>(json: Json<'t>, path: &Path<'_>) -> Result<Within<'t>, Fault> {
    json.elements().ok_or_else(|| path.invalid("must be an array"))
}

/// The members of a JSON object; a key that stands there twice is a fault at that key.
pub(crate) fn object<'t>(json: Json<'t>, path: &Path<'_>) -> Result<Members<'t>, Fault> {
    let found = json.members().ok_or_else(|| path.invalid("must be an object"))?;
    let mut members = Vec::with_capacity(EXPECTED_MEMBERS);
    for (key, value) in found {
        let broken = |error| path.invalid(format!("the key {} is not a valid string: {error}", key.get()));
        members.push((key.string().transpose().map_err(broken)?.unwrap_or_default(), value));
    }
    match twice(&members) {
        Some(name) => Err(path.key(name).invalid("stands twice in one object")),
        None => Ok(Members(members)),
    }
}

/// The members of an object, whatever is wrong with it: keys may stand twice, and those that are no sound strings are left out.
/// What is no object has none.
pub(crate) fn loose<'t>(json: Json<'t>) -> impl Iterator<Item = (Cow<'t, str>, Json<'t>)> {
    json.members().into_iter().flatten().filter_map(|(key, value)| Some((key.string()?.ok()?, value)))
}

/// The first key that stood there before.
fn twice<'m>(members: &'m [(Cow<'_, str>, Json<'_>)]) -> Option<&'m str> {
    if members.len() > FEW_MEMBERS {
        let mut seen = HashSet::with_capacity(members.len());
        return members.iter().map(|(name, _)| name.as_ref()).find(|name| !seen.insert(*name));
    }
    // Comparing each with each is quicker than hashing, while they are few.
    let mut before = members.iter().enumerate();
    let found = before.find(|(at, (name, _))| members.iter().take(*at).any(|(other, _)| other == name));
    found.map(|(_, (name, _))| name.as_ref())
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
