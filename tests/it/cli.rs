//! The executable's commands and exit codes, as scripts and service managers see them.

use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::process::{command, connect, terminate};

fn run(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command.output().expect("the executable runs");
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

/// Nobody listens there.
const NOWHERE: &str = "http://127.0.0.1:9";

fn submit(folder: &Path) {
    use std::io::{BufRead, BufReader, Write};
    let mut stream = connect(folder);
    stream.write_all(b"{\"session_id\":\"s\",\"type\":\"click\"}\n").expect("the daemon reads");
    let mut reply = String::new();
    BufReader::new(stream).read_line(&mut reply).expect("the daemon answers");
    assert!(reply.contains("queued"), "{reply}");
}

#[test]
fn a_queue_with_events_of_another_account_is_refused_until_it_is_adopted() {
    let folder = folder();
    let mut daemon = command(folder.path(), NOWHERE, &["run"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the daemon starts");
    submit(folder.path());
    let (code, told) = run(&mut command(folder.path(), NOWHERE, &["run"]));
    assert!(code == Some(75), "{code:?}: {told}");
    daemon.kill().expect("the daemon is there");
    daemon.wait().expect("the daemon is gone");

    let other = "target.client=other";
    let (code, told) = run(&mut command(folder.path(), NOWHERE, &["run", "-o", other]));
    assert!(code == Some(78) && told.contains("acme") && told.contains("other"), "{code:?}: {told}");
    let adopt = &["run", "--adopt-queue", "-o", other];
    let mut daemon = command(folder.path(), NOWHERE, adopt)
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the daemon starts");
    submit(folder.path());
    assert!(terminate(&mut daemon).success());
    // It belongs to the other one now.
    let (code, told) = run(&mut command(folder.path(), NOWHERE, &["run"]));
    assert!(code == Some(78) && told.contains("--adopt-queue"), "{code:?}: {told}");
}

#[test]
fn exit_codes_tell_what_is_wrong() {
    let folder = folder();
    let cases: [(&[&str], i32, &str); 7] = [
        (&["nonsense"], 64, "unrecognized subcommand"),
        (&["check"], 0, "sound"),
        (&["check", "-o", "batch.lingr=1s"], 78, "batch.linger"),
        (&["check", "-o", "target.client="], 78, "target.client"),
        (&["run", "-o", "ingest.socket=/nowhere/notify.sock"], 73, "/nowhere/notify.sock"),
        (&["run", "-o", "queue.path=/proc/queue"], 74, "/proc/queue"),
        (&["send", "--timeout", "0s", "/dev/null"], 0, ""),
    ];
    for (arguments, expected, text) in cases {
        let (code, told) = run(&mut command(folder.path(), NOWHERE, arguments));
        assert_eq!(code, Some(expected), "{arguments:?}: {told}");
        assert!(told.contains(text), "{arguments:?}: {told}");
    }
    let version =
        Command::new(env!("CARGO_BIN_EXE_target-notifyd")).arg("--version").output().expect("it runs");
    assert_eq!(
        String::from_utf8_lossy(&version.stdout).trim(),
        format!("target-notifyd {}", env!("CARGO_PKG_VERSION"))
    );
}
