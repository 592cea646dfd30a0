//! The way to the daemon's admin socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use crate::admin::protocol::{Answer, Request};
use crate::cli::{Exit, had_enough};
use crate::event::Visible;
use crate::wire::object::Object;

/// The longest line that is read, in bytes: a dead letter has at most a submission's size, escaped.
const LINE_BYTES: u64 = 64 * 1_024 * 1_024;

/// Why there is no answer.
#[derive(Debug, Error)]
pub(super) enum ClientError {
    /// Nobody listens.
    #[error("{} is not served: {source}; is the daemon running? systemctl status target-notifyd tells, and -o admin.socket=PATH asks another one", path.display())]
    Connect { path: PathBuf, source: io::Error },
    /// It may not be opened.
    #[error("{} may not be opened: only root and the daemon's user may ask; try sudo", .0.display())]
    Denied(PathBuf),
    /// The answer ended early.
    #[error(
        "the daemon closed the connection before its answer was whole: it ends, was killed, or its answer was not read for half a minute"
    )]
    Cut,
    /// The connection failed.
    #[error("the daemon does not answer: {0}; its log says more")]
    Io(#[source] io::Error),
    /// It refuses the request.
    #[error("{}", Visible(message))]
    Refused { code: String, message: String },
    /// It speaks otherwise.
    #[error("the daemon's answer cannot be read: {0}; use the same release for both")]
    Unreadable(#[from] serde_json::Error),
    /// The answer cannot be printed.
    #[error("standard output cannot be written: {0}")]
    Output(#[source] io::Error),
    /// The numbers of what was exported cannot be kept.
    #[error("the file of --numbers cannot be written: {0}")]
    Numbers(#[source] io::Error),
}

impl ClientError {
    /// Whether another try may end otherwise: the daemon may be started anew meanwhile.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Cut | Self::Io(_) => true,
            Self::Refused { code, .. } => matches!(code.as_str(), "shutting_down" | "too_many_connections"),
            Self::Denied(_) | Self::Unreadable(_) | Self::Output(_) | Self::Numbers(_) => false,
        }
    }

    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Output(error) if had_enough(error) => Exit::Success,
            Self::Output(_) | Self::Numbers(_) => Exit::Disk,
            Self::Refused { code, .. } => match code.as_str() {
                "malformed" => Exit::Usage,
                "shutting_down" => Exit::Unreachable,
                _ => Exit::Refused,
            },
            _ => Exit::Unreachable,
        }
    }
}

/// A request that was asked, and its answers.
pub(super) struct Client(BufReader<UnixStream>);

impl Client {
    /// Asks `request`; each answer may take as long as `within` says, or as it takes.
    pub(super) fn ask(path: &Path, request: &Request, within: Option<Duration>) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => ClientError::Denied(path.to_owned()),
            _ => ClientError::Connect { path: path.to_owned(), source },
        })?;
        stream.set_read_timeout(within).map_err(ClientError::Io)?;
        let mut client = Self(BufReader::new(stream));
        // One that is turned away may find the door closed already; the answer says why.
        let _closed = client.0.get_mut().write_all(format!("{}\n", request.line()).as_bytes());
        Ok(client)
    }

    /// The next answer, as it came and as it reads.
    pub(super) fn answer(&mut self) -> Result<(String, Answer), ClientError> {
        let mut line = String::new();
        (&mut self.0).take(LINE_BYTES).read_line(&mut line).map_err(ClientError::Io)?;
        if !line.ends_with('\n') {
            return Err(ClientError::Cut);
        }
        let Object(answer) = serde_json::from_str(&line)?;
        Ok((line, answer))
    }
}
