//! The real executable, killed at any moment and started again on the same queue.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use target_notifyd::sandbox::{self, Faults, Sandbox};

const LIMIT: Duration = Duration::from_secs(120);

fn start(folder: &Path, endpoint: &str) -> Child {
    let set = [
        "target.client=acme".to_owned(),
        "target.organization_id=0DD9@AdobeOrg".to_owned(),
        format!("target.endpoint={endpoint}"),
        format!("ingest.socket={}", folder.join("notify.sock").display()),
        format!("queue.path={}", folder.join("queue").display()),
        "queue.min_free=0".to_owned(),
        "queue.reserve=0".to_owned(),
        "batch.linger=10ms".to_owned(),
        "retry.initial=10ms".to_owned(),
        "retry.max=100ms".to_owned(),
        "delivery.breaker_open=10ms".to_owned(),
        "delivery.breaker_max=50ms".to_owned(),
        "log.level=warn".to_owned(),
    ];
    let mut command = Command::new(env!("CARGO_BIN_EXE_target-notifyd"));
    command.arg("run").args(set.iter().flat_map(|one| ["-o", one.as_str()]));
    command.stderr(Stdio::null()).spawn().expect("the daemon starts")
}

fn connect(folder: &Path) -> UnixStream {
    let until = Instant::now() + LIMIT;
    loop {
        match UnixStream::connect(folder.join("notify.sock")) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < until, "the daemon does not come up: {error}"),
        }
        std::thread::yield_now();
    }
}

/// Submits events until `stop_after` are acknowledged, or the connection ends; acknowledged ids are added.
fn submit(folder: &Path, from: u32, count: u32, stop_after: usize, acknowledged: &mut BTreeSet<String>) {
    let stream = connect(folder);
    let mut writing = stream.try_clone().expect("a socket can be shared");
    let writer = std::thread::spawn(move || {
        for number in from..from + count {
            let session = number % 50;
            let line = format!(
                "{{\"session_id\":\"s{session}\",\"type\":\"click\",\"id\":\"{number}\",\"impressionId\":\"{number}\"}}\n"
            );
            if writing.write_all(line.as_bytes()).is_err() {
                return;
            }
        }
    });
    let mut replies = 0;
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { break };
        let reply: serde_json::Value = serde_json::from_str(&line).expect("a reply is JSON");
        assert_eq!(reply["status"], "queued", "{reply}");
        acknowledged.insert(reply["ids"][0].as_str().expect("an id is text").to_owned());
        replies += 1;
        if replies == stop_after {
            break;
        }
    }
    writer.join().expect("the writer ends");
}

#[test]
fn nothing_acknowledged_is_lost_when_the_daemon_is_killed_ten_times() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _inside = runtime.enter();
    let sandbox = Sandbox::start(sandbox::Settings::default()).expect("the sandbox listens");
    sandbox.faults(Faults { error_500: 100, reset_after: 100, cut: 100, ..Faults::default() });
    let (folder, endpoint) =
        (tempfile::tempdir().expect("a folder"), format!("http://{}", sandbox.address()));
    let mut acknowledged = BTreeSet::new();
    for round in 0..10_u32 {
        let mut daemon = start(folder.path(), &endpoint);
        // Killed at another place in its work each time: after this many replies, with more lines on their way.
        submit(folder.path(), round * 1_000, 1_000, 37 + 83 * round as usize, &mut acknowledged);
        daemon.kill().expect("the daemon is there");
        daemon.wait().expect("the daemon is gone");
    }
    let mut daemon = start(folder.path(), &endpoint);
    let until = Instant::now() + LIMIT;
    loop {
        let ledger = sandbox.ledger();
        let taken: BTreeSet<&str> = ledger.records().map(|record| record.id).collect();
        if acknowledged.iter().all(|id| taken.contains(id.as_str())) {
            break;
        }
        let missing = acknowledged.iter().filter(|id| !taken.contains(id.as_str())).count();
        assert!(Instant::now() < until, "{missing} of {} are missing", acknowledged.len());
        std::thread::yield_now();
    }
    let totals = sandbox.totals();
    assert!(acknowledged.len() > 3_000, "{}", acknowledged.len());
    assert_eq!((totals.impressions, totals.changed), (totals.takings - totals.repeated, 0));
    let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.id()).expect("a process id"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("the daemon is there");
    assert!(daemon.wait().expect("the daemon ends").success());
    runtime.block_on(sandbox.stop());
}
