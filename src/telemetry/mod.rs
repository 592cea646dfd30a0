//! What the daemon says of itself: log lines on standard error, or in systemd's journal.
//!
//! Guarantees: a line of text is one line, and no control character of what it tells reaches the terminal; JSON is one
//! object a line; visitors' ids appear only as [`Identifiers`](crate::wire::Identifiers) shows them; [`Logging::change`] changes the level and the
//! form of a log that is in use.

mod journal;
#[cfg(test)]
mod kept;
mod kinds;

use std::io::{self, IsTerminal, Write};

use thiserror::Error;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, Layered, SubscriberExt};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

pub use self::kinds::KINDS;
use crate::config::{Format, Log};
use crate::event::{Visible, VisibleJson};

/// Why nothing can be logged.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// Another subscriber is in place.
    #[error("the log is set up already: {0}")]
    Taken(#[from] TryInitError),
    /// The journal cannot be spoken to.
    #[error("a socket for the journal cannot be made: {0}")]
    Journal(#[from] io::Error),
    /// The log cannot be changed any more.
    #[error("the log cannot be changed: {0}")]
    Change(#[from] reload::Error),
}

/// What decides which lines are logged.
type Level = reload::Layer<Targets, Registry>;
/// What lines pass through before they are written.
type Passed = Layered<Level, Registry>;
/// What writes lines.
type Output = Box<dyn Layer<Passed> + Send + Sync>;

/// The log in use.
#[derive(Clone)]
pub struct Logging {
    level: reload::Handle<Targets, Registry>,
    output: reload::Handle<Output, Passed>,
}

/// Sends log lines where `log` says.
///
/// # Errors
/// [`TelemetryError`]: it was called before, or the system gives no socket.
pub fn init(log: &Log) -> Result<Logging, TelemetryError> {
    let (filter, level) = reload::Layer::new(log.level.clone());
    let (layer, output) = reload::Layer::new(writer(log.format)?);
    Registry::default().with(filter).with(layer).try_init()?;
    Ok(Logging { level, output })
}

impl Logging {
    /// Logs as `log` says from now on.
    ///
    /// # Errors
    /// [`TelemetryError`]; what was in force stays so.
    pub fn change(&self, log: &Log) -> Result<(), TelemetryError> {
        self.output.reload(writer(log.format)?)?;
        self.level.reload(log.level.clone())?;
        Ok(())
    }
}

fn writer(format: Format) -> Result<Output, TelemetryError> {
    let format = match format {
        Format::Auto if io::stderr().is_terminal() => Format::Text,
        Format::Auto if journal::is_stderr() => Format::Journald,
        Format::Auto => Format::Json,
        chosen => chosen,
    };
    let lines = tracing_subscriber::fmt::layer();
    Ok(match format {
        Format::Text => lines.with_ansi(false).with_writer(Lines(io::stderr, shown)).boxed(),
        Format::Journald => journal::Journal::new(io::stderr)?.boxed(),
        _ => lines.json().flatten_event(true).with_writer(Lines(io::stderr, shown_json)).boxed(),
    })
}

/// A line with everything made visible.
type Shown = fn(&str) -> String;

fn shown(text: &str) -> String {
    Visible(text).to_string()
}

fn shown_json(text: &str) -> String {
    VisibleJson(text).to_string()
}

/// Makes writers that take one log line at a time.
struct Lines<M>(M, Shown);

impl<'a, W: Write, M: Fn() -> W> MakeWriter<'a> for Lines<M> {
    type Writer = Line<W>;

    fn make_writer(&'a self) -> Line<W> {
        Line((self.0)(), self.1)
    }
}

/// Writes one log line, with everything but its end made visible.
struct Line<W>(W, Shown);

impl<W: Write> Write for Line<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        writeln!(self.0, "{}", (self.1)(text.trim_end_matches('\n')))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::is_unseen;
    use crate::telemetry::kept::Kept;

    /// What `form` makes of a line with text that a terminal would obey.
    fn logged<L: Layer<Registry> + Send + Sync>(form: impl FnOnce(Kept) -> L) -> String {
        let kept = Kept::default();
        tracing::subscriber::with_default(Registry::default().with(form(kept.clone())), || {
            tracing::error!(detail = %HOSTILE, "an event");
        });
        kept.text()
    }

    const HOSTILE: &str = "\x1b[31mred\nnext\u{9b}\u{202e}";

    #[test]
    fn no_control_character_of_a_value_reaches_the_terminal() {
        let form = |kept: Kept| {
            tracing_subscriber::fmt::layer().with_ansi(false).with_writer(Lines(move || kept.clone(), shown))
        };
        let text = logged(form);
        assert_eq!(text.lines().count(), 1, "{text:?}");
        assert!(!text.trim_end().chars().any(is_unseen) && text.contains("red"), "{text:?}");
    }

    #[test]
    fn json_stays_json() {
        let form = |kept: Kept| {
            let lines = tracing_subscriber::fmt::layer().json().flatten_event(true);
            lines.with_writer(Lines(move || kept.clone(), shown_json))
        };
        let text = logged(form);
        assert!(!text.trim_end().chars().any(is_unseen), "{text:?}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["detail"], HOSTILE);
    }
}
