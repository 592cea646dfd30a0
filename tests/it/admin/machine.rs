//! A daemon and a stand-in for Target, whom the operator's commands ask.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Child;
use std::time::Instant;

use serde_json::{Value, json};
use target_notifyd::sandbox::{self, Faults, Mark, Sandbox};
use tempfile::TempDir;

use crate::process::{LIMIT, command, connect, hang_up, terminate};

/// A daemon on a folder of its own, and a stand-in for Target.
pub(super) struct Machine {
    pub(super) folder: TempDir,
    pub(super) runtime: tokio::runtime::Runtime,
    pub(super) sandbox: Option<Sandbox>,
    pub(super) endpoint: String,
    pub(super) daemon: Child,
}

impl Machine {
    pub(super) fn start(faults: Faults, more: &[&str]) -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let sandbox = {
            let _inside = runtime.enter();
            Sandbox::start(sandbox::Settings::default()).expect("the sandbox listens")
        };
        sandbox.faults(faults);
        let folder = TempDir::new().expect("a folder");
        let endpoint = format!("http://{}", sandbox.address());
        let daemon = daemon(folder.path(), &endpoint, more);
        Self { folder, runtime, sandbox: Some(sandbox), endpoint, daemon }
    }

    /// Has the configuration read again, with these settings in the place of those that `command` gives, each with its section
    /// and its name; returns once they are in force.
    pub(super) fn reload(&self, settings: &[(&str, &str, &str)]) {
        let (file, log) = (self.folder.path().join("config.toml"), self.folder.path().join("log"));
        let read_again = || fs::read_to_string(&log).expect("a log").matches("\"reloaded\"").count();
        // Written anew: what an earlier reload set is gone.
        let _unused = command(self.folder.path(), &self.endpoint, &[]);
        let mut text = fs::read_to_string(&file).expect("a configuration");
        for (section, name, value) in settings {
            let other = |line: &&str| !line.starts_with(&format!("{name} = "));
            text = text.lines().filter(other).map(|line| format!("{line}\n")).collect();
            let section = format!("[{section}]\n");
            text = text.replace(&section, &format!("{section}{name} = {value}\n"));
        }
        fs::write(file, text).expect("a configuration");
        let (before, until) = (read_again(), Instant::now() + LIMIT);
        hang_up(&self.daemon);
        while read_again() == before {
            assert!(Instant::now() < until, "{settings:?} is not read again");
            std::thread::yield_now();
        }
    }

    pub(super) fn heal(&self) {
        self.sandbox.as_ref().expect("it runs").faults(Faults::default());
    }

    /// The ids that Target took, each with its impression and how often.
    pub(super) fn taken(&self) -> Vec<(String, Option<Mark>, u32)> {
        let ledger = self.sandbox.as_ref().expect("it runs").ledger();
        ledger.records().map(|record| (record.id.to_owned(), record.impression, record.times)).collect()
    }

    pub(super) fn kill_and_start(&mut self, more: &[&str]) {
        self.daemon.kill().expect("the daemon is there");
        self.daemon.wait().expect("the daemon is gone");
        self.daemon = daemon(self.folder.path(), &self.endpoint, more);
    }

    /// Submits clicks with these sessions and ids.
    pub(super) fn submit(&self, events: &[(&str, &str)]) {
        let mut stream = connect(self.folder.path());
        let mut replies = BufReader::new(stream.try_clone().expect("a socket can be shared")).lines();
        // A producer that writes much and reads nothing is closed.
        for some in events.chunks(100) {
            for (session, id) in some {
                let event = json!({
                    "session_id": session, "id": id, "type": "click", "impressionId": format!("i{id}")
                });
                stream.write_all(format!("{event}\n").as_bytes()).expect("the daemon reads");
            }
            for _ in some {
                let reply = replies.next().expect("a reply").expect("text");
                assert!(reply.contains("queued"), "{reply}");
            }
        }
    }

    /// What a command answers: its exit code, standard output and standard error.
    pub(super) fn command(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = command(self.folder.path(), &self.endpoint, arguments).output().expect("it runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (output.status.code().expect("no signal"), text(output.stdout), text(output.stderr))
    }

    /// What a command that works prints.
    pub(super) fn told(&self, arguments: &[&str]) -> String {
        let (code, out, err) = self.command(arguments);
        assert_eq!(code, 0, "{arguments:?}: {out}{err}");
        out
    }

    /// The JSON lines of a command that works.
    pub(super) fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let out = self.told(&[arguments, &["--json"]].concat());
        let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines.last().expect("a line")["type"], "done", "{out}");
        lines
    }

    pub(super) fn status(&self) -> Value {
        self.json(&["status"]).swap_remove(0)
    }

    /// Waits until the status is as `wanted`.
    pub(super) fn until(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + LIMIT;
        loop {
            let status = self.status();
            if wanted(&status) {
                return status;
            }
            assert!(Instant::now() < until, "it does not come: {status}");
        }
    }

    /// Waits until the scheduler knows of so many events: it hears of them after their producer.
    pub(super) fn until_known(&self, events: u64) {
        let until = Instant::now() + LIMIT;
        let known = |lines: &[Value]| lines.iter().filter_map(|line| line["events"].as_u64()).sum::<u64>();
        while known(&self.json(&["queue"])) != events {
            assert!(Instant::now() < until, "they do not come");
        }
    }

    pub(super) fn stop(self) {
        self.log_to_the_end();
    }

    /// Ends it in order; all that its starts logged.
    pub(super) fn log_to_the_end(mut self) -> String {
        assert!(terminate(&mut self.daemon).success());
        self.runtime.block_on(self.sandbox.take().expect("it runs").stop());
        fs::read_to_string(self.folder.path().join("log")).expect("a log")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Only after a panic it is still there.
        let _ended = self.daemon.kill();
        let _ended = self.daemon.wait();
    }
}

fn daemon(folder: &Path, endpoint: &str, more: &[&str]) -> Child {
    let log = File::options().create(true).append(true).open(folder.join("log")).expect("a log");
    let mut command = command(folder, endpoint, &[&["run"], more].concat());
    let child = command.stderr(log).spawn().expect("the daemon starts");
    let until = Instant::now() + LIMIT;
    // A socket that a kill left behind refuses.
    while UnixStream::connect(folder.join("admin.sock")).is_err() {
        assert!(Instant::now() < until, "the admin socket does not come");
        std::thread::yield_now();
    }
    child
}

pub(super) fn refusing(status: u16) -> Faults {
    Faults { refuse_all: Some(status), ..Faults::default() }
}

/// An hour of backoff, and no breaker.
pub(super) const SLOW: [&str; 6] =
    ["-o", "retry.initial=1h", "-o", "retry.max=1h", "-o", "delivery.breaker_failures=1000"];
