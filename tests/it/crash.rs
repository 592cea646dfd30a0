//! The real executable, killed at any moment and started again on the same queue.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use target_notifyd::sandbox::{self, Faults, Sandbox};

use crate::process::{LIMIT, command, connect, terminate};
use crate::support::arrive;

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

/// How a daemon ends while producers submit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Kill,
    Terminate,
}

/// Ten rounds of submissions, each cut short by the daemon's end; then all that was acknowledged has to arrive.
fn rounds(end: End) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _inside = runtime.enter();
    let sandbox = Sandbox::start(sandbox::Settings::default()).expect("the sandbox listens");
    sandbox.faults(Faults { error_500: 100, reset_after: 100, cut: 100, ..Faults::default() });
    let (folder, endpoint) =
        (tempfile::tempdir().expect("a folder"), format!("http://{}", sandbox.address()));
    let start = || {
        let mut command = command(folder.path(), &endpoint, &["run"]);
        command.stderr(Stdio::null()).spawn().expect("the daemon starts")
    };
    let mut acknowledged = BTreeSet::new();
    for round in 0..10_u32 {
        let mut daemon = start();
        // Ended at another place in its work each time: after this many replies, with more lines on their way.
        submit(folder.path(), round * 1_000, 1_000, 37 + 83 * round as usize, &mut acknowledged);
        match end {
            End::Kill => {
                daemon.kill().expect("the daemon is there");
                daemon.wait().expect("the daemon is gone");
            }
            // The grace is 20 s; what hangs longer would fail here.
            End::Terminate => {
                let began = Instant::now();
                assert!(terminate(&mut daemon).success());
                assert!(began.elapsed() < LIMIT);
            }
        }
    }
    let mut daemon = start();
    arrive(&sandbox, &acknowledged);
    let totals = sandbox.totals();
    assert!(acknowledged.len() > 3_000, "{}", acknowledged.len());
    assert_eq!((totals.impressions, totals.changed), (totals.takings - totals.repeated, 0));
    assert!(terminate(&mut daemon).success());
    runtime.block_on(sandbox.stop());
}

#[test]
fn nothing_acknowledged_is_lost_when_the_daemon_is_killed_ten_times() {
    rounds(End::Kill);
}

#[test]
fn nothing_acknowledged_is_lost_when_the_daemon_is_told_to_end_ten_times() {
    rounds(End::Terminate);
}
