//! The measurement of this machine, with next to nothing to measure.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::process::{LIMIT, cannot_write, end};

#[test]
fn every_figure_of_speed_stands_beside_its_limit() {
    let folder = TempDir::new().expect("a folder");
    let output = Command::new(env!("CARGO_BIN_EXE_target-notifyd"))
        .args(["bench", "accept,deliver,backlog", "--time", "30ms", "--events", "500", "--sessions", "20"])
        .args(["--backlog", "1000", "--json", "--folder"])
        .arg(folder.path())
        .output()
        .expect("it runs");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let text = String::from_utf8(output.stdout).expect("text");
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let of = |part: &str, figure: &str| {
        let row = rows.iter().find(|row| row["part"] == part && row["figure"] == figure);
        row.unwrap_or_else(|| panic!("no {figure} of {part} in {text}"))
    };
    for part in ["accept, 1 waiting", "accept, 64 waiting", "accept, 16 x 256 pipelined", "socket to 200"] {
        let figure = if part == "socket to 200" { "delivered" } else { "accepted" };
        let row = of(part, figure);
        let ratio = row["ratio"].as_f64().expect("a ratio");
        let limit = row["limit"][1].as_f64().expect("a limit");
        assert!(
            ratio > 0.0 && (row["value"].as_f64().expect("a value") / limit - ratio).abs() < 1e-6,
            "{row}"
        );
    }
    assert!(of("socket to 200, one a session", "events a request")["value"] == 1.0);
    assert!(of("backlog of 1000, restart", "until it accepts")["value"].as_f64() > Some(0.0));
    assert!(of("backlog of 1000, draining", "peak memory")["value"].as_f64() > Some(1.0));
    // It takes with it what it made.
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 0);
}

#[test]
fn figures_that_cannot_be_written_are_a_failure_and_a_reader_who_has_enough_is_none() {
    for format in [&[][..], &["--json"]] {
        cannot_write(|| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_target-notifyd"));
            command
                .args(["bench", "deliver", "--time", "1ms", "--events", "1", "--sessions", "1"])
                .args(format);
            command
        });
    }
}

/// The processes that `parent` started.
fn children(parent: u32) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("the processes") {
        let path = entry.expect("an entry").path();
        let status = fs::read_to_string(path.join("status")).unwrap_or_default();
        if status.lines().any(|line| line == format!("PPid:\t{parent}")) {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            found.push(name.parse().expect("a process id"));
        }
    }
    found
}

/// The daemon of `parent`, once it listens somewhere below `folder`.
pub(crate) fn daemon_of(parent: &Child, folder: &Path) -> Pid {
    let until = Instant::now() + LIMIT;
    loop {
        let mut folders = vec![folder.to_owned()];
        let mut listens = false;
        while let Some(folder) = folders.pop() {
            // They come and go.
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                listens |= entry.file_name() == "notify.sock";
                folders.push(entry.path());
            }
        }
        if let (true, [child]) = (listens, &children(parent.id())[..]) {
            return Pid::from_raw(*child);
        }
        assert!(Instant::now() < until, "no daemon");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The exit code of `child` and what it told, once it ended.
pub(crate) fn end_of(mut child: Child) -> (Option<i32>, String) {
    end(&mut child);
    let output = child.wait_with_output().expect("a process");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The signals that end one. Where these tests run under nohup, what they start ignores SIGHUP as they do.
pub(crate) fn ends() -> Vec<Signal> {
    let status = fs::read_to_string("/proc/self/status").expect("the kernel tells");
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("a mask");
    let nohup = u64::from_str_radix(ignored.trim(), 16).expect("hexadecimal digits") & 1 == 1;
    [Signal::SIGTERM, Signal::SIGINT].into_iter().chain((!nohup).then_some(Signal::SIGHUP)).collect()
}

fn bench(folder: &Path, arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_target-notifyd"));
    command.arg("bench").args(arguments).arg("--folder").arg(folder);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs")
}

#[test]
fn a_measurement_that_is_ended_leaves_no_daemon_and_no_folder() {
    for signal in ends() {
        let folder = TempDir::new().expect("a folder");
        let child = bench(folder.path(), &["deliver", "--events", "100000000"]);
        let daemon = daemon_of(&child, folder.path());
        let own = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
        kill(own, signal).expect("it is there");
        let (code, told) = end_of(child);
        assert!(code == Some(1) && told.contains("it was interrupted"), "{signal} {code:?} {told}");
        assert!(kill(daemon, None).is_err(), "{signal}: the daemon lives on");
        assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 0, "{signal}");
    }
}

#[test]
fn a_measurement_that_is_killed_leaves_no_daemon_and_a_folder_that_the_next_one_names() {
    let folder = TempDir::new().expect("a folder");
    let mut child = bench(folder.path(), &["idle"]);
    let daemon = daemon_of(&child, folder.path());
    child.kill().expect("it is there");
    child.wait().expect("a process");
    // Whoever has it now may leave it unread.
    let lives = || {
        let status = fs::read_to_string(format!("/proc/{daemon}/status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
    };
    let until = Instant::now() + LIMIT;
    while lives() {
        assert!(Instant::now() < until, "the daemon lives on");
        std::thread::sleep(Duration::from_millis(5));
    }
    let left =
        || fs::read_dir(folder.path()).expect("the folder").map(|entry| entry.expect("an entry").path());
    let lies = left().next().expect("its folder");
    let next = bench(folder.path(), &["idle"]);
    daemon_of(&next, folder.path());
    // While that one measures, only what nobody uses is named.
    let third = bench(folder.path(), &["deliver", "--time", "1ms", "--events", "1", "--sessions", "1"]);
    let (code, told) = end_of(third);
    let named = format!("has left its folder: rm -r '{}'", lies.display());
    assert!(code == Some(0) && told.contains(&named), "{code:?} {told}");
    assert_eq!(told.matches("has left its folder").count(), 1, "{told}");
    kill(Pid::from_raw(i32::try_from(next.id()).expect("a process id")), Signal::SIGTERM)
        .expect("it is there");
    let (_, told) = end_of(next);
    assert!(told.contains(&named), "{told}");
    assert_eq!(left().collect::<Vec<_>>(), [lies]);
}

#[test]
fn a_daemon_that_dies_ends_the_measurement() {
    // While producers write, while events are waited for that are never sent, and while nothing happens.
    let never = ["deliver", "--events", "10", "-o", "batch.linger=1h"];
    for arguments in [&["deliver", "--events", "100000000"][..], &never, &["idle"]] {
        let folder = TempDir::new().expect("a folder");
        let child = bench(folder.path(), arguments);
        kill(daemon_of(&child, folder.path()), Signal::SIGKILL).expect("it is there");
        let (code, told) = end_of(child);
        assert!(code == Some(1) && told.contains("the daemon ended with signal: 9"), "{arguments:?} {told}");
        assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 0, "{arguments:?}");
    }
}

#[test]
fn nothing_is_measured_in_no_time() {
    let folder = TempDir::new().expect("a folder");
    for time in ["0s", "1us", "soon"] {
        let (code, told) = end_of(bench(folder.path(), &["accept", "--time", time]));
        assert!(code == Some(64) && told.contains("--time"), "{time}: {code:?} {told}");
    }
}
