//! The executable's commands and exit codes, as scripts and service managers see them.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Instant;

use target_notifyd::sandbox::{self, Sandbox};
use tempfile::TempDir;

use crate::process::{LIMIT, NOBODY, command, connect, terminate};

fn run(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command.output().expect("the executable runs");
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

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
    let mut daemon = command(folder.path(), NOBODY, &["run"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the daemon starts");
    submit(folder.path());
    let (code, told) = run(&mut command(folder.path(), NOBODY, &["run"]));
    assert!(code == Some(75), "{code:?}: {told}");
    daemon.kill().expect("the daemon is there");
    daemon.wait().expect("the daemon is gone");

    let other = "target.client=other";
    let (code, told) = run(&mut command(folder.path(), NOBODY, &["run", "-o", other]));
    assert!(code == Some(78) && told.contains("acme") && told.contains("other"), "{code:?}: {told}");
    let adopt = &["run", "--adopt-queue", "-o", other];
    let mut daemon = command(folder.path(), NOBODY, adopt)
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the daemon starts");
    submit(folder.path());
    assert!(terminate(&mut daemon).success());
    // It belongs to the other one now.
    let (code, told) = run(&mut command(folder.path(), NOBODY, &["run"]));
    assert!(code == Some(78) && told.contains("--adopt-queue"), "{code:?}: {told}");
}

#[test]
fn an_override_without_a_value_is_a_wrong_command_line_and_an_unknown_key_a_wrong_configuration() {
    let folder = folder();
    for command_ in ["run", "check", "status"] {
        for (argument, exit) in [("novalue", 64), ("=5", 64), ("batch.lingr=5s", 78)] {
            let (code, told) = run(&mut command(folder.path(), NOBODY, &[command_, "-o", argument]));
            let says = if exit == 64 { "must be KEY=VALUE" } else { "batch.lingr is no known key" };
            assert!(code == Some(exit) && told.contains(says), "{command_} -o {argument}: {code:?}: {told}");
        }
    }
}

#[test]
fn a_duration_that_no_key_would_take_is_a_wrong_command_line() {
    let folder = folder();
    let longest = ["18446744073709551615s", "3651days"];
    for arguments in [
        &["send", "/dev/null", "--timeout"][..],
        &["send", "/dev/null", "--receipts", "--timeout"],
        &["status", "--watch", "--every"],
        &["pause", "--reason", "a rehearsal", "--for"],
        &["dead", "list", "--older-than"],
        &["dead", "delete", "--newer-than"],
        &["store", "export", "--dead", "--older-than"],
        &["store", "export", "--dead", "--newer-than"],
        &["bench", "idle", "--time"],
    ] {
        for value in longest {
            let (code, told) = run(&mut command(folder.path(), NOBODY, &[arguments, &[value]].concat()));
            assert!(code == Some(64) && told.contains("must be a duration from"), "{arguments:?}: {told}");
        }
    }
    let (code, told) = run(&mut command(folder.path(), NOBODY, &["bench", "idle", "--time", "0s"]));
    assert!(code == Some(64) && told.contains("from 1ms to 3650d,"), "{told}");
    for timeout in ["3650days", "0s"] {
        let sending = ["send", "/dev/null", "--receipts", "--timeout", timeout];
        assert_eq!(run(&mut command(folder.path(), NOBODY, &sending)), (Some(0), String::new()));
    }
}

#[test]
fn what_is_no_number_of_a_dead_letter_is_a_wrong_command_line() {
    let folder = folder();
    for arguments in [["dead", "show", "abc"], ["dead", "requeue", "1.5"]] {
        let (code, told) = run(&mut command(folder.path(), NOBODY, &arguments));
        assert!(code == Some(64) && told.contains("see target-notifyd dead list"), "{arguments:?}: {told}");
    }
}

#[test]
fn a_path_reaches_no_terminal_as_it_stands() {
    let folder = folder();
    let path = format!("{}/\u{1b}[31m\u{202e}", folder.path().display());
    let (queue, admin) = (format!("queue.path={path}"), format!("admin.socket={path}"));
    let file = folder.path().join("lines");
    std::fs::write(&file, "{}\n").expect("a file");
    let lines = file.to_str().expect("a path");
    for arguments in [
        &["send", &path][..],
        &["status", "-o", &admin],
        &["store", "check", "-o", &queue],
        &["man", &path],
        &["send", lines, "--timeout", "0s", "-o", &format!("ingest.socket={path}")],
    ] {
        let (_, told) = run(&mut command(folder.path(), NOBODY, arguments));
        let shown = told.contains("\\u{1b}[31m\\u{202e}") && !told.contains(['\u{1b}', '\u{202e}']);
        assert!(shown, "{arguments:?}: {told:?}");
    }
}

/// The lines of a daemon's log from its start to its end.
fn log(folder: &Path, endpoint: &str, more: &[&str]) -> Vec<serde_json::Value> {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;
    let arguments = [&["run", "-o", "log.summary_interval=10ms", "-o", "log.level=debug"], more].concat();
    let mut command = command(folder, endpoint, &arguments);
    let mut daemon = command.stderr(Stdio::piped()).spawn().expect("the daemon starts");
    let mut reading = BufReader::new(daemon.stderr.take().expect("a pipe")).lines();
    submit(folder);
    // More than earlier daemons accepted: a summary may come before the submission does.
    let mut before = None;
    let mut lines: Vec<serde_json::Value> = Vec::new();
    let until = Instant::now() + LIMIT;
    loop {
        assert!(Instant::now() < until, "no summary says that all is delivered: {:#?}", lines.last());
        let line = reading.next().expect("the daemon runs").expect("a line is text");
        lines.push(serde_json::from_str(&line).expect("a line is JSON"));
        let last = &lines[lines.len() - 1];
        if last["message"] == "the daemon takes events in" {
            before = last["accepted"].as_u64();
        }
        let more = before.is_some() && last["accepted"].as_u64() > before;
        if last["message"] == "summary" && more && last["pending"] == 0 {
            break;
        }
    }
    assert!(terminate(&mut daemon).success());
    lines
}

#[test]
fn the_log_hides_visitors_under_a_hash_that_survives_a_restart() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _inside = runtime.enter();
    let sandbox = Sandbox::start(sandbox::Settings::default()).expect("the sandbox listens");
    let (folder, endpoint) = (folder(), format!("http://{}", sandbox.address()));
    let mut shown = BTreeSet::new();
    for more in [&[][..], &[], &["-o", "log.identifiers=plain"], &["-o", "log.identifiers=none"]] {
        let mut asked = Vec::new();
        for line in log(folder.path(), &endpoint, more) {
            assert!(line["target"].as_str().is_some_and(|name| name.starts_with("target_notifyd")), "{line}");
            if line["message"] == "a request was answered" {
                shown.insert(line["session"].as_str().expect("a text").to_owned());
                asked.push(line.clone());
            }
            if line["message"] == "summary" {
                for name in [
                    "pending",
                    "held_bytes",
                    "lanes",
                    "in_flight",
                    "open_breakers",
                    "rejected",
                    "connections",
                ] {
                    assert!(line[name].is_u64(), "{name} in {line}");
                }
                for name in ["in_1m", "in_5m", "in_15m", "out_1m", "out_5m", "out_15m", "uptime_s"] {
                    assert!(line[name].as_f64().is_some_and(|number| number >= 0.0), "{name} in {line}");
                }
                assert!(line["disk_used_bytes"].as_u64() > Some(0), "{line}");
                assert!(line["disk_free_bytes"].is_u64(), "{line}");
                // The age of the oldest event is told where one waits, and latencies where there was a request.
                assert!(line["pending"] != 0 || line.get("oldest_s").is_none(), "{line}");
                if line["accepted"] != 0 && line["pending"] == 0 && !asked.is_empty() {
                    let latency = |name: &str| line[name].as_f64().expect("a number");
                    assert!(latency("latency_p50_ms") <= latency("latency_p99_ms"), "{line}");
                }
            }
        }
    }
    // The hash of two starts, the session itself, and nothing.
    assert_eq!(shown.len(), 3, "{shown:?}");
    assert!(
        shown.contains("s") && shown.contains("-") && shown.iter().any(|hash| hash.len() == 12),
        "{shown:?}"
    );
    runtime.block_on(sandbox.stop());
}

#[test]
fn no_room_for_dead_letters_is_told_where_one_was_to_be_set_aside_alone() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _inside = runtime.enter();
    let sandbox = Sandbox::start(sandbox::Settings::default()).expect("the sandbox listens");
    let (folder, endpoint) = (folder(), format!("http://{}", sandbox.address()));
    let lines = log(folder.path(), &endpoint, &["-o", "queue.dead_max_events=0"]);
    assert!(lines.iter().all(|line| line["event"] != "dead_letters_full"), "{lines:#?}");
    runtime.block_on(sandbox.stop());
}

/// A command as another user, whom root alone can become, and who may write to `folder`; `None` where nobody can.
#[expect(clippy::print_stderr, reason = "a test says what it did not try")]
fn as_another(folder: &Path) -> Option<impl Fn(&[&str]) -> Command> {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(folder, open).expect("it is ours");
    let as_another = move |arguments: &[&str]| {
        let mut command = command(folder, NOBODY, arguments);
        command.uid(ANOTHER).gid(ANOTHER).current_dir("/");
        command
    };
    let able = nix::unistd::geteuid().is_root()
        && as_another(&["--version"]).output().is_ok_and(|output| output.status.success());
    if !able {
        eprintln!("what belongs to another user was not tried: nobody can run the executable as one");
    }
    able.then_some(as_another)
}

const ANOTHER: u32 = 65_534;

#[test]
fn what_belongs_to_another_user_is_told_as_that() {
    use std::os::unix::fs::{PermissionsExt, chown};
    let folder = folder();
    let Some(as_another) = as_another(folder.path()) else { return };
    let run_as_another = || run(&mut as_another(&["run"]));

    let socket = folder.path().join("notify.sock");
    let live = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    let (code, told) = run_as_another();
    let why = "notify.sock is a socket that this user may not connect to";
    assert!(code == Some(73) && told.contains(why), "{code:?}: {told}");
    drop(live);
    std::fs::remove_file(&socket).expect("it is ours");

    // A start by hand as root leaves such.
    let queue = folder.path().join("queue");
    std::fs::remove_dir_all(&queue).expect("a queue");
    let mut daemon = command(folder.path(), NOBODY, &["run"]);
    let mut daemon = daemon.stderr(std::process::Stdio::null()).spawn().expect("the daemon starts");
    submit(folder.path());
    assert!(terminate(&mut daemon).success());
    let own = |path: &Path| chown(path, Some(ANOTHER), Some(ANOTHER)).expect("root may");
    let database = queue.join("events.1");
    [&queue, &database].into_iter().for_each(|path| own(path));
    for path in [queue.join("lock"), database.join("db")] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
        let (code, told) = run_as_another();
        let why = "all that lies in the queue's folder must belong to this user";
        assert!(code == Some(74) && told.contains(why), "{}, {code:?}: {told}", path.display());
        assert!(!told.contains("snapshots_set_aside") && !queue.join("failed").exists(), "{told}");
        own(&path);
    }

    // Whoever took it from the daemon's user would keep the daemon from starting.
    chown(&queue, Some(ALONE), None).expect("root may");
    std::fs::set_permissions(&queue, std::fs::Permissions::from_mode(0o700)).expect("root may");
    let checked = as_another(&["check"]).output().expect("it runs");
    let told = String::from_utf8_lossy(&checked.stdout);
    // No user of this number has a name, and runuser takes no other.
    let act = format!(
        "sudo setpriv --reuid={ALONE} --regid={ANOTHER} --clear-groups -- target-notifyd check, if the daemon runs so; \
         else sudo chown -R {} ",
        nix::unistd::User::from_uid(ANOTHER.into())
            .expect("users")
            .map_or_else(|| ANOTHER.to_string(), |user| user.name)
    );
    assert!(told.contains(&act), "{told}");

    // Nobody knows who the daemon is, where its folder is not there yet.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    std::fs::remove_dir_all(&queue).expect("root may");
    let checked = as_another(&["check"]).output().expect("it runs");
    let told = String::from_utf8_lossy(&checked.stdout);
    let act = format!("sudo install -d -m 0700 -o USER {}, where USER is the daemon's user", queue.display());
    assert!(told.contains(&act), "{told}");
}

/// A user of whom nobody else has a process.
const ALONE: u32 = 65_533;

#[test]
fn too_few_threads_end_a_command_that_says_so() {
    use std::os::unix::process::CommandExt;
    let folder = folder();
    let Some(as_another) = as_another(folder.path()) else { return };
    let run_with = |threads: u32, arguments: &[&str]| {
        let command = as_another(arguments);
        let mut limited = Command::new("prlimit");
        limited.arg(format!("--nproc={threads}")).arg(command.get_program()).args(command.get_args());
        limited.uid(ALONE).gid(ALONE).current_dir("/");
        let Output { status, stdout, stderr } = limited.output().expect("prlimit runs");
        (status.code(), format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)))
    };
    // With a dozen the queue can be opened, and no more.
    let cases = [1, 2, 3, 4, 5, 6, 8, 12].map(|threads| ("run", threads));
    for (what, threads) in cases.into_iter().chain([("sandbox", 1), ("sandbox", 3), ("sandbox", 6)]) {
        let (code, told) = run_with(threads, &[what]);
        assert!(code == Some(74) && told.contains("TasksMax="), "{what}, {threads}: {code:?}: {told}");
    }
    let (code, told) = run_with(2, &["check", "--online"]);
    assert!(code == Some(1) && told.contains("raise the limit: ulimit -u"), "{code:?}: {told}");
    // These need none beside their own.
    for (arguments, expected) in [(&["check"][..], 0), (&["send", "/dev/null"], 0), (&["status"], 69)] {
        let (code, told) = run_with(1, arguments);
        assert!(code == Some(expected), "{arguments:?}: {code:?}: {told}");
    }
}

#[test]
fn a_daemon_that_is_to_run_until_its_input_ends_says_that_it_needs_a_pipe() {
    let folder = folder();
    let mut command = command(folder.path(), NOBODY, &["run"]);
    let (code, told) = run(command.env("TARGET_NOTIFYD_UNTIL_EOF", "1").stdin(std::process::Stdio::null()));
    let line: serde_json::Value = serde_json::from_str(&told).expect("one line of JSON");
    assert!(code == Some(78) && line["event"] == "input_failed" && line["error"] == "not a pipe", "{told}");
}

#[test]
fn exit_codes_tell_what_is_wrong() {
    let folder = folder();
    let cases: [(&[&str], i32, &str); 10] = [
        (&["nonsense"], 64, "unrecognized subcommand"),
        (&["check"], 0, "sound"),
        (&["check", "-o", "batch.lingr=1s"], 78, "batch.linger"),
        (&["check", "-o", "target.client="], 78, "target.client"),
        (&["run", "-o", "ingest.socket=/nowhere/notify.sock"], 73, "/nowhere/notify.sock"),
        (&["run", "-o", "queue.path=/proc/queue"], 74, "/proc/queue"),
        (&["send", "--timeout", "0s", "/dev/null"], 0, ""),
        (&["send", "/nowhere"], 64, "/nowhere cannot be read"),
        (&["send", "/proc"], 64, "/proc cannot be read"),
        (&["dead", "export", "--numbers", "/nowhere/numbers"], 74, "the file of --numbers"),
    ];
    for (arguments, expected, text) in cases {
        let (code, told) = run(&mut command(folder.path(), NOBODY, arguments));
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
