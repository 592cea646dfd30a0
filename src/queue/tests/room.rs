//! What the queue does where the disk has little room.

use super::super::space::{Free, Probe};
use super::model::fill_behind;
use super::*;

const MIB: u64 = 1 << 20;

fn open_on(settings: &Settings, probe: Probe) -> Queue {
    Queue::open_with(settings.clone(), &account("acme"), Arc::new(|| Moment::ZERO), probe, false).unwrap()
}

/// Settings of a queue that leaves 8 MiB of the disk to others.
fn sharing(folder: &Path, journal_bytes: u64) -> Settings {
    Settings { min_free: 8 * MIB, journal_bytes, ..settings(folder) }
}

#[tokio::test]
async fn a_full_disk_takes_removals_only() {
    static FREE: AtomicU64 = AtomicU64::new(u64::MAX);
    let folder = TempDir::new().unwrap();
    let probe = |_: &Path| Ok::<_, io::Error>(Free::of_bytes(FREE.load(Ordering::Relaxed)));
    let settings = Settings { min_free: 16 * MIB, reserve: MIB, ..settings(folder.path()) };
    let queue = open_on(&settings, probe);
    assert_eq!(append(&queue, vec![submission("a", 2, 10, 10)]).await, vec![Appended::Stored]);
    FREE.store(1_000, Ordering::Relaxed);
    let answers = append(&queue, vec![submission("a", 1, 10, 10)]).await;
    assert!(matches!(&answers[0], Appended::Refused { code: Unavailable::StorageFull, .. }));
    queue.store().settle(vec![Seq(1)], vec![]).await.unwrap();
    FREE.store(u64::MAX, Ordering::Relaxed);
    assert_eq!(append(&queue, vec![submission("a", 1, 10, 10)]).await, vec![Appended::Stored]);
    assert_eq!(seqs(&queue.store()).await, vec![2, 3]);
}

/// Whoever ends the queue is told once, in the commit that was written whole.
#[tokio::test]
async fn the_full_disk_behind_the_last_commit_does_not_keep_the_queue_from_its_end() {
    let folder = TempDir::new().unwrap();
    let queue = open(settings(folder.path()));
    let (store, release) = (queue.store(), queue.keep_busy(submission("e", 1, 10, 10)).await);
    let (replier, answers) = oneshot::channel::<Vec<Appended>>();
    queue.appender().append(2, vec![submission("a", 1, 10, 10)], vec![], Box::new(replier)).await;
    fill_behind(&store);
    let (ended, released) = tokio::join!(queue.shutdown(), async { release.send(()) });
    assert!(ended.is_ok() && released.is_ok());
    assert_eq!(answers.await.unwrap(), [Appended::Stored]);
}

/// However often producers come while there is no room, each time costs one look at the disk.
#[tokio::test]
async fn a_refused_commit_looks_at_the_disk_once() {
    static LOOKS: AtomicU64 = AtomicU64::new(0);
    let folder = TempDir::new().unwrap();
    let probe = |_: &Path| {
        LOOKS.fetch_add(1, Ordering::Relaxed);
        Ok::<_, io::Error>(Free::of_bytes(MIB))
    };
    let queue = open_on(&sharing(folder.path(), 4 * MIB), probe);
    for _ in 0..3 {
        let before = LOOKS.load(Ordering::Relaxed);
        let answers = append(&queue, vec![submission("a", 1, 10, 10)]).await;
        assert!(matches!(&answers[0], Appended::Refused { code: Unavailable::StorageFull, .. }));
        assert_eq!(LOOKS.load(Ordering::Relaxed) - before, 1);
    }
    queue.shutdown().await.unwrap();
}

/// Fills the disk: a producer comes back some times in vain before it gives up.
async fn fill(queue: &Queue) {
    let mut refused = 0;
    while refused < 4 {
        let stored = append(queue, vec![submission("a", 10, 20_000, 10)]).await == [Appended::Stored];
        refused = if stored { 0 } else { refused + 1 };
    }
}

/// Producers come back, as they are told to, until one finds room.
async fn come_back(queue: &Queue, context: &str) {
    let mut tries = 0;
    while append(queue, vec![submission("b", 1, 10, 10)]).await != [Appended::Stored] {
        tries += 1;
        assert!(tries < 8, "{context}: there is no room");
    }
}

/// What the queue itself took of the disk is free again once it is delivered, wherever it lay: in one large segment, in
/// many, or in the engine.
#[tokio::test]
async fn a_disk_that_the_queue_has_filled_itself_has_room_once_it_is_empty() {
    let probe =
        |path: &Path| Ok::<_, io::Error>(Free::of_bytes((32 * MIB).saturating_sub(used_bytes(path)?)));
    for journal_bytes in [512 * MIB, 16 * MIB, 4 * MIB] {
        let folder = TempDir::new().unwrap();
        let settings = Settings { reserve: MIB, ..sharing(folder.path(), journal_bytes) };
        let queue = open_on(&settings, probe);
        let store = queue.store();
        for round in 0..3 {
            fill(&queue).await;
            let waits = store.ledger().balance.pending();
            assert!(waits >= 200, "{journal_bytes}, round {round}: {waits} events fit");
            let all = seqs(&store).await;
            for some in all.chunks(100) {
                store.settle(some.iter().map(|seq| Seq(*seq)).collect(), vec![]).await.unwrap();
            }
            come_back(&queue, &format!("{journal_bytes}, round {round}")).await;
        }
        let database = |number| folder.path().join(format!("queue/events.{number}"));
        // The engine's file is only made smaller where it is what takes the room.
        assert_eq!((database(1).exists(), database(2).exists()), (journal_bytes > 4 * MIB, false));
        queue.shutdown().await.unwrap();
    }
}

/// A reload may ask for a smaller journal on a disk that the larger one has filled: its segments have no room beside
/// themselves, and go as they are delivered.
#[tokio::test]
async fn a_journal_that_is_to_be_smaller_leaves_room_on_a_full_disk() {
    static LEAST: AtomicU64 = AtomicU64::new(u64::MAX);
    let probe = |path: &Path| {
        let free = (32 * MIB).saturating_sub(used_bytes(path)?);
        LEAST.fetch_min(free, Ordering::Relaxed);
        Ok::<_, io::Error>(Free::of_bytes(free))
    };
    let folder = TempDir::new().unwrap();
    let settings = sharing(folder.path(), 512 * MIB);
    let queue = open_on(&settings, probe);
    let store = queue.store();
    fill(&queue).await;
    store.limit(Settings { journal_bytes: MIB, ..settings });
    let all = seqs(&store).await;
    for some in all.chunks(20) {
        store.settle(some.iter().map(|seq| Seq(*seq)).collect(), vec![]).await.unwrap();
    }
    come_back(&queue, "all is delivered").await;
    let least = LEAST.load(Ordering::Relaxed);
    assert!(least > 2 * MIB, "{least} bytes were left");
    queue.shutdown().await.unwrap();
}

/// What waits, what is dead and what is kept by name is all in the smaller database, which the larger one gave way to.
#[tokio::test]
async fn a_database_that_is_made_smaller_holds_what_it_held() {
    static DISK: AtomicU64 = AtomicU64::new(32 * MIB);
    let probe = |path: &Path| {
        Ok::<_, io::Error>(Free::of_bytes(DISK.load(Ordering::Relaxed).saturating_sub(used_bytes(path)?)))
    };
    let folder = TempDir::new().unwrap();
    let settings = sharing(folder.path(), 4 * MIB);
    let queue = open_on(&settings, probe);
    let store = queue.store();
    append(&queue, vec![submission("large", 3, 10, 20_000)]).await;
    fill(&queue).await;
    let all = seqs(&store).await;
    let (kept, gone) = (&all[..5], &all[5..]);
    let burial = Burial { seq: Seq(kept[4]), reason: DeadReason::Refused, detail: "bad".to_owned() };
    store.settle(gone.iter().map(|seq| Seq(*seq)).collect(), vec![burial]).await.unwrap();
    store.put_meta("name", b"value".to_vec()).await.unwrap();
    let kept: Vec<Seq> = kept[..4].iter().map(|seq| Seq(*seq)).collect();
    let held = |store: &Store| {
        let waits: Vec<Event> = store.load(&kept).unwrap().into_iter().map(Option::unwrap).collect();
        let balance = store.ledger().balance;
        (waits, store.dead(Seq(0), 9).unwrap(), store.meta("name").unwrap(), balance.dead, balance.delivered)
    };
    let before = held(&store);
    // Somebody else takes what came free.
    DISK.store(used_bytes(&settings.path).unwrap() + 3 * MIB, Ordering::Relaxed);
    come_back(&queue, "beside another one").await;
    let names = || -> BTreeSet<String> {
        let entries = fs::read_dir(&settings.path).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    assert_eq!(names(), ["events.2", "lock"].map(str::to_owned).into());
    assert_eq!(held(&store), before);
    drop(store);
    queue.shutdown().await.unwrap();
    let queue = open_on(&settings, probe);
    assert_eq!(held(&queue.store()), before);
    assert_eq!(seqs(&queue.store()).await.len(), 5);
    assert_eq!(queue.store().ledger().imbalance(), 0);
    queue.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_database_that_cannot_be_made_smaller_goes_on() {
    static DISK: AtomicU64 = AtomicU64::new(32 * MIB);
    let probe = |path: &Path| {
        Ok::<_, io::Error>(Free::of_bytes(DISK.load(Ordering::Relaxed).saturating_sub(used_bytes(path)?)))
    };
    let folder = TempDir::new().unwrap();
    let settings = sharing(folder.path(), 4 * MIB);
    let queue = open_on(&settings, probe);
    let store = queue.store();
    fill(&queue).await;
    let all = seqs(&store).await;
    store.settle(all[3..].iter().map(|seq| Seq(*seq)).collect(), vec![]).await.unwrap();
    DISK.store(used_bytes(&settings.path).unwrap() + 3 * MIB, Ordering::Relaxed);
    // It lies where the new one would be made.
    fs::write(settings.path.join("events.new"), b"").unwrap();
    for _ in 0..4 {
        let answers = append(&queue, vec![submission("b", 1, 10, 10)]).await;
        assert!(matches!(&answers[0], Appended::Refused { code: Unavailable::StorageFull, .. }));
    }
    store.settle(vec![Seq(all[0])], vec![]).await.unwrap();
    DISK.store(64 * MIB, Ordering::Relaxed);
    assert_eq!(append(&queue, vec![submission("b", 1, 10, 10)]).await, [Appended::Stored]);
    assert_eq!(seqs(&store).await.len(), 3);
    assert!(settings.path.join("events.1").exists() && !settings.path.join("events.2").exists());
    queue.shutdown().await.unwrap();
}
