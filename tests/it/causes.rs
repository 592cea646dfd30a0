//! The log names the cause of what keeps events from a host, as an operator needs it.

use std::io::Write;
use std::net::Ipv4Addr;
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::authority::{Authority, Validity};
use crate::process::{Log, command, connect, message, terminate};
use crate::support::display;

/// Longer than a label of a name may be: the system refuses it without asking anybody.
const NO_NAME: &str = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx.test";

fn serve(listener: TcpListener, acceptor: Option<TlsAcceptor>) {
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                match acceptor {
                    Some(acceptor) => drop(acceptor.accept(stream).await),
                    None => drop(stream.read_to_end(&mut Vec::new()).await),
                }
            });
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_names_the_cause_of_each_kind_of_failure() {
    let (folder, ours, others) =
        (TempDir::new().expect("a folder"), Authority::new("Ours"), Authority::new("Somebody else"));
    let home = |cluster| Ipv4Addr::new(127, 0, 0, cluster);
    let free = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = free.local_addr().expect("an address").port();
    for (cluster, acceptor) in [
        (41, Some(others.server("127.0.0.41", Validity::Now, &[]))),
        (42, Some(ours.server("127.0.0.99", Validity::Now, &[]))),
        (43, Some(ours.server("127.0.0.43", Validity::Past, &[]))),
        (44, None),
    ] {
        let listener = TcpListener::bind((home(cluster), port)).await.expect("the port is free there");
        serve(listener, acceptor);
    }
    let edges = format!("target.edge_endpoint=https://127.0.0.{{cluster}}:{port}");
    let authority = format!("target.ca_file={}", ours.file(&folder).display());
    // Who answers is waited for however slow the machine is, who is silent is not.
    for (within, causes) in [
        (
            "2m",
            &[
                (41, "UnknownIssuer"),
                (42, "certificate not valid for name \"127.0.0.42\""),
                (43, "certificate expired"),
                (45, "Connection refused"),
            ][..],
        ),
        ("1s", &[(44, "timed out")]),
    ] {
        let folder = TempDir::new().expect("a folder");
        let limits = ["timeout", "connect_timeout"].map(|key| format!("target.{key}={within}"));
        let mut arguments = vec!["run"];
        for option in [edges.as_str(), &authority, "target.allow_http=true", &limits[0], &limits[1]] {
            arguments.extend(["-o", option]);
        }
        let mut daemon = command(folder.path(), &format!("http://{NO_NAME}"), &arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the daemon starts");
        let mut log = Log::of(&mut daemon);
        let producer = connect(folder.path());
        for (cluster, _) in causes {
            let line = display(&format!("s{cluster}"), "1").replace(".35_0", &format!(".{cluster}_0"));
            writeln!(&producer, "{line}").expect("the daemon reads");
        }
        let mut expected: Vec<_> =
            causes.iter().map(|(cluster, cause)| (format!("edge {cluster}"), *cause)).collect();
        // Where the hosts that fail fall back to.
        expected.push(("client".to_owned(), "the address of xxx"));
        for (host, cause) in expected {
            // What the libraries say beside it has no name of an event, and no word of what to do.
            let nameless = |line: &Value| line["event"].is_null() && line["level"] != "INFO";
            let line = log.until(|line| {
                nameless(line) || line["host"] == *host && message(line).starts_with("the host fails")
            });
            let detail = line["detail"].as_str().unwrap_or_default();
            assert!(line["level"] == "WARN" && detail.contains(cause), "{line}");
            assert!(!detail.contains("sessionId"), "a visitor's session is in the log: {line}");
        }
        drop(producer);
        assert!(terminate(&mut daemon).success());
        let ended = log.says("the daemon has ended");
        let count: Value = causes.len().into();
        assert_eq!((&ended["accepted"], &ended["pending"]), (&count, &count), "{ended}");
    }
}
