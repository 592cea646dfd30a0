//! What the daemon says of itself: log lines on standard error.
//!
//! Guarantees: a line of text is one line, and no control character of what it tells reaches the terminal; JSON is one
//! object a line; visitors' ids appear only as [`Identifiers`] shows them.

mod identifiers;
mod visible;

use std::io::{self, IsTerminal, Write};

use thiserror::Error;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

pub use self::identifiers::Identifiers;
pub use self::visible::Visible;
use crate::config::{Format, Log};

/// Why nothing can be logged.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// Another subscriber is in place.
    #[error("the log is set up already: {0}")]
    Taken(#[from] TryInitError),
}

/// Sends log lines to standard error as `log` says.
///
/// # Errors
/// [`TelemetryError`]: it was called before.
pub fn init(log: &Log) -> Result<(), TelemetryError> {
    let text = match log.format {
        Format::Auto => io::stderr().is_terminal(),
        Format::Text => true,
        Format::Json => false,
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(Lines(io::stderr));
    let layer = match text {
        true => layer.with_ansi(false).boxed(),
        false => layer.json().flatten_event(true).boxed(),
    };
    Registry::default().with(layer.with_filter(log.level.clone())).try_init()?;
    Ok(())
}

/// Makes writers that take one log line at a time.
struct Lines<M>(M);

impl<'a, W: Write, M: Fn() -> W> MakeWriter<'a> for Lines<M> {
    type Writer = Line<W>;

    fn make_writer(&'a self) -> Line<W> {
        Line((self.0)())
    }
}

/// Writes one log line, with everything but its end made visible.
struct Line<W>(W);

impl<W: Write> Write for Line<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        writeln!(self.0, "{}", Visible(text.trim_end_matches('\n')))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_control_character_of_a_value_reaches_the_terminal() {
        let kept = Kept::default();
        let writer = kept.clone();
        let layer =
            tracing_subscriber::fmt::layer().with_ansi(false).with_writer(Lines(move || writer.clone()));
        tracing::subscriber::with_default(Registry::default().with(layer), || {
            tracing::error!(detail = %"\x1b[31mred\nnext\u{9b}", "an event");
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text:?}");
        assert!(!text.trim_end().chars().any(char::is_control) && text.contains("red"), "{text:?}");
    }
}
