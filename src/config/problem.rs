//! What is wrong with a configuration, and where it was set.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;

use super::nearest::nearest;
use crate::event::Visible;

/// Where a value was set. The order is the order in which problems are told, and of precedence: later wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nowhere: the default, or nothing.
    Unset,
    /// The configuration file.
    File {
        /// Its path.
        path: PathBuf,
        /// The line, the first being 1; 0 for the file as a whole.
        line: usize,
    },
    /// The environment variable of this name.
    Environment(String),
    /// The `-o` argument with this index.
    Override(usize),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unset => f.write_str("not set"),
            Self::File { path, line: 0 } => write!(f, "{}", Visible(&path.to_string_lossy())),
            Self::File { path, line } => write!(f, "{}:{line}", Visible(&path.to_string_lossy())),
            Self::Environment(name) => write!(f, "{}", Visible(name)),
            Self::Override(_) => f.write_str("-o"),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where it was set.
    pub origin: Origin,
    /// The key as `section.name`; empty where no key can be named, such as in a syntax error.
    pub key: String,
    /// What is wrong, and what is allowed.
    pub message: String,
}

impl Problem {
    pub(super) fn hides_the_file(&self) -> bool {
        matches!(self.origin, Origin::File { .. }) && self.key.is_empty()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if !self.key.is_empty() {
            write!(f, "{} ", Visible(&self.key))?;
        }
        write!(f, "{}", Visible(&self.message))
    }
}

/// All that is wrong, sorted by position; never empty as an error.
///
/// Displayed as one line for each problem; what came from outside is shown without control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// `Ok` with `whole` where nothing is wrong, else all that is. Of a file that is no TOML that is told alone: the rest may
    /// follow from it.
    pub(super) fn or<T>(mut problems: Vec<Problem>, whole: Option<T>) -> Result<T, Self> {
        match whole {
            Some(whole) if problems.is_empty() => Ok(whole),
            _ => {
                problems.sort();
                problems.dedup();
                let mut problems = Self(problems);
                if problems.hide_the_file() {
                    problems
                        .0
                        .retain(|one| one.hides_the_file() || !matches!(one.origin, Origin::File { .. }));
                }
                Err(problems)
            }
        }
    }

    /// Whether one of them may be about `key`: it names it, or may have been meant for it, or nobody knows. What is wrong in
    /// the command's own `-o` always may: it is mended by who types it. What is wrong in the file may not where the key is
    /// `set_over_it`.
    pub(super) fn concern(&self, key: &str, set_over_it: bool) -> bool {
        self.0.iter().any(|problem| {
            let section = key.split_once('.').is_some_and(|(section, _)| section == problem.key);
            let meant = nearest(&problem.key).is_some_and(|near| near.full == key);
            match problem.origin {
                Origin::Override(_) => true,
                Origin::File { .. } if set_over_it => false,
                _ => problem.key.is_empty() || section || meant,
            }
        })
    }

    /// Whether the file cannot be read or is no TOML, so that nobody knows what it sets.
    pub(super) fn hide_the_file(&self) -> bool {
        self.0.iter().any(Problem::hides_the_file)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl Error for Problems {}
