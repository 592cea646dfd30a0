//! Records that are damaged, lost, or more than the counters promise.

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::*;
use crate::queue::salvage::check;

#[tokio::test]
async fn a_damaged_page_and_a_missing_one_are_accounted_for_and_harm_no_other() {
    let folder = TempDir::new().unwrap();
    let settings = settings(folder.path());
    let queue = open(settings.clone());
    for _ in 0..3 {
        append(&queue, vec![submission("a", 4, 2_000, 10)]).await;
    }
    // In two parts.
    append(&queue, vec![submission("b", 1, 10_000, 10)]).await;
    queue.store().settle(vec![Seq(1)], vec![]).await.unwrap();
    queue.shutdown().await.unwrap();
    tamper(&settings, |engine, batch| {
        let mut pages: Vec<_> = engine.parts(b"e").map(Result::unwrap).collect();
        let (key, value) = pages.remove(0);
        batch.insert(key, &value[1..]);
        // Of the page in two parts the first one is lost, and the page before it.
        let (_rest, first, whole) = (pages.pop().unwrap(), pages.pop().unwrap(), pages.pop().unwrap());
        batch.remove(first.0);
        batch.remove(whole.0);
    });
    let queue = open(settings);
    let store = queue.store();
    assert_eq!(seqs(&store).await, (4..=11).collect::<Vec<_>>());
    // What the scan found is counted, each once, before the writer answers this.
    store.pulse().await.unwrap();
    let balance = Balance { accepted: 13, delivered: 1, quarantined: 4, ..Balance::default() };
    assert_eq!(store.ledger().balance, balance);
    assert_eq!(records(&store, b"q").len(), 2);
}

/// An operator sees, and sets aside, what the first scan has not come to.
#[tokio::test]
async fn what_leaves_the_queue_ahead_of_the_first_scan_is_counted_once() {
    let folder = TempDir::new().unwrap();
    let settings = settings(folder.path());
    let queue = open(settings.clone());
    for session in ["a", "b", "c"] {
        append(&queue, vec![submission(session, 1, 10, 10)]).await;
    }
    queue.shutdown().await.unwrap();
    damage_pages(&settings, &[2]);
    let queue = open(settings);
    let store = queue.store();
    assert_eq!(store.load(&[Seq(2)]).unwrap(), [None]);
    while store.compare_some().unwrap() {}
    let burial = Burial { seq: Seq(3), reason: DeadReason::Dropped, detail: String::new() };
    store.settle(vec![], vec![burial]).await.unwrap();
    assert_eq!(seqs(&store).await, [1]);
    store.pulse().await.unwrap();
    let balance = Balance { accepted: 3, dead: 1, quarantined: 1, ..Balance::default() };
    assert_eq!((store.ledger().balance, store.ledger().imbalance()), (balance, 0));
    queue.shutdown().await.unwrap();
}

/// A page that can no longer be read does not say where its envelope lies.
#[tokio::test]
async fn what_is_settled_of_a_damaged_page_goes_with_its_envelope() {
    let folder = TempDir::new().unwrap();
    let settings = settings(folder.path());
    let queue = open(settings.clone());
    append(&queue, vec![submission("a", 3, 10, 2_000), submission("b", 100, 100, 2_000)]).await;
    queue.shutdown().await.unwrap();
    let mut first = Vec::new();
    tamper(&settings, |engine, batch| {
        for (key, value) in engine.parts(b"e").map(Result::unwrap).take(2) {
            first.push(keys::PageKey::read(&key).unwrap().0);
            batch.insert(key, value.iter().map(|byte| !byte).collect::<Vec<u8>>());
        }
    });
    let queue = open(settings);
    let store = queue.store();
    // They were read before.
    store.settle(vec![Seq(1)], vec![]).await.unwrap();
    store.settle(vec![Seq(2), Seq(3)], vec![]).await.unwrap();
    assert_eq!(records(&store, b"v").len(), 1, "other pages refer to the second envelope");
    let of = |page: keys::PageKey| (page.first.0..page.next().0).map(Seq).collect::<Vec<_>>();
    store.settle(of(first[1]), vec![]).await.unwrap();
    assert_eq!(records(&store, b"v").len(), 1, "other pages refer to it still");
    assert_eq!(store.ledger().held_bytes, held(&store));
    let rest = seqs(&store).await.into_iter().map(Seq).collect();
    store.settle(rest, vec![]).await.unwrap();
    assert_eq!((records(&store, b"v").len(), records(&store, b"e").len()), (0, 0));
    assert_eq!((store.ledger().balance.delivered, store.ledger().held_bytes), (103, 0));
    queue.shutdown().await.unwrap();
}

/// The bytes that pages and large envelopes take.
fn held(store: &Store) -> u64 {
    let all = [b"e", b"v"].into_iter().flat_map(|tag| records(store, tag));
    all.map(|(_, value)| value.len() as u64).sum()
}

/// Flips every bit of a value.
fn damage(engine: &Engine, batch: &mut Batch, key: Vec<u8>) {
    let value: Vec<u8> = engine.value(&key).unwrap().unwrap().iter().map(|byte| !byte).collect();
    batch.insert(key, value);
}

/// Damages the page of one event each that begin with these.
fn damage_pages(settings: &Settings, firsts: &[u64]) {
    tamper(settings, |engine, batch| {
        for first in firsts {
            damage(engine, batch, keys::PageKey { first: Seq(*first), count: 1 }.part(0));
        }
    });
}

/// Far behind a submission there are no pages of it, whatever cannot be read there.
#[tokio::test]
async fn a_damaged_page_far_behind_keeps_no_envelope_alive() {
    let folder = TempDir::new().unwrap();
    let settings = settings(folder.path());
    let queue = open(settings.clone());
    for (name, count, members) in [("a", 1, 2_000), ("b", 1_000, 10), ("c", 1, 10)] {
        append(&queue, vec![submission(name, count, 10, members)]).await;
    }
    queue.store().settle((2..=1_001).map(Seq).collect(), vec![]).await.unwrap();
    queue.shutdown().await.unwrap();
    damage_pages(&settings, &[1, 1_002]);
    let queue = open(settings);
    let store = queue.store();
    store.settle(vec![Seq(1)], vec![]).await.unwrap();
    assert_eq!((records(&store, b"v").len(), records(&store, b"e").len()), (0, 1));
    queue.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_envelope_that_goes_with_two_damaged_pages_at_once_is_counted_once() {
    let folder = TempDir::new().unwrap();
    let settings = settings(folder.path());
    let queue = open(settings.clone());
    for (name, members) in [("a", 2_000), ("b", 10), ("c", 10), ("d", 2_000)] {
        append(&queue, vec![submission(name, 1, 10, members)]).await;
    }
    queue.shutdown().await.unwrap();
    damage_pages(&settings, &[1, 3]);
    let queue = open(settings);
    let store = queue.store();
    // Both are found while the writer is busy, so that one commit sets them aside.
    let release = queue.keep_busy(submission("e", 1, 10, 10)).await;
    assert_eq!(seqs(&store).await, vec![2, 4]);
    release.send(()).unwrap();
    store.pulse().await.unwrap();
    assert_eq!((store.ledger().held_bytes, records(&store, b"v").len()), (held(&store), 1));
    queue.shutdown().await.unwrap();
}

/// Each is written once more, whole; the journal takes no commit of more than a segment may have.
#[tokio::test]
async fn large_pages_that_cannot_be_read_are_set_aside_in_as_many_commits_as_they_need() {
    for ends in [false, true] {
        let folder = TempDir::new().unwrap();
        let settings = settings(folder.path());
        let queue = open(settings.clone());
        for name in ["a", "b", "c", "d", "f"] {
            append(&queue, vec![submission(name, 1, 3_000_000, 10)]).await;
        }
        queue.shutdown().await.unwrap();
        damage_pages(&settings, &[1, 2, 3, 4, 5]);
        let queue = open(settings.clone());
        let (store, release) = (queue.store(), queue.keep_busy(submission("e", 1, 10, 10)).await);
        let (mut ledger, before) = (store.watch(), store.counts().commits());
        assert_eq!(seqs(&store).await, Vec::<u64>::new());
        if ends {
            let (ended, released) = tokio::join!(queue.shutdown(), async { release.send(()) });
            assert!(ended.is_ok() && released.is_ok());
            assert_eq!((store.counts().commits() - before, store.ledger().balance.quarantined), (1, 2));
            drop(store);
            let queue = open(settings);
            let (mut ledger, store) = (queue.store().watch(), queue.store());
            assert_eq!(seqs(&store).await, [6]);
            ledger.wait_for(|ledger| ledger.balance.quarantined == 5).await.unwrap();
            assert_eq!((store.ledger().imbalance(), store.ledger().held_bytes), (0, held(&store)));
        } else {
            release.send(()).unwrap();
            ledger.wait_for(|ledger| ledger.balance.quarantined == 5).await.unwrap();
            assert_eq!((store.counts().commits() - before, store.ledger().imbalance()), (3, 0));
            queue.shutdown().await.unwrap();
        }
    }
}

/// An event with a large envelope is in pages of its own, and its envelope beside them.
#[tokio::test]
async fn a_damaged_envelope_and_one_that_is_left_alone_go_to_quarantine_with_their_pages() {
    let folder = TempDir::new().unwrap();
    let settings = settings(folder.path());
    let queue = open(settings.clone());
    for name in ["a", "b", "c", "d"] {
        append(&queue, vec![submission(name, 2, 10, 2_000)]).await;
    }
    queue.shutdown().await.unwrap();
    tamper(&settings, |engine, batch| {
        let mut damage = |key| damage(engine, batch, key);
        damage(keys::PageKey { first: Seq(1), count: 2 }.part(0));
        damage(keys::part(keys::MEMBERS, Seq(3), 0));
        damage(keys::part(keys::MEMBERS, Seq(5), 0));
    });
    let queue = open(settings);
    let store = queue.store();
    assert_eq!(seqs(&store).await, vec![3, 4, 5, 6, 7, 8]);
    // The envelopes are found out when their events are read, or set aside.
    assert!(store.load(&[Seq(3), Seq(4)]).unwrap().iter().all(Option::is_none));
    let burial = Burial { seq: Seq(5), reason: DeadReason::Dropped, detail: String::new() };
    store.settle(vec![Seq(6)], vec![burial]).await.unwrap();
    assert_eq!(seqs(&store).await, vec![7, 8]);
    // What was delivered before it was found out is no loss.
    let expected = Balance { accepted: 8, delivered: 1, quarantined: 5, ..Balance::default() };
    assert_eq!((store.ledger().balance, store.ledger().imbalance()), (expected, 0));
    // Three pages and the three envelopes; what is held is the fourth of each.
    assert_eq!(records(&store, b"q").len(), 6);
    assert_eq!((store.ledger().held_bytes, records(&store, b"v").len()), (held(&store), 1));
}

#[tokio::test]
async fn an_event_that_comes_back_with_a_damaged_mark_has_one_letter() {
    let folder = TempDir::new().unwrap();
    let settings = settings(folder.path());
    let burial =
        |detail: &str| vec![Burial { seq: Seq(1), reason: DeadReason::Refused, detail: detail.to_owned() }];
    let queue = open(settings.clone());
    append(&queue, vec![submission("a", 2, 10, 10)]).await;
    queue.store().settle(vec![], burial("first")).await.unwrap();
    queue.shutdown().await.unwrap();
    tamper(&settings, |_, batch| batch.insert(keys::numbered(keys::MARK, Seq(1)), b"damaged"));
    let queue = open(settings);
    let store = queue.store();
    assert_eq!(seqs(&store).await, vec![1, 2]);
    store.settle(vec![], burial("a longer detail")).await.unwrap();
    let held: usize =
        [b"e", b"d"].into_iter().flat_map(|tag| records(&store, tag)).map(|one| one.1.len()).sum();
    assert_eq!((store.ledger().dead_held, store.ledger().held_bytes), (1, held as u64));
    assert_eq!(store.dead(Seq(0), 9).unwrap()[0].detail, "a longer detail");
    store.settle(vec![Seq(2)], vec![]).await.unwrap();
    assert_eq!((records(&store, b"e"), records(&store, b"s")), (vec![], vec![]), "it goes with its page");
}

/// An earlier version removed a page in a later commit than the one that settled its last event.
#[tokio::test]
async fn a_page_that_was_left_behind_with_all_its_events_settled_is_removed() {
    let folder = TempDir::new().unwrap();
    let settings = settings(folder.path());
    let queue = open(settings.clone());
    append(&queue, vec![submission("a", 2, 10, 10), submission("b", 3, 10, 20_000)]).await;
    queue.store().settle(vec![Seq(1)], vec![]).await.unwrap();
    let ledger = queue.store().ledger();
    queue.shutdown().await.unwrap();
    tamper(&settings, |_, batch| {
        for (first, events) in [(1, 0b11), (3, 0b111)] {
            batch.insert(keys::numbered(keys::MARK, Seq(first)), pages::mark_value(events));
        }
        let balance = Balance { delivered: 5, ..ledger.balance };
        batch.insert(keys::meta("ledger"), Ledger { balance, counted: 0, ..ledger }.encode());
    });
    let queue = open(settings);
    let store = queue.store();
    let mut ledger = store.watch();
    assert_eq!(seqs(&store).await, Vec::<u64>::new());
    ledger.wait_for(|ledger| ledger.held_bytes == 0).await.unwrap();
    let left: Vec<_> = records(&store, b"").into_iter().map(|(key, _)| key).collect();
    assert!(left.iter().all(|key| key.starts_with(b"m")), "{left:?}");
    assert_eq!(store.ledger().balance, Balance { accepted: 5, delivered: 5, ..Balance::default() });
}

#[tokio::test]
async fn more_events_than_the_counters_promise_stay_an_imbalance() {
    let folder = TempDir::new().unwrap();
    let settings = settings(folder.path());
    let queue = open(settings.clone());
    append(&queue, vec![submission("a", 4, 10, 10)]).await;
    let ledger = queue.store().ledger();
    assert_eq!(ledger.imbalance(), 0);
    queue.shutdown().await.unwrap();
    tamper(&settings, |_, batch| {
        let balance = Balance { accepted: 1, ..Balance::default() };
        batch.insert(keys::meta("ledger"), Ledger { balance, ..ledger }.encode());
    });
    let queue = open(settings);
    let store = queue.store();
    assert_eq!(seqs(&store).await, vec![1, 2, 3, 4]);
    let mut ledger = store.watch();
    let found = *ledger.wait_for(|ledger| ledger.counted() == 4).await.unwrap();
    assert_eq!(found.imbalance(), -3);
}

#[tokio::test]
async fn what_goes_before_a_surplus_is_told_is_counted_too() {
    let folder = TempDir::new().unwrap();
    let settings = settings(folder.path());
    let queue = open(settings.clone());
    append(&queue, vec![submission("a", 3, 10, 10)]).await;
    append(&queue, vec![submission("b", 4, 10, 10)]).await;
    let ledger = queue.store().ledger();
    queue.shutdown().await.unwrap();
    tamper(&settings, |engine, batch| {
        let balance = Balance { accepted: 1, ..Balance::default() };
        batch.insert(keys::meta("ledger"), Ledger { balance, ..ledger }.encode());
        let (page, _) = engine.from(keys::numbered(keys::PAGE, Seq(4))).next().unwrap().unwrap();
        batch.insert(page, b"nonsense");
    });
    let queue = open(settings.clone());
    let store = queue.store();
    assert_eq!(store.scan(Seq(1), 1).unwrap().entries.len(), 3, "one page, and no end yet");
    store.settle(vec![Seq(1), Seq(2), Seq(3)], vec![]).await.unwrap();
    assert_eq!(store.ledger().counted(), 0);
    assert_eq!(seqs(&store).await, Vec::<u64>::new());
    store.pulse().await.unwrap();
    let found = store.ledger();
    assert_eq!((found.balance.delivered, found.balance.quarantined, found.counted()), (3, 4, 0));
    assert_eq!((found.imbalance(), store.counts().surplus()), (-6, 6));
    drop(store);
    queue.shutdown().await.unwrap();
    assert_eq!(open(settings).store().ledger().imbalance(), -6, "the next start says the same");
}

#[tokio::test]
async fn what_is_no_file_is_told_and_neither_waited_for_nor_taken_for_a_failed_disk() {
    for (name, is_told) in [
        ("lock", "a FIFO"),
        ("events.1/journal.9", "a FIFO"),
        ("events.1/db", "a FIFO"),
        ("events.1/journal.9", "a folder"),
    ] {
        let folder = TempDir::new().unwrap();
        let settings = settings(folder.path());
        let queue = open(settings.clone());
        append(&queue, vec![submission("a", 3, 10, 10)]).await;
        queue.shutdown().await.unwrap();
        let path = settings.path.join(name);
        let kept = fs::read(&path).ok();
        let _absent = fs::remove_file(&path);
        match is_told {
            "a FIFO" => mkfifo(&path, Mode::S_IRWXU).unwrap(),
            _ => fs::create_dir(&path).unwrap(),
        }
        let now: Now = Arc::new(|| Moment::ZERO);
        let opened = Queue::open(settings.clone(), &account("acme"), now).map(drop);
        let told = [opened.unwrap_err().to_string(), check(&settings.path).unwrap_err().to_string()];
        for told in told {
            assert!(told.contains(&format!("{} is {is_told}", path.display())), "{told}");
        }
        assert!(!settings.path.join("failed").exists(), "{name}");
        fs::remove_file(&path).or_else(|_| fs::remove_dir(&path)).unwrap();
        kept.iter().for_each(|bytes| fs::write(&path, bytes).unwrap());
        let queue = open(settings);
        assert_eq!(seqs(&queue.store()).await, [1, 2, 3]);
        queue.shutdown().await.unwrap();
    }
}

/// However long it says that it is: nobody wrote that, and no memory holds it.
#[tokio::test]
async fn a_file_of_the_journal_without_end_is_read_as_far_as_one_is_written() {
    let folder = TempDir::new().unwrap();
    let settings = settings(folder.path());
    let queue = open(settings.clone());
    append(&queue, vec![submission("a", 3, 10, 10)]).await;
    queue.shutdown().await.unwrap();
    let journal = fs::File::options().write(true).open(settings.path.join("events.1/journal.1")).unwrap();
    journal.set_len(1 << 40).unwrap();
    let found = check(&settings.path).unwrap();
    assert_eq!((found.events, found.missing(), found.journal_gaps), (3, 0, 1));
    let queue = open(settings);
    assert_eq!(seqs(&queue.store()).await, [1, 2, 3]);
    assert_eq!(queue.store().ledger().imbalance(), 0);
    queue.shutdown().await.unwrap();
}

/// The engine would read them whole.
#[tokio::test]
async fn a_snapshot_and_a_configuration_without_end_are_not_read() {
    let folder = TempDir::new().unwrap();
    let settings = settings(folder.path());
    let queue = open(settings.clone());
    append(&queue, vec![submission("a", 3, 10, 10)]).await;
    queue.shutdown().await.unwrap();
    let database = settings.path.join("events.1");
    let without_end = |prefix: &str| {
        let (name, path) = files::with_prefix(&database, prefix).unwrap().pop().unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
        (name, path)
    };
    let (name, snapshot) = without_end("snap.");
    let queue = open(settings.clone());
    assert_eq!(seqs(&queue.store()).await, [1, 2, 3]);
    queue.shutdown().await.unwrap();
    let aside = settings.path.join(format!("quarantine/snap.{name}"));
    assert_eq!(fs::metadata(aside).unwrap().len(), 1 << 40, "{}", snapshot.display());
    assert!(!settings.path.join("failed").exists());

    let (_, conf) = without_end("conf");
    let opened = Queue::open(settings.clone(), &account("acme"), Arc::new(|| Moment::ZERO)).map(drop);
    for told in [opened.unwrap_err().to_string(), check(&settings.path).unwrap_err().to_string()] {
        assert!(told.contains("conf has 1099511627776 bytes") && told.contains("move it away"), "{told}");
    }
    fs::remove_file(conf).unwrap();
    let queue = open(settings);
    assert_eq!(seqs(&queue.store()).await, [1, 2, 3]);
    queue.shutdown().await.unwrap();
}
