//! `check`: what is wrong is said in one go, and nothing is left behind.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::stat::Mode;
use serde_json::Value;
use target_notifyd::sandbox::{self, Sandbox};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};

use crate::authority::{Authority, Validity, authority_itself};
use crate::process::{Log, NOBODY, cannot_write, command, connect, terminate};
use crate::support::until;
use crate::tls::{Terminator, noted, proxy};

/// `target.connect_timeout` where nothing is to reach it, however slow the machine is.
const AMPLE: &str = "2m";

/// What may name a proxy, or what is reached without it.
pub(crate) const PROXY_VARIABLES: [&str; 8] = [
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "NO_PROXY",
    "no_proxy",
];

/// The command without a proxy that whoever runs the tests may have.
fn check(folder: &Path, endpoint: &str, more: &[&str]) -> Command {
    let mut command = command(folder, endpoint, &[&["check"], more].concat());
    for name in PROXY_VARIABLES {
        command.env_remove(name);
    }
    command
}

/// The exit code, what is on standard output, and what is on standard error.
fn ended(mut command: Command) -> (Option<i32>, String, String) {
    let output = command.output().expect("the executable runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn what_a_daemon_would_run_with_is_told_and_nothing_is_left_behind() {
    let folder = TempDir::new().expect("a folder");
    let more = ["-o", "batch.max_events=7", "-o", "target.property_token=s3cret", "--json"];
    let mut command = check(folder.path(), NOBODY, &more);
    command.env("TARGET_NOTIFYD_BATCH__MAX_BYTES", "9KiB");
    let (code, out, _) = ended(command);
    assert!(code == Some(0) && !out.contains("s3cret"), "{code:?} {out}");
    assert_eq!(names(folder.path()), BTreeSet::from(["config.toml".to_owned()]));
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let from = |key: &str| {
        let line =
            lines.iter().find(|line| line["type"] == "value" && line["key"] == key).expect("every key");
        (line["value"].as_str().expect("a text"), line["from"].as_str().expect("a text"))
    };
    assert_eq!(from("batch.max_events"), ("7", "-o"));
    assert_eq!(from("batch.max_bytes"), ("\"9KiB\"", "TARGET_NOTIFYD_BATCH__MAX_BYTES"));
    assert_eq!(from("delivery.concurrency"), ("64", "default"));
    assert!(from("target.client").1.ends_with("config.toml:3"), "{:?}", from("target.client"));
    for key in ["queue.path", "ingest.socket", "admin.socket", "queue.min_free", "ingest.max_connections"] {
        let found = lines.iter().any(|line| line["type"] == "check" && line["key"] == key);
        assert!(found, "nothing is told of {key}: {out}");
    }
    assert_eq!(lines[lines.len() - 1]["exit"], 0);

    // A daemon that runs is no problem, and is not asked.
    let mut daemon = crate::process::command(folder.path(), NOBODY, &["run"]);
    let mut daemon = daemon.stderr(Stdio::null()).spawn().expect("the daemon starts");
    drop(connect(folder.path()));
    let (code, out, _) = ended(check(folder.path(), NOBODY, &[]));
    assert!(code == Some(0) && out.contains("is served"), "{code:?} {out}");
    assert!(terminate(&mut daemon).success());
}

#[test]
fn everything_that_is_wrong_is_told_in_one_go() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("file");
    std::fs::write(&file, "no certificate").expect("a file");
    let (queue, admin) =
        (format!("queue.path={}/q", file.display()), format!("admin.socket={}", file.display()));
    let (free, files) = ("queue.min_free=900TiB", "ingest.max_connections=1000000");
    let authority = format!("target.ca_file={}", file.display());
    let wrong = ["-o", &queue, "-o", &admin, "-o", free, "-o", files, "-o", &authority];
    let (code, out, told) = ended(check(folder.path(), NOBODY, &wrong));
    assert_eq!(code, Some(1), "{out} {told}");
    for (state, key, text) in [
        ("FAILED", "queue.path", "is no folder"),
        ("FAILED", "admin.socket", "is no socket"),
        ("FAILED", "queue.min_free", "storage_full"),
        ("FAILED", "target.ca_file", "no certificate"),
        ("warning", "ingest.max_connections", "may be needed"),
    ] {
        let found = out.lines().find(|line| line.starts_with(state) && line.contains(key));
        assert!(found.is_some_and(|line| line.contains(text)), "{state} {key}: {text}: {out}");
    }

    // Without one the daemon would start, and every handshake with whom the file was meant for fail.
    let bad = folder.path().join("bad.pem");
    std::fs::write(&bad, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").expect("a file");
    for (path, text) in [(&file, "holds no certificate"), (&bad, "holds a certificate that cannot be used")] {
        let text = format!("{} {text}", path.display());
        let authority = format!("target.ca_file={}", path.display());
        let run = command(folder.path(), NOBODY, &["run", "-o", &authority]);
        let (code, _, told) = ended(run);
        assert!(code == Some(78) && told.contains(&text), "{code:?} {told}");
        let (code, out, told) = ended(check(folder.path(), NOBODY, &["-o", &authority]));
        let found = out.lines().find(|line| line.starts_with("FAILED   target.ca_file "));
        assert!(code == Some(1) && found.is_some_and(|line| line.contains(&text)), "{out} {told}");
        assert!(out.contains("give it certificates as PEM"), "{out}");
    }

    // Problems of the configuration have their lines, and hide nothing of the rest.
    let mut command = check(folder.path(), NOBODY, &wrong);
    let path = folder.path().join("config.toml");
    let text = std::fs::read_to_string(&path).expect("the configuration");
    std::fs::write(&path, text.replace("linger = \"10ms\"", "lingr = 1\nmax_events = 51")).expect("a file");
    command.arg("-o").arg("target.client=");
    let (code, out, told) = ended(command);
    assert_eq!(code, Some(78), "{out} {told}");
    assert!(out.contains("is no folder"), "{out}");
    for place in ["config.toml:13: batch.lingr ", "config.toml:14: batch.max_events ", "target.client "] {
        assert!(told.contains(place), "{place}: {told}");
    }
    let (code, _, told) = ended(check(folder.path(), NOBODY, &["-o", "target.ca_file=/nowhere.pem"]));
    assert!(code == Some(78) && told.contains("target.ca_file") && told.contains("/nowhere.pem"), "{told}");

    // As a start does, which needs the account, too.
    let (unset, organization) = ("target.client=", "target.organization_id=");
    let (linger, authority) = ("batch.linger=x", "target.ca_file=/nowhere.pem");
    for what in ["run", "check"] {
        let wrong = [what, "-o", unset, "-o", organization, "-o", linger, "-o", authority];
        let (code, _, told) = ended(crate::process::command(folder.path(), NOBODY, &wrong));
        assert_eq!((code, told.lines().count()), (Some(78), 4), "{what}: {told}");
        for key in ["target.client", "target.organization_id", "batch.linger", "target.ca_file"] {
            assert!(told.contains(&format!(": {key} ")), "{what}, {key}: {told}");
        }
        assert!(told.contains(": target.ca_file /nowhere.pem cannot be read: "), "{what}: {told}");
    }
}

#[test]
fn what_lies_in_the_place_of_the_reserve_is_told() {
    let folder = TempDir::new().expect("a folder");
    let reserve = folder.path().join("queue/reserve");
    std::fs::create_dir_all(&reserve).expect("a folder");
    let why = format!("{} is a folder, and a file belongs there: move it away", reserve.display());
    let (code, _, told) = ended(command(folder.path(), NOBODY, &["run"]));
    assert!(code == Some(74) && told.contains(&why), "{code:?} {told}");
    let (code, out, _) = ended(check(folder.path(), NOBODY, &[]));
    let found = out.lines().find(|line| line.starts_with("FAILED   queue.path "));
    assert!(code == Some(1) && found.is_some_and(|line| line.contains(&why)), "{code:?} {out}");
}

#[test]
fn a_queue_that_is_smaller_than_a_submission_may_be_is_told() {
    let folder = TempDir::new().expect("a folder");
    let small = ["-o", "queue.max_bytes=4KiB", "-o", "queue.max_events=1"];
    let (code, out, told) = ended(check(folder.path(), NOBODY, &small));
    assert_eq!(code, Some(0), "{out} {told}");
    for (key, text) in [
        ("ingest.max_line", "a line may have 1.0 MiB, and the whole queue holds 4.0 KiB: "),
        ("queue.max_events", "a submission may have 1000 notifications, and the whole queue holds 1 event: "),
    ] {
        let found = out.lines().find(|line| line.starts_with("warning") && line.contains(key));
        assert!(found.is_some_and(|line| line.contains(text)), "{key}: {out}");
    }
    let (_, out, _) = ended(check(folder.path(), NOBODY, &["-o", "queue.max_bytes=1MiB"]));
    assert!(!out.contains("never fits"), "{out}");
}

#[test]
fn a_proxy_of_the_environment_that_cannot_be_used_is_a_wrong_configuration() {
    let folder = TempDir::new().expect("a folder");
    let told = |endpoint: &str, arguments: &[&str], value: &str| {
        let mut command = command(folder.path(), endpoint, arguments);
        for name in PROXY_VARIABLES {
            command.env_remove(name);
        }
        command.env("HTTPS_PROXY", value);
        let (code, out, told) = ended(command);
        (code, format!("{out}{told}"))
    };
    for wrong in ["foo bar", "socks5://localhost:1080"] {
        for arguments in [&["check"], &["run"]] {
            let (code, text) = told("https://localhost:9", arguments, wrong);
            assert!(
                code == Some(78) && text.contains("HTTPS_PROXY names no http:// or https:// proxy"),
                "{arguments:?} {text}"
            );
        }
        // It counts for nothing where nothing goes over https.
        let (code, text) = told(NOBODY, &["check"], wrong);
        assert!(code == Some(0) && !text.contains("HTTPS_PROXY"), "{text}");
    }
    let (code, text) = told("https://localhost:9", &["check"], "localhost:3128");
    assert!(code == Some(0) && text.contains("HTTPS_PROXY"), "{text}");
}

#[test]
fn a_system_without_certificates_needs_some_of_its_own() {
    let folder = TempDir::new().expect("a folder");
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).expect("a pipe that nobody writes to");
    for none in [Path::new("/nonexistent"), &pipe] {
        let without = |mut command: Command| {
            command.env("SSL_CERT_FILE", none).env("SSL_CERT_DIR", none);
            ended(command)
        };
        let names = |told: &str| told.contains(&none.display().to_string());
        let (code, _, told) = without(check(folder.path(), NOBODY, &[]));
        let needed = "not set: target.ca_file is needed: no root certificates of the system can be read";
        assert!(code == Some(78) && told.contains(needed) && names(&told), "{told}");
        let (code, _, told) = without(command(folder.path(), NOBODY, &["run"]));
        let unread = "no root certificates of the system can be read";
        assert!(code == Some(78) && told.contains(unread) && names(&told), "{told}");
        let own = format!("target.ca_file={}", Authority::new("Ours").file(&folder).display());
        let (code, out, told) = without(check(folder.path(), NOBODY, &["-o", &own]));
        assert!(
            code == Some(0) && out.contains("adds 1 to the 0 certificates that the system trusts"),
            "{out}{told}"
        );
        assert!(out.contains("some root certificates of the system cannot be read") && names(&out), "{out}");
    }
}

#[test]
fn what_a_system_has_beside_its_certificates_is_no_warning() {
    let (folder, system) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    let file = Authority::new("Theirs").file(&folder);
    std::fs::create_dir(system.path().join("java")).expect("a folder");
    std::fs::write(system.path().join("README"), "-- no certificate").expect("a file");
    std::fs::write(system.path().join("empty.crt"), "").expect("a file");
    symlink("gone.pem", system.path().join("0123abcd.0")).expect("a link");
    symlink(&file, system.path().join("4567cdef.0")).expect("a link");
    let (nothing, missing) = (Path::new("/dev/null"), system.path().join("none"));
    // With nothing in the place of the file, and with a file that may have no end, the folder is read all the same.
    for (of_the_system, directory, is_whole) in [
        (&*file, system.path(), true),
        (nothing, system.path(), true),
        (&file, &missing, false),
        (Path::new("/dev/zero"), system.path(), false),
    ] {
        let own = format!("target.ca_file={}", file.display());
        let mut command = check(folder.path(), NOBODY, &["-o", &own]);
        command.env("SSL_CERT_FILE", of_the_system).env("SSL_CERT_DIR", directory);
        let (code, out, told) = ended(command);
        let warns = out.contains("some root certificates of the system cannot be read");
        let counts = out.contains("adds 1 to the 1 certificates that the system trusts");
        assert!(code == Some(0) && counts && warns != is_whole, "{out}{told}");
    }
}

#[test]
fn an_address_for_metrics_that_another_has_is_told() {
    let folder = TempDir::new().expect("a folder");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    let listen = format!("admin.metrics_listen={address}");
    let told = |state: &str, exit: i32| {
        let (code, out, told) = ended(check(folder.path(), NOBODY, &["-o", &listen]));
        let found = out.lines().find(|line| line.starts_with(&format!("{state:<8} admin.metrics_listen ")));
        assert!(code == Some(exit) && found.is_some(), "{state}, {code:?}: {out} {told}");
        found.unwrap_or_default().to_owned()
    };
    assert!(told("FAILED", 1).contains(&format!("{address} cannot be listened on: Address already in use")));
    let (code, ..) = ended(command(folder.path(), NOBODY, &["run", "-o", &listen]));
    assert_eq!(code, Some(73));

    drop(taken);
    told("ok", 0);
    let mut daemon = command(folder.path(), NOBODY, &["run", "-o", &listen]);
    let mut daemon = daemon.stderr(Stdio::null()).spawn().expect("the daemon starts");
    // The producers' socket comes last.
    drop(connect(folder.path()));
    assert!(told("ok", 0).contains("is in use: the daemon"));
    assert!(terminate(&mut daemon).success());
}

#[test]
fn both_sockets_at_one_path_are_a_wrong_configuration() {
    let folder = TempDir::new().expect("a folder");
    let admin = format!("admin.socket={}", folder.path().join("notify.sock").display());
    for what in ["run", "check"] {
        let (code, _, told) = ended(command(folder.path(), NOBODY, &[what, "-o", &admin]));
        let both = told.contains("ingest.socket") && told.contains("admin.socket");
        assert!(code == Some(78) && both, "{what}: {code:?} {told}");
    }
}

#[test]
fn the_queues_folder_is_made_for_the_daemon_alone_and_one_that_all_can_enter_is_told() {
    let folder = TempDir::new().expect("a folder");
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o711)).expect("it is ours");
    let queue = folder.path().join("queue");
    let mode = || std::fs::metadata(&queue).expect("it is there").permissions().mode() & 0o7777;
    // What a daemon that ran says of it.
    let told = || {
        let run = command(folder.path(), NOBODY, &["run"]);
        let mut shell = Command::new("sh");
        shell.args(["-c", "umask 0; exec \"$0\" \"$@\""]).arg(run.get_program()).args(run.get_args());
        let mut daemon = shell.stderr(Stdio::piped()).spawn().expect("the daemon starts");
        let log = Log::of(&mut daemon);
        drop(connect(folder.path()));
        assert!(terminate(&mut daemon).success());
        log.all().into_iter().filter(|line| line["event"] == "queue_exposed").collect::<Vec<_>>()
    };
    let sentence = "every user of this machine can enter ";
    assert_eq!((told(), mode()), (vec![], 0o700));
    let (code, out, _) = ended(check(folder.path(), NOBODY, &[]));
    assert!(code == Some(0) && !out.contains(sentence), "{code:?} {out}");

    // One that is there was perhaps opened with intent.
    std::fs::set_permissions(&queue, Permissions::from_mode(0o755)).expect("it is ours");
    let lines = told();
    assert!(lines.len() == 1 && lines[0]["message"].to_string().contains(sentence), "{lines:?}");
    assert_eq!(mode(), 0o755);
    let (code, out, _) = ended(check(folder.path(), NOBODY, &[]));
    let found = out.lines().find(|line| line.contains(sentence));
    assert!(code == Some(0) && found.is_some_and(|line| line.starts_with("warning  queue.path ")), "{out}");
    assert!(out.contains(&format!("chmod 0700 {}", queue.display())), "{out}");
}

#[test]
fn output_that_cannot_be_written_is_a_failure_and_a_reader_who_has_enough_is_none() {
    let folder = TempDir::new().expect("a folder");
    cannot_write(|| check(folder.path(), NOBODY, &[]));
    cannot_write(|| check(folder.path(), NOBODY, &["--json"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_to_target_is_tried_without_sending_anything() {
    let folder = TempDir::new().expect("a folder");
    let sandbox = Sandbox::start(sandbox::Settings::default()).expect("the sandbox listens");
    let terminator = Terminator::start(&folder, &sandbox).await;
    let endpoint = format!("https://localhost:{}", terminator.port);
    let authority = format!("target.ca_file={}", terminator.ca_file.display());
    let tried = async |endpoint: &str, within: &str, more: &[&str]| {
        let limit = format!("target.connect_timeout={within}");
        let command = check(folder.path(), endpoint, &[&["--online", "-o", &limit], more].concat());
        tokio::task::spawn_blocking(move || ended(command)).await.expect("no panic")
    };

    let (code, out, told) = tried(&endpoint, AMPLE, &["-o", &authority]).await;
    assert!(code == Some(0) && out.contains("localhost is 127.0.0.1"), "{out} {told}");
    assert!(out.contains(&format!("TLS handshake with localhost:{}: done", terminator.port)), "{out}");
    // The command may end before the other side knows that the handshake is done.
    until(|| !noted(&terminator.seen).is_empty()).await;
    assert_eq!(noted(&terminator.seen), ["h2"]);

    let (code, out, _) = tried(&endpoint, AMPLE, &[]).await;
    assert!(code == Some(1) && out.contains("UnknownIssuer") && out.contains("target.ca_file"), "{out}");

    let (address, seen, proxying) = proxy(0).await;
    let proxied = format!("target.proxy={address}");
    let (code, out, _) = tried(&endpoint, AMPLE, &["-o", &authority, "-o", &proxied]).await;
    assert!(code == Some(0) && out.contains("through the proxy 127.0.0.1:"), "{out}");
    assert_eq!(noted(&seen), [format!("CONNECT localhost:{} HTTP/1.1", terminator.port)]);
    let by_environment = async |endpoint: &str, except: &str| {
        let mut command = check(folder.path(), endpoint, &["--online", "-o", &authority]);
        command.env("HTTPS_PROXY", &address).env("HTTP_PROXY", &address).env("NO_PROXY", except);
        tokio::task::spawn_blocking(move || ended(command)).await.expect("no panic")
    };
    let (code, out, _) = by_environment(&endpoint, "").await;
    assert!(code == Some(0) && out.contains(" of HTTPS_PROXY: done"), "{out}");
    assert_eq!(noted(&seen).len(), 2);
    // One that is left out, and clear text to loopback, which is for no proxy at all.
    let plain = format!("http://{}", sandbox.address());
    for (endpoint, except) in [(&endpoint, "localhost"), (&plain, "")] {
        let (code, out, _) = by_environment(endpoint, except).await;
        assert!(code == Some(0) && !out.contains("through the proxy"), "{out}");
    }
    assert_eq!(noted(&seen).len(), 2);
    // Without TLS nobody asks a proxy for the way before there is a request.
    let accepting = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let proxied = format!("target.proxy=http://{}", accepting.local_addr().expect("an address"));
    let clear = ["--instance", "shop", "-o", "target.allow_http=true", "-o", &proxied];
    let (code, out, _) = tried("http://nowhere.invalid", AMPLE, &clear).await;
    assert!(code == Some(0) && !out.contains("nowhere.invalid through"), "{out}");
    assert!(
        out.contains("warning  target.endpoint ") && out.contains("whether nowhere.invalid is, a first"),
        "{out}"
    );
    assert!(out.contains("target-notifyd --instance shop tail --outcome retry"), "{out}");

    // Who is bound and does not listen refuses; who listens and accepts nothing is silent.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("a port");
    let nobody = format!("https://{}", socket.local_addr().expect("an address"));
    let (code, out, _) = tried(&nobody, AMPLE, &[]).await;
    assert!(code == Some(1) && out.contains("refused"), "{out}");
    let silent = socket.listen(1).expect("it listens");
    let (code, out, _) = tried(&nobody, "100ms", &[]).await;
    assert!(code == Some(1) && out.contains("no answer within 100ms"), "{out}");
    drop(silent);
    let (code, out, _) = tried("https://nowhere.invalid", "1s", &[]).await;
    assert!(code == Some(1) && out.contains("nowhere.invalid") && !out.contains("handshake"), "{out}");

    // The sandbox was not asked for anything.
    assert_eq!(sandbox.totals().requests, 0);
    terminator.task.abort();
    proxying.abort();
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_speak_what_its_handshake_offers_is_told() {
    let (folder, ours) = (TempDir::new().expect("a folder"), Authority::new("Ours"));
    let authority = format!("target.ca_file={}", ours.file(&folder).display());
    let (http_1, help) = (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "offer http/1.1 alone");
    for (answer, is_clear, why, helps) in [
        (http_1, false, "it begins with HTTP/1.1", help),
        (b"", false, "it closes the connection", help),
        // As TLS tells of a handshake that the other side ends with an alert.
        (http_1, true, "corrupt message", "whether this port serves https"),
        (b"\0\0\0\x04\0\0\0\0\0", false, "", "no request was sent"),
    ] {
        let acceptor = ours.server("127.0.0.1", Validity::Now, &["h2"]);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("https://{}", listener.local_addr().expect("an address"));
        let serving = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("a connection");
            let mut stream = acceptor.accept(stream).await.expect("a handshake");
            let mut preface = [0; 24];
            stream.read_exact(&mut preface).await.expect("HTTP/2 begins");
            assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
            match is_clear {
                true => stream.get_mut().0.write_all(answer).await.expect("it is read"),
                false => stream.write_all(answer).await.expect("it is read"),
            }
            // It may be given up by now.
            let _ended = stream.shutdown().await;
        });
        let limit = format!("target.connect_timeout={AMPLE}");
        let command = check(folder.path(), &endpoint, &["--online", "-o", &limit, "-o", &authority]);
        let (code, out, _) = tokio::task::spawn_blocking(move || ended(command)).await.expect("no panic");
        serving.await.expect("no panic");
        let expected = i32::from(!why.is_empty());
        assert!(code == Some(expected) && out.contains(why) && out.contains(helps), "{why}: {out}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_silent_after_its_handshake_is_not_told_as_one_without_a_handshake() {
    let (folder, ours) = (TempDir::new().expect("a folder"), Authority::new("Ours"));
    let authority = format!("target.ca_file={}", ours.file(&folder).display());
    let acceptor = ours.server("127.0.0.1", Validity::Now, &["h2"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("https://{}", listener.local_addr().expect("an address"));
    let serving = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            // Where the time was too short for it there is none.
            held.push(acceptor.accept(stream).await);
        }
    });
    let mut told = String::new();
    // The handshake has to be over by then, however slow the machine is.
    let ample = format!("target.connect_timeout={AMPLE}");
    for limit in ["100ms", "1s", "10s", AMPLE] {
        let limit = format!("target.timeout={limit}");
        let more = ["--online", "-o", &limit, "-o", &ample, "-o", &authority];
        let command = check(folder.path(), &endpoint, &more);
        let (code, out, _) = tokio::task::spawn_blocking(move || ended(command)).await.expect("no panic");
        assert_eq!(code, Some(1), "{out}");
        told = out;
        if told.contains("is not spoken then: nothing came within") {
            break;
        }
    }
    assert!(told.contains("HTTP/2 was agreed on") && !told.contains("no TLS handshake"), "{told}");
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_begin_to_speak_as_late_as_a_request_would_wait() {
    let (folder, ours) = (TempDir::new().expect("a folder"), Authority::new("Ours"));
    let authority = format!("target.ca_file={}", ours.file(&folder).display());
    let ample = format!("target.timeout={AMPLE}");
    let mut told = String::new();
    // The handshake has to be over by then, however slow the machine is.
    for limit in [100, 1_000, 10_000].map(Duration::from_millis) {
        let acceptor = ours.server("127.0.0.1", Validity::Now, &["h2"]);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("https://{}", listener.local_addr().expect("an address"));
        let serving = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("a connection");
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            // Later than any connection may be made.
            tokio::time::sleep(2 * limit).await;
            let _given_up = stream.write_all(b"\0\0\0\x04\0\0\0\0\0").await;
            let _ended = stream.shutdown().await;
        });
        let limit = format!("target.connect_timeout={}ms", limit.as_millis());
        let more = ["--online", "-o", &limit, "-o", &ample, "-o", &authority];
        let command = check(folder.path(), &endpoint, &more);
        let (code, out, _) = tokio::task::spawn_blocking(move || ended(command)).await.expect("no panic");
        serving.abort();
        told = out;
        if code == Some(0) {
            break;
        }
    }
    assert!(told.contains("TLS handshake with") && told.contains("no request was sent"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_handshake_that_failed_what_helps_is_told() {
    let folder = TempDir::new().expect("a folder");
    let ours = Authority::new("Ours");
    let (itself, own_file) = authority_itself("127.0.0.1", &folder);
    let for_now = |name, validity| Some(ours.server(name, validity, &[]));
    for (acceptor, ca_file, why, helps) in [
        (Some(itself), Some(own_file), "CaUsedAsEndEntity", "give it one with CA:FALSE"),
        (for_now("127.0.0.1", Validity::Now), None, "UnknownIssuer", "goes into target.ca_file"),
        (
            for_now("127.0.0.1", Validity::Past),
            Some(ours.file(&folder)),
            "expired",
            "valid now and for this name",
        ),
        (
            for_now("127.0.0.9", Validity::Now),
            Some(ours.file(&folder)),
            "not valid for",
            "valid now and for this name",
        ),
        (None, None, "corrupt message", "whether this port serves https"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("https://{}", listener.local_addr().expect("an address"));
        let serving = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                match &acceptor {
                    Some(acceptor) => drop(acceptor.accept(stream).await),
                    None => {
                        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
                        let _ = stream.read_to_end(&mut Vec::new()).await;
                    }
                }
            }
        });
        let limit = format!("target.connect_timeout={AMPLE}");
        let mut command = check(folder.path(), &endpoint, &["--online", "-o", &limit]);
        command.args(
            ca_file.iter().flat_map(|path| ["-o".into(), format!("target.ca_file={}", path.display())]),
        );
        let (code, out, _) = tokio::task::spawn_blocking(move || ended(command)).await.expect("no panic");
        assert!(code == Some(1) && out.contains(why) && out.contains(helps), "{why}: {out}");
        assert_eq!(out.contains("goes into target.ca_file"), why == "UnknownIssuer", "{out}");
        serving.abort();
    }
}
