//! Producers that submit all the time, one line after the other, as the protocol asks of them.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Error, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use target_notifyd::sandbox::Sandbox;

use super::machine::until;
use crate::process::LIMIT;
use crate::support::missing;

const PRODUCERS: usize = 3;
/// How long a producer waits between two lines: some hundred a second in all.
const PACE: Duration = Duration::from_millis(5);

/// Producers at work.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    producers: Vec<JoinHandle<Result<Vec<String>, String>>>,
}

impl Load {
    /// Starts them on the socket `path`; `name` makes their ids differ from those of another load. Where the daemon is
    /// killed, a connection may be `reset`.
    pub(crate) fn start(path: &Path, name: &str, reset: bool) -> Self {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let producer = |number| {
            let (stop, count, name) = (Arc::clone(&stop), Arc::clone(&count), format!("{name}{number}"));
            let mut producer = Producer { path: path.to_owned(), stream: None, reset };
            std::thread::spawn(move || {
                let mut acknowledged = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let id = format!("{name}-{}", acknowledged.len());
                    producer.submit(&format!("{name}{}", acknowledged.len() % 7), &id)?;
                    acknowledged.push(id);
                    count.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(PACE);
                }
                Ok(acknowledged)
            })
        };
        let producers = (0..PRODUCERS).map(producer).collect();
        Self { stop, count, producers }
    }

    /// Waits until as many more lines are acknowledged.
    pub(crate) fn goes_on(&self, more: usize) {
        let wanted = self.count.load(Ordering::Relaxed) + more;
        until("the producers are served", || {
            let failed = self.producers.iter().any(JoinHandle::is_finished);
            (failed || self.count.load(Ordering::Relaxed) >= wanted).then_some(())
        });
    }

    /// Ends them. All that was acknowledged must come to `sandbox`.
    pub(crate) fn arrives(self, sandbox: &Sandbox) {
        self.stop.store(true, Ordering::Relaxed);
        let mut acknowledged = BTreeSet::new();
        for producer in self.producers {
            let ids = producer.join().expect("no panic");
            acknowledged.extend(ids.unwrap_or_else(|error| panic!("a producer met an error: {error}")));
        }
        assert!(acknowledged.len() > PRODUCERS, "{acknowledged:?}");
        until("what was acknowledged is delivered", || (missing(sandbox, &acknowledged) == 0).then_some(()));
        let totals = sandbox.totals();
        assert_eq!((totals.impressions, totals.changed), (totals.takings - totals.repeated, 0));
    }
}

/// One connection, made anew where it ended.
pub(crate) struct Producer {
    path: PathBuf,
    stream: Option<BufReader<UnixStream>>,
    reset: bool,
}

impl Producer {
    pub(crate) fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), stream: None, reset: false }
    }

    /// Submits one event until it is queued.
    ///
    /// # Errors
    /// What no producer should see: the socket cannot be connected to, the connection is reset, the line is refused.
    pub(crate) fn submit(&mut self, session: &str, id: &str) -> Result<(), String> {
        let line = format!(
            "{{\"session_id\":\"{session}\",\"type\":\"click\",\"id\":\"{id}\",\"impressionId\":\"{id}\"}}\n"
        );
        loop {
            // No reply: nobody knows, and the line is sent again.
            let Some(reply) = self.exchange(&line)? else { continue };
            match reply["status"].as_str() {
                Some("queued") => return Ok(()),
                Some("unavailable") => {
                    let wait = reply["retry_after_ms"].as_u64().unwrap_or_default();
                    std::thread::sleep(Duration::from_millis(wait));
                }
                _ => return Err(reply.to_string()),
            }
        }
    }

    fn exchange(&mut self, line: &str) -> Result<Option<Value>, String> {
        if self.stream.is_none() {
            let stream = UnixStream::connect(&self.path).map_err(|error| format!("connect: {error}"))?;
            stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
            self.stream = Some(BufReader::new(stream));
        }
        let Some(stream) = &mut self.stream else { return Ok(None) };
        let mut reply = String::new();
        let exchanged = match stream.get_mut().write_all(line.as_bytes()) {
            Ok(()) => stream.read_line(&mut reply),
            Err(error) => Err(error),
        };
        match exchanged {
            Ok(_) if reply.ends_with('\n') => {
                serde_json::from_str(&reply).map(Some).map_err(|error| format!("{reply}: {error}"))
            }
            // The end of a connection is no error. Between two lines it shows when the next one is written.
            Ok(_) => Ok(self.ended()),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(self.ended()),
            Err(error) if self.reset && error.kind() == ErrorKind::ConnectionReset => Ok(self.ended()),
            Err(error) => Err(Error::to_string(&error)),
        }
    }

    fn ended(&mut self) -> Option<Value> {
        self.stream = None;
        None
    }
}
