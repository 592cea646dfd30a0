//! What an operator stops, hastens and removes.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::Instant;

use serde_json::{Value, json};
use target_notifyd::sandbox::Faults;

use super::machine::{Machine, SLOW, refusing};
use crate::process::{LIMIT, command, connect, end};

#[test]
fn a_hold_of_a_session_of_which_nothing_waits_is_shown_and_released_as_any() {
    let mut machine = Machine::start(Faults::default(), &[]);
    let names = |machine: &Machine| -> Vec<String> {
        let status = machine.status();
        let held = status["held"].as_array().expect("a list").iter();
        held.map(|hold| {
            hold["of"].as_str().and_then(|of| of.strip_prefix("session ")).expect("a session").to_owned()
        })
        .collect()
    };
    for session in ["a", "b", "c"] {
        assert_eq!(machine.json(&["queue", "hold", session])[0]["changed"], true);
    }
    assert_eq!(machine.json(&["queue", "hold", "b"])[0]["changed"], false);
    let shown = names(&machine);
    assert!(shown.len() == 3 && shown.iter().all(|name| name.len() == 12), "{shown:?}");
    machine.submit(&[("a", "1")]);
    machine.kill_and_start(&[]);
    machine.until(|status| status["pending"] == 1);
    assert_eq!(names(&machine), shown, "whether events tell it or not");
    assert!(machine.told(&["status"]).contains(&format!("held: session {}", shown[0])));
    // The hashes are those that the queue shows.
    let lines = machine.json(&["queue"]);
    let lane = lines.iter().find(|line| line["type"] == "lane").expect("a lane");
    assert!(shown.iter().any(|name| lane["session"] == **name), "{lane} {shown:?}");

    // By what is shown, and by the id.
    let other = shown.iter().find(|name| lane["session"] != ***name).expect("two of three");
    assert_eq!(machine.json(&["queue", "release", other])[0]["changed"], true);
    let left: Vec<String> = shown.iter().filter(|name| *name != other).cloned().collect();
    assert_eq!(names(&machine), left);
    let (code, _, told) = machine.command(&["queue", "release", other]);
    assert!(code == 1 && told.contains("no session that waits or is held"), "{code} {told}");
    assert!(machine.status()["advice"].to_string().contains("2 holds keep events back"));
    assert!(machine.told(&["queue", "release", "a"]).contains("1 other hold is still in force"));
    machine.until(|status| status["delivered"] == 1);
    assert!(machine.status()["advice"].to_string().contains("1 hold keeps events back"));
    machine.told(&["queue", "release", "--all"]);
    assert_eq!(names(&machine), Vec::<String>::new());
    machine.stop();
}

#[test]
fn pauses_and_holds_survive_a_kill_and_end_when_they_are_told_to() {
    let mut machine = Machine::start(Faults::default(), &["-o", "log.summary_interval=20ms"]);
    assert!(machine.told(&["pause", "--reason", "a \u{1b}[31mrehearsal"]).contains("resume"));
    assert_eq!(machine.json(&["queue", "hold", "b"])[0]["changed"], true);
    machine.submit(&[("a", "1"), ("b", "2"), ("b", "3")]);
    machine.kill_and_start(&["-o", "log.summary_interval=20ms"]);

    let status = machine.until(|status| status["pending"] == 3);
    assert_eq!((&status["state"], &status["paused"][0]["host"]), (&json!("paused"), &json!("all")));
    assert!(status["advice"].to_string().contains("target-notifyd resume"), "{status}");
    let screen = machine.told(&["status"]);
    assert!(screen.contains("\\u{1b}[31mrehearsal") && !screen.contains('\u{1b}'), "{screen:?}");
    let states = |machine: &Machine| -> Vec<String> {
        let lines = machine.json(&["queue"]);
        let lanes = lines.iter().filter(|line| line["type"] == "lane");
        lanes.map(|line| line["state"].as_str().expect("text").to_owned()).collect()
    };
    assert_eq!(states(&machine), ["paused", "held"]);
    // The summary line says so, too.
    let until = Instant::now() + LIMIT;
    loop {
        let log = fs::read_to_string(machine.folder.path().join("log")).expect("text");
        let summary =
            log.lines().rev().find(|line| line.contains("\"summary\"")).unwrap_or_default().to_owned();
        if summary.contains("\"pauses\":1")
            && summary.contains("\"holds\":1")
            && summary.contains("\"pending\":3")
        {
            break;
        }
        assert!(Instant::now() < until, "{summary}");
    }
    assert_eq!(machine.taken().len(), 0);

    assert!(machine.told(&["resume"]).contains("resumed"));
    machine.until(|status| status["delivered"] == 1);
    let held = machine.status();
    assert!(held["held"][0]["of"].as_str().is_some_and(|of| of.starts_with("session ")), "{held}");
    let dry = machine.told(&["queue", "release", "b", "--dry-run"]);
    assert_eq!(dry, "2 events of 1 session: would be released\n");
    assert_eq!(states(&machine), ["held"]);
    // What is held is not let go by a retry, nor by a flush.
    machine.told(&["queue", "retry", "--all"]);
    let flushed = machine.told(&["flush"]);
    assert!(flushed.starts_with("what lingers waits for no more of its batch\n"), "{flushed}");
    assert!(flushed.contains("a hold is in force"), "{flushed}");
    assert_eq!(states(&machine), ["held"]);
    assert_eq!(machine.told(&["queue", "release", "b"]), "2 events of 1 session: released\n");
    machine.until(|status| status["delivered"] == 3);
    assert_eq!(machine.told(&["resume"]), "nothing was paused\n");

    // A second takes the place of the first, and of its end.
    let first = machine.told(&["pause", "--for", "2h", "--reason", "ticket"]);
    assert!(first.contains("\nuntil 2") && first.ends_with("Z\n"), "{first}");
    let second = machine.told(&["pause", "--reason", "again"]);
    assert!(second.contains("until it is resumed; it takes the place of the pause until 2"), "{second}");
    assert!(second.ends_with("Z, for ticket\n"), "{second}");
    machine.told(&["resume"]);

    // One that ends by itself, and by host.
    machine.told(&["pause", "--host", "client", "--for", "200ms", "--reason", "short"]);
    machine.submit(&[("c", "4")]);
    let over = machine.until(|status| status["delivered"] == 4);
    assert_eq!(over["paused"], json!([]));

    // More hosts than may be paused at a time: refused, with what to do; all together can be.
    for host in 1_000..1_015 {
        let told = machine.told(&["pause", "--host", &host.to_string(), "--reason", "many"]);
        assert!(told.contains(&format!("target-notifyd queue hold --host {host}")), "{told}");
    }
    let (code, _, told) = machine.command(&["pause", "--host", "1015", "--reason", "many"]);
    assert_eq!(code, 1, "{told}");
    assert!(told.contains("15 hosts are paused") && told.contains("target-notifyd resume --host"), "{told}");
    machine.told(&["pause", "--reason", "all"]);
    assert_eq!(machine.told(&["resume"]), "resumed\n");
    assert_eq!(machine.status()["paused"], json!([]));
    machine.stop();
}

#[test]
fn what_backs_off_is_retried_at_once_and_what_lingers_is_flushed() {
    let machine = Machine::start(refusing(503), &SLOW);
    machine.submit(&[("a", "1"), ("b", "2")]);
    let backs_off = |machine: &Machine| {
        let lines = machine.json(&["queue"]);
        lines.iter().filter(|line| line["state"] == "backing_off" && line["failures"] == 1).count()
    };
    let until = Instant::now() + LIMIT;
    while backs_off(&machine) < 2 {
        assert!(Instant::now() < until, "they do not back off");
    }
    machine.heal();
    assert_eq!(
        machine.told(&["queue", "retry", "--all", "--dry-run"]),
        "2 events of 2 sessions: would be tried at once\n"
    );
    assert_eq!(machine.told(&["queue", "retry", "a"]), "1 event of 1 session: may be tried at once\n");
    machine.until(|status| status["delivered"] == 1);
    assert_eq!(
        machine.told(&["queue", "retry", "--host", "client"]),
        "1 event of 1 session: may be tried at once\n"
    );
    machine.until(|status| status["delivered"] == 2);
    machine.stop();

    let machine = Machine::start(Faults::default(), &["-o", "batch.linger=1h"]);
    machine.submit(&[("a", "1"), ("a", "2"), ("b", "3")]);
    machine.until(|status| status["lanes"] == 2);
    assert_eq!(machine.told(&["flush", "--wait"]), "what waited is delivered or set aside\n");
    assert_eq!(machine.status()["delivered"], 3);
    assert_eq!(machine.told(&["flush"]), "what lingered is sent\n");
    machine.stop();
}

#[test]
fn a_drop_leaves_alone_what_is_being_sent_and_a_rehearsal_counts_the_same() {
    let machine = Machine::start(
        Faults { hang: 1_000, ..Faults::default() },
        &[
            "-o",
            "batch.max_events=1",
            "-o",
            "target.timeout=1h",
            "-o",
            "shutdown.grace=0s",
            "-o",
            "queue.dead_max_events=2",
        ],
    );
    let drop = ["queue", "drop", "--all", "--reason", "released too early"];
    let dry = [&drop[..], &["--dry-run"]].concat();
    machine.submit(&[("a", "1"), ("a", "2"), ("a", "3")]);
    machine.until_known(3);
    machine.until(|status| status["in_flight"] == 1);
    assert_eq!(
        machine.told(&dry),
        "2 events of 1 session: would be set aside as dead letters\n1 event is being sent and would be left alone\n"
    );
    assert_eq!(
        machine.told(&drop),
        "2 events of 1 session: set aside as dead letters\n1 event was being sent and was left alone\n"
    );
    machine.submit(&[("a", "4")]);
    machine.until_known(2);
    for (arguments, dropped) in [(&dry[..], "0 events would be dropped"), (&drop, "0 events were dropped")] {
        let (code, _, told) = machine.command(arguments);
        let why = "queue.dead_max_events is 2, 2 dead letters are held, and 1 more does not fit";
        assert!(code == 1 && told.contains(&format!("{why}; {dropped}: ")), "{code}: {told}");
    }
    // The end waits for none of it.
    let log = machine.log_to_the_end();
    let told = log.lines().find(|line| line.contains("\"grace_over\"")).expect("it is told");
    assert!(told.contains("\"requests\":1"), "{told}");
}

/// A start compares what is there with the account as it reads the queue, and reads no further than the index has room.
#[test]
fn a_drop_of_what_was_not_read_since_the_start_is_no_loss() {
    let small = ["-o", "queue.index_max_bytes=1MiB"];
    let mut machine = Machine::start(refusing(503), &small);
    let mut stream = connect(machine.folder.path());
    let mut replies = BufReader::new(stream.try_clone().expect("a socket can be shared")).lines();
    for session in 0..300 {
        let notifications: Vec<Value> =
            (0..100).map(|number| json!({ "id": format!("{session}.{number}"), "type": "click" })).collect();
        let line =
            json!({ "session_id": format!("s{session}"), "request": { "notifications": notifications } });
        stream.write_all(format!("{line}\n").as_bytes()).expect("the daemon reads");
        assert!(replies.next().expect("a reply").expect("text").contains("queued"));
    }
    machine.kill_and_start(&small);
    machine.until(|status| status["lanes"].as_u64() > Some(0));
    let note = machine.json(&["queue"]).pop().expect("it is done")["note"].to_string();
    assert!(note.contains("on the disk only"), "{note}");
    let told = machine.told(&["queue", "drop", "s299", "--reason", "a rehearsal"]);
    assert_eq!(told, "100 events of 1 session: set aside as dead letters\n");
    machine.heal();
    let status = machine.until(|status| status["pending"] == 0);
    let account = ["accepted", "delivered", "dead", "quarantined"].map(|name| status[name].as_u64());
    assert_eq!(account, [30_000, 29_900, 100, 0].map(Some));
    machine.stop();
}

#[test]
fn a_release_counts_what_it_lets_go() {
    let machine = Machine::start(Faults::default(), &[]);
    machine.told(&["pause", "--reason", "to look at it"]);
    machine.told(&["queue", "hold", "a"]);
    machine.submit(&[("a", "1"), ("a", "2"), ("b", "3")]);
    machine.until_known(3);
    let other = "there is no such hold; 1 other hold is still in force: target-notifyd status lists it\n";
    for (more, done) in [(&["--dry-run"][..], "would be released"), (&[], "released")] {
        let none = machine.told(&[&["queue", "release", "b"], more].concat());
        assert_eq!(none, format!("0 events of 0 sessions: {done}\n{other}"));
    }
    machine.told(&["queue", "hold", "--all"]);
    let kept = machine.told(&["queue", "release", "a", "--dry-run"]);
    assert!(kept.starts_with("0 events of 0 sessions: would be released\n1 other hold is still"), "{kept}");
    for (more, done) in [(&["--dry-run"][..], "would be released"), (&[], "released")] {
        let all = machine.told(&[&["queue", "release", "--all"], more].concat());
        assert_eq!(all, format!("3 events of 2 sessions: {done}\n"));
    }
    assert_eq!(machine.json(&["queue", "release", "--all"])[0]["note"], "there is no such hold");
    machine.stop();
}

#[test]
fn a_flush_that_waits_names_a_hold_while_it_is_in_force_and_not_after() {
    let machine = Machine::start(Faults::default(), &[]);
    machine.told(&["queue", "hold", "a"]);
    machine.submit(&[("a", "1")]);
    let mut flush = command(machine.folder.path(), &machine.endpoint, &["flush", "--wait"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut told = String::new();
    BufReader::new(flush.stderr.take().expect("a pipe")).read_line(&mut told).expect("text");
    assert!(told.starts_with("1 event waits") && told.contains("; a pause or a hold is in force"), "{told}");
    machine.told(&["queue", "release", "a"]);
    end(&mut flush);
    let ended = flush.wait_with_output().expect("its output");
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "what waited is delivered or set aside\n");
    assert!(ended.status.success());
    machine.stop();
}
