//! What an idle daemon leaves alone.

use std::fs;
use std::io::ErrorKind;
use std::process::{Child, Stdio};
use std::time::Instant;

use tempfile::TempDir;

use crate::process::{LIMIT, NOBODY, command, connect, terminate};

/// The name of each thread, and by how many nanoseconds its timers may be late; `None` where the system keeps that to root.
fn slack(daemon: &Child) -> Option<Vec<(String, u64)>> {
    let threads = fs::read_dir(format!("/proc/{}/task", daemon.id())).expect("the daemon runs");
    let mut found = Vec::new();
    for thread in threads {
        let thread = thread.expect("a thread");
        let id = thread.file_name().into_string().expect("a number");
        let name = fs::read_to_string(thread.path().join("comm"));
        match (name, fs::read_to_string(format!("/proc/{id}/timerslack_ns"))) {
            (Ok(name), Ok(slack)) => found.push((name, slack.trim().parse().expect("a number"))),
            (_, Err(error)) if error.kind() == ErrorKind::PermissionDenied => return None,
            // It ended meanwhile.
            _ => {}
        }
    }
    Some(found)
}

/// Whether the engine's threads are all there, and they alone may be late; a thread names itself, a moment after its start.
fn as_promised(found: &[(String, u64)]) -> bool {
    let (engine, others): (Vec<_>, Vec<_>) = found.iter().partition(|(name, _)| name.starts_with("sled-io"));
    engine.len() >= 7
        && others.iter().any(|(name, _)| name == "queue-writer\n")
        && engine.iter().all(|(_, nanos)| *nanos >= 60_000_000_000)
        && others.iter().all(|(_, nanos)| *nanos < 1_000_000_000)
}

#[test]
fn only_the_timers_of_the_engines_threads_may_be_late() {
    let folder = TempDir::new().expect("a folder");
    // With a new database, and with one that is there.
    for start in ["the first start", "the second start"] {
        let mut daemon = command(folder.path(), NOBODY, &["run"])
            .stderr(Stdio::null())
            .spawn()
            .expect("the daemon starts");
        // Nobody tells when a thread has its name.
        drop(connect(folder.path()));
        let until = Instant::now() + LIMIT;
        let mut found = slack(&daemon);
        while found.as_ref().is_some_and(|found| !as_promised(found)) && Instant::now() < until {
            std::thread::yield_now();
            found = slack(&daemon);
        }
        assert!(terminate(&mut daemon).success());
        let Some(found) = found else {
            return eprintln!("the slack of threads was not looked at: the system shows it to root alone");
        };
        assert!(as_promised(&found), "{start}: {found:?}");
    }
}
