//! What a reload changes is in force everywhere at once, and again as it was once it is changed back.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::Instant;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};
use target_notifyd::sandbox::Faults;
use tempfile::TempDir;

use super::machine::{Machine, refusing};
use crate::authority::Authority;
use crate::process::{LIMIT, Log, NOBODY, command, connect, hang_up, terminate};

/// The sessions that a command names.
fn sessions(machine: &Machine, arguments: &[&str]) -> Vec<String> {
    let lines = machine.json(arguments);
    lines.iter().filter_map(|line| line["session"].as_str().map(ToOwned::to_owned)).collect()
}

#[test]
fn operators_see_the_ids_that_the_log_shows() {
    let machine = Machine::start(Faults::default(), &[]);
    machine.told(&["pause", "--reason", "a rehearsal"]);
    machine.submit(&[("session-a", "1"), ("session-b", "2")]);
    machine.until_known(2);
    machine.told(&["queue", "drop", "session-b", "--reason", "a rehearsal"]);
    machine.told(&["queue", "hold", "session-a"]);
    let places: [&[&str]; 2] = [&["queue"], &["dead", "list"]];
    let hashes = places.map(|place| sessions(&machine, place));
    assert!(hashes.iter().all(|one| matches!(one.as_slice(), [hash] if hash.len() == 12)), "{hashes:?}");
    let held = |machine: &Machine| machine.status()["held"][0]["of"].clone();
    assert_eq!(held(&machine), format!("session {}", hashes[0][0]));

    machine.reload(&[("log", "identifiers", "\"plain\"")]);
    assert_eq!(places.map(|place| sessions(&machine, place)), [["session-a"], ["session-b"]]);
    assert_eq!(held(&machine), "session session-a");
    let (code, _, told) = machine.command(&["queue", "show", &hashes[0][0]]);
    assert!(code == 1 && told.contains("no session that waits or is held"), "no log shows it now: {told}");

    machine.reload(&[]);
    assert_eq!(places.map(|place| sessions(&machine, place)), hashes);
    assert_eq!(held(&machine), format!("session {}", hashes[0][0]));
    assert!(machine.told(&["queue", "show", &hashes[0][0]]).contains('1'));
    machine.stop();
}

#[test]
fn a_daemon_whose_file_is_wrong_can_be_looked_at_all_the_same() {
    let machine = Machine::start(Faults::default(), &[]);
    let folder = machine.folder.path();
    let lines = folder.join("lines");
    fs::write(&lines, click("s", false, 1)).expect("a file");
    let send = ["send", lines.to_str().expect("a path")];
    // With a file in which something stands in the place of something else.
    let ended = |arguments: &[&str], (sound, wrong): (&str, &str)| {
        let mut asked = command(folder, &machine.endpoint, arguments);
        let text = fs::read_to_string(folder.join("config.toml")).expect("a configuration");
        assert!(text.contains(sound), "{text}");
        fs::write(folder.join("config.toml"), text.replace(sound, wrong)).expect("a configuration");
        let output = asked.output().expect("it runs");
        (output.status.code(), String::from_utf8(output.stderr).expect("text"))
    };
    let other = ("linger = \"10ms\"", "linger = 7\nmax_evnts = 1");
    for arguments in [
        &["status", "--json"][..],
        &["queue"],
        &["queue", "release", "--all"],
        &["dead", "list"],
        &["pause", "--reason", "a rehearsal"],
        &["resume"],
        &["flush"],
        &send,
    ] {
        let (code, told) = ended(arguments, other);
        let warned = "batch.linger is wrong, and 1 more; target-notifyd check tells all\n";
        assert!(code == Some(0) && told.ends_with(warned), "{arguments:?}: {code:?} {told}");
        assert!(told.starts_with("warning: ") && told.lines().count() == 1, "{arguments:?}: {told}");
    }
    let (code, told) = ended(&["--instance", "shop", "status"], other);
    assert!(code == Some(0) && told.contains("; target-notifyd --instance shop check tells"), "{told}");
    let sockets = ["admin.sock", "notify.sock"].map(|name| format!("\"{}\"", folder.join(name).display()));
    for (arguments, own) in [(&["status"][..], &sockets[0]), (&send, &sockets[1])] {
        for wrong in [(own.as_str(), "7"), ("[batch]", "[batch")] {
            let (code, told) = ended(arguments, wrong);
            assert!(code == Some(78) && !told.contains("warning"), "{arguments:?}: {code:?} {told}");
        }
    }
    // Whatever the file says of it where `-o` sets it.
    let given = |key: &str, own: &str| format!("{key}={}", own.trim_matches('"'));
    let (admin, ingest) = (given("admin.socket", &sockets[0]), given("ingest.socket", &sockets[1]));
    for arguments in [&["status", "-o", &admin][..], &["send", send[1], "-o", &ingest]] {
        let (code, told) = ended(arguments, ("[batch]", "[batch"));
        assert!(code == Some(0) && told.contains(": this is no TOML: "), "{arguments:?}: {code:?} {told}");
        assert!(told.starts_with("warning: ") && told.lines().count() == 1, "{arguments:?}: {told}");
    }
    for strict in ["run", "check", "sandbox"] {
        assert_eq!(ended(&[strict], other).0, Some(78), "{strict}");
    }
    machine.stop();
}

#[test]
fn a_file_of_certificates_is_read_again_and_one_that_cannot_be_is_told() {
    let folder = TempDir::new().expect("a folder");
    let file = Authority::new("an authority").file(&folder);
    let machine = Machine::start(Faults::default(), &["-o", &format!("target.ca_file={}", file.display())]);
    let after_reload = || {
        machine.reload(&[]);
        let log = fs::read_to_string(machine.folder.path().join("log")).expect("a log");
        ["certificates_changed", "certificates_kept"].map(|event| log.matches(event).count())
    };
    assert_eq!(after_reload(), [0, 0]);
    fs::remove_file(&file).expect("it lies there");
    assert_eq!(after_reload(), [0, 1]);
    Authority::new("another authority").file(&folder);
    assert_eq!(after_reload(), [1, 1]);
    assert_eq!(after_reload(), [1, 1]);
    machine.stop();
}

#[test]
fn a_file_of_certificates_that_is_named_no_more_is_not_read_again() {
    let folder = TempDir::new().expect("a folder");
    let certificates = Authority::new("an authority").file(&folder);
    let mut run = command(folder.path(), NOBODY, &["run"]);
    let file = folder.path().join("config.toml");
    let without = fs::read_to_string(&file).expect("a configuration");
    let named = format!("[target]\nca_file = \"{}\"\n", certificates.display());
    fs::write(&file, without.replace("[target]\n", &named)).expect("a configuration");
    let mut daemon = run.stderr(Stdio::piped()).spawn().expect("the daemon starts");
    let mut log = Log::of(&mut daemon);
    log.says("the daemon takes events in");
    fs::write(&file, without).expect("a configuration");
    fs::remove_file(certificates).expect("it lies there");
    hang_up(&daemon);
    log.says("the configuration was read again");
    assert!(terminate(&mut daemon).success());
    let told = log.all();
    let warnings: Vec<&Value> = told.iter().filter(|line| line["level"] == "WARN").collect();
    assert!(matches!(warnings.as_slice(), [one] if one["keys"] == "target.ca_file"), "{warnings:#?}");
}

#[test]
fn a_configuration_that_is_a_pipe_is_not_read_again_and_holds_up_no_later_reload() {
    let machine = Machine::start(Faults::default(), &[]);
    let (file, log) = (machine.folder.path().join("config.toml"), machine.folder.path().join("log"));
    fs::remove_file(&file).expect("it lies there");
    mkfifo(&file, Mode::S_IRWXU).expect("a FIFO");
    hang_up(&machine.daemon);
    let until = Instant::now() + LIMIT;
    let told = || fs::read_to_string(&log).expect("a log");
    while !told().contains("reload_failed") {
        assert!(Instant::now() < until, "the reload waits: {}", told());
        std::thread::yield_now();
    }
    assert!(told().contains("config.toml is a pipe, which is read at the start alone"), "{}", told());
    fs::remove_file(&file).expect("it lies there");
    machine.reload(&[]);
    machine.stop();
}

/// The replies to these lines on a connection of their own, as far as they come.
pub(super) fn replies(machine: &Machine, lines: &[String]) -> Vec<String> {
    let mut stream = connect(machine.folder.path());
    let answers = BufReader::new(stream.try_clone().expect("a socket can be shared")).lines();
    // Who is turned away is answered before it is read.
    let _turned_away = stream.write_all(lines.concat().as_bytes());
    answers.map_while(Result::ok).take(lines.len()).collect()
}

/// A click of `session`, whose mbox has so many bytes of state.
pub(super) fn click(session: &str, receipt: bool, bytes: usize) -> String {
    let mbox = json!({ "name": "home", "state": "x".repeat(bytes) });
    let event = json!({ "session_id": session, "type": "click", "mbox": mbox, "receipt": receipt });
    format!("{event}\n")
}

fn is_told(machine: &Machine, line: String, wanted: &str) -> bool {
    replies(machine, &[line]).iter().any(|reply| reply.contains(wanted))
}

/// Submits an event of `session`, and waits for its lane to be as `wanted`.
fn lane(machine: &Machine, session: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    machine.submit(&[(session, session)]);
    let until = Instant::now() + LIMIT;
    loop {
        let lines = machine.json(&["queue", "list", "--limit", "1000"]);
        if let Some(lane) = lines.into_iter().find(|line| line["session"] == session && wanted(line)) {
            return lane;
        }
        assert!(Instant::now() < until, "the lane of {session} does not come");
    }
}

/// Submits an event of `session` and drops it; its letter's number, where nobody was sending it.
fn dropped(machine: &Machine, session: &str) -> Option<u64> {
    lane(machine, session, |_| true);
    machine.told(&["queue", "drop", session, "--reason", "a rehearsal"]);
    machine.json(&["dead", "list", "--session", session])[0]["seq"].as_u64()
}

/// Settings as they are read again, and what tells, of a session that is new, whether they are in force.
type Row = (&'static [(&'static str, &'static str, &'static str)], fn(&Machine, &str) -> bool);

const ROWS: [Row; 15] = [
    (&[("ingest", "max_line", "\"1KiB\"")], |machine, session| {
        is_told(machine, click(session, false, 2_000), "line_too_long")
    }),
    (&[("ingest", "allow_users", "[4294967294]")], |machine, session| {
        is_told(machine, click(session, false, 0), "forbidden")
    }),
    (&[("ingest", "allow_groups", "[4294967294]")], |machine, session| {
        is_told(machine, click(session, false, 0), "forbidden")
    }),
    (&[("ingest", "max_connections", "1")], second_is_turned_away),
    (&[("ingest", "max_connections_per_user", "1")], second_is_turned_away),
    (&[("ingest", "max_receipts", "1")], |machine, session| {
        let lines = [click(session, true, 0), click(session, true, 0)];
        replies(machine, &lines).iter().any(|reply| reply.contains("\"receipt\":false"))
    }),
    (&[("queue", "max_events", "1")], |machine, session| {
        is_told(machine, click(session, false, 0), "queue_full")
    }),
    (&[("queue", "max_bytes", "\"4KiB\"")], |machine, session| {
        is_told(machine, click(session, false, 5_000), "queue_full")
    }),
    (&[("queue", "min_free", "\"1024TiB\"")], |machine, session| {
        is_told(machine, click(session, false, 0), "storage_full")
    }),
    (&[("queue", "dead_max_events", "0")], |machine, session| {
        lane(machine, session, |_| true);
        let dropping = ["queue", "drop", session, "--reason", "a rehearsal", "--dry-run"];
        machine.command(&dropping).2.contains("queue.dead_max_events is 0")
    }),
    (&[("queue", "dead_max_age", "\"1ms\"")], |machine, session| {
        let before = machine.status()["dead"].as_u64();
        dropped(machine, session).is_none() && machine.status()["dead"].as_u64() > before
    }),
    (&[("batch", "linger", "\"1h\"")], |machine, session| {
        lane(machine, session, |_| true)["wait_s"].as_f64() > Some(60.0)
    }),
    (&[("retry", "initial", "\"1h\""), ("retry", "max", "\"1h\"")], |machine, session| {
        let failed = lane(machine, session, |lane| lane["failures"].as_u64() > Some(0));
        failed["wait_s"].as_f64() > Some(1.0)
    }),
    (&[("target", "property_token", "\"read-again\"")], |machine, session| {
        let letter = dropped(machine, session);
        letter.is_some_and(|seq| machine.told(&["dead", "show", &seq.to_string()]).contains("read-again"))
    }),
    (&[("target", "location_hint", "\"35\"")], |machine, session| {
        lane(machine, session, |_| true)["host"] == "edge 35"
    }),
];

/// Whether a connection is one too many while another is open.
fn second_is_turned_away(machine: &Machine, session: &str) -> bool {
    let mut first = connect(machine.folder.path());
    let _turned_away = first.write_all(click(session, false, 0).as_bytes());
    // From its answer on it counts.
    let _reply = BufReader::new(&first).lines().next();
    is_told(machine, click(session, false, 0), "too_many_connections")
}

#[test]
fn every_part_goes_by_what_was_read_again() {
    let machine = Machine::start(
        refusing(503),
        &[
            "-o",
            "log.identifiers=plain",
            "-o",
            "log.summary_interval=50ms",
            "-o",
            "delivery.breaker_failures=1000000",
            "-o",
            "target.edge_endpoint=http://127.0.0.1:9/{cluster}",
        ],
    );
    let mut serial = 0;
    let mut is_in_force = |row: &Row| {
        serial += 1;
        (row.1)(&machine, &format!("s{serial}"))
    };
    for row in &ROWS {
        assert!(!is_in_force(row), "before: {:?}", row.0);
        machine.reload(row.0);
        let until = Instant::now() + LIMIT;
        while !is_in_force(row) {
            assert!(Instant::now() < until, "not in force: {:?}", row.0);
        }
        machine.reload(&[]);
    }
    machine.stop();
}
