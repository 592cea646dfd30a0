//! What of the events is in memory.

use super::*;
use crate::queue::recent::MAX_RECENT_BYTES;

#[tokio::test]
async fn what_is_read_as_the_next_is_in_memory_once() {
    let folder = TempDir::new().unwrap();
    let queue = open(settings(folder.path()));
    let batch = vec![
        submission("a", 60, 300, 10),
        submission("large-envelope", 5, 10, 20_000),
        submission("b", 35, 300, 2_000),
    ];
    append(&queue, batch).await;
    queue.shutdown().await.unwrap();

    let queue = open(settings(folder.path()));
    let store = queue.store();
    let all: Vec<Seq> = (1..=100).map(Seq).collect();
    store.settle(vec![Seq(3), Seq(20), Seq(21)], vec![]).await.unwrap();
    assert!(store.take_recent(&all).iter().all(Option::is_none), "nothing was read yet");
    let mut found = Vec::new();
    let mut from = Seq(2);
    while from <= Seq(100) {
        let scan = store.scan_next(from, 30).unwrap();
        assert_eq!(scan, store.scan(from, 30).unwrap());
        found.extend(scan.entries.iter().map(|entry| entry.seq));
        from = scan.next;
    }
    store.settle(vec![Seq(7), Seq(70)], vec![]).await.unwrap();
    found.retain(|seq| ![7, 70].contains(&seq.0));
    let taken: Vec<Event> = store.take_recent(&all).into_iter().flatten().collect();
    assert_eq!(taken.iter().map(|event| event.seq).collect::<Vec<_>>(), found);
    assert_eq!(found.len(), 94);
    let loaded = store.load(&found).unwrap();
    assert_eq!(taken, loaded.into_iter().flatten().collect::<Vec<_>>(), "as they are on the disk");
    assert!(store.take_recent(&all).iter().all(Option::is_none), "and not twice");
    drop(store);
    queue.shutdown().await.unwrap();
}

#[tokio::test]
async fn of_large_events_that_are_next_only_some_are_in_memory() {
    let folder = TempDir::new().unwrap();
    let queue = open(settings(folder.path()));
    for number in 0..40 {
        append(&queue, vec![submission(&format!("s{number}"), 1, 100_000, 10)]).await;
    }
    queue.shutdown().await.unwrap();
    let queue = open(settings(folder.path()));
    let store = queue.store();
    assert_eq!(store.scan_next(Seq(1), 1_000).unwrap().next, Seq(41));
    let all: Vec<Seq> = (1..=40).map(Seq).collect();
    let there = store.take_recent(&all).iter().take_while(|event| event.is_some()).count();
    let most = MAX_RECENT_BYTES / 2 / 100_000 + 1;
    assert!((most - 2..=most).contains(&there), "{there} of 40");
    assert_eq!(store.load(&all).unwrap().iter().flatten().count(), 40);
    drop(store);
    queue.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_was_stored_lately_is_in_memory_as_far_as_there_is_memory_to_spare() {
    let folder = TempDir::new().unwrap();
    let queue = open(settings(folder.path()));
    let store = queue.store();
    let each = 20;
    let all: Vec<Seq> = (1..=20 * each).map(Seq).collect();
    let there = || {
        let taken: Vec<Event> = store.take_recent(&all).into_iter().flatten().collect();
        let seqs: Vec<Seq> = taken.iter().map(|event| event.seq).collect();
        assert_eq!(store.load(&seqs).unwrap().into_iter().flatten().collect::<Vec<_>>(), taken);
        seqs.len()
    };
    let mut batches =
        (0..20).map(|number| vec![submission(&format!("s{number}"), each as usize, 30_000, 10)]);
    // Each batch has 600 KB.
    for batch in batches.by_ref().take(10) {
        append(&queue, batch).await;
    }
    let bounded = there();
    assert!((100..160).contains(&bounded), "{bounded} of 200");
    store.spare(1 << 30);
    for batch in batches {
        append(&queue, batch).await;
    }
    assert_eq!(there(), 200, "all of the second half");
    drop(store);
    queue.shutdown().await.unwrap();
}
