//! `send`: what a shell sees of its lines, whatever the daemon answers.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use target_notifyd::sandbox::{self, Sandbox};
use tempfile::TempDir;

use crate::process::{LIMIT, NOBODY, cannot_write, command, connect, end, terminate};

fn line(reference: &str) -> String {
    format!("{{\"session_id\":\"s\",\"ref\":\"{reference}\",\"type\":\"click\"}}\n")
}

fn lines(references: &[&str]) -> String {
    references.iter().copied().map(line).collect()
}

fn daemon(folder: &Path, endpoint: &str, settings: &[&str]) -> Child {
    let options = settings.iter().flat_map(|setting| ["-o", setting]);
    let arguments: Vec<&str> = std::iter::once("run").chain(options).collect();
    let daemon =
        command(folder, endpoint, &arguments).stderr(Stdio::null()).spawn().expect("the daemon starts");
    drop(connect(folder));
    daemon
}

/// A daemon that answers a line as `script` says by its `ref`, or closes the connection; gives the `ref`s as they come.
fn scripted(
    folder: &Path,
    mut script: impl FnMut(&str) -> Option<String> + Send + 'static,
) -> mpsc::Receiver<String> {
    let listener = UnixListener::bind(folder.join("notify.sock")).expect("a socket");
    let (sender, came) = mpsc::channel();
    // Not joined: it ends with the test's process.
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            for line in BufReader::new(&stream).lines().map_while(Result::ok) {
                let line: Value = serde_json::from_str(&line).expect("a line is JSON");
                let reference = line["ref"].as_str().expect("a ref").to_owned();
                let reply = script(&reference);
                sender.send(reference).expect("the test listens");
                let Some(reply) = reply else { break };
                writeln!(&stream, "{reply}").expect("send reads");
            }
        }
    });
    came
}

fn queued(reference: &str) -> Option<String> {
    Some(format!("{{\"status\":\"queued\",\"ref\":\"{reference}\"}}"))
}

fn unavailable(reference: &str, wait: Duration) -> Option<String> {
    let (code, wait) = ("queue_full", wait.as_millis());
    Some(format!(
        "{{\"status\":\"unavailable\",\"error\":{{\"code\":\"{code}\"}},\"retry_after_ms\":{wait},\"ref\":\"{reference}\"}}"
    ))
}

struct Sent {
    code: Option<i32>,
    /// The `ref` and the status of each line of the output.
    printed: Vec<(String, String)>,
    told: String,
}

fn send(folder: &Path, arguments: &[&str], text: &str) -> Sent {
    let file = folder.join("lines");
    fs::write(&file, text).expect("a file");
    let arguments = [&["send", file.to_str().expect("a path")], arguments].concat();
    let ended = command(folder, NOBODY, &arguments).output().expect("send runs");
    let reply = |line: &str| {
        let reply: Value = serde_json::from_str(line).expect("a reply is JSON");
        let text = |name: &str| reply[name].as_str().unwrap_or_default().to_owned();
        (text("ref"), text("status"))
    };
    Sent {
        code: ended.status.code(),
        printed: String::from_utf8_lossy(&ended.stdout).lines().map(reply).collect(),
        told: String::from_utf8_lossy(&ended.stderr).into_owned(),
    }
}

fn printed(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(reference, status)| ((*reference).to_owned(), (*status).to_owned())).collect()
}

#[test]
fn lines_that_stay_unavailable_are_tried_until_the_timeout_and_have_their_reply() {
    let folder = TempDir::new().expect("a folder");
    let mut daemon = daemon(folder.path(), NOBODY, &["queue.max_events=3"]);
    let began = Instant::now();
    let sent = send(folder.path(), &["--timeout", "1500ms"], &lines(&["1", "2", "3", "4", "5", "6"]));
    assert!(began.elapsed() >= Duration::from_millis(1_500), "it gave up after {:?}", began.elapsed());
    let (stored, refused) = ("queued", "unavailable");
    let expected =
        [("1", stored), ("2", stored), ("3", stored), ("4", refused), ("5", refused), ("6", refused)];
    assert_eq!((sent.code, sent.printed), (Some(1), printed(&expected)), "{}", sent.told);
    for timeout in ["0s", "1s"] {
        let sent = send(folder.path(), &["--timeout", timeout], &lines(&["7"]));
        assert_eq!((sent.code, sent.printed), (Some(1), printed(&[("7", refused)])), "{}", sent.told);
    }
    assert!(terminate(&mut daemon).success());
}

#[test]
fn what_a_terminal_would_obey_is_printed_as_json_escapes_it() {
    let folder = TempDir::new().expect("a folder");
    let hostile = "\u{9b}31m\u{7f}\u{202e}";
    let reply = format!("{{\"status\":\"queued\",\"ref\":\"{hostile}\"}}");
    let _came = scripted(folder.path(), move |_| Some(reply.clone()));
    let file = folder.path().join("lines");
    fs::write(&file, line("1")).expect("a file");
    let sent = command(folder.path(), NOBODY, &["send", file.to_str().expect("a path")]).output();
    let out = String::from_utf8(sent.expect("send runs").stdout).expect("it is UTF-8");
    assert!(out.ends_with("\n") && out.contains("\\u009b31m\\u007f\\u202e"), "{out:?}");
    let read: Value = serde_json::from_str(&out).expect("it is JSON");
    assert_eq!(read["ref"], hostile);
}

#[test]
fn a_line_that_is_tried_again_holds_back_later_ones_and_replies_keep_the_order() {
    let folder = TempDir::new().expect("a folder");
    let mut refusals = vec!["7", "9", "7", "7"];
    let came = scripted(folder.path(), move |reference| {
        match refusals.iter().position(|refused| *refused == reference) {
            Some(at) => {
                refusals.remove(at);
                unavailable(reference, Duration::from_millis(10))
            }
            None => queued(reference),
        }
    });
    // More than go out at once.
    let references: Vec<String> = (0..300).map(|number| number.to_string()).collect();
    let text: String = references.iter().map(|reference| line(reference)).collect();
    let sent = send(folder.path(), &["--timeout", "60s"], &text);
    let expected: Vec<_> = references.iter().map(|reference| (reference.as_str(), "queued")).collect();
    assert_eq!((sent.code, sent.printed), (Some(0), printed(&expected)), "{}", sent.told);
    let came: Vec<String> = came.try_iter().collect();
    let again = ["7", "7", "7", "9"].map(str::to_owned);
    let expected = [&references[..256], &again, &references[256..]].concat();
    assert_eq!(came, expected);
}

#[test]
fn a_wait_ends_at_the_timeout_with_a_try_of_every_line() {
    let folder = TempDir::new().expect("a folder");
    let mut tries = 0;
    let came = scripted(folder.path(), move |reference| {
        tries += 1;
        if tries <= 2 || reference == "large" {
            unavailable(reference, Duration::from_secs(3_600))
        } else {
            queued(reference)
        }
    });
    let sent = send(folder.path(), &["--timeout", "300ms"], &lines(&["large", "small"]));
    let expected = printed(&[("large", "unavailable"), ("small", "queued")]);
    assert_eq!((sent.code, sent.printed), (Some(1), expected), "{}", sent.told);
    assert_eq!(came.try_iter().collect::<Vec<_>>(), ["large", "small", "large", "small"]);
}

#[test]
fn a_long_file_on_a_full_queue_takes_the_timeout_once_until_a_line_is_taken_again() {
    let folder = TempDir::new().expect("a folder");
    let mut room = false;
    let mut full = true;
    let came = scripted(folder.path(), move |reference| {
        let number: u64 = reference.parse().expect("a number");
        // A little room comes while the second 256 lines have their one try.
        room |= number == 500;
        // And more of it while the third ones have theirs.
        full &= number != 600;
        match room && (number != 550 || !full) {
            true => queued(reference),
            false => unavailable(reference, Duration::from_millis(10)),
        }
    });
    let references: Vec<String> = (0..601).map(|number| number.to_string()).collect();
    let text: String = references.iter().map(|reference| line(reference)).collect();
    let sent = send(folder.path(), &["--timeout", "1s"], &text);
    let came: Vec<usize> = came.try_iter().map(|reference| reference.parse().expect("a number")).collect();
    let tries = |number: usize| came.iter().filter(|one| **one == number).count();
    assert!(tries(0) > 2, "the timeout counts for the first lines");
    assert!((256..512).all(|number| tries(number) == 1), "later ones have one try each");
    assert_eq!(tries(550), 2, "once a line was taken, the timeout counts again");
    let statuses: Vec<&str> = sent.printed.iter().map(|(_, status)| status.as_str()).collect();
    let expected = |number: usize| if number < 500 { "unavailable" } else { "queued" };
    assert_eq!(statuses, (0..601).map(expected).collect::<Vec<_>>(), "{}", sent.told);
    assert_eq!(sent.code, Some(1));
}

#[test]
fn a_connection_that_is_turned_away_answers_every_line() {
    let folder = TempDir::new().expect("a folder");
    let mut daemon = daemon(folder.path(), NOBODY, &["ingest.max_connections=1"]);
    // The one that asked whether the daemon is up may still be counted.
    let until = Instant::now() + LIMIT;
    let held = loop {
        let (held, mut reply) = (connect(folder.path()), String::new());
        // It may be closed already; the reply says so.
        let _closed = writeln!(&held, "{{}}");
        BufReader::new(&held).read_line(&mut reply).expect("a reply");
        if reply.contains("rejected") {
            break held;
        }
        assert!(Instant::now() < until, "no connection is free: {reply}");
    };
    let sent = send(folder.path(), &["--timeout", "0s"], &lines(&["1", "2"]));
    let turned_away = printed(&[("", "unavailable"), ("", "unavailable")]);
    assert_eq!((sent.code, sent.printed), (Some(1), turned_away), "{}", sent.told);
    drop(held);
    let sent = send(folder.path(), &["--timeout", "60s"], &lines(&["1", "2"]));
    assert_eq!((sent.code, sent.printed.len()), (Some(0), 2), "{}", sent.told);
    assert!(terminate(&mut daemon).success());
}

#[test]
fn what_has_no_reply_when_the_connection_ends_is_sent_again_and_counted_if_that_fails() {
    let folder = TempDir::new().expect("a folder");
    let mut cuts = 1;
    let came = scripted(folder.path(), move |reference| match reference {
        "lost" => None,
        "cut" if cuts > 0 => {
            cuts -= 1;
            None
        }
        _ => queued(reference),
    });
    let sent = send(folder.path(), &["--timeout", "60s"], &lines(&["1", "cut", "2"]));
    let expected = printed(&[("1", "queued"), ("cut", "queued"), ("2", "queued")]);
    assert_eq!((sent.code, sent.printed), (Some(0), expected), "{}", sent.told);
    assert_eq!(came.try_iter().collect::<Vec<_>>(), ["1", "cut", "cut", "2"]);
    let sent = send(folder.path(), &["--timeout", "0s"], &lines(&["3", "lost", "4"]));
    assert_eq!((sent.code, sent.printed), (Some(69), printed(&[("3", "queued")])), "{}", sent.told);
    assert!(sent.told.contains("2 lines have no reply"), "{}", sent.told);
}

#[test]
fn receipts_are_waited_for_where_a_line_does_not_say_false() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _inside = runtime.enter();
    let sandbox = Sandbox::start(sandbox::Settings::default()).expect("the sandbox listens");
    let (folder, endpoint) = (TempDir::new().expect("a folder"), format!("http://{}", sandbox.address()));
    let mut daemon = daemon(folder.path(), &endpoint, &[]);
    let saying =
        |reference: &str, wish: &str| line(reference).replacen('{', &format!("{{\"receipt\":{wish},"), 1);
    let text =
        [saying("null", "null"), saying("false", "false"), saying("true", "true"), line("none")].concat();
    let sent = send(folder.path(), &["--receipts", "--timeout", "100s"], &text);
    let with = |status: &str| -> Vec<&str> {
        let own = sent.printed.iter().filter(|(_, found)| found == status);
        own.map(|(reference, _)| reference.as_str()).collect()
    };
    assert_eq!(sent.code, Some(0), "{}", sent.told);
    assert_eq!(with("queued"), ["null", "false", "true", "none"]);
    let mut delivered = with("delivered");
    delivered.sort_unstable();
    assert_eq!(delivered, ["none", "null", "true"]);
    assert!(terminate(&mut daemon).success());
    runtime.block_on(sandbox.stop());
}

#[test]
fn receipts_that_do_not_come_are_counted() {
    let folder = TempDir::new().expect("a folder");
    let mut daemon = daemon(folder.path(), NOBODY, &[]);
    for (references, expected) in [
        (&["1"][..], "1 receipt did not come within the timeout; "),
        (&["2", "3"], "2 receipts did not come within the timeout; "),
    ] {
        let sent = send(folder.path(), &["--receipts", "--timeout", "100ms"], &lines(references));
        assert_eq!((sent.code, sent.printed.len()), (Some(1), references.len()), "{}", sent.told);
        assert!(sent.told.starts_with(expected) && !sent.told.contains("os error"), "{}", sent.told);
    }
    assert!(terminate(&mut daemon).success());
}

#[test]
fn a_receipt_that_came_early_is_printed_behind_its_reply() {
    let folder = TempDir::new().expect("a folder");
    let mut tries = 0;
    let _came = scripted(folder.path(), move |reference| {
        tries += 1;
        match tries {
            1 => unavailable(reference, Duration::from_millis(10)),
            _ => queued(reference)
                .map(|reply| format!("{reply}\n{{\"status\":\"delivered\",\"ref\":\"{reference}\"}}")),
        }
    });
    let sent = send(folder.path(), &["--receipts", "--timeout", "60s"], &lines(&["1", "2"]));
    let order: Vec<_> =
        sent.printed.iter().map(|(reference, status)| (reference.as_str(), status.as_str())).collect();
    let expected = [("1", "queued"), ("2", "queued"), ("2", "delivered"), ("1", "delivered")];
    assert_eq!((sent.code, order), (Some(0), expected.to_vec()), "{}", sent.told);
}

#[test]
fn a_list_is_no_reply() {
    for list in [r#"["queued",0,null,null]"#, r#"{"status":"rejected","error":["forbidden"]}"#] {
        let folder = TempDir::new().expect("a folder");
        let _came = scripted(folder.path(), |_| Some(list.to_owned()));
        let sent = send(folder.path(), &["--timeout", "0s"], &line("1"));
        assert_eq!((sent.code, sent.printed), (Some(69), vec![]), "{}", sent.told);
        assert!(sent.told.contains("a JSON object"), "{}", sent.told);
    }
}

#[test]
fn an_instance_that_does_not_run_is_named_in_what_is_to_be_looked_at() {
    let folder = TempDir::new().expect("a folder");
    let sent = send(folder.path(), &["--instance", "shop", "--timeout", "0s"], &line("1"));
    let told = "is the daemon running? systemctl status target-notifyd@shop tells";
    assert!(sent.code == Some(69) && sent.told.contains(told), "{}", sent.told);
}

#[test]
fn a_socket_that_may_not_be_opened_is_told_at_once() {
    let folder = TempDir::new().expect("a folder");
    let socket = folder.path().join("notify.sock");
    let _served = UnixListener::bind(&socket).expect("a socket");
    let mut command = Command::new(env!("CARGO_BIN_EXE_target-notifyd"));
    command.args(["send", "--timeout", "100s", "-o"]).arg(format!("ingest.socket={}", socket.display()));
    if nix::unistd::geteuid().is_root() {
        // The folder is root's alone.
        command.uid(65_534).gid(65_534).current_dir("/");
    } else {
        let none = std::os::unix::fs::PermissionsExt::from_mode(0o0);
        fs::set_permissions(&socket, none).expect("the mode can be set");
    }
    let (began, spawned) =
        (Instant::now(), command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn());
    let mut sending = match spawned {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return eprintln!(
                "a socket without permission was not tried: another user may not run the executable"
            );
        }
        spawned => spawned.expect("send runs"),
    };
    sending.stdin.take().expect("a pipe").write_all(line("1").as_bytes()).expect("send reads");
    end(&mut sending);
    let ended = sending.wait_with_output().expect("its output");
    let told = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(69), "{told}");
    assert!(told.contains("may not be opened") && told.contains("ingest.mode"), "{told}");
    assert!(!told.contains("is the daemon running"), "{told}");
    assert!(began.elapsed() < Duration::from_secs(50), "it waited for what does not change");
}

#[test]
fn replies_that_cannot_be_written_are_a_failure_and_a_reader_who_has_enough_is_none() {
    let folder = TempDir::new().expect("a folder");
    let mut daemon = daemon(folder.path(), NOBODY, &[]);
    let file = folder.path().join("lines");
    fs::write(&file, lines(&["1", "2"])).expect("a file");
    cannot_write(|| command(folder.path(), NOBODY, &["send", file.to_str().expect("a path")]));
    // All of them were sent.
    let status = command(folder.path(), NOBODY, &["status", "--json"]).output().expect("status runs");
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.contains("\"accepted\":4,"), "{status}");
    assert!(terminate(&mut daemon).success());
}
