//! What an idle daemon leaves alone.

use std::fs;
use std::process::{Child, Stdio};

use tempfile::TempDir;

use crate::process::{command, connect, terminate};

/// The name of each thread, and by how many nanoseconds its timers may be late.
fn slack(daemon: &Child) -> Vec<(String, u64)> {
    let threads = fs::read_dir(format!("/proc/{}/task", daemon.id())).expect("the daemon runs");
    let of = |thread: fs::DirEntry| {
        // One may end meanwhile.
        let name = fs::read_to_string(thread.path().join("comm")).ok()?.trim().to_owned();
        let id = thread.file_name().into_string().expect("a number");
        let slack = fs::read_to_string(format!("/proc/{id}/timerslack_ns")).ok()?;
        Some((name, slack.trim().parse().expect("a number")))
    };
    threads.filter_map(|thread| of(thread.expect("a thread"))).collect()
}

#[test]
fn only_the_timers_of_the_engines_threads_may_be_late() {
    let folder = TempDir::new().expect("a folder");
    // With a new database, and with one that is there.
    for start in ["the first start", "the second start"] {
        let mut daemon = command(folder.path(), "http://127.0.0.1:9", &["run"])
            .stderr(Stdio::null())
            .spawn()
            .expect("the daemon starts");
        drop(connect(folder.path()));
        let (engine, others): (Vec<_>, Vec<_>) =
            slack(&daemon).into_iter().partition(|(name, _)| name.starts_with("sled-io"));
        assert!(engine.len() >= 7 && !others.is_empty(), "{start}: {engine:?}, {others:?}");
        assert!(engine.iter().all(|(_, nanos)| *nanos >= 60_000_000_000), "{start}: {engine:?}");
        assert!(others.iter().all(|(_, nanos)| *nanos < 1_000_000_000), "{start}: {others:?}");
        assert!(terminate(&mut daemon).success());
    }
}
