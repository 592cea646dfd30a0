//! What `check` prints: what is in force, what was found, and what is wrong.

use std::fmt::Display;
use std::io::{self, Write};

use nix::unistd::Uid;
use serde::Serialize;

use super::{Exit, name, told};
use crate::config::{InForce, Origin, Problems};
use crate::event::{Visible, VisibleJson};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// As it should be.
    Ok,
    /// It works, and somebody should know.
    Warning,
    /// It does not work.
    Failed,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// The key that it is about.
    #[serde(rename = "key")]
    pub(super) about: &'static str,
    pub(super) state: State,
    /// What was found.
    #[serde(rename = "message")]
    pub(super) told: String,
    /// What to do about it.
    #[serde(rename = "act", skip_serializing_if = "String::is_empty")]
    pub(super) act: String,
}

impl Finding {
    pub(super) fn ok(about: &'static str, told: impl Display) -> Self {
        Self { about, state: State::Ok, told: told.to_string(), act: String::new() }
    }

    pub(super) fn warning(about: &'static str, told: impl Display, act: impl Display) -> Self {
        Self { about, state: State::Warning, told: told.to_string(), act: act.to_string() }
    }

    pub(super) fn failed(about: &'static str, told: impl Display, act: impl Display) -> Self {
        Self { about, state: State::Failed, told: told.to_string(), act: act.to_string() }
    }
}

/// A line of `--json`.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Line<'a> {
    Value { key: &'a str, value: &'a str, from: String },
    Check(&'a Finding),
    Problem { from: String, line: Option<usize>, key: &'a str, message: &'a str },
    Done { exit: u8, user: String },
}

/// Prints on standard output; problems of the configuration, and that there is none, on standard error.
pub(super) struct Report {
    json: bool,
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        Self { json }
    }

    pub(super) fn values(&self, values: &[InForce]) {
        let from = |origin: &Origin| match origin {
            Origin::Unset => "default".to_owned(),
            set => set.to_string(),
        };
        if self.json {
            for InForce { key, value, origin } in values {
                self.line(&Line::Value { key, value, from: from(origin) });
            }
            return;
        }
        let wide = |text: fn(&InForce) -> &str| values.iter().map(|one| text(one).len()).max().unwrap_or(0);
        let (keys, width) = (wide(|one| one.key), wide(|one| &one.value));
        write(&format!("{:<keys$}  {:<width$}  FROM\n", "KEY", "VALUE"));
        for InForce { key, value, origin } in values {
            let value = Visible(value).to_string();
            write(&format!("{key:<keys$}  {value:<width$}  {}\n", from(origin)));
        }
        write(&format!("\nchecked as {}\n", name(Uid::effective())));
    }

    pub(super) fn finding(&self, finding: &Finding) {
        if self.json {
            return self.line(&Line::Check(finding));
        }
        let state = match finding.state {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Failed => "FAILED",
        };
        write(&format!("{state:<8} {:<26} {}\n", finding.about, Visible(&finding.told)));
        if !finding.act.is_empty() {
            write(&format!("{:<35} {}\n", "", Visible(&finding.act)));
        }
    }

    pub(super) fn end(&self, problems: &Problems, exit: Exit) {
        if self.json {
            for problem in &problems.0 {
                let line = match problem.origin {
                    Origin::File { line, .. } => Some(line),
                    _ => None,
                };
                let (from, key, message) = (problem.origin.to_string(), &problem.key, &problem.message);
                self.line(&Line::Problem { from, line, key, message });
            }
            return self.line(&Line::Done { exit: exit as u8, user: name(Uid::effective()) });
        }
        match problems.0.is_empty() {
            false => told(&problems.to_string()),
            true if exit == Exit::Success => told("the configuration is sound"),
            true => told("the configuration is sound, and something that it needs FAILED"),
        }
    }

    fn line(&self, line: &Line<'_>) {
        // Of text and numbers.
        let text = serde_json::to_string(line).unwrap_or_default();
        write(&format!("{}\n", VisibleJson(&text)));
    }
}

fn write(text: &str) {
    // Where standard output is closed, the exit code still tells.
    let _closed = io::stdout().write_all(text.as_bytes());
}
