//! A value as one of the sources gives it, before its key says what it should be.

use std::borrow::Cow;
use std::fmt;

use toml::de::{DeInteger, DeValue};

/// The most characters of a wrong value that a problem repeats.
const MAX_SHOWN_CHARS: usize = 80;

/// A value without its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// A string of the file.
    Text(String),
    /// An integer; `None` where it passes 128 bits.
    Integer(Option<i128>),
    /// A float.
    Float(f64),
    /// `true` or `false`.
    Boolean(bool),
    /// An array.
    List(Vec<Value>),
    /// What no key takes, by its name.
    Other(&'static str),
    /// Text of the environment or of `-o`: the TOML literal that it reads as where the key takes one of that type,
    /// and else the text itself.
    Untyped(String),
}

impl Value {
    /// The value as text.
    pub(super) fn text(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Text(text) => Some(Cow::Borrowed(text)),
            Self::Untyped(text) => match literal(text) {
                Some(Self::Text(text)) => Some(Cow::Owned(text)),
                _ => Some(Cow::Borrowed(text)),
            },
            _ => None,
        }
    }

    /// The value as an integer.
    pub(super) fn integer(&self) -> Option<i128> {
        match self {
            Self::Integer(integer) => *integer,
            Self::Untyped(text) => literal(text)?.integer(),
            _ => None,
        }
    }

    /// The value as a float; an integer is one too.
    pub(super) fn float(&self) -> Option<f64> {
        match self {
            Self::Float(float) => Some(*float),
            Self::Integer(integer) => i32::try_from((*integer)?).ok().map(f64::from),
            Self::Untyped(text) => literal(text)?.float(),
            _ => None,
        }
    }

    /// The value as a boolean.
    pub(super) fn boolean(&self) -> Option<bool> {
        match self {
            Self::Boolean(boolean) => Some(*boolean),
            Self::Untyped(text) => literal(text)?.boolean(),
            _ => None,
        }
    }

    /// The value as a list: an array, or text with commas.
    pub(super) fn list(&self) -> Option<Cow<'_, [Value]>> {
        match self {
            Self::List(list) => Some(Cow::Borrowed(list)),
            Self::Untyped(text) => match literal(text) {
                Some(Self::List(list)) => Some(Cow::Owned(list)),
                _ if text.trim_start().starts_with('[') => None,
                _ => {
                    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                    Some(parts.map(|part| Self::Untyped(part.to_owned())).collect())
                }
            },
            _ => None,
        }
    }
}

impl Value {
    /// The value as a TOML literal; of what is none, its kind.
    pub(super) fn literal(&self) -> String {
        match self {
            Self::Untyped(text) => match literal(text) {
                Some(Self::Text(text)) => format!("{text:?}"),
                Some(read) => read.literal(),
                None => format!("{text:?}"),
            },
            Self::Text(text) => format!("{text:?}"),
            Self::List(list) => {
                let list: Vec<String> = list.iter().map(Self::literal).collect();
                format!("[{}]", list.join(", "))
            }
            other => other.to_string(),
        }
    }
}

/// As a problem repeats it: escaped and cut.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) | Self::Untyped(text) => {
                let mut rest = text.chars();
                let start: String = rest.by_ref().take(MAX_SHOWN_CHARS).collect();
                write!(f, "{start:?}")?;
                if rest.next().is_some() { f.write_str("…") } else { Ok(()) }
            }
            Self::Integer(Some(integer)) => write!(f, "{integer}"),
            Self::Integer(None) => f.write_str("an integer beyond all limits"),
            Self::Float(float) => write!(f, "{float:?}"),
            Self::Boolean(boolean) => write!(f, "{boolean}"),
            Self::List(_) => f.write_str("an array"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

impl From<&DeValue<'_>> for Value {
    fn from(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text.clone().into_owned()),
            DeValue::Integer(integer) => Self::Integer(wide(integer)),
            DeValue::Float(float) => float.as_str().parse().map_or(Self::Other("a float"), Self::Float),
            DeValue::Boolean(boolean) => Self::Boolean(*boolean),
            DeValue::Array(array) => {
                Self::List(array.iter().map(|element| Self::from(element.get_ref())).collect())
            }
            DeValue::Datetime(_) => Self::Other("a date"),
            DeValue::Table(_) => Self::Other("a table"),
        }
    }
}

fn wide(integer: &DeInteger<'_>) -> Option<i128> {
    i128::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// The TOML literal that `text` is, if it is one.
fn literal(text: &str) -> Option<Value> {
    DeValue::parse(text.trim()).ok().map(|value| Value::from(value.get_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn untyped(text: &str) -> Value {
        Value::Untyped(text.to_owned())
    }

    #[test]
    fn untyped_text_is_what_its_key_takes() {
        for (given, text) in
            [("50ms", "50ms"), ("'a b'", "a b"), (r#""x\ty""#, "x\ty"), ("660", "660"), ("", "")]
        {
            assert_eq!(untyped(given).text().as_deref(), Some(text), "{given}");
        }
        for (given, integer) in [("50", Some(50)), ("1_000", Some(1_000)), ("0660", None), ("x", None)] {
            assert_eq!(untyped(given).integer(), integer, "{given}");
        }
        for (given, float) in [("2", Some(2.0)), ("1.5", Some(1.5)), ("1,5", None), ("1.5 x", None)] {
            assert_eq!(untyped(given).float(), float, "{given}");
        }
        for (given, boolean) in [("true", Some(true)), ("false", Some(false)), ("yes", None), ("1", None)] {
            assert_eq!(untyped(given).boolean(), boolean, "{given}");
        }
    }

    #[test]
    fn a_list_is_an_array_or_has_commas() {
        for (given, expected) in [
            ("", Some(vec![])),
            ("[]", Some(vec![])),
            ("root, 7", Some(vec![untyped("root"), untyped("7")])),
            (r#"["root", 7]"#, Some(vec![Value::Text("root".to_owned()), Value::Integer(Some(7))])),
            ("[root", None),
        ] {
            assert_eq!(untyped(given).list().map(Cow::into_owned), expected, "{given}");
        }
    }

    #[test]
    fn a_wrong_value_is_repeated_escaped_and_cut() {
        assert_eq!(untyped("\u{1b}[31m\n").to_string(), r#""\u{1b}[31m\n""#);
        assert!(untyped(&"x".repeat(10_000)).to_string().len() < 100);
    }
}
