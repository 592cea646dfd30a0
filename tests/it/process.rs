//! The real executable in a process of its own.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Once, mpsc};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::extent::extent;

/// No start and no end takes as long.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// Nobody listens there: nothing is delivered, everything is kept.
pub(crate) const NOBODY: &str = "http://127.0.0.1:9";

/// Ends the tests, with a failure, where one of them waits for what never comes: all of them take less by far.
fn watch_over_the_tests() {
    static WATCH: Once = Once::new();
    WATCH.call_once(|| {
        let limit = Duration::from_secs(extent(30 * 60, 12 * 3_600));
        std::thread::spawn(move || {
            std::thread::sleep(limit);
            let mut told = std::io::stderr();
            // Whether it can be told or not, they end.
            let _written =
                writeln!(told, "the tests do not end within {limit:?}: those without a result hang");
            std::process::abort();
        });
    });
}

/// A command of the executable, configured for `folder` and `endpoint`; what `arguments` set wins.
pub(crate) fn command(folder: &Path, endpoint: &str, arguments: &[&str]) -> Command {
    watch_over_the_tests();
    let file = folder.join("config.toml");
    let (socket, queue) = (folder.join("notify.sock"), folder.join("queue"));
    let text = format!(
        r#"
[target]
client = "acme"
organization_id = "0DD9@AdobeOrg"
endpoint = "{endpoint}"
[ingest]
socket = "{}"
[queue]
path = "{}"
min_free = "0B"
reserve = "0B"
[batch]
linger = "10ms"
[retry]
initial = "10ms"
max = "100ms"
[delivery]
breaker_open = "10ms"
breaker_max = "50ms"
[log]
format = "json"
[admin]
socket = "{}"
"#,
        socket.display(),
        queue.display(),
        folder.join("admin.sock").display(),
    );
    std::fs::write(&file, text).expect("the configuration can be written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_target-notifyd"));
    command.args(arguments).arg("--config").arg(file);
    command
}

pub(crate) fn connect(folder: &Path) -> UnixStream {
    let until = Instant::now() + LIMIT;
    loop {
        match UnixStream::connect(folder.join("notify.sock")) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < until, "the daemon does not come up: {error}"),
        }
        std::thread::yield_now();
    }
}

fn signal(daemon: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(daemon.id()).expect("a process id"));
    kill(pid, signal).expect("the daemon is there");
}

/// SIGHUP.
pub(crate) fn hang_up(daemon: &Child) {
    signal(daemon, Signal::SIGHUP);
}

/// SIGTERM, and the end in order.
pub(crate) fn terminate(daemon: &mut Child) -> ExitStatus {
    signal(daemon, Signal::SIGTERM);
    end(daemon)
}

/// Waits for the end of a process.
pub(crate) fn end(child: &mut Child) -> ExitStatus {
    let until = Instant::now() + LIMIT;
    loop {
        if let Some(status) = child.try_wait().expect("a process") {
            return status;
        }
        if Instant::now() > until {
            // It would outlive the test, and hold what the test prints open.
            child.kill().expect("the process is there");
            panic!("the process did not end within {LIMIT:?}");
        }
        // Nobody tells of the end of another process.
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What a daemon logs, as it comes.
pub(crate) struct Log {
    lines: mpsc::Receiver<Value>,
    seen: Vec<Value>,
}

impl Log {
    /// Reads the log of a daemon whose standard error is a pipe.
    pub(crate) fn of(daemon: &mut Child) -> Self {
        let told = BufReader::new(daemon.stderr.take().expect("a pipe"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in told.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { lines, seen: Vec::new() }
    }

    /// The first line that is as `wanted`, once it is there.
    pub(crate) fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        self.find(wanted).unwrap_or_else(|| panic!("the line never came: {:#?}", self.seen))
    }

    /// The same, or `None` where the daemon ends without it.
    pub(crate) fn find(&mut self, wanted: impl Fn(&Value) -> bool) -> Option<Value> {
        let (mut from, until) = (0, Instant::now() + LIMIT);
        loop {
            if let Some(found) = self.seen[from..].iter().find(|line| wanted(line)) {
                return Some(found.clone());
            }
            from = self.seen.len();
            // One that says other things all the while is waited for no longer.
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => return None,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("the line never came: {:#?}", self.seen),
            }
        }
    }

    /// The first line whose sentence begins so.
    pub(crate) fn says(&mut self, sentence: &str) -> Value {
        self.until(|line| message(line).starts_with(sentence))
    }

    /// Everything, once the daemon has ended.
    pub(crate) fn all(mut self) -> Vec<Value> {
        self.seen.extend(self.lines.iter());
        self.seen
    }
}

/// The sentence of a line.
pub(crate) fn message(line: &Value) -> &str {
    line["message"].as_str().unwrap_or_default()
}

/// Runs a command whose output cannot be written, which is told and a failure, and one whose reader has had enough, which is none.
pub(crate) fn cannot_write(command: impl Fn() -> Command) {
    let to = |output: Stdio| {
        let started = command().stdout(output).stderr(Stdio::piped()).spawn();
        let ended = started.expect("it starts").wait_with_output().expect("it ends");
        (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
    };
    let full = File::options().write(true).open("/dev/full").expect("the device is there");
    let (code, told) = to(full.into());
    assert!(code == Some(74) && told.contains("standard output cannot be written"), "{code:?}: {told}");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let (code, told) = to(writer.into());
    assert!(code == Some(0) && !told.contains("cannot be written"), "{:?} {code:?}: {told}", command());
}
