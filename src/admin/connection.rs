//! One connection: a request, its answers, and the next request.

use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::office::{Office, Refusal};
use super::protocol::{Answer, Done, Request};
use super::{IDLE, MAX_LINE_BYTES, WRITE_STALL, controls, dead, queue, status, tail};
use crate::event::VisibleJson;

/// Why a request has no `done`.
#[derive(Debug)]
pub(super) enum End {
    /// The peer is gone, or takes nothing.
    Gone,
    /// It is refused; the peer is told.
    Refused(Refusal),
}

impl End {
    /// The same, with what was `done` before it where its own words do not tell.
    pub(super) fn after(self, done: &str) -> Self {
        match self {
            Self::Refused(refusal @ (Refusal::ShuttingDown | Refusal::Disk(_))) => {
                Refusal::of(refusal.code(), format!("{refusal}; {done} before")).into()
            }
            end => end,
        }
    }
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What a request is answered by.
pub(super) type Answered = Result<Done, End>;

/// Where answers go.
pub(super) struct Peer {
    writing: OwnedWriteHalf,
    reading: BufReader<OwnedReadHalf>,
    /// Whether it wrote more before its answer was whole: then nobody sees any more that it is gone.
    ahead: bool,
    /// Its user.
    pub(super) user: u32,
    shutdown: CancellationToken,
}

impl Peer {
    /// Writes one line, and waits until the peer took it.
    pub(super) async fn tell(&mut self, answer: &Answer) -> Result<(), End> {
        let line = line(answer);
        let mut left = line.as_bytes();
        while !left.is_empty() {
            // A line that is cut short by the end of the daemon is one that nobody waits for any more. What the peer takes
            // at once it gets even then.
            let written = tokio::select! {
                biased;
                written = timeout(WRITE_STALL, self.writing.write(left)) => written,
                () = self.shutdown.cancelled() => return Err(End::Gone),
            };
            match written {
                Ok(Ok(count @ 1..)) => left = left.get(count..).unwrap_or_default(),
                _ => return Err(End::Gone),
            }
        }
        Ok(())
    }

    /// Whether the peer is there still, and the daemon goes on: what changes page by page goes no further otherwise. A peer that
    /// has only nothing more to ask is there.
    pub(super) async fn waits(&self) -> Result<(), End> {
        if self.shutdown.is_cancelled() {
            return Err(Refusal::ShuttingDown.into());
        }
        // What is known of the socket is known at once.
        let state = tokio::select! {
            biased;
            state = self.writing.ready(Interest::WRITABLE) => state.ok(),
            () = std::future::ready(()) => None,
        };
        if state.is_some_and(|state| state.is_write_closed()) { Err(End::Gone) } else { Ok(()) }
    }

    /// Waits until the peer is gone or the daemon ends. May be dropped.
    pub(super) async fn gone(&mut self) -> End {
        let ahead = self.ahead;
        let gone = async {
            if !ahead && let Ok([_, ..]) = self.reading.fill_buf().await {
                // What it wrote ahead stays in the buffer.
                self.ahead = true;
                std::future::pending::<()>().await;
            }
            if ahead {
                std::future::pending::<()>().await;
            }
        };
        // Both arms only wait.
        tokio::select! {
            () = gone => End::Gone,
            () = self.shutdown.cancelled() => Refusal::ShuttingDown.into(),
        }
    }

    /// The next request's line without its end; `None` where there is none.
    async fn next(&mut self) -> Option<Result<Vec<u8>, Refusal>> {
        let mut line = Vec::new();
        let mut limited = (&mut self.reading).take(MAX_LINE_BYTES + 1);
        let read = timeout(IDLE, limited.read_until(b'\n', &mut line));
        // A line that is dropped in part is one that nobody answers any more.
        let count = tokio::select! {
            read = read => read.ok()?.ok()?,
            () = self.shutdown.cancelled() => return None,
        };
        self.ahead = false;
        if count == 0 {
            return None;
        }
        if line.len() as u64 > MAX_LINE_BYTES {
            let message = format!("a request has at most {MAX_LINE_BYTES} bytes");
            return Some(Err(Refusal::of("malformed", message)));
        }
        while matches!(line.last(), Some(b'\n' | b'\r')) {
            line.pop();
        }
        Some(Ok(line))
    }
}

/// Serves a connection of `user` until it ends.
pub(super) async fn serve(stream: UnixStream, user: u32, office: Arc<Office>) {
    let (reading, writing) = stream.into_split();
    let shutdown = office.closing.clone();
    let mut peer = Peer { writing, reading: BufReader::new(reading), ahead: false, user, shutdown };
    while let Some(line) = peer.next().await {
        let (answered, last) = match line {
            Ok(line) if line.is_empty() => continue,
            Ok(line) => match Request::read(&line) {
                Ok(request) => (answer(&office, &mut peer, request).await, false),
                Err(wrong) => (Err(Refusal::of(wrong.code(), wrong.to_string()).into()), false),
            },
            // The rest of a line that is too long cannot be told from the next one.
            Err(refusal) => (Err(refusal.into()), true),
        };
        let end = match answered {
            Ok(done) => Answer::Done(done),
            Err(End::Refused(refusal)) => {
                Answer::Error { code: refusal.code().to_owned(), message: refusal.to_string() }
            }
            Err(End::Gone) => return,
        };
        if peer.tell(&end).await.is_err() || last {
            return;
        }
    }
}

async fn answer(office: &Office, peer: &mut Peer, request: Request) -> Answered {
    match request {
        Request::Status {} => status::status(office, peer).await,
        Request::Queue { limit, scan } => queue::list(office, peer, limit, scan).await,
        Request::QueueShow { session, limit } => queue::show(office, peer, &session, limit).await,
        Request::QueueHold { of, dry_run } => controls::hold(office, peer, &of, dry_run).await,
        Request::QueueRelease { of, dry_run } => controls::release(office, peer, &of, dry_run).await,
        Request::QueueRetry { of, dry_run } => controls::retry(office, peer, &of, dry_run).await,
        Request::QueueDrop { of, reason, dry_run } => {
            queue::set_aside(office, peer, &of, &reason, dry_run).await
        }
        Request::DeadList { which, limit } => dead::list(office, peer, &which, limit).await,
        Request::DeadShow { seq } => dead::show(office, peer, seq).await,
        Request::DeadRequeue { which, dry_run } => dead::requeue(office, peer, &which, dry_run).await,
        Request::DeadDelete { which, dry_run } => dead::delete(office, peer, &which, dry_run).await,
        Request::DeadExport { which } => dead::export(office, peer, &which).await,
        Request::Pause { host, for_ms, reason } => {
            controls::pause(office, peer, host.as_deref(), for_ms, &reason).await
        }
        Request::Resume { host } => controls::resume(office, peer, host.as_deref()).await,
        Request::Flush { wait } => controls::flush(office, peer, wait).await,
        Request::Tail { session, outcomes, limit } => {
            tail::tail(office, peer, session.as_deref(), &outcomes, limit).await
        }
    }
}

/// Turns a connection away; a new socket's empty buffer takes the line at once.
pub(super) fn refuse(stream: &UnixStream, code: &str, message: &str) {
    let answer = Answer::Error { code: code.to_owned(), message: message.to_owned() };
    // Who does not hear it sees the end of the file.
    let _gone = stream.try_write(line(&answer).as_bytes());
}

/// An answer as a line. What a terminal does not show as it stands is escaped beyond what JSON escapes by itself.
fn line(answer: &Answer) -> String {
    format!("{}\n", VisibleJson(&serde_json::to_string(answer).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::is_unseen;

    #[test]
    fn a_line_is_one_line_of_json_without_control_characters() {
        let told =
            Answer::Submission { seq: 1, line: "a\n\u{1b}\u{9b}\u{7f}\u{202e}".to_owned(), refused: None };
        let line = line(&told);
        assert!(line.ends_with('\n') && !line.trim_end().chars().any(is_unseen), "{line:?}");
        assert_eq!(serde_json::from_str::<Answer>(&line).unwrap(), told);
    }

    #[tokio::test]
    async fn a_peer_that_closed_waits_no_more_and_one_that_asks_no_more_does() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (reading, writing) = ours.into_split();
        let shutdown = CancellationToken::new();
        let mut peer = Peer {
            writing,
            reading: BufReader::new(reading),
            ahead: false,
            user: 0,
            shutdown: shutdown.clone(),
        };
        assert!(peer.waits().await.is_ok());
        let (mut their_reading, mut their_writing) = theirs.into_split();
        their_writing.shutdown().await.unwrap();
        // What comes of it is known here once the end is read.
        assert_eq!(peer.reading.read_u8().await.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
        assert!(peer.waits().await.is_ok());
        peer.tell(&Answer::Done(Done::default())).await.unwrap();
        assert_eq!(their_reading.read_u8().await.unwrap(), b'{');
        drop((their_reading, their_writing));
        let ended = loop {
            match peer.waits().await {
                Ok(()) => tokio::task::yield_now().await,
                Err(end) => break end,
            }
        };
        assert!(matches!(ended, End::Gone), "{ended:?}");
        shutdown.cancel();
        let ended = peer.waits().await.unwrap_err().after("3 were deleted");
        let End::Refused(refusal) = ended else { panic!("{ended:?}") };
        let told = (refusal.code(), refusal.to_string());
        assert_eq!(told, ("shutting_down", "the daemon is ending; 3 were deleted before".to_owned()));
    }
}
