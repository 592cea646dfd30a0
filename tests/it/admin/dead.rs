//! Dead letters.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::time::Instant;

use serde_json::{Value, json};
use target_notifyd::sandbox::{Faults, Mark};

use super::machine::{Machine, SLOW, refusing};
use super::{ask, next};
use crate::process::{LIMIT, connect};

#[test]
fn dead_letters_are_found_shown_exported_requeued_and_deleted() {
    let machine = Machine::start(refusing(503), &SLOW);
    machine.submit(&[("a", "1"), ("a", "2"), ("b", "3"), ("c", "4")]);
    let until = Instant::now() + LIMIT;
    // Nothing is left under way, so that all may be dropped.
    while machine.json(&["queue"]).iter().filter(|line| line["state"] == "backing_off").count() < 3 {
        assert!(Instant::now() < until, "they do not back off");
    }
    let drop = ["queue", "drop", "--all", "--reason", "poisoned \u{9b}release"];
    assert_eq!(
        machine.told(&[&drop[..], &["--dry-run"]].concat()),
        "4 events of 3 sessions: would be set aside as dead letters\n"
    );
    assert_eq!(machine.status()["pending"], 4);
    assert_eq!(machine.told(&drop), "4 events of 3 sessions: set aside as dead letters\n");
    let status = machine.status();
    assert_eq!(
        (&status["pending"], &status["dead"], &status["dead_held"]),
        (&json!(0), &json!(4), &json!(4))
    );
    assert!(status["advice"].to_string().contains("dead list"), "{status}");

    let list = machine.json(&["dead", "list"]);
    assert_eq!(list.len(), 5);
    let number = |line: &Value| line["seq"].as_u64().expect("a number").to_string();
    assert_eq!((&list[0]["reason"], &list[0]["id"]), (&json!("dropped"), &json!("1")));
    for (filter, count) in [
        (&["--reason", "dropped"][..], 4),
        (&["--reason", "expired"], 0),
        (&["--session", "a"], 2),
        (&["--session", list[2]["session"].as_str().expect("text")], 1),
        (&["--host", "client"], 4),
        (&["--host", "35"], 0),
        (&["--older-than", "1h"], 0),
        (&["--newer-than", "1h"], 4),
    ] {
        let found = machine.json(&[&["dead", "list"], filter].concat());
        assert_eq!(found.last().expect("done")["count"], count, "{filter:?}");
    }
    let shown = machine.told(&["dead", "show", &number(&list[0])]);
    assert!(
        shown.contains("poisoned \\u{9b}release") && shown.contains("\"impressionId\":\"i1\""),
        "{shown}"
    );
    assert_eq!(machine.command(&["dead", "show", "99"]).0, 1);
    for (what, done) in [("delete", "deleted"), ("requeue", "requeued")] {
        let out = format!("1 dead letter: would be {done}\nno such dead letter: 98, 99\n");
        let dry = ["dead", what, &number(&list[0]), "98", "99", "--dry-run"];
        assert_eq!(machine.command(&dry), (1, out, String::new()));
        let out = format!("0 dead letters: {done}\nno such dead letter: 99\n");
        assert_eq!(machine.command(&["dead", what, "99"]), (1, out, String::new()));
        let (code, out, _) = machine.command(&["dead", what, "98", "99", "--json"]);
        let line: Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!((code, &line["missing"], &line["changed"]), (1, &json!(2), &json!(false)), "{out}");
        // A filter that takes nothing was answered.
        assert_eq!(machine.told(&["dead", what, "--reason", "expired"]), format!("0 dead letters: {done}\n"));
    }
    // What would change letters has to say which.
    for wrong in [&["dead", "delete"][..], &["dead", "requeue"], &["dead", "delete", "1", "--all"]] {
        let (code, _, err) = machine.command(wrong);
        assert!(code == 64 && err.contains("all "), "{code}: {err}");
    }

    let exported = machine.told(&["dead", "export", "--session", "b"]);
    assert_eq!(exported.lines().count(), 1);
    assert_eq!(machine.told(&["dead", "delete", "--session", "b"]), "1 dead letter: deleted\n");
    machine.heal();
    let dry = ["dead", "requeue", &number(&list[0]), &number(&list[1]), "--dry-run"];
    assert_eq!(machine.told(&dry), "2 dead letters: would be requeued\n");
    // What is there goes all the same.
    let (code, out, _) = machine.command(&[&dry[..4], &["99"]].concat());
    assert_eq!((code, &*out), (1, "2 dead letters: requeued\nno such dead letter: 99\n"));
    machine.until(|status| status["delivered"] == 2);
    assert_eq!(machine.told(&["dead", "requeue", "--all"]), "1 dead letter: requeued\n");
    let lines = machine.folder.path().join("letters.jsonl");
    fs::write(&lines, exported).expect("a file");
    let sent = machine.told(&["send", &lines.display().to_string()]);
    assert!(sent.contains("queued"), "{sent}");
    let end = machine.until(|status| status["delivered"] == 4);
    assert_eq!((&end["dead"], &end["dead_held"], &end["accepted"]), (&json!(1), &json!(0), &json!(5)));
    let mut taken = machine.taken();
    taken.sort_by(|one, other| one.0.cmp(&other.0));
    let expected: Vec<_> = ["1", "2", "3", "4"]
        .map(|id| (id.to_owned(), Some(Mark::of_impression(&format!("i{id}"))), 1))
        .into();
    assert_eq!(taken, expected);
    machine.stop();
}

/// So many, of the size of the longest lines, are more than the daemon reads at a time.
#[test]
fn events_and_letters_that_are_large_are_all_shown() {
    let machine = Machine::start(Faults::default(), &[]);
    machine.told(&["pause", "--reason", "a rehearsal"]);
    let state = "x".repeat(1_000_000);
    let mut stream = connect(machine.folder.path());
    let mut replies = BufReader::new(stream.try_clone().expect("a socket can be shared")).lines();
    for number in 0..20 {
        let event = json!({
            "session_id": "a", "id": number.to_string(), "type": "click", "mbox": { "name": "home", "state": state }
        });
        stream.write_all(format!("{event}\n").as_bytes()).expect("the daemon reads");
        let reply = replies.next().expect("a reply").expect("text");
        assert!(reply.contains("queued"), "{reply}");
    }
    let numbers = |arguments: &[&str]| -> Vec<u64> {
        machine.json(arguments).iter().filter_map(|line| line["seq"].as_u64()).collect()
    };
    let all: Vec<u64> = (1..=20).collect();
    machine.until_known(20);
    assert_eq!(numbers(&["queue", "show", "a"]), all);
    assert_eq!(
        machine.told(&["queue", "drop", "--all", "--reason", "a rehearsal"]),
        "20 events of 1 session: set aside as dead letters\n"
    );
    for what in ["list", "export"] {
        assert_eq!(numbers(&["dead", what]), all, "{what}");
    }
    let kept = machine.folder.path().join("numbers");
    machine.told(&["dead", "export", "--numbers", kept.to_str().expect("a path")]);
    // What is refused after the export stays.
    machine.submit(&[("b", "later")]);
    machine.told(&["queue", "drop", "--all", "--reason", "a rehearsal"]);
    let exported = fs::read_to_string(&kept).expect("numbers");
    let delete: Vec<&str> = ["dead", "delete"].into_iter().chain(exported.lines()).collect();
    assert_eq!(machine.told(&delete), "20 dead letters: deleted\n");
    assert_eq!(numbers(&["dead", "list"]), [21]);
    machine.stop();
}

#[test]
fn letters_that_two_operators_want_count_for_one_of_them() {
    let machine = Machine::start(refusing(503), &SLOW);
    let ids: Vec<String> = (0..3_000).map(|number| format!("e{number}")).collect();
    let session = |number: usize| ["a", "b", "c"][number % 3];
    machine.submit(&ids.iter().enumerate().map(|(number, id)| (session(number), &**id)).collect::<Vec<_>>());
    let drop = ["queue", "drop", "--all", "--reason", "a rehearsal"];
    let until = Instant::now() + LIMIT;
    while machine.status()["dead_held"] != 3_000 {
        assert!(Instant::now() < until, "what is being sent goes on for ever");
        machine.told(&drop);
    }
    let asked = ["dead_delete", "dead_requeue"]
        .map(|what| ask(&machine, &format!(r#"{{"op":"{what}","where":{{"all":true}}}}"#)));
    let [deleted, requeued] = asked.map(|(_stream, mut reading)| {
        let done = next(&mut reading);
        assert_eq!(done["type"], "done", "{done}");
        done["count"].as_u64().expect("a number")
    });
    let status = machine.status();
    assert_eq!((deleted + requeued, &status["dead_held"]), (3_000, &json!(0)));
    assert_eq!(status["pending"], requeued);
    let log = fs::read_to_string(machine.folder.path().join("log")).expect("a log");
    let told = |event: &str, field: &str| -> u64 {
        let lines = log.lines().filter(|line| line.contains(&format!("\"event\":\"{event}\"")));
        let line = |text: &str| serde_json::from_str::<Value>(text).expect("a line of JSON");
        lines.map(|text| line(text)[field].as_u64().expect("a number")).sum()
    };
    assert_eq!((told("letters_deleted", "letters"), told("requeued", "events")), (deleted, requeued));
    machine.stop();
}
