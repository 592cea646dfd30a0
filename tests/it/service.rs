//! The real executable under a stand-in for a service manager: notifications, the watchdog, inherited sockets, SIGHUP.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use tempfile::TempDir;

use crate::process::{LIMIT, NOBODY, command, connect, hang_up, terminate};

/// The manager's side of the notification socket, which holds ten messages and loses more: somebody always reads it.
pub(crate) struct Manager(Receiver<String>);

impl Manager {
    pub(crate) fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("a socket");
        let (sender, receiver) = channel();
        // It ends with the first message behind the test; until then it costs nothing.
        std::thread::spawn(move || {
            let mut bytes = [0; 4_096];
            while let Ok(count) = socket.recv(&mut bytes) {
                if sender.send(String::from_utf8_lossy(&bytes[..count]).into_owned()).is_err() {
                    return;
                }
            }
        });
        Self(receiver)
    }

    /// Passes over what it was told so far.
    pub(crate) fn forget(&self) {
        while self.0.try_recv().is_ok() {}
    }

    /// The next message that has `wanted` in it.
    pub(crate) fn hears(&self, wanted: &str) -> String {
        let until = Instant::now() + LIMIT;
        loop {
            // Others come all the while.
            let left = until.saturating_duration_since(Instant::now());
            let text = self.0.recv_timeout(left).unwrap_or_else(|error| panic!("no {wanted:?}: {error}"));
            if text.contains(wanted) {
                return text;
            }
        }
    }
}

/// The lines of the log as they come.
fn log(daemon: &mut Child) -> Receiver<serde_json::Value> {
    let (sender, receiver) = channel();
    let reading = BufReader::new(daemon.stderr.take().expect("a pipe")).lines();
    std::thread::spawn(move || {
        for line in reading.map_while(Result::ok) {
            let line = serde_json::from_str(&line).unwrap_or(serde_json::Value::String(line));
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn logged(log: &Receiver<serde_json::Value>, wanted: &str) -> serde_json::Value {
    let until = Instant::now() + LIMIT;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let line = log.recv_timeout(left).unwrap_or_else(|error| panic!("no {wanted:?}: {error}"));
        if line["message"].as_str().is_some_and(|message| message.starts_with(wanted)) {
            return line;
        }
    }
}

fn reply(stream: &mut UnixStream, line: &str) -> String {
    stream.write_all(line.as_bytes()).and_then(|()| stream.write_all(b"\n")).expect("the daemon reads");
    let mut reply = String::new();
    BufReader::new(stream).read_line(&mut reply).expect("the daemon answers");
    reply
}

#[test]
fn the_manager_is_told_of_the_start_the_progress_a_reload_and_the_end() {
    let folder = TempDir::new().expect("a folder");
    let manager = Manager::at(&folder.path().join("manager"));
    let mut command = command(folder.path(), NOBODY, &["run", "-o", "batch.max_events=7"]);
    command.env("NOTIFY_SOCKET", folder.path().join("manager")).env("WATCHDOG_USEC", "300000");
    let mut daemon = command.stderr(Stdio::piped()).spawn().expect("the daemon starts");
    let log = log(&mut daemon);
    // The queue may take long to open.
    manager.hears("EXTEND_TIMEOUT_USEC=15000000");
    manager.hears("STATUS=opens the queue in ");
    manager.hears("READY=1");
    // Ready means that the socket is there.
    let mut producer = UnixStream::connect(folder.path().join("notify.sock")).expect("it listens");
    manager.hears("WATCHDOG=1");
    assert!(reply(&mut producer, r#"{"session_id":"s","type":"click"}"#).contains("queued"));
    let status = manager.hears("STATUS=1 pending, the oldest for ");
    assert!(status.contains("0.0 delivered a second"), "{status}");

    let file = folder.path().join("config.toml");
    let sound = std::fs::read_to_string(&file).expect("the configuration");
    let changed = sound
        .replace("client = \"acme\"", "client = \"other\"\nlocation_hint = \"35\"")
        .replace("[ingest]\n", "[ingest]\nmax_line = \"1KiB\"\n")
        .replace("[batch]\n", "[batch]\nmax_events = 9\n");
    std::fs::write(&file, &changed).expect("the configuration");
    hang_up(&daemon);
    let reloading = manager.hears("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    manager.hears("READY=1");
    let restart = logged(&log, "keys were changed that take a restart");
    assert_eq!((&restart["level"], &restart["keys"]), (&"WARN".into(), &"target.client".into()));
    let read = logged(&log, "the configuration was read again");
    // What -o gives wins over the file as it did at the start.
    assert_eq!(read["changed"], "target.location_hint, ingest.max_line");
    // The connection is the same as before.
    let long = format!(r#"{{"session_id":"s","type":"click","id":"{}"}}"#, "x".repeat(2_000));
    assert!(reply(&mut producer, &long).contains("line_too_long"));

    std::fs::write(&file, changed.replace("linger = \"10ms\"", "linger = \"often\"\nlingr = 1"))
        .expect("a file");
    hang_up(&daemon);
    manager.hears("RELOADING=1");
    let refused = manager.hears("READY=1");
    assert!(refused.contains("STATUS=the last reload was refused"), "{refused}");
    let problem = logged(&log, "the configuration was read again and is wrong");
    let told = problem["problem"].as_str().expect("a text");
    assert!(
        problem["level"] == "ERROR" && told.contains("batch.linger") && told.contains("batch.lingr"),
        "{told}"
    );
    assert!(reply(&mut producer, &long).contains("line_too_long"), "nothing was changed");

    // Debug lines show at once, where the level is changed.
    std::fs::write(&file, changed.replace("[log]\n", "[log]\nlevel = \"debug\"\n")).expect("a file");
    hang_up(&daemon);
    manager.hears("READY=1");
    assert_eq!(logged(&log, "the configuration was read again")["changed"], "log.level");
    assert!(reply(&mut producer, "{").contains("malformed_json"));
    logged(&log, "a line was refused");

    manager.hears("WATCHDOG=1");
    assert!(terminate(&mut daemon).success());
    let stopping = manager.hears("STOPPING=1");
    assert!(stopping.contains("EXTEND_TIMEOUT_USEC=15000000"), "{stopping}");
}

/// A command that hands `socket` over as the third descriptor, with the name `name`.
fn handing_over(command: &Command, socket: OwnedFd, name: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"LISTEN_PID=$$ exec "$@" 3<&0 </dev/null"#, "sh"]).arg(command.get_program());
    shell.args(command.get_args()).stdin(Stdio::from(socket));
    shell.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", name).stderr(Stdio::piped());
    shell
}

#[test]
fn an_inherited_socket_is_served_and_outlives_the_daemon() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("inherited.sock");
    let socket = OwnedFd::from(UnixListener::bind(&path).expect("a socket"));
    let inode = std::fs::metadata(&path).expect("the socket's file").ino();
    let plain = command(folder.path(), NOBODY, &["run"]);
    let mut held = Vec::new();
    for _ in 0..2 {
        // Whoever comes while nobody serves waits, and is served by the next.
        let mut early = UnixStream::connect(&path).expect("the manager keeps the socket");
        let copy = socket.try_clone().expect("a descriptor");
        let mut daemon = handing_over(&plain, copy, "notify").spawn().expect("the daemon starts");
        let log = log(&mut daemon);
        assert!(reply(&mut early, r#"{"session_id":"s","type":"click"}"#).contains("queued"));
        let warning = logged(&log, "the inherited socket has another path than ingest.socket");
        assert_eq!(warning["level"], "WARN");
        let started = logged(&log, "the daemon takes events in");
        assert_eq!(started["socket"], path.display().to_string());
        assert!(terminate(&mut daemon).success());
        assert_eq!(std::fs::metadata(&path).expect("the socket's file").ino(), inode);
        assert!(!folder.path().join("notify.sock").exists(), "no socket of its own");
        held.push(early);
    }

    // Another name is none of ours.
    let copy = socket.try_clone().expect("a descriptor");
    let mut daemon = handing_over(&plain, copy, "other").spawn().expect("the daemon starts");
    let log = log(&mut daemon);
    assert_eq!(logged(&log, "a socket was handed over that nobody here serves")["name"], "other");
    drop(connect(folder.path()));
    assert!(terminate(&mut daemon).success());

    // A socket of another kind is an error that says so.
    let wrong = OwnedFd::from(UnixDatagram::unbound().expect("a socket"));
    let ended = handing_over(&plain, wrong, "notify").output().expect("it runs");
    let told = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.code() == Some(73) && told.contains("ListenStream="), "{:?}: {told}", ended.status);
}

#[test]
fn an_instance_has_its_own_configuration_queue_and_sockets() {
    let folder = TempDir::new().expect("a folder");
    std::fs::write(folder.path().join("shop.toml"), "[batch]\nlinger = \"often\"\n").expect("a file");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_target-notifyd"));
        command.args(arguments).env("CONFIGURATION_DIRECTORY", folder.path());
        let ended = command.output().expect("it runs");
        (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
    };
    let (code, told) = run(&["check", "--instance", "shop"]);
    assert!(code == Some(78) && told.contains("shop.toml:2: batch.linger"), "{told}");
    let (code, told) = run(&["send", "--instance", "other", "--timeout", "0s", "/proc/version"]);
    assert!(code == Some(69) && told.contains("/run/target-notifyd-other.sock"), "{code:?}: {told}");
    for name in ["", "../x", ".x", "a/b"] {
        let (code, told) = run(&["check", "--instance", name]);
        assert!(code == Some(64) && told.contains("letters, digits"), "{name:?}: {told}");
    }
}
