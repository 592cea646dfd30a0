//! What `check` prints: what is in force, what was found, and what is wrong.

use std::fmt::Display;
use std::io::{self, Write};

use nix::unistd::Uid;
use serde::Serialize;

use super::{Exit, ended, name, told};
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
    /// Whether all of it could be written until now; nothing is behind what could not.
    written: io::Result<()>,
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        Self { json, written: Ok(()) }
    }

    pub(super) fn values(&mut self, values: &[InForce]) {
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
        self.write(&format!("{:<keys$}  {:<width$}  FROM\n", "KEY", "VALUE"));
        for InForce { key, value, origin } in values {
            let value = Visible(value).to_string();
            self.write(&format!("{key:<keys$}  {value:<width$}  {}\n", from(origin)));
        }
        self.write(&format!("\nchecked as {}\n", name(Uid::effective())));
    }

    pub(super) fn finding(&mut self, finding: &Finding) {
        if self.json {
            return self.line(&Line::Check(finding));
        }
        let state = match finding.state {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Failed => "FAILED",
        };
        self.write(&format!("{state:<8} {:<26} {}\n", finding.about, Visible(&finding.told)));
        if !finding.act.is_empty() {
            self.write(&format!("{:<35} {}\n", "", Visible(&finding.act)));
        }
    }

    /// Prints the end, and returns with what `check` ends that found `exit`.
    pub(super) fn end(mut self, problems: &Problems, exit: Exit) -> Exit {
        if self.json {
            for problem in &problems.0 {
                let line = match problem.origin {
                    Origin::File { line, .. } => Some(line),
                    _ => None,
                };
                let (from, key, message) = (problem.origin.to_string(), &problem.key, &problem.message);
                self.line(&Line::Problem { from, line, key, message });
            }
            self.line(&Line::Done { exit: exit as u8, user: name(Uid::effective()) });
        } else if !problems.0.is_empty() {
            told(&problems.to_string());
        } else if exit == Exit::Success {
            told("the configuration is sound");
        } else {
            told("the configuration is sound, and something that it needs FAILED");
        }
        ended(self.written, exit)
    }

    fn line(&mut self, line: &Line<'_>) {
        // Of text and numbers.
        let text = serde_json::to_string(line).unwrap_or_default();
        self.write(&format!("{}\n", VisibleJson(&text)));
    }

    fn write(&mut self, text: &str) {
        if self.written.is_ok() {
            self.written = io::stdout().write_all(text.as_bytes());
        }
    }
}
