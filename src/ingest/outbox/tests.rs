use tokio::io::AsyncReadExt;
use tokio::sync::Semaphore;

use super::super::slip::Owed;
use super::*;

/// An outbox, and the producer's side.
async fn outbox() -> (Arc<Outbox>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.writable().await.unwrap();
    let (_, writing) = ours.into_split();
    (Arc::new(Outbox::new(writing, Arc::default())), theirs)
}

fn waiting(session: &str) -> Vec<Place> {
    let session = SessionId::new(session).unwrap();
    vec![Place::Waiting { ids: Vec::new(), session, reference: None, no_receipt: false }]
}

fn line(session: &str) -> String {
    format!("{{\"status\":\"queued\",\"ids\":[],\"session_id\":\"{session}\"}}\n")
}

async fn read(theirs: &mut UnixStream, text: &str) {
    let mut bytes = vec![0; text.len()];
    theirs.read_exact(&mut bytes).await.unwrap();
    assert_eq!(String::from_utf8(bytes).unwrap(), text);
}

async fn run(outbox: &Outbox) -> bool {
    outbox.end(End::File);
    let (receipts, due) = mpsc::channel(1);
    drop(receipts);
    outbox.run(due, &CancellationToken::new(), Duration::default).await
}

#[tokio::test]
async fn who_answers_a_batch_writes_its_reply_where_it_is_the_next() {
    let (outbox, mut theirs) = outbox().await;
    let first = outbox.push(waiting("a"), 1, Vec::new()).unwrap();
    std::thread::spawn(|| first.reply(vec![Appended::Stored])).join().unwrap();
    read(&mut theirs, &line("a")).await;
    assert_eq!(outbox.owed.load(Ordering::Relaxed), 0);

    let [second, third] = ["b", "c"].map(|session| outbox.push(waiting(session), 1, Vec::new()).unwrap());
    assert!(outbox.push(vec![Place::Answered("bad".to_owned())], 1, Vec::new()).is_none());
    third.reply(vec![Appended::Stored]);
    assert_eq!(theirs.try_read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    second.reply(vec![Appended::Stored]);
    read(&mut theirs, &line("b")).await;
    // What is behind it is the task's.
    assert!(run(&outbox).await);
    read(&mut theirs, &(line("c") + "bad\n")).await;
    assert_eq!(theirs.read(&mut [0]).await.unwrap(), 0, "the stream ends");
}

#[tokio::test]
async fn a_full_socket_holds_nobody_up_and_loses_nothing() {
    let (outbox, mut theirs) = outbox().await;
    let mut expected = String::new();
    // Until the socket takes no more, and some beyond.
    for number in 0.. {
        let session = format!("{number}");
        outbox.push(waiting(&session), 1, Vec::new()).unwrap().reply(vec![Appended::Stored]);
        expected += &line(&session);
        if outbox.state().batches.len() > 3 {
            break;
        }
    }
    let (all, ()) = tokio::join!(run(&outbox), read(&mut theirs, &expected));
    assert!(all);
}

#[tokio::test]
async fn a_lost_commit_closes_behind_what_is_answered() {
    for told in [false, true] {
        let (outbox, mut theirs) = outbox().await;
        let [first, second, third] =
            ["a", "b", "c"].map(|session| outbox.push(waiting(session), 1, Vec::new()).unwrap());
        assert!(!first.is_gone());
        match told {
            true => second.reply(Vec::new()),
            false => drop(second),
        }
        first.reply(vec![Appended::Stored]);
        third.reply(vec![Appended::Stored]);
        assert!(!run(&outbox).await);
        drop(outbox);
        let mut text = String::new();
        theirs.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, line("a"), "nothing in the place of another reply");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_come_in_order_whoever_writes_them() {
    const BATCHES: usize = 4_000;
    let (outbox, theirs) = outbox().await;
    let room = Arc::new(Semaphore::new(64));
    let (askers, due) = std::sync::mpsc::channel::<Box<Asker>>();
    let answers = std::thread::spawn(move || due.iter().for_each(|one| one.reply(vec![Appended::Stored])));
    let runs = tokio::spawn({
        let outbox = Arc::clone(&outbox);
        async move {
            let (receipts, due) = mpsc::channel(1);
            drop(receipts);
            outbox.run(due, &CancellationToken::new(), Duration::default).await
        }
    });
    let reads = tokio::spawn(async move {
        let (mut theirs, mut text) = (theirs, String::new());
        theirs.read_to_string(&mut text).await.unwrap();
        text
    });
    let mut expected = String::new();
    for number in 0..BATCHES {
        let share = Arc::clone(&room).acquire_owned().await.unwrap();
        let session = format!("{number}");
        // Some are the task's, and some wait for nobody.
        let (places, bytes) = match number % 5 {
            0 => (waiting(&session), PROMPT_BYTES + 1),
            1 => (vec![Place::Answered(line(&session).trim_end().to_owned())], 1),
            _ => (waiting(&session), 1),
        };
        expected += &line(&session);
        let asker = outbox.push(places, bytes, vec![share]);
        asker.into_iter().for_each(|asker| askers.send(asker).unwrap());
    }
    outbox.end(End::File);
    drop(askers);
    assert!(runs.await.unwrap());
    answers.join().unwrap();
    assert_eq!((outbox.owed.load(Ordering::Relaxed), room.available_permits()), (0, 64));
    drop(outbox);
    assert_eq!(reads.await.unwrap(), expected);
}

#[tokio::test]
async fn receipts_that_are_due_go_before_the_end() {
    for _ in 0..20 {
        let (outbox, mut theirs) = outbox().await;
        let asker = outbox.push(waiting("a"), 1, Vec::new()).unwrap();
        let all = Arc::new(Semaphore::new(2));
        let (receipts, due) = mpsc::channel(2);
        for text in ["first", "second"] {
            let share = Arc::clone(&all).acquire_owned().await.unwrap();
            let owed = Owed::new(&outbox.owed);
            receipts.send(Receipt { batch: 0, text: text.to_owned(), share, owed }).await.unwrap();
        }
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        outbox.end(End::File);
        asker.reply(vec![Appended::Stored]);
        // Another receipt might come, so that nothing but the shutdown ends it.
        assert!(outbox.run(due, &shutdown, || Duration::from_secs(60)).await);
        drop((outbox, receipts));
        let mut text = String::new();
        theirs.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, line("a") + "first\nsecond\n");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_nobody_takes_ends_the_connection() {
    let (before, after) = (Duration::from_secs(20), WRITE_STALL + Duration::from_secs(1));
    let at_shutdown = before + WRITE_STALL_AT_SHUTDOWN;
    for (stop, ends) in
        [(after, WRITE_STALL), (before, at_shutdown), (Duration::ZERO, WRITE_STALL_AT_SHUTDOWN)]
    {
        let (outbox, _theirs) = outbox().await;
        while outbox.state().left.is_none() {
            outbox.push(waiting("a"), 1, Vec::new()).unwrap().reply(vec![Appended::Stored]);
        }
        let (_receipts, due) = mpsc::channel(1);
        let shutdown = CancellationToken::new();
        let began = Instant::now();
        let stops = async {
            sleep(stop).await;
            shutdown.cancel();
        };
        let stalled = async {
            assert!(!outbox.run(due, &shutdown, Duration::default).await);
            began.elapsed()
        };
        let (elapsed, ()) = tokio::join!(stalled, stops);
        assert_eq!(elapsed, ends);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_deaf_peer_is_owed_is_discarded_and_gives_its_shares_back() {
    let (outbox, theirs) = outbox().await;
    drop(theirs);
    let room = Arc::new(Semaphore::new(4));
    let share = || Arc::clone(&room).try_acquire_owned().unwrap();
    // The replies of one batch are written by the task, and of the others by whoever answers them.
    let sizes = [PROMPT_BYTES + 1, 1, 1];
    let askers = sizes.map(|bytes| outbox.push(waiting("a"), bytes, vec![share()]).unwrap());
    let (receipts, due) = mpsc::channel(2);
    let owed = Owed::new(&outbox.owed);
    receipts.send(Receipt { batch: 0, text: "one".to_owned(), share: share(), owed }).await.unwrap();
    let answers = async {
        for asker in askers {
            assert!(!asker.is_gone());
            asker.reply(vec![Appended::Stored]);
            tokio::task::yield_now().await;
        }
        outbox.end(End::File);
    };
    let began = Instant::now();
    let shutdown = CancellationToken::new();
    let (whole, ()) = tokio::join!(outbox.run(due, &shutdown, || Duration::from_secs(60)), answers);
    assert!(whole);
    assert!(began.elapsed() < Duration::from_secs(1), "nobody waits for the other receipt");
    assert_eq!((outbox.owed.load(Ordering::Relaxed), room.available_permits()), (0, 4));
}

#[tokio::test]
async fn whoever_answers_a_connection_that_is_gone_is_told() {
    let (outbox, _theirs) = outbox().await;
    let asker = outbox.push(waiting("a"), 1, Vec::new()).unwrap();
    drop(outbox);
    assert!(asker.is_gone());
    asker.reply(vec![Appended::Stored]);
}
