//! A name server that fails in each way and returns: events for the host without an address wait, the others are delivered.
//!
//! The daemon runs in a mount namespace of its own, with an `/etc/resolv.conf` that names the test's server. That, and the
//! port of name servers, take root: any other user is told, and the test ends.

use std::io::Write;
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::edge::Edge;
use crate::process::{Log, command, connect, message, terminate};
use crate::support::{display, until};

/// On no other address, so that a real server of this host may have the port.
const SERVER: &str = "127.0.0.77";
const NAME: &str = "own.target.test";
/// For how long the system goes on asking a server that is silent, in seconds: five times this.
const SILENCE: u64 = 30;
/// No end takes as long, unless it waits for the system to give a look-up up.
const ENDED: Duration = Duration::from_secs(60);

const SERVES: u8 = 0;
/// The server cannot say.
const FAILS: u8 = 2;
/// There is no such name.
const UNKNOWN: u8 = 3;
const SILENT: u8 = 255;

/// A name server that knows every name as 127.0.0.1, or does as it is told.
struct Server {
    mode: Arc<AtomicU8>,
    asked: Arc<AtomicUsize>,
}

impl Server {
    fn start(socket: UdpSocket) -> Self {
        let server = Self { mode: Arc::default(), asked: Arc::default() };
        let (mode, asked) = (Arc::clone(&server.mode), Arc::clone(&server.asked));
        std::thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut query) {
                asked.fetch_add(1, Ordering::SeqCst);
                let mode = mode.load(Ordering::SeqCst);
                if mode != SILENT {
                    // The asker may be gone.
                    let _ = socket.send_to(&answer(&query[..length], mode), from);
                }
            }
        });
        server
    }

    fn set(&self, mode: u8) {
        self.mode.store(mode, Ordering::SeqCst);
    }
}

/// The answer to a query with one question: `code`, and where it is [`SERVES`] the address.
fn answer(query: &[u8], code: u8) -> Vec<u8> {
    let name = query[12..].iter().position(|byte| *byte == 0).expect("a name has an end");
    let question = &query[12..12 + name + 5];
    let address = code == SERVES && question[name + 1..name + 3] == [0, 1];
    // The id; an answer with recursion; one question, and the address.
    let mut answer =
        [&query[..2], &[0x81, 0x80 | code, 0, 1, 0, u8::from(address), 0, 0, 0, 0], question].concat();
    if address {
        // The name of the question, an address of the internet, valid for no time, in four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]);
    }
    answer
}

/// Runs `inner` where `/etc/resolv.conf` is the folder's.
fn beside(folder: &Path, inner: &Command) -> Child {
    let script = "mount --bind \"$0/resolv.conf\" /etc/resolv.conf &&
        mount --bind \"$0/nsswitch.conf\" /etc/nsswitch.conf && exec \"$@\"";
    Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .arg(folder)
        .arg(inner.get_program())
        .args(inner.get_args())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("unshare is there")
}

fn submit(folder: &Path, lines: &[String]) {
    let producer = connect(folder);
    for line in lines {
        writeln!(&producer, "{line}").expect("the daemon reads");
    }
    producer.shutdown(std::net::Shutdown::Write).expect("the daemon is there");
    let replies = std::io::read_to_string(producer).expect("replies");
    assert_eq!(replies.matches("\"queued\"").count(), lines.len(), "{replies}");
}

fn all_listed(edge: &Edge, kind: &str) -> bool {
    (0..20).all(|number| edge.listed(&format!("{kind}{number}")) == [1])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_server_that_fails_and_returns_loses_nothing_and_holds_up_no_other() {
    let possible = Command::new("unshare").args(["--mount", "true"]).status();
    let (true, Ok(socket)) = (possible.is_ok_and(|status| status.success()), UdpSocket::bind((SERVER, 53)))
    else {
        return eprintln!("DNS that fails was not tried: a mount namespace and port 53 take root");
    };
    let server = Server::start(socket);
    let (folder, edge) = (TempDir::new().expect("a folder"), Edge::default());
    let write = |name, text: String| std::fs::write(folder.path().join(name), text).expect("a file");
    write("resolv.conf", format!("nameserver {SERVER}\noptions timeout:{SILENCE} attempts:5\n"));
    write("nsswitch.conf", "hosts: files dns\n".to_owned());
    let (address, serving) = edge.listen().await;
    let endpoint = format!("http://{NAME}:{}", address.port());
    let edges = format!("target.edge_endpoint=http://{address}/edge{{cluster}}");
    // An answer is waited for however slow the machine is, and silence is not.
    for (mode, kind, within, cause) in [
        (UNKNOWN, "unknown", "2m", "the address of own.target.test is not known"),
        (FAILS, "fails", "2m", "the address of own.target.test is not known"),
        (SILENT, "silent", "1s", "no name server answered for own.target.test within 900ms"),
    ] {
        server.set(mode);
        let limit = format!("target.connect_timeout={within}");
        let arguments = ["run", "-o", &edges, "-o", "target.allow_http=true", "-o", &limit];
        let mut daemon = beside(folder.path(), &command(folder.path(), &endpoint, &arguments));
        let mut log = Log::of(&mut daemon);
        let own = |number| format!(r#"{{"session_id":"{kind}{number}","type":"click","id":"1"}}"#);
        submit(folder.path(), &(0..20).map(own).collect::<Vec<_>>());
        let line = log.says("the host fails");
        let detail = line["detail"].as_str().unwrap_or_default();
        assert!(line["host"] == "client" && detail.contains(cause), "{line}");
        // The edge hosts are named by their addresses.
        let others = format!("{kind}good");
        submit(
            folder.path(),
            &(0..20).map(|number| display(&format!("{others}{number}"), "1")).collect::<Vec<_>>(),
        );
        until(|| all_listed(&edge, &others)).await;
        assert!((0..20).all(|number| edge.asked(&format!("{kind}{number}")).is_empty()), "it has no address");

        let terminating = Instant::now();
        assert!(terminate(&mut daemon).success());
        assert!(terminating.elapsed() < ENDED, "the end waited for a look-up");
        assert_eq!(log.says("the daemon has ended")["pending"], 20);

        let mut daemon = beside(folder.path(), &command(folder.path(), &endpoint, &arguments));
        let mut log = Log::of(&mut daemon);
        log.says("the host fails");
        let asked = server.asked.load(Ordering::SeqCst);
        server.set(SERVES);
        log.says("requests go to the host again");
        until(|| all_listed(&edge, kind)).await;
        assert!(server.asked.load(Ordering::SeqCst) > asked, "nobody asked for the address");
        assert!(terminate(&mut daemon).success());
        let ended = log.says("the daemon has ended");
        assert_eq!((&ended["pending"], &ended["dead"]), (&0.into(), &0.into()), "{ended}");
        let failures = |line: &&serde_json::Value| message(line).starts_with("the host fails");
        assert!(log.all().iter().filter(failures).all(|line| line["host"] == "client"));
    }
    assert_eq!(edge.changed(), 0);
    serving.abort();
}
