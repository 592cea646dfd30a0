//! The operator's commands, through the real executable and the real socket.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};
use target_notifyd::sandbox::{self, Faults, Mark, Sandbox};
use tempfile::TempDir;

use crate::process::{LIMIT, NOBODY, cannot_write, command, connect, terminate};

/// A daemon on a folder of its own, and a stand-in for Target.
struct Machine {
    folder: TempDir,
    runtime: tokio::runtime::Runtime,
    sandbox: Option<Sandbox>,
    endpoint: String,
    daemon: Child,
}

impl Machine {
    fn start(faults: Faults, more: &[&str]) -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let sandbox = {
            let _inside = runtime.enter();
            Sandbox::start(sandbox::Settings::default()).expect("the sandbox listens")
        };
        sandbox.faults(faults);
        let folder = TempDir::new().expect("a folder");
        let endpoint = format!("http://{}", sandbox.address());
        let daemon = daemon(folder.path(), &endpoint, more);
        Self { folder, runtime, sandbox: Some(sandbox), endpoint, daemon }
    }

    fn heal(&self) {
        self.sandbox.as_ref().expect("it runs").faults(Faults::default());
    }

    /// The ids that Target took, each with its impression and how often.
    fn taken(&self) -> Vec<(String, Option<Mark>, u32)> {
        let ledger = self.sandbox.as_ref().expect("it runs").ledger();
        ledger.records().map(|record| (record.id.to_owned(), record.impression, record.times)).collect()
    }

    fn kill_and_start(&mut self, more: &[&str]) {
        self.daemon.kill().expect("the daemon is there");
        self.daemon.wait().expect("the daemon is gone");
        self.daemon = daemon(self.folder.path(), &self.endpoint, more);
    }

    /// Submits clicks with these sessions and ids.
    fn submit(&self, events: &[(&str, &str)]) {
        let mut stream = connect(self.folder.path());
        let mut replies = BufReader::new(stream.try_clone().expect("a socket can be shared")).lines();
        // A producer that writes much and reads nothing is closed.
        for some in events.chunks(100) {
            for (session, id) in some {
                let event = json!({
                    "session_id": session, "id": id, "type": "click", "impressionId": format!("i{id}")
                });
                stream.write_all(format!("{event}\n").as_bytes()).expect("the daemon reads");
            }
            for _ in some {
                let reply = replies.next().expect("a reply").expect("text");
                assert!(reply.contains("queued"), "{reply}");
            }
        }
    }

    /// What a command answers: its exit code, standard output and standard error.
    fn command(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = command(self.folder.path(), &self.endpoint, arguments).output().expect("it runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (output.status.code().expect("no signal"), text(output.stdout), text(output.stderr))
    }

    /// What a command that works prints.
    fn told(&self, arguments: &[&str]) -> String {
        let (code, out, err) = self.command(arguments);
        assert_eq!(code, 0, "{arguments:?}: {out}{err}");
        out
    }

    /// The JSON lines of a command that works.
    fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let out = self.told(&[arguments, &["--json"]].concat());
        let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines.last().expect("a line")["type"], "done", "{out}");
        lines
    }

    fn status(&self) -> Value {
        self.json(&["status"]).swap_remove(0)
    }

    /// Waits until the status is as `wanted`.
    fn until(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + LIMIT;
        loop {
            let status = self.status();
            if wanted(&status) {
                return status;
            }
            assert!(Instant::now() < until, "it does not come: {status}");
        }
    }

    /// Waits until the scheduler knows of so many events: it hears of them after their producer.
    fn until_known(&self, events: u64) {
        let until = Instant::now() + LIMIT;
        let known = |lines: &[Value]| lines.iter().filter_map(|line| line["events"].as_u64()).sum::<u64>();
        while known(&self.json(&["queue"])) != events {
            assert!(Instant::now() < until, "they do not come");
        }
    }

    fn stop(mut self) {
        assert!(terminate(&mut self.daemon).success());
        self.runtime.block_on(self.sandbox.take().expect("it runs").stop());
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Only after a panic it is still there.
        let _ended = self.daemon.kill();
        let _ended = self.daemon.wait();
    }
}

fn daemon(folder: &Path, endpoint: &str, more: &[&str]) -> Child {
    let log = File::options().create(true).append(true).open(folder.join("log")).expect("a log");
    let mut command = command(folder, endpoint, &[&["run"], more].concat());
    let child = command.stderr(log).spawn().expect("the daemon starts");
    let until = Instant::now() + LIMIT;
    // A socket that a kill left behind refuses.
    while UnixStream::connect(folder.join("admin.sock")).is_err() {
        assert!(Instant::now() < until, "the admin socket does not come");
        std::thread::yield_now();
    }
    child
}

fn refusing(status: u16) -> Faults {
    Faults { refuse_all: Some(status), ..Faults::default() }
}

/// An hour of backoff, and no breaker.
const SLOW: [&str; 6] =
    ["-o", "retry.initial=1h", "-o", "retry.max=1h", "-o", "delivery.breaker_failures=1000"];

#[test]
fn one_screen_tells_what_waits_and_why() {
    let machine =
        Machine::start(refusing(503), &["-o", "delivery.breaker_open=1h", "-o", "delivery.breaker_max=1h"]);
    machine.submit(&[("a", "1"), ("a", "2"), ("b", "3"), ("c", "4"), ("d", "5"), ("e", "6"), ("f", "7")]);
    let status = machine.until(|status| status["hosts"][0]["state"] == "breaker");
    assert_eq!(
        (&status["pending"], &status["accepted"], &status["delivered"]),
        (&json!(7), &json!(7), &json!(0))
    );
    assert_eq!((&status["client"], &status["protocol"]), (&json!("acme"), &json!(1)));
    assert!(status["oldest_s"].as_f64() > Some(0.0) && status["fits_s"].as_f64() > Some(0.0), "{status}");
    assert!(status["drained_s"].is_null(), "nothing goes out: {status}");
    let advice = status["advice"].to_string();
    assert!(advice.contains("check --online"), "{advice}");
    let host = &status["hosts"][0];
    let says = host["error"].as_str().is_some_and(|error| error.contains("refused"));
    assert!(host["since_s"].as_f64() >= Some(0.0) && says, "{host}");
    let screen = machine.told(&["status"]);
    for part in
        ["running", "7 events", "breaker", "7 accepted = 0 delivered", "to do", "Target", "of an outage"]
    {
        assert!(screen.contains(part), "{part} in:\n{screen}");
    }
    assert!(!screen.chars().any(|one| one.is_control() && one != '\n'), "{screen:?}");

    // Each backs off by itself first, for less than the breaker is open.
    let all_wait_for_the_breaker = |lines: &[Value]| {
        lines.iter().filter(|line| line["type"] == "lane").all(|line| line["state"] == "breaker")
    };
    let until = Instant::now() + LIMIT;
    let mut lines = machine.json(&["queue"]);
    while !all_wait_for_the_breaker(&lines) {
        assert!(Instant::now() < until, "{lines:?}");
        lines = machine.json(&["queue"]);
    }
    let lanes: Vec<&Value> = lines.iter().filter(|line| line["type"] == "lane").collect();
    assert_eq!(lanes.len(), 6);
    assert!(lanes.windows(2).all(|pair| pair[0]["first"].as_u64() < pair[1]["first"].as_u64()), "{lanes:?}");
    let first = lanes[0];
    assert_eq!(
        (&first["state"], &first["events"], &first["host"]),
        (&json!("breaker"), &json!(2), &json!("client"))
    );
    assert!(
        first["wait_s"].as_f64() > Some(60.0)
            && first["error"].as_str().is_some_and(|error| error.contains("refused")),
        "{first}"
    );
    assert_eq!(lines[0]["host"], "TOTAL");
    assert_eq!(lines[0]["counts"][0], 7);
    assert_eq!(machine.json(&["queue", "--scan"]).iter().filter(|line| line["type"] == "lane").count(), 6);
    let cut = machine.told(&["queue", "list", "--limit", "1"]);
    assert!(cut.contains("5 of 7 are not shown"), "{cut}");

    // A session is named by its id, or by the hash that is shown.
    let hash = first["session"].as_str().expect("text");
    assert!(hash.len() == 12 && hash != "a");
    for name in ["a", hash] {
        let events = machine.json(&["queue", "show", name]);
        assert_eq!(
            (&events[0]["id"], &events[1]["id"], &events[2]["count"]),
            (&json!("1"), &json!("2"), &json!(2))
        );
        assert_eq!(events[0]["notification"]["impressionId"], "i1");
    }
    let (code, _, err) = machine.command(&["queue", "show", "nobody"]);
    assert!(code == 1 && err.contains("nothing of the session nobody waits"), "{code}: {err}");
    let (code, _, err) = machine.command(&["queue", "hold", "--host", "nowhere"]);
    assert!(code == 64 && err.contains("client"), "{code}: {err}");
    machine.stop();
}

#[test]
fn nobody_answers_without_a_daemon() {
    let folder = TempDir::new().expect("a folder");
    for arguments in [
        &["status"][..],
        &["queue"],
        &["dead", "list"],
        &["flush"],
        &["resume"],
        &["tail"],
        &["status", "--watch"],
    ] {
        let output = command(folder.path(), NOBODY, arguments).output().expect("it runs");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(69), "{arguments:?}: {told}");
        assert!(told.contains("admin.sock") && told.contains("is the daemon running?"), "{told}");
    }
}

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
    assert!(machine.told(&["flush"]).contains("a hold is in force"));
    assert_eq!(states(&machine), ["held"]);
    assert_eq!(machine.told(&["queue", "release", "b"]), "2 events of 1 session: released\n");
    machine.until(|status| status["delivered"] == 3);
    assert_eq!(machine.told(&["resume"]), "nothing was paused\n");

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
    machine.stop();
}

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
        assert_eq!(
            machine.told(&["dead", what, &number(&list[0]), "98", "99", "--dry-run"]),
            format!("1 dead letter: would be {done}\nno such dead letter: 98, 99\n")
        );
        assert_eq!(
            machine.told(&["dead", what, "99"]),
            format!("0 dead letters: {done}\nno such dead letter: 99\n")
        );
    }
    // What would change letters has to say which.
    let (code, _, err) = machine.command(&["dead", "delete"]);
    assert!(code == 1 && err.contains("--all"), "{code}: {err}");

    let exported = machine.told(&["dead", "export", "--session", "b"]);
    assert_eq!(exported.lines().count(), 1);
    assert_eq!(machine.told(&["dead", "delete", "--session", "b"]), "1 dead letter: deleted\n");
    machine.heal();
    let dry = ["dead", "requeue", &number(&list[0]), &number(&list[1]), "--dry-run"];
    assert_eq!(machine.told(&dry), "2 dead letters: would be requeued\n");
    assert_eq!(machine.told(&dry[..4]), "2 dead letters: requeued\n");
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
    let ended = flush.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "what waited is delivered or set aside\n");
    assert!(ended.status.success());
    machine.stop();
}

#[test]
fn an_answer_that_cannot_be_written_is_a_failure_and_a_reader_who_has_enough_is_none() {
    let machine = Machine::start(Faults::default(), &[]);
    for arguments in [&["status"][..], &["queue", "--json"], &["dead", "list"], &["flush"]] {
        cannot_write(|| command(machine.folder.path(), &machine.endpoint, arguments));
    }
    machine.stop();
}

/// Asks on the socket itself.
fn ask(machine: &Machine, line: &str) -> (UnixStream, BufReader<UnixStream>) {
    let mut stream = UnixStream::connect(machine.folder.path().join("admin.sock")).expect("it is served");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    // A connection that is one too many is answered and closed before it has asked.
    let _closed = stream.write_all(format!("{line}\n").as_bytes());
    let reading = BufReader::new(stream.try_clone().expect("a socket can be shared"));
    (stream, reading)
}

fn next(reading: &mut BufReader<UnixStream>) -> Value {
    let mut line = String::new();
    reading.read_line(&mut line).expect("an answer");
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[test]
fn outcomes_are_told_as_they_happen_and_who_is_slow_is_told_how_many_were_missed() {
    let machine = Machine::start(Faults::default(), &["-o", "batch.linger=0s"]);
    let mut tail =
        command(machine.folder.path(), &machine.endpoint, &["tail", "--json", "-n", "1", "--session", "b"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
    let mut told = BufReader::new(tail.stdout.take().expect("a pipe")).lines();
    let listening = told.next().expect("a line").expect("text");
    assert!(listening.contains("listening"), "{listening}");
    // It reads nothing until all is over.
    let (_slow, mut slow) = ask(&machine, r#"{"op":"tail"}"#);
    assert_eq!(next(&mut slow)["type"], "listening");

    machine.submit(&[("a", "1"), ("b", "2")]);
    let outcome: Value = serde_json::from_str(&told.next().expect("a line").expect("text")).expect("JSON");
    assert_eq!((&outcome["outcome"], &outcome["ids"]), (&json!("delivered"), &json!(["2"])));
    assert!(tail.wait().expect("it ends").success());

    let count = 6_000;
    let names: Vec<String> = (0..count).map(|number| format!("many{number}")).collect();
    machine.submit(&names.iter().map(|name| (name.as_str(), name.as_str())).collect::<Vec<_>>());
    let drained = machine.until(|status| status["pending"] == 0);
    assert_eq!(drained["delivered"], count + 2);
    let (mut outcomes, mut missed) = (0, 0);
    while outcomes + missed < count + 2 {
        let line = next(&mut slow);
        match line["type"].as_str() {
            Some("outcome") => outcomes += line["ids"].as_array().expect("ids").len() as u64,
            Some("missed") => missed += line["count"].as_u64().expect("a number"),
            _ => panic!("{line}"),
        }
    }
    assert_eq!(outcomes + missed, count + 2);
    assert!(missed > 0 && outcomes > 0, "{outcomes} told, {missed} missed");
    machine.stop();
}

#[test]
fn the_door_is_narrow() {
    let machine = Machine::start(Faults::default(), &[]);
    let socket = machine.folder.path().join("admin.sock");
    let mode = fs::metadata(&socket).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // Nonsense harms nobody, and the connection goes on.
    let (mut stream, mut reading) = ask(&machine, "nonsense");
    assert_eq!(next(&mut reading)["code"], "malformed");
    for (line, code) in [
        (r#"{"op":"nothing"}"#, "malformed"),
        (r#"{"op":"status","v":2}"#, "version"),
        (r#"{"op":"queue_show","session":"with space"}"#, "malformed"),
        (r#"{"op":"dead_list","where":{"reason":"none"}}"#, "malformed"),
        (r#"{"op":"tail","outcomes":["lost"]}"#, "malformed"),
        (r#"{"op":"dead_requeue","where":{}}"#, "ambiguous"),
    ] {
        stream.write_all(format!("{line}\n").as_bytes()).expect("it is read");
        assert_eq!(next(&mut reading)["code"], code, "{line}");
    }
    stream.write_all(b"{\"op\":\"status\"}\r\n\n{\"op\":\"flush\"}\n").expect("it is read");
    assert_eq!(
        ["status", "done", "done"],
        [(); 3]
            .map(|()| next(&mut reading)["type"].as_str().unwrap_or_default().to_owned())
            .each_ref()
            .map(String::as_str)
    );
    // A line without an end ends the connection.
    let (_long, mut reading) = ask(&machine, &"x".repeat(70_000));
    assert_eq!(next(&mut reading)["code"], "malformed");

    // As many as may be; those who end make room.
    drop((stream, reading));
    let full = |machine: &Machine| {
        let mut open = Vec::new();
        loop {
            let (stream, mut reading) = ask(machine, r#"{"op":"status"}"#);
            match next(&mut reading)["code"].as_str() {
                None => open.push((stream, reading)),
                Some(code) => return (open, code.to_owned()),
            }
        }
    };
    let (open, code) = full(&machine);
    assert_eq!(code, "too_many_connections");
    assert!(open.len() <= 16 && open.len() > 10, "{}", open.len());
    drop(open);
    let until = Instant::now() + LIMIT;
    while machine.command(&["status"]).0 != 0 {
        assert!(Instant::now() < until, "nobody makes room");
    }

    // Another user is turned away even where the file lets him in.
    if !nix::unistd::geteuid().is_root() {
        eprintln!("only root can become another user: who is turned away was not tried");
        return machine.stop();
    }
    for path in [machine.folder.path(), &socket] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("root may");
    }
    let python = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.makefile().readline())";
    match Command::new("python3").args(["-c", python]).arg(&socket).uid(65_534).output() {
        Ok(output) => {
            let told = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(told.contains("forbidden"), "{told}{}", String::from_utf8_lossy(&output.stderr));
        }
        Err(error) => eprintln!("python3 cannot be run as another user: {error}"),
    }
    machine.stop();
}

#[test]
fn a_watched_status_is_drawn_again_and_ends_with_its_reader() {
    let mut machine = Machine::start(Faults::default(), &[]);
    let mut watch =
        command(machine.folder.path(), &machine.endpoint, &["status", "--watch", "--every", "1ms"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
    let mut out = watch.stdout.take().expect("a pipe");
    let (mut seen, mut buffer) = (Vec::new(), [0; 4_096]);
    while String::from_utf8_lossy(&seen).matches("target-notifyd ").count() < 3 {
        let count = out.read(&mut buffer).expect("text");
        assert!(count > 0, "it ended: {}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&buffer[..count]);
    }
    // No terminal, no colours.
    assert!(!seen.contains(&0x1b));
    drop(out);
    assert_eq!(watch.wait().expect("it ends").code(), Some(0));

    // It outlives a restart, of which it tells once.
    let mut watch =
        command(machine.folder.path(), &machine.endpoint, &["status", "--watch", "--every", "1ms"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
    let mut told = BufReader::new(watch.stderr.take().expect("a pipe"));
    let out = BufReader::new(watch.stdout.take().expect("a pipe"));
    let (sender, lines) = std::sync::mpsc::channel();
    // Its pipe must not fill up meanwhile.
    let reader = std::thread::spawn(move || {
        for line in out.lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let shows = |lines: &std::sync::mpsc::Receiver<String>, text: &str| {
        while !lines.recv_timeout(LIMIT).expect("a line").contains(text) {}
    };
    // With the second picture the answer to the first is whole.
    (0..2).for_each(|_| shows(&lines, "0 accepted"));
    machine.kill_and_start(&[]);
    machine.submit(&[("a", "1")]);
    shows(&lines, "1 accepted");
    drop(lines);
    reader.join().expect("no panic");
    assert_eq!(watch.wait().expect("it ends").code(), Some(0));
    let mut away = String::new();
    told.read_to_string(&mut away).expect("text");
    assert!(away.starts_with("the daemon is away, and is asked again every 1ms: "), "{away}");
    assert_eq!(away.lines().count(), 1, "{away}");
    machine.stop();
}
