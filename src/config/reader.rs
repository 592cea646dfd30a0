//! From settings of all sources to typed sections: the table of keys and how it is read.
//!
//! Each section is declared once, by [`section!`]: a key's name, type, default, what is allowed, and what it is for.
//! The struct, the list of known keys and the reader come from that declaration, and so cannot disagree.

use std::collections::BTreeMap;

use super::problem::{Origin, Problem};
use super::value::Value;

/// What is known of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// Its section.
    pub(super) section: &'static str,
    /// Its name in the section.
    pub(super) name: &'static str,
    /// `section.name`.
    pub(super) full: &'static str,
    /// Its default as a TOML literal.
    pub(super) default: &'static str,
    /// What it is for, in lines.
    pub(super) about: &'static [&'static str],
}

/// One value that one source gives for a known key.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Setting {
    /// Where.
    pub(super) origin: Origin,
    /// The key's full name.
    pub(super) key: &'static str,
    /// What.
    pub(super) value: Value,
}

/// Reads settings key by key, and keeps what is wrong.
#[derive(Debug)]
pub(super) struct Reader {
    given: BTreeMap<&'static str, Vec<Setting>>,
    problems: Vec<Problem>,
}

impl Reader {
    /// A reader of `settings`, of which the later win, after `problems` that are known already.
    pub(super) fn new(settings: Vec<Setting>, problems: Vec<Problem>) -> Self {
        let mut given: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for setting in settings {
            given.entry(setting.key).or_default().push(setting);
        }
        Self { given, problems }
    }

    /// The value of a key by `read`, or its default, which stands in for one that is wrong, too, so that the rest can be looked
    /// at. A value that is overridden must be right as well: it would come into force with the next change elsewhere.
    pub(super) fn take<T>(
        &mut self,
        key: &'static str,
        default: &str,
        read: impl Fn(&Value) -> Result<T, String>,
    ) -> Option<T> {
        let unset = [Setting { origin: Origin::Unset, key, value: Value::Untyped(default.to_owned()) }];
        let given = self.given.get(key).map_or(unset.as_slice(), Vec::as_slice);
        let mut taken = None;
        for setting in given {
            match read(&setting.value) {
                Ok(value) => taken = Some(value),
                Err(message) => {
                    let origin = setting.origin.clone();
                    self.problems.push(Problem { origin, key: key.to_owned(), message });
                }
            }
        }
        taken.or_else(|| read(&Value::Untyped(default.to_owned())).ok())
    }

    /// Whether any source gives the key.
    pub(super) fn is_set(&self, key: &str) -> bool {
        self.given.contains_key(key)
    }

    /// Whether what `keys` are is known: where one is wrong, or nobody knows what the file sets, a default may stand there.
    pub(super) fn are_known(&self, keys: &[&str]) -> bool {
        self.problems.iter().all(|one| !one.hides_the_file() && !keys.contains(&one.key.as_str()))
    }

    /// Keeps a problem of keys that do not go together, under the one of them that was set last; not where one of them is wrong
    /// by itself.
    pub(super) fn clash(&mut self, keys: &[&'static str], message: String) {
        if !self.are_known(keys) {
            return;
        }
        let last = keys.iter().rev().map(|key| (self.origin(key), *key)).max_by(|a, b| a.0.cmp(&b.0));
        if let Some((origin, key)) = last {
            self.problems.push(Problem { origin, key: key.to_owned(), message });
        }
    }

    /// Keeps a problem.
    pub(super) fn wrong(&mut self, origin: Origin, key: &str, message: String) {
        self.problems.push(Problem { origin, key: key.to_owned(), message });
    }

    /// Where the value in force comes from.
    pub(super) fn origin(&self, key: &str) -> Origin {
        self.given.get(key).and_then(|given| given.last()).map_or(Origin::Unset, |last| last.origin.clone())
    }

    /// All that is wrong.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }
}

/// Declares a section: its struct, its list of keys, and its reader.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $section:literal $name:ident {
            $( $(#[doc = $doc:literal])+ $key:ident: $type:ty = $default:tt, $read:expr; )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $( $(#[doc = $doc])+ pub $key: $type, )+
        }

        impl $name {
            /// The keys in the order of the documentation.
            pub(super) const KEYS: &'static [Key] = &[$( Key {
                section: $section,
                name: stringify!($key),
                full: concat!($section, ".", stringify!($key)),
                default: stringify!($default),
                about: &[$($doc),+],
            } ),+];

            /// The keys whose values differ.
            pub(super) fn differences(&self, other: &Self) -> Vec<&'static str> {
                let mut different = Vec::new();
                $( if self.$key != other.$key {
                    different.push(concat!($section, ".", stringify!($key)));
                } )+
                different
            }

            /// The section, if all its values are right; every key is read, so that every problem is kept.
            pub(super) fn read(from: &mut Reader) -> Option<Self> {
                $( let $key = from.take(concat!($section, ".", stringify!($key)), stringify!($default), $read); )+
                Some(Self { $( $key: $key?, )+ })
            }
        }
    };
}

pub(super) use section;
