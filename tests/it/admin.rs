//! The operator's commands, through the real executable and the real socket.

mod controls;
mod dead;
mod full;
mod machine;
mod reload;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::Instant;

use serde_json::{Value, json};
use target_notifyd::admin::protocol::{Answer, Done};
use target_notifyd::sandbox::Faults;
use tempfile::TempDir;

use self::machine::{Machine, refusing};
use crate::process::{LIMIT, NOBODY, cannot_write, command, end};

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
    assert!(cut.contains("5 of 7 events are not shown"), "{cut}");

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
fn of_an_edge_host_that_fails_is_told_where_its_events_go() {
    let edge = format!("target.edge_endpoint={NOBODY}");
    let mut options = vec!["-o", &edge, "-o", "target.location_hint=35"];
    // Longer than the test: it stays as it is.
    options.extend(["-o", "delivery.breaker_open=1h", "-o", "delivery.breaker_max=1h"]);
    let machine = Machine::start(Faults::default(), &options);
    machine.submit(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "5"), ("f", "6")]);
    let status = machine.until(|status| status["delivered"] == 6);
    let told = |advice: &Value| advice["run"] == "target-notifyd check --online -o target.location_hint=35";
    let advice = status["advice"].as_array().and_then(|all| all.iter().find(|one| told(one)));
    let about = advice.and_then(|one| one["about"].as_str()).unwrap_or_default();
    assert!(about.starts_with("edge 35 fails: its events go to the client's own host"), "{status}");
    machine.told(&["status"]);
    let log = fs::read_to_string(machine.folder.path().join("log")).expect("a log");
    let line = log.lines().find(|line| line.contains("breaker_opened") && line.contains("edge 35"));
    assert!(line.is_some_and(|line| line.contains("sessions go to the client's own host")), "{log}");
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

/// Answers one request on the admin socket of `folder`, and is not there for another one.
fn answer_once(folder: &Path, answers: &[Answer]) -> JoinHandle<()> {
    let socket = folder.join("admin.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let lines = answers.iter().map(|answer| serde_json::to_string(answer).expect("JSON") + "\n");
    let lines = lines.collect::<String>();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody asks");
        drop(listener);
        fs::remove_file(socket).expect("it lies there");
        BufReader::new(&stream).read_line(&mut String::new()).expect("a request");
        stream.write_all(lines.as_bytes()).expect("the command reads");
    })
}

#[test]
fn a_watched_instance_that_goes_away_is_named_in_what_is_to_be_looked_at() {
    let folder = TempDir::new().expect("a folder");
    let daemon = answer_once(folder.path(), &[Answer::Status(Box::default()), Answer::Done(Done::default())]);
    let mut watch =
        command(folder.path(), NOBODY, &["--instance", "shop", "status", "--watch", "--every", "1ms"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
    let mut told = String::new();
    let away = watch.stderr.take().expect("a pipe");
    BufReader::new(away).read_line(&mut told).expect("text");
    assert!(told.contains("the daemon running? systemctl status target-notifyd@shop tells"), "{told}");
    watch.kill().expect("it waits");
    watch.wait().expect("it is gone");
    daemon.join().expect("no panic");
}

#[test]
fn a_letter_that_cannot_be_exported_shows_in_the_exit_code() {
    let folder = TempDir::new().expect("a folder");
    let letter = |refused: Option<&str>| Answer::Submission {
        seq: 7,
        line: "{}".to_owned(),
        refused: refused.map(str::to_owned),
    };
    for (refused, code) in [(None, 0), (Some("it is too long"), 1)] {
        for form in [&["dead", "export"][..], &["dead", "export", "--json"]] {
            let daemon = answer_once(folder.path(), &[letter(refused), Answer::Done(Done::default())]);
            let output = command(folder.path(), NOBODY, form).output().expect("it runs");
            assert_eq!(output.status.code(), Some(code), "{form:?}: {output:?}");
            daemon.join().expect("no panic");
        }
    }
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
    assert!(end(&mut tail).success());

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
fn what_an_answer_left_out_is_not_told_as_listed() {
    let machine = Machine::start(Faults { list_none: true, ..Faults::default() }, &[]);
    let (_stream, mut tail) = ask(&machine, r#"{"op":"tail","limit":1}"#);
    assert_eq!(next(&mut tail)["type"], "listening");
    machine.submit(&[("a", "1")]);
    let outcome = next(&mut tail);
    assert_eq!((&outcome["outcome"], &outcome["answer"]), (&json!("retry"), &json!("unlisted")));
    machine.heal();
    machine.until(|status| status["delivered"] == 1);
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
    assert_eq!(end(&mut watch).code(), Some(0));

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
        let until = Instant::now() + LIMIT;
        // One picture comes after the other.
        while !lines.recv_timeout(until.saturating_duration_since(Instant::now())).expect(text).contains(text)
        {
        }
    };
    // With the second picture the answer to the first is whole.
    (0..2).for_each(|_| shows(&lines, "0 accepted"));
    machine.kill_and_start(&[]);
    machine.submit(&[("a", "1")]);
    shows(&lines, "1 accepted");
    drop(lines);
    reader.join().expect("no panic");
    assert_eq!(end(&mut watch).code(), Some(0));
    let mut away = String::new();
    told.read_to_string(&mut away).expect("text");
    assert!(away.starts_with("no answer, and the daemon is asked again every 1ms: "), "{away}");
    assert_eq!(away.lines().count(), 1, "{away}");
    machine.stop();
}
