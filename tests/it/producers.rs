//! Producers who misbehave, against the real executable: the others go on being served, within a stated memory.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;
use target_notifyd::sandbox::{self, Sandbox};
use tempfile::TempDir;

use crate::process::{LIMIT, Log, NOBODY, command, connect, message, terminate};
use crate::support::display;

/// What the daemon may hold with this crowd connected, as docs/tests.md says.
const MOST_MEMORY: u64 = 256 << 20;
/// What the crowd takes of open files on either side, and what else is open.
const CROWD_FILES: u64 = 4_096;

/// A producer who does as he should: each line has its reply.
fn served(folder: &Path, name: &str, events: usize) {
    served_on(&connect(folder), name, events);
}

fn served_on(stream: &UnixStream, name: &str, events: usize) {
    stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
    let mut replies = BufReader::new(stream.try_clone().expect("a handle")).lines();
    for event in 0..events {
        writeln!(&mut &*stream, "{}", display(name, &event.to_string())).expect("the daemon reads");
        let reply = replies.next().expect("a reply").expect("a reply");
        let reply: Value = serde_json::from_str(&reply).expect("a reply is JSON");
        assert_eq!(reply["status"], "queued", "{reply}");
    }
}

/// Writes lines without reading a reply, until the daemon reads no more.
fn flood(stream: &UnixStream, line: &str) -> usize {
    stream.set_write_timeout(Some(crate::support::MILLI * 200)).expect("a timeout");
    let text = line.repeat(64);
    let mut written = 0;
    loop {
        match (&mut &*stream).write(text.as_bytes()) {
            Ok(bytes) => written += bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return written,
            Err(error) => panic!("the daemon closed: {error}"),
        }
    }
}

/// Lets this process, and the daemon that it starts, open so many files, if the system does.
fn open_files(count: u64) -> bool {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit can be read");
    if hard < count {
        return false;
    }
    if soft < count {
        setrlimit(Resource::RLIMIT_NOFILE, count, hard).expect("the limit can be raised");
    }
    true
}

fn memory(daemon: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.id())).expect("the daemon runs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    line.split_whitespace().nth(1).expect("a number").parse::<u64>().expect("a number") << 10
}

#[test]
fn producers_who_misbehave_hold_up_no_other_within_a_stated_memory() {
    let folder = TempDir::new().expect("a folder");
    if !open_files(CROWD_FILES) {
        return eprintln!(
            "a crowd was not tried: it takes {CROWD_FILES} open files, which the system does not give"
        );
    }
    let limits = [
        "run",
        "-o",
        "ingest.max_connections=1500",
        "-o",
        "ingest.max_connections_per_user=1500",
        // Those who write a byte at a time are not closed, however slow the machine is.
        "-o",
        "ingest.line_timeout=1h",
    ];
    let mut daemon =
        command(folder.path(), NOBODY, &limits).stderr(Stdio::null()).spawn().expect("the daemon starts");
    let all = |count| (0..count).map(|_| connect(folder.path())).collect::<Vec<_>>();
    let idle = all(1_000);
    let slow = all(100);
    let (halves, resets, readers) = (all(20), all(20), all(8));
    for stream in &halves {
        write!(&mut &*stream, "{{\"session_id\":\"h\"").expect("the daemon reads");
        stream.shutdown(Shutdown::Write).expect("half of it closes");
    }
    for stream in &resets {
        writeln!(&mut &*stream, "{}", display("r", "1")).expect("the daemon reads");
    }
    // With replies unread: a reset, to the daemon.
    drop(resets);
    let floods: Vec<usize> = readers.iter().map(|stream| flood(stream, "{\"ref\":\"x\"}\n")).collect();
    assert!(floods.iter().all(|written| *written < 4 << 20), "no back-pressure: {floods:?}");
    let line = format!("{}\n", display("trickle", "1"));
    for (at, byte) in line.bytes().enumerate() {
        for stream in &slow {
            (&mut &*stream).write_all(&[byte]).expect("the daemon reads");
        }
        if at % 50 == 0 {
            served(folder.path(), "good", 5);
        }
    }
    for stream in &slow {
        let mut reply = [0; 18];
        (&mut &*stream).read_exact(&mut reply).expect("a reply");
        assert_eq!(&reply, b"{\"status\":\"queued\"");
    }
    for mut stream in halves {
        let mut replies = String::new();
        stream.read_to_string(&mut replies).expect("a reply and the end");
        assert!(replies.contains("malformed_json"), "{replies}");
    }
    served(folder.path(), "good", 100);
    let peak = memory(&daemon);
    assert!(peak < MOST_MEMORY, "{} MiB", peak >> 20);
    drop((idle, slow, readers));
    assert!(terminate(&mut daemon).success());
}

#[test]
fn too_few_files_turn_producers_away_with_an_answer_and_one_warning() {
    let folder = TempDir::new().expect("a folder");
    let inner = command(folder.path(), NOBODY, &["run"]);
    let mut daemon = Command::new("sh")
        .args(["-c", "ulimit -n 200; exec \"$0\" \"$@\""])
        .arg(inner.get_program())
        .args(inner.get_args())
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("the daemon starts");
    let mut told = daemon.stderr.take().expect("a pipe");
    // A quarter of the descriptors is for producers.
    let crowd: Vec<UnixStream> = (0..50).map(|_| connect(folder.path())).collect();
    for stream in (0..200).map(|_| connect(folder.path())) {
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).expect("an answer");
        assert!(answer.contains("too_many_connections"), "{answer}");
    }
    writeln!(&mut &crowd[0], "{}", display("crowd", "1")).expect("the daemon reads");
    let mut reply = String::new();
    BufReader::new(&crowd[0]).read_line(&mut reply).expect("a reply");
    assert!(reply.contains("queued"), "{reply}");
    drop(crowd);
    assert!(terminate(&mut daemon).success());
    let mut log = String::new();
    told.read_to_string(&mut log).expect("a log");
    assert_eq!(log.matches("fewer files may be open than the limits need").count(), 1, "{log}");
    assert_eq!(log.matches("could not be accepted").count(), 0, "{log}");
}

/// Sets how many files the daemon may have open from now on.
fn limit_files(daemon: &Child, count: u32) {
    let (pid, limit) = (daemon.id().to_string(), format!("--nofile={count}:"));
    let status = Command::new("prlimit").args(["--pid", &pid, &limit]).status().expect("prlimit is there");
    assert!(status.success(), "{limit}: {status}");
}

/// The sockets that the daemon listens on.
const KEYS: [&str; 3] = ["admin.metrics_listen", "admin.socket", "ingest.socket"];

#[test]
fn files_that_run_out_are_told_once_and_hold_up_nobody_who_is_connected() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _inside = runtime.enter();
    let sandbox = Sandbox::start(sandbox::Settings::default()).expect("the sandbox listens");
    let (folder, endpoint) = (TempDir::new().expect("a folder"), format!("http://{}", sandbox.address()));
    let mut daemon = command(folder.path(), &endpoint, &["run", "-o", "admin.metrics_listen=127.0.0.1:0"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the daemon starts");
    let mut log = Log::of(&mut daemon);
    let metrics = log.says("metrics are served")["address"].as_str().expect("an address").to_owned();
    let connected = connect(folder.path());
    served_on(&connected, "before", 1);
    // Those that are open stay open, and no other may be.
    limit_files(&daemon, 3);
    let waiting: Vec<UnixStream> = (0..20).map(|_| connect(folder.path())).collect();
    let operator = UnixStream::connect(folder.path().join("admin.sock")).expect("it listens");
    let scraper = TcpStream::connect(metrics).expect("it listens");
    let says = |log: &mut Log, sentence: &str, key: &str| {
        log.until(|line| message(line).starts_with(sentence) && line["key"] == key)
    };
    for key in KEYS {
        let told = says(&mut log, "a connection could not be accepted", key);
        let error = told["error"].as_str().unwrap_or_default();
        assert!(told["level"] == "WARN" && error.contains("Too many open files"), "{told}");
    }
    for lane in 0..50 {
        served_on(&connected, &format!("during{lane}"), 2);
    }
    limit_files(&daemon, 500);
    for key in KEYS {
        assert!(says(&mut log, "connections are accepted again", key)["attempts"].as_u64() > Some(0));
    }
    for (lane, stream) in waiting.iter().enumerate() {
        served_on(stream, &format!("after{lane}"), 1);
    }
    // Connections to Target failed meanwhile, too: everything goes out all the same.
    runtime.block_on(crate::support::taken(&sandbox, 121));
    drop((connected, waiting, operator, scraper));
    assert!(terminate(&mut daemon).success());
    let lines = log.all();
    for sentence in ["a connection could not be accepted", "connections are accepted again"] {
        let told = lines.iter().filter(|line| message(line).starts_with(sentence));
        let mut keys: Vec<_> = told.filter_map(|line| line["key"].as_str()).collect();
        keys.sort_unstable();
        assert_eq!(keys, KEYS, "once each: {sentence}");
    }
    runtime.block_on(sandbox.stop());
}
