//! `send`: a producer for the shell.
//!
//! Lines go out in groups, and a group is answered whole before the next one goes. What is answered `unavailable`, or not
//! at all because the connection was lost, is sent again until the timeout; an event that was stored without our hearing of
//! it counts once only where it brings its own `id` and `impressionId`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Exit, told};

/// The most lines that wait for their replies.
const GROUP_LINES: usize = 256;
/// The longest line that is read, in bytes; no daemon takes a longer one.
const LINE_BYTES: u64 = 64 * 1_024 * 1_024;
/// What is read of the input at a time, in bytes.
const INPUT_BYTES: usize = 64 * 1_024;
/// The wait before a new connection, where the daemon named none.
const RECONNECT: Duration = Duration::from_millis(200);

#[derive(Deserialize)]
struct Reply {
    status: String,
    #[serde(default)]
    retry_after_ms: u64,
    receipt: Option<bool>,
}

impl Reply {
    fn is_receipt(&self) -> bool {
        matches!(self.status.as_str(), "delivered" | "dead")
    }
}

/// Submits the lines of `file`, or of standard input for `-`, and prints the replies.
pub(super) fn run(socket: &Path, file: &Path, timeout: Duration, receipts: bool) -> Exit {
    let input: Box<dyn Read> = match file.to_str() {
        Some("-") => Box::new(io::stdin()),
        _ => match File::open(file) {
            Ok(file) => Box::new(file),
            Err(error) => {
                told(&format!("{} cannot be read: {error}", file.display()));
                return Exit::Usage;
            }
        },
    };
    let mut input = BufReader::with_capacity(INPUT_BYTES, input);
    let mut sender = Sender { socket, timeout, receipts, owed: 0, connection: None, refused: false };
    loop {
        let group = match group(&mut input) {
            Ok(group) if group.is_empty() => break,
            Ok(group) => group,
            Err(error) => {
                told(&format!("{} cannot be read: {error}", file.display()));
                return Exit::Refused;
            }
        };
        if let Err(error) = sender.submit(group) {
            told(&format!("{} is not served: {error}; is the daemon running?", socket.display()));
            return Exit::Unreachable;
        }
    }
    if let Err(error) = sender.wait() {
        told(&format!(
            "{} receipts did not come within the timeout: {error}; the events are stored",
            sender.owed
        ));
        return Exit::Refused;
    }
    if sender.refused { Exit::Refused } else { Exit::Success }
}

/// The next lines, each with its end.
fn group(input: &mut BufReader<Box<dyn Read>>) -> io::Result<Vec<Vec<u8>>> {
    let mut lines = Vec::new();
    while lines.len() < GROUP_LINES {
        let mut line = Vec::new();
        if input.take(LINE_BYTES).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        // The daemon does not answer an empty line.
        if !line.iter().all(|byte| matches!(byte, b'\n' | b'\r')) {
            lines.push(line);
        } else if lines.is_empty() {
            continue;
        }
        // A terminal, or a slow pipe, is not waited for with lines at hand.
        if !input.buffer().contains(&b'\n') {
            break;
        }
    }
    Ok(lines)
}

struct Sender<'s> {
    socket: &'s Path,
    timeout: Duration,
    /// Whether every line asks for one.
    receipts: bool,
    /// Receipts that are to come.
    owed: usize,
    connection: Option<BufReader<UnixStream>>,
    /// Whether a line was refused, or given up.
    refused: bool,
}

impl Sender<'_> {
    /// Sends `lines` until each has a reply that is final, or the timeout is over.
    fn submit(&mut self, mut lines: Vec<Vec<u8>>) -> io::Result<()> {
        let until = Instant::now() + self.timeout;
        while !lines.is_empty() {
            let (again, wait, failure) = self.exchange(&lines, Instant::now() >= until);
            lines = again;
            if lines.is_empty() {
                break;
            }
            if Instant::now() + wait >= until {
                if let Some(failure) = failure {
                    return Err(failure);
                }
                // The last replies were printed; what they refuse stays with the caller.
                self.refused = true;
                return Ok(());
            }
            thread::park_timeout(wait);
        }
        Ok(())
    }

    /// Sends `lines` once. Gives back those to be sent again, the wait before, and why the connection was lost if it was.
    fn exchange(&mut self, lines: &[Vec<u8>], last: bool) -> (Vec<Vec<u8>>, Duration, Option<io::Error>) {
        let (mut again, mut wait, mut answered) = (Vec::new(), Duration::ZERO, 0);
        let result = self.replies(lines, |line, text, reply| {
            answered += 1;
            match reply.status.as_str() {
                "unavailable" if !last => {
                    wait = wait.max(Duration::from_millis(reply.retry_after_ms));
                    again.push(line.to_vec());
                    false
                }
                status => {
                    // A closed pipe behind us is no reason to stop sending.
                    let _closed = io::stdout().write_all(text.as_bytes());
                    status != "queued"
                }
            }
        });
        let failure = result.err().inspect(|_| self.connection = None);
        if failure.is_some() {
            wait = wait.max(RECONNECT);
            again.extend(lines.iter().skip(answered).cloned());
        }
        (again, wait, failure)
    }

    /// Writes `lines`, and hands each reply to `take`, which says whether it is a refusal.
    fn replies(
        &mut self,
        lines: &[Vec<u8>],
        mut take: impl FnMut(&[u8], &str, &Reply) -> bool,
    ) -> io::Result<()> {
        let socket = self.socket;
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => {
                let stream = UnixStream::connect(socket)?;
                stream.set_read_timeout(Some(self.timeout.max(Duration::from_secs(1))))?;
                none.insert(BufReader::new(stream))
            }
        };
        let asking = |line: &Vec<u8>| if self.receipts { asking(line) } else { line.clone() };
        // A connection that is one too many is answered and closed before it is read: the reply says more than the failure.
        let written = connection.get_mut().write_all(&lines.iter().map(asking).collect::<Vec<_>>().concat());
        let mut left = lines.iter();
        let mut next = left.next();
        while let Some(line) = next {
            let (text, reply) = read(connection)
                .map_err(|error| written.as_ref().err().map_or(error, |failed| failed.kind().into()))?;
            if reply.is_receipt() {
                self.owed = self.owed.saturating_sub(1);
                self.refused |= print(&text, &reply);
                continue;
            }
            let wanted = self.receipts && reply.status == "queued" && reply.receipt != Some(false);
            self.owed += usize::from(wanted);
            self.refused |= take(line, &text, &reply);
            next = left.next();
        }
        Ok(())
    }

    /// Waits for the receipts that are to come.
    fn wait(&mut self) -> io::Result<()> {
        let until = Instant::now() + self.timeout;
        while self.owed > 0 {
            let Some(connection) = &mut self.connection else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            let left = until.saturating_duration_since(Instant::now());
            connection.get_ref().set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            let (text, reply) = read(connection)?;
            self.owed -= 1;
            self.refused |= print(&text, &reply);
        }
        Ok(())
    }
}

fn read(connection: &mut BufReader<UnixStream>) -> io::Result<(String, Reply)> {
    let mut text = String::new();
    if connection.read_line(&mut text)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let reply = serde_json::from_str(&text)?;
    Ok((text, reply))
}

/// Prints a receipt; says whether it tells of a dead letter.
fn print(text: &str, receipt: &Reply) -> bool {
    // A closed pipe behind us is no reason to stop sending.
    let _closed = io::stdout().write_all(text.as_bytes());
    receipt.status == "dead"
}

/// The line with the wish for a receipt, unless it says something of that itself, or is no JSON object.
fn asking(line: &[u8]) -> Vec<u8> {
    let object: Option<BTreeMap<String, IgnoredAny>> = serde_json::from_slice(line).ok();
    let place = line.iter().position(|byte| *byte == b'{');
    match (object, place.and_then(|at| line.split_at_checked(at + 1))) {
        (Some(object), Some((start, rest))) if !object.contains_key("receipt") && !object.is_empty() => {
            [start, b"\"receipt\":true,", rest].concat()
        }
        _ => line.to_vec(),
    }
}
