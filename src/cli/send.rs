//! `send`: a producer for the shell.
//!
//! Lines go out in groups, and a group is settled before the next one is read. Of a group
//! - what is answered `unavailable`, or not at all because the connection was lost, is sent again in its order until the
//!   timeout, then once more, and given up;
//! - the last reply to each line is printed, in the order of the lines, whatever was retried;
//! - a receipt is printed behind the reply to its line.
//!
//! After a refusal the first refused line is tried alone: sent with it, the others would be refused with it, or overtake it.
//! An event that was stored without our hearing of it counts once only where it brings its own `id` and `impressionId`.

mod line;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use thiserror::Error;

use self::line::{Line, Outcome, group};
use super::operate::of_instance;
use super::{Exit, had_enough, told};
use crate::event::VisibleJson;
use crate::event::noun;
use crate::wire::object::Object;

/// What is read of the input at a time, in bytes.
const INPUT_BYTES: usize = 64 * 1_024;
/// The wait before another try, where the daemon named none.
const RETRY: Duration = Duration::from_millis(200);

/// Why `send` ends early.
#[derive(Debug, Error)]
enum SendError {
    /// The lines cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Input { path: PathBuf, source: io::Error },
    /// Nobody listens.
    #[error("{} is not served: {source}; is the daemon running? systemctl status target-notifyd tells, and -o ingest.socket=PATH asks another one", path.display())]
    Connect { path: PathBuf, source: io::Error },
    /// The socket may not be opened.
    #[error("{} may not be opened: its mode (ingest.mode) or a folder above it gives this user no permission; join the group that ls -l shows, or try sudo", .0.display())]
    Denied(PathBuf),
    /// A reply does not come.
    #[error("the daemon did not answer within the timeout; target-notifyd status tells what it does")]
    Silent,
    /// The connection was closed.
    #[error("the daemon closed the connection before it answered: it ends, or was killed")]
    Cut,
    /// The connection failed.
    #[error("the connection to the daemon failed: {0}; its log says more")]
    Io(#[source] io::Error),
    /// The daemon speaks otherwise.
    #[error("the daemon's reply cannot be read: {0}; use the same release for both")]
    Unreadable(#[from] serde_json::Error),
}

impl SendError {
    /// Whether another try may end otherwise. Who stayed silent had the whole timeout.
    fn may_pass(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Cut | Self::Io(_))
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Input { .. } => Exit::Usage,
            _ => Exit::Unreachable,
        }
    }
}

#[derive(Deserialize)]
struct Reply {
    status: String,
    #[serde(default)]
    retry_after_ms: u64,
    receipt: Option<bool>,
    error: Option<Object<Fault>>,
}

#[derive(Deserialize)]
struct Fault {
    code: String,
}

impl Reply {
    fn is_receipt(&self) -> bool {
        matches!(self.status.as_str(), "delivered" | "dead")
    }

    /// Whether it is the only one on its connection, whatever was written there.
    fn turns_away(&self) -> bool {
        let code = self.error.as_ref().map(|Object(error)| error.code.as_str());
        matches!(code, Some("too_many_connections" | "forbidden"))
    }

    /// When a line that was refused for now is to be tried again.
    fn again(&self) -> Option<Duration> {
        let wait = Some(self.retry_after_ms).filter(|wait| *wait > 0).map_or(RETRY, Duration::from_millis);
        (self.status == "unavailable").then_some(wait)
    }
}

/// How a try ended.
struct Try {
    /// The longest wait that the daemon named, where it refused a line for now.
    refused: Option<Duration>,
    /// Why not every line has a reply.
    failure: Option<SendError>,
}

/// Submits the lines of `file`, or of standard input for `-`, to the daemon at `socket`, which is that of `instance`, and prints
/// the replies.
pub(super) fn run(
    socket: &Path,
    instance: Option<&str>,
    file: &Path,
    timeout: Duration,
    receipts: bool,
) -> Exit {
    let mut sender = Sender {
        socket,
        timeout,
        receipts,
        connection: None,
        owed: 0,
        lost: 0,
        held: Vec::new(),
        refused: false,
        late: false,
        output: None,
    };
    let ended = sender.send(file);
    if let Err(error) = &ended {
        told(&of_instance(&error.to_string(), instance));
    }
    if let Some(error) = &sender.output {
        told(&format!("standard output cannot be written: {error}; sending went on all the same"));
    }
    match ended {
        Err(error) => error.exit(),
        Ok(()) if sender.output.is_some() => Exit::Disk,
        Ok(()) if sender.refused || sender.owed + sender.lost > 0 => Exit::Refused,
        Ok(()) => Exit::Success,
    }
}

struct Sender<'s> {
    socket: &'s Path,
    timeout: Duration,
    /// Whether every line asks for one.
    receipts: bool,
    connection: Option<BufReader<UnixStream>>,
    /// Receipts that are to come on this connection.
    owed: usize,
    /// Receipts that were to come on an earlier connection: nobody tells them any more.
    lost: usize,
    /// Receipts that came while a reply is held back for an earlier line.
    held: Vec<String>,
    /// Whether a line was refused or given up, or an event set aside.
    refused: bool,
    /// Whether the timeout ran out, and the daemon has taken no line since.
    late: bool,
    /// Why a reply could not be printed.
    output: Option<io::Error>,
}

impl Sender<'_> {
    /// Sends everything, and waits for the receipts.
    fn send(&mut self, file: &Path) -> Result<(), SendError> {
        let unreadable = |source| SendError::Input { path: file.to_owned(), source };
        let input: Box<dyn Read> = match file.to_str() {
            Some("-") => Box::new(io::stdin()),
            _ => Box::new(File::open(file).map_err(unreadable)?),
        };
        let mut input = BufReader::with_capacity(INPUT_BYTES, input);
        loop {
            let lines = group(&mut input, self.receipts).map_err(unreadable)?;
            if lines.is_empty() {
                break;
            }
            self.submit(lines)?;
        }
        self.wait();
        Ok(())
    }

    /// Sends the lines of a group until each has a reply that is final, or the timeout is over. Where it was over for those
    /// before, there is one try: a long file on a full queue would otherwise take the timeout for each group.
    fn submit(&mut self, mut lines: Vec<Line>) -> Result<(), SendError> {
        let until = Instant::now() + if self.late { Duration::ZERO } else { self.timeout };
        let mut alone = false;
        loop {
            let (last, reused) = (Instant::now() >= until, self.connection.is_some());
            self.late |= last;
            // At last each has its try: the first may be too large for a queue that takes the others.
            let Try { refused, failure } = self.attempt(&mut lines, alone && !last);
            self.print_settled(&mut lines);
            if lines.is_empty() {
                return Ok(());
            }
            let lasting = failure.as_ref().is_some_and(|failure| !failure.may_pass());
            // A connection that may have been closed long ago does not count as the last try.
            let stale = reused && failure.is_some();
            if lasting || (last && !stale) {
                self.give_up(lines);
                return failure.map_or(Ok(()), Err);
            }
            alone = refused.is_some() || (alone && failure.is_some());
            let wait = refused.max(failure.map(|_| RETRY)).unwrap_or_default();
            thread::park_timeout(wait.min(until.saturating_duration_since(Instant::now())));
        }
    }

    /// Sends the lines that are not settled once, or only the first of them.
    fn attempt(&mut self, lines: &mut [Line], alone: bool) -> Try {
        let most = if alone { 1 } else { lines.len() };
        let open = lines.iter_mut().filter(|line| !line.is_settled()).take(most).collect();
        let mut refused = None;
        let failure = self.exchange(open, &mut refused).err();
        if failure.is_some() {
            self.disconnect();
        }
        Try { refused, failure }
    }

    /// Writes `lines`, and reads the reply to each; `refused` is the longest wait that one of them names.
    fn exchange(
        &mut self,
        mut lines: Vec<&mut Line>,
        refused: &mut Option<Duration>,
    ) -> Result<(), SendError> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(connect(self.socket, self.timeout)?),
        };
        // From here on a line may be stored and its reply lost: an earlier one says nothing any more.
        lines.iter_mut().for_each(|line| line.outcome = Outcome::Open);
        let text: Vec<&[u8]> = lines.iter().map(|line| line.text.as_slice()).collect();
        // A connection that is one too many is answered and closed before it is read: the reply says more than the failure.
        let written = connection.get_mut().write_all(&text.concat());
        let mut turned_away = None;
        for line in lines {
            let (text, reply) = match turned_away.take() {
                Some(answer) => answer,
                None => self.reply().map_err(|error| match &written {
                    Err(failed) => SendError::Io(failed.kind().into()),
                    Ok(()) => error,
                })?,
            };
            *refused = (*refused).max(self.take(line, &text, &reply));
            turned_away = Some((text, reply)).filter(|(_, reply)| reply.turns_away());
        }
        if turned_away.is_some() {
            self.disconnect();
        }
        Ok(())
    }

    /// The next reply; receipts before it are held.
    fn reply(&mut self) -> Result<(String, Reply), SendError> {
        loop {
            let (text, reply) = read(self.connection.as_mut().ok_or(SendError::Cut)?)?;
            if !reply.is_receipt() {
                return Ok((text, reply));
            }
            self.receive(text, &reply);
        }
    }

    /// Notes what a line was answered; gives back the wait before it is sent again, if it is.
    fn take(&mut self, line: &mut Line, text: &str, reply: &Reply) -> Option<Duration> {
        let wait = reply.again();
        line.outcome = match wait {
            Some(_) => Outcome::Unavailable(text.to_owned()),
            None => Outcome::Settled(text.to_owned()),
        };
        let stored = reply.status == "queued";
        self.late &= !stored;
        self.owed += usize::from(stored && line.awaits && reply.receipt != Some(false));
        self.refused |= !stored && wait.is_none();
        wait
    }

    fn receive(&mut self, text: String, receipt: &Reply) {
        self.owed = self.owed.saturating_sub(1);
        self.refused |= receipt.status == "dead";
        self.held.push(text);
    }

    /// Prints the replies that wait for no earlier line, and takes their lines away.
    fn print_settled(&mut self, lines: &mut Vec<Line>) {
        let ready = lines.iter().take_while(|line| line.is_settled()).count();
        for line in lines.drain(..ready) {
            self.print_last(line);
        }
        // One of them may belong to a line whose reply is held back.
        if !lines.iter().any(Line::is_settled) {
            self.print_held();
        }
    }

    /// Prints the last replies of lines that are sent no more.
    fn give_up(&mut self, lines: Vec<Line>) {
        let unanswered = lines.iter().filter(|line| matches!(line.outcome, Outcome::Open)).count();
        self.refused = true;
        lines.into_iter().for_each(|line| self.print_last(line));
        self.print_held();
        if unanswered > 0 {
            told(&format!(
                "{}, and no more were read",
                counted(unanswered, "line has no reply", "lines have no reply")
            ));
        }
    }

    /// Waits for the receipts that are to come.
    fn wait(&mut self) {
        let until = Instant::now() + self.timeout;
        while let Some(connection) = self.connection.as_mut().filter(|_| self.owed > 0) {
            let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            let limited = connection.get_ref().set_read_timeout(Some(left)).map_err(SendError::Io);
            match limited.and_then(|()| read(connection)) {
                Ok((text, receipt)) => {
                    self.receive(text, &receipt);
                    self.print_held();
                }
                Err(SendError::Silent) => break,
                Err(error) => {
                    told(&error.to_string());
                    self.disconnect();
                }
            }
        }
        for (count, what) in [
            (self.owed, "did not come within the timeout"),
            (self.lost, "went with a connection that was lost"),
        ] {
            if count > 0 {
                told(&format!(
                    "{} {what}; what was queued is delivered all the same",
                    counted(count, "receipt", "receipts")
                ));
            }
        }
    }

    fn disconnect(&mut self) {
        self.connection = None;
        self.lost += std::mem::take(&mut self.owed);
    }

    fn print_last(&mut self, line: Line) {
        match line.outcome {
            Outcome::Settled(text) | Outcome::Unavailable(text) => self.print(&text),
            Outcome::Open => {}
        }
    }

    fn print_held(&mut self) {
        std::mem::take(&mut self.held).iter().for_each(|text| self.print(text));
    }

    fn print(&mut self, line: &str) {
        // What a producer wrote and what Target answered is repeated in it.
        let text = format!("{}\n", VisibleJson(line.trim_end()));
        match io::stdout().write_all(text.as_bytes()) {
            // What is left is sent all the same.
            Err(error) if !had_enough(&error) => {
                self.output.get_or_insert(error);
            }
            _ => {}
        }
    }
}

fn connect(socket: &Path, timeout: Duration) -> Result<BufReader<UnixStream>, SendError> {
    let stream = UnixStream::connect(socket).map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => SendError::Denied(socket.to_owned()),
        _ => SendError::Connect { path: socket.to_owned(), source },
    })?;
    stream.set_read_timeout(Some(timeout.max(Duration::from_secs(1)))).map_err(SendError::Io)?;
    Ok(BufReader::new(stream))
}

fn read(connection: &mut BufReader<UnixStream>) -> Result<(String, Reply), SendError> {
    let mut text = String::new();
    connection.read_line(&mut text).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => SendError::Silent,
        _ => SendError::Io(error),
    })?;
    if !text.ends_with('\n') {
        return Err(SendError::Cut);
    }
    let Object(reply) = serde_json::from_str(&text)?;
    Ok((text, reply))
}

fn counted(count: usize, one: &str, more: &str) -> String {
    format!("{count} {}", noun(count as u64, one, more))
}
