//! Checked values, and how they are put together.

use std::borrow::Cow;

use super::json::{escaped, push_member};

/// About what is filled in takes that the events of a submission share, in bytes.
pub(super) const FILLED_IN_BYTES: usize = 256;

/// A checked value.
pub(super) struct Value<'a> {
    /// It as finished JSON.
    pub(super) json: Cow<'a, str>,
    /// Its members, where it is an object that a table describes.
    pub(super) members: Checked<'a>,
}

impl<'a, T: Into<Cow<'a, str>>> From<T> for Value<'a> {
    /// A value of which nobody asks for members.
    fn from(json: T) -> Self {
        Self { json: json.into(), members: Vec::new() }
    }
}

/// The members of an object, checked, nulls of known members left out.
pub(super) type Checked<'a> = Vec<(Cow<'a, str>, Value<'a>)>;

/// The member of that name.
pub(super) fn get<'m, 'a>(members: &'m Checked<'a>, name: &str) -> Option<&'m Value<'a>> {
    members.iter().find(|(found, _)| found == name).map(|(_, value)| value)
}

/// The members of what is given; none where nothing is.
pub(super) fn own<'m>(given: Option<&'m Value<'_>>) -> &'m Checked<'m> {
    static NONE: Checked<'static> = Vec::new();
    given.map_or(&NONE, |given| &given.members)
}

/// An object of finished members, of just its length unless a name has escapes: it becomes a box as it is.
pub(super) fn braced(members: &Checked<'_>) -> String {
    let bytes = joined_bytes(members).saturating_sub(",".len()) + "{}".len();
    let mut out = String::with_capacity(bytes);
    push_object(&mut out, members, &[]);
    out
}

/// A member that is set: its name, and its finished JSON if it has any.
pub(super) type Set<'a> = (&'static str, Option<Cow<'a, str>>);

/// An object of the given one's members and of those that are `set`.
pub(super) fn joined(given: Option<&Value<'_>>, set: &[Set<'_>]) -> String {
    let mut out = String::with_capacity(given.map_or(0, |given| given.json.len()) + FILLED_IN_BYTES);
    push_object(&mut out, own(given), set);
    out
}

/// An object of the given one's members and of those of `set` that it has not.
pub(super) fn filled<const N: usize>(given: Option<&Value<'_>>, set: [Set<'_>; N]) -> String {
    let absent = set.map(|(name, json)| {
        let json = json.filter(|_| get(own(given), name).is_none());
        (name, json)
    });
    joined(given, &absent)
}

/// Appends an object of the given members and of those that are `set`.
fn push_object(out: &mut String, given: &Checked<'_>, set: &[Set<'_>]) {
    out.push('{');
    push_members(out, given, set);
    out.push('}');
}

/// Appends the given members and those that are `set`, each in its place where it was given, else behind the others.
pub(super) fn push_members(out: &mut String, given: &Checked<'_>, set: &[Set<'_>]) {
    for (name, value) in given {
        let new = set.iter().find(|(other, _)| other == name).and_then(|(_, json)| json.as_ref());
        let json = new.unwrap_or(&value.json);
        match name {
            // It stood so in the line, or is one of ours: there is nothing to escape.
            Cow::Borrowed(name) => push_member(out, name, json),
            Cow::Owned(name) => push_member(out, &escaped(name), json),
        }
    }
    for (name, json) in set {
        if let Some(json) = json
            && get(given, name).is_none()
        {
            push_member(out, name, json);
        }
    }
}

/// What members take with the quotes of their names, a colon and a comma each, in bytes.
pub(super) fn joined_bytes(members: &Checked<'_>) -> usize {
    members.iter().map(|(name, value)| name.len() + value.json.len() + "\"\":,".len()).sum()
}
