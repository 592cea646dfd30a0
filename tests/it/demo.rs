//! The demonstration, as a visitor runs it.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::bench::{daemon_of, end_of, ends};
use crate::process::cannot_write;

#[test]
fn the_demonstration_accounts_for_every_event() {
    let output = Command::new(env!("CARGO_BIN_EXE_target-notifyd"))
        .args(["demo", "--sessions", "120", "--events", "6", "--seed", "7", "--json"])
        .output()
        .expect("the demonstration runs");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let account: serde_json::Value = serde_json::from_slice(&output.stdout).expect("the account is JSON");
    for (name, count) in [("submitted", 722), ("acknowledged", 721), ("impressions", 719), ("pending", 0)] {
        assert_eq!(account[name], count, "{name} in {account}");
    }
    assert_eq!(account["refused"]["invalid_event"], 1);
    let dead: Vec<_> =
        account["dead"].as_array().expect("a list").iter().map(|letter| &letter["id"]).collect();
    assert!(dead.contains(&&"demo-0-1".into()) && dead.contains(&&"demo-100-1".into()), "{dead:?}");
    assert!(told.contains("the daemon was killed after"), "{told}");
}

#[test]
fn an_account_that_cannot_be_written_is_a_failure_and_a_reader_who_has_enough_is_none() {
    cannot_write(|| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_target-notifyd"));
        command.args(["demo", "--sessions", "2", "--events", "1"]);
        command
    });
}

/// A demonstration whose temporary folder lies in `folder`.
fn demo(folder: &Path, more: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_target-notifyd"));
    command.args(["demo", "--sessions", "2000", "--events", "50"]).args(more).env("TMPDIR", folder);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the demonstration runs")
}

#[test]
fn one_that_is_ended_leaves_no_daemon_and_no_folder() {
    for signal in ends() {
        let folder = TempDir::new().expect("a folder");
        let child = demo(folder.path(), &[]);
        let daemon = daemon_of(&child, folder.path());
        kill(Pid::from_raw(i32::try_from(child.id()).expect("a process id")), signal).expect("it is there");
        let (code, told) = end_of(child);
        assert!(code == Some(1) && told.contains("it was interrupted"), "{signal} {code:?} {told}");
        assert!(kill(daemon, None).is_err(), "{signal}: the daemon lives on");
        assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 0, "{signal}");
    }
}

#[test]
fn a_daemon_that_dies_or_does_not_start_ends_it() {
    let folder = TempDir::new().expect("a folder");
    let child = demo(folder.path(), &[]);
    kill(daemon_of(&child, folder.path()), Signal::SIGKILL).expect("it is there");
    let (code, told) = end_of(child);
    assert!(code == Some(1) && told.contains("the daemon ended with signal: 9"), "{code:?} {told}");

    let (code, told) = end_of(demo(folder.path(), &["-o", "target.ca_file=/nowhere.pem"]));
    assert!(code == Some(1) && told.contains("the daemon ended with exit status: 78"), "{code:?} {told}");
}
