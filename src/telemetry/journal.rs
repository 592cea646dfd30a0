//! Log lines as entries of systemd's journal, in its native protocol.
//!
//! `MESSAGE` is the sentence; each field of ours is searchable as `TARGET_NOTIFYD_` and its name in capitals; the kinds that
//! an operator acts on have a `MESSAGE_ID` (see `kinds.rs`), under which the catalog explains them.
//!
//! Guarantees:
//! - where the journal is away, the line goes to standard error, and the next one is tried anew;
//! - a journal that stands still holds the daemon up for [`PATIENCE`] a line at most; lines that it does not take then are
//!   counted, and the next entry says how many in `TARGET_NOTIFYD_LINES_LOST`;
//! - an entry is bounded by [`MAX_VALUE_BYTES`] a value, so that it fits into a datagram.
//!
//! The protocol is ours and not a library's: those there are hide that an entry was not taken, and know no `MESSAGE_ID`.

use std::fmt::{self, Write as _};
use std::io::{self, ErrorKind, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::stat::fstat;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::kinds::message_id;
use crate::event::Visible;

/// Where journald takes entries.
const SOCKET: &str = "/run/systemd/journal/socket";
/// How entries are called in the short output.
const IDENTIFIER: &str = "target-notifyd";
/// What the names of our fields begin with.
const PREFIX: &str = "TARGET_NOTIFYD_";
/// The most bytes of one value; more is cut off.
const MAX_VALUE_BYTES: usize = 16 * 1_024;
/// How long an entry waits for a journal that stands still.
const PATIENCE: Duration = Duration::from_millis(200);

/// Writes log lines to the journal, and where it is away to `fallback`.
pub(super) struct Journal<F> {
    socket: UnixDatagram,
    path: PathBuf,
    lost: AtomicU64,
    fallback: F,
}

/// Whether standard error is connected to the journal, as systemd does it for a service.
pub(super) fn is_stderr() -> bool {
    let Some(named) = std::env::var_os("JOURNAL_STREAM") else { return false };
    let stream = fstat(io::stderr()).map(|stat| format!("{}:{}", stat.st_dev, stat.st_ino));
    stream.is_ok_and(|stream| named.to_str() == Some(&stream))
}

impl<W: Write, F: Fn() -> W> Journal<F> {
    /// The system's journal.
    pub(super) fn new(fallback: F) -> io::Result<Self> {
        Self::at(Path::new(SOCKET), fallback)
    }

    fn at(path: &Path, fallback: F) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { socket, path: path.to_owned(), lost: AtomicU64::new(0), fallback })
    }

    fn send(&self, priority: u8, line: &Line, place: (Option<&str>, Option<u32>)) {
        let mut entry = Entry::default();
        entry.add("MESSAGE", &line.whole());
        entry.add("PRIORITY", &priority.to_string());
        entry.add("SYSLOG_IDENTIFIER", IDENTIFIER);
        if let (Some(file), Some(number)) = place {
            entry.add("CODE_FILE", file);
            entry.add("CODE_LINE", &number.to_string());
        }
        if let Some(id) =
            line.fields.iter().find(|(name, _)| name == "EVENT").and_then(|(_, kind)| message_id(kind))
        {
            entry.add("MESSAGE_ID", id);
        }
        for (name, value) in &line.fields {
            entry.add(&format!("{PREFIX}{name}"), value);
        }
        let lost = self.lost.load(Ordering::Relaxed);
        if lost > 0 {
            entry.add(&format!("{PREFIX}LINES_LOST"), &lost.to_string());
        }
        match self.socket.send_to(&entry.0, &self.path) {
            Ok(_) => drop(self.lost.fetch_sub(lost, Ordering::Relaxed)),
            // Standard error most likely leads to the same journal: waiting there would have no end.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => {
                // Where standard error is closed too, there is nobody to tell.
                let _closed = writeln!((self.fallback)(), "<{priority}>{line}");
            }
        }
    }
}

impl<S: Subscriber, W: Write, F: Fn() -> W + 'static> Layer<S> for Journal<F> {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        let metadata = event.metadata();
        line.fields.push(("MODULE".to_owned(), metadata.target().to_owned()));
        let priority = match *metadata.level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        self.send(priority, &line, (metadata.file(), metadata.line()));
    }
}

/// A log line in its parts: the sentence, and the fields by the journal's names.
#[derive(Debug, Default)]
struct Line {
    message: String,
    fields: Vec<(String, String)>,
}

impl Line {
    /// What `journalctl` shows without being asked for fields: the sentence alone says neither to what it happened nor why.
    fn whole(&self) -> String {
        let mut text = self.message.clone();
        for (name, value) in &self.fields {
            if !matches!(name.as_str(), "EVENT" | "MODULE") {
                // Writing to a string cannot fail.
                let _written = write!(text, " {}={value}", name.to_ascii_lowercase());
            }
        }
        text.truncate(text.floor_char_boundary(MAX_VALUE_BYTES));
        text
    }

    fn keep(&mut self, field: &Field, value: &dyn fmt::Display) {
        let mut text = Visible(&value.to_string()).to_string();
        text.truncate(text.floor_char_boundary(MAX_VALUE_BYTES));
        match field.name() {
            "message" => self.message = text,
            name => {
                let fits = |letter: char| {
                    if letter.is_ascii_alphanumeric() { letter.to_ascii_uppercase() } else { '_' }
                };
                self.fields.push((name.chars().map(fits).collect(), text));
            }
        }
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.keep(field, &value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.keep(field, &format_args!("{value:?}"));
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for (name, value) in &self.fields {
            f.write_char(' ')?;
            write!(f, "{}={value}", name.to_ascii_lowercase())?;
        }
        Ok(())
    }
}

/// An entry in the journal's format: for each field its name, `\n`, the length as 64 bits little endian, the value, `\n`.
#[derive(Debug, Default)]
struct Entry(Vec<u8>);

impl Entry {
    fn add(&mut self, name: &str, value: &str) {
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(b'\n');
        self.0.extend_from_slice(&(value.len() as u64).to_le_bytes());
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::kept::Kept;
    use std::collections::BTreeMap;
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::registry::Registry;

    fn decoded(mut bytes: &[u8]) -> BTreeMap<String, String> {
        let mut fields = BTreeMap::new();
        while !bytes.is_empty() {
            let end = bytes.iter().position(|byte| *byte == b'\n').unwrap();
            let name = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let length = u64::from_le_bytes(bytes[end + 1..end + 9].try_into().unwrap()) as usize;
            fields.insert(name, String::from_utf8(bytes[end + 9..end + 9 + length].to_vec()).unwrap());
            assert_eq!(bytes[end + 9 + length], b'\n');
            bytes = &bytes[end + 10 + length..];
        }
        fields
    }

    fn received(socket: &UnixDatagram) -> BTreeMap<String, String> {
        let mut bytes = vec![0; 256 * 1_024];
        let count = socket.recv(&mut bytes).unwrap();
        decoded(&bytes[..count])
    }

    fn logging(path: &Path, kept: &Kept, work: impl FnOnce()) {
        let writer = kept.clone();
        let journal = Journal::at(path, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(Registry::default().with(journal), work);
    }

    #[test]
    fn an_entry_has_the_sentence_the_priority_and_every_field() {
        let folder = tempfile::tempdir().unwrap();
        let (path, kept) = (folder.path().join("socket"), Kept::default());
        let socket = UnixDatagram::bind(&path).unwrap();
        logging(&path, &kept, || {
            tracing::error!(event = "dead_letter", seq = 7, detail = %"\x1b[31mred\nnext", "set aside");
            tracing::warn!("a warning");
            tracing::info!(wait = ?Duration::from_secs(2), long = "x".repeat(1 << 20), "life");
            tracing::debug!("detail");
        });
        let entry = received(&socket);
        for (name, value) in [
            ("MESSAGE", "set aside seq=7 detail=\\u{1b}[31mred\\nnext"),
            ("PRIORITY", "3"),
            ("SYSLOG_IDENTIFIER", "target-notifyd"),
            ("TARGET_NOTIFYD_EVENT", "dead_letter"),
            ("TARGET_NOTIFYD_SEQ", "7"),
            ("TARGET_NOTIFYD_DETAIL", "\\u{1b}[31mred\\nnext"),
            ("TARGET_NOTIFYD_MODULE", "target_notifyd::telemetry::journal::tests"),
            ("CODE_FILE", "src/telemetry/journal.rs"),
        ] {
            assert_eq!(entry.get(name).map(String::as_str), Some(value), "{entry:?}");
        }
        assert_eq!(entry["MESSAGE_ID"], message_id("dead_letter").unwrap());
        let warning = received(&socket);
        assert!(warning["PRIORITY"] == "4" && !warning.contains_key("MESSAGE_ID"));
        let life = received(&socket);
        assert_eq!((life["PRIORITY"].as_str(), life["TARGET_NOTIFYD_WAIT"].as_str()), ("6", "2s"));
        assert_eq!([&life["TARGET_NOTIFYD_LONG"], &life["MESSAGE"]].map(String::len), [MAX_VALUE_BYTES; 2]);
        assert_eq!(received(&socket)["PRIORITY"], "7");
        assert_eq!(kept.text(), "");
    }

    #[test]
    fn without_a_journal_lines_go_to_standard_error_until_it_is_back() {
        let folder = tempfile::tempdir().unwrap();
        let (path, kept) = (folder.path().join("socket"), Kept::default());
        logging(&path, &kept, || {
            tracing::error!(host = "edge\n35", "away");
            let socket = UnixDatagram::bind(&path).unwrap();
            tracing::info!("back");
            assert_eq!(received(&socket)["MESSAGE"], "back");
        });
        assert_eq!(kept.text(), "<3>away host=edge\\n35 module=target_notifyd::telemetry::journal::tests\n");
    }

    #[test]
    fn a_journal_that_stands_still_costs_lines_which_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let (path, kept) = (folder.path().join("socket"), Kept::default());
        let socket = UnixDatagram::bind(&path).unwrap();
        logging(&path, &kept, || {
            // A socket's queue takes a number of datagrams, and then no more.
            let limit: usize = std::fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen")
                .ok()
                .and_then(|text| text.trim().parse().ok())
                .unwrap_or(512);
            let sent = limit + 3;
            for _ in 0..sent {
                tracing::info!("line");
            }
            let mut read = 0;
            socket.set_nonblocking(true).unwrap();
            while socket.recv(&mut [0; 4_096]).is_ok() {
                read += 1;
            }
            assert!(read < sent, "the queue took all of {sent}");
            tracing::info!("again");
            assert_eq!(received(&socket)["TARGET_NOTIFYD_LINES_LOST"], (sent - read).to_string());
            tracing::info!("and again");
            assert!(!received(&socket).contains_key("TARGET_NOTIFYD_LINES_LOST"));
        });
        assert_eq!(kept.text(), "");
    }
}
