//! A producer that never gives up: what has no reply when its connection ends is sent again.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::scenario::Line;
use crate::trial::{TrialError, system};

/// The wait before a daemon that is not there is looked for again.
const RECONNECT: Duration = Duration::from_millis(20);

/// How far producers go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// To the half of their lines.
    Half,
    /// To the end.
    Free,
}

/// What producers know in the end.
#[derive(Debug, Default)]
pub(super) struct Submitted {
    /// Different lines.
    pub(super) lines: u64,
    /// Lines sent again, because no reply had come.
    pub(super) again: u64,
    /// The ids that were acknowledged.
    pub(super) acknowledged: BTreeSet<String>,
    /// Lines that were refused, by code.
    pub(super) refused: BTreeMap<String, u64>,
}

impl Submitted {
    pub(super) fn add(&mut self, other: Self) {
        self.lines += other.lines;
        self.again += other.again;
        self.acknowledged.extend(other.acknowledged);
        for (code, count) in other.refused {
            *self.refused.entry(code).or_default() += count;
        }
    }

    #[expect(clippy::indexing_slicing, reason = "a JSON value that has no such member gives null")]
    fn note(&mut self, line: &Line, reply: &str) -> Result<(), TrialError> {
        let reply: Value =
            serde_json::from_str(reply).map_err(|error| system("a reply is no JSON")(error.into()))?;
        match (reply["status"].as_str(), &line.id) {
            (Some("queued"), Some(id)) => {
                self.acknowledged.insert(id.clone());
            }
            _ => {
                let code = reply["error"]["code"].as_str().unwrap_or("none").to_owned();
                *self.refused.entry(code).or_default() += 1;
            }
        }
        Ok(())
    }
}

/// A few lines with their replies.
pub(super) struct Exchange {
    pub(super) lines: Vec<String>,
    pub(super) replies: Vec<String>,
    pub(super) submitted: Submitted,
}

/// Submits a few lines, as a first producer.
pub(super) async fn exchange(socket: &Path, lines: &[Line]) -> Result<Exchange, TrialError> {
    let (mut replies, mut submitted) = (Vec::new(), Submitted::default());
    let mut stream = BufReader::new(connect(socket).await);
    for line in lines {
        let text = format!("{}\n", line.text);
        stream.get_mut().write_all(text.as_bytes()).await.map_err(system("the daemon does not read"))?;
        let mut reply = String::new();
        stream.read_line(&mut reply).await.map_err(system("the daemon does not answer"))?;
        submitted.lines += 1;
        submitted.note(line, &reply)?;
        replies.push(reply.trim_end().to_owned());
    }
    Ok(Exchange { lines: lines.iter().map(|line| line.text.clone()).collect(), replies, submitted })
}

/// Submits `lines` without waiting for replies, over as many connections as it takes.
pub(super) async fn run(
    socket: PathBuf,
    lines: Vec<Line>,
    mut pace: watch::Receiver<Pace>,
    acknowledged: Arc<watch::Sender<u64>>,
) -> Result<Submitted, TrialError> {
    let mut submitted = Submitted { lines: lines.len() as u64, ..Submitted::default() };
    let (mut answered, mut furthest) = (0, 0);
    while answered < lines.len() {
        let (reading, mut writing) = connect(&socket).await.into_split();
        let rest = lines.get(answered..).unwrap_or_default();
        let half = (lines.len() / 2).saturating_sub(answered);
        let (mut written, mut replied) = (0, 0);
        {
            let writes = async {
                for (position, line) in rest.iter().enumerate() {
                    if position >= half {
                        // The sender outlives the producers; were it gone, there would be nothing to wait for.
                        drop(pace.wait_for(|pace| *pace == Pace::Free).await);
                    }
                    written = position + 1;
                    // A connection that ended is seen by the reader, too.
                    if writing.write_all(format!("{}\n", line.text).as_bytes()).await.is_err() {
                        break;
                    }
                }
                Ok::<_, TrialError>(())
            };
            let reads = async {
                let mut replies = BufReader::new(reading).lines();
                for line in rest {
                    // An end of the connection, in order or not, means: what has no reply is sent again.
                    let Ok(Some(reply)) = replies.next_line().await else { break };
                    submitted.note(line, &reply)?;
                    replied += 1;
                    acknowledged.send_modify(|count| *count += 1);
                }
                Ok::<_, TrialError>(())
            };
            let (mut writes, mut reads) = (std::pin::pin!(writes), std::pin::pin!(reads));
            // When the reader ends the connection is over, and the writer may be dropped in the middle of a line.
            tokio::select! {
                done = &mut reads => done?,
                done = &mut writes => {
                    done?;
                    reads.await?;
                }
            }
        }
        let again = furthest.max(answered) - answered;
        submitted.again += again.min(written) as u64;
        furthest = furthest.max(answered + written);
        answered += replied;
    }
    Ok(submitted)
}

async fn connect(socket: &Path) -> UnixStream {
    loop {
        match UnixStream::connect(socket).await {
            Ok(stream) => return stream,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => std::future::pending().await,
            // The daemon is starting.
            Err(_) => tokio::time::sleep(RECONNECT).await,
        }
    }
}
