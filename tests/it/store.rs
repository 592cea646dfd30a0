//! `store check`, `export` and `repair`, by hand as an operator would: the real executable, a daemon that runs, stops, and runs
//! again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::path::Path;
use std::process::{Child, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Log, NOBODY, command, connect, terminate};
use crate::support::display;

/// How many events the queue is given.
const EVENTS: u64 = 240;

fn start(folder: &Path) -> Child {
    let mut command = command(folder, NOBODY, &["run"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the daemon starts")
}

/// Submits lines; the ids that were answered queued.
fn submit(folder: &Path, lines: &str) -> BTreeSet<String> {
    let mut stream = connect(folder);
    stream.write_all(lines.as_bytes()).expect("the daemon reads");
    stream.shutdown(Shutdown::Write).expect("half of it closes");
    let mut replies = String::new();
    stream.read_to_string(&mut replies).expect("the daemon answers");
    let id = |reply: &str| {
        let reply: Value = serde_json::from_str(reply).expect("a reply is JSON");
        assert_eq!(reply["status"], "queued", "{reply}");
        reply["ids"][0].as_str().expect("an id").to_owned()
    };
    replies.lines().map(id).collect()
}

fn store(folder: &Path, arguments: &[&str]) -> Output {
    let arguments: Vec<&str> = ["store"].iter().chain(arguments).copied().collect();
    command(folder, NOBODY, &arguments).output().expect("the executable runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn an_exported_line_that_is_longer_than_lines_may_be_is_told_with_the_limit_that_takes_it() {
    let (folder, other) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    let limited = |folder: &Path, what: &[&str], limit: &str| {
        let limit = format!("ingest.max_line={limit}");
        let mut command = command(folder, NOBODY, &[what, &["-o", &limit]].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let mut daemon = limited(folder.path(), &["run"], "1KiB").spawn().expect("the daemon starts");
    let parameter = "p".repeat(950);
    let long =
        format!("{{\"session_id\":\"s\",\"type\":\"click\",\"parameters\":{{\"p\":\"{parameter}\"}}}}\n");
    assert!(long.trim_end().len() <= 1_024);
    let ids = submit(folder.path(), &long);
    assert!(terminate(&mut daemon).success());
    let check = store(folder.path(), &["check"]);
    assert!(text(&check.stdout).contains("pending   1 event can be read\n"), "{check:?}");
    let export = limited(folder.path(), &["store", "export"], "1KiB").output().expect("it runs");
    let (out, told) = (text(&export.stdout), text(&export.stderr));
    let bytes = out.trim_end().len();
    assert!(bytes > 1_024, "{out}");
    assert!(export.status.success() && told.starts_with("1 event exported\n1 line is longer than"), "{told}");
    let taking = format!("-o ingest.max_line={bytes}B\n");
    assert!(told.ends_with(&taking), "{told}");
    let mut daemon =
        limited(other.path(), &["run"], &format!("{bytes}B")).spawn().expect("the daemon starts");
    assert_eq!(submit(other.path(), &out), ids);
    assert!(terminate(&mut daemon).success());
    let export = store(other.path(), &["export"]);
    assert_eq!(text(&export.stderr), "1 event exported\n");
}

/// Every file below a folder, with what is in it.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("a folder can be listed") {
        let path = entry.expect("a folder can be listed").path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => {
                found.insert(path.display().to_string(), fs::read(&path).expect("a file can be read"));
            }
        }
    }
    found
}

#[test]
fn a_stopped_queue_is_checked_exported_and_repaired() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path();
    let empty = store(path, &["check"]);
    assert_eq!(empty.status.code(), Some(74), "{empty:?}");
    fs::create_dir(path.join("queue")).expect("a folder");
    let nothing = store(path, &["repair"]);
    assert_eq!(nothing.status.code(), Some(74), "{nothing:?}");
    // It is as it was: a folder can only be removed where it is empty.
    fs::remove_dir(path.join("queue")).expect("nothing lies there");
    let mut daemon = start(path);
    let lines: String =
        (0..200).map(|number| display(&format!("s{}", number % 9), &number.to_string()) + "\n").collect();
    let mut ids = submit(path, &lines);
    // A commit each: by the last of them the engine has written the counters anew, apart from the event that is destroyed
    // below.
    for number in 200..EVENTS {
        ids.extend(submit(path, &(display("s0", &number.to_string()) + "\n")));
    }
    assert_eq!(ids.len() as u64, EVENTS);
    for arguments in [["check"], ["export"], ["repair"]] {
        let output = store(path, &arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(75), "{arguments:?}: {said}");
        assert!(said.contains("in use by another instance"), "{said}");
    }
    assert!(terminate(&mut daemon).success());

    let before = files(&path.join("queue"));
    let check = store(path, &["check"]);
    let said = text(&check.stdout);
    assert!(
        check.status.success()
            && said.contains(&format!("{EVENTS} events can be read"))
            && said.ends_with("all is well\n"),
        "{said}"
    );
    let export = store(path, &["export"]);
    assert!(export.status.success(), "{export:?}");
    assert_eq!(text(&export.stderr), format!("{EVENTS} events exported\n"));
    for (host, same) in [("client", true), ("35", false), ("edge35", false), ("edge 35", false)] {
        let own = store(path, &["export", "--host", host]);
        assert!(own.status.success() && (own.stdout == export.stdout) == same, "{host}: {own:?}");
    }
    assert!(before == files(&path.join("queue")), "looking changed the folder");
    // Another daemon takes them as the same events.
    let other = TempDir::new().expect("a folder");
    let mut daemon = start(other.path());
    assert_eq!(submit(other.path(), &text(&export.stdout)), ids);
    assert!(terminate(&mut daemon).success());
    assert_eq!(store(other.path(), &["export"]).stdout, export.stdout);

    // The engine does not get over this: its configuration is in no snapshot and no log.
    let database = path.join("queue/events.1");
    fs::write(database.join("conf"), vec![0; 64]).expect("a file can be written");
    let failed = command(path, NOBODY, &["run"]).output().expect("the executable runs");
    assert_eq!(failed.status.code(), Some(74), "{failed:?}");
    // And a part of the log is gone.
    let part = database.join("journal.1");
    let mut log = fs::read(&part).expect("the log can be read");
    let mark = b"\"id\":\"0\"";
    let places: Vec<usize> = (0..log.len()).filter(|at| log[*at..].starts_with(mark)).collect();
    assert!(!places.is_empty(), "the event is in the log");
    for at in places {
        log[at..at + 40].fill(0);
    }
    fs::write(part, log).expect("a file can be written");
    let check = store(path, &["check", "--json"]);
    let found = json(&check);
    assert_eq!(check.status.code(), Some(1), "{found}");
    let missing =
        found["missing"].as_u64().expect("a number") + found["damaged_events"].as_u64().expect("a number");
    let kept = found["events"].as_u64().expect("a number");
    assert!(missing > 0 && kept > 0 && missing + kept == EVENTS, "{found}");
    assert!(found["configuration_damaged"] == true, "{found}");
    let repair = store(path, &["repair"]);
    let said = text(&repair.stdout);
    assert!(
        repair.status.success() && said.contains(&format!("kept      {kept} events that wait")),
        "{repair:?}"
    );
    assert!(path.join("queue/quarantine/events.1/db").is_file());
    let check = store(path, &["check", "--json"]);
    assert!(check.status.success(), "{check:?}");
    let mut daemon = start(path);
    let mut told = Log::of(&mut daemon);
    assert_eq!(told.says("the account of the queue balances")["pending"], kept);
    assert!(terminate(&mut daemon).success());
    let account = &json(&store(path, &["check", "--json"]))["account"];
    assert_eq!((&account["pending"], &account["quarantined"]), (&kept.into(), &missing.into()), "{account}");

    // What a repair that nobody can read came to.
    let full = fs::File::options().write(true).open("/dev/full").expect("a device");
    let untold = command(path, NOBODY, &["store", "repair"]).stdout(full).output().expect("it runs");
    let said = text(&untold.stderr);
    assert!(untold.status.code() == Some(74) && said.contains("the queue is repaired"), "{said}");
    assert!(store(path, &["check"]).status.success());
}
