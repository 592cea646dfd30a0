//! A run of the real executable whose steps on the disk are recorded.

use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::check::line;
use super::preload::preload;
use crate::process::{LIMIT, command, terminate};

/// A folder with a configuration, a queue and a record.
pub(crate) struct Run {
    folder: TempDir,
    disk: PathBuf,
    log: PathBuf,
    endpoint: String,
}

/// The executable, as it runs.
pub(crate) struct Daemon {
    child: Child,
    /// What it logged.
    pub(crate) log: PathBuf,
}

impl Run {
    pub(crate) fn new(endpoint: &str) -> Self {
        let folder = TempDir::new().expect("a folder");
        let disk = folder.path().canonicalize().expect("a folder").join("disk");
        std::fs::create_dir(&disk).expect("a folder");
        let log = folder.path().join("record");
        Self { folder, disk, log, endpoint: endpoint.to_owned() }
    }

    /// The folder that stands for the disk; the queue lies in it.
    pub(crate) fn disk(&self) -> &Path {
        &self.disk
    }

    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// Starts the executable, with a fault (see `interpose.c`).
    pub(crate) fn start(&self, fault: &str) -> Daemon {
        self.start_with(fault, "")
    }

    /// Starts it in a build that rehearses a migration, or dies at a failpoint: with `variable` set to `1`.
    pub(crate) fn start_with(&self, fault: &str, variable: &str) -> Daemon {
        let queue = format!("queue.path={}", self.disk.join("queue").display());
        let arguments = ["run", "-o", &queue, "-o", "queue.min_free=2MiB", "-o", "queue.reserve=1MiB"];
        let mut command = command(self.folder.path(), &self.endpoint, &arguments);
        // So small a queue has a small journal, which moves on into the engine.
        command.args(["-o", "defaults.time_offset=false", "-o", "queue.max_bytes=8MiB"]);
        if !variable.is_empty() {
            command.env(variable, "1");
        }
        preload(&mut command, &self.disk, &self.log, fault);
        let log = self.folder.path().join("stderr");
        let stderr = std::fs::File::options().create(true).append(true).open(&log).expect("a log");
        Daemon { child: command.stderr(Stdio::from(stderr)).spawn().expect("the daemon starts"), log }
    }

    /// A connection, as soon as there is one.
    fn connect(&self) -> UnixStream {
        let until = Instant::now() + LIMIT;
        loop {
            match self.try_connect() {
                Some(stream) => return stream,
                None => assert!(Instant::now() < until, "the daemon does not come up"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn try_connect(&self) -> Option<UnixStream> {
        let stream = UnixStream::connect(self.folder.path().join("notify.sock")).ok()?;
        stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
        Some(stream)
    }

    /// Submits lines over so many connections, never more than `window` ahead of the replies; all are taken in.
    pub(crate) fn submit(&self, lines: Range<u64>, connections: u64, window: u64) {
        std::thread::scope(|scope| {
            for connection in 0..connections {
                let own = lines.clone().filter(move |number| number % connections == connection);
                scope.spawn(move || {
                    let stream = self.connect();
                    let mut replies = BufReader::new(stream.try_clone().expect("a socket")).lines();
                    let mut stream = &stream;
                    let mut ahead = 0;
                    for number in own {
                        stream.write_all((line(number) + "\n").as_bytes()).expect("the daemon reads");
                        ahead += 1;
                        // Windows of different lengths make commits of different sizes.
                        if ahead > number % window {
                            read(&mut replies, &mut ahead);
                        }
                    }
                    read(&mut replies, &mut ahead);
                });
            }
        });
    }

    /// Submits lines over so many connections without waiting, and waits for the receipt of each.
    pub(crate) fn receipts(&self, lines: Range<u64>, connections: u64) {
        std::thread::scope(|scope| {
            for connection in 0..connections {
                let own: Vec<u64> =
                    lines.clone().filter(|number| number % connections == connection).collect();
                scope.spawn(move || {
                    let stream = self.connect();
                    let mut replies = BufReader::new(stream.try_clone().expect("a socket")).lines();
                    let count = own.len();
                    scope.spawn(move || {
                        let mut stream = &stream;
                        for number in own {
                            stream.write_all((line(number) + "\n").as_bytes()).expect("the daemon reads");
                        }
                    });
                    let mut done = 0;
                    while done < count {
                        let line = replies.next().expect("a receipt").expect("a receipt");
                        assert!(!line.contains(r#""status":"rejected""#), "{line}");
                        done += usize::from(line.contains(r#""status":"delivered""#));
                    }
                });
            }
        });
    }

    /// Submits lines until the daemon ends, if it ever is there; says how many were acknowledged.
    pub(crate) fn try_submit(&self, lines: Range<u64>, daemon: &mut Daemon) -> u64 {
        let until = Instant::now() + LIMIT;
        let stream = loop {
            assert!(Instant::now() < until, "the daemon neither comes up nor ends: {}", daemon.said());
            match self.try_connect() {
                Some(stream) => break stream,
                None if daemon.has_ended() => return 0,
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let mut replies = BufReader::new(stream.try_clone().expect("a socket")).lines();
        let mut stream = &stream;
        let mut acknowledged = 0;
        for number in lines {
            if stream.write_all((line(number) + "\n").as_bytes()).is_err() {
                break;
            }
            match replies.next() {
                Some(Ok(reply)) => acknowledged += u64::from(reply.contains(r#""status":"queued""#)),
                _ => break,
            }
        }
        acknowledged
    }
}

/// Reads as many replies as are owed.
fn read(replies: &mut impl Iterator<Item = std::io::Result<String>>, ahead: &mut u64) {
    while *ahead > 0 {
        let line = replies.next().expect("a reply").expect("a reply");
        assert!(
            !line.contains(r#""status":"rejected""#) && !line.contains(r#""status":"unavailable""#),
            "{line}"
        );
        *ahead -= u64::from(line.contains(r#""status":"queued""#));
    }
}

impl Daemon {
    fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a process").is_some()
    }

    /// Ends it in order.
    pub(crate) fn terminate(&mut self) {
        let status = terminate(&mut self.child);
        assert!(status.success(), "{status}: {}", self.said());
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let until = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().expect("a process") {
                return status;
            }
            assert!(Instant::now() < until, "the daemon does not end: {}", self.said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What all starts of this run logged.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(&self.log).expect("a log")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // A test that failed leaves no process behind; one that has ended is no error.
        let _ended = self.child.kill();
        let _waited = self.child.wait();
    }
}
