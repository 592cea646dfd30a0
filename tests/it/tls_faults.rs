//! Hosts that cannot show who they are, or do not speak TLS at all, and proxies that break: nothing goes to them, nothing is
//! lost, and the others are served.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use target_notifyd::daemon::Settings;
use target_notifyd::delivery::{self, Edge as _, Proxy, Transport};
use target_notifyd::event::{Answer, Balance, Cluster, Failure, Host, SessionId};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::authority::{Authority, Validity, self_signed};
use crate::edge::Edge;
use crate::support::{AMPLE, Running, display, settings_at};

/// `target.connect_timeout` where somebody is silent, which takes it.
const BRIEF: Duration = Duration::from_secs(1);

/// What is wrong with an edge host.
enum Fault {
    Certificate(TlsAcceptor),
    /// Cut in the handshake.
    Cut,
    /// Cut once the handshake is over.
    CutAfter(TlsAcceptor),
    NotTls,
    /// Nothing is ever said.
    Silent,
}

struct Case {
    name: &'static str,
    fault: Fault,
    kinds: &'static [Failure],
    /// What an operator reads, in part.
    told: &'static str,
}

fn cases(authority: &Authority) -> Vec<Case> {
    let home = |number: usize| address(number).to_string();
    let tls: &[Failure] = &[Failure::Tls];
    let case = |name, fault, kinds, told| Case { name, fault, kinds, told };
    let own = |number, validity| Fault::Certificate(authority.server(&home(number), validity, &[]));
    vec![
        case("expired", own(0, Validity::Past), tls, "expired"),
        case("not valid yet", own(1, Validity::Future), tls, "not valid yet"),
        case("wrong name", own(77, Validity::Now), tls, "not valid for name"),
        case(
            "unknown authority",
            Fault::Certificate(Authority::new("Somebody else").server(&home(3), Validity::Now, &[])),
            tls,
            "certificate",
        ),
        case("self-signed", Fault::Certificate(self_signed(&home(4))), tls, "certificate"),
        case("cut in the handshake", Fault::Cut, &[Failure::Tls, Failure::Connect], ""),
        case(
            "cut after the handshake",
            Fault::CutAfter(authority.server(&home(6), Validity::Now, &[])),
            &[Failure::Reset],
            "",
        ),
        case("not TLS", Fault::NotTls, tls, ""),
        case("silent", Fault::Silent, &[Failure::Timeout], ""),
    ]
}

/// The address of the edge host of a case: `127.0.0.1` is the client's own host.
fn address(case: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, u8::try_from(case).expect("few cases") + 10)
}

fn cluster(case: usize) -> Cluster {
    Cluster::parse(&(case + 10).to_string()).expect("a cluster")
}

/// Serves an edge host with its fault, and counts connections.
fn serve(listener: TcpListener, fault: Fault, seen: Arc<AtomicUsize>) {
    let fault = Arc::new(fault);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            seen.fetch_add(1, Ordering::Relaxed);
            let fault = Arc::clone(&fault);
            tokio::spawn(async move {
                match &*fault {
                    Fault::Certificate(acceptor) => {
                        if let Ok(mut stream) = acceptor.accept(stream).await {
                            let read = stream.read(&mut [0; 64]).await;
                            assert!(
                                !matches!(read, Ok(1..)),
                                "a request went to a host that nobody vouches for"
                            );
                        }
                    }
                    Fault::Cut => drop(stream.read(&mut [0; 8]).await),
                    Fault::CutAfter(acceptor) => drop(acceptor.accept(stream).await),
                    Fault::NotTls => {
                        let _ =
                            stream.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n").await;
                        let _ = stream.read_to_end(&mut Vec::new()).await;
                    }
                    Fault::Silent => drop(stream.read_to_end(&mut Vec::new()).await),
                }
            });
        }
    });
}

/// Serves the client's own host as it should be; at which port.
async fn serve_well(authority: &Authority, edge: &Edge) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (acceptor, edge) = (authority.server("127.0.0.1", Validity::Now, &["http/1.1"]), edge.clone());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, edge) = (acceptor.clone(), edge.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    edge.serve(stream).await;
                }
            });
        }
    });
    port
}

fn https(folder: &TempDir, authority: &Authority, port: u16) -> Settings {
    let mut settings = settings_at(folder, format!("https://127.0.0.1:{port}"));
    settings.transport.edge_endpoint = Some(format!("https://127.0.0.{{cluster}}:{port}"));
    settings.transport.ca_file = Some(authority.file(folder));
    settings.transport.connect_timeout = BRIEF;
    settings.schedule.breaker_failures = 2;
    settings
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_to_a_host_that_fails_in_tls_and_nothing_is_lost() {
    let (folder, edge, authority) =
        (TempDir::new().expect("a folder"), Edge::default(), Authority::new("Ours"));
    let port = serve_well(&authority, &edge).await;
    let settings = https(&folder, &authority, port);
    let within = |connect_timeout| {
        let settings = delivery::Settings { connect_timeout, ..settings.transport.clone() };
        Transport::new(settings).expect("sound settings")
    };
    let session = SessionId::new("s").expect("a session id");
    let mut seen = Vec::new();
    for (number, Case { name, fault, kinds, told }) in cases(&authority).into_iter().enumerate() {
        let listener =
            TcpListener::bind((address(number), port)).await.expect("the port is free on this address");
        let count = Arc::<AtomicUsize>::default();
        serve(listener, fault, Arc::clone(&count));
        let host = Host::Edge(cluster(number));
        let limit = if kinds == [Failure::Timeout] { BRIEF } else { AMPLE };
        let (outcome, _) = within(limit).attempt(host, &session, "r", b"{}".to_vec(), &["1"]).await;
        let Answer::Failed(failure) = outcome.answer else { panic!("{name}: {outcome:?}") };
        assert!(
            kinds.contains(&failure) && outcome.detail.contains(told),
            "{name}: {failure:?}: {}",
            outcome.detail
        );
        assert!(!outcome.detail.is_empty(), "{name}: nothing is told");
        seen.push((name, count));
    }

    let running = Running::start(settings).await;
    let mut lines = Vec::new();
    for (number, _) in seen.iter().enumerate() {
        for event in 0..3 {
            lines.push(
                display(&format!("f{number}"), &event.to_string())
                    .replace(".35_0", &format!(".{}_0", number + 10)),
            );
        }
    }
    lines.extend((0..50).map(|number| format!(r#"{{"session_id":"good{number}","type":"click","id":"1"}}"#)));
    let all = lines.len() as u64;
    running.submit(lines).await;
    let balance = running.settled(all).await;
    assert_eq!(balance, Balance { accepted: all, delivered: all, ..Balance::default() });
    running.stop().await;
    for (number, (name, count)) in seen.iter().enumerate() {
        assert!(count.load(Ordering::Relaxed) > 2, "{name}: the daemon tried only {count:?} times");
        assert_eq!(edge.listed(&format!("f{number}")), [1, 1, 1], "{name}");
    }
    assert_eq!(edge.changed(), 0);
}

/// What a proxy does with a connection.
#[derive(Clone, Copy, Debug)]
enum Broken {
    Says(&'static str),
    Hangs,
    /// So many bytes of the answers come through, then it is cut.
    CutsAfter(u64),
}

/// A proxy that breaks its first connections as `broken` says, then does as it is asked; returns its address.
async fn proxy(broken: Vec<Broken>, seen: Arc<AtomicUsize>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let fault = broken.get(seen.fetch_add(1, Ordering::Relaxed)).copied();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    head.push(byte);
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let mut inner = TcpStream::connect(head.split(' ').nth(1).unwrap_or_default())
                    .await
                    .expect("the target listens");
                match fault {
                    Some(Broken::Says(text)) => drop(stream.write_all(text.as_bytes()).await),
                    Some(Broken::Hangs) => drop(stream.read_to_end(&mut Vec::new()).await),
                    Some(Broken::CutsAfter(bytes)) => {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                        let ((mut read, mut write), (inner, mut out)) = (stream.split(), inner.split());
                        let mut inner = inner.take(bytes);
                        tokio::select! {
                            _ = tokio::io::copy(&mut read, &mut out) => {}
                            _ = tokio::io::copy(&mut inner, &mut write) => {}
                        }
                    }
                    None => {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                        let _ended = copy_bidirectional(&mut stream, &mut inner).await;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_refuses_hangs_or_cuts_loses_nothing() {
    let (folder, edge, authority) =
        (TempDir::new().expect("a folder"), Edge::default(), Authority::new("Ours"));
    let port = serve_well(&authority, &edge).await;
    let mut broken = vec![
        Broken::Says(""),
        Broken::Says("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n"),
        Broken::Says("HTTP/1.1 407 Proxy Authentication Required\r\nproxy-authenticate: Basic\r\n\r\n"),
        Broken::Says("HTTP/1.1 403 Forbidden\r\n\r\n"),
        Broken::Says("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\n\r\n"),
        Broken::Says("HTTP/1.1 200 OK\r\n"),
        Broken::Says("nonsense\r\n\r\n"),
        Broken::Hangs,
    ];
    // In the handshake, in the headers, and in the body of an answer.
    broken.extend([0, 1, 100, 700, 1_200, 1_500, 2_000, 4_000].map(Broken::CutsAfter));
    let (seen, faults) = (Arc::<AtomicUsize>::default(), broken.len());
    let mut settings = https(&folder, &authority, port);
    (settings.transport.edge_endpoint, settings.schedule.edge_routing) = (None, false);
    settings.transport.proxy = Some(Proxy::set(proxy(broken, Arc::clone(&seen)).await));
    let running = Running::start(settings).await;
    running.submit((0..100).map(|session| display(&format!("s{session}"), "1")).collect()).await;
    let balance = running.settled(100).await;
    assert_eq!(balance, Balance { accepted: 100, delivered: 100, ..Balance::default() });
    running.stop().await;
    assert!(seen.load(Ordering::Relaxed) > faults, "only {seen:?} connections");
    // Where the answer was cut the edge listed an event that the daemon did not hear of: it comes again, the same.
    assert!((0..100).all(|session| edge.listed(&format!("s{session}"))[0] >= 1));
    assert_eq!(edge.changed(), 0);
}
