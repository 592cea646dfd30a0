//! TLS, HTTP/2 and a proxy on the way to Target.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::stat::Mode;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use target_notifyd::daemon::{Daemon, Settings};
use target_notifyd::delivery::Proxy;
use target_notifyd::sandbox::{self, Sandbox};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::authority::Authority;
use crate::check::PROXY_VARIABLES;
use crate::far::{self, Far, Manner};
use crate::process::{Log, command, connect, hang_up, terminate};
use crate::support::{Running, display, settings_over_tls, taken, until};

/// What was seen on the way, in order.
pub(crate) type Seen = Arc<Mutex<Vec<String>>>;

fn note(seen: &Seen, what: String) {
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(what);
}

/// What was seen so far.
pub(crate) fn noted(seen: &Seen) -> Vec<String> {
    seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Ends TLS before the sandbox, and notes the protocol of each connection, or that there was no handshake.
pub(crate) struct Terminator {
    pub(crate) port: u16,
    pub(crate) ca_file: PathBuf,
    pub(crate) seen: Seen,
    pub(crate) task: JoinHandle<()>,
}

impl Terminator {
    pub(crate) async fn start(folder: &TempDir, sandbox: &Sandbox) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        let ca_file = folder.path().join("ca.pem");
        fs::write(&ca_file, made.cert.pem()).expect("a file");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let mut config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a certificate with its key");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let (acceptor, address) = (TlsAcceptor::from(Arc::new(config)), sandbox.address());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let seen = Seen::default();
        let noting = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, noting) = (acceptor.clone(), Arc::clone(&noting));
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        return note(&noting, "no handshake".to_owned());
                    };
                    let protocol = stream.get_ref().1.alpn_protocol().unwrap_or_default().to_vec();
                    note(&noting, String::from_utf8_lossy(&protocol).into_owned());
                    let mut inner = TcpStream::connect(address).await.expect("the sandbox listens");
                    let _ended = copy_bidirectional(&mut stream, &mut inner).await;
                });
            }
        });
        Self { port, ca_file, seen, task }
    }

    fn settings(&self, folder: &TempDir) -> Settings {
        settings_over_tls(folder, format!("https://localhost:{}", self.port), self.ca_file.clone())
    }
}

/// A proxy that breaks off its first connections, then does as it is asked.
pub(crate) async fn proxy(broken: usize) -> (String, Seen, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let seen = Seen::default();
    let noting = Arc::clone(&seen);
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { break };
                head.push(byte);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let asked = head.lines().next().unwrap_or_default().to_owned();
            note(&noting, asked.clone());
            if noted(&noting).len() <= broken {
                continue;
            }
            let target = asked.split_whitespace().nth(1).unwrap_or_default().to_owned();
            tokio::spawn(async move {
                let mut inner = TcpStream::connect(target).await.expect("the target listens");
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.expect("the daemon reads");
                let _ended = copy_bidirectional(&mut stream, &mut inner).await;
            });
        }
    });
    (address, seen, task)
}

fn stage() -> (TempDir, Sandbox) {
    let sandbox = Sandbox::start(sandbox::Settings::default()).expect("the sandbox listens");
    (TempDir::new().expect("a folder"), sandbox)
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_is_spoken_where_the_server_offers_it_and_an_unknown_authority_is_refused() {
    let (folder, sandbox) = stage();
    let terminator = Terminator::start(&folder, &sandbox).await;
    let settings = terminator.settings(&folder);
    let mut without = settings.clone();
    without.transport.ca_file = None;
    let running = Running::start(without).await;
    running.submit((0..100).map(|lane| display(&format!("s{lane}"), "1")).collect()).await;
    // It is tried again and again, and nothing goes to a server that cannot show who it is.
    until(|| noted(&terminator.seen).len() >= 10).await;
    assert_eq!(running.stop().await.pending(), 100);
    assert!(
        noted(&terminator.seen).iter().all(|seen| seen == "no handshake"),
        "{:?}",
        noted(&terminator.seen)
    );
    assert_eq!(sandbox.totals().requests, 0);

    let running = Running::start(settings).await;
    assert_eq!(running.settled(100).await.delivered, 100);
    running.stop().await;
    let protocols: Vec<String> =
        noted(&terminator.seen).into_iter().filter(|seen| seen != "no handshake").collect();
    assert!(!protocols.is_empty() && protocols.iter().all(|protocol| protocol == "h2"), "{protocols:?}");
    terminator.task.abort();
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn authorities_that_are_read_again_are_in_force_for_later_requests() {
    let (folder, sandbox) = stage();
    let terminator = Terminator::start(&folder, &sandbox).await;
    let (settings, own) = (terminator.settings(&folder), fs::read(&terminator.ca_file).expect("a file"));
    let another = Authority::new("another authority");
    assert_eq!(another.file(&folder), terminator.ca_file);
    let daemon = Daemon::open(settings.clone()).await.expect("the daemon opens");
    let reloader = daemon.reloader();
    let running = Running::of(daemon, settings.ingest.socket.clone());
    let refused = || noted(&terminator.seen).iter().filter(|seen| *seen == "no handshake").count();
    let refused_more_than = |before| until(move || refused() > before);
    running.submit(vec![display("s", "1")]).await;
    refused_more_than(0).await;
    fs::write(&terminator.ca_file, own).expect("a file");
    reloader.read_authorities_again().await;
    assert_eq!(running.settled(1).await.delivered, 1);
    // The connection that it went over is one of what was read before.
    another.file(&folder);
    reloader.read_authorities_again().await;
    let before = refused();
    running.submit(vec![display("s", "2")]).await;
    refused_more_than(before).await;
    assert_eq!(running.stop().await.pending(), 1);
    terminator.task.abort();
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_goes_by_the_systems_certificates_unless_some_of_them_are_gone() {
    // Whether the system has another one beside, and whether all are there at the start.
    for (beside, there) in [(false, true), (true, true), (false, false)] {
        let (folder, sandbox) = stage();
        let terminator = Terminator::start(&folder, &sandbox).await;
        let (system, other) = (terminator.ca_file.clone(), TempDir::new().expect("a folder"));
        let own = fs::read(&system).expect("a file");
        let set = format!("target.ca_file={}", Authority::new("an authority").file(&other).display());
        let endpoint = format!("https://localhost:{}", terminator.port);
        let mut run = command(folder.path(), &endpoint, &["run", "-o", &set, "-o", "retry.max=100ms"]);
        run.env("SSL_CERT_FILE", &system).env_remove("SSL_CERT_DIR");
        let left = TempDir::new().expect("a folder");
        if beside {
            let file = Authority::new("an authority that stays").file(&left);
            fs::rename(file, left.path().join("0123abcd.0")).expect("a name as such folders have them");
            run.env("SSL_CERT_DIR", left.path());
        }
        for name in PROXY_VARIABLES {
            run.env_remove(name);
        }
        if !there {
            fs::remove_file(&system).expect("it lies there");
        }
        let mut daemon = run.stderr(Stdio::piped()).spawn().expect("the daemon starts");
        let mut log = Log::of(&mut daemon);
        let delivered = async |count: u64| {
            let (path, id) = (folder.path().to_owned(), count.to_string());
            let submits = move || connect(&path).write_all(format!("{}\n", display("s", &id)).as_bytes());
            tokio::task::spawn_blocking(submits).await.expect("no panic").expect("the daemon reads");
            taken(&sandbox, count).await;
        };
        // Nothing else runs meanwhile that would wait for this thread.
        let mut says = |told: &'static str| tokio::task::block_in_place(|| log.says(told));
        if there {
            delivered(1).await;
            fs::remove_file(&system).expect("it lies there");
            if beside {
                // Nobody writes to it: who opened it would wait for ever.
                nix::unistd::mkfifo(&system, Mode::S_IRWXU).expect("a pipe");
            }
            Authority::new("another authority").file(&other);
            hang_up(&daemon);
            let kept = says("the certificates that were read before stay in force");
            let error = kept["error"].as_str().unwrap_or_default();
            assert!(error.contains("of the system") && error.contains("regular file") == beside, "{kept}");
            delivered(2).await;
            if beside {
                fs::remove_file(&system).expect("it lies there");
            }
        } else {
            let unread = says("some root certificates of the system are not trusted");
            assert!(
                unread["error"].as_str().is_some_and(|error| error.contains("cannot be read")),
                "{unread}"
            );
            says("the daemon takes events in");
        }
        fs::write(&system, own).expect("a file");
        hang_up(&daemon);
        says("other certificates are trusted");
        delivered(if there { 3 } else { 1 }).await;
        let ended = tokio::task::spawn_blocking(move || terminate(&mut daemon)).await.expect("no panic");
        assert!(ended.success(), "{ended}");
        let unread = log.all().iter().filter(|line| line["event"] == "certificates_unread").count();
        assert_eq!(unread, usize::from(!there), "all could be read at the start");
        terminator.task.abort();
        sandbox.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_2_a_host_gets_requests_over_several_connections() {
    let (folder, authority) = (TempDir::new().expect("a folder"), Authority::new("an authority"));
    // Were they all to come over fewer, none would be answered.
    let manner = Manner { protocol: "h2", window: 65_535, way: Duration::ZERO, connections: 8 };
    let far = Far::start(&authority, manner).await;
    let running = Running::start(far::settings(&folder, &authority, &far)).await;
    running.submit((0..32).map(|lane| display(&format!("s{lane}"), "1")).collect()).await;
    assert_eq!(running.settled(32).await.delivered, 32);
    running.stop().await;
    let arrived = far.arrived.borrow().clone();
    assert_eq!((arrived.requests, arrived.events, arrived.connections), (32, 32, 8));
}

#[tokio::test(flavor = "multi_thread")]
async fn clear_text_to_loopback_goes_through_no_proxy() {
    let (folder, sandbox) = stage();
    let (address, seen, task) = proxy(0).await;
    let endpoint = format!("http://{}", sandbox.address());
    let set = format!("target.proxy={address}");
    let mut command = command(folder.path(), &endpoint, &["run", "-o", &set]);
    for name in PROXY_VARIABLES {
        command.env(name, if name.eq_ignore_ascii_case("NO_PROXY") { "" } else { &address });
    }
    let mut daemon = command.stderr(Stdio::null()).spawn().expect("the daemon starts");
    let path = folder.path().to_owned();
    let submits = move || connect(&path).write_all(format!("{}\n", display("s", "1")).as_bytes());
    tokio::task::spawn_blocking(submits).await.expect("no panic").expect("the daemon reads");
    taken(&sandbox, 1).await;
    let ended = tokio::task::spawn_blocking(move || terminate(&mut daemon)).await.expect("no panic");
    assert!(ended.success() && noted(&seen).is_empty(), "{ended} {:?}", noted(&seen));
    task.abort();
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_used_and_one_that_breaks_loses_nothing() {
    let (folder, sandbox) = stage();
    let terminator = Terminator::start(&folder, &sandbox).await;
    let (address, seen, task) = proxy(3).await;
    let mut settings = terminator.settings(&folder);
    settings.transport.proxy = Some(Proxy::set(address));
    let running = Running::start(settings).await;
    running.submit((0..100).map(|lane| display(&format!("s{lane}"), "1")).collect()).await;
    assert_eq!(running.settled(100).await.delivered, 100);
    running.stop().await;
    let asked = format!("CONNECT localhost:{} HTTP/1.1", terminator.port);
    assert!(noted(&seen).len() > 3 && noted(&seen).iter().all(|seen| *seen == asked), "{:?}", noted(&seen));
    terminator.task.abort();
    task.abort();
    sandbox.stop().await;
}
