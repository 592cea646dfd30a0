//! The sources of settings: the folders of the service manager, the file, the environment, and `-o`.
//!
//! Guarantees: every setting keeps its place; nothing of a source is passed over in silence but environment variables
//! of other programs.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use toml::de::{DeTable, DeValue};

use super::nearest::{is_section, known, nearest};
use super::places::Places;
use super::problem::{Origin, Problem};
use super::reader::{Key, Setting};
use super::sections::keys;
use super::value::Value;
use crate::contents;

/// How the variables of this program begin.
const PREFIX: &str = "TARGET_NOTIFYD_";
/// The largest file that is read.
const MAX_FILE_BYTES: u64 = 1_024 * 1_024;

/// Where a configuration comes from; `overrides` win over `environment`, which wins over `file`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// The TOML file.
    pub file: PathBuf,
    /// Whether the file must be there: it was named, and is not the default.
    pub file_required: bool,
    /// The environment's variables; `TARGET_NOTIFYD_BATCH__LINGER` is `batch.linger`.
    pub environment: Vec<(String, String)>,
    /// The arguments of `-o`, each `KEY=VALUE`.
    pub overrides: Vec<String>,
    /// The instance of the template unit whose places are the defaults.
    pub instance: Option<String>,
}

/// Settings and problems as they are found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) settings: Vec<Setting>,
    pub(super) problems: Vec<Problem>,
}

impl Sources {
    /// The configuration file where none is named: `$CONFIGURATION_DIRECTORY` or `/etc/target-notifyd`, and in it the
    /// file of `instance`, or `config.toml`.
    #[must_use]
    pub fn default_file(instance: Option<&str>, environment: &[(String, String)]) -> PathBuf {
        Places { instance, environment }.file()
    }

    /// The key and the value of an argument of `-o`.
    ///
    /// # Errors
    /// It has none; what it must be.
    pub fn parted(argument: &str) -> Result<(&str, &str), &'static str> {
        let parts = argument.split_once('=').map(|(key, value)| (key.trim(), value));
        parts.filter(|(key, _)| !key.is_empty()).ok_or("must be KEY=VALUE, such as batch.linger=50ms")
    }

    /// All settings, the later of a key winning, and what is wrong with them so far.
    pub(super) fn settings(&self) -> Found {
        let mut found = Found::default();
        let places = Places { instance: self.instance.as_deref(), environment: &self.environment };
        found.settings.extend(places.settings());
        match self.text() {
            Ok(Some(text)) => self.file(&text, &mut found),
            Ok(None) => {}
            Err(error) => {
                found.wrong(self.line(0), "", format!("the configuration file cannot be read: {error}"));
            }
        }
        self.environment(&mut found);
        for (index, argument) in self.overrides.iter().enumerate() {
            let origin = Origin::Override(index);
            match Self::parted(argument) {
                Ok((key, value)) => {
                    found.setting(origin, key, Value::Untyped(value.to_owned()), str::to_owned);
                }
                Err(wrong) => found.wrong(origin, argument, wrong.to_owned()),
            }
        }
        found
    }

    /// Whether `-o` or the variable of `key` sets it: what the file says of it does not count.
    pub(super) fn set_over_the_file(&self, key: &str) -> bool {
        self.settings().settings.iter().filter(|one| one.key == key).any(|one| match &one.origin {
            Origin::Override(_) => true,
            // And not one of the service manager's folders, over which the file wins.
            Origin::Environment(name) => *name == variable(key),
            Origin::Unset | Origin::File { .. } => false,
        })
    }

    fn line(&self, line: usize) -> Origin {
        Origin::File { path: self.file.clone(), line }
    }

    /// The text of the file; `None` where it is absent and may be.
    fn text(&self) -> io::Result<Option<String>> {
        let file = match File::open(&self.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.file_required => return Ok(None),
            opened => opened?,
        };
        text(contents::of(file, MAX_FILE_BYTES)?).map(Some)
    }

    /// The settings of the file: where it is no TOML, of the lines that can be read all the same, for `check` to look at.
    fn file(&self, text: &str, found: &mut Found) {
        let line_at = |offset: usize| {
            let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
            before.iter().filter(|byte| **byte == b'\n').count() + 1
        };
        let (document, errors) = DeTable::parse_recoverable(text);
        let mut broken = Vec::new();
        for error in errors {
            let line = line_at(error.span().map_or(0, |span| span.start));
            broken.push(line);
            found.wrong(self.line(line), "", format!("this is no TOML: {}", error.message()));
        }
        for (section, content) in document.get_ref() {
            let section_line = line_at(section.span().start);
            let section = section.get_ref();
            let table = match content.get_ref() {
                DeValue::Table(table) if is_section(section) || !table.is_empty() => table,
                _ if broken.contains(&section_line) => continue,
                _ if is_section(section) => {
                    let message = format!("is a section: write [{section}] and its keys below");
                    found.wrong(self.line(section_line), section, message);
                    continue;
                }
                _ => {
                    found.unknown(self.line(section_line), section, str::to_owned);
                    continue;
                }
            };
            for (name, value) in table {
                let line = line_at(name.span().start);
                if !broken.contains(&line) {
                    let key = format!("{section}.{}", name.get_ref());
                    found.setting(self.line(line), &key, Value::from(value.get_ref()), str::to_owned);
                }
            }
        }
    }

    /// The settings of the environment.
    ///
    /// A variable that has our prefix but no `__` is another's, such as `TARGET_NOTIFYD_PORT` that Kubernetes sets for
    /// a service of this name; unless it is one of ours but for the underscore.
    fn environment(&self, found: &mut Found) {
        for (name, value) in &self.environment {
            let Some(rest) = name.strip_prefix(PREFIX) else { continue };
            let key = match rest.split_once("__") {
                Some((section, name)) => format!("{section}.{name}"),
                None => match keys().find(|key| key.full.replace('.', "_").eq_ignore_ascii_case(rest)) {
                    Some(key) => key.full.replace('.', "_"),
                    None => continue,
                },
            };
            // Upper case only: with both cases, two variables could contradict each other.
            let key = if key.chars().any(char::is_lowercase) { key } else { key.to_ascii_lowercase() };
            let key = if rest.chars().any(char::is_lowercase) { rest.to_owned() } else { key };
            let origin = Origin::Environment(name.clone());
            found.setting(origin, &key, Value::Untyped(value.clone()), variable);
        }
    }
}

/// What a file holds, as text.
pub(super) fn text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8"))
}

/// The name of a key's environment variable.
pub(super) fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

impl Found {
    fn wrong(&mut self, origin: Origin, key: &str, message: String) {
        self.problems.push(Problem { origin, key: key.to_owned(), message });
    }

    /// Keeps a setting if its key is known; `spelt` spells a key as its source does.
    fn setting(&mut self, origin: Origin, key: &str, value: Value, spelt: fn(&str) -> String) {
        match known(key) {
            Some(Key { full, .. }) => self.settings.push(Setting { origin, key: full, value }),
            None => self.unknown(origin, key, spelt),
        }
    }

    fn unknown(&mut self, origin: Origin, key: &str, spelt: fn(&str) -> String) {
        let meant = nearest(key).map(|key| format!("; did you mean {}?", spelt(key.full)));
        self.wrong(origin, key, format!("is no known key{}", meant.unwrap_or_default()));
    }
}
