//! What producers see of the end of the daemon.

use super::*;

#[tokio::test]
async fn at_shutdown_what_has_arrived_is_answered_and_the_stream_ends() {
    let server = start(|_| {});
    let mut stream = server.connect().await;
    stream.write_all(line("s", 1).as_bytes()).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'{');
    stream.write_all(line("s", 2).as_bytes()).await.unwrap();
    let (mut reading, _writing) = stream.into_split();
    server.shutdown.cancel();
    let mut rest = String::new();
    reading.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest.lines().count(), 2, "{rest}");
    server.running.await.unwrap();
}

#[tokio::test]
async fn at_shutdown_whoever_waits_in_our_own_socket_is_answered_and_it_is_gone() {
    let server = start(|_| {});
    // The server does not run before something here is awaited.
    let connect = |number| {
        let mut stream = std::os::unix::net::UnixStream::connect(&server.settings.socket).unwrap();
        stream.write_all(line("s", number).as_bytes()).unwrap();
        stream.set_nonblocking(true).unwrap();
        UnixStream::from_std(stream).unwrap()
    };
    let streams: Vec<UnixStream> = (0..20).map(connect).collect();
    server.shutdown.cancel();
    for mut stream in streams {
        let mut replies = String::new();
        stream.read_to_string(&mut replies).await.unwrap();
        assert_eq!(replies.lines().count(), 1, "{replies}");
    }
    server.running.await.unwrap();
    assert!(!server.settings.socket.exists());
}

#[tokio::test]
async fn an_inherited_socket_stays_for_the_next_start() {
    let folder = TempDir::new().unwrap();
    let settings = settings(&folder);
    let socket = std::os::unix::net::UnixListener::bind(&settings.socket).unwrap();
    let handed_over = socket.try_clone().unwrap().into();
    let listener = Listener::inherited(handed_over, Control::new(settings.clone(), Arc::default())).unwrap();
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    listener.run(Fake::default(), || 1, shutdown).await;
    let mut waiting = std::os::unix::net::UnixStream::connect(&settings.socket).unwrap();
    waiting.write_all(line("s", 1).as_bytes()).unwrap();
    drop(waiting);
    let mut text = String::new();
    socket.set_nonblocking(false).unwrap();
    socket.accept().unwrap().0.read_to_string(&mut text).unwrap();
    assert_eq!(text, line("s", 1));
}

#[tokio::test(start_paused = true)]
async fn at_shutdown_a_producer_that_goes_on_writing_is_cut_off() {
    let server = start(|_| {});
    let mut stream = server.connect().await;
    stream.write_all(line("s", 0).as_bytes()).await.unwrap();
    server.stored(1).await;
    // Several reads of the daemon, whose replies fit the socket's buffers.
    let long = |id| line("s", id).replace('}', &format!(",\"mbox\":{{\"name\":\"{}\"}}}}", "x".repeat(200)));
    let count = 600;
    let text: String = (1..count).map(long).collect();
    stream.write_all((text + long(count).trim_end()).as_bytes()).await.unwrap();
    server.shutdown.cancel();
    // The daemon hears of it before the producer goes on.
    tokio::task::yield_now().await;
    let (mut reading, mut writing) = stream.into_split();
    let late = async {
        // While the clock stands still the daemon reads on, and discards.
        let more = format!("\n{}", long(count + 1).repeat(100));
        for _ in 0..20 {
            writing.write_all(more.as_bytes()).await.unwrap();
        }
    };
    let mut replies = Vec::new();
    let (read, ()) = tokio::join!(reading.read_to_end(&mut replies), late);
    read.unwrap();
    assert_eq!(server.queue.0.load(Ordering::Relaxed), count);
    server.running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn at_shutdown_a_last_line_without_its_end_counts_where_the_producer_ended() {
    for ends in [false, true] {
        let server = start(|_| {});
        let mut stream = server.connect().await;
        stream.write_all(line("s", 0).as_bytes()).await.unwrap();
        server.stored(1).await;
        stream.write_all((line("s", 1) + line("s", 2).trim_end()).as_bytes()).await.unwrap();
        if ends {
            stream.shutdown().await.unwrap();
        }
        let queue = server.queue.clone();
        server.stop().await;
        assert_eq!(queue.0.load(Ordering::Relaxed), if ends { 3 } else { 2 });
    }
}
