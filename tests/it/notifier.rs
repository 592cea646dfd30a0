//! The ready clients in `examples/`: they take the options of Adobe's SDKs, over a restart, from many workers, and wait no
//! longer than they were told. Each is tried by a program of its language, `notifier/check.*`.

use std::os::unix::net::UnixListener;
use std::process::Stdio;

use target_notifyd::sandbox::{self, Sandbox};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use crate::support::{Running, settings};

/// So many events each program submits: one before the restart, one after it, and a hundred at once.
const EVENTS: u64 = 102;

#[tokio::test(flavor = "multi_thread")]
async fn the_ready_clients_take_the_options_of_the_sdks_over_a_restart() {
    let (folder, root) = (TempDir::new().expect("a folder"), env!("CARGO_MANIFEST_DIR"));
    let sandbox = Sandbox::start(sandbox::Settings::default()).expect("the sandbox listens");
    let settings = settings(&folder, &sandbox);
    let silent = folder.path().join("silent.sock");
    // Nobody accepts: so it is where a service manager holds the socket of a daemon that does not start.
    let _listener = UnixListener::bind(&silent).expect("a socket");
    let mut delivered = 0;
    for (program, check) in [("python3", "check.py"), ("node", "check.cjs")] {
        let running = Running::start(settings.clone()).await;
        let child = tokio::process::Command::new(program)
            .arg(format!("{root}/tests/it/notifier/{check}"))
            .args([&settings.ingest.socket, &silent])
            .env("PYTHONPATH", format!("{root}/examples"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match child {
            Ok(child) => child,
            // .ci/run installs them all; elsewhere those are tried that are there.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                eprintln!("{program} is not installed: its client was not tried");
                running.stop().await;
                continue;
            }
            Err(error) => panic!("{program}: {error}"),
        };
        let mut said = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let mut told = String::new();
        if said.next_line().await.expect("text").as_deref() == Some("restart") {
            running.stop().await;
            let running = Running::start(settings.clone()).await;
            child.stdin.take().expect("a pipe").write_all(b"\n").await.expect("the client reads");
            child.stderr.take().expect("a pipe").read_to_string(&mut told).await.expect("text");
            assert!(child.wait().await.expect("the client ends").success(), "{program}: {told}");
            delivered += EVENTS;
            assert_eq!(running.settled(delivered).await.delivered, delivered);
            running.stop().await;
        } else {
            child.stderr.take().expect("a pipe").read_to_string(&mut told).await.expect("text");
            panic!("{program}: {told}");
        }
    }
    sandbox.stop().await;
}
